"""Bugs that are put into getc on purpose, to see that they are caught."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest import mock
from weakref import WeakKeyDictionary

from getc import retry
from getc.backends.shared_lease import SharedLease
from getc.daemons.follower import Follower
from getc.model import EtcdResult
from getc.transport import asking

__all__ = ['BUGS', 'applied']

SKIPPED: Final = 20
"""The number of the revision that is skipped, among those that a watcher is told."""

LATENESS: Final = 6.0
"""Seconds by which a loss is told too late."""


@contextmanager
def skipped_revision() -> Iterator[None]:
    """Each watcher passes over one revision."""
    on_changes = Follower.on_changes
    told: WeakKeyDictionary[Follower, int] = WeakKeyDictionary()

    def skipping(self: Follower, results: Sequence[EtcdResult]) -> None:
        told[self] = told.get(self, 0) + 1
        if told[self] != SKIPPED:
            on_changes(self, results)

    with mock.patch.object(Follower, 'on_changes', skipping):
        yield


@contextmanager
def blind_retry() -> Iterator[None]:
    """A write that had no answer is sent again, as though it could not happen twice."""

    def blind(facts: retry.Facts) -> retry.Decision:
        is_write = facts.effect is retry.Effect.ONCE
        return retry.decide(replace(facts, effect=retry.Effect.SAME) if is_write else facts)

    with mock.patch.object(asking, 'decide', blind):
        yield


@contextmanager
def late_lost() -> Iterator[None]:
    """A keeper says that it has lost its node when etcd may have given it to another long ago."""
    init = SharedLease.__init__

    def late(self: SharedLease, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._patience += LATENESS
        self.lost_at += LATENESS

    with mock.patch.object(SharedLease, '__init__', late):
        yield


BUGS: Final = {'skipped-revision': skipped_revision, 'blind-retry': blind_retry, 'late-lost': late_lost}


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """Have getc this bug for a while; none for None."""
    if name is None:
        yield
        return
    with BUGS[name]():
        yield
