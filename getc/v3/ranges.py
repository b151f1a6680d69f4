"""Ranges of keys, and the size of the pages that they are read in.

Source: etcd 3.5, ``api/etcdserverpb/rpc.proto``, RangeRequest.range_end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from getc.errors import ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE
from getc.v3.schema.kv import RangeResponse

Response = TypeVar('Response')

__all__ = ['EVERYTHING', 'PageLimit', 'next_key', 'prefix_end']

EVERYTHING = b'\0'
"""As ``key`` and as ``range_end``: all keys.  As ``range_end`` alone: all keys from ``key`` on."""


def prefix_end(prefix: bytes) -> bytes:
    """Return the ``range_end`` for all keys that begin with the prefix.

    >>> prefix_end(b'/servers/'), prefix_end(b'a\\xff')
    (b'/servers0', b'b')
    """
    kept = prefix.rstrip(b'\xff')
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else EVERYTHING


def next_key(key: bytes) -> bytes:
    """Return the smallest key that is greater than this one.

    >>> next_key(b'a')
    b'a\\x00'
    """
    return key + b'\0'


TARGET_BYTES: Final = MAX_MESSAGE // 2
"""The size of a page to aim at, if values are large: half of the limit of a message."""

SHRINK_FACTOR: Final = 8
"""A page that was too large is divided by this at least: each attempt costs the server the whole page."""


class PageLimit:
    """Chooses the number of keys in the pages of one listing, so that each response is below the limit of a message.

    The number shrinks when a response was too large, and grows again from page to page.

    Args:
        max_keys: Maximum number of keys of a page.
        keys: Keys of the first page; None for ``max_keys``.

    Attributes:
        keys: Keys of the next page.
    """

    __slots__ = ('_max_keys', 'keys')

    def __init__(self, max_keys: int, keys: int | None = None) -> None:
        self._max_keys = max_keys
        self.keys = max_keys if keys is None else keys

    def read_shrinking(self, request: Callable[[int], Response]) -> Response:
        """Return the next page, requested with fewer and fewer keys while the response is too large.

        Args:
            request: Requests a page, given its maximum number of keys.

        Raises:
            ResponseTooLarge: A single key with its value is too large.
        """
        while True:
            try:
                return request(self.keys)
            except ResponseTooLarge as error:
                if self.keys == 1:
                    raise
                fitting = self.keys * TARGET_BYTES // error.size if error.size else self.keys
                self.keys = max(1, min(fitting, self.keys // SHRINK_FACTOR))

    def grow(self, page: RangeResponse) -> None:
        """Adapt the number of keys of the next page to the size of this one."""
        if page.more and self.keys < self._max_keys:
            self.keys = max(1, min(self._max_keys, self.keys * TARGET_BYTES // page.ByteSize()))
