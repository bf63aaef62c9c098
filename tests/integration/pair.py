"""Starts real gpu_server and tee_runner processes, for tests and benchmarks. Python's standard library only."""
import json
import os
import random
import signal
import struct
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
CONFIGS = os.path.join(ROOT, "tests", "data", "configs")
TINY = os.path.join(CONFIGS, "tiny.json")
# Nothing is expected to take this long: it only turns a hang into a failure.
WATCHDOG_S = 120


def wait_until(condition, what, limit_s=WATCHDOG_S):
    """Looks until `condition()` holds; AssertionError naming `what` at the watchdog."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


def cpu_ticks(pid):
    """User and system time of a process so far, in clock ticks."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def segments():
    """Names of what Airlock has in /dev/shm now."""
    return {name for name in os.listdir("/dev/shm") if "airlock" in name}


class Process:
    """A program of ours under way; its output goes to files in `work`."""

    def __init__(self, work, name, command, env):
        self.name = name
        self.command = command
        self.out_path = os.path.join(work, name + ".out")
        self.err_path = os.path.join(work, name + ".err")
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env)
        self.pid = self.process.pid

    def stdout(self):
        with open(self.out_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def stderr(self):
        with open(self.err_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def signal(self, number):
        self.process.send_signal(number)

    def running(self):
        return self.process.poll() is None

    def exit_code(self, limit_s=WATCHDOG_S):
        """Waits for the end. A signal that killed it is negative."""
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit_s} s") from None

    def expect_exit(self, code):
        got = self.exit_code()
        assert got == code, f"{self.name} exited with {got}, expected {code}"
        return self

    def report(self):
        return (f"--- {self.name} (pid {self.pid}, exit {self.process.poll()}): {' '.join(self.command)}\n"
                f"--- stdout\n{self.stdout()[-4000:]}\n--- stderr\n{self.stderr()[-4000:]}\n")


class Pair:
    """A private folder, and the processes of one test or benchmark in it. close() ends them all."""

    def __init__(self, bin_dir, work):
        self.bin_dir = bin_dir
        self.work = work  # 0700, our own
        self.started = []
        self.run_dir = self.path("run")
        os.mkdir(self.run_dir, 0o700)
        self.endpoint = f"ipc://{self.run_dir}/ctl"
        self.env = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
        # Two processes on few cores: idle OpenMP threads sleep instead of spinning.
        self.env.update(XDG_CACHE_HOME=self.path("cache"), OMP_WAIT_POLICY="passive")

    def path(self, name):
        return os.path.join(self.work, name)

    def start(self, program, *args, name=None):
        name = f"{len(self.started)}-{name or program}"
        process = Process(self.work, name, [os.path.join(self.bin_dir, program), *map(str, args)], self.env)
        self.started.append(process)
        return process

    def server(self, *args, endpoint=None, model=("--synthetic", TINY), threads=1, device="cpu"):
        """A gpu_server that serves; `.endpoint` is where, as it said itself; `.stats()` what it wrote."""
        stats_path = self.path(f"{len(self.started)}-server.json")
        server = self.start("gpu_server", *model, "--endpoint", endpoint or self.endpoint, "--device", device,
                            "--threads", threads, "--stats-json", stats_path, *args)
        wait_until(lambda: "ready " in server.stdout() or not server.running(), "ready", 600)
        ready = [line for line in server.stdout().splitlines() if line.startswith("ready ")]
        assert ready, "gpu_server ended before it was ready"
        server.endpoint = ready[0].split()[1]
        server.stats = lambda: read_json(stats_path)
        return server

    def runner(self, *args, endpoint=None, model=("--synthetic", TINY), tokens=("--random-tokens", 64, "--seed", 1),
               threads=1):
        """`tee_runner prefill` under way."""
        return self.start("tee_runner", "prefill", *model, "--endpoint", endpoint or self.endpoint, *tokens,
                          "--threads", threads, *args)

    def stop(self, server):
        """SIGTERM; the server's exit must be 0."""
        server.signal(signal.SIGTERM)
        server.expect_exit(0)

    def close(self):
        for process in self.started:
            if process.running():
                process.signal(signal.SIGKILL)
                process.process.wait()


def read_json(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_bytes(path):
    with open(path, "rb") as file:
        return file.read()


def model_shapes(config):
    """Name and shape of each tensor of a LLaMA model, as transformers names them."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", [hidden]
        yield prefix + "post_attention_layernorm.weight", [hidden]
        for name, shape in (("q", [q, hidden]), ("k", [kv, hidden]), ("v", [kv, hidden]), ("o", [hidden, q])):
            yield f"{prefix}self_attn.{name}_proj.weight", shape
        for name, shape in (("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])):
            yield f"{prefix}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", [hidden]


def write_model(folder, seed=1):
    """A Hugging Face directory of TINY's shape with random fp32 weights."""
    os.makedirs(folder)
    config = read_json(TINY)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)
    numbers = random.Random(seed)
    header, parts, offset = {}, [], 0
    for name, shape in model_shapes(config):
        count = 1
        for size in shape:
            count *= size
        middle, spread = (1.0, 0.1) if len(shape) == 1 else (0.0, shape[-1] ** -0.5)
        parts.append(struct.pack(f"<{count}f", *(numbers.gauss(middle, spread) for _ in range(count))))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + 4 * count]}
        offset += 4 * count
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return folder
