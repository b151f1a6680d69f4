"""The schedule of faults."""

from __future__ import annotations

import pytest

from tests.faults.schedule import FAULT_KINDS, make_schedule


def test_schedule_depends_on_the_seed_only() -> None:
    assert make_schedule(7, 60) == make_schedule(7, 60)
    assert make_schedule(7, 60) != make_schedule(8, 60)


@pytest.mark.parametrize('seed', range(20))
def test_every_kind_occurs_and_ends_in_time(seed: int) -> None:
    """In two minutes; durations are within their bounds, and faults are sorted by time."""
    faults = make_schedule(seed, 120)
    assert {fault.kind for fault in faults} == {*FAULT_KINDS, 'backup'}
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert all(
        0 <= fault.duration <= FAULT_KINDS[fault.kind].max_seconds for fault in faults if fault.kind in FAULT_KINDS
    )
    assert all(fault.at + fault.duration <= 120 for fault in faults)


def test_only_requested_kinds_occur() -> None:
    assert {fault.kind for fault in make_schedule(1, 60, ['cut', 'kill'])} == {'cut', 'kill'}


@pytest.mark.parametrize('seed', range(20))
def test_backup_precedes_each_restore(seed: int) -> None:
    """Earlier by the duration of the kind."""
    faults = [fault for fault in make_schedule(seed, 120) if fault.kind in ('backup', 'restore')]
    assert [fault.kind for fault in faults[:2]] == ['backup', 'restore']
    times = {kind: [fault.at for fault in faults if fault.kind == kind] for kind in ('backup', 'restore')}
    kind = FAULT_KINDS['restore']
    assert all(
        kind.min_seconds <= restore - backup <= kind.max_seconds or restore == 120
        for backup, restore in zip(times['backup'], times['restore'], strict=True)
    )
