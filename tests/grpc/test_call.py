"""One call, and what a server may do to it: an answer, or an error that says truly what may have happened."""

from __future__ import annotations

import tracemalloc

import gevent
import pytest
from gevent.event import Event

from getc.errors import ClientClosed, ConnectionError, EtcException, HTTPError, ProtocolError, TimedOut
from getc.grpc.call import GrpcError, OversizedAnswer
from getc.grpc.framing import BEGINNING, MAX_MESSAGE, packed
from getc.grpc.http2.frames import ErrorCode
from getc.testing import wait_until
from getc.timing import Deadline
from tests.support.grpc_server import HEAD, OK, ServerCall

PATH = '/etcdserverpb.KV/Put'

pytestmark = pytest.mark.timeout(120)


def in_time() -> Deadline:
    """A deadline that is not meant to pass."""
    return Deadline.after(60)


def silence(call: ServerCall) -> None:
    """No answer, ever."""
    call.is_over.wait()


# -- unary


def test_call_is_answered(serve, open_channel) -> None:
    """The request arrives as gRPC has it, and the answer comes back."""
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
def test_server_has_more_time_than_the_client(serve, open_channel, timeout: float) -> None:
    """Otherwise the server ends the call just before, and a proxy makes something else of that."""
    server = serve()
    open_channel(server.endpoint).unary(PATH, b'', Deadline.after(timeout))
    value = server.calls[0].headers[b'grpc-timeout']
    limit = int(value[:-1]) * {b'u': 1e-6, b'm': 1e-3, b'S': 1.0}[value[-1:]]
    assert timeout + 0.5 <= limit <= timeout * 1.01 + 1.5


def test_call_that_the_server_ends_at_the_deadline_has_timed_out(serve, open_channel) -> None:
    """The process did not run for a while: what the server made of its own limit lies in the socket."""
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


def test_answers_go_to_their_calls_when_they_come_in_another_order(serve, open_channel) -> None:
    """100 calls at once, answered backwards."""
    waiting: list[tuple[ServerCall, bytes]] = []

    def backwards(call: ServerCall) -> None:
        waiting.append((call, call.receive()))
        if len(waiting) == 100:
            for call, message in reversed(waiting):
                call.answer(message)

    channel = open_channel(serve(backwards).endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'%d' % number, in_time()) for number in range(100)]
    assert [call.get() for call in calls] == [b'%d' % number for number in range(100)]


BROKEN = 'ended the call with'


@pytest.mark.parametrize('code', list(ErrorCode), ids=lambda code: code.name)
@pytest.mark.parametrize('is_write', [True, False], ids=['write', 'read'])
def test_call_is_a_connection_error_when_its_stream_is_reset(serve, open_channel, code, is_write) -> None:
    """A proxy may say so of a call that it has passed on; a read never writes.  The connection goes on."""
    is_gentle = False

    def script(call: ServerCall) -> None:
        message = call.receive()
        call.answer(message) if is_gentle else call.reset(code)

    server = serve(script)
    channel = open_channel(server.endpoint)
    with pytest.raises(ConnectionError) as caught:
        channel.unary(PATH, b'a', in_time(), is_write=is_write)
    assert caught.value.maybe_applied is is_write
    assert not caught.value.is_outage
    assert caught.value.endpoint == server.endpoint.url
    is_gentle = True
    assert channel.unary(PATH, b'b', in_time()) == b'b'
    assert len(server.connections) == 1


def test_call_is_a_connection_error_when_its_stream_is_reset_with_an_unknown_code(serve, open_channel) -> None:
    """The number is told."""
    channel = open_channel(serve(lambda call: call.reset(4711)).endpoint)
    with pytest.raises(ConnectionError, match='4711'):
        channel.unary(PATH, b'a', in_time())


def twice(call: ServerCall) -> None:
    call.head()
    call.message(b'one')
    call.message(b'two')
    call.trailers()


def answers(*fields: tuple[bytes, bytes], body: bytes = packed(b'x'), head: object = HEAD) -> object:
    def script(call: ServerCall) -> None:
        call.head(head)
        if body:
            call.data(body)
        call.trailers(fields or [(b'x', b'y')])

    return script


TOO_LARGE = b'\0' + (MAX_MESSAGE + 1).to_bytes(4, 'big') + bytes(BEGINNING)

ODD = {
    'refused in trailers': (answers((b'grpc-status', b'5'), (b'grpc-message', b'no%20such')), GrpcError, 'no such'),
    'refused in headers': (lambda call: call.refuse(14, b'100%25%20%E2%82%AC'), GrpcError, '14: 100% €'),
    'refused after an answer': (answers((b'grpc-status', b'2')), GrpcError, 'status 2'),
    'no status': (answers(), ProtocolError, 'without a grpc-status'),
    'status that is no number': (answers((b'grpc-status', b'ok')), ProtocolError, 'grpc-status'),
    'headers alone, without a status': (lambda call: call.head(end=True), ProtocolError, 'without a grpc-status'),
    'OK alone': (lambda call: call.refuse(0), ProtocolError, 'OK without an answer'),
    'two answers': (twice, ProtocolError, 'a second answer'),
    'half of a second answer': (answers(*OK, body=packed(b'x') + b'\0\0'), ProtocolError, 'in the middle'),
    'half an answer': (answers(*OK, body=packed(b'xyz')[:-1]), ProtocolError, 'in the middle|without an answer'),
    'compressed': (answers(*OK, body=b'\1\0\0\0\1x'), ProtocolError, 'compressed'),
    'too long': (
        lambda call: [call.head(), call.data(TOO_LARGE), call.is_over.wait()],
        OversizedAnswer,
        f'an answer of {MAX_MESSAGE + 1} bytes',
    ),
    'no trailers': (lambda call: [call.head(), call.data(packed(b'x'), end=True)], ConnectionError, 'without a status'),
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


@pytest.mark.parametrize('odd', ODD)
def test_call_is_a_typed_error_when_its_answer_is_odd(serve, open_channel, odd: str) -> None:
    """It says what is odd, and whether a write may have happened; other calls go on, on the same connection."""
    script, kind, text = ODD[odd]
    is_odd = True

    def serve_it(call: ServerCall) -> None:
        message = call.receive()
        script(call) if is_odd else call.answer(message)

    server = serve(serve_it)
    channel = open_channel(server.endpoint)
    for is_write in (True, False):
        with pytest.raises(kind, match=text) as caught:
            channel.unary(PATH, b'a', in_time(), is_write=is_write)
        assert caught.value.endpoint == server.endpoint.url
        if kind is not GrpcError:
            assert caught.value.maybe_applied is is_write
    is_odd = False
    assert channel.unary(PATH, b'b', in_time()) == b'b'
    assert len(server.connections) == 1


def test_call_times_out_when_there_is_no_answer(serve, open_channel, etcd_clock) -> None:
    """Within its deadline; the stream is reset, the connection serves on."""
    server = serve(lambda call: silence(call) if call.receive() == b'slow' else call.answer(b'fast'))
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'slow', Deadline.after(5))
    server.wait_for_calls(1)
    etcd_clock.advance(4.99)
    assert not call.ready()
    etcd_clock.advance(0.05)
    with pytest.raises(TimedOut, match=r'no answer to /etcdserverpb.KV/Put from http://.* within 5 s') as caught:
        call.get()
    assert caught.value.maybe_applied
    assert channel.unary(PATH, b'', Deadline.after(5)) == b'fast'
    assert server.calls[0].reset_code == ErrorCode.CANCEL
    assert len(server.connections) == 1


def test_call_is_not_sent_when_its_deadline_has_passed(serve, open_channel) -> None:
    """A write that nobody waits for is not made."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert channel.unary(PATH, b'', in_time()) == b''
    with pytest.raises(TimedOut) as caught:
        channel.unary(PATH, b'', Deadline.after(0))
    assert not caught.value.maybe_applied
    assert channel.unary(PATH, b'', in_time()) == b''
    assert len(server.calls) == 2


def test_call_takes_reply_that_lay_in_the_socket_during_a_stall(serve, open_channel, etcd_clock) -> None:
    """The process did not run past the deadline; the answer was there before."""

    def answer_and_stall(call: ServerCall) -> None:
        call.answer(call.receive())
        etcd_clock.stall(15)

    channel = open_channel(serve(answer_and_stall).endpoint)
    assert channel.unary(PATH, b'x', Deadline.after(10)) == b'x'


def test_killed_call_leaves_a_clean_connection(serve, open_channel, etcd_clock) -> None:
    """Its stream is reset; the caller's own timeout is the caller's."""
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
    assert channel._link.calls == 0
    assert len(server.connections) == 1


def test_call_from_the_hub_is_refused_and_leaves_nothing(serve, open_channel) -> None:
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
    assert channel._link.calls == 0


# -- streams


def test_stream_carries_messages_both_ways(serve, open_channel) -> None:
    """In order, as they come; the end of one side is not the end of the other."""

    def script(call: ServerCall) -> None:
        call.head()
        while (message := call.receive()) is not None:
            call.message(message.upper())
        call.message(b'bye')
        call.trailers()

    channel = open_channel(serve(script).endpoint)
    stream = channel.stream('/a.B/C', in_time())
    stream.send(b'a')
    assert stream.receive(in_time()) == b'A'
    stream.send(b'b')
    stream.send(b'c')
    stream.finish()
    assert list(stream) == [b'B', b'C', b'bye']
    assert stream.is_over
    assert stream.receive(in_time()) is None
    with pytest.raises(EtcException):
        stream.send(b'd')


def test_stream_goes_on_when_a_receive_times_out_or_is_killed(serve, open_channel, etcd_clock) -> None:
    """What comes later is there for the next one."""
    go = Event()

    def script(call: ServerCall) -> None:
        call.head()
        go.wait()
        call.message(b'late')
        silence(call)

    stream = open_channel(serve(script).endpoint).stream('/a.B/C', Deadline.after(5))
    receiving = gevent.spawn(stream.receive, Deadline.after(3))
    etcd_clock.advance(3)
    with pytest.raises(TimedOut):
        receiving.get()
    killed = gevent.spawn(stream.receive, Deadline.after(None))
    etcd_clock.advance(0)
    with pytest.raises(RuntimeError, match='another greenlet receives'):
        stream.receive(Deadline.after(1))
    killed.kill()
    go.set()
    assert stream.receive(Deadline.after(5)) == b'late'
    stream.cancel()


def test_stream_that_is_cancelled_is_reset(serve, open_channel) -> None:
    """Whoever receives is told that it is over."""
    server = serve(lambda call: [call.head(), silence(call)])
    stream = open_channel(server.endpoint).stream('/a.B/C', in_time())
    receiving = gevent.spawn(stream.receive, Deadline.after(None))
    server.wait_for_calls(1)
    stream.cancel()
    stream.cancel()
    assert receiving.get() is None
    server.calls[0].is_over.wait()
    assert server.calls[0].reset_code == ErrorCode.CANCEL


@pytest.mark.parametrize(
    ('script', 'kind'),
    [
        (lambda call: call.trailers([(b'grpc-status', b'14')]), GrpcError),
        (lambda call: call.reset(ErrorCode.INTERNAL_ERROR), ConnectionError),
        (lambda call: call.data(b'', end=True), ConnectionError),
        (lambda call: [call.data(b'\1\0\0\0\0'), silence(call)], ProtocolError),
        (lambda call: [call.data(packed(b'half')[:-1]), call.trailers()], ProtocolError),
        (lambda call: call.trailers([(b'x', b'y')]), ProtocolError),
        (lambda call: call.connection.cut(), ConnectionError),
    ],
    ids=['refused', 'reset', 'no status', 'compressed', 'half a message', 'no grpc-status', 'cut'],
)
def test_stream_ends_with_an_error_after_what_came_before_it(serve, open_channel, script, kind) -> None:
    """Nothing that came is lost, and the error is there for every further receive and send."""

    def serve_it(call: ServerCall) -> None:
        call.head()
        call.message(b'one')
        call.message(b'two')
        script(call)

    stream = open_channel(serve(serve_it).endpoint).stream('/a.B/C', in_time())
    wait_until(lambda: stream.is_over)
    assert [stream.receive(in_time()), stream.receive(in_time())] == [b'one', b'two']
    for _ in range(2):
        with pytest.raises(kind):
            stream.receive(in_time())
    with pytest.raises(kind):
        stream.send(b'x')


@pytest.mark.parametrize('size', [0, 1, 1000, 400_000])
def test_stream_bounds_what_waits_for_a_slow_reader(serve, open_channel, size: int) -> None:
    """An endless stream that nobody reads stops at the window: by bytes that came, and by memory."""
    sent = 0
    stuck = Event()

    def endless(call: ServerCall) -> None:
        nonlocal sent
        call.head()
        piece = packed(b'm' * size) * max(1, 10_000 // (size + 5))
        while sent < 40_000_000:
            at = 0
            while at < len(piece):
                room = min(call.room, 16_384, len(piece) - at)
                if not room:
                    stuck.set()
                    call.connection.widened.wait()
                    continue
                call.connection.h2.send_data(call.stream_id, piece[at : at + room])
                call.connection.flush()
                at += room
                sent += room
        stuck.set()

    server = serve(endless)
    channel = open_channel(server.endpoint)
    tracemalloc.start()
    try:
        stream = channel.stream('/a.B/C', in_time())
        stuck.wait()
        assert sent < 4_000_000
        held = sum(trace.size for trace in tracemalloc.take_snapshot().traces)
        assert held < 16_000_000
    finally:
        tracemalloc.stop()
    for _ in range(3):
        assert stream.receive(in_time()) == b'm' * size
    before = sent
    while sent == before:  # it goes on once there is room
        stream.receive(in_time())
    stream.cancel()


def test_slow_reader_does_not_hold_up_other_calls(serve, open_channel) -> None:
    """Twenty streams that nobody reads are full, and calls on their connection are answered."""
    full = 0

    def script(call: ServerCall) -> None:
        nonlocal full
        if call.path == PATH:
            call.answer(call.receive())
            return
        call.head()
        piece = packed(b'm' * 2000)
        while call.room >= len(piece):
            call.data(piece)
        full += 1
        silence(call)

    server = serve(script)
    channel = open_channel(server.endpoint)
    streams = [channel.stream('/a.B/C', in_time()) for _ in range(20)]
    wait_until(lambda: full == 20)
    assert channel.unary(PATH, b'x' * 100_000, in_time()) == b'x' * 100_000
    for stream in streams:
        stream.cancel()


def test_close_ends_calls_and_streams(serve, open_channel) -> None:
    """With ClientClosed, whatever they wait for; so does every later call."""
    server = serve(lambda call: [call.receive(), silence(call)])
    channel = open_channel(server.endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline.after(None)) for _ in range(10)]
    stream = channel.stream('/a.B/C', in_time())
    receiving = gevent.spawn(stream.receive, Deadline.after(None))
    server.wait_for_calls(11)
    channel.close()
    for greenlet in [*calls, receiving]:
        with pytest.raises(ClientClosed):
            greenlet.get(timeout=60)
    for attempt in (lambda: stream.send(b''), lambda: channel.unary(PATH, b'', in_time())):
        with pytest.raises(ClientClosed):
            attempt()
    with pytest.raises(ClientClosed):
        channel.stream('/a.B/C', in_time())
