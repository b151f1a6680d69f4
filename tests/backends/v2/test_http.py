"""The HTTP client of v2 against servers that misbehave: a typed error before the deadline, and no leftovers."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.ssl
import pytest
import requests
from gevent.event import Event
from gevent.lock import Semaphore

from getc.backends.v2 import http_pool
from getc.backends.v2.http import Http
from getc.backends.v2.http_pool import Connection, GeventAdapter
from getc.backends.v2.http_response import MAX_BODY
from getc.backends.v2.messages import Request
from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, ProtocolError, TimedOut
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.tls import TLS
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.servers import answer_of, read_request, serving

READ = Request('GET', '/v2/keys/a')
WRITE = Request('PUT', '/v2/keys/a', b'value=secret', is_write=True)
RESPONSE = answer_of(b'{}')

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http()
    yield http
    http.close()


def in_time() -> Deadline:
    """A deadline that no test reaches."""
    return Deadline.after(60)


class Counting:
    """A healthy server that counts connections and requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        self.connections += 1
        while request := read_request(sock):
            self.requests.append(request)
            sock.sendall(RESPONSE)


def test_call_returns_the_whole_response(http: Http) -> None:
    """Status, headers and body; the request has the expected headers only."""
    server = Counting()
    with serving(server) as endpoint:
        response = http.call(endpoint, WRITE, in_time())
    assert (response.status, response.body) == (200, b'{}')
    assert response.headers.get('content-type', '') == 'application/json'
    head, _, body = server.requests[0].partition(b'\r\n\r\n')
    assert body == b'value=secret'
    names = sorted(line.split(b':')[0].lower() for line in head.split(b'\r\n')[1:])
    assert names == [b'accept-encoding', b'content-length', b'content-type', b'host', b'user-agent']
    assert b'Accept-Encoding: identity' in head


def test_call_reuses_the_connection_of_the_previous_call(http: Http) -> None:
    server = Counting()
    with serving(server) as endpoint:
        for _ in range(5):
            http.call(endpoint, READ, in_time())
    assert (server.connections, len(server.requests)) == (1, 5)


def test_call_sends_credentials_and_repr_hides_them(http: Http) -> None:
    """They are in the Authorization header, but neither in the repr nor in the URL of the endpoint."""
    server = Counting()
    with serving(server) as plain:
        endpoint = parse_endpoints(f'http://root:pa%20ss@127.0.0.1:{plain.port}')[0]
        http.call(endpoint, READ, in_time())
    assert b'Authorization: Basic cm9vdDpwYSBzcw==' in server.requests[0]
    assert 'pa' not in repr(endpoint).replace('parse', '')
    assert endpoint.url == plain.url


def test_call_ignores_proxies_of_the_environment(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:1')
    with serving(Counting()) as endpoint:
        assert http.call(endpoint, READ, in_time()).status == 200


def test_call_does_not_follow_redirects(http: Http) -> None:
    """Following one would turn a write into a read."""
    server = Counting()

    def redirect(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(answer_of(b'', status='307 Moved', headers=f'Location: {there.url}/elsewhere\r\n'))

    with serving(server) as there, serving(redirect) as endpoint:
        assert http.call(endpoint, WRITE, in_time()).status == 307
    assert server.requests == []


def test_call_raises_connection_refused_when_no_server_listens(http: Http) -> None:
    """Nothing was sent: ``maybe_applied`` is False."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        endpoint = parse_endpoints(f'http://127.0.0.1:{sock.getsockname()[1]}')[0]
        with pytest.raises(ConnectionRefused) as caught:
            http.call(endpoint, WRITE, in_time())
    assert caught.value.maybe_applied is False
    assert caught.value.endpoint == endpoint.url


def test_call_raises_connection_error_when_the_host_is_unknown(http: Http) -> None:
    with pytest.raises(ConnectionError, match=r'name lookup for http://no\.such\.invalid:2379') as caught:
        http.call(parse_endpoints('http://no.such.invalid')[0], WRITE, in_time())
    assert caught.value.maybe_applied is False


# -- slow servers


def silent(sock: socket.socket) -> None:
    read_request(sock)
    gevent.sleep(60)


def trickle_head(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\n')
    while True:
        sock.sendall(b'X')
        gevent.sleep(0.02)


def trickle_body(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
    while True:
        sock.sendall(b'X')
        gevent.sleep(0.02)


def trickle_chunks(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    while True:
        sock.sendall(b'1\r\nX\r\n')
        gevent.sleep(0.02)


@pytest.mark.parametrize('server', [silent, trickle_head, trickle_body, trickle_chunks])
@pytest.mark.parametrize('request_', [READ, WRITE], ids=['read', 'write'])
def test_call_times_out_when_bytes_arrive_slowly(
    etcd_clock: VirtualTime, http: Http, server: object, request_: Request
) -> None:
    """The deadline holds for the whole call; a write that was sent may have been applied."""
    with serving(server) as endpoint:
        call = gevent.spawn(http.call, endpoint, request_, Deadline.after(2))
        etcd_clock.advance(1.9)
        assert not call.ready()
        etcd_clock.advance(0.1)
        with pytest.raises(TimedOut, match=r'no response from http://127\.0\.0\.1:\d+ within 2 s') as caught:
            call.get(block=False)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.maybe_applied is request_.is_write


def test_call_times_out_without_io_when_the_deadline_has_passed(http: Http) -> None:
    server = Counting()
    with serving(server) as endpoint:
        with pytest.raises(TimedOut) as caught:
            http.call(endpoint, WRITE, Deadline.after(0))
        assert http.call(endpoint, READ, in_time()).status == 200
    assert caught.value.maybe_applied is False
    assert len(server.requests) == 1


def test_call_propagates_a_timeout_of_the_caller(http: Http) -> None:
    """A gevent.Timeout of the caller is neither swallowed nor mistaken for the call's own."""
    with serving(silent) as endpoint:
        with gevent.Timeout(0.1) as timeout, pytest.raises(gevent.Timeout) as caught:
            http.call(endpoint, READ, in_time())
    assert caught.value is timeout


def test_call_closes_its_connection_when_it_is_killed(http: Http) -> None:
    """The next call does not receive the late response: it has another connection."""
    requested, go = Event(), Event()

    def late(sock: socket.socket) -> None:
        while request := read_request(sock):
            if b'/slow' in request:
                requested.set()
                go.wait()
                sock.sendall(answer_of(b'late'))
            else:
                sock.sendall(answer_of(b'right'))

    with serving(late) as endpoint:
        http.call(endpoint, READ, in_time())
        killed = gevent.spawn(http.call, endpoint, Request('GET', '/slow'), in_time())
        requested.wait()
        killed.kill()
        go.set()
        assert isinstance(killed.value, gevent.GreenletExit)
        assert [http.call(endpoint, READ, in_time()).body for _ in range(3)] == [b'right'] * 3


# -- closed connections


def closes_at_once(sock: socket.socket) -> None:
    read_request(sock)


def cuts_body(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(RESPONSE[:-1])


def cuts_chunk(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"a"')


def resets(sock: socket.socket) -> None:
    read_request(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')


@pytest.mark.parametrize('server', [closes_at_once, cuts_body, cuts_chunk, resets])
@pytest.mark.parametrize('request_', [READ, WRITE], ids=['read', 'write'])
def test_call_raises_connection_error_when_the_connection_ends_early(
    http: Http, server: object, request_: Request
) -> None:
    """A write may have been applied."""
    with serving(server) as endpoint:
        with pytest.raises(ConnectionError) as caught:
            http.call(endpoint, request_, in_time())
    assert not isinstance(caught.value, TimedOut)
    assert caught.value.maybe_applied is request_.is_write
    assert 'secret' not in str(caught.value)


def test_call_opens_a_connection_when_the_idle_one_was_closed(http: Http) -> None:
    """That is detected before the request is sent, so that writes succeed, too."""
    requests = []

    def once(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(RESPONSE)

    with serving(once) as endpoint:
        for _ in range(3):
            http.call(endpoint, WRITE, in_time())
            gevent.sleep(0.05)  # until the server's FIN has arrived
    assert len(requests) == 3


@pytest.mark.parametrize('request_', [READ, WRITE], ids=['read', 'write'])
def test_call_repeats_reads_only_when_a_reused_connection_fails(http: Http, request_: Request) -> None:
    """The server closes the connection at the second request: a read is sent again on a new connection."""
    requests: list[bytes] = []

    def second_fails(sock: socket.socket) -> None:
        requests.append(read_request(sock))
        sock.sendall(RESPONSE)
        requests.append(read_request(sock))

    with serving(second_fails) as endpoint:
        http.call(endpoint, READ, in_time())
        if request_.is_write:
            with pytest.raises(ConnectionError) as caught:
                http.call(endpoint, request_, in_time())
            assert caught.value.maybe_applied is True
            assert len(requests) == 2
        else:
            assert http.call(endpoint, request_, in_time()).body == b'{}'
            assert len(requests) == 3


# -- junk and endless responses


def sends(data: bytes) -> object:
    def server(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(data)

    return server


def endless_body(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\n\r\n')
    while True:
        sock.sendall(b'X' * 65536)


def endless_chunks(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    while True:
        sock.sendall(b'10000\r\n' + b'X' * 65536 + b'\r\n')


def endless_headers(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\n')
    while True:
        sock.sendall(b'X-Much: ' + b'X' * 4000 + b'\r\n')


def endless_continues(sock: socket.socket) -> None:
    read_request(sock)
    while True:
        sock.sendall(b'HTTP/1.1 100 Continue\r\n\r\n' * 1000)


HOSTILE = {
    'junk': sends(b'SSH-2.0-OpenSSH_9.6\r\n\r\n'),
    'empty status': sends(b'\r\n\r\n'),
    'long status': sends(b'HTTP/1.1 200 ' + b'K' * 100000 + b'\r\n\r\n'),
    'gzip': sends(answer_of(b'\x1f\x8b', headers='Content-Encoding: gzip\r\n')),
    'long length': sends(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % (MAX_BODY + 1)),
    'absurd length': sends(b'HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999999\r\n\r\n'),
    'endless body': endless_body,
    'endless chunks': endless_chunks,
    'endless headers': endless_headers,
    'endless continues': endless_continues,
    'early hints': sends(b'HTTP/1.1 103 Early Hints\r\n\r\n' + answer_of(b'{}')),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_call_raises_protocol_error_when_the_response_violates_http_or_a_limit(http: Http, name: str) -> None:
    """The next call succeeds."""
    with serving(HOSTILE[name]) as endpoint:
        with pytest.raises(ProtocolError) as caught:
            http.call(endpoint, WRITE, in_time())
    assert caught.value.maybe_applied is True
    assert caught.value.endpoint == endpoint.url
    with serving(Counting()) as endpoint:
        assert http.call(endpoint, READ, in_time()).status == 200


@pytest.mark.parametrize('size', [b'-5', b'zz', b'F' * 30, b'7fffffffffffffff'])
def test_call_raises_when_a_chunk_has_an_invalid_size(http: Http, size: bytes) -> None:
    """No memory is allocated in advance."""
    data = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + size + b'\r\n{}'
    with serving(sends(data)) as endpoint:
        with pytest.raises((ProtocolError, ConnectionError)):
            http.call(endpoint, READ, in_time())


# -- limits, polls, closing


def test_call_waits_when_too_many_calls_are_in_flight() -> None:
    """A call that times out while it waits was not sent."""
    http = Http(max_calls=2)
    requested = Semaphore(0)

    def silent(sock: socket.socket) -> None:
        read_request(sock)
        requested.release()
        gevent.sleep(60)

    with serving(silent) as endpoint:
        others = [gevent.spawn(http.call, endpoint, READ, in_time()) for _ in range(2)]
        requested.acquire()
        requested.acquire()
        with pytest.raises(TimedOut, match='as many calls as a client may have at a time') as caught:
            http.call(endpoint, WRITE, Deadline.after(0.1))
        gevent.killall(others)
        http.close()
    assert caught.value.maybe_applied is False
    assert not caught.value.is_outage  # the server is not the cause


def test_timeout_is_no_outage_when_the_call_waited_for_most_of_the_time(etcd_clock: VirtualTime) -> None:
    http = Http(max_calls=1)
    with serving(silent) as endpoint:
        first = gevent.spawn(http.call, endpoint, READ, Deadline.after(0.8))
        gevent.sleep(0)
        second = gevent.spawn(http.call, endpoint, READ, Deadline.after(1))
        etcd_clock.advance(1)
        with pytest.raises(TimedOut) as alone:
            first.get(timeout=60)
        with pytest.raises(TimedOut, match='no response') as queued:
            second.get(timeout=60)
        http.close()
    assert (alone.value.is_outage, queued.value.is_outage) == (True, False)


def test_health_check_does_not_wait_when_too_many_calls_are_in_flight() -> None:
    http = Http(max_calls=1)
    requested = Event()

    def server(sock: socket.socket) -> None:
        if b'/version' in read_request(sock):
            sock.sendall(RESPONSE)
        else:
            requested.set()
            gevent.sleep(60)

    with serving(server) as endpoint:
        other = gevent.spawn(http.call, endpoint, READ, in_time())
        requested.wait()
        assert http.call(endpoint, Request('GET', '/version'), in_time(), takes_slot=False).status == 200
        other.kill()
        http.close()


@pytest.mark.parametrize('ending', ['kill', 'timeout of the caller', 'close', 'timeout'])
def test_address_counts_as_bad_only_after_a_timeout_of_the_call(
    http: Http, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    bad: list[object] = []
    monkeypatch.setattr(Connection, 'mark', lambda self, *, is_good: None if is_good else bad.append(self))
    requested = Event()

    def server(sock: socket.socket) -> None:
        read_request(sock)
        requested.set()
        gevent.sleep(60)

    def call() -> None:
        with gevent.Timeout(0.2 if ending == 'timeout of the caller' else None):
            http.call(endpoint, READ, Deadline.after(0.2) if ending == 'timeout' else in_time())

    with serving(server) as endpoint:
        calling = gevent.spawn(call)
        requested.wait()
        if ending == 'kill':
            calling.kill()
        elif ending == 'close':
            http.close()
        calling.join()
    assert len(bad) == (ending == 'timeout')


def test_failure_to_choose_a_connection_leaves_no_timer(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer left behind would end something else in the greenlet of the caller."""

    def fail(*_: object) -> None:
        raise ValueError('no pool')

    with serving(Counting()) as endpoint:
        http.call(endpoint, READ, in_time())
        monkeypatch.setattr(GeventAdapter, 'pool_of', fail)
        for do in (http.call, http.poll):
            with pytest.raises(ValueError, match='no pool'):
                do(endpoint, READ, Deadline.after(0.05))
        gevent.sleep(0.1)
    assert not http._timeouts


def test_polls_do_not_count_as_calls_in_flight() -> None:
    """With many open polls a call succeeds."""
    http = Http(max_calls=1)

    def server(sock: socket.socket) -> None:
        while request := read_request(sock):
            if b'wait' in request:
                sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Etcd-Index: 7\r\n\r\n')
                go.wait()
                sock.sendall(b'2\r\n{}\r\n0\r\n\r\n')
            else:
                sock.sendall(RESPONSE)

    go = Event()
    with serving(server) as endpoint:
        polls = [http.poll(endpoint, Request('GET', '/?wait=true'), in_time()) for _ in range(50)]
        assert {poll.headers.get('x-etcd-index', '') for poll in polls} == {'7'}
        assert http.call(endpoint, WRITE, in_time()).status == 200
        assert not polls[0].wait(0.01)
        go.set()
        for poll in polls:
            assert poll.wait(60)
            assert poll.read(in_time()).body == b'{}'
            poll.close()
            poll.close()
    http.close()


@pytest.mark.parametrize('request_', [READ, WRITE])
def test_close_ends_calls_in_flight(request_: Request) -> None:
    """They raise ClientClosed at once, with ``maybe_applied`` if a write was sent; later calls raise it as well."""
    http = Http()
    requested = Event()

    def server(sock: socket.socket) -> None:
        read_request(sock)
        requested.set()
        gevent.sleep(60)

    with serving(server) as endpoint:
        call = gevent.spawn(http.call, endpoint, request_, Deadline.after(None))
        requested.wait()
        http.close()
        with pytest.raises(ClientClosed) as caught:
            call.get(timeout=60)
        assert (caught.value.maybe_applied, caught.value.endpoint) == (request_.is_write, endpoint.url)
        with pytest.raises(ClientClosed) as refused:
            http.call(endpoint, request_, in_time())
        assert not refused.value.maybe_applied


def test_adapter_works_on_a_requests_session(http: Http) -> None:
    session = requests.Session()
    session.trust_env = False
    session.mount('http://', http.adapter)
    with serving(Counting()) as endpoint:
        assert session.get(endpoint.url + '/version', timeout=60).json() == {}
        assert session.get(endpoint.url + '/version', timeout=60).status_code == 200


# -- TLS


def with_tls(certificate: tuple[Path, Path]) -> dict[str, object]:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return {'scheme': 'https', 'ssl_context': context}


def test_tls_connects_when_the_authority_is_trusted(certificate: tuple[Path, Path]) -> None:
    """Calls share one TLS connection, and polls another one."""
    http = Http(TLS(ca=certificate[0]).contexts())
    server = Counting()
    with serving(server, **with_tls(certificate)) as endpoint:
        for _ in range(3):
            assert http.call(endpoint, READ, in_time()).body == b'{}'
        with http.poll(endpoint, READ, in_time()) as poll:
            assert poll.wait(60)
            assert poll.read(in_time()).body == b'{}'
        http.close()
    assert server.connections == 2


def test_tls_fails_when_the_certificate_is_not_trusted(certificate: tuple[Path, Path]) -> None:
    """Certificates are verified by default; nothing was sent."""
    http = Http(TLS().contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        with pytest.raises(ConnectionError, match=r'the certificate of https://.* is not trusted') as caught:
            http.call(endpoint, WRITE, in_time())
        http.close()
    assert caught.value.maybe_applied is False


def test_tls_fails_when_the_certificate_is_of_another_host(certificate: tuple[Path, Path]) -> None:
    """The expected host is that of the URL."""
    http = Http(TLS(ca=certificate[0]).contexts())
    with serving(Counting(), **with_tls(certificate)) as there:
        endpoint = Endpoint('https', 'localhost', there.port)
        with pytest.raises(ConnectionError, match='is not trusted: Hostname mismatch'):
            http.call(endpoint, READ, in_time())
        http.close()


def test_tls_accepts_any_certificate_without_verify(certificate: tuple[Path, Path]) -> None:
    http = Http(TLS(verify=False).contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        assert http.call(endpoint, READ, in_time()).status == 200
        http.close()


@pytest.mark.parametrize('has_answered', [False, True])
def test_tls_alert_means_not_applied_on_a_new_connection_only(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, has_answered: bool
) -> None:
    """There it ends the handshake.  After a response it may follow the processing of the request."""

    def read_head(connection: Connection) -> None:
        alert = ssl.SSLError(1, 'tlsv1 alert access denied')
        alert.reason = 'TLSV1_ALERT_ACCESS_DENIED'
        raise alert

    http = Http(TLS(ca=certificate[0]).contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        if has_answered:
            assert http.call(endpoint, READ, in_time()).status == 200
        monkeypatch.setattr(Connection, 'read_head', read_head)
        with pytest.raises(ConnectionError, match='denies access to the owner of the client certificate') as caught:
            http.call(endpoint, WRITE, in_time())
        assert caught.value.maybe_applied is has_answered
        http.close()


def test_tls_fails_when_the_server_does_not_use_tls(certificate: tuple[Path, Path]) -> None:
    http = Http(TLS().contexts())
    with serving(sends(b'HTTP/1.1 400 Bad Request\r\n\r\n'), scheme='https') as endpoint:
        with pytest.raises((ConnectionError, TimedOut)):
            http.call(endpoint, READ, Deadline.after(1))
    http.close()


def test_tls_key_needs_a_certificate(tmp_path: Path) -> None:
    """A key alone raises before any I/O."""
    with pytest.raises(ValueError, match='key is given without cert'):
        TLS(key=tmp_path / 'key.pem').contexts()


def test_connection_that_breaks_right_after_it_was_accepted_is_closed(http: Http, monkeypatch) -> None:
    """Its peer has no address any more."""
    sockets = []

    def fail(sock: socket.socket) -> None:
        sockets.append(sock)
        raise OSError(errno.ENOTCONN, 'Transport endpoint is not connected')

    monkeypatch.setattr(http_pool, 'peer_address', fail)
    with serving(Counting()) as endpoint:
        with pytest.raises(ConnectionError, match='not connected'):
            http.call(endpoint, READ, in_time())
    assert [sock.fileno() for sock in sockets] == [-1]
