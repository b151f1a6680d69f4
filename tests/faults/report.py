"""The report of a run: figures and verdict."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.faults.recovery import slowest_recovery
from tests.faults.run import RunConfig, RunResult
from tests.faults.verdict import Verdict, Violation, check

__all__ = ['history_path', 'judge', 'report', 'summary']

MAX_SHOWN = 5
"""Maximal violations to show for each rule."""


def judge(result: RunResult) -> Verdict:
    """Return the verdict on a run: on its history and on its other results."""
    verdict = check(result.history)
    verdict.violations.extend(result.violations)
    verdict.figures['calls with an error'] = sum(result.errors.values())
    verdict.figures['renewals'] = result.renewals
    verdict.figures['reads of mirrors'] = result.mirror_reads
    verdict.figures['syncs of mirrors'] = result.mirror_syncs
    return verdict


def report(order: RunConfig, result: RunResult, verdict: Verdict) -> list[str]:
    """Return the lines of the report."""
    lines = [f'etcd {result.version}, seed {order.seed}, {order.seconds:g} s of faults']
    lines += [f'  {note}' for note in result.notes]
    width = max(map(len, verdict.figures))
    lines += [f'  {name:{width}} {count:>9,}' for name, count in verdict.figures.items()]
    seconds, keeper = slowest_recovery(result.history)
    lines.append(f'  slowest recovery: {seconds:.2f} s of service' + (f', of {keeper}' if keeper else ''))
    lines += [f'  skipped: {what}: {count}' for what, count in sorted(result.skipped.items())]
    if result.errors:
        lines.append('  errors: ' + ', '.join(f'{name} {count}' for name, count in result.errors.most_common()))
    return [*lines, *_violation_lines(verdict.violations)]


def summary(order: RunConfig, verdict: Verdict) -> str:
    """Return a one-line summary."""
    figures = verdict.figures
    what = ', '.join(f'{figures.get(name, 0):,} {name}' for name in ('faults', 'writes', 'reads', 'events', 'renewals'))
    return f'seed {order.seed}: {"passed" if verdict.is_good else "FAILED"}; {what}'


def history_path(order: RunConfig) -> Path:
    """Return the file for the history of a failed run, outside of the source tree."""
    return Path(tempfile.gettempdir()) / f'getc-faults-{order.seed}.jsonl'


def _violation_lines(violations: list[Violation]) -> list[str]:
    counts: dict[str, int] = {}
    lines = []
    for violation in violations:
        counts[violation.rule] = counts.get(violation.rule, 0) + 1
        if counts[violation.rule] <= MAX_SHOWN:
            lines.append(str(violation))
    lines += [f'and {count - MAX_SHOWN} more: {rule}' for rule, count in counts.items() if count > MAX_SHOWN]
    return lines
