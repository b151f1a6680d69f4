"""Followers: watchers that note what they see, and mirrors that are looked at."""

from __future__ import annotations

import random
from typing import Final

import gevent

import getc
from tests.faults.ground import Ground
from tests.faults.history import History, Resync, Seen, Unwatched, Watched
from tests.faults.writers import PAIRS, SIDES

__all__ = ['Follower', 'Reader', 'halves']

LOOK: Final = 0.02
"""Seconds between two looks at a mirror."""


class Follower:
    """Watches part of the tree, notes all that it is told, and may stop and begin again.

    Args:
        name: Unique in the run.
        key: What it watches.
        client: The client.
        ground: Where.
        history: Where it is noted.
        chance: How long it watches, and how slow it is.
        stays: True if it watches to the end.
        stalls: Its callback blocks now and then, for so long that its watcher falls behind.

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
        client: getc.Client,
        ground: Ground,
        history: History,
        chance: random.Random,
        *,
        stays: bool = True,
        stalls: bool = False,
    ) -> None:
        self.name = name
        self.key = key
        self.watcher: getc.Watcher | None = None
        self.is_watching = False
        self.has_seen_end = False
        self._client = client
        self._ground = ground
        self._history = history
        self._chance = chance
        self.stalls = stalls
        self._stays = stays
        self._count = 0

    @property
    def end(self) -> str:
        """The key that is written last of all it watches."""
        return f'{self.key.rstrip("/")}/end'

    def run(self) -> None:
        """Watch until killed, which leaves the last watcher to its client."""
        while True:
            self._begin()
            if self._stays:
                return
            gevent.sleep(self._chance.uniform(1, 10))
            self._end()
            gevent.sleep(self._chance.uniform(0, 2))

    def _begin(self) -> None:
        self._count += 1
        name = f'{self.name}#{self._count}'
        self.watcher = self._client.on_change(
            self.key,
            lambda result: self._on_change(name, result),
            on_resync=lambda watcher: self._history.add(Resync(name, self._history.now(), watcher.index)),
        )
        self.is_watching = True
        self._history.add(Watched(name, self._history.now(), self.key, self._ground.era, self.watcher.index))

    def _end(self) -> None:
        assert self.watcher is not None
        self.is_watching = False
        self._history.add(Unwatched(f'{self.name}#{self._count}', self._history.now()))
        self.watcher.stop()

    def _on_change(self, name: str, result: getc.EtcdResult) -> None:
        if result.key == self.end:
            self.has_seen_end = True
        self._history.add(
            Seen(
                name,
                self._history.now(),
                result.key,
                result.value,
                result.modified_index,
                type(result).__name__,
                result.resync,
                result.etcd_index if result.resync else None,
            )
        )
        if self.stalls and self._chance.random() < 0.002:
            gevent.sleep(self._chance.uniform(1, 12))


class Reader:
    """Has a mirror of the pairs, and looks whether one is ever there by half.

    Args:
        client: The client.

    Attributes:
        mirror: The mirror; None before it has started.
        looks: How often it was looked at.
        seen_by_half: What was seen that must not be.
    """

    def __init__(self, client: getc.Client) -> None:
        self.mirror: getc.Mirror | None = None
        self.looks = 0
        self.seen_by_half: list[str] = []
        self._client = client

    def run(self) -> None:
        """Look until killed, which leaves the mirror to its client."""
        self.mirror = self._client.mirror(PAIRS, timeout=None)
        while True:
            self.looks += 1
            self.seen_by_half += halves(dict(self.mirror))
            gevent.sleep(LOOK)


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
