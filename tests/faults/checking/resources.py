"""Checks that a run leaves no resources in use."""

from __future__ import annotations

from typing import Final

from tests.faults.checking.violation import Violation
from tests.faults.history import History, Resources

__all__ = ['check_resources']

NO_LEAK: Final = 'No socket, greenlet or lease is left after a run.'
MEMORY_BOUNDED: Final = 'The growth of memory in a run is bounded.'
MEASURED: Final = 'Resources are measured before and after a run.'

COUNTED: Final = ('sockets', 'greenlets', 'leases')

MAX_MEMORY_GROWTH: Final = 256 * 1024
"""Bytes of memory that caches may keep."""


def check_resources(history: History) -> list[Violation]:
    """Compare the resources before and after the run."""
    measured = history.of(Resources)
    before = next((found for found in measured if found.when == 'before'), None)
    after = next((found for found in reversed(measured) if found.when == 'after'), None)
    if before is None or after is None:
        return [Violation.of(MEASURED, 'a measurement is missing', *measured)]
    found = []
    for name in COUNTED:
        if getattr(after, name) > getattr(before, name):
            text = f'{getattr(before, name)} {name} before, {getattr(after, name)} after'
            found.append(Violation.of(NO_LEAK, text, before, after))
    if after.memory - before.memory > MAX_MEMORY_GROWTH:
        text = f'{after.memory - before.memory} bytes more, but only {MAX_MEMORY_GROWTH} are allowed'
        found.append(Violation.of(MEMORY_BOUNDED, text, before, after))
    return found
