"""Arrays in memory that this program and an Airlock server share, and products of them that the server computes.

    with airlock.Pool("ipc:///tmp/x/ctl") as pool:
        a = pool.alloc((1000, 500))
        a.numpy()[:] = 1
        b = pool.matmul(a, a, transpose="b")

docs/POOL_API.md explains it; client/airlock_pool.h is what it is made of."""
from ._array import Array
from ._errors import DeviceError, Error, Invalid, NoRoom, Refused, Timeout, Unavailable
from ._library import version
from ._pool import Job, Pool

__all__ = ["Array", "DeviceError", "Error", "Invalid", "Job", "NoRoom", "Pool", "Refused", "Timeout", "Unavailable",
           "version"]
