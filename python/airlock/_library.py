"""libairlock_pool.so: where it is, its functions and structures, and who frees what it gives."""
from __future__ import annotations

import ctypes
import functools
import os
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, Iterator

from ._errors import BY_STATUS, Error, Invalid

NO_LEASE = 2**64 - 1


class Options(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("endpoint", c_char_p), ("client", c_char_p), ("lease_bytes", c_uint64 * 3),
                ("inline_bytes", c_uint32), ("timeout_ms", c_uint32), ("op_timeout_ms", c_uint32), ("spill", c_int),
                ("key_file", c_char_p), ("server_key_file", c_char_p)]


class UseStats(ctypes.Structure):
    _fields_ = [("leased_bytes", c_uint64), ("used_bytes", c_uint64), ("largest_free", c_uint64),
                ("high_water_bytes", c_uint64)]


class Stats(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("use", UseStats * 3), ("arrays", c_uint64), ("arrays_inside", c_uint64),
                ("products", c_uint64), ("pool_tensors", c_uint64), ("pool_bytes", c_uint64),
                ("ring_tensors", c_uint64), ("ring_bytes", c_uint64), ("sent_tensors", c_uint64),
                ("sent_bytes", c_uint64), ("fallbacks", c_uint64)]


# name -> result, arguments
_FUNCTIONS = {
    "pool_error": (c_char_p, ()),
    "pool_version": (c_char_p, ()),
    "pool_connect": (c_int, (POINTER(Options), POINTER(c_void_p))),
    "pool_end": (None, (c_void_p,)),
    "pool_close": (None, (c_void_p,)),
    "pool_check": (c_int, (c_void_p,)),
    "pool_get_stats": (c_int, (c_void_p, POINTER(Stats))),
    "pool_device": (c_char_p, (c_void_p,)),
    "pool_alloc": (c_int, (c_void_p, c_int, c_int, c_size_t, POINTER(c_int64), POINTER(c_void_p))),
    "array_free": (None, (c_void_p,)),
    "array_view": (c_void_p, (c_void_p,)),
    "array_bytes": (c_size_t, (c_void_p,)),
    "array_is_inside": (c_int, (c_void_p,)),
    "array_copy_in": (c_int, (c_void_p, c_size_t, c_void_p, c_size_t)),
    "array_copy_out": (c_int, (c_void_p, c_size_t, c_void_p, c_size_t)),
    "pool_matmul_start": (c_int, (c_void_p, c_void_p, c_int, c_void_p, POINTER(c_void_p))),
    "job_wait": (c_int, (c_void_p,)),
    "job_free": (None, (c_void_p,)),
}


def _candidates() -> Iterator[str]:
    own = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libairlock_pool.so")
    if os.path.exists(own):
        yield own
    named = os.environ.get("AIRLOCK_POOL_LIBRARY")
    if named:
        yield named
    yield "libairlock_pool.so.0"


@functools.lru_cache(maxsize=None)
def library() -> ctypes.CDLL:
    """Loaded at the first need. ctypes gives up the interpreter's lock during each call."""
    tried = []
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError as error:
            tried.append(str(error))
            continue
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, "airlock_" + name)
            function.restype, function.argtypes = result, arguments
        return found
    raise ImportError("libairlock_pool.so was not found beside the package, at AIRLOCK_POOL_LIBRARY or by the loader: "
                      + "; ".join(tried))


def version() -> str:
    """Of the library: "0.1.0, protocol 6.0"."""
    words: bytes = library().airlock_pool_version()
    return words.decode()


def check(status: int) -> None:
    if status:
        words = library().airlock_pool_error().decode(errors="replace")
        raise BY_STATUS.get(status, Error)(words)


class Handle:
    """What the library gave, freed with the last reference to this. The place for the pointer is there before the call
    that fills it, so that an interrupt between the two loses nothing. A child after a fork frees nothing: it is the
    parent's."""
    __slots__ = ("pointer", "owner", "_free", "_pid", "__weakref__")

    def __init__(self, free: str, owner: Any = None) -> None:
        self.pointer = c_void_p()
        self.owner = owner  # what must not be freed before this
        self._free = getattr(library(), free)
        self._pid = os.getpid()

    def reference(self) -> Any:
        return byref(self.pointer)

    def get(self) -> c_void_p:
        self.check_process()
        return self.pointer

    def is_ours(self) -> bool:
        """Not a child's after a fork."""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        if not self.is_ours():
            raise Invalid("a session does not outlive a fork: connect again in the child")

    def __del__(self, getpid: Any = os.getpid) -> None:
        pointer, self.pointer = self.pointer, c_void_p()
        if pointer and self._pid == getpid():
            self._free(pointer)
