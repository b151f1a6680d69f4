"""Follow the leader of an election, without taking part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

from getc.backends.base import Backend
from getc.daemons.callbacks import CallbackQueue
from getc.daemons.follower import Follower
from getc.daemons.follower_handle import FollowerHandle, Waiters
from getc.daemons.mirror import apply_changes
from getc.daemons.options import check_callback
from getc.net.client_log import ClientLog
from getc.operations import WatchSpec
from getc.paths import ROOT
from getc.results import EtcdResult, Got, Value

__all__ = ['Leader', 'OnLeader']

OnLeader = Callable[[Value | None], object]
"""Called with the key of the leader and its value, or with None where there is no leader."""

Answer = TypeVar('Answer')


class Leader(FollowerHandle):
    """Follows the leader of an election.  :meth:`getc.Client.leader` returns it.

    The leader is the candidate whose key below the election was created first.  Reading the attributes performs no I/O
    and does not yield; they change together, only when the greenlet yields, and by whole revisions of etcd: if one
    transaction replaces the leader, none is missing in between.

    What is shown is what etcd had a moment ago.  While the connection is lost, the last leader is shown and
    ``is_stale`` is True.  Only the leader itself can know whether it leads: :meth:`getc.Candidacy.ensure`.

    Args:
        log: The log of the client.
        backend: The store.
        key: The key of the election.
        on_change: Called with each leader, or None.

    Raises:
        TypeError, ValueError: An argument is invalid.
    """

    __slots__ = ('_sink', '_waiters')

    def __init__(self, log: ClientLog, backend: Backend, key: str, on_change: OnLeader | None = None) -> None:
        check_callback('on_change', on_change, is_optional=True)
        spec = WatchSpec(key, recursive=True, hidden=True)
        if spec.key == ROOT:
            raise ValueError('an election cannot be at the root: give the key of a node below it')
        self._waiters = Waiters()
        self._sink = _LeaderSink(spec.key, self._waiters.wake, on_change)
        super().__init__(Follower(log, backend, spec, f'leader {spec.key}', self._sink, starts_caught_up=True))
        self._daemon.on_stopping(self._waiters.wake)

    @property
    def election(self) -> str:
        """The key of the election."""
        return self._daemon.key

    @property
    def node(self) -> Value | None:
        """The leader's key with its value and indexes; None if there is no leader."""
        return self._sink.leader

    @property
    def value(self) -> str | None:
        """The value of the leader, which its ``proclaim`` changes; None if there is no leader."""
        return None if self._sink.leader is None else self._sink.leader.value

    @property
    def key(self) -> str | None:  # type: ignore[override]  # that of the election is `election`
        """The key of the leader, which is below the key of the election; None if there is no leader."""
        return None if self._sink.leader is None else self._sink.leader.key

    @property
    def token(self) -> int | None:
        """The fencing token of the leader, as its ``ensure()`` returns it; None if there is no leader."""
        return None if self._sink.leader is None else self._sink.leader.created_index

    def wait(self, predicate: Callable[[Leader], Answer], timeout: float | None = None) -> Answer:
        """Block until a predicate of this object is true, and return its result.

        The predicate is called at once and after each change, but not for each single revision.

        Args:
            predicate: Called with this object, in the calling greenlet.
            timeout: Seconds; None for no limit.

        Raises:
            TimedOut: The predicate did not become true in time.
            ClientClosed: The object was stopped, or this is a forked child.
            RuntimeError: This is not the thread of the client.
        """
        return self._waiters.wait(self._daemon, predicate, self, timeout)

    def __repr__(self) -> str:
        shown = 'no leader' if self.value is None else repr(self.value)
        return f'<getc.Leader {self.election} {shown} {self.state.name} index={self.index}>'


class _LeaderSink:
    """Applies whole revisions to the candidates, and selects the leader.

    Attributes:
        leader: The key of the leader, or None.
    """

    __slots__ = ('_candidates', '_has_reported', '_key', '_on_applied', '_on_change', 'leader')

    def __init__(self, key: str, on_applied: Callable[[], object], on_change: OnLeader | None) -> None:
        self.leader: Value | None = None
        self._key = key
        self._candidates: dict[str, Value] = {}
        self._on_applied = on_applied
        self._on_change = on_change
        self._has_reported = False

    def on_snapshot(self, found: Sequence[Got], callbacks: CallbackQueue) -> None:
        self._apply(found, callbacks)

    def on_changes(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        self._apply(results, callbacks)

    def on_resync(self, callbacks: CallbackQueue) -> None:
        pass

    def on_caught_up(self, callbacks: CallbackQueue) -> None:
        pass

    def _apply(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        apply_changes(self._candidates, results)
        # A value at the key of the election is not a candidate.
        candidates = [value for key, value in self._candidates.items() if key != self._key]
        before, self.leader = self.leader, min(candidates, key=attrgetter('created_index'), default=None)
        if not self._has_reported or _what_counts(before) != _what_counts(self.leader):
            self._has_reported = True
            if self._on_change is not None:
                callbacks.post(self._on_change, self.leader)
        self._on_applied()


def _what_counts(leader: Value | None) -> tuple[str, int, str] | None:
    """Return what makes two leaders the same: not the index of the latest write, nor the remaining TTL."""
    return None if leader is None else (leader.key, leader.created_index, leader.value)
