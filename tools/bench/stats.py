"""Statistics: medians, quartiles and ratios of the rates of all rounds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.bench.registry import BenchClient

__all__ = ['Figure', 'Rates', 'Sample', 'Samples', 'Spread', 'compute_figures', 'compute_spread', 'ratios']


@dataclass(frozen=True, slots=True)
class Sample:
    """One slice of one client.

    Attributes:
        rate: Operations or events a second.
        cpu: CPU seconds of the client for each of them; None if not known.
        p50: The median of the seconds of an operation; None if not known.
        p99: The 99th percentile of them; None if not known.
    """

    rate: float
    cpu: float | None = None
    p50: float | None = None
    p99: float | None = None


Samples = Sequence[Sample | None]
"""One sample a round; None if the client failed."""

Rates = Sequence[float | None]
"""One rate, or another attribute of the samples, a round; None if not known."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The median and the quartiles of a repeated measurement.

    Attributes:
        median: The median.
        low: The first quartile.
        high: The third quartile.
    """

    median: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Half the interquartile range relative to the median: 0.05 is 5 % up or down."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def compute_spread(values: Rates) -> Spread | None:
    """Return the median and the quartiles of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) == 1:
        return Spread(known[0], known[0], known[0])
    low, median, high = statistics.quantiles(known, n=4, method='inclusive')
    return Spread(median, low, high)


def ratios(ours: Rates, theirs: Rates) -> list[float | None]:
    """Return the ratio in each round; None if one of the two is not known."""
    return [our / their if our is not None and their else None for our, their in zip(ours, theirs, strict=False)]


@dataclass(frozen=True, slots=True)
class Figure:
    """The result of one client in one case.

    Attributes:
        client: The client.
        rate: Operations or events a second.
        cpu: CPU seconds of the client for each of them; None if not known.
        to_peer: Ratio to the fastest peer of the same API; None if there is no peer.
        to_limit: Ratio to the limit of the same API; None for the limit itself and if there is none.
        p50: The median of the seconds of an operation in each round; None if not known.
        p99: The 99th percentile of them; None if not known.
        to_commit: Ratio to the same client with the getc of another commit; None if that is not measured.
        cpu_to_commit: The same ratio of the CPU seconds for each operation.
    """

    client: BenchClient
    rate: Spread
    cpu: Spread | None = None
    to_peer: Spread | None = None
    to_limit: Spread | None = None
    p50: Spread | None = None
    p99: Spread | None = None
    to_commit: Spread | None = None
    cpu_to_commit: Spread | None = None


def compute_figures(samples: Mapping[BenchClient, Samples]) -> list[Figure]:
    """Compute the figures of one case and one API, fastest first."""
    rates = {one: _column(of_one, 'rate') for one, of_one in samples.items()}
    spreads = {one: spread for one, of_one in rates.items() if (spread := compute_spread(of_one)) is not None}
    peer, limit = (_fastest(spreads, role) for role in ('peer', 'limit'))
    found = []
    for one, spread in spreads.items():
        is_limit = one.role == 'limit'
        before = _before(one, spreads)
        cpu = _column(samples[one], 'cpu')
        found.append(
            Figure(
                one,
                spread,
                cpu=compute_spread(cpu),
                p50=compute_spread(_column(samples[one], 'p50')),
                p99=compute_spread(_column(samples[one], 'p99')),
                to_commit=None if before is None else compute_spread(ratios(rates[one], rates[before])),
                cpu_to_commit=None if before is None else compute_spread(ratios(cpu, _column(samples[before], 'cpu'))),
                to_peer=None if peer is None or is_limit else compute_spread(ratios(rates[one], rates[peer])),
                to_limit=None if limit is None or is_limit else compute_spread(ratios(rates[one], rates[limit])),
            )
        )
    return sorted(found, key=lambda figure: -figure.rate.median)


def _column(samples: Samples, name: str) -> list[float | None]:
    return [None if sample is None else getattr(sample, name) for sample in samples]


def _before(one: BenchClient, spreads: Mapping[BenchClient, Spread]) -> BenchClient | None:
    """Return the same client with the getc of another commit."""
    if one.commit:
        return None
    return next((other for other in spreads if other.commit and (other.path, other.mode) == (one.path, one.mode)), None)


def _fastest(spreads: Mapping[BenchClient, Spread], role: str) -> BenchClient | None:
    of_role = [one for one in spreads if one.role == role]
    return max(of_role, key=lambda one: spreads[one].median, default=None)
