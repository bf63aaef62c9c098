"""Where results go: looked at before the run, whole or not there, and said with the exit code of docs/INTERFACE.md."""
import json
import os
import signal
import stat
import subprocess
import threading

from input_scenarios import expect_refused
from pair import CONFIGS, TINY, read_text, wait_until
from scenarios import read_bytes
from tiny_model import write_model

LOCAL = ("prefill", "--backend", "local", "--synthetic", TINY, "--tokens", "1,2,3", "--threads", "1")
FULL_DISK = 5
USAGE = 2
BAD_FILE = 1


def run(pair, program, *args, shell_suffix="", limit_s=60, **kwargs):
    """Ends the program, which bash starts with `shell_suffix` behind its arguments."""
    command = [os.path.join(pair.bin_dir, program), *map(str, args)]
    return subprocess.run(["bash", "-c", '"$@" ' + shell_suffix, "bash", *command], env=pair.env, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=limit_s, check=False, **kwargs)


def said(done):
    return f"exit {done.returncode}, stderr:\n{done.stderr.decode(errors='replace')}"


def make_inputs(pair):
    """A trace and statistics to read."""
    trace, stats = pair.path("t.jsonl"), pair.path("s.json")
    done = run(pair, "tee_runner", *LOCAL, "--record", trace, "--stats-json", stats)
    assert done.returncode == 0, said(done)
    return trace, stats


def commands(pair):
    """What has a file option: its name, the program and its arguments up to the file's name."""
    trace, stats = make_inputs(pair)
    config = ("--config", TINY, "--tokens", "3")
    return [("--logits-out", "tee_runner", *LOCAL, "--logits-out"), ("--stats-json", "tee_runner", *LOCAL, "--stats-json"),
            ("--record", "tee_runner", *LOCAL, "--record"),
            ("export -o", "airlock_trace", "export", trace, "--format", "csv", "-o"),
            ("synth -o", "airlock_trace", "synth", *config, "-o"), ("report -o", "airlock_report", trace, stats, "-o")]


def device(pair, name, minor):
    """/dev/NAME; for root one of our own, since the machine's could be replaced by a product that is wrong. None where
    there can be none."""
    if os.geteuid() != 0:
        return "/dev/" + name
    path = pair.path(name)
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.close(os.open(path, os.O_WRONLY))
    except OSError as error:
        print(f"SKIPPED in part: no device can be made: {error}")
        return None
    return path


def pipes_and_devices_are_written_through(pair):
    devices = [(device(pair, "null", 3), 0), (device(pair, "full", 7), FULL_DISK)]
    for name, program, *args in commands(pair):
        for path, code in devices:
            if path is None:
                continue
            done = run(pair, program, *args, path)
            assert done.returncode == code and (code == 0 or path.encode() in done.stderr), f"{name} {path}: {said(done)}"
            assert stat.S_ISCHR(os.lstat(path).st_mode), f"{name}: {path} was replaced"
        pipe, got = pair.path("pipe"), []
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda path=pipe, to=got: to.append(read_bytes(path)))
        reader.start()
        done = run(pair, program, *args, pipe)
        reader.join()
        assert done.returncode == 0 and got[0], f"{name} pipe: {said(done)}"
        assert stat.S_ISFIFO(os.lstat(pipe).st_mode), f"{name}: the pipe was replaced"
        os.unlink(pipe)


def stdout_by_its_name_goes_on_where_it_stands(pair):
    # A link as /dev/stdout is one: root's own could be replaced by a product that is wrong.
    stdout = pair.path("stdout")
    os.symlink("/proc/self/fd/1", stdout)
    for name, program, *args in commands(pair):
        out = pair.path("out")
        with open(out, "wb") as file:
            file.write(b"before\n")
        done = run(pair, program, *args, stdout, shell_suffix=f">> {out}")
        text = read_bytes(out)
        assert os.path.islink(stdout), f"{name}: the link was replaced"
        if name == "--record":
            assert done.returncode == USAGE, f"{name}: {said(done)}"
            continue
        assert done.returncode == 0 and text.startswith(b"before\n") and len(text) > 100, f"{name}: {said(done)}\n{text}"


def links_are_followed_and_stay(pair):
    os.mkdir(pair.path("elsewhere"))
    for name, program, *args in commands(pair):
        link, target = pair.path("link"), pair.path("elsewhere/target")
        os.symlink("elsewhere/target", link)
        for old in (None, b"older"):
            if old is not None:
                with open(target, "wb") as file:
                    file.write(old)
                os.chmod(target, 0o644)
            done = run(pair, program, *args, link)
            assert done.returncode == 0 and os.path.islink(link), f"{name}: {said(done)}"
            assert len(read_bytes(target)) > 100 and not os.path.islink(target), name
            assert stat.S_IMODE(os.stat(target).st_mode) == 0o600, name
        os.unlink(link)
        os.unlink(target)
        assert os.listdir(pair.path("elsewhere")) == [], os.listdir(pair.path("elsewhere"))


def outputs_that_cannot_be_are_refused_before_the_run(pair):
    """At a server that nobody started: whoever looks at the file first says so first."""
    remote = ("prefill", "--synthetic", TINY, "--tokens", "1,2,3", "--endpoint", pair.endpoint, "--timeout-ms", 30000)
    os.mkdir(pair.path("folder"))
    with open(pair.path("plain"), "w", encoding="utf-8") as file:
        file.write("kept")
    for option in ("--logits-out", "--stats-json", "--record"):
        for path in (pair.path("no/such/file"), pair.path("folder"), pair.path("plain/below"), pair.path("new/")):
            done = run(pair, "tee_runner", *remote, option, path, limit_s=20)
            assert done.returncode == BAD_FILE and path.encode() in done.stderr, f"{option} {path}: {said(done)}"
        done = run(pair, "tee_runner", *remote, option, "")
        assert done.returncode == USAGE, f"{option} '': {said(done)}"
    expect_refused(pair.start("gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--stats-json",
                              pair.path("no/such")), BAD_FILE, "no/such")
    assert sorted(os.listdir(pair.path("folder"))) == [] and read_text(pair.path("plain")) == "kept"


def outputs_over_inputs_or_each_other_are_refused(pair):
    model, prompt = write_model(pair.path("model")), pair.path("prompt")
    with open(prompt, "w", encoding="utf-8") as file:
        file.write("1,2,3")
    os.link(prompt, pair.path("hard"))
    os.symlink("prompt", pair.path("soft"))
    os.symlink("to-be", pair.path("ahead"))
    weights = os.path.join(model, "model.safetensors")
    before = {path: read_bytes(path) for path in (prompt, weights, os.path.join(model, "config.json"))}
    base = ("prefill", "--backend", "local", "--model", model, "--tokens-file", prompt, "--threads", "1")
    cases = [(option, path) for option in ("--logits-out", "--stats-json", "--record")
             for path in (prompt, pair.path("hard"), pair.path("soft"), pair.path("./model/../prompt"), *before)]
    for option, path in cases:
        done = run(pair, "tee_runner", *base, option, path)
        assert done.returncode == USAGE and option.encode() in done.stderr, f"{option} {path}: {said(done)}"
    for one, other in (("same", "./same"), ("ahead", "to-be")):
        for options in (("--logits-out", "--stats-json"), ("--stats-json", "--record"), ("--record", "--logits-out")):
            done = run(pair, "tee_runner", *base, options[0], pair.path(one), options[1], pair.path(other))
            assert done.returncode == USAGE, f"{options} {one}: {said(done)}"
    done = run(pair, "tee_runner", *base, "--record", pair.path("r"), "--record-payload", "--logits-out",
               pair.path("r.safetensors"))
    assert done.returncode == USAGE, said(done)
    expect_refused(pair.start("gpu_server", "--model", model, "--endpoint", pair.endpoint, "--stats-json", weights), USAGE,
                   weights)
    assert {path: read_bytes(path) for path in before} == before


def a_run_that_fails_leaves_what_was_there(pair):
    """A full disk while the results are written; with SIGXFSZ ignored a limit on a file's size is one."""
    script = ("import os,resource,signal,sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
              "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64)); os.execv(sys.argv[1], sys.argv[1:])")
    prepared = commands(pair)
    os.mkdir(pair.path("out"))
    for name, program, *args in prepared:
        if name == "--record":  # what is whole of it stays: record_scenarios.py
            continue
        path = pair.path("out/result")
        with open(path, "wb") as file:
            file.write(b"older")
        os.chmod(path, 0o640)
        command = ["python3", "-c", script, os.path.join(pair.bin_dir, program), *map(str, args), path]
        done = subprocess.run(command, env=pair.env, capture_output=True, timeout=60, check=False)
        assert done.returncode == FULL_DISK and path.encode() in done.stderr, f"{name}: {said(done)}"
        assert read_bytes(path) == b"older" and os.listdir(pair.path("out")) == ["result"], name


def a_file_is_replaced_where_no_file_can_be_without_a_name(pair):
    """As on file systems that have none; here /proc is not there, by which such a file gets its name."""
    namespace = ["unshare", "--mount", "bash", "-c", 'umount -l /proc && exec "$@"', "bash"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode != 0:
        return "needs root, and unshare(1)"
    os.mkdir(pair.path("out"))
    path = pair.path("out/t.jsonl")
    with open(path, "wb") as file:
        file.write(b"older")
    synth = [os.path.join(pair.bin_dir, "airlock_trace"), "synth", "--config", TINY, "--tokens", "3", "-o", path]
    for command, code in ((["prlimit", "--fsize=64", *synth], FULL_DISK), (synth, 0)):
        done = subprocess.run([*namespace, *command], env=pair.env, capture_output=True, timeout=60, check=False)
        assert done.returncode == code, said(done)
        assert (read_bytes(path) == b"older") == (code != 0) and os.listdir(pair.path("out")) == ["t.jsonl"]
    return None


def a_killed_export_leaves_what_was_there(pair):
    """Also of its temporary file, where the file system has files without a name."""
    os.mkdir(pair.path("out"))
    path = pair.path("out/t.jsonl")
    with open(path, "wb") as file:
        file.write(b"older")
    config = os.path.join(CONFIGS, "llama-3.2-1b.json")
    process = pair.start("airlock_trace", "synth", "--config", config, "--tokens", 64, "--runs", 1000000, "-o", path)

    def writes():
        return b"\nwchar: 0\n" not in read_bytes(f"/proc/{process.pid}/io") or not process.running()
    wait_until(writes, "it writes")
    process.signal(signal.SIGKILL)
    assert process.exit_code() == -signal.SIGKILL
    assert read_bytes(path) == b"older"
    try:
        os.close(os.open(pair.path("out"), os.O_TMPFILE | os.O_WRONLY))
    except OSError as error:
        return f"the file system has no files without a name: {error}"
    assert os.listdir(pair.path("out")) == ["t.jsonl"], os.listdir(pair.path("out"))
    return None


def printing_programs(pair):
    trace, _ = make_inputs(pair)
    server = pair.server()
    return server, [("tee_runner", *LOCAL), ("tee_runner", "--help"), ("tee_runner", "--version"), ("airlock_trace", "show", trace),
                    ("airlock_trace", "diff", trace, trace, "-o", "json"), ("airlock_trace", "export", trace, "--format", "csv"),
                    ("airlock_report", trace, "-o", "-"), ("airlock_stat", "--endpoint", server.endpoint),
                    ("airlock_stat", "--endpoint", server.endpoint, "-o", "json"), ("airlock_stat", "--help"),
                    ("airlock_pool", "list", "--endpoint", server.endpoint),
                    ("airlock_pool", "check", "--endpoint", server.endpoint, "-o", "json"),
                    ("airlock_pool", "bench", "--endpoint", server.endpoint, "--end", "1K"), ("airlock_pool", "list", "--help"),
                    ("airlock_xfer", "-b", 64, "-e", 64, "-n", 3), ("airlock_xfer", "-b", 64, "-e", 64, "-n", 3, "-o", "json"),
                    ("gpu_server", "--help"),
                    ("tee_runner", "replay", trace, "--endpoint", server.endpoint)]


def stdout_that_is_full_or_closed_is_an_error_everywhere(pair):
    server, programs = printing_programs(pair)
    for command in programs:
        for suffix, code in ((">/dev/full", FULL_DISK), (">&-", BAD_FILE)):
            done = run(pair, *command, shell_suffix=suffix)
            assert done.returncode == code and b"stdout" in done.stderr, f"{command} {suffix}: {said(done)}"
    pair.stop(server)
    for suffix, code in ((">/dev/full", FULL_DISK), (">&-", BAD_FILE)):
        done = run(pair, "gpu_server", "--synthetic", TINY, "--endpoint", pair.endpoint, "--device", "cpu", shell_suffix=suffix)
        assert done.returncode == code and b"stdout" in done.stderr, f"gpu_server {suffix}: {said(done)}"
    assert os.listdir(pair.run_dir) == [], os.listdir(pair.run_dir)


def a_reader_that_leaves_causes_one_line_at_most(pair):
    server, programs = printing_programs(pair)
    for command in programs:
        # The reader is gone before anything is printed.
        done = run(pair, *command, shell_suffix="| true; exit ${PIPESTATUS[0]}")
        assert done.returncode in (0, BAD_FILE, 128 + signal.SIGPIPE), f"{command}: {said(done)}"
        wrong = [line for line in done.stderr.decode().splitlines() if ": error: " in line]
        assert len(wrong) <= 1, f"{command}: {said(done)}"
    pair.stop(server)


def a_server_whose_reader_left_after_ready_ends_well(pair):
    command = [os.path.join(pair.bin_dir, "gpu_server"), "--synthetic", TINY, "--endpoint", pair.endpoint, "--device", "cpu",
               "--threads", "1", "--stats-json", pair.path("server.json")]
    with subprocess.Popen(command, env=pair.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        try:
            assert server.stdout.readline().startswith(b"ready ")
            server.stdout.close()
            pair.runner().expect_exit(0)
            server.send_signal(signal.SIGUSR1)
            pair.runner().expect_exit(0)
            server.send_signal(signal.SIGTERM)
            said_at_end = server.stderr.read()
            assert server.wait(60) == 0, said_at_end
        finally:
            server.kill()
    assert json.loads(read_text(pair.path("server.json")))["side"] == "gpu_server"


def nothing_lands_in_a_file_where_stdout_or_stderr_is_closed(pair):
    trace, _ = make_inputs(pair)
    cut = pair.path("cut.jsonl")
    with open(cut, "wb") as file:
        file.write(read_bytes(trace)[:-30])
    whole = pair.path("whole.csv")
    assert run(pair, "airlock_trace", "export", cut, "--format", "csv", "-o", whole).returncode == 0
    for suffix, closes_stdout in ((">&-", True), ("2>&-", False), ("<&-", False), (">&- 2>&-", True), ("<&- >&- 2>&-", True)):
        out = pair.path("out.csv")
        done = run(pair, "airlock_trace", "export", cut, "--format", "csv", "-o", out, shell_suffix=suffix)
        assert done.returncode == 0 and read_bytes(out) == read_bytes(whole), f"{suffix}: {said(done)}"
        record, stats = pair.path("closed.jsonl"), pair.path("closed.json")
        done = run(pair, "tee_runner", *LOCAL, "--record", record, "--record-digest", "--stats-json", stats,
                   shell_suffix=suffix)
        assert done.returncode == (BAD_FILE if closes_stdout else 0), f"{suffix}: {said(done)}"
        assert json.loads(read_text(stats))["side"] == "tee_runner", suffix
        for line in read_text(record).splitlines():
            json.loads(line)


def prompt_from_a_pipe_is_read_once(pair):
    server = pair.server()
    for extra in ((), ("--synthetic", TINY), ("--synthetic", TINY, "--compare-local")):
        done = run(pair, "tee_runner", "prefill", "--endpoint", server.endpoint, "--threads", "1", *extra, "-o", "json",
                   "--tokens-file", shell_suffix="<(echo 1,2,3)")
        assert done.returncode == 0 and json.loads(done.stdout)["tokens"] == 3, f"{extra}: {said(done)}"
    pair.stop(server)


SCENARIOS = (
    pipes_and_devices_are_written_through,
    stdout_by_its_name_goes_on_where_it_stands,
    links_are_followed_and_stay,
    outputs_that_cannot_be_are_refused_before_the_run,
    outputs_over_inputs_or_each_other_are_refused,
    a_run_that_fails_leaves_what_was_there,
    a_file_is_replaced_where_no_file_can_be_without_a_name,
    a_killed_export_leaves_what_was_there,
    stdout_that_is_full_or_closed_is_an_error_everywhere,
    a_reader_that_leaves_causes_one_line_at_most,
    a_server_whose_reader_left_after_ready_ends_well,
    nothing_lands_in_a_file_where_stdout_or_stderr_is_closed,
    prompt_from_a_pipe_is_read_once,
)
