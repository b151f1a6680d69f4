"""Auth tokens: requested once, replaced when refused, and never shown."""

from __future__ import annotations

import logging

import gevent
import pytest

from getc.errors import ConnectionError, EtcException, TimedOut, Unauthorized
from getc.net.endpoint import Endpoint
from getc.timing import Deadline
from getc.v3.lease import Lease as LeaseService
from getc.v3.schema.auth import AuthenticateRequest, AuthenticateResponse
from getc.v3.schema.kv import KV, PutRequest, RangeRequest, RangeResponse
from getc.v3.schema.lease import Lease, LeaseKeepAliveResponse, LeaseRevokeRequest
from getc.v3.schema.lock import Lock, LockRequest
from getc.v3.schema.watch import Watch, WatchRequest
from tests.support.grpc_server import GrpcServer, ServerCall

REQUEST = RangeRequest(key=b'a')
INVALID = 16, b'etcdserver: invalid auth token'

pytestmark = pytest.mark.timeout(300)


class Users:
    """A server script with one user; its tokens can be invalidated."""

    def __init__(self) -> None:
        self.is_enabled = True
        self.made = 0
        self.known: set[bytes] = set()

    def __call__(self, call: ServerCall) -> None:
        message = call.receive()
        token = call.headers.get(b'token')
        if call.path.endswith('/Authenticate'):
            self._authenticate(call, AuthenticateRequest.FromString(message))
        elif self.is_enabled and token is None:
            call.refuse(3, b'etcdserver: user name is empty')
        elif token is not None and token not in self.known:
            call.refuse(*INVALID)
        elif call.path == Lease.LeaseKeepAlive.path:
            call.head()
            while message is not None:
                call.message(LeaseKeepAliveResponse(ID=7, TTL=60).SerializeToString())
                message = call.receive()
        else:
            call.answer(RangeResponse(count=7).SerializeToString())

    def _authenticate(self, call: ServerCall, request: AuthenticateRequest) -> None:
        gevent.sleep(0.01)
        if not self.is_enabled:
            call.refuse(9, b'etcdserver: authentication is not enabled')
        elif (request.name, request.password) != ('root', 'hunter2'):
            call.refuse(3, b'etcdserver: authentication failed, invalid user ID or password')
        else:
            self.made += 1
            token = b'token-%d' % self.made
            self.known.add(token)
            call.answer(AuthenticateResponse(token=token.decode()).SerializeToString())


class Forgetful(set[bytes]):
    """Stores nothing."""

    def add(self, token: bytes) -> None:
        pass


@pytest.fixture
def users() -> Users:
    return Users()


def known_to(server: GrpcServer, password: str = 'hunter2') -> Endpoint:
    return Endpoint('http', '127.0.0.1', server.endpoint.port, 'root', password)


def counts(rpc, calls: int) -> list[int]:
    greenlets = [gevent.spawn(rpc.call, KV.Range, REQUEST) for _ in range(calls)]
    return [greenlet.get().count for greenlet in greenlets]


def tokens_issued(server: GrpcServer) -> int:
    return sum(call.path.endswith('/Authenticate') for call in server.calls)


def test_token_is_requested_once_for_all_calls(serve, open_rpc, users) -> None:
    server = serve(users)
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 100) == [7] * 100
    assert counts(rpc, 10) == [7] * 10
    assert tokens_issued(server) == 1


def test_token_is_replaced_once_when_the_server_refuses_it(serve, open_rpc, users) -> None:
    """The server has forgotten it, after five minutes or a restart; the calls were not applied."""
    server = serve(users)
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 1) == [7]
    users.known.clear()
    assert counts(rpc, 100) == [7] * 100
    assert tokens_issued(server) == 2


def test_call_raises_when_new_tokens_are_refused_too(serve, open_rpc, users) -> None:
    server = serve(users)
    users.known = Forgetful()
    with pytest.raises(Unauthorized, match='invalid auth token'):
        open_rpc(known_to(server)).call(KV.Range, REQUEST)
    assert tokens_issued(server) == 3


def test_call_succeeds_when_auth_is_disabled_and_enabled_meanwhile(serve, open_rpc, users) -> None:
    """The token is refused, none can be requested, and then one is required."""
    server = serve(users)
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 1) == [7]
    users.known.clear()

    def flap(call: ServerCall) -> None:
        users.is_enabled = not call.path.endswith('/Authenticate')
        users(call)
        users.is_enabled = True
        server.script = users if call.path.endswith('/Authenticate') else flap

    server.script = flap
    assert rpc.call(KV.Range, REQUEST).count == 7
    assert [call.path.rpartition('/')[2] for call in server.calls[2:]] == [
        'Range',
        'Authenticate',
        'Range',
        'Authenticate',
        'Range',
    ]


def test_wrong_credentials_raise_without_retry(serve, open_rpc, users) -> None:
    server, other = serve(users), serve(users)
    rpc = open_rpc(known_to(server, 'guess'), known_to(other, 'guess'))
    with pytest.raises(Unauthorized, match='invalid user ID or password') as caught:
        rpc.call(KV.Range, REQUEST)
    assert caught.value.endpoint == server.endpoint.url
    assert (tokens_issued(server), tokens_issued(other)) == (1, 0)


def test_wrong_credentials_are_tried_once_for_all_concurrent_calls(serve, open_rpc, users) -> None:
    """Each call raises its own error; a later call tries the credentials again."""
    server = serve(users)
    rpc = open_rpc(known_to(server, 'guess'))
    greenlets = [gevent.spawn(rpc.call, KV.Range, REQUEST) for _ in range(100)]
    gevent.joinall(greenlets)
    errors = [greenlet.exception for greenlet in greenlets]
    assert all(isinstance(error, Unauthorized) for error in errors)
    assert len({id(error) for error in errors}) == 100
    assert tokens_issued(server) == 1
    with pytest.raises(Unauthorized):
        rpc.call(KV.Range, REQUEST)
    assert tokens_issued(server) == 2


def test_error_of_a_token_request_does_not_carry_maybe_applied_of_another_call(serve, open_rpc, users) -> None:
    """The call that sent the request had a write in flight on another server; the others had sent nothing."""

    def cut(call: ServerCall) -> None:
        call.receive()
        gevent.sleep(0.01)
        call.connection.cut()

    def guess(call: ServerCall) -> None:
        call.receive()
        gevent.sleep(0.1)
        call.refuse(3, b'etcdserver: authentication failed, invalid user ID or password')

    first, second = serve(cut), serve(guess)
    rpc = open_rpc(first.endpoint, known_to(second, 'guess'))
    repeated = gevent.spawn(rpc.call, Lease.LeaseRevoke, LeaseRevokeRequest(ID=7))
    second.wait_for_calls(1)
    other = gevent.spawn(rpc.call, KV.Put, PutRequest(key=b'a'))
    gevent.joinall([repeated, other])
    assert [type(call.exception) for call in (repeated, other)] == [Unauthorized] * 2
    assert [call.exception.maybe_applied for call in (repeated, other)] == [True, False]
    assert len(second.calls) == 1


@pytest.mark.parametrize('then', ['cut', 'refused'])
def test_call_that_waits_may_be_applied_when_its_token_is_refused(serve, open_rpc, users, then: str) -> None:
    """The server has queued the lock request, and checks the token again when it reads the queue."""
    server = serve(users)
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 1) == [7]

    def forget(call: ServerCall) -> None:
        if call.path.endswith('/Authenticate') and then == 'cut':
            call.connection.cut()
        elif call.path.endswith('/Authenticate'):
            users(call)
        else:
            call.receive()
            call.refuse(*INVALID)

    server.script = forget
    with pytest.raises(EtcException) as caught:
        rpc.call(Lock.Lock, LockRequest(name=b'name', lease=7))
    assert isinstance(caught.value, ConnectionError if then == 'cut' else Unauthorized)
    assert caught.value.maybe_applied


def test_call_sends_no_token_when_auth_is_disabled(serve, open_rpc, users) -> None:
    """One token is requested; when auth is enabled later, another one."""
    server = serve(users)
    users.is_enabled = False
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 3) == [7] * 3
    assert tokens_issued(server) == 1
    assert not any(b'token' in call.headers for call in server.calls)
    users.is_enabled = True
    assert counts(rpc, 3) == [7] * 3
    assert tokens_issued(server) == 2


def test_no_token_is_requested_without_credentials(serve, open_rpc, users) -> None:
    server = serve(users)
    rpc = open_rpc(server.endpoint)
    with pytest.raises(Unauthorized, match='user name is empty'):
        rpc.call(KV.Range, REQUEST)
    users.is_enabled = False
    assert counts(rpc, 1) == [7]
    assert tokens_issued(server) == 0


def test_token_is_sent_to_its_own_server_only(serve, open_rpc, users) -> None:
    first, second = serve(users), serve(Users())
    rpc = open_rpc(known_to(first), known_to(second))
    assert counts(rpc, 1) == [7]
    first.__exit__(None, None, None)
    assert counts(rpc, 1) == [7]
    assert tokens_issued(second) == 1


def test_call_times_out_when_no_token_arrives(serve, open_rpc, etcd_clock) -> None:
    """Both the call that requests it and those that wait; if the first is killed, the next one requests it."""
    server = serve(lambda call: call.is_over.wait())
    rpc = open_rpc(known_to(server))
    calls = [gevent.spawn(rpc.call, KV.Range, REQUEST, timeout) for timeout in (None, 3.0, 5.0)]
    server.wait_for_calls(1)
    etcd_clock.advance(3.1)
    assert isinstance(calls[1].exception, TimedOut)
    calls[0].kill()
    etcd_clock.advance(0)
    assert tokens_issued(server) == 2
    etcd_clock.advance(2)
    assert isinstance(calls[2].exception, TimedOut)
    assert not calls[2].exception.maybe_applied


def test_token_is_invalidated_when_a_stream_is_refused(serve, open_rpc, users) -> None:
    server = serve(users)
    rpc = open_rpc(known_to(server))
    assert counts(rpc, 1) == [7]
    users.known.clear()
    for tokens in (1, 2):
        with rpc.open(Watch.Watch) as stream:
            stream.send(WatchRequest())
            if tokens == 1:
                with pytest.raises(Unauthorized):
                    stream.receive(Deadline.after(30))
            else:
                assert stream.receive(Deadline.after(30)) is not None
        assert tokens_issued(server) == tokens


def test_keep_alive_is_repeated_on_a_new_stream_when_the_token_is_refused(serve, open_rpc, users) -> None:
    """Ten at once: one more stream, with one more token."""
    server = serve(users)
    lease = LeaseService(open_rpc(known_to(server)))
    assert counts(lease._rpc, 1) == [7]
    users.known.clear()
    greenlets = [gevent.spawn(lease.keep_alive, 7) for _ in range(10)]
    assert [greenlet.get().TTL for greenlet in greenlets] == [60] * 10
    assert tokens_issued(server) == 2
    assert sum(call.path == Lease.LeaseKeepAlive.path for call in server.calls) == 2


def test_error_of_a_refused_stream_does_not_contain_the_token(serve, open_rpc, users) -> None:
    def script(call: ServerCall) -> None:
        if call.path == Watch.Watch.path:
            call.refuse(16, b'no such token: ' + call.headers[b'token'])
        else:
            users(call)

    rpc = open_rpc(known_to(serve(script)))
    with rpc.open(Watch.Watch) as stream, pytest.raises(Unauthorized) as caught:
        stream.receive(Deadline.after(30))
    assert str(caught.value) == '[16] no such token: ...'


def test_secrets_are_not_in_texts_of_objects_errors_and_logs(serve, open_rpc, users, caplog) -> None:
    server = serve(users)
    rpc = open_rpc(known_to(server))
    with caplog.at_level(logging.DEBUG):
        assert counts(rpc, 1) == [7]
        users.known = Forgetful()
        with pytest.raises(Unauthorized) as caught:
            rpc.call(KV.Range, REQUEST)
        server.connection.raw(b'junk that is no frame at all')
        server.connection.client_left.wait()
    things = [rpc, *rpc._servers.values(), *rpc._endpoints]
    things += [thing for part in rpc._servers.values() for thing in (part.channel, part.auth_token)]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith('getc.')]  # not the server's
    assert logged
    shown = [*logged, str(caught.value), repr(caught.value), repr(caught.value.__dict__), *map(repr, things)]
    assert not [text for text in shown if 'hunter2' in text or 'token-' in text]
