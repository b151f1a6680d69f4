"""Whether a test, or any stretch of a program, leaves something of getc behind, and who started it."""

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
from getc.testing.stack_traces import Stack, stack_of, stack_of_spawning
from getc.testing.virtual_loop import VirtualTimer, real_loop

__all__ = ['Leak', 'Leaked', 'no_leaks']

TURNS: Final = 20
"""Turns of the hub in which what was told to end may do so, before it is waited for."""

LINES: Final = 3
"""Lines of a stack that are shown."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Something that was left behind.

    Attributes:
        what: It, for people.
        origin: Where it was started.
    """

    what: str
    origin: Stack

    def __str__(self) -> str:
        started = self.origin.from_the_user().text(LINES)
        return f'{self.what}, started at\n    {started}' if started else f'{self.what}, started by getc itself'


class Leaked(AssertionError):
    """Something of getc was left behind.

    Attributes:
        leaks: What, and where it was started.
    """

    def __init__(self, leaks: tuple[Leak, ...]) -> None:
        self.leaks = leaks
        super().__init__('getc was left with\n' + '\n'.join(f'  {leak}' for leak in leaks))


class no_leaks:  # noqa: N801 - it reads as a statement
    """Raise :class:`Leaked` if what is started inside goes on after it.  A context manager.

    Looked for are keepers, watchers and mirrors that were not stopped, calls that are under way in other
    greenlets, and greenlets, sockets and timers of getc.  What was told to end has a while for it.
    An exception on its way out is not hidden by this one.

    What was there before is no leak.  Where a client from before is open, its greenlets, sockets and timers come and
    go; then these are not looked for.

    Args:
        patience: Real seconds that it waits for what is about to end.

    Example::

        with no_leaks():
            with getc.etcd('memory://') as etcd:
                etcd.on_change('/cfg', print)   # the client stops it
    """

    def __init__(self, *, patience: float = 1.0) -> None:
        self._patience = patience
        self._births = _Origins()
        self._before: list[Any] = []
        self._has_old_clients = False

    def __enter__(self) -> no_leaks:
        self._before = list(_living())
        self._has_old_clients = any(isinstance(thing, Client) and not thing.is_closed for thing in gc.get_objects())
        self._births.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._check()
        finally:
            self._births.end()
            self._before.clear()

    def _check(self) -> None:
        if not self._leaks():
            return
        for _ in range(TURNS):
            gevent.sleep(0)
        gc.collect()  # what nobody can reach is not there
        if not poll_until(lambda: not self._leaks(), self._patience):
            leaks = tuple(self._leaks())
            if leaks:
                raise Leaked(leaks)

    def _leaks(self) -> list[Leak]:
        before = {id(thing) for thing in self._before}
        new = [thing for thing in _living() if id(thing) not in before]
        leaks = [*self._births.daemons(), *_of_each(_leak_of_call, new)]
        if not self._has_old_clients:
            leaks += [*_of_each(_leak_of_greenlet, new), *self._births.sockets(), *_of_each(_leak_of_timer, new)]
        return leaks


class _Origins:
    """Who made the daemons and sockets.

    It watches their constructors.  ``tracemalloc`` would tell the same of every object, and takes ten times as long.
    """

    def __init__(self) -> None:
        # Daemons are kept: on a real etcd none goes by itself, so none does here that was merely dropped.
        self._daemons: list[tuple[Daemon, Stack]] = []
        self._sockets: list[tuple[weakref.ref[gevent.socket.socket], Stack]] = []
        self._undo: list[Callable[[], None]] = []

    def begin(self) -> None:
        self._watch(Daemon, lambda daemon, origin: self._daemons.append((daemon, origin)))
        self._watch(gevent.socket.socket, lambda sock, origin: self._sockets.append((weakref.ref(sock), origin)))

    def end(self) -> None:
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
            if sock is not None and origin.is_of_getc and sock.fileno() != -1:
                yield Leak(f'a socket {_address(sock)}', origin)

    def _watch(self, cls: Any, note: Callable[[Any, Stack], None]) -> None:
        construct = cls.__init__

        def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807
            construct(self, *args, **options)
            note(self, stack_of(sys._getframe(1)) + stack_of_spawning(gevent.getcurrent()))

        cls.__init__ = __init__
        self._undo.append(lambda: setattr(cls, '__init__', construct))


def _living() -> Iterator[Any]:
    """Every greenlet that is not over, and every timer that is waiting."""
    timers = (type(real_loop().timer(0)), VirtualTimer)
    current = gevent.getcurrent()
    for thing in gc.get_objects():
        if isinstance(thing, gevent.Greenlet):
            if not thing.dead and thing is not current:
                yield thing
        elif isinstance(thing, timers) and thing.active:
            yield thing


def _of_each(leak_of: Callable[[Any], Leak | None], things: list[Any]) -> Iterator[Leak]:
    for thing in things:
        leak = leak_of(thing)
        if leak is not None:
            yield leak


def _leak_of_call(thing: Any) -> Leak | None:
    """A greenlet of the user's that is in a call."""
    if isinstance(thing, gevent.Greenlet) and not _is_getcs(thing) and stack_of(thing.gr_frame).has_getc:
        return Leak(f'the greenlet {thing.name!r}, which is in a call', stack_of_spawning(thing))
    return None


def _leak_of_greenlet(thing: Any) -> Leak | None:
    """A greenlet of getc's."""
    if isinstance(thing, gevent.Greenlet) and _is_getcs(thing):
        return Leak(f'the greenlet {thing.name!r}', stack_of_spawning(thing))
    return None


def _is_getcs(greenlet: gevent.Greenlet[..., Any]) -> bool:
    return greenlet.name.startswith('getc ')


def _leak_of_timer(thing: Any) -> Leak | None:
    """A timer that calls getc back."""
    callback = None if isinstance(thing, gevent.Greenlet) else thing.callback
    module = getattr(callback, '__module__', None) or ''
    if module.startswith('getc.') and not module.startswith('getc.testing.'):
        return Leak(f'a timer of {module}.{getattr(callback, "__qualname__", "?")}', Stack(()))
    return None


def _address(sock: gevent.socket.socket) -> str:
    try:
        return 'to {}:{}'.format(*sock.getpeername()[:2])
    except OSError:
        return 'that is not connected'
