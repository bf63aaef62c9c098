"""A process that dies, stops or comes too late: the other one says so, ends as promised, and nothing is left."""
import json
import os
import resource
import signal
import subprocess

from pair import TINY, wait_until
from scenarios import read_bytes, segments

LONG = ("--repeat", 1000000)
OPS_OF_WORK = 20


def calls(pair, server):
    """Ops that the live server has answered."""
    done = subprocess.run([os.path.join(pair.bin_dir, "airlock_stat"), "--endpoint", server.endpoint, "-o", "json"],
                          env=pair.env, capture_output=True, text=True, check=False)
    return sum(op["calls"] for op in json.loads(done.stdout)["ops"].values()) if done.returncode == 0 else 0


def await_work(pair, server, runner):
    """Until the runner is in the middle of its prefills."""
    before = calls(pair, server)
    wait_until(lambda: not runner.running() or calls(pair, server) >= before + OPS_OF_WORK, "the server works")
    assert runner.running(), "the runner ended too early"


def under_way(pair, server, *args, **kwargs):
    runner = pair.runner(*LONG, *args, endpoint=server.endpoint, **kwargs)
    await_work(pair, server, runner)
    return runner


def expect_gone(before):
    wait_until(lambda: not segments() - before, f"/dev/shm is as before, not with {segments() - before}")


def expect_serves(pair, server):
    pair.runner(endpoint=server.endpoint).expect_exit(0)


def sigterm_ends_the_server_and_leaves_nothing(pair):
    before = segments()
    server = pair.server()
    expect_serves(pair, server)
    pair.stop(server)
    expect_gone(before)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)
    assert server.stats()["side"] == "gpu_server"


def sigint_ends_the_server_like_sigterm(pair):
    server = pair.server()
    server.signal(signal.SIGINT)
    server.expect_exit(0)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def sigterm_in_the_middle_tells_the_runner(pair):
    before = segments()
    server = pair.server()
    runner = under_way(pair, server)
    pair.stop(server)
    runner.expect_exit(3)
    expect_gone(before)


def sigusr1_prints_statistics_and_the_server_goes_on(pair):
    server = pair.server()
    expect_serves(pair, server)
    before = len(server.stdout())
    server.signal(signal.SIGUSR1)
    wait_until(lambda: len(server.stdout()) > before, "statistics on stdout")
    expect_serves(pair, server)
    pair.stop(server)


def second_server_on_an_endpoint_is_refused(pair):
    first = pair.server()
    second = pair.start("gpu_server", "--synthetic", TINY, "--endpoint", first.endpoint, "--threads", 1)
    second.expect_exit(5)
    assert second.stderr().strip(), "it must say why"
    expect_serves(pair, first)
    pair.stop(first)


def endpoint_of_a_killed_server_is_taken_over(pair):
    before = segments()
    first = pair.server()
    runner = under_way(pair, first)
    first.signal(signal.SIGKILL)
    first.exit_code()
    runner.expect_exit(3)
    second = pair.server()
    expect_serves(pair, second)
    pair.stop(second)
    expect_gone(before)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def killed_server_ends_the_runner(pair, *server_args, endpoint=None, runner_args=()):
    server = pair.server(*server_args, endpoint=endpoint)
    stats = pair.path("runner.json")
    runner = under_way(pair, server, "--stats-json", stats, *runner_args)
    server.signal(signal.SIGKILL)
    runner.expect_exit(3)
    assert runner.stderr().strip(), "it must say why"
    assert os.path.exists(stats), "statistics are written after a failure too"


def killed_server_ends_the_runner_with_ring(pair):
    killed_server_ends_the_runner(pair)


def killed_server_ends_the_runner_without_ring(pair):
    killed_server_ends_the_runner(pair, "--ring", "off", runner_args=("--ring", "off"))


def killed_server_ends_the_runner_over_tcp(pair):
    killed_server_ends_the_runner(pair, endpoint="tcp://127.0.0.1:0")


def stopped_server_ends_the_runner(pair):
    server = pair.server()
    runner = under_way(pair, server, "--timeout-ms", 1000)
    server.signal(signal.SIGSTOP)
    try:
        # Far less than --op-timeout-ms, far more than --timeout-ms.
        assert runner.exit_code(60) == 3
    finally:
        server.signal(signal.SIGCONT)
    assert runner.stderr().strip(), "it must say why"
    expect_serves(pair, server)
    pair.stop(server)


def killed_runner_leaves_the_server_serving(pair):
    before = segments()
    server = pair.server()
    runner = under_way(pair, server)
    runner.signal(signal.SIGKILL)
    runner.exit_code()
    expect_serves(pair, server)
    pair.stop(server)
    expect_gone(before)


def interrupted_runner_says_goodbye(pair):
    server = pair.server("--max-clients", 1)
    runner = under_way(pair, server)
    runner.signal(signal.SIGINT)
    runner.expect_exit(3)
    wait_until(lambda: " ended: " in server.stderr(), "the server ends the session before 10 s of silence", limit_s=5)
    pair.stop(server)


def stopped_runner_loses_its_place_to_another(pair):
    server = pair.server("--max-clients", 1)
    runner = under_way(pair, server)
    runner.signal(signal.SIGSTOP)

    def served():
        return pair.runner(endpoint=server.endpoint).exit_code() == 0
    wait_until(served, "the server gives the place of a stopped runner to another")
    runner.signal(signal.SIGCONT)
    runner.expect_exit(3)
    pair.stop(server)


def one_client_too_many_is_refused(pair):
    server = pair.server("--max-clients", 1)
    first = under_way(pair, server)
    second = pair.runner()
    second.expect_exit(5)
    assert second.stderr().strip(), "it must say why"
    assert first.running(), "the first goes on"
    first.signal(signal.SIGKILL)
    first.exit_code()
    pair.stop(server)


def no_server_is_said(pair):
    runner = pair.runner("--timeout-ms", 500).expect_exit(3)
    assert runner.stderr().strip(), "it must say why"


def rings_larger_than_memory_are_refused(pair):
    """1024 slots of 64 MiB, twice, are 128 GiB: refused at start."""
    with open("/proc/meminfo", encoding="ascii") as file:
        if int(next(line for line in file if line.startswith("MemAvailable")).split()[1]) >> 20 >= 128:
            return "there is memory for 128 GiB"
    before = segments()
    server = pair.start("gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--threads", 1,
                        "--ring-slots", 1024, "--ring-slot-bytes", 64 << 20)
    server.expect_exit(5)
    assert "too little memory" in server.stderr() and "--ring-slots" in server.stderr(), server.stderr()
    expect_gone(before)
    return None


def openmp_settings_change_no_bit(pair):
    """oneDNN is asked for one thread a product: what OpenMP may give is of no account, and neither is --threads."""
    def logits(name, threads):
        path = pair.path(name)
        pair.runner("--backend", "local", "--logits-out", path, threads=threads).expect_exit(0)
        return read_bytes(path)

    want = logits("want.npy", 1)
    for number, (name, value) in enumerate((("OMP_THREAD_LIMIT", "1"), ("OMP_MAX_ACTIVE_LEVELS", "0"),
                                            ("OMP_NUM_THREADS", "7"), ("OMP_DYNAMIC", "true"))):
        pair.env[name] = value
        assert logits(f"local-{number}.npy", 2) == want, name
        server = pair.server(threads=2)
        path = pair.path(f"remote-{number}.npy")
        pair.runner("--logits-out", path, "--compare-local").expect_exit(0)
        assert read_bytes(path) == want, name
        pair.stop(server)
        del pair.env[name]


def threads_that_cannot_be_had_are_refused(pair):
    """No abort and no hang where the system gives fewer threads than --threads says: here address space lacks."""
    limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, limit[1]))
    try:
        runner = pair.runner("--backend", "local", threads=1000)
        server = pair.start("gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--threads", 1000,
                            "--device", "cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    for process in (runner, server):
        process.expect_exit(5)
        assert "compute thread" in process.stderr() and "--threads" in process.stderr(), process.stderr()


SCENARIOS = (
    sigterm_ends_the_server_and_leaves_nothing,
    sigint_ends_the_server_like_sigterm,
    sigterm_in_the_middle_tells_the_runner,
    sigusr1_prints_statistics_and_the_server_goes_on,
    second_server_on_an_endpoint_is_refused,
    endpoint_of_a_killed_server_is_taken_over,
    killed_server_ends_the_runner_with_ring,
    killed_server_ends_the_runner_without_ring,
    killed_server_ends_the_runner_over_tcp,
    stopped_server_ends_the_runner,
    killed_runner_leaves_the_server_serving,
    interrupted_runner_says_goodbye,
    stopped_runner_loses_its_place_to_another,
    one_client_too_many_is_refused,
    no_server_is_said,
    rings_larger_than_memory_are_refused,
    openmp_settings_change_no_bit,
    threads_that_cannot_be_had_are_refused,
)
