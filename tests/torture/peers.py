"""What the torture's scenarios share: their programs, what a server holds, and a row of the table for each fault tried."""
import json
import os
import re
import time

from pair import Pair, wait_until
from scenarios import segments

# Threads and descriptors of a session end a moment after it did.
SETTLE_S = 30


def row(fault, trials, outcome, answer_s=None):
    """Prints what tools/torture makes a row of its table of."""
    print("row " + json.dumps({"fault": fault, "trials": trials, "outcome": outcome, "answer_s": answer_s}), flush=True)


class Peers(Pair):
    """Real programs beside bad ones."""

    def __init__(self, bin_dir, work, is_long):
        super().__init__(bin_dir, work)
        self.long = is_long
        self.segments_before = segments()

    def expect_nothing_left(self):
        """After the last server has ended."""
        assert os.listdir(self.run_dir) == [], f"left in the endpoint's folder: {os.listdir(self.run_dir)}"
        wait_until(lambda: not segments() - self.segments_before, "/dev/shm is as before")

    def expect_serves(self):
        runner = self.runner("--timeout-ms", 20000)
        code = runner.exit_code()
        assert code == 0, f"a new client is not served (exit {code})\n{runner.report()}"


def holdings(process):
    """Descriptors, threads and resident KiB of a live process, and none of them where it has ended."""
    folder = f"/proc/{process.pid}"
    with open(f"{folder}/status", encoding="ascii", errors="replace") as file:
        resident = int(re.search(r"VmRSS:\s*(\d+) kB", file.read())[1])
    return len(os.listdir(f"{folder}/fd")), len(os.listdir(f"{folder}/task")), resident


def expect_settled(process, before):
    """Until the process has no more descriptors and threads than `before` again; seconds that took."""
    start = time.monotonic()
    wait_until(lambda: all(now <= then for now, then in zip(holdings(process)[:2], before[:2])),
               f"{process.name} gives back descriptors and threads, of which it had {before[:2]}", SETTLE_S)
    return time.monotonic() - start


def needs(*names):
    """For scenarios.main(): these programs in --bin-dir."""
    return lambda args: [os.path.join(args.bin_dir, name) for name in ("gpu_server", "tee_runner", *names)]
