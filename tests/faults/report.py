"""What a run has to say for itself: its figures, and the verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.faults.recovery import slowest_recovery
from tests.faults.run import Order, Result
from tests.faults.verdict import Verdict, Violation, check

__all__ = ['judged', 'place_of', 'report', 'summary']

SHOWN = 5
"""Violations that are shown of each rule."""


def judged(result: Result) -> Verdict:
    """The verdict on a run: on its history, and on what was seen besides."""
    verdict = check(result.history)
    verdict.violations.extend(result.violations)
    verdict.figures['calls with an error'] = sum(result.errors.values())
    verdict.figures['renewals'] = result.renewals
    verdict.figures['looks at mirrors'] = result.looks
    return verdict


def report(order: Order, result: Result, verdict: Verdict) -> list[str]:
    """The lines of the report."""
    lines = [f'etcd {result.version}, seed {order.seed}, {order.seconds:g} s of fire']
    lines += [f'  {note}' for note in result.notes]
    width = max(map(len, verdict.figures))
    lines += [f'  {name:{width}} {count:>9,}' for name, count in verdict.figures.items()]
    seconds, keeper = slowest_recovery(result.history)
    lines.append(f'  slowest recovery: {seconds:.2f} s of service' + (f', of {keeper}' if keeper else ''))
    lines += [f'  could not be done: {what}: {count}' for what, count in sorted(result.omitted.items())]
    if result.errors:
        lines.append('  errors: ' + ', '.join(f'{name} {count}' for name, count in result.errors.most_common()))
    return [*lines, *_blame(verdict.violations)]


def summary(order: Order, verdict: Verdict) -> str:
    """One line about it."""
    figures = verdict.figures
    what = ', '.join(f'{figures.get(name, 0):,} {name}' for name in ('faults', 'writes', 'reads', 'events', 'renewals'))
    return f'seed {order.seed}: {"good" if verdict.is_good else "BROKEN"}; {what}'


def place_of(order: Order) -> Path:
    """Where the history of a run that failed is kept: not in the source tree."""
    return Path(tempfile.gettempdir()) / f'getc-faults-{order.seed}.jsonl'


def _blame(violations: list[Violation]) -> list[str]:
    shown: dict[str, int] = {}
    lines = []
    for violation in violations:
        shown[violation.rule] = shown.get(violation.rule, 0) + 1
        if shown[violation.rule] <= SHOWN:
            lines.append(str(violation))
    lines += [f'and {count - SHOWN} more: {rule}' for rule, count in shown.items() if count > SHOWN]
    return lines
