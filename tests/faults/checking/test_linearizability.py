"""The search for an order: it agrees with trying them all, is fast enough, and names few calls when there is none."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checking.linearizability import Needs, OutOfBudget, Step, failure_of, shrunk
from tests.support.sequences import enough


def is_linearizable(steps: Sequence[Step]) -> bool:
    """Try every order of every choice of the optional ones."""
    certain = [step for step in steps if not step.is_optional]
    optional = [step for step in steps if step.is_optional]
    for count in range(len(optional) + 1):
        for chosen in combinations(optional, count):
            if any(explains(order) for order in permutations([*certain, *chosen])):
                return True
    return False


def explains(order: Sequence[Step]) -> bool:
    """True if it keeps to real time, and each step fits the state that those before it left."""
    state: str | None = None
    latest = 0.0
    for step in order:
        latest = max(latest, step.began)
        if step.ended < latest or not step.fits(state):
            return False
        if step.writes:
            state = step.value
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Up to seven steps, each of which writes a value of its own or asks about one that another may have written."""
    count = draw(st.integers(1, 7))
    steps = []
    for number in range(count):
        began = draw(st.integers(0, 8))
        ended = draw(st.integers(began, 10))
        kind = draw(st.sampled_from(['get', 'no', 'set', 'create', 'swap', 'delete', 'differs']))
        operand = f'v{draw(st.integers(0, count - 1))}' if kind in ('get', 'swap', 'differs') else None
        needs = {
            'get': Needs.VALUE,
            'no': draw(st.sampled_from([Needs.ABSENCE, Needs.PRESENCE])),
            'set': Needs.ANYTHING,
            'create': Needs.ABSENCE,
            'swap': Needs.VALUE,
            'delete': Needs.PRESENCE,
            'differs': Needs.ANOTHER_VALUE,
        }[kind]
        writes = kind in ('set', 'create', 'swap', 'delete')
        value = f'v{number}' if writes and kind != 'delete' else None
        is_optional = writes and draw(st.integers(0, 2)) == 0
        end = math.inf if is_optional and draw(st.booleans()) else float(ended)
        steps.append(Step(float(began), end, needs, operand, writes, value, is_optional))
    return steps


@given(histories())
@enough(400)
def test_search_agrees_with_trying_every_order(steps: list[Step]) -> None:
    """Neither finds what the other does not."""
    assert (failure_of(steps) is None) == is_linearizable(steps)


@given(histories())
@enough(400)
def test_what_is_kept_of_a_failure_fails_by_itself_and_nothing_can_be_left_out(steps: list[Step]) -> None:
    """Whatever the steps that are left out did: reads are dropped, writes may have happened or not."""
    failure = failure_of(steps)
    if failure is None:
        return
    kept = shrunk(steps, failure)

    def fails(chosen: Sequence[int]) -> bool:
        rest = [
            step if place in chosen else replace(step, is_optional=True)
            for place, step in enumerate(steps)
            if place in chosen or step.writes
        ]
        return not is_linearizable(rest)

    assert fails(kept)
    for place in kept:
        assert not fails([other for other in kept if other != place])


def test_failure_is_the_first_step_by_its_end_up_to_which_there_is_no_order() -> None:
    """The stale read, and not what came after it."""
    write, other = (Step(time, time, Needs.ANYTHING, None, True, value) for time, value in ((1.0, 'x'), (2.0, 'y')))
    stale, late = (Step(time, time, Needs.VALUE, 'x') for time in (3.0, 4.0))
    assert failure_of([late, stale, other, write]) == stale
    assert shrunk([late, stale, other, write], stale) == [1, 2]  # the first write is known by its value


def load(seed: int, *, count: int, processes: int, unanswered: float) -> list[Step]:
    """What processes do that call without a pause, each call taking effect at some moment while it lasts."""
    chance = random.Random(seed)
    free = [0.0] * processes
    calls = []
    for _ in range(count):
        process = free.index(min(free))
        began = free[process] + chance.random() * 0.02
        free[process] = ended = began + chance.random() * 0.05
        calls.append((chance.uniform(began, ended), began, ended))
    state: str | None = None
    steps = []
    for number, (_, began, ended) in enumerate(sorted(calls)):
        kind = chance.choices(['get', 'set', 'create', 'swap', 'delete'], [4, 3, 1, 3, 1])[0]
        needs = {'set': Needs.ANYTHING, 'create': Needs.ABSENCE, 'delete': Needs.PRESENCE}.get(kind, Needs.VALUE)
        operand = state if needs is Needs.VALUE else None
        if needs is Needs.VALUE and state is None:
            needs = Needs.ABSENCE
        step = Step(
            began, ended, needs, operand, kind != 'get', f'v{number}' if kind not in ('get', 'delete') else None
        )
        if not step.fits(state):  # refused
            steps.append(Step(began, ended, Needs.ABSENCE if state is None else Needs.PRESENCE))
            continue
        if step.writes and chance.random() < unanswered:
            steps.append(replace(step, ended=math.inf, is_optional=True))
            if chance.random() < 0.5:
                continue
        else:
            steps.append(step)
        if step.writes:
            state = step.value
    return steps


@pytest.mark.parametrize(('processes', 'unanswered'), [(6, 0.05), (6, 0.3), (10, 0.1)])
def test_search_of_many_calls_of_one_key_stays_within_its_budget(processes: int, unanswered: float) -> None:
    """As many as a run makes, and far more of them at once."""
    steps = load(1, count=4000, processes=processes, unanswered=unanswered)
    assert failure_of(steps) is None


def test_stale_read_among_many_calls_is_found_and_shrunk() -> None:
    """Two of thousands are left: the read of an old value, and a write of another one, or a read of that, before it."""
    steps = load(2, count=1500, processes=6, unanswered=0.05)
    sets = [step for step in steps if step.needs is Needs.ANYTHING and not step.is_optional]
    old = next(step for step in sets if step.began > 5)
    steps.append(Step(sets[-1].ended + 1, sets[-1].ended + 2, Needs.VALUE, old.value))
    failure = failure_of(steps)
    assert failure == steps[-1]
    kept = [steps[place] for place in shrunk(steps, failure)]
    assert len(kept) == 2
    assert kept[-1] == failure


def test_search_that_takes_too_long_says_so() -> None:
    """It is not known then."""
    with pytest.raises(OutOfBudget):
        failure_of(load(3, count=1000, processes=20, unanswered=0.3), budget=100)
