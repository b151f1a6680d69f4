"""What was announced and what was seen: the demo's verdict."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

__all__ = ['TOPICS', 'Change', 'Ledger', 'Row']

TOPICS: Final = {
    'joined': 'a server joined',
    'expired': 'a server expired',
    'left': 'a server left',
    'lost': 'a server knew that it was lost',
    'restored': 'a server registered again',
    'resync': 'the lobby compared anew',
    'rate': 'a server got a new /cfg/rate',
}
"""What can change, and what the table says of it.  The demo has to show each of them."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change, as one process sees it.

    Attributes:
        by: Who sees it.
        of: What it is a change of.
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
    """What became of one topic."""

    title: str
    announced: int
    seen: int
    lost: int


class Ledger:
    """Keeps what was announced and what was seen, in order.

    It is in order when both are the same: nothing lost, nothing seen that nobody did, nothing twice,
    nothing in another order than it was done; and when every topic came up.
    """

    def __init__(self) -> None:
        self.announced: list[Change] = []
        self.seen: list[Change] = []

    def announce(self, *changes: Change) -> None:
        """They are going to happen."""
        self.announced += changes

    def see(self, change: Change) -> None:
        """Somebody saw it."""
        self.seen.append(change)

    def outstanding(self) -> list[Change]:
        """What was announced and not seen yet."""
        return list((Counter(self.announced) - Counter(self.seen)).elements())

    def surplus(self) -> list[Change]:
        """What was seen and not announced."""
        return list((Counter(self.seen) - Counter(self.announced)).elements())

    def rows(self) -> list[Row]:
        """The table."""
        announced, seen, lost = (
            Counter(change.topic for change in changes) for changes in (self.announced, self.seen, self.outstanding())
        )
        return [Row(title, announced[topic], seen[topic], lost[topic]) for topic, title in TOPICS.items()]

    def faults(self) -> list[str]:
        """What is wrong, a line each; empty if all is as it should be."""
        faults = [f'not seen: {change}' for change in self.outstanding()]
        faults += [f'seen, but not announced: {change}' for change in self.surplus()]
        if not faults:
            announced, seen = _streams(self.announced), _streams(self.seen)
            faults += [f'seen in another order: {by}: {of}' for by, of in seen if seen[by, of] != announced[by, of]]
        shown = {change.topic for change in self.announced}
        return faults + [f'never shown: {title}' for topic, title in TOPICS.items() if topic not in shown]


def _streams(changes: list[Change]) -> dict[tuple[str, str], list[Change]]:
    """The changes of each thing as each process sees them: these have an order, two streams have none."""
    streams: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        streams.setdefault((change.by, change.of), []).append(change)
    return streams
