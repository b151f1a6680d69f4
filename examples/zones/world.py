"""The state of a shard, and its record in etcd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import getc

__all__ = ['Record', 'World']


@dataclass(frozen=True, slots=True)
class World:
    """The state of a shard, with everything that another zone needs to continue it.

    Attributes:
        steps: The number of steps so far.
        gold: The gold of each player, including players who have left and may come back.
    """

    steps: int = 0
    gold: Mapping[str, int] = field(default_factory=dict)

    def after_step(self, players: Iterable[str]) -> World:
        """Return the state after one more step, in which each of the players finds a piece of gold."""
        found = {player: self.gold.get(player, 0) + 1 for player in players}
        return World(self.steps + 1, {**self.gold, **found})


class Record:
    """The record of a shard's state in etcd, which only the owner of the shard can write.

    Two checks guarantee that.  ``ensure()`` is called before each write, and raises if this zone may not own the shard
    any more.  And each write has the index of the previous write as a condition (``prev_index``): etcd refuses a write
    that was sent in time, but arrives after the next owner has written.  The record contains the fencing token, so it
    never returns to an earlier owner.

    Args:
        etcd: The client.
        shard: The name of the shard.
        claim: The keeper of the claim.
    """

    def __init__(self, etcd: getc.Client, shard: str, claim: getc.Keeper) -> None:
        self._etcd = etcd
        self._key = f'/worlds/{shard}'
        self._claim = claim
        self._index = 0

    def take_over(self) -> World:
        """Take over the record from the previous owner, whose writes fail from now on, and return the state.

        Raises:
            NodeLost: This zone does not own the shard.
            EtcException: A request failed; try again later.
        """
        token = self._claim.ensure()
        try:
            found = self._etcd.get(self._key, quorum=True)
        except getc.KeyNotFound:
            return self._create(World())
        written = json.loads(found.value or '')
        if written['token'] > token:
            raise getc.NodeLost(f'{self._key} has token {written["token"]}, which is newer than token {token}')
        world, self._index = World(written['steps'], written['gold']), found.modified_index
        self.save(world)
        return world

    def save(self, world: World) -> None:
        """Write the state.

        Raises:
            NodeLost: This zone does not own the shard; nothing was written.
            TestFailed, KeyNotFound: Another zone has written or deleted the record; nothing was written.
            ConnectionError: No reply; the write may have been applied.  Call :meth:`take_over`.
        """
        text = self._text(self._claim.ensure(), world)
        written = self._etcd.update(
            self._key,
            text,
            prev_index=self._index,
            timeout=self._claim.remaining(),  # a later reply is of no use
        )
        self._index = written.modified_index

    def _create(self, world: World) -> World:
        text = self._text(self._claim.ensure(), world)
        self._index = self._etcd.create(self._key, text, timeout=self._claim.remaining()).modified_index
        return world

    def _text(self, token: int, world: World) -> str:
        return json.dumps({'token': token, 'zone': self._claim.value, 'steps': world.steps, 'gold': dict(world.gold)})
