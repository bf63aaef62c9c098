#!/usr/bin/env python3
"""The targets that tools/gpu_check says of a report. One scenario a run: targets_test.py SCENARIO; --list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import copy
import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
from gpu import measure, targets  # noqa: E402 (found by the lines above)
from one_scenario import main  # noqa: E402

HIDDEN, INNER = 2048, 8192
# A tensor that goes up and those that come down, of 1024 rows in bf16.
MOVED = {"qkv": (HIDDEN, HIDDEN + 2 * 512), "o": (HIDDEN, HIDDEN), "gate_up": (HIDDEN, 2 * INNER), "down": (INNER, HIDDEN)}
UP, DOWN = 50.0, 40.0  # GB/s


def op(name, of_bare=0.97, share=1.0):
    sent, received = (1024 * 2 * width for width in MOVED[name])
    return {"kind": "op", "model": "llama-3.2-1b", "op": name, "dtype": "bf16", "tokens": 1024, "of_bare": of_bare,
            "copy_in_ns_median": sent / (share * UP), "copy_out_ns_median": received / (share * DOWN)}


def report():
    """One in which every target is met: a prefill of 1024 tokens takes 2 times its kernels, of which there are 100 ms."""
    rows = [{"tokens": 1024, "attention": "tee", "pair_ms_median": 200.0, "sent_bytes": 1e9, "received_bytes": 2e9,
             "kernels_ns": {"attention": 60e6, "silu": 40e6}},
            {"tokens": 1024, "attention": "offload", "pair_ms_median": 9999.0},
            {"tokens": 128, "attention": "tee", "pair_ms_median": 30.0}]
    pinned = [{"kind": "copy", "way": way, "host_memory": memory, "bytes": 1 << bits, "gb_per_s_in_a_row": rate}
              for way, rate in (("to_device", UP), ("from_device", DOWN))
              for memory, bits in (("pinned", 22), ("pinned", 24), ("unpinned", 24))]
    details = {"ops": {"results": [op(name) for name in MOVED] + [{"kind": "not_run", "what": "x", "why": "y"}]},
               "copies": {"results": pinned},
               "prefill": {"config": "tests/data/configs/llama-3.2-1b.json", "rows": rows},
               "decode": {"config": "tests/data/configs/llama-3.2-1b.json", "token_ns_median": 5.9e6}}
    steps = [{"name": name, "result": "passed", "why": "", "details": of} for name, of in details.items()]
    return {"gpu_check": 1, "host": {"cpus": 16}, "steps": steps}


def details(data, name):
    return next(step["details"] for step in data["steps"] if step["name"] == name)


def by_target(data):
    return {said["target"]: said for said in targets.verdicts(data)}


def one(data, part):
    """The verdict whose target has this part."""
    said, = [said for said in targets.verdicts(data) if part in said["target"]]
    return said


def all_are_met_where_they_are(folder, bin_dir):
    said = targets.verdicts(report())
    assert [of["verdict"] for of in said] == ["met"] * 7, said
    assert len(by_target(report())) == 7


def one_slow_product_is_named(folder, bin_dir):
    data = report()
    details(data, "ops")["results"][2]["of_bare"] = 0.93
    said = one(data, "bare cuBLAS")
    assert said["verdict"] == "missed" and said["got"] == "93 % at least" and "gate_up 1024 93 %" in said["why"], said
    details(data, "ops")["results"][2]["of_bare"] = 0.95
    assert one(data, "bare cuBLAS")["verdict"] == "met"
    # Another type has a verdict of its own.
    other = op("o", of_bare=0.5) | {"dtype": "int8"}
    details(data, "ops")["results"].append(other)
    assert one(data, "in bf16")["verdict"] == "met" and one(data, "in int8")["verdict"] == "missed"


def copies_are_held_against_the_loop(folder, bin_dir):
    data = report()
    details(data, "ops")["results"][3] = op("down", share=0.89)
    for way in ("to device", "from device"):
        said = one(data, f"copies {way}")
        assert said["verdict"] == "missed" and "1 of 4 below: down 1024 89 %" == said["why"], said
    details(data, "ops")["results"][3] = op("down", share=0.91)
    assert one(data, "copies to device")["verdict"] == "met"
    # What pageable memory does is no measure, and small copies are not held to it.
    for row in details(data, "copies")["results"]:
        row["gb_per_s_in_a_row"] *= 9 if row["host_memory"] == "unpinned" else 1
    details(data, "ops")["results"].append(op("o", share=0.1) | {"tokens": 128})
    assert one(data, "copies to device")["verdict"] == "met"


def a_prefill_is_held_against_link_and_kernels(folder, bin_dir):
    data = report()
    row = details(data, "prefill")["rows"][0]
    row["pair_ms_median"] = 200.2
    said = one(data, "longer of link and kernels")
    assert said["verdict"] == "missed" and "bytes at the link's rate 70.0 ms, kernels 100.0 ms" in said["why"], said
    row["received_bytes"] = 4e9  # 100 ms back, 20 up: the link is the longer
    said = one(data, "longer of link and kernels")
    assert said["verdict"] == "met" and said["got"] == "1.67x", said
    row["pair_ms_median"] = 250.0
    assert one(data, "1024 tokens as a pair, of")["verdict"] == "missed"
    # The case with attention on the server is no part of it.
    details(data, "prefill")["rows"].pop(1)
    assert one(data, "128 tokens")["verdict"] == "met"


def times_have_their_bars(folder, bin_dir):
    data = report()
    details(data, "prefill")["rows"][2]["pair_ms_median"] = 40.0
    details(data, "decode")["token_ns_median"] = 6.1e6
    assert one(data, "128 tokens as a pair")["verdict"] == "missed"
    said = one(data, "a token of one answer")
    assert said["verdict"] == "missed" and said["got"] == "6.10 ms" and said["asked"] == "< 6 ms", said
    details(data, "prefill")["rows"][0]["pair_ms_median"] = 260.0
    assert by_target(data)["prefill of 1024 tokens as a pair"]["verdict"] == "missed"
    # With fewer cores than asked for it is no verdict, unless it was fast enough all the same.
    data["host"]["cpus"] = 8
    said = [of for of in targets.verdicts(data) if "this machine has 8" in of["why"]]
    assert len(said) == 1 and said[0]["verdict"] == "not run" and "260.0 ms" in said[0]["why"], said
    details(data, "prefill")["rows"][0]["pair_ms_median"] = 240.0
    assert by_target(data)["prefill of 1024 tokens as a pair"]["verdict"] == "met"


def what_was_not_measured_is_not_run_and_says_why(folder, bin_dir):
    data = report()
    data["steps"] = [step for step in data["steps"] if step["name"] != "copies"]
    details(data, "ops").clear()
    data["steps"][0]["why"] = "--dry-run"
    said = {of["target"]: of for of in targets.verdicts(data)}
    assert said["products"]["verdict"] == "not run" and "--dry-run" in said["products"]["why"], said
    assert "'copies' is not in this report" in said["copies"]["why"], said
    assert said["a token of one answer"]["verdict"] == "met"
    # Another shape's times are nobody's targets.
    details(data, "prefill")["config"] = details(data, "decode")["config"] = "tests/data/configs/tiny.json"
    assert [of["verdict"] for of in targets.verdicts(data)] == ["not run"] * 6
    assert "asked is llama-3.2-1b" in [of for of in targets.verdicts(data) if "128" in of["target"]][0]["why"]
    # A step that was cut in its middle.
    half = report()
    del details(half, "prefill")["rows"][0]["pair_ms_median"]
    assert one(half, "bound of")["verdict"] == "not run" and one(half, "128 tokens")["verdict"] == "met"


def a_report_that_lacks_keys_ends_no_check(folder, bin_dir):
    """Each key of it taken away, or made another type: a list of verdicts still, and each not run says why."""
    def places(value, path=()):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            if isinstance(value[key], (dict, list)):
                yield from places(value[key], (*path, key))

    def changed(path, change):
        data = report()
        at = data
        for key in path[:-1]:
            at = at[key]
        change(at, path[-1])
        return data
    tried = 0
    for path in places(report()):
        for change in (lambda at, key: at.pop(key), lambda at, key: at.__setitem__(key, None),
                       lambda at, key: at.__setitem__(key, "x"), lambda at, key: at.__setitem__(key, 0)):
            said = targets.verdicts(changed(path, change))
            assert len(said) >= 6 and all(of["why"] for of in said if of["verdict"] == "not run"), (path, said)
            for of in said:
                targets.line_of(of)
            tried += 1
    assert tried > 300, tried
    data = report()
    del details(data, "ops")["results"][1]["tokens"]  # the name of a slow one
    details(data, "ops")["results"][1]["of_bare"] = 0.5
    assert one(data, "products")["verdict"] == "not run" and "KeyError" in one(data, "products")["why"]
    assert one(data, "a token of one answer")["verdict"] == "met"


def no_product_beside_a_bare_call_is_no_verdict(folder, bin_dir):
    data = report()
    for row in details(data, "ops")["results"]:
        row.pop("of_bare", None)
    said = one(data, "products")
    assert said["verdict"] == "not run" and "bare cuBLAS call" in said["why"], said


def a_warm_prefill_is_what_more_of_them_take(folder, bin_dir):
    def stats(warm):
        """A cold one of 900 beside so many of 20; a session's first bytes beside 50 and 70 each."""
        return {"tee": {"silu": {"calls": 16 * (warm + 1), "total_ns": 900 + 20 * warm}, "rope": {"calls": 0, "total_ns": 0}},
                "paths": {"shm": {"sent": {"bytes": 7 + 50 * (warm + 1)}, "received": {"bytes": 70 * (warm + 1)}}}}
    assert measure.of_one_prefill(stats(measure.PREFILLS - 1), stats(measure.RECORDED - 1)) == {
        "sent_bytes": 50, "received_bytes": 70, "kernels_ns": {"silu": 20}}


def verdicts_of_a_kept_report_are_said(folder, bin_dir):
    def check(text, code):
        path = os.path.join(folder, "report.json")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        done = subprocess.run([sys.executable, "-B", os.path.join(ROOT, "tools", "gpu_check"), "--verdicts", path],
                              capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code and "Traceback" not in done.stderr, done
        return done.stdout + done.stderr
    data = report()
    kept = copy.deepcopy(data)
    lines = check(json.dumps(data), 0).splitlines()
    assert [line.split()[0] for line in lines[lines.index("targets") + 1:]] == ["met"] * 7 and data == kept
    for text in ("", "[]", "{}", '{"steps": 7}', '{"steps": [{"name": "ops"}]}'):
        assert "is no report of gpu_check" in check(text, 2), text


SCENARIOS = (all_are_met_where_they_are, one_slow_product_is_named, copies_are_held_against_the_loop,
             a_prefill_is_held_against_link_and_kernels, times_have_their_bars,
             what_was_not_measured_is_not_run_and_says_why, a_report_that_lacks_keys_ends_no_check,
             no_product_beside_a_bare_call_is_no_verdict, a_warm_prefill_is_what_more_of_them_take,
             verdicts_of_a_kept_report_are_said)

if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(folder, bin_dir))
