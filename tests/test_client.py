"""The client: options, repr, timeouts, stores in memory, close and state listeners."""

from __future__ import annotations

import contextlib
import gc
import re
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest

import getc
from getc.net import failover
from getc.testing import EtcdServer
from getc.timing import Backoff
from tests.support.api_support import skip_unless_supported

LONG = 30.0
"""Seconds after which a test fails."""

REFUSING = 'http://127.0.0.1:1'


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections and never responds."""
    with gevent.socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(64)
        yield f'http://127.0.0.1:{listener.getsockname()[1]}'


# -- creation


@pytest.mark.parametrize(
    ('url', 'shown'),
    [
        ('http://10.0.0.1', 'http://10.0.0.1:2379'),
        ('http://10.0.0.1:4001/', 'http://10.0.0.1:4001'),
        ('http://10.0.0.1:1,http://10.0.0.2:2', 'http://10.0.0.1:1'),
        (['http://10.0.0.1:1', 'http://10.0.0.2:2'], 'http://10.0.0.1:1'),
        ('https://etcd.example', 'https://etcd.example:2379'),
        ('memory://', 'memory://'),
        ('memory://name', 'memory://name'),
    ],
    ids=str,
)
def test_url_is_the_first_endpoint_and_the_repr_shows_it(url: Any, shown: str) -> None:
    api = None if shown.startswith('memory') else 'v2'
    with getc.etcd(url, api=api) as client:  # type: ignore[arg-type]
        assert client.url == shown
        assert client.api == (api or 'memory')
        text = repr(client)
        assert re.fullmatch(
            rf'<getc\.Client \d+ {re.escape(shown)}(,http://10.0.0.2:2 {client.api} in_use=.*| {client.api})>', text
        )
    assert repr(client) == f'{text[:-1]} closed>'


def test_repr_shows_number_endpoints_endpoint_in_use_and_namespace(etcd_server: EtcdServer) -> None:
    with getc.etcd(['http://127.0.0.1:1', etcd_server.url], api='v3', namespace='/zone') as client:
        urls = f'http://127.0.0.1:1,{etcd_server.url}'
        assert re.fullmatch(rf'<getc\.Client \d+ {urls} v3 in_use=http://127\.0\.0\.1:1 namespace=/zone>', repr(client))
        client.set('/a', 'x')
        assert f'in_use={etcd_server.url} ' in repr(client)
        with getc.etcd('memory://') as other:
            assert repr(other).split()[1] != repr(client).split()[1]


def test_repr_works_when_the_constructor_has_failed(tmp_path: Path) -> None:
    """Error reports show the local variables of each frame."""
    with pytest.raises(OSError) as caught:
        getc.etcd('https://127.0.0.1:1', ca=str(tmp_path / 'no such file'))
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    (client,) = {frame['self'] for frame in frames if isinstance(frame.get('self'), getc.Client)}
    assert re.fullmatch(r'<getc\.Client \d+ https://127\.0\.0\.1:1 not opened>', repr(client))


def test_url_is_the_default_of_etcd_when_none_is_given() -> None:
    with getc.etcd() as client:
        assert client.url == 'http://127.0.0.1:2379'


@pytest.mark.parametrize(
    'options',
    [
        {'username': 'me'},
        {'password': 'secret'},
        {'url': 'memory://', 'api': 'v2'},
        {'url': 'memory://', 'username': 'me', 'password': 'secret'},
        {'url': 'memory://', 'ca': '/ca.pem'},
        {'timeout': float('nan')},
    ],
    ids=lambda options: ' '.join(options),
)
def test_etcd_raises_value_error_without_the_password_when_options_exclude_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        getc.etcd(**options)
    assert 'secret' not in str(caught.value)


def test_etcd_raises_os_error_when_a_certificate_file_is_missing() -> None:
    """The files are read when the client is created, not at the first call."""
    with pytest.raises(OSError):
        getc.etcd('https://127.0.0.1:1', api='v2', ca='/no/such/file.pem')


@pytest.mark.parametrize(
    'options',
    [{'url': 'http://me:secret@127.0.0.1:1'}, {'url': REFUSING, 'username': 'me', 'password': 'secret'}],
    ids=['url', 'options'],
)
def test_credentials_are_in_no_url_repr_or_error(options: dict[str, Any]) -> None:
    with getc.etcd(**options, api='v2') as client:
        assert client.url == REFUSING
        with pytest.raises(getc.ConnectionRefused) as caught:
            client.get('/a')
        assert caught.value.endpoint == REFUSING
        for shown in (client, caught.value, caught.value.__dict__, caught.value.__cause__, caught.value.__context__):
            assert 'secret' not in f'{shown!r} {shown}'


# -- timeouts


def test_timeout_of_a_call_replaces_that_of_the_client(silent: str) -> None:
    with getc.etcd(silent, api='v2', timeout=0.05) as hasty, getc.etcd(silent, api='v2', timeout=None) as patient:
        for call in (
            lambda: hasty.get('/a'),
            lambda: hasty.ready(),
            lambda: patient.get('/a', timeout=0.05),
            lambda: patient.ready(timeout=0.05),
        ):
            with gevent.Timeout(LONG), pytest.raises(getc.TimedOut, match=r'0\.05 s'):
                call()


def test_ready_raises_the_error_of_the_last_attempt() -> None:
    """A refused connection is attempted again until the timeout."""
    with getc.etcd(REFUSING, api='v2') as client:
        with gevent.Timeout(LONG), pytest.raises(getc.ConnectionRefused):
            client.ready(timeout=0.05)


def test_clear_closes_no_connection_in_use(etcd_server: EtcdServer) -> None:
    """After clear() new calls use new connections, and a wait continues on its own."""
    skip_unless_supported('v2', etcd_server.binary)
    with getc.etcd(etcd_server.url, api='v2') as client:
        client.ready()
        index = client.set('/a', '1').etcd_index
        waiting = gevent.spawn(client.wait, '/a', index + 1, timeout=LONG)
        gevent.sleep(0.05)
        client.clear()
        assert client.set('/a', '2').value == '2'
        assert waiting.get(timeout=LONG).value == '2'
        client.clear()
        assert client.get('/a').value == '2'


# -- stores in memory


def test_store_in_memory_is_shared_by_the_clients_of_its_name() -> None:
    """Also inside a namespace; a store without a name is private."""
    with getc.etcd('memory://game') as one, getc.etcd('memory://game', namespace='/ns') as inside:
        with getc.etcd('memory://other') as other, getc.etcd('memory://') as private, getc.etcd('memory://') as second:
            inside.set('/a', '1')
            private.set('/b', '1')
            assert [client.get('/').etcd_index for client in (one, other, private, second)] == [1, 0, 1, 0]
            assert one.get('/ns/a').value == '1'


def test_store_in_memory_is_dropped_with_its_last_client() -> None:
    """Closed clients keep it as well, until they are garbage-collected."""
    first = getc.etcd('memory://held')
    first.set('/a', '1', ttl=1000)
    second = getc.etcd('memory://held')
    first.close()
    del first
    gc.collect()
    assert getc.etcd('memory://held').get('/a').value == '1'
    second.close()
    del second
    gc.collect()
    with pytest.raises(getc.KeyNotFound):
        getc.etcd('memory://held').get('/a')


# -- close

CALLS: dict[str, Callable[[getc.Client], object]] = {
    'get': lambda client: client.get('/a'),
    'set': lambda client: client.set('/a', '1'),
    'create': lambda client: client.create('/a', '1'),
    'update': lambda client: client.update('/a', '1'),
    'refresh': lambda client: client.refresh('/a', ttl=1),
    'append': lambda client: client.append('/a', '1'),
    'delete': lambda client: client.delete('/a'),
    'wait': lambda client: client.wait('/a'),
    'ready': lambda client: client.ready(),
    'keep_node': lambda client: client.keep_node('/a', '1'),
    'on_change': lambda client: client.on_change('/a', print),
    'on_change as decorator': lambda client: client.on_change('/a')(lambda result: None),
    'changes': lambda client: client.changes('/a'),
    'mirror': lambda client: client.mirror('/a'),
    'transaction': lambda client: client.transaction().__enter__(),
    'atomically': lambda client: client.atomically(lambda stm: stm.get('/a')),
    'lock': lambda client: client.lock('/a').acquire(),
    'rwlock': lambda client: client.rwlock('/a').write.acquire(),
    'rwlock for reading': lambda client: client.rwlock('/a').read.acquire(),
    'elect': lambda client: client.elect('/a'),
    'leader': lambda client: client.leader('/a'),
    'run_while_leader': lambda client: client.run_while_leader('/a', print),
}
URLS = ['memory://', REFUSING]


@pytest.mark.parametrize('url', URLS)
@pytest.mark.parametrize('call', CALLS.values(), ids=CALLS)
def test_closed_client_raises_client_closed_at_once(url: str, call: Callable[[getc.Client], object]) -> None:
    client = getc.etcd(url, api=None if url == 'memory://' else 'v2')
    client.close()
    with gevent.Timeout(LONG), pytest.raises(getc.ClientClosed):
        call(client)


def test_calls_contain_every_method_but_clear_close_and_on_state() -> None:
    methods = {name for name in dir(getc.Client) if not name.startswith('_') and callable(getattr(getc.Client, name))}
    assert methods - {name.split()[0] for name in CALLS} == {'clear', 'close', 'on_state'}


@pytest.mark.parametrize('url', URLS)
def test_close_does_nothing_when_called_again(url: str) -> None:
    client = getc.etcd(url, api=None if url == 'memory://' else 'v2')
    client.close()
    client.close(timeout=0)
    client.clear()
    assert repr(client).endswith(' closed>')


def test_client_closes_when_its_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), getc.etcd('memory://') as client:
        raise ZeroDivisionError
    with pytest.raises(getc.ClientClosed):
        client.get('/')


def test_close_returns_within_its_timeout_when_etcd_does_not_respond(silent: str) -> None:
    """Calls and waits in flight raise, and starting daemons are stopped."""
    client = getc.etcd(silent, api='v2', timeout=None)
    made: list[Callable[[], object]] = [
        lambda: client.get('/a'),
        lambda: client.set('/a', '1'),
        lambda: client.wait('/a'),
    ]
    calls = [gevent.spawn(call) for call in made]
    client.keep_node('/servers/a', wait=False)
    client.on_change('/cfg', print, wait=False)
    gevent.sleep(0.05)
    with gevent.Timeout(LONG):
        client.close(timeout=0.1)
        gevent.joinall(calls)
    for call in calls:
        assert isinstance(call.exception, getc.EtcException), call


def test_close_may_be_called_from_a_callback(etcd: getc.Client, etcd_clock: object) -> None:
    """The callback itself runs to its end."""
    after: list[str] = []

    def close(result: getc.EtcdResult) -> None:
        etcd.close()
        after.append(result.key)

    etcd.on_change('/a', close)
    keeper = etcd.keep_node('/servers/a', ttl=3)
    etcd.set('/a', '1')
    with gevent.Timeout(LONG):
        while not after:
            gevent.sleep(0.01)
    assert after == ['/a']
    with pytest.raises(getc.NodeLost):
        keeper.ensure()
    with pytest.raises(getc.ClientClosed):
        etcd.get('/a')


def test_close_stops_daemons_in_the_order_of_their_starts(etcd: getc.Client, etcd_clock: object) -> None:
    """Watchers receive the deletions of kept nodes in the same order each time."""
    keys = [f'/servers/{number}' for number in range(20)]
    deleted: list[str] = []
    etcd.on_change('/servers', lambda result: deleted.append(result.key) if isinstance(result, getc.Deleted) else None)
    with getc.etcd(etcd.url) as client:
        for key in keys:
            client.keep_node(key, 'x')
    gevent.sleep(1)
    assert deleted == keys


def test_close_closes_all_sockets() -> None:
    with gevent.socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(8)
        client = getc.etcd(f'http://127.0.0.1:{listener.getsockname()[1]}', api='v2')
        calling = gevent.spawn(client.get, '/a')
        with gevent.Timeout(LONG):
            connection, _ = listener.accept()
            with connection:
                while b'\r\n\r\n' not in connection.recv(65536, socket.MSG_PEEK):
                    gevent.sleep(0)
                client.close()
                calling.join()
                while connection.recv(65536):
                    pass
        assert isinstance(calling.exception, getc.EtcException)


class LongBackoff(Backoff):
    """Delays of a minute."""

    def next_delay(self, cap: float | None = None) -> float:
        return 60.0


@pytest.mark.parametrize('api', ['v3', 'v2', None])
def test_close_ends_a_ready_that_backs_off_at_once(monkeypatch: pytest.MonkeyPatch, api: Any) -> None:
    monkeypatch.setattr(failover, 'Backoff', LongBackoff)
    client = getc.etcd(REFUSING, api=api)
    waiting = gevent.spawn(client.ready, timeout=None)
    waiting.join(0.1)
    client.close()
    waiting.join(LONG)
    assert isinstance(waiting.exception, getc.ClientClosed)


def errors_alive() -> list[getc.EtcException]:
    return [each for each in gc.get_objects() if isinstance(each, getc.EtcException)]


@pytest.mark.parametrize('api', ['v3', 'v2'])
def test_errors_of_calls_are_in_no_reference_cycle(etcd_server: EtcdServer, silent: str, api: Any) -> None:
    """Without the garbage collector."""
    skip_unless_supported(api, etcd_server.binary)
    with getc.etcd(etcd_server.url, api=api) as client, getc.etcd(silent, api=api) as unserved:
        calls: list[Callable[[], object]] = [
            lambda: client.get('/no'),
            lambda: client.set('/', 'x'),
            lambda: unserved.get('/no', timeout=0.2),
            lambda: unserved.ready(timeout=0.2),
        ]
        if api == 'v3':
            calls.append(lambda: client.v3.lease.revoke(7))
        for call in calls:
            gc.collect()
            gc.disable()
            try:
                others = errors_alive()
                with contextlib.suppress(getc.EtcException):
                    call()
                assert [each for each in errors_alive() if each not in others] == []
            finally:
                gc.enable()


# -- state listeners


def test_on_state_calls_the_listener_when_the_server_fails_and_recovers(etcd_server: EtcdServer) -> None:
    states: list[getc.ConnectionState] = []
    with getc.etcd(etcd_server.url, timeout=LONG) as client:

        @client.on_state
        def listen(state: getc.ConnectionState) -> None:
            states.append(state)

        client.set('/a', '1')
        gevent.sleep(0)
        etcd_server.kill()
        with pytest.raises(getc.ConnectionError):
            client.get('/a')
        etcd_server.restart()
        client.ready()
        gevent.sleep(0)
    connected, suspended = getc.ConnectionState
    assert states == [connected, suspended, connected]


def test_on_state_raises_type_error_when_the_listener_is_not_callable() -> None:
    with (
        getc.etcd('memory://') as client,
        pytest.raises(TypeError, match='the listener of on_state must be a function, not str'),
    ):
        client.on_state('log')  # type: ignore[type-var]
