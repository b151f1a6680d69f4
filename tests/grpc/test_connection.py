"""One connection: GOAWAY, stream limits, windows, invalid data, and the errors of its calls."""

from __future__ import annotations

import logging
import ssl

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from getc.errors import ConnectionError, ProtocolError, TimedOut
from getc.grpc.connection import MAX_BATCH
from getc.grpc.http2.frames import MAX_STREAM_ID, ErrorCode, FrameType, Setting, encode_frame, encode_settings
from getc.testing import wait_until
from tests.support.grpc_calls import PATH, in_time, results, silence, start_calls
from tests.support.grpc_server import ServerCall
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(300)


# -- GOAWAY


def test_goaway_ends_streams_above_the_last_one_and_lets_the_others_go_on(serve, open_channel) -> None:
    """The next call is on another connection, and the old one ends with its last call."""
    go = Event()

    def script(call: ServerCall) -> None:
        go.wait()
        if call not in server.calls[4:6]:
            call.answer(b'ok')

    server = serve(script)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 6)
    server.wait_for_calls(6)
    old = channel._connection
    server.connection.goaway(server.calls[3].stream_id)
    refused = results(calls[4:])
    assert [(type(error), error.maybe_applied) for error in refused] == [(ConnectionError, False)] * 2
    assert channel._connection is not old
    assert not channel.is_connected
    more = start_calls(channel, 1)
    server.wait_for_calls(7)
    go.set()
    assert results(calls[:4] + more) == [b'ok'] * 5
    assert len(server.connections) == 2
    wait_until(lambda: old not in channel._connections)
    server.connections[0].client_left.wait()


def test_second_goaway_ends_streams_above_its_last_one(serve, open_channel) -> None:
    """A graceful shutdown is two GOAWAY frames."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 3)
    server.wait_for_calls(3)
    server.connection.goaway(2**31 - 1)
    wait_until(lambda: not channel.is_connected)
    assert not any(call.ready() for call in calls)
    server.connection.goaway(1)
    assert [error.maybe_applied for error in results(calls[1:])] == [False, False]
    server.connection.cut()
    assert results(calls[:1])[0].maybe_applied


def test_goaway_with_an_error_is_logged(serve, open_channel, caplog) -> None:
    """For example too_many_pings."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    with caplog.at_level(logging.WARNING, 'getc'):
        server.connection.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings')
        server.connection.client_left.wait()
    assert 'too_many_pings' in caplog.text
    assert results(start_calls(channel, 1)) == [b'']
    assert len(server.connections) == 2


def test_goaway_ends_calls_that_wait_for_a_stream(serve, open_channel) -> None:
    server = serve(lambda call: call.answer(call.receive()), max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    server.script = silence
    calls = start_calls(channel, 5)
    server.wait_for_calls(2)
    settle()
    assert len(server.calls) == 2
    server.connection.goaway(server.calls[-1].stream_id)
    assert [error.maybe_applied for error in results(calls[1:])] == [False] * 4
    server.connection.cut()
    results(calls)


# -- stream numbers


def test_calls_use_another_connection_when_all_stream_numbers_are_used(serve, open_channel) -> None:
    """The old connection ends with its last call, and no call is lost."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    old = channel._connection
    old._http2._receiving.last_id = MAX_STREAM_ID - 4
    for number in range(4):
        assert results(start_calls(channel, 1, message=b'%d' % number)) == [b'%d' % number]
        assert (channel._connection is old) is (number == 0)
    assert [call.stream_id for call in server.calls] == [1, MAX_STREAM_ID - 2, MAX_STREAM_ID, 1, 3]
    assert old not in channel._connections
    server.connections[0].client_left.wait()


def test_calls_that_wait_for_a_stream_fail_when_all_numbers_are_used(serve, open_channel) -> None:
    """The next call is on another connection at once."""
    go = Event()

    def script(call: ServerCall) -> None:
        if call.stream_id > 1:
            go.wait()
        call.answer(b'')

    server = serve(script, max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    channel._connection._http2._receiving.last_id = MAX_STREAM_ID - 4
    calls = start_calls(channel, 5)
    server.wait_for_calls(2)
    go.set()
    assert results(calls[:2]) == [b'', b'']
    refused = results(calls[2:])
    assert [(type(error), error.maybe_applied) for error in refused] == [(ConnectionError, False)] * 3
    assert results(start_calls(channel, 1)) == [b'']
    assert len(server.connections) == 2


# -- limit on concurrent streams


def test_calls_take_turns_when_the_server_allows_one_stream(serve, open_channel) -> None:
    """In their order; a call that is killed or times out is never sent."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']  # SETTINGS were received
    busy: list[int] = []
    go = Event()

    def script(call: ServerCall) -> None:
        busy.append(sum(not each.is_over.is_set() for each in server.calls[1:]))
        message = call.receive()
        go.wait()
        call.is_over.set()
        call.answer(message)

    server.script = script
    calls = [call for number in range(50) for call in start_calls(channel, 1, message=b'%d' % number)]
    gevent.sleep(0)
    calls[10].kill()
    (error,) = results(start_calls(channel, 1, timeout=0.01))
    assert isinstance(error, TimedOut)
    assert not error.maybe_applied
    go.set()
    assert results(calls)[:10] == [b'%d' % number for number in range(10)]
    assert results(calls)[11:] == [b'%d' % number for number in range(11, 50)]
    assert max(busy) == 1
    assert len(server.calls) == 50  # one before, and 49 of those


def test_queued_calls_are_sent_when_the_server_raises_the_limit(serve, open_channel) -> None:
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    server.connection.settle(max_concurrent_streams=0)
    settle()
    calls = start_calls(channel, 10, message=b'x')
    stream = channel.stream('/a.B/C', in_time())
    stream.send(b'one')
    stream.send(b'two')
    settle()
    assert len(server.calls) == 1
    assert channel._connection.calls == 11
    server.connection.settle(max_concurrent_streams=2)
    assert results(calls) == [b'x'] * 10
    server.wait_for_calls(12)
    assert stream.receive(in_time()) == b'one'


def test_thousands_of_queued_calls_time_out_in_linear_time(serve, open_channel) -> None:
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    server.connection.settle(max_concurrent_streams=0)
    settle()
    calls = start_calls(channel, 10_000, timeout=0.5)
    errors = results(calls)
    assert {(type(error), error.maybe_applied) for error in errors} == {(TimedOut, False)}
    assert channel._connection.calls == 0


def test_timeout_in_the_queue_names_the_limit_on_streams(serve, open_channel, caplog) -> None:
    """A stream that stays open uses the only one that the server allows."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    server.script = silence
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(2)
    errors = results(start_calls(channel, 2, timeout=0.05))
    gevent.sleep(0)
    for error in errors:
        assert type(error) is TimedOut
        assert 'allows 1 streams at a time, and all are in use (SETTINGS_MAX_CONCURRENT_STREAMS' in str(error)
        assert not error.maybe_applied
    assert caplog.text.count('streams that stay open use all of them') == 1
    stream.cancel()


# -- windows


def test_large_messages_are_sent_through_small_windows(serve, open_channel) -> None:
    server = serve(initial_window_size=10)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']  # SETTINGS were received
    assert results(start_calls(channel, 3, message=b'x' * 3000)) == [b'x' * 3000] * 3


def test_calls_time_out_when_the_server_does_not_read(serve, open_channel, etcd_clock) -> None:
    """Outgoing data are sent later all the same, and may be applied."""
    server = serve(initial_window_size=2**30)
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    server.connection.h2.increment_flow_control_window(2**30)
    server.connection.flush()
    etcd_clock.advance(0)
    server.connection.may_read.clear()
    large = start_calls(channel, 200, timeout=2, message=b'x' * 100_000)
    etcd_clock.advance(0)
    assert channel._connection._io.is_sending
    late = start_calls(channel, 10, timeout=1)
    etcd_clock.advance(2.1)
    assert all(isinstance(error, TimedOut) for error in results(large + late))
    assert all(error.maybe_applied for error in results(late))
    assert channel._connection.calls == 0
    before = len(server.calls)
    server.connection.may_read.set()
    assert results(start_calls(channel, 1, message=b'again')) == [b'again']
    assert len(server.calls) - before >= len(late)


def test_outgoing_call_may_be_applied_after_a_protocol_error(serve, open_channel) -> None:
    """It is sent with the GOAWAY."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    start_calls(channel, 1)
    server.wait_for_calls(1)
    connection = channel._connection
    connection._io.is_sending = True  # as within an iteration
    calls = start_calls(channel, 2)
    gevent.sleep(0)
    connection.on_end(ProtocolError('HTTP/2: a rule'))
    assert [(type(error), error.maybe_applied) for error in results(calls)] == [(ProtocolError, True)] * 2
    server.wait_for_calls(3)


# -- invalid data

SETTINGS = encode_frame(FrameType.SETTINGS, 0, 0, b'')

INVALID = {
    'HTTP/1': b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n',
    'zeros': b'\0' * 100,
    'a huge frame': SETTINGS + b'\xff\xff\xff\0\0\0\0\0\1',
    'data of no stream': SETTINGS + encode_frame(FrameType.DATA, 0, 99, b'x'),
    'a push': SETTINGS + encode_frame(FrameType.PUSH_PROMISE, 4, 1, b'\0\0\0\2'),
    'a bad block': SETTINGS + encode_frame(FrameType.HEADERS, 4, 1, b'\xff\xff\xff\xff\xff'),
    'a bad setting': encode_frame(FrameType.SETTINGS, 0, 0, encode_settings({Setting.INITIAL_WINDOW_SIZE: 2**31})),
}


@pytest.mark.parametrize('name', INVALID)
def test_invalid_data_end_the_connection_with_a_protocol_error(serve, open_channel, name: str) -> None:
    """Every call fails, a GOAWAY is sent, and the next call uses another connection."""
    received: list[bytes] = []

    def serve_raw(sock: gevent.socket.socket) -> None:
        while b'PRI' not in b''.join(received):
            received.append(sock.recv(65_536))
        sock.sendall(INVALID[name])
        while data := sock.recv(65_536):
            received.append(data)

    channel = open_channel(serve(on_connect=serve_raw).endpoint)
    for _ in range(2):
        errors = results(start_calls(channel, 3))
        assert {type(error) for error in errors} <= {ProtocolError, ConnectionError}
        assert ProtocolError in {type(error) for error in errors}
        assert all(error.maybe_applied for error in errors if isinstance(error, ProtocolError))
        assert not channel.is_connected
    wait_until(lambda: b''.join(received).count(encode_frame(FrameType.GOAWAY, 0, 0, b'\0' * 8)[:4]) == 2)


def test_http1_response_is_detected_when_it_is_received_in_pieces(serve, open_channel) -> None:
    """It does not count as a response of the server: the next attempt is delayed."""

    def serve_raw(sock: gevent.socket.socket) -> None:
        for piece in (b'H', b'TTP/', b'1.1 400 Bad Request\r\n\r\n'):
            sock.sendall(piece)
            settle()
        sock.recv(65_536)

    channel = open_channel(serve(on_connect=serve_raw).endpoint)
    (error,) = results(start_calls(channel, 1))
    assert isinstance(error, ProtocolError) and 'responds with HTTP/1' in str(error)
    assert channel._next_attempt_at > 0


def test_has_spoken_is_true_after_the_first_complete_frame(serve, open_channel) -> None:
    go = Event()

    def serve_raw(sock: gevent.socket.socket) -> None:
        for byte in SETTINGS[:-1]:
            sock.sendall(bytes([byte]))
            gevent.sleep(0)
        go.wait()
        sock.sendall(SETTINGS[-1:])
        while sock.recv(65_536):
            pass

    channel = open_channel(serve(on_connect=serve_raw).endpoint)
    calls = start_calls(channel, 1, timeout=None)
    wait_until(lambda: channel.is_connected and len(channel._connection._http2._tail) == len(SETTINGS) - 1)
    assert not channel._connection.has_settings
    go.set()
    wait_until(lambda: channel._connection.has_settings)
    calls[0].kill()


@pytest.mark.parametrize('missing', [1, 2, 5, 12, 20, 30, 40, 50, 1000])
def test_connection_lost_at_any_byte_of_the_response_ends_the_call(serve, open_channel, missing: int) -> None:
    def cut(call: ServerCall) -> None:
        connection = call.connection
        message = call.receive()
        connection.is_muted = True
        call.answer(message)
        connection.raw(connection.h2.data_to_send()[:-missing])
        connection.cut()

    server = serve(cut)
    channel = open_channel(server.endpoint)
    for number in (1, 2):
        (error,) = results(start_calls(channel, 1, message=b'x' * 20))
        assert type(error) is ConnectionError
        assert error.maybe_applied
        assert not channel.is_connected
        assert len(server.connections) == number


def test_calls_end_after_any_exception_of_the_socket_io(serve, open_channel) -> None:
    server = serve(silence)
    channel = open_channel(server.endpoint)
    for number, error in enumerate((MemoryError(), gevent.GreenletExit()), 1):
        calls = start_calls(channel, 2, timeout=None)
        server.wait_for_calls(2 * number)
        channel._connection.on_end(error)
        assert all(isinstance(error, ConnectionError) and error.maybe_applied for error in results(calls))
        assert not channel.is_connected


@pytest.mark.parametrize('has_answered', [False, True])
def test_tls_alert_means_not_applied_before_the_first_response_only(serve, open_channel, has_answered) -> None:
    """Later a proxy may send it after the server has processed the call."""
    server = serve(silence) if has_answered else serve(on_connect=lambda sock: gevent.sleep(30))
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 1)
    wait_until(
        lambda: (
            channel.is_connected
            and channel._connection._streams.sent_id
            and channel._connection.has_settings is has_answered
        )
    )
    alert = ssl.SSLError(1, 'tlsv1 alert access denied')
    alert.reason = 'TLSV1_ALERT_ACCESS_DENIED'
    channel._connection.on_end(alert)
    (error,) = results(calls)
    assert type(error) is ConnectionError
    assert error.maybe_applied is has_answered


def test_blocking_log_handler_does_not_block_calls(serve, open_channel) -> None:
    """It never runs in the hub."""
    seen: list[str] = []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.001)
            seen.append(record.getMessage())

    def serve_raw(sock: gevent.socket.socket) -> None:
        sock.sendall(INVALID['a bad setting'])
        while sock.recv(65_536):
            pass

    handler = Blocking()
    log = logging.getLogger('getc')
    log.addHandler(handler)
    try:
        (error,) = results(start_calls(open_channel(serve(on_connect=serve_raw).endpoint), 1))
        assert isinstance(error, ProtocolError)
        wait_until(lambda: seen)
    finally:
        log.removeHandler(handler)
    assert str(error).partition(' (')[0] in seen[0]


def test_calls_of_one_iteration_are_sent_in_batches(serve, open_channel) -> None:
    """The server works on the first while the last are started."""
    channel = open_channel(serve().endpoint)
    assert channel.unary(PATH, b'x', in_time()) == b'x'
    batches: list[int] = []
    take = channel._connection.outgoing

    def outgoing() -> bytes:
        before = channel._connection._streams.sent_id
        data = take()
        if data:
            batches.append((channel._connection._streams.sent_id - before) // 2)
        return data

    channel._connection.outgoing = outgoing
    size = 2 * MAX_BATCH + 1
    callers = [gevent.spawn(channel.unary, PATH, b'%d' % number, in_time()) for number in range(size)]
    gevent.joinall(callers)
    assert [caller.value for caller in callers] == [b'%d' % number for number in range(size)]
    assert batches[:3] == [MAX_BATCH, MAX_BATCH, 1]


def test_acknowledgement_of_a_ping_is_sent_with_the_next_call(serve, open_channel) -> None:
    """etcd sends a PING beside each response: separate acknowledgements would double the number of sends."""

    def script(call: ServerCall) -> None:
        connection, message = call.connection, call.receive()
        connection.is_muted = True
        connection.h2.ping(b'measured')
        call.answer(message)
        connection.is_muted = False
        connection.flush()

    channel = open_channel(serve(script).endpoint)
    assert channel.unary(PATH, b'x', in_time()) == b'x'
    settle()
    pieces: list[bytes] = []
    take = channel._connection.outgoing

    def outgoing() -> bytes:
        data = take()
        if data:
            pieces.append(data)
        return data

    channel._connection.outgoing = outgoing
    for number in range(1, 11):
        assert channel.unary(PATH, b'x', in_time()) == b'x'
        assert len(pieces) == number
    wait_until(lambda: len(pieces) == 11)  # without a next call it is sent by itself
    assert pieces[-1] == encode_frame(FrameType.PING, 1, 0, b'measured')


def test_other_greenlets_run_during_a_fast_stream(serve, open_channel) -> None:
    def endless(call: ServerCall) -> None:
        call.head()
        for _ in range(500):
            call.data(b'\0\0\0\x27\x10' + b'm' * 10_000)
            gevent.sleep(0)
        call.trailers()

    stream = open_channel(serve(endless).endpoint).stream('/a.B/C', in_time())
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            gevent.sleep(0)

    ticker = gevent.spawn(tick)
    assert sum(1 for _ in stream) == 500
    ticker.kill()
    assert ticks >= 125
