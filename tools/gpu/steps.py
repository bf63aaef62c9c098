"""The steps of gpu_check that build and prove. Each is a function of the context and of the details that it fills as it
goes; it raises Failed or NotRun."""
import contextlib
import itertools
import os
import shutil
import sys

from gpu import golden, machine
from gpu.report import Failed, run, say
from pair import ROOT, open_pair, read_json

TARGETS = ("gpu_server", "tee_runner", "airlock_cuda", "cuda_conformance_test", "cuda_bench")
BUILD_CPU_S = 240  # of these targets, from nothing
WIRES = ("fp32", "fp16", "bf16")


class Context:
    """What the steps share: folders, options, environment, time. One thread."""

    def __init__(self, args, toolkit, budget, report):
        self.args = args
        self.toolkit = toolkit
        self.budget = budget
        self.report = report
        self.build = os.path.abspath(args.build_dir)
        self.bin = os.path.join(self.build, "bin")
        self.logs = os.path.join(self.build, "gpu_check")
        os.makedirs(self.logs, exist_ok=True)
        self.module = os.path.abspath(args.cuda_module or os.path.join(self.bin, "airlock_cuda.so"))
        self.env = machine.toolkit_env(toolkit, dict(os.environ, AIRLOCK_TEST_CUDA_MODULE=self.module))
        self.tokens = [int(text) for text in args.tokens.split(",")]

    def log(self, name):
        return os.path.join(self.logs, name)

    def run(self, command, log, **kwargs):
        run(command, self.log(log), self.budget, **{"env": self.env, **kwargs})

    def progress(self, text):
        """Says a line, and keeps what the details hold by now."""
        say(text)
        self.report.write()

    def program(self, name):
        path = os.path.join(self.bin, name)
        if not os.access(path, os.X_OK):
            raise Failed(f"{path} is not there: add 'build' to --steps")
        return path


def packages(context, details):
    """A bundle brings its packages along, unpacked; elsewhere tools/install_deps is asked."""
    details["prefix"] = prefix = context.args.prefix
    if not prefix:
        context.run([os.path.join(ROOT, "tools", "install_deps")], "packages.log")
    elif not os.path.isdir(os.path.join(prefix, "usr")):
        raise Failed(f"{prefix} holds no packages: see tools/offline_bundle")


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


def configure(context, details):
    if shutil.which("cmake") is None:
        raise Failed("cmake is not here: install it (3.25 or newer; pip install cmake ninja will do)")
    toolkit = context.toolkit
    if None in (toolkit["nvcc"], toolkit["libcublas"], toolkit["cublas_header"]):
        raise Failed(machine.toolkit_says(toolkit))
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    details["command"] = ["cmake", "-S", ROOT, "-B", context.build, "-G", generator, "-DCMAKE_BUILD_TYPE=Release",
                          "-DAIRLOCK_CUDA=ON", "-DAIRLOCK_BENCH=ON",
                          *machine.toolkit_flags(toolkit), *prefix_flags(context.args.prefix)]
    context.run(details["command"], "configure.log")


def build(context, details):
    details.update(jobs=os.cpu_count() or 1, targets=TARGETS)
    context.run(["cmake", "--build", context.build, "--parallel", details["jobs"], "--target", *TARGETS], "build.log")


def conformance(context, details):
    """cuda_conformance_test with AIRLOCK_TEST_CUDA_MODULE=airlock_cuda.so: what every backend has to pass."""
    result = context.log("conformance.json")
    context.run([context.program("cuda_conformance_test"), f"--gtest_output=json:{result}"], "conformance.log")
    cases = [case["result"] for suite in read_json(result)["testsuites"] for case in suite["testsuite"]]
    details.update(passed=cases.count("COMPLETED"), skipped=cases.count("SKIPPED"))
    if not details["passed"]:
        raise Failed(f"no test of the suite ran on the device: {details} (log: {context.log('conformance.log')})")


class Served:
    """A gpu_server on the device that serves one model to runners of the same."""

    def __init__(self, context, pair, model, server_args):
        self.context, self.pair, self.model = context, pair, model
        self.threads = os.cpu_count() or 1
        pair.env = {**context.env, **pair.env}
        say(f"gpu_server with {' '.join((*model, *server_args))}, at most {context.budget.left():.0f} s")
        self.server = pair.server(*server_args, "--cuda-module", context.module, model=model, threads=self.threads,
                                  device=context.args.device, limit_s=context.budget.left())

    def prefill(self, *args, tokens):
        """A run that must succeed: its result as the runner's JSON has it, and the path of its statistics."""
        stats = self.pair.path(f"{len(self.pair.started)}-runner.json")
        return self.pair.prefill("--stats-json", stats, *args, model=self.model, tokens=tokens, threads=self.threads,
                                 limit_s=self.context.budget.left()), stats

    def stop(self):
        """SIGTERM; the server's statistics."""
        self.pair.stop(self.server, self.context.budget.left())
        return self.server.stats()


@contextlib.contextmanager
def serve(context, model, *server_args):
    for name in ("gpu_server", "tee_runner"):
        context.program(name)
    with open_pair(context.bin) as pair_here:
        yield Served(context, pair_here, model, server_args)


def golden_models(context, details):
    """gpu_server --device cuda and tee_runner on each golden model, in each wire dtype and both ways of attention,
    against the logits of transformers."""
    roots = (os.path.join(ROOT, "golden"), golden.SHARED, os.path.join(ROOT, "tests", "data", "models"))
    models = golden.models_below(*roots)
    if context.args.models:
        models = [path for path in models if os.path.basename(path) in context.args.models.split(",")]
    if not models:
        raise Failed("no golden model found: " + ", ".join(roots))
    details["runs"] = rows = []
    for folder in models:
        # The bounds are those of the wire, so weights must stay exact: as fp32, or as they are stored.
        for dtype in dict.fromkeys(("fp32", golden.stored_dtype(folder))):
            with serve(context, ("--model", folder), "--dtype", dtype) as served:
                for wire, attention in itertools.product(WIRES if dtype == "fp32" else (dtype,), ("offload", "tee")):
                    rows.append(golden_run(served, folder, dtype, wire, attention))
                    context.progress("  ".join(f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}"
                                               for key, value in rows[-1].items()))
                served.stop()
    faults = [f"{row['model']}, dtype {row['dtype']}, wire {row['wire']}, {row['attention']}: {row['fault']}"
              for row in rows if row["fault"]]
    if faults:
        raise Failed("; ".join(faults))


def golden_run(served, folder, dtype, wire, attention):
    """One prefill of a golden model beside its logits."""
    out = served.pair.path(f"{wire}-{attention}.npy")
    served.prefill("--all-logits", "--logits-out", out, "--wire", wire, "--attention", attention,
                   tokens=("--tokens-file", os.path.join(folder, "tokens.txt")))
    return {"model": os.path.basename(folder), "dtype": dtype, "wire": wire, "attention": attention,
            **golden.compare(os.path.join(folder, "golden_logits.npy"), out, wire)}


def random_tokens(count):
    return ("--random-tokens", count, "--seed", 1)


def pair(context, details):
    """gpu_server --device cuda --synthetic and tee_runner prefill --compare-local: the logits held against this
    machine's CPU; both sides must have counted the same."""
    details.update(config=os.path.relpath(context.args.config, ROOT), runs=[])
    with serve(context, ("--synthetic", context.args.config)) as served:
        all_stats = []
        for tokens in context.tokens:
            result, stats = served.prefill("--wire", "bf16", "--compare-local", tokens=random_tokens(tokens))
            all_stats.append(stats)
            details["runs"].append({"tokens": tokens, "wire": "bf16", "runs_ns": result["runs_ns"],
                                    "compare_local": result["compare_local"]})
            context.progress(f"{tokens} tokens: largest error {result['compare_local']['largest_error']}, tolerance "
                             f"{result['compare_local']['tolerance']}")
        details["server_host"] = served.stop().get("host")
        context.run([sys.executable, os.path.join(ROOT, "tools", "reconcile"), *all_stats, served.server.stats_path],
                    "reconcile.log")
