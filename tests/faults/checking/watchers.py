"""Watchers: each is told every change below its key, in order, once and whole, and of every loss of history.

What a watcher should have been told is in etcd's log.  Its own story is read beside that, record by record; where the
two part, the rule is named that was broken, and reading goes on where they meet again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Final

from tests.faults.checking.expected_events import Route, Routes, fault_of_difference, take
from tests.faults.checking.log import Era, Log, log_of
from tests.faults.checking.violation import Violation
from tests.faults.history import Change, History, Record, Resync, Seen, Unwatched, Watched

__all__ = ['check_watchers']

EVERYTHING: Final = 'A watcher is told every change.'
ONCE: Final = 'A watcher is told each change once.'
IN_ORDER: Final = 'A watcher is told changes in their order.'
WHOLE: Final = 'A watcher is told whole revisions.'
TRUE: Final = 'A watcher is told what etcd has.'
LOSS_IS_TOLD: Final = 'A watcher says so when history was lost.'
LOSS_IS_TRUE: Final = 'A watcher says that history was lost only if it was, or if nothing can show that it was not.'
DIFFERENCE: Final = 'After a loss a watcher is told exactly what is different, in the order of the keys.'

BEGINNING: Final = 30.0
"""Seconds that ``on_change`` may have waited for: what it had found at first may be of before a loss since then."""

MOMENT: Final = 1.0
"""Seconds after ``on_change`` returned within which what had happened before is told."""

MOST_ENDS: Final = 500
"""Revisions that a comparison is tried with, where nothing tells its own."""

Told = Seen | Resync


def check_watchers(history: History) -> list[Violation]:
    """Compare what each watcher was told with the log."""
    log = log_of(history)
    routes = Routes(log)
    stopped = {record.watcher: record for record in history.of(Unwatched)}
    told: dict[str, list[Told]] = defaultdict(list)
    for record in history:
        if isinstance(record, Seen | Resync):
            told[record.watcher].append(record)
    found: list[Violation] = []
    for watched in history.of(Watched):
        # One that was begun during a wipe may have seen the end of the one era or the beginning of the next.
        stories = [_Story(log, routes, watched, era) for era in log.eras_of(watched.at, watched.at)]
        for story in stories:
            story.read(told[watched.watcher], stopped.get(watched.watcher))
        found += _best(stories).violations
    return found


class _Story:
    """What one watcher was told, beside what it should have been.

    Attributes:
        violations: What is wrong with it.
    """

    def __init__(self, log: Log, routes: Routes, watched: Watched, era: Era) -> None:
        self.violations: list[Violation] = []
        self._log = log
        self._routes = routes
        self._watched = watched
        self._route = routes.of(era, watched.key)
        self._next = self._route.after(watched.revision)
        self._known = self._route.state(self._next)  # what is there as far as it was told
        self._revision = watched.revision  # up to where it was told
        self._accounted = 0  # the compaction that it has told as a loss
        self._has_begun = False
        self._missed: set[int] = set()  # places that it passed over
        self._told_at: dict[int, Seen] = {}  # by place
        self._difference: list[Seen] = []  # told, and not yet said why

    def read(self, told: Sequence[Told], stopped: Unwatched | None) -> None:
        """Read what it was told, to the end."""
        for number, record in enumerate(told):
            if isinstance(record, Resync):
                later = told[number + 1 :]
                places = self._compared_at(record, later)
                if len(places) > 1:
                    stories = [self._read_on(record, *place, later, stopped) for place in places]
                    self.violations = _best(stories).violations
                    return
                self._resume(record, *places[0])
            elif record.resync:
                self._difference.append(record)
            else:
                self._expect_no_difference(record)
                self._change(record)
        self._end(stopped)

    def _read_on(
        self, told: Resync, route: Route, end: int, later: Sequence[Told], stopped: Unwatched | None
    ) -> _Story:
        """How it goes on if that is where it was compared: what is told later shows whether it was."""
        story = copy(self)
        for attribute in ('violations', '_missed', '_told_at', '_difference'):
            setattr(story, attribute, copy(getattr(self, attribute)))
        story._resume(told, route, end)
        story.read(later, stopped)
        return story

    def _end(self, stopped: Unwatched | None) -> None:
        """It was told no more.  Was that all?"""
        for later in self._routes.following(self._route, self._watched.key):
            if self._looks_the_same(later):
                self._go_on(later, self._place_in(later))
        if stopped is None:
            self._expect_no_difference()
            self._missed.update(range(self._next, len(self._route.changes)))
        self._settle()
        number = self._route.era.number
        if stopped is None and number < len(self._log.eras) - 1:
            self._break(LOSS_IS_TOLD, f'era {number} was over', self._watched, self._latest())

    def _break(self, rule: str, text: str, *piece: Record | None) -> None:
        self.violations.append(Violation.of(rule, f'{self._watched.watcher}: {text}', *piece))

    def _latest(self) -> Seen | None:
        return self._told_at.get(self._next - 1)

    # -- changes

    def _change(self, seen: Seen) -> None:
        place = self._place_of(seen)
        if place is None:
            return
        change = self._route.changes[place]
        if change.value != seen.value:
            text = f'{seen.key} became {change.value!r} at revision {seen.revision}, and not {seen.value!r}'
            self._break(TRUE, text, change, seen)
        if not self._has_begun and place < self._next:
            self._next, self._known = place, self._route.state(place)  # it is told a little more than it has to be
        self._has_begun = True
        if place >= self._next:
            self._missed.update(range(self._next, place))
            self._told_at[place] = seen
            self._next, self._revision = place + 1, seen.revision
            take(self._known, change)
        elif place in self._missed:
            self._missed.discard(place)
            take(self._known, change)
            self._break(IN_ORDER, f'revision {seen.revision} of {seen.key} was told late', self._latest(), seen)
        else:
            text = f'revision {seen.revision} of {seen.key} was told again'
            self._break(ONCE, text, self._told_at.get(place), seen)

    def _place_of(self, seen: Seen) -> int | None:
        """Where it is in the log; None if it is nowhere."""
        place = self._route.place_of(seen)
        if not self._route.has(seen):
            for later in self._routes.following(self._route, self._watched.key):
                if later.has(seen):
                    if self._looks_the_same(later):
                        self._go_on(later, self._place_in(later))
                        return later.place_of(seen)
                    text = f'era {self._route.era.number} was over, and it went on as if it had not been'
                    self._break(LOSS_IS_TOLD, text, self._latest(), seen)
                    place = later.place_of(seen)
                    self._go_on(later, place or 0)
                    return place
        if place is None:
            self._break(TRUE, f'{seen.key} was not changed at revision {seen.revision}', seen)
        return place

    def _looks_the_same(self, route: Route) -> bool:
        """True if nobody can tell another era from this one, as far as the watcher was told.

        Nothing was there, nor is there in the other era; or all that it was told came with the backup as well.
        """
        told = self._route.changes[self._next - 1].revision if self._next else 0
        shared = self._routes.shared(self._route, route)
        if shared and told <= shared:
            return True
        return not self._known and not route.state(route.after(self._revision))

    def _place_in(self, route: Route) -> int:
        """Where it goes on in a later era that looks the same."""
        shared = self._routes.shared(self._route, route)
        return route.after(min(self._revision, shared) if shared else self._revision)

    def _go_on(self, route: Route, place: int) -> None:
        """Read on from there."""
        self._settle()
        self._route, self._next, self._known = route, place, route.state(place)
        self._revision = route.changes[place - 1].revision if place else 1
        self._told_at.clear()

    # -- what was never told

    def _settle(self) -> None:
        """Name what was passed over and did not come later."""
        for _, group in groupby(enumerate(sorted(self._missed)), key=lambda numbered: numbered[1] - numbered[0]):
            places = [place for _, place in group]
            self._name_gap(places[0], places[-1])
        self._missed.clear()

    def _name_gap(self, first: int, last: int) -> None:
        gap = self._route.changes[first : last + 1]
        before, after = self._told_at.get(first - 1), self._told_at.get(last + 1)
        text = f'{len(gap)} changes were never told, from revision {gap[0].revision} on'
        self._break(self._rule_of_gap(gap, before, after), text, before, gap[0], *gap[1:][-1:], after)

    def _rule_of_gap(self, gap: list[Change], before: Seen | None, after: Seen | None) -> str:
        if (before and before.revision == gap[0].revision) or (after and after.revision == gap[-1].revision):
            return WHOLE
        if after is None:
            return EVERYTHING
        compacted = self._log.compaction_beyond(self._route.era, gap[0].revision, after.at)
        return EVERYTHING if compacted is None or compacted > after.revision else LOSS_IS_TOLD

    # -- losses

    def _expect_no_difference(self, *after: Seen) -> None:
        if self._difference:
            self._break(LOSS_IS_TOLD, 'a difference was told, and not why', self._difference[0], *after)
            self._difference = []

    def _compared_at(self, told: Resync, later: Sequence[Told]) -> list[tuple[Route, int]]:
        """It said that history was lost, after it told the difference: where that may be from, one place at least."""
        results, self._difference = self._difference, []
        routes = self._possible_routes(told)
        fitting: list[tuple[Route, int]] = []
        faults: list[str] = []
        for route in routes:
            for end in self._possible_ends(route, results, told, later):
                fault = fault_of_difference(results, self._known, route.state(end))
                if fault is not None and self._may_have_begun_before(told):
                    fault = fault_of_difference(results, None, route.state(end))
                if fault is None:
                    fitting.append((route, end))
                    break
                faults.append(fault)
        if fitting:
            return fitting
        if faults:
            self._break(DIFFERENCE, faults[0], self._latest(), *results[:3], told)
        else:
            text = f'nothing was wiped, nor compacted beyond revision {self._revision}, to where it had been told'
            self._break(LOSS_IS_TRUE, text, self._latest(), *results[:1], told)
        route = routes[-1] if routes else self._route
        return [(route, next(self._possible_ends(route, results, told, later)))]

    def _resume(self, told: Resync, route: Route, end: int) -> None:
        compacted = self._lost_up_to(told) if route is self._route else None
        self._go_on(route, end)
        self._has_begun = True
        self._accounted = compacted or 0

    def _lost_up_to(self, told: Resync) -> int | None:
        """The revision before which etcd had forgotten the latest change that was known; None if it had not.

        Only that change can show that the store is still the same.
        """
        latest = self._route.changes[self._next - 1].revision if self._next else self._revision
        return self._log.compaction_beyond(self._route.era, max(latest, self._accounted), told.at)

    def _possible_routes(self, told: Resync) -> list[Route]:
        """The eras that it may have compared with; none if it had lost nothing."""
        later = [
            route
            for route in self._routes.following(self._route, self._watched.key)
            if route.era.began <= told.at
        ]  # fmt: skip
        is_own = self._lost_up_to(told) is not None or self._may_have_begun_before(told)
        return [self._route, *later] if is_own else later

    def _may_have_begun_before(self, told: Resync) -> bool:
        """True if ``on_change`` may have found what there was, lost that, and returned after that."""
        begin = self._watched.at - BEGINNING
        is_early = not self._has_begun and told.at <= self._watched.at + MOMENT
        return is_early and self._log.has_lost(begin, told.at)

    def _possible_ends(self, route: Route, results: list[Seen], told: Resync, later: Sequence[Told]) -> Iterator[int]:
        """Places of the first change after the comparison, the likely ones first.

        Its results tell.  Where there is none, it was before whatever was told next.  If nothing was it can have been
        at any time: the index of a watcher may be beyond what its callback was told.
        """
        following = next(iter(later), None)
        index = next((result.index for result in results), None)
        if index is not None:
            yield route.after(index)
        elif isinstance(following, Seen) and not following.resync and route.has(following):
            yield route.place_of(following) or 0
            yield route.after(told.revision)
        else:
            yield route.after(told.revision)
            yield from range(len(route.changes), -1, -1)[:MOST_ENDS]


def _best(stories: Sequence[_Story]) -> _Story:
    """The one with the fewest faults."""
    return min(stories, key=lambda story: len(story.violations))
