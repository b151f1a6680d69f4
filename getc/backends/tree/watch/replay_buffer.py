"""Replay buffer of recent revisions, bounded in bytes, so that new subscribers join a shared watch without a gap."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from getc.results import EtcdResult

__all__ = ['RangeHistory', 'ReplayBuffer']

BUFFER_BYTES: Final = 1024 * 1024
"""Bytes of events as received; the results made of them use several times as much memory."""

MIN_BYTES: Final = 100
"""Bytes that a revision counts for at least."""


class ReplayBuffer:
    """Bounds the recent revisions of all range histories of a client; the oldest revision is dropped first."""

    def __init__(self) -> None:
        self._histories: deque[RangeHistory] = deque()  # one entry for each revision, the oldest first
        self._bytes = 0

    def on_added(self, history: RangeHistory, size: int) -> None:
        """Count a revision of ``size`` bytes that was added to a history, and drop old revisions beyond the bound."""
        self._histories.append(history)
        self._bytes += size
        while self._bytes > BUFFER_BYTES:
            self._bytes -= self._histories.popleft().drop_oldest()


class RangeHistory:
    """The recent revisions of one range.

    Args:
        buffer: The buffer that bounds it.

    Attributes:
        first_revision: Everything from this revision on is in the history; 0 before the first is known.
    """

    __slots__ = ('_buffer', '_revisions', 'first_revision')

    def __init__(self, buffer: ReplayBuffer) -> None:
        self.first_revision = 0
        self._buffer = buffer
        self._revisions: deque[tuple[int, Sequence[EtcdResult], int]] | None = None  # most ranges are quiet

    def add(self, revision: int, results: Sequence[EtcdResult], size: int) -> None:
        """Add the changes of a revision, whose events were received in ``size`` bytes."""
        size = max(size, MIN_BYTES)
        if self._revisions is None:
            self._revisions = deque()
        self._revisions.append((revision, results, size))
        self._buffer.on_added(self, size)

    def since(self, revision: int) -> Iterator[tuple[int, Sequence[EtcdResult]]]:
        """Yield the revisions after this one, with their changes."""
        for later, results, _ in self._revisions or ():
            if later > revision:
                yield later, results

    def drop_oldest(self) -> int:
        """Drop the oldest revision, and return the bytes that it counted for."""
        assert self._revisions is not None
        revision, _, size = self._revisions.popleft()
        self.first_revision = revision + 1
        if not self._revisions:
            self._revisions = None
        return size
