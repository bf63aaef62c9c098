"""What a machine with a GPU has: the toolkit, the device, its driver and clocks. Python's standard library only."""
import ctypes
import glob
import os
import re
import shutil
import subprocess
import sys

TOOLKITS = ("/usr/local/cuda", "/usr/local/cuda-13.0", "/opt/cuda", "/usr/lib/cuda")


def output_of(command, limit_s=30):
    """stdout of a command that ends well within the limit, else None."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s,
                              check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_program(name, folders=()):
    """The first NAME on PATH or in `folders`, else None."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders) or os.devnull)


def python_wheels():
    """Folders of NVIDIA's Python packages, which may hold the only cuBLAS of a machine."""
    return sorted(folder for path in sys.path for folder in glob.glob(os.path.join(path, "nvidia", "*"))) + sorted(
        glob.glob("/opt/*/.venv/lib/python3*/site-packages/nvidia/*"))


def first_existing(names):
    return next((found for name in names for found in sorted(glob.glob(name))), None)


def find_toolkit():
    """{"nvcc", "version", "root", "libcublas", "cublas_header"}, each None where it was not found."""
    nvcc = find_program("nvcc", [os.path.join(root, "bin") for root in TOOLKITS])
    if nvcc is None:
        return dict.fromkeys(("nvcc", "version", "root", "libcublas", "cublas_header"))
    root = os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))
    version = re.search(r"release ([0-9.]+)", output_of([nvcc, "--version"]) or "")
    roots = [root, os.path.join(root, "targets", "x86_64-linux"), *python_wheels()]
    libraries = [os.path.join(folder, lib) for folder in roots for lib in ("lib64", "lib")]
    libraries += ["/usr/lib/x86_64-linux-gnu", "/usr/local/lib"]
    return {"nvcc": nvcc, "version": version.group(1) if version else None, "root": root,
            "libcublas": first_existing([f"{folder}/libcublas.so*" for folder in libraries]),
            "cublas_header": first_existing([f"{folder}/include/cublas_v2.h" for folder in (*roots, "/usr")])}


def toolkit_flags(found):
    """Options for CMake where cuBLAS lies beside the toolkit, or without the name that a linker looks for."""
    ours = os.path.join(found["root"], "")
    if found["libcublas"].startswith(ours) and found["libcublas"].endswith(".so"):
        return []
    return [f"-DCUDA_cublas_LIBRARY={found['libcublas']}"]


def toolkit_env(found, env):
    """`env` with what a build needs of the toolkit: nvcc on PATH, cuBLAS's header where compilers look."""
    env = dict(env)
    if found["nvcc"]:
        env["PATH"] = os.path.dirname(found["nvcc"]) + os.pathsep + env.get("PATH", "")
    if found["cublas_header"] and not found["cublas_header"].startswith(os.path.join(found["root"], "")):
        folder = os.path.dirname(found["cublas_header"])
        env["CPLUS_INCLUDE_PATH"] = os.pathsep.join(filter(None, (env.get("CPLUS_INCLUDE_PATH"), folder)))
    return env


def toolkit_says(found):
    """The toolkit in one sentence."""
    if found["nvcc"] is None:
        return f"no nvcc on PATH nor in {', '.join(root + '/bin' for root in TOOLKITS)}"
    for what, key in (("libcublas.so", "libcublas"), ("cublas_v2.h", "cublas_header")):
        if found[key] is None:
            return f"{found['nvcc']} ({found['version']}), but no {what} with it: install cuBLAS of the same toolkit"
    return f"CUDA {found['version']}: {found['nvcc']}, {found['libcublas']}"


def query_smi(fields, *options):
    """What nvidia-smi says of these fields, a list for each GPU; [] without it."""
    smi = find_program("nvidia-smi", ["/usr/local/nvidia/bin", "/usr/lib/wsl/lib"])
    text = output_of([smi, f"--query-gpu={','.join(fields)}", *options]) if smi else None
    rows = [[cell.strip() for cell in line.split(",")] for line in (text or "").splitlines()]
    return [row for row in rows if len(row) == len(fields)]


def gpus_by_driver():
    """Devices without their names, and why there is none: asks libcuda.so.1 itself. Makes no context."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return [], "no driver library (libcuda.so.1) on this machine"
    code, count = cuda.cuInit(0), ctypes.c_int(0)
    if code != 0:
        return [], f"the driver refused to start: cuInit gave {code}"
    cuda.cuDeviceGetCount(ctypes.byref(count))
    return [{"name": "unknown", "driver": "unknown"}] * count.value, "the driver is there, and no device"


def find_gpus():
    """(devices, None) or ([], why). nvidia-smi knows more; the driver's own word is what counts without it."""
    devices = query_smi(("name", "driver_version", "memory.total", "compute_cap"), "--format=csv,noheader,nounits")
    names = ("name", "driver", "memory_mib", "compute_capability")
    return ([dict(zip(names, cells)) for cells in devices], None) if devices else gpus_by_driver()


def clocks(gpu):
    """What nvidia-smi says of a GPU's clocks and power at this moment, as {field: text}; {} without it."""
    fields = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.draw", "power.limit",
              "temperature.gpu", "persistence_mode", "pcie.link.gen.current", "pcie.link.width.current")
    rows = query_smi(fields, f"--id={gpu}", "--format=csv,noheader")
    return dict(zip(fields, rows[0])) if rows else {}


def find_sanitizer(toolkit_root):
    folders = [root + part for root in filter(None, (toolkit_root, *TOOLKITS))
               for part in ("/bin", "/compute-sanitizer", "/extras/compute-sanitizer")]
    return find_program("compute-sanitizer", folders)


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
