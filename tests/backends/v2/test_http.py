"""The transport against servers that misbehave: a typed error within the deadline, and clean after it."""

from __future__ import annotations

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

from getc.backends.v2.http import Http
from getc.backends.v2.http_pool import Connection
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
ANSWER = answer_of(b'{}')

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def transport() -> Iterator[Http]:
    transport = Http()
    yield transport
    transport.close()


def in_time() -> Deadline:
    """A deadline that is not."""
    return Deadline.after(60)


class Counting:
    """Answers well, and counts connections and requests."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests: list[bytes] = []

    def __call__(self, sock: socket.socket) -> None:
        self.connections += 1
        while request := read_request(sock):
            self.requests.append(request)
            sock.sendall(ANSWER)


def test_call_returns_the_whole_answer(transport: Http) -> None:
    """Status, headers and body come back; the request has what it should and nothing else."""
    server = Counting()
    with serving(server) as endpoint:
        answer = transport.call(endpoint, WRITE, in_time())
    assert (answer.status, answer.body) == (200, b'{}')
    assert answer.headers.get('content-type', '') == 'application/json'
    head, _, body = server.requests[0].partition(b'\r\n\r\n')
    assert body == b'value=secret'
    names = sorted(line.split(b':')[0].lower() for line in head.split(b'\r\n')[1:])
    assert names == [b'accept-encoding', b'content-length', b'content-type', b'host', b'user-agent']
    assert b'Accept-Encoding: identity' in head


def test_call_reuses_the_connection_of_the_call_before(transport: Http) -> None:
    """One after the other they need one connection."""
    server = Counting()
    with serving(server) as endpoint:
        for _ in range(5):
            transport.call(endpoint, READ, in_time())
    assert (server.connections, len(server.requests)) == (1, 5)


def test_call_sends_credentials_and_shows_them_nowhere(transport: Http) -> None:
    """They are in the Authorization header, and in no representation of the endpoint."""
    server = Counting()
    with serving(server) as plain:
        endpoint = parse_endpoints(f'http://root:pa%20ss@127.0.0.1:{plain.port}')[0]
        transport.call(endpoint, READ, in_time())
    assert b'Authorization: Basic cm9vdDpwYSBzcw==' in server.requests[0]
    assert 'pa' not in repr(endpoint).replace('parse', '')
    assert endpoint.url == plain.url


def test_call_ignores_proxies_of_the_environment(transport: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    """An etcd is asked itself, whatever http_proxy says."""
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy'):
        monkeypatch.setenv(name, 'http://127.0.0.1:1')
    with serving(Counting()) as endpoint:
        assert transport.call(endpoint, READ, in_time()).status == 200


def test_call_returns_redirects_as_they_are(transport: Http) -> None:
    """A redirect is not followed: it would turn a write into a read."""
    server = Counting()

    def redirect(sock: socket.socket) -> None:
        read_request(sock)
        sock.sendall(answer_of(b'', status='307 Moved', headers=f'Location: {there.url}/elsewhere\r\n'))

    with serving(server) as there, serving(redirect) as endpoint:
        assert transport.call(endpoint, WRITE, in_time()).status == 307
    assert server.requests == []


def test_call_is_refused_when_nobody_listens(transport: Http) -> None:
    """Nothing was sent, and the error says so."""
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        endpoint = parse_endpoints(f'http://127.0.0.1:{sock.getsockname()[1]}')[0]
        with pytest.raises(ConnectionRefused) as caught:
            transport.call(endpoint, WRITE, in_time())
    assert caught.value.maybe_applied is False
    assert caught.value.endpoint == endpoint.url


def test_call_fails_when_the_host_is_not_known(transport: Http) -> None:
    """A name that nobody knows is a ConnectionError, not a bare gaierror."""
    with pytest.raises(ConnectionError, match=r'the host of http://no\.such\.invalid:2379') as caught:
        transport.call(parse_endpoints('http://no.such.invalid')[0], WRITE, in_time())
    assert caught.value.maybe_applied is False


# -- slow


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
def test_call_times_out_when_bytes_trickle(
    etcd_clock: VirtualTime, transport: Http, server: object, request_: Request
) -> None:
    """The deadline is one of the whole call; a write that was sent may have been applied."""
    with serving(server) as endpoint:
        call = gevent.spawn(transport.call, endpoint, request_, Deadline.after(2))
        etcd_clock.advance(1.9)
        assert not call.ready()
        etcd_clock.advance(0.1)
        with pytest.raises(TimedOut, match=r'no response from http://127\.0\.0\.1:\d+ within 2 s') as caught:
            call.get(block=False)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.maybe_applied is request_.is_write


def test_call_times_out_without_io_when_the_deadline_has_passed(transport: Http) -> None:
    """Nothing is sent any more."""
    server = Counting()
    with serving(server) as endpoint:
        with pytest.raises(TimedOut) as caught:
            transport.call(endpoint, WRITE, Deadline.after(0))
        assert transport.call(endpoint, READ, in_time()).status == 200
    assert caught.value.maybe_applied is False
    assert len(server.requests) == 1


def test_call_lets_the_timeout_of_another_through(transport: Http) -> None:
    """Somebody else's gevent.Timeout is not swallowed, nor taken for the call's own."""
    with serving(silent) as endpoint:
        with gevent.Timeout(0.1) as timeout, pytest.raises(gevent.Timeout) as caught:
            transport.call(endpoint, READ, in_time())
    assert caught.value is timeout


def test_call_leaves_no_dirty_connection_when_it_is_killed(transport: Http) -> None:
    """The late answer to a killed call is nobody's: the next call has a connection of its own."""
    asked, go = Event(), Event()

    def late(sock: socket.socket) -> None:
        while request := read_request(sock):
            if b'/slow' in request:
                asked.set()
                go.wait()
                sock.sendall(answer_of(b'late'))
            else:
                sock.sendall(answer_of(b'right'))

    with serving(late) as endpoint:
        transport.call(endpoint, READ, in_time())
        killed = gevent.spawn(transport.call, endpoint, Request('GET', '/slow'), in_time())
        asked.wait()
        killed.kill()
        go.set()
        assert isinstance(killed.value, gevent.GreenletExit)
        assert [transport.call(endpoint, READ, in_time()).body for _ in range(3)] == [b'right'] * 3


# -- closed


def closes_at_once(sock: socket.socket) -> None:
    read_request(sock)


def cuts_body(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(ANSWER[:-1])


def cuts_chunk(sock: socket.socket) -> None:
    read_request(sock)
    sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"a"')


def resets(sock: socket.socket) -> None:
    read_request(sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')


@pytest.mark.parametrize('server', [closes_at_once, cuts_body, cuts_chunk, resets])
@pytest.mark.parametrize('request_', [READ, WRITE], ids=['read', 'write'])
def test_call_fails_when_the_connection_ends_early(transport: Http, server: object, request_: Request) -> None:
    """A ConnectionError: a write may have been applied."""
    with serving(server) as endpoint:
        with pytest.raises(ConnectionError) as caught:
            transport.call(endpoint, request_, in_time())
    assert not isinstance(caught.value, TimedOut)
    assert caught.value.maybe_applied is request_.is_write
    assert 'secret' not in str(caught.value)


def test_call_takes_a_fresh_connection_when_the_idle_one_was_closed(transport: Http) -> None:
    """A connection that the server closed meanwhile is noticed before anything is sent: writes succeed, too."""
    answered = []

    def once(sock: socket.socket) -> None:
        answered.append(read_request(sock))
        sock.sendall(ANSWER)

    with serving(once) as endpoint:
        for _ in range(3):
            transport.call(endpoint, WRITE, in_time())
            gevent.sleep(0.05)  # until the server's FIN is here
    assert len(answered) == 3


@pytest.mark.parametrize('request_', [READ, WRITE], ids=['read', 'write'])
def test_call_sends_only_reads_again_when_a_used_connection_fails(transport: Http, request_: Request) -> None:
    """The server closes as the second request comes: a read is sent again on a new connection, a write is not."""
    asked: list[bytes] = []

    def second_fails(sock: socket.socket) -> None:
        asked.append(read_request(sock))
        sock.sendall(ANSWER)
        asked.append(read_request(sock))

    with serving(second_fails) as endpoint:
        transport.call(endpoint, READ, in_time())
        if request_.is_write:
            with pytest.raises(ConnectionError) as caught:
                transport.call(endpoint, request_, in_time())
            assert caught.value.maybe_applied is True
            assert len(asked) == 2
        else:
            assert transport.call(endpoint, request_, in_time()).body == b'{}'
            assert len(asked) == 3


# -- junk and floods


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
def test_call_fails_when_the_peer_breaks_http_or_a_bound(transport: Http, name: str) -> None:
    """A ProtocolError, and the next call goes through."""
    with serving(HOSTILE[name]) as endpoint:
        with pytest.raises(ProtocolError) as caught:
            transport.call(endpoint, WRITE, in_time())
    assert caught.value.maybe_applied is True
    assert caught.value.endpoint == endpoint.url
    with serving(Counting()) as endpoint:
        assert transport.call(endpoint, READ, in_time()).status == 200


@pytest.mark.parametrize('size', [b'-5', b'zz', b'F' * 30, b'7fffffffffffffff'])
def test_call_fails_when_a_chunk_has_no_possible_size(transport: Http, size: bytes) -> None:
    """A typed error, and no memory taken in advance."""
    data = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + size + b'\r\n{}'
    with serving(sends(data)) as endpoint:
        with pytest.raises((ProtocolError, ConnectionError)):
            transport.call(endpoint, READ, in_time())


# -- turns, polls, the end


def test_call_waits_for_its_turn_when_too_many_are_under_way() -> None:
    """Calls beyond the bound wait, and time out as not sent."""
    transport = Http(max_calls=2)
    asked = Semaphore(0)

    def silent(sock: socket.socket) -> None:
        read_request(sock)
        asked.release()
        gevent.sleep(60)

    with serving(silent) as endpoint:
        others = [gevent.spawn(transport.call, endpoint, READ, in_time()) for _ in range(2)]
        asked.acquire()
        asked.acquire()
        with pytest.raises(TimedOut) as caught:
            transport.call(endpoint, WRITE, Deadline.after(0.1))
        gevent.killall(others)
        transport.close()
    assert caught.value.maybe_applied is False


def test_polls_take_no_turn_of_calls() -> None:
    """However many polls are open, a call goes through; and a kept answer is reported by wait."""
    transport = Http(max_calls=1)

    def server(sock: socket.socket) -> None:
        while request := read_request(sock):
            if b'wait' in request:
                sock.sendall(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Etcd-Index: 7\r\n\r\n')
                go.wait()
                sock.sendall(b'2\r\n{}\r\n0\r\n\r\n')
            else:
                sock.sendall(ANSWER)

    go = Event()
    with serving(server) as endpoint:
        polls = [transport.poll(endpoint, Request('GET', '/?wait=true'), in_time()) for _ in range(50)]
        assert {poll.headers.get('x-etcd-index', '') for poll in polls} == {'7'}
        assert transport.call(endpoint, WRITE, in_time()).status == 200
        assert not polls[0].wait(0.01)
        go.set()
        for poll in polls:
            assert poll.wait(60)
            assert poll.read(in_time()).body == b'{}'
            poll.close()
            poll.close()
    transport.close()


@pytest.mark.parametrize('request_', [READ, WRITE])
def test_close_ends_calls_under_way(request_: Request) -> None:
    """They raise ClientClosed at once, which says whether a write was sent, as does every later call."""
    transport = Http()
    asked = Event()

    def server(sock: socket.socket) -> None:
        read_request(sock)
        asked.set()
        gevent.sleep(60)

    with serving(server) as endpoint:
        call = gevent.spawn(transport.call, endpoint, request_, Deadline.after(None))
        asked.wait()
        transport.close()
        with pytest.raises(ClientClosed) as caught:
            call.get(timeout=60)
        assert (caught.value.maybe_applied, caught.value.endpoint) == (request_.is_write, endpoint.url)
        with pytest.raises(ClientClosed) as refused:
            transport.call(endpoint, request_, in_time())
        assert not refused.value.maybe_applied


def test_adapter_serves_a_requests_session_too(transport: Http) -> None:
    """The pools are requests' own in use: a session that mounts the adapter speaks over them."""
    session = requests.Session()
    session.trust_env = False
    session.mount('http://', transport.adapter)
    with serving(Counting()) as endpoint:
        assert session.get(endpoint.url + '/version', timeout=60).json() == {}
        assert session.get(endpoint.url + '/version', timeout=60).status_code == 200


# -- TLS


def with_tls(certificate: tuple[Path, Path]) -> dict[str, object]:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return {'scheme': 'https', 'ssl_context': context}


def test_tls_works_when_the_authority_is_trusted(certificate: tuple[Path, Path]) -> None:
    """Calls go over one TLS connection, polls too."""
    transport = Http(TLS(ca=certificate[0]).contexts())
    server = Counting()
    with serving(server, **with_tls(certificate)) as endpoint:
        for _ in range(3):
            assert transport.call(endpoint, READ, in_time()).body == b'{}'
        with transport.poll(endpoint, READ, in_time()) as poll:
            assert poll.wait(60)
            assert poll.read(in_time()).body == b'{}'
        transport.close()
    assert server.connections == 2


def test_tls_fails_when_the_certificate_is_not_trusted(certificate: tuple[Path, Path]) -> None:
    """It verifies by default, and says what is wrong; nothing was sent."""
    transport = Http(TLS().contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        with pytest.raises(ConnectionError, match=r'the certificate of https://.* is not trusted') as caught:
            transport.call(endpoint, WRITE, in_time())
        transport.close()
    assert caught.value.maybe_applied is False


def test_tls_fails_when_the_certificate_is_of_another_host(certificate: tuple[Path, Path]) -> None:
    """The host is the URL's."""
    transport = Http(TLS(ca=certificate[0]).contexts())
    with serving(Counting(), **with_tls(certificate)) as there:
        endpoint = Endpoint('https', 'localhost', there.port)
        with pytest.raises(ConnectionError, match='is not trusted: Hostname mismatch'):
            transport.call(endpoint, READ, in_time())
        transport.close()


def test_tls_trusts_anyone_when_told_not_to_verify(certificate: tuple[Path, Path]) -> None:
    """verify=False is for experiments, and works."""
    transport = Http(TLS(verify=False).contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        assert transport.call(endpoint, READ, in_time()).status == 200
        transport.close()


@pytest.mark.parametrize('has_answered', [False, True])
def test_tls_alert_means_that_nothing_was_looked_at_on_a_new_connection_only(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, has_answered: bool
) -> None:
    """It ends a handshake there.  Once the server has answered it may come of what was sent, or after it."""

    def read_head(connection: Connection) -> None:
        alert = ssl.SSLError(1, 'tlsv1 alert access denied')
        alert.reason = 'TLSV1_ALERT_ACCESS_DENIED'
        raise alert

    transport = Http(TLS(ca=certificate[0]).contexts())
    with serving(Counting(), **with_tls(certificate)) as endpoint:
        if has_answered:
            assert transport.call(endpoint, READ, in_time()).status == 200
        monkeypatch.setattr(Connection, 'read_head', read_head)
        with pytest.raises(ConnectionError, match='denies access to the owner of the client certificate') as caught:
            transport.call(endpoint, WRITE, in_time())
        assert caught.value.maybe_applied is has_answered
        transport.close()


def test_tls_fails_when_the_server_does_not_use_tls(certificate: tuple[Path, Path]) -> None:
    """Plain HTTP where TLS is expected is a ConnectionError."""
    transport = Http(TLS().contexts())
    with serving(sends(b'HTTP/1.1 400 Bad Request\r\n\r\n'), scheme='https') as endpoint:
        with pytest.raises((ConnectionError, TimedOut)):
            transport.call(endpoint, READ, Deadline.after(1))
    transport.close()


def test_tls_key_needs_a_certificate(tmp_path: Path) -> None:
    """A key alone is a mistake, found before any I/O."""
    with pytest.raises(ValueError, match='key is given without cert'):
        TLS(key=tmp_path / 'key.pem').contexts()
