"""Follows all that the zones of the example write, and notes what must not be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import getc

__all__ = ['Audit']


@dataclass(frozen=True, slots=True)
class Written:
    """What a zone wrote of a shard."""

    token: int
    zone: str
    steps: int
    gold: dict[str, int]


class Audit:
    """Looks at each change of the store, in order.

    Args:
        etcd: A client that sees all.
        now: The time, for how long shards were without an owner.

    Attributes:
        faults: What must not be: a write by who is not the latest owner, a step twice or left out, gold that is gone.
        orphaned: Writes of a shard that nobody owned at that moment; its last owner's may be there where the claim
            was deleted by force.
        writes: How many there were, by zone.
        worlds: The last one of each shard.
        claims: Who owns each shard, and with which token.
        gaps: Seconds for which a shard had no owner, each time.
    """

    def __init__(self, etcd: getc.Client, now: Callable[[], float] = lambda: 0.0) -> None:
        self.faults: list[str] = []
        self.orphaned: list[str] = []
        self.writes: Counter[str] = Counter()
        self.worlds: dict[str, Written] = {}
        self.claims: dict[str, tuple[str, int]] = {}
        self.gaps: list[float] = []
        self.story: list[str] = []
        self._now = now
        self._free_since: dict[str, float] = {}
        etcd.on_change('/', self._look, initial=True)

    def owners(self) -> dict[str, str]:
        """Who owns each shard, as etcd has it."""
        return {shard: zone for shard, (zone, _) in self.claims.items()}

    def _look(self, result: getc.EtcdResult) -> None:
        self.story.append(f'{self._now():.3f} {type(result).__name__} {result.key} {result.value}')
        match result.key.split('/')[1:]:
            case ['claims', shard]:
                self._look_at_claim(shard, result)
            case ['worlds', shard] if isinstance(result.node, getc.Value):
                self._look_at_world(shard, Written(**result.node.json()))
            case ['worlds', shard]:
                self.worlds.pop(shard, None)  # the store was wiped

    def _look_at_claim(self, shard: str, result: getc.EtcdResult) -> None:
        if isinstance(result.node, getc.Value):
            # Its owner writes it again where its lease was lost and the node was not: with a new token.
            owner = self.claims.get(shard, (result.node.value, 0))[0]
            if owner != result.node.value and not result.resync:
                self.faults.append(f'{shard} was taken from {self.claims[shard]} by {result.node}')
            self.claims[shard] = (result.node.value, result.node.modified_index)
            if shard in self._free_since:
                self.gaps.append(self._now() - self._free_since.pop(shard))
        elif self.claims.pop(shard, None) is not None:
            self._free_since[shard] = self._now()

    def _look_at_world(self, shard: str, new: Written) -> None:
        self.writes[new.zone] += 1
        owner = self.claims.get(shard)
        if owner is None:
            self.orphaned.append(f'nobody owns {shard}, and it was written: {new}')
        elif owner != (new.zone, new.token):
            self.faults.append(f'{shard} belongs to {owner}, and was written: {new}')
        old = self.worlds.get(shard)
        self.worlds[shard] = new
        if old is None:
            return
        # Whoever takes a shard over writes it once as it was; a token never goes back.
        steps = new.steps - old.steps
        if new.token < old.token or steps not in (0, 1) or (steps == 1 and new.zone != old.zone):
            self.faults.append(f'{shard} went from {old} to {new}')
        self.faults += [
            f'{who} lost gold in {shard}: {old} {new}' for who in old.gold if new.gold.get(who, 0) < old.gold[who]
        ]
