"""What the calls raise. The words are the library's, but for what Python sees first."""
from __future__ import annotations


class Error(Exception):
    """Any failure of the library; `status` is its number in airlock_pool.h."""
    status = 7


class Invalid(Error, ValueError):
    """An argument that cannot be, or an array or session that is gone."""
    status = 1


class Unavailable(Error, ConnectionError):
    """No server, or it ended, or it stalled."""
    status = 2


class Timeout(Error, TimeoutError):
    """The product was not there in time; the session goes on."""
    status = 3


class NoRoom(Error, MemoryError):
    """No memory: here, in the lease or at the server."""
    status = 4


class Refused(Error):
    """The server speaks another version of the protocol, or one side has not the other's key."""
    status = 5


class DeviceError(Error):
    """The server's device failed."""
    status = 6


BY_STATUS = {kind.status: kind for kind in (Invalid, Unavailable, Timeout, NoRoom, Refused, DeviceError)}
