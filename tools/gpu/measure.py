"""The steps of gpu_check that measure, and compute-sanitizer, which takes long. Functions of the context and the
details, as in steps.py."""
import json
import os
import statistics

from gpu import machine
from gpu.report import Failed, NotRun, last_lines, say
from gpu.steps import random_tokens, serve
from pair import CONFIGS, ROOT, read_json

# Of the ops named by docs: 95 % of a bare cuBLAS call is the goal. It is reported, and decides nothing.
GOAL = 0.95
PREFILLS = 11  # of a run, one of them a warm-up
RECORDED = 3  # of a run with a trace, likewise
ANSWER = 33  # tokens


def cuda_bench(context, name, *args):
    """The JSON of one part of cuda_bench."""
    out = context.log(f"bench-{name}.json")
    context.run([context.program("cuda_bench"), *args], f"bench-{name}.log", stdout=out)
    return read_json(out)


def measured(context, details, name, *args):
    """Puts cuda_bench's figures in the details, with the clocks before and after."""
    details["clocks_before"] = machine.clocks(context.args.gpu)
    details.update(cuda_bench(context, name, *args), clocks_after=machine.clocks(context.args.gpu))
    for record in details["results"]:
        if record.get("kind") == "not_run":
            say(f"not run: {record['what']}: {record['why']}")


def bench_copies(context, details):
    """cuda_bench copies: GB/s to the device and back, pinned and unpinned, beside memcpy."""
    measured(context, details, "copies", "copies")
    for row in details["results"]:
        if row["kind"] == "copy":
            say(f"{row['way']:>12} {row['host_memory']:>9} {row['bytes'] / 2**20:9.4g} MiB  {row['gb_per_s']:7.2f} "
                f"GB/s, in a row {row['gb_per_s_in_a_row']:7.2f}")


def bench_ops(context, details):
    """cuda_bench ops: TFLOP/s of each op of two models, beside a bare cuBLAS call."""
    configs = [f"--config={os.path.join(CONFIGS, name)}" for name in ("llama-3.2-1b.json", "llama-3.1-8b.json")]
    measured(context, details, "ops", "ops", "--cuda-module", context.module, "--tokens", context.args.tokens, *configs)
    details["below_goal"] = 0
    for row in details["results"]:
        if row["kind"] != "op" or "of_bare" not in row:
            continue
        details["below_goal"] += row["of_bare"] < GOAL
        say(f"{row['model']:>13} {row['dtype']} {row['op']:>11} {row['tokens']:>5}  {row['tflop_per_s']:7.2f} TFLOP/s, "
            f"bare {row['bare_tflop_per_s']:7.2f} ({100 * row['of_bare']:.0f} %); whole "
            f"{row['whole_ns_median'] / 1e3:.0f} us")
    say(f"{details['below_goal']} ops are below {100 * GOAL:.0f} % of a bare cuBLAS call")


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


def of_one_prefill(stats, fewer):
    """What the runner's statistics say of one of its warm prefills: time of kernels, bytes of tensors there and back.
    `fewer`: those of a run of RECORDED prefills, one of them cold too, so that the difference is of warm ones alone."""
    count = PREFILLS - RECORDED

    def bytes_of(said, way):
        return sum(path[way]["bytes"] for path in said["paths"].values())
    moved = {way + "_bytes": (bytes_of(stats, way) - bytes_of(fewer, way)) / count for way in ("sent", "received")}
    kernels = {kernel: max(0, of["total_ns"] - fewer["tee"][kernel]["total_ns"]) / count
               for kernel, of in stats["tee"].items() if of["calls"]}
    return moved | {"kernels_ns": kernels}


def pair_round(context, details):
    """One server; of each case a warm-up and ten counted prefills, and what the ops of two more took, by part."""
    with serve(context, ("--synthetic", context.args.config)) as served:
        for row in details["rows"]:
            say(f"prefill of {row['tokens']} tokens, {row['attention']}, by the pair")
            args, tokens = ("--wire", "bf16", "--attention", row["attention"]), random_tokens(row["tokens"])
            result, stats = served.prefill(*args, "--repeat", PREFILLS, tokens=tokens)
            row["pair_ns"] += result["runs_ns"][1:]
            trace = served.pair.path("trace.jsonl")
            _, fewer = served.prefill(*args, "--repeat", RECORDED, "--record", trace, tokens=tokens)
            row.update(of_one_prefill(read_json(stats), read_json(fewer)))
            row["ops_by_part"] = parts_of_ops(trace)
        details["server_host"] = served.stop().get("host")


def one_process_round(context, details):
    """The same prefills by cuda_bench, which loads the model once for each way of attention."""
    for attention in ("offload", "tee"):
        result = cuda_bench(context, f"prefill-{attention}", "prefill", "--cuda-module", context.module, "--config",
                            context.args.config, "--dtype", "bf16", "--tokens", context.args.tokens,
                            "--attention", attention)
        for row in details["rows"]:
            row["one_process"] += [record for record in result["results"]
                                   if (row["attention"], row["tokens"]) == (attention, record["tokens"])]


def bench_prefill(context, details):
    """Prefills by the pair, and by cuda_bench prefill, the same backend in one process: in turn, two rounds."""
    rows = [{"tokens": tokens, "attention": attention, "wire": "bf16", "pair_ns": [], "one_process": []}
            for attention in ("offload", "tee") for tokens in context.tokens]
    details.update(config=os.path.relpath(context.args.config, ROOT), rows=rows)
    for _ in range(2):
        pair_round(context, details)
        one_process_round(context, details)
        for row in rows:  # after the first round too, should the time end in the second
            pair_ms = statistics.median(row["pair_ns"]) / 1e6
            alone_ms = statistics.median(record["wall_ns_median"] for record in row["one_process"]) / 1e6
            row.update(pair_ms_median=pair_ms, one_process_ms_median=alone_ms, over=pair_ms / alone_ms - 1)
            context.progress(f"{row['tokens']} tokens, {row['attention']}: pair {pair_ms:.2f} ms, one process "
                             f"{alone_ms:.2f} ms ({100 * row['over']:+.1f} %)")


def bench_decode(context, details):
    """tee_runner generate: three answers of one sequence by the pair, a token's time from the first token on."""
    details.update(config=os.path.relpath(context.args.config, ROOT), token_ns=[])
    with serve(context, ("--synthetic", context.args.config)) as served:
        for _ in range(3):
            runner = served.pair.start("tee_runner", "generate", *served.model, "--endpoint", served.pair.endpoint, "--threads",
                                       served.threads, "--wire", "bf16", "--tokens", "1,2,3,4", "--max-tokens", ANSWER,
                                       "--ignore-eos", "-o", "json").expect_exit(0, context.budget.left())
            said = json.loads(runner.stdout())
            details["token_ns"].append((said["wall_ns"] - said["ttft_ns"]) / (len(said["ids"]) - 1))
            details["token_ns_median"] = statistics.median(details["token_ns"])
            context.progress(f"an answer of {ANSWER} tokens: {details['token_ns'][-1] / 1e6:.2f} ms a token")
        served.stop()


def sanitizer_filter(program):
    """Options that limit a tool to our own kernels; cuBLAS reads padding and shares memory in ways of its own."""
    text = machine.output_of([program, "--help"]) or ""
    return next(([option, "kns=airlock"] for option in ("--kernel-regex", "--filter") if option in text), None)


def sanitizer(context, details):
    """compute-sanitizer: memcheck on all of the conformance suite, initcheck and racecheck on our own kernels."""
    program, test = machine.find_sanitizer(context.toolkit["root"]), context.program("cuda_conformance_test")
    if program is None:
        raise NotRun("compute-sanitizer is not installed on this machine (package cuda-sanitizer)")
    only_ours = sanitizer_filter(program)
    # Calls that fail are among what the suite tries; what they return is tested there.
    tools = {"memcheck": ["--report-api-errors", "no"], "initcheck": only_ours, "racecheck": only_ours}
    for tool, options in tools.items():
        if options is None:
            details[tool] = "not run: this compute-sanitizer cannot be limited to some kernels"
        elif not context.budget.left():
            details[tool] = "left out: no time was left"
        else:
            details[tool] = sanitize(context, [program, "--tool", tool, *options, "--error-exitcode", "86", test], tool)
        context.progress(f"{tool}: {details[tool]}")
    faults = [f"{tool}: {result}" for tool, result in details.items() if result.startswith(("failed", "left out"))]
    if faults:
        raise Failed("; ".join(faults))


def sanitize(context, command, tool):
    """How one tool ended, in words."""
    try:
        context.run(command, f"{tool}.log")
        return "passed"
    except Failed as fault:
        unsupported = "Device not supported" in last_lines(context.log(f"{tool}.log"), 100)
        return f"not run: it does not support this device ({fault})" if unsupported else f"failed: {fault}"
