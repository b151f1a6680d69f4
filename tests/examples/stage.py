"""A world of zones for a test: they are started, ended and killed, and every write is looked at."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import gevent

import getc
from examples.zones.matchmaker import Matchmaker
from examples.zones.zone import SHARDS, Zone
from tests.examples.audit import Audit

__all__ = ['SHARDS', 'Stage', 'is_sure']


class Stage:
    """Zones that run in this process, a matchmaker, and an audit.

    Also a context manager: leaving it drains the zones and closes all clients.

    Args:
        url: How the matchmaker and the audit reach etcd.
        ttl: That of the zones.
        now: The time, for the audit.
    """

    def __init__(self, url: str, *, ttl: int = 10, now: Callable[[], float] = lambda: 0.0) -> None:
        self._url = url
        self._ttl = ttl
        self._clients = ExitStack()
        self.zones: dict[str, Zone] = {}
        self.serving: dict[str, gevent.Greenlet] = {}
        self.etcd = self._connect(url)
        self.audit = Audit(self.etcd, now)
        self.matchmaker = Matchmaker(self.etcd)

    def start(self, *names: str, url: str | None = None) -> None:
        """Start zones, which reach etcd by the URL; the stage's, if none is given."""
        for name in names:
            zone = self.zones[name] = Zone(self._connect(url or self._url), name, ttl=self._ttl)
            self.serving[name] = gevent.spawn(zone.run)

    def end(self, name: str) -> None:
        """Have a zone drain, and wait until it has."""
        self.zones.pop(name).end()
        self.serving.pop(name).get()

    def seat(self, *players: str) -> dict[str, str]:
        """Seat players, and say where each one is."""
        return {player: self.matchmaker.seat(player) for player in players}

    def acting(self, shard: str) -> list[str]:
        """The zones that would write the shard now: those whose ``ensure`` does not raise."""
        return [name for name, zone in self.zones.items() if shard in zone.shards and is_sure(zone.shards[shard].claim)]

    def steps(self) -> dict[str, int]:
        """How old each shard is."""
        return {shard: world.steps for shard, world in self.audit.worlds.items()}

    def gold(self) -> dict[str, int]:
        """What each player has."""
        return {player: gold for world in self.audit.worlds.values() for player, gold in world.gold.items()}

    def close(self) -> None:
        for zone in self.zones.values():
            zone.end()
        gevent.joinall(list(self.serving.values()))
        self._clients.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, url: str) -> getc.Client:
        return self._clients.enter_context(getc.etcd(url))


def is_sure(claim: getc.Keeper) -> bool:
    try:
        claim.ensure()
    except getc.NodeLost:
        return False
    return True
