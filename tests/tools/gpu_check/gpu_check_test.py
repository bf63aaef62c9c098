#!/usr/bin/env python3
"""tools/gpu_check and tools/offline_bundle without a GPU. One scenario a run: gpu_check_test.py --bin-dir DIR SCENARIO;
--list names them.

Exit 0: it holds; 1: it does not; 77: skipped, with the reason."""
import contextlib
import importlib.machinery
import importlib.util
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__)))))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
from gpu import golden, machine, measure, report, steps  # noqa: E402 (found by the line above)
from one_scenario import Skip, main  # noqa: E402
from pair import TINY  # noqa: E402

DEVICE_STEPS = "conformance,golden,pair,prefill,decode,ops,copies,sanitizer"


def suite(passed, skipped):
    """The lines of a script that leaves the JSON of a test program, in the file that its first argument names."""
    cases = [{"result": "COMPLETED"}] * passed + [{"result": "SKIPPED"}] * skipped
    return f"""echo '{json.dumps({"testsuites": [{"testsuite": cases}]})}' > "${{1#--gtest_output=json:}}\""""


PASSING_SUITE = suite(12, 1)
LIMIT_S = 500


class Machine:
    """A folder with a PATH, a build directory and a toolkit of shell scripts, and gpu_check run in it."""

    def __init__(self, folder, bin_dir):
        self.folder, self.bin_dir = folder, bin_dir
        self.path = os.path.join(folder, "path")
        self.build = os.path.join(folder, "build")
        self.json = os.path.join(folder, "out", "gpu.json")
        os.makedirs(self.path)
        os.makedirs(os.path.join(self.build, "bin"))
        os.makedirs(os.path.join(folder, "toolkit", "lib64"))
        self.script("toolkit/bin/nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.1'")
        self.file("toolkit/lib64/libcublas.so")
        self.file("toolkit/include/cublas_v2.h")
        self.file("build/bin/airlock_cuda.so")
        os.symlink(os.path.join(folder, "toolkit", "bin", "nvcc"), os.path.join(self.path, "nvcc"))
        self.script("path/cmake", "exit 0")

    def file(self, name):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w", encoding="utf-8").close()
        return path

    def script(self, name, body):
        path = self.file(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{body}\n")
        os.chmod(path, 0o755)

    def with_gpu(self):
        self.script("path/nvidia-smi", 'case "$*" in *driver_version*) echo "NVIDIA H100 80GB HBM3, 580.1, 81559, 9.0" ;; '
                    '*) echo "1, 2, 3, 4, 5, 6, 7, 8, 9, 10" ;; esac')
        return self

    def check(self, *args, code=0, says="", env=None):
        """What a run printed; its exit code and a part of what it says are as expected."""
        environment = {**os.environ, "PATH": self.path + os.pathsep + os.environ["PATH"], **(env or {})}
        done = subprocess.run([sys.executable, "-B", os.path.join(ROOT, "tools", "gpu_check"), "--build-dir", self.build,
                               *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=environment, timeout=LIMIT_S, check=False)
        assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}"
        assert says in done.stdout, f"'{says}' was not said:\n{done.stdout}"
        return done.stdout

    def results(self):
        with open(self.json, encoding="utf-8") as file:
            self.data = json.load(file)
        return {step["name"]: step["result"] for step in self.data["steps"]}


def without_a_gpu_it_exits_with_77_and_one_sentence(box):
    if machine.find_gpus()[0]:
        raise Skip("this machine has a GPU")
    box.check(code=77, says="gpu_check: there is no GPU to check: ")
    assert not os.path.exists(box.json)


def dry_run_says_what_it_would_run_and_needs_no_gpu(box):
    said = box.check("--dry-run", "--steps", "configure,build," + DEVICE_STEPS, "--out", box.json)
    for program in ("cuda_conformance_test", "gpu_server --device cuda", "--compare-local", "compute-sanitizer", "cuda_bench"):
        assert "would run" in said and program in said, said
    results = box.results()
    assert results.pop("configure") == results.pop("build") == "passed"
    assert set(results) == set(DEVICE_STEPS.split(",")) and set(results.values()) == {"not run"}
    # Every target is named, and none has a verdict.
    assert [of["verdict"] for of in box.data["targets"]] == ["not run"] * 6, box.data["targets"]
    for of in box.data["targets"]:
        assert "--dry-run" in of["why"] and f" not run  {of['target']}  (" in said, (of, said)


def dry_run_configures_the_real_tree(box):
    if None in machine.find_toolkit().values():
        raise Skip("no CUDA toolkit with cuBLAS here")
    shutil.rmtree(box.path)  # the real tools
    box.check("--dry-run", "--steps", "configure", "--out", box.json)
    with open(os.path.join(box.build, "CMakeCache.txt"), encoding="utf-8") as file:
        assert "AIRLOCK_CUDA:STRING=ON" in file.read()
    targets = subprocess.run(["cmake", "--build", box.build, "--target", "help"], capture_output=True, text=True, check=True)
    for target in steps.TARGETS:
        assert f"\n{target}: " in targets.stdout or f" {target}\n" in targets.stdout, f"there is no target {target}"


def a_cublas_beside_the_toolkit_is_named_to_cmake(box):
    for name in ("toolkit/lib64/libcublas.so", "toolkit/include/cublas_v2.h"):
        os.remove(os.path.join(box.folder, name))
    library, header = box.file("wheels/nvidia/cu13/lib/libcublas.so.13"), box.file("wheels/nvidia/cu13/include/cublas_v2.h")
    box.script("path/cmake", f'echo "$CPLUS_INCLUDE_PATH $*" > {box.folder}/call')
    box.check("--dry-run", "--steps", "configure", env={"PYTHONPATH": os.path.join(box.folder, "wheels")})
    with open(os.path.join(box.folder, "call"), encoding="utf-8") as file:
        call = file.read()
    assert f"-DCUDA_cublas_LIBRARY={library}" in call and os.path.dirname(header) in call.split()[0], call


def a_prefix_is_named_to_cmake_and_must_hold_packages(box):
    prefix = os.path.join(box.folder, "prefix")
    box.check("--dry-run", "--steps", "packages", "--prefix", prefix, code=1, says="holds no packages")
    os.makedirs(os.path.join(prefix, "usr"))
    box.script("path/cmake", f'for arg in "$@"; do echo "$arg"; done > {box.folder}/call')
    box.check("--dry-run", "--steps", "packages,configure", "--prefix", prefix)
    with open(os.path.join(box.folder, "call"), encoding="utf-8") as file:
        call = file.read().splitlines()
    assert f"-DCMAKE_PREFIX_PATH={prefix}/usr" in call and "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags" in call, call


def an_unknown_step_is_refused_with_2(box):
    box.check("--steps", "build,polish", code=2, says="there is no step polish")
    box.check("--tokens", "128;1024", code=2, says="is not a list of counts")
    box.check("--device", "cpu", code=2, says="neither cuda nor cuda:N")


def the_gpu_that_is_named_is_the_one_that_is_used_and_reported(box):
    box.script("path/nvidia-smi", 'case "$*" in *driver_version*) echo "NVIDIA A, 580.1, 8, 9.0"; echo "NVIDIA B, 580.1, 8, 9.0" ;; '
               '*--id=1*) echo "11, 2, 3, 4, 5, 6, 7, 8, 9, 10" ;; esac')
    box.script("build/bin/cuda_conformance_test", f'echo "$CUDA_DEVICE_ORDER $CUDA_VISIBLE_DEVICES" > {box.folder}/seen; '
               + PASSING_SUITE)
    steps_and_out = ("--steps", "conformance", "--out", box.json)
    box.check(*steps_and_out, "--device", "cuda:1")
    with open(os.path.join(box.folder, "seen"), encoding="utf-8") as file:
        assert file.read() == "PCI_BUS_ID 1\n"
    box.results()
    assert box.data["gpu"] == 1 and box.data["clocks"]["clocks.sm"] == "11", box.data
    box.check(*steps_and_out, "--device", "cuda:2", code=2, says="this machine has 2 GPUs")
    box.check(*steps_and_out, "--device", "cuda:1", env={"CUDA_VISIBLE_DEVICES": "0"}, code=2, says="give one of them")


def a_place_that_cannot_be_written_is_said_before_the_first_step(box):
    said = box.with_gpu().check("--steps", "conformance", "--out", "/proc/none/gpu.json", code=1, says="--out name other places")
    assert "Traceback" not in said and "== conformance" not in said, said


def a_failed_build_leaves_the_rest_not_run_and_a_json(box):
    box.with_gpu().script("path/cmake", 'case "$*" in *--build*) echo "error: broken.cc"; exit 3 ;; esac')
    box.check("--steps", "configure,build,conformance,copies", "--out", box.json, code=1, says="error: broken.cc")
    assert box.results() == {"configure": "passed", "build": "failed", "conformance": "not run", "copies": "not run"}
    assert box.data["result"] == "failed"
    assert box.data["steps"][2]["why"] == "the step 'build' failed"


def a_failed_step_does_not_stop_the_others(box):
    box.with_gpu().script("build/bin/cuda_conformance_test", "echo '[  FAILED  ] 1 test, listed below:'; exit 1")
    box.script("path/compute-sanitizer", "echo --kernel-regex")
    box.check("--steps", "conformance,sanitizer,ops", "--out", box.json, code=1, says="FAILED: conformance, ops")
    assert box.results() == {"conformance": "failed", "sanitizer": "passed", "ops": "failed"}
    assert "cuda_bench is not there" in box.data["steps"][2]["why"]
    assert box.data["devices"][0]["name"] == "NVIDIA H100 80GB HBM3" and box.data["clocks"]["clocks.sm"] == "1"
    assert box.data["commit"] and "--steps conformance,sanitizer,ops" in box.data["command"]


def a_suite_that_skipped_every_test_has_not_passed(box):
    box.with_gpu().script("build/bin/cuda_conformance_test", suite(0, 9))
    box.check("--steps", "conformance", "--out", box.json, code=1, says="no test of the suite ran")
    box.script("build/bin/cuda_conformance_test", PASSING_SUITE)
    box.check("--steps", "conformance", "--out", box.json)
    box.results()
    assert box.data["steps"][0]["details"] == {"passed": 12, "skipped": 1}


def the_sanitizer_is_limited_to_our_kernels_but_for_memcheck(box):
    box.with_gpu().script("build/bin/cuda_conformance_test", PASSING_SUITE)
    box.script("path/compute-sanitizer", f'echo "$*" >> {box.folder}/calls; echo "--kernel-regex"')
    box.check("--steps", "sanitizer", "--out", box.json)
    with open(os.path.join(box.folder, "calls"), encoding="utf-8") as file:
        calls = [line for line in file if "--tool" in line]
    assert len(calls) == 3 and ["kns=airlock" in line for line in calls] == [False, True, True], calls
    box.script("path/compute-sanitizer", 'case "$*" in *initcheck*) exit 86 ;; esac; echo "--kernel-regex"')
    box.check("--steps", "sanitizer", "--out", box.json, code=1, says="initcheck: failed")


def a_program_that_hangs_is_ended_and_failed(box):
    log = os.path.join(box.folder, "log")
    report.PROGRESS_S = 0.2
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            report.run(["sh", "-c", "echo begun; sleep 1000 & wait"], log, report.Budget(1))
    except report.Failed as fault:
        assert "did not end within 1 s" in str(fault)
    else:
        raise AssertionError("a program that hangs passed")
    with open(log, encoding="utf-8") as file:
        assert file.read() == "begun\n"
    assert "   sh: 0 s so far, at most 1 s; begun\n" in said.getvalue(), said.getvalue()


def a_step_that_hangs_is_ended_at_its_limit_and_the_others_run(box):
    box.with_gpu().script("build/bin/cuda_conformance_test", "echo begun; sleep 1000 & wait")
    box.script("build/bin/cuda_bench", """echo '{"device": {}, "results": []}'""")
    said = box.check("--budget-s", "9", "--steps", "conformance,copies", "--out", box.json, code=1,
                     says="FAILED: conformance\n")
    assert "conformance  expected   30 s, at most    2 s" in said and "begun\n" in said, said
    assert box.results() == {"conformance": "failed", "copies": "passed"} and box.data["result"] == "failed"
    assert "did not end within 2 s" in box.data["steps"][0]["why"]


def what_the_budget_is_too_short_for_is_left_out_and_named(box):
    box.with_gpu().script("build/bin/cuda_conformance_test", PASSING_SUITE)
    box.script("path/compute-sanitizer", 'case "$*" in *initcheck*) sleep 1000 ;; esac; echo "--kernel-regex"')
    box.check("--budget-s", "2", "--steps", "sanitizer,conformance", "--out", box.json, code=1,
              says="CUT by the budget of 2 s: sanitizer, conformance")
    assert box.results() == {"sanitizer": "cut", "conformance": "cut"} and box.data["result"] == "cut"
    details = box.data["steps"][0]["details"]
    assert details["memcheck"] == "passed" and details["racecheck"] == "left out: no time was left", details
    assert "did not end within" in details["initcheck"] and "racecheck" in box.data["steps"][0]["why"], box.data["steps"]
    assert "used up before it began" in box.data["steps"][1]["why"]


def a_run_that_is_told_to_stop_leaves_nothing_running(box):
    fifo = os.path.join(box.folder, "held")
    os.mkfifo(fifo)
    # The program holds the pipe's other end: the reader sees its end only when the program has ended.
    box.with_gpu().script("build/bin/cuda_conformance_test", f"exec 3> {fifo}; echo begun >&3; sleep 1000")
    environment = {**os.environ, "PATH": box.path + os.pathsep + os.environ["PATH"]}
    box.script("build/bin/cuda_bench", """echo '{"device": {}, "results": []}'""")
    check = subprocess.Popen([sys.executable, "-B", os.path.join(ROOT, "tools", "gpu_check"), "--build-dir", box.build, "--steps",
                              "copies,conformance", "--out", box.json], stdout=subprocess.DEVNULL, env=environment)
    with open(fifo, encoding="utf-8") as held:
        assert held.readline() == "begun\n"
        assert box.results() == {"copies": "passed", "conformance": "cut"}  # as a kill would leave it
        check.send_signal(signal.SIGTERM)
        assert held.read() == ""
    assert check.wait(LIMIT_S) == 128 + signal.SIGTERM
    assert box.results() == {"copies": "passed", "conformance": "cut"} and box.data["result"] == "unfinished"
    assert box.data["steps"][1]["why"] == "the check was ended"


def write_npy(path, rows, vocab, values):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {vocab}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    with open(path, "wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        file.write(struct.pack(f"<{rows * vocab}f", *values))
    return path


def golden_logits_are_held_to_the_bounds_of_the_wire(box):
    expected = write_npy(os.path.join(box.folder, "a.npy"), 2, 3, [1, 5, 2, 4, 1, 0])

    def fault(wire, *values):
        return golden.compare(expected, write_npy(os.path.join(box.folder, "b.npy"), 2, 3, values), wire)["fault"]

    assert fault("fp32", 1, 5, 2, 4, 1, 0) == ""
    assert fault("fp32", 1, 5.001, 2, 4, 1, 0).startswith("the largest error is 0.0002")
    assert fault("bf16", 1, 5.001, 2, 4, 1, 0) == ""
    assert "another top token at position 1" in fault("bf16", 1, 5, 2, 1, 4, 0)
    assert "mean KL" in fault("bf16", 1.15, 4.9, 2.15, 4, 1, 0)
    assert fault("fp32", 1, 5, float("nan"), 4, 1, 0) == "a logit is not finite"


def ops_of_a_trace_are_split_by_what_they_compute(box):
    path = os.path.join(box.folder, "trace.jsonl")
    times = {"tee_ns": 1, "wire_ns": 2, "queue_ns": 3, "server_ns": 4}
    records = [{}] + [dict(op="batch_linear", weights=[[0, name]], run=run, total_ns=total, **times)
                      for name, run, total in (("q_proj", 0, 99), ("q_proj", 1, 10), ("q_proj", 2, 12), ("o_proj", 1, 7))]
    records += [dict(op="lm_head", run=1, total_ns=5, **times), dict(op="matmul", transpose="b", run=1, total_ns=4, **times)]
    with open(path, "w", encoding="utf-8") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
    parts = measure.parts_of_ops(path)
    assert {kind: (part["count"], part["total_ns"]) for kind, part in parts.items()} == {
        "qkv": (2, 11), "o": (1, 7), "qk": (1, 4), "lm_head": (1, 5)}


def use_real_pair(box):
    """The real programs, on the CPU where gpu_check asks for a GPU; each server leaves a line in `turns`."""
    for name in ("gpu_server", "tee_runner"):
        if not os.path.exists(os.path.join(box.bin_dir, name)):
            raise Skip(f"{name} is not built")
    box.with_gpu().script("build/bin/gpu_server", f"""echo pair >> {box.folder}/turns
args=
for arg in "$@"; do [ "$arg" = cuda ] && arg=cpu; args="$args $arg"; done
exec {box.bin_dir}/gpu_server $args""")
    os.symlink(os.path.join(box.bin_dir, "tee_runner"), os.path.join(box.build, "bin", "tee_runner"))


def answers_are_measured_and_their_target_is_said(box):
    use_real_pair(box)
    said = box.check("--steps", "decode", "--config", TINY, "--out", box.json, says="ms a token")
    assert box.results() == {"decode": "passed"}
    details = box.data["steps"][0]["details"]
    assert len(details["token_ns"]) == 3 and details["token_ns_median"] == sorted(details["token_ns"])[1] > 0, details
    token, = [of for of in box.data["targets"] if of["target"] == "a token of one answer"]
    assert token["verdict"] == "not run" and "another shape" in token["why"], token
    assert "\ntargets\n" in said and " not run  a token of one answer  (the answers are of another shape" in said, said


def prefills_are_measured_in_turn(box):
    # The real pair, and a cuda_bench that says what such a one says.
    use_real_pair(box)
    box.script("build/bin/cuda_bench", f"""echo alone >> {box.folder}/turns
echo '{{"device":{{}},"results":[{{"kind":"prefill_in_process","tokens":8,"wall_ns_median":1000}},
{{"kind":"prefill_in_process","tokens":16,"wall_ns_median":1000}}]}}'""")
    box.check("--steps", "prefill", "--tokens", "8,16", "--config", TINY, "--out", box.json)
    with open(os.path.join(box.folder, "turns"), encoding="utf-8") as file:
        assert file.read().split() == ["pair", "alone", "alone"] * 2
    assert box.results() == {"prefill": "passed"}
    rows = box.data["steps"][0]["details"]["rows"]
    assert [(row["tokens"], row["attention"]) for row in rows] == [(8, "offload"), (16, "offload"), (8, "tee"), (16, "tee")]
    for row in rows:
        assert len(row["pair_ns"]) == 20 and len(row["one_process"]) == 2
        assert row["over"] == row["pair_ms_median"] / 0.001 - 1
        assert row["sent_bytes"] > 0 and row["received_bytes"] > 0 and row["kernels_ns"]["rmsnorm"] >= 0, row
        assert {"embedding", "qkv", "o", "gate_up", "down", "lm_head"} <= set(row["ops_by_part"])
        for part in row["ops_by_part"].values():
            assert part["total_ns"] > 0 and part["server_ns"] > 0


def cuda_bench_without_a_device_says_so_and_exits_with_5(box):
    program = os.path.join(box.bin_dir, "cuda_bench")
    if not os.path.exists(program):
        raise Skip("cuda_bench is not built here (no CUDA toolkit)")
    if machine.find_gpus()[0]:
        raise Skip("this machine has a GPU")
    done = subprocess.run([program, "copies"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 5 and done.stderr.startswith("cuda_bench: cudaSetDevice(0): "), done
    assert done.stdout == ""


def cuda_bench_runs_each_of_its_parts_on_the_fake_device(box):
    program, module = (os.path.join(box.bin_dir, name) for name in ("cuda_bench_on_fake", "airlock_cuda_fake.so"))
    for path in (program, module):
        if not os.path.exists(path):
            raise Skip(f"{path} is not built here (no CUDA toolkit)")
    def bench(*args, **fake):
        env = {**os.environ, **{f"AIRLOCK_CUDA_FAKE_{key}": value for key, value in fake.items()}}
        done = subprocess.run([program, *args], capture_output=True, text=True, timeout=LIMIT_S, env=env, check=False)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr}"
        assert "misuse" not in done.stderr.replace(" 0 misuses", ""), done.stderr
        return json.loads(done.stdout)["results"]

    copies = bench("copies", "--largest-mib", "1")
    assert [(row["way"], row["host_memory"], row["bytes"]) for row in copies[:5]] == [
        ("to_device", "pinned", 65536), ("from_device", "pinned", 65536), ("to_device", "unpinned", 65536),
        ("from_device", "unpinned", 65536), ("memcpy", "plain", 65536)]
    assert len(copies) == 15 and all(row["gb_per_s"] > 0 and row["gb_per_s_in_a_row"] > 0 for row in copies)

    ops = bench("ops", "--cuda-module", module, "--config", TINY, "--tokens", "16", "--calls", "4")
    names = ["lm_head", "embedding", "qkv", "o", "gate_up", "down", "qk", "pv", "lm_head"]
    integers = ["int_lm_head", "int_qkv", "int_o", "int_gate_up", "int_down"]
    listed = (("bf16", names), ("int8", integers), ("fp32", names))
    assert [(row["dtype"], row["op"]) for row in ops] == [(dtype, name) for dtype, some in listed for name in some]
    for row in ops:
        assert row["whole_ns_count"] == 4 and row["whole_ns_median"] > 0 and row["two_under_way_ns"] > 0, row
        assert ("of_bare" in row) == (row["op"] != "embedding"), row

    # What finds no room is left out and said; the other figures are there. The module calls cudaMalloc less often.
    tiny = ("ops", "--cuda-module", module, "--config", TINY, "--dtype", "fp32", "--tokens", "16", "--calls", "4")
    starved = bench(*tiny, FAIL="cudaMalloc:6:2")
    assert [row["what"] for row in starved if row["kind"] == "not_run"] == ["the bare qkv 16 of tiny in fp32"], starved
    assert len(starved) == 1 + len(names) + len(integers) and ["of_bare" in row for row in starved].count(False) == 3
    starved = bench(*tiny, FAIL="cudaMemcpy2DAsync:1:2")
    assert [row["what"] for row in starved if row["kind"] == "not_run"] == ["qkv 16 of tiny in fp32"], starved

    prefills = bench("prefill", "--cuda-module", module, "--config", TINY, "--tokens", "8,16", "--repeat", "2")
    assert [(row["tokens"], row["wall_ns_count"]) for row in prefills] == [(8, 2), (16, 2)]


def the_fake_device_passes_what_a_gpu_has_to(box):
    # The suite, a golden model and the pair, all by real programs; only the device and its driver are stand-ins.
    build = os.path.dirname(box.bin_dir)
    driver = os.path.join(build, "tests", "cuda_fake", "driver")
    needed = [os.path.join(box.bin_dir, name) for name in
              ("airlock_cuda_fake.so", "cuda_conformance_test", "gpu_server", "tee_runner")]
    for path in (*needed, os.path.join(driver, "libcuda.so.1")):
        if not os.path.exists(path):
            raise Skip(f"{path} is not built here (no CUDA toolkit)")
    os.mkdir(os.path.join(box.folder, "fake"))
    os.symlink(box.bin_dir, os.path.join(box.folder, "fake", "bin"))
    box.build = os.path.join(box.folder, "fake")
    box.check("--steps", "conformance,golden,pair", "--out", box.json, "--cuda-module", needed[0], "--models", "linear-bf16",
              "--config", TINY, "--tokens", "16,40",
              env={"LD_LIBRARY_PATH": driver})
    assert box.results() == {"conformance": "passed", "golden": "passed", "pair": "passed"}
    suite, golden_step, pair_step = (step["details"] for step in box.data["steps"])
    assert suite["passed"] > 10, suite
    ways = [(dtype, wire, attention) for dtype, wires in (("fp32", ("fp32", "fp16", "bf16")), ("bf16", ("bf16",)))
            for wire in wires for attention in ("offload", "tee")]
    assert [(run["dtype"], run["wire"], run["attention"]) for run in golden_step["runs"]] == ways
    assert all(run["compare_local"]["passed"] and run["compare_local"]["tolerance"] > 0 for run in pair_step["runs"])
    assert pair_step["server_host"]["device"].startswith("cuda:0 "), pair_step["server_host"]


def load_bundle():
    loader = importlib.machinery.SourceFileLoader("offline_bundle", os.path.join(ROOT, "tools", "offline_bundle"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("offline_bundle", loader))
    loader.exec_module(module)
    return module


def the_bundle_carries_what_install_deps_names_and_no_compiler(box):
    if shutil.which("apt-get") is None:
        raise Skip("no apt here")
    bundle = load_bundle()
    wanted = set(bundle.packages_of_install_deps())
    assert {"g++", "cmake", "libzmq3-dev"} < wanted
    try:
        chosen = set(bundle.choose_packages(box.folder))
    except SystemExit:
        raise Skip("apt has no package lists here") from None
    assert wanted - chosen == set(bundle.NOT_CARRIED)
    assert {"libzmq5", "libsodium23", "libgssapi-krb5-2", "libdnnl2", "libhwy1"} <= chosen
    assert not {name for name in chosen if name.startswith(("gcc", "g++", "libc6", "libstdc++", "libboost-system"))}


SCENARIOS = (without_a_gpu_it_exits_with_77_and_one_sentence, dry_run_says_what_it_would_run_and_needs_no_gpu,
             dry_run_configures_the_real_tree, a_cublas_beside_the_toolkit_is_named_to_cmake,
             a_prefix_is_named_to_cmake_and_must_hold_packages, an_unknown_step_is_refused_with_2,
             the_gpu_that_is_named_is_the_one_that_is_used_and_reported,
             a_place_that_cannot_be_written_is_said_before_the_first_step,
             a_failed_build_leaves_the_rest_not_run_and_a_json, a_failed_step_does_not_stop_the_others,
             a_suite_that_skipped_every_test_has_not_passed, the_sanitizer_is_limited_to_our_kernels_but_for_memcheck,
             a_program_that_hangs_is_ended_and_failed, a_step_that_hangs_is_ended_at_its_limit_and_the_others_run,
             what_the_budget_is_too_short_for_is_left_out_and_named,
             a_run_that_is_told_to_stop_leaves_nothing_running, golden_logits_are_held_to_the_bounds_of_the_wire,
             ops_of_a_trace_are_split_by_what_they_compute, cuda_bench_without_a_device_says_so_and_exits_with_5,
             prefills_are_measured_in_turn, answers_are_measured_and_their_target_is_said, cuda_bench_runs_each_of_its_parts_on_the_fake_device,
             the_fake_device_passes_what_a_gpu_has_to, the_bundle_carries_what_install_deps_names_and_no_compiler)


if __name__ == "__main__":
    main(__doc__, SCENARIOS, lambda scenario, folder, bin_dir: scenario(Machine(folder, bin_dir)))
