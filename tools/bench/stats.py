"""The arithmetic: from rates by round to medians, ratios, and how far they are spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.bench.registry import Contestant

__all__ = ['Figure', 'Rates', 'Sample', 'Samples', 'Spread', 'figures_of', 'ratios', 'spread_of']


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice of one contestant.

    Attributes:
        rate: Operations or events a second.
        cpu: Seconds of the client's CPU for each of them; None where it is not known.
    """

    rate: float
    cpu: float | None = None


Samples = Sequence[Sample | None]
"""One a round; None where the contestant failed."""

Rates = Sequence[float | None]
"""The same of one of its attributes."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure that was measured several times.

    Attributes:
        median: Half of the rounds had less.
        low: A quarter had less.
        high: A quarter had more.
    """

    median: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half the distance of the quarters, as a part of the median: 0.05 is 5 % up or down."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def spread_of(values: Rates) -> Spread | None:
    """The median and the quarters of what was measured; None if nothing was."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) == 1:
        return Spread(known[0], known[0], known[0])
    low, median, high = statistics.quantiles(known, n=4, method='inclusive')
    return Spread(median, low, high)


def ratios(ours: Rates, theirs: Rates) -> list[float | None]:
    """The ratio in each round in which both were measured."""
    return [our / their if our is not None and their else None for our, their in zip(ours, theirs, strict=False)]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one contestant reached in one case.

    Attributes:
        contestant: Who.
        rate: Operations or events a second.
        cpu: Seconds of the client's CPU for each; None where it is not known.
        to_peer: Times the fastest peer of the same API; None where there is none.
        to_limit: Times the limit of the same API; None where there is none, and for the limit itself.
    """

    contestant: Contestant
    rate: Spread
    cpu: Spread | None = None
    to_peer: Spread | None = None
    to_limit: Spread | None = None


def figures_of(samples: Mapping[Contestant, Samples]) -> list[Figure]:
    """The figures of one case and one API, the fastest first."""
    rates = {one: [sample and sample.rate for sample in of_one] for one, of_one in samples.items()}
    spreads = {one: spread for one, of_one in rates.items() if (spread := spread_of(of_one)) is not None}
    peer, limit = (_fastest(spreads, role) for role in ('peer', 'limit'))
    found = []
    for one, spread in spreads.items():
        is_limit = one.role == 'limit'
        found.append(
            Figure(
                one,
                spread,
                cpu=spread_of([sample and sample.cpu for sample in samples[one]]),
                to_peer=None if peer is None or is_limit else spread_of(ratios(rates[one], rates[peer])),
                to_limit=None if limit is None or is_limit else spread_of(ratios(rates[one], rates[limit])),
            )
        )
    return sorted(found, key=lambda figure: -figure.rate.median)


def _fastest(spreads: Mapping[Contestant, Spread], role: str) -> Contestant | None:
    of_role = [one for one in spreads if one.role == role]
    return max(of_role, key=lambda one: spreads[one].median, default=None)
