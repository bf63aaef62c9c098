"""Several data sockets of a session over tcp: the bits of one process, by as many as both sides want; and ends of them."""
import json
import os
import signal

from fault_scenarios import await_work
from key_scenarios import Keyed
from pair import wait_until
from prefill_scenarios import expect_reconciled, logits
from scenarios import read_bytes

TCP = "tcp://127.0.0.1:0"
# Attention's scores are [4, 700, 700] fp32 then, 7.5 MiB: eight frames of a session with several sockets.
MANY = {"tokens": ("--random-tokens", 700, "--seed", 1)}


def agrees(pair, keys, counts):
    """One server, a runner for each count; (asked, got)."""
    local = logits(pair, "local", "--backend", "local", **MANY)
    if keys:
        keyed = Keyed(pair, "--data-sockets", 4)
        server, options = keyed.server, keyed.client()
    else:
        server, options = pair.server("--data-sockets", 4, endpoint=TCP), ()
    runs = []
    for asked, got in counts:
        stats = pair.path(f"runner-{asked}.json")
        remote = logits(pair, f"remote-{asked}", "--data-sockets", asked, "--stats-json", stats, *options,
                        endpoint=server.endpoint, **MANY)
        assert remote == local, f"{asked} data sockets: the logits differ from those of one process"
        runs.append(json.loads(read_bytes(stats)))
        assert runs[-1]["config"].get("data_sockets") == got, runs[-1]["config"]
        assert runs[-1]["paths"]["zmq"]["sent"]["bytes"] == runs[0]["paths"]["zmq"]["sent"]["bytes"] > 0
    pair.stop(server)
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def data_sockets_give_the_bits_of_one_process(pair):
    agrees(pair, False, ((1, None), (2, "2"), (4, "4"), (8, "4"), ("auto", None)))


def data_sockets_with_keys_give_the_bits_of_one_process(pair):
    agrees(pair, True, ((1, None), (2, "2"), (4, "4")))


def data_sockets_reconcile(pair):
    """With rings over tcp too: what the ring does not take is on all of them."""
    for ring in ((), ("--ring", "on")):
        server = pair.server("--data-sockets", 3, *ring, endpoint=TCP)
        stats = pair.path("runner.json")
        pair.runner("--data-sockets", 3, *ring, "--stats-json", stats, endpoint=server.endpoint, **MANY).expect_exit(0)
        pair.stop(server)
        expect_reconciled(pair, server, stats)


def data_sockets_that_cannot_be_are_refused(pair):
    for count in (0, 9, -1, "many", "1.5", ""):
        pair.runner("--data-sockets", count, endpoint=TCP).expect_exit(2)
        pair.start("gpu_server", "--no-model", "--data-sockets", count, "--endpoint", TCP).expect_exit(2)


def killed_server_of_data_sockets_ends_the_runner(pair):
    for keys in (False, True):
        server = Keyed(pair, "--data-sockets", 4) if keys else None
        options = server.client() if keys else ()
        server = server.server if keys else pair.server("--data-sockets", 4, endpoint=TCP)
        runner = pair.runner("--data-sockets", 4, *options, "--repeat", 1000000, endpoint=server.endpoint, **MANY)
        await_work(pair, server, runner)
        server.signal(signal.SIGKILL)
        runner.expect_exit(3, 30)


def killed_runner_of_data_sockets_leaves_the_server_serving(pair):
    server = pair.server("--data-sockets", 4, endpoint=TCP)

    def threads():
        return len(os.listdir(f"/proc/{server.pid}/task"))
    seen = []

    def is_stable():
        """Threads of the start may still come or go: a second of looks that see as many."""
        seen.append(threads())
        return len(seen) > 100 and set(seen[-100:]) == {seen[-1]}
    wait_until(is_stable, "the server's threads")
    before = threads()
    runner = pair.runner("--data-sockets", 4, "--repeat", 1000000, endpoint=server.endpoint, **MANY)
    wait_until(lambda: threads() == before + 4, "a worker and a thread for each further socket")
    runner.signal(signal.SIGKILL)
    wait_until(lambda: threads() == before, "their end")
    pair.runner("--data-sockets", 2, endpoint=server.endpoint, **MANY).expect_exit(0)
    pair.stop(server)


SCENARIOS = (
    data_sockets_give_the_bits_of_one_process,
    data_sockets_with_keys_give_the_bits_of_one_process,
    data_sockets_reconcile,
    data_sockets_that_cannot_be_are_refused,
    killed_server_of_data_sockets_ends_the_runner,
    killed_runner_of_data_sockets_leaves_the_server_serving,
)
