"""What was told lately, for those who come a moment late: so many bytes for all sources together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from getc.results import EtcdResult

__all__ = ['RangeHistory', 'ReplayBuffer']

BUFFER_BYTES: Final = 1024 * 1024
"""Bytes of events; what is made of them takes some times as much."""

MIN_BYTES: Final = 100
"""Bytes that a revision takes at least."""


class ReplayBuffer:
    """The latest revisions of all stories, up to a bound; the oldest is forgotten first."""

    def __init__(self) -> None:
        self._stories: deque[RangeHistory] = deque()  # one for each revision, the oldest first
        self._held = 0

    def add(self, story: RangeHistory, size: int) -> None:
        """A revision of so many bytes was added to a story."""
        self._stories.append(story)
        self._held += size
        while self._held > BUFFER_BYTES:
            self._held -= self._stories.popleft().forget()


class RangeHistory:
    """What one source told lately.

    Attributes:
        begin: Nothing from this revision on is forgotten; 0 before it has begun.
    """

    __slots__ = ('_past', '_revisions', 'begin')

    def __init__(self, past: ReplayBuffer) -> None:
        self.begin = 0
        self._past = past
        self._revisions: deque[tuple[int, Sequence[EtcdResult], int]] | None = None  # most sources are quiet

    def add(self, revision: int, results: Sequence[EtcdResult], size: int) -> None:
        """A revision was told; its events took so many bytes."""
        size = max(size, MIN_BYTES)
        if self._revisions is None:
            self._revisions = deque()
        self._revisions.append((revision, results, size))
        self._past.add(self, size)

    def since(self, revision: int) -> Iterator[tuple[int, Sequence[EtcdResult]]]:
        """The revisions after this one."""
        for later, results, _ in self._revisions or ():
            if later > revision:
                yield later, results

    def forget(self) -> int:
        """Forget the oldest revision, and return the bytes that it took."""
        assert self._revisions is not None
        revision, _, size = self._revisions.popleft()
        self.begin = revision + 1
        if not self._revisions:
            self._revisions = None
        return size
