"""A short run of ``make faults``, and runs with injected bugs, which the checkers must find."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest

from getc.testing import EtcdNotFound
from getc.testing.binaries import EtcdBinary, choose_etcd
from tests.faults.bugs import BUGS
from tests.faults.report import judge, report
from tests.faults.run import Run, RunConfig
from tests.faults.schedule import FAULT_KINDS

pytestmark = pytest.mark.timeout(600)

SEED = 239
"""A fixed seed whose schedule has nearly every kind of fault, with a restore and a hang."""

SECONDS = 42
"""Seconds of faults; the whole run takes a minute."""

RULES = {
    'skipped-event': 'A watcher receives every change.',
    'blind-retry': 'A write is applied at most once.',
    'value-ownership': 'A keeper ',  # the keeper takes over a node, or does not report a deleted one
    'early-live': 'A watcher that becomes LIVE has received all changes',
    'loose-continuity': 'A watcher reports lost history.',
    'late-loss': 'A node has one owner',
    'ping-health-check': 'A watcher that reports LIVE has received every change',
}
"""The rule that each bug breaks."""


@pytest.fixture
def binary(request: pytest.FixtureRequest) -> EtcdBinary:
    """The etcd of the run."""
    try:
        return choose_etcd('v3', request.config.getoption('--etcd-binary'), for_kills=True)
    except EtcdNotFound as error:
        if os.environ.get('CI') or os.environ.get('GETC_REQUIRE_ETCD'):
            raise
        pytest.skip(str(error))


def caught_bugs(config: RunConfig) -> set[str]:
    """Return the injected bugs whose rules were broken in a run."""
    violations = judge(Run(config).execute()).violations
    return {bug for bug in config.bugs if any(each.rule.startswith(RULES[bug]) for each in violations)}


@pytest.mark.slow
def test_no_rule_is_broken_in_a_minute_of_faults(binary: EtcdBinary, capsys: pytest.CaptureFixture[str]) -> None:
    """Every kind of fault that this etcd allows, and every rule."""
    config = RunConfig(SEED, SECONDS, tuple(FAULT_KINDS), binary)
    result = Run(config).execute()
    verdict = judge(result)
    with capsys.disabled():
        print('\n' + '\n'.join(report(config, result, verdict)))
    assert verdict.violations == []
    assert verdict.figures['faults'] >= 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ('bugs', 'seed', 'seconds', 'kinds'),
    [
        (['skipped-event', 'value-ownership', 'early-live'], 1, 9, ['lost replies', 'lost replies', 'compaction']),
        (['blind-retry', 'loose-continuity'], 1, 12, ['lost replies', 'restore']),
        (['late-loss', 'ping-health-check'], 5, 28, ['hang']),
    ],
)
def test_injected_bugs_are_caught(
    binary: EtcdBinary, bugs: Sequence[str], seed: int, seconds: float, kinds: Sequence[str]
) -> None:
    """Several bugs in one run that do not hide each other, to save time."""
    assert caught_bugs(RunConfig(seed, seconds, kinds, binary, bugs)) == set(bugs)


@pytest.mark.soak
@pytest.mark.parametrize(
    ('bug', 'seed', 'seconds', 'kinds'),
    [
        ('skipped-event', 1, 5, ['compaction']),
        ('blind-retry', 1, 8, ['lost replies']),
        ('value-ownership', 1, 9, ['lost replies']),
        ('early-live', 1, 9, ['compaction']),
        ('loose-continuity', 1, 9, ['restore']),
        ('late-loss', 4, 9, ['partition']),
        ('ping-health-check', 5, 28, ['hang']),
    ],
)
def test_injected_bug_is_caught(binary: EtcdBinary, bug: str, seed: int, seconds: float, kinds: Sequence[str]) -> None:
    """One bug in each run."""
    assert caught_bugs(RunConfig(seed, seconds, kinds, binary, [bug])) == {bug}


def test_every_bug_has_a_rule() -> None:
    assert set(RULES) == set(BUGS)
