"""Key-value pairs, and the events of watches."""

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.table import Message, build, field, int64

__all__ = ['Event', 'KeyValue']


class KeyValue(Message):
    """A key-value pair.  ``version`` counts the puts since the key was created; a ``lease`` of 0 means no lease."""

    key: bytes = field(1)
    create_revision: int64 = field(2)
    mod_revision: int64 = field(3)
    version: int64 = field(4)
    value: bytes = field(5)
    lease: int64 = field(6)


class Event(Message):
    """A change of a key.  The ``kv`` of a deletion has the key and the ``mod_revision`` of the deletion only."""

    class EventType(IntEnum):
        """The kind of change.  The expiry of a lease is a DELETE, too."""

        PUT = 0
        DELETE = 1

    type: int = field(1, EventType)
    kv: KeyValue = field(2)
    prev_kv: KeyValue = field(3)


build('mvccpb', globals())
