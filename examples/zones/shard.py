"""A shard in the hands of a zone server."""

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
    """Waits until the shard is ours, and runs it for as long as it is: not a step longer.

    Args:
        etcd: The client of the zone.
        name: The name of the shard.
        zone: The name of the zone.
        ttl: Seconds after which the shard goes to another zone if this one dies.
        settings: Tells how long a step takes.
        players: Where each player is: ``/players/ann`` to ``forest``.
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
            on_conflict='wait',  # as soon as nobody else has it
            wait=False,  # but we do not wait here
        )
        self._settings = settings
        self._players = players
        self._record = Record(etcd, name, self.claim)
        self._world: World | None = None  # None: we do not know
        self._ending = Event()
        self._running = gevent.spawn(self._run)

    @property
    def is_running(self) -> bool:
        """False once a mistake in the code has ended it."""
        return not self._running.dead

    def give_back(self) -> None:
        """End it after the step that is under way, and let another zone have it.  Blocks."""
        self._ending.set()
        self._running.join()
        self.claim.stop()  # deletes the claim, so who waits for it need not wait for its TTL

    def _run(self) -> None:
        while not self._ending.wait(self._settings.step):
            try:
                self._step()
            except getc.EtcException as error:  # NodeLost, mostly: it is not ours now
                self._stop(error)

    def _stop(self, error: getc.EtcException) -> None:
        """Forget what we know: others may write now, or our own step may be written after all."""
        if self._world is not None:
            log.warning('%s: stops %s: %s', self.claim.value, self.name, error)
        self._world = None

    def _step(self) -> None:
        if self._world is None:
            self._world = self._record.open()
            log.info('%s: runs %s from %d on', self.claim.value, self.name, self._world.steps)
        world = self._world.stepped(self._players_here())
        self._record.save(world)
        self._world = world

    def _players_here(self) -> list[str]:
        return [key.removeprefix('/players/') for key, shard in self._players.items() if shard == self.name]
