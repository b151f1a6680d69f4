"""Nodes and the keys that stand for them.

Other programs write what they like: keys without a slash in front, with empty segments, with bytes that are no text.
What is no normal path is not shown in the tree; what is no UTF-8 is shown with its bytes escaped.
"""

from __future__ import annotations

from typing import Final

from getc import paths
from getc.errors import NotSupported
from getc.paths import ROOT

__all__ = [
    'AFTER_SLASH',
    'MAX_SEGMENTS',
    'Range',
    'below',
    'check_depth',
    'decode',
    'descendants_range',
    'encode',
    'marker',
    'node_of',
    'subtree_range',
]

Range = tuple[bytes, bytes]
"""The first key, and the one after the last."""

MAX_SEGMENTS: Final = 126
"""A transaction has 128 comparisons at most: one for each segment, and two.  Source: etcd 3.5, ``--max-txn-ops``."""

SLASH: Final = b'/'
AFTER_SLASH: Final = b'0'
"""What comes after the slash: ``K/`` up to ``K0`` is all below K."""


def encode(text: str) -> bytes:
    """The bytes of a key or a value."""
    return text.encode('utf-8', 'surrogateescape')


def decode(raw: bytes) -> str:
    """The text of a key or a value; bytes that are none are escaped, and come back by :func:`encode`."""
    return raw.decode('utf-8', 'surrogateescape')


def check_depth(key: str) -> None:
    """Refuse what a transaction has no room for.

    Raises:
        NotSupported: The key has more than ``MAX_SEGMENTS`` segments.
    """
    if key.count(ROOT) > MAX_SEGMENTS:
        raise NotSupported(f'on etcd v3 a key has {MAX_SEGMENTS} segments at most, not {key.count(ROOT)}')


def marker(key: str) -> bytes:
    """The key whose presence makes an empty directory."""
    return encode(paths.child_prefix(key))


def below(key: str) -> Range:
    """All keys below a node, and its marker."""
    inside = marker(key)
    return inside, inside[:-1] + AFTER_SLASH


def descendants_range(key: str) -> Range:
    """All keys below a node, without its marker."""
    inside = marker(key)
    return inside + b'\0', inside[:-1] + AFTER_SLASH


def subtree_range(key: str) -> Range:
    """A node and all below it, in one range.  Others are in it, too (``/a-b`` for ``/a``)."""
    first, end = below(key)
    return first if key == ROOT else encode(key), end


def node_of(raw: bytes) -> tuple[str, bool] | None:
    """The node that a key stands for, and whether it does as a directory's marker; None if it stands for none."""
    if raw[:1] != SLASH or raw == SLASH or b'//' in raw or b'\0' in raw:
        return None
    is_marker = raw.endswith(SLASH)
    if is_marker:
        raw = raw[:-1]
    if b'/.' in raw and not _has_no_dots(raw):
        return None
    return decode(raw), is_marker


def _has_no_dots(raw: bytes) -> bool:
    return not {b'.', b'..'} & set(raw.split(SLASH))
