"""What all daemons share: a name, an end, and callbacks that cannot hurt them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import gevent

from getc.errors import EtcException
from getc.timing import Deadline

__all__ = ['Daemon', 'Owner', 'call_back']

logger = logging.getLogger(__name__)


class Owner(Protocol):
    """Who has daemons: the client."""

    def forget(self, daemon: Daemon) -> None:
        """The daemon has stopped."""


class Daemon:
    """Something that goes on in the background until it is stopped.

    Also a context manager: leaving it stops it.

    Attributes:
        name: What it does, for logs.
        last_error: The latest trouble, or None; it stays after the trouble has passed.
    """

    def __init__(self, owner: Owner, name: str) -> None:
        self.name = name
        self.last_error: EtcException | None = None
        self._owner = owner
        self._tasks: set[gevent.Greenlet[..., None]] = set()

    def stop(self, timeout: float | None = 5.0) -> None:
        """End it.  When this returns no callback runs or will run; a second call does nothing.

        Blocks until what is under way has ended, for ``timeout`` seconds at most (None: no limit);
        a callback still running then is killed.  May be called from a callback, which goes on.

        Raises:
            TypeError, ValueError: The timeout is no number of seconds.
        """
        raise NotImplementedError

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it is stopped, for ``timeout`` seconds at most (None: no limit).  True if it is."""
        raise NotImplementedError

    def close(self) -> None:
        """End it at once, without I/O and without waiting.  For its owner."""
        raise NotImplementedError

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, task: Callable[..., None], *args: object) -> gevent.Greenlet[..., None]:
        """Run a task of this daemon in a greenlet that ends with it."""
        return self._own(gevent.spawn(task, *args))

    def _spawn_later(self, delay: float, task: Callable[..., None]) -> gevent.Greenlet[..., None]:
        return self._own(gevent.spawn_later(delay, task))

    def _own(self, greenlet: gevent.Greenlet[..., None]) -> gevent.Greenlet[..., None]:
        greenlet.name = f'getc {self.name}'
        self._tasks.add(greenlet)
        greenlet.rawlink(self._tasks.discard)
        return greenlet

    def _end_tasks(self, deadline: Deadline) -> None:
        """Let every task but the current one end by the deadline, then kill it."""
        current = gevent.getcurrent()
        tasks = [task for task in self._tasks if task is not current]
        waiting = [task for task in tasks if not task.started or not task]
        for task in waiting:
            task.kill(block=False)  # a timer that has not fired
        running = [task for task in tasks if task not in waiting]
        try:
            gevent.joinall(running, timeout=deadline.timeout_left())
        finally:
            gevent.killall(running, block=False)


def call_back(name: str, callback: Callable[..., object], *args: object) -> None:
    """Call the user's code; what it raises is logged, with the daemon's name, and goes no further."""
    try:
        callback(*args)
    except Exception:
        logger.exception('%s: the callback %r raised', name, callback)
