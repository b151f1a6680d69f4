"""Detection of the API: once, with the first call, whichever call that is."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.socket import socket

import getc
from getc.backends.autodetect import AutoBackend, VersionProbe
from getc.backends.base import Backend
from getc.backends.memory.backend import MemoryBackend
from getc.backends.memory.notifier import SharedStore
from getc.backends.v2.version import VersionPage
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import EndpointSelector
from getc.operations import WatchSpec
from getc.testing import EtcdServer, wait_until
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import Maintenance, StatusResponse
from tests.support.api_support import skip_unless_supported
from tests.support.grpc_server import GrpcServer, ServerCall
from tests.support.server_probe import connections_to
from tests.support.servers import answer_of, read_request, serving

pytestmark = pytest.mark.timeout(60)

LONG = 30.0
NODE = {'key': '/a', 'value': '1', 'modifiedIndex': 4, 'createdIndex': 4}


class OldEtcd:
    """An HTTP server with a ``/version`` page that responds to reads as etcd v2 does.

    Args:
        version: Its version; None to respond to ``/version`` with ``page``.
        page: A whole HTTP response.

    Attributes:
        paths: The requested paths, in order.
        go: Responses wait for this event.
    """

    def __init__(self, version: str | None, page: bytes = b'') -> None:
        self.version = answer_of(json.dumps({'etcdserver': version}).encode()) if version else page
        self.paths: list[str] = []
        self.go = Event()
        self.go.set()

    def __call__(self, sock: socket) -> None:
        while request := read_request(sock):
            path = request.split(b' ')[1].decode()
            self.paths.append(path)
            self.go.wait()
            if path == '/version':
                sock.sendall(self.version)
            else:
                head = 'Content-Type: application/json\r\nX-Etcd-Index: 9\r\n'
                sock.sendall(answer_of(json.dumps({'action': 'get', 'node': NODE}).encode(), headers=head))


@contextmanager
def probing(handler: Callable[[socket], None]) -> Iterator[Callable[[], tuple[int, ...]]]:
    """Serve, and yield a function that reads the server's version."""
    with serving(handler) as endpoint:
        yield lambda: VersionProbe(EndpointSelector([endpoint]), VersionPage(None)).read(Deadline(LONG))


# -- the version


@pytest.mark.parametrize(
    ('text', 'version'), [('3.5.1', (3, 5)), ('2.3.8', (2, 3)), ('3.6.0-rc.1', (3, 6)), ('10.0', (10, 0))]
)
def test_version_is_that_of_the_page(text: str, version: tuple[int, ...]) -> None:
    with probing(OldEtcd(text)) as read_version:
        assert read_version() == version


@pytest.mark.parametrize(
    'body', [b'', b'no', b'[]', b'{}', b'{"etcdserver": 3}', b'{"etcdserver": "new"}', b'null', b'[' * 100_000]
)
def test_probe_raises_protocol_error_when_the_page_is_not_etcds(body: bytes) -> None:
    with probing(OldEtcd(None, answer_of(body))) as read_version, pytest.raises(getc.ProtocolError) as caught:
        read_version()
    assert caught.value.endpoint is not None and 'is not an etcd version response' in str(caught.value)


def test_probe_raises_http_error_when_there_is_no_page() -> None:
    with (
        probing(OldEtcd(None, answer_of(b'no', status='404 Not Found'))) as read_version,
        pytest.raises(getc.HTTPError) as caught,
    ):
        read_version()
    assert caught.value.status_code == 404


def test_probe_tries_the_next_server_when_one_does_not_respond() -> None:
    """A silent server takes a part of the time only; the last error is raised."""
    refusing = parse_endpoints('http://127.0.0.1:1')[0]
    with serving(OldEtcd('3.5.1')) as server, serving(lambda sock: gevent.sleep(LONG)) as silent:

        def version(*endpoints: Endpoint, seconds: float = LONG) -> tuple[int, ...]:
            return VersionProbe(EndpointSelector(endpoints), VersionPage(None)).read(Deadline(seconds))

        assert version(refusing, server) == (3, 5)
        assert version(silent, server, seconds=2.0) == (3, 5)
        with pytest.raises(getc.ConnectionRefused):
            version(refusing)


# -- the API


@pytest.mark.parametrize('version', ['2.3.8', '3.0.17', '3.3.25'])
def test_v2_is_used_below_3_4(version: str) -> None:
    """Older servers ignore some comparisons of v3 without an error."""
    server = OldEtcd(version)
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        assert client.get('/a').value == '1'
        assert client.api == 'v2'
        client.get('/a')
    assert server.paths == ['/version', '/v2/keys/a', '/v2/keys/a']


@pytest.mark.parametrize('version', ['3.4.0', '3.5.1', '3.6.0', '4.0.0'])
def test_v3_is_used_from_3_4_on(version: str) -> None:
    """The server has the version, but no gRPC: the call fails with an error."""
    with serving(OldEtcd(version)) as endpoint, getc.etcd(endpoint.url) as client:
        with pytest.raises(getc.EtcException):
            client.get('/a')
        assert client.api == 'v3'


@pytest.mark.parametrize('is_protected', [False, True])
def test_probe_reads_the_status_over_grpc_behind_a_grpc_proxy(is_protected: bool) -> None:
    """grpc-proxy has no version page, haproxy closes the connection; a refusal proves v3 as well as a response."""

    def status(call: ServerCall) -> None:
        assert (call.path, call.receive()) == (Maintenance.Status.path, b'')
        if is_protected:
            call.refuse(7, b'etcdserver: permission denied')
        else:
            call.answer(StatusResponse(version='3.6.1').SerializeToString())

    with GrpcServer(status) as server:
        endpoints = EndpointSelector([server.endpoint])
        rpc = RpcClient(endpoints)
        version = VersionProbe(endpoints, VersionPage(None), rpc).read(Deadline(LONG))
        assert version == ((3, 5) if is_protected else (3, 6))
        rpc.close()


def test_detected_api_is_logged_and_in_the_repr(etcd_server: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """The two APIs are separate stores.  There is no I/O before the first call."""
    skip_unless_supported('v2', etcd_server.binary)
    caplog.set_level(logging.INFO, 'getc')
    with getc.etcd(etcd_server.url) as client:
        assert client.api is None
        assert re.fullmatch(rf'<getc\.Client \d+ {etcd_server.url} api not detected yet>', repr(client))
        assert connections_to(etcd_server.url) == 0
        client.set('/a', '1')
        assert client.api == 'v3'
        assert re.fullmatch(rf'<getc\.Client \d+ {etcd_server.url} v3>', repr(client))
        version = '.'.join(etcd_server.version.split('.')[:2])
        client.get('/a')
    lines = [record.getMessage() for record in caplog.records if 'API' in record.getMessage()]
    (line,) = lines
    assert re.fullmatch(rf'etcd client \d+: etcd {version}: using API v3', line)
    with getc.etcd(etcd_server.url, api='v2') as client:
        assert re.fullmatch(rf'<getc\.Client \d+ {etcd_server.url} v2>', repr(client))
        with pytest.raises(getc.KeyNotFound):
            client.get('/a')


def test_version_is_read_once_for_any_number_of_greenlets() -> None:
    server = OldEtcd('2.3.8')
    server.go.clear()
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        greenlets = [gevent.spawn(client.get, '/a') for _ in range(50)]
        wait_until(lambda: server.paths)
        gevent.sleep(0)
        server.go.set()
        gevent.joinall(greenlets, raise_error=True)
        assert server.paths.count('/version') == 1
        assert server.paths.count('/v2/keys/a') == 50


def test_detection_goes_on_when_one_caller_times_out_or_is_killed() -> None:
    """Whether it is the caller that reads the version or one that waits for it."""
    server = OldEtcd('2.3.8')
    server.go.clear()
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        hasty, patient, second_hasty = (gevent.spawn(client.get, '/a', timeout=t) for t in (0.05, LONG, 0.1))
        for greenlet in (hasty, second_hasty):
            with pytest.raises(getc.TimedOut):
                greenlet.get()
        killed = gevent.spawn(client.get, '/a')
        gevent.sleep(0)
        killed.kill()
        server.go.set()
        assert patient.get().value == '1'


def test_next_call_detects_again_after_a_failure() -> None:
    server = OldEtcd(None, answer_of(b'starting', status='503 Service Unavailable'))
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        for _ in range(2):
            with pytest.raises(getc.HTTPError):
                client.get('/a')
            assert client.api is None
        server.version = OldEtcd('2.3.8').version
        assert client.get('/a').value == '1'


def test_api_is_detected_when_the_server_comes_up(etcd_server: EtcdServer) -> None:
    """A client may be created, and used, before its server runs."""
    etcd_server.kill()
    with getc.etcd(etcd_server.url) as client:
        with pytest.raises(getc.ConnectionRefused) as caught:
            client.set('/a', '1')
        assert not caught.value.maybe_applied
        etcd_server.start()
        client.ready()
        assert client.set('/a', '1').value == '1'


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_version_is_not_read_when_the_api_is_given(api: Any) -> None:
    server = OldEtcd('3.5.1')
    with serving(server) as endpoint, getc.etcd(endpoint.url, api=api) as client:
        assert client.api == api
        try:
            client.get('/a', timeout=LONG)
        except getc.ProtocolError:
            assert api == 'v3'
    assert '/version' not in server.paths


# -- the wrong API


def test_v2_is_not_supported_by_a_server_without_it() -> None:
    """The error names the flag of the server, and v3.  etcd 3.6 has no v2 API."""

    def respond(sock: socket) -> None:
        while read_request(sock):
            sock.sendall(
                answer_of(b'404 page not found\n', status='404 Not Found', headers='Content-Type: text/plain\r\n')
            )

    with serving(respond) as endpoint, getc.etcd(endpoint.url, api='v2') as client:
        with pytest.raises(getc.NotSupported) as caught:
            client.get('/a')
        assert '--enable-v2' in str(caught.value)
        assert 'v3' in str(caught.value)


def test_v3_error_names_the_needed_version_when_the_server_responds_with_http_1() -> None:
    """etcd 2, or a proxy."""

    def respond(sock: socket) -> None:
        sock.recv(65536)
        sock.sendall(b'HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n')

    with serving(respond) as endpoint, getc.etcd(endpoint.url, api='v3') as client:
        for call in (lambda: client.get('/a'), lambda: client.set('/a', '1')):
            with pytest.raises(getc.ProtocolError, match=r'HTTP/1.*etcd 3\.4 or newer') as caught:
                call()
            assert caught.value.endpoint == endpoint.url


def test_v3_error_names_the_needed_version_when_the_server_closes_the_connection() -> None:
    with serving(lambda sock: sock.recv(65536)) as endpoint, getc.etcd(endpoint.url, api='v3') as client:
        with pytest.raises(getc.ConnectionError, match=r'without a response.*etcd 3\.4 or newer'):
            client.get('/a')


# -- each kind of first call


def test_first_call_may_wait(etcd_server: EtcdServer) -> None:
    """From now on, or from an index."""
    with getc.etcd(etcd_server.url) as client, getc.etcd(etcd_server.url) as other:
        with pytest.raises(getc.ConnectionError):  # TimedOut, or the server was too slow to create the watch
            client.wait('/a', timeout=0.2)
        index = other.set('/a', '1').etcd_index
        with getc.etcd(etcd_server.url) as late:
            assert late.wait('/a', index, timeout=LONG).value == '1'


def test_first_call_may_be_a_watcher(etcd_server: EtcdServer) -> None:
    """Every change after ``on_change`` has returned is delivered."""
    received: list[str | None] = []
    with getc.etcd(etcd_server.url) as client:
        client.on_change('/a', lambda result: received.append(result.value))
        for value in '123':
            client.set('/a', value)
        wait_until(lambda: len(received) == 3)
    assert received == ['1', '2', '3']


def test_first_call_may_be_a_keeper(etcd_server: EtcdServer) -> None:
    """Also if the server starts later, as at boot."""
    etcd_server.kill()
    with getc.etcd(etcd_server.url) as client:
        keeping = gevent.spawn(client.keep_node, '/a', 'here', ttl=5)
        watching = gevent.spawn(client.on_change, '/a', lambda result: None)
        gevent.sleep(0.05)
        assert not keeping.ready() and not watching.ready()
        etcd_server.start()
        keeper = keeping.get(timeout=LONG)
        assert keeper.ensure() > 0
        assert client.get('/a').value == 'here'
        assert client.api == 'v3'
        watcher = watching.get(timeout=LONG)
        wait_until(lambda: watcher.state is getc.WatcherState.LIVE)


def test_ready_waits_for_the_server_to_detect_its_api() -> None:
    server, connections, is_healthy = OldEtcd('2.3.8'), [], Event()

    def begin_late(sock: socket) -> None:
        connections.append(sock)
        if is_healthy.is_set():
            server(sock)

    with serving(begin_late) as endpoint, getc.etcd(endpoint.url) as client:
        ready = gevent.spawn(client.ready, LONG)
        wait_until(lambda: len(connections) > 3)
        assert not ready.ready()
        is_healthy.set()
        ready.get()
        assert client.api == 'v2'


@pytest.mark.parametrize('method', ['ready', 'clear'])
def test_first_call_may_be_ready_or_clear(etcd_server: EtcdServer, method: str) -> None:
    """``ready`` detects the API; ``clear`` has nothing to close."""
    with getc.etcd(etcd_server.url) as client:
        getattr(client, method)()
        assert client.api == ('v3' if method == 'ready' else None)
        assert client.set('/a', '1').value == '1'


def test_first_wait_raises_within_its_timeout_when_no_server_responds() -> None:
    """The error says that there was no watch: a TimedOut would mean that nothing has changed."""
    with serving(lambda sock: gevent.sleep(LONG)) as endpoint, getc.etcd(endpoint.url) as client:
        with pytest.raises(getc.ConnectionError, match=r'no watch of /a was created within 0\.2 s') as caught:
            client.wait('/a', timeout=0.2)
    assert not isinstance(caught.value, getc.TimedOut)


@pytest.mark.parametrize('version', [(3, 5), (2, 3)])
def test_watch_and_keep_group_detect_the_api_first(version: tuple[int, ...]) -> None:
    """Without ``detect_api`` before; detection happens once."""

    class Probe:
        reads = 0

        def read(self, deadline: Deadline) -> tuple[int, ...]:
            self.reads += 1
            return version

        def close(self) -> None:
            pass

    class Listener:
        def on_live(self, index: int) -> None:
            received.append(index)

        def on_caught_up(self) -> None:
            pass

        def on_changes(self, results: Sequence[getc.EtcdResult]) -> None:
            raise AssertionError(results)

        def on_ended(self, error: getc.EtcException) -> None:
            raise AssertionError(error)

    def open_api(api: str) -> Backend:
        apis.append(api)
        return memory

    apis: list[str] = []
    received: list[int] = []
    memory = MemoryBackend(SharedStore())
    probe: Any = Probe()
    backend = AutoBackend(probe, open_api)
    backend.watch(WatchSpec('/a'), Listener())
    assert backend.keep_group(10) is memory.keep_group(10)
    assert backend.detect_api(Deadline(None)) is memory
    assert AutoBackend(probe, open_api).keep_group(10) is memory.keep_group(10)
    gevent.sleep(0)
    assert (received, probe.reads, set(apis)) == ([0], 2, {'v3' if version >= (3, 4) else 'v2'})
    memory.close()


# -- closing


def test_client_may_be_closed_before_its_first_call() -> None:
    """Calls then raise ClientClosed."""
    client = getc.etcd('http://127.0.0.1:1')
    client.close()
    client.close()
    assert re.fullmatch(r'<getc\.Client \d+ http://127\.0\.0\.1:1 api not detected yet closed>', repr(client))
    for call in (
        lambda: client.get('/a'),
        lambda: client.wait('/a'),
        lambda: client.keep_node('/a'),
        lambda: client.on_change('/a', print),
        client.ready,
    ):
        with pytest.raises(getc.ClientClosed):
            call()


def test_close_ends_all_calls_during_detection() -> None:
    """The call that reads the version, calls that wait for it, and daemons."""
    server = OldEtcd('2.3.8')
    server.go.clear()
    with serving(server) as endpoint:
        client = getc.etcd(endpoint.url)
        calls = [gevent.spawn(client.get, '/a', timeout=None) for _ in range(3)]
        calls.append(gevent.spawn(client.wait, '/a'))
        calls.append(gevent.spawn(client.on_change, '/a', print))
        calls.append(gevent.spawn(client.keep_node, '/a'))
        wait_until(lambda: server.paths)
        client.close()
        for call in calls:
            with pytest.raises(getc.ClientClosed):
                call.get(timeout=LONG)
        assert connections_to(endpoint.url) == 0
        assert client.api is None
        assert server.paths == ['/version']


def test_watcher_stopped_during_detection_delivers_nothing(etcd_server: EtcdServer) -> None:
    """No greenlet starts its watch later."""
    received: list[Any] = []
    with getc.etcd(etcd_server.url) as client:
        watcher = client.on_change('/a', received.append, wait=False)
        watcher.stop()
        client.set('/a', '1')
        gevent.sleep(0.05)
    assert received == []
