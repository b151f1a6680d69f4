"""on_change: a function that is called for every change of a part of the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gevent.event import Event

from getc.backends.base import Backend
from getc.daemons.follower import Follower, WatcherState
from getc.daemons.options import WatchOptions, check_callback
from getc.net.client_log import ClientLog
from getc.results import EtcdResult, Got

__all__ = ['Watcher', 'WatcherState']


class Watcher(Follower):
    """Follows a part of the tree.  :meth:`getc.Client.on_change` makes it.

    Attributes:
        key: The node.
        recursive: Every node below it, too.
        ready: Set when it is live and what was there at first (``initial=True``) has been delivered.
    """

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        callback: Callable[[EtcdResult], object],
        options: WatchOptions,
    ) -> None:
        check_callback('callback', callback)
        spec = options.spec(key)
        super().__init__(log, backend, spec, f'on_change {spec.key}', is_mapped=options.resync == 'diff')
        self.ready = Event()
        self._callback = callback
        self._tell_resync = options.on_resync
        self._initial = options.initial

    def _on_snapshot(self, found: Sequence[Got]) -> None:
        if self._initial:
            self._deliver(found)

    def _on_revision(self, results: Sequence[EtcdResult]) -> None:
        self._deliver(results)

    def _on_difference(self, results: Sequence[EtcdResult]) -> None:
        self._deliver(results)
        if self._tell_resync is not None:
            self._call_soon(self._tell_resync, self)

    def on_caught_up(self) -> None:
        super().on_caught_up()
        if self._is_caught_up and not self.ready.is_set():
            self._call_soon(self.ready.set)

    def _deliver(self, results: Sequence[EtcdResult]) -> None:
        for result in results:
            self._call_soon(self._callback, result)
