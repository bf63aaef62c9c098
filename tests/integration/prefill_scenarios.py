"""A prefill by two processes gives the bits that one process gives, and both sides count the same."""
import glob
import json
import os
import subprocess
import sys

from pair import ROOT
from scenarios import read_bytes
from tiny_model import write_model

# At 64 tokens of TINY's shape [64, 128] fp32 is 32 KiB and [64, 320] is 80 KiB: 64 KiB slots make both paths busy.
SMALL_SLOTS = ("--ring-slot-bytes", 65536)


def logits(pair, name, *args, **kwargs):
    """The bytes of the logits file of a run that must succeed."""
    out = pair.path(name + ".npy")
    pair.runner("--logits-out", out, "--all-logits", *args, **kwargs).expect_exit(0)
    return read_bytes(out)


def expect_reconciled(pair, server, runner_stats, *options):
    stats = pair.path("server-stats.json")
    with open(stats, "w", encoding="utf-8") as file:
        json.dump(server.stats(), file)
    done = subprocess.run([sys.executable, os.path.join(ROOT, "tools", "reconcile"), *options, runner_stats, stats],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def prefill_agrees(pair, server_args=(), runner_args=(), endpoint=None, used=None, model=None):
    """One pair against --backend local: the same bits, then both sides' statistics agree and nothing is left."""
    model = {"model": model} if model else {}
    server = pair.server(*server_args, endpoint=endpoint, **model)
    stats = pair.path("runner.json")
    remote = logits(pair, "remote", "--stats-json", stats, *runner_args, endpoint=server.endpoint, **model)
    local = logits(pair, "local", "--backend", "local", **model)
    assert remote == local, "the logits of the pair differ from those of one process"
    pair.stop(server)
    expect_reconciled(pair, server, stats, *(("--used", used) if used else ()))
    assert os.listdir(pair.run_dir) == [], f"left behind: {os.listdir(pair.run_dir)}"
    return json.loads(read_bytes(stats))


def prefill_with_ring_gives_the_bits_of_one_process(pair):
    stats = prefill_agrees(pair)
    assert stats["paths"]["ring"]["sent"]["bytes"] > 0
    assert stats["paths"]["zmq"]["sent"]["messages"] == 0


def prefill_over_ring_and_zmq_gives_the_bits_of_one_process(pair):
    for server_args, runner_args in ((("--pool", "off"), ()), ((), ("--pool", "off"))):
        stats = prefill_agrees(pair, (*SMALL_SLOTS, *server_args), runner_args, used="ring,zmq")
        assert stats["paths"]["pool"]["sent"]["tensors"] == stats["paths"]["pool"]["fallbacks"] == 0, stats["paths"]["pool"]


def prefill_over_ring_and_pool_leaves_nothing_for_zmq(pair):
    for server_args in ((), ("--pool-commit", "all", "--pool", "64M"), ("--pool", "low"), ("--pool-slots", "1,1,0")):
        stats = prefill_agrees(pair, (*SMALL_SLOTS, *server_args), used="ring,pool")
        assert stats["paths"]["zmq"]["sent"]["tensors"] + stats["paths"]["zmq"]["received"]["tensors"] == 0
        assert stats["paths"]["pool"]["fallbacks"] == 0


def prefill_over_all_paths_counts_what_the_pool_had_no_room_for(pair):
    for server_args in (("--pool-slots", "1,1,0", "--pool-slot-bytes", "64K"), ("--pool-slots", "0,1,0")):
        server = pair.server(*SMALL_SLOTS, *server_args)
        stats = pair.path("runner.json")
        pair.runner("--compare-local", "--stats-json", stats, endpoint=server.endpoint).expect_exit(0)
        pair.stop(server)
        expect_reconciled(pair, server, stats, "--used", "ring,pool,zmq")
        ours, theirs = json.loads(read_bytes(stats))["paths"]["pool"], server.stats()["paths"]["pool"]
        assert ours["fallbacks"] == theirs["fallbacks"] > 0, (ours, theirs)


def path_limit_found_by_trying_is_the_same_on_both_sides(pair):
    for args, rival in (((), "pool"), (("--pool", "off"), "zmq")):
        server = pair.server("--path-limit", "auto")
        stats = pair.path("runner.json")
        runner = pair.runner("--compare-local", "--stats-json", stats, *args, endpoint=server.endpoint).expect_exit(0)
        pair.stop(server)
        expect_reconciled(pair, server, stats)
        config, session = json.loads(read_bytes(stats))["config"], server.stats()["sessions"][0]
        assert config["path_limit"] == str(session["path_limit"]) and 4096 <= session["path_limit"] <= 10485760, (config, session)
        said = f"path limit {session['path_limit']} bytes, found by trying: 4 KiB by ring "
        assert config["path_limit_trials"].startswith(said) and f", {rival} " in config["path_limit_trials"], config
        assert said in runner.stderr() and f"path limit {session['path_limit']} bytes, found by trying" in server.stderr()


def path_limit_is_not_tried_without_a_ring(pair):
    server = pair.server("--path-limit", "auto")
    stats = pair.path("runner.json")
    pair.runner("--ring", "off", "--stats-json", stats, endpoint=server.endpoint).expect_exit(0)
    assert "path_limit" not in json.loads(read_bytes(stats))["config"]
    pair.start("gpu_server", "--no-model", "--path-limit", "11M", "--endpoint", f"{pair.endpoint}2").expect_exit(2)


def small_tensors_ride_behind_headers_on_either_path(pair):
    for runner_args, path in ((("--ring", "off"), "zmq"), ((), "ring")):
        stats = prefill_agrees(pair, runner_args=("--inline-bytes", "20K", *runner_args))
        assert stats["config"]["inline_bytes"] == "20480"
        assert stats["paths"][path]["sent"]["tensors"] > 0


def prefill_without_ring_gives_the_bits_of_one_process(pair):
    # Either side may do without: the server offers its ring, the runner decides.
    for server_args, runner_args in ((("--ring", "off"), ("--ring", "off")), ((), ("--ring", "off")), (("--ring", "off"), ())):
        stats = prefill_agrees(pair, server_args=server_args, runner_args=runner_args)
        assert stats["paths"]["ring"]["sent"]["messages"] == 0
    assert stats["paths"]["zmq"]["sent"]["messages"] > 0


def prefill_over_tcp_gives_the_bits_of_one_process(pair):
    stats = prefill_agrees(pair, endpoint="tcp://127.0.0.1:0")
    assert stats["paths"]["ring"]["sent"]["messages"] == 0, "--ring auto is off for tcp"


def prefill_over_tcp_with_ring_gives_the_bits_of_one_process(pair):
    stats = prefill_agrees(pair, server_args=("--ring", "on"), runner_args=("--ring", "on"),
                           endpoint="tcp://127.0.0.1:0")
    assert stats["paths"]["ring"]["sent"]["bytes"] > 0


def prefill_of_a_model_directory_gives_the_bits_of_one_process(pair):
    prefill_agrees(pair, model=("--model", write_model(pair.path("model"))))


def prefill_of_each_committed_model_gives_the_bits_of_one_process(pair):
    configs = sorted(glob.glob(os.path.join(ROOT, "tests", "data", "models", "*", "config.json")))
    if not configs:
        return "no model in tests/data/models"
    for index, config in enumerate(configs):
        model = ("--model", os.path.dirname(config))
        server = pair.server(model=model)
        for wire in ("fp32", "bf16"):
            args = ("--wire", wire)
            tokens = ("--tokens", "1,2,3,4,5,6,7")
            remote = logits(pair, f"{index}-{wire}-remote", *args, model=model, tokens=tokens)
            local = logits(pair, f"{index}-{wire}-local", *args, "--backend", "local", model=model, tokens=tokens)
            assert remote == local, f"{config}: the logits differ with --wire {wire}"
        pair.stop(server)
    return None


def each_wire_and_attention_gives_the_bits_of_one_process(pair):
    server = pair.server(*SMALL_SLOTS)
    for wire in ("fp32", "bf16", "fp16"):
        for attention in ("offload", "tee"):
            args = ("--wire", wire, "--attention", attention)
            remote = logits(pair, f"{wire}-{attention}-remote", *args)
            local = logits(pair, f"{wire}-{attention}-local", *args, "--backend", "local")
            assert remote == local, f"the logits differ with {args}"
    pair.stop(server)


def int8_takes_about_half_the_bytes_of_bf16(pair):
    """Ids go out and logits come back in four bytes each whatever the wire is: they are left out."""
    tokens, vocab = 64, 512
    server = pair.server()
    moved = {}
    for wire in ("bf16", "int8"):
        stats = pair.path(f"{wire}.json")
        remote = pair.path(f"{wire}.npy")
        pair.runner("--wire", wire, "--attention", "tee", "--stats-json", stats, "--logits-out", remote,
                    endpoint=server.endpoint).expect_exit(0)
        local = pair.path(f"{wire}-local.npy")
        pair.runner("--wire", wire, "--attention", "tee", "--backend", "local", "--logits-out", local).expect_exit(0)
        assert read_bytes(remote) == read_bytes(local), "the logits of the pair differ from those of one process"
        paths = json.loads(read_bytes(stats))["paths"]
        sent, received = (sum(path[way]["bytes"] for path in paths.values()) for way in ("sent", "received"))
        moved[wire] = (sent - 4 * tokens, received - 4 * vocab)
    pair.stop(server)
    for bf16, int8 in zip(moved["bf16"], moved["int8"]):
        assert 0.5 * bf16 < int8 < 0.56 * bf16, moved
    done = pair.runner("--wire", "int8", "--attention", "offload", endpoint=server.endpoint).expect_exit(2)
    assert "--wire int8 has it tee" in done.stderr(), done.stderr()


def prefill_in_pieces_gives_the_bits_of_one_process(pair):
    server = pair.server(*SMALL_SLOTS)
    for attention in ("offload", "tee"):
        pieces = ("--chunk", 60, "--attention", attention)
        remote = logits(pair, "remote", *pieces, endpoint=server.endpoint)
        assert remote == logits(pair, "local", "--backend", "local", *pieces), attention
    pair.runner("--chunk", 7, "--compare-local", endpoint=server.endpoint).expect_exit(0)
    pair.stop(server)


def prefill_in_tiles_gives_the_bits_of_one_process(pair):
    server = pair.server(*SMALL_SLOTS)
    for attention in ("offload", "tee"):
        for tile in (7, 32):
            tiles = ("--tile", tile, "--attention", attention)
            remote = logits(pair, "remote", *tiles, endpoint=server.endpoint)
            assert remote == logits(pair, "local", "--backend", "local", *tiles), (attention, tile)
    pair.runner("--tile", 5, "--chunk", 40, "--compare-local", endpoint=server.endpoint).expect_exit(0)
    pair.stop(server)


def tiles_of_every_path_find_room(pair):
    # More under way than the ring, or the lease, has places for: none waits for another for ever.
    for options in (("--ring-slots", 8, "--ring-slot-bytes", "16K"), ("--ring", "off"), ("--pool", "off", "--ring-slot-bytes", "16K")):
        server = pair.server(*options)
        more = ("--ring", "off") if "off" in options and "--ring" in options else ()
        for attention in ("offload", "tee"):
            pair.runner("--tile", 50, "--attention", attention, "--compare-local", "--op-timeout-ms", 60000, *more,
                        endpoint=server.endpoint, tokens=("--random-tokens", 300)).expect_exit(0)
        pair.stop(server)


def runner_without_a_model_takes_the_servers_by_init(pair):
    server = pair.server()
    own = logits(pair, "own")
    by_init = logits(pair, "init", model=())
    assert own == by_init
    pair.stop(server)


def two_clients_at_once_get_the_right_bits(pair):
    server = pair.server(*SMALL_SLOTS)
    outs = [pair.path(f"client-{i}.npy") for i in range(2)]
    runners = [pair.runner("--repeat", 20, "--logits-out", out, "--all-logits",
                           tokens=("--random-tokens", 64, "--seed", i + 1)) for i, out in enumerate(outs)]
    for runner in runners:
        runner.expect_exit(0)
    for i, out in enumerate(outs):
        local = logits(pair, f"local-{i}", "--backend", "local", tokens=("--random-tokens", 64, "--seed", i + 1))
        assert read_bytes(out) == local, f"client {i} got other bits than one process"
    pair.stop(server)
    assert len(server.stats()["sessions"]) == 2


def compare_local_finds_the_same_bits(pair):
    server = pair.server()
    pair.runner("--compare-local").expect_exit(0)
    pair.stop(server)


def json_output_has_the_promised_fields(pair):
    runner = pair.runner("--backend", "local", "--repeat", 3, "-o", "json").expect_exit(0)
    result = json.loads(runner.stdout())
    for key in ("tokens", "runs_ns", "wall_ns", "tokens_per_s"):
        assert key in result, f"{key} is not in {sorted(result)}"
    assert len(result["runs_ns"]) == 3


def statistics_have_the_promised_fields(pair):
    server = pair.server()
    path = pair.path("runner.json")
    pair.runner("--stats-json", path).expect_exit(0)
    pair.stop(server)
    runner_stats = json.loads(read_bytes(path))
    for side, stats in (("tee_runner", runner_stats), ("gpu_server", server.stats())):
        assert stats["schema_version"] == 1 and stats["side"] == side, (side, stats["schema_version"], stats["side"])
        for name in ("ring", "pool", "zmq"):
            one = stats["paths"][name]
            for direction in ("sent", "received"):
                assert set(one[direction]) >= {"messages", "tensors", "bytes"}
            assert set(one) >= {"errors", "slot_waits", "fallbacks", "spins", "parks", "latency_ns"}, sorted(one)
        assert stats["wall_ns"] > 0 and "host" in stats and "config" in stats
    latency = runner_stats["paths"]["ring"]["latency_ns"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"], latency
    linear = runner_stats["ops"]["batch_linear"]
    assert linear["calls"] > 0
    parts = sum(linear[key] for key in ("tee_ns", "wire_ns", "queue_ns", "server_ns"))
    assert parts == linear["total_ns"], linear
    assert runner_stats["tee"]["rmsnorm"]["calls"] > 0
    assert len(server.stats()["sessions"]) == 1


SCENARIOS = (
    prefill_with_ring_gives_the_bits_of_one_process,
    prefill_over_ring_and_zmq_gives_the_bits_of_one_process,
    prefill_over_ring_and_pool_leaves_nothing_for_zmq,
    prefill_over_all_paths_counts_what_the_pool_had_no_room_for,
    path_limit_found_by_trying_is_the_same_on_both_sides,
    path_limit_is_not_tried_without_a_ring,
    small_tensors_ride_behind_headers_on_either_path,
    prefill_without_ring_gives_the_bits_of_one_process,
    prefill_over_tcp_gives_the_bits_of_one_process,
    prefill_over_tcp_with_ring_gives_the_bits_of_one_process,
    prefill_of_a_model_directory_gives_the_bits_of_one_process,
    prefill_of_each_committed_model_gives_the_bits_of_one_process,
    each_wire_and_attention_gives_the_bits_of_one_process,
    int8_takes_about_half_the_bytes_of_bf16,
    prefill_in_pieces_gives_the_bits_of_one_process,
    prefill_in_tiles_gives_the_bits_of_one_process,
    tiles_of_every_path_find_room,
    runner_without_a_model_takes_the_servers_by_init,
    two_clients_at_once_get_the_right_bits,
    compare_local_finds_the_same_bits,
    json_output_has_the_promised_fields,
    statistics_have_the_promised_fields,
)
