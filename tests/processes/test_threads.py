"""A client belongs to one thread: every call in another thread raises, but cached state is readable."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub
from gevent.threadpool import ThreadPool

import getc
from getc import KeeperState, WatcherState
from getc.recipes import ContenderState
from getc.testing import EtcdServer, wait_until
from tests.support.api_support import skip_unless_supported

MESSAGE = 'can only be used in the thread that first used it'
APIS = ['v2', 'v3', 'memory']

_numbers = itertools.count()


@pytest.fixture(params=APIS)
def url(request: pytest.FixtureRequest) -> Any:
    """The URL of a real etcd, or of a memory store."""
    if request.param == 'memory':
        return f'memory://threads-{next(_numbers)}'
    server: EtcdServer = request.getfixturevalue('etcd_server')
    skip_unless_supported(request.param, server.binary)
    return server.url


@pytest.fixture
def client(url: str, request: pytest.FixtureRequest) -> Iterator[getc.Client]:
    """A client that belongs to this thread."""
    api = request.node.callspec.params['url']
    with getc.etcd(url, api=None if api == 'memory' else api) as client:
        client.set('/cfg/a', '1')
        yield client


@pytest.fixture
def in_thread() -> Iterator[Callable[..., Any]]:
    """Call a function in another thread, and return its result or raise its error; the time limit is a minute."""
    pool = ThreadPool(1, hub=get_hub())

    def answer(function: Callable[..., Any], *args: Any) -> tuple[Any, Exception | None]:
        try:
            return function(*args), None
        except Exception as error:
            return None, error

    def call(function: Callable[..., Any], *args: Any) -> Any:
        with gevent.Timeout(60):
            value, error = pool.apply(answer, (function, *args))
        if error is not None:
            raise error
        return value

    yield call
    pool.kill()


CALLS: list[Callable[[getc.Client], Any]] = [
    lambda client: client.get('/cfg/a'),
    lambda client: client.set('/cfg/b', '1'),
    lambda client: client.create('/cfg/b', '1'),
    lambda client: client.update('/cfg/a', '2'),
    lambda client: client.refresh('/cfg/a', ttl=5),
    lambda client: client.append('/cfg', '1'),
    lambda client: client.delete('/cfg/a'),
    lambda client: client.wait('/cfg/a'),
    lambda client: client.keep_node('/servers/b'),
    lambda client: client.keep_node('/servers/b', wait=False),
    lambda client: client.on_change('/cfg', print),
    lambda client: client.on_change('/cfg', print, wait=False),
    lambda client: client.on_change('/cfg')(lambda result: None),
    lambda client: client.changes('/cfg'),
    lambda client: client.mirror('/cfg'),
    lambda client: client.mirror('/cfg', wait=False),
    lambda client: client.lock('/locks/a').acquire(),
    lambda client: client.rwlock('/locks/b').read.acquire(),
    lambda client: client.elect('/leaders/a'),
    lambda client: client.leader('/leaders/a'),
    lambda client: client.run_while_leader('/leaders/a', print),
    lambda client: client.transaction().__enter__(),
    lambda client: client.atomically(lambda stm: None),
    lambda client: client.ready(),
    lambda client: client.on_state(print),
    lambda client: client.v3,
    lambda client: client.clear(),
    lambda client: client.close(),
    lambda client: client.__exit__(None, None, None),
]


def test_client_methods_raise_in_another_thread(client: getc.Client, in_thread: Callable[..., Any]) -> None:
    """At once and without side effects: the client still works in its own thread."""
    for call in CALLS:
        with pytest.raises(RuntimeError, match=MESSAGE):
            in_thread(call, client)
    assert not client.is_closed
    assert [node.key for node in client.get('/cfg').nodes] == ['/cfg/a']
    assert client.get('/cfg/a').value == '1'


def test_calls_contain_every_method_of_the_client() -> None:
    methods = {name for name in dir(getc.Client) if not name.startswith('_') and callable(getattr(getc.Client, name))}
    called = {name for call in CALLS for name in call.__code__.co_names}
    assert methods == called & methods


def test_lock_methods_raise_in_another_thread(client: getc.Client, in_thread: Callable[..., Any]) -> None:
    """They leave the lock held, and its own thread can release it."""
    lock = client.lock('/locks/a')
    with lock:
        for call in lock.acquire, lock.try_acquire, lock.release, lock.contenders:
            with pytest.raises(RuntimeError, match=MESSAGE):
                in_thread(call)
        assert in_thread(lock.ensure) == lock.token
    assert lock.state is ContenderState.OUT
    assert lock.contenders() == ()


def test_daemon_methods_raise_in_another_thread(client: getc.Client, in_thread: Callable[..., Any]) -> None:
    """They neither stop the daemon nor block."""
    keeper = client.keep_node('/servers/a')
    watcher = client.on_change('/cfg', print)
    mirror = client.mirror('/cfg')
    changes = client.changes('/cfg')
    refused: list[Callable[[], Any]] = [
        lambda: keeper.update('x'),
        keeper.orphan,
        lambda: mirror.wait(lambda _: False),
        mirror.sync,
        watcher.sync,
        lambda: list(mirror),
        lambda: dict(mirror),
        lambda: mirror.nodes,
        changes.get,
        lambda: next(changes),
        changes.close,
        *(method for daemon in (keeper, watcher, mirror) for method in (daemon.stop, daemon.join)),
        lambda: watcher.__exit__(None, None, None),
    ]
    for call in refused:
        with pytest.raises(RuntimeError, match=MESSAGE):
            in_thread(call)
    assert keeper.state is KeeperState.KEPT
    assert {watcher.state, mirror.state, changes.state} == {WatcherState.LIVE}


def test_cached_state_is_readable_in_another_thread(client: getc.Client, in_thread: Callable[..., Any]) -> None:
    """Single values without I/O: whether a node is kept, the state, and the value of a key in a mirror."""
    keeper = client.keep_node('/servers/a', 'here', ttl=60)
    mirror = client.mirror('/cfg')
    watcher = client.on_change('/cfg', print)

    def look() -> Any:
        daemons = keeper.ensure(), keeper.remaining() > 0, keeper.state, keeper.value, watcher.state, watcher.index > 0
        mirrored = mirror['/cfg/a'], mirror.get('/cfg/b'), '/cfg/a' in mirror, len(mirror), mirror.is_stale
        return daemons, mirrored, client.url, client.api, client.is_closed, [repr(client), repr(mirror), repr(keeper)]

    assert in_thread(look) == look()
    assert look()[1] == ('1', None, True, 1, False)


def test_unused_client_belongs_to_the_first_thread_that_uses_it(url: str, in_thread: Callable[..., Any]) -> None:
    """It may be created by the main thread and used by a worker."""
    client = getc.etcd(url)

    def use() -> str | None:
        with client:
            return client.set('/a', '1').value

    assert in_thread(use) == '1'


def test_memory_store_belongs_to_one_thread(in_thread: Callable[..., Any]) -> None:
    """Its subscribers are notified by greenlets, which belong to one thread."""
    url = f'memory://threads-{next(_numbers)}'
    with getc.etcd(url) as client:
        facts: list[Any] = []
        client.on_change('/', facts.append)

        def write() -> None:
            with getc.etcd(url) as other:
                other.set('/a', '1')

        with pytest.raises(RuntimeError, match='a store in memory can only be used in the thread'):
            in_thread(write)
        client.set('/b', '1')
        wait_until(lambda: facts)
        assert [result.key for result in facts] == ['/b']


def test_v3_rpcs_and_streams_raise_in_another_thread(etcd_server: EtcdServer, in_thread: Callable[..., Any]) -> None:
    """RPCs and streams in flight continue."""
    with getc.etcd(etcd_server.url, api='v3') as client:
        v3 = client.v3
        lease = v3.lease.grant(60).ID
        v3.lease.keep_alive(lease)
        watching = v3.watch.create(b'/a')
        refused: list[Callable[[], Any]] = [
            lambda: v3.kv.range(b'/a'),
            lambda: v3.lease.keep_alive(lease),
            lambda: v3.watch.create(b'/a'),
            v3.watch.progress,
            watching.receive,
            lambda: next(watching),
            watching.cancel,
        ]
        for call in refused:
            with pytest.raises(RuntimeError, match=MESSAGE):
                in_thread(call)
        v3.kv.put(b'/a', b'1')
        response = watching.receive(timeout=60)
        assert response is not None and [event.kv.value for event in response.events] == [b'1']
        assert v3.lease.keep_alive(lease).TTL == 60
