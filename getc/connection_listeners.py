"""Who is told when the servers of a client are lost and found."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import gevent

from getc.daemons.failures import report_failure
from getc.net.selector import ConnectionState

__all__ = ['ConnectionListeners']


class ConnectionListeners:
    """Who is told when the servers are lost and found."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[ConnectionState], object]] = []

    def add(self, listener: Callable[[ConnectionState], object]) -> None:
        """Tell this one, too."""
        self._listeners.append(listener)

    def weak_notify(self) -> Callable[[ConnectionState], None]:
        """What tells them for as long as somebody else keeps this: a listener may keep its client, which is dropped."""
        this = weakref.ref(self)

        def tell(state: ConnectionState) -> None:
            listeners = this()
            if listeners is not None:
                listeners.tell(state)

        return tell

    def tell(self, state: ConnectionState) -> None:
        """Tell all of them, each in a greenlet of its own.  Does not block."""
        for listener in self._listeners:
            gevent.spawn(_notify, listener, state).name = f'getc on_state {state.name}'


def _notify(listener: Callable[[ConnectionState], object], state: ConnectionState) -> None:
    try:
        listener(state)
    except (Exception, gevent.Timeout):
        report_failure('on_state: the listener %r raised', listener)
