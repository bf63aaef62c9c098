#!/usr/bin/env python3
"""A principal component analysis of a rows x columns matrix of float64 whose products an Airlock server computes. The
matrix lies in memory that both share: it is made there, centered there, and stays there between fit and transform.

  fit        C = Xc^T Xc, and its largest eigenvectors V by subspace iteration: products with C by the server
  transform  T = Xc V

Needs a server: gpu_server --no-model --pool large --endpoint ipc:///tmp/x/ctl"""
import argparse
import multiprocessing
import sys
import time

import airlock
import numpy as np

TOLERANCE = 1e-12  # of a residual, relative to the largest eigenvalue
BLOCK_ROWS = 512


def fill(x, seed, rank):
    """Random rows of rank `rank`, noise, and a mean that is not zero, block by block into the array."""
    rows, columns = x.shape
    rng = np.random.default_rng(seed)
    scales = 0.8 ** np.arange(rank)
    basis = rng.standard_normal((rank, columns)) * scales[:, None]
    mean = rng.standard_normal(columns)
    for first in range(0, rows, BLOCK_ROWS):
        block = x[first:first + BLOCK_ROWS]
        rng.standard_normal(out=block)  # the noise
        block *= 0.1
        block += rng.standard_normal((len(block), rank)) @ basis
        block += mean


def center(x):
    """In place; without a temporary of x's size."""
    mean = np.zeros(x.shape[1])
    for first in range(0, len(x), BLOCK_ROWS):
        mean += x[first:first + BLOCK_ROWS].sum(axis=0)
    mean /= len(x)
    for first in range(0, len(x), BLOCK_ROWS):
        x[first:first + BLOCK_ROWS] -= mean
    return mean


class Times(dict):
    """Seconds by phase."""

    def measure(self, phase, work):
        start = time.perf_counter()
        result = work()
        self[phase] = self.get(phase, 0.0) + time.perf_counter() - start
        return result


def largest_eigenpairs(pool, covariance, k, seed, times, limit=200):
    """Values [k], largest first, vectors [columns, k] and the rounds it took, of a symmetric array in the pool."""
    columns = covariance.shape[0]
    width = min(columns, k + 10)  # more than are asked for: they converge faster
    v = np.linalg.qr(np.random.default_rng(seed + 1).standard_normal((columns, width)))[0]
    with pool.alloc((columns, width), use="in") as sent, pool.alloc((columns, width), use="out") as product:
        for count in range(1, limit + 1):
            sent.copy_(v)
            times.measure("iterations, server", lambda: pool.matmul(covariance, sent, out=product))
            y = product.copy_out()  # what the server can still change is no ground for a decision
            values, q = np.linalg.eigh(v.T @ y)
            values, q = values[::-1], q[:, ::-1]
            ritz, image = v @ q, y @ q
            residuals = np.linalg.norm(image[:, :k] - ritz[:, :k] * values[:k], axis=0)
            if residuals.max() <= TOLERANCE * values[0]:
                return values[:k], ritz[:, :k], count
            v = np.linalg.qr(image)[0]
    raise RuntimeError(f"no convergence in {limit} rounds: a residual is {residuals.max() / values[0]:.1e}")


class Pca:
    """fit() leaves the centered matrix in scratch, transform() uses it there, free() gives it back."""

    def __init__(self, pool, k, seed):
        self.pool, self.k, self.seed = pool, k, seed
        self.times = Times()
        self.x = self.covariance = None

    def fit(self, rows, columns, rank):
        self.x = self.pool.alloc((rows, columns), use="scratch")
        x = self.x.numpy()
        self.times.measure("make the matrix", lambda: fill(x, self.seed, rank))
        self.mean = self.times.measure("center", lambda: center(x))
        self.covariance = self.pool.alloc((columns, columns), use="scratch")
        self.times.measure("covariance, server",
                           lambda: self.pool.matmul(self.x, self.x, transpose="a", out=self.covariance))
        self.values, self.vectors, self.iterations = self.times.measure(
            "eigenvectors", lambda: largest_eigenpairs(self.pool, self.covariance, self.k, self.seed, self.times))

    def transform(self):
        with self.pool.alloc_like(self.vectors) as v:
            v.copy_(self.vectors)
            with self.times.measure("transform, server", lambda: self.pool.matmul(self.x, v)) as result:
                return result.copy_out()

    def free(self):
        for array in (self.x, self.covariance):
            if array is not None:
                array.free()
        self.x = self.covariance = None


def check(pca, transformed):
    """Against numpy's own product, eigenvalues and transform; the largest relative differences."""
    x = pca.x.copy_out()
    covariance = x.T @ x
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1][:pca.k], vectors[:, ::-1][:, :pca.k]
    expected = x @ vectors
    signs = np.sign(np.sum(expected * transformed, axis=0))
    mine = pca.covariance.numpy()
    differences = {
        "covariance": max(np.abs(mine[i:i + BLOCK_ROWS] - covariance[i:i + BLOCK_ROWS]).max()
                          for i in range(0, len(mine), BLOCK_ROWS)) / np.abs(covariance).max(),
        "eigenvalues": np.max(np.abs(pca.values - values) / values),
        "transform": np.abs(transformed * signs - expected).max() / np.abs(expected).max(),
    }
    return differences, all(difference <= 1e-9 for difference in differences.values())


def memory_kib():
    with open("/proc/self/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssShmem")}


def memory_text(memory):
    return ", ".join(f"{name} {kib} KiB" for name, kib in memory.items())


def scratch_bytes(args):
    return 8 * (args.rows * args.columns + args.columns ** 2)


def profile_for(args):
    """The server's smallest profile that gives each of args.clients sessions the scratch it needs."""
    for name, session_mib, sessions in (("small", 128, 2), ("standard", 512, 4), ("large", 1024, 4), ("huge", 2048, 4)):
        if scratch_bytes(args) <= session_mib << 20 and args.clients <= sessions:
            return f"--pool {name}"
    return "none of the profiles: --pool-slots and --pool-slot-bytes"


def run(args, say=print):
    """0 where all is as it must be."""
    start = time.perf_counter()
    faults = 0
    with airlock.Pool(args.endpoint, op_timeout=3600, client="pca.py") as pool:
        say(f"{args.rows} x {args.columns} float64, {args.rows * args.columns * 8 / 2**20:.0f} MiB, {args.k} "
            f"components; server: {pool.device}")
        say(f"memory at start: {memory_text(memory_kib())}")
        first = last = None
        for number in range(args.rounds):
            pca = Pca(pool, args.k, args.seed)
            pca.fit(args.rows, args.columns, args.rank)
            transformed = pca.transform()
            if args.check and number == 0:
                differences, is_right = pca.times.measure("check", lambda: check(pca, transformed))
                say("check against numpy, largest relative differences: " +
                    ", ".join(f"{name} {value:.1e}" for name, value in differences.items()) +
                    (": all within 1e-9" if is_right else ": WRONG"))
                faults += not is_right
            pca.free()
            last = memory_kib()
            first = first or last
        variances = pca.values / (args.rows - 1)
        say("variances: " + " ".join(f"{value:.4g}" for value in variances[:10]))
        for phase, seconds in pca.times.items():
            say(f"  {phase:20} {seconds:8.3f} s" + (f"  ({pca.iterations} rounds)" if phase == "eigenvectors" else ""))
        if args.rounds > 1:
            grown = {name: last[name] - first[name] for name in last}
            is_flat = all(kib <= 8192 for kib in grown.values())
            say(f"memory after round 1: {memory_text(first)}\nmemory after round {args.rounds}: {memory_text(last)}: "
                + ("flat" if is_flat else "GROWS"))
            faults += not is_flat
        stats = pool.stats()
        say("bytes of products by path: "
            + ", ".join(f"{path} {stats[path]['bytes']}" for path in ("pool", "ring", "zmq")))
        if stats["zmq"]["bytes"] != 0:
            say(f"WRONG: {stats['zmq']['bytes']} bytes were sent: not all arrays had room in a lease")
            faults += 1
    say(f"whole: {time.perf_counter() - start:.3f} s")
    return 1 if faults else 0


def run_client(number, args):
    args.seed += number
    name = f"client {number}: "
    sys.exit(run(args, lambda text: print(name + text.replace("\n", "\n" + name), flush=True)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoint", help="default: as gpu_server's")
    parser.add_argument("--rows", type=int, default=10000)
    parser.add_argument("--columns", type=int, default=6400)
    parser.add_argument("-k", type=int, default=10, help="components")
    parser.add_argument("--rank", type=int, default=14, help="of what is not noise")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="repeat all of it; memory must stay flat")
    parser.add_argument("--clients", type=int, default=1, help="processes at once")
    parser.add_argument("--check", action="store_true", help="compare with numpy's own result")
    args = parser.parse_args()
    if not 0 < args.k <= min(args.rows, args.columns):
        parser.error(f"-k is 1 to {min(args.rows, args.columns)}")
    if args.clients == 1 and args.rounds == 1:
        print(f"needs {scratch_bytes(args) / 2**20:.0f} MiB of scratch: {profile_for(args)}")
    try:
        if args.clients == 1:
            return run(args)
        scratch_mib = scratch_bytes(args) / 2**20
        print(f"{args.clients} clients, each with {scratch_mib:.0f} MiB of scratch: {profile_for(args)}", flush=True)
        # Not by a fork: a session does not outlive it, and threads of BLAS do not either.
        context = multiprocessing.get_context("spawn")
        clients = [context.Process(target=run_client, args=(number, args)) for number in range(args.clients)]
        start = time.perf_counter()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        failed = sum(client.exitcode != 0 for client in clients)
        print(f"all clients: {time.perf_counter() - start:.3f} s, {failed} failed")
        return 1 if failed else 0
    except airlock.Error as error:
        print(f"pca.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
