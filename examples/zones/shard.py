"""A shard that a zone server runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import gevent
from gevent.event import Event

import getc
from examples.zones.settings import Settings
from examples.zones.world import Record, World

__all__ = ['Shard']

log = logging.getLogger('zones')


class Shard:
    """Claims a shard, and runs it while this zone owns the claim: no step is written afterwards.

    Args:
        etcd: The client of the zone.
        name: The name of the shard.
        zone: The name of the zone.
        ttl: Seconds until another zone can claim the shard after a crash of this one.
        settings: Contains the time between two steps.
        players: The shards of the players, as ``/players/ann`` to ``forest``.
    """

    def __init__(
        self,
        etcd: getc.Client,
        name: str,
        zone: str,
        *,
        ttl: int,
        settings: Settings,
        players: Mapping[str, str],
    ) -> None:
        self.name = name
        self.claim = etcd.keep_node(
            f'/claims/{name}',
            zone,
            ttl=ttl,
            on_conflict='wait',  # while another zone owns the claim
            wait=False,  # return at once
        )
        self._settings = settings
        self._players = players
        self._record = Record(etcd, name, self.claim)
        self._world: World | None = None  # None: unknown, has to be read
        self._stopping = Event()
        self._greenlet = gevent.spawn(self._run)

    @property
    def is_running(self) -> bool:
        """False if an unexpected exception has ended the loop."""
        return not self._greenlet.dead

    def release(self) -> None:
        """Finish the current step, and release the claim to another zone.  Blocks."""
        self._stopping.set()
        self._greenlet.join()
        self.claim.stop()  # deletes the claim, so that other zones need not wait for its TTL

    def _run(self) -> None:
        while not self._stopping.wait(self._settings.step):
            try:
                self._step()
            except getc.EtcException as error:  # mostly NodeLost: this zone does not own the claim
                self._reset(error)

    def _reset(self, error: getc.EtcException) -> None:
        """Drop the known state: another zone may write now, or the failed write may have been applied."""
        if self._world is not None:
            log.warning('%s: stops %s: %s', self.claim.value, self.name, error)
        self._world = None

    def _step(self) -> None:
        if self._world is None:
            self._world = self._record.take_over()
            log.info('%s: runs %s from %d on', self.claim.value, self.name, self._world.steps)
        world = self._world.after_step(self._own_players())
        self._record.save(world)
        self._world = world

    def _own_players(self) -> list[str]:
        return [key.removeprefix('/players/') for key, shard in self._players.items() if shard == self.name]
