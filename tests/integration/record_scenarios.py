"""--record: what the trace says is what the counters counted, what is in the payload is what was hashed, and a run that
is killed or cannot write leaves what is whole."""
import hashlib
import json
import os
import re
import signal
import stat
import struct
import subprocess

from input_scenarios import expect_refused
from pair import TINY, read_json, wait_until
from scenarios import read_bytes

# At 64 tokens of TINY's shape [64, 128] fp32 is 32 KiB and [64, 320] is 80 KiB: 64 KiB slots make both paths busy.
SMALL_SLOTS = ("--ring-slot-bytes", 65536)
# Of TINY at 64 tokens: its logits or its MLP's products, fp32.
LARGEST_TENSOR_BYTES = 1 << 20


def read_trace(path):
    """Header and records of a trace; the last line of one that was cut off may be half of one."""
    lines = read_bytes(path).split(b"\n")
    return json.loads(lines[0]), [json.loads(line) for line in lines[1:-1]]


def read_safetensors(path, killed=False):
    """Name to (entry, bytes), by the format's definition; the entries cover the data. Where the writer was killed,
    the room of the one tensor that it was about to name may lie behind them (docs/TRACE_FORMAT.md)."""
    data = read_bytes(path)
    length = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8:8 + length])
    entries.pop("__metadata__", None)
    tensors, covered = {}, 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        assert begin == covered, f"{name} begins at {begin}, not {covered}"
        covered = end
        tensors[name] = entry, data[8 + length + begin:8 + length + end]
    rest = len(data) - 8 - length - covered
    assert rest == 0 or (killed and 0 < rest <= LARGEST_TENSOR_BYTES), f"the tensors leave {rest} bytes of the data"
    return tensors


def tensors_of(record):
    """Each tensor of an op with its name in a payload."""
    for side, short in (("inputs", "in"), ("outputs", "out")):
        for index, tensor in enumerate(record[side]):
            yield f"{record['seq']:06}.{short}.{index}", side, tensor


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def expect_counted(records, stats):
    """Tensors and bytes of each path and side, calls of each op and its times, as the runner's own counters have them."""
    sums = {(path, side): [0, 0] for path in ("ring", "pool", "zmq") for side in ("inputs", "outputs")}
    ops = {}
    for record in records:
        for _, side, tensor in tensors_of(record):
            sums[tensor["path"], side][0] += 1
            sums[tensor["path"], side][1] += tensor["bytes"]
        op = ops.setdefault(record["op"], dict.fromkeys(("total_ns", "tee_ns", "wire_ns", "queue_ns", "server_ns"), 0))
        op["calls"] = op.get("calls", 0) + 1
        for key in ("total_ns", "tee_ns", "wire_ns", "queue_ns", "server_ns"):
            op[key] += record[key]
    for (path, side), (tensors, size) in sums.items():
        counted = stats["paths"][path]["sent" if side == "inputs" else "received"]
        assert (tensors, size) == (counted["tensors"], counted["bytes"]), (path, side, tensors, size, counted)
    for name, op in ops.items():
        assert op == stats["ops"][name], (name, op, stats["ops"][name])


def record_agrees_with_the_counters(pair, server_args=(), runner_args=(), paths=("ring", "zmq"), **kwargs):
    server = pair.server(*server_args, **kwargs)
    trace, stats = pair.path("t.jsonl"), pair.path("runner.json")
    pair.runner("--record", trace, "--stats-json", stats, "--repeat", 3, *runner_args,
                endpoint=server.endpoint).expect_exit(0)
    pair.stop(server)
    header, records = read_trace(trace)
    assert mode_of(trace) == 0o600
    assert header["records"] == len(records) and header["dropped"] == 0 and header["wall_ns"] > 0, header
    assert header["tokens"] == 64 and header["runs"] == 3 and header["backend"] == "remote", header
    assert [r["seq"] for r in records] == list(range(len(records)))
    assert {r["run"] for r in records} == {0, 1, 2}
    assert {t["path"] for r in records for _, _, t in tensors_of(r)} == set(paths)
    expect_counted(records, read_json(stats))
    assert "sha256" not in read_bytes(trace).decode() and not os.path.exists(trace + ".safetensors")


def recording_over_ring_and_zmq_agrees_with_the_counters(pair):
    record_agrees_with_the_counters(pair, (*SMALL_SLOTS, "--pool", "off"))


def recording_over_ring_and_pool_agrees_with_the_counters(pair):
    record_agrees_with_the_counters(pair, SMALL_SLOTS, paths=("ring", "pool"))


def recording_without_ring_agrees_with_the_counters(pair):
    record_agrees_with_the_counters(pair, runner_args=("--ring", "off", "--attention", "tee"), paths=("zmq",))


def recording_over_tcp_agrees_with_the_counters(pair):
    record_agrees_with_the_counters(pair, paths=("zmq",), endpoint="tcp://127.0.0.1:0")


def recording_in_pieces_agrees_with_the_counters(pair):
    record_agrees_with_the_counters(pair, SMALL_SLOTS, runner_args=("--chunk", 60), paths=("ring", "pool"))


def recording_in_tiles_agrees_with_the_counters(pair):
    for attention in ("tee", "offload"):
        record_agrees_with_the_counters(pair, SMALL_SLOTS, runner_args=("--tile", 20, "--attention", attention), paths=("ring",))


def recording_without_a_model_leaves_init_out(pair):
    server = pair.server()
    trace = pair.path("t.jsonl")
    pair.runner("--record", trace, model=()).expect_exit(0)
    pair.stop(server)
    header, records = read_trace(trace)
    assert records[0]["op"] == "embedding" and header["records"] == len(records)
    assert header["model"]["name"] == "" and header["model"]["digest"], header


def recording_of_one_process_has_no_paths(pair):
    trace = pair.path("t.jsonl")
    pair.runner("--record", trace, "--backend", "local").expect_exit(0)
    header, records = read_trace(trace)
    assert header["backend"] == "local" and header["path_limit_bytes"] == 0 and header["records"] == len(records)
    assert all(t["path"] is None for r in records for _, _, t in tensors_of(r))
    assert all(r["total_ns"] >= r["server_ns"] > 0 for r in records)


def recorded_payloads_have_their_digests(pair):
    server = pair.server(*SMALL_SLOTS)
    trace, stats = pair.path("t.jsonl"), pair.path("runner.json")
    with open(trace, "w", encoding="utf-8") as file:
        file.write("x" * 10_000_000)
    pair.runner("--record", pair.path("old"), "--record-payload", "--repeat", 4, "--backend", "local").expect_exit(0)
    os.rename(pair.path("old.safetensors"), trace + ".safetensors")
    for old in (trace, trace + ".safetensors"):  # which others could read
        os.chmod(old, 0o644)
    runner = pair.runner("--record", trace, "--record-payload", "--stats-json", stats, "--repeat", 2,
                         tokens=("--tokens", "1,2,3,500")).expect_exit(0)
    pair.stop(server)
    header, records = read_trace(trace)
    assert header["digests"] is True and header["payload"] == "t.jsonl.safetensors", header
    payload = trace + ".safetensors"
    assert mode_of(trace) == mode_of(payload) == 0o600
    tensors = read_safetensors(payload)
    for record in records:
        for name, _, tensor in tensors_of(record):
            entry, data = tensors.pop(name)
            assert entry["shape"] == tensor["shape"] and len(data) == tensor["bytes"], (name, entry)
            assert hashlib.sha256(data).hexdigest() == tensor["sha256"], name
            if record["op"] == "embedding" and ".in." in name:
                assert struct.unpack("<4i", data) == (1, 2, 3, 500) and entry["dtype"] == "I32"
    assert not tensors, f"nobody's: {sorted(tensors)}"
    assert re.search(r"recording cost \d+\.\d\d s of \d+\.\d\d s: digests and payloads", runner.stderr())
    assert int(read_json(stats)["config"]["record_cost_ns"]) > 0


def recorded_digests_do_not_depend_on_the_way(pair):
    server = pair.server(*SMALL_SLOTS)
    digests = []
    for index, args in enumerate(((), ("--ring", "off"), ("--backend", "local"))):
        trace = pair.path(f"{index}.jsonl")
        runner = pair.runner("--record", trace, "--record-digest", *args).expect_exit(0)
        assert "a digest of every tensor" in runner.stderr() and "recording cost" in runner.stderr()
        digests.append([(name, t["sha256"]) for r in read_trace(trace)[1] for name, _, t in tensors_of(r)])
        assert not os.path.exists(trace + ".safetensors")
    assert digests[0] == digests[1] == digests[2]
    pair.stop(server)


def under_way(pair, trace, *args):
    """A long run of which ops are in the trace already."""
    runner = pair.runner("--record", trace, *args, "--repeat", 400)
    wait_until(lambda: not runner.running() or os.path.exists(trace) and os.path.getsize(trace) > 20000, "ops in the trace")
    assert runner.running(), "the runner ended too early"
    return runner


def expect_cut(trace):
    header, records = read_trace(trace)
    assert header["records"] is None and header["wall_ns"] is None, header
    assert len(records) > 0
    return records


def killed_server_leaves_a_trace_that_was_cut_off(pair):
    server = pair.server()
    trace = pair.path("t.jsonl")
    runner = under_way(pair, trace)
    server.signal(signal.SIGKILL)
    runner.expect_exit(3)
    records = expect_cut(trace)
    assert read_bytes(trace).endswith(b"\n"), "what was recorded is written whole"
    assert [r["seq"] for r in records] == list(range(len(records)))


def killed_runner_leaves_a_trace_and_payloads_that_can_be_read(pair):
    server = pair.server()
    trace = pair.path("t.jsonl")
    runner = under_way(pair, trace, "--record-payload")
    runner.signal(signal.SIGKILL)
    runner.exit_code()
    tensors = read_safetensors(trace + ".safetensors", killed=True)
    for record in expect_cut(trace):
        for name, _, tensor in tensors_of(record):
            assert hashlib.sha256(tensors[name][1]).hexdigest() == tensor["sha256"], name
    # As one that was killed just before it named a tensor: it is read all the same.
    with open(trace + ".safetensors", "ab") as file:
        file.write(bytes(4096))
    replay = pair.start("tee_runner", "replay", trace, "--endpoint", server.endpoint, "--verify", "digest")
    expect_refused(replay, 4, "was cut off")
    pair.stop(server)


def recording_options_are_checked(pair):
    local = ("--backend", "local")
    for flag in ("--record-digest", "--record-payload"):
        expect_refused(pair.runner(flag, *local), 2, "--record")
    expect_refused(pair.runner("--record", "", *local), 2)
    expect_refused(pair.runner("--record", pair.work, *local), 1, pair.work)
    expect_refused(pair.runner("--record", pair.path("no/such"), *local), 1, pair.path("no/such"))
    expect_refused(pair.runner("--record", pair.path(".t"), "--record-payload", *local), 2, ".t.safetensors")
    expect_refused(pair.runner("--record", pair.path("t"), "--record-payload", "--repeat", 1000000, *local), 2, "--repeat")
    expect_refused(pair.runner("--record", "/dev/full", *local), 5, "/dev/full")
    expect_refused(pair.runner("--record", "/dev/stdout", *local), 2, "that is stdout")
    weights = pair.path("model.safetensors")
    with open(weights, "w", encoding="utf-8") as file:
        file.write("somebody's weights")
    expect_refused(pair.runner("--record", pair.path("model"), "--record-payload", *local), 2, weights)
    assert read_bytes(weights) == b"somebody's weights" and not os.path.exists(pair.path("model"))
    expect_refused(pair.runner("--record", pair.path("s"), "--stats-json", pair.path("s"), *local), 2, "--stats-json")
    help_text = pair.start("tee_runner", "prefill", "--help").expect_exit(0).stdout()
    words = " ".join(help_text.split())
    assert words.count("reveals what a TEE hides") == 2, "--help must say what digests and payloads reveal"


def full_disk_during_a_recording_spares_the_run(pair):
    """The result is printed, then the error says why and the exit code is that of a full disk."""
    for flag in ((), ("--record-payload",)):
        trace = pair.path("t.jsonl" + "p" * len(flag))
        # With SIGXFSZ ignored, a write beyond the limit fails as one to a full disk does.
        limit = "65536" if not flag else "1048576"
        script = ("import os,resource,signal,sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
                  "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); os.execv(sys.argv[2], sys.argv[2:])")
        command = ["python3", "-c", script, limit, os.path.join(pair.bin_dir, "tee_runner"), "prefill", "--backend", "local",
                   "--synthetic", TINY, "--random-tokens", "64", "--seed", "1", "--threads", "1", "--repeat", "20",
                   "--record", trace, *flag, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=pair.env, timeout=120)
        assert done.returncode == 5, (done.returncode, done.stderr)
        assert json.loads(done.stdout)["tokens"] == 64, "the result is printed all the same"
        assert "File too large" in done.stderr and trace in done.stderr, done.stderr
        expect_cut(trace)
        if flag:
            read_safetensors(trace + ".safetensors")


SCENARIOS = [recording_over_ring_and_zmq_agrees_with_the_counters, recording_over_ring_and_pool_agrees_with_the_counters,
             recording_without_ring_agrees_with_the_counters,
             recording_over_tcp_agrees_with_the_counters,
    recording_in_pieces_agrees_with_the_counters,
    recording_in_tiles_agrees_with_the_counters,
             recording_without_a_model_leaves_init_out,
             recording_of_one_process_has_no_paths,
             recorded_payloads_have_their_digests,
             recorded_digests_do_not_depend_on_the_way,
             killed_server_leaves_a_trace_that_was_cut_off,
             killed_runner_leaves_a_trace_and_payloads_that_can_be_read,
             recording_options_are_checked,
             full_disk_during_a_recording_spares_the_run]
