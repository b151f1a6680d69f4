"""A minute of the run that ``make faults`` is, and the same with bugs in getc, which it must see."""

from __future__ import annotations

import os

import pytest

from getc.testing import EtcdNotFound, find_etcd
from tests.faults.report import judged, report
from tests.faults.run import Order, Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 1
"""Always the same, so that the same faults strike at the same times."""


@pytest.fixture(autouse=True)
def _etcd() -> None:
    try:
        find_etcd('v3')
    except EtcdNotFound as error:
        if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
            raise
        pytest.skip(str(error))


def test_nothing_is_lost_in_a_minute_under_fire(capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of fault that this etcd allows, and every rule."""
    order = Order(SEED, 60)
    result = Run(order).perform()
    verdict = judged(result)
    with capsys.disabled():
        print('\n' + '\n'.join(report(order, result, verdict)))
    assert verdict.violations == []
    assert verdict.figures['faults'] >= 20


@pytest.mark.parametrize(
    ('bug', 'seed', 'seconds', 'kinds', 'rule'),
    [
        ('skipped-revision', 1, 5, ['compaction'], 'A watcher is told every change.'),
        ('blind-retry', 1, 8, ['lost replies'], 'A write is applied at most once.'),
        ('late-lost', 4, 9, ['partition'], 'A name has one owner'),
    ],
)
def test_bug_that_is_put_in_on_purpose_is_caught(
    bug: str, seed: int, seconds: float, kinds: list[str], rule: str
) -> None:
    """Else the run would prove nothing."""
    verdict = judged(Run(Order(seed, seconds, kinds, bug)).perform())
    assert any(violation.rule.startswith(rule) for violation in verdict.violations)
