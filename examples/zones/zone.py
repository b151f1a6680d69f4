"""A zone server: it registers, and runs its share of the shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import gevent
from gevent.event import Event

import getc
from examples.zones.settings import Settings
from examples.zones.shard import Shard
from examples.zones.sharing import shares

__all__ = ['SHARDS', 'Zone']

log = logging.getLogger('zones')

SHARDS: Final = ('canyon', 'desert', 'forest', 'harbour', 'lake', 'tundra')
"""The parts of the world."""


class Zone:
    """A zone server.

    Args:
        etcd: Its client.
        name: What it is called: its node is ``/zones/NAME``.
        ttl: Seconds after which the others have its shards if it dies.
        all_shards: The shards that there are.

    Attributes:
        shards: Those that it runs, or waits for.
        settings: The configuration.
    """

    def __init__(self, etcd: getc.Client, name: str, *, ttl: int = 10, all_shards: Sequence[str] = SHARDS) -> None:
        self.name = name
        self.shards: dict[str, Shard] = {}
        self._etcd = etcd
        self._ttl = ttl
        self._all_shards = all_shards
        self._presence: getc.Keeper | None = None
        self._is_ending = False
        self._news = Event()
        # Both block until etcd answers, and from then on follow by themselves.
        self.settings = Settings(etcd, self._news.set)
        self._zones = etcd.mirror('/zones', on_update=lambda changes: self._news.set(), timeout=None)
        self._players = etcd.mirror('/players', timeout=None)

    @property
    def is_draining(self) -> bool:
        """True while it is to give its shards away: it is ending, or an operator has set ``/cfg/drain/NAME``."""
        return self._is_ending or self.name in self.settings.drained

    def run(self) -> None:
        """Serve until :meth:`end`; return when every shard is given back.  Blocks."""
        while True:
            self._news.clear()
            self._register()
            self._take_share()
            if self._is_ending:
                break
            self._news.wait()
        log.info('%s: has drained and ends', self.name)

    def end(self) -> None:
        """Have :meth:`run` drain and return.  Does not block."""
        self._is_ending = True
        self._news.set()

    def _register(self) -> None:
        """Be in ``/zones`` while we take shards."""
        if self.is_draining and self._presence is not None:
            log.info('%s: drains', self.name)
            self._presence.stop()
            self._presence = None
        elif not self.is_draining and self._presence is None:
            self._presence = self._etcd.keep_node(
                f'/zones/{self.name}',
                ttl=self._ttl,
                alive=self._is_well,
                wait=False,
            )

    def _take_share(self) -> None:
        """Begin with the shards that are new in our share, and give back those that are not in it now."""
        wanted = set() if self.is_draining else self._share()
        for name in sorted(wanted - self.shards.keys()):
            self.shards[name] = Shard(
                self._etcd,
                name,
                self.name,
                ttl=self._ttl,
                settings=self.settings,
                players=self._players,
            )
        leaving = [self.shards.pop(name) for name in sorted(self.shards.keys() - wanted)]
        gevent.joinall([gevent.spawn(shard.give_back) for shard in leaving], raise_error=True)

    def _share(self) -> set[str]:
        present = [key.removeprefix('/zones/') for key in self._zones]
        return {shard for shard, zone in shares(self._all_shards, present).items() if zone == self.name}

    def _is_well(self) -> bool:
        """False takes us out of ``/zones``, so our shards go to others."""
        return all(shard.is_running for shard in self.shards.values())
