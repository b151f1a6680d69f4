"""A TCP proxy with fault injection, between a client and a server that the test controls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import gevent
import gevent.socket
import pytest

import getc
from getc.testing import EtcdServer, FaultProxy, VirtualTime
from getc.testing.ports import listen
from getc.testing.processes import poll_until
from getc.testing.tcp_faults import CHUNK_BYTES, MAX_QUEUED_CHUNKS
from tests.support.leftovers import running_greenlets

Socket = gevent.socket.socket

AN_HOUR = 3600.0


def eventually(condition: Callable[[], object]) -> None:
    """Wait in real time until the condition is true."""
    assert poll_until(condition, 60)


class Recorder:
    """A server that records what it receives, and replies to each ``?`` with a ``!``."""

    def __init__(self) -> None:
        self.listener = listen()
        self.target = f'127.0.0.1:{self.listener.getsockname()[1]}'
        self.pieces: list[bytes] = []
        self.ends = 0
        self._greenlets = [gevent.spawn(self._accept)]

    @property
    def received(self) -> bytes:
        return b''.join(self.pieces)

    def close(self) -> None:
        gevent.killall(self._greenlets)
        self.listener.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self.listener.accept()
            self._greenlets.append(gevent.spawn(self._serve, sock))

    def _serve(self, sock: Socket) -> None:
        with sock:
            try:
                while piece := sock.recv(CHUNK_BYTES):
                    self.pieces.append(piece)
                    sock.sendall(b'!' * piece.count(b'?'))
            except OSError:
                pass
            self.ends += 1


def greenlets_of(proxy: FaultProxy) -> list[gevent.Greenlet]:
    """Return the running greenlets of a proxy."""
    names = (f'link to {proxy.target}', f'fault proxy on {proxy.port}')
    return [greenlet for greenlet in running_greenlets(of_harness=True) if greenlet.name in names]


@pytest.fixture
def server() -> Iterator[Recorder]:
    server = Recorder()
    yield server
    server.close()


@pytest.fixture
def proxy(server: Recorder) -> Iterator[FaultProxy]:
    with FaultProxy(server.target) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[Socket]:
    """A connection through which one reply has arrived."""
    with connected(proxy) as sock:
        sock.sendall(b'?')
        assert sock.recv(10) == b'!'
        yield sock


def connected(proxy: FaultProxy) -> Socket:
    return gevent.socket.create_connection(('127.0.0.1', proxy.port), 60)


def is_reset(sock: Socket) -> bool:
    """Wait for the end of the connection; return True if it was reset."""
    try:
        return sock.recv(1) != b''
    except ConnectionResetError:
        return True


def is_dead(proxy: FaultProxy) -> bool:
    """Return True if a new connection is not usable."""
    try:
        with connected(proxy) as sock:
            sock.sendall(b'?')
            return is_reset(sock)
    except OSError:
        return True


def test_proxy_forwards_and_counts_all_data(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """In both directions; after the end of the client's stream, replies still arrive."""
    client.sendall(b'ab?')
    client.shutdown(gevent.socket.SHUT_WR)
    assert client.recv(10) == b'!'
    assert client.recv(10) == b''
    assert server.received == b'?ab?'
    assert (proxy.connections, proxy.bytes_to_server, proxy.bytes_to_client) == (1, 4, 2)
    eventually(lambda: not proxy.open_connections)
    assert proxy.url == f'http://127.0.0.1:{proxy.port}'
    assert FaultProxy('https://127.0.0.1:1').url.startswith('https://')


def test_cut_resets_open_and_new_connections(proxy: FaultProxy, client: Socket) -> None:
    """Until it is healed."""
    proxy.cut()
    assert is_reset(client)
    assert is_dead(proxy)
    assert not proxy.open_connections
    proxy.heal()
    with connected(proxy) as sock:
        sock.sendall(b'?')
        assert sock.recv(10) == b'!'


def test_silence_discards_all_data_until_healed(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """Afterwards connections that lost data are reset, and the others continue."""
    with connected(proxy) as loser, connected(proxy) as quiet:
        eventually(lambda: proxy.connections == 3)
        proxy.silence()
        loser.sendall(b'lost?')
        with connected(proxy) as late:
            late.sendall(b'lost?')
            eventually(lambda: sum(connection._up.has_lost for connection in proxy._open) == 2)
            assert proxy.open_connections == 4
            proxy.heal()
            assert is_reset(loser)
            assert is_reset(late)
        for sock in (client, quiet):
            sock.sendall(b'?')
            assert sock.recv(10) == b'!'
    assert server.received == b'???'


def test_silence_discards_a_refused_connection(server: Recorder, proxy: FaultProxy) -> None:
    """Once healed, the connection is reset."""
    server.close()
    assert is_dead(proxy)
    proxy.silence()
    with connected(proxy) as sock:
        sock.sendall(b'?')
        eventually(lambda: any(connection._up.has_lost for connection in proxy._open))
        assert proxy.open_connections == 1
        proxy.heal()
        assert is_reset(sock)


def test_drop_replies_discards_the_reply(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """The request arrives; once healed, the connection is reset."""
    proxy.drop_replies()
    client.sendall(b'done?')
    eventually(lambda: server.received == b'?done?')
    eventually(lambda: any(connection._down.has_lost for connection in proxy._open))
    assert proxy.bytes_to_client == 1
    proxy.heal()
    assert is_reset(client)


def test_delay_delays_data_in_order(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """Data in flight arrive when the delay is removed."""
    proxy.delay(AN_HOUR)
    client.sendall(b'later?')
    eventually(lambda: any(connection._up._queue.unfinished_tasks for connection in proxy._open))
    assert server.received == b'?'
    proxy.heal()
    assert client.recv(10) == b'!'
    assert server.received == b'?later?'


def test_fault_applies_to_data_in_flight(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """Delayed data are discarded when the fault becomes ``silence``."""
    proxy.delay(AN_HOUR)
    client.sendall(b'never')
    eventually(lambda: any(connection._up._queue.unfinished_tasks for connection in proxy._open))
    proxy.silence()
    eventually(lambda: any(connection._up.has_lost for connection in proxy._open))
    proxy.heal()
    assert is_reset(client)
    assert server.received == b'?'


def test_chop_sends_small_pieces(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """All data arrive."""
    proxy.chop(2)
    client.sendall(b'x' * 200 + b'?')
    assert client.recv(10) == b'!'
    assert server.received == b'?' + b'x' * 200 + b'?'
    assert len(server.pieces) > 20


def test_throttle_limits_the_rate(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """The remaining data arrive when the fault is removed."""
    proxy.throttle(1)
    client.sendall(b'x' * 50_000 + b'?')
    eventually(lambda: len(server.received) > 1)
    assert len(server.received) < 1000
    proxy.heal()
    assert client.recv(10) == b'!'
    assert len(server.received) == 50_002


def test_data_in_flight_are_bounded(server: Recorder, proxy: FaultProxy, client: Socket) -> None:
    """The sender blocks while nothing is delivered, and all its data arrive in the end."""
    proxy.delay(AN_HOUR)
    size = 64 * MAX_QUEUED_CHUNKS * CHUNK_BYTES
    sending = gevent.spawn(client.sendall, b'x' * size)
    (connection,) = proxy._open
    eventually(connection._up._queue.full)
    assert not sending.ready()
    assert connection._up._queue.qsize() <= MAX_QUEUED_CHUNKS
    proxy.heal()
    sending.get()
    eventually(lambda: len(server.received) == size + 1)


@pytest.mark.parametrize(
    'inject', [lambda proxy: proxy.delay(-1), lambda proxy: proxy.chop(0), lambda proxy: proxy.throttle(0)]
)
def test_fault_is_rejected_when_its_value_is_invalid(proxy: FaultProxy, inject: Callable[[FaultProxy], None]) -> None:
    """The current fault does not change."""
    with pytest.raises(ValueError):
        inject(proxy)
    assert proxy.fault.name == 'none'


@pytest.mark.parametrize('target', ['127.0.0.1', 'http://127.0.0.1', ''])
def test_target_is_rejected_when_it_has_no_port(target: str) -> None:
    with pytest.raises(ValueError, match='host:port'):
        FaultProxy(target)


def test_stop_leaves_nothing_and_start_reuses_the_port(server: Recorder) -> None:
    """No greenlet and no socket is left, whatever the fault."""
    before = len(os.listdir('/dev/fd'))
    proxy = FaultProxy(server.target)
    port = 0
    for inject in (
        proxy.heal,
        proxy.silence,
        proxy.drop_replies,
        lambda: proxy.delay(AN_HOUR),
        lambda: proxy.throttle(1),
    ):
        with proxy, connected(proxy) as sock:
            sock.sendall(b'x' * 1000)
            eventually(lambda: proxy.open_connections)
            inject()
            sock.sendall(b'x' * 1000 + b'?')
            gevent.sleep(0)
            assert greenlets_of(proxy)
            assert proxy.port == (port or proxy.port)
            port = proxy.port
        assert not greenlets_of(proxy)
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
    eventually(lambda: len(os.listdir('/dev/fd')) <= before)
    proxy.stop()  # twice is fine
    with proxy, pytest.raises(RuntimeError, match='is already started'):
        proxy.start()


def test_proxy_works_in_real_time_when_time_is_virtual(etcd_clock: VirtualTime, server: Recorder) -> None:
    """Delays end by themselves, and virtual time does not advance."""
    with FaultProxy(server.target) as proxy, connected(proxy) as sock:
        proxy.delay(0.05)
        sock.sendall(b'?')
        assert sock.recv(10) == b'!'
        proxy.throttle(1000)
        sock.sendall(b'x' * 50 + b'?')
        assert sock.recv(10) == b'!'
    assert etcd_clock.elapsed == 0


def test_write_may_be_applied_when_the_reply_of_etcd_is_lost(etcd_server: EtcdServer) -> None:
    """The write is applied, its error has ``maybe_applied``, and the client works again once healed."""
    with FaultProxy(etcd_server.url) as proxy, getc.etcd(proxy.url, api='v3') as etcd:
        etcd.set('/a', 'before')
        proxy.drop_replies()
        with pytest.raises(getc.TimedOut) as raised:
            etcd.set('/a', 'after', timeout=2)
        assert raised.value.maybe_applied
        proxy.heal()
        assert etcd.get('/a').value == 'after'
