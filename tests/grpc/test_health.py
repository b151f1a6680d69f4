"""Health checks of a connection: PINGs, silent servers, and stalls of the process."""

from __future__ import annotations

import itertools

import gevent
import gevent.socket
import pytest

from getc import timing
from getc.errors import ConnectionError, TimedOut
from getc.grpc.health import CONNECTION_IDLE_TIMEOUT
from getc.grpc.http2.frames import ErrorCode
from tests.support.grpc_calls import PATH, in_time, results, silence, start_calls

pytestmark = pytest.mark.timeout(300)


def test_silent_server_is_detected_by_a_ping(serve, open_channel, etcd_clock) -> None:
    """A call without a deadline ends within 20 s after the last received data."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 2, timeout=None)
    server.wait_for_calls(2)
    server.connection.is_muted = True
    server.connection.may_read.clear()
    etcd_clock.advance(9)
    assert not any(call.ready() for call in calls)
    etcd_clock.advance(12)
    errors = results(calls)
    assert [(type(error), error.maybe_applied) for error in errors] == [(ConnectionError, True)] * 2
    assert 'does not respond' in str(errors[0])
    server.script = lambda call: call.answer(call.receive())
    assert results(start_calls(channel, 1)) == [b'']
    assert len(server.connections) == 2


def test_timeout_without_received_data_sends_a_ping_at_once(serve, open_channel, etcd_clock) -> None:
    """A stream on the same connection ends 2 s later, long before CONNECTION_IDLE_TIMEOUT."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(1)
    server.connection.is_muted = True
    etcd_clock.advance(0.5)
    calls = start_calls(channel, 1, timeout=1)
    etcd_clock.advance(1.1)
    assert [type(error) for error in results(calls)] == [TimedOut]
    assert len(server.connection.pings) == 1
    etcd_clock.advance(1.8)
    assert not stream.is_over
    etcd_clock.advance(0.3)
    with pytest.raises(ConnectionError, match='does not respond: no data and no answer to a PING for') as caught:
        stream.receive(in_time())
    assert caught.value.is_outage
    assert not channel.is_connected


def test_timeout_with_received_data_sends_no_ping(serve, open_channel, etcd_clock) -> None:
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 2, timeout=3)
    server.wait_for_calls(2)
    etcd_clock.advance(1)
    server.calls[0].answer(b'')
    etcd_clock.advance(3)
    assert [type(value) for value in results(calls)] == [bytes, TimedOut]
    assert server.connection.pings == []


def test_probe_is_forgotten_when_data_arrive_before_its_ping(serve, open_channel, etcd_clock) -> None:
    """The PING waits for PING_GAP; the data show that the server responds."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(1)
    stream.probe()
    etcd_clock.advance(1)
    stream.probe()
    call = start_calls(channel, 1)
    server.wait_for_calls(2)
    etcd_clock.advance(1)
    server.calls[1].answer(b'')
    assert results(call) == [b'']
    etcd_clock.advance(9)
    assert len(server.connection.pings) == 1


def test_server_that_answers_pings_keeps_its_streams(serve, open_channel, etcd_clock) -> None:
    """For any number of timeouts: pings are at least 5 s apart, which etcd requires."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    stream = channel.stream(PATH, in_time())
    stream.send(b'')
    server.wait_for_calls(1)
    seen: list[float] = []
    pings = 0
    for _ in range(60):
        calls = start_calls(channel, 1, timeout=0.4)
        etcd_clock.advance(0.5)
        results(calls)
        gevent.sleep(0)
        if len(server.connection.pings) > pings:
            pings = len(server.connection.pings)
            seen.append(timing.now())
    assert not stream.is_over
    assert 3 <= len(seen) <= 7
    assert all(later - earlier >= 4.5 for earlier, later in itertools.pairwise(seen))
    stream.cancel()


def test_pings_are_half_as_frequent_after_each_complaint(serve, open_channel, etcd_clock) -> None:
    server = serve(silence)
    channel = open_channel(server.endpoint)

    def first_ping() -> int:
        count = len(server.calls)
        (call,) = start_calls(channel, 1, timeout=None)
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


def test_idle_stream_is_kept_while_the_server_answers_pings(serve, open_channel, etcd_clock) -> None:
    """For ten minutes; pings are at least 10 s apart."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 1, timeout=None)
    server.wait_for_calls(1)
    for _ in range(600):
        etcd_clock.advance(1)
    assert not calls[0].ready()
    assert 20 <= len(server.connection.pings) <= 60
    calls[0].kill()


def test_connection_without_calls_is_not_pinged(serve, open_channel, etcd_clock) -> None:
    """etcd closes connections with pings but without calls."""
    server = serve()
    channel = open_channel(server.endpoint)
    assert results(start_calls(channel, 1)) == [b'']
    for _ in range(100):
        etcd_clock.advance(1)
    assert server.connection.pings == []
    assert channel.is_connected


def test_stall_of_the_process_is_not_taken_for_silence_of_the_server(serve, open_channel, etcd_clock) -> None:
    """The answer to the ping is unread in the socket."""
    server = serve(silence)
    channel = open_channel(server.endpoint)
    calls = start_calls(channel, 1, timeout=None)
    server.wait_for_calls(1)
    connection = channel._connection
    etcd_clock.advance(CONNECTION_IDLE_TIMEOUT)
    assert connection.health.ping_sent_at is None  # sent and answered
    server.connection.is_muted = True
    etcd_clock.advance(CONNECTION_IDLE_TIMEOUT)
    assert connection.health.ping_sent_at is not None
    connection.health._checked_at -= 60
    connection.health.ping_sent_at -= 60
    connection.health._check()
    assert not calls[0].ready()
    server.connection.is_muted = False
    server.connection.flush()
    etcd_clock.advance(0)
    assert connection.health.ping_sent_at is None
    calls[0].kill()
