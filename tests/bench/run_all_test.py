#!/usr/bin/env python3
"""bench/run_all with programs that say what the test wants, and with the real pair: run_all_test.py [BIN_DIR]."""
import argparse
import contextlib
import glob
import importlib.machinery
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PROGRAM = os.path.join(ROOT, "bench", "run_all")
TINY = os.path.join(ROOT, "tests", "data", "configs", "tiny.json")
sys.path.insert(0, os.path.join(ROOT, "bench"))
import measure  # noqa: E402 (found by the line above)
import rows as rows_of_bench  # noqa: E402

LINEAR = os.path.join(ROOT, "tests", "data", "models", "linear-bf16")
BIN = sys.argv.pop(1) if sys.argv[1:] else os.path.join(ROOT, "build", "release", "bin")
KERNELS = """| kernel | tokens | ms a layer | bound ms | ratio |
| --- | ---: | ---: | ---: | ---: |
| attention | {tokens} | 60.000 | 50.000 | 1.20 (1.10 to 1.30) |
| silu | {tokens} | 4.000 | 2.000 | 2.00 (1.90 to 2.10) |
| rmsnorm | {tokens} | 0.600 | 0.400 | 1.50 (1.40 to 1.60) |
| residual | {tokens} | 0.500 | 0.600 | 0.83 (0.80 to 0.90) |
"""
SIDE = {"results": [{"tokens": 1024, "threads": threads, "wall_ms_median": 600.0 / threads, "attention_ms": 500.0, "silu_ms": 60.0,
                     "rest_ms": 1.5} for threads in (1, 2)]}


class RunAllTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.bin = os.path.join(self.folder, "bin")
        os.mkdir(self.bin)

    def script(self, name, text):
        path = os.path.join(self.bin, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + text)
        os.chmod(path, 0o755)

    def says(self, name, text):
        self.script(name, f"cat <<'END'\n{text}\nEND\n")

    def run_all(self, *args, code=0, bin_dir=None, **env):
        """What it printed, and {name: row} of the JSON that it left. The commit is what `git` says, a script here."""
        if not os.path.exists(os.path.join(self.bin, "git")):
            self.says("git", "abc1234")
        env = {**os.environ, "PATH": self.bin + os.pathsep + os.environ["PATH"], **env}
        done = subprocess.run([sys.executable, "-B", PROGRAM, "--bin-dir", bin_dir or self.bin, "--results", self.folder,
                               "--hf-python", os.path.join(self.folder, "none"), *args], capture_output=True, text=True,
                              env=env, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        rows = {}
        for path in glob.glob(os.path.join(self.folder, "*-run_all.json")):
            with open(path, encoding="utf-8") as file:
                rows = {row["name"]: row for row in json.load(file)["figures"]}
        return done.stdout + done.stderr, rows

    def test_ratios_are_held_against_their_targets(self):
        self.says("tee_kernels", KERNELS.format(tokens=1024))
        said, rows = self.run_all("--only", "attention-1024", "attention-pass", "silu", "rmsnorm", "residual", code=1)
        self.assertEqual({name: row["verdict"] for name, row in rows.items()},
                         {"attention-1024": "met", "attention-pass": "-", "silu": "missed", "rmsnorm": "met",
                          "residual": "met"})
        self.assertAlmostEqual(rows["attention-pass"]["ours"], 0.96)
        self.assertIn("missed: silu", said)
        table = [line for line in said.splitlines() if line.startswith("| silu |")]
        self.assertEqual(table, ["| silu | SiLU, 1024 tokens, one thread, a layer | 4 ms | memcpy of as many bytes | 2 ms "
                                 "| <= 1.5x | 2.00x | missed |"])
        with open(glob.glob(os.path.join(self.folder, "*-run_all.md"))[0], encoding="utf-8") as file:
            kept = file.read()
        self.assertIn(table[0], kept)
        for fact in ("commit: ", "machine: ", "command: `bench/run_all --bin-dir "):
            self.assertIn(fact, kept)

    def test_what_is_not_there_is_not_run_and_says_why(self):
        self.script("tee_kernels", "echo broken >&2; exit 3\n")
        _, rows = self.run_all("--only", "silu", "decode", "residual-rmsnorm", "load")
        self.assertEqual({name: row["verdict"] for name, row in rows.items()}, dict.fromkeys(rows, "not run"))
        self.assertEqual(rows["silu"]["why"], "tee_kernels: exit 3: broken")
        self.assertEqual(rows["decode"]["why"], "decode is not built")
        self.says("tee_kernels", KERNELS.format(tokens=1024))
        _, rows = self.run_all("--only", "residual-rmsnorm")
        self.assertEqual(rows["residual-rmsnorm"]["why"], "tee_kernels has no line both in one pass")
        self.says("tee_kernels", KERNELS.format(tokens=1024) + "| residual and rmsnorm | 1024 | 1.0 | 1.0 | 1.00 |\n")
        _, rows = self.run_all("--only", "residual-rmsnorm")
        self.assertEqual(rows["residual-rmsnorm"]["verdict"], "not run")  # two passes are not the one

    def test_kernels_have_the_names_that_tee_kernels_prints(self):
        with open(os.path.join(ROOT, "bench", "tee_kernels.cc"), encoding="utf-8") as file:
            source = file.read()
        named = set(re.findall(r'\{"([^"]+)",\s*(?:rows|tokens)', source))
        self.assertLessEqual({"attention", *rows_of_bench.KERNELS.values()}, named)

    def test_load_is_what_bench_load_says(self):
        self.script("gpu_server", "exit 0\n")
        self.script("load", f"""echo "$@" >{self.folder}/asked
echo '{{"bytes": 2500000000, "threads": 2, "read_s_median": 0.4, "again_s_median": 1.2, "first_s_median": 3.2}}'
""")
        _, rows = self.run_all("--only", "load", "--rounds", "4", code=1)
        self.assertEqual((rows["load"]["verdict"], rows["load"]["ours"], rows["load"]["bound"]), ("missed", 1.2, 0.4))
        self.assertAlmostEqual(rows["load"]["ratio"], 3.0)
        self.assertIn("digest computed 8.0x", rows["load"]["note"])
        with open(os.path.join(self.folder, "asked"), encoding="utf-8") as file:
            asked = file.read()
        self.assertIn("--rounds 4 -o json", asked)
        self.assertNotIn("--folder", asked)

    def test_another_shape_is_not_measured_by_programs_of_the_1b_shape(self):
        for name in ("tee_kernels", "tee_side", "decode", "load", "gpu_server"):
            self.script(name, "echo never >&2; exit 9\n")
        names = ("attention-128", "silu", "decode", "tee-side-1", "load")
        _, rows = self.run_all("--config", TINY, "--only", *names)
        self.assertEqual(set(rows), set(names))
        for row in rows.values():
            self.assertEqual(row["verdict"], "not run", row)
            self.assertIn("has LLaMA-3.2-1B's shape alone", row["why"])
        model = os.path.join(self.folder, "model")
        shutil.copytree(LINEAR, model)
        _, rows = self.run_all("--load-model", model, "--only", "load")
        self.assertIn("is not the same as", rows["load"]["why"])

    def test_a_real_start_is_measured(self):
        if not all(os.access(os.path.join(BIN, name), os.X_OK) for name in ("gpu_server", "load")):
            self.skipTest(f"gpu_server and load are not built in {BIN}")
        model = os.path.join(self.folder, "model")
        shutil.copytree(LINEAR, model)
        done = subprocess.run([sys.executable, "-B", PROGRAM, "--bin-dir", BIN, "--results", self.folder, "--config",
                               os.path.join(model, "config.json"), "--load-model", model, "--quick", "--only", "load"],
                              capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        with open(glob.glob(os.path.join(self.folder, "*-run_all.json"))[0], encoding="utf-8") as file:
            row, = json.load(file)["figures"]
        self.assertIn(row["verdict"], ("met", "missed"), row)
        self.assertGreater(row["ours"], 0)

    def test_transformers_are_asked_for_where_they_are_not(self):
        for name in ("gpu_server", "tee_runner"):
            self.script(name, "exit 0\n")
        said, rows = self.run_all("--only", "prefill-128-transformers")
        self.assertEqual(rows["prefill-128-transformers"]["verdict"], "not run")
        self.assertIn("pip install torch transformers", said)

    def test_a_figure_without_a_target_is_no_verdict(self):
        self.says("tee_side", json.dumps(SIDE))
        _, rows = self.run_all("--only", "tee-side-1", "tee-side-cores", code=1)
        self.assertEqual(rows["tee-side-1"]["verdict"], "missed")
        self.assertAlmostEqual(rows["tee-side-1"]["ours"], 0.6)
        self.assertEqual(rows["tee-side-1"]["note"], "attention 500 ms, outside of kernels 1.5 ms")
        if len(os.sched_getaffinity(0)) > 1:
            self.assertEqual((rows["tee-side-cores"]["verdict"], rows["tee-side-cores"]["ratio"]), ("-", 0.5))

    def test_resume_takes_the_other_rows_along(self):
        self.says("tee_kernels", KERNELS.format(tokens=1024))
        self.run_all("--only", "rmsnorm")
        self.says("tee_side", json.dumps(SIDE))
        _, rows = self.run_all("--only", "tee-side-1", "--resume", code=1)
        self.assertEqual(list(rows), ["rmsnorm", "tee-side-1"])
        for other in (("--quick",), ("--config", LINEAR + "/config.json"), ("--bin-dir", self.folder)):
            self.run_all("--only", "rmsnorm")
            said, rows = self.run_all("--only", "decode", "--resume", *other)
            self.assertIn("today's file differs in", said)
            self.assertEqual(list(rows), ["decode"])
        self.run_all("--only", "rmsnorm")
        self.says("git", "def5678")
        said, rows = self.run_all("--only", "decode", "--resume")
        self.assertIn("differs in commit", said)
        self.assertEqual(list(rows), ["decode"])
        for commit in ("def5678-dirty", ""):
            self.says("git", commit)
            self.assertIn("commit first", self.run_all("--only", "decode", "--resume", code=2)[0])

    def test_a_broken_answer_is_one_row_that_was_not_run(self):
        self.says("tee_kernels", KERNELS.format(tokens=1024).replace("| 4.000 |", "| |"))
        for text in ('{"results": []}', '{"results": 7}', "[]", "{", '{"results": [{"pass_ms_median": null, "read_ms_median": 1, '
                     '"ratio_median": 1, "weight_bytes": 1}]}'):
            self.says("decode", text)
            _, rows = self.run_all("--only", "silu", "rmsnorm", "decode")
            self.assertEqual({name: row["verdict"] for name, row in rows.items()},
                             {"silu": "not run", "rmsnorm": "met", "decode": "not run"}, rows)
            self.assertTrue(rows["decode"]["why"])

    def test_programs_get_the_same_environment_as_the_pair(self):
        self.script("decode", f"""env >{self.folder}/env
echo '{{"results": [{{"pass_ms_median": 1, "read_ms_median": 1, "ratio_median": 1, "weight_bytes": 1}}]}}'
""")
        self.run_all("--only", "decode", ONEDNN_MAX_CPU_ISA="SSE41", OMP_NUM_THREADS="1")
        with open(os.path.join(self.folder, "env"), encoding="utf-8") as file:
            names = {line.partition("=")[0] for line in file}
        self.assertIn("PATH", names)
        self.assertFalse({name for name in names if name.startswith(("ONEDNN", "OMP"))}, names)

    def settings(self, **more):
        values = {"bin_dir": self.bin, "config": rows_of_bench.LLAMA_1B, "rounds": 2, "cores": 2, "hf_python": "", "load_model": None}
        return rows_of_bench.Settings(**{**values, **more})

    def test_threads_are_those_that_a_program_takes_and_the_row_says_so(self):
        self.script("decode", f"""echo $1 >{self.folder}/asked
echo '{{"results": [{{"pass_ms_median": 1, "read_ms_median": 1, "ratio_median": 1, "weight_bytes": 1}}]}}'
""")
        for cores, threads, said in ((96, "64", "64 threads of 96 cores; "), (8, "8", "8 threads; ")):
            note = rows_of_bench.decode(self.settings(cores=cores))["decode"].note
            with open(os.path.join(self.folder, "asked"), encoding="utf-8") as file:
                self.assertEqual(file.read().strip(), threads)
            self.assertTrue(note.startswith(said), note)

    def test_one_contender_that_fails_leaves_the_others(self):
        calls = []

        def fails():
            calls.append(1)
            raise IndexError("gone")
        sides = {"pair": lambda: 3.0, "bad": fails, "good": lambda: 2.0}
        times = rows_of_bench.measured_in_turn(self.settings(rounds=3), sides, "test")
        self.assertEqual((times["pair"], times["good"], len(calls)), ([3.0] * 3, [2.0] * 3, 1))
        self.assertEqual(str(times["bad"]), "IndexError: gone")
        with self.assertRaises(IndexError):
            rows_of_bench.measured_in_turn(self.settings(), {"pair": fails, "good": lambda: 2.0}, "test")
        fault = rows_of_bench.NotRun("no room")
        figure = rows_of_bench.transformers_figure([3.0, 3.0], {"transformers in fp32": fault, "transformers in bf16": [6.0, 6.0]}, "v")
        self.assertEqual((figure.ratio, figure.note), (0.5, "in bf16, v, transformers in fp32: no room"))
        self.assertIs(rows_of_bench.transformers_figure([3.0], {"transformers in fp32": fault}, "v"), fault)
        figure = rows_of_bench.products_figure([3.0, 3.0], [{"fp32": 2.0, "bf16": 1.0}, {"fp32": 2.0, "bf16": 1.5}])
        self.assertEqual((figure.against, figure.note), (1.25, "bf16"))
        # A part that takes longer than the whole bounds nothing.
        figure = rows_of_bench.products_figure([3.0, 3.0], [{"fp32": 4.0}, {"fp32": 5.0}])
        self.assertIsInstance(figure, rows_of_bench.NotRun)

    def test_transformers_warm_up_as_the_others_and_the_quicker_type_counts(self):
        self.script("python", f"""case "$*" in *import*) exit 0;; *fp32*) first=9 second=0.4;; *) first=9 second=0.2;; esac
echo ready v1
while read tokens; do echo $first; echo asked >>{self.folder}/asked; swap=$first; first=$second; second=$swap; done
""")
        settings = self.settings(hf_python=os.path.join(self.bin, "python"), rounds=3)
        with contextlib.ExitStack() as stack:
            sides, faults, versions = rows_of_bench.transformers_sides(settings, 128, stack)
            self.assertEqual((set(sides), faults, versions), ({"transformers in fp32", "transformers in bf16"}, {}, "v1"))
            times = rows_of_bench.measured_in_turn(settings, sides, "test")
        self.assertEqual(times, {"transformers in fp32": [400.0] * 3, "transformers in bf16": [200.0] * 3})
        self.assertEqual(rows_of_bench.transformers_figure([100.0] * 3, times, versions)[:3], (100.0, 200.0, 0.5))

    def test_cores_are_those_that_may_be_used(self):
        root = os.path.join(self.folder, "root")

        def put(path, text):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            with open(root + path, "w", encoding="utf-8") as file:
                file.write(text)
        self.assertIsNone(measure.cgroup_cpus(root))
        put("/proc/self/cgroup", "0::/a/b\n")
        put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
        self.assertIsNone(measure.cgroup_cpus(root))
        put("/sys/fs/cgroup/a/cpu.max", "50000 100000\n")  # an ancestor's counts
        self.assertEqual(measure.cgroup_cpus(root), 0.5)
        self.assertEqual(measure.usable_cpus(root), 1)
        put("/sys/fs/cgroup/a/cpu.max", "99900000 100000\n")
        self.assertEqual(measure.usable_cpus(root), len(os.sched_getaffinity(0)))
        put("/proc/self/cgroup", "4:cpu,cpuacct:/c\n3:memory:/m\n")
        put("/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "150000\n")
        put("/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n")
        self.assertEqual(measure.cgroup_cpus(root), 1.5)

    def test_a_machine_that_was_not_quiet_is_named_above_the_table(self):
        loader = importlib.machinery.SourceFileLoader("run_all", PROGRAM)
        run_all = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_all", loader))
        loader.exec_module(run_all)
        args = argparse.Namespace(config=TINY, rounds=5, results=self.folder)
        for load, says in (("0.51 0 0", True), ("0.49 9 9", False)):
            with mock.patch.dict(measure.MACHINE_BEFORE, {"load before": load}):
                text = run_all.keep(args, {"commit": "abc"}, {})[1]
            self.assertEqual("Not a quiet machine" in text, says, text)
            self.assertLess(text.find("Not a quiet machine"), text.index("| name |"))

    def test_a_page_gets_the_table(self):
        page = os.path.join(self.folder, "page.md")
        with open(page, "w", encoding="utf-8") as file:
            file.write("Before.\n\n<!-- bench/run_all -->\nold\n<!-- end of the table -->\nBehind.\n")
        self.says("tee_kernels", KERNELS.format(tokens=1024))
        self.run_all("--only", "rmsnorm", "--page", page)
        with open(page, encoding="utf-8") as file:
            text = file.read()
        self.assertTrue(text.startswith("Before.\n\n<!-- bench/run_all -->\n\ndate: ") and text.endswith("Behind.\n"), text)
        self.assertIn("| rmsnorm | RMSNorm, 1024 tokens", text)
        self.assertNotIn("old", text)
        with open(page, "w", encoding="utf-8") as file:
            file.write("no marks\n")
        os.remove(os.path.join(self.bin, "tee_kernels"))  # nothing is run
        self.assertIn("once each", self.run_all("--only", "rmsnorm", "--page", page, code=2)[0])

    def test_rows_are_listed_and_others_are_refused(self):
        said, rows = self.run_all("--list")
        self.assertIn("prefill-1024-transformers", said)
        self.assertEqual(rows, {})
        self.assertIn("there is no row polish", self.run_all("--only", "polish", code=2)[0])
        self.assertIn("--rounds", self.run_all("--rounds", "0", code=2)[0])

    def test_parts_of_the_trusted_side_add_up(self):
        program = os.path.join(BIN, "tee_side")
        if not os.access(program, os.X_OK):
            self.skipTest(f"{program} is not built")
        for wire in ("bf16", "fp32"):
            done = subprocess.run([program, "--tokens", "3,8", "--threads", "1,2", "--rounds", "1", "--wire", wire, "-o", "json"],
                                  capture_output=True, text=True, check=True)
            rows = json.loads(done.stdout)["results"]
            self.assertEqual([(row["tokens"], row["threads"]) for row in rows], [(3, 1), (3, 2), (8, 1), (8, 2)])
            for row in rows:
                kernels = sum(row[name + "_ms"] for name in ("rmsnorm", "rope", "softmax", "silu", "residual", "attention"))
                wall, parts = row["wall_ms_median"], kernels + row["asking_ms"] + row["rest_ms"]
                self.assertAlmostEqual(parts, wall, delta=1e-4 * wall)  # six digits of each are said
                for name in ("rmsnorm", "silu", "residual", "attention", "asking", "rest"):
                    self.assertGreater(row[name + "_ms"], 0, (name, row))
        for args in (("--threads", "0"), ("--tokens", "x"), ("--wire", "int8"), ("--rounds", "0")):
            self.assertEqual(subprocess.run([program, *args], capture_output=True, check=False).returncode, 2, args)

    def test_the_real_pair_gives_a_figure_for_each_row_of_it(self):
        needed = [os.path.join(BIN, name) for name in ("gpu_server", "tee_runner")]
        if not all(os.access(path, os.X_OK) for path in needed):
            self.skipTest(f"the pair is not built in {BIN}")
        names = ("prefill-128-local", "otp-128", "otp-decode")
        done = subprocess.run([sys.executable, "-B", PROGRAM, "--bin-dir", BIN, "--results", self.folder, "--config", TINY,
                               "--quick", "--only", *names],
                              capture_output=True, text=True, check=False)
        self.assertIn(done.returncode, (0, 1), done.stderr)
        with open(glob.glob(os.path.join(self.folder, "*-run_all.json"))[0], encoding="utf-8") as file:
            rows = {row["name"]: row for row in json.load(file)["figures"]}
        self.assertEqual(set(rows), set(names))
        for row in rows.values():
            self.assertIn(row["verdict"], ("met", "missed"), row)
            self.assertGreater(row["ours"], 0)
            self.assertGreater(row["ratio"], 0)


if __name__ == "__main__":
    unittest.main()
