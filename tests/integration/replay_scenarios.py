"""tee_runner replay: a trace is played as it was recorded, and whatever goes wrong is said with what there is of a result."""
import json
import os
import signal

from fault_scenarios import expect_gone
from input_scenarios import expect_refused
from pair import TINY, read_json, wait_until
from scenarios import read_bytes, segments

OPS = ("embedding", "batch_linear", "matmul", "lm_head")


def record(pair, server, *args, name="t.jsonl"):
    """The trace of one prefill of 64 tokens."""
    path = pair.path(name)
    pair.runner("--record", path, *args, endpoint=server.endpoint).expect_exit(0)
    return path


def start_replay(pair, trace, *args, endpoint=None):
    return pair.start("tee_runner", "replay", trace, "--endpoint", endpoint or pair.endpoint, *args)


def replay(pair, trace, *args, endpoint=None):
    """Its result; it must succeed."""
    return json.loads(start_replay(pair, trace, "-o", "json", *args, endpoint=endpoint).expect_exit(0).stdout())


def header_of(trace):
    with open(trace, encoding="utf-8") as file:
        return json.loads(file.readline())


def write_header(trace, header):
    """Puts another header into a trace."""
    lines = read_bytes(trace).split(b"\n")
    lines[0] = json.dumps(header).encode()
    with open(trace, "wb") as file:
        file.write(b"\n".join(lines))


def expect_paths_of(result, stats):
    """What the result says was replayed is what the server counted, seen from the other side."""
    for path in ("ring", "pool", "zmq"):
        flow, counted = result["paths"][path]["replayed"], stats["paths"][path]
        assert flow["sent"] == counted["received"], (path, flow, counted)
        assert flow["received"] == counted["sent"], (path, flow, counted)


def expect_reconciles(pair, server_args=(), replay_args=(), clients=1, repeat=1, inflight=1, **kwargs):
    """A replay against a server of its own: its sums are that server's counters. Gives the result."""
    first = pair.server(**kwargs)
    trace = record(pair, first)
    pair.stop(first)
    server = pair.server(*server_args, **kwargs)
    stats_path = pair.path("replay.json")
    result = replay(pair, trace, "--clients", clients, "--repeat", repeat, "--inflight", inflight,
                    "--stats-json", stats_path, *replay_args, endpoint=server.endpoint)
    pair.stop(server)
    stats, own = server.stats(), read_json(stats_path)
    expect_paths_of(result, stats)
    calls = 0
    for op in OPS:
        calls += result["ops"][op]["calls"]
        assert result["ops"][op]["calls"] == stats["ops"][op]["calls"] == own["ops"][op]["calls"], op
        replayed = result["ops"][op]["replayed"]
        for part in ("total_ns", "tee_ns", "wire_ns", "queue_ns", "server_ns"):
            assert replayed[part] == own["ops"][op][part], (op, part)
    records = header_of(trace)["records"]
    assert calls == result["op_count"] == records * clients * repeat, (calls, records)
    assert len(stats["sessions"]) == clients, stats["sessions"]
    assert result["complete"] and result["same_paths"] == (not replay_args and not server_args), result
    recorded, replayed = ({key: sum(flows[path][side][way][key] for path in flows for way in ("sent", "received"))
                           for key in ("messages", "tensors", "bytes")}
                          for flows in (result["paths"],) for side in ("recorded", "replayed"))
    assert recorded == replayed, (recorded, replayed)
    return result


def replay_goes_by_the_ring(pair):
    result = expect_reconciles(pair)
    assert result["paths"]["zmq"]["replayed"]["sent"]["messages"] == 0, result["paths"]
    assert result["paths"]["ring"]["recorded"] == result["paths"]["ring"]["replayed"], result["paths"]


def replay_goes_by_zmq_where_there_is_no_ring(pair):
    result = expect_reconciles(pair, replay_args=("--ring", "off"))
    assert result["paths"]["ring"]["replayed"]["sent"]["messages"] == 0, result["paths"]


def replay_goes_over_tcp(pair):
    expect_reconciles(pair, endpoint="tcp://127.0.0.1:0")


def replay_takes_other_paths_where_slots_are_smaller(pair):
    for other, server_args in (("pool", ()), ("zmq", ("--pool", "off"))):
        result = expect_reconciles(pair, server_args=("--ring-slot-bytes", 32768, *server_args))
        for path in ("ring", other):
            assert result["paths"][path]["replayed"]["sent"]["bytes"] > 0, result["paths"]


def replay_of_three_clients_with_ops_in_flight_reconciles(pair):
    result = expect_reconciles(pair, inflight=4, clients=3, repeat=5)
    assert [client["error"] for client in result["clients"]] == [None] * 3, result["clients"]


def replay_fills_a_small_ring_with_many_ops_in_flight(pair):
    """64 requests and replies under way where the ring has 8 slots: nobody waits for the other for ever."""
    server = pair.server()
    trace = record(pair, server)
    for args in ((), ("--ring", "off")):
        result = replay(pair, trace, "--inflight", 64, "--repeat", 20, *args)
        assert result["op_count"] == 20 * header_of(trace)["records"], result["op_count"]
    pair.stop(server)


def replay_verifies_what_was_recorded(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    for verify in ("digest", "tolerance"):
        for args in ((), ("--clients", 2, "--inflight", 3), ("--ring", "off")):
            result = replay(pair, trace, "--verify", verify, *args)
            assert result["verify"]["tensors"] > result["op_count"], result["verify"]
            assert result["verify"]["differing"] == 0 and result["config"]["inputs"] == "payload", result
    # A server without the trace's name for its model, but with the same one.
    header = header_of(trace)
    header["model"]["digest"] = ""
    write_header(trace, header)
    replay(pair, trace, "--verify", "digest")
    pair.stop(server)


def replay_finds_a_changed_input(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    pair.stop(server)
    payload = trace + ".safetensors"
    data = bytearray(read_bytes(payload))
    start = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:start])
    begin, end = entries["000007.in.0"]["data_offsets"]
    data[start + begin:start + end] = bytes(end - begin)
    with open(payload, "wb") as file:
        file.write(data)
    server = pair.server()
    # The digests tell that it is the payload that is not as it was; values alone do not.
    process = start_replay(pair, trace, "--verify", "digest", "--inflight", 3, "-o", "json")
    expect_refused(process, 1, payload, "000007.in.0")
    result = json.loads(process.stdout())
    assert not result["complete"] and result["op_count"] == 7, result
    process = start_replay(pair, trace, "--verify", "tolerance", "-o", "json")
    expect_refused(process, 4, "op 7 (", "output 0")
    result = json.loads(process.stdout())
    assert result["complete"] and result["op_count"] == header_of(trace)["records"], result
    assert 0 < result["verify"]["differing"] < result["verify"]["tensors"], result["verify"]
    pair.stop(server)


def replay_verifies_no_part_as_the_whole(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    data, header = read_bytes(trace), header_of(trace)
    records = header["records"]
    part = pair.path("part.jsonl")
    for size, words in ((data.index(b"\n") + 1, ("nothing was verified",)),
                        (len(data) - 20, ("only part", f"{records - 1} of {records} ops"))):
        with open(part, "wb") as file:
            file.write(data[:size])
        expect_refused(start_replay(pair, part, "--verify", "digest", "--clients", 2, "--repeat", 3), 4, *words)
    write_header(trace, {**header, "dropped": 5})
    expect_refused(start_replay(pair, trace, "--verify", "tolerance"), 4, f"{records} of {records + 5} ops")
    replay(pair, trace)
    pair.stop(server)


def replay_does_not_write_its_statistics_over_the_trace(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    payload = trace + ".safetensors"
    data, tensors = read_bytes(trace), read_bytes(payload)
    link = pair.path("link.json")
    os.symlink(trace, link)
    for stats in (trace, link, payload):
        expect_refused(start_replay(pair, trace, "--stats-json", stats), 2, "--stats-json")
        assert read_bytes(trace) == data and read_bytes(payload) == tensors
    pair.stop(server)


def replay_tells_its_session_where_it_had_one_alone(pair):
    server = pair.server()
    trace = record(pair, server)
    stats = pair.path("stats.json")
    replay(pair, trace, "--stats-json", stats)
    epoch = read_json(stats)["config"]["epoch"]
    replay(pair, trace, "--clients", 2, "--stats-json", stats)
    assert "epoch" not in read_json(stats)["config"]
    pair.stop(server)
    assert epoch in [session["id"] for session in server.stats()["sessions"]]


def replay_notices_in_an_idle_gap_that_the_server_is_killed(pair):
    server = pair.server()
    trace = record(pair, server)
    lines = read_bytes(trace).splitlines()
    records = [json.loads(line) for line in lines[1:]]
    for op in records[3:]:
        op["start_ns"] += 3600_000_000_000
    with open(trace, "wb") as file:
        file.write(b"\n".join([lines[0]] + [json.dumps(op).encode() for op in records]) + b"\n")
    stats = pair.path("replay.json")
    process = start_replay(pair, trace, "--speed", "recorded", "--stats-json", stats, "-o", "json")
    wait_until(lambda: server.stderr().count(": tee_runner pid ") >= 2 or not process.running(), "it has a session")

    def ops_are_counted():
        process.signal(signal.SIGUSR1)
        return os.path.exists(stats) and sum(op["calls"] for op in read_json(stats)["ops"].values()) == 3
    wait_until(lambda: not process.running() or ops_are_counted(), "the gap began")
    server.signal(signal.SIGKILL)
    expect_refused(process, 3, "op 3 (")
    result = json.loads(process.stdout())
    assert not result["complete"] and result["op_count"] == 3, result


def replay_refuses_to_verify_without_a_payload(pair):
    server = pair.server()
    trace = record(pair, server, "--record-digest")
    for verify in ("digest", "tolerance"):
        process = start_replay(pair, trace, "--verify", verify)
        expect_refused(process, 2, "--record-payload")
        assert process.stdout() == "", process.stdout()
    pair.stop(server)


def replay_does_without_a_payload_that_is_gone(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    os.remove(trace + ".safetensors")
    result = replay(pair, trace)
    assert result["config"]["inputs"] == "seed", result["config"]
    expect_refused(start_replay(pair, trace, "--verify", "digest"), 1, "safetensors")
    pair.stop(server)


def replay_refuses_a_bad_payload(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    payload = trace + ".safetensors"
    data = read_bytes(payload)
    for bad in (b"", data[:7], data[:len(data) // 2], b"\xff" * 64, data.replace(b"000003.in.0", b"000003.in.9")):
        with open(payload, "wb") as file:
            file.write(bad)
        expect_refused(start_replay(pair, trace), 1, payload)
    pair.stop(server)


def replay_plays_a_trace_that_was_cut_off(pair):
    server = pair.server()
    whole = record(pair, server)
    data = read_bytes(whole)
    cut = pair.path("cut.jsonl")
    for size, ops in ((len(data) - 20, header_of(whole)["records"] - 1), (data.index(b"\n") + 1, 0)):
        with open(cut, "wb") as file:
            file.write(data[:size])
        process = start_replay(pair, cut, "-o", "json").expect_exit(0)
        result = json.loads(process.stdout())
        assert result["op_count"] == ops and "cut off" in result["trace"]["cut"], result
        assert "cut off" in process.stderr(), process.stderr()
    pair.stop(server)


def replay_of_a_bad_trace_is_refused(pair):
    server = pair.server()
    whole = record(pair, server)
    lines = read_bytes(whole).split(b"\n")
    header = header_of(whole)
    bad = {
        "empty": b"",
        "garbage": b"\x00\xff" * 100,
        "no header": b"\n".join(lines[1:]),
        "another version": b"\n".join([json.dumps({**header, "airlock_trace": 9}).encode()] + lines[1:]),
        "a way out": b"\n".join([json.dumps({**header, "payload": "../secret"}).encode()] + lines[1:]),
        "bad line": b"\n".join(lines[:5] + [b'{"seq":4}'] + lines[6:]),
        "long line": b"\n".join(lines[:5] + [b" " * 70000] + lines[6:]),
    }
    said = {"another version": ("9",), "a way out": ("payload",), "bad line": (":6:",), "long line": (":6:",)}
    for what, data in bad.items():
        path = pair.path(f"{what.replace(' ', '-')}.jsonl")
        with open(path, "wb") as file:
            file.write(data)
        expect_refused(start_replay(pair, path), 1, path, *said.get(what, ()))
    expect_refused(start_replay(pair, "/nonexistent/t.jsonl"), 1, "/nonexistent/t.jsonl")
    expect_refused(start_replay(pair, pair.work), 1, pair.work)
    pair.stop(server)


def replay_against_another_model_is_refused(pair):
    server = pair.server()
    trace = record(pair, server, "--record-payload")
    pair.stop(server)
    other = pair.path("other.json")
    with open(other, "w", encoding="utf-8") as file:
        json.dump({**read_json(TINY), "num_hidden_layers": 2}, file)
    server = pair.server(model=("--synthetic", other))
    expect_refused(start_replay(pair, trace), 4, "layers 2", "layers 3")
    pair.stop(server)
    # The same shape with other weights: times can be compared, outputs cannot.
    server = pair.server(model=("--synthetic", TINY, "--weights-seed", 2))
    process = start_replay(pair, trace, "-o", "json").expect_exit(0)
    assert "digest" in process.stderr(), process.stderr()
    expect_refused(start_replay(pair, trace, "--verify", "tolerance"), 4, "digest")
    pair.stop(server)


def replay_of_one_client_too_many_is_refused(pair):
    server = pair.server("--max-clients", 2)
    trace = record(pair, server)
    stats = pair.path("stats.json")
    process = start_replay(pair, trace, "--clients", 3, "--stats-json", stats)
    expect_refused(process, 5, "client 3 of 3")
    assert read_json(stats)["side"] == "tee_runner"
    # Those that had a place gave it back at once.
    wait_until(lambda: start_replay(pair, trace, "--clients", 2).exit_code() == 0, "both places are free again")
    pair.stop(server)


def replay_without_a_server_is_refused(pair):
    server = pair.server()
    trace = record(pair, server)
    pair.stop(server)
    expect_refused(start_replay(pair, trace, "--timeout-ms", 500), 3, "no server")


def expect_partial(process, trace, clients):
    """Exit 3 with the result of what was replayed, and each client's failure."""
    process.expect_exit(3)
    result = json.loads(process.stdout())
    assert not result["complete"], result
    assert len(result["clients"]) == clients, result["clients"]
    assert result["op_count"] == sum(client["ops"] for client in result["clients"]) > 0, result
    assert result["op_count"] == sum(op["calls"] for op in result["ops"].values()), result
    assert result["op_count"] < 1000000 * header_of(trace)["records"], result["op_count"]
    return result


def under_way(pair, server, *args):
    """A replay that would take hours, in the middle."""
    trace = record(pair, server)
    stats = pair.path("replay.json")
    process = start_replay(pair, trace, "--repeat", 1000000, "--clients", 2, "--inflight", 3, "-o", "json",
                           "--stats-json", stats, *args, endpoint=server.endpoint)
    wait_until(lambda: server.stderr().count(": tee_runner pid ") >= 3 or not process.running(), "both have a session")

    def ops_are_counted():
        process.signal(signal.SIGUSR1)
        return os.path.exists(stats) and read_json(stats)["ops"]["lm_head"]["calls"] > 10
    wait_until(lambda: not process.running() or ops_are_counted(), "ops are replayed")
    assert process.running(), "the replay ended too early"
    return trace, process, stats


def expect_failures_named(process, result):
    for index, client in enumerate(result["clients"], 1):
        assert client["error"], result["clients"]
        assert f"client {index} of 2" in process.stderr(), process.stderr()


def replay_ends_with_a_partial_result_where_the_server_is_killed(pair):
    before = segments()
    server = pair.server()
    trace, process, stats = under_way(pair, server)
    server.signal(signal.SIGKILL)
    result = expect_partial(process, trace, 2)
    expect_failures_named(process, result)
    for op, counted in read_json(stats)["ops"].items():
        assert result["ops"].get(op, {"calls": 0})["calls"] <= counted["calls"], (op, counted)
    expect_gone(before)


def replay_ends_with_a_partial_result_over_tcp_too(pair):
    server = pair.server(endpoint="tcp://127.0.0.1:0")
    trace, process, _ = under_way(pair, server)
    server.signal(signal.SIGKILL)
    expect_failures_named(process, expect_partial(process, trace, 2))


def replay_ends_with_a_partial_result_where_the_server_is_stopped(pair):
    server = pair.server()
    trace, process, _ = under_way(pair, server, "--timeout-ms", 3000)
    server.signal(signal.SIGSTOP)
    try:
        expect_failures_named(process, expect_partial(process, trace, 2))
    finally:
        server.signal(signal.SIGCONT)
    assert "--timeout-ms" in process.stderr(), process.stderr()
    pair.stop(server)


def replay_that_is_interrupted_prints_what_there_is(pair):
    server = pair.server("--max-clients", 2)
    trace, process, stats = under_way(pair, server)
    process.signal(signal.SIGINT)
    result = expect_partial(process, trace, 2)
    assert [client["error"] for client in result["clients"]] == [None, None], result["clients"]
    assert read_json(stats)["side"] == "tee_runner"
    # Goodbye was said: both places are free before 10 s of silence.
    wait_until(lambda: server.stderr().count(" ended: ") >= 3, "the server ends both sessions", limit_s=5)
    pair.stop(server)


def replay_keeps_the_recorded_times(pair):
    server = pair.server()
    trace = record(pair, server)
    lines = read_bytes(trace).splitlines()
    records = [json.loads(line) for line in lines[1:]]
    for index, op in enumerate(records):
        op["start_ns"] = 20_000_000 * index
    with open(trace, "wb") as file:
        file.write(b"\n".join([lines[0]] + [json.dumps(op).encode() for op in records]) + b"\n")
    result = replay(pair, trace, "--speed", "recorded")
    assert result["wall_ns"] >= 20_000_000 * (len(records) - 1), result["wall_ns"]
    assert result["time"]["replayed"]["idle_ns"] > 0, result["time"]
    assert replay(pair, trace)["time"]["replayed"]["idle_ns"] == 0
    header = header_of(trace)
    write_header(trace, {**header, "source": "synthesised"})
    process = start_replay(pair, trace, "--speed", "recorded", "--clients", 2, "-o", "json").expect_exit(0)
    assert process.stderr().count("synthesised") == 1, process.stderr()
    assert json.loads(process.stdout())["time"]["replayed"]["idle_ns"] == 0
    pair.stop(server)


def md_tables(text):
    """Rows of all tables, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def replay_prints_the_same_numbers_in_each_form(pair):
    """What no clock decides is the same in three replays: calls, recorded times, messages, tensors, bytes."""
    server = pair.server()
    trace = record(pair, server)
    md, csv, text = (start_replay(pair, trace, "-o", form).expect_exit(0).stdout() for form in ("md", "csv", "json"))
    pair.stop(server)
    result, rows = json.loads(text), md_tables(md)
    cells = {tuple(line.split(",")[:3]): line.split(",")[3:] for line in csv.splitlines()}
    assert cells["kind", "name", "field"] == ["recorded", "replayed"], csv
    for op in OPS:
        calls, recorded = result["ops"][op]["calls"], result["ops"][op]["recorded"]
        assert rows[op][:2] == [str(calls), f"{recorded['total_ns'] / 1e6:.3f}"], (op, rows[op], recorded)
        assert cells["op", op, "calls"] == [str(calls)] * 2, op
        for part, ns in recorded.items():
            assert cells["op", op, part][0] == str(ns), (op, part)
    for path, flow in result["paths"].items():
        for way in ("sent", "received"):
            both = [(flow["recorded"][way][what], flow["replayed"][way][what]) for what in ("messages", "tensors", "bytes")]
            assert rows[f"{path} {way}"] == [str(n) for pair_of in both for n in pair_of], (path, way, both)
            for what, numbers in zip(("messages", "tensors", "bytes"), both):
                assert cells["path", path, f"{way}_{what}"] == [str(n) for n in numbers], (path, way, what)
    recorded = result["time"]["recorded"]
    for index, part in enumerate(("tee", "wire", "queue", "server", "idle")):
        assert cells["time", part, "ns"][0] == str(recorded[part + "_ns"]), part
        assert rows["recorded"][index] == f"{100 * recorded['share'][part]:.1f} %", (part, rows["recorded"])
    assert rows["recorded"][5] == f"{recorded['wall_ns'] / 1e6:.3f}", rows["recorded"]
    assert cells["total", "replay", "bytes"][1] == str(result["bytes"]) and cells["total", "replay", "ops"][1] == str(
        result["op_count"])


def replay_of_a_long_trace_stays_in_bounded_memory(pair):
    """200000 ops of one token, read as they are replayed: each client holds a few of them."""
    server = pair.server()
    short = pair.path("short.jsonl")
    pair.runner("--record", short, tokens=("--tokens", "1")).expect_exit(0)
    lines = read_bytes(short).splitlines()
    long = pair.path("long.jsonl")
    count = 200000
    header = json.loads(lines[0])
    with open(long, "wb") as file:
        file.write(json.dumps({**header, "records": count, "wall_ns": None}).encode() + b"\n")
        body = [json.loads(line) for line in lines[1:]]
        for seq in range(count):
            op = body[seq % len(body)]
            op["seq"] = seq
            file.write(json.dumps(op).encode() + b"\n")
    process = start_replay(pair, long, "--inflight", 8)
    peak = 0
    while process.running():
        try:
            with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
                peak = max([peak] + [int(line.split()[1]) for line in file if line.startswith("RssAnon")])
        except (FileNotFoundError, ProcessLookupError):
            break
    process.expect_exit(0)
    assert f"| {count} |" in process.stdout(), process.stdout()
    assert peak < 64 << 10, f"{peak} KiB of its own memory; the trace has {os.path.getsize(long)} bytes"
    pair.stop(server)


SCENARIOS = (
    replay_goes_by_the_ring,
    replay_goes_by_zmq_where_there_is_no_ring,
    replay_goes_over_tcp,
    replay_takes_other_paths_where_slots_are_smaller,
    replay_of_three_clients_with_ops_in_flight_reconciles,
    replay_fills_a_small_ring_with_many_ops_in_flight,
    replay_verifies_what_was_recorded,
    replay_finds_a_changed_input,
    replay_verifies_no_part_as_the_whole,
    replay_does_not_write_its_statistics_over_the_trace,
    replay_tells_its_session_where_it_had_one_alone,
    replay_notices_in_an_idle_gap_that_the_server_is_killed,
    replay_refuses_to_verify_without_a_payload,
    replay_does_without_a_payload_that_is_gone,
    replay_refuses_a_bad_payload,
    replay_plays_a_trace_that_was_cut_off,
    replay_of_a_bad_trace_is_refused,
    replay_against_another_model_is_refused,
    replay_of_one_client_too_many_is_refused,
    replay_without_a_server_is_refused,
    replay_ends_with_a_partial_result_where_the_server_is_killed,
    replay_ends_with_a_partial_result_over_tcp_too,
    replay_ends_with_a_partial_result_where_the_server_is_stopped,
    replay_that_is_interrupted_prints_what_there_is,
    replay_keeps_the_recorded_times,
    replay_prints_the_same_numbers_in_each_form,
    replay_of_a_long_trace_stays_in_bounded_memory,
)
