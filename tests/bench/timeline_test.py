#!/usr/bin/env python3
"""bench/timeline on traces of which one knows what happened."""
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
PROGRAM = os.path.join(ROOT, "bench", "timeline")
sys.path.insert(0, os.path.join(ROOT, "bench"))


def load():
    loader = importlib.machinery.SourceFileLoader("timeline", PROGRAM)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("timeline", loader))
    loader.exec_module(module)
    return module


timeline = load()


def op(seq, weights, start, tee=2, wire=4, queue=1, server=3, layer=0, run=0):
    return {"seq": seq, "run": run, "op": "batch_linear", "layer": layer, "weights": [[layer, weights]],
            "start_ns": start * 1000, "total_ns": 1000 * (tee + wire + queue + server), "tee_ns": tee * 1000,
            "wire_ns": wire * 1000, "queue_ns": queue * 1000, "server_ns": server * 1000}


class TimelineTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def spans(self, records):
        return [(kind, start / 1000, end / 1000, step, tile) for kind, start, end, step, tile, _ in timeline.spans_of(records)]

    def draw(self, records, *args, code=0):
        path = os.path.join(self.folder, "trace.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in ({"airlock_trace": 1, "tokens": 64}, *records)))
        done = subprocess.run([sys.executable, "-B", PROGRAM, path, *args], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout, done.stderr

    def test_one_op_after_the_other_has_the_kernels_between(self):
        # The first takes 10; the second is asked for 5 later.
        self.assertEqual(self.spans([op(0, "q_proj", 7), op(1, "o_proj", 22)]), [
            ("kernels", 0, 7, "qkv", 0), ("tee", 7, 8, "qkv", 0), ("wire", 8, 10, "qkv", 0), ("queue", 10, 11, "qkv", 0),
            ("server", 11, 14, "qkv", 0), ("wire", 14, 16, "qkv", 0), ("tee", 16, 17, "qkv", 0),
            ("kernels", 17, 22, "o", 0), ("tee", 22, 23, "o", 0), ("wire", 23, 25, "o", 0), ("queue", 25, 26, "o", 0),
            ("server", 26, 29, "o", 0), ("wire", 29, 31, "o", 0), ("tee", 31, 32, "o", 0)])

    def test_kernels_of_tiles_begin_when_the_last_was_asked_for_and_the_own_result_is_there(self):
        # Tile 0 is back at 14, tile 1 at 18; tile 0 is asked for again at 20: its kernels took from 14 on. Tile 1's begin then.
        records = [op(0, "q_proj", 4), op(1, "q_proj", 8), op(2, "o_proj", 20), op(3, "o_proj", 26)]
        kernels = [span for span in self.spans(records) if span[0] == "kernels"]
        self.assertEqual(kernels, [("kernels", 0, 4, "qkv", 0), ("kernels", 4, 8, "qkv", 1), ("kernels", 14, 20, "o", 0),
                                   ("kernels", 20, 26, "o", 1)])

    def test_what_overlaps_lies_in_rows_of_its_own(self):
        lanes = timeline.lanes_of(timeline.spans_of([op(0, "q_proj", 4), op(1, "q_proj", 5)]))
        self.assertEqual([len(lanes[part]) for part in timeline.PARTS], [2, 2, 2])
        for rows in lanes.values():
            for row in rows:
                for first, second in zip(row, row[1:]):
                    self.assertLessEqual(first[2], second[1] + 1)
        # 11 of the queue and the server at 10 to 14 and 11 to 15, once.
        self.assertEqual(timeline.busy_ns(timeline.spans_of([op(0, "q_proj", 4), op(1, "q_proj", 5)]), "server"), 5000)

    def test_the_picture_is_whole_and_of_the_layer_and_run(self):
        records = [op(4 * run + 2 * layer + i, name, 100 * run + 40 * layer + 20 * i, layer=layer, run=run)
                   for run in (0, 1) for layer in (0, 1) for i, name in enumerate(("q_proj", "down_proj"))]
        picture, said = self.draw(records)
        tree = xml.fromstring(picture)
        titles = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}title")]
        self.assertIn("product, down: 0.003 ms", titles)
        self.assertEqual(sum(title.startswith("product") for title in titles), 2)
        self.assertIn("layer 1 of 64 tokens", said)
        # Layer 0: 20 of the first op until the second, and its 10; the server and its queue are busy 8 of 30.
        self.assertIn("layer 0 of 64 tokens, 0.0 ms: runner 47 %, wire 27 %, server 27 %",
                      self.draw(records, "--layer", "0", "--run", "0")[1])
        self.draw(records, "--layer", "2", code=1)
        self.draw(records, "--run", "7", code=1)
        self.draw([], code=1)
        self.draw([{"total_ns": 1}], code=1)

    def record(self, *args):
        bin_dir = os.path.join(self.folder, "bin")
        os.makedirs(bin_dir, exist_ok=True)
        for name in ("gpu_server", "tee_runner"):
            with open(os.path.join(bin_dir, name), "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\ntouch {self.folder}/started\nexit 9\n")
            os.chmod(os.path.join(bin_dir, name), 0o755)
        done = subprocess.run([sys.executable, "-B", PROGRAM, "--record", "one", "--bin-dir", bin_dir, *args],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stderr, os.path.exists(os.path.join(self.folder, "started"))

    def test_a_page_without_its_marks_is_refused_before_anything_is_run(self):
        page = os.path.join(self.folder, "page.md")
        said, started = self.record("--page", page)
        self.assertIn("FileNotFoundError", said)
        self.assertFalse(started)
        for text in ("no mark\n", f"{timeline.END}\n{timeline.BEGIN}\n", f"{timeline.BEGIN}\n"):
            with open(page, "w", encoding="utf-8") as file:
                file.write(text)
            said, started = self.record("--page", page)
            self.assertIn("once each", said)
            self.assertFalse(started)
        with open(page, "w", encoding="utf-8") as file:
            file.write(f"{timeline.BEGIN}\n{timeline.END}\n")
        self.assertTrue(self.record("--page", page)[1])
        timeline.text_with(timeline.PAGE, timeline.BEGIN, timeline.END)  # the page of docs/ has them

    def test_the_command_names_what_changes_the_picture(self):
        sys.argv = ["timeline", "--record", "one", "--threads", "3", "--title", "two words", "--", "--attention=offload"]
        command = timeline.command_of(timeline.parse())
        self.assertEqual(command, "bench/timeline --record one --tokens 1024 --threads 3 --config "
                         "tests/data/configs/llama-3.2-1b.json --bin-dir build/release/bin --title 'two words' -- "
                         "--attention=offload")
        self.assertEqual(timeline.runner_options(["--tile", "off"]), ["--attention", "tee", "--tile", "off"])
        self.assertEqual(timeline.runner_options(["--attention", "offload"]), ["--attention", "offload"])

    def test_a_page_has_each_picture_once(self):
        page = os.path.join(self.folder, "page.md")
        with open(page, "w", encoding="utf-8") as file:
            file.write(f"Before.\n\n{timeline.BEGIN}\n{timeline.END}\n\nBehind.\n")
        timeline.add_to_page(page, "one", "a", "c1")
        timeline.add_to_page(page, "two", "b", "c2")
        timeline.add_to_page(page, "one", "new", "c3")
        with open(page, encoding="utf-8") as file:
            text = file.read()
        self.assertEqual(text, f"Before.\n\n{timeline.BEGIN}\n\n### one\n\n`c3`: new.\n\n![one](timelines/one.svg)\n\n\n"
                               f"### two\n\n`c2`: b.\n\n![two](timelines/two.svg)\n\n{timeline.END}\n\nBehind.\n")


if __name__ == "__main__":
    unittest.main()
