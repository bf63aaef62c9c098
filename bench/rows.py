"""The rows of bench/run_all: what each measures, against what, and its target. A group measures several rows at once,
so that what is compared takes turns."""
import contextlib
import json
import os
import statistics
import subprocess
import sys
import typing

from clients import clients_per_s
from measure import LLAMA_1B, ROOT, WIRE, alternate, prefills_ms, random_tokens
from pair import open_pair, plain_env, read_json

HF_PYTHON = os.path.join(ROOT, "build", "hf", "bin", "python")
LENGTHS = (128, 1024)
DECODE_THREADS = 64  # that bench/decode takes at most
SIDE_THREADS = 1024  # and bench/tee_side


class NotRun(Exception):
    """A row that cannot be measured here; its words are the reason."""


# What may end one row or contender; the others go on.
FAULTS = (NotRun, AssertionError, OSError, ValueError, LookupError, TypeError, ArithmeticError, subprocess.SubprocessError)


def not_run(fault):
    """Any of FAULTS as a reason of one line."""
    if isinstance(fault, NotRun):
        return fault
    words = str(fault).strip().splitlines()
    kind = "" if isinstance(fault, (AssertionError, OSError)) and words else type(fault).__name__
    return NotRun(": ".join(filter(None, (kind, words[0] if words else ""))))


class Row(typing.NamedTuple):
    """What is measured. The ratio is `ours` over `against`, and at most `target` unless `at_least`. Without a target
    the row is a figure that is said."""
    name: str
    what: str
    against: str
    target: float | None
    unit: str
    group: str
    at_least: bool = False


class Figure(typing.NamedTuple):
    """Of one row: medians, the median of the rounds' ratios, and what a reader must know beside them."""
    ours: float
    against: float
    ratio: float
    note: str = ""


class Settings(typing.NamedTuple):
    bin_dir: str
    config: str
    rounds: int
    cores: int
    hf_python: str
    load_model: str

    def program(self, name):
        path = os.path.join(self.bin_dir, name)
        if not os.access(path, os.X_OK):
            raise NotRun(f"{name} is not built")
        return path


def row_list():
    kernels = [Row(f"attention-{tokens}", f"causal attention in the TEE, {tokens} tokens, one thread, a layer",
                   "half of oneDNN's fp32 products of the same shapes", 1.3, "ms", f"kernels-{tokens}")
               for tokens in (*LENGTHS, 8192)]
    kernels.append(Row("attention-pass", "the same, 16 layers at 1024 tokens",
                       "0.30 s, which was asked of another machine: no verdict here", None, "s", "kernels-1024"))
    kernels += [Row(name, f"{what}, 1024 tokens, one thread, a layer", "memcpy of as many bytes", 1.5, "ms",
                    "kernels-1024")
                for name, what in (("silu", "SiLU"), ("rmsnorm", "RMSNorm"), ("residual", "residual"),
                                   ("residual-rmsnorm", "residual and RMSNorm in one pass"))]
    prefills = []
    for tokens in LENGTHS:
        what = f"prefill of {tokens} tokens, pair, all cores"
        prefills += [Row(f"prefill-{tokens}-{name}", what, against, most, "ms", f"prefill-{tokens}")
                     for name, against, most in (("transformers", "transformers, the quicker of fp32 and bf16, as many threads", 0.82),
                                                 ("local", "--backend local, as many threads", 1.02),
                                                 ("products", "its products alone, at oneDNN's full rate", 1.12))]
    private = [Row(f"otp-{tokens}", f"prefill of {tokens} tokens, --privacy otp-verify", "plain, the same build", 2.1,
                   "ms", f"private-{tokens}") for tokens in LENGTHS]
    private.append(Row("otp-decode", "a token of an answer, --privacy otp-verify", "plain, the same build", 0.7, "ms",
                       "private-decode"))
    return (*kernels, *prefills,
            Row("decode", "a token of one sequence, in one process, all cores",
                "reading the weights once, as they are held, as many threads", 1.05, "ms", "decode"),
            *private,
            Row("clients", "two clients at once, prefills of 128 tokens: tokens/s together", "one client's", 1.0,
                "tokens/s", "clients", at_least=True),
            Row("tee-side-1", "the TEE's part of a 1024-token prefill, a server that answers at once, one thread",
                "0.4 s, as asked for", 1.0, "s", "tee-side"),
            Row("tee-side-cores", "the same, all cores", "one thread", None, "s", "tee-side"),
            Row("load", "start of gpu_server to ready, page cache warm, digest remembered, all cores",
                "reading the files once, mapped anew, as many threads", 2.0, "s", "load"))


ROWS = row_list()


def markdown_rows(text):
    """Each row of a Markdown table as {column: cell}; several tables one behind the other."""
    heads, rows = None, []
    for line in text.splitlines():
        if not line.startswith("|"):
            heads = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if heads is None:
            heads = cells
        elif not set("".join(cells)) <= set("-: "):
            rows.append(dict(zip(heads, cells)))
    return rows


def said_by(command):
    """stdout of a program that must succeed."""
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=plain_env(), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, check=False)
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()
        raise NotRun(f"{os.path.basename(command[0])}: exit {done.returncode}" + (f": {words[-1]}" if words else ""))
    return done.stdout


def same_json(path, other):
    with open(path, encoding="utf-8") as one, open(other, encoding="utf-8") as two:
        return json.load(one) == json.load(two)


def want_1b(settings, program):
    """What has LLaMA-3.2-1B's shape built in is no measure of another one."""
    if not same_json(settings.config, LLAMA_1B):
        raise NotRun(f"bench/{program} has LLaMA-3.2-1B's shape alone, --config is another one")


def first_number(cell):
    return float(cell.split()[0])


def pair_of(ours, against, note=""):
    """A Figure of two lists that were measured in turn."""
    ratios = [first / second for first, second in zip(ours, against)]
    return Figure(statistics.median(ours), statistics.median(against), statistics.median(ratios), note)


# Groups: each gives {name of a row: Figure or NotRun}.


# Row: the kernel as bench/tee_kernels names it.
KERNELS = {"silu": "silu", "rmsnorm": "rmsnorm", "residual": "residual", "residual-rmsnorm": "both in one pass"}


def kernel_line(rows, name):
    """Of the kernel of exactly this name: another one is no stand-in."""
    for row in rows:
        if row.get("kernel") == name:
            try:
                return Figure(*(first_number(row[column]) for column in ("ms a layer", "bound ms", "ratio")))
            except FAULTS as fault:
                return NotRun(f"tee_kernels' line {name}: {not_run(fault)}")
    return NotRun(f"tee_kernels has no line {name}")


def kernels(settings, tokens):
    want_1b(settings, "tee_kernels")
    rounds = max(settings.rounds, 3) if tokens > 4096 else 2 * settings.rounds + 1
    said = said_by([settings.program("tee_kernels"), 1, rounds, tokens])
    rows = [row for row in markdown_rows(said) if row.get("tokens") == str(tokens)]
    attention = kernel_line(rows, "attention")
    figures = {f"attention-{tokens}": attention}
    if tokens == 1024:
        if isinstance(attention, Figure):
            seconds = 16e-3 * attention.ours
            figures["attention-pass"] = Figure(seconds, 0.30, seconds / 0.30, "16 times a layer's")
        else:
            figures["attention-pass"] = attention
        figures.update({row: kernel_line(rows, kernel) for row, kernel in KERNELS.items()})
    return figures


class Transformers:
    """bench/transformers_prefill under way in a type; it computes when it is asked and sleeps else."""

    def __init__(self, settings, dtype):
        if not os.access(settings.hf_python, os.X_OK):
            raise NotRun(f"no {os.path.relpath(settings.hf_python, ROOT)}: python3 -m venv build/hf && "
                         "build/hf/bin/pip install torch transformers")
        probe = subprocess.run([settings.hf_python, "-c", "import torch, transformers"], env=plain_env(),
                               capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            words = probe.stderr.strip().splitlines() or ["no word"]
            raise NotRun("torch and transformers do not load: " + words[-1])
        # As the others', but its threads must not spin while those are measured.
        env = {**plain_env(), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
        command = [settings.hf_python, "-B", os.path.join(ROOT, "bench", "transformers_prefill"), settings.config,
                   "--threads", str(settings.cores), "--dtype", dtype]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, env=env)
        self.versions = self.process.stdout.readline().strip().removeprefix("ready ")
        if not self.versions:
            self.close()
            raise NotRun("bench/transformers_prefill ended before it was ready")

    def prefill_ms(self, tokens):
        self.process.stdin.write(f"{tokens}\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        if not said:
            raise NotRun("bench/transformers_prefill ended")
        return 1e3 * float(said)

    def close(self):
        self.process.kill()
        with self.process:  # waits, and closes the pipes
            pass


def products_ms(settings, tokens):
    """{type: ms of a pass}; each product is called twice, and the second counts."""
    said = json.loads(said_by([settings.program("products"), "--tokens", tokens, "--threads", settings.cores,
                               "--rounds", 1, "-o", "json"]))["results"]
    return {one["type"]: one["pass_ms_median"] for one in said}


def quickest(times):
    """(name, list) of the one whose median is least, of {name: times}."""
    return min(times.items(), key=lambda entry: statistics.median(entry[1]))


def measured_in_turn(settings, sides, what):
    """{side: list of each round's, or NotRun} of {side: function}. One that fails is left out from then on; the first is
    what all are held against, and its fault is everybody's."""
    failed = {}
    first = next(iter(sides))

    def measure(side):
        if side in failed:
            return None
        try:
            return sides[side]()
        except FAULTS as fault:
            if side == first:
                raise
            failed[side] = not_run(fault)
            return None
    return {**alternate(settings.rounds, list(sides), measure, what), **failed}


def transformers_sides(settings, tokens, stack):
    """({side: function}, {side: NotRun}, versions) of transformers in fp32 and in bf16."""
    sides, faults, versions = {}, {}, ""
    for dtype in ("fp32", "bf16"):
        try:
            one = Transformers(settings, dtype)
            stack.callback(one.close)
            versions = one.versions

            def twice(one=one):
                one.prefill_ms(tokens)  # as of all others, the second counts
                return one.prefill_ms(tokens)
            sides["transformers in " + dtype] = twice
        except FAULTS as fault:
            faults["transformers in " + dtype] = not_run(fault)
    return sides, faults, versions


def transformers_figure(ours, times, versions):
    """Against the quicker type of those that ran, of {side: times or NotRun}."""
    ran = {side: of for side, of in times.items() if isinstance(of, list)}
    if not ran:
        return next(iter(times.values()))
    side, of = quickest(ran)
    lacking = [f"{other}: {why}" for other, why in times.items() if other not in ran]
    return pair_of(ours, of, ", ".join([side.removeprefix("transformers "), versions, *lacking]))


def products_figure(ours, times):
    if not isinstance(times, list):
        return times
    dtype, of = quickest({dtype: [one[dtype] for one in times] for dtype in times[0]})
    figure = pair_of(ours, of, dtype)
    if figure.ratio < 1:
        return NotRun(f"bench/products took {figure.against:.0f} ms for the products alone, more than the whole prefill's {figure.ours:.0f} ms: no bound")
    return figure


def prefills(settings, tokens, wanted):
    """The pair and all that it is held against, in turn: of each, every round, two prefills of which the second counts."""
    for name in ("gpu_server", "tee_runner"):
        settings.program(name)
    model, args = ("--synthetic", settings.config), ("--wire", WIRE, "--attention", "tee")
    rows = {name: f"prefill-{tokens}-{name}" for name in ("transformers", "local", "products")}
    figures = {}
    with contextlib.ExitStack() as stack:
        pair = stack.enter_context(open_pair(settings.bin_dir))

        def pair_ms(*backend):
            return prefills_ms(pair, *backend, *args, repeat=1, model=model, tokens=random_tokens(tokens),
                               threads=settings.cores)[0]
        sides, of_transformers, faults, versions = {"pair": pair_ms}, {}, {}, ""
        if rows["transformers"] in wanted:
            of_transformers, faults, versions = transformers_sides(settings, tokens, stack)
            sides.update(of_transformers)
            if not of_transformers:
                figures[rows["transformers"]] = next(iter(faults.values()))
        if rows["local"] in wanted:
            sides["local"] = lambda: pair_ms("--backend", "local")
        if rows["products"] in wanted:
            try:
                want_1b(settings, "products")
                settings.program("products")
                sides["products"] = lambda: products_ms(settings, tokens)
            except FAULTS as fault:
                figures[rows["products"]] = not_run(fault)
        if len(sides) == 1:
            return figures
        pair.server(model=model, threads=settings.cores)
        times = measured_in_turn(settings, sides, f"prefill of {tokens} tokens")
    ours = times["pair"]
    if of_transformers:
        figures[rows["transformers"]] = transformers_figure(ours, {**{side: times[side] for side in of_transformers}, **faults},
                                                            versions)
    if "local" in times:
        of = times["local"]
        figures[rows["local"]] = pair_of(ours, of, "attention in the TEE") if isinstance(of, list) else of
    if "products" in times:
        figures[rows["products"]] = products_figure(ours, times["products"])
    return figures


def threads_of(threads, settings):
    return f"{threads} threads" + (f" of {settings.cores} cores" if threads < settings.cores else "")


def decode(settings):
    want_1b(settings, "decode")
    threads = min(settings.cores, DECODE_THREADS)
    said = json.loads(said_by([settings.program("decode"), threads, 4 * settings.rounds, 64, 1, "-o", "json"]))
    one = said["results"][0]
    return {"decode": Figure(one["pass_ms_median"], one["read_ms_median"], one["ratio_median"],
                             f"{threads_of(threads, settings)}; {one['weight_bytes'] / 1e9:.2f} GB held; 64 positions behind")}


@contextlib.contextmanager
def private_pair(settings):
    for name in ("gpu_server", "tee_runner"):
        settings.program(name)
    with open_pair(settings.bin_dir) as pair:
        pair.server("--int8", "preload", model=("--synthetic", settings.config), threads=settings.cores)
        yield pair


MODES = {"otp-verify": ("--privacy", "otp-verify", "--int8-weights", "w8"), "plain": ("--wire", WIRE)}


def private_prefill(settings, tokens):
    with private_pair(settings) as pair:
        def one_ms(mode):
            return prefills_ms(pair, *MODES[mode], "--attention", "tee", repeat=1, tokens=random_tokens(tokens),
                               model=("--synthetic", settings.config), threads=settings.cores)[0]
        times = alternate(settings.rounds, ("otp-verify", "plain"), one_ms, f"private prefill of {tokens} tokens")
    return {f"otp-{tokens}": pair_of(times["otp-verify"], times["plain"], "w8")}


def private_decode(settings):
    answer = 16
    with private_pair(settings) as pair:
        def one_ms(mode):
            runner = pair.start("tee_runner", "generate", "--synthetic", settings.config, "--endpoint", pair.endpoint,
                                "--threads", settings.cores, *MODES[mode], "--tokens", "1,2,3,4", "--max-tokens",
                                answer, "--ignore-eos", "-o", "json").expect_exit(0, 3600)
            said = read_json(runner.out_path)
            return (said["wall_ns"] - said["ttft_ns"]) / (len(said["ids"]) - 1) / 1e6
        times = alternate(settings.rounds, ("otp-verify", "plain"), one_ms, "private answer")
    return {"otp-decode": pair_of(times["otp-verify"], times["plain"], f"w8; {answer} tokens")}


def two_clients(settings):
    for name in ("gpu_server", "tee_runner"):
        settings.program(name)
    model = ("--synthetic", settings.config)
    with open_pair(settings.bin_dir) as pair:
        pair.server(model=model, threads=settings.cores)
        def per_s(count):
            return clients_per_s(pair, model, 128, count, 6, settings.cores)
        times = alternate(settings.rounds, (1, 2), per_s, "clients of 128 tokens")
    return {"clients": pair_of(times[2], times[1], f"{settings.cores} threads a process")}


def tee_side(settings):
    want_1b(settings, "tee_side")
    threads = sorted({1, min(settings.cores, SIDE_THREADS)})
    said = json.loads(said_by([settings.program("tee_side"), "--tokens", 1024, "--threads",
                               ",".join(map(str, threads)), "--rounds", settings.rounds, "-o", "json"]))["results"]
    one, most = said[0], said[-1]
    seconds = [1e-3 * of["wall_ms_median"] for of in (one, most)]
    kernel, spent = max(((key.removesuffix("_ms"), value) for key, value in one.items() if key in KERNEL_KEYS),
                        key=lambda entry: entry[1])
    figures = {"tee-side-1": Figure(seconds[0], 0.4, seconds[0] / 0.4,
                                    f"{kernel} {spent:.0f} ms, outside of kernels {one['rest_ms']:.1f} ms")}
    cores = Figure(seconds[1], seconds[0], seconds[1] / seconds[0],
                   threads_of(most["threads"], settings))
    figures["tee-side-cores"] = cores if len(threads) > 1 else NotRun("one core here")
    return figures


KERNEL_KEYS = ("rmsnorm_ms", "rope_ms", "softmax_ms", "silu_ms", "residual_ms", "attention_ms")


def load(settings):
    """bench/load: starts of gpu_server and mapped readings, in turn; without a folder it makes the 1B shape's for a
    while below $TMPDIR."""
    command = [settings.program("load"), "--server", settings.program("gpu_server"), "--threads", settings.cores, "--rounds",
               settings.rounds, "-o", "json"]
    if settings.load_model:
        if not same_json(os.path.join(settings.load_model, "config.json"), settings.config):
            raise NotRun(f"{os.path.join(settings.load_model, 'config.json')} is not the same as {settings.config}")
        command += ["--folder", settings.load_model]
    else:
        want_1b(settings, "load, which writes the model where --load-model names none,")
    said = json.loads(said_by(command))
    ours, against = said["again_s_median"], said["read_s_median"]
    return {"load": Figure(ours, against, ours / against,
                           f"{said['bytes'] / 1e9:.2f} GB, {said['threads']} threads; ratio of the medians; with the digest "
                           f"computed {said['first_s_median'] / against:.1f}x")}


# Name: function of the settings and of the names of the wanted rows.
GROUPS = {"decode": lambda settings, wanted: decode(settings),
          "private-decode": lambda settings, wanted: private_decode(settings),
          "clients": lambda settings, wanted: two_clients(settings),
          "tee-side": lambda settings, wanted: tee_side(settings), "load": lambda settings, wanted: load(settings)}
for count in (*LENGTHS, 8192):
    GROUPS[f"kernels-{count}"] = lambda settings, wanted, tokens=count: kernels(settings, tokens)
for count in LENGTHS:
    GROUPS[f"prefill-{count}"] = lambda settings, wanted, tokens=count: prefills(settings, tokens, wanted)
    GROUPS[f"private-{count}"] = lambda settings, wanted, tokens=count: private_prefill(settings, tokens)
assert {row.group for row in ROWS} == set(GROUPS), sys.exit("bench/rows.py: a row without a group")
