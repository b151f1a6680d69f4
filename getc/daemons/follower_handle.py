"""The public side of followers."""

from __future__ import annotations

from getc.daemons.follower import Follower, WatcherState
from getc.daemons.handle import DaemonHandle

__all__ = ['FollowerHandle']


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
