"""The checkers of registers: their calls by themselves, their calls beside the log, and writes in the log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checking import reads, registers, writes
from tests.faults.checking.model_etcd import ToyEtcd, rewritten
from tests.faults.checking.reads import check_readings
from tests.faults.checking.registers import check_registers
from tests.faults.checking.violation import Violation
from tests.faults.checking.writes import check_writes
from tests.faults.history import Call, Change, History, Outcome, Probe, Record


def a_story() -> History:
    """One of each kind of call, done and refused, and a wipe."""
    etcd = ToyEtcd()
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
    """What all three say."""
    return [*check_registers(history), *check_readings(history), *check_writes(history)]


def broken(history: History) -> set[str]:
    """The rules that they say are broken."""
    return {violation.rule for violation in violations(history)}


def changed(history: History, is_meant: Callable[[Record], bool], **changes: object) -> History:
    """The same with other fields in some records."""
    assert any(is_meant(record) for record in history)
    return rewritten(
        history,
        lambda record: (replace(record, **changes),) if is_meant(record) else (record,),  # type: ignore[type-var]
    )


def call_of(value: str, kind: str | None = None) -> Callable[[Record], bool]:
    """True for the call with a value."""
    return lambda record: isinstance(record, Call) and record.value == value and kind in (None, record.kind)


def change_of(value: str) -> Callable[[Record], bool]:
    """True for the change in the log."""
    return lambda record: isinstance(record, Change) and record.value == value


def test_story_passes() -> None:
    """Every kind of call with every outcome."""
    history = a_story()
    assert {call.outcome for call in history.of(Call)} == set(Outcome)
    assert violations(history) == []


@pytest.mark.parametrize('value', ['one', 'never', None])
def test_stale_read_is_found(value: str | None) -> None:
    """Both by the calls alone and by the log; a write that was never applied was not read either."""
    found = broken(changed(a_story(), call_of('unanswered', 'get'), value=value))
    if value == 'never':  # it was called later
        assert found == {registers.LINEARIZABLE, reads.TRUE}
    else:
        assert reads.TRUE in found
        assert registers.LINEARIZABLE in found


def test_stale_read_at_an_old_revision_is_found() -> None:
    """What it says was true once: only its time is wrong.  The piece shows who knew better."""
    etcd = ToyEtcd()
    etcd.call('set', '/r', 'one')
    old = etcd.revision
    etcd.call('set', '/r', 'two')
    etcd.call('get', '/r')
    history = changed(etcd.history, call_of('two', 'get'), value='one', revision=old, modified=old)
    found = {violation.rule: violation for violation in violations(history)}
    assert set(found) == {registers.LINEARIZABLE, reads.FRESH}
    assert [record.value for record in found[reads.FRESH].piece] == ['two', 'one']  # type: ignore[union-attr]
    assert {record.value for record in found[registers.LINEARIZABLE].piece} == {'one', 'two'}  # type: ignore[union-attr]


def test_read_of_another_process_may_be_stale_only_while_the_write_lasts() -> None:
    """Two calls at once have no order; a read after both has."""
    etcd = ToyEtcd()
    etcd.call('set', '/r', 'one')
    etcd.call('set', '/r', 'two', takes=2.0)
    before, during = 2, etcd.now - 1.0
    beside = Call('q', 'b', '/r', 'get', during, during + 0.5, Outcome.DONE, 'one', None, before, before)
    etcd.history.add(beside)
    assert violations(etcd.history) == []
    after = replace(beside, began=etcd.now + 1, ended=etcd.now + 2)
    etcd.history.add(after)
    assert broken(etcd.history) == {registers.LINEARIZABLE, reads.FRESH}


def test_old_read_passes_where_it_was_asked_for_and_goes_back_only_for_another_client() -> None:
    """A serializable read may be old, and never older than what its own client has seen."""
    etcd = ToyEtcd()
    etcd.call('set', '/r', 'one', client='a')
    etcd.call('set', '/r', 'two', client='a')
    read = Call('q', 'b', '/r', 'serializable get', etcd.now, etcd.now + 1, Outcome.DONE, 'one', None, 2, 2)
    etcd.history.add(read)
    assert violations(etcd.history) == []
    etcd.history.add(replace(read, client='a'))
    (violation,) = violations(etcd.history)
    assert violation.rule == reads.FORWARD
    assert [record.revision for record in violation.piece] == [3, 2]  # type: ignore[union-attr]


def test_old_read_of_what_was_not_so_is_found() -> None:
    """It has to be what was there at its revision."""
    history = changed(
        a_story(), lambda record: isinstance(record, Call) and record.kind == 'serializable get', value='one'
    )
    assert broken(history) == {reads.TRUE}


def test_answer_from_the_future_is_found() -> None:
    """A probe that was made after the answer says that it had not happened."""
    etcd = ToyEtcd()
    etcd.call('set', '/r', 'one')
    etcd.history.add(Probe('b', etcd.now, etcd.now + 0.1, 0, 1))
    (violation,) = violations(etcd.history)
    assert violation.rule == reads.CAUSAL
    assert [type(record) for record in violation.piece] == [Call, Probe]


def test_change_that_was_seen_before_it_was_asked_for_is_found() -> None:
    """Whoever wrote it, it was not this call, or not then."""
    etcd = ToyEtcd()
    etcd.call('get', '/other')
    etcd.call('set', '/r', 'one')
    history = changed(etcd.history, lambda record: isinstance(record, Call) and record.kind == 'get', revision=2)
    assert reads.CAUSAL in broken(history)


def test_revision_that_never_was_is_found() -> None:
    """The log does not have it."""
    etcd = ToyEtcd()
    etcd.call('set', '/r', 'one')
    etcd.call('get', '/r')
    assert broken(changed(etcd.history, call_of('one', 'get'), revision=99)) == {reads.TRUE}


@pytest.mark.parametrize('value', ['two', 'four'])
def test_compare_that_did_not_hold_is_found(value: str) -> None:
    """The swap and the creation were done on something else: in the calls, and in the log."""
    history = rewritten(
        a_story(),
        lambda record: (
            (replace(record, kind='swap', expected='something else'),)  # type: ignore[list-item]
            if call_of(value)(record)
            else (record,)
        ),
    )
    assert broken(history) == {registers.LINEARIZABLE, reads.TRUE}


@pytest.mark.parametrize('value', ['refused', 'refused too', 'refused as well', 'not applied'])
def test_write_that_was_not_applied_and_is_in_the_log_is_found(value: str) -> None:
    """Whatever it was refused for."""
    more = Change(0, 99, 0, '/other', value, 99, 1, 0)
    history = rewritten(a_story(), lambda record: (record, more) if call_of(value)(record) else (record,))
    (violation,) = check_writes(history)
    assert violation.rule == writes.NOT_APPLIED
    assert [type(record) for record in violation.piece] == [Call, Change]


def test_write_that_was_applied_twice_is_found() -> None:
    """A blind retry: the value is in the log twice."""
    again = Change(0, 99, 0, '/r', 'two', 99, 1, 0)
    history = rewritten(a_story(), lambda record: (record, again) if change_of('two')(record) else (record,))
    (violation,) = check_writes(history)
    assert violation.rule == writes.ONCE
    assert [type(record) for record in violation.piece] == [Call, Change, Change]


def test_append_that_was_applied_twice_is_found() -> None:
    """Its key is below the one that was called with."""
    history = History(0)
    history.add(Change(0, 2, 0, '/q/1', 'job', 2, 1, 0))
    history.add(Call('p', 'a', '/q', 'append', 1.0, 2.0, Outcome.DONE, 'job', None, 2, 2))
    assert check_writes(history) == []
    history.add(Change(0, 3, 0, '/q/2', 'job', 3, 1, 0))
    (violation,) = check_writes(history)
    assert violation.rule == writes.ONCE


def test_acknowledged_write_that_is_lost_is_found() -> None:
    """It is not in the log."""
    history = rewritten(a_story(), lambda record: () if change_of('four')(record) else (record,))
    assert broken(history) == {writes.KEPT}


def test_acknowledged_write_at_another_revision_is_found() -> None:
    """Its caller was told a wrong index."""
    (violation,) = check_writes(changed(a_story(), call_of('four'), modified=99))
    assert violation.rule == writes.KEPT


def test_acknowledged_write_of_the_era_before_is_no_excuse() -> None:
    """It was answered after the wipe."""
    history = changed(a_story(), change_of('five'), era=0, revision=99)
    assert writes.KEPT in broken(history)


def test_deletion_that_nobody_may_have_made_is_found() -> None:
    """Who was told that it is not applied is the suspect."""
    history = changed(
        a_story(),
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
    """It is known by its revision."""
    history = changed(
        a_story(),
        lambda record: isinstance(record, Call) and record.kind == 'delete' and record.outcome is Outcome.DONE,
        **change,
    )
    assert writes.KEPT in broken(history)


def test_two_that_deleted_the_same_are_found() -> None:
    """Only one can have."""
    history = rewritten(
        a_story(),
        lambda record: (
            (record, replace(record, process='q'))
            if isinstance(record, Call) and record.kind == 'delete' and record.outcome is Outcome.DONE
            else (record,)
        ),
    )
    assert broken(history) == {writes.KEPT}  # by the calls alone the unanswered write may have been between them


def test_search_that_runs_out_of_its_budget_is_no_pass() -> None:
    """It is undecided, and that is a violation of its own."""
    (violation,) = check_registers(a_story(), budget=3)
    assert violation.rule == registers.DECIDED


def test_call_under_way_while_all_is_wiped_may_be_of_either_era() -> None:
    """It was written and wiped away, or written after that."""
    for is_before in (True, False):
        etcd = ToyEtcd()
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
