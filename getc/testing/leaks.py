"""Detects daemons, greenlets, sockets and timers of getc that outlive a test, and shows where they were started."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import gevent
import gevent.socket

from getc.client import Client
from getc.daemons.base import Daemon
from getc.testing.processes import poll_until
from getc.testing.stack_traces import Stack, spawning_stack, stack_of
from getc.testing.virtual_loop import VirtualTimer, real_loop

__all__ = ['Leak', 'Leaked', 'no_leaks']

HUB_TURNS: Final = 20
"""Turns of the hub in which objects that are being closed may end, before any waiting."""

MAX_LINES: Final = 3
"""Lines of a stack that are shown."""


@dataclass(frozen=True, slots=True)
class Leak:
    """An object of getc that outlives the checked block.

    Attributes:
        what: A description of the object.
        origin: The stack at which it was started.
    """

    what: str
    origin: Stack

    def __str__(self) -> str:
        started = self.origin.user_part().text(MAX_LINES)
        return f'{self.what}, started at\n    {started}' if started else f'{self.what}, started by getc itself'


class Leaked(AssertionError):
    """Objects of getc outlive the checked block.

    Attributes:
        leaks: The objects, with the stacks at which they were started.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__('objects of getc were not stopped or closed:\n' + '\n'.join(f'  {leak}' for leak in leaks))


class no_leaks:  # noqa: N801 - used like a statement
    """Raise :class:`Leaked` if objects of getc that are started in the block outlive it.  A context manager.

    Checks for keepers, watchers and mirrors that were not stopped, for calls in flight in other greenlets, and for
    greenlets, sockets and timers of getc.  Objects that are being closed have some time to end.  An exception that
    leaves the block is not replaced.

    Objects from before the block are not leaks.  While a client from before is open, its greenlets, sockets and timers
    change at any time, so these three are not checked then.

    Args:
        timeout: Real seconds to wait for objects that are being closed.

    Example::

        with no_leaks():
            with getc.etcd('memory://') as etcd:
                etcd.on_change('/cfg', print)   # stopped when the client closes
    """

    def __init__(self, *, timeout: float = 1.0) -> None:
        self._timeout = timeout
        self._origins = _Origins()
        self._before: list[Any] = []
        self._has_old_clients = False

    def __enter__(self) -> no_leaks:
        self._before = list(_active_objects())
        self._has_old_clients = any(isinstance(item, Client) and not item.is_closed for item in gc.get_objects())
        self._origins.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._check()
        finally:
            self._origins.stop()
            self._before.clear()

    def _check(self) -> None:
        if not self._leaks():
            return
        for _ in range(HUB_TURNS):
            gevent.sleep(0)
        gc.collect()  # garbage in reference cycles is not a leak
        if not poll_until(lambda: not self._leaks(), self._timeout):
            leaks = tuple(self._leaks())
            if leaks:
                raise Leaked(leaks)

    def _leaks(self) -> list[Leak]:
        before = {id(item) for item in self._before}
        new = [item for item in _active_objects() if id(item) not in before]
        leaks = [*self._origins.daemons(), *_filter_leaks(_leak_of_call, new)]
        if not self._has_old_clients:
            leaks += _filter_leaks(_leak_of_greenlet, new)
            leaks += self._origins.sockets()
            leaks += _filter_leaks(_leak_of_timer, new)
        return leaks


class _Origins:
    """Records the stacks at which daemons and sockets are created, by wrapping their constructors.

    ``tracemalloc`` would record the same for every object, and takes ten times as long.
    """

    def __init__(self) -> None:
        # Strong references: on a real etcd a daemon runs on when the last reference to it is dropped.
        self._daemons: list[tuple[Daemon, Stack]] = []
        self._sockets: list[tuple[weakref.ref[gevent.socket.socket], Stack]] = []
        self._undo: list[Callable[[], None]] = []

    def start(self) -> None:
        self._wrap(Daemon, lambda daemon, origin: self._daemons.append((daemon, origin)))
        self._wrap(gevent.socket.socket, lambda sock, origin: self._sockets.append((weakref.ref(sock), origin)))

    def stop(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._daemons.clear()
        self._sockets.clear()

    def daemons(self) -> Iterator[Leak]:
        for daemon, origin in self._daemons:
            if not daemon.is_stopped:
                yield Leak(daemon.name, origin)

    def sockets(self) -> Iterator[Leak]:
        for reference, origin in self._sockets:
            sock = reference()
            if sock is not None and origin.is_getc and sock.fileno() != -1:
                yield Leak(f'a socket {_address(sock)}', origin)

    def _wrap(self, cls: Any, record: Callable[[Any, Stack], None]) -> None:
        original = cls.__init__

        def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807
            original(self, *args, **options)
            record(self, stack_of(sys._getframe(1)) + spawning_stack(gevent.getcurrent()))

        cls.__init__ = __init__
        self._undo.append(lambda: setattr(cls, '__init__', original))


def _active_objects() -> Iterator[Any]:
    """Yield every greenlet that has not ended, except the current one, and every active timer."""
    timers = (type(real_loop().timer(0)), VirtualTimer)
    current = gevent.getcurrent()
    for item in gc.get_objects():
        if isinstance(item, gevent.Greenlet):
            if not item.dead and item is not current:
                yield item
        elif isinstance(item, timers) and item.active:
            yield item


def _filter_leaks(leak_of: Callable[[Any], Leak | None], items: list[Any]) -> Iterator[Leak]:
    for item in items:
        leak = leak_of(item)
        if leak is not None:
            yield leak


def _leak_of_call(item: Any) -> Leak | None:
    """Return a leak if the object is a greenlet of the user with a call of getc in flight."""
    if isinstance(item, gevent.Greenlet) and not _is_getc_greenlet(item) and stack_of(item.gr_frame).includes_getc:
        return Leak(f'the greenlet {item.name!r}, with a call in flight', spawning_stack(item))
    return None


def _leak_of_greenlet(item: Any) -> Leak | None:
    """Return a leak if the object is a greenlet of getc."""
    if isinstance(item, gevent.Greenlet) and _is_getc_greenlet(item):
        return Leak(f'the greenlet {item.name!r}', spawning_stack(item))
    return None


def _is_getc_greenlet(greenlet: gevent.Greenlet[..., Any]) -> bool:
    return greenlet.name.startswith('getc ')


def _leak_of_timer(item: Any) -> Leak | None:
    """Return a leak if the object is a timer with a callback in getc."""
    callback = None if isinstance(item, gevent.Greenlet) else item.callback
    module = getattr(callback, '__module__', None) or ''
    if module.startswith('getc.') and not module.startswith('getc.testing.'):
        return Leak(f'a timer of {module}.{getattr(callback, "__qualname__", "?")}', Stack(()))
    return None


def _address(sock: gevent.socket.socket) -> str:
    try:
        return 'connected to {}:{}'.format(*sock.getpeername()[:2])
    except OSError:
        return 'that is not connected'
