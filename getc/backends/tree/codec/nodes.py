"""Keys with their values as nodes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple

from getc.backends.tree.codec.keyspace import decode
from getc.results import Node, Value
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['NO_TTL', 'TTL', 'deleted_node', 'value_of']

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class TTL(NamedTuple):
    """How long a node lives.

    Attributes:
        ttl: Whole seconds, or None for ever.
        expiration: When it ends, or None.
    """

    ttl: int | None
    expiration: datetime | None

    @classmethod
    def of(cls, ttl: int, wall_time: float) -> TTL:
        """So many seconds from a time, in seconds since 1970."""
        return cls(ttl, EPOCH + timedelta(seconds=wall_time + ttl))


NO_TTL: Final = TTL(None, None)


def value_of(key: str, kv: KeyValue, life: TTL = NO_TTL) -> Value:
    """The node that a key with its value is."""
    return Value(key, kv.mod_revision, kv.create_revision, life.ttl, life.expiration, decode(kv.value))


def deleted_node(key: str, index: int, created: int) -> Node:
    """What is left of a value that was deleted at that index."""
    return Node(key, index, created)
