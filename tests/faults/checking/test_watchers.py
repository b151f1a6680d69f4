"""The checker of watchers: what it lets pass, and that it names each way to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace

import pytest

from tests.faults.checking import watchers as rules
from tests.faults.checking.model_etcd import ToyEtcd, rewritten
from tests.faults.checking.watchers import check_watchers
from tests.faults.history import COMPACTION, WIPE, Change, Fault, History, Record, Resync, Seen, Unwatched, Watched


def a_story() -> History:
    """One watcher that is told of seven changes in four revisions: 4 and 5 have two and three."""
    etcd = ToyEtcd()
    etcd.commit({'/w/a': 'before'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'one'})
    etcd.commit({'/w/b': 'two', '/w/c': 'three', '/elsewhere': 'x'})
    etcd.deliver(watcher)
    etcd.commit({'/w/a': None, '/w/_hidden': 'not told', '/w/b': 'four', '/w/d': 'five'})
    etcd.commit({'/w/e': 'six'})
    etcd.deliver(watcher)
    return etcd.history


def a_loss(cause: str) -> History:
    """One watcher that is told a difference, after a compaction or a wipe, and changes before and after it."""
    etcd = ToyEtcd()
    for name in 'abcd':
        etcd.commit({f'/w/{name}': f'{name}1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'a2'})
    etcd.deliver(watcher)
    etcd.commit({'/w/b': 'b2'})
    etcd.commit({'/w/c': None})
    etcd.commit({'/w/e': 'e1'})
    etcd.pass_time(1)
    if cause == WIPE:
        etcd.wipe()
        for value in ('b3', 'f1'):
            etcd.commit({f'/w/{value[0]}': value})
    else:
        etcd.compact(etcd.revision)
    etcd.deliver(watcher)
    etcd.commit({'/w/g': 'g1'})
    etcd.deliver(watcher)
    return etcd.history


def seen(revision: int, key: str | None = None) -> Callable[[Record], bool]:
    """True for what was told of a revision, or of one key in it."""
    return lambda record: isinstance(record, Seen) and record.revision == revision and key in (None, record.key)


def without(history: History, is_dropped: Callable[[Record], bool]) -> History:
    """The same but for some records."""
    changed = rewritten(history, lambda record: () if is_dropped(record) else (record,))
    assert len(changed) < len(history)
    return changed


def only(history: History) -> tuple[str, tuple[Record, ...]]:
    """The rule of the only violation, and its piece."""
    (violation,) = check_watchers(history)
    return violation.rule, violation.piece


def test_story_passes() -> None:
    """Hidden names, keys elsewhere, deletions and whole revisions are as they should be."""
    assert check_watchers(a_story()) == []


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_story_with_a_loss_passes(cause: str) -> None:
    """The difference is told, and that it is one."""
    history = a_loss(cause)
    assert sum(record.resync for record in history.of(Seen)) >= 3
    assert check_watchers(history) == []


def test_watcher_that_was_stopped_passes_wherever_that_was() -> None:
    """Nothing needs to be told any more, be it the rest of a revision."""
    told = 0

    def stopped(record: Record) -> Iterable[Record]:
        nonlocal told
        if isinstance(record, Seen):
            told += 1
            if told == 6:
                return (Unwatched('w', record.at),)
            return (record,) if told < 6 else ()
        return (record,)

    assert check_watchers(rewritten(a_story(), stopped)) == []


def test_change_that_came_before_the_watcher_was_noted_passes() -> None:
    """``on_change`` may return a moment later than its first callback."""

    def later(record: Record) -> Iterable[Record]:
        return (replace(record, revision=3),) if isinstance(record, Watched) else (record,)

    assert check_watchers(rewritten(a_story(), later)) == []


def test_skipped_revision_is_found() -> None:
    """The piece is what was told before and after, and the change between."""
    history = without(a_story(), seen(3))
    rule, piece = only(history)
    assert rule == rules.EVERYTHING
    assert [(type(record), record.revision) for record in piece] == [(Change, 3), (Seen, 4)]  # type: ignore[union-attr]


def test_watcher_that_has_not_caught_up_is_found() -> None:
    """The last change counts, too."""
    rule, piece = only(without(a_story(), seen(6)))
    assert rule == rules.EVERYTHING
    assert [type(record) for record in piece] == [Seen, Change]


@pytest.mark.parametrize('key', ['/w/a', '/w/b', '/w/d'])
def test_half_a_revision_is_found(key: str) -> None:
    """Whichever part of it is missing."""
    rule, piece = only(without(a_story(), seen(5, key)))
    assert rule == rules.WHOLE
    assert any(isinstance(record, Change) and record.key == key for record in piece)


def test_half_a_revision_at_the_end_is_found() -> None:
    """Nothing comes after it."""
    assert only(without(a_story(), lambda record: seen(6)(record) or seen(5, '/w/d')(record)))[0] == rules.WHOLE


def test_doubled_event_is_found() -> None:
    """The piece is both."""
    history = rewritten(a_story(), lambda record: (record, copy(record)) if seen(4, '/w/b')(record) else (record,))
    rule, piece = only(history)
    assert rule == rules.ONCE
    assert piece == tuple(record for record in a_story() if seen(4, '/w/b')(record)) * 2


def test_change_that_is_told_late_is_found() -> None:
    """Its place is where it was in the log."""
    moved = next(record for record in a_story() if seen(3)(record))
    history = rewritten(
        a_story(), lambda record: () if record == moved else (record, moved) if seen(5, '/w/a')(record) else (record,)
    )
    rule, piece = only(history)
    assert rule == rules.IN_ORDER
    assert piece[-1] == moved


def test_changes_of_one_revision_in_another_order_are_found() -> None:
    """The order within a revision is etcd's."""
    first, second = (record for record in a_story() if seen(4)(record))
    swapped = {first: second, second: first}
    history = rewritten(a_story(), lambda record: (swapped.get(record, record),))  # type: ignore[call-overload]
    assert only(history)[0] == rules.IN_ORDER


@pytest.mark.parametrize('value', ['other', None])
def test_wrong_value_is_found(value: str | None) -> None:
    """Also a deletion that was none."""
    history = rewritten(
        a_story(), lambda record: (replace(record, value=value),) if seen(4, '/w/b')(record) else (record,)
    )
    assert only(history)[0] == rules.TRUE


def test_invented_change_is_found() -> None:
    """It is not in the log."""
    history = rewritten(
        a_story(), lambda record: (record, replace(record, key='/w/z')) if seen(3)(record) else (record,)
    )
    assert only(history)[0] == rules.TRUE


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_loss_that_is_not_told_is_found(cause: str) -> None:
    """It went on as if nothing had been."""
    history = without(
        a_loss(cause), lambda record: isinstance(record, Resync) or (isinstance(record, Seen) and record.resync)
    )
    assert {violation.rule for violation in check_watchers(history)} >= {rules.LOSS_IS_TOLD}


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_difference_without_a_word_is_found(cause: str) -> None:
    """``on_resync`` was not called."""
    history = without(a_loss(cause), lambda record: isinstance(record, Resync))
    assert rules.LOSS_IS_TOLD in {violation.rule for violation in check_watchers(history)}


def test_wipe_that_a_watcher_never_noticed_is_found() -> None:
    """It hears nothing any more, or thinks that nothing has changed."""
    history = rewritten(
        a_story(), lambda record: (record, Fault(WIPE, 'all data', 1.0, 2.0)) if seen(6)(record) else (record,)
    )
    assert only(history)[0] == rules.LOSS_IS_TOLD


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
@pytest.mark.parametrize('drop', [0, 1, 2])
def test_incomplete_difference_is_found(cause: str, drop: int) -> None:
    """Each of its results counts."""
    dropped = [record for record in a_loss(cause).of(Seen) if record.resync][drop]
    assert only(without(a_loss(cause), lambda record: record == dropped))[0] == rules.DIFFERENCE


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_difference_that_is_too_much_is_found(cause: str) -> None:
    """What is as it was is not told."""
    word = next(record for record in a_loss(cause) if isinstance(record, Resync))
    more = Seen('w', word.at, '/w/z', None, word.revision, 'Deleted', True)
    history = rewritten(a_loss(cause), lambda record: (record,) if record != word else (more, record))
    assert only(history)[0] == rules.DIFFERENCE


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_difference_in_no_order_is_found(cause: str) -> None:
    """It is told in the order of the keys."""
    results = [record for record in a_loss(cause).of(Seen) if record.resync]
    swapped = dict(zip(results, [results[1], results[0], *results[2:]], strict=True))
    history = rewritten(a_loss(cause), lambda record: (swapped.get(record, record),))  # type: ignore[call-overload]
    assert only(history)[0] == rules.DIFFERENCE


def test_spurious_loss_is_found() -> None:
    """Nothing was wiped or compacted."""
    history = rewritten(a_story(), lambda record: (record, Resync('w', record.at, 3)) if seen(3)(record) else (record,))
    assert only(history)[0] == rules.LOSS_IS_TRUE


def test_loss_of_what_had_been_seen_is_found() -> None:
    """What was compacted had all been told before: nothing was lost to this watcher."""
    history = rewritten(
        a_story(),
        lambda record: (
            (record, Fault(COMPACTION, '', record.at, record.at, 4), Resync('w', record.at, 4))
            if seen(4, '/w/c')(record)
            else (record,)
        ),
    )
    assert only(history)[0] == rules.LOSS_IS_TRUE


def an_empty_store_that_was_wiped(before: str) -> History:
    """A watcher that knew of nothing is told what is written after a wipe, and no word of that."""
    etcd = ToyEtcd()
    watcher = etcd.watch('w', '/w')
    etcd.commit({before: 'x'})
    etcd.wipe()
    watcher.era = etcd.era
    for value in 'abc':
        etcd.commit({'/w/a': value})
    etcd.deliver(watcher)
    return etcd.history


def test_wipe_of_nothing_that_was_known_passes() -> None:
    """One empty store is as the other."""
    history = an_empty_store_that_was_wiped('/elsewhere')
    assert len(history.of(Seen)) == 3
    assert check_watchers(history) == []


def test_gap_after_a_wipe_of_nothing_that_was_known_is_found() -> None:
    """What was written since then is told, all of it."""
    history = without(an_empty_store_that_was_wiped('/elsewhere'), seen(2))
    assert only(history)[0] == rules.EVERYTHING


def a_restore(*, told: bool = True, passed: bool = True) -> History:
    """A backup; changes after it; the backup is put back, and others write, perhaps past what the watcher had seen.

    Args:
        told: The watcher was told of a change that the backup does not have.
        passed: The store's revision is past that of the watcher when it is told again.
    """
    etcd = ToyEtcd()
    etcd.commit({'/w/witness': 'x', '/w/b': 'b1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'a1'})
    etcd.deliver(watcher)
    etcd.back_up()
    etcd.pass_time(1)
    etcd.commit({'/w/b': None, '/elsewhere': 'x'})
    if told:
        etcd.commit({'/w/gone': 'x'})
    etcd.commit({'/elsewhere': 'y'})
    etcd.deliver(watcher)
    etcd.pass_time(1)
    etcd.restore(certain=2)
    for number in range(5 if passed else 1):
        etcd.commit({'/elsewhere': f'{number}'})
    etcd.commit({'/w/c': 'c1'})
    etcd.deliver(watcher)
    etcd.pass_time(1)
    etcd.commit({'/w/c': 'c2'})
    etcd.deliver(watcher)
    return etcd.history


@pytest.mark.parametrize('passed', [True, False])
@pytest.mark.parametrize('told', [True, False])
def test_restore_that_is_told_as_a_difference_passes(told: bool, passed: bool) -> None:
    """What came after the backup is taken back; what the backup had need not be told again."""
    history = a_restore(told=told, passed=passed)
    assert [(seen.key, seen.value) for seen in history.of(Seen) if seen.resync] == [
        ('/w/b', 'b1'), ('/w/c', 'c1'), *([('/w/gone', None)] if told else [])
    ]  # fmt: skip
    assert check_watchers(history) == []


@pytest.mark.parametrize('passed', [True, False])
def test_restore_that_is_passed_over_is_found(passed: bool) -> None:
    """The watcher goes on with the changes that come, and keeps what the store does not have."""

    def unaware(record: Record) -> Iterable[Record]:
        if isinstance(record, Resync):
            return ()
        if isinstance(record, Seen) and record.resync:
            return (replace(record, resync=False, index=None),) if record.key == '/w/c' else ()
        return (record,)

    assert only(rewritten(a_restore(passed=passed), unaware))[0] == rules.LOSS_IS_TOLD


def test_restore_of_what_a_watcher_that_is_behind_was_told_need_not_be_told() -> None:
    """All that it was told is in the backup, too; from there on it has to be told what the store has now."""
    etcd = ToyEtcd()
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'a1'})
    etcd.deliver(watcher)
    etcd.back_up()
    etcd.commit({'/w/a': 'never told'})
    etcd.restore()
    etcd.commit({'/elsewhere': 'x'})
    etcd.commit({'/w/b': 'b1'})
    watcher.era = etcd.era
    etcd.deliver(watcher)
    assert etcd.history.of(Resync) == []
    assert check_watchers(etcd.history) == []
    assert only(without(etcd.history, seen(4)))[0] == rules.EVERYTHING


def a_loss_that_was_none(changed: dict[str, str | None]) -> History:
    """A watcher knew of /w/a and /w/b; history up to just behind what it had seen is gone, and it says so."""
    etcd = ToyEtcd()
    etcd.commit({'/w/a': 'a1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/b': 'b1'})
    etcd.deliver(watcher)
    etcd.pass_time(5)
    etcd.commit(changed)
    etcd.compact(etcd.revision)
    etcd.deliver_difference(watcher)
    assert len(etcd.history.of(Resync)) == 1
    return etcd.history


@pytest.mark.parametrize('changed', [{'/w/a': 'a2'}, {'/w/a': 'a2', '/w/b': 'b2'}, {'/w/a': 'a2', '/w/b': None}])
def test_loss_that_could_not_be_ruled_out_passes(changed: dict[str, str | None]) -> None:
    """Its latest change is not in history any more: it may be another store, whatever is as it was."""
    assert check_watchers(a_loss_that_was_none(changed)) == []


def test_losses_that_are_told_late_pass() -> None:
    """Its callback blocked over two wipes and what came after: the watcher was far ahead when it told of them."""
    etcd = ToyEtcd()
    watcher = etcd.watch('w', '/w')
    for number in range(2):
        etcd.commit({'/w/a': f'{number}'})
        etcd.wipe()
        etcd.commit({'/w/a': f'{number} anew'})
        etcd.deliver(watcher)
    for number in range(rules.MOST_ENDS + 1):
        etcd.commit({'/w/a': f'{number} later'})
    etcd.deliver(watcher)
    late = etcd.revision
    history = rewritten(
        etcd.history, lambda record: (replace(record, revision=late) if isinstance(record, Resync) else record,)
    )
    assert check_watchers(history) == []


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_second_word_about_one_loss_is_found(cause: str) -> None:
    """It had compared, and compared again: nothing had been lost in between."""
    history = rewritten(
        a_loss(cause),
        lambda record: (record, replace(record, at=record.at + 5)) if isinstance(record, Resync) else (record,),
    )
    assert only(history)[0] == rules.LOSS_IS_TRUE


def test_gap_after_a_loss_is_found() -> None:
    """From the comparison on everything is told again."""
    etcd = ToyEtcd()
    watcher = etcd.watch('w', '/w')
    for number in range(5):
        etcd.commit({'/w/a': f'{number}'})
    etcd.compact(etcd.revision)
    etcd.deliver(watcher)
    for number in range(5, 10):
        etcd.commit({'/w/a': f'{number}'})
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    rule, piece = only(without(etcd.history, seen(8)))
    assert rule == rules.EVERYTHING
    assert [record.revision for record in piece] == [7, 8, 9]  # type: ignore[union-attr]


def test_node_that_only_got_another_lease_may_be_told_in_a_difference_or_not() -> None:
    """It is the same node with the same value, written again."""
    etcd = ToyEtcd()
    etcd.commit({'/w/a': 'kept'}, lease=1)
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/b': 'x'})
    etcd.commit({'/w/a': 'kept'}, lease=2)
    etcd.commit({'/w/b': 'y'})
    etcd.compact(etcd.revision)
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    told = Seen('w', etcd.now, '/w/a', 'kept', 4, 'Set', True)
    history = rewritten(
        etcd.history, lambda record: (told, record) if isinstance(record, Seen) and record.key == '/w/b' else (record,)
    )
    assert check_watchers(history) == []


def test_loss_while_a_watcher_begins_passes() -> None:
    """What it had found at first was of before the wipe, and nobody knows what that was."""
    etcd = ToyEtcd()
    etcd.commit({'/w/a': 'old'})
    etcd.wipe()
    etcd.commit({'/w/b': 'new'})
    etcd.history.add(Seen('w', etcd.now, '/w/a', None, 2, 'Deleted', True))
    etcd.history.add(Seen('w', etcd.now, '/w/b', 'new', 2, 'Set', True))
    etcd.history.add(Resync('w', etcd.now, 2))
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/c': 'x'})
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []


def test_each_watcher_is_judged_by_itself() -> None:
    """Several watchers, of which one fails."""
    etcd = ToyEtcd()
    watchers = [etcd.watch(f'w{number}', key) for number, key in enumerate(('/', '/w', '/w/a', '/v'))]
    for number in range(10):
        etcd.commit({'/w/a': f'a{number}', '/w/b': f'b{number}', '/v/c': f'c{number}'})
        for watcher in watchers:
            etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    dropped = [record for record in etcd.history.of(Seen) if record.watcher == 'w2'][5]
    (violation,) = check_watchers(without(etcd.history, lambda record: record == dropped))
    assert violation.text.startswith('w2: ')
