"""Determines from the probes when a quorum served a client, and through which links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.history import History, Probe

__all__ = ['Service']

MAX_LATENCY: Final = 0.4
"""Maximal seconds of a probe that counts as served."""

MAX_GAP: Final = 1.0
"""Seconds between two probes above which the time between them is unknown."""

Interval = tuple[float, float]


class Service:
    """Intervals in which every probe was answered, by client and link."""

    def __init__(self, history: History) -> None:
        probes: dict[str, dict[int, list[Probe]]] = defaultdict(lambda: defaultdict(list))
        for probe in history.of(Probe):
            probes[probe.client][probe.link].append(probe)
        self._intervals = {
            client: {link: list(_intervals(found)) for link, found in links.items()} for client, links in probes.items()
        }

    def has_probes(self, client: str) -> bool:
        """Return whether the client was probed."""
        return client in self._intervals

    def intervals(self, client: str, begin: float, end: float) -> Iterator[tuple[Interval, int]]:
        """Yield the intervals of each link within a span of time, and the number of other links that were impaired in
        them.

        Parts of an interval in which fewer other links were impaired are included.
        """
        links = self._intervals.get(client, {})
        for link, found in links.items():
            others = [intervals for other, intervals in links.items() if other != link]
            edges = [edge for intervals in others for interval in intervals for edge in interval]
            for began, ended in found:
                lower, upper = max(began, begin), min(ended, end)
                if lower >= upper:
                    continue
                inside = [edge for edge in edges if lower < edge < upper]
                for start in (lower, *inside):
                    for stop in (upper, *inside):
                        if start < stop:
                            yield (start, stop), sum(not _covers(intervals, start, stop) for intervals in others)


def _intervals(probes: list[Probe]) -> Iterator[Interval]:
    began = ended = None
    for probe in sorted(probes, key=lambda probe: probe.began):
        is_served = probe.revision is not None and probe.ended - probe.began <= MAX_LATENCY
        if began is not None and ended is not None and (not is_served or probe.began - ended > MAX_GAP):
            yield began, ended
            began = None
        if is_served:
            began, ended = probe.began if began is None else began, probe.ended
    if began is not None and ended is not None:
        yield began, ended


def _covers(intervals: list[Interval], begin: float, end: float) -> bool:
    return any(began <= begin and end <= ended for began, ended in intervals)
