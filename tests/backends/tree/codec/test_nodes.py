"""Keys with their values as nodes."""

from __future__ import annotations

from datetime import datetime, timezone

from getc.backends.tree.codec.nodes import NO_TTL, TTL, deleted_node, value_of
from getc.results import Node, Value
from getc.v3.schema.mvccpb import KeyValue

KV = KeyValue(key=b'/a', value=b'\xff1', create_revision=3, mod_revision=5, version=2, lease=7)


def test_value_of_a_key_has_its_revisions_for_indices() -> None:
    """Its value is text, escaped where it is none; it lives for ever unless it is said how long."""
    assert value_of('/a', KV) == Value('/a', 5, 3, None, None, '\udcff1')
    assert value_of('/a', KV).raw_value == b'\xff1'


def test_life_ends_so_many_seconds_from_then() -> None:
    """A node shows both."""
    life = TTL.of(60, 1_000_000.5)
    assert life == (60, datetime(1970, 1, 12, 13, 47, 40, 500_000, tzinfo=timezone.utc))
    node = value_of('/a', KV, life)
    assert (node.ttl, node.expiration) == life
    assert NO_TTL == (None, None)


def test_life_may_be_as_long_as_a_lease() -> None:
    """A date has room for it."""
    assert TTL.of(9_000_000_000, 1_800_000_000.0).ttl == 9_000_000_000


def test_gone_node_has_no_value() -> None:
    """The index is that of its deletion."""
    assert deleted_node('/a', 9, 3) == Node('/a', 9, 3)
