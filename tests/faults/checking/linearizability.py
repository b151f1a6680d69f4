"""Linearizability of a register: does an order of its calls exist that explains every outcome?

The order must respect real time: a call takes effect at one moment between its start and its end.  A call without a
response takes effect at any time after its start, or never.

The algorithm is Lowe's just-in-time search ("Testing for linearizability", 2017).  It goes through time once, with the
set of all configurations that are possible so far: the state of the register, and the open calls that have taken
effect.  A call takes effect only when it is about to end, or before another call that is; configurations that were
seen before, or that allow no more than another one, are dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

__all__ = ['OutOfBudget', 'Precondition', 'Step', 'first_failure', 'minimize']

MAX_CONFIGURATIONS: Final = 1_000_000
"""Maximal number of configurations to explore for a register."""

ANY_OTHER: Final = '\0'
"""Replaces values that no call compares with, because they are equivalent."""


class OutOfBudget(Exception):
    """The search was aborted: it is unknown whether an order exists."""


class Precondition(Enum):
    """What a call requires of the register."""

    ANYTHING = auto()
    ABSENCE = auto()
    PRESENCE = auto()
    VALUE = auto()
    OTHER_VALUE = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """The effect of a call on a register, given its outcome.

    Attributes:
        began: The earliest time.
        ended: The latest time; infinity if there is none.
        precondition: The required state of the register at that moment.
        operand: The value of ``Precondition.VALUE`` and ``Precondition.OTHER_VALUE``.
        writes: It changes the register.
        value: The value that it writes; None to delete.
        is_optional: It may not have happened at all.
    """

    began: float
    ended: float
    precondition: Precondition
    operand: str | None = None
    writes: bool = False
    value: str | None = None
    is_optional: bool = False

    def is_possible_in(self, state: str | None) -> bool:
        """Return whether the step is possible in a state."""
        if self.precondition is Precondition.ANYTHING:
            return True
        if self.precondition is Precondition.ABSENCE:
            return state is None
        if self.precondition is Precondition.PRESENCE:
            return state is not None
        if self.precondition is Precondition.VALUE:
            return state == self.operand
        return state is not None and state != self.operand


Configuration = tuple[str | None, int, int]
"""The state, the set of open calls that took effect, and the set of optional ones that did (both as bits)."""


def first_failure(steps: Sequence[Step], budget: int = MAX_CONFIGURATIONS) -> Step | None:
    """Return the first step, by end time, up to which no order exists; None if there is an order of all steps.

    Raises:
        OutOfBudget: The search was aborted.
    """
    return _Search(steps, budget).failure()


def minimize(steps: Sequence[Step], failure: Step, budget: int = MAX_CONFIGURATIONS // 20) -> list[int]:
    """Return the indices of a small subset of steps that has no order, whatever the others did.

    Steps outside of the subset are unknown: reads are ignored, and writes may have happened in their time or not.
    """
    kept = [index for index, step in enumerate(steps) if not step.is_optional and step.ended <= failure.ended]
    kept = _last_steps(steps, kept, failure.ended, budget)
    size = len(kept)
    while size > 1:
        size = (size + 1) // 2
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + size :]
            if _fails(steps, fewer, failure.ended, budget):
                kept = fewer
            else:
                start += size
    return kept


def _last_steps(steps: Sequence[Step], kept: list[int], end: float, budget: int) -> list[int]:
    """Return the latest of the steps if they have no order themselves, which is the usual case."""
    by_end = sorted(kept, key=lambda index: steps[index].ended)
    count = 4
    while count < len(kept):
        latest = sorted(by_end[-count:])
        if _fails(steps, latest, end, budget):
            return latest
        count *= 4
    return kept


def _fails(steps: Sequence[Step], kept: Iterable[int], end: float, budget: int) -> bool:
    """Return whether a subset of steps has no order, whatever the others did."""
    chosen = set(kept)
    rest: list[Step] = []
    for index, step in enumerate(steps):
        if index in chosen:
            rest.append(step)
        elif step.writes and step.began <= end:
            rest.append(replace(step, is_optional=True))
    try:
        return first_failure(rest, budget) is not None
    except OutOfBudget:
        return False


class _Search:
    """One search.  Each open step has a bit, from its start to its end.

    A value that no later step compares with is replaced by ``ANY_OTHER``, so that many steps without an end become
    equal. Only the number of equal steps that took effect matters: they are used in the order of their bits.
    """

    def __init__(self, steps: Sequence[Step], budget: int) -> None:
        self._steps = steps
        self._budget = budget
        self._compared_until: dict[str, float] = {}
        for step in steps:
            for value in (step.operand, step.value):
                if value is not None:
                    time = step.ended if value == step.operand and step.ended < math.inf else step.began
                    self._compared_until[value] = max(time, self._compared_until.get(value, 0.0))
        self._compared = {step.operand for step in steps}
        self._open: dict[int, Step] = {}
        self._bits: dict[int, int] = {}  # by the index of the step
        self._free: list[int] = []
        self._slots = 0
        self._optional: dict[int, Step] = {}  # the open ones with an end
        self._unbounded: dict[Step, int] = {}  # bits of equal steps without an end; their starts are set to 0
        self._optional_count = 0
        self._obsolete: list[str] = []  # values that no later step compares with, unless they can still be written

    def failure(self) -> Step | None:
        configurations: set[Configuration] = {(None, 0, 0)}
        for _, _, event in self._events():
            if isinstance(event, str):
                self._obsolete.append(event)
                configurations = self._drop_obsolete(configurations)
                continue
            step = self._steps[event]
            if step.ended == math.inf or event not in self._bits:
                self._begin(event, self._normalized(step))
            elif step.is_optional:
                bit = self._bits[event]
                configurations = self._complete_optional(configurations, bit, self._optional.pop(bit))
            else:
                bit = self._bits[event]
                configurations = self._complete(configurations, bit, self._open.pop(bit))
                self._free.append(bit)
                if not configurations:
                    return step
        return None

    def _events(self) -> list[tuple[float, int, int | str]]:
        """Return the starts and ends of steps, by index, and the times at which values become obsolete.

        Events at the same time may have happened in any order.
        """
        events: list[tuple[float, int, int | str]] = []
        for index, step in enumerate(self._steps):
            events.append((step.began, 0, index))
            if step.ended < math.inf:
                events.append((step.ended, 1, index))
        events.extend((time, 2, value) for value, time in self._compared_until.items() if value in self._compared)
        return sorted(events)

    def _normalized(self, step: Step) -> Step:
        return step if step.value is None or step.value in self._compared else replace(step, value=ANY_OTHER)

    def _begin(self, index: int, step: Step) -> None:
        if step.is_optional:
            bit = self._bits[index] = 1 << self._optional_count
            self._optional_count += 1
            if step.ended < math.inf:
                self._optional[bit] = step
            else:
                kind = replace(step, began=0.0)
                self._unbounded[kind] = self._unbounded.get(kind, 0) | bit
        else:
            if not self._free:
                self._free.append(1 << self._slots)
                self._slots += 1
            bit = self._bits[index] = self._free.pop()
            self._open[bit] = step

    def _drop_obsolete(self, configurations: set[Configuration]) -> set[Configuration]:
        obsolete, self._obsolete = self._obsolete, []
        for value in obsolete:
            comparing = [kind for kind in self._unbounded if kind.operand == value]
            if comparing and self._can_hold(value, configurations):
                self._obsolete.append(value)
                continue
            for kind in comparing:  # they can never take effect
                del self._unbounded[kind]
            configurations = self._replace_value(configurations, value)
        return configurations

    def _can_hold(self, value: str, configurations: set[Configuration]) -> bool:
        """Return whether the register has a value in a configuration, or may get it later."""
        if any(step.value == value for step in (*self._open.values(), *self._optional.values())):
            return True
        bits = [bits for kind, bits in self._unbounded.items() if kind.value == value]
        return any(state == value or any(own & ~used for own in bits) for state, _, used in configurations)

    def _replace_value(self, configurations: set[Configuration], value: str) -> set[Configuration]:
        """Replace a value that no later step compares with."""
        self._compared.discard(value)
        for steps in (self._open, self._optional):
            steps.update({bit: replace(step, value=ANY_OTHER) for bit, step in steps.items() if step.value == value})
        for kind in [kind for kind in self._unbounded if kind.value == value]:
            other = replace(kind, value=ANY_OTHER)
            self._unbounded[other] = bits = self._unbounded.get(other, 0) | self._unbounded.pop(kind)
            configurations = {(state, done, _lowest_used(bits, used)) for state, done, used in configurations}
        return {(ANY_OTHER if state == value else state, done, used) for state, done, used in configurations}

    def _complete(self, configurations: set[Configuration], bit: int, step: Step) -> set[Configuration]:
        """Return the configurations after the end of a step, which must have taken effect."""
        found = _Frontier((state, done & ~bit, used) for state, done, used in configurations if done & bit)
        self._explore([one for one in configurations if not one[1] & bit], step, found)
        return set(found)

    def _complete_optional(self, configurations: set[Configuration], bit: int, step: Step) -> set[Configuration]:
        """Return the configurations after the end of an optional step, with and without its effect."""
        found = _Frontier((state, done, used & ~bit) for state, done, used in configurations)
        self._explore([one for one in configurations if not one[2] & bit], step, found)
        return set(found)

    def _explore(self, configurations: Iterable[Configuration], step: Step, found: _Frontier) -> None:
        """Add the configurations in which a step takes effect, after any other open steps."""
        met = _Frontier(self._with_reads(*configuration) for configuration in configurations)
        waiting = deque(met)
        while waiting:
            self._use_budget()
            state, done, used = waiting.popleft()
            if step.is_possible_in(state):
                found.add((step.value if step.writes else state, done, used))
            waiting.extend(after for after in self._next(state, done, used) if met.add(after))

    def _with_reads(self, state: str | None, done: int, used: int) -> Configuration:
        """Let every open read that is possible take effect, which excludes nothing."""
        for bit, step in self._open.items():
            if not (step.writes or done & bit) and step.is_possible_in(state):
                done |= bit
        return state, done, used

    def _next(self, state: str | None, done: int, used: int) -> Iterator[Configuration]:
        """Yield the configurations after one more write; of equal writes only the one that ends first is used."""
        for bit, step in _first_of_each_kind(self._open, done, state):
            yield self._with_reads(step.value, done | bit, used)
        for bit, step in _first_of_each_kind(self._optional, used, state):
            yield self._with_reads(step.value, done, used | bit)
        for kind, bits in self._unbounded.items():
            unused = bits & ~used
            if unused and kind.value != state and kind.is_possible_in(state):
                yield self._with_reads(kind.value, done, used | unused & -unused)

    def _use_budget(self) -> None:
        self._budget -= 1
        if self._budget < 0:
            raise OutOfBudget


def _first_of_each_kind(steps: dict[int, Step], done: int, state: str | None) -> Iterable[tuple[int, Step]]:
    """Return the open writes that are possible in a state; of equal ones only the one that ends first."""
    first: dict[tuple[Precondition, str | None, str | None], tuple[int, Step]] = {}
    for bit, step in steps.items():
        if step.writes and not done & bit and step.is_possible_in(state):
            event = step.precondition, step.operand, step.value
            if event not in first or step.ended < first[event][1].ended:
                first[event] = bit, step
    return first.values()


class _Frontier:
    """Configurations without those that differ from another one only in more optional steps used."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._used: dict[tuple[str | None, int], list[int]] = {}
        for configuration in configurations:
            self.add(configuration)

    def add(self, configuration: Configuration) -> bool:
        """Add a configuration; returns False if it allows no more than an earlier one."""
        state, done, used = configuration
        subsets = self._used.setdefault((state, done), [])
        if any(subset & used == subset for subset in subsets):
            return False
        subsets[:] = [subset for subset in subsets if subset & used != used]
        subsets.append(used)
        return True

    def __iter__(self) -> Iterator[Configuration]:
        for (state, done), subsets in self._used.items():
            for used in subsets:
                yield state, done, used


def _lowest_used(bits: int, used: int) -> int:
    """Replace the used ones of a set of bits by the same number of its lowest bits."""
    rest = used & ~bits
    for _ in range((used & bits).bit_count()):
        rest |= bits & -bits
        bits &= bits - 1
    return rest
