"""Tests of the checker of the state LIVE."""

from __future__ import annotations

import pytest

from tests.faults.checking import staleness as rules
from tests.faults.checking.model_etcd import ModelEtcd
from tests.faults.checking.staleness import check_staleness
from tests.faults.history import Fault, History, WatcherState, WatchStarted, WatchStopped


class WatcherScenario:
    """A watcher, its states, and the changes in etcd."""

    def __init__(self) -> None:
        self.etcd = ModelEtcd()
        self.etcd.commit({'/w/a': 'a1'})
        self.etcd.pass_time_with_probes(0.5)
        self.record_state(False, 0)
        self.watcher = self.etcd.watch('w', '/w', client='a')
        self.etcd.pass_time_with_probes(0.5)

    def record_state(self, is_live: bool, index: int) -> None:
        """Record a state of the watcher."""
        self.etcd.history.add(WatcherState('w', self.etcd.now, is_live, index))

    def change(self, key: str = '/w/a', seconds: float = 0.5) -> int:
        """Make a change, and probes that show when it had happened."""
        revision = self.etcd.commit({key: f'{self.etcd.revision}'})
        self.etcd.pass_time_with_probes(seconds)
        return revision

    def broken_rules(self) -> set[str]:
        """Return the rules that were broken so far; service continues."""
        self.etcd.pass_time_with_probes(0.5)
        return broken_rules(self.etcd.history)


def broken_rules(history: History) -> set[str]:
    return {violation.rule for violation in check_staleness(history)}


def test_live_watcher_with_all_changes_passes() -> None:
    """A change that happens while it catches up may be in flight; changes of other keys do not matter."""
    scenario = WatcherScenario()
    index = scenario.change()
    scenario.change('/elsewhere')
    scenario.record_state(False, 0)
    scenario.record_state(True, index)
    scenario.change()
    scenario.record_state(True, index)
    assert scenario.broken_rules() == set()


@pytest.mark.parametrize('is_late', [False, True])
def test_watcher_that_becomes_live_without_an_earlier_change_is_found(is_late: bool) -> None:
    """It began to catch up after the change, or before it."""
    scenario = WatcherScenario()
    index = scenario.change()
    if is_late:
        scenario.record_state(False, index)
    scenario.change()
    scenario.etcd.pass_time_with_probes(rules.TRANSIT_SECONDS + 0.5)
    if not is_late:
        scenario.record_state(True, index + 1)
        scenario.record_state(False, index + 1)
    scenario.record_state(True, index)
    assert scenario.broken_rules() == (set() if is_late else {rules.CAUGHT_UP})


@pytest.mark.parametrize('fault', ['throttle', 'isolate'])
def test_watcher_that_joins_a_lagging_watch_passes(fault: str) -> None:
    """A slow link or an isolated member is not detected at once."""
    scenario = WatcherScenario()
    index = scenario.change()
    began = scenario.etcd.now
    scenario.etcd.commit({'/w/a': 'late'})
    scenario.etcd.pass_time_with_probes(3.0, unserved={'a': {1}} if fault == 'isolate' else None)
    if fault == 'throttle':
        scenario.etcd.history.add(Fault('throttle', 'way of a to member 1', began, scenario.etcd.now))
    scenario.record_state(False, index)
    scenario.record_state(True, index)
    assert scenario.broken_rules() == set()


def test_watcher_that_starts_at_an_index_has_to_catch_up() -> None:
    """It is LIVE at once, but has received nothing."""
    scenario = WatcherScenario()
    first = scenario.watcher.revision
    index = scenario.change()
    scenario.record_state(True, index)
    scenario.change('/elsewhere', rules.TRANSIT_SECONDS + 0.5)
    for name, received in (('late', index), ('too early', first)):
        scenario.etcd.history.add(WatcherState(name, scenario.etcd.now, False, 0))
        scenario.etcd.history.add(WatcherState(name, scenario.etcd.now, True, received))
        scenario.etcd.history.add(WatchStarted(name, scenario.etcd.now, '/w', 0, first, 'a'))
    scenario.etcd.pass_time_with_probes(0.5)
    (violation,) = check_staleness(scenario.etcd.history)
    assert (violation.rule, violation.text.split()[:2]) == (rules.CAUGHT_UP, ['too', 'early'])


@pytest.mark.parametrize('is_live', [True, False])
def test_live_watcher_that_receives_nothing_is_found(is_live: bool) -> None:
    """It has some seconds to detect that."""
    scenario = WatcherScenario()
    index = scenario.change()
    scenario.record_state(False, index)
    scenario.record_state(True, index)
    scenario.change()
    scenario.etcd.pass_time_with_probes(rules.DETECTION_SECONDS - 2)
    scenario.record_state(True, index)
    assert scenario.broken_rules() == set()
    scenario.etcd.pass_time_with_probes(3)
    scenario.record_state(is_live, index)
    assert scenario.broken_rules() == ({rules.FRESH} if is_live else set())


@pytest.mark.parametrize('cause', ['wipe', 'restore'])
def test_watcher_that_is_ahead_of_etcd_is_found(cause: str) -> None:
    """etcd has lost its data; the watcher has some seconds to detect that."""
    scenario = WatcherScenario()
    scenario.etcd.back_up()
    index = scenario.change()
    scenario.record_state(True, index)
    scenario.etcd.wipe() if cause == 'wipe' else scenario.etcd.restore()
    scenario.etcd.pass_time_with_probes(2)
    scenario.record_state(True, index)
    assert scenario.broken_rules() == set()
    scenario.etcd.pass_time_with_probes(rules.DETECTION_SECONDS)
    scenario.record_state(True, index)
    scenario.etcd.pass_time_with_probes(1)
    assert scenario.broken_rules() == {rules.NOT_AHEAD}


def test_stopped_watcher_is_not_checked() -> None:
    scenario = WatcherScenario()
    scenario.etcd.history.add(WatchStopped('w', scenario.etcd.now))
    scenario.change()
    scenario.record_state(False, 0)
    scenario.record_state(True, 0)
    assert scenario.broken_rules() == set()
