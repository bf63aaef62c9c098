"""Makes traces with times, without running anything: the shapes are a prefill's, the times random but steady by seed."""
import json
import os
import random

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
CONFIGS = os.path.join(ROOT, "tests", "data", "configs")
WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2, "int32": 4}


def config_of(name):
    with open(os.path.join(CONFIGS, name + ".json"), encoding="utf-8") as file:
        config = json.load(file)
    heads = config["num_attention_heads"]
    return {"hidden_size": config["hidden_size"], "intermediate_size": config["intermediate_size"],
            "num_hidden_layers": config["num_hidden_layers"], "num_attention_heads": heads,
            "num_key_value_heads": config.get("num_key_value_heads", heads),
            "head_dim": config.get("head_dim", config["hidden_size"] // heads), "vocab_size": config["vocab_size"]}


def header_of(config, tokens, **changes):
    header = {"airlock_trace": 1, "source": "recorded", "build": "airlock 0.1.0",
              "host": {"name": "box", "cpu": "AMD EPYC", "cores": 2, "device": "cpu"},
              "started_at": "2026-11-21T16:40:00Z",
              "model": {"name": "llama-3.2-1b.json", "config": config, "digest": "6f0c" * 16}, "tokens": tokens,
              "runs": 1, "wire": "bf16", "dtype": "bf16", "attention": "offload", "backend": "remote",
              "path_limit_bytes": 10485760, "ring_slots": 8, "digests": False, "payload": None, "assumed": [],
              "wall_ns": None, "records": None, "dropped": 0}
    header.update(changes)
    return header


def plan(config, tokens, wire):
    """(op, layer, weights, inputs, outputs) of one prefill; tensors as (dtype, shape)."""
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    groups, dim = config["num_key_value_heads"], config["head_dim"]
    row = (wire, [tokens, hidden])
    yield "embedding", None, None, [("int32", [tokens])], [row]
    for layer in range(config["num_hidden_layers"]):
        kv = (wire, [tokens, groups * dim])
        yield ("batch_linear", layer, ["q_proj", "k_proj", "v_proj"], [row], [(wire, [tokens, heads * dim]), kv, kv])
        scores = (wire, [heads, tokens, tokens])
        yield "matmul", layer, "b", [(wire, [heads, tokens, dim]), (wire, [groups, tokens, dim])], [scores]
        yield "matmul", layer, "none", [scores, (wire, [groups, tokens, dim])], [(wire, [heads, tokens, dim])]
        yield "batch_linear", layer, ["o_proj"], [(wire, [tokens, heads * dim])], [row]
        wide = (wire, [tokens, inner])
        yield "batch_linear", layer, ["gate_proj", "up_proj"], [row], [wide, wide]
        yield "batch_linear", layer, ["down_proj"], [wide], [row]
    yield "lm_head", None, None, [(wire, [1, hidden])], [("fp32", [1, config["vocab_size"]])]


def tensor(dtype, shape, limit):
    size = WIDTH[dtype]
    for extent in shape:
        size *= extent
    return {"dtype": dtype, "shape": shape, "bytes": size, "path": "ring" if size < limit else "zmq"}


def records_of(header, seed=1):
    """The ops of header["runs"] prefills, one after the other."""
    numbers = random.Random(seed)
    clock, seq = 0, 0
    for run in range(header["runs"]):
        for op, layer, extra, inputs, outputs in plan(header["model"]["config"], header["tokens"], header["wire"]):
            limit = header["path_limit_bytes"]
            record = {"seq": seq, "run": run, "op": op, "layer": layer}
            if op == "batch_linear":
                record["weights"] = [[layer, name] for name in extra]
            if op == "matmul":
                record["transpose"] = extra
            record["inputs"] = [tensor(*one, limit) for one in inputs]
            record["outputs"] = [tensor(*one, limit) for one in outputs]
            size = sum(t["bytes"] for t in record["inputs"] + record["outputs"])
            parts = {"tee_ns": 2000 + size // 400 + numbers.randrange(3000),
                     "wire_ns": int((30000 + size // 3) * numbers.lognormvariate(0, 0.35)),
                     "queue_ns": numbers.randrange(9000), "server_ns": 60000 + 2 * size + numbers.randrange(90000)}
            record["slots"] = min(header["ring_slots"], numbers.choice((1, 1, 2, 2, 3, 4, 6)))
            record["start_ns"] = clock
            record["total_ns"] = sum(parts.values())
            record.update(parts)
            yield record
            clock += record["total_ns"] + numbers.randrange(20000, 400000)
            seq += 1


def write_trace(path, header, records=None, cut=False):
    """Writes a trace and gives its records; `cut`: as a run leaves it that was killed."""
    records = list(records_of(header) if records is None else records)
    if not cut:
        end = max((r["start_ns"] + r["total_ns"] for r in records), default=0)
        header = dict(header, wall_ns=end + 1234567, records=len(records))
    with open(path, "w", encoding="utf-8") as file:
        for value in [header, *records]:
            file.write(json.dumps(value, separators=(",", ":")) + "\n")
    return records
