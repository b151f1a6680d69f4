"""A wire moves bytes, in the order in which they were given out, and ends its traffic whatever happens."""

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
from getc.grpc.socket_io import CHUNK, MAX_BUSY_SECONDS, TLSIO, PlainIO, SocketIO, wire_for
from getc.testing import wait_until
from tests.support.leftovers import running_greenlets
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(120)


class Script:
    """Traffic that records: what comes, in pieces, and what ended it."""

    def __init__(self) -> None:
        self.wire: SocketIO | None = None
        self.queue = b''
        self.given: list[bytes] = []
        self.came: list[bytes] = []
        self.ends: list[BaseException | None] = []
        self.fault: BaseException | None = None
        self.pending_alert = b''

    def say(self, data: bytes) -> None:
        self.queue += data
        self.wire.send_soon()

    def outgoing(self) -> bytes:
        data, self.queue = self.queue, b''
        if data:
            self.given.append(data)
        return data

    def on_data(self, data: bytes) -> None:
        self.came.append(data)
        if self.fault is not None:
            raise self.fault

    def on_end(self, error: BaseException | None) -> None:
        self.ends.append(error)
        if self.pending_alert:
            self.queue = self.pending_alert
            self.wire.flush_now()
        self.wire.close()


Pair = tuple[Script, gevent.socket.socket]


@pytest.fixture(params=['plain', 'TLS'])
def kind(request: pytest.FixtureRequest) -> str:
    """Of the wire."""
    return request.param


@pytest.fixture
def pair(kind: str, request: pytest.FixtureRequest, certificate: tuple[Path, Path]) -> Iterator[Pair]:
    """Traffic on a wire, and the peer's socket."""
    ours, theirs = gevent.socket.socketpair()
    if kind == 'TLS':
        server = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*certificate)
        client = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        shaking = gevent.spawn(server.wrap_socket, theirs, server_side=True)
        ours, theirs = client.wrap_socket(ours), shaking.get()
    script = Script()
    script.wire = wire_for(ours, script)
    assert isinstance(script.wire, TLSIO if kind == 'TLS' else PlainIO)
    gevent.sleep(0)
    gevent.sleep(0)
    yield script, theirs
    script.wire.close()
    theirs.close()
    gevent.sleep(0)
    gevent.sleep(0)
    assert ours.fileno() == -1
    if isinstance(script.wire, PlainIO):
        assert not script.wire._readable.active and not script.wire._writable.active
    else:
        assert script.wire._reader.dead and script.wire._writer.dead


@pytest.fixture
def complaints(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What escaped into the hub."""
    found: list[object] = []
    monkeypatch.setattr(get_hub(), 'handle_error', lambda context, kind, value, trace: found.append(value))
    return found


def received(peer: gevent.socket.socket, size: int) -> bytes:
    """So many bytes, as they come."""
    data = bytearray()
    while len(data) < size:
        data += peer.recv(1_000_000)
    return bytes(data)


def test_what_is_said_in_one_turn_leaves_in_one_piece(pair: Pair) -> None:
    """However many say it."""
    script, peer = pair
    speakers = [gevent.spawn(script.say, b'%d' % number) for number in range(10)]
    gevent.joinall(speakers)
    assert peer.recv(100) == b'0123456789'
    assert script.given == [b'0123456789']
    assert not script.wire.is_sending


def test_what_must_not_wait_leaves_in_the_middle_of_the_turn(pair: Pair) -> None:
    """Without a switch; TLS, which may have to wait, sends it at the end of the turn."""
    script, peer = pair
    is_plain = isinstance(script.wire, PlainIO)
    for word in (b'one ', b'two '):
        script.queue += word
        script.wire.send_now()
    assert script.given == ([b'one ', b'two '] if is_plain else [])
    assert script.wire.is_sending  # what is said now still leaves with the turn
    script.queue += b'three'
    gevent.sleep(0)
    gevent.sleep(0)
    assert b''.join(script.given) == b'one two three'
    assert peer.recv(100) == b'one two three'
    assert not script.wire.is_sending


def test_what_must_not_wait_waits_for_what_was_said_before(pair: Pair) -> None:
    """There is no room for it."""
    script, peer = pair
    large = b'x' * 10_000_000
    script.say(large)
    settle()
    script.queue += b'more'
    script.wire.send_now()
    assert script.given == [large]
    assert received(peer, len(large) + 4) == large + b'more'
    wait_until(lambda: not script.wire.is_sending)


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_peer_that_is_gone_ends_who_sends_in_the_middle_of_a_turn(pair: Pair, complaints: list[object]) -> None:
    """At once, and whoever sends after that says nothing."""
    script, peer = pair
    os.close(peer.detach())
    script.queue += b'x'
    script.wire.send_now()
    assert [type(end) for end in script.ends] == [BrokenPipeError]
    script.queue += b'y'
    script.wire.send_now()
    gevent.sleep(0)
    assert script.given == [b'x']
    assert complaints == []


def test_rest_is_sent_in_order_when_the_kernel_has_room_again(pair: Pair) -> None:
    """Nothing more is given out before it has left; a peer that never reads holds no more than that."""
    script, peer = pair
    large = bytes(range(256)) * 40_000
    script.say(large)
    settle()
    script.say(b'more')
    settle()
    assert script.wire.is_sending
    assert script.given == [large]
    assert received(peer, len(large) + 4) == large + b'more'
    wait_until(lambda: not script.wire.is_sending)
    assert script.given == [large, b'more']
    if isinstance(script.wire, PlainIO):
        assert not script.wire._writable.active  # or the hub would spin
    script.say(b'again')
    assert peer.recv(100) == b'again'


def test_blocked_sender_goes_on_reading(pair: Pair) -> None:
    """The two directions do not wait for each other."""
    script, peer = pair
    script.say(b'x' * 10_000_000)
    settle()
    peer.sendall(b'hello')
    wait_until(lambda: script.came == [b'hello'])
    assert script.wire.is_sending


def test_peer_that_closes_ends_it_once(pair: Pair, complaints: list[object]) -> None:
    """With no error."""
    script, peer = pair
    peer.sendall(b'bye')
    peer.close()
    wait_until(lambda: script.ends)
    settle()
    assert b''.join(script.came) == b'bye'
    assert [type(end) for end in script.ends] == [type(None)]
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_peer_that_is_gone_ends_a_blocked_sender(pair: Pair, complaints: list[object]) -> None:
    """With the system's error."""
    script, peer = pair
    script.say(b'x' * 10_000_000)
    settle()
    peer.close()
    wait_until(lambda: script.ends)
    settle()
    assert len(script.ends) == 1 and isinstance(script.ends[0], OSError)
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_last_words_of_a_peer_that_is_gone_are_heard_before_it_ends(pair: Pair, complaints: list[object]) -> None:
    """A send finds out first, and what came is the answer to what was sent before."""
    script, peer = pair
    peer.sendall(b'b' * (CHUNK + 1))
    os.close(peer.detach())
    script.say(b'x')
    wait_until(lambda: script.ends)
    assert b''.join(script.came) == b'b' * (CHUNK + 1)
    assert [type(end) for end in script.ends] == [BrokenPipeError]
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_last_words_that_end_the_traffic_end_it_once(pair: Pair, complaints: list[object]) -> None:
    """With the error that they are, or with none where the traffic closes the wire."""
    script, peer = pair
    script.fault = ValueError('no good')
    peer.sendall(b'bye')
    os.close(peer.detach())
    script.say(b'x')
    wait_until(lambda: script.ends)
    gevent.sleep(0)
    assert script.ends == [script.fault]
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_last_words_are_heard_until_the_traffic_closes(pair: Pair, complaints: list[object]) -> None:
    """Nothing is told after that."""
    script, peer = pair
    script.on_data = lambda data: [script.came.append(data), script.wire.close()]
    peer.sendall(b'b' * (CHUNK + 1))
    os.close(peer.detach())
    script.say(b'x')
    wait_until(lambda: script.came)
    gevent.sleep(0)
    assert (script.came, script.ends) == ([b'b' * CHUNK], [])
    assert complaints == []


def test_error_in_the_traffic_ends_it_and_goes_no_further(pair: Pair, complaints: list[object]) -> None:
    """The peer hears the last words."""
    script, peer = pair
    script.fault = ValueError('no good')
    script.pending_alert = b'why'
    peer.sendall(b'x')
    assert peer.recv(100) == b'why'
    assert script.ends == [script.fault]
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_interrupt_in_the_traffic_ends_it_and_reaches_the_program(pair: Pair) -> None:
    """Control-C may strike while the hub reads: it is not lost, and nothing hangs."""
    script, peer = pair
    script.fault = KeyboardInterrupt()
    peer.sendall(b'x')
    with pytest.raises(KeyboardInterrupt):
        gevent.sleep(10)
    assert script.ends == [script.fault]


@pytest.mark.parametrize('kind', ['TLS'], indirect=True)
@pytest.mark.parametrize('victim', ['_reader', '_writer'])
def test_killed_greenlet_ends_it(pair: Pair, victim: str) -> None:
    """A program may kill every greenlet that it finds."""
    script, _ = pair
    getattr(script.wire, victim).kill()
    assert [type(end) for end in script.ends] == [gevent.GreenletExit]


def test_closed_wire_says_and_hears_nothing(pair: Pair, complaints: list[object]) -> None:
    """Not even what was to leave in the same turn; closing again does no harm."""
    script, peer = pair
    peer.sendall(b'unheard')
    script.say(b'unsaid')
    script.wire.close()
    script.wire.close()
    script.say(b'late')
    try:
        assert peer.recv(100) == b''
    except OSError:
        pass  # what it had sent was not read
    gevent.sleep(0)
    assert (script.given, script.came, script.ends) == ([], [], [])
    assert complaints == []


@pytest.mark.parametrize('kind', ['plain'], indirect=True)
def test_plain_wire_has_no_greenlet(pair: Pair) -> None:
    """Neither at rest nor while it waits for room."""
    script, _ = pair

    def greenlets() -> list[gevent.Greenlet]:
        return [greenlet for greenlet in running_greenlets() if getattr(greenlet._run, '__self__', None) is script.wire]

    assert greenlets() == []
    script.say(b'x' * 10_000_000)
    settle()
    assert script.wire.is_sending
    assert greenlets() == []


def test_peer_that_sends_for_ever_leaves_others_their_turns(pair: Pair) -> None:
    """No turn of the hub reads more than a chunk, or works on it for long."""
    script, peer = pair
    flood = gevent.spawn(_flood, peer)
    ticks, most, before = 0, 0, 0
    while before < 200 * CHUNK:
        gevent.sleep(0)
        ticks += 1
        came = sum(map(len, script.came))
        most, before = max(most, came - before), came
    flood.kill()
    assert ticks >= 40
    assert most <= 200 * CHUNK // 5


@pytest.mark.parametrize('kind', ['TLS'], indirect=True)
def test_slow_work_on_what_came_leaves_others_their_turns(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all of it lies in the socket already: each piece takes longer than a slice."""
    script, peer = pair
    monkeypatch.setattr(timing, 'now', lambda: len(script.came) * 2 * MAX_BUSY_SECONDS)
    seen: set[int] = set()

    def watch() -> None:
        while True:
            seen.add(len(script.came))
            gevent.sleep(0)

    peer.sendall(b'x' * 80_000)
    watcher = gevent.spawn(watch)
    wait_until(lambda: sum(map(len, script.came)) == 80_000)
    watcher.kill()
    assert seen >= set(range(1, len(script.came)))
    assert len(script.came) >= 5


def _flood(peer: gevent.socket.socket) -> None:
    while True:
        peer.sendall(b'x' * 1_000_000)
