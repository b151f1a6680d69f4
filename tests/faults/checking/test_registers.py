"""Tests of the checkers of registers, reads and writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checking import reads, registers, writes
from tests.faults.checking.model_etcd import ModelEtcd, rewrite_records
from tests.faults.checking.reads import check_reads
from tests.faults.checking.registers import check_registers
from tests.faults.checking.violation import Violation
from tests.faults.checking.writes import check_writes
from tests.faults.history import Call, Change, History, Outcome, Probe, Record


def valid_history() -> History:
    """A history with each kind of call, successful and failed, and a wipe."""
    etcd = ModelEtcd()
    etcd.call('get', '/r')
    etcd.call('set', '/r', 'one')
    etcd.call('create', '/r', 'refused')
    etcd.call('swap', '/r', 'two', expected='one')
    etcd.call('swap', '/r', 'refused too', expected='one')
    etcd.call('serializable get', '/r', client='b')
    etcd.call('set', '/r', 'unanswered', outcome=Outcome.AMBIGUOUS)
    etcd.call('get', '/r')
    etcd.call('set', '/r', 'never', outcome=Outcome.AMBIGUOUS, is_applied=False)
    etcd.call('set', '/r', 'not applied', outcome=Outcome.NOT_APPLIED, is_applied=False)
    etcd.call('delete', '/r')
    etcd.call('delete', '/r')
    etcd.call('swap', '/r', 'refused as well', expected='two')
    etcd.call('create', '/r', 'three')
    etcd.call('delete', '/r', outcome=Outcome.AMBIGUOUS)
    etcd.call('create', '/r', 'four')
    etcd.wipe()
    etcd.call('get', '/r')
    etcd.call('create', '/r', 'five')
    etcd.call('get', '/r')
    return etcd.history


def violations(history: History) -> list[Violation]:
    """Return the violations that the three checkers report."""
    return [*check_registers(history), *check_reads(history), *check_writes(history)]


def broken_rules(history: History) -> set[str]:
    """Return the rules that were broken."""
    return {violation.rule for violation in violations(history)}


def with_changes(history: History, is_match: Callable[[Record], bool], **changes: object) -> History:
    """Return the history with other fields in some records."""
    assert any(is_match(record) for record in history)
    return rewrite_records(
        history,
        lambda record: (replace(record, **changes),) if is_match(record) else (record,),  # type: ignore[type-var]
    )


def call_of(value: str, kind: str | None = None) -> Callable[[Record], bool]:
    """Return a predicate for the call with a value."""
    return lambda record: isinstance(record, Call) and record.value == value and kind in (None, record.kind)


def change_of(value: str) -> Callable[[Record], bool]:
    """Return a predicate for the change with a value."""
    return lambda record: isinstance(record, Change) and record.value == value


def test_valid_history_passes() -> None:
    """Every kind of call with every outcome."""
    history = valid_history()
    assert {call.outcome for call in history.of(Call)} == set(Outcome)
    assert violations(history) == []


@pytest.mark.parametrize('value', ['one', 'never', None])
def test_stale_read_is_found(value: str | None) -> None:
    """By the calls alone and by the log; also the read of a value that was never applied."""
    found = broken_rules(with_changes(valid_history(), call_of('unanswered', 'get'), value=value))
    if value == 'never':  # it was called later
        assert found == {registers.LINEARIZABLE, reads.MATCHES_LOG}
    else:
        assert reads.MATCHES_LOG in found
        assert registers.LINEARIZABLE in found


def test_stale_read_at_an_old_revision_is_found() -> None:
    """Only its time is wrong.  The violation shows the record with the later revision."""
    etcd = ModelEtcd()
    etcd.call('set', '/r', 'one')
    old = etcd.revision
    etcd.call('set', '/r', 'two')
    etcd.call('get', '/r')
    history = with_changes(etcd.history, call_of('two', 'get'), value='one', revision=old, modified=old)
    found = {violation.rule: violation for violation in violations(history)}
    assert set(found) == {registers.LINEARIZABLE, reads.LINEARIZABLE}
    assert [record.value for record in found[reads.LINEARIZABLE].piece] == ['two', 'one']  # type: ignore[union-attr]
    assert {record.value for record in found[registers.LINEARIZABLE].piece} == {'one', 'two'}  # type: ignore[union-attr]


def test_read_may_be_stale_only_while_the_write_is_in_flight() -> None:
    """Concurrent calls have no order; a read after both has."""
    etcd = ModelEtcd()
    etcd.call('set', '/r', 'one')
    etcd.call('set', '/r', 'two', duration=2.0)
    before, during = 2, etcd.now - 1.0
    beside = Call('q', 'b', '/r', 'get', during, during + 0.5, Outcome.DONE, 'one', None, before, before)
    etcd.history.add(beside)
    assert violations(etcd.history) == []
    after = replace(beside, began=etcd.now + 1, ended=etcd.now + 2)
    etcd.history.add(after)
    assert broken_rules(etcd.history) == {registers.LINEARIZABLE, reads.LINEARIZABLE}


def test_serializable_read_may_be_stale_but_not_older_than_its_client() -> None:
    """A serializable read may be stale, but not older than what its own client has seen."""
    etcd = ModelEtcd()
    etcd.call('set', '/r', 'one', client='a')
    etcd.call('set', '/r', 'two', client='a')
    read = Call('q', 'b', '/r', 'serializable get', etcd.now, etcd.now + 1, Outcome.DONE, 'one', None, 2, 2)
    etcd.history.add(read)
    assert violations(etcd.history) == []
    etcd.history.add(replace(read, client='a'))
    (violation,) = violations(etcd.history)
    assert violation.rule == reads.MONOTONIC
    assert [record.revision for record in violation.piece] == [3, 2]  # type: ignore[union-attr]


def test_serializable_read_of_a_wrong_value_is_found() -> None:
    history = with_changes(
        valid_history(), lambda record: isinstance(record, Call) and record.kind == 'serializable get', value='one'
    )
    assert broken_rules(history) == {reads.MATCHES_LOG}


def test_answer_from_the_future_is_found() -> None:
    """A later probe shows that the revision had not happened."""
    etcd = ModelEtcd()
    etcd.call('set', '/r', 'one')
    etcd.history.add(Probe('b', etcd.now, etcd.now + 0.1, 0, 1))
    (violation,) = violations(etcd.history)
    assert violation.rule == reads.NOT_BEFORE_CAUSE
    assert [type(record) for record in violation.piece] == [Call, Probe]


def test_change_that_was_seen_before_its_call_is_found() -> None:
    """The call cannot have made the change."""
    etcd = ModelEtcd()
    etcd.call('get', '/other')
    etcd.call('set', '/r', 'one')
    history = with_changes(etcd.history, lambda record: isinstance(record, Call) and record.kind == 'get', revision=2)
    assert reads.NOT_BEFORE_CAUSE in broken_rules(history)


def test_unknown_revision_is_found() -> None:
    etcd = ModelEtcd()
    etcd.call('set', '/r', 'one')
    etcd.call('get', '/r')
    assert broken_rules(with_changes(etcd.history, call_of('one', 'get'), revision=99)) == {reads.MATCHES_LOG}


@pytest.mark.parametrize('value', ['two', 'four'])
def test_write_with_a_false_condition_is_found(value: str) -> None:
    """The swap and the create were applied to another value: in the calls and in the log."""
    history = rewrite_records(
        valid_history(),
        lambda record: (
            (replace(record, kind='swap', expected='something else'),)  # type: ignore[list-item]
            if call_of(value)(record)
            else (record,)
        ),
    )
    assert broken_rules(history) == {registers.LINEARIZABLE, reads.MATCHES_LOG}


@pytest.mark.parametrize('value', ['refused', 'refused too', 'refused as well', 'not applied'])
def test_write_that_reported_not_applied_and_is_in_the_log_is_found(value: str) -> None:
    more = Change(0, 99, 0, '/other', value, 99, 1, 0)
    history = rewrite_records(valid_history(), lambda record: (record, more) if call_of(value)(record) else (record,))
    (violation,) = check_writes(history)
    assert violation.rule == writes.NOT_APPLIED
    assert [type(record) for record in violation.piece] == [Call, Change]


def test_write_that_was_applied_twice_is_found() -> None:
    again = Change(0, 99, 0, '/r', 'two', 99, 1, 0)
    history = rewrite_records(
        valid_history(), lambda record: (record, again) if change_of('two')(record) else (record,)
    )
    (violation,) = check_writes(history)
    assert violation.rule == writes.ONCE
    assert [type(record) for record in violation.piece] == [Call, Change, Change]


def test_append_that_was_applied_twice_is_found() -> None:
    """The appended key is below the key of the call."""
    history = History(0)
    history.add(Change(0, 2, 0, '/q/1', 'job', 2, 1, 0))
    history.add(Call('p', 'a', '/q', 'append', 1.0, 2.0, Outcome.DONE, 'job', None, 2, 2))
    assert check_writes(history) == []
    history.add(Change(0, 3, 0, '/q/2', 'job', 3, 1, 0))
    (violation,) = check_writes(history)
    assert violation.rule == writes.ONCE


def test_acknowledged_write_that_is_lost_is_found() -> None:
    history = rewrite_records(valid_history(), lambda record: () if change_of('four')(record) else (record,))
    assert broken_rules(history) == {writes.ACKNOWLEDGED_IS_LOGGED}


def test_acknowledged_write_at_another_revision_is_found() -> None:
    (violation,) = check_writes(with_changes(valid_history(), call_of('four'), modified=99))
    assert violation.rule == writes.ACKNOWLEDGED_IS_LOGGED


def test_acknowledged_write_in_the_previous_era_is_found() -> None:
    """The response came after the wipe."""
    history = with_changes(valid_history(), change_of('five'), era=0, revision=99)
    assert writes.ACKNOWLEDGED_IS_LOGGED in broken_rules(history)


def test_deletion_that_no_call_can_have_made_is_found() -> None:
    """The call that reported "not applied" is shown."""
    history = with_changes(
        valid_history(),
        lambda record: isinstance(record, Call) and record.kind == 'delete' and record.outcome is Outcome.AMBIGUOUS,
        outcome=Outcome.NOT_APPLIED,
    )
    found = {violation.rule: violation for violation in violations(history)}
    assert writes.NOT_APPLIED in found
    assert [record.outcome for record in found[writes.NOT_APPLIED].piece if isinstance(record, Call)][-1:] == [
        Outcome.NOT_APPLIED
    ]


@pytest.mark.parametrize('change', [{'modified': 99}, {'modified': None, 'revision': None}])
def test_deletion_that_is_not_in_the_log_is_found(change: dict[str, int]) -> None:
    """A deletion is identified by its revision."""
    history = with_changes(
        valid_history(),
        lambda record: isinstance(record, Call) and record.kind == 'delete' and record.outcome is Outcome.DONE,
        **change,
    )
    assert writes.ACKNOWLEDGED_IS_LOGGED in broken_rules(history)


def test_two_calls_that_report_the_same_deletion_are_found() -> None:
    history = rewrite_records(
        valid_history(),
        lambda record: (
            (record, replace(record, process='q'))
            if isinstance(record, Call) and record.kind == 'delete' and record.outcome is Outcome.DONE
            else (record,)
        ),
    )
    assert broken_rules(history) == {
        writes.ACKNOWLEDGED_IS_LOGGED
    }  # by the calls alone, the unanswered write may have been between them


def test_aborted_search_is_reported() -> None:
    (violation,) = check_registers(valid_history(), budget=3)
    assert violation.rule == registers.DECIDED


def test_call_in_flight_during_a_wipe_may_belong_to_either_era() -> None:
    """It was written before the wipe, or after it."""
    for is_before in (True, False):
        etcd = ModelEtcd()
        etcd.call('set', '/r', 'one')
        began = etcd.now
        if is_before:
            etcd.commit({'/r': 'two'})
        at = etcd.revision if is_before else 2
        etcd.wipe()
        if not is_before:
            etcd.commit({'/r': 'two'})
        etcd.history.add(Call('p', 'a', '/r', 'set', began, etcd.now, Outcome.DONE, 'two', None, at, at))
        etcd.pass_time(1)
        etcd.call('get', '/r')
        assert etcd.history.of(Call)[-1].value == (None if is_before else 'two')
        assert violations(etcd.history) == []
