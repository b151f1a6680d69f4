"""The memory backend: delivery to watches, TTLs, shared stores and closing."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from getc.backends.base import Backend
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.backends.memory.registry import store_named
from getc.errors import ClientClosed, EtcdError, EtcException, EventIndexCleared, NotSupported
from getc.operations import Append, Delete, Get, Operation, Put, WatchSpec
from getc.results import EtcdResult, Expired
from getc.testing import VirtualTime
from getc.timing import Deadline

NEVER = Deadline(None)


class Recorder:
    """A listener that records its calls, optionally in a log that it shares with others."""

    def __init__(self, name: str = '', log: list[tuple[str, object]] | None = None) -> None:
        self.name = name
        self.log = [] if log is None else log
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
        self.log += [(self.name, result.index) for result in results]

    def on_ended(self, error: EtcException) -> None:
        assert self.error is None
        self.error = error


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(SharedStore())


def put(backend: Backend, key: str, value: str = '1', ttl: int | None = None) -> EtcdResult:
    return backend.execute(Put(key, value, ttl=ttl), NEVER)


# -- watches


def test_watch_is_notified_in_the_next_loop_iteration(backend: MemoryBackend) -> None:
    """No listener is called from inside a write or from inside ``watch``."""
    recorder = Recorder()
    backend.watch(WatchSpec('/a'), recorder)
    assert recorder.live_index is None
    gevent.sleep(0)
    assert recorder.live_index == 0
    put(backend, '/a')
    assert recorder.results == []
    gevent.sleep(0)
    assert [result.index for result in recorder.results] == [1]


def test_watch_from_an_index_delivers_the_history_first(backend: MemoryBackend) -> None:
    """Then the changes that follow; ``on_live`` gets the index minus one."""
    for number in range(3):
        put(backend, '/a', str(number))
    recorder = Recorder()
    backend.watch(WatchSpec('/a', 2), recorder)
    put(backend, '/a', 'next')
    gevent.sleep(0)
    assert recorder.live_index == 1
    assert [result.value for result in recorder.results] == ['1', '2', 'next']


def test_watches_are_notified_in_the_order_of_their_creation(backend: MemoryBackend) -> None:
    """Of each change, whether they watch the key, a directory above it, or the root."""
    log: list[tuple[str, object]] = []
    specs = [
        ('first', WatchSpec('/', recursive=True)),
        ('second', WatchSpec('/d/a')),
        ('third', WatchSpec('/d', recursive=True)),
        ('fourth', WatchSpec('/d/a', recursive=True)),
        ('fifth', WatchSpec('/', recursive=True)),
    ]
    for name, spec in specs:
        backend.watch(spec, Recorder(name, log))
    put(backend, '/d/a')
    gevent.sleep(0)
    backend.execute(Delete('/d', recursive=True), NEVER)
    gevent.sleep(0)
    assert log == [(name, index) for index in (1, 2) for name, _ in specs]


def test_closed_watch_is_not_notified(backend: MemoryBackend) -> None:
    """Not even of changes that were queued; closing twice is allowed."""
    closed, open_ = Recorder(), Recorder()
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
    """Queued changes after the one on which it closed are not delivered."""

    class Once(Recorder):
        def on_changes(self, results: Sequence[EtcdResult]) -> None:
            super().on_changes(results)
            watch.close()

    once = Once()
    watch = backend.watch(WatchSpec('/a'), once)
    put(backend, '/a')
    put(backend, '/a')
    gevent.sleep(0)
    assert [result.index for result in once.results] == [1]


def test_watch_ends_when_the_history_is_cleared(backend: MemoryBackend) -> None:
    """``on_ended`` is called in the next loop iteration, once, and nothing after that."""
    for _ in range(1001):
        put(backend, '/a')
    recorder = Recorder()
    backend.watch(WatchSpec('/a', 1), recorder)
    assert recorder.error is None
    put(backend, '/a')
    gevent.sleep(0)
    assert isinstance(recorder.error, EventIndexCleared)
    assert recorder.error.index == 1001
    assert (recorder.live_index, recorder.results) == (None, [])


keys = st.sampled_from(['/', '/a', '/a/b', '/a/_h', '/a/_h/c', '/ab', '/_h', '/a/b/c'])
operations: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, keys, st.just('1')),
    st.builds(Put, keys, dir=st.just(True)),
    st.builds(Put, keys, st.just('2'), prev_exist=st.just(True)),
    st.builds(Put, keys, ttl=st.just(60), refresh=st.just(True), prev_exist=st.just(True)),
    st.builds(Append, keys, st.just('3')),
    st.builds(Delete, keys, recursive=st.booleans()),
)


@settings(derandomize=True, database=None, max_examples=300)
@given(st.lists(operations, max_size=12), st.lists(st.builds(WatchSpec, keys, recursive=st.booleans()), max_size=6))
def test_watch_delivers_the_same_live_and_from_history(operations: list[Operation], specs: list[WatchSpec]) -> None:
    """A watch from the start and a later one with the first index deliver the same changes."""
    backend = MemoryBackend(SharedStore())
    put(backend, '/first')
    live = [Recorder() for _ in specs]
    for spec, recorder in zip(specs, live, strict=True):
        backend.watch(spec, recorder)
    for operation in operations:
        try:
            backend.execute(operation, NEVER)
        except EtcdError:
            pass  # a refusal is no change
    later = [Recorder() for _ in specs]
    for spec, recorder in zip(specs, later, strict=True):
        backend.watch(WatchSpec(spec.key, 2, spec.recursive), recorder)
    gevent.sleep(0)
    assert [recorder.results for recorder in live] == [recorder.results for recorder in later]


# -- TTLs


def test_node_expires_in_time_when_it_is_watched(backend: MemoryBackend, etcd_clock: VirtualTime) -> None:
    """Without any call: with a watch created after the write, for each TTL in turn, and for a shorter one set later."""
    put(backend, '/late', ttl=20)
    put(backend, '/soon', ttl=5)
    recorder = Recorder()
    backend.watch(WatchSpec('/', recursive=True), recorder)
    etcd_clock.advance(6)
    assert [(type(result), result.key) for result in recorder.results] == [(Expired, '/soon')]
    put(backend, '/sooner', ttl=5)
    etcd_clock.advance(30)
    gone = [result.key for result in recorder.results if isinstance(result, Expired)]
    assert gone == ['/soon', '/sooner', '/late']


def test_node_has_expired_at_the_next_call_when_it_is_not_watched(
    backend: MemoryBackend, etcd_clock: VirtualTime
) -> None:
    """And the change is in the history."""
    put(backend, '/a', ttl=10)
    watch = backend.watch(WatchSpec('/'), Recorder())
    watch.close()
    etcd_clock.advance(11)
    recorder = Recorder()
    backend.watch(WatchSpec('/a', 2), recorder)
    gevent.sleep(0)
    assert [type(result) for result in recorder.results] == [Expired]
    with pytest.raises(EtcdError):
        backend.execute(Get('/a'), NEVER)


# -- limits of v2


@pytest.mark.parametrize(
    'operation',
    [Get('/\udcff'), Put('/\udcff', '1'), Put('/a', '1', ttl=7_000_000_001), Append('/\udcff', '1')],
    ids=ascii,
)
def test_execute_refuses_what_v2_cannot_store(backend: MemoryBackend, operation: Operation) -> None:
    """A program that runs on memory also runs on a server; only values may be any bytes, as on v3."""
    with pytest.raises(NotSupported):
        backend.execute(operation, NEVER)
    assert backend.execute(Get('/'), NEVER).etcd_index == 0


def test_watch_refuses_what_v2_cannot_store(backend: MemoryBackend) -> None:
    with pytest.raises(NotSupported):
        backend.watch(WatchSpec('/\udcff'), Recorder())


# -- stores and closing


def test_store_of_a_name_is_shared(backend: MemoryBackend) -> None:
    """An empty name gives a new store each time."""
    store = store_named('one')
    assert store_named('one') is store
    assert store_named('two') is not store
    assert store_named('') is not store_named('')


@pytest.mark.parametrize('is_watched', [False, True])
def test_store_is_freed_with_its_last_backend(is_watched: bool) -> None:
    """Neither a TTL nor a closed watch keeps it in memory; the name then opens a new, empty store."""
    used = store_named('used').backend()
    put(used, '/a', ttl=10**6)
    if is_watched:
        used.watch(WatchSpec('/', recursive=True), Recorder())
        gevent.sleep(0)
    used.close()
    reference = weakref.ref(store_named('used'))
    del used
    gc.collect()
    assert reference() is None
    assert store_named('used').backend().execute(Get('/'), NEVER).nodes == ()


def test_close_ends_watches_and_refuses_calls(backend: MemoryBackend) -> None:
    """Other backends of the same store go on."""
    store = SharedStore()
    closed, open_ = MemoryBackend(store), MemoryBackend(store)
    silent, notified = Recorder(), Recorder()
    closed.watch(WatchSpec('/a'), silent)
    open_.watch(WatchSpec('/a'), notified)
    gevent.sleep(0)
    closed.close()
    closed.close()
    closed.clear()
    put(open_, '/a')
    gevent.sleep(0)
    assert (silent.results, silent.error) == ([], None)
    assert len(notified.results) == 1
    for call in (
        lambda: put(closed, '/a'),
        lambda: closed.watch(WatchSpec('/a'), Recorder()),
        lambda: closed.keep_group(10),
        lambda: closed.ready(NEVER),
    ):
        with pytest.raises(ClientClosed):
            call()


def test_keep_returns_one_group_for_each_ttl(backend: MemoryBackend) -> None:
    assert backend.keep_group(10) is backend.keep_group(10)
    assert backend.keep_group(10) is not backend.keep_group(20)
    assert backend.keep_group(10).ttl == 10
