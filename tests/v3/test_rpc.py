"""Failover of calls and streams: which server is tried, and when a call is repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.socket import socket

from getc.errors import (
    ClientClosed,
    ConnectionError,
    ConnectionRefused,
    EtcException,
    HTTPError,
    InvalidArgument,
    LeaderElect,
    LeaseNotFound,
    NoLeader,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    RaftInternal,
    TimedOut,
    TooManyRequests,
    Unavailable,
)
from getc.grpc.http2.frames import ErrorCode
from getc.net.endpoint import Endpoint
from getc.net.selector import ConnectionState, EndpointSelector
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import KV, PutRequest, PutResponse, RangeRequest, RangeResponse
from getc.v3.schema.lease import Lease, LeaseRevokeRequest, LeaseRevokeResponse
from getc.v3.schema.lock import Lock, LockRequest
from getc.v3.schema.watch import Watch
from tests.support.grpc_server import GrpcServer, Script, ServerCall
from tests.support.servers import serving

REFUSING = Endpoint('http', '127.0.0.1', 1)

pytestmark = pytest.mark.timeout(300)

READ = KV.Range, RangeRequest(key=b'a'), RangeResponse(count=7)
WRITE = KV.Put, PutRequest(key=b'a', value=b'b'), PutResponse()
REPEATABLE = Lease.LeaseRevoke, LeaseRevokeRequest(ID=7), LeaseRevokeResponse()
OPERATIONS = {'read': READ, 'write': WRITE, 'repeatable write': REPEATABLE}

HTML = [(b':status', b'503'), (b'content-type', b'text/html')]


def refuse(code: int, message: bytes) -> Callable[[ServerCall], object]:
    return lambda call: call.refuse(code, message)


FAILURES: dict[str, tuple[Callable[[ServerCall], object], type[EtcException], bool | None]] = {
    # What the first server does to the call; the error; whether a write may have happened (None: it said no)
    'refused stream': (lambda call: call.reset(ErrorCode.REFUSED_STREAM), ConnectionError, True),
    'goaway below': (lambda call: call.connection.goaway(0), ConnectionError, False),
    'no leader': (refuse(14, b'etcdserver: no leader'), NoLeader, False),
    'reset': (lambda call: call.reset(ErrorCode.INTERNAL_ERROR), ConnectionError, True),
    'cut': (lambda call: call.connection.cut(), ConnectionError, True),
    'a page': (lambda call: call.head(HTML, end=True), HTTPError, True),
    'no status': (lambda call: call.head(end=True), ProtocolError, True),
    'junk': (lambda call: call.connection.raw(b'HTTP/1.1 400 No\r\n\r\n'), ProtocolError, True),
    'unavailable': (refuse(14, b'etcdserver: request timed out'), Unavailable, True),
    'leader changed': (refuse(14, b'etcdserver: leader changed'), LeaderElect, True),
    'too late there': (refuse(4, b'deadline'), TimedOut, True),
    'invalid': (refuse(3, b'etcdserver: key is not provided'), InvalidArgument, None),
    'unknown': (refuse(12, b'unknown method'), NotSupported, None),
}


def answering(operation: tuple[Any, Any, Any]) -> Callable[[ServerCall], object]:
    def script(call: ServerCall) -> None:
        call.receive()
        call.answer(operation[2].SerializeToString())

    return script


def failing(failure: Callable[[ServerCall], object]) -> Callable[[ServerCall], object]:
    def script(call: ServerCall) -> None:
        call.receive()
        failure(call)

    return script


@pytest.mark.parametrize('failure', FAILURES)
@pytest.mark.parametrize('operation', OPERATIONS)
def test_call_fails_over_only_when_it_cannot_be_applied_twice(serve, open_rpc, operation: str, failure: str) -> None:
    how, kind, applied = FAILURES[failure]
    bad, good = serve(failing(how)), serve(answering(OPERATIONS[operation]))
    rpc = open_rpc(bad.endpoint, good.endpoint)
    method, request, response = OPERATIONS[operation]
    if applied is not None and (operation != 'write' or not applied):
        assert rpc.call(method, request) == response
        assert (len(bad.calls), len(good.calls)) == (1, 1)
    else:
        with pytest.raises(kind) as caught:
            rpc.call(method, request)
        assert type(caught.value) is kind
        assert caught.value.endpoint == bad.endpoint.url
        assert caught.value.maybe_applied is bool(applied)
        assert (len(bad.calls), len(good.calls)) == (1, 0)
    if applied is not None:  # from now on the other server is tried first
        assert rpc.call(method, request) == response
        assert len(bad.calls) == 1


@pytest.mark.parametrize('operation', OPERATIONS)
def test_call_fails_over_when_the_connection_is_refused(serve, open_rpc, operation: str) -> None:
    """Any operation, as nothing was sent; the server that answered is tried first from then on."""
    good = serve(answering(OPERATIONS[operation]))
    rpc = open_rpc(REFUSING, REFUSING, good.endpoint)
    method, request, response = OPERATIONS[operation]
    for _ in range(3):
        assert rpc.call(method, request) == response


def test_call_is_repeated_on_the_only_server(serve, open_rpc) -> None:
    """The connection may have been lost before, or the server is leaving."""
    server = serve(failing(lambda call: call.connection.goaway(0)))

    def leave_once(call: ServerCall) -> None:
        server.script = answering(READ)
        call.connection.goaway(0)

    server.script = leave_once
    assert open_rpc(server.endpoint).call(READ[0], READ[1]).count == 7
    assert len(server.connections) == 2


def test_call_raises_the_last_error_when_all_servers_failed(open_rpc) -> None:
    """Each server was tried, one of them twice."""
    other = Endpoint('http', '127.0.0.1', 2)
    with pytest.raises(ConnectionRefused) as caught:
        open_rpc(REFUSING, other).call(WRITE[0], WRITE[1])
    assert not caught.value.maybe_applied


def test_error_has_maybe_applied_when_an_earlier_attempt_may_have_been_applied(serve, open_rpc) -> None:
    """The last server refused the connection, but the first one received the call and did not answer."""
    server = serve(failing(lambda call: call.reset(ErrorCode.INTERNAL_ERROR)))

    def fall(call: ServerCall) -> None:
        call.receive()
        server._server.stop_accepting()
        server._server.socket.close()
        call.connection.cut()

    server.script = fall
    with pytest.raises(ConnectionRefused) as caught:
        open_rpc(server.endpoint).call(REPEATABLE[0], REPEATABLE[1])
    assert caught.value.maybe_applied


@pytest.mark.parametrize(
    ('code', 'message', 'kind'),
    [
        (8, b'etcdserver: too many requests', TooManyRequests),
        (5, b'etcdserver: requested lease not found', LeaseNotFound),
        (7, b'etcdserver: permission denied', PermissionDenied),
        (12, b'unknown method', NotSupported),
    ],
)
def test_refusal_has_maybe_applied_when_an_earlier_attempt_may_have_been_applied(
    serve, open_rpc, code: int, message: bytes, kind: type[EtcException]
) -> None:
    silent = serve(failing(lambda call: call.connection.cut()))
    refusing = serve(failing(lambda call: call.refuse(code, message)))
    with pytest.raises(kind) as caught:
        open_rpc(silent.endpoint, refusing.endpoint).call(REPEATABLE[0], REPEATABLE[1])
    assert type(caught.value) is kind
    assert caught.value.maybe_applied
    assert caught.value.endpoint == refusing.endpoint.url


@pytest.mark.parametrize(
    ('status', 'applied'),
    [(307, False), (403, False), (404, False), (429, False), (408, True), (499, True), (502, True)],
)
def test_status_of_a_proxy_shows_whether_it_may_have_forwarded_the_call(
    serve, open_rpc, status: int, applied: bool
) -> None:
    """If the proxy did not forward it, the next server is tried, as on v2."""
    page = [(b':status', b'%d' % status), (b'content-type', b'text/html')]
    proxy, good = serve(failing(lambda call: call.head(page, end=True))), serve(answering(WRITE))
    rpc = open_rpc(proxy.endpoint, good.endpoint)
    if applied:
        with pytest.raises(HTTPError) as caught:
            rpc.call(WRITE[0], WRITE[1])
        assert caught.value.maybe_applied
    else:
        assert rpc.call(WRITE[0], WRITE[1]) == WRITE[2]
    assert len(good.calls) == (not applied)


def test_error_of_a_read_never_has_maybe_applied(serve, open_rpc) -> None:
    server = serve(refuse(14, b'etcdserver: leader changed'))
    with pytest.raises(LeaderElect) as caught:
        open_rpc(server.endpoint).call(READ[0], READ[1])
    assert caught.value.maybe_applied is False


def test_silent_server_uses_a_share_of_the_timeout(serve, open_rpc, etcd_clock) -> None:
    """The other servers get theirs: 9 s among two servers and one more attempt."""
    silent, good = serve(lambda call: call.is_over.wait()), serve(answering(READ))
    call = gevent.spawn(open_rpc(silent.endpoint, good.endpoint).call, READ[0], READ[1], 9.0)
    silent.wait_for_calls(1)
    etcd_clock.advance(2.9)
    assert not good.calls
    etcd_clock.advance(0.2)
    assert call.get().count == 7


def test_write_that_may_have_been_sent_has_the_whole_timeout(serve, open_rpc, etcd_clock) -> None:
    """It cannot fail over, so no time is kept for other servers."""
    silent, good = serve(lambda call: call.is_over.wait()), serve(answering(WRITE))
    call = gevent.spawn(open_rpc(silent.endpoint, good.endpoint).call, WRITE[0], WRITE[1], 9.0)
    silent.wait_for_calls(1)
    etcd_clock.advance(8.9)
    assert not call.ready()
    etcd_clock.advance(0.2)
    assert isinstance(call.exception, TimedOut)
    assert call.exception.maybe_applied
    assert not good.calls


def test_first_write_is_not_sent_to_a_server_that_accepts_connections_and_hangs(serve, open_rpc, etcd_clock) -> None:
    good = serve(answering(WRITE))

    def say_nothing(sock: socket) -> None:
        while sock.recv(65_536):
            pass

    with serving(say_nothing) as hung:
        call = gevent.spawn(open_rpc(hung, good.endpoint, timeout=9.0).call, WRITE[0], WRITE[1])
        etcd_clock.advance(3.1)
        assert call.get() == WRITE[2]
        etcd_clock.advance(10)  # until the attempt to connect ends, and with it what the server does


def test_request_decides_whether_a_txn_is_a_write(serve, open_rpc) -> None:
    """A txn without writes fails over like a read, and its error has no ``maybe_applied``."""
    bad, good = serve(failing(lambda call: call.reset(ErrorCode.CANCEL))), serve(answering(WRITE))
    assert open_rpc(bad.endpoint, good.endpoint).call(WRITE[0], WRITE[1], is_write=False) == WRITE[2]


def test_invalid_response_raises_protocol_error(serve, open_rpc) -> None:
    server = serve(lambda call: [call.receive(), call.answer(b'\xff\xff\xff')])
    with pytest.raises(ProtocolError, match='not a valid PutResponse') as caught:
        open_rpc(server.endpoint).call(WRITE[0], WRITE[1])
    assert caught.value.maybe_applied


def test_stream_opens_on_the_next_server_when_the_connection_is_refused(serve, open_rpc) -> None:
    server = serve(lambda call: [call.receive(), call.refuse(14, b'etcdserver: no leader')])
    rpc = open_rpc(REFUSING, server.endpoint)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises(NoLeader):
            list(stream)
        with pytest.raises(NoLeader):
            stream.send(Watch.Watch.request())
        stream.finish()
    assert server.calls[0].headers[b'hasleader'] == b'true'


ENDS: dict[str, Callable[[ServerCall], object]] = {
    'no leader': refuse(14, b'etcdserver: no leader'),
    'reset': lambda call: call.reset(ErrorCode.INTERNAL_ERROR),
    'cut': lambda call: call.connection.cut(),
    'goaway': lambda call: call.connection.goaway(0),
}


@pytest.mark.parametrize('end', ENDS)
def test_next_stream_is_on_another_server_when_one_was_lost(serve, open_rpc, end: str) -> None:
    """A member without a leader accepts streams, and ends them."""
    bad, good = serve(failing(ENDS[end])), serve(lambda call: [call.receive(), call.head(), call.is_over.wait()])
    rpc = open_rpc(bad.endpoint, good.endpoint)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises((ConnectionError, NoLeader)):
            list(stream)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        good.wait_for_calls(1)
    assert (len(bad.calls), stream.url) == (1, good.endpoint.url)


def test_next_stream_is_on_another_server_after_report_silent(serve, open_rpc) -> None:
    states: list[ConnectionState] = []
    silent = serve(lambda call: call.is_over.wait())
    rpc = RpcClient(EndpointSelector([silent.endpoint, REFUSING], on_state=states.append), timeout=30.0)
    with rpc.open(Watch.Watch) as stream:
        assert (stream.url, states) == (silent.endpoint.url, [])  # an open stream is no answer
        stream.report_silent()
        stream.report_silent()
        assert rpc._endpoints.current == REFUSING
    rpc.close()


def test_first_message_of_a_stream_marks_the_server_as_healthy(serve, open_rpc) -> None:
    states: list[ConnectionState] = []
    server = serve(lambda call: [call.head(), call.message(b''), call.message(b''), call.is_over.wait()])
    rpc = RpcClient(EndpointSelector([server.endpoint], on_state=states.append), timeout=30.0)
    with rpc.open(Watch.Watch) as stream:
        assert states == []
        next(stream)
        next(stream)
        assert states == [ConnectionState.CONNECTED]
    rpc.close()


@pytest.mark.parametrize('code', [14, 9])  # up to etcd 3.5, and from 3.6 on
def test_calls_and_streams_fail_over_from_a_learner(serve, open_rpc, code: int) -> None:
    learner = serve(lambda call: [call.receive(), call.refuse(code, b'etcdserver: rpc not supported for learner')])
    voter = serve(answering(WRITE))
    rpc = open_rpc(learner.endpoint, voter.endpoint)
    assert [rpc.call(WRITE[0], WRITE[1]), rpc.call(WRITE[0], WRITE[1])] == [WRITE[2]] * 2
    assert (len(learner.calls), len(voter.calls)) == (1, 2)
    rpc = open_rpc(learner.endpoint, voter.endpoint)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises(Unavailable, match='learner'):
            stream.receive(Deadline(30))
    with rpc.open(Watch.Watch) as stream:
        assert stream.url == voter.endpoint.url


ANSWERS: dict[str, tuple[Script, type[EtcException]]] = {
    'corrupt alarm': (refuse(15, b'etcdserver: corrupt cluster'), RaftInternal),
    'internal': (refuse(2, b'etcdserver: not a primary lessor'), RaftInternal),
    'leader changed': (refuse(14, b'etcdserver: leader changed'), LeaderElect),
    'learner': (refuse(9, b'etcdserver: rpc not supported for learner'), Unavailable),
    'denied': (refuse(7, b'etcdserver: permission denied'), PermissionDenied),
    'reset': (lambda call: call.reset(ErrorCode.CANCEL), ConnectionError),
    'refused stream': (lambda call: call.reset(ErrorCode.REFUSED_STREAM), ConnectionError),
    'no status': (lambda call: [call.head(), call.data(b'', end=True)], ConnectionError),
    'forbidden': (lambda call: call.head([(b':status', b'403')], end=True), HTTPError),
    'not gRPC': (lambda call: call.head([(b':status', b'200')], end=True), ProtocolError),
}


@pytest.mark.parametrize('end', ANSWERS)
def test_server_that_answers_with_an_error_has_no_cooldown(serve, open_rpc, end: str) -> None:
    states: list[ConnectionState] = []
    script, kind = ANSWERS[end]
    server = serve(failing(script))
    rpc = RpcClient(EndpointSelector([server.endpoint], on_state=states.append), timeout=30.0)
    for method, request, _ in (READ, WRITE):
        with pytest.raises(kind) as caught:
            rpc.call(method, request)
        assert not caught.value.is_outage
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises(kind):
            list(stream)
    assert ConnectionState.SUSPENDED not in states
    assert not rpc._endpoints._cooldowns
    rpc.close()


@pytest.mark.parametrize('status', [408, 499, 504])
def test_stream_ended_by_the_idle_timeout_of_a_proxy_is_not_an_outage(serve, status: int) -> None:
    """For a unary call the same status is an outage."""
    states: list[ConnectionState] = []
    server = serve(failing(lambda call: call.head([(b':status', b'%d' % status)], end=True)))
    rpc = RpcClient(EndpointSelector([server.endpoint], on_state=states.append), timeout=30.0)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises(HTTPError):
            list(stream)
    assert states == []
    with pytest.raises(HTTPError):
        rpc.call(READ[0], READ[1])
    assert states == [ConnectionState.SUSPENDED]
    rpc.close()


@pytest.mark.parametrize('how', ['silence', 'gave up', 'proxy'])
def test_lock_that_is_not_acquired_in_time_is_not_an_outage(serve, how: str) -> None:
    states: list[ConnectionState] = []
    scripts: dict[str, Script] = {
        'silence': lambda call: call.is_over.wait(),
        'gave up': refuse(4, b'context deadline exceeded'),
        'proxy': lambda call: call.head([(b':status', b'504')], end=True),
    }
    server = serve(failing(scripts[how]))
    rpc = RpcClient(EndpointSelector([server.endpoint], on_state=states.append), timeout=0.3)
    with pytest.raises((TimedOut, HTTPError)) as caught:
        rpc.call(Lock.Lock, LockRequest(name=b'a'))
    assert caught.value.maybe_applied
    assert states == []
    with pytest.raises((TimedOut, HTTPError)):
        rpc.call(WRITE[0], WRITE[1])
    assert states == [ConnectionState.SUSPENDED]
    rpc.close()


def test_refused_stream_does_not_mark_the_server_as_failed(serve, open_rpc) -> None:
    server = serve(lambda call: [call.receive(), call.refuse(7, b'etcdserver: permission denied')])
    rpc = open_rpc(server.endpoint, REFUSING)
    with rpc.open(Watch.Watch) as stream:
        stream.send(Watch.Watch.request())
        with pytest.raises(PermissionDenied):
            list(stream)
    assert rpc._endpoints.current == server.endpoint


def test_stream_of_writes_has_maybe_applied_when_it_ends_without_a_leader(serve, open_rpc) -> None:
    """A call is not started without a leader; a stream ends whatever is in flight on it."""
    server = serve(lambda call: [call.receive(), call.refuse(14, b'etcdserver: no leader')])
    for method, may_have_written in ((Lease.LeaseKeepAlive, True), (Watch.Watch, False)):
        with open_rpc(server.endpoint).open(method) as stream:
            stream.send(method.request())
            with pytest.raises(NoLeader) as caught:
                list(stream)
        assert caught.value.maybe_applied is may_have_written


def test_close_ends_calls_and_refuses_others(serve, open_rpc) -> None:
    server: GrpcServer = serve(lambda call: call.is_over.wait())
    rpc: RpcClient = open_rpc(server.endpoint, REFUSING)
    call = gevent.spawn(rpc.call, READ[0], READ[1], None)
    server.wait_for_calls(1)
    rpc.close()
    gevent.joinall([call])
    assert isinstance(call.exception, ClientClosed)
    with pytest.raises(ClientClosed):
        rpc.call(READ[0], READ[1])
    with pytest.raises(ClientClosed):
        rpc.open(Watch.Watch)
