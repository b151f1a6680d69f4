"""on_change: a function that is called for every change of a part of the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from gevent.event import Event

from getc.backends.base import Backend
from getc.daemons.base import Owner
from getc.daemons.follower import Follower, WatcherState
from getc.operations import WatchSpec
from getc.results import EtcdResult, Got

__all__ = ['Resync', 'Watcher', 'WatcherState']

Resync = Literal['diff', 'notify']


class Watcher(Follower):
    """Follows a part of the tree.  :meth:`getc.Client.on_change` makes it.

    Attributes:
        key: The node.
        recursive: Every node below it, too.
        ready: Set when it is live and what was there at first (``initial=True``) has been delivered.
    """

    def __init__(
        self,
        owner: Owner,
        backend: Backend,
        key: str,
        callback: Callable[[EtcdResult], object],
        *,
        recursive: bool = True,
        initial: bool = False,
        index: int | None = None,
        on_resync: Callable[[Watcher], object] | None = None,
        resync: Resync = 'diff',
    ) -> None:
        spec = WatchSpec(key, index, recursive)
        for name, function in (('callback', callback), ('on_resync', on_resync)):
            if not callable(function) and (function is not None or name == 'callback'):
                raise TypeError(f'{name} is a function, not {type(function).__name__}')
        if resync not in ('diff', 'notify'):
            raise ValueError(f"resync is 'diff' or 'notify', not {resync!r}")
        if initial and spec.index is not None:
            raise ValueError(
                'give either initial=True or an index: the first delivers what is there, the second what was'
            )
        super().__init__(owner, backend, spec, f'on_change {spec.key}', is_mapped=resync == 'diff')
        self.ready = Event()
        self._callback = callback
        self._tell_resync = on_resync
        self._initial = initial

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
