#!/usr/bin/env python3
"""bench/compare with builds whose ring_echo says what the test wants."""
import glob
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
JSON = """echo '{"results":[{"bytes":64,"echo_ns":'$1'}]}'"""
MARKDOWN = """printf '| payload bytes | rounds | echo, median us |\\n| ---: | ---: | ---: |\\n| 64 | 10 | %s.0 |\\n' $1"""


class CompareTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def build(self, name, *values, says=JSON):
        """A build directory whose ring_echo says these times in turn."""
        bin_dir = os.path.join(self.folder, name, "bin")
        os.makedirs(bin_dir)
        if values:
            path, count = os.path.join(bin_dir, "ring_echo"), os.path.join(bin_dir, "calls")
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"#!/bin/sh\nn=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) > {count}\n"
                           f"set -- {' '.join(map(str, values))}; shift $((n % $#)); {says}\n")
            os.chmod(path, 0o755)
        return os.path.dirname(bin_dir)

    def compare(self, before, after, *args, code=0):
        """What it printed, and the figures of its JSON."""
        done = subprocess.run([sys.executable, "-B", os.path.join(ROOT, "bench", "compare"), before, after, "ring_echo",
                               "--results", self.folder, "-o", "json", *args], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        figures = []
        for path in glob.glob(os.path.join(self.folder, "*-compare-*.json")):
            with open(path, encoding="utf-8") as file:
                figures = json.load(file)["figures"]
        return done.stdout + done.stderr, figures

    def test_a_change_within_the_spread_is_no_difference(self):
        said, (figure,) = self.compare(self.build("a", 1000, 1050), self.build("b", 1060), "--fail-over", "0")
        self.assertEqual(figure["verdict"], "no difference")
        self.assertAlmostEqual(figure["spread"], 0.05)
        self.assertIn("no difference", said)

    def test_each_round_is_before_after_before(self):
        _, (figure,) = self.compare(self.build("a", *range(1, 11)), self.build("b", *range(21, 26)))
        self.assertEqual(figure["before"], [0.001, 0.003, 0.005, 0.007, 0.009])
        self.assertEqual(figure["after"], [0.021, 0.022, 0.023, 0.024, 0.025])
        self.assertEqual(figure["again"], [0.002, 0.004, 0.006, 0.008, 0.010])

    def test_slower_beyond_the_spread_fails_where_asked(self):
        before, after = self.build("a", 1000, 1010), self.build("b", 1200)
        said, (figure,) = self.compare(before, after)
        self.assertEqual(figure["verdict"], "slower by 19.4 %")
        said, _ = self.compare(before, after, "--fail-over", "17", code=1)
        self.assertIn("18.4 % beyond the spread", said)
        self.compare(before, after, "--fail-over", "19")

    def test_one_slow_run_does_not_make_a_difference(self):
        _, (figure,) = self.compare(self.build("a", 1000, 1001), self.build("b", 1000, 1001, 3000, 1000, 1001))
        self.assertEqual(figure["verdict"], "no difference")

    def test_one_slow_run_does_not_hide_a_difference(self):
        before = self.build("a", 1000, 1010, 5000, 1010, 1000, 1010, 1000, 1010, 1000, 1010)
        _, (figure,) = self.compare(before, self.build("b", 1200))
        self.assertEqual(figure["verdict"], "slower by 19.4 %")

    def test_faster_is_said_and_never_fails(self):
        _, (figure,) = self.compare(self.build("a", 1000, 1010), self.build("b", 800), "--fail-over", "0")
        self.assertEqual(figure["verdict"], "faster by 20.4 %")

    def test_a_build_from_before_ring_echo_wrote_json_is_measured(self):
        _, (figure,) = self.compare(self.build("a", 7, says=MARKDOWN), self.build("b", 7000))
        self.assertEqual((figure["before"][0], figure["after"][0]), (7.0, 7.0))

    def test_what_a_build_lacks_is_not_measured(self):
        said, figures = self.compare(self.build("a", 7), self.build("b"))
        self.assertIn("ring_echo: not measured", said)
        self.assertEqual(figures, [])

    def test_what_is_neither_a_build_nor_a_revision_is_refused(self):
        said, _ = self.compare(self.build("a", 7), os.path.join(self.folder, "none"), code=2)
        self.assertIn("neither a build directory (with bin/ in it) nor a revision", said)

    def test_a_program_that_fails_ends_it(self):
        said, _ = self.compare(self.build("a", 7), self.build("b", 7, says="exit 3"), code=2)
        self.assertIn("exit 3", said)


if __name__ == "__main__":
    unittest.main()
