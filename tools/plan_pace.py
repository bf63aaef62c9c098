"""How long a prefill takes as a pair, from measured rates: without tiles, and with tiles of so many tokens.

Usage: tools/plan pace [--shape 1b,... | --config CONFIG.json] [--tokens 1024] [--tile off,auto,256] [--wire D] [--dtype D]
                       [--from FILE]... [--tee-threads N] [RATE options] [-o text|md|json]
Nothing is run. A prefill is a chain: the TEE makes an op's input, the link carries it up, the server multiplies, the link
carries the result down, the TEE goes on. Without tiles that is a sum. With tiles each step of a layer is taken tile after
tile, an op of each tile under way, so that TEE, link and server work at the same time; the TEE takes one tile at a time, in
order. --tile auto is the fastest power of two from 32 tokens on.

Rates come from files (--from, several: later ones win) and from options, which win over files: the JSON of bench/run_all
(kernels, one thread), of bench/tee_side (kernels, of --tee-threads where it has them), of tools/gpu_check (copies,
products, and kernels with all its threads)."""
import argparse
import dataclasses
import json
import math
import os

import llama_bytes as llama
from pair import CONFIGS, ROOT
from plan_hosts import SHAPES, figure, number, one_of, some, span, table, whole

MAX_FILE_BYTES = 64 << 20
LEAST_TILE = 32
# As the runner's statistics book them: a residual and the norm behind it are one pass, which is rmsnorm; residual is what is
# added without a norm behind it.
KERNELS = ("attention", "rmsnorm", "silu", "residual")
# Option -> unit and what it is.
RATES = {"attention_gflops": "GFLOP/s of the TEE's attention, causal products alone",
         "rmsnorm_gbs": "GB/s that a residual and RMSNorm in one pass read and write", "silu_gbs": "GB/s of SiLU",
         "residual_gbs": "GB/s of adding a residual alone", "up_gbs": "GB/s of the link to the server",
         "down_gbs": "GB/s of the link back", "tflops": "TFLOP/s of the server's products",
         "read_gbs": "GB/s at which the server reads weights"}
WAITS = {"tee_op_us": "us of the TEE for each op, beside its kernels", "link_us": "us that a message takes one way beside its bytes",
         "server_op_us": "us of the server for each op, beside its product"}
PARTS = ("tee", "up", "server", "down")


# The schedule


@dataclasses.dataclass(frozen=True)
class Work:
    """One step of one tile, in seconds: the TEE's before its op, then the op's. `asks` is False where there is no op."""
    tee: float
    up: float = 0.0
    server: float = 0.0
    down: float = 0.0
    asks: bool = True


def simulate(steps, link_s=0.0):
    """Seconds of steps, each a list with the Work of every tile (None: it has none), and how long each part was busy. The TEE
    takes step after step and tile after tile, and waits there for the tile's op before; up, server and down take one op at a
    time, in the order of asking. `link_s`: beside the bytes, one way, while the link carries others."""
    free = dict.fromkeys(PARTS, 0.0)
    busy = dict.fromkeys(PARTS, 0.0)
    ready = {}  # tile -> when its last op's result is there

    def take(part, since, seconds):
        free[part] = max(free[part], since) + seconds
        busy[part] += seconds
        return free[part]
    for step in steps:
        for tile, work in enumerate(step):
            if work is None:
                continue
            at = take("tee", ready.get(tile, 0.0), work.tee)
            if work.asks:
                at = take("up", at, work.up) + link_s
                at = take("server", at, work.server)
                at = take("down", at, work.down) + link_s
            ready[tile] = at
    return max([free["tee"], *ready.values()]), busy


# What the steps are of


def causal_flop(dims, first, count):
    """Multiplications and additions of a layer's attention for so many rows: each sees itself and what is before it."""
    pairs = count * first + count * (count + 1) // 2
    return 4 * dims.heads * dims.head_dim * pairs


def kernel_work(dims, first, count, wire):
    """What a layer's kernels do for so many rows: FLOP of attention, bytes of the others' one call."""
    return {"attention": causal_flop(dims, first, count), "rmsnorm": count * dims.hidden * (8 + 2 * wire),
            "silu": 3 * count * dims.intermediate * wire, "residual": count * dims.hidden * (8 + wire)}


def norm_bytes(dims, count, wire):
    """Of RMSNorm alone, as the first layer has it: nothing is to be added yet."""
    return count * dims.hidden * (4 + wire)


def pass_work(dims, tokens, wire):
    """Of a whole prefill, as booked: all norms but the first have a residual in them, and behind the last layer is one
    without a norm (that of the last token alone is left out)."""
    work = kernel_work(dims, 0, tokens, wire)
    return {"attention": dims.layers * work["attention"], "silu": dims.layers * work["silu"], "residual": work["residual"],
            "rmsnorm": (2 * dims.layers - 1) * work["rmsnorm"] + norm_bytes(dims, tokens, wire)}


def kernel_seconds(dims, first, count, wire, rates):
    work = kernel_work(dims, first, count, wire)
    seconds = {name: amount / (rates["attention_gflops" if name == "attention" else name + "_gbs"] * 1e9)
               for name, amount in work.items()}
    return seconds | {"first norm": norm_bytes(dims, count, wire) / (rates["rmsnorm_gbs"] * 1e9)}


def op_work(tee, op, rates):
    """The Work of an op of tools/llama_bytes, behind so many seconds of kernels."""
    server = max(op.flop / (rates["tflops"] * 1e12), op.read / (rates["read_gbs"] * 1e9))
    return Work(tee + rates["tee_op_us"] * 1e-6, op.sent / (rates["up_gbs"] * 1e9), server + rates["server_op_us"] * 1e-6,
                op.received / (rates["down_gbs"] * 1e9))


def steps_of(dims, tokens, tile, terms, rates):
    """The Work of each step and tile of a prefill; the logits of the last token are the last tile's."""
    tiles = [(first, min(tile, tokens - first)) for first in range(0, tokens, tile)]
    kernels = [kernel_seconds(dims, first, count, terms.wire, rates) for first, count in tiles]

    def ops(step):
        return [llama.linear_op(step, count, [dims.weight(kind) for kind in llama.LINEARS[step]], terms, terms.wire)
                for _, count in tiles]

    def add(step, *before):
        steps.append([op_work(sum(of[name] for name in before), op, rates) for of, op in zip(kernels, ops(step))])
    # The rows of the table come as a result does; widening them is booked as a residual.
    steps = [[op_work(0.0, llama.Op("embedding", 4 * count, count * dims.hidden * terms.wire, 0, 0, 0,
                                    count * dims.hidden * terms.wire), rates) for _, count in tiles]]
    for layer in range(dims.layers):
        add("qkv", *(("rmsnorm",) if layer else ("residual", "first norm")))
        add("o", "attention")
        add("gate_up", "rmsnorm")
        add("down", "silu")
    steps.append([Work(of["residual"], asks=False) for of in kernels])
    head = llama.linear_op("lm_head", 1, [(dims.vocab, dims.hidden)], terms, 4)
    steps.append([None] * (len(tiles) - 1) + [op_work(0.0, head, rates)])
    return steps


def pace(dims, tokens, tile, terms, rates):
    """One row: what a prefill takes with tiles of so many tokens (0: none), and each part of it."""
    rows = tile or tokens
    seconds, busy = simulate(steps_of(dims, tokens, rows, terms, rates), rates["link_us"] * 1e-6)
    most = max(busy, key=busy.get)
    return {"tile": tile, "tiles": -(-tokens // rows), "seconds": seconds, "busy_seconds": busy, "most": most,
            "over_most": seconds / busy[most]}


def fastest(dims, tokens, terms, rates):
    sizes = [LEAST_TILE << i for i in range(max(1, (max(tokens - 1, 1) // LEAST_TILE).bit_length()))]
    return min((pace(dims, tokens, size, terms, rates) for size in [0, *(size for size in sizes if size < tokens)]),
               key=lambda row: row["seconds"])


# Where rates come from


def rates_of_work(work, seconds):
    """Rates of {kernel: seconds} for so much work."""
    return {"attention_gflops" if name == "attention" else name + "_gbs": work[name] / spent / 1e9
            for name, spent in seconds.items() if spent > 0}


def rates_of_run_all(said, threads):
    """Kernels of one thread, of the 1B shape at 1024 tokens. More threads are taken to be as many times as fast."""
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.2-1b.json"))
    names = {"attention-1024": "attention", "residual-rmsnorm": "rmsnorm", "silu": "silu", "residual": "residual"}
    seconds = {names[row["name"]]: row["ours"] / 1e3 for row in said["figures"] if row["name"] in names and "ours" in row}
    rates = rates_of_work(kernel_work(dims, 0, 1024, llama.DTYPE_BYTES["bf16"]), seconds)
    return {name: rate * threads for name, rate in rates.items()}


def rates_of_tee_side(said, threads):
    """Kernels of a whole pass: of as many threads where it has them, else of one, taken to be as many times as fast."""
    dims = llama.read_dims(os.path.join(CONFIGS, "llama-3.2-1b.json"))
    tokens = max(row["tokens"] for row in said["results"])
    by_threads = {row["threads"]: row for row in said["results"] if row["tokens"] == tokens}
    row = by_threads.get(threads) or by_threads[min(by_threads)]
    rates = rates_of_work(pass_work(dims, tokens, llama.DTYPE_BYTES[row["wire"]]),
                          {name: row[name + "_ms"] / 1e3 for name in KERNELS})
    more = threads / row["threads"]
    return {name: rate * more for name, rate in rates.items()} | {
        "tee_op_us": 1e3 * (row["rest_ms"] + row["asking_ms"]) / (4 * dims.layers + 2)}


def details_of(said, name):
    return next((step["details"] for step in said["steps"] if step["name"] == name), {})


def rates_of_gpu_check(said, _):
    """The device's: pinned copies of the size nearest to 16 MiB, each alone; bf16 products of the first model at its most
    rows. The kernels' of its longest prefill, with the threads of that machine."""
    rates = {}
    prefill = details_of(said, "prefill")
    measured = [row for row in prefill.get("rows", ()) if row["attention"] == "tee" and row.get("kernels_ns")]
    if measured:
        row, dims = max(measured, key=lambda row: row["tokens"]), llama.read_dims(os.path.join(ROOT, prefill["config"]))
        rates = rates_of_work(pass_work(dims, row["tokens"], llama.DTYPE_BYTES[row["wire"]]),
                              {name: row["kernels_ns"].get(name, 0) / 1e9 for name in KERNELS})
    copies = [row for row in details_of(said, "copies").get("results", ()) if row.get("host_memory") == "pinned"]
    for way, name in (("to_device", "up_gbs"), ("from_device", "down_gbs")):
        of_way = [row for row in copies if row["way"] == way]
        if of_way:
            rates[name] = min(of_way, key=lambda row: abs(math.log2(row["bytes"] / 2**24)))["gb_per_s"]
    ops = [row for row in details_of(said, "ops").get("results", ())
           if row.get("kind") == "op" and row["dtype"] == "bf16" and row["op"] in (*llama.LINEARS, "lm_head")]
    linears = [row for row in ops if row["op"] in llama.LINEARS and row["model"] == ops[0]["model"]]
    if linears:
        tokens = max(row["tokens"] for row in linears)
        most = [row for row in linears if row["tokens"] == tokens]
        rates["tflops"] = sum(row["flop"] for row in most) / sum(row["compute_ns_median"] for row in most) / 1e3
    head = [row for row in ops if row["op"] == "lm_head" and row["tokens"] == 1]
    if head:  # two bytes a weight, which is two FLOP
        rates["read_gbs"] = head[0]["flop"] / head[0]["compute_ns_median"]
    return rates


def rates_of(path, threads):
    with open(path, encoding="utf-8") as file:
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        raise llama.Refused(f"{path}: over {MAX_FILE_BYTES} bytes")
    try:
        said = json.loads(text)
        if "gpu_check" in said:
            return rates_of_gpu_check(said, threads)
        if "figures" in said:
            return rates_of_run_all(said, threads)
        if "results" in said and "rest_ms" in said["results"][0]:
            return rates_of_tee_side(said, threads)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError, RecursionError) as error:
        raise llama.Refused(f"{path}: {type(error).__name__}: {error}") from None
    raise llama.Refused(f"{path}: neither bench/run_all's JSON, nor tee_side's, nor gpu_check's")


# The command


def tile_size(text):
    return text if text in ("off", "auto") else whole(1, llama.MAX_TOKENS)(text)


def parse_options(arguments):
    parser = argparse.ArgumentParser(prog="plan pace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--shape", type=some(one_of(SHAPES)), default=["1b"], help="published LLaMA shapes")
    model.add_argument("--config", help="a model's config.json")
    parser.add_argument("--tokens", type=some(whole(1, llama.MAX_TOKENS)), default=[128, 1024])
    parser.add_argument("--tile", type=some(tile_size), default=["off", 64, 128, 256, "auto"], help="tokens of a tile, off or auto")
    parser.add_argument("--wire", choices=llama.DTYPE_BYTES, default="bf16")
    parser.add_argument("--dtype", choices=llama.DTYPE_BYTES, default="bf16", help="of weights")
    parser.add_argument("--from", dest="files", action="append", default=[], metavar="FILE", help="JSON with measured rates")
    parser.add_argument("--tee-threads", type=whole(1, 1024), default=1, help="threads of the kernels that a file's are taken to")
    for name, what in RATES.items():
        parser.add_argument("--" + name.replace("_", "-"), type=number(float, 1e-3, 1e6), help=what)
    for name, what in WAITS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=number(float, 0, 1e6), help=what + " (0)")
    parser.add_argument("-o", dest="form", choices=("text", "md", "json"), default="text")
    return parser, parser.parse_args(arguments)


def gather(parser, args):
    """Every rate and wait, from the files and then the options."""
    rates = dict.fromkeys(WAITS, 0.0)
    for path in args.files:
        rates.update(rates_of(path, args.tee_threads))
    rates.update({name: getattr(args, name) for name in (*RATES, *WAITS) if getattr(args, name) is not None})
    lacking = [name for name in RATES if name not in rates]
    if lacking:
        parser.error("no " + ", ".join("--" + name.replace("_", "-") for name in lacking) + ", and no file says it")
    return rates


def plan_model(path, args, rates):
    dims, terms = llama.read_dims(path), llama.Terms(llama.DTYPE_BYTES[args.wire], llama.DTYPE_BYTES[args.dtype])
    prefills = []
    for tokens in args.tokens:
        off = pace(dims, tokens, 0, terms, rates)
        rows = []
        for asked in args.tile:
            row = (fastest(dims, tokens, terms, rates) if asked == "auto" else
                   pace(dims, tokens, 0 if asked == "off" or asked >= tokens else asked, terms, rates))
            rows.append({"asked": asked, **row, "of_off": row["seconds"] / off["seconds"]})
        prefills.append({"tokens": tokens, "tiles": rows})
    return {"model": os.path.basename(path).removesuffix(".json"), "prefills": prefills}


def show(models, rates, args):
    heads = ("model", "tokens", "tile", "tokens a tile", "takes", "of off", *(f"{part} busy" for part in PARTS), "longest")
    rows = [(model["model"], prefill["tokens"], row["asked"], row["tile"] or prefill["tokens"], span(row["seconds"]),
             f"{row['of_off']:.2f}", *(span(row["busy_seconds"][part]) for part in PARTS),
             f"{row['most']}, {row['over_most']:.2f}x")
            for model in models for prefill in model["prefills"] for row in prefill["tiles"]]
    said = ", ".join(f"{name.replace('_', ' ')} {figure(value)}" for name, value in rates.items())
    print(f"one prefill as a pair; rates: {said}\n\n{table(heads, rows, args.form)}")


def main(arguments):
    parser, args = parse_options(arguments)
    try:
        rates = gather(parser, args)
        paths = [args.config] if args.config else [os.path.join(CONFIGS, SHAPES[name] + ".json") for name in args.shape]
        models = [plan_model(path, args, rates) for path in paths]
    except (llama.Refused, OSError) as reason:
        parser.exit(1, f"plan pace: {reason}\n")
    if args.form == "json":
        print(json.dumps({"schema_version": 1, "rates": rates, "models": models}))
    else:
        show(models, rates, args)
