"""Tests of the search: it agrees with brute force, is fast enough, and minimizes failures."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checking.linearizability import OutOfBudget, Precondition, Step, first_failure, minimize
from tests.support.sequences import example_settings


def is_linearizable(steps: Sequence[Step]) -> bool:
    """Try every order of every subset of the optional steps."""
    certain = [step for step in steps if not step.is_optional]
    optional = [step for step in steps if step.is_optional]
    for count in range(len(optional) + 1):
        for chosen in combinations(optional, count):
            if any(explains(order) for order in permutations([*certain, *chosen])):
                return True
    return False


def explains(order: Sequence[Step]) -> bool:
    """Return whether the order respects real time, and each step is possible in the state before it."""
    state: str | None = None
    latest = 0.0
    for step in order:
        latest = max(latest, step.began)
        if step.ended < latest or not step.is_possible_in(state):
            return False
        if step.writes:
            state = step.value
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Generate up to seven steps, each of which writes a unique value or compares with one."""
    count = draw(st.integers(1, 7))
    steps = []
    for number in range(count):
        began = draw(st.integers(0, 8))
        ended = draw(st.integers(began, 10))
        kind = draw(st.sampled_from(['get', 'no', 'set', 'create', 'swap', 'delete', 'differs']))
        operand = f'v{draw(st.integers(0, count - 1))}' if kind in ('get', 'swap', 'differs') else None
        precondition = {
            'get': Precondition.VALUE,
            'no': draw(st.sampled_from([Precondition.ABSENCE, Precondition.PRESENCE])),
            'set': Precondition.ANYTHING,
            'create': Precondition.ABSENCE,
            'swap': Precondition.VALUE,
            'delete': Precondition.PRESENCE,
            'differs': Precondition.OTHER_VALUE,
        }[kind]
        writes = kind in ('set', 'create', 'swap', 'delete')
        value = f'v{number}' if writes and kind != 'delete' else None
        is_optional = writes and draw(st.integers(0, 2)) == 0
        end = math.inf if is_optional and draw(st.booleans()) else float(ended)
        steps.append(Step(float(began), end, precondition, operand, writes, value, is_optional))
    return steps


@given(histories())
@example_settings(400)
def test_search_agrees_with_brute_force(steps: list[Step]) -> None:
    assert (first_failure(steps) is None) == is_linearizable(steps)


@given(histories())
@example_settings(400)
def test_minimized_failure_fails_alone_and_is_minimal(steps: list[Step]) -> None:
    """Of the other steps, reads are ignored and writes may have happened or not."""
    failure = first_failure(steps)
    if failure is None:
        return
    kept = minimize(steps, failure)

    def fails(chosen: Sequence[int]) -> bool:
        rest = [
            step if index in chosen else replace(step, is_optional=True)
            for index, step in enumerate(steps)
            if index in chosen or step.writes
        ]
        return not is_linearizable(rest)

    assert fails(kept)
    for index in kept:
        assert not fails([other for other in kept if other != index])


def test_failure_is_the_first_step_without_an_order() -> None:
    """It is the stale read, not a later one."""
    write, other = (
        Step(time, time, Precondition.ANYTHING, None, True, value) for time, value in ((1.0, 'x'), (2.0, 'y'))
    )
    stale, late = (Step(time, time, Precondition.VALUE, 'x') for time in (3.0, 4.0))
    assert first_failure([late, stale, other, write]) == stale
    assert minimize([late, stale, other, write], stale) == [1, 2]  # the first write is identified by its value


def load(seed: int, *, count: int, processes: int, unanswered: float) -> list[Step]:
    """Generate the calls of busy workers, each of which takes effect at a random moment in its time."""
    rng = random.Random(seed)
    free = [0.0] * processes
    calls = []
    for _ in range(count):
        process = free.index(min(free))
        began = free[process] + rng.random() * 0.02
        free[process] = ended = began + rng.random() * 0.05
        calls.append((rng.uniform(began, ended), began, ended))
    state: str | None = None
    steps = []
    for number, (_, began, ended) in enumerate(sorted(calls)):
        kind = rng.choices(['get', 'set', 'create', 'swap', 'delete'], [4, 3, 1, 3, 1])[0]
        precondition = {
            'set': Precondition.ANYTHING,
            'create': Precondition.ABSENCE,
            'delete': Precondition.PRESENCE,
        }.get(kind, Precondition.VALUE)
        operand = state if precondition is Precondition.VALUE else None
        if precondition is Precondition.VALUE and state is None:
            precondition = Precondition.ABSENCE
        step = Step(
            began, ended, precondition, operand, kind != 'get', f'v{number}' if kind not in ('get', 'delete') else None
        )
        if not step.is_possible_in(state):  # the call is refused
            steps.append(Step(began, ended, Precondition.ABSENCE if state is None else Precondition.PRESENCE))
            continue
        if step.writes and rng.random() < unanswered:
            steps.append(replace(step, ended=math.inf, is_optional=True))
            if rng.random() < 0.5:
                continue
        else:
            steps.append(step)
        if step.writes:
            state = step.value
    return steps


@pytest.mark.parametrize(('processes', 'unanswered'), [(6, 0.05), (6, 0.3), (10, 0.1)])
def test_search_of_many_calls_stays_within_its_budget(processes: int, unanswered: float) -> None:
    """As many as in a run, with more concurrency."""
    steps = load(1, count=4000, processes=processes, unanswered=unanswered)
    assert first_failure(steps) is None


def test_stale_read_among_many_calls_is_found_and_minimized() -> None:
    """Two of thousands remain: the read of an old value, and an earlier write or read of another value."""
    steps = load(2, count=1500, processes=6, unanswered=0.05)
    sets = [step for step in steps if step.precondition is Precondition.ANYTHING and not step.is_optional]
    old = next(step for step in sets if step.began > 5)
    steps.append(Step(sets[-1].ended + 1, sets[-1].ended + 2, Precondition.VALUE, old.value))
    failure = first_failure(steps)
    assert failure == steps[-1]
    kept = [steps[index] for index in minimize(steps, failure)]
    assert len(kept) == 2
    assert kept[-1] == failure


def test_search_raises_when_out_of_budget() -> None:
    with pytest.raises(OutOfBudget):
        first_failure(load(3, count=1000, processes=20, unanswered=0.3), budget=100)
