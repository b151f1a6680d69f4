"""Checks watchers: each receives every change below its key once, in order, in whole revisions, and every loss.

The expected events are in etcd's log.  The events that a watcher received are compared with them one by one; where
they differ, the broken rule is reported, and the comparison continues where they agree again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Final

from tests.faults.checking.expected_events import ExpectedEvents, ExpectedEventsCache, apply, difference_error
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.violation import Violation
from tests.faults.history import (
    Change,
    History,
    Record,
    Resync,
    WatcherState,
    WatchEvent,
    WatchStarted,
    WatchStopped,
)

__all__ = ['check_watchers']

COMPLETE: Final = 'A watcher receives every change.'
ONCE: Final = 'A watcher receives each change once.'
IN_ORDER: Final = 'A watcher receives changes in order.'
WHOLE_REVISIONS: Final = 'A watcher receives whole revisions.'
MATCHES_LOG: Final = 'The events of a watcher are changes in etcd.'
LOSS_REPORTED: Final = 'A watcher reports lost history.'
NO_FALSE_LOSS: Final = 'A watcher reports lost history only if it was lost, or if continuity cannot be proved.'
DIFFERENCE: Final = 'After a loss a watcher receives exactly the differences, in the order of the keys.'

MAX_START_SECONDS: Final = 30.0
"""Seconds before ``on_change`` returned in which it was called, if no state of the watcher was recorded before."""

START_GRACE_SECONDS: Final = 1.0
"""Seconds after ``on_change`` returned in which earlier events are delivered."""

MAX_COMPARISON_POINTS: Final = 500
"""Maximal number of revisions to try for a comparison without an index."""

Received = WatchEvent | Resync


def check_watchers(history: History) -> list[Violation]:
    """Compare the events of each watcher with the log."""
    log = log_of(history)
    cache = ExpectedEventsCache(log)
    stopped = {record.watcher: record for record in history.of(WatchStopped)}
    received: dict[str, list[Received]] = defaultdict(list)
    first_states: dict[str, float] = {}
    for state in history.of(WatcherState):
        first_states.setdefault(state.watcher, state.at)
    for record in history:
        if isinstance(record, WatchEvent | Resync):
            received[record.watcher].append(record)
    found: list[Violation] = []
    for watched in history.of(WatchStarted):
        # A watcher that was started during a wipe may have listed the keys of either era.
        begun = min(first_states.get(watched.watcher, watched.at), watched.at - MAX_START_SECONDS)
        replays = [_Replay(log, cache, watched, era, begun) for era in log.eras_of(watched.at, watched.at)]
        for replay in replays:
            replay.replay_all(received[watched.watcher], stopped.get(watched.watcher))
        found += _fewest_violations(replays).violations
    return found


class _Replay:
    """The events that a watcher received, compared with the expected ones.

    Args:
        log: The log.
        cache: The expected events.
        watched: The watcher.
        era: The era in which it was started.
        begun: The time from which on it may have listed the keys.

    Attributes:
        violations: The violations.
    """

    def __init__(self, log: Log, cache: ExpectedEventsCache, watched: WatchStarted, era: Era, begun: float) -> None:
        self.violations: list[Violation] = []
        self._log = log
        self._cache = cache
        self._watched = watched
        self._begun = begun
        self._expected = cache.of(era, watched.key)
        self._next = self._expected.after(watched.revision)
        self._known = self._expected.state(self._next)  # the keys as the watcher knows them
        self._revision = watched.revision  # up to which the watcher has received changes
        self._compared_at = self._next  # the position of its last listing
        self._has_started = False
        self._missed: set[int] = set()  # positions that it skipped
        self._received_at: dict[int, WatchEvent] = {}  # by position
        self._difference: list[WatchEvent] = []  # results of a resync that was not reported yet

    def replay_all(self, received: Sequence[Received], stopped: WatchStopped | None) -> None:
        """Compare all events."""
        for number, record in enumerate(received):
            if isinstance(record, Resync):
                later = received[number + 1 :]
                positions = self._comparison_points(record, later)
                if len(positions) > 1:
                    replays = [self._replay_rest(record, *position, later, stopped) for position in positions]
                    self.violations = _fewest_violations(replays).violations
                    return
                self._resume(record, *positions[0])
            elif record.resync:
                self._difference.append(record)
            else:
                self._check_no_difference(record)
                self._on_change(record)
        self._on_end(stopped)

    def _replay_rest(
        self,
        received: Resync,
        expected: ExpectedEvents,
        end: int,
        later: Sequence[Received],
        stopped: WatchStopped | None,
    ) -> _Replay:
        """Return the comparison of the rest, assuming that a resync was made at a position."""
        replay = copy(self)
        for attribute in ('violations', '_missed', '_received_at', '_difference'):
            setattr(replay, attribute, copy(getattr(self, attribute)))
        replay._resume(received, expected, end)
        replay.replay_all(later, stopped)
        return replay

    def _on_end(self, stopped: WatchStopped | None) -> None:
        """Check that nothing is missing at the end."""
        for later in self._cache.later(self._expected, self._watched.key):
            if self._is_indistinguishable(later):
                self._continue_in(later, self._position_in(later))
        if stopped is None:
            self._check_no_difference()
            self._missed.update(range(self._next, len(self._expected.changes)))
        self._report_missed()
        number = self._expected.era.number
        if stopped is None and number < len(self._log.eras) - 1:
            self._report(LOSS_REPORTED, f'era {number} had ended', self._watched, self._last_event())

    def _report(self, rule: str, text: str, *piece: Record | None) -> None:
        self.violations.append(Violation.of(rule, f'{self._watched.watcher}: {text}', *piece))

    def _last_event(self) -> WatchEvent | None:
        return self._received_at.get(self._next - 1)

    # -- changes

    def _on_change(self, event: WatchEvent) -> None:
        position = self._position_of(event)
        if position is None:
            return
        change = self._expected.changes[position]
        if change.value != event.value:
            text = f'{event.key} became {change.value!r} at revision {event.revision}, not {event.value!r}'
            self._report(MATCHES_LOG, text, change, event)
        if not self._has_started and position < self._next:
            self._next, self._known = (
                position,
                self._expected.state(position),
            )  # it received an event that it need not have
        self._has_started = True
        if position >= self._next:
            self._missed.update(range(self._next, position))
            self._received_at[position] = event
            self._next, self._revision = position + 1, event.revision
            apply(self._known, change)
        elif position in self._missed:
            self._missed.discard(position)
            apply(self._known, change)
            self._report(
                IN_ORDER, f'revision {event.revision} of {event.key} was received late', self._last_event(), event
            )
        else:
            text = f'revision {event.revision} of {event.key} was received again'
            self._report(ONCE, text, self._received_at.get(position), event)

    def _position_of(self, event: WatchEvent) -> int | None:
        """Return the position of an event in the log, or None."""
        position = self._expected.position_of(event)
        if not self._expected.has(event):
            for later in self._cache.later(self._expected, self._watched.key):
                if later.has(event):
                    if self._is_indistinguishable(later):
                        self._continue_in(later, self._position_in(later))
                        return later.position_of(event)
                    text = f'era {self._expected.era.number} had ended, but no resync was reported'
                    self._report(LOSS_REPORTED, text, self._last_event(), event)
                    position = later.position_of(event)
                    self._continue_in(later, position or 0)
                    return position
        if position is None:
            self._report(MATCHES_LOG, f'{event.key} was not changed at revision {event.revision}', event)
        return position

    def _is_indistinguishable(self, expected: ExpectedEvents) -> bool:
        """Return whether a later era cannot be distinguished from this one by what the watcher received.

        Both have no keys; or all that the watcher had received is in the restored backup.
        """
        received = self._expected.changes[self._next - 1].revision if self._next else 0
        shared = self._cache.shared(self._expected, expected)
        if shared and received <= shared:
            return True
        return not self._known and not expected.state(expected.after(self._revision))

    def _position_in(self, expected: ExpectedEvents) -> int:
        """Return the position at which the watcher continues in an indistinguishable era."""
        shared = self._cache.shared(self._expected, expected)
        return expected.after(min(self._revision, shared) if shared else self._revision)

    def _continue_in(self, expected: ExpectedEvents, position: int) -> None:
        """Continue at a position of an era."""
        self._report_missed()
        self._expected, self._next, self._known = expected, position, expected.state(position)
        self._revision = expected.changes[position - 1].revision if position else 1
        self._received_at.clear()

    # -- what was never received

    def _report_missed(self) -> None:
        """Report skipped changes that were not delivered later."""
        for _, group in groupby(enumerate(sorted(self._missed)), key=lambda numbered: numbered[1] - numbered[0]):
            positions = [position for _, position in group]
            self._report_gap(positions[0], positions[-1])
        self._missed.clear()

    def _report_gap(self, first: int, last: int) -> None:
        gap = self._expected.changes[first : last + 1]
        before, after = self._received_at.get(first - 1), self._received_at.get(last + 1)
        text = f'{len(gap)} changes were never received, starting at revision {gap[0].revision}'
        self._report(self._gap_rule(gap, before, after), text, before, gap[0], *gap[1:][-1:], after)

    def _gap_rule(self, gap: list[Change], before: WatchEvent | None, after: WatchEvent | None) -> str:
        if (before and before.revision == gap[0].revision) or (after and after.revision == gap[-1].revision):
            return WHOLE_REVISIONS
        if after is None:
            return COMPLETE
        compacted = self._log.compaction_beyond(self._expected.era, gap[0].revision, after.at)
        return COMPLETE if compacted is None or compacted > after.revision else LOSS_REPORTED

    # -- losses

    def _check_no_difference(self, *after: WatchEvent) -> None:
        if self._difference:
            self._report(LOSS_REPORTED, 'results were received without a resync', self._difference[0], *after)
            self._difference = []

    def _comparison_points(self, received: Resync, later: Sequence[Received]) -> list[tuple[ExpectedEvents, int]]:
        """Return the possible positions of the comparison of a resync; at least one."""
        results, self._difference = self._difference, []
        cache = self._possible_eras(received)
        fitting: list[tuple[ExpectedEvents, int]] = []
        errors: list[str] = []
        for expected in cache:
            for end in self._possible_positions(expected, results, received, later):
                error = difference_error(results, self._known, expected.state(end))
                if error is not None and self._may_have_begun_before(received):
                    error = difference_error(results, None, expected.state(end))
                if error is None:
                    fitting.append((expected, end))
                    break
                errors.append(error)
        if fitting:
            return fitting
        if errors:
            self._report(DIFFERENCE, errors[0], self._last_event(), *results[:3], received)
        else:
            text = f'nothing was wiped or compacted after revision {self._revision}, the last one received'
            self._report(NO_FALSE_LOSS, text, self._last_event(), *results[:1], received)
        expected = cache[-1] if cache else self._expected
        return [(expected, next(self._possible_positions(expected, results, received, later)))]

    def _resume(self, received: Resync, expected: ExpectedEvents, end: int) -> None:
        self._continue_in(expected, end)
        self._has_started = True
        self._compared_at = end

    def _may_have_lost_proof(self, received: Resync) -> bool:
        """Return whether nothing that the watcher knew could prove that the store is the same.

        The proof is the last change that it received.  Before the first one it is the latest value that it listed,
        which may be much older than the listing: a deleted key is not listed, and a value with a TTL proves nothing.
        """
        if self._next > self._compared_at:
            proof = self._expected.changes[self._next - 1].revision
        elif self._known:
            proof = max((change.revision for change in self._known.values() if not change.lease), default=0)
            if not proof:
                return True
        else:
            proof = self._revision
        return self._log.compaction_beyond(self._expected.era, proof, received.at) is not None

    def _possible_eras(self, received: Resync) -> list[ExpectedEvents]:
        """Return the eras that the watcher may have compared with; empty if it had lost nothing."""
        later = [
            expected
            for expected in self._cache.later(self._expected, self._watched.key)
            if expected.era.began <= received.at
        ]  # fmt: skip
        is_own = self._may_have_lost_proof(received) or self._may_have_begun_before(received)
        return [self._expected, *later] if is_own else later

    def _may_have_begun_before(self, received: Resync) -> bool:
        """Return whether ``on_change`` may have listed the keys, lost history, and returned later."""
        is_early = not self._has_started and received.at <= self._watched.at + START_GRACE_SECONDS
        return is_early and self._log.has_lost(self._begun, received.at)

    def _possible_positions(
        self, expected: ExpectedEvents, results: list[WatchEvent], received: Resync, later: Sequence[Received]
    ) -> Iterator[int]:
        """Yield possible positions of the first change after the comparison, the likely ones first.

        Results have the index.  Without results, the comparison was before the next event.  Without an event it may
        have been at any time, because the index of a watcher may be ahead of its callback.
        """
        next_event = next(iter(later), None)
        index = next((result.index for result in results), None)
        if index is not None:
            yield expected.after(index)
        elif isinstance(next_event, WatchEvent) and not next_event.resync and expected.has(next_event):
            yield expected.position_of(next_event) or 0
            yield expected.after(received.revision)
        else:
            yield expected.after(received.revision)
            yield from range(len(expected.changes), -1, -1)[:MAX_COMPARISON_POINTS]


def _fewest_violations(replays: Sequence[_Replay]) -> _Replay:
    """Return the replay with the fewest violations."""
    return min(replays, key=lambda replay: len(replay.violations))
