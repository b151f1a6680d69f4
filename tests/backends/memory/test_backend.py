"""The memory backend: who is told what and when, stores that are shared, and their end."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getc.backends.memory.backend import MemoryBackend, SharedStore, store_named
from getc.errors import ClientClosed, EtcdError, EtcException, EventIndexCleared, NotSupported
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.results import EtcdResult, Expired
from getc.testing import VirtualTime
from getc.timing import Deadline

NEVER = Deadline(None)


class Notes:
    """A listener that notes what it is told, in a book that others may write in too."""

    def __init__(self, name: str = '', book: list[tuple[str, object]] | None = None) -> None:
        self.name = name
        self.book = [] if book is None else book
        self.live_index: int | None = None
        self.results: list[EtcdResult] = []
        self.error: EtcException | None = None

    def on_live(self, index: int) -> None:
        assert self.live_index is None
        self.live_index = index

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        assert self.live_index is not None
        assert self.error is None
        self.results += results
        self.book += [(self.name, result.index) for result in results]

    def on_ended(self, error: EtcException) -> None:
        assert self.error is None
        self.error = error


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(SharedStore())


def put(backend: MemoryBackend, key: str, value: str = '1', ttl: int | None = None) -> EtcdResult:
    return backend.execute(Put(key, value, ttl=ttl), NEVER)


# -- watches


def test_watch_tells_on_the_next_turn_of_the_hub(backend: MemoryBackend) -> None:
    """Nobody is called from inside a write: not whoever watches, not whoever begins to."""
    notes = Notes()
    backend.watch(WatchSpec('/a'), notes)
    assert notes.live_index is None
    gevent.sleep(0)
    assert notes.live_index == 0
    put(backend, '/a')
    assert notes.results == []
    gevent.sleep(0)
    assert [result.index for result in notes.results] == [1]


def test_watch_from_an_index_tells_what_was_first(backend: MemoryBackend) -> None:
    """What is remembered comes before what happens; live is the index less one."""
    for number in range(3):
        put(backend, '/a', str(number))
    notes = Notes()
    backend.watch(WatchSpec('/a', 2), notes)
    put(backend, '/a', 'next')
    gevent.sleep(0)
    assert notes.live_index == 1
    assert [result.value for result in notes.results] == ['1', '2', 'next']


def test_watches_are_told_in_the_order_in_which_they_came(backend: MemoryBackend) -> None:
    """Of each change, whatever they follow: the key, a directory above it, the root."""
    book: list[tuple[str, object]] = []
    specs = [
        ('first', WatchSpec('/', recursive=True)),
        ('second', WatchSpec('/d/a')),
        ('third', WatchSpec('/d', recursive=True)),
        ('fourth', WatchSpec('/d/a', recursive=True)),
        ('fifth', WatchSpec('/', recursive=True)),
    ]
    for name, spec in specs:
        backend.watch(spec, Notes(name, book))
    put(backend, '/d/a')
    gevent.sleep(0)
    backend.execute(Delete('/d', recursive=True), NEVER)
    gevent.sleep(0)
    assert book == [(name, index) for index in (1, 2) for name, _ in specs]


def test_watch_that_is_closed_is_told_nothing(backend: MemoryBackend) -> None:
    """Not even what was on its way; it may be closed twice."""
    closed, open_ = Notes(), Notes()
    watch = backend.watch(WatchSpec('/a'), closed)
    backend.watch(WatchSpec('/a'), open_)
    gevent.sleep(0)
    put(backend, '/a')
    watch.close()
    watch.close()
    put(backend, '/a')
    gevent.sleep(0)
    assert closed.results == []
    assert len(open_.results) == 2


def test_watch_may_be_closed_by_its_listener(backend: MemoryBackend) -> None:
    """What was on its way behind the change that made it close is not told."""

    class Once(Notes):
        def on_changes(self, results: Sequence[EtcdResult]) -> None:
            super().on_changes(results)
            watch.close()

    once = Once()
    watch = backend.watch(WatchSpec('/a'), once)
    put(backend, '/a')
    put(backend, '/a')
    gevent.sleep(0)
    assert [result.index for result in once.results] == [1]


def test_watch_ends_when_the_history_is_gone(backend: MemoryBackend) -> None:
    """It is told so on the next turn, once, and nothing after that."""
    for _ in range(1001):
        put(backend, '/a')
    notes = Notes()
    backend.watch(WatchSpec('/a', 1), notes)
    assert notes.error is None
    put(backend, '/a')
    gevent.sleep(0)
    assert isinstance(notes.error, EventIndexCleared)
    assert notes.error.index == 1001
    assert (notes.live_index, notes.results) == (None, [])


keys = st.sampled_from(['/', '/a', '/a/b', '/a/_h', '/a/_h/c', '/ab', '/_h', '/a/b/c'])
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, keys, st.just('1')),
    st.builds(Put, keys, dir=st.just(True)),
    st.builds(Put, keys, st.just('2'), prev_exist=st.just(True)),
    st.builds(Put, keys, ttl=st.just(60), refresh=st.just(True), prev_exist=st.just(True)),
    st.builds(Append, keys, st.just('3')),
    st.builds(Delete, keys, recursive=st.booleans()),
)


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(st.lists(operations, max_size=12), st.lists(st.builds(WatchSpec, keys, recursive=st.booleans()), max_size=6))
def test_watch_tells_the_same_live_and_from_the_history(operations: list[Operation], specs: list[WatchSpec]) -> None:
    """Whoever was there from the start sees what one sees who comes later and asks for the start."""
    backend = MemoryBackend(SharedStore())
    put(backend, '/first')
    live = [Notes() for _ in specs]
    for spec, notes in zip(specs, live, strict=True):
        backend.watch(spec, notes)
    for operation in operations:
        try:
            backend.execute(operation, NEVER)
        except EtcdError:
            pass  # a refusal is no change
    later = [Notes() for _ in specs]
    for spec, notes in zip(specs, later, strict=True):
        backend.watch(WatchSpec(spec.key, 2, spec.recursive), notes)
    gevent.sleep(0)
    assert [notes.results for notes in live] == [notes.results for notes in later]


# -- TTLs


def test_node_expires_when_it_is_followed(backend: MemoryBackend, etcd_clock: VirtualTime) -> None:
    """Without any call: where the watch began after the write, for each end in turn, and for a sooner one."""
    put(backend, '/late', ttl=20)
    put(backend, '/soon', ttl=5)
    notes = Notes()
    backend.watch(WatchSpec('/', recursive=True), notes)
    etcd_clock.advance(6)
    assert [(type(result), result.key) for result in notes.results] == [(Expired, '/soon')]
    put(backend, '/sooner', ttl=5)
    etcd_clock.advance(30)
    gone = [result.key for result in notes.results if isinstance(result, Expired)]
    assert gone == ['/soon', '/sooner', '/late']


def test_node_has_expired_when_it_is_not_followed(backend: MemoryBackend, etcd_clock: VirtualTime) -> None:
    """Whoever calls or follows next finds it gone, and the change in the history."""
    put(backend, '/a', ttl=10)
    watch = backend.watch(WatchSpec('/'), Notes())
    watch.close()
    etcd_clock.advance(11)
    notes = Notes()
    backend.watch(WatchSpec('/a', 2), notes)
    gevent.sleep(0)
    assert [type(result) for result in notes.results] == [Expired]
    with pytest.raises(EtcdError):
        backend.execute(Get('/a'), NEVER)


# -- what v2 cannot say


@pytest.mark.parametrize(
    'operation',
    [Get('/\udcff'), Put('/\udcff', '1'), Put('/a', '1', ttl=7_000_000_001), Append('/\udcff', '1')],
    ids=ascii,
)
def test_execute_refuses_what_etcd_cannot_keep(backend: MemoryBackend, operation: Operation) -> None:
    """A program that runs on memory runs on a server: what v2 does not have is NotSupported here as well.

    Only values may be any bytes, as on v3.
    """
    with pytest.raises(NotSupported):
        backend.execute(operation, NEVER)
    assert backend.execute(Get('/'), NEVER).etcd_index == 0


def test_watch_refuses_what_etcd_cannot_keep(backend: MemoryBackend) -> None:
    """The same for a key to follow."""
    with pytest.raises(NotSupported):
        backend.watch(WatchSpec('/\udcff'), Notes())


# -- stores and their end


def test_store_of_a_name_is_one_for_all(backend: MemoryBackend) -> None:
    """One name, one store; no name, one's own."""
    store = store_named('one')
    assert store_named('one') is store
    assert store_named('two') is not store
    assert store_named('') is not store_named('')


@pytest.mark.parametrize('is_followed', [False, True])
def test_store_goes_with_the_last_who_uses_it(is_followed: bool) -> None:
    """Not a TTL in it, nor a wait that is over, keeps it in memory; the name is then free for an empty one."""
    used = MemoryBackend(store_named('used'))
    put(used, '/a', ttl=10**6)
    if is_followed:
        used.watch(WatchSpec('/', recursive=True), Notes())
        gevent.sleep(0)
    used.close()
    reference = weakref.ref(store_named('used'))
    del used
    gc.collect()
    assert reference() is None
    assert MemoryBackend(store_named('used')).execute(Get('/'), NEVER).nodes == ()


def test_close_ends_everything(backend: MemoryBackend) -> None:
    """Watches are told nothing more, and every call is refused; others who share the store go on."""
    store = SharedStore()
    closed, open_ = MemoryBackend(store), MemoryBackend(store)
    silent, told = Notes(), Notes()
    closed.watch(WatchSpec('/a'), silent)
    open_.watch(WatchSpec('/a'), told)
    gevent.sleep(0)
    closed.close()
    closed.close()
    closed.clear()
    put(open_, '/a')
    gevent.sleep(0)
    assert (silent.results, silent.error) == ([], None)
    assert len(told.results) == 1
    for call in (
        lambda: put(closed, '/a'),
        lambda: closed.watch(WatchSpec('/a'), Notes()),
        lambda: closed.keep(10),
        lambda: closed.ready(NEVER),
    ):
        with pytest.raises(ClientClosed):
            call()


def test_keep_gives_one_group_a_ttl(backend: MemoryBackend) -> None:
    """Nodes of one TTL are kept together."""
    assert backend.keep(10) is backend.keep(10)
    assert backend.keep(10) is not backend.keep(20)
    assert backend.keep(10).ttl == 10
