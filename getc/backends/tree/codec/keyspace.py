"""Map nodes to the keys of etcd v3, and keys with their values to nodes.

Other programs may write any key: without a leading slash, with empty segments, with bytes that are not UTF-8.  The tree
does not show keys that are not normal paths, and shows bytes that are not UTF-8 escaped.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple

from getc.backends.tree.codec.responses import malformed
from getc.errors import NotSupported
from getc.operations import MAX_TTL
from getc.paths import ROOT
from getc.results import Node, Value
from getc.v3.schema.mvccpb import KeyValue

__all__ = [
    'AFTER_SLASH',
    'MAX_SEGMENTS',
    'NO_TTL',
    'TTL',
    'Range',
    'check_depth',
    'decode',
    'deleted_node',
    'descendants_range',
    'directory_range',
    'encode',
    'marker',
    'node_of',
    'subtree_range',
    'value_of',
]

Range = tuple[bytes, bytes]
"""The first key, and the key after the last one."""

MAX_SEGMENTS: Final = 126
"""A transaction has 128 compares at most: one for each segment, and two.  Source: etcd 3.5, ``--max-txn-ops``."""

SLASH: Final = b'/'
AFTER_SLASH: Final = b'0'
"""The byte after the slash: all keys below K are from ``K/`` up to ``K0``."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


# -- keys


def encode(text: str) -> bytes:
    """Return the bytes of a key or a value."""
    return text.encode('utf-8', 'surrogateescape')


def decode(raw: bytes) -> str:
    """Return the text of a key or a value; bytes that are not UTF-8 are escaped, as :func:`encode` expects them."""
    return raw.decode('utf-8', 'surrogateescape')


def check_depth(key: str) -> None:
    """Refuse a key with more segments than a transaction has compares for.

    Raises:
        NotSupported: The key has more than ``MAX_SEGMENTS`` segments.
    """
    if key.count(ROOT) > MAX_SEGMENTS:
        raise NotSupported(f'on etcd v3 a key has {MAX_SEGMENTS} segments at most, not {key.count(ROOT)}')


def marker(key: str) -> bytes:
    """Return the key that makes a directory exist while it is empty."""
    return (key if key == ROOT else f'{key}/').encode('utf-8', 'surrogateescape')  # not by `encode`: hot path


def directory_range(key: str) -> Range:
    """Return the range of a directory: its marker and all keys below it."""
    raw = key.encode('utf-8', 'surrogateescape')  # not by `encode` and `marker`: every start of a watch
    return (raw, AFTER_SLASH) if key == ROOT else (raw + SLASH, raw + AFTER_SLASH)


def descendants_range(key: str) -> Range:
    """Return the range of all keys below a directory, without its marker."""
    inside, end = directory_range(key)
    return inside + b'\0', end


def subtree_range(key: str) -> Range:
    """Return one range with a node and all keys below it; it contains other keys, too (``/a-b`` for ``/a``)."""
    raw = key.encode('utf-8', 'surrogateescape')
    return raw, AFTER_SLASH if key == ROOT else raw + AFTER_SLASH


def node_of(raw: bytes) -> tuple[str, bool] | None:
    """Return the path of the node that a key stands for, and whether the key is the marker of a directory.

    None if the key is not a normal path.
    """
    if raw[:1] != SLASH or raw == SLASH or b'//' in raw or b'\0' in raw:
        return None
    is_marker = raw.endswith(SLASH)
    if is_marker:
        raw = raw[:-1]
    if b'/.' in raw and _has_dot_segment(raw):
        return None
    return decode(raw), is_marker


def _has_dot_segment(raw: bytes) -> bool:
    return not {b'.', b'..'}.isdisjoint(raw.split(SLASH))


# -- nodes


class TTL(NamedTuple):
    """How long a node lives.

    Attributes:
        ttl: Whole seconds, or None if the node does not expire.
        expiration: When the node expires, or None.
    """

    ttl: int | None
    expiration: datetime | None

    @classmethod
    def of(cls, ttl: int, wall_time: float) -> TTL:
        """Return the TTL of ``ttl`` seconds from ``wall_time``, which is in seconds since 1970.

        Raises:
            ProtocolError: The TTL, which a server has sent, is out of the range of leases.
        """
        if not 0 <= ttl <= 2 * MAX_TTL:
            raise malformed(f'a TTL of {ttl} s', is_write=False)
        return cls(ttl, EPOCH + timedelta(seconds=wall_time + ttl))


NO_TTL: Final = TTL(None, None)


def value_of(key: str, kv: KeyValue, ttl: TTL = NO_TTL) -> Value:
    """Return a key with its value as a node."""
    value = kv.value.decode('utf-8', 'surrogateescape')  # not by `decode`: hot path
    return Value(key, kv.mod_revision, kv.create_revision, ttl.ttl, ttl.expiration, value)


def deleted_node(key: str, index: int, created_index: int) -> Node:
    """Return the node of a value that was deleted at an index."""
    return Node(key, index, created_index)
