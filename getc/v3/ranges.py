"""Ranges of keys, and pages of them.  Source: etcd 3.5, ``api/etcdserverpb/rpc.proto``, RangeRequest.range_end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from getc.errors import ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE
from getc.v3.schema.kv import RangeResponse

Response = TypeVar('Response')

__all__ = ['EVERYTHING', 'PageLimit', 'after', 'prefix_end']

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


GOOD_SIZE: Final = MAX_MESSAGE // 2
"""Bytes of a page to aim at, where values are large: half of what a message may have."""


SHRINK: Final = 8
"""A page of fewer keys has an eighth of them, or less: each answer that is too large was work for the server."""


class PageLimit:
    """How many keys the pages of one listing are read with: so many that an answer stays below the bound of a message.

    It shrinks when an answer was too large, and grows again from page to page.

    Args:
        most: Keys of a page at most.
        keys: Keys of the first page; None for ``most``.

    Attributes:
        keys: Keys of the next page.
    """

    __slots__ = ('_most', 'keys')

    def __init__(self, most: int, keys: int | None = None) -> None:
        self._most = most
        self.keys = most if keys is None else keys

    def read(self, request: Callable[[int], Response]) -> Response:
        """Request a page; with fewer keys, again and again, where the answer is too large.

        Args:
            request: Requests a page of so many keys at most.

        Raises:
            ResponseTooLarge: A single key with its value is too large.
        """
        while True:
            try:
                return request(self.keys)
            except ResponseTooLarge as error:
                if self.keys == 1:
                    raise
                fitting = self.keys * GOOD_SIZE // error.size if error.size else self.keys
                self.keys = max(1, min(fitting, self.keys // SHRINK))

    def grow(self, page: RangeResponse) -> None:
        """Have the next page aim at a good size, if there is one and this one had fewer keys than a page may have."""
        if page.more and self.keys < self._most:
            self.keys = max(1, min(self._most, self.keys * GOOD_SIZE // page.ByteSize()))
