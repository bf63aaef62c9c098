"""A session with a server, and its products."""
from __future__ import annotations

import ctypes
import operator
import os
from ctypes import c_int64
from typing import Any, Mapping, Optional, Sequence, Union

from . import _types
from ._array import Array, Memory, Shape
from ._errors import Invalid, Unavailable
from ._library import NO_LEASE, Handle, Options, Stats, check, library

USES = {"in": 0, "out": 1, "scratch": 2}
TRANSPOSES = {None: 0, "a": 1, "b": 2}

Lease = Union[None, int, Mapping[str, Optional[int]], Sequence[Optional[int]]]


def _number(what: str, table: Mapping[Any, int], value: Any) -> int:
    if value not in table:
        raise Invalid(f"{what} is {value!r}, expected one of {', '.join(map(repr, table))}")
    return table[value]


def _milliseconds(what: str, seconds: Optional[float]) -> int:
    if seconds is None:
        return 0
    if not 0 < seconds <= 4_000_000:
        raise Invalid(f"{what} is {seconds!r} s, expected more than 0 and at most 4000000")
    return max(1, round(seconds * 1000))


def _path(path: Optional[str]) -> Optional[bytes]:
    return None if path is None else os.fsencode(path)


def _lease_bytes(lease: Lease) -> list[int]:
    """None: as much as the server gives; 0: none."""
    if isinstance(lease, Mapping):
        for use in lease:
            _number("a use of the lease", USES, use)
        wanted = [lease.get(use) for use in USES]
    else:
        wanted = [lease] * 3 if lease is None or isinstance(lease, int) else list(lease)
    if len(wanted) != 3 or any(size is not None and not 0 <= size < NO_LEASE for size in wanted):
        raise Invalid(f"the lease is {lease!r}, expected bytes, three of them, or a dict of 'in', 'out' and 'scratch'")
    return [0 if size is None else size or NO_LEASE for size in wanted]


class Job:
    """A product that was started. Dropped before its end it goes on at the server."""

    def __init__(self, handle: Handle, result: Array) -> None:
        self._handle = handle
        #: Not to be read before wait().
        self.result = result

    def wait(self) -> Array:
        """The result, once it is there; again: the same answer. An interrupt (Ctrl-C) is raised after that."""
        check(library().airlock_job_wait(self._handle.get()))
        return self.result


class Pool:
    """A session. Thread-safe: calls take turns, and a wait keeps its turn until its product is there."""

    def __init__(self, endpoint: Optional[str] = None, *, lease: Lease = None, inline_bytes: Optional[int] = None,
                 timeout: Optional[float] = None, op_timeout: Optional[float] = None, spill: bool = False,
                 client: str = "python", key: Optional[str] = None, server_key: Optional[str] = None) -> None:
        """endpoint: "ipc:///path" or "tcp://host:port"; default as gpu_server's.
        lease: bytes for each use, a number for all, a dict or three in the order in, out, scratch. None: as much as the
        server gives one session; 0: none.
        inline_bytes: an array of fewer bytes lives in this program and rides along; default 10240.
        timeout: seconds, the longest silence of the server; default 5. op_timeout: of a product; default 300.
        spill: an array that finds no room lives in this program and is sent, instead of NoRoom.
        client: this program's name, for the server's log.
        key, server_key: over tcp, the files of this program's own key and of the server's public one; without them nothing
        is encrypted."""
        if inline_bytes is not None and not 0 <= inline_bytes < 2**32:
            raise Invalid(f"inline_bytes is {inline_bytes!r}")
        options = Options(ctypes.sizeof(Options), endpoint.encode() if endpoint else None, client.encode(),
                          (ctypes.c_uint64 * 3)(*_lease_bytes(lease)),
                          0 if inline_bytes is None else max(1, inline_bytes), _milliseconds("timeout", timeout),
                          _milliseconds("op_timeout", op_timeout), bool(spill), _path(key), _path(server_key))
        self._closed = False
        self._handle = Handle("airlock_pool_close")
        check(library().airlock_pool_connect(ctypes.byref(options), self._handle.reference()))
        #: What the server computes with.
        self.device: str = library().airlock_pool_device(self._handle.get()).decode(errors="replace")

    def _live(self) -> Handle:
        if self._closed:
            raise Unavailable("the session was closed")
        self._handle.check_process()
        return self._handle

    def alloc(self, shape: Shape, dtype: Any = "float64", use: str = "in") -> Array:
        """A row-major array of rank 1 to 4, its contents undefined. `use`: "in" for operands, "out" for results,
        "scratch" for results that are operands of what comes next; each has memory of its own in the server's pool."""
        handle = self._live()
        name = _types.name_of(dtype)
        extents = tuple(operator.index(n) for n in (shape if hasattr(shape, "__iter__") else (shape,)))
        if any(abs(n) >= 2**63 for n in extents):
            raise Invalid(f"no array has shape {extents}")
        number = _number("use", USES, use)
        memory = Memory(handle, extents, name)
        check(library().airlock_pool_alloc(handle.get(), number, _types.NUMBERS[name], len(extents),
                                           (c_int64 * len(extents))(*extents), memory.reference()))
        memory.look()
        return Array(memory, use)

    def alloc_like(self, x: Any, use: str = "in") -> Array:
        """Of x's shape and type (numpy, torch, or anything with both), its contents undefined: .copy_(x) fills it."""
        return self.alloc(tuple(x.shape), x.dtype, use)

    def start_matmul(self, a: Array, b: Array, transpose: Optional[str] = None, out: Optional[Array] = None,
                     use: str = "out") -> Job:
        """out = a x b: a [m, k] or [heads, m, k], b [k, n] or [groups, k, n], `transpose`: "a" or "b" lies transposed;
        heads is a multiple of groups. Both float64, or both one of the smaller floats, which are rounded to float32 and
        multiplied so. Without `out` a new array of `use` and of their type. Products are computed in the order of their
        start, and a result may be the operand of the next before it was waited for."""
        owner = self._live()
        number = _number("transpose", TRANSPOSES, transpose)
        if out is None:
            out = self.alloc(_result_shape(a, b, transpose), a.dtype, use)
        handle = Handle("airlock_job_free", owner)
        memories = [array._live() for array in (a, b, out)]  # kept through the call
        check(library().airlock_pool_matmul_start(memories[0].get(), memories[1].get(), number, memories[2].get(),
                                                  handle.reference()))
        return Job(handle, out)

    def matmul(self, a: Array, b: Array, transpose: Optional[str] = None, out: Optional[Array] = None,
               use: str = "out") -> Array:
        """start_matmul() and its wait()."""
        return self.start_matmul(a, b, transpose, out, use).wait()

    def check(self) -> None:
        """Unavailable, unless the server is there."""
        check(library().airlock_pool_check(self._live().get()))

    def stats(self) -> dict[str, Any]:
        """Of each use what is leased, used, the largest array that has room, and the most ever used, in bytes; arrays
        and products; tensors and bytes of products by path, and `fallbacks`: tensors that the pool had no room for."""
        got = Stats(ctypes.sizeof(Stats))
        check(library().airlock_pool_get_stats(self._live().get(), ctypes.byref(got)))
        stats: dict[str, Any] = {use: {name: getattr(got.use[i], name) for name, _ in type(got.use[i])._fields_}
                                 for use, i in USES.items()}
        stats.update({name: getattr(got, name) for name in ("arrays", "arrays_inside", "products", "fallbacks")})
        for path, prefix in (("pool", "pool"), ("ring", "ring"), ("zmq", "sent")):
            stats[path] = {what: getattr(got, f"{prefix}_{what}") for what in ("tensors", "bytes")}
        return stats

    def close(self) -> None:
        """Ends the session; a job under way fails with Unavailable. Arrays that are left, and their views, may be used
        on, but may read as zeros from here on."""
        self._closed = True
        if self._handle.is_ours():
            library().airlock_pool_end(self._handle.pointer)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<airlock.Pool {'closed' if self._closed else self.device}>"


def _result_shape(a: Array, b: Array, transpose: Optional[str]) -> tuple[int, ...]:
    for name, array in (("a", a), ("b", b)):
        if len(array.shape) not in (2, 3):
            raise Invalid(f"{name} has shape {array.shape}, expected rank 2 or 3")
    rows = a.shape[-1 if transpose == "a" else -2]
    columns = b.shape[-2 if transpose == "b" else -1]
    heads = (a.shape[0] if len(a.shape) == 3 else 1,) if 3 in (len(a.shape), len(b.shape)) else ()
    return (*heads, rows, columns)
