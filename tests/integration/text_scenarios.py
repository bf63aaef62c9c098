"""Words in, words out: tee_runner generate and chat."""
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request

from pair import ROOT, read_json, wait_until
from tiny_model import write_model, write_tokenizer

DATA = os.path.join(ROOT, "..", "shared", "data")
# Of prompts and answers whose steps are surer than that, relative to the largest logit (the golden models' README).
SURE = {"fp32": 0.01, "bf16": 0.6}


def text_model(pair, **how):
    """A random model that has words."""
    return write_tokenizer(write_model(pair.path("model")), **how)


def generate(pair, *args, model, code=0, **streams):
    return pair.start("tee_runner", "generate", "--endpoint", pair.endpoint, "--model", model, *args, **streams).expect_exit(code)


def answer(pair, *args, **kwargs):
    return json.loads(generate(pair, "-o", "json", *args, **kwargs).stdout())


def answer_of_the_pair_is_that_of_one_process(pair):
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    stats = pair.path("stats.json")
    for how in ((), ("--temperature", "0.9", "--top-p", "0.9", "--seed", "5"), ("--cache-type", "bf16"),
                ("--repetition-penalty", "1.3", "--top-k", "20", "--temperature", "2")):
        asked = ("--prompt", "Airlock hides", "--max-tokens", 24, "--ignore-eos", *how)
        remote = answer(pair, *asked, "--stats-json", stats, model=model)
        local = answer(pair, *asked, "--backend", "local", model=model)
        assert remote["ids"] == local["ids"] and remote["text"] == local["text"], (how, remote, local)
        assert len(remote["ids"]) == 24 and remote["finish_reason"] == "length" and remote["prompt_tokens"] == 9, remote
    text = read_json(stats)["text"]
    assert text["prompt_tokens"] == 9 and text["generated_tokens"] == 24 and text["ttft_ns"]["p50"] > 0, text
    assert sum(count for _, count in text["itl_ns"]["buckets"]) == 23 and text["cache_peak_bytes"] > 0, text
    pair.stop(server)


def answer_streams_as_text_and_ends_at_a_stop_string(pair):
    model = text_model(pair)
    pair.server(model=("--model", model))
    asked = ("--prompt", "Airlock hides", "--temperature", "1", "--seed", "3", "--max-tokens", 60)
    whole = generate(pair, *asked, model=model).stdout()
    same = answer(pair, *asked, model=model)
    assert whole == same["text"] and len(same["ids"]) == 60, (whole, same)
    stop = next(whole[i:i + 2] for i in range(10, len(whole) - 2) if whole.isascii() or whole[i:i + 2].isascii())
    cut = answer(pair, *asked, "--stop", stop, model=model)
    assert cut["finish_reason"] == "stop" and cut["text"] == whole[:whole.index(stop)], (stop, cut, whole)
    with open(pair.path("prompt.txt"), "w", encoding="utf-8") as file:
        file.write("Airlock hides")
    assert generate(pair, "--prompt-file", pair.path("prompt.txt"), *asked[2:], model=model).stdout() == whole


def recorded_answer_is_shown_and_replayed(pair):
    model, trace = text_model(pair), pair.path("answer.jsonl")
    server = pair.server(model=("--model", model))
    asked = answer(pair, "--prompt", "Airlock hides", "--max-tokens", 9, "--ignore-eos", "--record", trace, model=model)
    shown = pair.start("airlock_trace", "show", trace).expect_exit(0).stdout()
    assert "lm_head" in shown, shown
    with open(trace, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    rows = [record["inputs"][0]["shape"][0] for record in lines[1:] if record["op"] == "embedding"]
    assert rows == [asked["prompt_tokens"]] + [1] * 8, rows
    pair.start("tee_runner", "replay", trace, "--endpoint", pair.endpoint).expect_exit(0)
    pair.stop(server)


def conversation_is_rendered_without_a_server(pair):
    model = text_model(pair)
    messages = pair.path("messages.json")
    with open(messages, "w", encoding="utf-8") as file:
        json.dump([{"role": "user", "content": "<|im_end|>hi"}], file)
    rendered = answer(pair, "--messages", messages, "--max-tokens", 0, "--chat-template", "chatml", model=model)
    text = "<|im_start|>user\n<|im_end|>hi<|im_end|>\n<|im_start|>assistant\n"
    assert rendered["prompt_text"] == text, rendered
    # The user's end of a turn is no end: one token begins and ends it, and another begins the answer.
    assert [i for i in rendered["prompt_ids"] if i in (256, 257, 258)] == [257, 258, 257], rendered
    with open(messages, "w", encoding="utf-8") as file:
        json.dump([{"role": "tool", "content": "x"}], file)
    generate(pair, "--messages", messages, "--max-tokens", 0, "--chat-template", "chatml", model=model, code=1)


def what_cannot_be_answered_is_refused(pair):
    model = text_model(pair)
    for args, code, word in ((("--prompt", "x", "--attention", "offload"), 2, "prefill alone"),
                             ((), 2, "give a prompt"),
                             (("--prompt", "x", "--tokens", "1"), 2, "--tokens"),
                             (("--prompt", "x", "--temperature", "-1"), 2, "temperature"),
                             (("--prompt", "x", "--record", os.path.join(model, "config.json")), 2, "--record would"),
                             (("--prompt", "x", "--stats-json", os.path.join(model, "tokenizer.json")), 2, "would write"),
                             (("--prompt", "", "--backend", "local"), 1, "empty"),
                             (("--prompt", "x" * 2100, "--backend", "local"), 1, "context of 2048"),
                             (("--prompt", "x", "--chat", "--backend", "local"), 1, "chat template"),
                             (("--prompt", "x", "--cache-bytes", "10K", "--backend", "local"), 5, "blocks"),
                             (("--prompt", "x", "--timeout-ms", "50"), 3, "no server")):
        said = generate(pair, *args, model=model, code=code).stderr()
        assert word in said, (args, said)
    os.truncate(os.path.join(model, "tokenizer.json"), 1000)
    assert "tokenizer.json" in generate(pair, "--prompt", "x", "--backend", "local", model=model, code=1).stderr()
    os.remove(os.path.join(model, "tokenizer.json"))
    ids = answer(pair, "--tokens", "1,2,3", "--backend", "local", "--max-tokens", 3, model=model)
    assert len(ids["ids"]) == 3 and ids["text"] == "", ids


def server_killed_under_an_answer_is_told(pair):
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    asked = pair.start("tee_runner", "generate", "--endpoint", pair.endpoint, "--model", model, "--prompt", "x",
                       "--max-tokens", 2000, "--ignore-eos")
    wait_until(lambda: len(asked.stdout()) > 5, "an answer that has begun")
    server.signal(signal.SIGKILL)
    asked.expect_exit(3)
    assert re.search("the server|connection", asked.stderr()), asked.stderr()


def chat_goes_on_after_an_answer_was_stopped(pair):
    model = text_model(pair)
    pair.server(model=("--model", model))
    read, write = os.pipe()
    with os.fdopen(write, "w") as keys:
        talk = pair.start("tee_runner", "chat", "--endpoint", pair.endpoint, "--model", model, "--chat-template", "chatml",
                          "--system", "be brief", "--max-tokens", 1500, "--ignore-eos", stdin=read)
        os.close(read)
        print("hello", file=keys, flush=True)
        wait_until(lambda: len(talk.stdout()) > 5, "an answer that has begun")
        talk.signal(signal.SIGINT)
        wait_until(lambda: talk.stdout().endswith("\n"), "its end")
        stopped = len(talk.stdout())
        print("/help\n/undo\n/history\n/nonsense\nagain", file=keys, flush=True)
        wait_until(lambda: len(talk.stdout()) > stopped + 700, "another answer")
        assert "be brief" in talk.stdout()[stopped:] and "user: hello" not in talk.stdout()[stopped:], talk.stdout()
        talk.signal(signal.SIGINT)
        print("/quit", file=keys, flush=True)
        talk.expect_exit(0)


def greedy_answers_are_those_of_transformers(pair):
    folder = os.path.join(DATA, "golden", "text-kjv")
    if not os.path.isdir(folder):
        return "../shared/data/golden/text-kjv is not there"
    server = pair.server(model=("--model", folder))
    for case in read_json(os.path.join(folder, "text_cases.json"))["greedy"]:
        count = len(case["new_ids"])
        for how in (("--wire", "fp32"), ("--wire", "fp32", "--backend", "local", "--dtype", "fp32"), ()):
            got = answer(pair, "--prompt", case["prompt"], "--max-tokens", count, "--ignore-eos", *how, model=folder)
            assert got["prompt_ids"] == case["prompt_ids"], got
            bound = SURE["fp32" if "--dtype" in how else "bf16"]
            sure = next((i for i, margin in enumerate(case["margin"]) if margin <= bound), count)
            assert sure > 0 or "--dtype" not in how, case["margin"]
            assert got["ids"][:sure] == case["new_ids"][:sure], (how, sure, got["ids"], case["new_ids"])
            if sure == count:
                assert got["text"] == case["text"], got
    pair.stop(server)
    return None


def small_chat_model_answers_as_transformers_does(pair):
    cases, folder = os.path.join(DATA, "smollm2", "chat_greedy.json"), model_in_cache()
    if not os.path.exists(cases) or folder is None:
        return "../shared/data/smollm2, or the model of `tools/fetch_model smollm2`, is not there"
    server = pair.server(model=("--model", folder))
    for number, case in enumerate(read_json(cases)):
        messages = pair.path(f"{number}.json")
        with open(messages, "w", encoding="utf-8") as file:
            json.dump(case["messages"], file)
        got = answer(pair, "--messages", messages, "--max-tokens", 64, "--wire", "fp32", model=folder)
        assert got["prompt_text"] == case["rendered"] and got["prompt_ids"] == case["prompt_ids"], got
        sure = next((i for i, margin in enumerate(case["margin"]) if margin <= SURE["bf16"]), len(case["margin"]))
        assert got["ids"][:sure] == case["new_ids"][:sure], (sure, got["ids"], case["new_ids"])
    pair.stop(server)
    return None


def endpoint(pair, model, *args):
    """`tee_runner serve` that answers; its .url."""
    serve = pair.start("tee_runner", "serve", "--endpoint", pair.endpoint, "--model", model, "--chat-template", "chatml",
                       "--listen", "127.0.0.1:0", *args)
    wait_until(lambda: "ready " in serve.stdout() or not serve.running(), "ready")
    assert serve.stdout().startswith("ready http://"), serve.report()
    serve.url = serve.stdout().split()[1]
    return serve


def ask(serve, prompt, count=20, **more):
    """Status and what was said."""
    body = json.dumps({"model": "model", "prompt": prompt, "max_tokens": count, "temperature": 0, **more}).encode()
    request = urllib.request.Request(serve.url + "/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.status, json.load(reply)["choices"][0]["text"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]["message"]


def status_of(serve, path):
    try:
        with urllib.request.urlopen(serve.url + path, timeout=60) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def endpoint_answers_and_is_back_when_its_server_is(pair):
    model = text_model(pair)
    server = pair.server(model=("--model", model))
    serve = endpoint(pair, model)
    said = ask(serve, "Airlock hides")
    assert said == (200, answer(pair, "--prompt", "Airlock hides", "--max-tokens", 20, model=model)["text"]), said
    with open(f"/proc/{serve.pid}/limits", encoding="utf-8") as file:
        assert re.search(r"Max core file size +0 +0 ", file.read())
    with urllib.request.urlopen(serve.url + "/metrics", timeout=60) as reply:
        metrics = reply.read().decode()
    assert "airlock_serve_itl_seconds_count 19\n" in metrics and "airlock_serve_kept_prefixes 1\n" in metrics, metrics
    server.signal(signal.SIGKILL)
    wait_until(lambda: status_of(serve, "/readyz") == 503, "that the server is missed")
    assert ask(serve, "Airlock hides")[0] == 503 and status_of(serve, "/healthz") == 200
    pair.server(model=("--model", model))
    wait_until(lambda: status_of(serve, "/readyz") == 200, "that the server is there again")
    assert ask(serve, "Airlock hides") == said
    serve.signal(signal.SIGTERM)
    serve.expect_exit(0)
    assert "Airlock hides" not in serve.stderr() and said[1] not in serve.stderr(), serve.stderr()


def two_hundred_clients_get_their_own_answers(pair):
    """Over 5 s; AIRLOCK_CLIENTS_S: so many seconds instead."""
    model = text_model(pair)
    pair.server(model=("--model", model))
    serve = endpoint(pair, model, "--max-queue", 400, "--cache-bytes", "3M")
    prompts = [f"{chr(97 + i) * (1 + i * 5 % 40)} asks {i}" for i in range(24)]
    alone = {prompt: ask(serve, prompt) for prompt in prompts}
    assert all(status == 200 and text for status, text in alone.values()), alone
    assert len(set(alone.values())) > 20, "the answers tell the questions apart"
    end = time.monotonic() + float(os.environ.get("AIRLOCK_CLIENTS_S", "5"))
    wrong, count = [], [0] * 200

    def talk(client):
        while time.monotonic() < end and not wrong:
            prompt = prompts[(client + count[client]) % len(prompts)]
            got = ask(serve, prompt)
            if got != alone[prompt]:
                wrong.append((prompt, got, alone[prompt]))
            count[client] += 1

    clients = [threading.Thread(target=talk, args=(client,)) for client in range(200)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert not wrong and min(count) >= 1, (wrong[:3], min(count))
    print(f"{sum(count)} answers to 200 clients")
    serve.signal(signal.SIGTERM)
    serve.expect_exit(0)


def model_in_cache():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(cache, "airlock", "models", "smollm2")
    return folder if os.path.exists(os.path.join(folder, "config.json")) else None


SCENARIOS = (
    answer_of_the_pair_is_that_of_one_process,
    answer_streams_as_text_and_ends_at_a_stop_string,
    recorded_answer_is_shown_and_replayed,
    conversation_is_rendered_without_a_server,
    what_cannot_be_answered_is_refused,
    server_killed_under_an_answer_is_told,
    chat_goes_on_after_an_answer_was_stopped,
    endpoint_answers_and_is_back_when_its_server_is,
    two_hundred_clients_get_their_own_answers,
    greedy_answers_are_those_of_transformers,
    small_chat_model_answers_as_transformers_does,
)
