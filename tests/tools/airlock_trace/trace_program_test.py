#!/usr/bin/env python3
"""airlock_trace as a program. One scenario a run: trace_program_test.py --program FILE SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import argparse
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
DATA = os.path.join(ROOT, "tests", "data")
CONFIG = os.path.join(DATA, "configs", "llama-3.2-1b.json")
TINY = os.path.join(DATA, "configs", "tiny.json")
SUMMARY_LOG = os.path.join(DATA, "prototype_logs", "summary.log")
CUT_LOG = os.path.join(DATA, "prototype_logs", "cut.log")
DONE, BAD_FILE, USAGE, FULL = 0, 1, 2, 5
SKIPPED = 77
MANY_RUNS = 10000  # of a prefill of 20 ops


class Program:
    def __init__(self, path, folder):
        self.path, self.folder = path, folder

    def __call__(self, *args, code=DONE, says="", stdout=subprocess.PIPE):
        """stdout of one call."""
        environment = dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=8")
        ended = subprocess.run([self.path, *args], stdout=stdout, stderr=subprocess.PIPE, text=True,
                               env=environment, timeout=500, check=False)
        assert ended.returncode == code, f"{args}: exit {ended.returncode}, expected {code}\n{ended.stderr}"
        assert says in ended.stderr, f"{args}: stderr has no '{says}':\n{ended.stderr}"
        return ended.stdout

    def file(self, name):
        return os.path.join(self.folder, name)

    def tiny(self, name="tiny.jsonl", *args):
        path = self.file(name)
        self("synth", "--config", TINY, "--tokens", "16", "-o", path, *args)
        return path


def each_command_does_its_work(trace):
    a, b = trace.file("a.jsonl"), trace.file("b.jsonl")
    trace("synth", "--config", CONFIG, "--tokens", "1024", "--attention", "offload", "--wire", "bf16", "-o", a)
    trace("import", SUMMARY_LOG, "--config", TINY, "--run", "last", "-o", b)
    shown = json.loads(trace("show", a, b, "-o", "json"))["traces"]
    assert shown[0]["paths"]["zmq"]["input_bytes"] + shown[0]["paths"]["zmq"]["output_bytes"] == 11 << 28
    assert shown[1]["wall_ns"] == 300_000_000 and shown[1]["header"]["source"] == "imported"
    assert "| matmul" in trace("show", a)
    assert trace("show", a, "-o", "csv").startswith("file,op,calls,")
    assert "98 ops have the same shapes and paths" in trace("diff", a, a)
    assert json.loads(trace("diff", a, b, "-o", "json"))["shapes"]["first_difference"]["position"] == 0
    assert trace("diff", a, b, "-o", "csv").startswith("section,name,what,a,b,ratio")
    for form in ("chrome", "csv", "jsonl"):
        out = trace.file(form)
        trace("export", b, "--format", form, "-o", out)
        with open(out, encoding="utf-8") as file:
            text = file.read()
        assert text == trace("export", b, "--format", form, "-o", "-") == trace("export", b, "--format", form)


def files_are_private(trace):
    old = os.umask(0)
    try:
        path = trace.tiny()
        imported, exported = trace.file("i"), trace.file("e")
        trace("import", SUMMARY_LOG, "--config", TINY, "-o", imported)
        with open(exported, "w", encoding="utf-8"):
            os.chmod(exported, 0o666)  # replaced, with its mode
        trace("export", path, "--format", "csv", "-o", exported)
    finally:
        os.umask(old)
    for name in (path, imported, exported):
        assert stat.S_IMODE(os.stat(name).st_mode) == 0o600, name


def a_trace_on_stdout_is_the_trace_in_a_file(trace):
    path = trace.tiny()
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    out = trace("synth", "--config", TINY, "--tokens", "16", "-o", "-")
    again = [json.loads(line) for line in out.splitlines()]
    for header in (lines[0], again[0]):
        header.pop("started_at")
    assert lines == again
    assert again[0]["records"] == 20


def wrong_usage_ends_with_2(trace):
    path = trace.tiny()
    for args in ([], ["bake"], ["show"], ["show", path, "-o", "xml"], ["diff", path], ["diff", path, path, path],
                 ["export", path, "-o", "-"], ["export", path, path, "--format", "csv"],
                 ["synth", "--config", TINY, "-o", "-"], ["synth", "--tokens", "8", "-o", "-"],
                 ["synth", "--config", TINY, "--tokens", "0", "-o", "-"],
                 ["synth", "--config", TINY, "--tokens", "8", "--wire", "int32", "-o", "-"],
                 ["synth", "--config", TINY, "--tokens", "8", "--no-ring", "--ring-slots", "8", "-o", "-"],
                 ["synth", "--config", TINY, "--tokens", "8", "--ring-slot-bytes", "5000", "-o", "-"],
                 ["synth", "--config", TINY, "--tokens", "8", "--runs", "0", "-o", "-"],
                 ["import", SUMMARY_LOG], ["import", SUMMARY_LOG, "--run", "0", "-o", "-"],
                 ["import", SUMMARY_LOG, "--run", "first", "-o", "-"],
                 ["export", path, "--format", "csv", "-o", path]):
        trace(*args, code=USAGE)
    trace("import", SUMMARY_LOG, "-o", SUMMARY_LOG, code=USAGE, says="-o would write to")


def a_bad_file_ends_with_1(trace):
    missing, empty, text = trace.file("missing"), trace.file("empty"), trace.file("text")
    with open(empty, "w", encoding="utf-8"):
        pass
    with open(text, "w", encoding="utf-8") as file:
        file.write("hello\n")
    out = trace.file("out")
    for path in (missing, empty, text, trace.folder, "/dev/null"):
        trace("show", path, code=BAD_FILE)
        trace("diff", path, path, code=BAD_FILE)
        trace("export", path, "--format", "chrome", "-o", out, code=BAD_FILE)
        trace("import", path, "-o", out, code=BAD_FILE)
        trace("synth", "--config", path, "--tokens", "8", "-o", out, code=BAD_FILE)
    assert not os.path.exists(out)
    trace("import", text, "-o", out, code=BAD_FILE, says=f"{text}:1: 'hello' is no line of such a log")
    trace("import", SUMMARY_LOG, "-o", out, code=BAD_FILE, says="but op")  # not of the built-in model
    trace("synth", "--config", TINY, "--tokens", "8", "-o", trace.file("no/such/folder"), code=BAD_FILE)


def a_cut_log_is_imported_up_to_the_cut(trace):
    out = trace.file("out")
    trace("import", CUT_LOG, "--config", TINY, "-o", out, says="cut off in prefill 2, after 5 of 20 ops")
    assert json.loads(trace("show", out, "-o", "json"))["traces"][0]["records"] == 25


def a_cut_trace_is_shown_and_exported_up_to_the_cut(trace):
    path = trace.tiny()
    with open(path, "rb+") as file:
        file.truncate(os.path.getsize(path) - 100)
    trace("show", path, says="was cut off")
    trace("diff", path, path, says="was cut off")
    trace("export", path, "--format", "csv", "-o", trace.file("out"), says="was cut off")


def a_full_disk_ends_with_5(trace):
    if not os.path.exists("/dev/full"):
        return "no /dev/full"
    path = trace.tiny()
    trace("synth", "--config", TINY, "--tokens", "16", "-o", "/dev/full", code=FULL)
    trace("import", SUMMARY_LOG, "--config", TINY, "-o", "/dev/full", code=FULL)
    trace("export", path, "--format", "chrome", "-o", "/dev/full", code=FULL)
    with open("/dev/full", "w", encoding="utf-8") as full:
        trace("show", path, code=FULL, stdout=full)
        trace("export", path, "--format", "jsonl", "-o", "-", code=FULL, stdout=full)
        trace("synth", "--config", TINY, "--tokens", "16", "-o", "-", code=FULL, stdout=full)
    return None


def many_ops_stream_in_bounded_memory(trace):
    """200000 ops take over 120 MB as values; the programs keep none of them."""
    path = trace.tiny("many.jsonl", "--runs", str(MANY_RUNS))
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the writer's queue is bounded too
    assert before < 250 << 10, f"synth took {before} KiB"
    shown = json.loads(trace("show", path, "-o", "json"))["traces"][0]
    assert shown["records"] == 20 * MANY_RUNS
    for form in ("chrome", "csv", "jsonl"):
        command = [trace.path, "export", path, "--format", form, "-o", trace.file(form)]
        with subprocess.Popen(command, env=dict(os.environ, ASAN_OPTIONS="quarantine_size_mb=8")) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == DONE, form
        print(f"{form}: {usage.ru_maxrss} KiB, {usage.ru_utime:.1f} s")
        assert usage.ru_maxrss < 100 << 10, f"export as {form} took {usage.ru_maxrss} KiB"


SCENARIOS = {s.__name__: s for s in (
    each_command_does_its_work, files_are_private, a_trace_on_stdout_is_the_trace_in_a_file, wrong_usage_ends_with_2,
    a_bad_file_ends_with_1, a_cut_log_is_imported_up_to_the_cut, a_cut_trace_is_shown_and_exported_up_to_the_cut,
    a_full_disk_ends_with_5, many_ops_stream_in_bounded_memory)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--program", default="build/release/bin/airlock_trace")
    parser.add_argument("scenario", nargs="?", choices=sorted(SCENARIOS))
    args = parser.parse_args()
    if args.list:
        print("\n".join(SCENARIOS))
        return 0
    if not args.scenario:
        parser.error("name a scenario, or --list")
    with tempfile.TemporaryDirectory(prefix="airlock-trace.") as folder:
        reason = SCENARIOS[args.scenario](Program(os.path.abspath(args.program), folder))
    if reason:
        print(f"SKIPPED: {args.scenario}: {reason}")
        return SKIPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
