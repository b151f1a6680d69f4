"""Socket I/O: order of the data, blocking in one direction, and the end of a connection."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path

import gevent
import gevent.socket
import gevent.ssl
import pytest
from gevent.hub import get_hub

from getc import timing
from getc.grpc.socket_io import CHUNK, MAX_BUSY_SECONDS, TLSIO, PlainIO, SocketIO, start_io
from getc.testing import wait_until
from tests.support.leftovers import running_greenlets
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(300)


class Script:
    """A handler that records the data received and the end of the connection."""

    def __init__(self) -> None:
        self.io: SocketIO | None = None
        self.queue = b''
        self.sent: list[bytes] = []
        self.received: list[bytes] = []
        self.ends: list[BaseException | None] = []
        self.fault: BaseException | None = None
        self.last_data = b''

    def push(self, data: bytes) -> None:
        self.queue += data
        self.io.send_soon()

    def outgoing(self) -> bytes:
        data, self.queue = self.queue, b''
        if data:
            self.sent.append(data)
        return data

    def on_data(self, data: bytes) -> None:
        self.received.append(data)
        if self.fault is not None:
            raise self.fault

    def on_end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        if self.last_data:
            self.queue = self.last_data
            self.io.flush_now()
        self.io.close()


Pair = tuple[Script, gevent.socket.socket]


@pytest.fixture(params=['plain', 'TLS'])
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of connection."""
    return request.param


@pytest.fixture
def pair(kind: str, request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[Pair]:
    """Yield a handler with socket I/O, and the socket of the peer."""
    ours, theirs = gevent.socket.socketpair()
    if kind == 'TLS':
        server = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*certificate)
        client = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        shaking = gevent.spawn(server.wrap_socket, theirs, server_side=True)
        ours, theirs = client.wrap_socket(ours), shaking.get()
    script = Script()
    script.io = start_io(ours, script)
    assert isinstance(script.io, TLSIO if kind == 'TLS' else PlainIO)
    gevent.sleep(0)
    gevent.sleep(0)
    yield script, theirs
    script.io.close()
    theirs.close()
    gevent.sleep(0)
    gevent.sleep(0)
    assert ours.fileno() == -1
    if isinstance(script.io, PlainIO):
        assert not script.io._readable.active and not script.io._writable.active
    else:
        assert script.io._reader.dead and script.io._writer.dead


@pytest.fixture
def hub_errors(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The exceptions that reached the hub."""
    found: list[object] = []
    monkeypatch.setattr(get_hub(), 'handle_error', lambda context, kind, value, trace: found.append(value))
    return found


def received(peer: gevent.socket.socket, size: int) -> bytes:
    """Receive so many bytes."""
    data = bytearray()
    while len(data) < size:
        data += peer.recv(1_000_000)
    return bytes(data)


def test_data_of_one_iteration_are_sent_together(pair: Pair) -> None:
    script, peer = pair
    senders = [gevent.spawn(script.push, b'%d' % number) for number in range(10)]
    gevent.joinall(senders)
    assert peer.recv(100) == b'0123456789'
    assert script.sent == [b'0123456789']
    assert not script.io.is_sending


def test_send_now_sends_without_waiting_for_the_end_of_the_iteration(pair: Pair) -> None:
    """TLS may have to wait, and sends at the end of the iteration."""
    script, peer = pair
    is_plain = isinstance(script.io, PlainIO)
    for part in (b'one ', b'two '):
        script.queue += part
        script.io.send_now()
    assert script.sent == ([b'one ', b'two '] if is_plain else [])
    assert script.io.is_sending  # further data are sent at the end of the iteration
    script.queue += b'three'
    gevent.sleep(0)
    gevent.sleep(0)
    assert b''.join(script.sent) == b'one two three'
    assert peer.recv(100) == b'one two three'
    assert not script.io.is_sending


def test_send_now_waits_behind_unsent_data(pair: Pair) -> None:
    script, peer = pair
    large = b'x' * 10_000_000
    script.push(large)
    settle()
    script.queue += b'more'
    script.io.send_now()
    assert script.sent == [large]
    assert received(peer, len(large) + 4) == large + b'more'
    wait_until(lambda: not script.io.is_sending)


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_send_now_reports_a_peer_that_is_gone_once(pair: Pair, hub_errors: list[object]) -> None:
    script, peer = pair
    os.close(peer.detach())
    script.queue += b'x'
    script.io.send_now()
    assert [type(end) for end in script.ends] == [BrokenPipeError]
    script.queue += b'y'
    script.io.send_now()
    gevent.sleep(0)
    assert script.sent == [b'x']
    assert hub_errors == []


def test_unsent_data_are_sent_in_order_when_there_is_space(pair: Pair) -> None:
    """The handler is not called for more data before."""
    script, peer = pair
    large = bytes(range(256)) * 40_000
    script.push(large)
    settle()
    script.push(b'more')
    settle()
    assert script.io.is_sending
    assert script.sent == [large]
    assert received(peer, len(large) + 4) == large + b'more'
    wait_until(lambda: not script.io.is_sending)
    assert script.sent == [large, b'more']
    if isinstance(script.io, PlainIO):
        assert not script.io._writable.active  # or the hub would spin
    script.push(b'again')
    assert peer.recv(100) == b'again'


def test_receiving_goes_on_while_sending_is_blocked(pair: Pair) -> None:
    script, peer = pair
    script.push(b'x' * 10_000_000)
    settle()
    peer.sendall(b'hello')
    wait_until(lambda: script.received == [b'hello'])
    assert script.io.is_sending


def test_on_end_is_called_once_without_an_error_when_the_peer_closes(pair: Pair, hub_errors: list[object]) -> None:
    script, peer = pair
    peer.sendall(b'bye')
    peer.close()
    wait_until(lambda: script.ends)
    settle()
    assert b''.join(script.received) == b'bye'
    assert [type(end) for end in script.ends] == [type(None)]
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_on_end_is_called_with_the_error_of_a_blocked_send(pair: Pair, hub_errors: list[object]) -> None:
    script, peer = pair
    script.push(b'x' * 10_000_000)
    settle()
    peer.close()
    wait_until(lambda: script.ends)
    settle()
    assert len(script.ends) == 1 and isinstance(script.ends[0], OSError)
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_data_received_before_a_failed_send_are_processed_before_on_end(pair: Pair, hub_errors: list[object]) -> None:
    """They may be the response to a request that was sent before."""
    script, peer = pair
    peer.sendall(b'b' * (CHUNK + 1))
    os.close(peer.detach())
    script.push(b'x')
    wait_until(lambda: script.ends)
    assert b''.join(script.received) == b'b' * (CHUNK + 1)
    assert [type(end) for end in script.ends] == [BrokenPipeError]
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_exception_while_data_are_drained_ends_the_connection_once(pair: Pair, hub_errors: list[object]) -> None:
    """Closing in the handler ends it without on_end."""
    script, peer = pair
    script.fault = ValueError('no good')
    peer.sendall(b'bye')
    os.close(peer.detach())
    script.push(b'x')
    wait_until(lambda: script.ends)
    gevent.sleep(0)
    assert script.ends == [script.fault]
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_draining_stops_when_the_handler_closes(pair: Pair, hub_errors: list[object]) -> None:
    script, peer = pair
    script.on_data = lambda data: [script.received.append(data), script.io.close()]
    peer.sendall(b'b' * (CHUNK + 1))
    os.close(peer.detach())
    script.push(b'x')
    wait_until(lambda: script.received)
    gevent.sleep(0)
    assert (script.received, script.ends) == ([b'b' * CHUNK], [])
    assert hub_errors == []


def test_exception_of_the_handler_ends_the_connection_and_does_not_reach_the_hub(
    pair: Pair, hub_errors: list[object]
) -> None:
    """Data flushed in on_end are sent."""
    script, peer = pair
    script.fault = ValueError('no good')
    script.last_data = b'why'
    peer.sendall(b'x')
    assert peer.recv(100) == b'why'
    assert script.ends == [script.fault]
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_keyboard_interrupt_in_the_handler_ends_the_connection_and_reaches_the_program(pair: Pair) -> None:
    script, peer = pair
    script.fault = KeyboardInterrupt()
    peer.sendall(b'x')
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(10)
    assert script.ends == [script.fault]


@pytest.mark.parametrize('kind', ['TLS'], indirect=True)
@pytest.mark.parametrize('victim', ['_reader', '_writer'])
def test_killed_greenlet_ends_the_connection(pair: Pair, victim: str) -> None:
    """A program may kill every greenlet that it finds."""
    script, _ = pair
    getattr(script.io, victim).kill()
    assert [type(end) for end in script.ends] == [gevent.GreenletExit]


def test_nothing_is_sent_or_received_after_close(pair: Pair, hub_errors: list[object]) -> None:
    """Not even data of the same iteration; closing again has no effect."""
    script, peer = pair
    peer.sendall(b'unheard')
    script.push(b'unsent')
    script.io.close()
    script.io.close()
    script.push(b'late')
    try:
        assert peer.recv(100) == b''
    except OSError:
        pass  # what it had sent was not read
    gevent.sleep(0)
    assert (script.sent, script.received, script.ends) == ([], [], [])
    assert hub_errors == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_plain_io_has_no_greenlet(pair: Pair) -> None:
    """Neither when idle nor while sending is blocked."""
    script, _ = pair

    def greenlets() -> list[gevent.Greenlet]:
        return [greenlet for greenlet in running_greenlets() if getattr(greenlet._run, '__self__', None) is script.io]

    assert greenlets() == []
    script.push(b'x' * 10_000_000)
    settle()
    assert script.io.is_sending
    assert greenlets() == []


def test_endless_data_of_a_peer_let_other_greenlets_run(pair: Pair) -> None:
    """One iteration reads one chunk."""
    script, peer = pair
    flood = gevent.spawn(_flood, peer)
    ticks, most, before = 0, 0, 0
    while before < 200 * CHUNK:
        gevent.sleep(0)
        ticks += 1
        size = sum(map(len, script.received))
        most, before = max(most, size - before), size
    flood.kill()
    assert ticks >= 40
    assert most <= 200 * CHUNK // 5


@pytest.mark.parametrize('kind', ['TLS'], indirect=True)
def test_slow_processing_of_buffered_data_lets_other_greenlets_run(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    script, peer = pair
    monkeypatch.setattr(timing, 'now', lambda: len(script.received) * 2 * MAX_BUSY_SECONDS)
    seen: set[int] = set()

    def watch() -> None:
        while True:
            seen.add(len(script.received))
            gevent.sleep(0)

    peer.sendall(b'x' * 80_000)
    watcher = gevent.spawn(watch)
    wait_until(lambda: sum(map(len, script.received)) == 80_000)
    watcher.kill()
    assert seen >= set(range(1, len(script.received)))
    assert len(script.received) >= 5


def _flood(peer: gevent.socket.socket) -> None:
    while True:
        peer.sendall(b'x' * 1_000_000)
