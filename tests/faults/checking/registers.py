"""Registers: one order of its calls explains what each caller of a key was told.

This looks at calls alone, and not at etcd's log (``readings`` does that).  A wipe is a call as well: one that deletes.
So is the restore of a backup: one that writes what the register was then, which only the log has.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.linearizability import BUDGET, Needs, OutOfBudget, Step, failure_of, shrunk
from tests.faults.checking.log import Era, log_of
from tests.faults.checking.violation import Violation
from tests.faults.history import RESTORE, WIPE, Call, Fault, History, Outcome

__all__ = ['EFFECTS', 'check_registers', 'step_of']

LINEARIZABLE = 'A register is linearizable: one order of its calls, true to real time, explains what each was told.'
DECIDED = 'A register is known to be linearizable: the search for such an order comes to an end.'

EFFECTS: Final = {
    'set': Needs.ANYTHING,
    'create': Needs.ABSENCE,
    'swap': Needs.VALUE,
    'delete': Needs.PRESENCE,
}
"""The kinds of writes of registers, and what each needs to have an effect."""

REFUSALS: Final = {
    ('get', 'KeyNotFound'): Needs.ABSENCE,
    ('create', 'NodeExist'): Needs.PRESENCE,
    ('swap', 'KeyNotFound'): Needs.ABSENCE,
    ('swap', 'TestFailed'): Needs.ANOTHER_VALUE,
    ('delete', 'KeyNotFound'): Needs.ABSENCE,
}
"""What a refusal tells of a register; others tell nothing."""


def check_registers(history: History, budget: int = BUDGET) -> list[Violation]:
    """Look for keys whose calls have no order."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in history.of(Call):
        if call.kind == 'get' or call.kind in EFFECTS:
            calls[call.key].append(call)
    begins = sorted(
        (fault for fault in history.of(Fault) if fault.name in (WIPE, RESTORE)), key=lambda fault: fault.began
    )
    eras = list(zip(begins, log_of(history).eras[1:], strict=True))
    return [found for key in sorted(calls) for found in _violations(key, calls[key], eras, budget)]


def step_of(call: Call) -> Step | None:
    """What a call says of its register; None if it says nothing."""
    if call.kind not in ('get', *EFFECTS) or call.outcome is Outcome.NOT_APPLIED:
        return None
    if call.outcome is Outcome.REFUSED:
        needs = REFUSALS.get((call.kind, call.error or ''))
        return None if needs is None else Step(call.began, call.ended, needs, call.expected)
    if call.kind == 'get':
        if call.outcome is Outcome.AMBIGUOUS:
            return None
        needs = Needs.ABSENCE if call.value is None else Needs.VALUE
        return Step(call.began, call.ended, needs, call.value)
    is_unanswered = call.outcome is Outcome.AMBIGUOUS
    return Step(
        call.began,
        math.inf if is_unanswered else call.ended,
        EFFECTS[call.kind],
        call.expected,
        writes=True,
        value=None if call.kind == 'delete' else call.value,
        is_optional=is_unanswered,
    )


def _violations(key: str, calls: list[Call], eras: list[tuple[Fault, Era]], budget: int) -> Iterator[Violation]:
    steps = [(call, step) for call in calls if (step := step_of(call)) is not None]
    records: list[Call | Fault] = [call for call, _ in steps]
    order = [step for _, step in steps]
    for begin, era in eras:
        state = era.state(key, era.shared)
        records.append(begin)
        value = None if state is None else state.value
        order.append(Step(begin.began, begin.ended, Needs.ANYTHING, writes=True, value=value))
    try:
        failure = failure_of(order, budget)
    except OutOfBudget:
        yield Violation.of(DECIDED, f'{key} has {len(calls)} calls, and {budget} configurations were not enough')
        return
    if failure is not None:
        kept = [records[place] for place in shrunk(order, failure)]
        asked = {call.value for call in kept if isinstance(call, Call) and call.kind == 'get'}
        # Who wrote what was read makes it readable, though it may have done so at any time or never.
        writers = [call for call in calls if call.kind != 'get' and call.value is not None and call.value in asked]
        piece = sorted({*kept, *writers}, key=lambda record: (record.began, record.ended))
        yield Violation.of(LINEARIZABLE, f'{key}: no order explains these {len(kept)}, whatever others did', *piece)
