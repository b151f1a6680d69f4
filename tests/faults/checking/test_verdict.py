"""The verdict: all checkers together, on whole histories that are as they should be, and on what is left of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.checking import log, resources
from tests.faults.checking.log import check_log
from tests.faults.checking.model_etcd import ToyEtcd, ToyWatcher, rewritten
from tests.faults.checking.resources import check_resources
from tests.faults.history import (
    COMPACTION,
    Call,
    Change,
    Claim,
    Fault,
    History,
    Outcome,
    Record,
    Resources,
    Resync,
    Seen,
)
from tests.faults.verdict import check
from tests.support.sequences import enough

KEYS = ('/r/a', '/r/b', '/r/_c')
PROCESSES = {'p': 'a', 'q': 'b', 'r': 'b'}


def a_run(seed: int, *, steps: int = 60, losses: bool = True, followers: int = 5) -> History:
    """A run without a fault of the client's: registers, transactions, watchers, and now and then a loss of history."""
    chance = random.Random(seed)
    etcd = ToyEtcd()
    watchers: list[ToyWatcher] = []
    backups: list[int] = []
    count = 0  # what makes values and names unique

    def call() -> None:
        kind = chance.choices(['get', 'serializable get', 'set', 'create', 'swap', 'delete'], [3, 1, 3, 1, 2, 1])[0]
        key, process = chance.choice(KEYS), chance.choice(list(PROCESSES))
        there = etcd.there.get(key)
        expected = chance.choice(['nothing', None if there is None else there.value]) or 'nothing'
        outcome, is_applied = None, True
        if kind in ('set', 'create', 'swap', 'delete') and chance.random() < 0.2:
            outcome = chance.choice([Outcome.AMBIGUOUS, Outcome.NOT_APPLIED])
            is_applied = outcome is Outcome.AMBIGUOUS and chance.random() < 0.5
        etcd.call(
            kind,
            key,
            None if kind.endswith('get') or kind == 'delete' else f'v{count}',
            expected=expected if kind == 'swap' else None,
            process=process,
            client=PROCESSES[process],
            outcome=outcome,
            is_applied=is_applied,
        )

    def transact() -> None:
        keys = chance.sample(['/t/a', '/t/b', '/t/c'], chance.randint(1, 3))
        etcd.commit({key: chance.choice([None, f't{count}{key}']) for key in keys})
        etcd.pass_time(0.01)

    def watch() -> None:
        if len(watchers) == followers:
            return
        watchers.append(etcd.watch(f'w{count}', chance.choice(['/', '/r', '/t', '/t/a', '/none'])))
        etcd.pass_time(1.5)

    def deliver() -> None:
        for watcher in chance.sample(watchers, min(2, len(watchers))):
            etcd.deliver(watcher)

    def lose() -> None:
        if not losses:
            return
        cause = chance.random()
        if cause < 0.3:
            etcd.wipe()
            backups.clear()
        elif cause < 0.5:
            etcd.back_up()
            backups.append(etcd.revision)
        elif cause < 0.7 and backups:
            etcd.restore(chance.randint(1, backups[-1]))
            backups.clear()
        elif etcd.revision > 2:
            etcd.compact(chance.randint(2, etcd.revision))

    # No entry of the log is without a witness.
    everything = etcd.watch('everything', '/')
    etcd.pass_time(1.5)
    doings: list[Callable[[], None]] = [call, transact, watch, deliver, lambda: etcd.serve(0.1), lose]
    for count in range(steps):  # noqa: B007  the doings use it
        chance.choices(doings, [8, 4, 1, 4, 1, 0.5])[0]()
        etcd.deliver(everything)
    for watcher in watchers:
        etcd.deliver(watcher)
    return etcd.finish()


@given(st.integers(0, 10**9))
@enough(150)
def test_run_without_a_fault_passes(seed: int) -> None:
    """Whatever was called, lost and told."""
    verdict = check(a_run(seed))
    assert verdict.is_good, str(verdict)


Mutation = Callable[[random.Random, list[Record], int], list[Record]]


def drop(_: random.Random, records: list[Record], place: int) -> list[Record]:
    """One record is missing."""
    return [*records[:place], *records[place + 1 :]]


def double(_: random.Random, records: list[Record], place: int) -> list[Record]:
    """One record is there twice."""
    return [*records[: place + 1], *records[place:]]


def swap(_: random.Random, records: list[Record], place: int) -> list[Record]:
    """Two events that one watcher was told are in the other order."""
    this = records[place]
    assert isinstance(this, Seen)
    for other in range(place + 1, len(records)):
        that = records[other]
        if isinstance(that, Seen | Resync) and that.watcher == this.watcher:
            if isinstance(that, Resync) or that.resync != this.resync:
                break
            changed = list(records)
            changed[place], changed[other] = that, this
            return changed
    return drop(_, records, place)


def change_value(_: random.Random, records: list[Record], place: int) -> list[Record]:
    """One value is another."""
    changed = list(records)
    changed[place] = replace(records[place], value='wrong')  # type: ignore[call-arg, type-var]
    return changed


def is_event(record: Record) -> bool:
    """True for what a watcher was told."""
    return isinstance(record, Seen)


def is_lost_anyway(records: list[Record], place: int) -> bool:
    """True for the last event before a loss: whether it was told cannot be known from the difference."""
    this = records[place]
    if not isinstance(this, Seen) or this.resync:
        return False
    later = (record for record in records[place + 1 :] if isinstance(record, Seen | Resync))
    following = next((record for record in later if record.watcher == this.watcher), None)
    return isinstance(following, Resync) or (following is not None and following.resync)


def is_answered_read(record: Record) -> bool:
    """True for a read that had an answer."""
    return isinstance(record, Call) and record.kind == 'get' and record.outcome is Outcome.DONE


def is_answered_write(record: Record) -> bool:
    """True for a write that had an answer and has a value."""
    is_done = isinstance(record, Call) and not record.kind.endswith('get') and record.outcome is Outcome.DONE
    return is_done and record.value is not None  # type: ignore[union-attr]


def is_change(record: Record) -> bool:
    """True for an entry of the log."""
    return isinstance(record, Change) and record.key != '/r/_c'


@pytest.mark.parametrize(
    ('is_meant', 'mutate'),
    [
        (is_event, drop),
        (is_event, double),
        (is_event, swap),
        (is_event, change_value),
        (is_answered_read, change_value),
        (is_answered_write, change_value),
        (is_change, drop),
        (is_change, change_value),
    ],
)
@given(seed=st.integers(0, 10**9))
@enough(40)
def test_mutation_is_caught(is_meant: Callable[[Record], bool], mutate: Mutation, seed: int) -> None:
    """One record of one run, wherever it is."""
    chance = random.Random(seed)
    history = a_run(seed)
    records = list(history)
    places = [place for place in range(len(records)) if is_meant(records[place]) and not is_lost_anyway(records, place)]
    if not places:
        return
    mutated = History(0)
    for record in mutate(chance, records, chance.choice(places)):
        mutated.add(record)
    assert check(history).is_good
    assert not check(mutated).is_good


def test_log_with_a_hole_is_no_log() -> None:
    """Nothing can be said about what is not there."""
    history = a_run(1, losses=False)
    holed = rewritten(history, lambda record: () if isinstance(record, Change) and record.revision == 5 else (record,))
    assert check_log(history) == []
    assert [violation.rule for violation in check_log(holed)] == [log.WHOLE]


@pytest.mark.parametrize('more', [Fault(COMPACTION, '', 1.0, 2.0), Change(1, 2, 0, '/x', 'x', 2, 1, 0)])
def test_loss_that_the_history_does_not_tell_enough_of_is_found(more: Record) -> None:
    """A compaction without a revision; an era that no wipe began."""
    history = rewritten(a_run(1, losses=False), lambda record: (record,))
    history.add(more)
    assert [violation.rule for violation in check_log(history)] == [log.WHOLE]


@pytest.mark.parametrize('what', ['sockets', 'greenlets', 'leases', 'memory'])
def test_leak_is_found(what: str) -> None:
    """Whatever it is of."""
    before = Resources('before', 3, 4, 0, 1000)
    history = History(0)
    for measured in (before, replace(before, when='after', memory=before.memory + resources.BOUND)):
        history.add(measured)
    assert check_resources(history) == []
    leak = {what: getattr(before, what) + (1 if what != 'memory' else resources.BOUND + 1)}
    history.add(replace(before, when='after', **leak))
    (violation,) = check_resources(history)
    assert violation.rule == (resources.BOUNDED if what == 'memory' else resources.NOTHING_MORE)


def test_run_that_was_not_measured_is_no_pass() -> None:
    """Nobody knows what it left behind."""
    assert [violation.rule for violation in check_resources(History(0))] == [resources.MEASURED]


def test_verdict_shows_its_seed_and_figures_and_what_was_broken(tmp_path: Path) -> None:
    """Also that of a history that was saved."""
    history = a_run(3)
    history.save(tmp_path / 'history.jsonl')
    verdict = check(History.load(tmp_path / 'history.jsonl'))
    assert verdict.is_good
    assert verdict.figures == check(history).figures
    assert verdict.figures['events'] == sum(not record.resync for record in history.of(Seen))
    assert verdict.figures['writes'] == sum(
        verdict.figures[f'writes {outcome}'] for outcome in ('done', 'refused', 'not applied', 'ambiguous')
    )
    assert 'no rule was broken' in str(verdict)
    history.add(Claim('k', '/s/a', 1.0, 7))
    verdict = check(history)
    assert not verdict.is_good
    text = str(verdict)
    assert 'seed 0' in text
    assert all(part in text for part in (*(found.rule for found in verdict.violations), 'token=7', 'broken 1 times'))


def test_long_run_is_judged_within_seconds() -> None:
    """Twenty thousand calls, and as many events of each watcher: more than a run of three minutes has.

    What takes far too long ends by the timeout that every test has.
    """
    history = a_run(4, steps=45_000, losses=False)
    assert len(history.of(Call)) > 18_000
    assert sum(event.watcher == 'everything' for event in history.of(Seen)) > 18_000
    assert check(history).is_good
