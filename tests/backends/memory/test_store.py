"""The tree of the memory backend by itself: what takes a clock, or is not to be seen through a client.

That it does what etcd does is for tests/contract/test_same_behaviour.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from getc import timing
from getc.backends.memory.store import HISTORY, Store, matches
from getc.errors import EventIndexCleared, KeyNotFound
from getc.operations import Delete, Get, Put, WatchSpec
from getc.results import Deleted, Directory, EtcdResult, Expired, Node, Set, Value


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


def told(store: Store) -> list[str]:
    """The keys of the changes that were not told yet, which they are then."""
    news, store.news = store.news, []
    return [result.key for result in news]


def test_expire_takes_nodes_in_the_order_of_their_ends(store: Store, clock: SetClock) -> None:
    """Those of one end in the order in which they got it; one change each."""
    for key, ttl in (('/c', 3), ('/a', 2), ('/b', 2), ('/later', 9)):
        store.execute(Put(key, key, ttl=ttl))
    told(store)
    clock.time += 3
    store.expire()
    assert told(store) == ['/a', '/b', '/c']
    assert store.index == 7
    assert store.execute(Get('/later')).ttl == 6


def test_expire_waits_for_the_end(store: Store, clock: SetClock) -> None:
    """A node is there until its time is up, not less and not longer."""
    store.execute(Put('/a', '1', ttl=2))
    assert store.next_end() == 1002.0
    clock.time = 1001.9
    store.expire()
    assert store.execute(Get('/a')).ttl == 1
    clock.time = 1002.0
    store.expire()
    assert store.next_end() is None
    with pytest.raises(KeyNotFound):
        store.execute(Get('/a'))


def test_expire_leaves_a_node_whose_end_was_moved(store: Store, clock: SetClock) -> None:
    """Refreshed, made permanent, deleted, or replaced by another: the first end does not count any more."""
    for key in ('/refreshed', '/permanent', '/deleted', '/replaced', '/d/inside'):
        store.execute(Put(key, '1', ttl=5))
    store.execute(Put('/refreshed', ttl=50, refresh=True, prev_exist=True))
    store.execute(Put('/permanent', '2', prev_exist=True))
    store.execute(Delete('/deleted'))
    store.execute(Put('/deleted', '2'))
    store.execute(Put('/replaced', '2', ttl=60))
    store.execute(Delete('/d', recursive=True))
    index = store.index
    told(store)
    clock.time += 10
    store.expire()
    assert (told(store), store.index) == ([], index)
    assert store.next_end() == 1050.0


def test_expire_takes_a_directory_as_one_change(store: Store, clock: SetClock) -> None:
    """What is in it goes along, whatever its own end would have been."""
    store.execute(Put('/d', dir=True, ttl=5))
    store.execute(Put('/d/a', '1', ttl=5))
    store.execute(Put('/d/b', '1', ttl=6))
    told(store)
    clock.time += 10
    store.expire()
    assert told(store) == ['/d']
    (_, result) = store.events[-1]
    assert result == Expired(Directory('/d', 4, 1), result.prev_node if result else None, 4)


@pytest.mark.parametrize('start', [0.1, 1 / 3, 1234.567, 99999.99])
def test_ttl_is_the_one_given_as_long_as_no_time_passes(store: Store, clock: SetClock, start: float) -> None:
    """However the clock's fractions round: never a second more than was given."""
    for number in range(1000):
        clock.time = start + number * 0.1
        assert store.execute(Put('/a', '1', ttl=100)).ttl == 100


def test_ttl_is_rounded_up_to_a_second(store: Store, clock: SetClock) -> None:
    """A node that is there has a second left at least."""
    store.execute(Put('/a', '1', ttl=2))
    for passed, left in ((0.001, 2), (0.999, 2), (1.0, 1), (1.5, 1), (1.999, 1)):
        clock.time = 1000 + passed
        assert store.execute(Get('/a')).ttl == left


def test_store_remembers_one_end_of_a_node_that_is_written_again_and_again(store: Store) -> None:
    """A heartbeat with a TTL of a day does not pile up a day of ends."""
    for ttl in (86400, 86401):
        for _ in range(3000):
            store.execute(Put('/heartbeat', '1', ttl=ttl))
    assert len(store._ending) < 200
    assert store.next_end() == 1000 + 86401


def test_store_remembers_the_last_thousand_changes(store: Store) -> None:
    """A refresh takes one of the places, and is not told."""
    store.execute(Put('/a', '1', ttl=60))
    for _ in range(HISTORY - 1):
        store.execute(Put('/a', ttl=60, refresh=True, prev_exist=True))
    assert [result.index for result in store.since(WatchSpec('/a', 1))] == [1]
    store.execute(Put('/a', '2'))
    assert [result.index for result in store.since(WatchSpec('/a', 2))] == [HISTORY + 1]
    with pytest.raises(EventIndexCleared, match=r'\[2/1\]'):
        store.since(WatchSpec('/a', 1))


def test_store_knows_no_future(store: Store) -> None:
    """The next index may be asked for, a later one is another store's."""
    assert list(store.since(WatchSpec('/a', 1))) == []
    store.execute(Put('/a', '1'))
    assert list(store.since(WatchSpec('/a', 2))) == []
    with pytest.raises(EventIndexCleared, match='another'):
        store.since(WatchSpec('/a', 3))


def change(key: str) -> EtcdResult:
    return Set(Value(key, 1, 1))


def removal(key: str, kind: type[Node] = Node) -> EtcdResult:
    return Deleted(kind(key, 2, 1))


@pytest.mark.parametrize(
    ('key', 'recursive', 'result', 'expected'),
    [
        ('/a', False, change('/a'), True),
        ('/a', False, change('/a/b'), False),
        ('/a', True, change('/a/b'), True),
        ('/a', True, change('/ab'), False),
        ('/a', True, change('/a/_b'), False),
        ('/a/_b', True, change('/a/_b/c'), True),
        ('/', True, change('/a/b'), True),
        ('/', True, change('/_a/b'), False),
        ('/a/b', False, change('/a'), False),
        ('/a/b', False, removal('/a', Directory), True),
        ('/a/b', True, removal('/', Directory), True),
        ('/ab', False, removal('/a', Directory), False),
        ('/a/b', False, removal('/a'), False),
    ],
)
def test_is_told_to_those_whom_it_concerns(key: str, recursive: bool, result: EtcdResult, expected: bool) -> None:
    """The node itself; below it if recursive, save what is hidden; and a directory around it that goes."""
    assert matches(WatchSpec(key, None, recursive), result) is expected
