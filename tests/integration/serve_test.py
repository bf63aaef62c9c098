#!/usr/bin/env python3
"""`tee_runner serve` as its clients see it: curl, the Python package openai, a browser. One scenario a run: serve_test.py
--bin-dir DIR SCENARIO; --list names them all. The program is fake_serve, whose engine repeats prompts; AIRLOCK_SERVE names
another one, with its options, for those scenarios that ask nothing of an answer's words.

Exit 0: it holds; 1: it does not (everything that the processes said is printed); 77: skipped, with the reason."""
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "tools", "airlock_report"))
import browser  # noqa: E402
import scenarios  # noqa: E402

WATCHDOG_S = 120
KEY = "key-of-a-test-0123456789"
SECRET = "sesame-open-thou"


class Server:
    """The program, started and ready."""

    def __init__(self, command, work, number):
        self.command = command
        self.log_path = os.path.join(work, f"serve.{number}.err")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        self.url = None

    def wait_until_ready(self):
        ready, _, _ = select.select([self.process.stdout], [], [], WATCHDOG_S)
        line = self.process.stdout.readline().decode() if ready else ""
        assert re.fullmatch(r"ready https?://\S+:\d+\n", line), (line, self.log())
        self.url = line.split()[1]
        return self

    def log(self):
        with open(self.log_path, encoding="utf-8") as file:
            return file.read()

    def report(self):
        return f"--- {' '.join(self.command)}\nexit {self.process.poll()}\n{self.log()}"


class Rig:
    def __init__(self, bin_dir, work):
        self.work, self.started = work, []
        program = os.environ.get("AIRLOCK_SERVE")
        self.is_fake = program is None
        self.command = shlex.split(program) if program else [os.path.join(bin_dir, "fake_serve")]

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self, *options, port=0):
        server = Server([*self.command, "--listen", f"127.0.0.1:{port}", *options], self.work, len(self.started))
        self.started.append(server)
        return server

    def serve(self, *options):
        return self.start(*options).wait_until_ready()

    def keys(self):
        path = self.path("keys")
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(f"tester {KEY}\n")
        return path

    def run(self, *command, **options):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WATCHDOG_S, **options)

    def model(self, server):
        return json.loads(self.run("curl", "-ksS", server.url + "/v1/models").stdout)["data"][0]["id"]

    def close(self):
        for server in self.started:
            if server.process.poll() is None:
                server.process.kill()
            server.process.wait()
            server.process.stdout.close()


def body(model, text, **more):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 64, **more})


def curl_talks(rig):
    """One answer and one stream, over TLS whose certificate the client was given."""
    if shutil.which("curl") is None:
        return "no curl here"
    server = rig.serve("--tls-self-signed")
    asked = body(rig.model(server), "hello there")
    post = ("curl", "-ksS", "-H", "Content-Type: application/json", "-d")
    answer = json.loads(rig.run(*post, asked, server.url + "/v1/chat/completions").stdout)
    assert answer["choices"][0]["finish_reason"] in ("stop", "length"), answer
    assert not rig.is_fake or "hello there" in answer["choices"][0]["message"]["content"], answer
    stream = rig.run(*post, asked[:-1] + ', "stream": true}', server.url + "/v1/chat/completions").stdout
    assert stream.endswith("data: [DONE]\n\n"), stream
    # The printed digest is the certificate's.
    fingerprint = re.search(r"certificate SHA-256: ([0-9a-f]{64})", server.log()).group(1)
    shown = subprocess.run(["openssl", "s_client", "-connect", server.url.split("//")[1]], input="", capture_output=True,
                           text=True, timeout=WATCHDOG_S).stdout
    pem = shown[shown.index("-----BEGIN"):shown.index("-----END")] + "-----END CERTIFICATE-----\n"
    with open(rig.path("cert.pem"), "w", encoding="ascii") as file:
        file.write(pem)
    digest = rig.run("openssl", "x509", "-in", rig.path("cert.pem"), "-noout", "-fingerprint", "-sha256").stdout
    assert digest.split("=")[1].strip().replace(":", "").lower() == fingerprint, (digest, fingerprint)
    trusted = rig.run("curl", "-sS", "--cacert", rig.path("cert.pem"), server.url + "/healthz")
    assert trusted.stdout == "ok\n", trusted
    assert rig.run("curl", "-sS", server.url + "/healthz").returncode == 60  # nobody vouches for it
    return None


OPENAI = '''
import sys
import openai
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key=sys.argv[2], max_retries=0)
model = client.models.list().data[0].id
ask = dict(model=model, messages=[{"role": "user", "content": "hello there"}], max_tokens=64)
answer = client.chat.completions.create(**ask, n=2, seed=7, temperature=0.5, logprobs=True, top_logprobs=2)
assert len(answer.choices) == 2 and answer.usage.total_tokens > 0, answer
assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2, answer
chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
assert chunks[-2].choices[0].finish_reason in ("stop", "length"), chunks[-2]
assert chunks[-1].usage.completion_tokens > 0, chunks[-1]
text = client.completions.create(model=model, prompt="a b c", max_tokens=8, logprobs=1)
assert text.choices[0].logprobs.tokens, text
def refused(kind, **changes):
    try:
        client.chat.completions.create(**{**ask, **changes})
    except kind as error:
        return error
    raise AssertionError(f"not refused: {changes}")
assert refused(openai.BadRequestError, tools=[{"type": "function", "function": {"name": "f"}}]).param == "tools"
assert refused(openai.BadRequestError, response_format={"type": "json_object"}).param == "response_format"
assert refused(openai.BadRequestError, temperature=9).param == "temperature"
assert refused(openai.BadRequestError, messages=[{"role": "user", "content": "a " * 100000}]).code == "context_length_exceeded"
assert refused(openai.NotFoundError, model="nobody").code == "model_not_found"
client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="wrong-key-0123456789", max_retries=0)
refused(openai.AuthenticationError)
print("openai", openai.__version__)
'''


def openai_package_talks(rig):
    """OpenAI's own client reads every form of answer and of refusal."""
    made = rig.run(sys.executable, "-m", "venv", rig.path("venv"))
    if made.returncode != 0:
        return "no venv here: " + made.stdout.strip()[-200:]
    python = rig.path("venv/bin/python")
    got = rig.run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "openai")
    if got.returncode != 0:
        return "pip has no openai here: " + got.stderr.strip()[-200:]
    server = rig.serve("--api-keys", rig.keys())
    done = rig.run(python, "-c", OPENAI, server.url, KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.strip())
    return None


def nothing_of_a_client_is_logged(rig):
    """Neither prompts nor keys nor paths, whatever is refused."""
    if shutil.which("curl") is None:
        return "no curl here"
    server = rig.serve("--api-keys", rig.keys())
    url, model = server.url, "tiny" if rig.is_fake else SECRET
    post = ("curl", "-sS", "-o", rig.path("out"), "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d")
    for key, path, text in ((KEY, "/v1/chat/completions", body(model, SECRET)), (SECRET, "/v1/completions", SECRET),
                            (KEY, "/" + SECRET, "{}"), (KEY, "/v1/chat/completions", body(model, "a", **{SECRET: 1})),
                            (KEY, "/v1/chat/completions", "{" + SECRET)):
        status = rig.run(*post, text, "-H", "Authorization: Bearer " + key, url + path).stdout
        assert re.fullmatch("[2-5]..", status), status
    metrics = rig.run("curl", "-sS", url + "/metrics").stdout
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(WATCHDOG_S) == 0
    for place in (server.log(), metrics):
        assert place and SECRET not in place and KEY not in place, place
    return None


def leaving_ends_the_answer(rig):
    """A client that is killed in a stream is counted as one that left."""
    if shutil.which("curl") is None:
        return "no curl here"
    server = rig.serve(*(["--endless"] if rig.is_fake else []))
    asked = body(rig.model(server), "hello", stream=True)
    asked = asked.replace('"max_tokens": 64', '"max_tokens": 100000')
    client = subprocess.Popen(["curl", "-sSN", "--limit-rate", "2k", "-H", "Content-Type: application/json", "-d", asked,
                               server.url + "/v1/chat/completions"], stdout=subprocess.PIPE)
    assert client.stdout.read(5) == b"data:"
    client.kill()
    client.wait()
    client.stdout.close()
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        metrics = rig.run("curl", "-sS", server.url + "/metrics").stdout
        if re.search(r'cancelled_total\{cause="(client_left|slow_client)"\} 1', metrics):
            assert "airlock_serve_answers 0" in metrics, metrics
            return None
    raise AssertionError(metrics)


def options_are_checked(rig):
    """What is refused is refused before anything listens, by the exit code that says whose fault it is."""
    for options, code, words in (
            (("--listen", "0.0.0.0:0"), 2, "in the clear"), (("--listen", "nowhere"), 2, "HOST:PORT"),
            (("--tls-cert", "a"), 2, "--tls-key"), (("--api-keys", rig.path("none")), 1, "cannot")):
        done = rig.run(*rig.command, *options)
        assert done.returncode == code and words in done.stderr and not done.stdout, (options, done)
    with open(rig.path("open-keys"), "w", encoding="ascii") as file:
        file.write(KEY)
    os.chmod(rig.path("open-keys"), 0o644)
    done = rig.run(*rig.command, "--api-keys", rig.path("open-keys"))
    assert done.returncode == 1 and "chmod 600" in done.stderr and KEY not in done.stderr, done
    server = rig.serve()
    other = rig.start(port=server.url.rsplit(":", 1)[1])
    assert other.process.wait(WATCHDOG_S) == 5, other.report()
    return None


TYPE = """(async () => {
  document.getElementById('text').value = %s;
  document.getElementById('ask').requestSubmit();
})(); 0"""
TURNS = "[...document.querySelectorAll('.turn')].map(e => [e.className, e.textContent])"


def wait_for(window, script, accept):
    end = time.monotonic() + WATCHDOG_S
    while time.monotonic() < end:
        value = window.evaluate(script)
        if accept(value):
            return value
        time.sleep(0.05)
    raise AssertionError((script, window.evaluate(script), window.complaints()))


def browser_talks(rig):
    """The page asks for a key, streams an answer, shows markup as text, stops, and asks for nothing from elsewhere."""
    program = browser.find_browser()
    if program is None:
        return "no Chromium here (tools/install_deps --browser brings one)"
    server = rig.serve("--api-keys", rig.keys(), *(["--endless"] if rig.is_fake else []))
    window = browser.Browser(program, rig.work)
    try:
        window.open(server.url + "/")
        wait_for(window, "document.getElementById('ask-key').hidden", lambda hidden: hidden is False)
        window.evaluate(f"document.getElementById('key').value = {json.dumps(KEY)};"
                        "document.getElementById('ask-key').requestSubmit(); 0")
        wait_for(window, "document.getElementById('model').textContent", bool)
        text = "<img src=x onerror=alert(1)> hi"
        window.evaluate(TYPE % json.dumps(text))
        # The fake's answer has no end; a model's may be short, and over before it is stopped.
        wait_for(window, f"[{TURNS}, document.getElementById('stop').hidden]", lambda seen: len(seen[0]) == 2 and (
            len(seen[0][1][1]) > 40 or (seen[1] and not rig.is_fake)))
        window.evaluate("document.getElementById('stop').click(); 0")
        wait_for(window, "document.getElementById('stop').hidden", bool)
        turns = window.evaluate(TURNS)
        assert turns[0] == ["turn user", text] and turns[1][0] == "turn assistant", turns
        assert window.evaluate("document.querySelectorAll('#talk img').length") == 0
        assert all(url.startswith((server.url, "data:")) for url in window.requests()), window.requests()
        folder = os.environ.get("AIRLOCK_SHOTS")
        if folder:
            window.screenshot(os.path.join(folder, "serve.png"))
        # The 401 that asked for the key is the browser's own line.
        words = [e for e in window.complaints() if "401" not in json.dumps(e)]
        assert not words, words
    except AssertionError:
        print(f"--- the browser said\n{window.log()}")
        raise
    finally:
        window.close()
    return None


SCENARIOS = [curl_talks, openai_package_talks, nothing_of_a_client_is_logged, leaving_ends_the_answer, options_are_checked,
             browser_talks]

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, lambda args, work: Rig(args.bin_dir, work), scenarios.programs("fake_serve"))
