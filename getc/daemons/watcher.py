"""on_change: calls a function for every change at and below a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gevent.event import Event

from getc.backends.base import Backend
from getc.daemons.callbacks import CallbackQueue
from getc.daemons.follower import Follower, WatcherState
from getc.daemons.follower_handle import FollowerHandle
from getc.daemons.options import WatchOptions, check_callback
from getc.errors import TimedOut
from getc.net.client_log import ClientLog
from getc.options import CALL_TIMEOUT
from getc.results import EtcdResult, Got
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout

__all__ = ['Watcher', 'WatcherState']


class Watcher(FollowerHandle):
    """Calls a function for every change at and below a key.  :meth:`getc.Client.on_change` returns it.

    Attributes:
        recursive: True if changes of every node below the key are included.
        ready: Set once the watcher is LIVE and the callback has returned for every existing value (``initial=True``).
    """

    __slots__ = ('_timeout', 'ready', 'recursive')

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        callback: Callable[[EtcdResult], object],
        options: WatchOptions,
        *,
        timeout: float | None = CALL_TIMEOUT,
    ) -> None:
        check_callback('callback', callback)
        spec = options.spec(key)
        self.ready = Event()
        self._timeout = timeout  # of `sync`
        self.recursive = spec.recursive
        sink = _CallbackSink(self, callback, options)
        keeps_values = options.resync == 'diff'
        super().__init__(Follower(log, backend, spec, f'on_change {spec.key}', sink, keeps_values=keeps_values))

    def sync(self, timeout: Timeout = DEFAULT_TIMEOUT) -> int:
        """Block until the callback has returned for every change that was made before this call, by any client.

        Works as :meth:`getc.Mirror.sync`, and then waits for the callbacks.

        Args:
            timeout: Seconds; None for no limit, omitted for the timeout of the client.

        Returns:
            The index up to which the callback was called for every change.

        Raises:
            TimedOut: Some changes were not received, or their callbacks did not return, in time.
            Unauthorized: The user may not read the node.
            ClientClosed: The watcher was stopped, or this is a forked child.
            RuntimeError: This is a callback of the watcher, which would wait for itself; or not the client's thread.
        """
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        callbacks = self._daemon.callbacks
        if callbacks.is_caller:
            raise RuntimeError(f'{self.name}: sync was called in a callback, for whose end it would wait')
        index = self._daemon.sync(deadline)
        if not callbacks.wait_for_posted(deadline):
            raise TimedOut(f'{self.name}: the callback did not return for every change within {deadline.timeout:g} s')
        self._daemon.check_running()
        return index

    def __repr__(self) -> str:
        return f'<getc.Watcher {self.key} {self.state.name} index={self.index}>'


class _CallbackSink:
    """Passes results to the callbacks of a watcher."""

    __slots__ = ('_callback', '_initial', '_on_resync', '_watcher')

    def __init__(self, watcher: Watcher, callback: Callable[[EtcdResult], object], options: WatchOptions) -> None:
        self._watcher = watcher
        self._callback = callback
        self._initial = options.initial
        self._on_resync = options.on_resync

    def on_snapshot(self, found: Sequence[Got], callbacks: CallbackQueue) -> None:
        if self._initial:
            self.on_changes(found, callbacks)

    def on_changes(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        for result in results:
            callbacks.post(self._callback, result)

    def on_resync(self, callbacks: CallbackQueue) -> None:
        if self._on_resync is not None:
            callbacks.post(self._on_resync, self._watcher)

    def on_caught_up(self, callbacks: CallbackQueue) -> None:
        if not self._watcher.ready.is_set():
            callbacks.post(self._watcher.ready.set)
