#!/usr/bin/env python3
"""The pool's library as others use it: installed, from C, C++ and Python. One scenario a run, as in pair_test.py."""
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests", "integration")]
import scenarios  # noqa: E402
from pair import Pair  # noqa: E402


def run(*command, env=None, limit_s=300):
    """What it printed; AssertionError with that where it fails."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=limit_s)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def installed_tree(rig):
    """The example builds by find_package, a C program by pkg-config, both against an installed tree that was moved."""
    missing = [name for name in ("cmake", "pkg-config", "cc", "c++") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found"
    staged, prefix, build = rig.path("staged"), rig.path("prefix"), rig.path("pca")
    run("cmake", "--install", rig.build_dir, "--component", "pool", "--prefix", staged)
    os.rename(staged, prefix)
    run("cmake", "-S", os.path.join(ROOT, "examples", "pca"), "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
        "-DCMAKE_CXX_FLAGS=-Werror")
    run("cmake", "--build", build)
    config = {"PKG_CONFIG_PATH": ":".join(os.path.join(prefix, lib, "pkgconfig") for lib in os.listdir(prefix))}
    flags = run("pkg-config", "--cflags", "--libs", "airlock_pool", env=config).split()
    libdir = run("pkg-config", "--variable=libdir", "airlock_pool", env=config).strip()
    run("cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", os.path.join(HERE, "try_pool.c"), "-o",
        rig.path("try_pool"), *flags, "-lm", f"-Wl,-rpath,{libdir}")

    server = rig.server("--pool", "256M", model=("--no-model",))
    print(run(rig.path("try_pool"), server.endpoint))
    pca = (os.path.join(build, "pca"), "--endpoint", server.endpoint, "--check")
    print(run(*pca, "--rows", "1500", "--columns", "600", "--rounds", "3"))
    print(run(*pca, "--rows", "600", "--columns", "200", "-k", "4", "--clients", "2"))
    rig.stop(server)


def the_library_alone_needs_little(rig):
    """AIRLOCK_ONLY_CLIENT configures without what the server, the runner and the tests need."""
    if shutil.which("cmake") is None:
        return "cmake not found"
    others = ("cppzmq", "CLI11", "OpenSSL", "GTest", "rapidcheck", "prometheus-cpp", "hwy", "PCRE2", "OneDNN", "BLIS",
              "OpenMP", "CUDAToolkit")
    run("cmake", "-S", ROOT, "-B", rig.path("only"), "-DAIRLOCK_ONLY_CLIENT=ON",
        *(f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON" for name in others))


def python_with_numpy():
    for name in ("python3", "/usr/bin/python3"):
        try:
            if subprocess.run([name, "-c", "import numpy"], capture_output=True, timeout=60).returncode == 0:
                return name
        except OSError:
            pass
    return None


def python_package(rig):
    """python/tests, against servers over ipc and tcp."""
    python = python_with_numpy()
    if python is None:
        return "neither python3 nor /usr/bin/python3 has numpy (python3-numpy)"
    env = {"PYTHONPATH": os.path.join(ROOT, "python"), "AIRLOCK_BIN_DIR": rig.bin_dir, "PYTHONDONTWRITEBYTECODE": "1",
           "AIRLOCK_POOL_LIBRARY": os.path.join(rig.build_dir, "lib", "libairlock_pool.so")}
    print(run(python, os.path.join(ROOT, "python", "tests", "test_airlock.py"), "-v", env=env))


def make_rig(args, work):
    pair = Pair(args.bin_dir, work)
    pair.build_dir = args.build_dir
    return pair


def needs(args):
    return [os.path.join(args.bin_dir, "gpu_server"), os.path.join(args.build_dir, "lib", "libairlock_pool.so")]


if __name__ == "__main__":
    scenarios.main(__doc__, [installed_tree, the_library_alone_needs_little, python_package], make_rig, needs,
                   folders={"build_dir": "build/release"})
