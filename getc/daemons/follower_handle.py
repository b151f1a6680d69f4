"""The public side of followers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gevent.event import Event

from getc.daemons.follower import Follower, WatcherState
from getc.daemons.handle import DaemonHandle
from getc.errors import ClientClosed, TimedOut
from getc.timing import Deadline

__all__ = ['FollowerHandle', 'Waiters']

_Subject = TypeVar('_Subject')
_Answer = TypeVar('_Answer')


class FollowerHandle(DaemonHandle):
    """The public side of a follower, which watchers, mirrors and iterators of changes share."""

    __slots__ = ()

    _daemon: Follower

    @property
    def state(self) -> WatcherState:
        """The state of the watch; STOPPED in a forked child."""
        return self._daemon.state

    @property
    def is_stale(self) -> bool:
        """False only while changes arrive as they happen."""
        return self._daemon.is_stale

    @property
    def index(self) -> int:
        """The index up to which every change was received; 0 before the start."""
        return self._daemon.index


class Waiters:
    """Greenlets that wait for a predicate of what a follower shows."""

    __slots__ = ('_changed',)

    def __init__(self) -> None:
        self._changed: set[Event] = set()

    def wake(self) -> None:
        """Let each greenlet call its predicate.  Does not block."""
        for changed in self._changed:
            changed.set()

    def wait(
        self, daemon: Follower, predicate: Callable[[_Subject], _Answer], subject: _Subject, timeout: float | None
    ) -> _Answer:
        """Block until a predicate of the subject is true, and return its result.

        Raises:
            TimedOut: The predicate did not become true in time.
            ClientClosed: The follower was stopped, or this is a forked child.
            RuntimeError: This is not the thread of the client.
        """
        deadline = Deadline.after(timeout)
        daemon.check_thread()
        changed = Event()
        self._changed.add(changed)
        try:
            while not (answer := predicate(subject)):
                if daemon.state is WatcherState.STOPPED:
                    what = 'belongs to the parent of this forked process' if daemon.in_forked_child else 'was stopped'
                    raise ClientClosed(f'{daemon.name} {what}')
                if not changed.wait(deadline.timeout_left()):
                    kind = daemon.name.partition(' ')[0]
                    state = f'; the {kind} is {daemon.state.name}' if daemon.is_stale else ''
                    raise TimedOut(f'{daemon.name}: the predicate was not true within {deadline.timeout:g} s{state}')
                changed.clear()
            return answer
        finally:
            self._changed.discard(changed)
