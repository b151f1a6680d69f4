"""The server's own lock."""

from __future__ import annotations

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, build, field, int64

__all__ = ['Lock', 'LockRequest', 'LockResponse', 'UnlockRequest', 'UnlockResponse']


class LockRequest(Message):
    """Wait for the lock of that name, and hold it as long as the ``lease`` lives."""

    name: bytes = field(1)
    lease: int64 = field(2)


class LockResponse(Message):
    """The lock is held as long as ``key`` exists."""

    header: ResponseHeader = field(1)
    key: bytes = field(2)


class UnlockRequest(Message):
    """Let go of the lock that is held by ``key``."""

    key: bytes = field(1)


class UnlockResponse(Message):
    """It is free."""

    header: ResponseHeader = field(1)


build('v3lockpb', globals())


class Lock:
    """The server's own lock.  Locking again under the same lease finds it held: that may be repeated."""

    Lock = Method('/v3lockpb.Lock/Lock', LockRequest, LockResponse, waits=True)
    Unlock = Method('/v3lockpb.Lock/Unlock', UnlockRequest, UnlockResponse)
