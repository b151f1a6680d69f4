"""The schedule of faults, which is determined by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.faults.cluster import CLIENTS, MEMBERS

__all__ = ['FAULT_KINDS', 'PlannedFault', 'make_schedule']


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault.

    Attributes:
        weight: How often it occurs in a shuffled deck of kinds.
        min_seconds: Minimal duration.
        max_seconds: Maximal duration.
        preceded_by: A fault that is injected first, earlier by the duration; None for none.
    """

    weight: int
    min_seconds: float = 0.0
    max_seconds: float = 0.0
    preceded_by: str | None = None


FAULT_KINDS: Final[dict[str, FaultKind]] = {
    'kill': FaultKind(2, 0.2, 6),
    'restart': FaultKind(1),
    'pause': FaultKind(2, 0.5, 8),
    'outage': FaultKind(1, 1, 8),
    'isolate': FaultKind(2, 1, 8),
    'replace': FaultKind(1),
    'move leader': FaultKind(2),
    'compaction': FaultKind(3),
    'wipe': FaultKind(1),
    'restore': FaultKind(1, 1, 8, preceded_by='backup'),
    'auth': FaultKind(1, 4, 12),
    'cut': FaultKind(2, 0.2, 8),
    'silence': FaultKind(2, 0.5, 10),
    'half': FaultKind(2, 0.5, 8),
    'delay': FaultKind(1, 2, 10),
    'chop': FaultKind(1, 2, 10),
    'throttle': FaultKind(1, 2, 10),
    'partition': FaultKind(2, 1, 9),
    'hang': FaultKind(1, 25, 28),
    'flap': FaultKind(1, 2, 6),
    'lost replies': FaultKind(2, 0.1, 0.6),
    'revocation': FaultKind(1),
    'removal': FaultKind(1),
}
"""All kinds of faults.  Durations are below and above the TTLs of the workload."""

MEAN_INTERVAL: Final = 1.6
"""Mean seconds between two faults."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault in the schedule.

    Attributes:
        at: Seconds after the start.
        kind: A key of ``FAULT_KINDS``, or the ``preceded_by`` of one.
        duration: Seconds until it is healed.
        member: The index of the member, if it affects one.
        client: The name of the client, if it affects one.
        severity: From 0 to 1, for kinds that have variants.
    """

    at: float
    kind: str
    duration: float
    member: int
    client: str
    severity: float


def make_schedule(seed: int, seconds: float, kinds: Sequence[str] = tuple(FAULT_KINDS)) -> list[PlannedFault]:
    """Return the faults of a run.

    Kinds are drawn from shuffled decks, so that each occurs about as often as its weight says, and none is missing for
    long.
    """
    rng = random.Random(seed)
    faults: list[PlannedFault] = []
    at = rng.uniform(0.5, 1.5)
    for kind in _shuffled_kinds(rng, kinds):
        duration = min(rng.uniform(FAULT_KINDS[kind].min_seconds, FAULT_KINDS[kind].max_seconds), seconds - at)
        if at >= seconds:
            break
        fault = PlannedFault(at, kind, duration, rng.randrange(MEMBERS), rng.choice(CLIENTS), rng.random())
        preceded_by = FAULT_KINDS[kind].preceded_by
        if preceded_by is None:
            faults.append(fault)
        else:
            faults += [replace(fault, kind=preceded_by, duration=0.0), replace(fault, at=at + duration, duration=0.0)]
        at += rng.expovariate(1 / MEAN_INTERVAL)
    return sorted(faults, key=lambda fault: fault.at)


def _shuffled_kinds(rng: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    while True:
        deck = [kind for kind in kinds for _ in range(FAULT_KINDS[kind].weight)]
        rng.shuffle(deck)
        yield from deck
