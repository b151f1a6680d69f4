"""The connection of a channel: attempts to connect, loss, closing, TLS, threads and forks."""

from __future__ import annotations

import gc
import random
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent.event import Event

from getc.errors import ClientClosed, ConnectionError, ConnectionRefused, EtcException, TimedOut
from getc.grpc import channel as channels
from getc.grpc.call import Call
from getc.grpc.connection import GrpcConnection
from getc.grpc.http2.frames import PREFACE, FrameType, encode_frame
from getc.net.endpoint import Endpoint
from getc.net.resolver import get_resolver
from getc.net.tls import TLS
from getc.testing import wait_until
from getc.timing import Backoff, Deadline
from tests.support.grpc_calls import in_time, results
from tests.support.grpc_server import ServerCall
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import greenlets_of_getc
from tests.support.servers import serving
from tests.support.settling import settle

PATH = '/etcdserverpb.KV/Range'
REFUSING = Endpoint('http', '127.0.0.1', 1)

pytestmark = pytest.mark.timeout(300)


class Attempts:
    """Replaces ``connect``: counts the attempts, waits, and raises the given errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: OSError | None = None) -> None:
        self.times: list[float] = []
        self.error = error
        self.go = Event()
        self._connect = channels.connect
        monkeypatch.setattr(channels, 'connect', self)

    def __call__(self, *args: object, **options: object) -> object:
        self.times.append(channels.timing.now())
        self.go.wait()
        if self.error is not None:
            raise self.error
        return self._connect(*args, **options)  # type: ignore[arg-type]


# -- attempts


def test_attempt_is_shared_by_all_waiting_calls(serve, open_channel, monkeypatch) -> None:
    """100 calls, one connection; the first call is killed, another one times out, the others succeed."""
    attempts = Attempts(monkeypatch)
    server = serve()
    channel = open_channel(server.endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'x', in_time()) for _ in range(100)]
    hasty = gevent.spawn(channel.unary, PATH, b'x', Deadline.after(0.01))
    wait_until(lambda: attempts.times)
    calls[0].kill()
    wait_until(hasty.ready)
    assert isinstance(hasty.exception, TimedOut)
    assert not hasty.exception.maybe_applied
    assert not any(call.ready() for call in calls[1:])
    attempts.go.set()
    assert results(calls[1:]) == [b'x'] * 99
    assert len(attempts.times) == len(server.connections) == 1
    assert len(server.calls) == 99


def test_attempt_that_was_killed_before_it_ran_is_repeated(serve, open_channel) -> None:
    """gevent.killall of a program kills every greenlet."""
    channel = open_channel(serve().endpoint)
    with killing_next_greenlet():
        assert channel.unary(PATH, b'x', Deadline(5)) == b'x'


def test_refused_attempt_fails_all_waiting_calls(open_channel) -> None:
    channel = open_channel(REFUSING)
    calls = [gevent.spawn(channel.unary, PATH, b'x', in_time()) for _ in range(20)]
    errors = results(calls)
    assert {type(error) for error in errors} == {ConnectionRefused}
    assert not any(error.maybe_applied for error in errors)
    assert {error.endpoint for error in errors} == {'http://127.0.0.1:1'}
    with pytest.raises(ConnectionRefused):
        channel.stream(PATH, in_time())


class Latest(random.Random):
    """Draws the upper bound."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_delay_between_attempts_grows_and_is_reset_by_a_response(serve, open_channel, monkeypatch, etcd_clock) -> None:
    """The bound is one second."""
    attempts = Attempts(monkeypatch, ConnectionRefusedError())
    attempts.go.set()
    server = serve()
    channel = open_channel(server.endpoint)
    channel._backoff = Backoff(rng=Latest())

    def fail(count: int) -> list[float]:
        del attempts.times[:]
        for _ in range(count):
            call = gevent.spawn(channel.unary, PATH, b'', Deadline.after(None))
            while not call.ready():
                etcd_clock.advance(0.01)
            assert isinstance(call.exception, ConnectionRefused)
        return [later - earlier for earlier, later in zip(attempts.times, attempts.times[1:], strict=False)]

    gaps = fail(10)
    assert gaps == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1, 1, 1, 1], abs=0.011)
    attempts.error = None
    call = gevent.spawn(channel.unary, PATH, b'', Deadline.after(None))
    while not server.connections:
        etcd_clock.advance(0.01)
    assert call.get() == b''
    server.connection.cut()
    etcd_clock.advance(0)
    attempts.error = ConnectionRefusedError()
    assert fail(3) == pytest.approx([0.05, 0.1], abs=0.011)


def test_call_times_out_without_an_attempt_when_the_back_off_is_longer(open_channel, monkeypatch, etcd_clock) -> None:
    attempts = Attempts(monkeypatch, ConnectionRefusedError())
    attempts.go.set()
    channel = open_channel(REFUSING)
    with pytest.raises(ConnectionRefused):
        channel.unary(PATH, b'', Deadline.after(5))
    channel._next_attempt_at = channels.timing.now() + 1
    call = gevent.spawn(channel.unary, PATH, b'', Deadline.after(0.5))
    etcd_clock.advance(0.6)
    assert isinstance(call.exception, TimedOut)
    assert len(attempts.times) == 1


def test_attempt_times_out_after_connect_timeout(open_channel, monkeypatch, etcd_clock) -> None:
    """Also for calls without a deadline."""
    attempts = Attempts(monkeypatch)
    channel = open_channel(REFUSING)
    call = gevent.spawn(channel.unary, PATH, b'', Deadline.after(None))
    etcd_clock.advance(9.9)
    assert not call.ready()
    etcd_clock.advance(0.2)
    assert isinstance(call.exception, TimedOut)
    assert len(attempts.times) == 1


def test_unexpected_exception_of_an_attempt_is_a_connection_error(open_channel, monkeypatch) -> None:
    attempts = Attempts(monkeypatch, RuntimeError('odd'))  # type: ignore[arg-type]
    attempts.go.set()
    with pytest.raises(ConnectionError, match='RuntimeError'):
        open_channel(REFUSING).unary(PATH, b'', in_time())


def test_connection_is_opened_again_after_it_was_lost(serve, open_channel) -> None:
    server = serve()
    channel = open_channel(server.endpoint)
    assert repr(channel).endswith('not connected>')
    for number in range(1, 6):
        assert channel.unary(PATH, b'x', in_time()) == b'x'
        assert repr(channel) == f'<getc.grpc.channel.Channel {server.endpoint.url} connected>'
        assert len(server.connections) == number
        server.connection.cut()
        wait_until(lambda: not channel.is_connected)


def test_close_idle_closes_connections_without_calls_only(serve, open_channel) -> None:
    server = serve(lambda call: [call.receive() == b'wait' and go.wait(), call.answer(b'')])
    go = Event()
    channel = open_channel(server.endpoint)
    channel.close_idle()
    call = gevent.spawn(channel.unary, PATH, b'wait', in_time())
    server.wait_for_calls(1)
    channel.close_idle()
    assert channel.is_connected
    go.set()
    assert call.get() == b''
    channel.close_idle()
    assert not channel.is_connected
    assert channel.unary(PATH, b'', in_time()) == b''
    assert len(server.connections) == 2


def test_retire_ends_open_streams_and_lets_calls_and_reads_finish(serve, open_channel) -> None:
    """The connection is closed after the last of them, and a new call is not sent."""
    go = Event()
    server = serve(lambda call: [call.receive() == b'wait' and go.wait(), call.answer(b'done')])
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'wait', in_time())
    server.wait_for_calls(1)
    stream = channel.stream(PATH, in_time())
    stream.send(b'wait')
    server.wait_for_calls(2)
    read = channel.stream(PATH, in_time())
    read.send(b'wait')
    read.finish()
    server.wait_for_calls(3)
    (connection,) = channel._connections
    channel.retire()
    assert not channel.is_idle and not call.ready()
    with pytest.raises(ConnectionError, match='was removed from the endpoints of the client') as caught:
        stream.receive(in_time())
    assert not caught.value.is_outage
    wait_until(lambda: server.calls[1].reset_code is not None)
    with pytest.raises(ConnectionError, match='was removed') as caught:
        channel.unary(PATH, b'x', in_time())
    assert not caught.value.maybe_applied and len(server.calls) == 3
    go.set()
    assert (call.get(), read.receive(in_time()), read.receive(in_time())) == (b'done', b'done', None)
    assert channel.is_idle
    wait_until(lambda: connection._io._sock.fileno() == -1)
    assert repr(channel).endswith('closed>')


def test_retire_ends_calls_that_wait_for_a_connection(serve, open_channel, monkeypatch) -> None:
    """Without having sent them, so that another server is called."""
    attempts = Attempts(monkeypatch)
    channel = open_channel(serve().endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'', in_time()) for _ in range(2)]
    wait_until(lambda: attempts.times)
    channel.retire()
    for error in results(calls):
        assert isinstance(error, ConnectionError) and 'was removed' in str(error) and not error.maybe_applied
    assert channel.is_idle


def test_close_ends_the_calls_of_a_retired_channel(serve, open_channel) -> None:
    server = serve(lambda call: call.is_over.wait())
    channel = open_channel(server.endpoint)
    call = gevent.spawn(channel.unary, PATH, b'', in_time())
    server.wait_for_calls(1)
    channel.retire()
    channel.close()
    (error,) = results([call])
    assert isinstance(error, ClientClosed) and channel.is_idle


def serve_after(may_answer: Event) -> Callable[[gevent.socket.socket], None]:
    """Return a handler that sends SETTINGS once the event is set."""

    def handle(sock: gevent.socket.socket) -> None:
        may_answer.wait()
        sock.sendall(encode_frame(FrameType.SETTINGS, 0, 0, b''))
        while sock.recv(65_536):
            pass

    return handle


def test_close_idle_keeps_a_connection_whose_settings_a_call_waits_for(open_channel) -> None:
    may_answer = Event()
    with serving(serve_after(may_answer)) as endpoint:
        channel = open_channel(endpoint)
        call = gevent.spawn(channel.unary, PATH, b'', in_time(), needs_settings=True)
        wait_until(lambda: channel.is_connected)
        channel.close_idle()
        may_answer.set()
        settle()
        assert not call.ready()
        wait_until(lambda: channel._connection is not None and channel._connection.calls == 1)
        call.kill()
        wait_until(lambda: channel._attempt is None)
        channel.close_idle()
        assert not channel.is_connected


def test_close_before_the_settings_does_not_mark_the_address_as_bad(open_channel, monkeypatch) -> None:
    """The addresses are shared by all clients of the thread."""
    marked: list[object] = []
    monkeypatch.setattr(get_resolver(), 'mark_bad', lambda *address: marked.append(address))
    with serving(serve_after(Event())) as endpoint:
        channel = open_channel(endpoint)
        call = gevent.spawn(channel.unary, PATH, b'', in_time(), needs_settings=True)
        wait_until(lambda: channel.is_connected)
        channel.close()
        call.join()
        settle()
    assert isinstance(call.exception, ClientClosed)
    assert marked == []


# -- closing


def test_close_ends_calls_that_wait_for_a_connection(serve, open_channel, monkeypatch) -> None:
    attempts = Attempts(monkeypatch)
    channel = open_channel(serve().endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'', Deadline.after(None)) for _ in range(10)]
    wait_until(lambda: attempts.times)
    channel.close()
    channel.close()
    assert {type(error) for error in results(calls)} == {ClientClosed}
    with pytest.raises(ClientClosed):
        channel.unary(PATH, b'', in_time())
    assert repr(channel).endswith('closed>')


def test_close_in_the_iteration_of_the_connect_leaves_nothing(serve, open_channel, monkeypatch) -> None:
    """The greenlet of the attempt is killed an iteration later."""
    made: list[gevent.socket.socket] = []

    def connect(*args: object, **options: object) -> gevent.socket.socket:
        made.append(real(*args, **options))
        channel.close()
        return made[0]

    real = channels.connect
    monkeypatch.setattr(channels, 'connect', connect)
    channel = open_channel(serve().endpoint)
    with pytest.raises(ClientClosed, match='during the call'):
        channel.unary(PATH, b'', in_time())
    wait_until(lambda: made[0].fileno() == -1)
    assert channel._connections == set()


@pytest.mark.parametrize('turns', range(12))
def test_close_at_any_moment_leaves_nothing(serve, open_channel, turns: int) -> None:
    """Before, during and after the attempt, the calls and the responses."""
    channel = open_channel(serve().endpoint)
    calls = [gevent.spawn(channel.unary, PATH, b'x', Deadline.after(None)) for _ in range(5)]
    for _ in range(turns):
        gevent.sleep(0)
    channel.close()
    for value in results(calls):
        assert value == b'x' or isinstance(value, ClientClosed)


def test_lost_connections_leave_nothing(serve, open_channel) -> None:
    """No greenlets, sockets or calls, after 30 connections that ended in different ways."""

    def script(call: ServerCall) -> None:
        way = len(server.connections) % 5
        if way == 0:
            call.connection.cut()
        elif way == 1:
            call.connection.goaway(0, 2)
        elif way == 2:
            call.connection.raw(b'junk that is no frame at all')
        elif way == 3:
            call.connection.goaway(2**31 - 1)
            call.reset(2)
        else:
            call.connection.goaway(call.stream_id)
            call.answer(b'')

    server = serve(script)
    channel = open_channel(server.endpoint)
    while len(server.connections) < 30:
        try:
            channel.unary(PATH, b'', in_time())
        except EtcException:
            pass
        wait_until(lambda: not channel.is_connected)
    wait_until(lambda: not channel._connections)
    wait_until(lambda: greenlets_of_getc() == [])
    server.connections.clear()
    server.calls.clear()
    gc.collect()
    ours = [thing for thing in gc.get_objects() if isinstance(thing, (GrpcConnection, Call))]
    assert [thing for thing in ours if thing.url == server.endpoint.url] == []


# -- TLS


def secure(certificate: tuple[Path, Path], *protocols: str) -> ssl.SSLContext:
    context = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def test_tls_works_when_the_server_selects_h2(serve, open_channel, certificate) -> None:
    """Calls and large messages, in both directions at once."""
    server = serve(ssl_context=secure(certificate, 'h2', 'http/1.1'))
    channel = open_channel(server.endpoint, TLS(ca=certificate[0]).contexts('h2'))
    calls = [gevent.spawn(channel.unary, PATH, b'%d' % number * 20_000, in_time()) for number in range(10)]
    assert results(calls) == [b'%d' % number * 20_000 for number in range(10)]
    assert server.calls[0].headers[b':scheme'] == b'https'
    assert len(server.connections) == 1


@pytest.mark.parametrize('protocols', [(), ('http/1.1',)])
def test_tls_fails_when_the_server_does_not_select_h2(serve, open_channel, certificate, protocols) -> None:
    server = serve(ssl_context=secure(certificate, *protocols))
    channel = open_channel(server.endpoint, TLS(ca=certificate[0]).contexts('h2'))
    with pytest.raises(
        ConnectionError, match=r'TLS handshake with https://.* failed: the server does not support h2'
    ) as caught:
        channel.unary(PATH, b'', in_time())
    assert not caught.value.maybe_applied


def test_tls_fails_when_the_certificate_is_not_trusted(serve, open_channel, certificate) -> None:
    server = serve(ssl_context=secure(certificate, 'h2'))
    with pytest.raises(ConnectionError, match=r'the certificate of https://.* is not trusted'):
        open_channel(server.endpoint, TLS().contexts('h2')).unary(PATH, b'', in_time())


def test_tls_fails_when_the_server_does_not_use_tls(serve, open_channel) -> None:
    def serve_raw(sock: gevent.socket.socket) -> None:
        sock.recv(65_536)
        sock.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')

    server = serve(on_connect=serve_raw)
    endpoint = Endpoint('https', '127.0.0.1', server.endpoint.port)
    with pytest.raises(ConnectionError) as caught:
        open_channel(endpoint, TLS().contexts('h2')).unary(PATH, b'', in_time())
    assert not caught.value.maybe_applied


# -- programs


def test_channel_ignores_the_default_timeout_of_sockets(serve, open_channel) -> None:
    server = serve()
    channel = open_channel(server.endpoint)
    gevent.socket.setdefaulttimeout(0.01)
    try:
        assert channel.unary(PATH, b'', in_time()) == b''
    finally:
        gevent.socket.setdefaulttimeout(None)
    gevent.sleep(0.03)
    assert channel.is_connected


def test_channel_of_another_thread_raises_runtime_error(serve, open_channel) -> None:
    channel = open_channel(serve().endpoint)
    assert channel.unary(PATH, b'', in_time()) == b''
    caught: list[BaseException] = []

    def call() -> None:
        for attempt in (channel.unary, channel.stream):
            try:
                attempt(PATH, *([b''] if attempt == channel.unary else []), in_time())
            except RuntimeError as error:
                caught.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    thread.join()
    assert [str(error) for error in caught] == [
        'a client can only be used in the thread that first used it; create one client per thread'
    ] * 2
    assert channel.unary(PATH, b'', in_time()) == b''


def test_abandoned_attempt_does_not_end_the_next_one(open_channel, monkeypatch) -> None:
    """Its greenlet ends an iteration later."""
    attempts = Attempts(monkeypatch)
    channel = open_channel(REFUSING)

    def call() -> None:
        with pytest.raises(TimedOut):
            channel.unary(PATH, b'', Deadline.after(0.01))

    call()
    channel.abandon()  # as after a fork
    call()
    call()
    assert len(attempts.times) == 2


FORK = """
import os, sys
import gevent
from gevent.event import Event
from getc.timing import Deadline
from getc.grpc.channel import Channel
from tests.support.grpc_server import GrpcServer

def script(call):
    message = call.receive()
    if message == b'wait':
        go.wait()
    call.answer(message)

go = Event()
with GrpcServer(script) as server:
    channel = Channel(server.endpoint)
    assert channel.unary('/a.B/C', b'one', Deadline.after(60)) == b'one'
    waiting = gevent.spawn(channel.unary, '/a.B/C', b'wait', Deadline.after(60))
    server.wait_for_calls(2)
    theirs = server.connection.sock.getpeername()
    descriptor = channel._connection._io._sock.fileno()
    port = server.endpoint.port
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                os.fstat(descriptor)
            except OSError:
                status = 0    # the parent's connection is not held open by us
            assert status == 0
            status = 1
            server._server.close()
            if HUB:
                gevent.reinit()
                with GrpcServer(script) as own:    # the parent's server is the parent's
                    channel.endpoint = own.endpoint
                    assert not channel.is_connected
                    assert channel.unary('/a.B/C', b'two', Deadline.after(60)) == b'two'
                channel.close()
            status = 0
        finally:
            os.write(sending, b'done')
            os._exit(status)
    gevent.os.tp_read(receiving, 4)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    go.set()
    assert waiting.get() == b'wait'
    assert channel.unary('/a.B/C', b'three', Deadline.after(60)) == b'three'
    assert len(server.connections) == 1 and server.connection.broken is None
    channel.close()
print('done')
"""


@pytest.mark.parametrize('hub', [False, True], ids=['exits at once', 'runs the hub'])
def test_forked_child_does_not_use_the_connection_of_its_parent(hub: bool) -> None:
    """It closes the inherited socket without sending anything, and opens a connection of its own."""
    program = f'HUB = {hub}\nimport gevent.os\n' + FORK
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True, timeout=100)
    assert done.stdout == 'done\n', done.stderr


@pytest.mark.parametrize('needs_settings', [True, False])
def test_call_with_needs_settings_waits_for_the_settings_of_a_new_connection(
    open_channel, needs_settings: bool
) -> None:
    """Other calls are sent at once, with the SETTINGS of the client."""
    received = bytearray()
    may_read = Event()

    def read(sock: gevent.socket.socket) -> None:
        while data := sock.recv(65_536):
            received.extend(data)

    def handle(sock: gevent.socket.socket) -> None:
        reading = gevent.spawn(read, sock)
        may_read.wait()
        sock.sendall(encode_frame(FrameType.SETTINGS, 0, 0, b''))
        wait_until(lambda: b'/a/b' in received)
        reading.kill()

    with serving(handle) as endpoint:
        call = gevent.spawn(open_channel(endpoint).unary, '/a/b', b'', in_time(), needs_settings=needs_settings)
        wait_until(lambda: received.startswith(PREFACE))
        if needs_settings:
            settle()
            assert b'/a/b' not in received
        else:
            wait_until(lambda: b'/a/b' in received)
        may_read.set()
        with pytest.raises(ConnectionError):
            call.get()
        assert b'/a/b' in received
