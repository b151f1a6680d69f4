"""Process and thread affinity: checks that a client is used by one thread, and what its objects do after a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub

__all__ = ['ThreadAffinity', 'Unpicklable', 'close_watcher', 'kill_soon']


class ThreadAffinity:
    """Binds an object to the process that creates it and to the thread that uses it first.

    Greenlets cannot be switched to from another thread, so an object with greenlets is used by one thread.
    """

    __slots__ = ('_hub', '_pid')

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._hub: Any = None

    @property
    def in_forked_child(self) -> bool:
        """True in a child process that was forked after the object was created."""
        return os.getpid() != self._pid

    def is_current(self) -> bool:
        """Return True in the process and the thread that it belongs to; False before :meth:`check` was called."""
        return get_hub() is self._hub and os.getpid() == self._pid

    def check(self, what: str = 'a client') -> None:
        """Bind the object to the current thread on the first call, and check the thread on later calls.

        Args:
            what: Name of the object, for the error message.

        Raises:
            RuntimeError: Another thread of the same process has used the object before.
        """
        hub = get_hub()
        if self._hub is None:
            self._hub = hub
        elif self._hub is not hub and not self.in_forked_child:
            raise RuntimeError(
                f'{what} can only be used in the thread that first used it; create one client per thread'
            )

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function in the hub of the bound thread, from any thread.

        Does nothing in a forked child, without a bound thread, and if the hub of that thread was destroyed.
        """
        if self._hub is not None and self._hub.loop is not None and not self.in_forked_child:
            self._hub.loop.run_callback_threadsafe(function)


class Unpicklable:
    """Base class of objects that refuse to be pickled or copied, because they are bound to one process."""

    __slots__ = ()

    def __reduce__(self) -> str:
        raise TypeError(
            f'cannot pickle or copy getc.{type(self).__name__}: it is bound to its process.  '
            'Pass the URL and create a client in the other process'
        )


def close_watcher(watcher: Any) -> None:
    """Close a watcher of an event loop, even if the loop was destroyed with the hub of its thread."""
    try:
        watcher.close()
    except ValueError:
        pass  # the loop was destroyed: the watcher never runs again


def kill_soon(greenlet: gevent.Greenlet[..., Any]) -> None:
    """Kill a greenlet without blocking, even if the hub of its thread was destroyed."""
    try:
        greenlet.kill(block=False)
    except (AttributeError, ValueError):
        pass  # the hub has no loop any more: the greenlet never runs again
