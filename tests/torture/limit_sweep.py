#!/usr/bin/env python3
"""Every program under each small limit of descriptors, threads and address space: it works, or it says what it lacks
and ends with exit 5; no abort, no hang, nothing left. One kind of limit a run: limit_sweep.py --bin-dir DIR [--long]
SCENARIO. A server that serves under its limit is asked by a runner, which is served or told why not.

Prints a line for each program: the limits, and what came of them. "loader": the system's loader found no room for the
program's libraries (exit 127), before any line of ours ran. "edge": a library that ended the process itself, where
nobody can keep it from that: listed, and no failure. Exit 0, 1, 77 as the other scenarios."""
import collections
import os
import shutil
import signal
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests", "integration")]
import scenarios  # noqa: E402
from pair import TINY, Pair  # noqa: E402
from peers import row  # noqa: E402

HANG_S = 60
# A user who has no process yet: root has no limit of threads, and others' processes would count.
STRANGER = 54321
GOOD = ("0", "5", "loader", "edge")
OUTCOMES = {"0": "works", "5": "says what it lacks (exit 5)", "loader": "no room for the libraries"}
COMPUTING = ("gpu_server", "prefill, local")


class Sweep(Pair):
    """The programs, and a server without limits that the clients among them find."""

    def __init__(self, bin_dir, work, is_long):
        super().__init__(bin_dir, work)
        self.long = is_long
        self.bad = []
        self.user = ()
        if os.geteuid() == 0:
            self.user = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
            for folder in (work, self.run_dir):
                os.chown(folder, STRANGER, STRANGER)
        model = ("--synthetic", TINY, "--threads", 2)
        prefill = ("tee_runner", "prefill", *model, "--random-tokens", 8, "--seed", 1)
        self.programs = {
            "gpu_server": ("gpu_server", *model, "--device", "cpu", "--endpoint", f"ipc://{self.run_dir}/limited",
                           "--metrics", "127.0.0.1:0"),
            "prefill": (*prefill, "--endpoint", self.endpoint),
            "prefill, local": (*prefill, "--backend", "local"),
            "airlock_stat": ("airlock_stat", "--endpoint", self.endpoint),
            "airlock_pool": ("airlock_pool", "check", "--endpoint", self.endpoint),
            "airlock_xfer": ("airlock_xfer", "-b", 64, "-e", 64, "-n", 3, "--ring-slot-bytes", "64K"),
            "airlock_trace": ("airlock_trace", "synth", "--config", TINY, "--tokens", 4, "-o", "-"),
            "airlock_report": ("airlock_report", self.path("trace"), "-o", "-"),
        }

    def with_threads(self):
        """In the short form those that start some."""
        return [name for name in self.programs if self.long or name not in ("airlock_trace", "airlock_report")]

    def tasks(self):
        """Of the user: what counts for the limit of threads."""
        uid = STRANGER if self.user else os.getuid()
        count = 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as file:
                    fields = dict(line.split(":", 1) for line in file)
            except (OSError, ValueError):
                continue
            count += int(fields["Threads"]) if fields["Uid"].split()[0] == str(uid) else 0
        return count

    def run(self, name, limit):
        """The program under the limit, ended; a server once it serves. None: it hung."""
        program = self.programs[name]
        is_server = program[0] == "gpu_server"
        process = self.start(*program, within=(*self.user, "prlimit", limit))
        end = time.monotonic() + HANG_S
        while process.running() and time.monotonic() < end and not (is_server and "ready " in process.stdout()):
            time.sleep(0.002)
        if time.monotonic() >= end:
            process.signal(signal.SIGKILL)
        elif process.running():
            runner = self.runner(endpoint=program[program.index("--endpoint") + 1], within=self.user)
            if runner.exit_code(HANG_S) not in (0, 3, 5):
                self.bad.append(f"a runner's server with {limit}\n{runner.report()}")
            process.signal(signal.SIGTERM)
        process.exit_code(HANG_S)
        return process

    def outcome(self, name, limit):
        process = self.run(name, limit)
        code, said = process.exit_code(), process.stderr()
        if code == 127 and "while loading shared libraries" in said:
            what = "loader"
        elif limit.startswith("--as") and code == -signal.SIGSEGV and name in COMPUTING:
            what = "edge of oneDNN"  # its code generator takes what mmap() refused it for memory
        elif limit.startswith("--as") and "libgomp: Out of memory" in said and name in COMPUTING:
            what = "edge of libgomp"  # it calls exit() where it finds no memory for a thread of ours, under those that run
        else:
            what = str(code) if code >= 0 else signal.Signals(-code).name
        if not what.startswith(GOOD):
            self.bad.append(f"{name} with {limit}: {what}\n{process.report()}")
        for path in (process.out_path, process.err_path):
            os.remove(path)
        self.started.remove(process)
        return what

    def sweep(self, option, values, base=lambda: 0, names=None):
        """Each program of `names` (all) under each limit that `values(name)` gives; prints a line for each. Then the
        server without limits must be as before."""
        server = self.server(within=self.user)
        outcomes = collections.Counter()
        self.start("airlock_trace", "synth", "--config", TINY, "--tokens", 4, "-o", self.path("trace"),
                   within=self.user).expect_exit(0)
        for name in names or self.programs:
            runs = []
            for value in values(name):
                what = self.outcome(name, f"--{option}={base() + value}")
                outcomes[what.split(" (")[0]] += 1
                if runs and runs[-1][2] == what:
                    runs[-1][1] = value
                else:
                    runs.append([value, value, what])
            texts = [f"{first}-{last}: {what}" if first != last else f"{first}: {what}" for first, last, what in runs]
            print(f"{name:14} {option}  {'; '.join(texts)}", flush=True)
        self.runner(within=self.user).expect_exit(0)
        self.stop(server)
        left = os.listdir(self.run_dir)
        assert not left, f"left behind: {left}"
        assert not self.bad, f"{len(self.bad)} ended otherwise; the first:\n" + "\n".join(self.bad[:3])
        row(f"programs under small limits of {option}", outcomes.total(),
            ", ".join(f"{OUTCOMES.get(what, what)} {count}" for what, count in outcomes.most_common()))


def missing_tools():
    lack = [name for name in ("prlimit", "setpriv") if not shutil.which(name)]
    return f"util-linux's {' and '.join(lack)} not there" if lack else None


def descriptors(sweep):
    """And around what the server needs."""
    values = range(3, 400) if sweep.long else [*range(3, 24), 30, *range(33, 37), *range(41, 45), 100, 346, 347]
    return missing_tools() or sweep.sweep("nofile", lambda name: values)


def threads(sweep):
    """So many more than the user has."""
    return missing_tools() or sweep.sweep("nproc", lambda name: range(40 if sweep.long else 12), base=sweep.tasks,
                                          names=sweep.with_threads())


def address_space(sweep):
    """From where the program can start at all to where it works, and on through the sizes at which one of glibc's
    arenas, 64 MiB each, fits and the next one does not."""
    mib = 1 << 20

    def least(works):
        low, high = 2, 1024  # works with `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if works(f"--as={middle * mib}") else (middle, high)
        return high

    def starts(name, limit):
        program = sweep.programs[name][0]
        return sweep.start(program, "--version", within=(*sweep.user, "prlimit", limit)).exit_code() == 0

    def values(name):
        first = least(lambda limit: starts(name, limit)) + 1  # addresses are random: a page more or less
        enough = least(lambda limit: sweep.run(name, limit).exit_code() == 0)
        if sweep.long:
            return [value * mib for value in range(first, enough + 300)]
        return [value * mib for value in (*range(max(first, enough - 12), enough + 1),
                                          *range(max(first, enough + 12), enough + 140, 24))]

    return missing_tools() or sweep.sweep("as", values, names=sweep.with_threads())


SCENARIOS = (descriptors, threads, address_space)

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Sweep(args.bin_dir, work, args.long),
                   scenarios.programs("gpu_server", "tee_runner", "airlock_stat", "airlock_pool", "airlock_xfer"), flags=("long",))
