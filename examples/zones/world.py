"""How it stands in a shard, and where that is written down."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import getc

__all__ = ['Record', 'World']


@dataclass(frozen=True, slots=True)
class World:
    """All that a zone must know of a shard to go on where another zone has ended.

    Attributes:
        steps: How many steps the shard is old.
        gold: What each player has found, those who have left too: they may come back.
    """

    steps: int = 0
    gold: Mapping[str, int] = field(default_factory=dict)

    def stepped(self, players: Iterable[str]) -> World:
        """The world one step later: each player who is here has found a piece of gold."""
        found = {player: self.gold.get(player, 0) + 1 for player in players}
        return World(self.steps + 1, {**self.gold, **found})


class Record:
    """The world of a shard in etcd, which nobody but the owner of the shard can write.

    Two things see to that.  ``ensure()`` is asked before each write: who does not own the shard for certain does not
    even try.  And each write names the index of the write before (``prev_index``): one that was sent in time and
    arrives late, when the next owner has written, is refused by etcd.  The token stands in the record, so it never
    goes back to an earlier owner.

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

    def open(self) -> World:
        """Take the record over from the owner before, whose writes are refused from now on.

        Raises:
            NodeLost: The shard is not ours.
            EtcException: It was not possible; it may be in a moment.
        """
        token = self._claim.ensure()
        try:
            found = self._etcd.get(self._key, quorum=True)
        except getc.KeyNotFound:
            return self._create(World())
        written = json.loads(found.value or '')
        if written['token'] > token:
            raise getc.NodeLost(f'{self._key} has token {written["token"]}, and ours is {token}')
        world, self._index = World(written['steps'], written['gold']), found.modified_index
        self.save(world)
        return world

    def save(self, world: World) -> None:
        """Write the world.

        Raises:
            NodeLost: The shard is not ours; nothing was written.
            TestFailed, KeyNotFound: Somebody else has written or deleted it; we wrote nothing.
            ConnectionError: No answer: it may have been written.  :meth:`open` tells.
        """
        text = self._text(self._claim.ensure(), world)
        written = self._etcd.update(
            self._key,
            text,
            prev_index=self._index,
            timeout=self._claim.remaining(),  # what is answered later is of no use
        )
        self._index = written.modified_index

    def _create(self, world: World) -> World:
        text = self._text(self._claim.ensure(), world)
        self._index = self._etcd.create(self._key, text, timeout=self._claim.remaining()).modified_index
        return world

    def _text(self, token: int, world: World) -> str:
        return json.dumps({'token': token, 'zone': self._claim.value, 'steps': world.steps, 'gold': dict(world.gold)})
