"""Compares the changes that the demo expects with the changes that its processes observe."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

__all__ = ['TOPICS', 'Change', 'Expectations', 'Row']

TOPICS: Final = {
    'joined': 'a server joined',
    'expired': 'a server expired',
    'left': 'a server left',
    'lost': 'a server lost its node',
    'restored': 'a server registered again',
    'resync': 'the lobby resynced',
    'rate': 'a server received /cfg/rate',
}
"""Kinds of change, with their titles in the table.  The demo has to show each of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change as one process observes it.

    Attributes:
        by: The observing process.
        of: What changed: a server or a key.
        topic: One of ``TOPICS``.
        value: The new value, if it has one.
    """

    by: str
    of: str
    topic: str
    value: str = ''

    def __str__(self) -> str:
        return f'{self.by}: {self.of} {self.topic}{self.value and " "}{self.value}'


@dataclass(frozen=True, slots=True)
class Row:
    """The totals of one topic."""

    title: str
    expected: int
    observed: int
    missing: int


class Expectations:
    """Records expected and observed changes, in order.

    They match if they are equal: no change missing, unexpected, duplicated or out of order; and each topic was
    expected at least once.

    A server that reports the loss of its node outside the planned outage is on a machine so busy that it missed its
    renewals.  What follows from that loss is correct behavior and not a fault; see :meth:`unplanned_losses`.
    """

    def __init__(self) -> None:
        self.expected: list[Change] = []
        self.observed: list[Change] = []

    def expect(self, *changes: Change) -> None:
        """Record changes that are going to happen."""
        self.expected += changes

    def observe(self, change: Change) -> None:
        """Record a change that a process has observed."""
        self.observed.append(change)

    def missing(self) -> list[Change]:
        """Return the expected changes that were not observed yet."""
        return list((Counter(self.expected) - Counter(self.observed)).elements())

    def unexpected(self) -> list[Change]:
        """Return the observed changes that were neither expected nor follow from an unplanned loss."""
        return list((self._surplus() - self._unplanned_changes()).elements())

    def unplanned_losses(self) -> Counter[str]:
        """Return how often each server reported the loss of its node without an outage, by its name."""
        return Counter(change.by for change in self._surplus().elements() if change.topic == 'lost')

    def rows(self) -> list[Row]:
        """Return the totals of each topic."""
        expected, observed, missing = (
            Counter(change.topic for change in changes) for changes in (self.expected, self.observed, self.missing())
        )
        return [Row(title, expected[topic], observed[topic], missing[topic]) for topic, title in TOPICS.items()]

    def faults(self) -> list[str]:
        """Return what is wrong, one line each; empty if all expectations are met."""
        faults = [f'not observed: {change}' for change in self.missing()]
        faults += [f'observed, but not expected: {change}' for change in self.unexpected()]
        if not faults:
            unplanned = {(change.by, change.of) for change in self._unplanned_changes()}
            expected, observed = _streams(self.expected), _streams(self.observed)
            faults += [
                f'observed in another order: {by}: {of}'
                for by, of in observed
                if (by, of) not in unplanned and observed[by, of] != expected[by, of]
            ]
        shown = {change.topic for change in self.expected}
        return faults + [f'never shown: {title}' for topic, title in TOPICS.items() if topic not in shown]

    def _surplus(self) -> Counter[Change]:
        return Counter(self.observed) - Counter(self.expected)

    def _unplanned_changes(self) -> Counter[Change]:
        """The changes that may follow from unplanned losses, each as often as it may occur."""
        changes: Counter[Change] = Counter()
        for name, count in self.unplanned_losses().items():
            for topic in ('lost', 'restored'):
                changes[Change(name, '/servers', topic)] += count
            for topic in ('expired', 'left', 'joined'):
                changes[Change('lobby', name, topic)] += count
        return changes


def _streams(changes: list[Change]) -> dict[tuple[str, str], list[Change]]:
    """Group changes by observer and subject: only changes of one group have a defined order."""
    streams: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        streams.setdefault((change.by, change.of), []).append(change)
    return streams
