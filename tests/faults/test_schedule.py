"""The schedule: what a seed draws."""

from __future__ import annotations

import pytest

from tests.faults.schedule import KINDS, drawn


def test_seed_draws_the_same_strikes_each_time_and_another_one_others() -> None:
    """So that a failure can be looked for again."""
    assert drawn(7, 60) == drawn(7, 60)
    assert drawn(7, 60) != drawn(8, 60)


@pytest.mark.parametrize('seed', range(20))
def test_every_kind_strikes_and_is_mended_by_the_end(seed: int) -> None:
    """In two minutes; none lasts for longer than its kind does, and all are in order."""
    strikes = drawn(seed, 120)
    assert {strike.kind for strike in strikes} == {*KINDS, 'backup'}
    assert [strike.at for strike in strikes] == sorted(strike.at for strike in strikes)
    assert all(0 <= strike.lasts <= KINDS[strike.kind].most for strike in strikes if strike.kind in KINDS)
    assert all(strike.at + strike.lasts <= 120 for strike in strikes)


def test_only_what_is_asked_for_strikes() -> None:
    """For looking into one kind of fault."""
    assert {strike.kind for strike in drawn(1, 60, ['cut', 'kill'])} == {'cut', 'kill'}


@pytest.mark.parametrize('seed', range(20))
def test_backup_is_made_before_each_restore(seed: int) -> None:
    """By as many seconds as there is to be lost."""
    strikes = [strike for strike in drawn(seed, 120) if strike.kind in ('backup', 'restore')]
    assert [strike.kind for strike in strikes[:2]] == ['backup', 'restore']
    times = {kind: [strike.at for strike in strikes if strike.kind == kind] for kind in ('backup', 'restore')}
    kind = KINDS['restore']
    assert all(
        kind.least <= restore - backup <= kind.most or restore == 120
        for backup, restore in zip(times['backup'], times['restore'], strict=True)
    )
