"""Ranges of keys.  Source: etcd 3.5, ``api/etcdserverpb/rpc.proto``, RangeRequest.range_end."""

from __future__ import annotations

__all__ = ['EVERYTHING', 'after', 'prefix_end']

EVERYTHING = b'\0'
"""As key and as ``range_end``: all there is.  As ``range_end`` alone: to the end of the store."""


def prefix_end(prefix: bytes) -> bytes:
    """The ``range_end`` for all keys that begin with the prefix.

    >>> prefix_end(b'/servers/'), prefix_end(b'a\\xff')
    (b'/servers0', b'b')
    """
    kept = prefix.rstrip(b'\xff')
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else EVERYTHING


def after(key: bytes) -> bytes:
    """The first key that can come after this one.

    >>> after(b'a')
    b'a\\x00'
    """
    return key + b'\0'
