#!/usr/bin/env python3
"""airlock_pool with a real gpu_server. One scenario a run: pool_tool_test.py --bin-dir DIR SCENARIO; --list names them.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import json
import os
import random
import signal
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "tools"))
import scenarios  # noqa: E402
from pair import Pair, wait_until  # noqa: E402 (found by the line above)

BAD_FILE, USAGE, NO_SERVER, MISMATCH, NO_ROOM = 1, 2, 3, 4, 5
NO_MODEL = ("--no-model",)
MIB = 1 << 20
GONE_WITHIN_S = 2


def tool(pair, *args, endpoint=None, code=0):
    """The end of one airlock_pool."""
    return pair.start("airlock_pool", *args, "--endpoint", endpoint or pair.endpoint).expect_exit(code)


def listed(pair, code=0):
    return json.loads(tool(pair, "list", "-o", "json", code=code).stdout())


def checked(pair, *args, code=0):
    """The findings by their level, as WHAT: [text]."""
    lines = tool(pair, "check", *args, code=code).stdout().splitlines()
    found = {"ok": {}, "note": {}, "problem": {}}
    for line in lines:
        level, what, text = line.split(": ", 2)
        found[level].setdefault(what, []).append(text)
    return found


def holder(pair):
    """A client under way that has a lease of a MiB, and computes."""
    return pair.start("airlock_pool", "bench", "--endpoint", pair.endpoint, "--begin", "1M", "--end", "1M", "--rounds", 1000000,
                      "--max-seconds", 600)


def file_of(pair):
    return os.path.join(pair.run_dir, "ctl.stats")


def pool_is_listed_checked_and_measured(pair):
    server = pair.server("--pool", "64M", model=NO_MODEL)
    assert "each client has at most 1 in, 1 out, 2 scratch" in server.stderr(), server.stderr()
    seen = listed(pair)
    assert seen["state"] == "serving" and seen["pid"] == server.pid, seen
    pool = seen["pool"]
    assert (pool["bytes"], pool["slot_bytes"], pool["slots"], pool["holders"]) == (64 * MIB, 4 * MIB, 16, []), pool
    uses = {row["use"]: row for row in pool["uses"]}
    assert [uses[use]["slots"] for use in ("in", "out", "scratch", "spare")] == [4, 4, 8, 0], uses
    assert uses["scratch"]["longest_free_bytes"] == 32 * MIB and uses["in"]["fragmentation"] == 0, uses
    table = tool(pair, "list").stdout()
    assert "a pool of 64.00 MiB in 16 slots of 4 MiB" in table and "nobody has any of it" in table, table
    found = checked(pair, "--pool", "64M")
    assert not found["problem"] and {"folder", "socket", "server", "pool", "room", "memory", "session", "fp32"} <= set(found["ok"]), found
    assert "device" in found["note"] and "in place" in found["ok"]["fp32"][0], found
    assert "not 128.00 MiB" in checked(pair, "--pool", "128M", code=MISMATCH)["problem"]["pool"][0]
    assert "airlock_pool: error: 1 problem" in tool(pair, "check", "--pool", "standard", code=MISMATCH).stderr()
    rows = json.loads(tool(pair, "bench", "--end", "8M", "--rounds", 2, "-o", "json").stdout())["rows"]
    assert [row["bytes"] for row in rows] == [1024 << i for i in range(14)], rows
    paths = {row["bytes"]: row["path"] for row in rows}
    assert paths[1024] == "ring/inline" and paths[16384] == paths[4 * MIB] == "pool" and paths[8 * MIB] is None, paths
    assert rows[-1]["note"] == "skipped: needs 8.00 MiB (in), the lease has 4.00 MiB in a row", rows[-1]
    for row in rows[:-1]:
        assert row["rounds"] == 2 and row["total_us"] > 0 and row["compute_us"] > 0 and row["note"] == "", row
    table = tool(pair, "bench", "--begin", "1M", "--end", "1M", "--rounds", 1).stdout()
    assert "|    1048576 | pool        |" in table, table
    wait_until(lambda: listed(pair)["pool"]["leased_bytes"] == 0, "all leases are back")
    assert listed(pair)["pool"]["high_water_bytes"] >= 4 * MIB and listed(pair)["pool"]["refused"] == 0
    pair.stop(server)


def two_clients_hold_the_pool_and_a_kill_frees_it(pair):
    server = pair.server("--pool-slots", "2,2,0", "--pool-slot-bytes", "4M", model=NO_MODEL)
    clients = [holder(pair), holder(pair)]
    wait_until(lambda: len(listed(pair)["pool"]["holders"]) == 4, "two clients with their leases")
    pool = listed(pair)["pool"]
    held = {(row["client"], row["use"]): row for row in pool["holders"]}
    for client in clients:
        row = held[(f"airlock_pool bench pid {client.pid}", "in")]
        assert row["bytes"] == row["asked_bytes"] == MIB and row["since_s"] >= 0, row
    assert {row["offset"] for row in pool["holders"]} == {0, 4 * MIB, 8 * MIB, 12 * MIB}, pool
    assert pool["uses"][0]["free_bytes"] == 0 and pool["leased_bytes"] == 2 * MIB + 2 * 4096, pool
    found = checked(pair, code=NO_ROOM)
    assert len(found["problem"]["room"]) == 2 and "session" in found["problem"], found
    watch = pair.start("airlock_pool", "watch", "--endpoint", pair.endpoint, "--interval", 0.02, "-o", "json")
    wait_until(lambda: watch.stdout().count("\n") >= 2, "two looks")
    clients[0].signal(signal.SIGKILL)
    wait_until(lambda: len(listed(pair)["pool"]["holders"]) == 2, "the lease of the killed one is gone", GONE_WITHIN_S)
    wait_until(lambda: listed(pair)["pool"]["uses"][0]["free_bytes"] == 4 * MIB, "and its slot free", GONE_WITHIN_S)
    assert listed(pair)["pool"]["refused"] == 2, listed(pair)
    checked(pair)
    watch.signal(signal.SIGINT)
    watch.expect_exit(0)
    assert all(json.loads(line)["pid"] == server.pid for line in watch.stdout().splitlines())
    watch = pair.start("airlock_pool", "watch", "--endpoint", pair.endpoint, "--interval", 0.02)
    wait_until(lambda: watch.stdout().count("gpu_server pid") >= 2, "two looks")
    watch.signal(signal.SIGTERM)
    watch.expect_exit(0)
    # The other one says that the server ended, and prints what it has.
    watch = pair.start("airlock_pool", "watch", "--endpoint", pair.endpoint, "--interval", 0.02)
    wait_until(lambda: watch.stdout().count("gpu_server pid") >= 2, "two looks")
    pair.stop(server)
    clients[1].expect_exit(NO_SERVER)
    watch.expect_exit(0)
    assert "has ended" in watch.stderr(), watch.stderr()


def server_without_a_pool_says_so(pair):
    for args, why in ((("--pool", "off"), "--pool off"), (("--ring", "off"), "--ring off")):
        server = pair.server(*args, model=NO_MODEL)
        text = tool(pair, "list").stdout()
        assert "no pool: " in text and why in text, text
        assert listed(pair)["pool"] is None
        found = checked(pair, code=BAD_FILE)
        assert list(found["problem"]) == ["pool"] and "--pool PROFILE" in found["problem"]["pool"][0], found
        assert "fp32" in found["note"], found
        rows = json.loads(tool(pair, "bench", "--begin", "1M", "--end", "1M", "--rounds", 1, "-o", "json").stdout())["rows"]
        assert rows[0]["path"] == "zmq", rows
        pair.stop(server)
    pair.env["XDG_RUNTIME_DIR"] = pair.run_dir
    server = pair.server(endpoint="tcp://127.0.0.1:0", model=NO_MODEL)
    assert "no pool: its memory crosses over ipc" in tool(pair, "list", endpoint=server.endpoint).stdout()
    assert "problem: endpoint: " in tool(pair, "check", endpoint=server.endpoint, code=BAD_FILE).stdout()
    pair.stop(server)


def what_stands_in_the_way_is_named(pair):
    for command in (("list",), ("watch",), ("check",), ("bench", "--timeout-ms", 100)):
        tool(pair, *command, code=NO_SERVER)
    tool(pair, "bench", "--begin", "3", code=USAGE)
    server = pair.server("--pool", "4M", "--max-clients", 1, model=NO_MODEL)
    socket = os.path.join(pair.run_dir, "ctl")
    for path, mode, what in ((socket, 0o666, "socket"), (pair.run_dir, 0o755, "folder")):
        before = os.stat(path).st_mode
        os.chmod(path, mode)
        found = checked(pair, code=BAD_FILE)
        assert list(found["problem"]) == [what] and f"{mode:04o}" in found["problem"][what][0], found
        os.chmod(path, before)
    client = pair.start("airlock_pool", "bench", "--endpoint", pair.endpoint, "--begin", "64K", "--end", "64K", "--rounds", 1000000,
                        "--max-seconds", 600)
    wait_until(lambda: listed(pair)["pool"]["holders"], "a client with a lease")
    found = checked(pair, code=NO_ROOM)
    assert "--max-clients" in found["problem"]["session"][0] and "sessions" in found["note"], found
    client.signal(signal.SIGKILL)
    server.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: listed(pair)["state"] == "silent", "no sign of life")
        assert "hangs" in checked(pair, code=NO_SERVER)["problem"]["server"][0]
    finally:
        server.signal(signal.SIGCONT)
    server.signal(signal.SIGKILL)
    server.exit_code()
    assert "ended without cleaning up" in tool(pair, "list", code=NO_SERVER).stderr()
    assert "killed" in checked(pair, code=NO_SERVER)["problem"]["server"][0]


def garbage_in_the_counters_file_is_refused(pair):
    server = pair.server("--pool", "64M", model=NO_MODEL)
    path = file_of(pair)
    whole = scenarios.read_bytes(path)

    def spoil(offset, data):
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(data)
    spoil(8, struct.pack("<I", 2))
    assert "version 2" in tool(pair, "list", code=NO_SERVER).stderr()
    assert "version 2" in checked(pair, code=NO_SERVER)["problem"]["counters"][0]
    spoil(8, whole[8:12])
    spoil(1968, b"\xff" * 8)
    assert "slots" in tool(pair, "list", code=BAD_FILE).stderr()
    found = checked(pair, code=BAD_FILE)
    assert "fp32" in found["ok"] and list(found["problem"]) == ["counters"], found
    spoil(1968, whole[1968:1976])
    chance = random.Random(7)
    for _ in range(20):  # the pool, and the first of the sessions
        begin, end = chance.choice(((2048 + 32, 2048 + 176), (51328, 51328 + 256), (1968, 2016), (0, len(whole))))
        offset = chance.randrange(begin, end) // 8 * 8
        spoil(offset, chance.randbytes(8))
        process = pair.start("airlock_pool", "list", "--endpoint", pair.endpoint)
        assert process.exit_code() in (0, BAD_FILE, NO_SERVER), process.report()
        spoil(offset, whole[offset:offset + 8])
    os.truncate(path, 100)
    tool(pair, "list", code=NO_SERVER)
    server.signal(signal.SIGTERM)
    server.exit_code()
    with open(path, "wb") as file:
        file.write(chance.randbytes(100000))
    os.chmod(path, 0o600)
    tool(pair, "list", code=BAD_FILE)


SCENARIOS = (pool_is_listed_checked_and_measured, two_clients_hold_the_pool_and_a_kill_frees_it, server_without_a_pool_says_so,
             what_stands_in_the_way_is_named, garbage_in_the_counters_file_is_refused)

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Pair(args.bin_dir, work), scenarios.programs("gpu_server", "airlock_pool"))
