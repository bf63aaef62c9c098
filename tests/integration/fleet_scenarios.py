"""Replicas of `tee_runner serve`: how one says that it is ready, that it leaves and what it has lost, and three behind a balancer."""
import contextlib
import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import threading
import time

from pair import ROOT, WATCHDOG_S, read_text, wait_until
from text_scenarios import ask, endpoint, status_of, text_model
from tiny_model import overflow

NO_BALANCER = "no haproxy here (tools/install_deps --haproxy brings it)"
BALANCER = os.path.join(ROOT, "deploy", "haproxy")
# What is wanted of the time between a state and /readyz; printed, as a busy machine takes what it takes.
ASKED_MS = 100
# Within which the balancer looks, also on a busy machine.
NOTICE_S = 10


def start_endpoint(pair, model, *args):
    """`tee_runner serve` that has its address and may not answer yet."""
    serve = pair.start("tee_runner", "serve", "--endpoint", pair.endpoint, "--model", model, "--chat-template", "chatml",
                       "--listen", "127.0.0.1:0", *args)
    wait_until(lambda: "/readyz at " in serve.stderr() or not serve.running(), "that it listens")
    listens = re.search(r"/readyz at (\S+) ", serve.stderr())
    assert listens, serve.report()
    serve.url = listens.group(1)
    return serve


def free_ports():
    """Each once. Below those of the system's choice, where there are some: no other connection takes one meanwhile."""
    first = int(read_text("/proc/sys/net/ipv4/ip_local_port_range").split()[0])
    below = range(max(1024, first - 10000), first)
    for port in itertools.chain(random.sample(below, len(below)), itertools.repeat(0)):
        try:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
                port = probe.getsockname()[1]
        except OSError:
            continue
        yield port


PORTS = free_ports()


def connect(url):
    scheme, host = url.split("://")
    if scheme == "http":
        return http.client.HTTPConnection(host, timeout=WATCHDOG_S)
    return http.client.HTTPSConnection(host, timeout=WATCHDOG_S, context=ssl._create_unverified_context())


def body_of(url, path):
    """Status and text."""
    with contextlib.closing(connect(url)) as connection:
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def is_good(url, path):
    try:
        return body_of(url, path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def endpoint_waits_for_its_server_and_is_ready_then(pair):
    model = text_model(pair)
    serve = start_endpoint(pair, model, "--timeout-ms", 2000)
    assert status_of(serve, "/healthz") == 200
    wait_until(lambda: "no server" in body_of(serve.url, "/readyz")[1], "the reason")
    assert body_of(serve.url, "/readyz")[0] == 503 and ask(serve, "Airlock hides")[0] == 503
    assert serve.stdout() == "", serve.stdout()
    server = pair.server("--max-clients", 1, model=("--model", model))
    wait_until(lambda: serve.stdout().startswith("ready http://"), "ready")
    assert status_of(serve, "/readyz") == 200
    # It was tried with a token, which is no answer's.
    metrics = body_of(serve.url, "/metrics")[1]
    assert "airlock_serve_engine_generated_tokens_total 0\n" in metrics, metrics
    assert "airlock_serve_ready 1\n" in metrics and "airlock_serve_free_sequences 16\n" in metrics, metrics
    # One that has no room yet is waited for too.
    second = start_endpoint(pair, model)
    wait_until(lambda: "server full" in body_of(second.url, "/readyz")[1], "the other reason")
    pair.stop(serve)
    wait_until(lambda: second.stdout().startswith("ready http://"), "ready")
    pair.stop(second)
    pair.stop(server)
    assert re.search(r"embedding +2 ", server.stdout()), server.stdout()


def endpoint_gives_up_on_a_server_that_stays_away(pair):
    model = text_model(pair)
    stopped = start_endpoint(pair, model)
    stopped.signal(signal.SIGTERM)
    assert "while it was starting" in stopped.expect_exit(0).stderr(), stopped.stderr()
    never = start_endpoint(pair, model, "--timeout-ms", 100, "--await-server-seconds", 0.5)
    assert "no server at" in never.expect_exit(3).stderr(), never.stderr()
    server = pair.server(model=("--model", model))
    serve = endpoint(pair, model, "--await-server-seconds", 0.5)
    server.signal(signal.SIGKILL)
    serve.expect_exit(3)
    assert re.search("not back within 0.5 s: no server at", serve.stderr()), serve.stderr()
    # Who has nothing left to answer with gives no notice to the end.
    server = pair.server(model=("--model", model))
    leaves = endpoint(pair, model, "--await-server-seconds", 0.5, "--notice-seconds", 600, "--drain-seconds", 600)
    leaves.signal(signal.SIGTERM)
    wait_until(lambda: "requests are answered for" in leaves.stderr(), "the notice")
    server.signal(signal.SIGKILL)
    leaves.expect_exit(0)


def endpoint_whose_start_fails_of_itself_is_worth_another(pair):
    """Not as a bad file (exit 1), which nobody starts again with."""
    model = text_model(pair)
    overflow(model)
    serve = pair.start("tee_runner", "serve", "--privacy", "tee-only", "--model", model, "--chat-template", "chatml", "--listen",
                       "127.0.0.1:0")
    assert "activations are not finite" in serve.expect_exit(5).stderr(), serve.stderr()


def endpoint_of_a_stopped_server_is_healthy_and_not_ready(pair):
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    serve = endpoint(pair, model, "--timeout-ms", 1000)
    server.signal(signal.SIGSTOP)
    wait_until(lambda: "it hangs or was stopped" in serve.stderr(), "that the server is missed")
    assert status_of(serve, "/readyz") == 503
    assert status_of(serve, "/healthz") == 200
    server.signal(signal.SIGCONT)
    wait_until(lambda: status_of(serve, "/readyz") == 200, "that it is back")
    assert ask(serve, "Airlock hides")[0] == 200
    pair.stop(serve)


def draining_server_serves_whom_it_has(pair):
    model = text_model(pair)
    server = pair.server("--drain-seconds", 600, model=("--model", model))
    serve = endpoint(pair, model)
    server.signal(signal.SIGTERM)
    wait_until(lambda: "no new sessions" in server.stderr(), "that it drains")
    refused = pair.runner(model=("--model", model)).expect_exit(3)
    assert "refused: it is shutting down" in refused.stderr(), refused.stderr()
    assert ask(serve, "Airlock hides")[0] == 200
    # Its last session leaves, and nothing is left to wait for.
    pair.stop(serve)
    server.expect_exit(0)


def endpoint_ends_in_time_whatever_its_server_does(pair):
    """An answer under way, of a server that is stopped and would be waited for ten minutes."""
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    serve = endpoint(pair, model, "--timeout-ms", 600000, "--drain-seconds", 0.5)
    server.signal(signal.SIGSTOP)
    told = []
    client = threading.Thread(target=lambda: told.append(ask(serve, "Airlock hides")))
    client.start()
    wait_until(lambda: "airlock_serve_sequences 1\n" in body_of(serve.url, "/metrics")[1], "that it asks")
    serve.signal(signal.SIGTERM)
    serve.expect_exit(0, 60)
    client.join()
    assert told[0][0] == 503, told
    assert "longer than --drain-seconds" in serve.stderr(), serve.stderr()
    server.signal(signal.SIGCONT)


class Replica:
    """A gpu_server and the `tee_runner serve` before it, at one port however often it starts."""

    def __init__(self, pair, model, number, *args):
        self.pair, self.model, self.number, self.args = pair, model, number, args
        self.endpoint = f"ipc://{pair.run_dir}/ctl{number}"
        self.url = f"{'https' if args else 'http'}://127.0.0.1:{next(PORTS)}"
        self.server = self.serve = None

    def start(self):
        self.server = self.pair.server("--pool", "off", "--drain-seconds", 60, model=("--model", self.model),
                                       endpoint=self.endpoint)
        self.serve = self.pair.start("tee_runner", "serve", "--endpoint", self.endpoint, "--model", self.model,
                                     "--chat-template", "chatml", "--listen", self.url.split("//")[1], "--threads", 1,
                                     "--model-name", "model", "--drain-seconds", 60, "--notice-seconds", NOTICE_S, *self.args)

    def is_ready(self):
        return is_good(self.url, "/readyz")

    def ready_lag_ms(self):
        """From the line on stdout to /readyz, or the other way round."""
        at = {}
        end = time.monotonic() + WATCHDOG_S
        while len(at) < 2:
            assert time.monotonic() < end and self.serve.running(), self.serve.report()
            for what, is_there in (("line", lambda: "ready " in self.serve.stdout()), ("readyz", self.is_ready)):
                if what not in at and is_there():
                    at[what] = time.monotonic()
        return abs(at["line"] - at["readyz"]) * 1000

    def leave_lag_ms(self):
        """SIGTERM to both, as Kubernetes does: until /readyz says so."""
        asked = time.monotonic()
        self.serve.signal(signal.SIGTERM)
        self.server.signal(signal.SIGTERM)
        while self.is_ready():
            assert time.monotonic() < asked + WATCHDOG_S, self.serve.report()
        return (time.monotonic() - asked) * 1000


class Load:
    """Clients that ask all the time, half of them on connections that they keep, until one request fails them."""

    def __init__(self, url, count):
        self.url, self.ends, self.failures = url, threading.Event(), []
        self.answers = [0] * count
        self.clients = [threading.Thread(target=self.talk, args=(number,)) for number in range(count)]
        for client in self.clients:
            client.start()

    def talk(self, number):
        with contextlib.closing(connect(self.url)) as connection:
            try:
                while not self.ends.is_set() and self.ask(connection, number):
                    if number % 2 == 0:
                        connection.close()  # the next request opens it again
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((number, repr(error)))

    def begin(self, connection, asked):
        """The response that begins. A connection that was kept may end as a request is sent on it: who sees no byte of a
        response asks once more on a new one, as HTTP has it."""
        was_kept = connection.sock is not None
        for is_last in (not was_kept, True):
            try:
                connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
                return connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                connection.close()
                if is_last:
                    raise

    def ask(self, connection, number):
        """Whether it was answered."""
        asked = {"model": "model", "prompt": f"client {number} asks", "max_tokens": 12, "temperature": 0,
                 "stream": number % 4 < 2}
        reply = self.begin(connection, asked)
        text = reply.read().decode()
        is_whole = text.endswith("data: [DONE]\n\n") if asked["stream"] else "finish_reason" in text
        if reply.status != 200 or not is_whole:
            self.failures.append((number, reply.status, text))
            return False
        self.answers[number] += 1
        return True

    def end(self):
        self.ends.set()
        for client in self.clients:
            client.join()


def start_balancer(pair, file, replicas):
    scheme, address = replicas[0].url.split("//")[0], f"127.0.0.1:{next(PORTS)}"
    places = {replica.number: replica.url.split("//")[1] for replica in replicas}
    env = dict(pair.env, AIRLOCK_BIND=address,
               **{f"AIRLOCK_REPLICA{number}": places.get(number) or f"127.0.0.1:{next(PORTS)}" for number in (1, 2, 3)})
    balancer = pair.start_other([shutil.which("haproxy"), "-db", "-f", os.path.join(BALANCER, file)], env)
    balancer.url = f"{scheme}//{address}"
    wait_until(lambda: is_good(balancer.url, "/v1/models") or not balancer.running(), "that the balancer answers")
    assert balancer.running(), balancer.report()
    return balancer


def restart_one_by_one(pair, file, replicas, restarted):
    """Under load: SIGTERM, the end, a new start, and the next once the balancer has seen it."""
    for replica in replicas:
        replica.start()
    for replica in replicas:
        serve = replica.serve
        wait_until(lambda serve=serve: "ready " in serve.stdout() or not serve.running(), "ready")
        assert serve.running(), serve.report()
    balancer = start_balancer(pair, file, replicas)
    ready_ms, leave_ms = [], []
    load = Load(balancer.url, int(os.environ.get("AIRLOCK_CLIENTS", "8")))
    try:
        for replica in restarted:
            leave_ms.append(replica.leave_lag_ms())
            replica.serve.expect_exit(0)
            replica.server.expect_exit(0)
            is_up = f"Server replicas/replica{replica.number} is UP"
            seen = balancer.stderr().count(is_up)
            replica.start()
            ready_ms.append(replica.ready_lag_ms())
            wait_until(lambda is_up=is_up, seen=seen: balancer.stderr().count(is_up) > seen, "that the balancer sees it")
    finally:
        load.end()
    print(f"{sum(load.answers)} answers, {len(load.failures)} failed; /readyz was 503 {max(leave_ms):.0f} ms after SIGTERM and 200 "
          f"{max(ready_ms):.0f} ms off 'ready' at most (asked: {ASKED_MS})")
    assert not load.failures, load.failures[:5]
    assert min(load.answers) > 0, load.answers
    return balancer


def rolling_restart_behind_haproxy_loses_no_request(pair):
    """AIRLOCK_CLIENTS: so many at once."""
    if not shutil.which("haproxy"):
        return NO_BALANCER
    model = text_model(pair)
    replicas = [Replica(pair, model, number) for number in (1, 2, 3)]
    balancer = restart_one_by_one(pair, "haproxy.cfg", replicas, replicas)
    # What is for this machine alone.
    assert {body_of(balancer.url, path)[0] for path in ("/metrics", "/readyz", "/healthz")} == {404}
    return None


def haproxy_that_passes_tls_through_loses_no_request(pair):
    """Two replicas, of which one is started again; the third is never there."""
    if not shutil.which("haproxy"):
        return NO_BALANCER
    model = text_model(pair)
    replicas = [Replica(pair, model, number, "--tls-self-signed") for number in (1, 2)]
    restart_one_by_one(pair, "passthrough.cfg", replicas, replicas[:1])
    return None


SCENARIOS = (
    endpoint_waits_for_its_server_and_is_ready_then,
    endpoint_gives_up_on_a_server_that_stays_away,
    endpoint_whose_start_fails_of_itself_is_worth_another,
    endpoint_of_a_stopped_server_is_healthy_and_not_ready,
    draining_server_serves_whom_it_has,
    endpoint_ends_in_time_whatever_its_server_does,
    rolling_restart_behind_haproxy_loses_no_request,
    haproxy_that_passes_tls_through_loses_no_request,
)
