"""Where something belongs: the process that made it, and the thread that uses it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub

__all__ = ['ThreadAffinity', 'Unpicklable', 'close_watcher', 'kill_soon']


class ThreadAffinity:
    """The process that made something, and the thread that was the first to use it: greenlets live in one thread."""

    __slots__ = ('_hub', '_pid')

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._hub: Any = None

    @property
    def in_forked_child(self) -> bool:
        """True in a child that was forked off that process."""
        return os.getpid() != self._pid

    def check(self, what: str = 'a client') -> None:
        """Make sure that this is the thread, which it is from now on if there was none.  Does not block.

        Raises:
            RuntimeError: It is another thread of the same process.
        """
        hub = get_hub()
        if self._hub is None:
            self._hub = hub
        elif self._hub is not hub and not self.in_forked_child:
            raise RuntimeError(f'{what} belongs to the thread that was the first to use it: make one for each thread')

    def call_soon(self, function: Callable[[], object]) -> None:
        """Have a function called by the thread's hub on its next turn, from whatever thread; not in a child."""
        if self._hub is not None and self._hub.loop is not None and not self.in_forked_child:
            self._hub.loop.run_callback_threadsafe(function)


class Unpicklable:
    """Something that lives in one process, and cannot be copied out of it."""

    __slots__ = ()

    def __reduce__(self) -> str:
        raise TypeError(
            f'a {type(self).__name__} of getc cannot be pickled or copied: it lives in one process.  '
            'Hand on the URL, and make a client there'
        )


def close_watcher(watcher: Any) -> None:
    """Close a watcher of an event loop, also of a loop that was destroyed together with the hub of its thread."""
    try:
        watcher.close()
    except ValueError:
        pass  # the loop was destroyed: the watcher never runs again


def kill_soon(greenlet: gevent.Greenlet[..., Any]) -> None:
    """Kill a greenlet without blocking, also a greenlet of a thread whose hub was destroyed."""
    try:
        greenlet.kill(block=False)
    except (AttributeError, ValueError):
        pass  # the hub has no loop any more: the greenlet never runs again
