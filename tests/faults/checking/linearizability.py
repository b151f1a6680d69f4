"""Linearizability of one register: is there an order of its calls that explains what each was told?

The order must keep to real time: a call takes effect at one moment between its beginning and its end.  One that was not
answered takes effect at some time after its beginning, or never.

It is Lowe's just-in-time search ("Testing for linearizability", 2017).  Time is gone through once, with every
configuration that the calls so far can have led to: the state of the register, and which of the open calls have taken
effect.  A call is only made to take effect when it is about to end, and those that must come before it with it; a
configuration that was met before, or that can do no more than another, is dropped.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

__all__ = ['Needs', 'OutOfBudget', 'Step', 'failure_of', 'shrunk']

BUDGET: Final = 1_000_000
"""Configurations that are looked at for one register."""

OTHER: Final = '\0'
"""Stands for every value that nobody asked about: they are all the same to those who look at the register."""


class OutOfBudget(Exception):
    """The search would take too long: it is not known if there is such an order."""


class Needs(Enum):
    """What a call needs the register to be."""

    ANYTHING = auto()
    ABSENCE = auto()
    PRESENCE = auto()
    VALUE = auto()
    ANOTHER_VALUE = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """What a call does to the register, if it was told the truth.

    Attributes:
        began: Not before then.
        ended: Not after then; infinity if it may be at any later time.
        needs: What the register must be at that moment.
        operand: The value of ``Needs.VALUE`` and ``Needs.ANOTHER_VALUE``.
        writes: It changes the register.
        value: To what; None to delete it.
        is_optional: It need not have happened at all.
    """

    began: float
    ended: float
    needs: Needs
    operand: str | None = None
    writes: bool = False
    value: str | None = None
    is_optional: bool = False

    def fits(self, state: str | None) -> bool:
        """True if it can happen in this state."""
        if self.needs is Needs.ANYTHING:
            return True
        if self.needs is Needs.ABSENCE:
            return state is None
        if self.needs is Needs.PRESENCE:
            return state is not None
        if self.needs is Needs.VALUE:
            return state == self.operand
        return state is not None and state != self.operand


Configuration = tuple[str | None, int, int]
"""The state; which open calls took effect; which of the optional ones did.  The latter two are sets of bits."""


def failure_of(steps: Sequence[Step], budget: int = BUDGET) -> Step | None:
    """Return the first step, by its end, up to which there is no order; None if there is one of all.

    Raises:
        OutOfBudget: It could not be found out.
    """
    return _Search(steps, budget).failure()


def shrunk(steps: Sequence[Step], failure: Step, budget: int = BUDGET // 20) -> list[int]:
    """Return the indices of as few steps as can be found for which there is no order, whatever the others did.

    A step that is left out counts as unknown: if it reads it is as though it had not been, if it writes it may have
    happened in its time or not.
    """
    kept = [place for place, step in enumerate(steps) if not step.is_optional and step.ended <= failure.ended]
    kept = _latest(steps, kept, failure.ended, budget)
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


def _latest(steps: Sequence[Step], kept: list[int], end: float, budget: int) -> list[int]:
    """The latest of them, if they fail by themselves: mostly few do."""
    by_end = sorted(kept, key=lambda place: steps[place].ended)
    count = 4
    while count < len(kept):
        latest = sorted(by_end[-count:])
        if _fails(steps, latest, end, budget):
            return latest
        count *= 4
    return kept


def _fails(steps: Sequence[Step], kept: Iterable[int], end: float, budget: int) -> bool:
    """True if there is no order of these, whatever the others did."""
    chosen = set(kept)
    rest: list[Step] = []
    for place, step in enumerate(steps):
        if place in chosen:
            rest.append(step)
        elif step.writes and step.began <= end:
            rest.append(replace(step, is_optional=True))
    try:
        return failure_of(rest, budget) is not None
    except OutOfBudget:
        return False


class _Search:
    """One search.  Open steps have a bit each: from their beginning to their end, or for ever if they have none.

    A value that nobody will ask about any more turns into ``OTHER``.  So steps without an end that do the same become
    many, and it only matters how many of them took effect: they are taken in the order of their bits.
    """

    def __init__(self, steps: Sequence[Step], budget: int) -> None:
        self._steps = steps
        self._budget = budget
        self._asked_until: dict[str, float] = {}
        for step in steps:
            for value in (step.operand, step.value):
                if value is not None:
                    time = step.ended if value == step.operand and step.ended < math.inf else step.began
                    self._asked_until[value] = max(time, self._asked_until.get(value, 0.0))
        self._asked = {step.operand for step in steps}
        self._open: dict[int, Step] = {}
        self._bits: dict[int, int] = {}  # by the place of the step
        self._free: list[int] = []
        self._slots = 0
        self._optional: dict[int, Step] = {}  # that are open, and have an end
        self._endless: dict[Step, int] = {}  # alike but for their beginnings, which are left out: their bits
        self._optional_count = 0
        self._fading: list[str] = []  # values that nobody will ask about once they cannot come back

    def failure(self) -> Step | None:
        configurations: set[Configuration] = {(None, 0, 0)}
        for _, _, what in self._events():
            if isinstance(what, str):
                self._fading.append(what)
                configurations = self._without_fading(configurations)
                continue
            step = self._steps[what]
            if step.ended == math.inf or what not in self._bits:
                self._begin(what, self._as_asked(step))
            elif step.is_optional:
                bit = self._bits[what]
                configurations = self._passed(configurations, bit, self._optional.pop(bit))
            else:
                bit = self._bits[what]
                configurations = self._ended(configurations, bit, self._open.pop(bit))
                self._free.append(bit)
                if not configurations:
                    return step
        return None

    def _events(self) -> list[tuple[float, int, int | str]]:
        """Beginnings and ends of steps, which are known by their places, and values that are not asked about any more.

        What happens at the same time may have happened in any order.
        """
        events: list[tuple[float, int, int | str]] = []
        for place, step in enumerate(self._steps):
            events.append((step.began, 0, place))
            if step.ended < math.inf:
                events.append((step.ended, 1, place))
        events.extend((time, 2, value) for value, time in self._asked_until.items() if value in self._asked)
        return sorted(events)

    def _as_asked(self, step: Step) -> Step:
        return step if step.value is None or step.value in self._asked else replace(step, value=OTHER)

    def _begin(self, place: int, step: Step) -> None:
        if step.is_optional:
            bit = self._bits[place] = 1 << self._optional_count
            self._optional_count += 1
            if step.ended < math.inf:
                self._optional[bit] = step
            else:
                kind = replace(step, began=0.0)
                self._endless[kind] = self._endless.get(kind, 0) | bit
        else:
            if not self._free:
                self._free.append(1 << self._slots)
                self._slots += 1
            bit = self._bits[place] = self._free.pop()
            self._open[bit] = step

    def _without_fading(self, configurations: set[Configuration]) -> set[Configuration]:
        fading, self._fading = self._fading, []
        for value in fading:
            askers = [kind for kind in self._endless if kind.operand == value]
            if askers and self._may_be(value, configurations):
                self._fading.append(value)
                continue
            for kind in askers:  # they can never take effect any more
                del self._endless[kind]
            configurations = self._forgotten(configurations, value)
        return configurations

    def _may_be(self, value: str, configurations: set[Configuration]) -> bool:
        """True if it is the register's in some configuration, or may become so."""
        if any(step.value == value for step in (*self._open.values(), *self._optional.values())):
            return True
        bits = [bits for kind, bits in self._endless.items() if kind.value == value]
        return any(state == value or any(own & ~used for own in bits) for state, _, used in configurations)

    def _forgotten(self, configurations: set[Configuration], value: str) -> set[Configuration]:
        """Nobody will ask about a value any more."""
        self._asked.discard(value)
        for steps in (self._open, self._optional):
            steps.update({bit: replace(step, value=OTHER) for bit, step in steps.items() if step.value == value})
        for kind in [kind for kind in self._endless if kind.value == value]:
            other = replace(kind, value=OTHER)
            self._endless[other] = bits = self._endless.get(other, 0) | self._endless.pop(kind)
            configurations = {(state, done, _first(bits, used)) for state, done, used in configurations}
        return {(OTHER if state == value else state, done, used) for state, done, used in configurations}

    def _ended(self, configurations: set[Configuration], bit: int, step: Step) -> set[Configuration]:
        """What the configurations lead to when a step has taken effect at the latest."""
        found = _Frontier((state, done & ~bit, used) for state, done, used in configurations if done & bit)
        self._explore([one for one in configurations if not one[1] & bit], step, found)
        return set(found)

    def _passed(self, configurations: set[Configuration], bit: int, step: Step) -> set[Configuration]:
        """What the configurations lead to when an optional step has taken effect at the latest, or not at all."""
        found = _Frontier((state, done, used & ~bit) for state, done, used in configurations)
        self._explore([one for one in configurations if not one[2] & bit], step, found)
        return set(found)

    def _explore(self, configurations: Iterable[Configuration], step: Step, found: _Frontier) -> None:
        """Find what they lead to if a step takes effect, after any others that are open."""
        met = _Frontier(self._settled(*configuration) for configuration in configurations)
        waiting = deque(met)
        while waiting:
            self._spend()
            state, done, used = waiting.popleft()
            if step.fits(state):
                found.add((step.value if step.writes else state, done, used))
            waiting.extend(after for after in self._next(state, done, used) if met.add(after))

    def _settled(self, state: str | None, done: int, used: int) -> Configuration:
        """With every open step that fits and changes nothing: nobody is worse off for it."""
        for bit, step in self._open.items():
            if not (step.writes or done & bit) and step.fits(state):
                done |= bit
        return state, done, used

    def _next(self, state: str | None, done: int, used: int) -> Iterator[Configuration]:
        """With one more write; of those that do the same, the one that has the least time left."""
        for bit, step in _first_of_each_kind(self._open, done, state):
            yield self._settled(step.value, done | bit, used)
        for bit, step in _first_of_each_kind(self._optional, used, state):
            yield self._settled(step.value, done, used | bit)
        for kind, bits in self._endless.items():
            unused = bits & ~used
            if unused and kind.value != state and kind.fits(state):
                yield self._settled(kind.value, done, used | unused & -unused)

    def _spend(self) -> None:
        self._budget -= 1
        if self._budget < 0:
            raise OutOfBudget


def _first_of_each_kind(steps: dict[int, Step], done: int, state: str | None) -> Iterable[tuple[int, Step]]:
    """The open writes that fit a state, without those that do the same as one that has less time left."""
    first: dict[tuple[Needs, str | None, str | None], tuple[int, Step]] = {}
    for bit, step in steps.items():
        if step.writes and not done & bit and step.fits(state):
            what = step.needs, step.operand, step.value
            if what not in first or step.ended < first[what][1].ended:
                first[what] = bit, step
    return first.values()


class _Frontier:
    """Configurations, without those that are the same as another with more optional steps used."""

    def __init__(self, configurations: Iterable[Configuration]) -> None:
        self._used: dict[tuple[str | None, int], list[int]] = {}
        for configuration in configurations:
            self.add(configuration)

    def add(self, configuration: Configuration) -> bool:
        """Take it in; False if that would change nothing."""
        state, done, used = configuration
        rivals = self._used.setdefault((state, done), [])
        if any(rival & used == rival for rival in rivals):
            return False
        rivals[:] = [rival for rival in rivals if rival & used != used]
        rivals.append(used)
        return True

    def __iter__(self) -> Iterator[Configuration]:
        for (state, done), rivals in self._used.items():
            for used in rivals:
                yield state, done, used


def _first(bits: int, used: int) -> int:
    """As many of the bits as are used, but the first of them."""
    rest = used & ~bits
    for _ in range((used & bits).bit_count()):
        rest |= bits & -bits
        bits &= bits - 1
    return rest
