"""What calls that failed are told: the truth about what may have happened, and each an error of its own."""

from __future__ import annotations

import gevent
import pytest

from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, TimedOut
from getc.net.endpoint import Endpoint
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(120)

PATH = '/package.Service/Method'
REFUSING = Endpoint('http', '127.0.0.1', 1)


@pytest.mark.parametrize('window', [0, 100])
@pytest.mark.parametrize('end', ['deadline', 'cut', 'close'])
def test_write_that_was_held_back_was_not_applied(
    serve, open_channel, etcd_clock: VirtualTime, end: str, window: int
) -> None:
    """The server takes no more of it than its window allows, and does nothing before it has all of it."""
    server = serve(lambda call: [call.receive(), call.answer(b'')])
    channel = open_channel(server.endpoint)
    channel.unary(PATH, b'', Deadline(60))
    server.script = lambda call: call.is_over.wait()
    server.connection.h2.acknowledge_received_data = lambda *_: None  # no window opens again
    server.connection.settle(initial_window_size=window)
    settle()
    assert channel._link._connection._sending.stream_window == window
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
def test_write_that_has_left_whole_may_be_applied(serve, open_channel, end: str) -> None:
    """However little the server says of it, and also if it is our own client that ends it."""
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


def test_read_that_the_client_ended_is_not_said_to_be_applied(serve, open_channel) -> None:
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'', Deadline(60), is_write=False)
    server.wait_for_calls(1)
    channel.close()
    gevent.joinall([call])
    assert type(call.exception) is ClientClosed
    assert not call.exception.maybe_applied


def test_write_in_the_turn_of_the_close_was_not_applied(serve, open_channel) -> None:
    """It lies in our own queue, and goes with the connection."""
    server = serve(lambda call: call.answer(b''))
    channel = open_channel(server.endpoint)
    channel.unary(PATH, b'', Deadline(60))
    call = gevent.spawn(channel.unary, PATH, b'', Deadline(60))
    gevent.spawn(channel.close)
    gevent.joinall([call])
    assert type(call.exception) is ClientClosed
    assert not call.exception.maybe_applied
    assert len(server.calls) == 1


def test_each_call_has_an_error_of_its_own_when_the_client_is_closed(serve, open_channel) -> None:
    """Who catches one and adds to it does not do so to the others'."""
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline(60)) for _ in range(5)]
    server.wait_for_calls(5)
    channel.close()
    gevent.joinall(calls)
    assert [type(call.exception) for call in calls] == [ClientClosed] * 5
    assert len({id(call.exception) for call in calls}) == 5


def test_each_call_has_an_error_of_its_own_when_there_is_no_connection(open_channel) -> None:
    """They waited for one attempt; each knows what the system said."""
    channel = open_channel(REFUSING)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline(60)) for _ in range(5)]
    gevent.joinall(calls)
    assert [type(call.exception) for call in calls] == [ConnectionRefused] * 5
    assert len({id(call.exception) for call in calls}) == 5
    assert {type(call.exception.__cause__) for call in calls} == {ConnectionRefusedError}
    assert {call.exception.endpoint for call in calls} == {REFUSING.url}
