"""Staleness: a watcher or mirror that says LIVE has received what etcd had, up to a bound.

What it has received is its index.  It may have been told less, since a slow callback may be so many changes behind.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.checking.expected_events import Routes
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.service import Service
from tests.faults.checking.violation import Violation
from tests.faults.history import Fault, History, State, Unwatched, Watched

__all__ = ['check_staleness']

CAUGHT_UP: Final = (
    'A watcher that becomes LIVE has received what etcd had before it began to catch up, if all ways were well.'
)
FRESH: Final = 'A watcher that says LIVE has received every change that etcd had some time before.'
POSSIBLE: Final = 'A watcher that says LIVE some time after etcd lost its data is not ahead of etcd.'

BOUND: Final = 22.0
"""Seconds after which a watcher has to notice that nothing arrives any more."""

TRANSIT: Final = 1.0
"""Seconds that a change takes at most to a client that is well served."""


def check_staleness(history: History) -> list[Violation]:
    """Compare the index of each watcher, whenever it said LIVE, with the log."""
    log = log_of(history)
    routes = Routes(log)
    service = Service(history)
    faults = history.of(Fault)
    stopped = {record.watcher: record.at for record in history.of(Unwatched)}
    states: dict[str, list[State]] = defaultdict(list)
    for state in history.of(State):
        if state.at < stopped.get(state.watcher, math.inf):
            states[state.watcher].append(state)
    found = []
    for watched in history.of(Watched):
        troubles = [fault for fault in faults if f'of {watched.client} ' in f'{fault.target} ']
        for violation in _violations(watched, states[watched.watcher], log, routes, service, troubles):
            found.append(violation)
            break  # the first one says it
    return found


def _violations(
    watched: Watched, states: list[State], log: Log, routes: Routes, service: Service, troubles: list[Fault]
) -> Iterator[Violation]:
    stale: State | None = None  # the first of the states since it was LIVE
    for state in states:
        if not state.is_live:
            stale = stale or state
            continue
        if stale is not None and _is_well_served(watched, stale.at - TRANSIT, state.at, service, troubles):
            yield from _missing(CAUGHT_UP, watched, stale, state, stale.at - TRANSIT, log, routes)
        yield from _missing(FRESH, watched, None, state, state.at - BOUND, log, routes)
        yield from _ahead(watched, state, log)
        stale = None


def _is_well_served(watched: Watched, began: float, ended: float, service: Service, troubles: list[Fault]) -> bool:
    """True if no way of the client had a fault, and every member served: nothing can be on its way for long.

    A watcher may join one that is LIVE and has not noticed yet that nothing arrives.
    """
    if any(fault.began <= ended and began <= fault.ended for fault in troubles):
        return False
    return any(
        stretch == (began, ended) and not impaired
        for stretch, impaired in service.stretches(watched.client, began, ended)
    )


def _missing(
    rule: str, watched: Watched, stale: State | None, live: State, since: float, log: Log, routes: Routes
) -> Iterator[Violation]:
    """The first change that is known to have been made by then, and that the watcher had not received."""
    era = _era_of(since, live.at, log)
    if era is None:
        return
    route = routes.of(era, watched.key)
    place = route.after(max(live.index, watched.revision))
    known = era.timeline.reached_before(since)
    if place < len(route.changes) and route.changes[place].revision <= known:
        change = route.changes[place]
        text = (
            f'{watched.watcher} was LIVE at {live.at:.3f} with index {live.index}, and revision {change.revision} of '
            f'{change.key} was there before {since:.3f}'
        )
        yield Violation.of(rule, text, change, era.timeline.witness_before(since), stale, live)


def _ahead(watched: Watched, live: State, log: Log) -> Iterator[Violation]:
    era = _era_of(live.at - BOUND, live.at, log)
    if era is not None and live.index > era.timeline.not_passed_at(live.at):
        text = f'{watched.watcher} was LIVE at {live.at:.3f} with index {live.index}, which etcd did not have'
        yield Violation.of(POSSIBLE, text, live, era.timeline.witness_after(live.at))


def _era_of(began: float, ended: float, log: Log) -> Era | None:
    """The era that all of this time was in; None if there is none, for indices of two eras cannot be compared."""
    return next((era for era in log.eras if era.answered(began, ended)), None)
