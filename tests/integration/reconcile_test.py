#!/usr/bin/env python3
"""tools/reconcile agrees with equal counters, and tells each kind of difference."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def side(sent, received, zmq_tensors=1):
    """A statistics file with these ring bytes."""
    def direction(value, tensors):
        return {"messages": 3, "tensors": tensors, "bytes": value}
    return {"paths": {"ring": {"sent": direction(sent, 2), "received": direction(received, 2)},
                      "pool": {"sent": direction(0, 0), "received": direction(0, 0)},
                      "zmq": {"sent": direction(0, zmq_tensors), "received": direction(0, zmq_tensors)}}}


class ReconcileTest(unittest.TestCase):
    def reconcile(self, runner, server, *options, others=()):
        with tempfile.TemporaryDirectory() as folder:
            sides = [runner, *others, server]
            names = [os.path.join(folder, f"{number}.json") for number in range(len(sides))]
            for name, stats in zip(names, sides):
                with open(name, "w", encoding="utf-8") as file:
                    file.write(stats if isinstance(stats, str) else json.dumps(stats))
            return subprocess.run([sys.executable, os.path.join(ROOT, "tools", "reconcile"), *options, *names],
                                  capture_output=True, text=True, check=False)

    def test_equal_counters_agree(self):
        self.assertEqual(self.reconcile(side(10, 20), side(20, 10), "--used", "ring,zmq").returncode, 0)

    def test_several_runners_are_added_up(self):
        server = side(30, 15, 2)
        for direction in ("sent", "received"):
            for path in ("ring", "pool", "zmq"):
                server["paths"][path][direction]["messages"] = 6
            server["paths"]["ring"][direction]["tensors"] = 4
        self.assertEqual(self.reconcile(side(10, 20), server, others=[side(5, 10)]).returncode, 0)
        self.assertEqual(self.reconcile(side(10, 20), server, others=[side(6, 10)]).returncode, 4)

    def test_fallbacks_that_one_side_has_not_are_told(self):
        server = side(20, 10)
        server["paths"]["pool"]["fallbacks"] = 1
        done = self.reconcile(side(10, 20), server)
        self.assertEqual(done.returncode, 4)
        self.assertIn("1 at the server", done.stderr)

    def test_a_lost_request_is_told(self):
        done = self.reconcile(side(10, 20), side(20, 9))
        self.assertEqual(done.returncode, 4)
        self.assertIn("ring requests", done.stderr)

    def test_a_lost_reply_is_told(self):
        done = self.reconcile(side(10, 19), side(20, 10))
        self.assertEqual(done.returncode, 4)
        self.assertIn("ring replies", done.stderr)

    def test_an_unused_path_is_told_where_both_are_demanded(self):
        done = self.reconcile(side(10, 20, 0), side(20, 10, 0), "--used", "ring,zmq")
        self.assertEqual(done.returncode, 4)
        self.assertIn("zmq", done.stderr)

    def test_a_file_that_is_no_statistics_is_refused(self):
        self.assertEqual(self.reconcile("{}", side(1, 1)).returncode, 1)


if __name__ == "__main__":
    unittest.main()
