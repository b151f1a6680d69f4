"""Followers: watchers and mirrors that note what they are told, and in which state they say that they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import gevent

import getc
from tests.faults.cluster import Ground
from tests.faults.history import History, Resync, Seen, State, Unwatched, Watched
from tests.faults.writers import PAIRS, SIDES

__all__ = ['Follower', 'Reader', 'StateRecorder', 'halves']

LOOK: Final = 0.02
"""Seconds between two looks at a mirror."""

SAMPLE: Final = 0.1
"""Seconds between two samples of all states."""

REPEAT: Final = 0.5
"""Seconds after which a state is noted again although it is the same."""


class Follower:
    """Watches part of the tree, notes all that it is told, and may stop and begin again.

    Args:
        name: Unique in the run.
        key: What it watches.
        client_name: What its client is called.
        client: The client.
        ground: Where.
        history: Where it is noted.
        chance: How long it watches, and how slow it is.
        stays: True if it watches to the end.
        stalls: Its callback blocks now and then, for so long that its watcher falls behind.
        resumes: It stops, and begins again after some seconds, with the changes after those that it has seen.

    Attributes:
        watcher: The current one, or None.
        is_watching: It has a watcher.
        stalls: The same.
        has_seen_end: It was told of the end of the run.
    """

    def __init__(
        self,
        name: str,
        key: str,
        client_name: str,
        client: getc.Client,
        ground: Ground,
        history: History,
        chance: random.Random,
        *,
        stays: bool = True,
        stalls: bool = False,
        resumes: bool = False,
    ) -> None:
        self.name = name
        self.key = key
        self.watcher: getc.Watcher | None = None
        self.is_watching = False
        self.has_seen_end = False
        self._client_name = client_name
        self._client = client
        self._ground = ground
        self._history = history
        self._rng = chance
        self.stalls = stalls
        self._stays = stays
        self._resumes = resumes
        self._era = 0  # in which the watcher was begun
        self._left: int | None = None  # the index of the watcher before, if that is one of this era
        self._count = 0

    @property
    def current(self) -> tuple[str, getc.Watcher | getc.Mirror] | None:
        """The current watcher and its name in the history."""
        return None if self.watcher is None or not self.is_watching else (f'{self.name}#{self._count}', self.watcher)

    @property
    def end(self) -> str:
        """The key that is written last of all it watches."""
        return f'{self.key.rstrip("/")}/end'

    def run(self) -> None:
        """Watch until killed, which leaves the last watcher to its client."""
        while True:
            self._begin()
            if self._resumes:
                gevent.sleep(self._rng.uniform(0.2, 1))
                self._end()
                gevent.sleep(self._rng.uniform(1.5, 3))
            elif self._stays:
                return
            else:
                gevent.sleep(self._rng.uniform(1, 10))
                self._end()
                gevent.sleep(self._rng.uniform(0, 2))

    def _begin(self) -> None:
        self._count += 1
        name = f'{self.name}#{self._count}'
        first = None
        if self._resumes and self._left is not None and self._era == self._ground.era:
            first = self._left + 1
        self._era = self._ground.era
        self._history.add(State(name, self._history.now(), False, 0))
        watcher = self.watcher = self._client.on_change(
            self.key,
            lambda result: self._on_change(name, result),
            index=first,
            on_resync=lambda watcher: self._history.add(Resync(name, self._history.now(), watcher.index)),
        )
        self.is_watching = True
        self._history.add(State(name, self._history.now(), not watcher.is_stale, watcher.index))
        revision = watcher.index if first is None else first - 1
        self._history.add(
            Watched(name, self._history.now(), self.key, self._ground.era, revision, self._client_name)
        )  # fmt: skip

    def _end(self) -> None:
        assert self.watcher is not None
        self.is_watching = False
        self._left = self.watcher.index if self._era == self._ground.era else None
        self._history.add(Unwatched(f'{self.name}#{self._count}', self._history.now()))
        self.watcher.stop()

    def _on_change(self, name: str, result: getc.EtcdResult) -> None:
        if result.key == self.end:
            self.has_seen_end = True
        self._history.add(_seen(name, self._history.now(), result))
        if self.stalls and self._rng.random() < 0.002:
            gevent.sleep(self._rng.uniform(1, 12))


class Reader:
    """Has a mirror, notes how it changes, and looks whether a pair is ever there by half.

    Args:
        name: Unique in the run.
        key: What is mirrored.
        client_name: What its client is called.
        client: The client.
        ground: Where.
        history: Where it is noted.

    Attributes:
        key: The same.
        mirror: The mirror; None before it has started.
        looks: How often it was looked at.
        seen_by_half: What was seen that must not be.
    """

    def __init__(
        self, name: str, key: str, client_name: str, client: getc.Client, ground: Ground, history: History
    ) -> None:
        self.key = key
        self.mirror: getc.Mirror | None = None
        self.looks = 0
        self.seen_by_half: list[str] = []
        self._name = name
        self._client_name = client_name
        self._client = client
        self._ground = ground
        self._history = history

    @property
    def current(self) -> tuple[str, getc.Watcher | getc.Mirror] | None:
        """The mirror and its name in the history."""
        return None if self.mirror is None else (self._name, self.mirror)

    def run(self) -> None:
        """Look until killed, which leaves the mirror to its client."""
        self._history.add(State(self._name, self._history.now(), False, 0))
        mirror = self.mirror = self._client.mirror(self.key, on_update=self._on_update, timeout=None)
        self._history.add(State(self._name, self._history.now(), not mirror.is_stale, mirror.index))
        self._history.add(
            Watched(self._name, self._history.now(), self.key, self._ground.era, mirror.index, self._client_name)
        )  # fmt: skip
        while True:
            self.looks += 1
            if self.key == PAIRS:
                self.seen_by_half += halves(dict(mirror))
            gevent.sleep(LOOK)

    def _on_update(self, results: tuple[getc.EtcdResult, ...]) -> None:
        for result in results:
            self._history.add(_seen(self._name, self._history.now(), result))
        if not results or results[0].resync:
            index = results[0].etcd_index if results else self.mirror.index if self.mirror is not None else 0
            self._history.add(Resync(self._name, self._history.now(), index))


class StateRecorder:
    """Notes in which state followers say that they are.

    Args:
        history: Where it is noted.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._noted: dict[str, State] = {}

    def run(self, followers: Sequence[Follower | Reader]) -> None:
        """Sample all of them until killed."""
        while True:
            for follower in followers:
                if follower.current is not None:
                    self._sample(*follower.current)
            gevent.sleep(SAMPLE)

    def _sample(self, name: str, follower: getc.Watcher | getc.Mirror) -> None:
        state = State(name, self._history.now(), not follower.is_stale, follower.index)
        before = self._noted.get(name)
        if before is None or before.is_live != state.is_live or state.at - before.at >= REPEAT:
            self._noted[name] = state
            self._history.add(state)


def _seen(name: str, at: float, result: getc.EtcdResult) -> Seen:
    index = result.etcd_index if result.resync else None
    action = type(result).__name__
    return Seen(name, at, result.key, result.value, result.modified_index, action, result.resync, index)


def halves(shown: dict[str, str]) -> list[str]:
    """The pairs whose sides are not from the same transaction."""
    pairs = {key.rpartition('/')[0] for key in shown}
    found = []
    for pair in sorted(pairs):
        values = [shown.get(f'{pair}/{side}') for side in SIDES]
        tags = {None if value is None else value.rpartition('.')[0] for value in values}
        if len(tags) > 1:
            found.append(f'{pair} had {values}')
    return found
