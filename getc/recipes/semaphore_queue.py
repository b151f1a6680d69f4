"""The queue of a semaphore: the limit that is stored, and one watch for all waiters of an object."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from getc.backends.base import Backend, Watch, WatchListener
from getc.errors import EtcException, KeyNotFound, NodeExist
from getc.operations import Get, Put, WatchSpec
from getc.paths import normalize
from getc.recipes.base import RecipeContext
from getc.recipes.contender_queue import ContenderQueue
from getc.results import Deleted, EtcdResult, PredecessorResult, Value
from getc.timing import Deadline

__all__ = ['SemaphoreQueue']

KNOWN_EARLIER: Final = 1000
"""Waiters before a waiter that it knows by name.  With more, it queries once for each so many of them that leave."""

KEPT_DELETIONS: Final = 1000
"""The latest deletions that are kept for waiters whose query was answered at an earlier revision."""


class SemaphoreQueue(ContenderQueue):
    """The queue below ``KEY/slots``, of which the first ``limit`` contenders hold the semaphore.

    Args:
        context: The context of the client.
        key: The key of the semaphore.
        limit: How many may hold it.
        value: The value of the keys.
        ttl: Their TTL, whole seconds.
    """

    def __init__(self, context: RecipeContext, key: str, limit: int, value: str, ttl: int) -> None:
        super().__init__(context, f'semaphore {key}', f'{key}/slots', value, ttl, limit=limit)
        self.known = limit + KNOWN_EARLIER
        self._limit_key = f'{key}/limit'
        self._watch = _SlotsWatch(self.directory, limit)

    def prepare(self, backend: Backend, deadline: Deadline) -> None:
        """Store the limit if there is none, or compare it.

        Raises:
            ValueError: Another limit is stored.
        """
        stored = self._read_limit(backend, deadline)
        if stored is None:
            try:
                backend.execute(Put(self._limit_key, str(self.limit), prev_exist=False), deadline)
                return
            except NodeExist:
                stored = self._read_limit(backend, deadline)
        if stored != str(self.limit):
            raise ValueError(
                f'{self.name} has the limit {stored} in {self._limit_key}, not {self.limit}: use the same limit in all '
                'programs, or delete that key while none of them runs'
            )

    def _read_limit(self, backend: Backend, deadline: Deadline) -> str | None:
        try:
            node = backend.execute(Get(self._limit_key, quorum=True), deadline).node
        except KeyNotFound:
            return None
        return node.value if isinstance(node, Value) else 'of a directory'

    def watch_earlier(self, backend: Backend, answer: PredecessorResult, listener: WatchListener) -> Watch:
        """Wait until fewer than ``limit`` of the earlier contenders may be left.  All waiters share one watch."""
        return self._watch.add(backend, answer, listener)


class _Waiter(Watch):
    """A waiter, the earlier keys that it knows, and its listener."""

    __slots__ = ('_on_close', '_watches', 'earlier', 'listener')

    def __init__(
        self,
        earlier: set[str],
        listener: WatchListener,
        watches: Sequence[Watch],
        on_close: Callable[[_Waiter], object],
    ) -> None:
        self.earlier = earlier
        self.listener = listener
        self._watches = watches
        self._on_close = on_close

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        raise NotImplementedError('a waiter of a semaphore reports no progress')

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self._on_close(self)


class _SlotsWatch(WatchListener):
    """One watch of all keys of a semaphore, for any number of waiters; it lives while there is a waiter."""

    __slots__ = ('_deletions', '_directory', '_limit', '_live_from', '_pid', '_waiters', '_watch')

    def __init__(self, directory: str, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._watch: Watch | None = None
        self._waiters: dict[_Waiter, None] = {}
        self._deletions: deque[Deleted] = deque()
        self._live_from = 0  # every deletion after this index is in ``_deletions``, or will be delivered

    def add(self, backend: Backend, answer: PredecessorResult, listener: WatchListener) -> Watch:
        """Notify the listener once fewer than ``limit`` of the earlier keys that it knows are left.  Does not block."""
        if self._pid != os.getpid():
            self._reset()  # the watch belongs to the parent
        # Keys of other programs may be no normal paths: the shared watch does not report them.
        watches = [
            backend.watch(WatchSpec(node.key, answer.index + 1, is_exact=True), listener)
            for node in answer.earlier[: self._limit]
            if not _is_path(node.key)
        ]
        earlier = {node.key for node in answer.earlier if _is_path(node.key)}
        waiter = _Waiter(earlier, listener, watches, self._remove)
        self._waiters[waiter] = None
        if self._watch is None:
            self._live_from = answer.index
            self._deletions.clear()
            self._watch = backend.watch(WatchSpec(self._directory, answer.index + 1, recursive=True, hidden=True), self)
        elif answer.index < self._live_from:
            listener.on_ended(EtcException('the answer is older than the watch'))  # so it queries again
        else:
            self._discard(waiter, [result for result in self._deletions if result.modified_index > answer.index])
        return waiter

    def _remove(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)
        if not self._waiters and self._watch is not None:
            watch, self._watch = self._watch, None
            watch.close()

    def _discard(self, waiter: _Waiter, deletions: Sequence[Deleted]) -> None:
        for result in deletions:
            if result.key in waiter.earlier:
                waiter.earlier.discard(result.key)
            elif not result.key.startswith(f'{self._directory}/'):  # a directory above: all of them are gone
                waiter.earlier.clear()
        if deletions and len(waiter.earlier) < self._limit:
            waiter.listener.on_changes(deletions)

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        deletions = [result for result in results if isinstance(result, Deleted)]
        self._deletions.extend(deletions)
        while len(self._deletions) > KEPT_DELETIONS:
            self._live_from = self._deletions.popleft().modified_index
        for waiter in list(self._waiters):
            self._discard(waiter, deletions)

    def on_ended(self, error: EtcException) -> None:
        self._watch = None
        for waiter in list(self._waiters):
            waiter.listener.on_ended(error)


def _is_path(key: str) -> bool:
    """Return False for a key with empty segments."""
    return normalize(key) == key
