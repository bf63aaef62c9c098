#!/usr/bin/env python3
"""airlock_report as a user runs it. One scenario a run: report_test.py --bin-dir DIR SCENARIO.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import argparse
import html.parser
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback

import browser
import synthetic_trace

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "tools"))
from pair import Pair, read_json  # noqa: E402

SKIPPED = 77
BAD_NAME = "<script>document.title='broken'</script>"


class Numbers(html.parser.HTMLParser):
    """Each data-value of a page by its data-key; the page's tags."""

    def __init__(self, text):
        super().__init__()
        self.values = {}
        self.tags = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        if "data-key" in attrs:
            key, value = attrs["data-key"], int(attrs["data-value"])
            assert self.values.setdefault(key, value) == value, f"{key} is {self.values[key]} and {value}"


def report(work, *args, **more):
    return subprocess.run([os.path.join(work.bin_dir, "airlock_report"), *args], capture_output=True, text=True,
                          timeout=600, **more)


def run_pair(work):
    """The statistics of a real prefill, of both sides; both paths are used."""
    ring = ("--ring-slot-bytes", 65536)
    server = work.server(*ring)
    runner_path = work.path("runner.json")
    work.runner(*ring, "--repeat", 2, "--stats-json", runner_path,
                tokens=("--random-tokens", 300, "--seed", 1)).expect_exit(0)
    work.stop(server)
    server_path = work.path("server.json")
    with open(server_path, "w", encoding="utf-8") as file:
        json.dump(server.stats(), file, indent=1)  # told apart by content, not by layout
    return runner_path, server_path


def make_traces(work):
    config = synthetic_trace.config_of("llama-3.2-1b")
    whole, cut = work.path("whole.data"), work.path("cut.json")
    model = {"name": BAD_NAME, "config": config, "digest": ""}
    records = synthetic_trace.write_trace(whole, synthetic_trace.header_of(config, 1024, runs=2))
    synthetic_trace.write_trace(cut, synthetic_trace.header_of(config, 128, model=model, dropped=3), cut=True)
    return whole, cut, records


def numbers_of_stats(index, stats):
    """What the page has to say of a statistics file."""
    prefix = f"inputs.{index}."
    expected = {prefix + "wall_ns": stats["wall_ns"]}
    for op, counters in stats["ops"].items():
        if counters["calls"]:
            device = {f"device.{key}": value for key, value in counters.get("device", {}).items()}
            expected.update({f"{prefix}ops.{op}.{key}": value for key, value in {**counters, **device}.items()
                             if key != "device"})
    for kernel, counters in stats.get("tee", {}).items():
        expected.update({f"{prefix}tee.{kernel}.{key}": value for key, value in counters.items()})
    for path, counters in stats["paths"].items():
        for direction in ("sent", "received"):
            for key, value in counters[direction].items():
                expected[f"{prefix}paths.{path}.{direction}.{key}"] = value
        for key in ("errors", "slot_waits", "spins", "parks"):
            expected[f"{prefix}paths.{path}.{key}"] = counters[key]
        latency = counters["latency_ns"]
        if latency["buckets"]:
            for key in ("p50", "p90", "p99", "max"):
                expected[f"{prefix}paths.{path}.latency_ns.{key}"] = latency[key]
            for upper, count in latency["buckets"]:
                expected[f"{prefix}paths.{path}.latency_ns.buckets.{upper}"] = count
    return expected


def numbers_of_trace(index, records):
    prefix = f"inputs.{index}."
    expected = {prefix + "records": len(records)}
    for op in {r["op"] for r in records}:
        of_op = [r for r in records if r["op"] == op]
        expected[f"{prefix}ops.{op}.calls"] = len(of_op)
        for key in ("total_ns", "tee_ns", "wire_ns", "queue_ns", "server_ns"):
            expected[f"{prefix}ops.{op}.{key}"] = sum(r[key] for r in of_op)
    for path in ("ring", "zmq"):
        for key in ("input", "output"):
            sizes = [t["bytes"] for r in records for t in r[key + "s"] if t["path"] == path]
            expected[f"{prefix}paths.{path}.{key}_tensors"] = len(sizes)
            expected[f"{prefix}paths.{path}.{key}_bytes"] = sum(sizes)
    for rank, record in enumerate(sorted(records, key=lambda r: -r["total_ns"])[:15]):
        expected[f"{prefix}by_time.{rank}.total_ns"] = record["total_ns"]
    return expected


def check_bins(index, values, records):
    """Nothing is lost between the intervals."""
    prefix = f"inputs.{index}.bins."
    for path in ("ring", "zmq"):
        bins = sum(v for k, v in values.items() if k.startswith(prefix) and k.endswith(path + "_bytes"))
        assert bins == sum(t["bytes"] for r in records for t in r["inputs"] + r["outputs"] if t["path"] == path)
    ops = [v for k, v in values.items() if k.startswith(prefix) and k.endswith(".ops")]
    assert sum(ops) == len(records) and len(ops) <= 2000, (sum(ops), len(ops))


def check_numbers(text, runner, server, records):
    found = Numbers(text)
    assert "script" not in found.tags and "link" not in found.tags, found.tags
    expected = {**numbers_of_stats(0, read_json(runner)), **numbers_of_stats(1, read_json(server)),
                **numbers_of_trace(2, records), "inputs.0.agree": 1}
    for key, value in expected.items():
        assert found.values.get(key) == value, f"{key}: the page says {found.values.get(key)}, the file {value}"
    check_bins(2, found.values, records)
    return len(expected)


def command(work):
    """The page of a real pair and of traces; its mode; each exit code."""
    runner, server = run_pair(work)
    whole, cut, records = make_traces(work)
    page = work.path("report.html")
    done = report(work, runner, server, whole, cut, "-o", page)
    assert done.returncode == 0, done.stderr
    assert "was cut off" in done.stderr, done.stderr
    assert os.stat(page).st_mode & 0o777 == 0o600
    with open(page, encoding="utf-8") as file:
        text = file.read()
    print(f"{check_numbers(text, runner, server, records)} numbers, {len(text)} bytes")
    assert BAD_NAME not in text and "&lt;script&gt;" in text

    stdout = report(work, runner, "-o", "-")
    assert stdout.returncode == 0 and stdout.stdout.endswith("</html>\n"), stdout.stderr

    bad = work.path("bad")
    cases = {"neither": '{"a": 1}', "not JSON": "hello", "is empty": "", "'paths' is missing": '{"schema_version":1,"side":'
             '"tee_runner","host":{"name":"","cpu":"","cores":1,"device":""},"config":{}}'}
    with open(whole, encoding="utf-8") as file:
        lines = file.read().splitlines()
    cases["bad:3: "] = "\n".join([lines[0], lines[1], lines[2].replace('"seq"', '"sek"'), *lines[3:]])
    for said, content in cases.items():
        with open(bad, "w", encoding="utf-8") as file:
            file.write(content)
        done = report(work, runner, bad, "-o", page)
        assert done.returncode == 1 and bad in done.stderr, (said, done)
        assert said in done.stderr or said == "is empty", (said, done.stderr)
    with open(page, encoding="utf-8") as file:
        assert file.read() == text, "a failed run changed the page"
    fifo = work.path("fifo")
    os.mkfifo(fifo)
    for unreadable in (fifo, work.work, work.path("absent")):
        assert report(work, unreadable, "-o", page).returncode == 1
    for usage in ([], [runner], ["-o", page], [runner, runner, "-o", page], [runner, "-o", runner],
                  [runner, "-o", page, "--no-such"], [runner] * 40 + ["-o", page]):
        done = report(work, *usage)
        assert done.returncode == 2 and done.stderr, (usage, done)
    assert report(work, runner, "-o", "/dev/full").returncode == 5
    assert report(work, "--help").returncode == 0


def passes_of(path):
    """Of a recorded answer: rows, ops, time and the ops' parts of each pass, as its lines have them."""
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file][1:]
    passes = []
    for record in records:
        if record["op"] == "embedding":
            passes.append([])
        passes[-1].append(record)
    return [{"rows": one[0]["inputs"][0]["shape"][0], "ops": len(one),
             "wall_ns": max(r["start_ns"] + r["total_ns"] for r in one) - one[0]["start_ns"],
             **{key: sum(r[key] for r in one) for key in ("tee_ns", "wire_ns", "queue_ns", "server_ns")}} for one in passes]


def answer(work):
    """A real answer, recorded: its passes and steps, and what its statistics have of words; one that was made up."""
    server = work.server()
    trace, stats, page = work.path("answer.jsonl"), work.path("answer.json"), work.path("answer.html")
    model = os.path.join(synthetic_trace.CONFIGS, "tiny.json")
    work.start("tee_runner", "generate", "--synthetic", model, "--endpoint", work.endpoint, "--tokens", "5,6,7,8,9",
               "--max-tokens", 12, "--ignore-eos", "--record", trace, "--stats-json", stats).expect_exit(0)
    work.stop(server)
    made = work.path("made.jsonl")
    work.start("airlock_trace", "synth", "--config", model, "--tokens", 5, "--decode", 12, "-o", made).expect_exit(0)
    done = report(work, stats, trace, made, "-o", page)
    assert done.returncode == 0, done.stderr
    with open(page, encoding="utf-8") as file:
        values = Numbers(file.read()).values
    passes = passes_of(trace)
    assert [one["rows"] for one in passes] == [5] + [1] * 11, passes
    expected = {}
    for kind, some in (("prefill", passes[:1]), ("step", passes[1:])):
        prefix = f"inputs.1.passes.{kind}."
        expected[prefix + "count"] = expected[f"inputs.2.passes.{kind}.count"] = len(some)
        for key in some[0]:
            expected[prefix + key] = sum(one[key] for one in some)
        for number, one in enumerate(some):
            expected.update({f"{prefix}bins.{number}.{key}": value for key, value in one.items()})
    expected["inputs.2.passes.prefill.rows"], expected["inputs.2.passes.step.rows"] = 5, 11
    text = read_json(stats)["text"]
    assert text["generated_tokens"] == 12, text
    for key, value in text.items():
        if isinstance(value, int):
            expected["inputs.0.text." + key] = value
            continue
        expected.update({f"inputs.0.text.{key}.{name}": value[name] for name in ("p50", "p90", "p99", "max")})
        expected.update({f"inputs.0.text.{key}.buckets.{upper}": count for upper, count in value["buckets"]})
    for key, value in expected.items():
        assert values.get(key) == value, f"{key}: the page says {values.get(key)}, the file {value}"
    walls = sorted(one["wall_ns"] for one in passes[1:])
    for share, key in ((0.5, "p50_ns"), (0.9, "p90_ns")):
        exact, shown = walls[int(share * len(walls))], values["inputs.1.passes.step." + key]
        assert exact <= shown <= exact * 1.13, (key, walls, shown)
    assert "inputs.2.passes.step.wall_ns" not in values
    print(f"{len(expected)} numbers of an answer")


FITS = """(() => {
  const wide = [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, svg') &&
    e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.className || e.tagName);
  const cut = [...document.querySelectorAll('.plot span, .bars .values div')].filter(e =>
    e.getClientRects().length && (e.getBoundingClientRect().left < -0.5 || e.scrollWidth > e.clientWidth + 1))
    .map(e => e.textContent);
  const small = [...document.querySelectorAll('figure *, table *')].filter(e =>
    e.closest('svg') === null && parseFloat(getComputedStyle(e).fontSize) < 11).length;
  return {page: document.documentElement.scrollWidth, window: innerWidth, wide: wide, cut: cut, small: small,
          title: document.title, charts: document.querySelectorAll('figure svg').length,
          untitled: [...document.querySelectorAll('svg[role=img]')].filter(s => !s.querySelector('title, desc')
            .textContent).length, ground: getComputedStyle(document.body).backgroundColor};
})()"""

# No two labels of one axis lie over each other.
OVERLAPS = """[...document.querySelectorAll('.xaxis, .yaxis')].flatMap(axis => {
  const boxes = [...axis.children].map(e => [e.textContent, e.getBoundingClientRect()]);
  return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
    p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 1 && q.top < p.bottom - 1)
    .map(([b, q]) => a + ' | ' + b)); })"""


def in_browser(work):
    """The page in Chromium: it renders, says nothing, asks for nothing, fits a phone, prints."""
    program = browser.find_browser()
    if program is None:
        return "no Chromium here (tools/install_deps --browser brings one)"
    runner, server = run_pair(work)
    whole, cut, records = make_traces(work)
    page = work.path("report.html")
    assert report(work, runner, server, whole, cut, "-o", page).returncode == 0
    grounds = {}
    window = browser.Browser(program, work.work)
    try:
        for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")):
            window.open("file://" + page, width=width, scheme=scheme)
            look = window.evaluate(FITS)
            grounds[scheme] = look["ground"]
            assert not window.complaints(), window.complaints()
            assert window.requests() == ["file://" + page], window.requests()
            assert look["page"] <= width and not look["wide"] and not look["cut"], (width, look)
            assert look["title"] == "Airlock report" and look["charts"] >= 12, look
            assert look["untitled"] == 0 and look["small"] == 0, look
            overlaps = window.evaluate(OVERLAPS)
            assert not overlaps, (width, overlaps)
            keep(work, window, f"{width}-{scheme}.png")
        assert grounds["light"] != grounds["dark"], grounds
        window.open("file://" + page)
        count = check_numbers(window.evaluate("document.documentElement.outerHTML"), runner, server, records)
        pdf = window.pdf()
        assert pdf.startswith(b"%PDF-") and len(pdf) > 20000, len(pdf)
        print(f"{count} numbers in the page's DOM, {len(pdf)} bytes of PDF")
    except AssertionError:
        print(f"--- the browser said\n{window.log()}")
        raise
    finally:
        window.close()
    return None


def keep(work, window, name):
    """Leaves a picture in the folder that AIRLOCK_SHOTS names, for people to look at."""
    folder = os.environ.get("AIRLOCK_SHOTS")
    if folder:
        window.screenshot(os.path.join(folder, name))


def big_trace(work):
    """A long trace: a page under 2 MB, in memory that does not grow with it."""
    config = synthetic_trace.config_of("tiny")
    path, page = work.path("big.jsonl"), work.path("big.html")
    header = synthetic_trace.header_of(config, 16, wire="fp32", path_limit_bytes=4096)
    runs = list(synthetic_trace.records_of(header))
    count = int(os.environ.get("AIRLOCK_REPORT_OPS", "100000"))
    lines = [json.dumps(record, separators=(",", ":")) for record in runs]
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
        for start in range(0, count, len(lines)):
            for index, line in enumerate(lines[:count - start]):
                seq = start + index
                file.write(line.replace(f'{{"seq":{index},', f'{{"seq":{seq},').replace(
                    f'"start_ns":{runs[index]["start_ns"]},', f'"start_ns":{seq * 1000000},') + "\n")

    def limit_memory():
        resource.setrlimit(resource.RLIMIT_AS, (256 << 20, 256 << 20))

    done = report(work, path, "-o", page, preexec_fn=limit_memory)
    assert done.returncode == 0, done
    size = os.path.getsize(page)
    print(f"{count} ops, {os.path.getsize(path)} bytes of trace, {size} bytes of page")
    assert size < 2_000_000, size
    with open(page, encoding="utf-8") as file:
        values = Numbers(file.read()).values
    assert values["inputs.0.records"] == count
    assert sum(v for k, v in values.items() if k.startswith("inputs.0.bins.") and k.endswith(".ops")) == count


SCENARIOS = {"command": command, "answer": answer, "browser": in_browser, "big_trace": big_trace}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin-dir", default="build/release/bin")
    parser.add_argument("scenario", choices=SCENARIOS)
    args = parser.parse_args()
    bin_dir = os.path.abspath(args.bin_dir)
    for program in ("airlock_report", "airlock_trace", "gpu_server", "tee_runner"):
        if not os.path.exists(os.path.join(bin_dir, program)):
            print(f"SKIPPED: {args.scenario}: {program} is not built in {bin_dir}")
            return SKIPPED
    folder = tempfile.mkdtemp(prefix="airlock-report.")
    work = Pair(bin_dir, folder)
    try:
        reason = SCENARIOS[args.scenario](work)
        if reason:
            print(f"SKIPPED: {args.scenario}: {reason}")
        return SKIPPED if reason else 0
    except Exception:  # whatever it was, what the processes said comes with it
        traceback.print_exc()
        for process in work.started:
            print(process.report())
        return 1
    finally:
        work.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
