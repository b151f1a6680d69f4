"""Checks the state LIVE: such a watcher or mirror has received what etcd had, up to a delay.

Its index says what it has received.  Its callback may be behind, because callbacks may block.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.expected_events import ExpectedEventsCache
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.service import Service
from tests.faults.checking.violation import Violation
from tests.faults.history import Fault, History, WatcherState, WatchStarted, WatchStopped

__all__ = ['check_staleness']

CAUGHT_UP: Final = (
    'A watcher that becomes LIVE has received all changes before it began to catch up, if all links worked.'
)
FRESH: Final = 'A watcher that reports LIVE has received every change up to the detection time.'
NOT_AHEAD: Final = 'A watcher that reports LIVE some time after a loss of data is not ahead of etcd.'

DETECTION_SECONDS: Final = 22.0
"""Seconds in which a watcher has to detect that nothing is received any more."""

TRANSIT_SECONDS: Final = 1.0
"""Maximal seconds for a change to reach a client whose links work."""


def check_staleness(history: History) -> list[Violation]:
    """Compare the index of each watcher with the log, for each sample with state LIVE."""
    log = log_of(history)
    expected_events = ExpectedEventsCache(log)
    service = Service(history)
    faults = history.of(Fault)
    stopped = {record.watcher: record.at for record in history.of(WatchStopped)}
    states: dict[str, list[WatcherState]] = defaultdict(list)
    for state in history.of(WatcherState):
        if state.at < stopped.get(state.watcher, math.inf):
            states[state.watcher].append(state)
    found = []
    for watched in history.of(WatchStarted):
        link_faults = [fault for fault in faults if f'of {watched.client} ' in f'{fault.target} ']
        for violation in _violations(watched, states[watched.watcher], log, expected_events, service, link_faults):
            found.append(violation)
            break  # one violation for each watcher is enough
    return found


def _violations(
    watched: WatchStarted,
    states: list[WatcherState],
    log: Log,
    expected_events: ExpectedEventsCache,
    service: Service,
    link_faults: list[Fault],
) -> Iterator[Violation]:
    stale: WatcherState | None = None  # the first sample since it was LIVE
    for state in states:
        if not state.is_live:
            stale = stale or state
            continue
        if stale is not None and _is_well_served(watched, stale.at - TRANSIT_SECONDS, state.at, service, link_faults):
            yield from _missing_change(
                CAUGHT_UP, watched, stale, state, stale.at - TRANSIT_SECONDS, log, expected_events
            )
        yield from _missing_change(FRESH, watched, None, state, state.at - DETECTION_SECONDS, log, expected_events)
        yield from _ahead(watched, state, log)
        stale = None


def _is_well_served(
    watched: WatchStarted, began: float, ended: float, service: Service, link_faults: list[Fault]
) -> bool:
    """Return whether no link of the client had a fault, and every member answered, so that nothing is delayed.

    Otherwise a watcher may join a shared watch that is LIVE and has not detected a failure yet.
    """
    if any(fault.began <= ended and began <= fault.ended for fault in link_faults):
        return False
    return any(
        interval == (began, ended) and not impaired
        for interval, impaired in service.intervals(watched.client, began, ended)
    )


def _missing_change(
    rule: str,
    watched: WatchStarted,
    stale: WatcherState | None,
    live: WatcherState,
    since: float,
    log: Log,
    expected_events: ExpectedEventsCache,
) -> Iterator[Violation]:
    """Report the first change before a time that the watcher had not received."""
    era = _era_of(since, live.at, log)
    if era is None:
        return
    expected = expected_events.of(era, watched.key)
    position = expected.after(max(live.index, watched.revision))
    known = era.timeline.reached_before(since)
    if position < len(expected.changes) and expected.changes[position].revision <= known:
        change = expected.changes[position]
        text = (
            f'{watched.watcher} was LIVE at {live.at:.3f} with index {live.index}, but revision {change.revision} of '
            f'{change.key} had happened before {since:.3f}'
        )
        yield Violation.of(rule, text, change, era.timeline.evidence_before(since), stale, live)


def _ahead(watched: WatchStarted, live: WatcherState, log: Log) -> Iterator[Violation]:
    era = _era_of(live.at - DETECTION_SECONDS, live.at, log)
    if era is not None and live.index > era.timeline.not_passed_at(live.at):
        text = (
            f'{watched.watcher} was LIVE at {live.at:.3f} with index {live.index}, which is above the revision of etcd'
        )
        yield Violation.of(NOT_AHEAD, text, live, era.timeline.evidence_after(live.at))


def _era_of(began: float, ended: float, log: Log) -> Era | None:
    """Return the only era of a span of time; None if there are several, because their indices are not comparable."""
    return next((era for era in log.eras if era.answers_only(began, ended)), None)
