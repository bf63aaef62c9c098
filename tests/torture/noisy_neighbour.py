#!/usr/bin/env python3
"""Bad clients of each kind (bad_client.cc) beside a good one (steady_client.cc) that asks all the time: none of its ops
fails or gives another result, the server lives and serves new clients, and nothing is left. How much slower the good one
was is printed, and bounded in the long form. Then: fairness between sessions that all compute, and many sessions in a row.

noisy_neighbour.py --bin-dir DIR [--long] SCENARIO; exit codes as of the other scenarios."""
import json
import os
import re
import signal
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests", "integration")]
import scenarios  # noqa: E402
from pair import TINY, wait_until  # noqa: E402
from peers import Peers, expect_settled, holdings, needs, row  # noqa: E402

# One slice of a product, for which a ready op may have to wait, and what a busy machine adds.
SLICE_MS = 50
MIB = 1 << 20
# What a report of an ended session may take.
KEPT_A_SESSION = 64 << 10
# Where it is not memory that is looked at: to take that of full ones takes time.
SMALL_RINGS = ("--ring-slot-bytes", MIB)


class Victim:
    """A good client under way."""

    def __init__(self, peers, server):
        self.process = peers.start("steady_client", server.endpoint, "victim")
        wait_until(lambda: self.lines() or not self.process.running(), "the victim has a session")

    def lines(self):
        return self.process.stdout().splitlines()

    def times(self):
        """What it measured since the last call."""
        count = len(self.lines())
        self.process.signal(signal.SIGUSR1)
        wait_until(lambda: len(self.lines()) > count or not self.process.running(), "the victim's times")
        assert self.process.running(), "the victim died"
        return json.loads(self.lines()[count])

    def end(self):
        self.process.signal(signal.SIGTERM)
        self.process.expect_exit(0)


def beside(peers, kind, fault):
    """`kind` is bad_client's word for it."""
    server = peers.server()
    victim = Victim(peers, server)
    before = holdings(server)
    time.sleep(0.5)
    victim.times()  # its first ops warmed it up
    time.sleep(5 if peers.long else 1.5)
    alone = victim.times()
    bad = peers.start("bad_client", server.endpoint, "noise", kind, 10 if peers.long else 2)
    code = bad.exit_code()
    noisy = victim.times()
    assert code == 0, "the bad client could not be bad"
    trials = json.loads(bad.stdout())["trials"]
    peers.expect_serves()
    took_s = expect_settled(server, before)
    victim.end()
    peers.stop(server)
    peers.expect_nothing_left()
    ratio = noisy["p99_ms"] / alone["p99_ms"]
    print(f"{kind}: {trials} of them; the victim's p99 {alone['p99_ms']:.2f} ms alone, {noisy['p99_ms']:.2f} ms beside "
          f"({ratio:.1f} times), slowest {noisy['max_ms']:.1f} ms, {noisy['ops']} ops", flush=True)
    if peers.long:
        bound = 2 * alone["p99_ms"] + SLICE_MS
        assert noisy["p99_ms"] <= bound, f"p99 of {noisy['p99_ms']:.2f} ms, over {bound:.2f} ms"
    row(f"noisy neighbour: {fault}", trials,
              f"no op of the victim failed; p99 {alone['p99_ms']:.1f} ms alone, {noisy['p99_ms']:.1f} ms beside, "
              f"slowest {noisy['max_ms']:.0f} ms; all given back", took_s)


def noisy(kind, fault):
    def scenario(peers):
        beside(peers, kind, fault)
    scenario.__name__ = "noisy_" + kind.replace("-", "_")
    return scenario


KINDS = (
    ("huge-op", "products as large as may be, and goodbye"),
    ("runs-away", "killed in the middle of such a product"),
    ("junk", "random bytes on control connections"),
    ("hellos", "a hello and gone, as fast as can be"),
    ("half-open", "500 connections that say nothing, renewed"),
    ("signs", "a flood of signs of life in a session"),
    ("never-attaches", "12 sessions that never attach"),
    ("never-reads", "64 MiB replies that it does not read, nor control"),
    ("stops", "stopped half way through 256 MiB"),
    ("keeps-mappings", "keeps what it mapped after its goodbye"),
    ("crowds-door", "100 strangers at a session's data socket"),
)


def sessions_share_fairly(peers):
    """16 of them, each with equal ops as fast as it can."""
    count, seconds = 16, 20 if peers.long else 3
    server = peers.server("--max-clients", count, *SMALL_RINGS)
    clients = peers.start("steady_client", server.endpoint, "fair", count, seconds)
    clients.expect_exit(0)
    counts = json.loads(clients.stdout())
    peers.stop(server)
    peers.expect_nothing_left()
    mean = sum(counts) / len(counts)
    off = max(abs(each - mean) / mean for each in counts)
    print(f"ops of {count} sessions in {seconds} s: {counts}; {off:.1%} off their mean at most", flush=True)
    assert off <= (0.2 if peers.long else 0.5), f"{off:.1%} off the mean"
    row(f"{count} sessions saturate the server", sum(counts),
              f"shares at most {off:.1%} off their mean ({seconds} s)")


def sessions_in_a_row_leave_nothing(peers):
    """Descriptors and threads exactly; memory by a bound: reports of ended sessions are kept, up to 1024."""
    server = peers.server(*SMALL_RINGS)
    steady = ("steady_client", server.endpoint, "row")
    peers.start(*steady, 20).expect_exit(0)
    wait_until(lambda: server.stderr().count(" ended: ") >= 1, "sessions end")
    time.sleep(0.5)
    before = holdings(server)
    count = 1000 if peers.long else 50
    peers.start(*steady, count).expect_exit(0)
    took_s = expect_settled(server, before)
    grown = (holdings(server)[2] - before[2]) * 1024
    print(f"{count} sessions: {before[:2]} descriptors and threads as before; {grown / MIB:.1f} MiB more", flush=True)
    assert grown <= 8 * MIB + count * KEPT_A_SESSION, f"{grown / MIB:.1f} MiB more after {count} sessions"
    peers.expect_serves()
    peers.stop(server)
    peers.expect_nothing_left()
    row("sessions in a row", count, f"descriptors and threads as before, {grown / MIB:.1f} MiB more memory", took_s)


def crowds_meet_the_least_descriptors(peers):
    """As many sessions and strangers as there can be, at a server that has just the descriptors that it asks for: nobody
    who is served may miss one."""
    poor = peers.start("gpu_server", "--synthetic", TINY, "--endpoint", peers.endpoint, "--device", "cpu", "--max-clients", 4,
                       *SMALL_RINGS, within=("prlimit", "--nofile=100:100"))
    poor.expect_exit(5)
    least = int(re.search(r"ulimit -n (\d+)", poor.stderr())[1])
    server = peers.server("--max-clients", 4, *SMALL_RINGS, within=("prlimit", f"--nofile={least}:{least}"))
    victims = [Victim(peers, server) for _ in range(4)]
    before = holdings(server)
    kinds = ("half-open", "crowds-door", "never-attaches", "hellos")
    crowds = [peers.start("bad_client", server.endpoint, "noise", kind, 10 if peers.long else 3) for kind in kinds]
    for crowd in crowds:
        crowd.exit_code()  # one that finds the server full cannot be as bad as it would
    for victim in victims:
        assert victim.times()["ops"] > 0
    took_s = expect_settled(server, before)
    for victim in victims:
        victim.end()
    peers.expect_serves()
    peers.stop(server)
    peers.expect_nothing_left()
    row(f"crowds at a server with the {least} descriptors that it asks for", len(kinds), "it lives; no op of a victim failed", took_s)


SCENARIOS = (*(noisy(*kind) for kind in KINDS), crowds_meet_the_least_descriptors, sessions_share_fairly,
             sessions_in_a_row_leave_nothing)

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Peers(args.bin_dir, work, args.long),
                   needs("bad_client", "steady_client"), flags=("long",))
