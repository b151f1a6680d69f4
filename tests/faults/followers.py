"""Workers with watchers and mirrors, which record the events and states that getc reports."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import gevent

import getc
from getc.errors import EtcException
from tests.faults.cluster import ProxiedCluster
from tests.faults.history import History, Resync, WatcherState, WatchEvent, WatchStarted, WatchStopped
from tests.faults.writers import PAIRS, SIDES

__all__ = ['MirrorWorker', 'StateSampler', 'WatchWorker', 'late_values', 'torn_pairs']

READ_INTERVAL: Final = 0.02
"""Seconds between two reads of a mirror."""

SYNC_INTERVAL: Final = 0.5
"""Seconds between two comparisons of a mirror with what a read has returned."""

SYNC_TIMEOUT: Final = 5.0
"""Seconds for the read, and for the mirror to show what the read has returned."""

SAMPLE_INTERVAL: Final = 0.1
"""Seconds between two samples of all states."""

REPEAT_INTERVAL: Final = 0.5
"""Seconds after which an unchanged state is recorded again."""


class WatchWorker:
    """Watches a subtree, records all events, and may stop and start again.

    Args:
        name: Unique in the run.
        key: The key to watch.
        client_name: The name of the client.
        client: The client.
        cluster: The cluster.
        history: Records the events.
        rng: Determines how long it watches and how long its callback blocks.
        runs_to_end: It does not stop before the end of the run.
        blocks: Its callback blocks at times, long enough for its watcher to fall behind.
        resumes: It stops, and starts again some seconds later from the index after the last one.

    Attributes:
        watcher: The current watcher, or None.
        is_watching: It has a watcher that is not stopped.
        blocks: As the argument.
        has_seen_end: It has received the event for its end key.
    """

    def __init__(
        self,
        name: str,
        key: str,
        client_name: str,
        client: getc.Client,
        cluster: ProxiedCluster,
        history: History,
        rng: random.Random,
        *,
        runs_to_end: bool = True,
        blocks: bool = False,
        resumes: bool = False,
    ) -> None:
        self.name = name
        self.key = key
        self.watcher: getc.Watcher | None = None
        self.is_watching = False
        self.has_seen_end = False
        self._client_name = client_name
        self._client = client
        self._cluster = cluster
        self._history = history
        self._rng = rng
        self.blocks = blocks
        self._runs_to_end = runs_to_end
        self._resumes = resumes
        self._era = 0  # the era in which the watcher was started
        self._last_index: int | None = None  # the index of the previous watcher, if it was in the same era
        self._count = 0

    @property
    def current(self) -> tuple[str, getc.Watcher | getc.Mirror] | None:
        """The current watcher with its name in the history."""
        return None if self.watcher is None or not self.is_watching else (f'{self.name}#{self._count}', self.watcher)

    @property
    def end_key(self) -> str:
        """The key below its own that is written at the end of the run."""
        return f'{self.key.rstrip("/")}/end'

    def run(self) -> None:
        """Watch until killed; the last watcher is left to its client."""
        while True:
            self._start()
            if self._resumes:
                gevent.sleep(self._rng.uniform(0.2, 1))
                self._stop()
                gevent.sleep(self._rng.uniform(1.5, 3))
            elif self._runs_to_end:
                return
            else:
                gevent.sleep(self._rng.uniform(1, 10))
                self._stop()
                gevent.sleep(self._rng.uniform(0, 2))

    def _start(self) -> None:
        self._count += 1
        name = f'{self.name}#{self._count}'
        first = None
        if self._resumes and self._last_index is not None and self._era == self._cluster.era:
            first = self._last_index + 1
        self._era = self._cluster.era
        self._history.add(WatcherState(name, self._history.now(), False, 0))
        watcher = self.watcher = self._client.on_change(
            self.key,
            lambda result: self._on_change(name, result),
            index=first,
            on_resync=lambda watcher: self._history.add(Resync(name, self._history.now(), watcher.index)),
        )
        self.is_watching = True
        self._history.add(WatcherState(name, self._history.now(), not watcher.is_stale, watcher.index))
        revision = watcher.index if first is None else first - 1
        self._history.add(
            WatchStarted(name, self._history.now(), self.key, self._cluster.era, revision, self._client_name)
        )  # fmt: skip

    def _stop(self) -> None:
        assert self.watcher is not None
        self.is_watching = False
        self._last_index = self.watcher.index if self._era == self._cluster.era else None
        self._history.add(WatchStopped(f'{self.name}#{self._count}', self._history.now()))
        self.watcher.stop()

    def _on_change(self, name: str, result: getc.EtcdResult) -> None:
        if result.key == self.end_key:
            self.has_seen_end = True
        self._history.add(_watch_event(name, self._history.now(), result))
        if self.blocks and self._rng.random() < 0.002:
            gevent.sleep(self._rng.uniform(1, 12))


class MirrorWorker:
    """Has a mirror, records its updates, and checks that it never shows a part of a transaction.

    Args:
        name: Unique in the run.
        key: The key to mirror.
        client_name: The name of the client.
        client: The client.
        cluster: The cluster.
        history: Records the updates.

    Attributes:
        key: As the argument.
        mirror: The mirror; None before it has started.
        reads: The number of reads.
        torn_pairs: Partial transactions that it has read.
        syncs: The number of comparisons with what a read has returned.
        late_values: Values that the mirror did not show after ``sync``, although a read had returned them before.
    """

    def __init__(
        self, name: str, key: str, client_name: str, client: getc.Client, cluster: ProxiedCluster, history: History
    ) -> None:
        self.key = key
        self.mirror: getc.Mirror | None = None
        self.reads = 0
        self.torn_pairs: list[str] = []
        self.syncs = 0
        self.late_values: list[str] = []
        self._name = name
        self._client_name = client_name
        self._client = client
        self._cluster = cluster
        self._history = history

    @property
    def current(self) -> tuple[str, getc.Watcher | getc.Mirror] | None:
        """The mirror with its name in the history."""
        return None if self.mirror is None else (self._name, self.mirror)

    def run(self) -> None:
        """Read until killed; the mirror is left to its client."""
        self._history.add(WatcherState(self._name, self._history.now(), False, 0))
        mirror = self.mirror = self._client.mirror(self.key, on_update=self._on_update, timeout=None)
        self._history.add(WatcherState(self._name, self._history.now(), not mirror.is_stale, mirror.index))
        self._history.add(
            WatchStarted(self._name, self._history.now(), self.key, self._cluster.era, mirror.index, self._client_name)
        )  # fmt: skip
        comparing = gevent.spawn(self._compare, mirror)
        try:
            while True:
                self.reads += 1
                if self.key == PAIRS:
                    self.torn_pairs += torn_pairs(dict(mirror))
                gevent.sleep(READ_INTERVAL)
        finally:
            comparing.kill(block=False)

    def _compare(self, mirror: getc.Mirror) -> None:
        """Compare the mirror, after ``sync``, with what a read has returned before; until killed."""
        while True:
            gevent.sleep(SYNC_INTERVAL)
            era = self._cluster.era
            try:
                found = self._client.get(self.key, recursive=True, quorum=True, timeout=SYNC_TIMEOUT)
                index = mirror.sync(SYNC_TIMEOUT)
            except EtcException:
                continue
            if era == self._cluster.era and isinstance(found.node, getc.Directory):
                self.syncs += 1
                self.late_values += late_values(found, mirror, index)

    def _on_update(self, results: tuple[getc.EtcdResult, ...]) -> None:
        for result in results:
            self._history.add(_watch_event(self._name, self._history.now(), result))
        if not results or results[0].resync:
            index = results[0].etcd_index if results else self.mirror.index if self.mirror is not None else 0
            self._history.add(Resync(self._name, self._history.now(), index))


class StateSampler:
    """Records the states that watchers and mirrors report.

    Args:
        history: Records the states.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._recorded: dict[str, WatcherState] = {}

    def run(self, followers: Sequence[WatchWorker | MirrorWorker]) -> None:
        """Sample all states until killed."""
        while True:
            for follower in followers:
                if follower.current is not None:
                    self._sample(*follower.current)
            gevent.sleep(SAMPLE_INTERVAL)

    def _sample(self, name: str, follower: getc.Watcher | getc.Mirror) -> None:
        state = WatcherState(name, self._history.now(), not follower.is_stale, follower.index)
        before = self._recorded.get(name)
        if before is None or before.is_live != state.is_live or state.at - before.at >= REPEAT_INTERVAL:
            self._recorded[name] = state
            self._history.add(state)


def _watch_event(name: str, at: float, result: getc.EtcdResult) -> WatchEvent:
    index = result.etcd_index if result.resync else None
    action = type(result).__name__
    return WatchEvent(name, at, result.key, result.value, result.modified_index, action, result.resync, index)


def late_values(found: getc.EtcdResult, mirror: getc.Mirror, index: int) -> list[str]:
    """Return what a mirror lacks that a read has returned before the mirror was synced up to an index."""
    assert isinstance(found.node, getc.Directory)
    late = (
        [f'{mirror} was synced up to {index}, after a read at {found.etcd_index}'] if index < found.etcd_index else []
    )
    for leaf in found.node.leaves():
        shown = mirror.nodes.get(leaf.key)
        if shown is not None and shown.modified_index < leaf.modified_index:
            late.append(f'{mirror} shows {shown} after sync, and a read has returned {leaf} before')
    return late


def torn_pairs(values: dict[str, str]) -> list[str]:
    """Return the pairs whose two sides are from different transactions."""
    pairs = {key.rpartition('/')[0] for key in values}
    found = []
    for pair in sorted(pairs):
        sides = [values.get(f'{pair}/{side}') for side in SIDES]
        tags = {None if value is None else value.rpartition('.')[0] for value in sides}
        if len(tags) > 1:
            found.append(f'{pair} had {sides}')
    return found
