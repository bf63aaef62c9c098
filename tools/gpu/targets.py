"""What is asked of a machine with a GPU, and what a report of gpu_check says of it: verdicts from its JSON alone."""
import math
import os

import llama_bytes as llama
from pair import CONFIGS

BARE = 0.95  # of a bare cuBLAS call's rate
COPY = 0.90  # of a pinned copy loop's rate
LARGE_BYTES = 1 << 20  # from which on a copy's rate is the link's and not its start's
SHAPE = "llama-3.2-1b"  # that the times are asked of
OVER_BOUND = 2.0
PREFILLS = {1024: (0.25, 16), 128: (0.040, 1)}  # tokens -> seconds, with so many cores at least
DECODE_S = 0.006
MET, MISSED, NOT_RUN = "met", "missed", "not run"


class Absent(Exception):
    """The report lacks what a target needs; the words say what."""


def target(what, asked, value, met, why=""):
    return {"target": what, "asked": asked, "got": value, "verdict": MET if met else MISSED, "why": why}


def details_of(data, name):
    step = next((step for step in data["steps"] if step["name"] == name), None)
    if step is None:
        raise Absent(f"the step '{name}' is not in this report")
    if not step["details"]:
        raise Absent(f"the step '{name}' has no figures" + (f": {step['why']}" if step["why"] else ""))
    return step["details"]


def op_rows(data):
    rows = [row for row in details_of(data, "ops").get("results", ()) if row.get("kind") == "op"]
    if not rows:
        raise Absent("the step 'ops' has no op")
    return rows


def named(row):
    return f"{row['op']} {row['tokens']}"


def listed(rows, value):
    """The worst few of them, worst first."""
    rows = sorted(rows, key=value)
    return ", ".join(f"{named(row)} {100 * value(row):.0f} %" for row in rows[:6]) + (", ..." if len(rows) > 6 else "")


def products(data):
    """A target for each model and type."""
    groups = {}
    for row in op_rows(data):
        if "of_bare" in row:
            groups.setdefault((row["model"], row["dtype"]), []).append(row)
    if not groups:
        raise Absent("no op of the step 'ops' has a bare cuBLAS call beside it")
    for (model, dtype), rows in groups.items():
        below = [row for row in rows if row["of_bare"] < BARE]
        worst = min(row["of_bare"] for row in rows)
        why = f"{len(below)} of {len(rows)} below: " + listed(below, lambda row: row["of_bare"]) if below else ""
        yield target(f"products of {model} in {dtype}: each op of a bare cuBLAS call", f">= {100 * BARE:.0f} %",
                     f"{100 * worst:.0f} % at least", not below, why)


def pinned_rates(data):
    """{way: [(bytes, GB/s of copies in a row)]}"""
    rates = {}
    for row in details_of(data, "copies").get("results", ()):
        if row.get("kind") == "copy" and row["host_memory"] == "pinned":
            rates.setdefault(row["way"], []).append((row["bytes"], row["gb_per_s_in_a_row"]))
    if not {"to_device", "from_device"} <= set(rates):
        raise Absent("the step 'copies' has no pinned copies")
    return rates


def rate_near(rates, count):
    """Of the copies of the nearest size."""
    return min(rates, key=lambda entry: abs(math.log2(entry[0] / count)))[1]


def dims_of(model):
    try:
        return llama.read_dims(os.path.join(CONFIGS, model + ".json"))
    except llama.Refused as reason:
        raise Absent(str(reason)) from None


def linear_op(row):
    dims = dims_of(row["model"])
    terms = llama.Terms(llama.DTYPE_BYTES[row["dtype"]], llama.DTYPE_BYTES[row["dtype"]])
    return llama.linear_op(row["op"], row["tokens"], [dims.weight(kind) for kind in llama.LINEARS[row["op"]]], terms, terms.wire)


def copies(data):
    """Of the copies that ops make of large tensors, one target each way."""
    rates = pinned_rates(data)
    linears = [(row, linear_op(row)) for row in op_rows(data) if row["op"] in llama.LINEARS and row["dtype"] in llama.DTYPE_BYTES]
    for way, key, part in (("to_device", "copy_in_ns_median", "sent"), ("from_device", "copy_out_ns_median", "received")):
        shares = []
        for row, op in linears:
            count = getattr(op, part)
            if count >= LARGE_BYTES and row[key]:
                shares.append((count / row[key] / rate_near(rates[way], count), row))
        if not shares:
            raise Absent(f"no op moves {LARGE_BYTES >> 20} MiB {way.replace('_', ' ')}")
        below = [(share, row) for share, row in shares if share < COPY]
        why = ""
        if below:
            share_of = {id(row): share for share, row in below}
            why = f"{len(below)} of {len(shares)} below: " + listed([row for _, row in below], lambda row: share_of[id(row)])
        yield target(f"an op's copies {way.replace('_', ' ')}, of a pinned copy loop", f">= {100 * COPY:.0f} %",
                     f"{100 * min(share for share, _ in shares):.0f} % at least", not below, why)


def prefill_row(data, tokens):
    """The case with attention in the TEE."""
    details = details_of(data, "prefill")
    if not details.get("config", "").endswith(SHAPE + ".json"):
        raise Absent(f"the prefills are of {os.path.basename(details.get('config', '')) or 'another shape'}, asked is {SHAPE}")
    row = next((row for row in details["rows"] if (row["tokens"], row["attention"]) == (tokens, "tee")), None)
    if row is None or "pair_ms_median" not in row:
        raise Absent(f"no prefill of {tokens} tokens with attention in the TEE")
    return row


def bound(data):
    """The pair against the longer of what its bytes take at the pinned rate and what the TEE's kernels take."""
    row = prefill_row(data, 1024)
    if not row.get("kernels_ns") or "sent_bytes" not in row:
        raise Absent("the prefill has no statistics of the runner")
    rates = {way: max(rate for _, rate in of_way) for way, of_way in pinned_rates(data).items()}
    link_ms = (row["sent_bytes"] / rates["to_device"] + row["received_bytes"] / rates["from_device"]) / 1e6
    kernels_ms = sum(row["kernels_ns"].values()) / 1e6
    ratio = row["pair_ms_median"] / max(link_ms, kernels_ms)
    yield target("prefill of 1024 tokens as a pair, of the longer of link and kernels", f"<= {OVER_BOUND:g}x", f"{ratio:.2f}x",
                 ratio <= OVER_BOUND, f"pair {row['pair_ms_median']:.1f} ms, bytes at the link's rate {link_ms:.1f} ms, "
                 f"kernels {kernels_ms:.1f} ms")


def prefill_seconds(data, tokens):
    limit_s, cores = PREFILLS[tokens]
    seconds, has = prefill_row(data, tokens)["pair_ms_median"] / 1e3, data["host"]["cpus"] or 1
    if seconds > limit_s and has < cores:
        raise Absent(f"asked with {cores} cores, this machine has {has} and took {1e3 * seconds:.1f} ms")
    yield target(f"prefill of {tokens} tokens as a pair", f"< {1e3 * limit_s:g} ms" + (f" with {cores} cores" if cores > 1 else ""),
                 f"{1e3 * seconds:.1f} ms", seconds < limit_s, f"{has} cores")


def decode(data):
    details = details_of(data, "decode")
    if not details.get("config", "").endswith(SHAPE + ".json"):
        raise Absent(f"the answers are of another shape than {SHAPE}")
    if not details.get("token_ns_median"):
        raise Absent("the step 'decode' has no figures")
    seconds = details["token_ns_median"] / 1e9
    yield target("a token of one answer", f"< {1e3 * DECODE_S:g} ms", f"{1e3 * seconds:.2f} ms", seconds < DECODE_S)


TARGETS = {"products": products, "copies": copies, "bound of a prefill of 1024 tokens": bound,
           **{f"prefill of {tokens} tokens": lambda data, tokens=tokens: prefill_seconds(data, tokens) for tokens in PREFILLS},
           "a token of one answer": decode}


def verdicts(data):
    """A list of {"target", "asked", "got", "verdict", "why"}; what the report does not tell is not run, and says why."""
    said = []
    for name, function in TARGETS.items():
        try:
            said += list(function(data))  # all of a target's or none
        except Absent as reason:
            said.append(not_run(name, str(reason)))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
            said.append(not_run(name, f"the report is not as it should be: {type(error).__name__}: {error}"))
    return said


def not_run(name, why):
    return {"target": name, "asked": "", "got": "", "verdict": NOT_RUN, "why": why}


def line_of(said):
    got = f"{said['got']}, asked {said['asked']}" if said["got"] else ""
    return "  ".join(filter(None, (f"{said['verdict']:>8}  {said['target']}", got, f"({said['why']})" if said["why"] else "")))
