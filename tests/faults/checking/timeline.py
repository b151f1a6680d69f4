"""Bounds for the time of each revision of an era.

Every response of etcd has the current revision, so every response is a sample:

- That revision had happened when the response was received.
- If the response was linearizable (those of probes are), later revisions had not happened when the request was made.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from tests.faults.history import Record

__all__ = ['RevisionSample', 'Timeline']


@dataclass(frozen=True, slots=True)
class RevisionSample:
    """A sample of etcd's revision.

    Attributes:
        began: When the request was made; minus infinity if the response may be stale.
        ended: When the response was received.
        revision: The revision of the store.
        record: The record of the response.
    """

    began: float
    ended: float
    revision: int
    record: Record


class Timeline:
    """Bounds for the time of each revision.

    Args:
        samples: All samples.
        began: The start of the era.
    """

    def __init__(self, samples: Sequence[RevisionSample], began: float) -> None:
        self._samples = samples
        current = [sample for sample in samples if sample.began > -math.inf]
        self._began = began
        self._ended_from = _RunningBest([(sample.revision, sample.ended) for sample in samples], min, from_the_end=True)
        self._began_up_to = _RunningBest([(sample.revision, sample.began) for sample in current], max)
        self._revision_before = _RunningBest([(sample.ended, sample.revision) for sample in samples], max)
        self._revision_after = _RunningBest(
            [(sample.began, sample.revision) for sample in current], min, from_the_end=True
        )

    def happened_by(self, revision: int) -> float:
        """Return the first time at which a revision had certainly happened; infinity if unknown."""
        return self._ended_from.at_or_after(revision, math.inf)

    def not_yet_at(self, revision: int) -> float:
        """Return the latest time at which a revision had certainly not happened."""
        return self._began_up_to.before(revision, self._began)

    def reached_before(self, time: float) -> int:
        """Return the latest revision that had certainly happened before a time."""
        return int(self._revision_before.before(time, 0))

    def not_passed_at(self, time: float) -> float:
        """Return the smallest revision that etcd had certainly not passed at a time; infinity if unknown."""
        return self._revision_after.after(time, math.inf)

    def evidence_of(self, revision: int) -> Record | None:
        """Return the first record that shows that a revision had happened."""
        answers = (sample for sample in self._samples if sample.revision >= revision)
        return _record(min(answers, key=lambda sample: sample.ended, default=None))

    def evidence_before(self, time: float) -> Record | None:
        """Return the record with the latest revision before a time."""
        answers = (sample for sample in self._samples if sample.ended < time)
        return _record(max(answers, key=lambda sample: sample.revision, default=None))

    def evidence_after(self, time: float) -> Record | None:
        """Return the record after a time that shows the smallest upper bound."""
        answers = (sample for sample in self._samples if sample.began > time)
        return _record(min(answers, key=lambda sample: sample.revision, default=None))


def _record(sample: RevisionSample | None) -> Record | None:
    return None if sample is None else sample.record


class _RunningBest:
    """The best value up to a position, or from a position on."""

    def __init__(
        self,
        points: list[tuple[float, float]],
        best: Callable[[float, float], float],
        *,
        from_the_end: bool = False,
    ) -> None:
        points.sort()
        self._positions = [position for position, _ in points]
        marks = [mark for _, mark in points]
        if from_the_end:
            self._bests = list(accumulate(reversed(marks), best))[::-1]
        else:
            self._bests = list(accumulate(marks, best))

    def before(self, position: float, default: float) -> float:
        found = bisect_left(self._positions, position)
        return self._bests[found - 1] if found else default

    def at_or_after(self, position: float, default: float) -> float:
        found = bisect_left(self._positions, position)
        return self._bests[found] if found < len(self._bests) else default

    def after(self, position: float, default: float) -> float:
        found = bisect_right(self._positions, position)
        return self._bests[found] if found < len(self._bests) else default
