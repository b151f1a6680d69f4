"""Checks that registers are linearizable: one order of the calls on a key explains every outcome.

This uses the calls only, not etcd's log (see ``reads``).  A wipe is an additional call that deletes.  The restore of a
backup is one that writes the value in the backup, which is taken from the log.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.linearizability import (
    MAX_CONFIGURATIONS,
    OutOfBudget,
    Precondition,
    Step,
    first_failure,
    minimize,
)
from tests.faults.checking.log import Era, log_of
from tests.faults.checking.violation import Violation
from tests.faults.history import RESTORE, WIPE, Call, Fault, History, Outcome

__all__ = ['PRECONDITIONS', 'check_registers', 'step_of']

LINEARIZABLE = 'A register is linearizable: an order of its calls that respects real time explains every outcome.'
DECIDED = 'The search for such an order is completed.'

PRECONDITIONS: Final = {
    'set': Precondition.ANYTHING,
    'create': Precondition.ABSENCE,
    'swap': Precondition.VALUE,
    'delete': Precondition.PRESENCE,
}
"""The kinds of writes, and their preconditions."""

ERROR_PRECONDITIONS: Final = {
    ('get', 'KeyNotFound'): Precondition.ABSENCE,
    ('create', 'NodeExist'): Precondition.PRESENCE,
    ('swap', 'KeyNotFound'): Precondition.ABSENCE,
    ('swap', 'TestFailed'): Precondition.OTHER_VALUE,
    ('delete', 'KeyNotFound'): Precondition.ABSENCE,
}
"""The preconditions that errors show; other errors show nothing."""


def check_registers(history: History, budget: int = MAX_CONFIGURATIONS) -> list[Violation]:
    """Report keys whose calls have no order."""
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in history.of(Call):
        if call.kind == 'get' or call.kind in PRECONDITIONS:
            calls[call.key].append(call)
    begins = sorted(
        (fault for fault in history.of(Fault) if fault.name in (WIPE, RESTORE)), key=lambda fault: fault.began
    )
    eras = list(zip(begins, log_of(history).eras[1:], strict=True))
    return [found for key in sorted(calls) for found in _violations(key, calls[key], eras, budget)]


def step_of(call: Call) -> Step | None:
    """Return the effect of a call on its register; None if its outcome shows nothing."""
    if call.kind not in ('get', *PRECONDITIONS) or call.outcome is Outcome.NOT_APPLIED:
        return None
    if call.outcome is Outcome.REFUSED:
        precondition = ERROR_PRECONDITIONS.get((call.kind, call.error or ''))
        return None if precondition is None else Step(call.began, call.ended, precondition, call.expected)
    if call.kind == 'get':
        if call.outcome is Outcome.AMBIGUOUS:
            return None
        precondition = Precondition.ABSENCE if call.value is None else Precondition.VALUE
        return Step(call.began, call.ended, precondition, call.value)
    is_unanswered = call.outcome is Outcome.AMBIGUOUS
    return Step(
        call.began,
        math.inf if is_unanswered else call.ended,
        PRECONDITIONS[call.kind],
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
        order.append(Step(begin.began, begin.ended, Precondition.ANYTHING, writes=True, value=value))
    try:
        failure = first_failure(order, budget)
    except OutOfBudget:
        yield Violation.of(
            DECIDED, f'{key} has {len(calls)} calls, and the search stopped after {budget} configurations'
        )
        return
    if failure is not None:
        kept = [records[index] for index in minimize(order, failure)]
        read_values = {call.value for call in kept if isinstance(call, Call) and call.kind == 'get'}
        # Include the writers of the values that were read, although they may have taken effect at any time or never.
        writers = [
            call for call in calls if call.kind != 'get' and call.value is not None and call.value in read_values
        ]
        piece = sorted({*kept, *writers}, key=lambda record: (record.began, record.ended))
        yield Violation.of(
            LINEARIZABLE, f'{key}: no order explains these {len(kept)} calls, whatever the others did', *piece
        )
