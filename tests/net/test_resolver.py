"""Name resolution with lookups that hang, fail and return new addresses, and connecting to the addresses."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from getc.backends.v2.http import Http
from getc.backends.v2.messages import Request
from getc.errors import ConnectionError, TimedOut
from getc.grpc.channel import Channel
from getc.net import resolver as resolver_module
from getc.net import sockets
from getc.net.endpoint import Endpoint
from getc.net.resolver import MAX_LOOKUPS, Address, Resolver, get_resolver
from getc.net.resolver import _resolvers as resolvers_of_hubs
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.servers import answer_of, read_request, serving


def at(text: str, port: int = 1) -> Address:
    return Address(socket.AF_INET, (text, port))


ONE, TWO = at('10.0.0.1'), at('10.0.0.2')


class FakeLookup:
    """A lookup that returns the given addresses, or raises the error, once ``go`` is set.

    Attributes:
        hosts: The hosts that were looked up, in order.
        running: Number of lookups at the moment.
        max_running: The greatest number of concurrent lookups.
    """

    def __init__(self, *addresses: Address) -> None:
        self.addresses = addresses
        self.error: Exception | None = None
        self.hosts: list[str] = []
        self.running = 0
        self.max_running = 0
        self.go = Event()
        self.go.set()

    def __call__(self, host: str, port: int) -> tuple[Address, ...]:
        self.hosts.append(host)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        self.go.wait()
        self.running -= 1
        if self.error is not None:
            raise self.error
        return self.addresses


@pytest.mark.parametrize(
    ('host', 'address'),
    [
        ('127.0.0.1', Address(socket.AF_INET, ('127.0.0.1', 7))),
        ('::1', Address(socket.AF_INET6, ('::1', 7, 0, 0))),
        ('fe80::1%3', Address(socket.AF_INET6, ('fe80::1', 7, 0, 3))),
    ],
)
def test_ip_address_needs_no_lookup(host: str, address: Address) -> None:
    lookup = FakeLookup()
    assert Resolver(lookup).addresses(host, 7) == [address]
    assert lookup.hosts == []


def test_lookup_is_shared_by_all_callers_and_cached(etcd_clock: VirtualTime) -> None:
    """For each port of its own."""
    lookup = FakeLookup(ONE, TWO, ONE)
    resolver = Resolver(lookup)
    lookup.go.clear()
    waiting = [gevent.spawn(resolver.addresses, 'etcd', 1) for _ in range(50)]
    etcd_clock.advance(3)
    lookup.go.set()
    gevent.joinall(waiting)
    assert [each.value for each in waiting] == [[ONE, TWO]] * 50
    etcd_clock.advance(4.9)
    assert resolver.addresses('etcd', 1) == [ONE, TWO]
    assert lookup.hosts == ['etcd']
    etcd_clock.advance(0.2)
    resolver.addresses('etcd', 1)
    resolver.addresses('etcd', 2)
    assert lookup.hosts == ['etcd'] * 3


def test_finished_lookup_is_removed(etcd_clock: VirtualTime) -> None:
    """A client of many hosts would keep all of them otherwise."""
    lookup = FakeLookup(ONE)
    resolver = Resolver(lookup)
    resolver.addresses('etcd', 1)
    lookup.error = OSError('no such host')
    with pytest.raises(OSError, match='no such host'):
        resolver.addresses('other', 1)
    gevent.sleep(0)
    assert resolver._lookups == {}


def test_concurrent_lookups_are_limited(etcd_clock: VirtualTime) -> None:
    """They use the threads of gevent, which the program needs, too."""
    lookup = FakeLookup(ONE)
    lookup.go.clear()
    resolver = Resolver(lookup)
    waiting = [gevent.spawn(resolver.addresses, f'host-{number}', 1) for number in range(30)]
    etcd_clock.advance(60)
    assert len(lookup.hosts) == MAX_LOOKUPS
    lookup.go.set()
    gevent.joinall(waiting)
    assert [each.value for each in waiting] == [[ONE]] * 30
    assert lookup.max_running == MAX_LOOKUPS


def test_lookup_goes_on_when_a_waiting_caller_is_killed(etcd_clock: VirtualTime) -> None:
    """There is no second lookup while the first one is running."""
    lookup = FakeLookup(ONE)
    lookup.go.clear()
    resolver = Resolver(lookup)
    first, second = gevent.spawn(resolver.addresses, 'etcd', 1), gevent.spawn(resolver.addresses, 'etcd', 1)
    etcd_clock.advance(1)
    first.kill()
    with pytest.raises(gevent.Timeout), gevent.Timeout(1):
        resolver.addresses('etcd', 1)
    lookup.go.set()
    assert second.get() == [ONE]
    assert lookup.hosts == ['etcd']


@pytest.mark.parametrize('has_started', [False, True])
def test_killed_lookup_raises_for_its_callers(
    monkeypatch: pytest.MonkeyPatch, etcd_clock: VirtualTime, has_started: bool
) -> None:
    """A program may kill every greenlet that it finds; the next caller starts another lookup."""
    lookup = FakeLookup(ONE)
    lookup.go.clear()
    resolver = Resolver(lookup)
    spawned: list[Any] = []
    spawn = gevent.spawn

    def recording_spawn(*args: Any) -> Any:
        spawned.append(spawn(*args))
        if not has_started:
            spawned[0].kill(block=False)
        return spawned[-1]

    monkeypatch.setattr('getc.net.resolver.gevent.spawn', recording_spawn)
    waiting = spawn(resolver.addresses, 'etcd', 1)
    etcd_clock.advance(1)
    spawned[0].kill()
    assert lookup.hosts == ['etcd'] * has_started
    with pytest.raises(socket.gaierror) as caught:
        waiting.get(timeout=1)
    assert caught.value.errno == socket.EAI_AGAIN
    lookup.go.set()
    assert resolver.addresses('etcd', 1) == [ONE]


def test_cached_addresses_are_used_when_the_lookup_is_late(etcd_clock: VirtualTime) -> None:
    """After LOOKUP_GRACE; the result of the late lookup is used once it is there."""
    lookup = FakeLookup(ONE)
    resolver = Resolver(lookup)
    resolver.addresses('etcd', 1)
    etcd_clock.advance(10)
    lookup.go.clear()
    lookup.addresses = (TWO,)
    waiting = gevent.spawn(resolver.addresses, 'etcd', 1)
    etcd_clock.advance(0.9)
    assert not waiting.ready()
    etcd_clock.advance(0.2)
    assert waiting.value == [ONE]
    assert resolver.addresses('etcd', 1) == [ONE]
    lookup.go.set()
    etcd_clock.advance(0)
    assert resolver.addresses('etcd', 1) == [TWO]
    assert lookup.hosts == ['etcd'] * 2


@pytest.mark.parametrize('error', [socket.gaierror(socket.EAI_AGAIN, 'later'), OSError(errno.EMFILE, 'files')])
def test_cached_addresses_are_used_when_the_lookup_fails(etcd_clock: VirtualTime, error: OSError) -> None:
    lookup = FakeLookup(ONE)
    resolver = Resolver(lookup)
    resolver.addresses('etcd', 1)
    etcd_clock.advance(10)
    lookup.error = error
    assert resolver.addresses('etcd', 1) == [ONE]
    lookup.error = None
    lookup.addresses = (TWO,)
    etcd_clock.advance(10)
    assert resolver.addresses('etcd', 1) == [TWO]


@pytest.mark.parametrize('error', [socket.gaierror(socket.EAI_NONAME, 'no'), UnicodeError('label too long'), None])
def test_failed_lookup_raises_a_separate_error_for_each_caller(etcd_clock: VirtualTime, error: Any) -> None:
    """The next caller starts another lookup."""
    lookup = FakeLookup()
    lookup.error = error
    resolver = Resolver(lookup)
    waiting = [gevent.spawn(resolver.addresses, 'nowhere', 1) for _ in range(2)]
    gevent.joinall(waiting)
    assert [type(each.exception) for each in waiting] == [socket.gaierror] * 2
    assert waiting[0].exception is not waiting[1].exception
    lookup.error, lookup.addresses = None, (ONE,)
    assert resolver.addresses('nowhere', 1) == [ONE]


def test_addresses_are_ranked_by_success_and_failure(etcd_clock: VirtualTime) -> None:
    """``expire`` leads to another lookup, which does not change the ranks."""
    lookup = FakeLookup(ONE, TWO)
    resolver = Resolver(lookup)
    resolver.addresses('etcd', 1)
    resolver.mark_good('etcd', 1, TWO)
    assert resolver.addresses('etcd', 1) == [TWO, ONE]
    resolver.mark_bad('etcd', 1, TWO)
    assert resolver.addresses('etcd', 1) == resolver.cached_addresses('etcd', 1) == [ONE, TWO]
    etcd_clock.advance(1)
    resolver.mark_bad('etcd', 1, ONE)
    assert resolver.addresses('etcd', 1) == [TWO, ONE]  # the failure of TWO is older
    assert lookup.hosts == ['etcd']
    resolver.expire('etcd', 1)
    assert resolver.addresses('etcd', 1) == [TWO, ONE]  # in the ranks of before
    assert lookup.hosts == ['etcd'] * 2
    resolver.mark_good('etcd', 1, ONE)
    assert resolver.addresses('etcd', 1) == [ONE, TWO]
    resolver.mark_good('another', 1, TWO)
    resolver.mark_bad('another', 1, TWO)
    resolver.expire('another', 1)
    assert resolver.cached_addresses('another', 1) == []


def test_each_thread_has_a_resolver_of_its_own() -> None:
    here = get_resolver()
    assert get_resolver() is here
    assert gevent.get_hub().threadpool.apply(lambda: get_resolver() is here) is False


def test_resolver_of_the_system_is_the_default() -> None:
    found = Resolver().addresses('localhost', 7)
    assert found
    assert all(address.sockaddr[0] in ('127.0.0.1', '::1') and address.sockaddr[1] == 7 for address in found)


# -- connections


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch) -> FakeLookup:
    """The lookup of the connections of this thread."""
    lookup = FakeLookup()
    resolver = Resolver(lookup)
    monkeypatch.setitem(resolvers_of_hubs, gevent.get_hub(), resolver)
    return lookup


def serve_http(sock: Any) -> None:
    while read_request(sock):
        sock.sendall(answer_of(b'{}'))


@pytest.fixture
def silent_address() -> Any:
    """An address that neither accepts nor refuses connections, because its listen queue is full."""
    listener = socket.socket()
    listener.bind(('127.0.0.1', 0))
    listener.listen(0)
    clients = []
    for _ in range(4):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        clients.append(client)
    yield Address(socket.AF_INET, listener.getsockname())
    for each in (listener, *clients):
        each.close()


def test_connect_tries_the_next_address_when_one_refuses_or_does_not_respond(
    lookup: FakeLookup, silent_address: Address
) -> None:
    """Each address has a part of the time; the one that accepted is the first from then on."""
    with serving(serve_http) as endpoint:
        good = at('127.0.0.1', endpoint.port)
        lookup.addresses = (at('127.0.0.1', 1), silent_address, good)
        sock = sockets.connect('etcd', 1, deadline=Deadline(2.0))
        assert sock.getpeername() == good.sockaddr
        sock.close()
        sock = sockets.connect('etcd', 1)
        assert sock.getpeername() == good.sockaddr
        sock.close()
    assert lookup.hosts == ['etcd']


def test_connect_raises_the_last_error_when_no_address_accepts(lookup: FakeLookup) -> None:
    """The next attempt starts another lookup."""
    lookup.addresses = (at('127.0.0.1', 1), at('127.0.0.1', 2))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            sockets.connect('etcd', 1, deadline=Deadline(10))
    assert lookup.hosts == ['etcd', 'etcd']


def test_connect_names_all_addresses_that_failed_differently(lookup: FakeLookup, silent_address: Address) -> None:
    lookup.addresses = (silent_address, at('127.0.0.1', 1))
    with pytest.raises(
        OSError, match=r'127\.0\.0\.1:\d+: the address does not respond; 127\.0\.0\.1:1: Connection ref'
    ):
        sockets.connect('etcd', 1, deadline=Deadline(0.2))


@pytest.mark.parametrize('needs_settings', [True, False])
def test_call_uses_the_next_address_when_a_server_accepts_and_does_not_respond(
    lookup: FakeLookup, serve: Any, open_channel: Any, etcd_clock: VirtualTime, needs_settings: bool
) -> None:
    """A non-idempotent write is not sent to that address; other channels avoid the address from then on."""
    received: list[bytes] = []

    def receive_only(sock: Any) -> None:
        while data := sock.recv(65536):
            received.append(data)

    server = serve()
    with serving(receive_only) as hung:
        lookup.addresses = (at('127.0.0.1', hung.port), at('127.0.0.1', server.endpoint.port))
        endpoint = Endpoint('http', 'etcd.example', 1)
        call = gevent.spawn(
            open_channel(endpoint).unary,
            '/a/b',
            b'x',
            Deadline(30),
            is_write=needs_settings,
            needs_settings=needs_settings,
        )
        etcd_clock.advance(2.4)
        assert not call.ready()
        etcd_clock.advance(0.2)
        if needs_settings:
            assert call.get() == b'x'
        else:
            assert isinstance(call.exception, ConnectionError) and not call.exception.maybe_applied
        assert (b'/a/b' in b''.join(received)) is not needs_settings
        count = len(received)
        assert open_channel(endpoint).unary('/a/b', b'y', Deadline(30), needs_settings=needs_settings) == b'y'
        assert len(received) == count


def test_http_call_uses_another_address_after_a_timeout(lookup: FakeLookup) -> None:
    with serving(lambda sock: gevent.sleep(60)) as hung, serving(serve_http) as server:
        lookup.addresses = (at('127.0.0.1', hung.port), at('127.0.0.1', server.port))
        transport, endpoint = Http(), Endpoint('http', 'etcd.example', 1)
        with pytest.raises(TimedOut):
            transport.call(endpoint, Request('GET', '/version'), Deadline(0.05))
        assert transport.call(endpoint, Request('GET', '/version'), Deadline(30)).body == b'{}'
        transport.close()


@pytest.mark.parametrize('is_forked', [False, True])
def test_timeout_names_a_lookup_that_hangs(
    lookup: FakeLookup, monkeypatch: pytest.MonkeyPatch, is_forked: bool
) -> None:
    """With the remedy for a child that was forked without ``gevent.reinit()``: it has no threads for lookups."""
    monkeypatch.setattr(resolver_module, '_was_forked', is_forked)
    lookup.go.clear()
    endpoint = Endpoint('http', 'etcd.example', 1)
    transport, channel = Http(), Channel(endpoint)
    calls: list[Callable[[], object]] = [
        lambda: transport.call(endpoint, Request('GET', '/version'), Deadline(0.05)),
        lambda: channel.unary('/a/b', b'', Deadline(0.05)),
    ]
    for call in calls:
        with pytest.raises(TimedOut, match=r'the name lookup for etcd\.example has not returned') as caught:
            call()
        assert ('gevent.reinit()' in str(caught.value)) is is_forked
    lookup.go.set()
    transport.close()
    channel.close()


def test_timeout_of_a_call_ends_its_wait_for_a_lookup(lookup: FakeLookup) -> None:
    """The lookup goes on, and the next call uses its result."""
    lookup.go.clear()
    with serving(serve_http) as server:
        lookup.addresses = (at('127.0.0.1', server.port),)
        endpoint = Endpoint('http', 'etcd.example', server.port)
        transport, channel = Http(), Channel(endpoint)
        request = Request('GET', '/version')
        calls: list[Callable[[], object]] = [
            lambda: transport.call(endpoint, request, Deadline(0.05)),
            lambda: channel.unary('/a/b', b'', Deadline(0.05)),
        ]
        for call in calls:
            with pytest.raises(ConnectionError, match=r'no connection to http://etcd\.example'):
                call()
        assert lookup.hosts == ['etcd.example']
        lookup.go.set()
        assert transport.call(endpoint, request, Deadline(30)).body == b'{}'
        transport.close()
        channel.close()
    assert lookup.hosts == ['etcd.example']


def test_connect_tries_no_other_address_after_a_tls_error(lookup: FakeLookup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other addresses belong to the same host, with the same certificate."""
    lookup.addresses = (ONE, TWO)
    tried: list[Address] = []

    def refuse(address: Address, *_: object) -> Any:
        tried.append(address)
        raise ssl.SSLCertVerificationError('no')

    monkeypatch.setattr(sockets, '_connect_to', refuse)
    with pytest.raises(ssl.SSLCertVerificationError):
        sockets.connect('etcd', 1)
    assert tried == [ONE]


def test_forked_child_has_a_resolver_of_its_own() -> None:
    """The threads of running lookups exist in the parent only."""
    here = get_resolver()
    pid = os.fork()
    if not pid:
        os._exit(get_resolver() is here)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert get_resolver() is here
