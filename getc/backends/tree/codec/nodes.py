"""Keys with their values as nodes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple

from getc.backends.tree.codec.keyspace import decoded
from getc.results import Node, Value
from getc.v3.schema.mvccpb import KeyValue

__all__ = ['FOR_EVER', 'Life', 'gone', 'value_of']

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Life(NamedTuple):
    """How long a node lives.

    Attributes:
        ttl: Whole seconds, or None for ever.
        expiration: When it ends, or None.
    """

    ttl: int | None
    expiration: datetime | None

    @classmethod
    def of(cls, ttl: int, wall_time: float) -> Life:
        """So many seconds from a time, in seconds since 1970."""
        return cls(ttl, EPOCH + timedelta(seconds=wall_time + ttl))


FOR_EVER: Final = Life(None, None)


def value_of(key: str, kv: KeyValue, life: Life = FOR_EVER) -> Value:
    """The node that a key with its value is."""
    return Value(key, kv.mod_revision, kv.create_revision, life.ttl, life.expiration, decoded(kv.value))


def gone(key: str, index: int, created: int) -> Node:
    """What is left of a value that was deleted at that index."""
    return Node(key, index, created)
