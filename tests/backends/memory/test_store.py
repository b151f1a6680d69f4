"""The node tree of the memory backend: behaviour that needs a clock or cannot be observed through a client.

tests/contract/test_same_behaviour.py compares it with etcd.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from getc import timing
from getc.backends.history import V2_HISTORY_EVENTS
from getc.backends.memory.store import Store
from getc.errors import EventIndexCleared, KeyNotFound
from getc.operations import Delete, Get, Put, WatchSpec
from getc.results import Directory, Expired
from getc.transactions import Snapshot, SnapshotRead, Transaction, Version


class SetClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def now_with_suspend(self) -> float:
        return self.time

    def wall_time(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Iterator[SetClock]:
    made = SetClock()
    previous = timing.set_clock(made)
    yield made
    timing.set_clock(previous)


@pytest.fixture
def store(clock: SetClock) -> Store:
    return Store()


def take_pending(store: Store) -> list[str]:
    """Return the keys of the pending changes, and remove these changes."""
    pending, store.pending = store.pending, []
    return [result.key for results in pending for result in results]


def test_expire_deletes_nodes_in_order_of_expiration(store: Store, clock: SetClock) -> None:
    """Nodes that expire at the same time, in the order in which their TTLs were set; one change each."""
    for key, ttl in (('/c', 3), ('/a', 2), ('/b', 2), ('/later', 9)):
        store.execute(Put(key, key, ttl=ttl))
    take_pending(store)
    clock.time += 3
    store.expire()
    assert take_pending(store) == ['/a', '/b', '/c']
    assert store.index == 7
    assert store.execute(Get('/later')).ttl == 6


def test_expire_deletes_a_node_exactly_when_its_ttl_runs_out(store: Store, clock: SetClock) -> None:
    store.execute(Put('/a', '1', ttl=2))
    assert store.next_expiration() == 1002.0
    clock.time = 1001.9
    store.expire()
    assert store.execute(Get('/a')).ttl == 1
    clock.time = 1002.0
    store.expire()
    assert store.next_expiration() is None
    with pytest.raises(KeyNotFound):
        store.execute(Get('/a'))


def test_expire_ignores_an_obsolete_expiration(store: Store, clock: SetClock) -> None:
    """After the node was refreshed, made permanent, deleted, or replaced."""
    for key in ('/refreshed', '/permanent', '/deleted', '/replaced', '/d/inside'):
        store.execute(Put(key, '1', ttl=5))
    store.execute(Put('/refreshed', ttl=50, refresh=True, prev_exist=True))
    store.execute(Put('/permanent', '2', prev_exist=True))
    store.execute(Delete('/deleted'))
    store.execute(Put('/deleted', '2'))
    store.execute(Put('/replaced', '2', ttl=60))
    store.execute(Delete('/d', recursive=True))
    index = store.index
    take_pending(store)
    clock.time += 10
    store.expire()
    assert (take_pending(store), store.index) == ([], index)
    assert store.next_expiration() == 1050.0


def test_expire_deletes_a_directory_with_one_change(store: Store, clock: SetClock) -> None:
    """Its children are deleted with it, whatever their own TTLs."""
    store.execute(Put('/d', dir=True, ttl=5))
    store.execute(Put('/d/a', '1', ttl=5))
    store.execute(Put('/d/b', '1', ttl=6))
    take_pending(store)
    clock.time += 10
    store.expire()
    assert take_pending(store) == ['/d']
    _, (result,) = store.events[-1]
    assert result == Expired(Directory('/d', 4, 1), result.prev_node, 4)


@pytest.mark.parametrize('start', [0.1, 1 / 3, 1234.567, 99999.99])
def test_ttl_is_the_given_one_while_no_time_passes(store: Store, clock: SetClock, start: float) -> None:
    """Float rounding of the clock never adds a second."""
    for number in range(1000):
        clock.time = start + number * 0.1
        assert store.execute(Put('/a', '1', ttl=100)).ttl == 100


def test_ttl_is_rounded_up_to_a_second(store: Store, clock: SetClock) -> None:
    """A node that has not expired has a TTL of at least 1."""
    store.execute(Put('/a', '1', ttl=2))
    for passed, left in ((0.001, 2), (0.999, 2), (1.0, 1), (1.5, 1), (1.999, 1)):
        clock.time = 1000 + passed
        assert store.execute(Get('/a')).ttl == left


def test_store_keeps_few_expirations_of_a_node_that_is_written_often(store: Store) -> None:
    """A heartbeat with a TTL of a day does not accumulate a day of expirations."""
    for ttl in (86400, 86401):
        for _ in range(3000):
            store.execute(Put('/heartbeat', '1', ttl=ttl))
    assert len(store._expirations) < 200
    assert store.next_expiration() == 1000 + 86401


def test_history_holds_the_last_thousand_changes(store: Store) -> None:
    """A refresh takes a place in the history, but notifies no watch."""
    store.execute(Put('/a', '1', ttl=60))
    for _ in range(V2_HISTORY_EVENTS - 1):
        store.execute(Put('/a', ttl=60, refresh=True, prev_exist=True))
    assert [result.index for (result,) in store.since(WatchSpec('/a', 1))] == [1]
    store.execute(Put('/a', '2'))
    assert [result.index for (result,) in store.since(WatchSpec('/a', 2))] == [V2_HISTORY_EVENTS + 1]
    with pytest.raises(EventIndexCleared, match=r'\[2/1\]'):
        store.since(WatchSpec('/a', 1))


def test_since_raises_for_an_index_past_the_next_one(store: Store) -> None:
    """A later index than the next one belongs to another store."""
    assert list(store.since(WatchSpec('/a', 1))) == []
    store.execute(Put('/a', '1'))
    assert list(store.since(WatchSpec('/a', 2))) == []
    with pytest.raises(EventIndexCleared, match='replaced'):
        store.since(WatchSpec('/a', 3))


def test_transaction_is_one_entry_of_the_history(store: Store) -> None:
    """A watch that needs its index gets all of its changes, or is refused."""
    store.transact(Transaction(operations=(Put('/a/1', 'x'), Put('/b', 'x'), Put('/a/2', 'x'))))
    assert [result.index for results in store.pending for result in results] == [1, 1, 1]
    for _ in range(V2_HISTORY_EVENTS - 1):
        store.execute(Put('/c', 'x'))
    (changes,) = store.since(WatchSpec('/a', 1, recursive=True))
    assert [result.key for result in changes] == ['/a/1', '/a/2']
    store.execute(Put('/c', 'x'))
    with pytest.raises(EventIndexCleared):
        store.since(WatchSpec('/a', 1, recursive=True))


def test_transaction_that_is_refused_changes_nothing(store: Store) -> None:
    """Also no directory is created."""
    with pytest.raises(KeyNotFound):
        store.transact(Transaction(operations=(Put('/dir/a', 'x'), Delete('/none'))))
    assert (store.index, store.pending, list(store.events)) == (0, [], [])
    assert store.execute(Get('/')).nodes == ()


def test_read_at_an_index_returns_what_has_not_changed_since(store: Store) -> None:
    store.execute(Put('/a', 'x'))
    store.execute(Put('/b', 'y'))
    assert store.read(SnapshotRead('/a', 1)) == Snapshot(1, Version('x', 1, 1))
    assert store.read(SnapshotRead('/a')) == Snapshot(2, Version('x', 1, 1))
    assert store.read(SnapshotRead('/none', 1)) == Snapshot(1)
    assert store.read(SnapshotRead('/', 1)) == Snapshot(1, None, is_directory=True)


@pytest.mark.parametrize(
    'change',
    [
        Put('/a', 'z'),
        Delete('/a'),
        Put('/a', ttl=60, refresh=True, prev_exist=True),
        Put('/new', 'x'),
        Delete('/dir', recursive=True),
    ],
    ids=['write', 'delete', 'refresh', 'create', 'delete of a directory'],
)
def test_read_at_an_index_is_refused_when_the_node_may_have_changed_since(store: Store, change: Put | Delete) -> None:
    """As etcd refuses a read at an index that was compacted."""
    store.execute(Put('/dir/file', 'x'))
    store.execute(Put('/a', 'x'))
    index = store.index
    store.execute(change)
    key = '/dir/file' if change.key == '/dir' else change.key
    with pytest.raises(EventIndexCleared, match=f'{key} has changed since index {index}'):
        store.read(SnapshotRead(key, index))
    assert store.read(SnapshotRead(key, store.index)).etcd_index == store.index


def test_read_at_an_index_that_is_older_than_the_history_is_refused_for_a_missing_node(store: Store) -> None:
    """Its deletion may not be stored any more."""
    store.execute(Put('/a', 'x'))
    store.execute(Put('/b', 'x'))
    store.execute(Delete('/a'))
    for _ in range(V2_HISTORY_EVENTS):
        store.execute(Put('/c', 'x'))
    with pytest.raises(EventIndexCleared):
        store.read(SnapshotRead('/a', 2))
    assert store.read(SnapshotRead('/b', 2)).version == Version('x', 2, 2)
