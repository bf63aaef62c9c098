"""What the benchmarks share: the machine in words, medians, and the file that a result is kept in."""
import datetime
import os
import platform
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tools"))


def machine():
    """Lines that say what a figure was measured on; the environment that changes figures is part of it."""
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
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True,
                            check=False).stdout.strip() or "unknown"
    names = sorted(n for n in os.environ if n.startswith(("OMP_", "OPENBLAS_", "DNNL_", "ONEDNN_", "MALLOC_")))
    return [f"machine: {model}, {os.cpu_count()} CPUs ({', '.join(wanted) or 'no AVX2'}), {memory_gib:.0f} GiB, "
            f"Linux {platform.release()}",
            f"commit: {commit}",
            f"environment: {' '.join(f'{n}={os.environ[n]}' for n in names) or 'no OMP_*, OPENBLAS_*, DNNL_* set'}; "
            "the programs run with OMP_WAIT_POLICY=passive",
            f"load before: {' '.join(f'{x:.2f}' for x in os.getloadavg())}"]


def median(values):
    return statistics.median(values)


def keep(name, title, body):
    """Prints the result and writes bench/results/<date>-NAME.md."""
    today = datetime.date.today().isoformat()
    command = "bench/" + " ".join([name, *sys.argv[1:]])
    text = "\n".join([f"# {title}", "", f"date: {today}  ", f"command: `{command}`  ",
                      "  \n".join(machine()), "", *body, ""])
    path = os.path.join(ROOT, "bench", "results", f"{today}-{name}.md")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(text)
    print(f"kept in {os.path.relpath(path, ROOT)}", file=sys.stderr)
