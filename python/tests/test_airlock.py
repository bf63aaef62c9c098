"""The package against real servers, over ipc (arrays in the lease) and tcp (the same calls, sent). AIRLOCK_BIN_DIR has
gpu_server; default build/release/bin."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "python"), os.path.join(ROOT, "tools"), os.path.join(ROOT, "examples", "pca")]
BIN_DIR = os.environ.get("AIRLOCK_BIN_DIR") or os.path.join(ROOT, "build", "release", "bin")
os.environ.setdefault("AIRLOCK_POOL_LIBRARY", os.path.join(BIN_DIR, "..", "lib", "libairlock_pool.so"))
import numpy as np  # noqa: E402

import airlock  # noqa: E402
import pca  # noqa: E402
from pair import Pair  # noqa: E402

PAGE = 4096


def setUpModule():
    global folder, rig, ipc, tcp
    folder = tempfile.TemporaryDirectory(prefix="airlock-python.")
    rig = Pair(BIN_DIR, folder.name)
    ipc = new_server("--pool", "256M")
    tcp = new_server(endpoint="tcp://127.0.0.1:0")


def tearDownModule():
    rig.close()
    folder.cleanup()


def new_server(*args, **kwargs):
    return rig.server(*args, model=("--no-model",), **kwargs)


def random(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def run_example(name, *args):
    env = {**os.environ, "PYTHONPATH": os.path.join(ROOT, "python")}
    return subprocess.run([sys.executable, "-B", os.path.join(ROOT, "examples", "pca", name), *args], check=False,
                          env=env, text=True, capture_output=True)


class Session(unittest.TestCase):
    """A pool of its own for each test, on the server over ipc."""

    server = staticmethod(lambda: ipc)

    def setUp(self):
        self.pool = airlock.Pool(self.server().endpoint, client=self.id().rsplit(".", 1)[-1])
        self.addCleanup(self.pool.close)

    def put(self, values, dtype=None, use="in"):
        return self.pool.alloc(values.shape, dtype or values.dtype, use).copy_(values)

    def expect_nothing_is_left(self):
        stats = self.pool.stats()
        self.assertEqual(stats["arrays"], 0)
        self.assertEqual([stats[use]["used_bytes"] for use in ("in", "out", "scratch")], [0, 0, 0])


class Both:
    """What holds over ipc and over tcp alike."""

    def test_products_of_all_types_and_transpositions(self):
        tolerances = {"float64": 1e-13, "float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}
        for dtype, tolerance in tolerances.items():
            for transpose in (None, "a", "b"):
                for heads, groups in ((), ()), ((4,), (1,)), ((4,), (2,)), ((3,), (3,)):
                    with self.subTest(dtype=dtype, transpose=transpose, heads=heads, groups=groups):
                        a, b = random(*heads, 33, 65), random(*groups, 65, 47, seed=2)
                        with np.errstate(over="ignore"):
                            x = self.put(a.swapaxes(-1, -2) if transpose == "a" else a, dtype)
                            y = self.put(b.swapaxes(-1, -2) if transpose == "b" else b, dtype)
                        expected = a @ (np.repeat(b, heads[0] // groups[0], axis=0) if heads else b)
                        result = self.pool.matmul(x, y, transpose)
                        self.assertEqual((result.shape, result.dtype), (expected.shape, dtype))
                        got = result.copy_out()
                        if dtype == "bfloat16":
                            got = (got.astype(np.uint32) << 16).view(np.float32)
                        self.assertLess(np.abs(got - expected).max(), tolerance * np.abs(expected).max())

    def test_a_chain_of_jobs_that_nobody_waited_for(self):
        a = random(80, 80) / 9
        x = self.put(a)
        first = self.pool.start_matmul(x, x, use="scratch")
        second = self.pool.start_matmul(first.result, x, use="scratch")
        third = self.pool.start_matmul(second.result, first.result, "b")
        expected = a @ a @ a @ (a @ a).T
        np.testing.assert_allclose(third.wait().numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        np.testing.assert_allclose(second.wait().numpy(), a @ a @ a, rtol=0, atol=1e-12)
        self.assertIs(third.wait(), third.result)

    def test_operands_may_go_while_a_job_reads_them(self):
        a = random(300, 300)
        x = self.put(a)
        job = self.pool.start_matmul(x, x)
        x.free()
        other = self.put(np.zeros((300, 300)))
        np.testing.assert_allclose(job.wait().numpy(), a @ a, atol=1e-10)
        self.assertFalse(other.numpy().any())

    def test_a_copy_comes_after_the_product_that_was_dropped(self):
        for n in (30, 300):
            with self.subTest(n=n):
                ones, eye = self.put(np.ones((n, n))), self.put(np.eye(n))
                target = self.pool.alloc((n, n), use="scratch")
                self.pool.start_matmul(ones, ones, out=target)
                target.copy_(np.full((n, n), 7.0))
                self.assertTrue((self.pool.matmul(target, eye).copy_out() == 7).all())
                self.pool.start_matmul(ones, ones, out=target)
                other = self.pool.alloc((n, n), use="scratch").copy_(target)
                self.assertTrue((other.copy_out() == n).all())
                with self.assertRaises(airlock.Invalid):
                    target.copy_(np.ones((n, n), complex))
                with self.assertRaises(airlock.Invalid):
                    target.copy_(np.ones(n + 1))

    def test_copies(self):
        a = self.pool.alloc((3, 4))
        values = np.arange(12.0).reshape(3, 4)
        np.testing.assert_array_equal(a.copy_(values.astype(np.float32)).copy_out(), values)
        np.testing.assert_array_equal(a.copy_(values.T.copy().T).numpy(), values)  # not row-major
        np.testing.assert_array_equal(a.copy_([1, 2, 3, 4]).numpy(), [[1, 2, 3, 4]] * 3)
        out = np.zeros((3, 4))
        self.assertIs(a.copy_out(out), out)
        self.assertEqual(out[2, 3], 4)
        copy = a.copy_out()
        a.numpy()[:] = 9
        self.assertEqual(copy[0, 0], 1)
        np.testing.assert_array_equal(self.pool.alloc_like(a).copy_(a).numpy(), a.numpy())
        for bad in (np.ones(5), "x", np.ones((3, 4)) * 1j, None):
            with self.assertRaises(airlock.Invalid):
                a.copy_(bad)
        for bad in (np.zeros((4, 3)), np.zeros((3, 4), np.float32), np.zeros((4, 3)).T):
            with self.assertRaises(airlock.Invalid):
                a.copy_out(bad)
        with self.assertRaises(airlock.Invalid):
            self.pool.alloc(4, "int32").copy_(np.ones(4))

    def test_element_types_and_arrays_as_others_see_them(self):
        for dtype in ("float32", "float16", "int32", "uint8", "float64"):
            values = np.arange(24).reshape(2, 3, 4).astype(dtype)
            a = self.pool.alloc_like(values).copy_(values)
            self.assertEqual((a.dtype, a.shape, a.nbytes), (dtype, (2, 3, 4), values.nbytes))
            for seen in (np.asarray(a), np.from_dlpack(a), a.numpy()):
                self.assertEqual(seen.__array_interface__["data"][0], a.address)
                np.testing.assert_array_equal(seen, values)
            self.assertEqual(np.asarray(a, dtype="float64").dtype, np.float64)
            self.assertEqual(a.__dlpack_device__(), (1, 0))

    def test_bfloat16_is_seen_as_bits(self):
        values = np.array([1.0, -2.5, 1 + 2**-8, 1 + 3 * 2**-8, np.inf, np.nan, 0.0])
        a = self.pool.alloc(7, "bf16").copy_(values)
        self.assertEqual(a.numpy().dtype, np.uint16)
        self.assertEqual([hex(n) for n in a.numpy()],
                         ["0x3f80", "0xc020", "0x3f80", "0x3f82", "0x7f80", "0x7fc0", "0x0"])
        self.assertEqual(self.pool.alloc(7).copy_(a).numpy()[1], -2.5)
        with self.assertRaises(airlock.Invalid):
            a.copy_(np.arange(7))

    def test_torch(self):
        try:
            import torch
        except ImportError:
            self.skipTest("no torch here")
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8):
            values = (torch.rand(64, 50) * 100).to(dtype)
            a = self.pool.alloc_like(values).copy_(values)
            for seen in (a.torch(), a.to("cpu"), torch.from_dlpack(a)):
                self.assertEqual(seen.dtype, dtype)
                self.assertEqual(seen.data_ptr(), a.address)
                self.assertTrue(torch.equal(seen, values))

    def test_what_cannot_be_is_said(self):
        a, b = self.pool.alloc((4, 5)), self.pool.alloc((4, 5))
        other = self.enterContext(airlock.Pool(self.server().endpoint)) if hasattr(self, "enterContext") else self.pool
        for call, words in (
                (lambda: self.pool.alloc((4, 5), "complex64"), "complex64"),
                (lambda: self.pool.alloc((4, 5), use="inside"), "'inside'"),
                (lambda: self.pool.alloc(()), "rank is 1 to 4"),
                (lambda: self.pool.alloc((1, 1, 1, 1, 1)), "rank"),
                (lambda: self.pool.alloc((4, -5)), "negative"),
                (lambda: self.pool.alloc((4, 0)), "bytes"),
                (lambda: self.pool.alloc((2**64 + 1,)), "no array"),
                (lambda: self.pool.alloc((2**40, 2**40)), "bytes"),
                (lambda: self.pool.matmul(a, b), "k is 5 and 4"),
                (lambda: self.pool.matmul(a, b, "c"), "'c'"),
                (lambda: self.pool.matmul(a, b, "b", out=a), "one of its operands"),
                (lambda: self.pool.matmul(a, b, "b", out=self.pool.alloc((4, 5))), "expected"),
                (lambda: self.pool.matmul(a, self.pool.alloc((4, 5), "float32"), "b"), "expected one type"),
                (lambda: self.pool.matmul(a, self.pool.alloc(5)), "rank 2 or 3"),
                (lambda: airlock.Pool(timeout=-1), "timeout"),
                (lambda: airlock.Pool(lease={"inside": 1}), "'inside'"),
                (lambda: airlock.Pool("ipc:relative"), "ipc")):
            with self.subTest(words), self.assertRaisesRegex(airlock.Invalid, re.escape(words)) as raised:
                call()
            self.assertIsInstance(raised.exception, ValueError)
        if other is not self.pool:
            with self.assertRaisesRegex(airlock.Invalid, "different sessions"):
                self.pool.matmul(a, other.alloc((4, 5)), "b", out=self.pool.alloc((4, 4)))

    def test_use_after_free_is_an_error(self):
        a = self.pool.alloc((100, 100))
        self.assertTrue(a.free())
        self.assertTrue(a.free())
        for use in (a.numpy, a.copy_out, lambda: a.copy_(1), lambda: self.pool.matmul(a, a), lambda: np.asarray(a),
                    a.__dlpack__, lambda: a.address):
            with self.assertRaisesRegex(airlock.Invalid, "freed"):
                use()
        self.assertIn("freed", repr(a))
        self.expect_nothing_is_left()

    def test_a_context_manager_closes(self):
        with airlock.Pool(self.server().endpoint) as pool:
            with pool.alloc((100, 100)) as a:
                view = a.numpy()
                view[:] = 1
            self.assertTrue(a.is_freed)
            kept = pool.alloc((100, 100))
        pool.close()
        for use in (pool.stats, pool.check, lambda: pool.alloc(3), lambda: pool.matmul(kept, kept)):
            with self.assertRaisesRegex(airlock.Unavailable, "closed"):
                use()
        view[:] = 2  # its memory is still this program's
        kept.numpy()[:] = 3
        self.assertTrue(kept.free())

    def test_an_array_keeps_its_session(self):
        a = airlock.Pool(self.server().endpoint).alloc((100, 100))
        a.numpy()[:] = 5
        self.assertEqual(a.copy_out().sum(), 50000)

    def test_close_with_jobs_under_way(self):
        pool = airlock.Pool(self.server().endpoint)
        a = pool.alloc((700, 700)).copy_(np.ones((700, 700)))
        jobs = [pool.start_matmul(a, a) for _ in range(3)]
        pool.close()
        ended = []
        for job in jobs:
            for _ in range(2):
                try:
                    job.wait()
                    ended.append(False)
                except airlock.Unavailable:
                    ended.append(True)
        # What was answered before is there; the last one cannot have been.
        self.assertEqual(ended, sorted(ended))
        self.assertEqual(ended[-2:], [True, True])
        self.assertEqual(self.put(np.eye(3)).copy_out().sum(), 3)  # another session goes on

    def test_a_killed_server_is_unavailable(self):
        victim = new_server("--pool", "256M", endpoint=f"ipc://{rig.run_dir}/victim" if self.server() is ipc else
                            "tcp://127.0.0.1:0")
        with airlock.Pool(victim.endpoint, timeout=2) as pool:
            a = pool.alloc((1400, 1400)).copy_(np.ones((1400, 1400)))
            jobs = [pool.start_matmul(a, a, use=use) for use in ("out", "scratch")]
            victim.signal(signal.SIGKILL)
            start = time.monotonic()
            with self.assertRaises(airlock.Unavailable) as raised:
                for job in jobs:
                    job.wait()
            self.assertLess(time.monotonic() - start, 20)
            self.assertIsInstance(raised.exception, ConnectionError)
            with self.assertRaises(airlock.Unavailable):
                pool.matmul(a, a, out=jobs[0].result)
            a.numpy()[:] = 1  # no fault, whatever it holds now
            if a.is_inside:
                with self.assertRaises(airlock.Unavailable):
                    a.copy_out()

    def test_a_product_that_takes_too_long_is_a_timeout(self):
        with airlock.Pool(self.server().endpoint, op_timeout=0.05) as pool:
            a = pool.alloc((1400, 1400)).copy_(np.ones((1400, 1400)))
            with self.assertRaises(airlock.Timeout) as raised:
                pool.matmul(a, a)
            self.assertIsInstance(raised.exception, TimeoutError)
            self.assertEqual(a.copy_out()[0, 0], 1)

    def test_an_interrupt_waits_for_the_product(self):
        self.addCleanup(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
        a = self.put(np.ones((1400, 1400)))
        job = self.pool.start_matmul(a, a)
        timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
        with self.assertRaises(KeyboardInterrupt):
            timer.start()
            job.wait()
            time.sleep(60)
        self.assertEqual(job.wait().numpy()[3, 3], 1400)
        self.assertEqual(self.pool.matmul(a, a, out=job.result).numpy()[1399, 0], 1400)

    def test_threads_take_turns(self):
        failures = []

        def work(number):
            try:
                for turn in range(15):
                    value = 1.0 + number + turn / 100
                    with self.pool.alloc((60, 60)) as a, self.pool.alloc((60, 60), use="out") as out:
                        a.numpy()[:] = value
                        self.pool.matmul(a, a, out=out)
                        got = out.copy_out()
                        if not np.allclose(got, 60 * value * value, rtol=1e-12):
                            failures.append((number, turn, got[0, 0]))
                    self.pool.stats()
            except Exception as error:  # said by the test, not lost with the thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.expect_nothing_is_left()

    def test_many_arrays(self):
        arrays = []
        for number in range(3000):
            a = self.pool.alloc(2 if number % 3 else (700, 2), use=("in", "out", "scratch")[number % 2])
            a.numpy()[:] = number
            arrays.append(a)
        for number, a in enumerate(arrays):
            self.assertTrue((a.numpy() == number).all())
        self.assertEqual(self.pool.stats()["arrays"], 3000)
        del arrays, a
        self.expect_nothing_is_left()

    def test_a_child_after_a_fork_leaves_the_session_alone(self):
        a = self.put(np.eye(100))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                self.pool.stats()
            except airlock.Invalid:
                self.pool.close()
                del a
                code = 0
            os._exit(code)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertEqual(self.pool.matmul(a, a).numpy().sum(), 100)

    def test_a_principal_component_analysis(self):
        analysis = pca.Pca(self.pool, 5, 1)
        analysis.fit(600, 200, 9)
        differences, is_right = pca.check(analysis, analysis.transform())
        self.assertTrue(is_right, differences)
        analysis.free()
        self.expect_nothing_is_left()


class OverIpc(Both, Session):
    def test_views_are_in_place(self):
        a = self.pool.alloc((200, 100))
        self.assertTrue(a.is_inside)
        self.assertEqual(a.address % PAGE, 0)
        one, two = a.numpy(), a.numpy()
        one[3, 4] = 5
        self.assertEqual(two[3, 4], 5)
        self.assertTrue(one.flags.writeable and one.flags.c_contiguous)
        small = self.pool.alloc((3, 4))
        self.assertFalse(small.is_inside)
        one[:] = 1
        result = self.pool.matmul(a, a, "a")
        self.assertTrue(result.is_inside)
        self.assertTrue((result.numpy() == 200).all())
        stats = self.pool.stats()
        self.assertEqual((stats["pool"]["bytes"], stats["ring"]["bytes"], stats["zmq"]["bytes"]),
                         (2 * a.nbytes + result.nbytes, 0, 0))

    def test_a_chain_through_scratch_makes_no_trip(self):
        a = random(256, 256) / 16
        x = self.put(a)
        product, expected = x, a
        for _ in range(10):
            following = self.pool.matmul(product, x, use="scratch")
            if product is not x:
                self.assertTrue(product.free())
            product, expected = following, expected @ a
        np.testing.assert_allclose(product.numpy(), expected, atol=1e-12)
        stats = self.pool.stats()
        self.assertEqual((stats["ring"]["bytes"], stats["zmq"]["bytes"], stats["fallbacks"]), (0, 0, 0))
        self.assertEqual(stats["scratch"]["high_water_bytes"], 2 * 256 * 256 * 8)

    def test_no_room_says_how_much(self):
        leased = self.pool.stats()["in"]["leased_bytes"]
        taken = [self.pool.alloc(leased // 4, "uint8") for _ in range(4)]
        taken[0].free()
        taken[2].free()
        with self.assertRaises(airlock.NoRoom) as raised:
            self.pool.alloc(leased // 2, "uint8")
        self.assertIsInstance(raised.exception, MemoryError)
        for figure in (leased // 2, leased, leased // 4):  # needed, there, the largest run
            self.assertIn(str(figure), str(raised.exception))
        self.assertEqual(self.pool.stats()["in"]["largest_free"], leased // 4)
        with airlock.Pool(ipc.endpoint, spill=True) as pool:
            held = pool.alloc(leased, "uint8")
            spilled = pool.alloc((leased // 800, 100)).copy_(np.ones((leased // 800, 100)))
            self.assertTrue(held.is_inside)
            self.assertFalse(spilled.is_inside)
            self.assertEqual(pool.matmul(spilled, spilled, "a").numpy()[0, 0], leased // 800)
            self.assertEqual(pool.stats()["zmq"]["bytes"], 2 * spilled.nbytes)

    def test_free_returns_room_and_a_view_holds_it(self):
        leased = self.pool.stats()["in"]["leased_bytes"]
        for _ in range(3):
            a = self.pool.alloc(leased, "uint8")
            self.assertTrue(a.free())
        a = self.pool.alloc(leased, "uint8")
        a.numpy()[:] = 7
        part = a.numpy()[10:20]
        self.assertFalse(a.free())
        with self.assertRaises(airlock.NoRoom):
            self.pool.alloc(leased, "uint8")
        self.assertEqual(part.sum(), 70)
        del part
        self.assertTrue(self.pool.alloc(leased, "uint8").is_inside)

    def test_leases_are_what_was_asked_for(self):
        with airlock.Pool(ipc.endpoint, lease={"in": 10 * PAGE, "out": 0}) as pool:
            stats = pool.stats()
            self.assertEqual((stats["in"]["leased_bytes"], stats["out"]["leased_bytes"]), (10 * PAGE, 0))
            self.assertGreater(stats["scratch"]["leased_bytes"], 0)
            self.assertFalse(pool.alloc((100, 100), use="out").is_inside)
        with airlock.Pool(ipc.endpoint, lease=0) as pool:
            a = pool.alloc((100, 100)).copy_(np.eye(100))
            self.assertFalse(a.is_inside)
            self.assertEqual(pool.matmul(a, a).numpy().sum(), 100)

    def test_inline_bytes_draw_the_line(self):
        with airlock.Pool(ipc.endpoint, inline_bytes=100000) as pool:
            below, above = pool.alloc(99999, "uint8"), pool.alloc(100000, "uint8")
            self.assertEqual((below.is_inside, above.is_inside), (False, True))

    def test_no_server(self):
        with self.assertRaisesRegex(airlock.Unavailable, "no server at"):
            airlock.Pool(f"ipc://{rig.run_dir}/none", timeout=0.1)

    def test_keys_over_tcp(self):
        names = [rig.path(name) for name in ("server", "alice", "mallory")]
        for name in names:
            rig.start("airlock_keygen", name).expect_exit(0)
        server, alice, mallory = names
        keyed = new_server("--key", server + ".key", "--authorized-keys", alice + ".pub", endpoint="tcp://127.0.0.1:0")
        a = random(300, 300)
        with airlock.Pool(keyed.endpoint, key=alice + ".key", server_key=server + ".pub") as pool:
            x = pool.alloc(a.shape).copy_(a)
            np.testing.assert_allclose(pool.matmul(x, x).copy_out(), a @ a, atol=1e-10)
        for key, server_key, said in ((mallory + ".key", server + ".pub", "--authorized-keys wants the line"),
                                      (alice + ".key", mallory + ".pub", "the server is not the one of"),
                                      (None, None, "it lets in who shows a key")):
            with self.assertRaisesRegex(airlock.Refused, said):
                airlock.Pool(keyed.endpoint, key=key, server_key=server_key)
        for key, server_key in ((alice + ".key", None), (alice + ".key", rig.path("none")), (alice + ".pub", server + ".pub")):
            with self.assertRaises(airlock.Invalid):
                airlock.Pool(keyed.endpoint, key=key, server_key=server_key)
        rig.stop(keyed)

    def test_a_server_that_is_full_refuses(self):
        full = new_server("--max-clients", 1, endpoint=f"ipc://{rig.run_dir}/full")
        with airlock.Pool(full.endpoint), self.assertRaisesRegex(airlock.NoRoom, "server full"):
            airlock.Pool(full.endpoint, timeout=1)

    def test_the_library_is_looked_for_and_its_absence_told(self):
        from airlock import _library
        with mock.patch.dict(os.environ, AIRLOCK_POOL_LIBRARY="/nowhere.so"), \
                mock.patch.object(_library, "_candidates", lambda: iter(["/nowhere.so"])):
            with self.assertRaisesRegex(ImportError, "nowhere.so"):
                _library.library.__wrapped__()

    def test_the_example_of_paths(self):
        done = run_example("paths.py", "--endpoint", ipc.endpoint, "--tcp", tcp.endpoint, "--repeats", "3")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_example_with_two_clients_keeps_its_memory(self):
        done = run_example("pca.py", "--endpoint", ipc.endpoint, "--rows", "900", "--columns", "300", "--clients", "2",
                           "--rounds", "8", "--check")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.count(": flat"), 2, done.stdout)


class OverTcp(Both, Session):
    server = staticmethod(lambda: tcp)

    def test_arrays_live_here_and_are_sent(self):
        a = self.put(random(100, 100))
        self.assertFalse(a.is_inside)
        result = self.pool.matmul(a, a)
        stats = self.pool.stats()
        self.assertEqual((stats["pool"]["bytes"], stats["ring"]["bytes"], stats["zmq"]["bytes"]),
                         (0, 0, 2 * a.nbytes + result.nbytes))


if __name__ == "__main__":
    unittest.main()
