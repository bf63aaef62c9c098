"""The steps of gpu_check, each a function of the context: gives details for the report, or raises Failed or NotRun."""
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import golden
import machine
from report import Failed, NotRun, run, say

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from pair import Pair, read_json, wait_until  # noqa: E402 (found by the line above)

TARGETS = ("gpu_server", "tee_runner", "airlock_cuda", "cuda_conformance_test", "cuda_bench")
BUILD_LIMIT_S = 420
CONFORMANCE_LIMIT_S = 240
READY_LIMIT_S = 240
PREFILL_LIMIT_S = 300
SANITIZER_LIMIT_S = 240
BENCH_LIMIT_S = 300
WIRES = ("fp32", "fp16", "bf16")


class Context:
    """What the steps share: folders, options, environment. One thread."""

    def __init__(self, args, toolkit):
        self.args = args
        self.toolkit = toolkit
        self.build = os.path.abspath(args.build_dir)
        self.bin = os.path.join(self.build, "bin")
        self.logs = os.path.join(self.build, "gpu_check")
        os.makedirs(self.logs, exist_ok=True)
        self.env = machine.toolkit_env(toolkit, dict(os.environ, OMP_WAIT_POLICY="passive"))

    def log(self, name):
        return os.path.join(self.logs, name)

    def program(self, name):
        path = os.path.join(self.bin, name)
        if not os.access(path, os.X_OK):
            raise Failed(f"{path} is not there: add 'build' to --steps")
        return path

    def module(self):
        """airlock_cuda.so as the server finds it itself, or --cuda-module."""
        if self.args.cuda_module:
            return os.path.abspath(self.args.cuda_module)
        found = [path for folder in ("bin", "lib", "gpu_server/cuda")
                 for path in glob.glob(os.path.join(self.build, folder, "airlock_cuda.so"))]
        if not found:
            raise Failed(f"no airlock_cuda.so below {self.build}: add 'build' to --steps")
        return found[0]

    def device_args(self):
        module = ("--cuda-module", self.module()) if self.args.cuda_module else ()
        return ("--device", self.args.device, *module)


def packages(context):
    """Unpacks the bundle's packages into --prefix; without a prefix asks tools/install_deps."""
    prefix = context.args.prefix
    if not prefix:
        run([os.path.join(ROOT, "tools", "install_deps")], context.log("packages.log"), 300, context.env)
        return {"prefix": None}
    debs = sorted(glob.glob(os.path.join(ROOT, "debs", "*.deb")))
    marker = os.path.join(prefix, ".unpacked")
    wanted = "\n".join(map(os.path.basename, debs))
    if debs and not (os.path.exists(marker) and open(marker, encoding="utf-8").read() == wanted):
        if shutil.which("dpkg") is None:
            raise Failed("dpkg is not here to unpack the bundle's packages: this needs Debian or Ubuntu")
        os.makedirs(prefix, exist_ok=True)
        say(f"$ dpkg -x DEB {prefix}   (for {len(debs)} packages of debs/)")
        for deb in debs:
            subprocess.run(["dpkg", "-x", deb, prefix], check=True, timeout=60)
        with open(marker, "w", encoding="utf-8") as file:
            file.write(wanted)
    if not os.path.isdir(os.path.join(prefix, "usr")):
        raise Failed(f"{prefix} holds no packages and there is no debs/ to unpack: see tools/offline_bundle")
    return {"prefix": prefix, "packages": len(debs)}


def prefix_flags(prefix):
    """What CMake needs to take the packages of a prefix rather than the system's."""
    if not prefix:
        return []
    libraries = os.path.join(prefix, "usr", "lib", "x86_64-linux-gnu")
    # Compilers look here in / by themselves (OpenSSL has a header there), not in a prefix.
    headers = os.path.join(prefix, "usr", "include", "x86_64-linux-gnu")
    # A RUNPATH would not be looked at for what libzmq itself needs; an RPATH is.
    flags = "-Wl,--disable-new-dtags"
    return [f"-DCMAKE_PREFIX_PATH={os.path.join(prefix, 'usr')}", f"-DCMAKE_BUILD_RPATH={libraries}",
            f'-DCMAKE_CXX_FLAGS=-isystem "{headers}"',
            *(f"-DCMAKE_{kind}_LINKER_FLAGS={flags}" for kind in ("EXE", "SHARED", "MODULE"))]


def configure_command(context):
    generator = ["-G", "Ninja"] if shutil.which("ninja") else ["-G", "Unix Makefiles"]
    return ["cmake", "-S", ROOT, "-B", context.build, *generator, "-DCMAKE_BUILD_TYPE=Release", "-DAIRLOCK_CUDA=ON",
            "-DAIRLOCK_BENCH=ON", *machine.toolkit_flags(context.toolkit), *prefix_flags(context.args.prefix)]


def configure(context):
    if shutil.which("cmake") is None:
        raise Failed("cmake is not here: install it (3.25 or newer; pip install cmake ninja will do)")
    toolkit = context.toolkit
    if None in (toolkit["nvcc"], toolkit["libcublas"], toolkit["cublas_header"]):
        raise Failed(machine.toolkit_says(toolkit))
    run(configure_command(context), context.log("configure.log"), 120, context.env)
    return {"command": configure_command(context)}


def build(context):
    jobs = os.cpu_count() or 1
    command = ["cmake", "--build", context.build, "--parallel", jobs, "--target", *TARGETS]
    run(command, context.log("build.log"), context.args.build_limit_s, context.env)
    return {"jobs": jobs, "targets": list(TARGETS)}


def conformance_env(context):
    return dict(context.env, AIRLOCK_TEST_CUDA_MODULE=context.module())


def counted(text):
    """Of gtest's output: how many tests passed and how many were skipped."""
    counts = {}
    for word, count in re.findall(r"^\[  (PASSED|SKIPPED|FAILED) +\] (\d+) tests?\b", text, re.MULTILINE):
        counts[word.lower()] = int(count)
    return counts


def conformance(context):
    log = context.log("conformance.log")
    run([context.program("cuda_conformance_test")], log, CONFORMANCE_LIMIT_S, conformance_env(context))
    with open(log, encoding="utf-8", errors="replace") as file:
        counts = counted(file.read())
    if not counts.get("passed"):
        raise Failed(f"no test of the suite ran on the device: {counts} (log: {log})")
    return counts


class Processes:
    """A gpu_server on the device, and runners of it, in a folder that goes with them."""

    def __init__(self, context, model, *server_args):
        self.context, self.model, self.server_args = context, model, server_args
        self.threads = os.cpu_count() or 1
        self.work = tempfile.mkdtemp(prefix="airlock-gpu.")
        self.pair = Pair(context.bin, self.work)
        self.pair.env.update({key: value for key, value in context.env.items()
                              if key.startswith(("CUDA_", "AIRLOCK_", "NVIDIA_")) or key in ("PATH", "LD_LIBRARY_PATH")})
        self.server = None

    def __enter__(self):
        try:
            self.context.program("gpu_server")
            self.context.program("tee_runner")
            self.stats_path = self.pair.path("server.json")
            self.server = self.pair.start("gpu_server", *self.model, "--endpoint", self.pair.endpoint, "--threads",
                                          self.threads, "--stats-json", self.stats_path, *self.server_args,
                                          *self.context.device_args())
            say("$ " + " ".join(self.server.command))
            wait_until(lambda: "ready " in self.server.stdout() or not self.server.running(), "ready", READY_LIMIT_S)
            if not self.server.running():
                raise Failed(f"gpu_server ended before it was ready\n{self.server.report()}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind, value, trace):
        self.close()

    def close(self):
        self.pair.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def prefill(self, *args):
        """A run that must succeed; its result as the runner's JSON has it, its statistics, and how it was called."""
        stats = self.pair.path("runner.json")
        runner = self.pair.start("tee_runner", "prefill", *self.model, "--endpoint", self.pair.endpoint, "--threads",
                                 self.threads, "-o", "json", "--stats-json", stats, *args)
        code = runner.exit_code(PREFILL_LIMIT_S)
        if code != 0:
            raise Failed(f"tee_runner exited with {code}\n{runner.report()}\n{self.server.report()}")
        return json.loads(runner.stdout()), read_json(stats)

    def stop(self):
        """SIGTERM; the server's statistics."""
        self.pair.stop(self.server)
        return read_json(self.stats_path)


def golden_roots():
    shared = os.environ.get("AIRLOCK_SHARED") or os.path.join(ROOT, "..", "shared", "data")
    return [os.path.join(ROOT, "golden"), os.path.join(shared, "golden"), os.path.join(ROOT, "tests", "data", "models")]


def golden_models(context):
    """Each golden model by the pair, in each wire dtype and both ways of attention."""
    models = golden.models_below(*golden_roots())
    if context.args.models:
        models = [path for path in models if os.path.basename(path) in context.args.models.split(",")]
    if not models:
        raise Failed("no golden model found: " + ", ".join(golden_roots()))
    rows, faults = [], []
    for folder in models:
        # The bounds are those of the wire, so weights must stay exact: as fp32, or as they are stored.
        stored = golden.stored_dtype(folder)
        for dtype in dict.fromkeys(("fp32", stored)):
            with Processes(context, ("--model", folder), "--dtype", dtype) as processes:
                for wire in WIRES if dtype == "fp32" else (dtype,):
                    rows += [golden_run(processes, folder, dtype, wire, attention) for attention in ("offload", "tee")]
                processes.stop()
    for row in rows:
        if row["fault"]:
            faults.append(f"{row['model']}, dtype {row['dtype']}, wire {row['wire']}, {row['attention']}: {row['fault']}")
    if faults:
        raise Failed("; ".join(faults))
    return {"runs": rows}


def golden_run(processes, folder, dtype, wire, attention):
    """One prefill of a golden model beside its logits."""
    out = processes.pair.path(f"{wire}-{attention}.npy")
    processes.prefill("--tokens-file", os.path.join(folder, "tokens.txt"), "--all-logits", "--logits-out", out, "--wire", wire,
                      "--attention", attention)
    row = {"model": os.path.basename(folder), "dtype": dtype, "wire": wire, "attention": attention}
    row.update(golden.compare(os.path.join(folder, "golden_logits.npy"), out, wire))
    error = "none" if row["error"] is None else f"{row['error']:.2g}, mean KL {row['mean_kl']:.2g}"
    say(f"{row['model']}, dtype {dtype}, wire {wire}, {attention}: largest error {error} {row['fault']}")
    return row


def token_counts(context):
    return [int(text) for text in context.args.tokens.split(",")]


def pair(context):
    """The synthetic model by the pair, its logits held against this machine's CPU; both sides must have counted the same."""
    details = {"config": os.path.relpath(context.args.config, ROOT), "runs": []}
    with Processes(context, ("--synthetic", context.args.config)) as processes:
        stats = []
        for tokens in token_counts(context):
            result, counted_here = processes.prefill("--random-tokens", tokens, "--seed", 1, "--wire", "bf16",
                                                     "--compare-local")
            comparison = result["compare_local"]
            details["runs"].append({"tokens": tokens, "wire": "bf16", "runs_ns": result["runs_ns"],
                                    "compare_local": comparison})
            say(f"{tokens} tokens: largest error {comparison['largest_error']}, tolerance {comparison['tolerance']}")
            stats.append(context.log(f"runner-{tokens}.json"))
            with open(stats[-1], "w", encoding="utf-8") as file:
                json.dump(counted_here, file)
        served = processes.stop()
    details["server_host"] = served.get("host")
    stats.append(context.log("server.json"))
    with open(stats[-1], "w", encoding="utf-8") as file:
        json.dump(served, file)
    run([sys.executable, os.path.join(ROOT, "tools", "reconcile"), *stats], context.log("reconcile.log"), 30)
    return details
