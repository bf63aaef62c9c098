#!/usr/bin/env python3
"""Which way an array takes to the server, shown and verified: 96 bytes inline, 1 MiB in the pool, more than the lease
has room for, 20 requests whose places come round again, and the ways compared. Exit 0: all contents were right.

Needs a server, and for the last part another over TCP:
  gpu_server --no-model --pool 256M --endpoint ipc:///tmp/x/ctl
  gpu_server --no-model --endpoint tcp://127.0.0.1:7001"""
import argparse
import collections
import sys
import time

import airlock
import numpy as np

MIB = 1 << 20


class Moved:
    """What products moved by each path, since the last look."""

    def __init__(self, pool):
        self.pool, self.last = pool, pool.stats()

    def text(self):
        now = self.pool.stats()
        parts = [f"{path} {now[path]['tensors'] - self.last[path]['tensors']} tensors "
                 f"{now[path]['bytes'] - self.last[path]['bytes']} bytes" for path in ("pool", "ring", "zmq")]
        self.last = now
        return ", ".join(parts)


def moved_in_all(pool):
    stats = pool.stats()
    return ", ".join(f"{path} {stats[path]['bytes']} bytes" for path in ("pool", "ring", "zmq"))


def expect(is_right, what):
    if not is_right:
        raise SystemExit(f"paths.py: WRONG: {what}")


def product_of(pool, a_values, use="in"):
    """a x a^T at the server; the arrays, and whether it is numpy's product."""
    a = pool.alloc_like(a_values, use).copy_(a_values)
    result = pool.matmul(a, a, transpose="b")
    expect(np.allclose(result.numpy(), a_values @ a_values.T, rtol=1e-12), f"a product of {a.nbytes} bytes")
    return a, result


def small(pool, moved):
    a, _ = product_of(pool, np.arange(12.0).reshape(3, 4))
    print(f"1. {a.nbytes} bytes: {'in the lease' if a.is_inside else 'in this program, inline'}; {moved.text()}")
    expect(not a.is_inside, "96 bytes are inline")


def middle(pool, moved):
    a, result = product_of(pool, np.random.default_rng(1).standard_normal((256, 512)))
    print(f"2. {a.nbytes} bytes: {'in the lease' if a.is_inside else 'in this program'}, result "
          f"{'in the lease' if result.is_inside else 'in this program'}; {moved.text()}")
    expect(a.is_inside, "1 MiB is in the lease")


def large(endpoint, pool, moved):
    room = {use: pool.stats()[use]["largest_free"] for use in ("in", "scratch")}
    rows = room["in"] // (8 * 4096) + 1
    values = np.random.default_rng(2).standard_normal((rows, 4096))
    print(f"3. {values.nbytes} bytes, where operands have {room['in']} and scratch has {room['scratch']}:")
    try:
        pool.alloc_like(values)
        expect(False, "an array larger than the lease")
    except airlock.NoRoom as error:
        print(f"   in:      NoRoom: {error}")
    if values.nbytes <= room["scratch"]:
        a, _ = product_of(pool, values, "scratch")
        print(f"   scratch: {'in the lease, over slots' if a.is_inside else 'in this program'}; {moved.text()}")
    with airlock.Pool(endpoint, spill=True) as spilling:
        a, _ = product_of(spilling, values)
        print(f"   spill:   {'in the lease' if a.is_inside else 'in this program, sent'}; {moved_in_all(spilling)}")


def in_turn(pool, moved, count=20, under_way=4):
    """Each request has an array of its own; `under_way` of them are in use at once."""
    half = pool.alloc((256, 256)).copy_(np.eye(256) / 2)
    print(f"4. {count} requests of 512 KiB, {under_way} under way; places relative to the first:")
    first = None
    offsets = []
    open_requests = collections.deque()

    def finish():
        number, a, job = open_requests.popleft()
        result = job.wait()
        expect((a.numpy() == number).all(), f"operand {number} was overwritten while it was in use")
        expect((result.numpy() == number / 2).all(), f"result {number}")
        a.free()
        result.free()

    for number in range(count):
        if len(open_requests) == under_way:
            finish()
        a = pool.alloc((256, 256))
        first = a.address if first is None else first
        offsets.append((a.address - first) // 4096)
        in_use = {request[1].address for request in open_requests}
        expect(a.address not in in_use, "a place was given twice")
        a.numpy()[:] = number
        open_requests.append((number, a, pool.start_matmul(a, half)))
    while open_requests:
        finish()
    print("   pages " + " ".join(map(str, offsets)))
    print(f"   {len(set(offsets))} places for {count} arrays, each used again once it was freed; all contents right; "
          f"{moved.text()}")
    expect(len(set(offsets)) < count, "places are used again")


def seconds_a_product(pool, shape, repeats):
    """[rows, columns] x [columns, 8]: the operand is large, the work is not."""
    values = np.random.default_rng(3).standard_normal(shape)
    b = pool.alloc((shape[1], 8)).copy_(np.ones((shape[1], 8)))
    a = pool.alloc_like(values)
    out = pool.alloc((shape[0], 8), use="out")
    expected = values.sum(axis=1)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a.copy_(values)
        pool.matmul(a, b, out=out)
        got = out.copy_out()
        times.append(time.perf_counter() - start)
        expect(np.allclose(got[:, 0], expected, atol=1e-9), "a compared product")
    return sorted(times)[len(times) // 2]


def compared(endpoint, tcp, repeats):
    ways = [("pool", endpoint, {"inline_bytes": 4096}),
            ("inline, up to 8 MiB", endpoint, {"lease": 0, "inline_bytes": 8 * MIB}),
            ("sent, ZeroMQ over ipc", endpoint, {"lease": 0, "inline_bytes": 1})]
    if tcp:
        ways.append(("sent, ZeroMQ over tcp", tcp, {}))
    shapes = [(64, 8), (128, 64), (1024, 128), (4096, 128), (8192, 240)]
    print("5. medians of " + f"{repeats}, ms: fill the operand, product, copy of the result")
    print(f"   {'':22}" + "".join(f"{rows * columns * 8 / 1024:>10.0f} KiB" for rows, columns in shapes))
    for name, where, options in ways:
        with airlock.Pool(where, **options) as pool:
            cells = []
            for shape in shapes:
                cells.append(f"{1000 * seconds_a_product(pool, shape, repeats):>14.3f}")
            print(f"   {name:22}" + "".join(cells) + f"   ({moved_in_all(pool)})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="default: as gpu_server's")
    parser.add_argument("--tcp", metavar="ENDPOINT", help="a second server, over tcp://, for the comparison")
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    try:
        with airlock.Pool(args.endpoint) as pool:
            moved = Moved(pool)
            small(pool, moved)
            middle(pool, moved)
            large(args.endpoint, pool, moved)
            in_turn(pool, moved)
        compared(args.endpoint, args.tcp, args.repeats)
    except airlock.Error as error:
        print(f"paths.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
