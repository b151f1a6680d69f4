"""changes: what a watcher tells, as an iterator."""

from __future__ import annotations

from types import TracebackType
from typing import Final

from gevent.queue import Empty, Queue

from getc.backends.base import Backend
from getc.daemons.options import WatchOptions
from getc.daemons.watcher import Watcher
from getc.errors import ClientClosed, ConnectionError, TimedOut
from getc.net.affinity import ThreadAffinity, Unpicklable
from getc.net.client_log import ClientLog
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = ['Changes']

MAX_QUEUED: Final = 100
"""Changes that wait to be taken from a ``Changes``, besides those that wait in its watcher."""


class Changes(Unpicklable):
    """The changes of a part of the tree, one after the other.  :meth:`getc.Client.changes` makes it.

    An iterator whose ``next`` blocks until there is a change.  It ends when it, or its client, is
    closed.  Also a context manager: leaving it closes it.

    Attributes:
        watcher: What follows the tree: its ``state``, ``last_error``, ``index``.
    """

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        options: WatchOptions,
    ) -> None:
        self._results: Queue[EtcdResult | None] = Queue(maxsize=MAX_QUEUED)
        self._is_over = False
        self._home = ThreadAffinity()
        self._home.check()
        self.watcher = Watcher(log, backend, key, self._results.put, options)
        self.watcher.name = f'changes {self.watcher.key}'
        self.watcher.on_stopping(self._end)

    def get(self, timeout: float | None = None) -> EtcdResult:
        """Return the next change.  Blocks.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: The part of the tree was followed, and there was none in time.
            ConnectionError: The connection is lost, so there may have been changes.
            StopIteration: It is closed.
            ClientClosed: This is a forked child: the changes are told to its parent.
        """
        deadline = Deadline.after(timeout)
        self._home.check()
        if self._home.in_forked_child:
            raise ClientClosed(f"{self.watcher.name} is our parent's, not this forked child's")
        try:
            result = None if self._is_over else self._results.get(timeout=deadline.timeout_left())
        except Empty:
            raise self._none_in_time(deadline) from None
        if result is None or self._is_over:
            self._wake_next()
            raise StopIteration
        return result

    def close(self) -> None:
        """Stop following.  Changes that were not taken are dropped."""
        self.watcher.stop()

    def __iter__(self) -> Changes:
        return self

    def __next__(self) -> EtcdResult:
        return self.get()

    def __enter__(self) -> Changes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f'<getc.Changes {self.watcher.key} {self.watcher.state.name} index={self.watcher.index}>'

    def _none_in_time(self, deadline: Deadline) -> ConnectionError:
        what = f'no change of {self.watcher.key} within {deadline.timeout:g} s'
        if not self.watcher.is_stale:
            return TimedOut(what)
        reason = self.watcher.last_error
        text = f'{what}, but the watch is {self.watcher.state.name}' + ('' if reason is None else f': {reason}')
        return ConnectionError(text, endpoint=None if reason is None else reason.endpoint)

    def _end(self) -> None:
        self._is_over = True
        while not self._results.empty():
            self._results.get_nowait()  # makes room, too, for whoever waits to put one
        self._wake_next()

    def _wake_next(self) -> None:
        if self._results.empty():
            self._results.put_nowait(None)
