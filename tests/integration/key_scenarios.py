"""Over tcp with keys: who knows whom gets in, and nobody else."""
import os
import random
import signal
import socket

from pair import TINY, wait_until
from prefill_scenarios import prefill_agrees

MODEL = ("--synthetic", TINY)


def make_key(pair, name):
    """NAME.key and NAME.pub; the path without either."""
    path = pair.path(name)
    pair.start("airlock_keygen", path).expect_exit(0)
    return path


class Keyed:
    """A server with keys, and alice, whom it knows."""

    def __init__(self, pair, *options):
        self.server_key, self.alice, self.mallory = (make_key(pair, name) for name in ("server", "alice", "mallory"))
        self.options = ("--key", self.server_key + ".key", "--authorized-keys", self.alice + ".pub")
        self.server = pair.server(*self.options, *options, endpoint="tcp://127.0.0.1:0")

    def client(self, own=None, server=None):
        return ("--key", (own or self.alice) + ".key", "--server-key", (server or self.server_key) + ".pub")


def keys_give_the_bits_of_one_process(pair):
    alice, server = make_key(pair, "alice"), make_key(pair, "server")
    stats = prefill_agrees(pair, ("--key", server + ".key", "--authorized-keys", alice + ".pub"),
                           ("--key", alice + ".key", "--server-key", server + ".pub"), endpoint="tcp://127.0.0.1:0")
    assert stats["paths"]["zmq"]["sent"]["bytes"] > 0


def who_is_not_known_is_refused_with_4(pair):
    keyed = Keyed(pair)
    for options, said in ((keyed.client(own=keyed.mallory), "--authorized-keys wants the line ed25519"),
                          (keyed.client(server=keyed.mallory), "the server is not the one of"),
                          ((), "it lets in who shows a key")):
        runner = pair.runner(*options, endpoint=keyed.server.endpoint).expect_exit(4)
        assert said in runner.stderr(), runner.stderr()
    assert "has not the client's key" in keyed.server.stderr()
    pair.runner(*keyed.client(), endpoint=keyed.server.endpoint).expect_exit(0)
    pair.stop(keyed.server)


def a_server_without_keys_is_not_taken_for_one_with(pair):
    server = pair.server(endpoint="tcp://127.0.0.1:0")
    alice, other = make_key(pair, "alice"), make_key(pair, "server")
    runner = pair.runner("--key", alice + ".key", "--server-key", other + ".pub", "--timeout-ms", 500,
                         endpoint=server.endpoint).expect_exit(3)
    assert "without --authorized-keys" in runner.stderr(), runner.stderr()
    pair.stop(server)


def keys_that_will_not_do_are_refused(pair):
    alice = make_key(pair, "alice")
    pair.start("airlock_keygen", alice).expect_exit(5)
    pair.start("airlock_keygen").expect_exit(2)
    pair.start("airlock_keygen", pair.path("nowhere/bob")).expect_exit(1)
    tcp = "tcp://127.0.0.1:1"
    for code, options in ((2, ("--key", alice + ".key")), (2, ("--server-key", alice + ".pub")),
                          (1, ("--key", alice + ".pub", "--server-key", alice + ".pub")),
                          (1, ("--key", alice + ".key", "--server-key", alice + ".key")),
                          (1, ("--key", alice + ".key", "--server-key", pair.path("none")))):
        pair.runner(*options, endpoint=tcp).expect_exit(code)
    known = ("--key", alice + ".key", "--server-key", alice + ".pub")
    pair.runner(*known).expect_exit(2)  # ipc has no need of them
    server = ("gpu_server", *MODEL, "--device", "cpu", "--endpoint")
    pair.start(*server, pair.endpoint, "--key", alice + ".key", "--authorized-keys", alice + ".pub").expect_exit(2)
    pair.start(*server, "tcp://127.0.0.1:0", "--key", alice + ".key").expect_exit(2)
    os.chmod(alice + ".key", 0o644)
    refused = pair.runner(*known, endpoint=tcp).expect_exit(1)
    assert "chmod 600" in refused.stderr()


def no_damaged_stream_hurts_a_server_with_keys(pair):
    """A recorded greeting, damaged in a thousand ways, and plain noise: each is sent away, and who is known is served."""
    keyed = Keyed(pair)
    host, port = keyed.server.endpoint.removeprefix("tcp://").split(":")
    chance = random.Random(1)
    # A ClientHello of TLS 1.3, as Python's own library has it.
    hello = client_hello()
    for round_ in range(1000):
        bytes_ = bytearray(hello)
        for _ in range(chance.randint(1, 4)):
            bytes_[chance.randrange(len(bytes_))] ^= 1 << chance.randrange(8)
        if round_ % 5 == 0:
            bytes_ = bytes_[:chance.randrange(len(bytes_))]
        if round_ % 7 == 0:
            bytes_ = chance.randbytes(chance.randint(1, 400))
        with socket.create_connection((host, int(port)), timeout=30) as stranger:
            stranger.sendall(bytes_)
            if round_ % 50 == 0:
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):
                    pass
    pair.runner(*keyed.client(), endpoint=keyed.server.endpoint).expect_exit(0)
    pair.stop(keyed.server)


def client_hello():
    import ssl
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    tls = context.wrap_bio(incoming, outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake without a peer")


def killed_server_with_keys_ends_the_runner(pair):
    keyed = Keyed(pair)
    runner = pair.runner(*keyed.client(), "--repeat", 1000000, endpoint=keyed.server.endpoint)
    wait_until(lambda: ", privacy plain" in keyed.server.stderr(), "a session")
    keyed.server.signal(signal.SIGKILL)
    runner.expect_exit(3, 30)


def a_dealer_has_a_key_of_its_own(pair):
    keyed = Keyed(pair)
    dealer_key = make_key(pair, "dealer")
    dealer = pair.server("--key", dealer_key + ".key", "--authorized-keys", keyed.alice + ".pub", endpoint="tcp://127.0.0.1:0")
    asked = (*keyed.client(), "--privacy", "otp-dealer", "--dealer-endpoint", dealer.endpoint)
    pair.runner(*asked, "--dealer-key", dealer_key + ".pub", endpoint=keyed.server.endpoint).expect_exit(0)
    for code, key in ((4, keyed.mallory), (2, keyed.server_key)):
        refused = pair.runner(*asked, "--dealer-key", key + ".pub", endpoint=keyed.server.endpoint).expect_exit(code)
        assert "dealer" in refused.stderr(), refused.stderr()
    for server in (dealer, keyed.server):
        pair.stop(server)


def the_other_clients_show_keys_too(pair):
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir  # without the server's file airlock_stat asks
    keyed = Keyed(pair)
    port = keyed.server.endpoint.rpartition(":")[2]
    os.unlink(os.path.join(pair.run_dir, "airlock", f"tcp-{port}.stats"))
    for program in (("airlock_pool", "bench", "--begin", "4K", "--end", "4K", "--rounds", 2), ("airlock_stat",)):
        def asked(*options, endpoint=keyed.server.endpoint, program=program):
            return pair.start(*program, "--endpoint", endpoint, *options)
        asked(*keyed.client()).expect_exit(0)
        for options, said in ((keyed.client(own=keyed.mallory), "--authorized-keys wants the line ed25519"),
                              (keyed.client(server=keyed.mallory), "the server is not the one of"),
                              ((), "it lets in who shows a key")):
            refused = asked(*options).expect_exit(4)
            assert said in refused.stderr(), refused.stderr()
        asked("--key", keyed.alice + ".key").expect_exit(2)
        asked(*keyed.client(), endpoint=pair.endpoint).expect_exit(2)
        asked("--key", keyed.alice + ".pub", "--server-key", keyed.server_key + ".pub").expect_exit(1)
    pair.stop(keyed.server)


def a_network_without_keys_is_warned_of(pair):
    """192.0.2.1 is nobody's (RFC 5737): nothing is reached, and what is said comes before."""
    alice = make_key(pair, "alice")
    known = ("--key", alice + ".key", "--server-key", alice + ".pub")
    for options, endpoint, count in (((), "tcp://192.0.2.1:9", 1), (known, "tcp://192.0.2.1:9", 0), ((), "tcp://127.0.0.1:9", 0)):
        runner = pair.runner(*options, "--timeout-ms", 100, endpoint=endpoint).expect_exit(3)
        assert runner.stderr().count("is encrypted or authenticated") == count, runner.stderr()


SCENARIOS = (
    keys_give_the_bits_of_one_process,
    who_is_not_known_is_refused_with_4,
    a_server_without_keys_is_not_taken_for_one_with,
    keys_that_will_not_do_are_refused,
    no_damaged_stream_hurts_a_server_with_keys,
    killed_server_with_keys_ends_the_runner,
    a_dealer_has_a_key_of_its_own,
    the_other_clients_show_keys_too,
    a_network_without_keys_is_warned_of,
)
