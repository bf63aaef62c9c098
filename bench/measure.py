"""What the benchmarks share: their options, runs that alternate, medians, the machine in words, and the file that a
result is kept in."""
import argparse
import datetime
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))
from pair import CONFIGS  # noqa: E402 (found by the line above; bench/ finds open_pair by it too)

RESULTS = os.path.join(ROOT, "bench", "results")
LLAMA_1B = os.path.join(CONFIGS, "llama-3.2-1b.json")
WIRE = "bf16"


def say(text):
    """Progress; the result alone goes to stdout."""
    print(text, file=sys.stderr, flush=True)


def options(doc, **defaults):
    """A parser with --bin-dir and those of the shared options that `defaults` names."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", default=os.path.join(ROOT, "build", "release", "bin"))
    words = {"config": "config.json of the model's shape", "tokens": "lengths of the prompts",
             "rounds": "runs of each side, alternating", "repeat": "prefills counted in a run",
             "threads": "compute threads a side"}
    for name, default in defaults.items():
        parser.add_argument("--" + name, default=default, type=type(default), help=f"{words[name]} (%(default)s)")
    return parser


def cgroup_cpus(root=""):
    """CPUs' worth of time that this process's control groups leave it, v1 and v2; None: no limit that can be read."""
    quotas = []
    try:
        with open(root + "/proc/self/cgroup", encoding="utf-8") as file:
            groups = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return None
    for number, controllers, path in (group for group in groups if len(group) == 3):
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        mount, names = (("/sys/fs/cgroup", ("cpu.max",)) if number == "0" else
                        ("/sys/fs/cgroup/cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")))
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts) + 1):
            try:
                words = []
                for name in names:
                    with open(os.path.join(root + mount, *parts[:depth], name), encoding="utf-8") as file:
                        words += file.read().split()
                if int(words[0]) > 0:  # "max" is no number, -1 no limit
                    quotas.append(int(words[0]) / int(words[1]))
            except (OSError, ValueError, IndexError, ZeroDivisionError):
                continue
    return min(quotas, default=None)


def usable_cpus(root=""):
    """CPUs that this process may run on, no more than its control groups' quota rounded up; as base/cpu_count.h counts."""
    quota = cgroup_cpus(root)
    cpus = len(os.sched_getaffinity(0))
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def random_tokens(count):
    return ("--random-tokens", count, "--seed", 1)


def alternate(rounds, sides, measure, what):
    """{side: what measure(side) gave, a list of a value for each round}: A B A B ..., so that a slow phase hits all."""
    values = {side: [] for side in sides}
    for number in range(1, rounds + 1):
        for side in sides:
            say(f"{what}: {side}, round {number} of {rounds}")
            values[side].append(measure(side))
    return values


def prefills_ms(pair, *args, repeat, **kwargs):
    """Times of `repeat` prefills of one run; one before them (cold caches, first touch of the slots) is not counted."""
    return [ns / 1e6 for ns in pair.prefill("--repeat", repeat + 1, *args, **kwargs)["runs_ns"][1:]]


def median(values):
    return statistics.median(values)


def with_range(values):
    return f"{median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def output_of(command, where=ROOT):
    """stdout of a command in a folder; ends the program where it fails."""
    done = subprocess.run([*map(str, command)], cwd=where, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        say(f"{shlex.join(map(str, command))}: exit {done.returncode}")
        sys.exit(2)
    return done.stdout


def commit_of(tree):
    try:
        done = subprocess.run(["git", "-C", tree, "-c", "safe.directory=*", "describe", "--always", "--dirty"],
                              capture_output=True, text=True, check=False)
        return done.stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def machine():
    """What a figure was measured on, as {name: text}; the environment that changes figures is part of it."""
    model, flags = "unknown", set()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    with open("/proc/meminfo", encoding="utf-8") as file:
        memory_gib = int(file.readline().split()[1]) / 2**20
    wanted = [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    names = sorted(n for n in os.environ if n.startswith(("DNNL_", "ONEDNN_", "MALLOC_")))
    return {"machine": f"{model}, {os.cpu_count()} CPUs ({', '.join(wanted) or 'no AVX2'}), {memory_gib:.0f} GiB, "
                       f"Linux {platform.release()}",
            "environment": ' '.join(f'{n}={os.environ[n]}' for n in names) or "no DNNL_*, ONEDNN_*, MALLOC_* set",
            "load before": " ".join(f"{x:.2f}" for x in os.getloadavg())}


MACHINE_BEFORE = machine()  # the load is that before a benchmark began


def table(head, rows):
    """Markdown; the first column is text, the others are figures."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, marks, *rows)]


def write(name, title, body, figures=None, folder=RESULTS, **facts):
    """Writes <date>-NAME.md, or .json where figures are given, in `folder`; returns the text and its path."""
    today = datetime.date.today().isoformat()
    facts = {"date": today, "command": shlex.join(["bench/" + os.path.basename(sys.argv[0]), *sys.argv[1:]]),
             **facts, **MACHINE_BEFORE}
    if figures is not None:
        text = json.dumps({"title": title, **facts, "figures": figures}, indent=1) + "\n"
    else:
        said = [f"{key}: `{value}`" if key == "command" else f"{key}: {value}" for key, value in facts.items()]
        text = "\n".join([f"# {title}", "", "  \n".join(said), "", *body, ""])
    path = os.path.join(folder, f"{today}-{name}." + ("md" if figures is None else "json"))
    os.makedirs(folder, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return text, os.path.relpath(path, ROOT)


def text_with(page, begin, end):
    """The text of a page that has the two lines, once each and in this order; else ValueError or OSError."""
    with open(page, encoding="utf-8") as file:
        text = file.read()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page} has not {begin} and then {end}, once each")
    return text


def put_between(page, begin, end, change):
    """Replaces what a page has between two of its lines by change(what it had)."""
    text = text_with(page, begin, end)
    start = text.index(begin) + len(begin)
    stop = text.index(end)
    with open(page, "w", encoding="utf-8") as file:
        file.write(f"{text[:start]}\n\n{change(text[start:stop]).strip()}\n\n{text[stop:]}")


def keep(name, title, body):
    """Prints the result and writes bench/results/<date>-NAME.md."""
    text, path = write(name, title, body, commit=commit_of(ROOT))
    print(text)
    say(f"kept in {path}")
