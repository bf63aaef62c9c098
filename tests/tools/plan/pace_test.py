#!/usr/bin/env python3
"""tools/plan pace. One scenario a run: pace_test.py SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
import llama_bytes as llama  # noqa: E402 (found by the lines above)
import plan_pace  # noqa: E402
from one_scenario import main  # noqa: E402
from pair import CONFIGS, TINY, read_text  # noqa: E402
from plan_pace import Work, simulate  # noqa: E402

LIMIT_S = 120
RATES = ("--attention-gflops", 1000, "--rmsnorm-gbs", 100, "--silu-gbs", 60, "--residual-gbs", 150, "--up-gbs", 50,
         "--down-gbs", 40, "--tflops", 500, "--read-gbs", 3000)
WAITS = ("--tee-op-us", 20, "--link-us", 5, "--server-op-us", 10)


def plan(*args, code=0):
    """stdout of tools/plan pace, where it ends with 0, else stderr."""
    ended = subprocess.run([os.path.join(ROOT, "tools", "plan"), "pace", *map(str, args)], capture_output=True, text=True,
                           timeout=LIMIT_S, check=False)
    assert ended.returncode == code, f"pace {args}: exit {ended.returncode}, expected {code}\n{ended.stderr}"
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout if code == 0 else ended.stderr


def said(*args):
    return json.loads(plan(*args, "-o", "json"))


def near(a, b):
    assert abs(a - b) <= 1e-9 * max(abs(a), abs(b)), (a, b)


def one_tile_is_the_sum_of_all_parts(folder, bin_dir):
    steps = [[Work(1, 2, 3, 4)], [Work(5, 6, 7, 8)]]
    seconds, busy = simulate(steps)
    assert (seconds, busy) == (36, {"tee": 6, "up": 8, "server": 10, "down": 12}), (seconds, busy)
    assert simulate(steps, 0.5)[0] == 38  # each way of each op


def two_tiles_overlap(folder, bin_dir):
    # tile 0: 0-1-2-3-4, tile 1 one behind it; the second step begins when tile 0 is back, at 4.
    assert simulate([[Work(1, 1, 1, 1)] * 2] * 2)[0] == 9
    # Six steps of two halves: each round trip is 4 and the second tile ends one later.
    assert simulate([[Work(1, 1, 1, 1)] * 2] * 6)[0] == 25
    # Four tiles fill all four parts: 4 tiles a step, no gap, and the last one's way out.
    assert simulate([[Work(1, 1, 1, 1)] * 4] * 3)[0] == 15


def what_is_busiest_bounds_it(folder, bin_dir):
    seconds, busy = simulate([[Work(0, 0, 10, 0)] * 2] * 2)
    assert (seconds, busy["server"]) == (40, 40)
    # The TEE: 2 steps of 3 tiles of 4, and the last tile's op behind it.
    seconds, busy = simulate([[Work(4, 1, 1, 1)] * 3] * 2)
    assert (seconds, busy["tee"]) == (27, 24)
    # Up and down are two: 8 in turn up, the last one's way down behind it.
    assert simulate([[Work(0, 2, 0, 2)] * 4])[0] == 10


def tiles_are_taken_in_order(folder, bin_dir):
    # Tile 0 is back at 11, tile 1, behind it at the server, at 12; then 1 of the TEE each.
    assert simulate([[Work(1, 0, 10, 0), Work(1, 0, 1, 0)], [Work(1, 0, 1, 0)] * 2])[0] == 14
    # Tile 0 has no second op: tile 1 waits for nobody but its own, and the TEE's last work is counted.
    assert simulate([[Work(1, 0, 2, 0), Work(1, 0, 2, 0)], [None, Work(3, 1, 0, 0)]])[0] == 9
    assert simulate([[Work(1, 0, 2, 0)], [Work(4, asks=False)]])[0] == 7


def attention_of_tiles_is_that_of_the_whole(folder, bin_dir):
    dims = llama.Dims(hidden=8, intermediate=8, layers=1, heads=3, kv_heads=1, head_dim=2, vocab=8, tied=True)
    assert plan_pace.causal_flop(dims, 2, 3) == 4 * 3 * 2 * (3 + 4 + 5)
    assert sum(plan_pace.causal_flop(dims, first, 4) for first in (0, 4, 8)) == plan_pace.causal_flop(dims, 0, 12)


def without_tiles_it_is_bytes_products_and_kernels(folder, bin_dir):
    model, = said("--shape", "8b", "--tokens", 512, "--tile", "off", *RATES)["models"]
    row, = model["prefills"][0]["tiles"]
    hosts = json.loads(subprocess.run([os.path.join(ROOT, "tools", "plan"), "hosts", "--shape", "8b", "--tokens", "512",
                                       "--attention", "tee", "--hosts", "1", "-o", "json"], capture_output=True, text=True,
                                      timeout=LIMIT_S, check=True).stdout)["models"][0]["passes"][0]
    busy = row["busy_seconds"]
    near(busy["up"], hosts["sent_bytes"] / 50e9)
    near(busy["down"], hosts["received_bytes"] / 40e9)
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.1-8b.json"))
    flop, hidden = 4 * dims.heads * dims.head_dim * 512 * 513 // 2, 512 * dims.hidden
    # Two norms a layer, all with a residual in them but the first; the embedding's rows and the last layer's are added alone.
    near(busy["tee"], dims.layers * (flop / 1e12 + 3 * 512 * dims.intermediate * 2 / 60e9)
         + ((2 * dims.layers - 1) * hidden * 12 + hidden * 6) / 100e9 + 2 * hidden * 10 / 150e9)
    near(row["seconds"], sum(busy.values()))
    # Waits come on top of each of 4 * 32 + 2 ops; of the TEE's, of the server's, and both ways.
    model, = said("--shape", "8b", "--tokens", 512, "--tile", "off", *RATES, *WAITS)["models"]
    near(model["prefills"][0]["tiles"][0]["seconds"], sum(busy.values()) + 130 * (20 + 10 + 2 * 5) * 1e-6)


def tiles_move_the_same_bytes_and_read_weights_once_each(folder, bin_dir):
    model, = said("--tokens", 1024, "--tile", "off,100,256", *RATES)["models"]
    off, odd, even = model["prefills"][0]["tiles"]
    assert (off["tiles"], odd["tiles"], even["tiles"]) == (1, 11, 4)
    for row in (odd, even):
        for part in ("tee", "up", "down"):
            near(row["busy_seconds"][part], off["busy_seconds"][part])
        assert max(row["busy_seconds"].values()) <= row["seconds"] < off["seconds"], row
    slow, = said("--tokens", 1024, "--tile", "32", *RATES[:-1], 1)["models"]  # at 1 GB/s a tile costs the weights' bytes
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.2-1b.json"))
    near(slow["prefills"][0]["tiles"][0]["busy_seconds"]["server"],
         (32 * 2 * dims.layers * dims.layer_elements() + 2 * dims.table_elements() + 1024 * dims.hidden * 2) / 1e9)


def auto_is_the_fastest_power_of_two(folder, bin_dir):
    model, = said("--tokens", 1024, "--tile", "off,32,64,128,256,512,auto", *RATES, *WAITS)["models"]
    *rows, auto = model["prefills"][0]["tiles"]
    assert auto["seconds"] == min(row["seconds"] for row in rows) and auto["asked"] == "auto"
    # Where each op costs much, none is best; a tile as long as the prompt is none.
    model, = said("--tokens", 64, "--tile", "auto,64,4096", *RATES, "--tee-op-us", 100000)["models"]
    assert [row["tile"] for row in model["prefills"][0]["tiles"]] == [0, 0, 0]


def golden_figures(folder, bin_dir):
    lines = plan("--tokens", "128,1024", "--tile", "off,128,auto", *RATES, *WAITS, "-o", "md").splitlines()
    want = read_text(os.path.join(ROOT, "tests", "tools", "plan", "pace_golden.md")).splitlines()
    assert lines == want, "\n".join(lines)


def rates_come_from_what_was_measured(folder, bin_dir):
    def file(name, value):
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as out:
            json.dump(value, out)
        return path
    kernels = file("run_all", {"figures": [{"name": "attention-1024", "ours": 50.0}, {"name": "silu", "ours": 5.0},
                                           {"name": "residual-rmsnorm", "ours": 0.5}, {"name": "residual", "ours": 0.4},
                                           {"name": "rmsnorm", "ours": 77.0},
                                           {"name": "load", "verdict": "not run"}]})
    linears = [{"kind": "op", "model": "llama-3.2-1b", "dtype": "bf16", "op": op, "tokens": 1024, "flop": 1e9,
                "compute_ns_median": 2000.0} for op in ("qkv", "o", "gate_up", "down")]
    head = {"kind": "op", "model": "llama-3.2-1b", "dtype": "bf16", "op": "lm_head", "tokens": 1, "flop": 3e6,
            "compute_ns_median": 1000.0}
    copies = [{"kind": "copy", "way": way, "host_memory": "pinned", "bytes": 1 << bits, "gb_per_s": rate}
              for way, bits, rate in (("to_device", 16, 10), ("to_device", 24, 55), ("from_device", 24, 52))]
    device = file("gpu", {"gpu_check": 1, "steps": [{"name": "ops", "details": {"results": [*linears, head]}},
                                                    {"name": "copies", "details": {"results": copies}}]})
    rates = said("--from", kernels, "--from", device, "--tee-threads", 16, "--up-gbs", 25)["rates"]
    near(rates["attention_gflops"], 16 * 4 * 2048 * 1024 * 1025 / 2 / 0.05 / 1e9)
    near(rates["silu_gbs"], 16 * 3 * 1024 * 8192 * 2 / 0.005 / 1e9)
    near(rates["rmsnorm_gbs"], 16 * 1024 * 2048 * 12 / 0.0005 / 1e9)
    near(rates["residual_gbs"], 16 * 1024 * 2048 * 10 / 0.0004 / 1e9)
    assert [rates[name] for name in ("tflops", "read_gbs", "up_gbs", "down_gbs")] == [500, 3000, 25, 52], rates
    prefill = {"config": "tests/data/configs/llama-3.2-1b.json", "rows": [
        {"tokens": 1024, "attention": "offload", "wire": "bf16"},
        {"tokens": 1024, "attention": "tee", "wire": "bf16", "kernels_ns": {
            "attention": 80e6, "rmsnorm": 16e6, "silu": 32e6, "residual": 8e6}}]}
    rates = said("--from", file("gpu", {"gpu_check": 1, "steps": [
        {"name": "ops", "details": {"results": [*linears, head]}}, {"name": "prefill", "details": prefill},
        {"name": "copies", "details": {"results": copies}}]}))["rates"]
    near(rates["attention_gflops"], 4 * 2048 * 1024 * 1025 / 2 / 0.005 / 1e9)
    near(rates["rmsnorm_gbs"], 1024 * 2048 * (31 * 12 + 6) / 0.016 / 1e9)
    near(rates["silu_gbs"], 3 * 1024 * 8192 * 2 / 0.002 / 1e9)
    near(rates["residual_gbs"], 1024 * 2048 * 10 / 0.008 / 1e9)
    device = file("device", {"gpu_check": 1, "steps": [{"name": "ops", "details": {"results": [*linears, head]}},
                                                       {"name": "copies", "details": {"results": copies}}]})
    side = file("side", {"results": [{"tokens": 1024, "threads": threads, "wire": "bf16", "attention_ms": 800 / threads,
                                      "rmsnorm_ms": 16, "silu_ms": 80, "residual_ms": 12, "asking_ms": 0.1, "rest_ms": 1.22}
                                     for threads in (1, 2)]})
    rates = said("--from", side, "--from", device, "--tee-threads", 2)["rates"]
    near(rates["attention_gflops"], 16 * 4 * 2048 * 1024 * 1025 / 2 / 0.4 / 1e9)
    near(rates["rmsnorm_gbs"], 1024 * 2048 * (31 * 12 + 6) / 0.016 / 1e9)
    near(rates["residual_gbs"], 1024 * 2048 * 10 / 0.012 / 1e9)
    near(rates["tee_op_us"], 20)
    # Rates of a pass give that pass's kernels back, but for taking in the embedding, which no kernel books.
    model, = said("--from", side, "--from", device, "--tee-threads", 2, "--tile", "off", "--tokens", 1024, "--tee-op-us", 0)["models"]
    near(model["prefills"][0]["tiles"][0]["busy_seconds"]["tee"], (400 + 16 + 80 + 2 * 12) / 1e3)


def what_it_cannot_use_is_refused(folder, bin_dir):
    assert "no --attention-gflops, " in plan(code=2)
    for args in (("--tile", "0"), ("--tile", "some"), ("--up-gbs", "0"), ("--tokens", "131073"), ("--tee-op-us", "-1"), ("more",)):
        plan(*RATES, *args, code=2)
    for name, text in (("none", None), ("no JSON", "{"), ("no object", "[]"), ("another", '{"figures": 7}'),
                       ("of nothing", '{"results": []}'), ("of others", '{"results": [{"bytes": 1}]}')):
        path = os.path.join(folder, name)
        if text is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        assert path in plan(*RATES, "--from", path, code=1), name
    plan("--config", TINY, *RATES)


SCENARIOS = (one_tile_is_the_sum_of_all_parts, two_tiles_overlap, what_is_busiest_bounds_it, tiles_are_taken_in_order,
             attention_of_tiles_is_that_of_the_whole, without_tiles_it_is_bytes_products_and_kernels,
             tiles_move_the_same_bytes_and_read_weights_once_each, auto_is_the_fastest_power_of_two, golden_figures,
             rates_come_from_what_was_measured, what_it_cannot_use_is_refused)

if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(folder, bin_dir))
