"""Starts real gpu_server and tee_runner processes, for tests, benchmarks and tools. Python's standard library only."""
import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
CONFIGS = os.path.join(ROOT, "tests", "data", "configs")
TINY = os.path.join(CONFIGS, "tiny.json")
# Nothing is expected to take this long: it only turns a hang into a failure.
WATCHDOG_S = 120


def wait_until(condition, what, limit_s=WATCHDOG_S):
    """Looks until `condition()` holds; AssertionError naming `what` at the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what}"
        time.sleep(0.01)


def read_text(path, errors="replace"):
    with open(path, encoding="utf-8", errors=errors) as file:
        return file.read()


def read_json(path):
    return json.loads(read_text(path, errors="strict"))


class Process:
    """A program of ours under way; its output goes to files in `work`, but for the streams that are given."""

    def __init__(self, work, name, command, env, **streams):
        self.name = name
        self.command = command
        self.out_path = os.path.join(work, name + ".out")
        self.err_path = os.path.join(work, name + ".err")
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(command, env=env,
                                            **{"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, **streams})
        self.pid = self.process.pid

    def stdout(self):
        return read_text(self.out_path)

    def stderr(self):
        return read_text(self.err_path)

    def signal(self, number):
        self.process.send_signal(number)

    def running(self):
        return self.process.poll() is None

    def exit_code(self, limit_s=WATCHDOG_S):
        """Waits for the end. A signal that killed it is negative."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit_s:.0f} s") from None

    def expect_exit(self, code, limit_s=WATCHDOG_S):
        got = self.exit_code(limit_s)
        assert got == code, f"{self.name} exited with {got}, expected {code}"
        return self

    def report(self):
        return (f"--- {self.name} (pid {self.pid}, exit {self.process.poll()}): {' '.join(self.command)}\n"
                f"--- stdout\n{self.stdout()[-4000:]}\n--- stderr\n{self.stderr()[-4000:]}\n")


def plain_env():
    """What programs that are measured or tested get of this process's environment."""
    return {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}


class Pair:
    """A private folder, and the processes of one test or measurement in it. close() ends them all."""

    def __init__(self, bin_dir, work):
        self.bin_dir = bin_dir
        self.work = work  # 0700, our own
        self.started = []
        self.run_dir = self.path("run")
        os.mkdir(self.run_dir, 0o700)
        self.endpoint = f"ipc://{self.run_dir}/ctl"
        self.env = {**plain_env(), "XDG_CACHE_HOME": self.path("cache")}

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self, program, *args, name=None, within=(), **streams):
        """`within`: a command that runs the program, as ("nohup",). `streams`: stdin, stdout or stderr, as subprocess takes them."""
        command = [*within, os.path.join(self.bin_dir, program), *map(str, args)]
        return self.start_other(command, self.env, name or program, **streams)

    def start_other(self, command, env, name=None, **streams):
        """A program that is not ours."""
        name = f"{len(self.started)}-{name or os.path.basename(command[0])}"
        process = Process(self.work, name, command, env, **streams)
        self.started.append(process)
        return process

    def server(self, *args, endpoint=None, model=("--synthetic", TINY), threads=1, device="cpu", limit_s=600,
               within=()):
        """A gpu_server that serves; `.endpoint` is where, as it said itself; `.stats()` what it wrote to
        `.stats_path`."""
        stats_path = self.path(f"{len(self.started)}-server.json")
        server = self.start("gpu_server", *model, "--endpoint", endpoint or self.endpoint, "--device", device,
                            "--threads", threads, "--stats-json", stats_path, *args, within=within)
        wait_until(lambda: "ready " in server.stdout() or not server.running(), "ready", limit_s)
        ready = [line for line in server.stdout().splitlines() if line.startswith("ready ")]
        assert ready, f"gpu_server ended before it was ready\n{server.report()}"
        server.endpoint = ready[0].split()[1]
        server.stats_path, server.stats = stats_path, lambda: read_json(stats_path)
        return server

    def runner(self, *args, endpoint=None, model=("--synthetic", TINY), tokens=("--random-tokens", 64, "--seed", 1),
               threads=1, within=()):
        """`tee_runner prefill` under way."""
        return self.start("tee_runner", "prefill", *model, "--endpoint", endpoint or self.endpoint, *tokens,
                          "--threads", threads, *args, within=within)

    def prefill(self, *args, limit_s=3600, **kwargs):
        """What `tee_runner prefill -o json` says, which must succeed. Arguments as for runner()."""
        runner = self.runner("-o", "json", *args, **kwargs)
        code = runner.exit_code(limit_s)
        assert code == 0, f"{runner.name} exited with {code}\n{runner.report()}"
        return json.loads(runner.stdout())

    def stop(self, server, limit_s=WATCHDOG_S):
        """SIGTERM; the server's exit must be 0."""
        server.signal(signal.SIGTERM)
        server.expect_exit(0, limit_s)

    def close(self):
        for process in self.started:
            if process.running():
                process.signal(signal.SIGKILL)
                process.process.wait()


@contextlib.contextmanager
def open_pair(bin_dir):
    """A Pair in a folder of its own; both are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="airlock-pair.") as work:
        pair = Pair(os.path.abspath(bin_dir), work)
        try:
            yield pair
        finally:
            pair.close()
