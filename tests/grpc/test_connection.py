"""One connection: what ends it, what does not, and what its calls are told."""

from __future__ import annotations

import itertools
import logging
import ssl

import gevent
import gevent.socket
import pytest
from gevent.event import Event

from getc import timing
from getc.errors import ConnectionError, EtcException, ProtocolError, TimedOut
from getc.grpc import connection as links
from getc.grpc.http2.frames import MAX_STREAM_ID, ErrorCode, FrameType, Setting, encode_frame, encode_settings
from getc.testing import wait_until
from getc.timing import Deadline
from tests.support.grpc_server import ServerCall
from tests.support.settling import settle

PATH = '/etcdserverpb.KV/Put'

pytestmark = pytest.mark.timeout(120)


def in_time() -> Deadline:
    """A deadline that is not meant to pass."""
    return Deadline.after(60)


def silence(call: ServerCall) -> None:
    """No answer, ever."""
    call.is_over.wait()


def spawned(channel, count: int, *, timeout: float | None = 60, message: bytes = b'') -> list[gevent.Greenlet]:
    """So many writes at once; each greenlet's value is the answer or the error."""

    def call() -> object:
        try:
            return channel.unary(PATH, message, Deadline.after(timeout))
        except EtcException as error:
            return error

    return [gevent.spawn(call) for _ in range(count)]


def values(calls: list[gevent.Greenlet]) -> list[object]:
    """What became of them; none may hang."""
    gevent.joinall(calls, timeout=60)
    assert all(call.ready() for call in calls)
    return [call.value for call in calls]


# -- going away


def test_goaway_refuses_streams_above_the_last_and_lets_the_others_end(serve, open_channel) -> None:
    """Those were not taken; the next call is on another connection, and this one ends with its last call."""
    go = Event()

    def script(call: ServerCall) -> None:
        go.wait()
        if call not in server.calls[4:6]:
            call.answer(b'well')

    server = serve(script)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 6)
    server.wait_for_calls(6)
    old = channel._link
    server.connection.goaway(server.calls[3].stream_id)
    refused = values(calls[4:])
    assert [(type(error), error.maybe_applied) for error in refused] == [(ConnectionError, False)] * 2
    assert channel._link is not old
    assert not channel.is_connected
    more = spawned(channel, 1)
    server.wait_for_calls(7)
    go.set()
    assert values(calls[:4] + more) == [b'well'] * 5
    assert len(server.connections) == 2
    wait_until(lambda: old not in channel._links)
    server.connections[0].client_left.wait()


def test_goaway_twice_takes_streams_back(serve, open_channel) -> None:
    """A server that is about to leave says so first, and then with which stream it ends."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 3)
    server.wait_for_calls(3)
    server.connection.goaway(2**31 - 1)
    wait_until(lambda: not channel.is_connected)
    assert not any(call.ready() for call in calls)
    server.connection.goaway(1)
    assert [error.maybe_applied for error in values(calls[1:])] == [False, False]
    server.connection.cut()
    assert values(calls[:1])[0].maybe_applied


def test_goaway_of_an_error_is_told_of(serve, open_channel, caplog) -> None:
    """Such as too many pings; a link without calls is over at once."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    with caplog.at_level(logging.WARNING, 'getc'):
        server.connection.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings')
        server.connection.client_left.wait()
    assert 'too_many_pings' in caplog.text
    assert values(spawned(channel, 1)) == [b'']
    assert len(server.connections) == 2


def test_goaway_refuses_calls_that_wait_for_a_stream(serve, open_channel) -> None:
    """They were never sent."""
    server = serve(lambda call: call.answer(call.receive()), max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    server.script = silence
    calls = spawned(channel, 5)
    server.wait_for_calls(2)
    settle()
    assert len(server.calls) == 2
    server.connection.goaway(server.calls[-1].stream_id)
    assert [error.maybe_applied for error in values(calls[1:])] == [False] * 4
    server.connection.cut()
    values(calls)


# -- how many in all


def test_calls_go_on_over_another_connection_when_all_stream_numbers_are_used(serve, open_channel) -> None:
    """There are 2**30 of a connection; it ends with the last of its calls, and no call is lost."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    old = channel._link
    old._connection._receiving.last_id = MAX_STREAM_ID - 4
    for number in range(4):
        assert values(spawned(channel, 1, message=b'%d' % number)) == [b'%d' % number]
        assert (channel._link is old) is (number == 0)
    assert [call.stream_id for call in server.calls] == [1, MAX_STREAM_ID - 2, MAX_STREAM_ID, 1, 3]
    assert old not in channel._links
    server.connections[0].client_left.wait()


def test_calls_that_wait_for_a_stream_are_refused_when_all_numbers_are_used(serve, open_channel) -> None:
    """They were never sent, and the next call is on another connection at once."""
    go = Event()

    def script(call: ServerCall) -> None:
        if call.stream_id > 1:
            go.wait()
        call.answer(b'')

    server = serve(script, max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    channel._link._connection._receiving.last_id = MAX_STREAM_ID - 4
    calls = spawned(channel, 5)
    server.wait_for_calls(2)
    go.set()
    assert values(calls[:2]) == [b'', b'']
    refused = values(calls[2:])
    assert [(type(error), error.maybe_applied) for error in refused] == [(ConnectionError, False)] * 3
    assert values(spawned(channel, 1)) == [b'']
    assert len(server.connections) == 2


# -- how many at a time


def test_calls_take_turns_when_the_server_allows_one_stream(serve, open_channel) -> None:
    """In their order, and each is answered; one that gives up leaves the queue unsent."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']  # the settings have come
    busy: list[int] = []
    go = Event()

    def script(call: ServerCall) -> None:
        busy.append(sum(not each.is_over.is_set() for each in server.calls[1:]))
        message = call.receive()
        go.wait()
        call.is_over.set()
        call.answer(message)

    server.script = script
    calls = [call for number in range(50) for call in spawned(channel, 1, message=b'%d' % number)]
    gevent.sleep(0)
    calls[10].kill()
    (error,) = values(spawned(channel, 1, timeout=0.01))
    assert isinstance(error, TimedOut)
    assert not error.maybe_applied
    go.set()
    assert values(calls)[:10] == [b'%d' % number for number in range(10)]
    assert values(calls)[11:] == [b'%d' % number for number in range(11, 50)]
    assert max(busy) == 1
    assert len(server.calls) == 50  # one before, and 49 of those


def test_calls_begin_when_the_server_allows_streams_at_last(serve, open_channel) -> None:
    """None at first, then some."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    server.connection.settle(max_concurrent_streams=0)
    settle()
    calls = spawned(channel, 10, message=b'x')
    stream = channel.stream('/a.B/C', in_time())
    stream.send(b'one')
    stream.send(b'two')
    settle()
    assert len(server.calls) == 1
    assert channel._link.calls == 11
    server.connection.settle(max_concurrent_streams=2)
    assert values(calls) == [b'x'] * 10
    server.wait_for_calls(12)
    assert stream.receive(in_time()) == b'one'


def test_many_calls_that_wait_for_a_stream_end_together(serve, open_channel) -> None:
    """10,000 of them time out without being sent, and without work for each pair of them."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    server.connection.settle(max_concurrent_streams=0)
    settle()
    calls = spawned(channel, 10_000, timeout=0.5)
    errors = values(calls)
    assert {(type(error), error.maybe_applied) for error in errors} == {(TimedOut, False)}
    assert channel._link.calls == 0


# -- windows


def test_large_messages_pass_through_tiny_windows(serve, open_channel) -> None:
    """A server that takes 10 bytes of a stream at a time gets them all."""
    server = serve(initial_window_size=10)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']  # the settings have come
    assert values(spawned(channel, 3, message=b'x' * 3000)) == [b'x' * 3000] * 3


def test_calls_end_when_the_server_never_reads(serve, open_channel, etcd_clock) -> None:
    """The writer is stuck in its socket: calls time out, and what is queued may still leave, whole, and be done."""
    server = serve(initial_window_size=2**30)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    server.connection.h2.increment_flow_control_window(2**30)
    server.connection.flush()
    etcd_clock.advance(0)
    server.connection.goes_on.clear()
    large = spawned(channel, 200, timeout=2, message=b'x' * 100_000)
    etcd_clock.advance(0)
    assert channel._link._wire.is_sending
    late = spawned(channel, 10, timeout=1)
    etcd_clock.advance(2.1)
    assert all(isinstance(error, TimedOut) for error in values(large + late))
    assert all(error.maybe_applied for error in values(late))
    assert channel._link.calls == 0
    begun = len(server.calls)
    server.connection.goes_on.set()
    assert values(spawned(channel, 1, message=b'again')) == [b'again']
    assert len(server.calls) - begun >= len(late)


def test_call_that_is_queued_when_the_peer_breaks_a_rule_may_be_done(serve, open_channel) -> None:
    """It leaves with the word about the rule, and who reads that may do it before."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    spawned(channel, 1)
    server.wait_for_calls(1)
    link = channel._link
    link._wire.is_sending = True  # as in the middle of a turn
    calls = spawned(channel, 2)
    gevent.sleep(0)
    link.on_end(ProtocolError('HTTP/2: a rule'))
    assert [(type(error), error.maybe_applied) for error in values(calls)] == [(ProtocolError, True)] * 2
    server.wait_for_calls(3)


# -- whether the peer is there


def test_silent_peer_is_found_by_a_ping(serve, open_channel, etcd_clock) -> None:
    """A call without a deadline ends within 20 s of the last sign of life, and the next one connects anew."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 2, timeout=None)
    server.wait_for_calls(2)
    server.connection.is_mute = True
    server.connection.goes_on.clear()
    etcd_clock.advance(9)
    assert not any(call.ready() for call in calls)
    etcd_clock.advance(12)
    errors = values(calls)
    assert [(type(error), error.maybe_applied) for error in errors] == [(ConnectionError, True)] * 2
    assert 'does not answer' in str(errors[0])
    server.script = lambda call: call.answer(call.receive())
    assert values(spawned(channel, 1)) == [b'']
    assert len(server.connections) == 2


def test_call_that_times_out_in_silence_has_the_peer_asked_at_once(serve, open_channel, etcd_clock) -> None:
    """A stream on the same connection ends 2 s later, long before its own silence would have been noticed."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(1)
    server.connection.is_mute = True
    etcd_clock.advance(0.5)
    calls = spawned(channel, 1, timeout=1)
    etcd_clock.advance(1.1)
    assert [type(error) for error in values(calls)] == [TimedOut]
    assert len(server.connection.pings) == 1
    etcd_clock.advance(1.8)
    assert not stream.is_over
    etcd_clock.advance(0.3)
    with pytest.raises(ConnectionError, match='does not answer: silent for') as caught:
        stream.receive(in_time())
    assert caught.value.is_outage
    assert not channel.is_connected


def test_call_that_times_out_while_the_peer_speaks_sends_no_ping(serve, open_channel, etcd_clock) -> None:
    """Something has come since it was sent: the peer is there."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 2, timeout=3)
    server.wait_for_calls(2)
    etcd_clock.advance(1)
    server.calls[0].answer(b'')
    etcd_clock.advance(3)
    assert [type(value) for value in values(calls)] == [bytes, TimedOut]
    assert server.connection.pings == []


def test_peer_that_answers_the_ping_keeps_its_streams(serve, open_channel, etcd_clock) -> None:
    """However many calls time out: pings are at least 5 s apart, or etcd would take them for an attack."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(1)
    seen: list[float] = []
    pings = 0
    for _ in range(60):
        calls = spawned(channel, 1, timeout=0.4)
        etcd_clock.advance(0.5)
        values(calls)
        gevent.sleep(0)
        if len(server.connection.pings) > pings:
            pings = len(server.connection.pings)
            seen.append(timing.now())
    assert not stream.is_over
    assert 3 <= len(seen) <= 7
    assert all(later - earlier >= 4.5 for earlier, later in itertools.pairwise(seen))
    stream.cancel()


def test_pings_are_half_as_frequent_after_a_server_complained(serve, open_channel, etcd_clock) -> None:
    """On the next connection, and once more after the next complaint."""
    server = serve(silence)
    channel = open_channel(server.endpoint)

    def first_ping() -> int:
        count = len(server.calls)
        (call,) = spawned(channel, 1, timeout=None)
        server.wait_for_calls(count + 1)
        seconds = 0
        while not server.connection.pings:
            etcd_clock.advance(1)
            seconds += 1
        server.connection.goaway(1, ErrorCode.ENHANCE_YOUR_CALM, b'too_many_pings')
        etcd_clock.advance(0.1)
        assert not channel.is_connected
        call.kill()
        return seconds

    seconds = [first_ping() for _ in range(3)]
    assert [round(second / 10) for second in seconds] == [1, 2, 4]


def test_call_that_finds_no_stream_says_which_limit_is_too_low(serve, open_channel, caplog) -> None:
    """A stream that stays open uses the only one that the server allows."""
    server = serve(max_concurrent_streams=1)
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    server.script = silence
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(2)
    errors = values(spawned(channel, 2, timeout=0.05))
    gevent.sleep(0)
    for error in errors:
        assert type(error) is TimedOut
        assert 'allows 1 streams at a time, and all are in use (SETTINGS_MAX_CONCURRENT_STREAMS' in str(error)
        assert not error.maybe_applied
    assert caplog.text.count('streams that stay open use all of them') == 1
    stream.cancel()


def test_quiet_peer_that_answers_pings_is_left_alone(serve, open_channel, etcd_clock) -> None:
    """Ten minutes without a message; pings are at least 10 s apart, as etcd wants it."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 1, timeout=None)
    server.wait_for_calls(1)
    for _ in range(600):
        etcd_clock.advance(1)
    assert not calls[0].ready()
    assert 20 <= len(server.connection.pings) <= 60
    calls[0].kill()


def test_idle_connection_is_not_pinged(serve, open_channel, etcd_clock) -> None:
    """etcd takes pings without a call for an attack."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert values(spawned(channel, 1)) == [b'']
    for _ in range(100):
        etcd_clock.advance(1)
    assert server.connection.pings == []
    assert channel.is_connected


def test_stall_of_our_own_is_not_taken_for_the_peers(serve, open_channel, etcd_clock) -> None:
    """The process did not run for a minute: the answer to the ping lies in the socket, unread."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 1, timeout=None)
    server.wait_for_calls(1)
    link = channel._link
    etcd_clock.advance(links.IDLE_TIMEOUT)
    assert link._asked_at is None  # asked, and answered
    server.connection.is_mute = True
    etcd_clock.advance(links.IDLE_TIMEOUT)
    assert link._asked_at is not None
    link._looked_at -= 60
    link._asked_at -= 60
    link._look()
    assert not calls[0].ready()
    server.connection.is_mute = False
    server.connection.flush()
    etcd_clock.advance(0)
    assert link._asked_at is None
    calls[0].kill()


# -- junk

SETTINGS = encode_frame(FrameType.SETTINGS, 0, 0, b'')

JUNK = {
    'HTTP/1': b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n',
    'zeros': b'\0' * 100,
    'a huge frame': SETTINGS + b'\xff\xff\xff\0\0\0\0\0\1',
    'data of no stream': SETTINGS + encode_frame(FrameType.DATA, 0, 99, b'x'),
    'a push': SETTINGS + encode_frame(FrameType.PUSH_PROMISE, 4, 1, b'\0\0\0\2'),
    'a bad block': SETTINGS + encode_frame(FrameType.HEADERS, 4, 1, b'\xff\xff\xff\xff\xff'),
    'a bad setting': encode_frame(FrameType.SETTINGS, 0, 0, encode_settings({Setting.INITIAL_WINDOW_SIZE: 2**31})),
}


@pytest.mark.parametrize('junk', JUNK)
def test_junk_ends_the_connection_with_a_protocol_error(serve, open_channel, junk: str) -> None:
    """Every call is told, the peer too, and the next call begins anew."""
    heard: list[bytes] = []

    def speak(sock: gevent.socket.socket) -> None:
        while b'PRI' not in b''.join(heard):
            heard.append(sock.recv(65_536))
        sock.sendall(JUNK[junk])
        while data := sock.recv(65_536):
            heard.append(data)

    channel = open_channel(serve(on_connect=speak).endpoint)
    for _ in range(2):
        errors = values(spawned(channel, 3))
        assert {type(error) for error in errors} <= {ProtocolError, ConnectionError}
        assert ProtocolError in {type(error) for error in errors}
        assert all(error.maybe_applied for error in errors if isinstance(error, ProtocolError))
        assert not channel.is_connected
    wait_until(lambda: b''.join(heard).count(encode_frame(FrameType.GOAWAY, 0, 0, b'\0' * 8)[:4]) == 2)


def test_answer_in_http1_is_known_for_one_when_it_comes_in_pieces(serve, open_channel) -> None:
    """The server has not spoken then: the next attempt is not made at once."""

    def speak(sock: gevent.socket.socket) -> None:
        for piece in (b'H', b'TTP/', b'1.1 400 Bad Request\r\n\r\n'):
            sock.sendall(piece)
            settle()
        sock.recv(65_536)

    channel = open_channel(serve(on_connect=speak).endpoint)
    (error,) = values(spawned(channel, 1))
    assert isinstance(error, ProtocolError) and 'an answer in HTTP/1' in str(error)
    assert channel._next_attempt_at > 0


def test_server_has_spoken_when_its_first_frame_is_whole(serve, open_channel) -> None:
    """However small the pieces in which it comes."""
    go = Event()

    def speak(sock: gevent.socket.socket) -> None:
        for byte in SETTINGS[:-1]:
            sock.sendall(bytes([byte]))
            gevent.sleep(0)
        go.wait()
        sock.sendall(SETTINGS[-1:])
        while sock.recv(65_536):
            pass

    channel = open_channel(serve(on_connect=speak).endpoint)
    calls = spawned(channel, 1, timeout=None)
    wait_until(lambda: channel.is_connected and len(channel._link._connection._tail) == len(SETTINGS) - 1)
    assert not channel._link.has_spoken
    go.set()
    wait_until(lambda: channel._link.has_spoken)
    calls[0].kill()


@pytest.mark.parametrize('missing', [1, 2, 5, 12, 20, 30, 40, 50, 1000])
def test_connection_cut_at_any_point_ends_the_call(serve, open_channel, missing: int) -> None:
    """Whatever of the answer has come: no answer, and a write may have happened."""

    def cut(call: ServerCall) -> None:
        connection = call.connection
        message = call.receive()
        connection.is_mute = True
        call.answer(message)
        connection.raw(connection.h2.data_to_send()[:-missing])
        connection.cut()

    server = serve(cut)
    channel = open_channel(server.endpoint)
    for number in (1, 2):
        (error,) = values(spawned(channel, 1, message=b'x' * 20))
        assert type(error) is ConnectionError
        assert error.maybe_applied
        assert not channel.is_connected
        assert len(server.connections) == number


def test_call_is_ended_when_the_wire_is_given_up(serve, open_channel) -> None:
    """Whatever strikes where its bytes are read: no call hangs, and the next one is on another connection."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    for number, error in enumerate((MemoryError(), gevent.GreenletExit()), 1):
        calls = spawned(channel, 2, timeout=None)
        server.wait_for_calls(2 * number)
        channel._link.on_end(error)
        assert all(isinstance(error, ConnectionError) and error.maybe_applied for error in values(calls))
        assert not channel.is_connected


@pytest.mark.parametrize('has_answered', [False, True])
def test_alert_means_that_nothing_was_looked_at_before_the_first_answer_only(serve, open_channel, has_answered) -> None:
    """It ends a handshake there.  Later a box on the way may say it, when the server has done what was asked."""
    server = serve(silence) if has_answered else serve(on_connect=lambda sock: gevent.sleep(30))
    channel = open_channel(server.endpoint)
    calls = spawned(channel, 1)
    wait_until(lambda: channel.is_connected and channel._link._sent_id and channel._link.has_spoken is has_answered)
    alert = ssl.SSLError(1, 'tlsv1 alert access denied')
    alert.reason = 'TLSV1_ALERT_ACCESS_DENIED'
    channel._link.on_end(alert)
    (error,) = values(calls)
    assert type(error) is ConnectionError
    assert error.maybe_applied is has_answered


def test_log_that_blocks_holds_nobody_up(serve, open_channel) -> None:
    """A handler of the program's may wait, even for this connection's other calls; it never runs in the hub."""
    seen: list[str] = []

    class Blocking(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            gevent.sleep(0.001)
            seen.append(record.getMessage())

    def speak(sock: gevent.socket.socket) -> None:
        sock.sendall(JUNK['a bad setting'])
        while sock.recv(65_536):
            pass

    handler = Blocking()
    log = logging.getLogger('getc')
    log.addHandler(handler)
    try:
        (error,) = values(spawned(open_channel(serve(on_connect=speak).endpoint), 1))
        assert isinstance(error, ProtocolError)
        wait_until(lambda: seen)
    finally:
        log.removeHandler(handler)
    assert str(error).partition(' (')[0] in seen[0]


def test_many_calls_of_a_turn_leave_a_few_at_a_time(serve, open_channel) -> None:
    """The server is at work on the first while the last begin; few leave together at the end of the turn."""
    channel = open_channel(serve().endpoint)
    assert channel.unary(PATH, b'x', in_time()) == b'x'
    begun: list[int] = []
    take = channel._link.outgoing

    def outgoing() -> bytes:
        before = channel._link._sent_id
        data = take()
        if data:
            begun.append((channel._link._sent_id - before) // 2)
        return data

    channel._link.outgoing = outgoing
    size = 2 * links.MAX_BATCH + 1
    callers = [gevent.spawn(channel.unary, PATH, b'%d' % number, in_time()) for number in range(size)]
    gevent.joinall(callers)
    assert [caller.value for caller in callers] == [b'%d' % number for number in range(size)]
    assert begun[:3] == [links.MAX_BATCH, links.MAX_BATCH, 1]


def test_answer_to_a_ping_leaves_with_the_next_call(serve, open_channel) -> None:
    """etcd measures the line with a PING beside each answer: an answer of its own would double what is sent."""

    def script(call: ServerCall) -> None:
        connection, message = call.connection, call.receive()
        connection.is_mute = True
        connection.h2.ping(b'measured')
        call.answer(message)
        connection.is_mute = False
        connection.flush()

    channel = open_channel(serve(script).endpoint)
    assert channel.unary(PATH, b'x', in_time()) == b'x'
    settle()
    pieces: list[bytes] = []
    take = channel._link.outgoing

    def outgoing() -> bytes:
        data = take()
        if data:
            pieces.append(data)
        return data

    channel._link.outgoing = outgoing
    for number in range(1, 11):
        assert channel.unary(PATH, b'x', in_time()) == b'x'
        assert len(pieces) == number
    wait_until(lambda: len(pieces) == 11)  # without a next call it is answered all the same
    assert pieces[-1] == encode_frame(FrameType.PING, 1, 0, b'measured')


def test_reader_lets_others_run_while_much_comes(serve, open_channel) -> None:
    """A stream as fast as it can be does not hold the hub: a ticker keeps its share of the turns."""

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
