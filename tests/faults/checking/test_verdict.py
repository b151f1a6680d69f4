"""Tests of all checkers together, on random histories without violations and on mutations of them."""

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
from tests.faults.checking.model_etcd import ModelEtcd, ModelWatcher, rewrite_records
from tests.faults.checking.resources import check_resources
from tests.faults.history import (
    COMPACTION,
    Call,
    Change,
    Fault,
    History,
    Outcome,
    Record,
    Resources,
    Resync,
    TokenCheck,
    WatchEvent,
)
from tests.faults.verdict import check
from tests.support.sequences import example_settings

KEYS = ('/r/a', '/r/b', '/r/_c')
PROCESSES = {'p': 'a', 'q': 'b', 'r': 'b'}


def random_history(seed: int, *, steps: int = 60, losses: bool = True, max_watchers: int = 5) -> History:
    """A random history of a correct client: registers, transactions, watchers, and losses of history."""
    rng = random.Random(seed)
    etcd = ModelEtcd()
    watchers: list[ModelWatcher] = []
    backups: list[int] = []
    count = 0  # makes values and names unique

    def call() -> None:
        kind = rng.choices(['get', 'serializable get', 'set', 'create', 'swap', 'delete'], [3, 1, 3, 1, 2, 1])[0]
        key, process = rng.choice(KEYS), rng.choice(list(PROCESSES))
        keys = etcd.keys.get(key)
        expected = rng.choice(['nothing', None if keys is None else keys.value]) or 'nothing'
        outcome, is_applied = None, True
        if kind in ('set', 'create', 'swap', 'delete') and rng.random() < 0.2:
            outcome = rng.choice([Outcome.AMBIGUOUS, Outcome.NOT_APPLIED])
            is_applied = outcome is Outcome.AMBIGUOUS and rng.random() < 0.5
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
        keys = rng.sample(['/t/a', '/t/b', '/t/c'], rng.randint(1, 3))
        etcd.commit({key: rng.choice([None, f't{count}{key}']) for key in keys})
        etcd.pass_time(0.01)

    def watch() -> None:
        if len(watchers) == max_watchers:
            return
        watchers.append(etcd.watch(f'w{count}', rng.choice(['/', '/r', '/t', '/t/a', '/none'])))
        etcd.pass_time(1.5)

    def deliver() -> None:
        for watcher in rng.sample(watchers, min(2, len(watchers))):
            etcd.deliver(watcher)

    def lose_history() -> None:
        if not losses:
            return
        cause = rng.random()
        if cause < 0.3:
            etcd.wipe()
            backups.clear()
        elif cause < 0.5:
            etcd.back_up()
            backups.append(etcd.revision)
        elif cause < 0.7 and backups:
            etcd.restore(rng.randint(1, backups[-1]))
            backups.clear()
        elif etcd.revision > 2:
            etcd.compact(rng.randint(2, etcd.revision))

    # This watcher has an event for each change.
    everything = etcd.watch('everything', '/')
    etcd.pass_time(1.5)
    actions: list[Callable[[], None]] = [
        call,
        transact,
        watch,
        deliver,
        lambda: etcd.pass_time_with_probes(0.1),
        lose_history,
    ]
    for count in range(steps):  # noqa: B007  the doings use it
        rng.choices(actions, [8, 4, 1, 4, 1, 0.5])[0]()
        etcd.deliver(everything)
    for watcher in watchers:
        etcd.deliver(watcher)
    return etcd.finish()


@given(st.integers(0, 10**9))
@example_settings(150)
def test_random_history_passes(seed: int) -> None:
    verdict = check(random_history(seed))
    assert verdict.is_good, str(verdict)


Mutation = Callable[[random.Random, list[Record], int], list[Record]]


def drop(_: random.Random, records: list[Record], index: int) -> list[Record]:
    """Drop a record."""
    return [*records[:index], *records[index + 1 :]]


def double(_: random.Random, records: list[Record], index: int) -> list[Record]:
    """Duplicate a record."""
    return [*records[: index + 1], *records[index:]]


def swap(_: random.Random, records: list[Record], index: int) -> list[Record]:
    """Swap two events of a watcher."""
    this = records[index]
    assert isinstance(this, WatchEvent)
    for other in range(index + 1, len(records)):
        that = records[other]
        if isinstance(that, WatchEvent | Resync) and that.watcher == this.watcher:
            if isinstance(that, Resync) or that.resync != this.resync:
                break
            changed = list(records)
            changed[index], changed[other] = that, this
            return changed
    return drop(_, records, index)


def change_value(_: random.Random, records: list[Record], index: int) -> list[Record]:
    """Change a value."""
    changed = list(records)
    changed[index] = replace(records[index], value='wrong')  # type: ignore[call-arg, type-var]
    return changed


def is_event(record: Record) -> bool:
    """True for an event of a watcher."""
    return isinstance(record, WatchEvent)


def is_undetectable(records: list[Record], index: int) -> bool:
    """True for the last event before a resync: the comparison does not show whether it was delivered."""
    this = records[index]
    if not isinstance(this, WatchEvent) or this.resync:
        return False
    later = (record for record in records[index + 1 :] if isinstance(record, WatchEvent | Resync))
    following = next((record for record in later if record.watcher == this.watcher), None)
    return isinstance(following, Resync) or (following is not None and following.resync)


def is_answered_read(record: Record) -> bool:
    """True for a read with a response."""
    return isinstance(record, Call) and record.kind == 'get' and record.outcome is Outcome.DONE


def is_answered_write(record: Record) -> bool:
    """True for a write of a value with a response."""
    is_done = isinstance(record, Call) and not record.kind.endswith('get') and record.outcome is Outcome.DONE
    return is_done and record.value is not None  # type: ignore[union-attr]


def is_change(record: Record) -> bool:
    """True for a change in the log."""
    return isinstance(record, Change) and record.key != '/r/_c'


@pytest.mark.parametrize(
    ('is_match', 'mutate'),
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
@example_settings(40)
def test_mutation_is_caught(is_match: Callable[[Record], bool], mutate: Mutation, seed: int) -> None:
    """A mutation of one record of a random history."""
    rng = random.Random(seed)
    history = random_history(seed)
    records = list(history)
    indices = [
        index for index in range(len(records)) if is_match(records[index]) and not is_undetectable(records, index)
    ]
    if not indices:
        return
    mutated = History(0)
    for record in mutate(rng, records, rng.choice(indices)):
        mutated.add(record)
    assert check(history).is_good
    assert not check(mutated).is_good


def test_log_with_a_gap_is_found() -> None:
    history = random_history(1, losses=False)
    holed = rewrite_records(
        history, lambda record: () if isinstance(record, Change) and record.revision == 5 else (record,)
    )
    assert check_log(history) == []
    assert [violation.rule for violation in check_log(holed)] == [log.COMPLETE]


@pytest.mark.parametrize('more', [Fault(COMPACTION, '', 1.0, 2.0), Change(1, 2, 0, '/x', 'x', 2, 1, 0)])
def test_incomplete_record_of_a_loss_is_found(more: Record) -> None:
    """A compaction without a revision; an era that no wipe began."""
    history = rewrite_records(random_history(1, losses=False), lambda record: (record,))
    history.add(more)
    assert [violation.rule for violation in check_log(history)] == [log.COMPLETE]


@pytest.mark.parametrize('name', ['sockets', 'greenlets', 'leases', 'memory'])
def test_leak_is_found(name: str) -> None:
    before = Resources('before', 3, 4, 0, 1000)
    history = History(0)
    for measured in (before, replace(before, when='after', memory=before.memory + resources.MAX_MEMORY_GROWTH)):
        history.add(measured)
    assert check_resources(history) == []
    leak = {name: getattr(before, name) + (1 if name != 'memory' else resources.MAX_MEMORY_GROWTH + 1)}
    history.add(replace(before, when='after', **leak))
    (violation,) = check_resources(history)
    assert violation.rule == (resources.MEMORY_BOUNDED if name == 'memory' else resources.NO_LEAK)


def test_run_without_measurements_is_reported() -> None:
    assert [violation.rule for violation in check_resources(History(0))] == [resources.MEASURED]


def test_verdict_shows_seed_figures_and_violations(tmp_path: Path) -> None:
    """Also of a history that was saved and loaded."""
    history = random_history(3)
    history.save(tmp_path / 'history.jsonl')
    verdict = check(History.load(tmp_path / 'history.jsonl'))
    assert verdict.is_good
    assert verdict.figures == check(history).figures
    assert verdict.figures['events'] == sum(not record.resync for record in history.of(WatchEvent))
    assert verdict.figures['writes'] == sum(
        verdict.figures[f'writes {outcome}'] for outcome in ('done', 'refused', 'not applied', 'ambiguous')
    )
    assert 'no rule was broken' in str(verdict)
    history.add(TokenCheck('k', '/s/a', 1.0, 7))
    verdict = check(history)
    assert not verdict.is_good
    text = str(verdict)
    assert 'seed 0' in text
    assert all(part in text for part in (*(found.rule for found in verdict.violations), 'token=7', '1 violations'))


def test_long_history_is_checked_in_time() -> None:
    """Twenty thousand calls, and as many events of each watcher: more than in a run of three minutes.

    A search that takes far too long is ended by the timeout of every test.
    """
    history = random_history(4, steps=45_000, losses=False)
    assert len(history.of(Call)) > 18_000
    assert sum(event.watcher == 'everything' for event in history.of(WatchEvent)) > 18_000
    assert check(history).is_good
