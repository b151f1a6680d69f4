"""Zones for tests: started, stopped and killed, with a check of every write."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import gevent

import getc
from examples.zones.matchmaker import Matchmaker
from examples.zones.zone import SHARDS, Zone
from tests.examples.audit import Audit

__all__ = ['SHARDS', 'ZoneWorld', 'is_owner']


class ZoneWorld:
    """Zones that run in this process, a matchmaker, and an audit.

    Also a context manager, which drains the zones and closes all clients at its end.

    Args:
        url: The URL of the etcd for the matchmaker and the audit.
        ttl: The TTL of the zones.
        now: Returns the time, for the audit.
    """

    def __init__(self, url: str, *, ttl: int = 10, now: Callable[[], float] = lambda: 0.0) -> None:
        self._url = url
        self._ttl = ttl
        self._clients = ExitStack()
        self.zones: dict[str, Zone] = {}
        self.greenlets: dict[str, gevent.Greenlet] = {}
        self.etcd = self._connect(url)
        self.audit = Audit(self.etcd, now)
        self.matchmaker = Matchmaker(self.etcd)

    def start(self, *names: str, url: str | None = None) -> None:
        """Start zones that connect to this URL; None for that of the matchmaker."""
        for name in names:
            zone = self.zones[name] = Zone(self._connect(url or self._url), name, ttl=self._ttl)
            self.greenlets[name] = gevent.spawn(zone.run)

    def stop(self, name: str) -> None:
        """Stop a zone, and wait until it has drained."""
        self.zones.pop(name).stop()
        self.greenlets.pop(name).get()

    def seat(self, *players: str) -> dict[str, str]:
        """Seat players, and return the shard of each one."""
        return {player: self.matchmaker.seat(player) for player in players}

    def owners_of(self, shard: str) -> list[str]:
        """Return the zones that would write the shard now: those whose ``ensure`` does not raise."""
        return [
            name for name, zone in self.zones.items() if shard in zone.shards and is_owner(zone.shards[shard].claim)
        ]

    def steps(self) -> dict[str, int]:
        """Return the number of steps of each shard."""
        return {shard: world.steps for shard, world in self.audit.worlds.items()}

    def gold(self) -> dict[str, int]:
        """Return the gold of each player."""
        return {player: gold for world in self.audit.worlds.values() for player, gold in world.gold.items()}

    def close(self) -> None:
        for zone in self.zones.values():
            zone.stop()
        gevent.joinall(list(self.greenlets.values()))
        self._clients.close()

    def __enter__(self) -> ZoneWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self, url: str) -> getc.Client:
        return self._clients.enter_context(getc.etcd(url))


def is_owner(claim: getc.Keeper) -> bool:
    try:
        claim.ensure()
    except getc.NodeLost:
        return False
    return True
