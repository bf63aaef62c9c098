#!/usr/bin/env python3
"""Death at each step of the protocol: a client (bad_client.cc) or a server (bad_server.cc) comes to that step and is then
killed or stopped. The one that is left says what happened, ends or goes on in its time, the next run works, and nothing is
left. Prints a line for each case, with the time from the death to the answer.

death.py --bin-dir DIR [--long] SCENARIO; exit codes as of the other scenarios."""
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

# The server's own times: for one that is silent in a session, and that never attaches.
SILENCE_S, ATTACH_S = 10, 5
# The runner's, by its --timeout-ms: twice, as it greets and then attaches.
TIMEOUT_MS = 1000
# What a machine that does other things may add to any of them: a watchdog.
SLACK_S = 20

# In the order of the protocol. With rings, without, or with rings and the tensors in the pool, where the step is only there.
CLIENT_STEPS = (("connected", "on"), ("greeted", "on"), ("welcomed", "on"), ("mapped", "on"), ("knocked", "on"),
                ("token-sent", "on"), ("attached", "on"), ("attached", "off"), ("published", "on"), ("published", "off"),
                ("bulk-half", "off"), ("reply-held", "on"), ("reply-held", "off"),
                ("allocated", "pool"), ("filled", "pool"), ("published", "pool"), ("reply-held", "pool"), ("freed", "pool"),
                ("goodbye", "on"))
# Of one kind a server logs ten lines at once, and then one a second.
LINES_AT_ONCE = 7
UNATTACHED = ("greeted", "welcomed", "mapped", "knocked", "token-sent")
SERVER_STEPS = (("listening", "on"), ("accepted", "on"), ("heard", "on"), ("welcomed", "on"), ("announced", "on"),
                ("announced", "off"), ("admitted", "on"), ("admitted", "off"), ("attached", "on"), ("attached", "off"),
                ("request-taken", "on"), ("request-taken", "off"), ("reply-half", "on"), ("reply-half", "off"),
                ("answered", "on"), ("answered", "off"), ("leased", "pool"), ("attached", "pool"), ("request-taken", "pool"),
                ("reply-half", "pool"), ("answered", "pool"))
ENDED = re.compile(r"session ([0-9a-f]{16}) ended: (.*)")


def rounds(peers):
    return 5 if peers.long else 1


class Ending:
    """A bad peer on its way to its step; then its death."""

    def __init__(self, process, step):
        self.process, self.step = process, step
        self.died = None
        self.epoch = None

    def poll(self):
        """Whether it has come there; remembers when."""
        if self.died is None:
            found = re.search(r"^at (\S+) ([0-9a-f]{16})$", self.process.stdout(), re.MULTILINE)
            if found:
                self.died, self.epoch = time.monotonic(), found[2]
        return self.died is not None or not self.process.running()

    def await_death(self):
        wait_until(self.poll, f"it comes to the step {self.step}")
        assert self.died is not None, f"it never came to the step {self.step}"
        return self

    def bury(self):
        if self.process.running():
            self.process.signal(signal.SIGKILL)
        self.process.exit_code()


def client_to(peers, server, step, how, ring):
    return Ending(peers.start("bad_client", server.endpoint, "end", step, how, ring), step)


def answers(server):
    """What the server said of sessions that ended: epoch -> why."""
    return dict(ENDED.findall(server.stderr()))


def client_says(step, ring, how, why, took_s):
    print(f"client {how} at {step:13} paths {ring:4} {took_s:6.2f} s  {why}", flush=True)


def clients_killed(peers):
    """One after the other at a server with one place, which the next one needs."""
    slowest = max(kill_clients(peers, CLIENT_STEPS[first:first + LINES_AT_ONCE])
                  for _ in range(rounds(peers)) for first in range(0, len(CLIENT_STEPS), LINES_AT_ONCE))
    row(f"a client killed at each of {len(CLIENT_STEPS)} steps", len(CLIENT_STEPS) * rounds(peers),
        "the server says whose session ended and why, serves on, gives all back", slowest)


def kill_clients(peers, steps):
    """The longest time to the server's word."""
    server = peers.server("--max-clients", 1)
    peers.expect_serves()
    time.sleep(0.5)
    before = holdings(server)
    slowest = 0
    for step, ring in steps:
        ending = client_to(peers, server, step, "kill", ring).await_death()
        # Before it is welcomed no session is named.
        if ending.epoch.strip("0"):
            wait_until(lambda epoch=ending.epoch: epoch in answers(server), f"{step}: the session's end is said", SLACK_S)
        took_s = time.monotonic() - ending.died
        ending.bury()
        why = answers(server).get(ending.epoch, "(no session yet)")
        assert ending.epoch not in answers(server) or "client" in why, f"{step}: whose end it was is not said: {why}"
        expect_settled(server, before)
        slowest = max(slowest, took_s)
        client_says(step, ring, "killed", why, took_s)
    peers.expect_serves()
    peers.stop(server)
    peers.expect_nothing_left()
    return slowest


def clients_stopped(peers):
    """As many at once as a server says the ends of: each has its time."""
    in_pool = [step for step in CLIENT_STEPS if step[1] == "pool"]
    others = [step for step in CLIENT_STEPS if step[1] != "pool"]
    slowest = max(stop_clients(peers, steps) for _ in range(rounds(peers)) for steps in (others, in_pool))
    row(f"a client stopped at each of {len(CLIENT_STEPS)} steps", len(CLIENT_STEPS) * rounds(peers),
        f"its session ends, after {SILENCE_S} s of silence, one that is not attached after {ATTACH_S} s; all is given back "
        "while it is still stopped", slowest)


def stop_clients(peers, steps):
    """The longest time to the end of one of the sessions."""
    # A lease for each, too.
    server = peers.server("--max-clients", 2 * len(steps), *SMALL_RINGS, "--pool-slots", "20,20,20", "--pool-slot-bytes", "1M")
    peers.expect_serves()
    time.sleep(0.5)
    before = holdings(server)
    endings = [client_to(peers, server, step, "stop", ring) for step, ring in steps]
    took = {}

    def all_said():
        for number, ending in enumerate(endings):
            if ending.poll() and number not in took and (ending.epoch or "") in answers(server):
                took[number] = time.monotonic() - ending.died
        return all(number in took for number, ending in enumerate(endings) if ending.step not in ("connected", "greeted"))

    wait_until(all_said, "the end of each stopped client's session is said", SILENCE_S + SLACK_S)
    # One that goes on finds its session over; until then it holds what it had, and the server nothing.
    expect_settled(server, before)
    said = answers(server)
    for number, (ending, (step, ring)) in enumerate(zip(endings, steps)):
        if number not in took:
            continue
        client_says(step, ring, "stopped", said[ending.epoch], took[number])
        assert "client" in said[ending.epoch], said[ending.epoch]
        if step == "goodbye":
            limit = 0
        else:
            limit = ATTACH_S if step in UNATTACHED else SILENCE_S
        assert took[number] <= limit + SLACK_S, f"{step}: said after {took[number]:.1f} s"
    peers.expect_serves()
    for ending in endings:
        ending.bury()
    peers.stop(server)
    peers.expect_nothing_left()
    return max(took.values())


def dying_server(peers, step, how, ring):
    """One runner against a server that ends there; the seconds from its death to the runner's exit, and what it said."""
    server = Ending(peers.start("bad_server", peers.endpoint, TINY, step, how, ring), step)
    wait_until(lambda: "ready" in server.process.stdout() or not server.process.running(), "the bad server listens")
    runner = peers.runner("--timeout-ms", TIMEOUT_MS, "--ring", "off" if ring == "off" else "on")
    server.await_death()
    start = time.monotonic() if step == "listening" else server.died
    code = runner.exit_code(2 * TIMEOUT_MS / 1000 + SLACK_S)
    took_s = time.monotonic() - start
    server.bury()
    said = runner.stderr().strip().splitlines()
    assert code == 3, f"{step}, {how}: the runner's exit is {code}"
    assert said and ("server" in said[-1] or "peer" in said[-1]), f"{step}, {how}: the runner does not say who: {said}"
    return took_s, re.sub(r"\s+", " ", said[-1].replace(peers.run_dir, "DIR"))


def servers_end(peers, how):
    slowest = 0
    for step, ring in SERVER_STEPS * rounds(peers):
        took_s, said = dying_server(peers, step, how, ring)
        slowest = max(slowest, took_s)
        print(f"server {how} at {step:13} paths {ring:4} {took_s:6.2f} s  {said}", flush=True)
    # The next server takes over what they left, and removes it.
    server = peers.server()
    peers.expect_serves()
    peers.stop(server)
    peers.expect_nothing_left()
    row(f"a server {'killed' if how == 'kill' else 'stopped'} at each of {len(SERVER_STEPS)} steps",
              len(SERVER_STEPS) * rounds(peers),
              f"the runner exits with 3 and says who (--timeout-ms {TIMEOUT_MS}); the next server takes over", slowest)


def servers_killed(peers):
    servers_end(peers, "kill")


def servers_stopped(peers):
    servers_end(peers, "stop")


def sessions_come_and_go(peers):
    """Each with a lease that it fills; some end without a word."""
    count = 10000 if peers.long else 150
    server = peers.server(*SMALL_RINGS, "--pool", "256M")
    peers.expect_serves()
    # The server keeps the reports of the last 1024.
    first = peers.start("bad_client", server.endpoint, "sessions", 1100 if peers.long else 20)
    assert first.exit_code(1200) == 0, first.report()
    time.sleep(0.5)
    before = holdings(server)
    client = peers.start("bad_client", server.endpoint, "sessions", count)
    assert client.exit_code(60 + count) == 0, client.report()
    said = json.loads(client.stdout())
    assert said["sessions"] == count and said["without_lease"] <= count // 10, said
    expect_settled(server, before)
    grown_kib = holdings(server)[2] - before[2]
    assert grown_kib < 4096, f"after {count} sessions the server has {grown_kib} KiB more"
    print(f"{count} sessions, {said['without_lease']} came before a lease was free; the server has {grown_kib} KiB more", flush=True)
    row("sessions with a lease that they fill, a third of them ends without a word", count,
        f"nothing is kept: descriptors, threads, {max(grown_kib, 0)} KiB more")
    peers.expect_serves()
    peers.stop(server)
    peers.expect_nothing_left()


SMALL_RINGS = ("--ring-slot-bytes", 1 << 16)
SCENARIOS = (clients_killed, clients_stopped, servers_killed, servers_stopped, sessions_come_and_go)

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Peers(args.bin_dir, work, args.long),
                   needs("bad_client", "bad_server"), flags=("long",))
