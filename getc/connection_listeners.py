"""Listeners for the connection state of a client."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import gevent

from getc.daemons.failures import report_failure
from getc.net.selector import ConnectionState

__all__ = ['ConnectionListeners']


class ConnectionListeners:
    """Calls the functions that were added with each new :class:`~getc.ConnectionState`."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[ConnectionState], object]] = []

    def add(self, listener: Callable[[ConnectionState], object]) -> None:
        """Add a function to call with each new state."""
        self._listeners.append(listener)

    def notify(self, state: ConnectionState) -> None:
        """Call each listener in a greenlet of its own.  Does not block."""
        for listener in self._listeners:
            gevent.spawn(_call, listener, state).name = f'getc on_state {state.name}'

    def weak_notify(self) -> Callable[[ConnectionState], None]:
        """Return a :meth:`notify` that holds no reference to the listeners.

        A listener may refer to its client.  With a strong reference the connections would keep such a client alive
        after the program has dropped it.
        """
        reference = weakref.ref(self)

        def notify(state: ConnectionState) -> None:
            listeners = reference()
            if listeners is not None:
                listeners.notify(state)

        return notify


def _call(listener: Callable[[ConnectionState], object], state: ConnectionState) -> None:
    try:
        listener(state)
    except (Exception, gevent.Timeout):
        report_failure('on_state: the listener %r raised', listener)
