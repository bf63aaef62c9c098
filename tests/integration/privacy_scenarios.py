"""tee_runner --privacy, with a real server that may stop or be another one. One that lies: tests/gpu_server/door_test.py."""
import json
import os
import re
import signal
import struct
import subprocess
import sys

from pair import ROOT, TINY, read_json, wait_until
from scenarios import read_bytes
from text_scenarios import answer, endpoint, model_in_cache, status_of, text_model
from tiny_model import write_model

WITH_A_SERVER = ("verify", "otp", "otp-verify")
TOKENS = ("--random-tokens", 17, "--seed", 3)


def dealer(pair, model):
    """A second server, and where it is."""
    folder = pair.path("dealer")
    os.mkdir(folder, 0o700)
    return pair.server(endpoint=f"ipc://{folder}/ctl", model=model)


def logits(pair, *args, model=("--synthetic", TINY), code=0, endpoint=None, tokens=TOKENS):
    """The bytes of a prefill's logits of all tokens."""
    out = pair.path(f"logits-{len(pair.started)}.npy")
    where = () if "tee-only" in args else ("--endpoint", endpoint or pair.endpoint)
    threads = () if "--threads" in args else ("--threads", 1)
    pair.start("tee_runner", "prefill", *model, *where, *tokens, *threads, "--all-logits", "--logits-out", out,
               *args).expect_exit(code)
    return read_bytes(out) if code == 0 else None


def words_of(path, name):
    """Shape and 32-bit words of a payload's tensor."""
    data = read_bytes(path)
    size, = struct.unpack_from("<Q", data)
    entry = json.loads(data[8:8 + size])[name]
    assert entry["dtype"] == "U32", entry
    begin, end = entry["data_offsets"]
    return entry["shape"], struct.unpack_from(f"<{(end - begin) // 4}I", data, 8 + size + begin)


def every_privacy_mode_gives_the_same_bits(pair):
    model = ("--synthetic", TINY)
    server, second = pair.server(model=model), dealer(pair, model)
    stats = pair.path("runner.json")
    for weights in ("w8", "w16", "auto"):
        alone = logits(pair, "--privacy", "tee-only", "--int8-weights", weights)
        for mode in WITH_A_SERVER:
            for _ in range(2):  # other pads each time
                got = logits(pair, "--privacy", mode, "--int8-weights", weights, "--stats-json", stats)
                assert got == alone, (mode, weights)
        for more in (("--pad-tokens", "32,64"), ("--chunk", 5), ("--threads", 2), ("--ring", "off"), ("--oblivious-embedding",),
                     ("--pool", "off"), ("--decode-rows", 20)):
            assert logits(pair, "--privacy", "otp-verify", "--int8-weights", weights, *more) == alone, (more, weights)
        assert logits(pair, "--privacy", "otp-dealer", "--dealer-endpoint", second.endpoint, "--int8-weights", weights) == alone
    said = read_json(stats)["privacy"]
    assert said["mode"] == "otp-verify" and said["failures"] == 0 and said["checks"] == said["pads_used"] > 0, said
    # One read of every weight plane: 4 linears a layer and lm_head, 17 rows each.
    layers = read_json(TINY)["num_hidden_layers"]
    assert said["pads_used"] == (4 * layers + 1) * 17, said
    assert logits(pair) != alone, "plain mode does not compute in integers"
    pair.stop(server)
    pair.stop(second)
    ops = server.stats()["ops"]
    assert ops["int_linear"]["calls"] > 0 and ops["pad_linear"]["calls"] == 0, ops
    ops = second.stats()["ops"]
    assert ops["pad_linear"]["calls"] > 0 and ops["int_linear"]["calls"] == 0 and ops["batch_linear"]["calls"] == 0, ops


def private_prefill_is_compared_with_this_process(pair):
    pair.server()
    said = pair.prefill("--privacy", "otp-verify", "--compare-local", tokens=TOKENS)
    assert said["compare_local"]["same_bits"], said


def recording_of_a_private_run_holds_masked_words(pair):
    pair.server()
    traces = [pair.path(name) for name in ("masked.jsonl", "plain.jsonl")]
    for trace, mode in zip(traces, ("otp-verify", "verify")):
        logits(pair, "--privacy", mode, "--record", trace, "--record-payload")
    for trace, hidden in zip(traces, (True, False)):
        with open(trace, encoding="utf-8") as file:
            ops = [json.loads(line) for line in file][1:]
        assert {op["op"] for op in ops} == {"int_linear"}, ops[0]
        shape, words = words_of(trace + ".safetensors", f"{ops[0]['seq']:06d}.in.0")
        assert shape == ops[0]["inputs"][0]["shape"] and len(words) == shape[0] * shape[1], shape
        small = sum(word < 1 << 20 or word > (1 << 32) - (1 << 20) for word in words) / len(words)
        assert (small < 0.05) if hidden else (small > 0.95), (hidden, small)
    # Two planes and rows that fill up: what crosses is more than what the driver asks for.
    logits(pair, "--privacy", "otp-verify", "--int8-weights", "w16", "--pad-tokens", "64", "--record", pair.path("wide.jsonl"),
           "--record-payload")
    shown = pair.start("airlock_trace", "show", traces[0]).expect_exit(0).stdout()
    assert "int_linear" in shown, shown


def privacy_options_that_contradict_are_refused(pair):
    model = ("--synthetic", TINY)
    for args in (("--privacy", "otp-verify", *TOKENS),  # without a model
                 ("--privacy", "otp-verify", *model, "--attention", "offload", *TOKENS),
                 ("--privacy", "tee-only", *model, "--endpoint", pair.endpoint, *TOKENS),
                 ("--privacy", "otp", *model, "--backend", "local", *TOKENS),
                 ("--privacy", "otp-dealer", *model, *TOKENS),
                 ("--privacy", "otp-dealer", *model, "--dealer-endpoint", "tcp://192.0.2.1:1", *TOKENS),
                 ("--privacy", "otp-dealer", *model, "--endpoint", pair.endpoint, "--dealer-endpoint", pair.endpoint, *TOKENS),
                 ("--privacy", "otp-verify", *model, "--dealer-endpoint", "ipc:///tmp/x", *TOKENS),
                 ("--privacy", "verify", *model, "--pad-tokens", "16", *TOKENS),
                 ("--privacy", "otp", *model, "--pad-tokens", "16,8", *TOKENS),
                 ("--privacy", "otp", *model, "--wire", "bf16", *TOKENS),
                 ("--privacy", "otp", *model, "--dtype", "bf16", *TOKENS),
                 ("--privacy", "otp-dealer", *model, "--endpoint", "tcp://127.0.0.1:4567", "--dealer-endpoint", "tcp://localhost:4567", *TOKENS),
                 ("--model-digest", "0" * 64, *TOKENS),
                 ("--privacy", "secret", *model, *TOKENS),
                 (*model, "--oblivious-embedding", *TOKENS)):
        pair.start("tee_runner", "prefill", *args).expect_exit(2)


def model_of_another_digest_is_refused(pair):
    model = write_model(pair.path("model"))
    pair.server(model=("--model", model))
    runner = pair.runner("--model-digest", "0" * 64, "--privacy", "otp-verify", model=("--model", model))
    runner.expect_exit(4)
    assert "digest" in runner.stderr(), runner.stderr()
    digest = re.search("digest ([0-9a-f]{64})", runner.stderr()).group(1)
    pair.runner("--model-digest", digest, "--privacy", "otp-verify", model=("--model", model)).expect_exit(0)


def server_without_weights_refuses_a_private_session(pair):
    pair.server("--no-model", model=())
    runner = pair.runner("--privacy", "otp-verify")
    assert runner.exit_code() in (3, 4), runner.report()
    assert "--no-model" in runner.stderr() or "model" in runner.stderr(), runner.stderr()


def private_answer_is_that_of_the_trusted_side_alone(pair):
    model = text_model(pair)
    server = pair.server("--int8", "preload", model=("--model", model))
    second = dealer(pair, ("--model", model))
    asked = ("--prompt", "Airlock hides", "--max-tokens", 24, "--ignore-eos")
    for how in ((), ("--temperature", "0.9", "--seed", "5")):
        alone = json.loads(pair.start("tee_runner", "generate", "-o", "json", "--model", model, *asked, *how, "--privacy",
                                      "tee-only").expect_exit(0).stdout())
        for mode in (*WITH_A_SERVER, "otp-dealer"):
            more = ("--dealer-endpoint", second.endpoint) if mode == "otp-dealer" else ()
            private = answer(pair, *asked, *how, *more, "--privacy", mode, model=model)
            assert private["ids"] == alone["ids"], (mode, private, alone)
        padded = answer(pair, *asked, *how, "--privacy", "otp-verify", "--pad-tokens", "16,32", "--decode-rows", 4, model=model)
        assert padded["ids"] == alone["ids"], padded
    pair.stop(server)
    pair.stop(second)
    ops = server.stats()["ops"]
    assert ops["embedding"]["calls"] == 0 and ops["batch_linear"]["calls"] == 0 and ops["matmul"]["calls"] == 0, ops


def private_endpoint_is_back_when_its_server_is(pair):
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    serve = endpoint(pair, model, "--privacy", "otp-verify")
    wait_until(lambda: status_of(serve, "/readyz") == 200, "ready")
    server.signal(signal.SIGKILL)
    wait_until(lambda: status_of(serve, "/readyz") == 503, "the server's end is known")
    pair.server(model=("--model", model))
    wait_until(lambda: status_of(serve, "/readyz") == 200, "ready again, with other pads")
    serve.signal(signal.SIGTERM)
    serve.expect_exit(0)


def dealer_that_goes_ends_the_answer(pair):
    model = text_model(pair)
    pair.server(model=("--model", model))
    second = dealer(pair, ("--model", model))
    runner = pair.start("tee_runner", "generate", "--endpoint", pair.endpoint, "--model", model, "--privacy", "otp-dealer",
                        "--dealer-endpoint", second.endpoint, "--prompt", "Airlock hides", "--max-tokens", 100000, "--ignore-eos",
                        "--context", 100000, "--op-timeout-ms", 20000)
    wait_until(lambda: len(runner.stdout()) > 4 or not runner.running(), "an answer")
    second.signal(signal.SIGKILL)
    assert runner.exit_code() == 3, runner.report()


def plan_says_what_each_mode_takes(pair):
    said = subprocess.run([sys.executable, "-B", os.path.join(ROOT, "tools", "plan"), "--bin-dir", pair.bin_dir, "--synthetic", TINY,
                           "--tokens", "8", "--answer", "3", "--threads", "1", "--device", "cpu", "-o", "json"],
                          capture_output=True, text=True, timeout=200, check=True)
    plan = json.loads(said.stdout)
    assert [row["mode"] for row in plan["modes"]] == ["plain", "verify", "otp", "otp-verify", "otp-dealer", "tee-only"], plan
    assert all(row["prefill_ms"] > 0 and row["token_ms"] > 0 for row in plan["modes"]), plan
    assert all(("pad_us" in row) == row["mode"].startswith("otp") for row in plan["modes"]), plan


def small_chat_model_answers_privately(pair):
    """SmolLM2, where tools/fetch_model has put it."""
    model = model_in_cache()
    if model is None:
        return "no model: tools/fetch_model smollm2"
    pair.server(model=("--model", model), threads=2)
    said = answer(pair, "--chat", "--prompt", "What is the capital of France?", "--privacy", "otp-verify", "--threads", 2,
                  "--max-tokens", 16, model=model)
    assert said["text"] == "The capital of France is Paris.", said
    return None


SCENARIOS = (every_privacy_mode_gives_the_same_bits, private_prefill_is_compared_with_this_process,
             recording_of_a_private_run_holds_masked_words, privacy_options_that_contradict_are_refused,
             model_of_another_digest_is_refused, server_without_weights_refuses_a_private_session,
             private_answer_is_that_of_the_trusted_side_alone, private_endpoint_is_back_when_its_server_is,
             dealer_that_goes_ends_the_answer, plan_says_what_each_mode_takes, small_chat_model_answers_privately)
