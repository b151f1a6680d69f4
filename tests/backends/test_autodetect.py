"""Which API is spoken: the server is asked once, at the first call, and whatever that call is."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event
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
    """An HTTP server that tells a version, and answers reads as etcd v2 does.

    Args:
        version: What it says it is; None has it answer ``/version`` by ``answer``.
        answer: That answer.

    Attributes:
        asked: The paths that were asked for, in order.
        go: Answers wait for it.
    """

    def __init__(self, version: str | None, answer: bytes = b'') -> None:
        self.version = answer_of(json.dumps({'etcdserver': version}).encode()) if version else answer
        self.asked: list[str] = []
        self.go = Event()
        self.go.set()

    def __call__(self, sock: socket) -> None:
        while request := read_request(sock):
            path = request.split(b' ')[1].decode()
            self.asked.append(path)
            self.go.wait()
            if path == '/version':
                sock.sendall(self.version)
            else:
                head = 'Content-Type: application/json\r\nX-Etcd-Index: 9\r\n'
                sock.sendall(answer_of(json.dumps({'action': 'get', 'node': NODE}).encode(), headers=head))


@contextmanager
def ask(handler: Callable[[socket], None]) -> Iterator[Callable[[], tuple[int, ...]]]:
    """What asks a server for its version."""
    with serving(handler) as endpoint:
        yield lambda: VersionProbe(EndpointSelector([endpoint]), VersionPage(None)).read(Deadline(LONG))


# -- the version


@pytest.mark.parametrize(
    ('told', 'version'), [('3.5.1', (3, 5)), ('2.3.8', (2, 3)), ('3.6.0-rc.1', (3, 6)), ('10.0', (10, 0))]
)
def test_version_is_what_the_server_tells(told: str, version: tuple[int, ...]) -> None:
    """The first two numbers of it."""
    with ask(OldEtcd(told)) as asked:
        assert asked() == version


@pytest.mark.parametrize(
    'body', [b'', b'no', b'[]', b'{}', b'{"etcdserver": 3}', b'{"etcdserver": "new"}', b'null', b'[' * 100_000]
)
def test_version_is_a_protocol_error_when_it_is_none(body: bytes) -> None:
    """Whatever answers there."""
    with ask(OldEtcd(None, answer_of(body))) as asked, pytest.raises(getc.ProtocolError) as caught:
        asked()
    assert caught.value.endpoint is not None and 'is not an etcd version response' in str(caught.value)


def test_version_is_an_http_error_when_there_is_no_such_page() -> None:
    """A web server that is no etcd."""
    with ask(OldEtcd(None, answer_of(b'no', status='404 Not Found'))) as asked, pytest.raises(getc.HTTPError) as caught:
        asked()
    assert caught.value.status_code == 404


def test_version_is_asked_of_the_next_server_when_one_does_not_answer() -> None:
    """One that hangs takes its share of the time only; the last error is raised."""
    nobody = parse_endpoints('http://127.0.0.1:1')[0]
    with serving(OldEtcd('3.5.1')) as server, serving(lambda sock: gevent.sleep(LONG)) as silent:

        def version(*endpoints: Endpoint, seconds: float = LONG) -> tuple[int, ...]:
            return VersionProbe(EndpointSelector(endpoints), VersionPage(None)).read(Deadline(seconds))

        assert version(nobody, server) == (3, 5)
        assert version(silent, server, seconds=2.0) == (3, 5)
        with pytest.raises(getc.ConnectionRefused):
            version(nobody)


# -- the choice


@pytest.mark.parametrize('version', ['2.3.8', '3.0.17', '3.3.25'])
def test_v2_is_spoken_below_3_4(version: str) -> None:
    """Older servers ignore some comparisons of v3 silently."""
    server = OldEtcd(version)
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        assert client.get('/a').value == '1'
        assert client.api == 'v2'
        client.get('/a')
    assert server.asked == ['/version', '/v2/keys/a', '/v2/keys/a']


@pytest.mark.parametrize('version', ['3.4.0', '3.5.1', '3.6.0', '4.0.0'])
def test_v3_is_spoken_from_3_4_on(version: str) -> None:
    """This one says it is, and is not: what comes is not silence."""
    with serving(OldEtcd(version)) as endpoint, getc.etcd(endpoint.url) as client:
        with pytest.raises(getc.EtcException):
            client.get('/a')
        assert client.api == 'v3'


@pytest.mark.parametrize('is_protected', [False, True])
def test_version_is_asked_over_grpc_where_a_proxy_passes_nothing_else_on(is_protected: bool) -> None:
    """Such as grpc-proxy, which has no such page, or haproxy, which hangs up; a refusal proves v3 as well."""

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


def test_choice_is_logged_and_shown(etcd_server: EtcdServer, caplog: pytest.LogCaptureFixture) -> None:
    """The two APIs do not see each other's nodes, so people want to know; nothing is asked before the first call."""
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
    chosen = [record.getMessage() for record in caplog.records if 'API' in record.getMessage()]
    (line,) = chosen
    assert re.fullmatch(rf'etcd client \d+: etcd {version}: using API v3', line)
    with getc.etcd(etcd_server.url, api='v2') as client:
        assert re.fullmatch(rf'<getc\.Client \d+ {etcd_server.url} v2>', repr(client))
        with pytest.raises(getc.KeyNotFound):
            client.get('/a')


def test_version_is_asked_once_by_any_number_of_greenlets() -> None:
    """All of them go on with the one answer."""
    server = OldEtcd('2.3.8')
    server.go.clear()
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        greenlets = [gevent.spawn(client.get, '/a') for _ in range(50)]
        wait_until(lambda: server.asked)
        gevent.sleep(0)
        server.go.set()
        gevent.joinall(greenlets, raise_error=True)
        assert server.asked.count('/version') == 1
        assert server.asked.count('/v2/keys/a') == 50


def test_who_has_no_time_does_not_spoil_it_for_the_others() -> None:
    """Neither who asks nor who waits for it."""
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


def test_server_that_fails_is_asked_again_by_the_next_call() -> None:
    """Each call gets a typed error; once the server is there, all is well."""
    server = OldEtcd(None, answer_of(b'starting', status='503 Service Unavailable'))
    with serving(server) as endpoint, getc.etcd(endpoint.url) as client:
        for _ in range(2):
            with pytest.raises(getc.HTTPError):
                client.get('/a')
            assert client.api is None
        server.version = OldEtcd('2.3.8').version
        assert client.get('/a').value == '1'


def test_server_that_is_down_is_chosen_when_it_is_up(etcd_server: EtcdServer) -> None:
    """A client may be made, and used, before its server."""
    etcd_server.kill()
    with getc.etcd(etcd_server.url) as client:
        with pytest.raises(getc.ConnectionRefused) as caught:
            client.set('/a', '1')
        assert not caught.value.maybe_applied
        etcd_server.start()
        client.ready()
        assert client.set('/a', '1').value == '1'


@pytest.mark.parametrize('api', ['v2', 'v3'])
def test_version_is_not_asked_when_the_api_is_given(api: Any) -> None:
    """It is spoken, whatever the server is."""
    server = OldEtcd('3.5.1')
    with serving(server) as endpoint, getc.etcd(endpoint.url, api=api) as client:
        assert client.api == api
        try:
            client.get('/a', timeout=LONG)
        except getc.ProtocolError:
            assert api == 'v3'
    assert '/version' not in server.asked


# -- the wrong one


def test_v2_of_a_server_without_it_is_not_supported() -> None:
    """The error says how to turn it on, and what else there is.  etcd 3.6 has it no more."""

    def answer(sock: socket) -> None:
        while read_request(sock):
            sock.sendall(
                answer_of(b'404 page not found\n', status='404 Not Found', headers='Content-Type: text/plain\r\n')
            )

    with serving(answer) as endpoint, getc.etcd(endpoint.url, api='v2') as client:
        with pytest.raises(getc.NotSupported) as caught:
            client.get('/a')
        assert '--enable-v2' in str(caught.value)
        assert 'v3' in str(caught.value)


def test_v3_of_a_server_that_answers_in_http_1_says_what_it_needs() -> None:
    """An etcd 2, or a proxy in between."""

    def answer(sock: socket) -> None:
        sock.recv(65536)
        sock.sendall(b'HTTP/1.1 505 HTTP Version Not Supported\r\nConnection: close\r\n\r\n')

    with serving(answer) as endpoint, getc.etcd(endpoint.url, api='v3') as client:
        for call in (lambda: client.get('/a'), lambda: client.set('/a', '1')):
            with pytest.raises(getc.ProtocolError, match=r'HTTP/1.*etcd 3\.4 or newer') as caught:
                call()
            assert caught.value.endpoint == endpoint.url


def test_v3_of_a_server_that_hangs_up_says_what_it_needs() -> None:
    """Without a word, as some proxies do."""
    with serving(lambda sock: sock.recv(65536)) as endpoint, getc.etcd(endpoint.url, api='v3') as client:
        with pytest.raises(getc.ConnectionError, match=r'without a word.*etcd 3\.4 or newer'):
            client.get('/a')


# -- what the first call may be


def test_first_call_may_wait(etcd_server: EtcdServer) -> None:
    """From now on, or from an index, with or without a limit."""
    with getc.etcd(etcd_server.url) as client, getc.etcd(etcd_server.url) as other:
        with pytest.raises(getc.ConnectionError):  # TimedOut, or the server was too slow to create the watch
            client.wait('/a', timeout=0.2)
        index = other.set('/a', '1').etcd_index
        with getc.etcd(etcd_server.url) as late:
            assert late.wait('/a', index, timeout=LONG).value == '1'


def test_first_call_may_be_a_watcher(etcd_server: EtcdServer) -> None:
    """Every change after it returned is told."""
    told: list[str | None] = []
    with getc.etcd(etcd_server.url) as client:
        client.on_change('/a', lambda result: told.append(result.value))
        for value in '123':
            client.set('/a', value)
        wait_until(lambda: len(told) == 3)
    assert told == ['1', '2', '3']


def test_first_call_may_be_a_keeper(etcd_server: EtcdServer) -> None:
    """Also with a server that comes up later, as at boot."""
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


def test_ready_waits_for_a_server_that_is_not_there_yet() -> None:
    """To choose, too."""
    server, asked, is_well = OldEtcd('2.3.8'), [], Event()

    def begin_late(sock: socket) -> None:
        asked.append(sock)
        if is_well.is_set():
            server(sock)

    with serving(begin_late) as endpoint, getc.etcd(endpoint.url) as client:
        ready = gevent.spawn(client.ready, LONG)
        wait_until(lambda: len(asked) > 3)
        assert not ready.ready()
        is_well.set()
        ready.get()
        assert client.api == 'v2'


@pytest.mark.parametrize('method', ['ready', 'clear'])
def test_first_call_may_be_for_the_client_itself(etcd_server: EtcdServer, method: str) -> None:
    """``ready`` chooses; ``clear`` has nothing to clear."""
    with getc.etcd(etcd_server.url) as client:
        getattr(client, method)()
        assert client.api == ('v3' if method == 'ready' else None)
        assert client.set('/a', '1').value == '1'


def test_first_call_may_be_a_watch_that_fails_for_any_reason() -> None:
    """Whoever follows is told that nothing will come."""

    class Known:
        def read(self, deadline: Deadline) -> tuple[int, ...]:
            return 3, 5

        def close(self) -> None:
            pass

    class Ended:
        def __init__(self) -> None:
            self.error: AsyncResult[getc.EtcException] = AsyncResult()

        def on_live(self, index: int) -> None:
            raise AssertionError(index)

        def on_caught_up(self) -> None:
            pass

        def on_changes(self, results: Sequence[getc.EtcdResult]) -> None:
            raise AssertionError(results)

        def on_ended(self, error: getc.EtcException) -> None:
            self.error.set(error)

    def fail(api: str) -> Backend:
        raise OSError(api)

    ended = Ended()
    AutoBackend(Known(), fail).watch(WatchSpec('/a'), ended)
    error = ended.error.get(timeout=LONG)
    assert isinstance(error, getc.EtcException)
    assert str(error) == 'the watch of /a failed: OSError'
    assert isinstance(error.__cause__, OSError)


# -- the end


def test_client_may_be_closed_before_its_first_call() -> None:
    """It has nothing to close, and says afterwards that it is closed."""
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


def test_close_ends_all_that_wait_for_the_choice() -> None:
    """Who asks, who waits for who asks, and whoever follows: at once, with ClientClosed."""
    server = OldEtcd('2.3.8')
    server.go.clear()
    with serving(server) as endpoint:
        client = getc.etcd(endpoint.url)
        calls = [gevent.spawn(client.get, '/a', timeout=None) for _ in range(3)]
        calls.append(gevent.spawn(client.wait, '/a'))
        calls.append(gevent.spawn(client.on_change, '/a', print))
        calls.append(gevent.spawn(client.keep_node, '/a'))
        wait_until(lambda: server.asked)
        client.close()
        for call in calls:
            with pytest.raises(getc.ClientClosed):
                call.get(timeout=LONG)
        assert connections_to(endpoint.url) == 0
        assert client.api is None
        assert server.asked == ['/version']


def test_watch_that_was_closed_before_the_choice_tells_nothing(etcd_server: EtcdServer) -> None:
    """A watcher that is stopped at once leaves no greenlet that would begin it."""
    told: list[Any] = []
    with getc.etcd(etcd_server.url) as client:
        watcher = client.on_change('/a', told.append, wait=False)
        watcher.stop()
        client.set('/a', '1')
        gevent.sleep(0.05)
    assert told == []


@pytest.mark.parametrize('version', [(3, 5), (2, 3)])
def test_watch_that_is_closed_as_the_api_is_chosen_is_not_begun(version: tuple[int, ...]) -> None:
    """A kill strikes a turn later, and the answer may be there in this one."""

    class Inquiry:
        def read(self, deadline: Deadline) -> tuple[int, ...]:
            watch.close()
            return version

        def close(self) -> None:
            pass

    class Ended:
        def on_live(self, index: int) -> None:
            told.append('live')

        def on_caught_up(self) -> None:
            pass

        def on_changes(self, results: Sequence[getc.EtcdResult]) -> None:
            told.append('changes')

        def on_ended(self, error: getc.EtcException) -> None:
            told.append('ended')

    def open_api(api: str) -> Backend:
        if api == 'v2':
            raise getc.NotSupported(api)
        return memory

    told: list[str] = []
    memory = MemoryBackend(SharedStore())
    watch = AutoBackend(Inquiry(), open_api).watch(WatchSpec('/a'), Ended())
    gevent.sleep(0.01)
    assert len(memory._watches) == 0
    assert told == []
