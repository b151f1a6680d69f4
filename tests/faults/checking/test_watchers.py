"""Tests of the checker of watchers: it accepts correct histories, and names the rule that each other one breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace

import pytest

from tests.faults.checking import watchers as rules
from tests.faults.checking.model_etcd import ModelEtcd, rewrite_records
from tests.faults.checking.watchers import check_watchers
from tests.faults.history import (
    COMPACTION,
    WIPE,
    Change,
    Fault,
    History,
    Record,
    Resync,
    WatcherState,
    WatchEvent,
    WatchStarted,
    WatchStopped,
)


def valid_history() -> History:
    """A watcher that receives seven changes in four revisions; revisions 4 and 5 have several."""
    etcd = ModelEtcd()
    etcd.commit({'/w/a': 'before'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'one'})
    etcd.commit({'/w/b': 'two', '/w/c': 'three', '/elsewhere': 'x'})
    etcd.deliver(watcher)
    etcd.commit({'/w/a': None, '/w/_hidden': 'hidden', '/w/b': 'four', '/w/d': 'five'})
    etcd.commit({'/w/e': 'six'})
    etcd.deliver(watcher)
    return etcd.history


def history_with_loss(cause: str) -> History:
    """A watcher that receives a resync after a compaction or a wipe, with changes before and after it."""
    etcd = ModelEtcd()
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


def event_of(revision: int, key: str | None = None) -> Callable[[Record], bool]:
    """Return a predicate for the events of a revision, or of one key in it."""
    return lambda record: isinstance(record, WatchEvent) and record.revision == revision and key in (None, record.key)


def without(history: History, is_dropped: Callable[[Record], bool]) -> History:
    """Return the history without some records."""
    changed = rewrite_records(history, lambda record: () if is_dropped(record) else (record,))
    assert len(changed) < len(history)
    return changed


def only(history: History) -> tuple[str, tuple[Record, ...]]:
    """Return the rule and the piece of the only violation."""
    (violation,) = check_watchers(history)
    return violation.rule, violation.piece


def test_valid_history_passes() -> None:
    """Hidden keys, other keys, deletions and whole revisions."""
    assert check_watchers(valid_history()) == []


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_history_with_a_loss_passes(cause: str) -> None:
    history = history_with_loss(cause)
    assert sum(record.resync for record in history.of(WatchEvent)) >= 3
    assert check_watchers(history) == []


def test_stopped_watcher_passes_at_any_position() -> None:
    """Later events need not be delivered, not even the rest of a revision."""
    received = 0

    def stopped(record: Record) -> Iterable[Record]:
        nonlocal received
        if isinstance(record, WatchEvent):
            received += 1
            if received == 6:
                return (WatchStopped('w', record.at),)
            return (record,) if received < 6 else ()
        return (record,)

    assert check_watchers(rewrite_records(valid_history(), stopped)) == []


def test_event_before_on_change_returned_passes() -> None:
    """``on_change`` may return after its first callback."""

    def later(record: Record) -> Iterable[Record]:
        return (replace(record, revision=3),) if isinstance(record, WatchStarted) else (record,)

    assert check_watchers(rewrite_records(valid_history(), later)) == []


def test_skipped_revision_is_found() -> None:
    """The violation shows the events before and after it, and the change."""
    history = without(valid_history(), event_of(3))
    rule, piece = only(history)
    assert rule == rules.COMPLETE
    assert [(type(record), record.revision) for record in piece] == [(Change, 3), (WatchEvent, 4)]  # type: ignore[union-attr]


def test_missing_last_change_is_found() -> None:
    """Also if only the last change is missing."""
    rule, piece = only(without(valid_history(), event_of(6)))
    assert rule == rules.COMPLETE
    assert [type(record) for record in piece] == [WatchEvent, Change]


@pytest.mark.parametrize('key', ['/w/a', '/w/b', '/w/d'])
def test_partial_revision_is_found(key: str) -> None:
    """Any part of it."""
    rule, piece = only(without(valid_history(), event_of(5, key)))
    assert rule == rules.WHOLE_REVISIONS
    assert any(isinstance(record, Change) and record.key == key for record in piece)


def test_partial_revision_at_the_end_is_found() -> None:
    """No event comes after it."""
    assert (
        only(without(valid_history(), lambda record: event_of(6)(record) or event_of(5, '/w/d')(record)))[0]
        == rules.WHOLE_REVISIONS
    )


def test_duplicate_event_is_found() -> None:
    """The violation shows both."""
    history = rewrite_records(
        valid_history(), lambda record: (record, copy(record)) if event_of(4, '/w/b')(record) else (record,)
    )
    rule, piece = only(history)
    assert rule == rules.ONCE
    assert piece == tuple(record for record in valid_history() if event_of(4, '/w/b')(record)) * 2


def test_late_event_is_found() -> None:
    """Its position in the log is earlier."""
    moved = next(record for record in valid_history() if event_of(3)(record))
    history = rewrite_records(
        valid_history(),
        lambda record: () if record == moved else (record, moved) if event_of(5, '/w/a')(record) else (record,),
    )
    rule, piece = only(history)
    assert rule == rules.IN_ORDER
    assert piece[-1] == moved


def test_wrong_order_within_a_revision_is_found() -> None:
    """The order within a revision is etcd's."""
    first, second = (record for record in valid_history() if event_of(4)(record))
    swapped = {first: second, second: first}
    history = rewrite_records(valid_history(), lambda record: (swapped.get(record, record),))  # type: ignore[call-overload]
    assert only(history)[0] == rules.IN_ORDER


@pytest.mark.parametrize('value', ['other', None])
def test_wrong_value_is_found(value: str | None) -> None:
    """Also a deletion that did not happen."""
    history = rewrite_records(
        valid_history(), lambda record: (replace(record, value=value),) if event_of(4, '/w/b')(record) else (record,)
    )
    assert only(history)[0] == rules.MATCHES_LOG


def test_event_without_a_change_is_found() -> None:
    history = rewrite_records(
        valid_history(), lambda record: (record, replace(record, key='/w/z')) if event_of(3)(record) else (record,)
    )
    assert only(history)[0] == rules.MATCHES_LOG


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_unreported_loss_is_found(cause: str) -> None:
    history = without(
        history_with_loss(cause),
        lambda record: isinstance(record, Resync) or (isinstance(record, WatchEvent) and record.resync),
    )
    assert {violation.rule for violation in check_watchers(history)} >= {rules.LOSS_REPORTED}


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_results_without_a_resync_are_found(cause: str) -> None:
    """``on_resync`` was not called."""
    history = without(history_with_loss(cause), lambda record: isinstance(record, Resync))
    assert rules.LOSS_REPORTED in {violation.rule for violation in check_watchers(history)}


def test_undetected_wipe_is_found() -> None:
    """It receives nothing any more."""
    history = rewrite_records(
        valid_history(),
        lambda record: (record, Fault(WIPE, 'all data', 1.0, 2.0)) if event_of(6)(record) else (record,),
    )
    assert only(history)[0] == rules.LOSS_REPORTED


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
@pytest.mark.parametrize('drop', [0, 1, 2])
def test_incomplete_results_are_found(cause: str, drop: int) -> None:
    """Each result is required."""
    dropped = [record for record in history_with_loss(cause).of(WatchEvent) if record.resync][drop]
    assert only(without(history_with_loss(cause), lambda record: record == dropped))[0] == rules.DIFFERENCE


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_superfluous_result_is_found(cause: str) -> None:
    """An unchanged key must not have a result."""
    resync = next(record for record in history_with_loss(cause) if isinstance(record, Resync))
    more = WatchEvent('w', resync.at, '/w/z', None, resync.revision, 'Deleted', True)
    history = rewrite_records(
        history_with_loss(cause), lambda record: (record,) if record != resync else (more, record)
    )
    assert only(history)[0] == rules.DIFFERENCE


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_results_in_wrong_order_are_found(cause: str) -> None:
    """Results are in the order of their keys."""
    results = [record for record in history_with_loss(cause).of(WatchEvent) if record.resync]
    swapped = dict(zip(results, [results[1], results[0], *results[2:]], strict=True))
    history = rewrite_records(history_with_loss(cause), lambda record: (swapped.get(record, record),))  # type: ignore[call-overload]
    assert only(history)[0] == rules.DIFFERENCE


def test_spurious_loss_is_found() -> None:
    history = rewrite_records(
        valid_history(), lambda record: (record, Resync('w', record.at, 3)) if event_of(3)(record) else (record,)
    )
    assert only(history)[0] == rules.NO_FALSE_LOSS


def test_reported_loss_of_received_changes_is_found() -> None:
    """The watcher had received everything that was compacted."""
    history = rewrite_records(
        valid_history(),
        lambda record: (
            (record, Fault(COMPACTION, '', record.at, record.at, 4), Resync('w', record.at, 4))
            if event_of(4, '/w/c')(record)
            else (record,)
        ),
    )
    assert only(history)[0] == rules.NO_FALSE_LOSS


def history_with_wiped_empty_store(before: str) -> History:
    """A watcher that had received nothing gets the writes after a wipe, without a resync."""
    etcd = ModelEtcd()
    watcher = etcd.watch('w', '/w')
    etcd.commit({before: 'x'})
    etcd.wipe()
    watcher.era = etcd.era
    for value in 'abc':
        etcd.commit({'/w/a': value})
    etcd.deliver(watcher)
    return etcd.history


def test_unreported_wipe_of_an_empty_store_passes() -> None:
    """Two empty stores are indistinguishable."""
    history = history_with_wiped_empty_store('/elsewhere')
    assert len(history.of(WatchEvent)) == 3
    assert check_watchers(history) == []


def test_gap_after_a_wipe_of_an_empty_store_is_found() -> None:
    history = without(history_with_wiped_empty_store('/elsewhere'), event_of(2))
    assert only(history)[0] == rules.COMPLETE


def history_with_restore(*, received: bool = True, is_past: bool = True) -> History:
    """A backup is restored after later changes, and then written to, past the revision of the watcher or not.

    Args:
        received: The watcher had received a change that is not in the backup.
        is_past: The revision is past that of the watcher at the next delivery.
    """
    etcd = ModelEtcd()
    etcd.commit({'/w/witness': 'x', '/w/b': 'b1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'a1'})
    etcd.deliver(watcher)
    etcd.back_up()
    etcd.pass_time(1)
    etcd.commit({'/w/b': None, '/elsewhere': 'x'})
    if received:
        etcd.commit({'/w/gone': 'x'})
    etcd.commit({'/elsewhere': 'y'})
    etcd.deliver(watcher)
    etcd.pass_time(1)
    etcd.restore(certain=2)
    for number in range(5 if is_past else 1):
        etcd.commit({'/elsewhere': f'{number}'})
    etcd.commit({'/w/c': 'c1'})
    etcd.deliver(watcher)
    etcd.pass_time(1)
    etcd.commit({'/w/c': 'c2'})
    etcd.deliver(watcher)
    return etcd.history


@pytest.mark.parametrize('is_past', [True, False])
@pytest.mark.parametrize('received', [True, False])
def test_restore_with_a_resync_passes(received: bool, is_past: bool) -> None:
    """Changes after the backup are reverted; what is in the backup need not be delivered again."""
    history = history_with_restore(received=received, is_past=is_past)
    assert [(event_of.key, event_of.value) for event_of in history.of(WatchEvent) if event_of.resync] == [
        ('/w/b', 'b1'), ('/w/c', 'c1'), *([('/w/gone', None)] if received else [])
    ]  # fmt: skip
    assert check_watchers(history) == []


@pytest.mark.parametrize('is_past', [True, False])
def test_restore_without_a_resync_is_found(is_past: bool) -> None:
    """The watcher continues with the new changes, and keeps a key that does not exist."""

    def unaware(record: Record) -> Iterable[Record]:
        if isinstance(record, Resync):
            return ()
        if isinstance(record, WatchEvent) and record.resync:
            return (replace(record, resync=False, index=None),) if record.key == '/w/c' else ()
        return (record,)

    assert only(rewrite_records(history_with_restore(is_past=is_past), unaware))[0] == rules.LOSS_REPORTED


def test_restore_beyond_the_watchers_position_needs_no_resync() -> None:
    """All that it had received is in the backup; it must receive the changes after that."""
    etcd = ModelEtcd()
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/a': 'a1'})
    etcd.deliver(watcher)
    etcd.back_up()
    etcd.commit({'/w/a': 'never received'})
    etcd.restore()
    etcd.commit({'/elsewhere': 'x'})
    etcd.commit({'/w/b': 'b1'})
    watcher.era = etcd.era
    etcd.deliver(watcher)
    assert etcd.history.of(Resync) == []
    assert check_watchers(etcd.history) == []
    assert only(without(etcd.history, event_of(4)))[0] == rules.COMPLETE


def history_with_unprovable_continuity(changed: dict[str, str | None]) -> History:
    """A watcher has received /w/a and /w/b; the history up to there is compacted, and the watcher reports a resync."""
    etcd = ModelEtcd()
    etcd.commit({'/w/a': 'a1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/b': 'b1'})
    etcd.deliver(watcher)
    etcd.pass_time(5)
    etcd.commit(changed)
    etcd.compact(etcd.revision)
    etcd.deliver_resync(watcher)
    assert len(etcd.history.of(Resync)) == 1
    return etcd.history


@pytest.mark.parametrize('changed', [{'/w/a': 'a2'}, {'/w/a': 'a2', '/w/b': 'b2'}, {'/w/a': 'a2', '/w/b': None}])
def test_resync_passes_when_continuity_is_unprovable(changed: dict[str, str | None]) -> None:
    """Its latest change is compacted, so that nothing proves that the store is the same."""
    assert check_watchers(history_with_unprovable_continuity(changed)) == []


def history_with_second_resync(latest: dict[str, str | None]) -> History:
    """A watcher compares after a compaction up to revision 4, receives no change, and compares again."""
    etcd = ModelEtcd()
    for name in 'abcd':
        etcd.commit({f'/w/{name}': f'{name}1'})
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/b': 'b2'})
    etcd.compact(etcd.revision)
    etcd.commit(latest)
    etcd.deliver_resync(watcher)
    etcd.pass_time(5)
    etcd.commit({'/w/a': None})
    etcd.deliver_resync(watcher)
    assert len(etcd.history.of(Resync)) == 2
    return etcd.history


def test_second_resync_passes_when_the_listed_values_are_compacted() -> None:
    """The change before the listing was a deletion, which no listing shows."""
    assert check_watchers(history_with_second_resync({'/w/b': None})) == []


def test_second_resync_is_found_when_a_listed_value_proves_continuity() -> None:
    assert only(history_with_second_resync({'/w/b': 'b3'}))[0] == rules.NO_FALSE_LOSS


def test_losses_that_are_reported_late_pass() -> None:
    """Its callback blocked during two wipes, so the watcher is far ahead when it reports them."""
    etcd = ModelEtcd()
    watcher = etcd.watch('w', '/w')
    for number in range(2):
        etcd.commit({'/w/a': f'{number}'})
        etcd.wipe()
        etcd.commit({'/w/a': f'{number} again'})
        etcd.deliver(watcher)
    for number in range(rules.MAX_COMPARISON_POINTS + 1):
        etcd.commit({'/w/a': f'{number} later'})
    etcd.deliver(watcher)
    late = etcd.revision
    history = rewrite_records(
        etcd.history, lambda record: (replace(record, revision=late) if isinstance(record, Resync) else record,)
    )
    assert check_watchers(history) == []


@pytest.mark.parametrize('cause', [COMPACTION, WIPE])
def test_second_report_of_one_loss_is_found(cause: str) -> None:
    """Nothing was lost between the two comparisons."""
    history = rewrite_records(
        history_with_loss(cause),
        lambda record: (record, replace(record, at=record.at + 5)) if isinstance(record, Resync) else (record,),
    )
    assert only(history)[0] == rules.NO_FALSE_LOSS


def test_gap_after_a_loss_is_found() -> None:
    """From the comparison on, all changes are required again."""
    etcd = ModelEtcd()
    watcher = etcd.watch('w', '/w')
    for number in range(5):
        etcd.commit({'/w/a': f'{number}'})
    etcd.compact(etcd.revision)
    etcd.deliver(watcher)
    for number in range(5, 10):
        etcd.commit({'/w/a': f'{number}'})
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    rule, piece = only(without(etcd.history, event_of(8)))
    assert rule == rules.COMPLETE
    assert [record.revision for record in piece] == [7, 8, 9]  # type: ignore[union-attr]


def test_result_for_a_node_with_another_lease_is_optional() -> None:
    """The node and its value are the same."""
    etcd = ModelEtcd()
    etcd.commit({'/w/a': 'kept'}, lease=1)
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/b': 'x'})
    etcd.commit({'/w/a': 'kept'}, lease=2)
    etcd.commit({'/w/b': 'y'})
    etcd.compact(etcd.revision)
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    received = WatchEvent('w', etcd.now, '/w/a', 'kept', 4, 'Set', True)
    history = rewrite_records(
        etcd.history,
        lambda record: (received, record) if isinstance(record, WatchEvent) and record.key == '/w/b' else (record,),
    )
    assert check_watchers(history) == []


@pytest.mark.parametrize('outage', [0.0, 100.0])
def test_loss_while_a_watcher_starts_passes(outage: float) -> None:
    """It had listed the keys before the wipe, and that list is unknown.  An outage may delay its start."""
    etcd = ModelEtcd()
    etcd.commit({'/w/a': 'old'})
    if outage:
        etcd.history.add(WatcherState('w', etcd.now, False, 0))
    etcd.wipe()
    etcd.pass_time(outage)
    etcd.commit({'/w/b': 'new'})
    etcd.history.add(WatchEvent('w', etcd.now, '/w/a', None, 2, 'Deleted', True))
    etcd.history.add(WatchEvent('w', etcd.now, '/w/b', 'new', 2, 'Set', True))
    etcd.history.add(Resync('w', etcd.now, 2))
    watcher = etcd.watch('w', '/w')
    etcd.commit({'/w/c': 'x'})
    etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []


def test_each_watcher_is_checked_separately() -> None:
    """One of several watchers fails."""
    etcd = ModelEtcd()
    watchers = [etcd.watch(f'w{number}', key) for number, key in enumerate(('/', '/w', '/w/a', '/v'))]
    for number in range(10):
        etcd.commit({'/w/a': f'a{number}', '/w/b': f'b{number}', '/v/c': f'c{number}'})
        for watcher in watchers:
            etcd.deliver(watcher)
    assert check_watchers(etcd.history) == []
    dropped = [record for record in etcd.history.of(WatchEvent) if record.watcher == 'w2'][5]
    (violation,) = check_watchers(without(etcd.history, lambda record: record == dropped))
    assert violation.text.startswith('w2: ')
