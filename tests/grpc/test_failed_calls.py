"""Errors of failed calls: maybe_applied, and a separate error for each call."""

from __future__ import annotations

import gevent
import pytest

from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, TimedOut
from getc.net.endpoint import Endpoint
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(300)

PATH = '/package.Service/Method'
REFUSING = Endpoint('http', '127.0.0.1', 1)


@pytest.mark.parametrize('window', [0, 100])
@pytest.mark.parametrize('end', ['deadline', 'cut', 'close'])
def test_write_with_unsent_data_was_not_applied(
    serve, open_channel, etcd_clock: VirtualTime, end: str, window: int
) -> None:
    """The window of the server is too small, and a server processes complete requests only."""
    server = serve(lambda call: [call.receive(), call.answer(b'')])
    channel = open_channel(server.endpoint)
    channel.unary(PATH, b'', Deadline(60))
    server.script = lambda call: call.is_over.wait()
    server.connection.h2.acknowledge_received_data = lambda *_: None  # no window grows again
    server.connection.settle(initial_window_size=window)
    settle()
    assert channel._connection._http2._sending.stream_window == window
    sizes = (2000, 5000) if window else (0, 5000)
    calls = [gevent.spawn(channel.unary, PATH, b'x' * size, Deadline(60)) for size in sizes]
    server.wait_for_calls(3)
    if end == 'cut':
        server.connection.cut()
    elif end == 'close':
        channel.close()
    else:
        etcd_clock.advance(60.1)
    gevent.joinall(calls)
    kind = {'deadline': TimedOut, 'cut': ConnectionError, 'close': ClientClosed}[end]
    assert [type(call.exception) for call in calls] == [kind] * 2
    assert not any(call.exception.maybe_applied for call in calls)


@pytest.mark.parametrize('end', ['cut', 'close'])
def test_write_that_was_sent_may_be_applied(serve, open_channel, end: str) -> None:
    """Also if the client itself ends the call."""
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'x' * 2000, Deadline(60))
    server.wait_for_calls(1)
    if end == 'cut':
        server.connection.cut()
    else:
        channel.close()
    gevent.joinall([call])
    assert type(call.exception) is {'cut': ConnectionError, 'close': ClientClosed}[end]
    assert (call.exception.maybe_applied, call.exception.endpoint) == (True, server.endpoint.url)


def test_maybe_applied_is_false_for_a_read(serve, open_channel) -> None:
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'', Deadline(60), is_write=False)
    server.wait_for_calls(1)
    channel.close()
    gevent.joinall([call])
    assert type(call.exception) is ClientClosed
    assert not call.exception.maybe_applied


def test_write_in_the_iteration_of_close_was_not_applied(serve, open_channel) -> None:
    """It is dropped with the outgoing data."""
    server = serve(lambda call: call.answer(b''))
    channel = open_channel(server.endpoint)
    channel.unary(PATH, b'', Deadline(60))
    call = gevent.spawn(channel.unary, PATH, b'', Deadline(60))
    gevent.spawn(channel.close)
    gevent.joinall([call])
    assert type(call.exception) is ClientClosed
    assert not call.exception.maybe_applied
    assert len(server.calls) == 1


def test_close_raises_a_separate_error_for_each_call(serve, open_channel) -> None:
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline(60)) for _ in range(5)]
    server.wait_for_calls(5)
    channel.close()
    gevent.joinall(calls)
    assert [type(call.exception) for call in calls] == [ClientClosed] * 5
    assert len({id(call.exception) for call in calls}) == 5


def test_failed_attempt_raises_a_separate_error_for_each_call(open_channel) -> None:
    """Each has the error of the system as its cause."""
    channel = open_channel(REFUSING)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline(60)) for _ in range(5)]
    gevent.joinall(calls)
    assert [type(call.exception) for call in calls] == [ConnectionRefused] * 5
    assert len({id(call.exception) for call in calls}) == 5
    assert {type(call.exception.__cause__) for call in calls} == {ConnectionRefusedError}
    assert {call.exception.endpoint for call in calls} == {REFUSING.url}
