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
from getc.grpc.http2.frames import FrameType
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import EndpointSelector
from getc.operations import WatchSpec
from getc.testing import EtcdServer, Member, VirtualTime, wait_until
from getc.testing.ports import free_ports
from getc.testing.processes import poll_until
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import Maintenance, StatusResponse
from tests.support.api_support import skip_unless_supported
from tests.support.grpc_server import GrpcServer, ServerCall
from tests.support.server_probe import connections_to
from tests.support.servers import answer_of, read_request, serving

pytestmark = pytest.mark.timeout(300)

LONG = 30.0
NODE = {'key': '/a', 'value': '1', 'modifiedIndex': 4, 'createdIndex': 4}


HTTP1_ONLY = b'HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n'


class OldEtcd:
    """An HTTP/1 server with a ``/version`` page that responds to reads as etcd v2 does.

    Args:
        version: Its version; None to respond to ``/version`` with ``page``.
        page: A whole HTTP response.
        refusal: What it sends to a client that begins with HTTP/2, before it closes the connection.

    Attributes:
        paths: The requested paths, in order.
        go: Responses wait for this event.
    """

    def __init__(self, version: str | None, page: bytes = b'', refusal: bytes = HTTP1_ONLY) -> None:
        self.refusal = refusal
        self.version = answer_of(json.dumps({'etcdserver': version}).encode()) if version else page
        self.paths: list[str] = []
        self.go = Event()
        self.go.set()

    def __call__(self, sock: socket) -> None:
        while request := read_request(sock):
            path = request.split(b' ')[1].decode()
            if path == '*':  # the HTTP/2 preface
                sock.sendall(self.refusal)
                return
            self.paths.append(path)
            self.go.wait()
            if path == '/version':
                sock.sendall(self.version)
            else:
                head = 'Content-Type: application/json\r\nX-Etcd-Index: 9\r\n'
                sock.sendall(answer_of(json.dumps({'action': 'get', 'node': NODE}).encode(), headers=head))


def version_of(*endpoints: Endpoint, seconds: float | None = LONG) -> tuple[int, ...]:
    """Return the version that a probe reads."""
    selector = EndpointSelector(endpoints)
    rpc = RpcClient(selector)
    try:
        return VersionProbe(selector, rpc, VersionPage(None)).read(Deadline(seconds))
    finally:
        rpc.close()


@contextmanager
def probing(handler: Callable[[socket], None]) -> Iterator[Callable[[], tuple[int, ...]]]:
    """Serve, and yield a function that reads the server's version."""
    with serving(handler) as endpoint:
        yield lambda: version_of(endpoint)


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
        assert version_of(refusing, server) == (3, 5)
        assert version_of(silent, server, seconds=2.0) == (3, 5)
        with pytest.raises(getc.ConnectionRefused):
            version_of(refusing)


@pytest.mark.parametrize(
    'refusal',
    [
        b'',
        HTTP1_ONLY,
        b'HTTP/1.1 400 Bad Request\r\n\r\nno',
        b'SSH-2.0-x\r\n',
        b'\0' * 9,
        b'\0' * 3,
        b'HTT',
        b'\xff' * 99,
    ],
)
def test_page_is_read_when_the_server_refuses_http_2(refusal: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it sends, that costs one connection, and no time."""
    connections = 0

    def respond(sock: socket) -> None:
        nonlocal connections
        connections += 1
        server(sock)

    server = OldEtcd('2.3.8', refusal=refusal)
    with serving(respond) as endpoint:
        assert version_of(endpoint, seconds=None) == (2, 3)
    assert (connections, server.paths) == (2, ['/version'])
    assert refusal.startswith(b'\0') or 'HTTP' not in caplog.text


def test_silent_server_takes_half_of_the_time_before_its_page_is_read(etcd_clock: VirtualTime) -> None:
    """At most 5 s: a server that waits for more than the preface, with any timeout."""

    def respond(sock: socket) -> None:
        if sock.recv(3) == b'PRI':
            open_connections.append(sock)
            while sock.recv(65_536):
                pass
            open_connections.remove(sock)
        else:
            read_request(sock)
            sock.sendall(OldEtcd('2.3.8').version)

    open_connections: list[socket] = []
    with serving(respond) as endpoint:
        for timeout, expected in ((4.0, 2.0), (60.0, 5.0), (None, 5.0)):
            reading = gevent.spawn(version_of, endpoint, seconds=timeout)
            assert poll_until(lambda: open_connections, LONG)
            etcd_clock.advance(expected - 0.1)
            assert open_connections
            etcd_clock.advance(0.3)
            assert poll_until(reading.ready, LONG) and reading.get() == (2, 3)
            assert poll_until(lambda: not open_connections, LONG)


def test_server_that_is_always_silent_ends_the_probe_at_its_deadline(etcd_clock: VirtualTime) -> None:
    def respond(sock: socket) -> None:
        received.append(sock.recv(3))
        sock.recv(100_000)
        Event().wait()

    received: list[bytes] = []
    with serving(respond) as endpoint:
        reading = gevent.spawn(version_of, endpoint, seconds=8.0)
        for expected in (b'PRI', b'GET'):
            assert poll_until(lambda wanted=expected: wanted in received, LONG)
            assert not reading.ready()
            etcd_clock.advance(4.1)
        assert poll_until(reading.ready, LONG)
        with pytest.raises(getc.TimedOut) as caught:
            reading.get()
        assert caught.value.endpoint == endpoint.url


def test_slow_grpc_server_has_all_of_the_time(etcd_clock: VirtualTime) -> None:
    """Its SETTINGS prove HTTP/2, so that the page is not read."""

    def status(call: ServerCall) -> None:
        paths.append(call.path)
        if len(paths) > 1:
            gevent.sleep(4.0)
            call.answer(StatusResponse(version='3.6.1').SerializeToString())

    paths: list[str] = []
    with GrpcServer(status) as server:
        reading = gevent.spawn(version_of, server.endpoint, seconds=10.0)
        for calls, seconds in ((1, 5.1), (2, 4.1)):
            assert poll_until(lambda expected=calls: len(paths) == expected, LONG)
            etcd_clock.advance(seconds)
        assert poll_until(reading.ready, LONG) and reading.get() == (3, 6)
    assert paths == [Maintenance.Status.path] * 2


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


@pytest.mark.parametrize(
    ('code', 'text'),
    [
        (None, b''),
        (7, b'etcdserver: permission denied'),
        (16, b'etcdserver: invalid auth token'),
        (3, b'etcdserver: user name is empty'),
    ],
)
def test_version_is_that_of_the_status_over_grpc(code: int | None, text: bytes) -> None:
    """A refusal for lack of a role or a token proves v3 as well as a response."""

    def status(call: ServerCall) -> None:
        assert (call.path, call.receive()) == (Maintenance.Status.path, b'')
        if code is not None:
            call.refuse(code, text)
        else:
            call.answer(StatusResponse(version='3.6.1').SerializeToString())

    with GrpcServer(status) as server:
        assert version_of(server.endpoint) == ((3, 6) if code is None else (3, 5))


def test_v2_is_used_when_the_status_names_an_old_version() -> None:
    """etcd 3.0 to 3.3 speak gRPC."""
    with GrpcServer(lambda call: call.answer(StatusResponse(version='3.3.27').SerializeToString())) as server:
        assert version_of(server.endpoint) == (3, 3)


@pytest.mark.parametrize('version', ['', 'new', '3.x'])
def test_probe_raises_protocol_error_when_the_status_has_no_version(version: str) -> None:
    with GrpcServer(lambda call: call.answer(StatusResponse(version=version).SerializeToString())) as server:
        with pytest.raises(getc.ProtocolError, match='no version in its status'):
            version_of(server.endpoint)


@pytest.mark.parametrize('code', [14, 2, 12])
def test_probe_raises_the_grpc_error_of_a_grpc_server(code: int) -> None:
    """Also where the page is tried in vain, because the RPC is not implemented."""
    with GrpcServer(lambda call: call.refuse(code, b'no upstream')) as server:
        with pytest.raises(getc.EtcdError if code != 12 else getc.NotSupported, match='no upstream'):
            version_of(server.endpoint)


def test_first_call_takes_two_round_trips_on_one_connection() -> None:
    """The call follows the status on its connection; later calls take one round trip."""

    def respond(call: ServerCall) -> None:
        if call.path == Maintenance.Status.path:
            call.answer(StatusResponse(version='3.6.1').SerializeToString())
        else:
            call.refuse(3, b'etcdserver: no')

    with GrpcServer(respond) as server, getc.etcd(server.endpoint.url) as client:
        for _ in range(2):
            with pytest.raises(getc.EtcdError):
                client.get('/a')
        assert [call.path for call in server.calls] == [Maintenance.Status.path] + 2 * [server.calls[-1].path]
        assert len(server.connections) == 1


def test_status_is_sent_before_the_server_has_sent_anything() -> None:
    def read_first_frames(sock: socket) -> None:
        sock.recv(24)
        while FrameType.HEADERS not in frame_types:
            head = sock.recv(9)
            frame_types.append(head[3])
            sock.recv(int.from_bytes(head[:3], 'big') or 1)

    frame_types: list[int] = []
    with serving(read_first_frames) as endpoint, pytest.raises(getc.ConnectionError):
        version_of(endpoint)
    assert frame_types[:2] == [FrameType.SETTINGS, FrameType.WINDOW_UPDATE]


def test_v3_is_detected_when_the_port_serves_grpc_only(etcd_server: EtcdServer) -> None:
    """With ``--listen-client-http-urls`` the version page is on another port (etcd before 3.5.10 ignores it)."""
    client_port, peer_port, http_port = free_ports(3)
    member = Member('apart', etcd_server.binary)
    member.listen(client_port, peer_port)
    try:
        member.launch(f'apart={member.peer_url}', env={'ETCD_LISTEN_CLIENT_HTTP_URLS': f'http://127.0.0.1:{http_port}'})
        with getc.etcd(member.url) as client:
            client.ready(LONG)
            assert client.api == 'v3'
    finally:
        member.discard()


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
