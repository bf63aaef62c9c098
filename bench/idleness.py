"""Sessions in which nothing happens, and the CPU time that processes use meanwhile."""
import contextlib
import glob
import os
import subprocess
import time

SETTLE_S = 2  # start-up and the session's first waits are not idling


def cpu_ns(pid):
    """What the threads of a process have run so far."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with open(path, encoding="utf-8") as file:
            total += int(file.read().split()[0])
    return total


def percents(pids, seconds):
    """CPU use of each process over the next `seconds`, in percent of one CPU."""
    time.sleep(SETTLE_S)
    begin, before = time.monotonic(), [cpu_ns(pid) for pid in pids]
    time.sleep(seconds)
    elapsed_s = time.monotonic() - begin
    return [(cpu_ns(pid) - ns) / 1e7 / elapsed_s for pid, ns in zip(pids, before)]


@contextlib.contextmanager
def idle_session(pair, server):
    """The client of a session in which nothing happens."""
    command = [os.path.join(pair.bin_dir, "idle_session"), server.endpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=pair.env) as client:
        try:
            if client.stdout.readline().strip() != "ready":
                raise AssertionError("idle_session got no session")
            yield client
        finally:
            client.stdin.close()
            client.wait(60)
