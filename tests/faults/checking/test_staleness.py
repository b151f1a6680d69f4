"""The checker of states: LIVE is only said where everything was received."""

from __future__ import annotations

import pytest

from tests.faults.checking import staleness as rules
from tests.faults.checking.model_etcd import ToyEtcd
from tests.faults.checking.staleness import check_staleness
from tests.faults.history import Fault, History, State, Unwatched, Watched


class Story:
    """One watcher, what etcd has meanwhile, and which state the watcher says that it is in."""

    def __init__(self) -> None:
        self.etcd = ToyEtcd()
        self.etcd.commit({'/w/a': 'a1'})
        self.etcd.serve(0.5)
        self.say(False, 0)
        self.watcher = self.etcd.watch('w', '/w', client='a')
        self.etcd.serve(0.5)

    def say(self, is_live: bool, index: int) -> None:
        """The watcher says how it is."""
        self.etcd.history.add(State('w', self.etcd.now, is_live, index))

    def change(self, key: str = '/w/a', seconds: float = 0.5) -> int:
        """Something happens, and is known to have happened some time later."""
        revision = self.etcd.commit({key: f'{self.etcd.revision}'})
        self.etcd.serve(seconds)
        return revision

    def broken(self) -> set[str]:
        """The rules that are broken so far; service goes on."""
        self.etcd.serve(0.5)
        return broken(self.etcd.history)


def broken(history: History) -> set[str]:
    return {violation.rule for violation in check_staleness(history)}


def test_watcher_that_is_live_with_all_that_there_was_passes() -> None:
    """What happens while it catches up may still be on its way; changes elsewhere do not count."""
    story = Story()
    index = story.change()
    story.change('/elsewhere')
    story.say(False, 0)
    story.say(True, index)
    story.change()
    story.say(True, index)
    assert story.broken() == set()


@pytest.mark.parametrize('is_late', [False, True])
def test_watcher_that_becomes_live_without_what_was_there_before_is_found(is_late: bool) -> None:
    """It began to catch up after that change, or before it."""
    story = Story()
    index = story.change()
    if is_late:
        story.say(False, index)
    story.change()
    story.etcd.serve(rules.TRANSIT + 0.5)
    if not is_late:
        story.say(True, index + 1)
        story.say(False, index + 1)
    story.say(True, index)
    assert story.broken() == (set() if is_late else {rules.CAUGHT_UP})


@pytest.mark.parametrize('trouble', ['throttle', 'isolate'])
def test_watcher_that_joins_one_that_is_behind_passes(trouble: str) -> None:
    """Nobody can know at once that a way has become slow, or that a member is cut off."""
    story = Story()
    index = story.change()
    began = story.etcd.now
    story.etcd.commit({'/w/a': 'late'})
    story.etcd.serve(3.0, but={'a': {1}} if trouble == 'isolate' else None)
    if trouble == 'throttle':
        story.etcd.history.add(Fault('throttle', 'way of a to member 1', began, story.etcd.now))
    story.say(False, index)
    story.say(True, index)
    assert story.broken() == set()


def test_watcher_that_begins_at_an_index_has_to_catch_up_from_there() -> None:
    """It is LIVE at once, and has received nothing."""
    story = Story()
    first = story.watcher.revision
    index = story.change()
    story.say(True, index)
    story.change('/elsewhere', rules.TRANSIT + 0.5)
    for name, received in (('late', index), ('too early', first)):
        story.etcd.history.add(State(name, story.etcd.now, False, 0))
        story.etcd.history.add(State(name, story.etcd.now, True, received))
        story.etcd.history.add(Watched(name, story.etcd.now, '/w', 0, first, 'a'))
    story.etcd.serve(0.5)
    (violation,) = check_staleness(story.etcd.history)
    assert (violation.rule, violation.text.split()[:2]) == (rules.CAUGHT_UP, ['too', 'early'])


@pytest.mark.parametrize('is_live', [True, False])
def test_watcher_that_is_live_though_nothing_arrives_any_more_is_found(is_live: bool) -> None:
    """For some seconds it cannot know."""
    story = Story()
    index = story.change()
    story.say(False, index)
    story.say(True, index)
    story.change()
    story.etcd.serve(rules.BOUND - 2)
    story.say(True, index)
    assert story.broken() == set()
    story.etcd.serve(3)
    story.say(is_live, index)
    assert story.broken() == ({rules.FRESH} if is_live else set())


@pytest.mark.parametrize('cause', ['wipe', 'restore'])
def test_watcher_that_is_ahead_of_etcd_is_found(cause: str) -> None:
    """etcd has lost what it saw; some seconds later it has to know."""
    story = Story()
    story.etcd.back_up()
    index = story.change()
    story.say(True, index)
    story.etcd.wipe() if cause == 'wipe' else story.etcd.restore()
    story.etcd.serve(2)
    story.say(True, index)
    assert story.broken() == set()
    story.etcd.serve(rules.BOUND)
    story.say(True, index)
    story.etcd.serve(1)
    assert story.broken() == {rules.POSSIBLE}


def test_watcher_that_was_stopped_is_not_judged() -> None:
    """Its state says nothing any more."""
    story = Story()
    story.etcd.history.add(Unwatched('w', story.etcd.now))
    story.change()
    story.say(False, 0)
    story.say(True, 0)
    assert story.broken() == set()
