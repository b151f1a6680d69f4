"""A piece of the run that ``make faults`` is, and the same with bugs in getc, which it must see."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from getc.testing import EtcdNotFound
from getc.testing.binaries import EtcdBinary, chosen_etcd
from tests.faults.bugs import BUGS
from tests.faults.report import judged, report
from tests.faults.run import Order, Run
from tests.faults.schedule import KINDS

pytestmark = pytest.mark.timeout(600)

SEED = 239
"""Always the same, so that the same faults strike at the same times: nearly every kind, with a restore and a hang."""

SECONDS = 42
"""Of fire; with what comes before and after it is a minute."""

RULES = {
    'skipped-revision': 'A watcher is told every change.',
    'blind-retry': 'A write is applied at most once.',
    'equal-values': 'A keeper ',  # that waits takes a node, or one whose node was deleted does not say so
    'live-at-once': 'A watcher that becomes LIVE has received what etcd had',
    'any-witness': 'A watcher says so when history was lost.',
    'late-lost': 'A name has one owner',
    'pings-suffice': 'A watcher that says LIVE has received every change',
}
"""What each bug breaks."""


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> EtcdBinary:
    """The etcd of the run."""
    try:
        return chosen_etcd('v3', request.config.getoption('--etcd-binary'), for_kills=True)
    except EtcdNotFound as error:
        if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
            raise
        pytest.skip(str(error))


def broken(order: Order) -> set[str]:
    """The bugs whose rules were broken in a run, of those that were put in."""
    violations = judged(Run(order).perform()).violations
    return {bug for bug in order.bugs if any(each.rule.startswith(RULES[bug]) for each in violations)}


@pytest.mark.slow
def test_nothing_is_lost_in_a_minute_under_fire(binary: EtcdBinary, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of fault that this etcd allows, and every rule."""
    order = Order(SEED, SECONDS, tuple(KINDS), binary)
    result = Run(order).perform()
    verdict = judged(result)
    with capsys.disabled():
        print('\n' + '\n'.join(report(order, result, verdict)))
    assert verdict.violations == []
    assert verdict.figures['faults'] >= 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ('bugs', 'seed', 'seconds', 'kinds'),
    [
        (['skipped-revision', 'equal-values', 'live-at-once'], 1, 9, ['lost replies', 'lost replies', 'compaction']),
        (['blind-retry', 'any-witness'], 1, 12, ['lost replies', 'restore']),
        (['late-lost', 'pings-suffice'], 5, 28, ['hang']),
    ],
)
def test_bugs_that_are_put_in_on_purpose_are_caught(
    binary: EtcdBinary, bugs: Sequence[str], seed: int, seconds: float, kinds: Sequence[str]
) -> None:
    """Else the run would prove nothing.  Several at once that do not hide each other, for a run takes its time."""
    assert broken(Order(seed, seconds, kinds, binary, bugs)) == set(bugs)


@pytest.mark.soak
@pytest.mark.parametrize(
    ('bug', 'seed', 'seconds', 'kinds'),
    [
        ('skipped-revision', 1, 5, ['compaction']),
        ('blind-retry', 1, 8, ['lost replies']),
        ('equal-values', 1, 9, ['lost replies']),
        ('live-at-once', 1, 9, ['compaction']),
        ('any-witness', 1, 9, ['restore']),
        ('late-lost', 4, 9, ['partition']),
        ('pings-suffice', 5, 28, ['hang']),
    ],
)
def test_bug_that_is_put_in_on_purpose_is_caught(
    binary: EtcdBinary, bug: str, seed: int, seconds: float, kinds: Sequence[str]
) -> None:
    """One at a time."""
    assert broken(Order(seed, seconds, kinds, binary, [bug])) == {bug}


def test_every_bug_has_a_rule() -> None:
    """A bug that nobody looks for proves nothing."""
    assert set(RULES) == set(BUGS)
