"""changes: an iterator of the changes at and below a key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gevent.queue import Empty, Queue

from getc.backends.base import Backend
from getc.daemons.callbacks import CallbackQueue
from getc.daemons.follower import Follower
from getc.daemons.follower_handle import FollowerHandle
from getc.daemons.options import WatchOptions
from getc.errors import ClientClosed, ConnectionError, TimedOut
from getc.net.client_log import ClientLog
from getc.results import EtcdResult, Got
from getc.timing import Deadline

__all__ = ['MAX_QUEUED', 'Changes']

MAX_QUEUED: Final = 100
"""Changes that may wait in a ``Changes``, besides those that wait in its follower."""


class Changes(FollowerHandle):
    """An iterator of the changes at and below a key.  :meth:`getc.Client.changes` returns it.

    ``next`` blocks until there is a change.  The iteration ends when the iterator or its client is closed.  Also a
    context manager: leaving the block closes the iterator.
    """

    __slots__ = ('_is_closed', '_results')

    def __init__(self, log: ClientLog, backend: Backend, key: str, options: WatchOptions) -> None:
        self._results: Queue[EtcdResult | None] = Queue(maxsize=MAX_QUEUED)
        self._is_closed = False
        spec = options.spec(key)
        sink = _QueueSink(self._results, options)
        super().__init__(Follower(log, backend, spec, f'changes {spec.key}', sink))
        self._daemon.check_thread()
        self._daemon.on_stopping(self._end)

    def get(self, timeout: float | None = None) -> EtcdResult:
        """Return the next change.  Blocks.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: There was no change in time, although the watch was LIVE.
            ConnectionError: The watch is not LIVE, so there may have been changes.
            StopIteration: The iterator is closed.
            ClientClosed: This is a forked child: the parent receives the changes.
            RuntimeError: This is not the thread of the client.
        """
        deadline = Deadline.after(timeout)
        daemon = self._daemon
        daemon.check_thread()
        if daemon.in_forked_child:
            raise ClientClosed(f'{daemon.name} belongs to the parent of this forked process')
        try:
            result = None if self._is_closed else self._results.get(timeout=deadline.timeout_left())
        except Empty:
            raise self._timed_out(deadline) from None
        if result is None or self._is_closed:
            self._wake_next()
            raise StopIteration
        return result

    def close(self) -> None:
        """Stop, and drop the changes that were not read: the same as :meth:`stop`."""
        self.stop()

    def __iter__(self) -> Changes:
        return self

    def __next__(self) -> EtcdResult:
        return self.get()

    def __repr__(self) -> str:
        return f'<getc.Changes {self.key} {self.state.name} index={self.index}>'

    def _timed_out(self, deadline: Deadline) -> ConnectionError:
        what = f'no change of {self.key} within {deadline.timeout:g} s'
        if not self.is_stale:
            return TimedOut(what)
        reason = self.last_error
        text = f'{what}, but the watch is {self.state.name}' + ('' if reason is None else f': {reason}')
        return ConnectionError(text, endpoint=None if reason is None else reason.endpoint)

    def _end(self) -> None:
        self._is_closed = True
        while not self._results.empty():
            self._results.get_nowait()  # unblocks the callback that waits to put a result
        self._wake_next()

    def _wake_next(self) -> None:
        if self._results.empty():
            self._results.put_nowait(None)


class _QueueSink:
    """Puts results into the queue of a ``Changes``, by callbacks that wait while the queue is full."""

    __slots__ = ('_initial', '_results')

    def __init__(self, results: Queue[EtcdResult | None], options: WatchOptions) -> None:
        self._results = results
        self._initial = options.initial

    def on_snapshot(self, found: Sequence[Got], callbacks: CallbackQueue) -> None:
        if self._initial:
            self.on_changes(found, callbacks)

    def on_changes(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        for result in results:
            callbacks.post(self._results.put, result)

    def on_resync(self, callbacks: CallbackQueue) -> None:
        pass

    def on_caught_up(self, callbacks: CallbackQueue) -> None:
        pass
