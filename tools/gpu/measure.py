"""compute-sanitizer and the benchmarks: the steps of gpu_check that come last. Functions of the context, as in steps.py."""
import json
import os
import statistics

import machine
from report import Failed, NotRun, run, say
from steps import (BENCH_LIMIT_S, ROOT, SANITIZER_LIMIT_S, Processes, conformance_env, token_counts)

# Of the ops named by docs: 95 % of a bare cuBLAS call is the goal. It is reported, and decides nothing.
GOAL = 0.95


def sanitizer_filter(program):
    """Options that limit a tool to our own kernels; cuBLAS reads padding and shares memory in ways of its own."""
    text = machine.output_of([program, "--help"]) or ""
    for option in ("--kernel-regex", "--filter"):
        if option in text:
            return [option, "kns=airlock"]
    return None


def sanitizer(context):
    """memcheck on all of the conformance suite, initcheck and racecheck on our own kernels."""
    program = machine.find_sanitizer(context.toolkit["root"])
    if program is None:
        raise NotRun("compute-sanitizer is not installed on this machine (package cuda-sanitizer)")
    test = context.program("cuda_conformance_test")
    only_ours = sanitizer_filter(program)
    results, faults = {}, []
    for tool in ("memcheck", "initcheck", "racecheck"):
        limits = [] if tool == "memcheck" else only_ours
        if limits is None:
            results[tool] = "not run: this compute-sanitizer cannot be limited to some kernels"
            continue
        # Calls that fail are among what the suite tries; what they return is tested there.
        options = ["--report-api-errors", "no"] if tool == "memcheck" else []
        log = context.log(f"{tool}.log")
        try:
            run([program, "--tool", tool, *options, *limits, "--error-exitcode", "86", test], log, SANITIZER_LIMIT_S,
                conformance_env(context))
            results[tool] = "passed"
        except Failed as fault:
            results[tool] = f"failed: {fault}"
            faults.append(f"{tool}: {fault}")
        say(f"{tool}: {results[tool]}")
    if faults:
        raise Failed("; ".join(faults))
    return results


def cuda_bench(context, name, *args):
    """The JSON of one part of cuda_bench."""
    out = context.log(f"bench-{name}.json")
    run([context.program("cuda_bench"), *args], context.log(f"bench-{name}.log"), BENCH_LIMIT_S,
        context.env, stdout=out)
    with open(out, encoding="utf-8") as file:
        return json.load(file)


def measured(context, name, *args):
    """cuda_bench's figures with the clocks before and after."""
    before = machine.clocks(context.args.gpu)
    result = cuda_bench(context, name, *args)
    for record in result["results"]:
        if record.get("kind") == "not_run":
            say(f"not run: {record['what']}: {record['why']}")
    return dict(result, clocks_before=before, clocks_after=machine.clocks(context.args.gpu))


def bench_copies(context):
    result = measured(context, "copies", "copies")
    for row in result["results"]:
        if row["kind"] == "copy":
            say(f"{row['way']:>12} {row['host_memory']:>9} {row['bytes'] / 2**20:9.4g} MiB  {row['gb_per_s']:7.2f} GB/s, "
                f"in a row {row['gb_per_s_in_a_row']:7.2f}")
    return result


def bench_ops(context):
    configs = [os.path.join(ROOT, "tests", "data", "configs", name)
               for name in ("llama-3.2-1b.json", "llama-3.1-8b.json")]
    result = measured(context, "ops", "ops", "--cuda-module", context.module(), "--tokens", context.args.tokens,
                      *(part for config in configs for part in ("--config", config)))
    below = 0
    for row in result["results"]:
        if row["kind"] != "op" or "of_bare" not in row:
            continue
        below += row["of_bare"] < GOAL
        say(f"{row['model']:>13} {row['dtype']} {row['op']:>9} {row['tokens']:>5}  {row['tflop_per_s']:7.2f} TFLOP/s, bare "
            f"{row['bare_tflop_per_s']:7.2f} ({100 * row['of_bare']:.0f} %); whole {row['whole_ns_median'] / 1e3:.0f} us")
    result["below_goal"] = below
    say(f"{below} ops are below {100 * GOAL:.0f} % of a bare cuBLAS call")
    return result


def op_kind(record):
    """An op of a trace by what it computes, in cuda_bench's words; the first weight names a group."""
    if record["op"] == "matmul":
        return "qk" if record.get("transpose") == "b" else "pv"
    groups = {"q_proj": "qkv", "o_proj": "o", "gate_proj": "gate_up", "down_proj": "down"}
    return groups.get(record["weights"][0][1], "linear") if record.get("weights") else record["op"]


def parts_of_ops(trace_path):
    """Medians of each part of an op's time, of a trace: {kind: {"count", "total_ns", "tee_ns", ...}}."""
    groups = {}
    with open(trace_path, encoding="utf-8") as file:
        next(file)  # the head
        for line in file:
            record = json.loads(line)
            if "total_ns" in record and record.get("run", 0) > 0:  # the first prefill warms up
                groups.setdefault(op_kind(record), []).append(record)
    parts = ("total_ns", "tee_ns", "wire_ns", "queue_ns", "server_ns")
    return {kind: {"count": len(records), **{part: statistics.median(r[part] for r in records) for part in parts}}
            for kind, records in groups.items()}


def pair_round(context, cases, rows):
    """One server; of each case a warm-up and ten counted prefills, and what the ops of two more took, by part."""
    with Processes(context, ("--synthetic", context.args.config)) as processes:
        for case, row in zip(cases, rows):
            tokens, attention = case
            arguments = ("--random-tokens", tokens, "--seed", 1, "--wire", "bf16", "--attention", attention)
            result, _ = processes.prefill(*arguments, "--repeat", 11)
            row["pair_ns"] += result["runs_ns"][1:]
            trace = processes.pair.path(f"{tokens}-{attention}.jsonl")
            processes.prefill(*arguments, "--repeat", 3, "--record", trace)
            row["ops_by_part"] = parts_of_ops(trace)
        return processes.stop().get("host")


def one_process_round(context, cases, rows):
    """The same prefills by cuda_bench, which loads the model once for each way of attention."""
    for attention in dict.fromkeys(attention for _, attention in cases):
        result = cuda_bench(context, f"prefill-{attention}", "prefill", "--cuda-module", context.module(), "--config",
                            context.args.config, "--dtype", "bf16", "--tokens", context.args.tokens, "--attention", attention)
        for record in result["results"]:
            rows[cases.index((record["tokens"], attention))]["one_process"].append(record)


def bench_prefill(context):
    """The pair and the same backend in one process, in turn: pair, one process, pair, one process."""
    cases = [(tokens, attention) for attention in ("offload", "tee") for tokens in token_counts(context)]
    rows = [{"tokens": tokens, "attention": attention, "wire": "bf16", "pair_ns": [], "one_process": []}
            for tokens, attention in cases]
    host = None
    for _ in range(2):
        host = pair_round(context, cases, rows)
        one_process_round(context, cases, rows)
    for row in rows:
        pair_ms = statistics.median(row["pair_ns"]) / 1e6
        alone_ms = statistics.median(record["wall_ns_median"] for record in row["one_process"]) / 1e6
        row.update(pair_ms_median=pair_ms, one_process_ms_median=alone_ms, over=pair_ms / alone_ms - 1)
        say(f"{row['tokens']} tokens, {row['attention']}: pair {pair_ms:.2f} ms, one process {alone_ms:.2f} ms "
            f"({100 * row['over']:+.1f} %)")
    return {"config": os.path.relpath(context.args.config, ROOT), "rows": rows, "server_host": host}
