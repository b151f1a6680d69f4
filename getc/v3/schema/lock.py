"""Messages and RPCs of the Lock service."""

from __future__ import annotations

from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, build, field, int64

__all__ = ['Lock', 'LockRequest', 'LockResponse', 'UnlockRequest', 'UnlockResponse']


class LockRequest(Message):
    """Wait for the lock of that name, and hold it until the ``lease`` ends."""

    name: bytes = field(1)
    lease: int64 = field(2)


class LockResponse(Message):
    """The lock was acquired, and is held while ``key`` exists."""

    header: ResponseHeader = field(1)
    key: bytes = field(2)


class UnlockRequest(Message):
    """Release the lock that is held by ``key``."""

    key: bytes = field(1)


class UnlockResponse(Message):
    """Confirms a release."""

    header: ResponseHeader = field(1)


build('v3lockpb', globals())


class Lock:
    """The Lock service.  Lock may be repeated: with the same lease it returns the same ``key``."""

    Lock = Method('/v3lockpb.Lock/Lock', LockRequest, LockResponse, waits=True)
    Unlock = Method('/v3lockpb.Lock/Unlock', UnlockRequest, UnlockResponse)
