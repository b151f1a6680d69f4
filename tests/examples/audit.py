"""Checks everything that the zones of the example write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import getc

__all__ = ['Audit']


@dataclass(frozen=True, slots=True)
class Written:
    """The record of a shard."""

    token: int
    zone: str
    steps: int
    gold: dict[str, int]


class Audit:
    """Checks each change of the store, in order.

    Args:
        etcd: A client without faults.
        now: Returns the time, to measure how long shards had no owner.

    Attributes:
        faults: Violations: a write by a zone that is not the current owner, a repeated or skipped step, lost gold.
        orphaned: Writes to a shard without an owner, which may occur if its claim was deleted by another client.
        writes: The number of writes, by zone.
        worlds: The latest record of each shard.
        claims: The owner of each shard, and its token.
        gaps: The periods in which a shard had no owner, in seconds.
        log: A line for each change.
    """

    def __init__(self, etcd: getc.Client, now: Callable[[], float] = lambda: 0.0) -> None:
        self.faults: list[str] = []
        self.orphaned: list[str] = []
        self.writes: Counter[str] = Counter()
        self.worlds: dict[str, Written] = {}
        self.claims: dict[str, tuple[str, int]] = {}
        self.gaps: list[float] = []
        self.log: list[str] = []
        self._now = now
        self._free_since: dict[str, float] = {}
        etcd.on_change('/', self._look, initial=True)

    def owners(self) -> dict[str, str]:
        """Return the owner of each shard."""
        return {shard: zone for shard, (zone, _) in self.claims.items()}

    def _look(self, result: getc.EtcdResult) -> None:
        self.log.append(f'{self._now():.3f} {type(result).__name__} {result.key} {result.value}')
        match result.key.split('/')[1:]:
            case ['claims', shard]:
                self._look_at_claim(shard, result)
            case ['worlds', shard] if isinstance(result.node, getc.Value):
                self._look_at_world(shard, Written(**result.node.json()))
            case ['worlds', shard]:
                self.worlds.pop(shard, None)  # the store was wiped

    def _look_at_claim(self, shard: str, result: getc.EtcdResult) -> None:
        if isinstance(result.node, getc.Value):
            # An owner that has lost its lease, but not the node, writes it again with a new token.
            owner = self.claims.get(shard, (result.node.value, 0))[0]
            if owner != result.node.value and not result.resync:
                self.faults.append(f'the claim of {shard} by {self.claims[shard]} was replaced by {result.node}')
            self.claims[shard] = (result.node.value, result.node.modified_index)
            if shard in self._free_since:
                self.gaps.append(self._now() - self._free_since.pop(shard))
        elif self.claims.pop(shard, None) is not None:
            self._free_since[shard] = self._now()

    def _look_at_world(self, shard: str, new: Written) -> None:
        self.writes[new.zone] += 1
        owner = self.claims.get(shard)
        if owner is None:
            self.orphaned.append(f'{shard} has no owner, and was written: {new}')
        elif owner != (new.zone, new.token):
            self.faults.append(f'{shard} is owned by {owner}, and was written: {new}')
        old = self.worlds.get(shard)
        self.worlds[shard] = new
        if old is None:
            return
        # A zone that takes over a shard writes the record once unchanged; the token never decreases.
        steps = new.steps - old.steps
        if new.token < old.token or steps not in (0, 1) or (steps == 1 and new.zone != old.zone):
            self.faults.append(f'invalid write of {shard} after {old}: {new}')
        self.faults += [
            f'{player} lost gold in {shard}: {old} {new}'
            for player in old.gold
            if new.gold.get(player, 0) < old.gold[player]
        ]
