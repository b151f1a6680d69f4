"""A zone server, which registers itself and runs its share of the shards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import gevent
from gevent.event import Event

import getc
from examples.zones.settings import Settings
from examples.zones.shard import Shard
from examples.zones.sharing import assign_shards

__all__ = ['SHARDS', 'Zone']

log = logging.getLogger('zones')

SHARDS: Final = ('canyon', 'desert', 'forest', 'harbour', 'lake', 'tundra')
"""The names of all shards."""


class Zone:
    """A zone server.

    Args:
        etcd: The client.
        name: The name of the zone; its node is ``/zones/NAME``.
        ttl: Seconds until other zones take its shards after a crash.
        all_shards: The names of all shards.

    Attributes:
        shards: The shards that it runs or wants to claim, by name.
        settings: The configuration.
    """

    def __init__(self, etcd: getc.Client, name: str, *, ttl: int = 10, all_shards: Sequence[str] = SHARDS) -> None:
        self.name = name
        self.shards: dict[str, Shard] = {}
        self._etcd = etcd
        self._ttl = ttl
        self._all_shards = all_shards
        self._presence: getc.Keeper | None = None
        self._is_stopping = False
        self._changed = Event()
        # These block until etcd responds, and follow all changes from then on.
        self.settings = Settings(etcd, self._changed.set)
        self._zones = etcd.mirror('/zones', on_update=lambda changes: self._changed.set(), timeout=None)
        self._players = etcd.mirror('/players', timeout=None)

    @property
    def is_draining(self) -> bool:
        """True while it has to release its shards: it is stopping, or an operator has set ``/cfg/drain/NAME``."""
        return self._is_stopping or self.name in self.settings.drained

    def run(self) -> None:
        """Run until :meth:`stop` is called and every shard is released.  Blocks."""
        while True:
            self._changed.clear()
            self._register()
            self._take_share()
            if self._is_stopping:
                break
            self._changed.wait()
        log.info('%s: has drained and stops', self.name)

    def stop(self) -> None:
        """Let :meth:`run` drain and return.  Does not block."""
        self._is_stopping = True
        self._changed.set()

    def _register(self) -> None:
        """Keep a node in ``/zones`` unless the zone drains."""
        if self.is_draining and self._presence is not None:
            log.info('%s: drains', self.name)
            self._presence.stop()
            self._presence = None
        elif not self.is_draining and self._presence is None:
            self._presence = self._etcd.keep_node(
                f'/zones/{self.name}',
                ttl=self._ttl,
                alive=self._is_healthy,
                wait=False,
            )

    def _take_share(self) -> None:
        """Claim the shards that are new in the share, and release those that are no longer in it."""
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
        gevent.joinall([gevent.spawn(shard.release) for shard in leaving], raise_error=True)

    def _share(self) -> set[str]:
        present = [key.removeprefix('/zones/') for key in self._zones]
        return {shard for shard, zone in assign_shards(self._all_shards, present).items() if zone == self.name}

    def _is_healthy(self) -> bool:
        """Return False to be removed from ``/zones``, so that other zones take the shards."""
        return all(shard.is_running for shard in self.shards.values())
