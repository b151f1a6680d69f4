"""What is known of when the revisions of one era happened.

etcd numbers its changes, and says with every answer how far it was.  So every answer is a mark on the time line:

- whatever its revision, that had happened when the answer was there;
- if it was linearizable, which the probes' are, whatever came later had not happened yet when the request was made.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.faults.history import Record

__all__ = ['Answer', 'Timeline']


@dataclass(frozen=True, slots=True)
class Answer:
    """How far etcd was.

    Attributes:
        began: When it was asked for; minus infinity if it may be about the past.
        ended: When it was there.
        revision: Of the store.
        record: What says so.
    """

    began: float
    ended: float
    revision: int
    record: Record


class Timeline:
    """When the revisions of one era happened, as far as is known.

    Args:
        answers: All there are.
        began: Before it nothing of the era happened.
    """

    def __init__(self, answers: Sequence[Answer], began: float) -> None:
        self._answers = answers
        current = [answer for answer in answers if answer.began > -math.inf]
        self._began = began
        self._ended_from = _Steps([(answer.revision, answer.ended) for answer in answers], min, from_the_end=True)
        self._began_up_to = _Steps([(answer.revision, answer.began) for answer in current], max)
        self._revision_before = _Steps([(answer.ended, answer.revision) for answer in answers], max)
        self._revision_after = _Steps([(answer.began, answer.revision) for answer in current], min, from_the_end=True)

    def happened_by(self, revision: int) -> float:
        """The first time at which it is known to have happened; infinity if it is not known."""
        return self._ended_from.at_or_after(revision, math.inf)

    def not_yet_at(self, revision: int) -> float:
        """The last time at which it is known not to have happened."""
        return self._began_up_to.before(revision, self._began)

    def reached_before(self, time: float) -> int:
        """The last revision that is known to have happened before this time."""
        return int(self._revision_before.before(time, 0))

    def not_passed_at(self, time: float) -> float:
        """The first revision that etcd is known not to have gone beyond at this time; infinity if none is known."""
        return self._revision_after.after(time, math.inf)

    def witness_of(self, revision: int) -> Record | None:
        """What is first to say that it has happened."""
        told = (answer for answer in self._answers if answer.revision >= revision)
        return _record(min(told, key=lambda answer: answer.ended, default=None))

    def witness_before(self, time: float) -> Record | None:
        """What says how far etcd was before a time."""
        told = (answer for answer in self._answers if answer.ended < time)
        return _record(max(told, key=lambda answer: answer.revision, default=None))

    def witness_after(self, time: float) -> Record | None:
        """What says how far etcd was not at a time: it was asked after it."""
        told = (answer for answer in self._answers if answer.began > time)
        return _record(min(told, key=lambda answer: answer.revision, default=None))


def _record(answer: Answer | None) -> Record | None:
    return None if answer is None else answer.record


class _Steps:
    """The best that is found up to a place, or from a place to the end."""

    def __init__(
        self,
        points: list[tuple[float, float]],
        best: Callable[[float, float], float],
        *,
        from_the_end: bool = False,
    ) -> None:
        points.sort()
        self._places = [place for place, _ in points]
        marks = [mark for _, mark in points]
        if from_the_end:
            self._bests = list(accumulate(reversed(marks), best))[::-1]
        else:
            self._bests = list(accumulate(marks, best))

    def before(self, place: float, default: float) -> float:
        found = bisect_left(self._places, place)
        return self._bests[found - 1] if found else default

    def at_or_after(self, place: float, default: float) -> float:
        found = bisect_left(self._places, place)
        return self._bests[found] if found < len(self._bests) else default

    def after(self, place: float, default: float) -> float:
        found = bisect_right(self._places, place)
        return self._bests[found] if found < len(self._bests) else default
