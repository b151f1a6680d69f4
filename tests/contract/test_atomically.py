"""atomically: a function runs on one state of the store, and again if that has changed.

The situations of the STM tests of etcd's Go client and of microsoft/etcd3 are among these.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.recipes import STM
from getc.timing import Backoff
from tests.contract.conftest import REFUSING_URL, BackendUnderTest

pytestmark = pytest.mark.transactions

PATIENT = 60.0
"""Seconds for a transaction that competes with many others on a loaded machine."""


class Interference:
    """Calls a function in the first run of a transaction only, and counts the runs."""

    def __init__(self, interfere: Callable[[], object]) -> None:
        self.runs = 0
        self._interfere = interfere

    def __call__(self) -> None:
        self.runs += 1
        if self.runs == 1:
            self._interfere()


# -- a run


def test_function_reads_and_writes_and_its_result_is_returned(client: getc.Client) -> None:
    """Nothing is written before it returns."""
    client.set('/foo1', 'bar1')

    def triple(stm: STM) -> str:
        value = stm.get('/foo1').value or ''
        stm.set('/foo1', value * 3)
        assert client.get('/foo1').value == 'bar1'
        return 'done'

    assert client.atomically(triple) == 'done'
    assert client.get('/foo1').value == 'bar1bar1bar1'


def test_function_without_reads_and_writes_sends_nothing() -> None:
    with getc.etcd(REFUSING_URL, api='v3') as refusing:
        assert refusing.atomically(lambda stm: 'foo') == 'foo'


def test_new_node_is_visible_after_the_commit(client: getc.Client) -> None:
    client.atomically(lambda stm: stm.set('/dir/foo', b'\xff'))
    assert client.get('/dir/foo').raw_value == b'\xff'


def test_all_writes_have_one_index(client: getc.Client) -> None:
    client.set('/gone', 'x')
    before = client.set('/a', '1').etcd_index

    def write(stm: STM) -> None:
        stm.set('/a', '2')
        stm.set('/b', '2', ttl=60)
        stm.delete('/gone')

    client.atomically(write)
    assert client.get('/a').index == client.get('/b').index == client.get('/b').etcd_index == before + 1
    assert client.get('/b').ttl == 60
    with pytest.raises(getc.KeyNotFound):
        client.get('/gone')


def test_nothing_is_written_when_the_function_raises(client: getc.Client) -> None:
    runs: list[int] = []

    def fail(stm: STM) -> None:
        runs.append(1)
        stm.set('/foo', 'x')
        raise LookupError('no')

    with pytest.raises(LookupError, match='no'):
        client.atomically(fail)
    assert len(runs) == 1
    with pytest.raises(getc.KeyNotFound):
        client.get('/foo')


def test_nothing_is_written_when_the_greenlet_is_killed_in_the_function(client: getc.Client, spawn: Any) -> None:
    def write(stm: STM) -> None:
        stm.set('/foo', 'baz')
        gevent.sleep(3600)
        stm.set('/foo', 'bap')

    greenlet = spawn(client.atomically, write)
    gevent.sleep(0)
    greenlet.kill()
    with pytest.raises(getc.KeyNotFound):
        client.get('/foo')


def test_stm_is_of_no_use_after_the_function(client: getc.Client) -> None:
    kept: list[STM] = []
    client.atomically(kept.append)
    for use in kept[0].get, kept[0].delete, lambda key: kept[0].set(key, 'x'):
        with pytest.raises(RuntimeError, match='the function of this STM has returned'):
            use('/foo')
    assert repr(kept[0]) == '<getc.STM index=0 reads=0 writes=0 over>'


# -- what a run sees


def test_run_sees_its_own_writes(client: getc.Client) -> None:
    client.set('/foo1', 'bar1')
    created = client.get('/foo1').created_index

    def write(stm: STM) -> None:
        stm.set('/foo', 'some value')
        assert stm.get('/foo').value == 'some value'
        assert stm.get('/foo1').value == 'bar1'
        stm.set('/foo1', 'lol')
        found = stm.get('/foo1')
        assert (type(found), found.value, found.modified_index, found.created_index) == (getc.Got, 'lol', 0, created)
        stm.delete('/foo1')
        for use in stm.get, stm.delete:
            with pytest.raises(getc.KeyNotFound):
                use('/foo1')
        stm.set('/foo1', 'again')
        assert stm.get('/foo1').value == 'again'

    client.atomically(write)
    assert client.get('/foo1').value == 'again'


def test_delete_of_a_node_that_only_the_run_has_written_leaves_nothing(client: getc.Client) -> None:
    def write(stm: STM) -> None:
        stm.set('/foo', 'x')
        stm.delete('/foo')
        stm.set('/other', 'x')

    client.atomically(write)
    with pytest.raises(getc.KeyNotFound):
        client.get('/foo')
    assert client.get('/other').value == 'x'


def test_delete_of_a_node_that_the_run_has_overwritten_deletes_it(client: getc.Client) -> None:
    client.set('/foo', 'old')

    def write(stm: STM) -> None:
        stm.set('/foo', 'new')
        stm.delete('/foo')

    client.atomically(write)
    with pytest.raises(getc.KeyNotFound):
        client.get('/foo')


def test_reads_are_repeatable(client: getc.Client, other: getc.Client) -> None:
    """Of one index, also if the node changes between two reads; then the function runs again."""
    other.set('/foo1', 'bar1')
    change = Interference(lambda: other.set('/foo1', 'changed!'))
    seen: list[list[str | None]] = []

    def read(stm: STM) -> None:
        first = stm.get('/foo1').value
        change()
        seen.append([first, stm.get('/foo1').value])

    client.atomically(read)
    assert seen == [['bar1', 'bar1'], ['changed!', 'changed!']]


def test_read_of_a_missing_node_is_repeatable(client: getc.Client, other: getc.Client) -> None:
    change = Interference(lambda: other.set('/none', 'lol'))
    seen: list[object] = []

    def read(stm: STM) -> None:
        try:
            seen.append(stm.get('/none').value)
        except getc.KeyNotFound as error:
            seen.append(error.cause)
        change()

    client.atomically(read)
    assert seen == ['/none', 'lol']


def test_all_reads_of_a_run_are_of_one_index(client: getc.Client, other: getc.Client) -> None:
    """A writer changes all nodes together; no run sees two states, even if it is aborted later."""
    keys = [f'/foo-{number}' for number in range(5)]

    def write(value: str) -> None:
        with other.transaction() as t:
            for key in keys:
                t.set(key, value)

    write('0')
    writers = iter(range(1, 4))
    seen: list[set[str | None]] = []

    def read(stm: STM) -> None:
        values = [stm.get(keys[0]).value]
        for number in writers:
            write(str(number))
            break
        try:
            values += [stm.get(key).value for key in keys[1:]]
        finally:
            seen.append(set(values))

    client.atomically(read, timeout=PATIENT)
    assert len(seen) == 4
    assert all(len(values) == 1 for values in seen)
    assert seen[-1] == {'3'}


def test_result_of_a_read_has_the_node(client: getc.Client) -> None:
    index = client.set('/a', 'x').index
    now = client.set('/b', 'y').index

    def read(stm: STM) -> getc.Got:
        assert stm.index == 0
        found = stm.get('a/')
        assert stm.index == now
        return found

    found = client.atomically(read)
    assert (found.key, found.value, found.modified_index, found.etcd_index) == ('/a', 'x', index, now)
    assert client.get('/a').node == found.node


def test_listing_is_not_supported(client: getc.Client) -> None:
    """The message names the alternative."""
    client.set('/dir/a', 'x')
    for key in '/dir', '/':
        for use in (lambda stm, key=key: stm.get(key)), (lambda stm, key=key: stm.delete(key)):
            with pytest.raises(getc.NotSupported, match=r'is a directory.* write a version key') as caught:
                client.atomically(use)
            assert caught.value.key == key


# -- conflicts


@pytest.mark.parametrize('method', ['set', 'delete'])
def test_write_is_repeated_on_a_conflict(client: getc.Client, other: getc.Client, method: str) -> None:
    other.set('/foo1', 'bar1')
    change = Interference(lambda: other.set('/foo1', 'lol'))

    def write(stm: STM) -> None:
        value = stm.get('/foo1').value or ''
        change()
        if method == 'set':
            stm.set('/foo1', value * 3)
        else:
            stm.delete('/foo1')

    client.atomically(write)
    assert change.runs == 2
    if method == 'set':
        assert client.get('/foo1').value == 'lollollol'
    else:
        with pytest.raises(getc.KeyNotFound):
            client.get('/foo1')


def test_deletion_of_a_node_that_was_read_is_a_conflict(client: getc.Client, other: getc.Client) -> None:
    other.set('/foo', 'bar')
    change = Interference(lambda: other.delete('/foo'))

    def write(stm: STM) -> None:
        try:
            stm.get('/foo')
        except getc.KeyNotFound:
            pass
        change()
        stm.set('/foo2', 'bar2')

    client.atomically(write)
    assert change.runs == 2
    assert client.get('/foo2').value == 'bar2'


def test_creation_of_a_node_that_was_missing_is_a_conflict(client: getc.Client, other: getc.Client) -> None:
    change = Interference(lambda: other.set('/foo', 'bar'))
    found: list[bool] = []

    def write(stm: STM) -> None:
        try:
            stm.get('/foo')
            found.append(True)
        except getc.KeyNotFound:
            found.append(False)
        change()
        stm.set('/foo2', 'bar2')

    client.atomically(write)
    assert found == [False, True]


def test_write_of_another_client_to_a_node_that_is_only_written_is_a_conflict(
    client: getc.Client, other: getc.Client
) -> None:
    """If it came after the first read; and the other reads of the run stay the same."""
    other.set('/a', '0')
    change = Interference(lambda: other.set('/b', 'theirs'))

    def write(stm: STM) -> None:
        stm.get('/a')
        change()
        stm.set('/b', 'ours')

    client.atomically(write)
    assert change.runs == 2
    assert client.get('/b').value == 'ours'


def test_node_that_was_written_before_the_first_read_is_no_conflict(client: getc.Client) -> None:
    """Its index is higher than that of the node which is read."""
    client.set('/a', '0')
    runs: list[int] = []

    def write(stm: STM) -> None:
        runs.append(1)
        stm.get('/a')
        stm.set('/b', '1')

    client.atomically(write)
    client.atomically(write)
    assert len(runs) == 2
    assert client.get('/b').index > client.get('/a').index


def test_write_without_reads_has_no_conflict(client: getc.Client, other: getc.Client) -> None:
    change = Interference(lambda: other.set('/a', 'theirs'))

    def write(stm: STM) -> None:
        change()
        stm.set('/a', 'ours')

    client.atomically(write)
    assert change.runs == 1
    assert client.get('/a').value == 'ours'


def test_nothing_is_written_after_a_conflict_when_the_function_writes_another_node(
    client: getc.Client, other: getc.Client
) -> None:
    """Each run starts without the writes of the run before."""
    other.set('/which', '/one')
    change = Interference(lambda: other.set('/which', '/two'))

    def write(stm: STM) -> None:
        key = stm.get('/which').value or ''
        change()
        stm.set(key, 'x')

    client.atomically(write)
    assert client.get('/two').value == 'x'
    with pytest.raises(getc.KeyNotFound):
        client.get('/one')


@pytest.fixture
def long_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the delay after a conflict be longer than any timeout."""
    monkeypatch.setattr(Backoff, 'next_delay', lambda _: 3600.0)


@pytest.mark.usefixtures('long_delays')
def test_timed_out_names_the_node_when_others_keep_writing_it(client: getc.Client, other: getc.Client) -> None:
    """Nothing was written."""
    other.set('/a', '0')

    def write(stm: STM) -> None:
        stm.get('/a')
        other.set('/a', 'theirs')
        stm.set('/b', 'x')

    text = 'the function was not applied atomically within 60 s: other clients keep writing /a'
    with pytest.raises(getc.TimedOut, match=text) as caught:
        client.atomically(write, timeout=PATIENT)
    assert caught.value.maybe_applied is False
    assert caught.value.key == '/a'
    with pytest.raises(getc.KeyNotFound):
        client.get('/b')


def test_structure_of_the_tree_is_respected(client: getc.Client) -> None:
    client.set('/value', 'x')
    client.set('/dir/file', 'x')
    with pytest.raises(getc.NotDir):
        client.atomically(lambda stm: stm.set('/value/below', 'x'))
    with pytest.raises(getc.NotFile):
        client.atomically(lambda stm: stm.set('/dir', 'x'))
    with pytest.raises(getc.RootROnly):
        client.atomically(lambda stm: stm.set('/', 'x'))


def test_compacted_snapshot_starts_the_function_again(
    client: getc.Client, other: getc.Client, backend_under_test: BackendUnderTest
) -> None:
    """Even if the function catches all exceptions.  A store in memory keeps the latest values only."""
    other.set('/a', '1')
    other.set('/b', '1')

    def interfere() -> None:
        with other.transaction() as t:
            t.set('/a', '2')
            t.set('/b', '2')
        if backend_under_test.name == 'v3':
            other.v3.kv.compact(other.set('/other', 'x').etcd_index)

    change = Interference(interfere)
    failures: list[str] = []

    def add(stm: STM) -> int:
        first = int(stm.get('/a').value or '')
        change()
        try:
            second = int(stm.get('/b').value or '')
        except Exception as error:
            failures.append(repr(error))
            raise
        return first + second

    assert client.atomically(add, timeout=PATIENT) == 4
    assert change.runs == 2
    assert failures == []


def test_lost_snapshot_that_the_function_hides_is_not_committed(
    client: getc.Client, other: getc.Client, backend_under_test: BackendUnderTest
) -> None:
    other.set('/a', '1')
    other.set('/b', '1')

    def interfere() -> None:
        other.set('/b', '2')
        if backend_under_test.name == 'v3':
            other.v3.kv.compact(other.set('/other', 'x').etcd_index)

    change = Interference(interfere)

    def write(stm: STM) -> str:
        stm.get('/a')
        change()
        try:
            return stm.get('/b').value or ''
        except BaseException:
            stm_is_useless(stm)
            return 'hidden'

    def stm_is_useless(stm: STM) -> None:
        with pytest.raises(BaseException) as caught:
            stm.set('/c', 'x')
        assert type(caught.value).__name__ == '_SnapshotLost'

    assert client.atomically(write, timeout=PATIENT) == '2'


# -- many at a time


def test_sum_is_constant_at_every_revision_while_fifty_greenlets_move_money(
    client: getc.Client, other: getc.Client, wait_until: Any
) -> None:
    """A mirror of another client sees every revision."""
    accounts = [f'/gold/{name}' for name in ('ann', 'bob', 'cid', 'dan', 'eve')]
    for account in accounts:
        client.set(account, '100')
    sums: list[int] = []
    mirror = other.mirror('/gold', on_update=lambda _: sums.append(sum(map(int, mirror.values()))))
    rng = random.Random(7)

    def move(source: str, target: str, amount: int) -> bool:
        def transfer(stm: STM) -> bool:
            have = int(stm.get(source).value or '')
            if have < amount:
                return False
            stm.set(source, str(have - amount))
            stm.set(target, str(int(stm.get(target).value or '') + amount))
            return True

        return client.atomically(transfer, timeout=PATIENT)

    moves = [(*rng.sample(accounts, 2), rng.randint(1, 90)) for _ in range(50)]
    greenlets = [gevent.spawn(move, *each) for each in moves]
    gevent.joinall(greenlets, raise_error=True)
    moved = sum(greenlet.value for greenlet in greenlets)
    assert moved > 0
    wait_until(lambda: len(sums) == moved)
    assert set(sums) == {500}
    assert sum(int(value or '') for value in client.get('/gold').values) == 500
    assert all(int(value) >= 0 for value in client.get('/gold').values)


def test_counter_of_many_greenlets_loses_no_update(client: getc.Client) -> None:
    client.set('/counter', '0')

    def add(stm: STM) -> int:
        value = int(stm.get('/counter').value or '') + 1
        stm.set('/counter', str(value))
        return value

    greenlets = [gevent.spawn(client.atomically, add, timeout=PATIENT) for _ in range(20)]
    gevent.joinall(greenlets, raise_error=True)
    assert sorted(greenlet.value for greenlet in greenlets) == list(range(1, 21))
    assert client.get('/counter').value == '20'


# -- arguments, namespaces


def test_function_must_be_callable(client: getc.Client) -> None:
    function: Any = 'trade'
    with pytest.raises(TypeError, match='must be callable, not str'):
        client.atomically(function)
    with pytest.raises(ValueError, match='timeout must be at least 0'):
        client.atomically(lambda stm: None, timeout=-1)


@pytest.mark.usefixtures('long_delays')
def test_keys_are_relative_to_the_namespace(backend_under_test: BackendUnderTest) -> None:
    whole = backend_under_test.open(namespace=None)
    client = backend_under_test.open(namespace='/ns')
    whole.set('/ns/a', '1')

    def write(stm: STM) -> str:
        stm.set('/b', stm.get('/a').value or '')
        return stm.get('/a').key

    assert client.atomically(write) == '/a'
    assert whole.get('/ns/b').value == '1'
    whole.set('/ns/dir/x', '1')
    with pytest.raises(getc.NotSupported, match=r'^/dir is a directory'):
        client.atomically(lambda stm: stm.get('/dir'))
    with pytest.raises(getc.KeyNotFound) as caught:
        client.atomically(lambda stm: stm.get('/none'))
    assert caught.value.cause == '/none'

    def conflict(stm: STM) -> None:
        stm.get('/a')
        whole.set('/ns/a', 'theirs')
        stm.set('/b', 'x')

    with pytest.raises(getc.TimedOut, match=r'other clients keep writing /a$'):
        client.atomically(conflict, timeout=PATIENT)


def test_too_many_nodes_are_a_value_error(client: getc.Client) -> None:
    def write(stm: STM) -> None:
        for number in range(129):
            stm.set(f'/{number}', 'x')

    with pytest.raises(ValueError, match='and etcd allows 128'):
        client.atomically(write)


def test_closed_client_refuses(client: getc.Client) -> None:
    client.close()
    with pytest.raises(getc.ClientClosed):
        client.atomically(lambda stm: stm.set('/a', 'x'))


def test_all_reads_are_of_one_index_when_the_store_was_empty(client: getc.Client, other: getc.Client) -> None:
    """That of an empty store in memory is 0."""
    runs: list[int] = []
    seen: list[list[str | None]] = []

    def read(stm: STM) -> None:
        runs.append(1)
        values = [value_in(stm, '/a')]
        if len(runs) == 1:
            with other.transaction() as t:
                t.set('/a', '1')
                t.set('/b', '1')
        values.append(value_in(stm, '/b'))
        seen.append(values)

    def value_in(stm: STM, key: str) -> str | None:
        try:
            return stm.get(key).value
        except getc.KeyNotFound:
            return None

    client.atomically(read)
    assert seen[-1] == ['1', '1']
    assert [None, '1'] not in seen


def test_function_may_write_as_many_nodes_as_a_transaction(client: getc.Client) -> None:
    """A function that reads nothing cannot conflict, so nothing is read for a retry."""

    def write(stm: STM) -> None:
        for number in range(120):
            stm.set(f'/{number:03d}', 'x')

    client.atomically(write)
    assert len(client.get('/').nodes) == 120
    client.delete('/007')
    client.create('/007', dir=True)
    with pytest.raises(getc.NotFile) as caught:
        client.atomically(write)
    assert caught.value.key == '/007'
