"""How many bytes cross between the TEE, the door and hosts with GPUs, and how long that takes: from shapes alone.

Usage: tools/plan hosts [--shape 1b,8b,70b,405b | --config CONFIG.json]
                        [--hosts 1,2,4,8] [--placement layers|columns] [--door-only]
                        [--tokens 1,1024] [--attention tee,offload] [--position N] [--chunk N] [--wire D] [--dtype D]
                        [--privacy MODE] [--int8-weights w8|w16] [--link-gbit 10,25,100,400] [--rtt-us N]
                        [--tflops T] [--read-gbs R] [--context 8192,131072] [--cache-type fp32|bf16]
                        [--tables weights,bytes,links,tee] [-o text|md|json]
Nothing is run or measured. Bytes are those of tensors, as --stats-json counts them, of passes with the logits of the
last token; a pass of one token is a decoded one. Links carry one op after the other, as one client asks for them, at
the whole rate. What the TEE itself computes, attention where it does that, is in no time here."""
import argparse
import json
import math
import os

import llama_bytes as llama
from pair import CONFIGS

SHAPES = {"1b": "llama-3.2-1b", "8b": "llama-3.1-8b", "70b": "llama-3.1-70b", "405b": "llama-3.1-405b"}
MODES = ("plain", "verify", "otp", "otp-verify", "otp-dealer")
# In these modes the TEE makes pads' products itself, of int8 weights of its own.
OWN_PADS = ("otp", "otp-verify")
TABLES = ("weights", "bytes", "links", "tee")


def number(kind, low, high):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: expected {low:g} to {high:g}")
        return value
    return parse


def whole(low, high):
    return number(int, low, high)


RATE = number(float, 1e-3, 1e6)


def some(parse):
    return lambda text: [parse(item) for item in text.split(",")]


def one_of(names):
    def parse(text):
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text}: expected {', '.join(names)}")
        return text
    return parse


def parse_options(arguments):
    parser = argparse.ArgumentParser(prog="plan hosts", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--shape", type=some(one_of(SHAPES)), default=["1b"], help="published LLaMA shapes")
    model.add_argument("--config", help="a model's config.json")
    parser.add_argument("--hosts", type=some(whole(1, llama.MAX_HOSTS)), default=[1, 2, 4, 8], help="that compute")
    parser.add_argument("--placement", choices=("layers", "columns"), default="layers")
    parser.add_argument("--door-only", action="store_true", help="the door has no weights; else it is the first host")
    parser.add_argument("--tokens", type=some(whole(1, llama.MAX_TOKENS)), default=[1, 1024])
    parser.add_argument("--attention", type=some(one_of(("tee", "offload"))))
    parser.add_argument("--position", type=whole(0, llama.MAX_TOKENS - 1), default=0, help="tokens in the cache before")
    parser.add_argument("--chunk", type=whole(0, llama.MAX_TOKENS), default=0, help="feed a prompt in pieces")
    parser.add_argument("--wire", choices=llama.DTYPE_BYTES, default="bf16")
    parser.add_argument("--dtype", choices=llama.DTYPE_BYTES, default="bf16", help="of weights")
    parser.add_argument("--privacy", choices=MODES, default="plain")
    parser.add_argument("--int8-weights", choices=("w8", "w16"), default="w8")
    parser.add_argument("--link-gbit", type=some(RATE), default=[10.0, 25.0, 100.0, 400.0])
    parser.add_argument("--rtt-us", type=number(float, 0, 1e6), default=0.0, help="of a link, once an op")
    parser.add_argument("--tflops", type=RATE, help="of a host's products: of --dtype, in a private mode of int8")
    parser.add_argument("--read-gbs", type=RATE, help="at which a host reads its weights, GB/s")
    parser.add_argument("--context", type=some(whole(1, llama.MAX_TOKENS)), default=[8192, 131072],
                        help="positions of the TEE's cache")
    parser.add_argument("--cache-type", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--tables", type=some(one_of(TABLES)), default=list(TABLES), help="those of text and md")
    parser.add_argument("-o", dest="form", choices=("text", "md", "json"), default="text")
    args = parser.parse_args(arguments)
    is_private = args.privacy != "plain"
    args.attention = args.attention or (["tee"] if is_private else ["tee", "offload"])
    if is_private and "offload" in args.attention:
        parser.error("in a private mode attention is the TEE's")
    planes = {"w8": 1, "w16": 2}[args.int8_weights] if is_private else 0
    args.terms = llama.Terms(llama.DTYPE_BYTES[args.wire], llama.DTYPE_BYTES[args.dtype], planes)
    return parser, args


def timed(crossing, args, products):
    """A crossing as the JSON has it: how long it takes at each rate, and at which as long as the products."""
    waits, gigabits = crossing.ops * args.rtt_us * 1e-6, crossing.bytes() * 8 / 1e9
    said = {"sent_bytes": crossing.sent, "received_bytes": crossing.received, "ops": crossing.ops,
            "seconds": [{"gbit": gbit, "seconds": gigabits / gbit + waits} for gbit in args.link_gbit]}
    if products is not None:
        said["as_long_at_gbit"] = gigabits / (products - waits) if products > waits else None
    return said


def pass_of(dims, tokens, attention, shares_of, args):
    passes = llama.plan_passes(dims, tokens, args.terms, attention == "offload", args.position, args.chunk)
    ops = {step: {"calls": 0, "sent_bytes": 0, "received_bytes": 0} for step in llama.STEPS}
    for op, calls in passes.ops():
        said = ops[op.step]
        said["calls"] += calls
        said["sent_bytes"] += calls * op.sent
        said["received_bytes"] += calls * op.received
    hosts, is_timed = [], args.tflops or args.read_gbs
    door = llama.crossing_to_door(passes)
    for count, shares in shares_of.items():
        products = llama.seconds_of_products(passes, dims, shares, args.tflops, args.read_gbs) if is_timed else None
        beyond = llama.crossing_to_hosts(passes, dims, shares, args.door_only)
        hosts.append({"hosts": count, "products_seconds": products, "tee_to_door": timed(door, args, products),
                      "door_to_hosts": timed(beyond, args, products)})
    linears = sum(ops[step][way] for step in llama.LINEARS for way in ("sent_bytes", "received_bytes"))
    return {"tokens": tokens, "attention": attention,
            "ops": {step: said for step, said in ops.items() if said["calls"]}, "linears_of_layers_bytes": linears,
            "sent_bytes": door.sent, "received_bytes": door.received, "hosts": hosts}


def tee_memory(dims, args):
    """What it holds beside its working memory."""
    position = llama.cache_bytes(dims, args.cache_type)
    said = {"cache_type": args.cache_type, "cache_bytes_a_position": position,
            "caches": [{"positions": count, "bytes": position * -(-count // 64) * 64} for count in args.context]}
    if args.privacy != "plain":
        said["embedding_bytes"] = dims.table_elements() * args.terms.dtype
        linears = dims.layers * dims.layer_elements() + dims.table_elements()
        said["int8_weights_bytes"] = linears * args.terms.planes if args.privacy in OWN_PADS else 0
    return said


def plan_model(name, dims, args):
    shares_of = {count: llama.place(args.placement, dims, count) for count in args.hosts}
    placements = [{"hosts": count, "shares": [
        {"bytes": share.bytes(dims, args.terms), "layers": share.layer_count(), "embedding": share.embedding,
         "lm_head_columns": share.lm_head} for share in shares]} for count, shares in shares_of.items()]
    return {"model": name, "dims": vars(dims), "elements": dims.elements(),
            "weight_bytes": dims.elements() * args.terms.dtype, "placements": placements,
            "tee": tee_memory(dims, args), "passes": [pass_of(dims, tokens, attention, shares_of, args)
                                                      for tokens in args.tokens for attention in args.attention]}


def size(count):
    """Bytes for people."""
    unit = min(int(math.log2(max(count, 1)) // 10), 4)
    value = count / (1 << 10 * unit)
    digits = 0 if unit == 0 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"


def figure(value):
    """Three digits."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def span(seconds):
    """A time for people."""
    units = (("s", 1), ("ms", 1e3), ("us", 1e6))
    unit, scale = next((entry for entry in units if seconds * entry[1] >= 0.9995), units[-1])
    return f"{figure(seconds * scale)} {unit}" if seconds else "-"


def table(heads, rows, form):
    """The first column is text, the others are figures."""
    rows = [[str(cell) for cell in row] for row in (heads, *rows)]
    if form == "md":
        rows.insert(1, ["---"] + ["---:"] * (len(heads) - 1))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)


def runs(values):
    """"3 x 16.5 GiB, 17.0 GiB": equal neighbours together."""
    counted = []
    for value in values:
        if counted and counted[-1][1] == value:
            counted[-1][0] += 1
        else:
            counted.append([1, value])
    return ", ".join(value if count == 1 else f"{count} x {value}" for count, value in counted)


def weights_table(models, args):
    rows = []
    for model in models:
        for placed in model["placements"]:
            held = [share["bytes"] for share in placed["shares"]]
            rows.append((model["model"], placed["hosts"], size(sum(held)), size(max(held)), runs(map(size, held))))
    title = f"weights of hosts by {args.placement}, {args.dtype}{', and int8 beside them' if args.terms.planes else ''}"
    return title, table(("model", "hosts", "in all", "largest", "each"), rows, args.form)


def bytes_table(models, args):
    steps = [step for step in llama.STEPS if any(step in said["ops"] for model in models for said in model["passes"])]
    rows = []
    for model in models:
        for said in model["passes"]:
            both = {step: size(op["sent_bytes"] + op["received_bytes"]) for step, op in said["ops"].items()}
            sums = (said["linears_of_layers_bytes"], said["sent_bytes"], said["received_bytes"],
                    said["sent_bytes"] + said["received_bytes"])
            rows.append((model["model"], said["tokens"], said["attention"], *(both.get(step, "-") for step in steps),
                         *map(size, sums), said["hosts"][0]["tee_to_door"]["ops"]))
    title = f"bytes between TEE and door, there and back, {'words of 32 bits' if args.terms.planes else args.wire}"
    return title, table(("model", "tokens", "attention", *steps, "layers' linears", "sent", "received", "all", "ops"),
                        rows, args.form)


def links_table(models, args):
    is_timed = args.tflops or args.read_gbs
    rows = {}  # -> the hosts for which they are so
    for model in models:
        for said in model["passes"]:
            for link in ("tee_to_door", "door_to_hosts"):
                for placed in said["hosts"]:
                    way = placed[link]
                    if way["ops"] == 0:
                        continue
                    row = [model["model"], said["tokens"], said["attention"], link.replace("_to_", "-"),
                           size(way["sent_bytes"] + way["received_bytes"])]
                    row += [span(at["seconds"]) for at in way["seconds"]]
                    if is_timed:
                        even = way["as_long_at_gbit"]
                        row += [span(placed["products_seconds"]),
                                "never" if even is None else f"{figure(even)} Gbit" if even else "-"]
                    rows.setdefault(tuple(row), []).append(str(placed["hosts"]))
    heads = ("model", "tokens", "attention", "link", "hosts", "bytes", *(f"{gbit:g} Gbit" for gbit in args.link_gbit),
             *(("products", "as long at") if is_timed else ()))
    terms = [f"{args.tflops:g} TFLOP/s" if args.tflops else "", f"{args.read_gbs:g} GB/s" if args.read_gbs else "",
             f"{args.rtt_us:g} us an op and link" if args.rtt_us else "",
             "below the last column's rate a link takes longer than the products" if is_timed else ""]
    title = ", ".join(["time on each link, one op after the other", *filter(None, terms)])
    return title, table(heads, [(*row[:4], ", ".join(hosts), *row[4:]) for row, hosts in rows.items()], args.form)


def tee_table(models, args):
    heads = ["model", f"{args.cache_type} cache a position", *(f"of {count}" for count in args.context)]
    rows = []
    for model in models:
        tee = model["tee"]
        row = [model["model"], size(tee["cache_bytes_a_position"]), *(size(cache["bytes"]) for cache in tee["caches"])]
        if args.terms.planes:
            row += [size(tee["embedding_bytes"]), size(tee["int8_weights_bytes"])]
        rows.append(row)
    title = "memory of the TEE: keys and values"
    if args.terms.planes:
        title, heads = title + ", and what a private mode holds", [*heads, "embedding table", "int8 weights"]
    return title, table(heads, rows, args.form)


def main(arguments):
    parser, args = parse_options(arguments)
    paths = [args.config] if args.config else [os.path.join(CONFIGS, SHAPES[name] + ".json") for name in args.shape]
    try:
        models = [plan_model(os.path.basename(path).removesuffix(".json"), llama.read_dims(path), args)
                  for path in paths]
    except llama.Refused as reason:
        parser.exit(1, f"plan hosts: {reason}\n")
    if args.form == "json":
        left_out = ("terms", "tables", "form", "shape", "config")
        shown = {key: value for key, value in vars(args).items() if key not in left_out}
        print(json.dumps({"schema_version": 1, "config": shown, "models": models}))
        return
    makers = {"weights": weights_table, "bytes": bytes_table, "links": links_table, "tee": tee_table}
    print("\n\n".join("\n\n".join(makers[name](models, args)) for name in args.tables))
