"""What is broken when: drawn from a seed, so that it can be drawn again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tests.faults.cluster import CLIENTS, MEMBERS

__all__ = ['KINDS', 'Strike', 'drawn']


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        cards: So many of it are in a deck of strikes.
        least: Seconds for which it lasts at least.
        most: Seconds for which it lasts at most.
        preparation: A strike that comes first, and by as many seconds; None if there is none.
    """

    cards: int
    least: float = 0.0
    most: float = 0.0
    preparation: str | None = None


KINDS: Final[dict[str, Kind]] = {
    'kill': Kind(2, 0.2, 6),
    'restart': Kind(1),
    'pause': Kind(2, 0.5, 8),
    'outage': Kind(1, 1, 8),
    'isolate': Kind(2, 1, 8),
    'replace': Kind(1),
    'move leader': Kind(2),
    'compaction': Kind(3),
    'wipe': Kind(1),
    'restore': Kind(1, 1, 8, preparation='backup'),
    'auth': Kind(1, 4, 12),
    'cut': Kind(2, 0.2, 8),
    'silence': Kind(2, 0.5, 10),
    'half': Kind(2, 0.5, 8),
    'delay': Kind(1, 2, 10),
    'chop': Kind(1, 2, 10),
    'throttle': Kind(1, 2, 10),
    'partition': Kind(2, 1, 9),
    'hang': Kind(1, 25, 28),
    'flap': Kind(1, 2, 6),
    'lost replies': Kind(2, 0.1, 0.6),
    'revocation': Kind(1),
    'removal': Kind(1),
}
"""What can be broken, and for how long: some of it for less than a TTL, some for more."""

REST: Final = 1.6
"""Seconds from one strike to the next, on average."""


@dataclass(frozen=True, slots=True)
class Strike:
    """Something is broken.

    Attributes:
        at: Seconds after the beginning.
        kind: One of ``KINDS``, or the preparation of one.
        lasts: Seconds until it is mended.
        member: The index of the member that it is about, if it is about one.
        client: The client, the same.
        force: From 0 to 1, where there is more than one way.
    """

    at: float
    kind: str
    lasts: float
    member: int
    client: str
    force: float


def drawn(seed: int, seconds: float, kinds: Sequence[str] = tuple(KINDS)) -> list[Strike]:
    """The strikes of a run.

    They are dealt from decks, so that each kind comes about as often as it should, and none is left out for long.
    """
    chance = random.Random(seed)
    strikes: list[Strike] = []
    at = chance.uniform(0.5, 1.5)
    for kind in _dealt(chance, kinds):
        lasts = min(chance.uniform(KINDS[kind].least, KINDS[kind].most), seconds - at)
        if at >= seconds:
            break
        strike = Strike(at, kind, lasts, chance.randrange(MEMBERS), chance.choice(CLIENTS), chance.random())
        preparation = KINDS[kind].preparation
        if preparation is None:
            strikes.append(strike)
        else:
            strikes += [replace(strike, kind=preparation, lasts=0.0), replace(strike, at=at + lasts, lasts=0.0)]
        at += chance.expovariate(1 / REST)
    return sorted(strikes, key=lambda strike: strike.at)


def _dealt(chance: random.Random, kinds: Sequence[str]) -> Iterator[str]:
    while True:
        deck = [kind for kind in kinds for _ in range(KINDS[kind].cards)]
        chance.shuffle(deck)
        yield from deck
