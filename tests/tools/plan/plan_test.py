#!/usr/bin/env python3
"""tools/plan and tools/plan hosts. One scenario a run: plan_test.py --bin-dir DIR SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import functools
import json
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
import llama_bytes as llama  # noqa: E402 (found by the line above)
from one_scenario import Skip, main  # noqa: E402
from pair import CONFIGS, TINY, open_pair, read_json, read_text  # noqa: E402

LIMIT_S = 120
# Heads of 40 channels, which the TEE's cache pads to 64.
ODD = {"hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 6,
       "num_key_value_heads": 3, "head_dim": 40, "vocab_size": 300, "torch_dtype": "float32", "model_type": "llama"}


def plan(*args, code=0):
    """stdout of tools/plan."""
    ended = subprocess.run([os.path.join(ROOT, "tools", "plan"), *map(str, args)], capture_output=True, text=True,
                           timeout=LIMIT_S, check=False)
    assert ended.returncode == code, f"plan {args}: exit {ended.returncode}, expected {code}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def hosts(*args):
    """The models of tools/plan hosts."""
    return json.loads(plan("hosts", *args, "-o", "json"))["models"]


def sums(passes):
    """Bytes there and back, and calls by op, of passes as the JSON has them."""
    sent, received = (sum(said[way] for said in passes) for way in ("sent_bytes", "received_bytes"))
    calls = {}
    for said in passes:
        for step, op in said["ops"].items():
            name = {"embedding": "embedding", "lm_head": "lm_head", "scores": "matmul", "values": "matmul"}
            name = name.get(step, "batch_linear")
            calls[name] = calls.get(name, 0) + op["calls"]
    return sent, received, calls


def counted(stats):
    """The same, as a runner's statistics counted it."""
    paths = read_json(stats)["paths"].values()
    sent, received = (sum(path[way]["bytes"] for path in paths) for way in ("sent", "received"))
    calls = {op: said["calls"] for op, said in read_json(stats)["ops"].items() if said["calls"]}
    return sent, received, calls


def expect_same(passes, stats, what):
    sent, received, calls = sums(passes)
    real_sent, real_received, real_calls = counted(stats)
    if "int_linear" in real_calls:
        # lm_head is one too; pads' products are made by the runner.
        calls = {"int_linear": sum(calls.values())}
        real_calls.pop("pad_linear", None)
    assert (sent, received, calls) == (real_sent, real_received, real_calls), (
        f"{what}: predicted {sent}, {received}, {calls}; counted {real_sent}, {real_received}, {real_calls}")


def prefill_moves_what_is_predicted(folder, bin_dir):
    cases = [("--privacy", "otp-verify", "--int8-weights", "w8"), ("--privacy", "verify", "--int8-weights", "w16")]
    for attention in ("tee", "offload"):
        cases += [("--attention", attention, "--wire", "fp32", "--chunk", 20),
                  *(("--attention", attention, "--wire", wire) for wire in ("fp32", "bf16"))]
    with open_pair(bin_dir) as pair:
        server = pair.server()
        for number, case in enumerate(cases):
            stats = pair.path(f"{number}.json")
            pair.prefill(*case, "--stats-json", stats, tokens=("--random-tokens", 49, "--seed", 1))
            model, = hosts("--config", TINY, "--tokens", 49, *case)
            expect_same(model["passes"], stats, case)
        pair.stop(server)


def answer_moves_a_pass_of_one_token_for_each(folder, bin_dir):
    with open_pair(bin_dir) as pair:
        pair.server()
        stats = pair.path("answer.json")
        pair.start("tee_runner", "generate", "--synthetic", TINY, "--endpoint", pair.endpoint, "--threads", 1,
                   "--tokens", "1,2,3,4,5", "--max-tokens", 7, "--ignore-eos", "--stats-json", stats).expect_exit(0)
        model, = hosts("--config", TINY, "--tokens", "5,1", "--attention", "tee", "--wire", "fp32")
        prompt, token = model["passes"]
        expect_same([prompt] + 6 * [token], stats, "5 tokens, 7 more")


def synth(bin_dir, folder, config, *args):
    """Bytes there and back, and calls, of a trace that airlock_trace makes of the same shape; None: it is refused."""
    program, trace = os.path.join(bin_dir, "airlock_trace"), os.path.join(folder, "trace.jsonl")
    made = subprocess.run([program, "synth", "--config", config, *map(str, args), "-o", trace], capture_output=True,
                          timeout=LIMIT_S, check=False)
    if made.returncode != 0:
        return None
    shown = subprocess.run([program, "show", trace, "-o", "json"], capture_output=True, text=True, timeout=LIMIT_S,
                           check=True)
    said = json.loads(shown.stdout)["traces"][0]
    sent, received = (sum(path[way] for path in said["paths"].values()) for way in ("input_bytes", "output_bytes"))
    return sent, received, {op: of["calls"] for op, of in said["ops"].items() if of["calls"]}


def shapes_give_the_ops_that_a_trace_of_them_has(folder, bin_dir):
    cases = [("8b", 1024, "tee"), ("70b", 1024, "tee"), ("405b", 1024, "tee"), ("70b", 1024, "offload"),
             ("8b", 5000, "offload"),   # scores in tiles of heads
             ("405b", 9000, "offload"),  # scores in tiles of heads and rows, gate and up in parts
             ("405b", 131072, "tee")]  # an input of 4 GiB, the most that crosses
    for shape, tokens, attention in cases:
        model, = hosts("--shape", shape, "--tokens", tokens, "--attention", attention, "--hosts", 1)
        config = os.path.join(CONFIGS, model["model"] + ".json")
        real = synth(bin_dir, folder, config, "--tokens", tokens, "--attention", attention, "--wire", "bf16")
        assert sums(model["passes"]) == real, (shape, tokens, attention, sums(model["passes"]), real)


def what_the_programs_refuse_is_refused(folder, bin_dir):
    config = os.path.join(CONFIGS, "llama-3.1-405b.json")
    for code, *args in ((1, "--tokens", 131072, "--attention", "tee", "--wire", "fp32"),  # an input of 8 GiB
                        (1, "--tokens", 80000, "--attention", "offload", "--wire", "bf16"),  # too many ops
                        (2, "--tokens", 131073, "--attention", "tee", "--wire", "bf16")):
        assert synth(bin_dir, folder, config, *args) is None, args
        plan("hosts", "--config", config, *args, code=code)
    plan("hosts", "--config", config, "--tokens", 131072, "--attention", "tee", "--wire", "fp32", "--chunk", 65536)
    for args in (("--shape", "7b"), ("--hosts", "0"), ("--hosts", "1,two"), ("--hosts", "5000"), ("--link-gbit", "0"),
                 ("--link-gbit", "nan"), ("--tflops", "-1"), ("--tokens", ""), ("--wire", "int8"),
                 ("--placement", "rows"), ("--privacy", "otp", "--attention", "offload"),
                 ("--shape", "8b", "--config", TINY), ("more",)):
        plan("hosts", *args, code=2)
    wrong = {"num_key_value_heads": 4, "head_dim": 41, "hidden_size": "96", "vocab_size": 1 << 30,
             "num_hidden_layers": True, "tie_word_embeddings": 1}
    for name, text in (("none", None), ("no JSON", "{"), ("no object", "[]"), ("deep", "[" * 100000),
                       ("long", " " * (2 << 20)),
                       *((key, json.dumps({**ODD, key: value})) for key, value in wrong.items())):
        path = os.path.join(folder, name)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        assert path in plan("hosts", "--config", path, code=1), name


def published_figures_come_out(folder, bin_dir):
    models = hosts("--shape", "1b,8b,70b,405b", "--attention", "tee", "--tokens", 1024, "--privacy", "plain")
    # Parameters as published, less the norms, which are the TEE's.
    published = {"llama-3.2-1b": 1_235_814_400, "llama-3.1-8b": 8_030_261_248, "llama-3.1-70b": 70_553_706_496,
                 "llama-3.1-405b": 405_853_388_800}
    for model in models:
        norms = (2 * model["dims"]["layers"] + 1) * model["dims"]["hidden"]
        assert model["elements"] + norms == published[model["model"]], model["model"]
        assert model["weight_bytes"] == 2 * model["elements"] == model["placements"][0]["shares"][0]["bytes"]
    moved = [f"{model['passes'][0]['linears_of_layers_bytes'] / 2**30:.1f}" for model in models[2:]]
    assert moved == ["20.9", "62.5"], moved
    for form in ("text", "md"):
        shown = plan("hosts", "--shape", "70b,405b", "-o", form).splitlines()
        rows = [re.split(r"\s*\|\s*|\s{2,}", line.strip("| ")) for line in shown]
        heads, = [row for row in rows if "layers' linears" in row]
        column = heads.index("layers' linears")
        said = [row[column] for row in rows if row[1:2] == ["1024"] and len(row) == len(heads)]
        assert said == ["20.9 GiB", "20.9 GiB", "62.5 GiB", "62.5 GiB"], (form, said)


def least_largest(units, shares):
    """The smallest that the largest of so many runs of units can be, by trying them all."""
    @functools.cache
    def best(first, left):
        if left == 1:
            return sum(units[first:])
        return min(max(sum(units[first:end]), best(end, left - 1)) for end in range(first, len(units) + 1))
    return best(0, shares)


def layers_lie_together_and_the_largest_share_is_as_small_as_can_be(folder, bin_dir):
    for name in ("tiny", "llama-3.2-1b", "llama-3.1-8b", "llama-3.1-70b"):
        dims = llama.read_dims(os.path.join(CONFIGS, name + ".json"))
        table = [dims.table_elements()]
        units = ([] if dims.tied else table) + [dims.layer_elements()] * dims.layers + table
        for count in (1, 2, 3, 4, 8):
            shares = llama.place("layers", dims, count)
            sizes = [share.bytes(dims, llama.Terms(dtype=1)) for share in shares]
            assert max(sizes) == least_largest(units, count) and sum(sizes) == sum(units), (name, count)
            owners = [[host for host, share in enumerate(shares) if share.layers[layer]]
                      for layer in range(dims.layers)]
            assert all(len(owner) == 1 for owner in owners) and owners == sorted(owners), (name, count)
            busy = [host for host, size in enumerate(sizes) if size > 0]
            first, last = busy[:1], busy[-1:]
            assert [host for host, share in enumerate(shares) if share.lm_head] == last, (name, count)
            assert [host for host, share in enumerate(shares) if share.embedding] == (last if dims.tied else first)
    # Layers of each host, as tests/placement/placement_test.cc has them of runtime/placement.
    for shape, count, layers in (("8b", 4, [7, 9, 9, 7]), ("8b", 8, [2, 5, 5, 4, 5, 4, 5, 2]), ("70b", 3, [26, 28, 26]),
                                 ("405b", 8, [15, 16, 16, 16, 16, 16, 16, 15])):
        model, = hosts("--shape", shape, "--hosts", count)
        assert [share["layers"] for share in model["placements"][0]["shares"]] == layers, (shape, count)
    # The odd layer is as near to either: the first host has the fewer.
    odd = llama.Dims(hidden=96, intermediate=200, layers=5, heads=6, kv_heads=3, head_dim=40, vocab=300, tied=False)
    assert [share.layer_count() for share in llama.place("layers", odd, 2)] == [2, 3]


def columns_are_cut_at_panels_and_spread_evenly(folder, bin_dir):
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.1-70b.json"))
    for count in (1, 2, 3, 8):
        shares = llama.place("columns", dims, count)
        for layer in range(dims.layers):
            for kind, (rows, _) in dims.weights().items():
                held = [share.layers[layer][kind] for share in shares]
                assert sum(held) == rows and all(columns % 256 == 0 for columns in held), (count, kind, held)
        loads = [share.linear_elements(dims) for share in shares]
        assert sum(loads) == dims.elements() - dims.table_elements()
        # A panel of the widest weight is the most that two differ by.
        assert max(loads) - min(loads) <= 256 * dims.intermediate, (count, loads)
        assert [share.embedding for share in shares] == [True] + [False] * (count - 1)
    # Bytes of each host, bf16, as tests/placement/placement_test.cc has them of runtime/placement.
    model, = hosts("--shape", "8b", "--placement", "columns", "--hosts", 3)
    assert [share["bytes"] for share in model["placements"][0]["shares"]] == [6051332096, 5006950400, 5001707520]


def second_link_carries_a_byte_once_by_layers_and_inputs_often_by_columns(folder, bin_dir):
    def links(*args):
        model, = hosts("--shape", "8b", "--tokens", 64, *args)
        return {(said["attention"], at["hosts"]): at for said in model["passes"] for at in said["hosts"]}
    for (_, count), at in links("--hosts", "1,4,16", "--door-only").items():
        assert at["door_to_hosts"] == at["tee_to_door"], count
    by_columns = links("--hosts", "1,2,4", "--placement", "columns", "--door-only", "--attention", "tee")
    for (_, count), at in by_columns.items():
        door, beyond = at["tee_to_door"], at["door_to_hosts"]
        ids = 64 * 4  # of the embedding, which one host has
        assert beyond["sent_bytes"] == ids + count * (door["sent_bytes"] - ids), count
        assert beyond["received_bytes"] == door["received_bytes"] and beyond["ops"] == door["ops"], count
    # Where the door holds a share, its layers, embedding included, stay with it.
    model, = hosts("--shape", "8b", "--hosts", 2, "--tokens", 64, "--attention", "tee")
    at, ops = model["passes"][0]["hosts"][0], model["passes"][0]["ops"]
    layers = model["placements"][0]["shares"][1]["layers"]
    for way in ("sent_bytes", "received_bytes"):
        linears = sum(ops[step][way] for step in llama.LINEARS)
        assert at["door_to_hosts"][way] == linears * layers // 32 + ops["lm_head"][way], way
    # Products of attention are the door's own where it computes.
    alone = links("--hosts", "1,2")
    assert alone["offload", 1]["door_to_hosts"]["ops"] == 0
    assert alone["offload", 2]["door_to_hosts"] == alone["tee", 2]["door_to_hosts"]


def times_are_those_of_bytes_products_and_round_trips(folder, bin_dir):
    def model(*args):
        said, = hosts("--shape", "70b", "--attention", "tee", "--hosts", "2", "--door-only", *args)
        return said["passes"][0]["hosts"][0]

    def near(a, b):
        return abs(a - b) <= 1e-9 * abs(b)
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.1-70b.json"))
    linears = dims.layers * dims.layer_elements()
    at = model("--tokens", 1, "--link-gbit", "10,40", "--rtt-us", 50, "--read-gbs", 1000, "--dtype", "fp16")
    door = at["tee_to_door"]
    byte_count = door["sent_bytes"] + door["received_bytes"]
    assert near(door["seconds"][0]["seconds"], byte_count * 8e-10 + 322 * 50e-6)
    assert near(door["seconds"][1]["seconds"], byte_count * 2e-10 + 322 * 50e-6)
    reading = 2 * (linears + dims.table_elements()) / 1e12 + 2 * dims.hidden / 1e12  # and a row of the table
    assert near(at["products_seconds"], reading)
    assert near(door["as_long_at_gbit"], byte_count * 8e-9 / (reading - 322 * 50e-6))
    at = model("--tokens", 1024, "--tflops", 100, "--read-gbs", 1e6)
    rows = 1024 * dims.hidden * 2  # bytes of the embedding
    assert near(at["products_seconds"], 2 * (1024 * linears + dims.table_elements()) / 1e14 + rows / 1e15)
    # Two hosts have half of the columns each, and one of them 251 of the 501 panels of lm_head.
    halves = model("--tokens", 1024, "--tflops", 100, "--placement", "columns")
    assert near(halves["products_seconds"], (1024 * linears + 2 * 251 * 256 * dims.hidden) / 1e14)
    words = model("--tokens", 1024, "--tflops", 100, "--privacy", "otp", "--int8-weights", "w16")
    assert near(words["products_seconds"], 16 * (1024 * linears + dims.table_elements()) / 1e14)
    assert model("--tokens", 1, "--rtt-us", 1e6, "--tflops", 100)["tee_to_door"]["as_long_at_gbit"] is None


def cache_takes_what_the_runner_says(folder, bin_dir):
    odd = os.path.join(folder, "odd.json")
    with open(odd, "w", encoding="utf-8") as file:
        json.dump(ODD, file)
    with open_pair(bin_dir) as pair:
        for config, cache_type in ((TINY, "fp32"), (odd, "fp32"), (odd, "bf16")):
            runner = pair.start("tee_runner", "generate", "--synthetic", config, "--backend", "local", "--tokens",
                                "1,2", "--cache-bytes", 1000, "--cache-type", cache_type).expect_exit(5)
            block = int(re.search(r"blocks of 64 positions, of (\d+) bytes", runner.stderr())[1])
            model, = hosts("--config", config, "--cache-type", cache_type, "--context", "65,128")
            assert model["tee"]["cache_bytes_a_position"] * 64 == block, (config, cache_type)
            assert [cache["bytes"] for cache in model["tee"]["caches"]] == [2 * block, 2 * block]


def private_mode_holds_int8_weights_where_pads_are_made(folder, bin_dir):
    for mode, weights, server, runner in (("otp-verify", "w8", 3, 1), ("otp", "w16", 4, 2), ("verify", "w16", 4, 0),
                                          ("otp-dealer", "w8", 3, 0)):
        model, = hosts("--shape", "70b", "--privacy", mode, "--int8-weights", weights, "--hosts", "1,3")
        dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.1-70b.json"))
        linears = dims.elements() - dims.table_elements()
        assert model["tee"]["int8_weights_bytes"] == runner * linears, mode
        assert model["tee"]["embedding_bytes"] == 2 * dims.table_elements(), mode
        for placed in model["placements"]:
            held = sum(share["bytes"] for share in placed["shares"])
            assert held == server * linears + 2 * dims.table_elements(), (mode, placed["hosts"])


def scaling_page_has_what_its_commands_print(folder, bin_dir):
    page = os.path.join(ROOT, "docs", "SCALING.md")
    if not os.path.isfile(page):
        raise Skip("docs/SCALING.md is not there")
    lines = read_text(page).splitlines()
    commands = [line.split()[1:] for line in lines if line.startswith("tools/plan hosts ") and line.endswith("-o md")]
    assert commands, "docs/SCALING.md names no tools/plan hosts ... -o md"
    for command in commands:
        for line in plan(*command).splitlines():
            assert not line.startswith("|") or line in lines, f"{' '.join(command)} prints another line: {line}"


def plan_without_hosts_still_measures_modes(folder, bin_dir):
    said = json.loads(plan("--bin-dir", bin_dir, "--synthetic", TINY, "--tokens", 8, "--answer", 2, "--threads", 1,
                           "--modes", "plain,tee-only", "-o", "json"))
    assert [row["mode"] for row in said["modes"]] == ["plain", "tee-only"] and said["tokens"] == 8, said
    assert "--answer N" in plan("--help") and "--door-only" in plan("hosts", "--help")
    assert "no such mode" in plan("--modes", "hosts", code=2)


SCENARIOS = (prefill_moves_what_is_predicted, answer_moves_a_pass_of_one_token_for_each,
             shapes_give_the_ops_that_a_trace_of_them_has, what_the_programs_refuse_is_refused,
             published_figures_come_out, layers_lie_together_and_the_largest_share_is_as_small_as_can_be,
             columns_are_cut_at_panels_and_spread_evenly,
             second_link_carries_a_byte_once_by_layers_and_inputs_often_by_columns,
             times_are_those_of_bytes_products_and_round_trips, cache_takes_what_the_runner_says,
             private_mode_holds_int8_weights_where_pads_are_made, scaling_page_has_what_its_commands_print,
             plan_without_hosts_still_measures_modes)

if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(folder, bin_dir))
