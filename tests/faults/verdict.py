"""Checks a history against all rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.faults.checking.figures import figures_of
from tests.faults.checking.log import check_log
from tests.faults.checking.owners import check_owners
from tests.faults.checking.presence import check_presence
from tests.faults.checking.reads import check_reads
from tests.faults.checking.registers import check_registers
from tests.faults.checking.resources import check_resources
from tests.faults.checking.staleness import check_staleness
from tests.faults.checking.violation import Violation
from tests.faults.checking.watchers import check_watchers
from tests.faults.checking.writes import check_writes
from tests.faults.history import History

__all__ = ['Verdict', 'Violation', 'check']

CHECKERS: Final[tuple[Callable[[History], list[Violation]], ...]] = (
    check_log,
    check_watchers,
    check_staleness,
    check_registers,
    check_reads,
    check_writes,
    check_presence,
    check_owners,
    check_resources,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of checking a history.

    Attributes:
        seed: The seed of the run.
        violations: The violations; empty for a good run.
        figures: The number of records of each sort.
    """

    seed: int
    violations: list[Violation] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """True if no rule was broken, and none was left undecided."""
        return not self.violations

    def __str__(self) -> str:
        width = max(map(len, self.figures), default=0)
        lines = [f'seed {self.seed}', *(f'  {name:{width}} {count:>8,}' for name, count in self.figures.items())]
        if self.is_good:
            return '\n'.join([*lines, 'no rule was broken'])
        return '\n'.join([*lines, *map(str, self.violations), f'{len(self.violations)} violations'])


def check(history: History) -> Verdict:
    """Run all checkers on a history."""
    violations = [violation for checker in CHECKERS for violation in checker(history)]
    return Verdict(history.seed, violations, figures_of(history))
