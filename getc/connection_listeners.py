"""Listeners for the connection state of a client."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from getc.daemons.callbacks import CallbackQueue
from getc.daemons.greenlets import DaemonGreenlets
from getc.net.client_log import ClientLog
from getc.net.selector import ConnectionState
from getc.timing import Deadline

__all__ = ['ConnectionListeners']

Listener = Callable[[ConnectionState], object]


class ConnectionListeners:
    """Calls the functions that were added with each new :class:`~getc.ConnectionState`.

    A function is called with the states in their order, one call at a time.  A function that blocks does not delay the
    others.
    """

    def __init__(self) -> None:
        self._greenlets = DaemonGreenlets('on_state')
        self._queues: list[tuple[Listener, CallbackQueue]] = []

    def add(self, listener: Listener, log: ClientLog) -> None:
        """Add a function to call with each new state; ``log`` is that of the client."""
        self._queues.append((listener, CallbackQueue(self._greenlets, log)))

    def notify(self, state: ConnectionState) -> None:
        """Call each listener with a state, in a greenlet.  Does not block; does nothing after :meth:`close`."""
        for listener, queue in self._queues:
            queue.post(listener, state)

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

    def reset_in_child(self, log: ClientLog) -> None:
        """In a forked child, drop the calls of the parent process, and call the same functions from now on.

        Args:
            log: The log of the client in the child.
        """
        self._greenlets = DaemonGreenlets('on_state')
        self._queues = [(listener, CallbackQueue(self._greenlets, log)) for listener, _ in self._queues]

    def close(self) -> None:
        """Drop the calls that have not begun, and accept no others.  Does not block."""
        for _, queue in self._queues:
            queue.close()

    def join(self, deadline: Deadline) -> None:
        """Block until the calls in progress have returned, and kill those that have not at the deadline."""
        try:
            self._greenlets.join(deadline)
        finally:
            self._greenlets.kill()
