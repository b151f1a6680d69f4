"""Streaming calls: messages in both directions, flow control and the end of a stream."""

from __future__ import annotations

import tracemalloc

import gevent
import pytest
from gevent.event import Event

from getc.errors import ClientClosed, ConnectionError, EtcException, ProtocolError, TimedOut
from getc.grpc.call import GrpcError
from getc.grpc.framing import encode_message
from getc.grpc.http2.frames import ErrorCode
from getc.testing import wait_until
from getc.timing import Deadline
from tests.support.grpc_calls import PATH, in_time, silence
from tests.support.grpc_server import ServerCall

pytestmark = pytest.mark.timeout(300)


def test_stream_sends_and_receives_messages(serve, open_channel) -> None:
    """Half-closing one direction does not end the other."""

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


def test_stream_goes_on_after_a_receive_has_timed_out_or_was_killed(serve, open_channel, etcd_clock) -> None:
    """No message is lost."""
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


def test_cancelled_stream_is_reset(serve, open_channel) -> None:
    """A waiting receive returns None."""
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
        (lambda call: [call.data(encode_message(b'half')[:-1]), call.trailers()], ProtocolError),
        (lambda call: call.trailers([(b'x', b'y')]), ProtocolError),
        (lambda call: call.connection.cut(), ConnectionError),
    ],
    ids=['refused', 'reset', 'no status', 'compressed', 'half a message', 'no grpc-status', 'cut'],
)
def test_stream_returns_buffered_messages_before_its_error(serve, open_channel, script, kind) -> None:
    """The error is raised by every further receive and send."""

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
def test_stream_bounds_the_buffer_for_a_slow_reader(serve, open_channel, size: int) -> None:
    """An endless stream without a reader is stopped by flow control: in bytes and in memory."""
    sent = 0
    stuck = Event()

    def endless(call: ServerCall) -> None:
        nonlocal sent
        call.head()
        piece = encode_message(b'm' * size) * max(1, 10_000 // (size + 5))
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


def test_slow_reader_does_not_block_other_calls(serve, open_channel) -> None:
    """Twenty streams without readers are full."""
    full = 0

    def script(call: ServerCall) -> None:
        nonlocal full
        if call.path == PATH:
            call.answer(call.receive())
            return
        call.head()
        piece = encode_message(b'm' * 2000)
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


def test_close_ends_calls_and_streams_with_client_closed(serve, open_channel) -> None:
    """Later calls raise ClientClosed as well."""
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
