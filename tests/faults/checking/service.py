"""Service: when a quorum served a client, by which of its ways, as its probes say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.history import History, Probe

__all__ = ['Service']

QUICK: Final = 0.4
"""Seconds within which a probe that counts as served is answered."""

PAUSE: Final = 1.0
"""Seconds between two probes after which it is not known what was between them."""

Stretch = tuple[float, float]


class Service:
    """The stretches of time in which one probe after the other was answered, by client and way."""

    def __init__(self, history: History) -> None:
        probes: dict[str, dict[int, list[Probe]]] = defaultdict(lambda: defaultdict(list))
        for probe in history.of(Probe):
            probes[probe.client][probe.way].append(probe)
        self._stretches = {
            client: {way: list(_stretches(found)) for way, found in ways.items()} for client, ways in probes.items()
        }

    def is_known(self, client: str) -> bool:
        """True if anything is known of a client."""
        return client in self._stretches

    def stretches(self, client: str, begin: float, end: float) -> Iterator[tuple[Stretch, int]]:
        """The stretches of each way within a time, and how many other ways were not all right all along.

        Of a stretch its parts are there, too, in which more of the other ways were.
        """
        ways = self._stretches.get(client, {})
        for way, found in ways.items():
            others = [stretches for other, stretches in ways.items() if other != way]
            edges = [edge for stretches in others for stretch in stretches for edge in stretch]
            for began, ended in found:
                lower, upper = max(began, begin), min(ended, end)
                if lower >= upper:
                    continue
                inside = [edge for edge in edges if lower < edge < upper]
                for start in (lower, *inside):
                    for stop in (upper, *inside):
                        if start < stop:
                            yield (start, stop), sum(not _covers(stretches, start, stop) for stretches in others)


def _stretches(probes: list[Probe]) -> Iterator[Stretch]:
    began = ended = None
    for probe in sorted(probes, key=lambda probe: probe.began):
        is_served = probe.revision is not None and probe.ended - probe.began <= QUICK
        if began is not None and ended is not None and (not is_served or probe.began - ended > PAUSE):
            yield began, ended
            began = None
        if is_served:
            began, ended = probe.began if began is None else began, probe.ended
    if began is not None and ended is not None:
        yield began, ended


def _covers(stretches: list[Stretch], begin: float, end: float) -> bool:
    return any(began <= begin and end <= ended for began, ended in stretches)
