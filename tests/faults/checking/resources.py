"""Resources: what was held before a run is held after it, and nothing else."""

from __future__ import annotations

from typing import Final

from tests.faults.checking.violation import Violation
from tests.faults.history import History, Resources

__all__ = ['check_resources']

NOTHING_MORE: Final = 'No socket, greenlet or lease is left after a run.'
BOUNDED: Final = 'Memory after a run is what it was before it, but for a bound.'
MEASURED: Final = 'What is held is measured before a run, and after it.'

COUNTED: Final = ('sockets', 'greenlets', 'leases')

BOUND: Final = 256 * 1024
"""Bytes of memory that may be left: what is learnt once and kept."""


def check_resources(history: History) -> list[Violation]:
    """Compare what was held before with what was held after."""
    measured = history.of(Resources)
    before = next((found for found in measured if found.when == 'before'), None)
    after = next((found for found in reversed(measured) if found.when == 'after'), None)
    if before is None or after is None:
        return [Violation.of(MEASURED, 'a measurement is missing', *measured)]
    found = []
    for what in COUNTED:
        if getattr(after, what) > getattr(before, what):
            text = f'{getattr(before, what)} {what} before, {getattr(after, what)} after'
            found.append(Violation.of(NOTHING_MORE, text, before, after))
    if after.memory - before.memory > BOUND:
        text = f'{after.memory - before.memory} bytes more, and {BOUND} are allowed'
        found.append(Violation.of(BOUNDED, text, before, after))
    return found
