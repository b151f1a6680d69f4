"""Unary calls: responses, timeouts, resets and invalid responses."""

from __future__ import annotations

import gevent
import pytest

from getc.errors import ConnectionError, HTTPError, ProtocolError, TimedOut
from getc.grpc.call import GrpcError, OversizedResponse
from getc.grpc.framing import MAX_MESSAGE, OVERSIZED_HEAD, encode_message
from getc.grpc.http2.frames import ErrorCode
from getc.testing import wait_until
from getc.timing import Deadline
from tests.support.grpc_calls import PATH, in_time, silence
from tests.support.grpc_server import HEAD, OK, ServerCall

pytestmark = pytest.mark.timeout(300)


def test_call_sends_a_grpc_request_and_returns_the_response(serve, open_channel) -> None:
    server = serve()
    channel = open_channel(server.endpoint)
    assert channel.unary(PATH, b'hello', in_time(), metadata=((b'token', b'secret'),)) == b'hello'
    assert channel.unary(PATH, b'', in_time()) == b''
    assert channel.unary(PATH, b'x' * 3_000_000, in_time()) == b'x' * 3_000_000
    headers = server.calls[0].headers
    assert headers[b':path'] == PATH.encode()
    assert headers[b':authority'] == server.endpoint.url.partition('://')[2].encode()
    assert headers[b'content-type'] == b'application/grpc'
    assert headers[b'te'] == b'trailers'
    assert headers[b'token'] == b'secret'
    assert headers[b'grpc-timeout'].endswith(b'u')
    assert b'token' not in server.calls[1].headers
    assert len(server.connections) == 1


@pytest.mark.parametrize('timeout', [0.05, 0.5, 3.0, 600.0])
def test_grpc_timeout_is_longer_than_the_timeout_of_the_client(serve, open_channel, timeout: float) -> None:
    """Otherwise the server ends the call first, and a proxy may translate that."""
    server = serve()
    open_channel(server.endpoint).unary(PATH, b'', Deadline.after(timeout))
    value = server.calls[0].headers[b'grpc-timeout']
    limit = int(value[:-1]) * {b'u': 1e-6, b'm': 1e-3, b'S': 1.0}[value[-1:]]
    assert timeout + 0.5 <= limit <= timeout * 1.01 + 1.5


def test_reset_after_the_deadline_is_a_timeout(serve, open_channel) -> None:
    """For example after a stall of the process: the server has noticed its own deadline."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    deadline = Deadline.after(60)
    call = gevent.spawn(channel.unary, PATH, b'', deadline)
    server.wait_for_calls(1)
    deadline.at = 0.0
    server.calls[0].reset(ErrorCode.CANCEL)
    gevent.joinall([call])
    assert type(call.exception) is TimedOut
    assert call.exception.maybe_applied


def test_responses_in_another_order_reach_their_calls(serve, open_channel) -> None:
    """100 concurrent calls, answered in reverse order."""
    waiting: list[tuple[ServerCall, bytes]] = []

    def backwards(call: ServerCall) -> None:
        waiting.append((call, call.receive()))
        if len(waiting) == 100:
            for call, message in reversed(waiting):
                call.answer(message)

    channel = open_channel(serve(backwards).endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'%d' % number, in_time()) for number in range(100)]
    assert [call.get() for call in calls] == [b'%d' % number for number in range(100)]


@pytest.mark.parametrize('code', list(ErrorCode), ids=lambda code: code.name)
@pytest.mark.parametrize('is_write', [True, False], ids=['write', 'read'])
def test_reset_of_the_stream_is_a_connection_error(serve, open_channel, code, is_write) -> None:
    """A write may have been applied: a proxy may reset a call that it has forwarded.  The connection goes on."""
    is_answering = False

    def script(call: ServerCall) -> None:
        message = call.receive()
        call.answer(message) if is_answering else call.reset(code)

    server = serve(script)
    channel = open_channel(server.endpoint)
    with pytest.raises(ConnectionError) as caught:
        channel.unary(PATH, b'a', in_time(), is_write=is_write)
    assert caught.value.maybe_applied is is_write
    assert not caught.value.is_outage
    assert caught.value.endpoint == server.endpoint.url
    is_answering = True
    assert channel.unary(PATH, b'b', in_time()) == b'b'
    assert len(server.connections) == 1


def test_reset_with_an_unknown_code_is_a_connection_error_with_the_number(serve, open_channel) -> None:
    channel = open_channel(serve(lambda call: call.reset(4711)).endpoint)
    with pytest.raises(ConnectionError, match='4711'):
        channel.unary(PATH, b'a', in_time())


def twice(call: ServerCall) -> None:
    call.head()
    call.message(b'one')
    call.message(b'two')
    call.trailers()


def answers(*fields: tuple[bytes, bytes], body: bytes = encode_message(b'x'), head: object = HEAD) -> object:
    def script(call: ServerCall) -> None:
        call.head(head)
        if body:
            call.data(body)
        call.trailers(fields or [(b'x', b'y')])

    return script


TOO_LARGE = b'\0' + (MAX_MESSAGE + 1).to_bytes(4, 'big') + bytes(OVERSIZED_HEAD)

INVALID = {
    'refused in trailers': (answers((b'grpc-status', b'5'), (b'grpc-message', b'no%20such')), GrpcError, 'no such'),
    'refused in headers': (lambda call: call.refuse(14, b'100%25%20%E2%82%AC'), GrpcError, '14: 100% €'),
    'refused after a message': (answers((b'grpc-status', b'2')), GrpcError, 'status 2'),
    'no status': (answers(), ProtocolError, 'without a grpc-status'),
    'status that is no number': (answers((b'grpc-status', b'ok')), ProtocolError, 'grpc-status'),
    'headers alone, without a status': (lambda call: call.head(end=True), ProtocolError, 'without a grpc-status'),
    'OK alone': (lambda call: call.refuse(0), ProtocolError, 'OK without a complete message'),
    'two messages': (twice, ProtocolError, 'a second message'),
    'half of a second message': (
        answers(*OK, body=encode_message(b'x') + b'\0\0'),
        ProtocolError,
        'OK without a complete message',
    ),
    'half a message': (
        answers(*OK, body=encode_message(b'xyz')[:-1]),
        ProtocolError,
        'OK without a complete message',
    ),
    'compressed': (answers(*OK, body=b'\1\0\0\0\1x'), ProtocolError, 'compressed'),
    'too long': (
        lambda call: [call.head(), call.data(TOO_LARGE), call.is_over.wait()],
        OversizedResponse,
        f'a response of {MAX_MESSAGE + 1} bytes',
    ),
    'no trailers': (
        lambda call: [call.head(), call.data(encode_message(b'x'), end=True)],
        ConnectionError,
        'without a status',
    ),
    'a page': (
        answers(body=b'<h1>oh</h1>', head=[(b':status', b'503'), (b'content-type', b'text/html')]),
        HTTPError,
        'HTTP 503',
    ),
    'a page without trailers': (
        lambda call: [
            call.head([(b':status', b'502'), (b'content-type', b'text/html')]),
            call.data(b'<h1>', end=True),
        ],
        HTTPError,
        'HTTP 502',
    ),
    'another content type': (
        answers(head=[(b':status', b'200'), (b'content-type', b'text/html')]),
        ProtocolError,
        'content-type',
    ),
    'no content type': (answers(head=[(b':status', b'200')]), ProtocolError, 'content-type'),
}


@pytest.mark.parametrize('name', INVALID)
def test_invalid_response_is_a_typed_error(serve, open_channel, name: str) -> None:
    """With maybe_applied for a write; the connection goes on."""
    script, kind, text = INVALID[name]
    is_invalid = True

    def serve_it(call: ServerCall) -> None:
        message = call.receive()
        script(call) if is_invalid else call.answer(message)

    server = serve(serve_it)
    channel = open_channel(server.endpoint)
    for is_write in (True, False):
        with pytest.raises(kind, match=text) as caught:
            channel.unary(PATH, b'a', in_time(), is_write=is_write)
        assert caught.value.endpoint == server.endpoint.url
        if kind is not GrpcError:
            assert caught.value.maybe_applied is is_write
    is_invalid = False
    assert channel.unary(PATH, b'b', in_time()) == b'b'
    assert len(server.connections) == 1


def test_call_times_out_without_a_response(serve, open_channel, etcd_clock) -> None:
    """The stream is reset, and the connection goes on."""
    server = serve(lambda call: silence(call) if call.receive() == b'slow' else call.answer(b'fast'))
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'slow', Deadline.after(5))
    server.wait_for_calls(1)
    etcd_clock.advance(4.99)
    assert not call.ready()
    etcd_clock.advance(0.05)
    with pytest.raises(TimedOut, match=r'no response to /etcdserverpb.KV/Put from http://.* within 5 s') as caught:
        call.get()
    assert caught.value.maybe_applied
    assert channel.unary(PATH, b'', Deadline.after(5)) == b'fast'
    assert server.calls[0].reset_code == ErrorCode.CANCEL
    assert len(server.connections) == 1


def test_call_is_not_sent_after_its_deadline(serve, open_channel) -> None:
    server = serve()
    channel = open_channel(server.endpoint)
    assert channel.unary(PATH, b'', in_time()) == b''
    with pytest.raises(TimedOut) as caught:
        channel.unary(PATH, b'', Deadline.after(0))
    assert not caught.value.maybe_applied
    assert channel.unary(PATH, b'', in_time()) == b''
    assert len(server.calls) == 2


def test_call_returns_a_response_that_was_received_during_a_stall(serve, open_channel, etcd_clock) -> None:
    """The process was stalled beyond the deadline."""

    def answer_and_stall(call: ServerCall) -> None:
        call.answer(call.receive())
        etcd_clock.stall(15)

    channel = open_channel(serve(answer_and_stall).endpoint)
    assert channel.unary(PATH, b'x', Deadline.after(10)) == b'x'


def test_killed_call_resets_its_stream_only(serve, open_channel, etcd_clock) -> None:
    """Also after a gevent.Timeout of the caller."""
    server = serve(lambda call: silence(call) if call.receive() == b'slow' else call.answer(b'fast'))
    channel = open_channel(server.endpoint)
    killed = gevent.spawn(channel.unary, PATH, b'slow', Deadline.after(None))
    server.wait_for_calls(1)
    killed.kill()
    caught: list[gevent.Timeout] = []

    def call_with_a_timeout() -> None:
        with gevent.Timeout(1) as mine:
            with pytest.raises(gevent.Timeout) as raised:
                channel.unary(PATH, b'slow', Deadline.after(None))
            assert raised.value is mine
            caught.append(mine)

    gevent.spawn(call_with_a_timeout)
    etcd_clock.advance(1)
    assert len(caught) == 1
    assert channel.unary(PATH, b'', in_time()) == b'fast'
    etcd_clock.advance(0)
    assert [call.reset_code for call in server.calls] == [ErrorCode.CANCEL, ErrorCode.CANCEL, None]
    assert channel._connection.calls == 0
    assert len(server.connections) == 1


def test_call_from_the_hub_raises_and_is_removed(serve, open_channel) -> None:
    """A callback of the event loop cannot block."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert channel.unary(PATH, b'', in_time()) == b''
    caught: list[BaseException] = []

    def callback() -> None:
        try:
            channel.unary(PATH, b'', in_time())
        except BaseException as error:
            caught.append(error)

    gevent.get_hub().loop.run_callback(callback)
    wait_until(lambda: caught)
    assert isinstance(caught[0], gevent.exceptions.BlockingSwitchOutError)
    assert channel._connection.calls == 0
