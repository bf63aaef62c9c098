#!/usr/bin/env python3
"""The program airlock_xfer as a user sees it: exit codes, signals, and what stays behind. Standard library only.

  xfer_program_test.py --list
  xfer_program_test.py --program PATH SCENARIO
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

WATCHDOG_S = 120
# Each row lasts a second, whatever the machine: there is time to act between the first and the last.
SLOW = ("-n", "1000000", "--max-seconds", "1", "-b", "64", "-e", "64K", "-f", "4", "--ring-slot-bytes", "16K")


def wait_until(condition, what):
    end = time.monotonic() + WATCHDOG_S
    while not condition():
        assert time.monotonic() < end, f"not within {WATCHDOG_S} s: {what}"
        time.sleep(0.005)


def children(pid):
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(name))
    return found


def segments_of(pid):
    """Names of the ring segments that the process maps or has open: sealed memory, which no file names."""
    names = set()
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            texts = [line for line in file if "/memfd:airlock-" in line]
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                texts.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except OSError:
                pass
    except OSError:
        return names
    for text in texts:
        if "/memfd:airlock-" in text:
            names.add(text.split("/memfd:")[1].split()[0])
    return names


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Xfer:
    """The program under way, with a TMPDIR of its own."""

    def __init__(self, program, *args):
        self.directory = tempfile.TemporaryDirectory(prefix="airlock-xfer-test.")
        self.tmp = os.path.join(self.directory.name, "tmp")
        os.mkdir(self.tmp, 0o700)
        self.out_path = os.path.join(self.directory.name, "out")
        self.err_path = os.path.join(self.directory.name, "err")
        self.segments = set()
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen([program, *args], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                            env=dict(os.environ, TMPDIR=self.tmp), start_new_session=True)

    def out(self):
        with open(self.out_path, encoding="utf-8") as file:
            return file.read()

    def err(self):
        with open(self.err_path, encoding="utf-8") as file:
            return file.read()

    def rows(self):
        return [line for line in self.out().splitlines() if line.startswith("|") and line.split("|")[1].strip().isdigit()]

    def wait_for_row(self):
        wait_until(lambda: self.rows() or self.process.poll() is not None, "a row")
        assert self.process.poll() is None, self.err()
        self.segments = segments_of(self.process.pid)
        assert self.segments, "no ring is mapped"
        (peer,) = children(self.process.pid)
        return peer

    def ends_with(self, code):
        got = self.process.wait(WATCHDOG_S)
        assert got == code, f"exit {got}, expected {code}\n{self.out()}\n{self.err()}"

    def left_nothing(self):
        wait_until(lambda: not os.listdir(self.tmp), f"{self.tmp} is empty")
        wait_until(lambda: not any(os.path.exists("/dev/shm/" + name) for name in self.segments),
                   f"{self.segments} are gone")


def run(program, *args):
    return subprocess.run([program, *args], capture_output=True, text=True, timeout=WATCHDOG_S, check=False)


def killed_peer_ends_it_with_the_partial_table(program):
    xfer = Xfer(program, *SLOW)
    peer = xfer.wait_for_row()
    os.kill(peer, signal.SIGKILL)
    xfer.ends_with(3)
    assert "killed by signal 9" in xfer.err(), xfer.err()
    assert "# ended early or failed" in xfer.out() and xfer.rows(), xfer.out()
    xfer.left_nothing()


def interrupt_ends_it_with_the_partial_table(program):
    for number in (signal.SIGINT, signal.SIGTERM):
        xfer = Xfer(program, *SLOW)
        peer = xfer.wait_for_row()
        os.killpg(xfer.process.pid, number)  # as a terminal does it
        xfer.ends_with(3)
        assert f"stopped by signal {int(number)}" in xfer.err(), xfer.err()
        assert "# ended early or failed" in xfer.out() and xfer.rows(), xfer.out()
        wait_until(lambda pid=peer: not is_alive(pid), "the peer ended")
        xfer.left_nothing()


def killed_program_takes_its_peer_along(program):
    xfer = Xfer(program, *SLOW)
    peer = xfer.wait_for_row()
    os.kill(xfer.process.pid, signal.SIGKILL)
    xfer.ends_with(-signal.SIGKILL)
    wait_until(lambda: not is_alive(peer), "the peer ended")
    xfer.left_nothing()


def end_while_starting(program, number, code):
    # A large ring takes a while to reserve: its file has a name meanwhile.
    xfer = Xfer(program, "--ring-slots", "64", "--ring-slot-bytes", "4M", *SLOW[:-2])
    # From the fork on there is somebody who removes its files.
    wait_until(lambda: children(xfer.process.pid) and segments_of(xfer.process.pid) or xfer.process.poll() is not None,
               "a peer and a segment")
    peers = children(xfer.process.pid)
    xfer.segments = segments_of(xfer.process.pid)
    xfer.process.send_signal(number)
    xfer.ends_with(code)
    for peer in peers:
        wait_until(lambda pid=peer: not is_alive(pid), "the peer ended")
    for name in list(xfer.segments):  # the one may have been there, the other not yet
        xfer.segments |= {name.replace("-req", "-rep"), name.replace("-rep", "-req")}
    xfer.left_nothing()


def killed_program_leaves_nothing_while_starting(program):
    end_while_starting(program, signal.SIGKILL, -signal.SIGKILL)


def interrupt_leaves_nothing_while_starting(program):
    end_while_starting(program, signal.SIGINT, 3)


def stopped_peer_is_given_up(program):
    xfer = Xfer(program, *SLOW, "--timeout-ms", "500")
    peer = xfer.wait_for_row()
    os.kill(peer, signal.SIGSTOP)
    xfer.ends_with(3)
    assert "stalled" in xfer.err(), xfer.err()
    assert not is_alive(peer)
    xfer.left_nothing()


def usage_errors_are_told_apart(program):
    for args, word in ((("--path", "fax"), "fax"), (("-b", "2M", "-e", "1M"), "-b"), (("-f", "1"), "-f"),
                       (("-e", "8G"), "4 GiB"), (("-n", "99999999"), "--iterations"), (("--threads", "4"), "--threads")):
        done = run(program, *args)
        assert done.returncode == 2, (args, done)
        assert word in done.stderr and not done.stdout, (args, done)
    done = run(program, "--help")
    assert done.returncode == 0 and "--ring-slot-bytes" in done.stdout, done


def json_is_json(program):
    for mode in ("echo", "stream"):
        done = run(program, "--json", "--mode", mode, "-e", "64K", "-f", "8", "-n", "10", "--ring-slot-bytes", "16K")
        assert done.returncode == 0, done
        rows = json.loads(done.stdout)["rows"]
        carried = {(row["bytes"], row["path"]): row["carried"] for row in rows}
        assert carried[(12288, "ring")] and not carried[(16384, "ring")] and carried[(20480, "auto")], carried
        assert all(row["wrong_bytes"] == 0 for row in rows if row["carried"]), rows


def lack_of_shared_memory_is_told(program):
    with open("/proc/meminfo", encoding="ascii") as file:
        available = int(next(line for line in file if line.startswith("MemAvailable")).split()[1]) << 10
    if available > 128 << 30:
        print("skipped: there is memory for 128 GiB")
        sys.exit(77)
    done = run(program, "--ring-slots", "1024", "--ring-slot-bytes", "64M")
    assert done.returncode == 5, done
    assert "need 128.0 GiB" in done.stderr and "are free here" in done.stderr and "--path zmq" in done.stderr, done


SCENARIOS = [killed_peer_ends_it_with_the_partial_table, interrupt_ends_it_with_the_partial_table,
             killed_program_takes_its_peer_along, killed_program_leaves_nothing_while_starting,
             interrupt_leaves_nothing_while_starting, stopped_peer_is_given_up, usage_errors_are_told_apart,
             json_is_json, lack_of_shared_memory_is_told]


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(scenario.__name__ for scenario in SCENARIOS))
        return
    assert len(sys.argv) == 4 and sys.argv[1] == "--program", __doc__
    (scenario,) = [s for s in SCENARIOS if s.__name__ == sys.argv[3]]
    scenario(sys.argv[2])


if __name__ == "__main__":
    main()
