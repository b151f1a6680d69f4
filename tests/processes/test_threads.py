"""A client is for one thread: another is told so at once, whatever it asks for, and may look at what is at hand."""

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
from getc.testing import EtcdServer, wait_until
from tests.support.api_support import skip_unless_spoken

MESSAGE = 'a client belongs to the thread that used it first'
APIS = ['v2', 'v3', 'memory']

_numbers = itertools.count()


@pytest.fixture(params=APIS)
def url(request: pytest.FixtureRequest) -> Any:
    """Of a real etcd, or of a store in memory."""
    if request.param == 'memory':
        return f'memory://threads-{next(_numbers)}'
    server: EtcdServer = request.getfixturevalue('etcd_server')
    skip_unless_spoken(request.param, server.binary)
    return server.url


@pytest.fixture
def client(url: str, request: pytest.FixtureRequest) -> Iterator[getc.Client]:
    """A client that this thread uses."""
    api = request.node.callspec.params['url']
    with getc.etcd(url, api=None if api == 'memory' else api) as client:
        client.set('/cfg/a', '1')
        yield client


@pytest.fixture
def elsewhere() -> Iterator[Callable[..., Any]]:
    """Call a function in another thread, and return or raise what it does; a minute is the bound of one that hangs."""
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
    lambda client: client.ready(),
    lambda client: client.on_state(print),
    lambda client: client.v3,
    lambda client: client.clear(),
    lambda client: client.close(),
    lambda client: client.__exit__(None, None, None),
]


def test_every_method_of_the_client_refuses_another_thread(client: getc.Client, elsewhere: Callable[..., Any]) -> None:
    """At once, and nothing was done: the client works on where it belongs."""
    for call in CALLS:
        with pytest.raises(RuntimeError, match=MESSAGE):
            elsewhere(call, client)
    assert not client.is_closed
    assert [node.key for node in client.get('/cfg').nodes] == ['/cfg/a']
    assert client.get('/cfg/a').value == '1'


def test_calls_contain_every_method_of_the_client() -> None:
    methods = {name for name in dir(getc.Client) if not name.startswith('_') and callable(getattr(getc.Client, name))}
    called = {name for call in CALLS for name in call.__code__.co_names}
    assert methods == called & methods


def test_every_method_of_a_daemon_refuses_another_thread(client: getc.Client, elsewhere: Callable[..., Any]) -> None:
    """Which neither ends nor waits for it."""
    keeper = client.keep_node('/servers/a')
    watcher = client.on_change('/cfg', print)
    mirror = client.mirror('/cfg')
    changes = client.changes('/cfg')
    refused: list[Callable[[], Any]] = [
        lambda: keeper.update('x'),
        keeper.orphan,
        lambda: mirror.wait(lambda _: False),
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
            elsewhere(call)
    assert keeper.state is KeeperState.KEPT
    assert {watcher.state, mirror.state, changes.watcher.state} == {WatcherState.LIVE}


def test_another_thread_may_look_at_what_is_at_hand(client: getc.Client, elsewhere: Callable[..., Any]) -> None:
    """One thing at a time, without I/O: whether a node is kept, how it stands, what a mirror holds for a key."""
    keeper = client.keep_node('/servers/a', 'here', ttl=60)
    mirror = client.mirror('/cfg')
    watcher = client.on_change('/cfg', print)

    def look() -> Any:
        daemons = keeper.ensure(), keeper.remaining() > 0, keeper.state, keeper.value, watcher.state, watcher.index > 0
        mirrored = mirror['/cfg/a'], mirror.get('/cfg/b'), '/cfg/a' in mirror, len(mirror), mirror.is_stale
        return daemons, mirrored, client.url, client.api, client.is_closed, [repr(client), repr(mirror), repr(keeper)]

    assert elsewhere(look) == look()
    assert look()[1] == ('1', None, True, 1, False)


def test_client_that_was_not_used_yet_belongs_to_the_thread_that_does(url: str, elsewhere: Callable[..., Any]) -> None:
    """It is made where a program begins, and used where its work is done."""
    client = getc.etcd(url)

    def use() -> str | None:
        with client:
            return client.set('/a', '1').value

    assert elsewhere(use) == '1'


def test_store_in_memory_is_for_one_thread_as_well(elsewhere: Callable[..., Any]) -> None:
    """Its followers are told by greenlets, which live in one."""
    url = f'memory://threads-{next(_numbers)}'
    with getc.etcd(url) as client:
        told: list[Any] = []
        client.on_change('/', told.append)

        def write() -> None:
            with getc.etcd(url) as other:
                other.set('/a', '1')

        with pytest.raises(RuntimeError, match='a store in memory belongs to the thread'):
            elsewhere(write)
        client.set('/b', '1')
        wait_until(lambda: told)
        assert [result.key for result in told] == ['/b']


def test_rpcs_and_streams_of_v3_refuse_another_thread(etcd_server: EtcdServer, elsewhere: Callable[..., Any]) -> None:
    """Those that are under way go on."""
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
                elsewhere(call)
        v3.kv.put(b'/a', b'1')
        response = watching.receive(timeout=60)
        assert response is not None and [event.kv.value for event in response.events] == [b'1']
        assert v3.lease.keep_alive(lease).TTL == 60
