"""Addresses of hosts, with resolvers that hang, fail and change their minds."""

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
from getc.backends.v2.http_messages import Request
from getc.errors import ConnectionError, TimedOut
from getc.grpc.channel import Channel
from getc.net import resolver as names_module
from getc.net import sockets
from getc.net.resolver import MAX_LOOKUPS, Address, Resolver, names
from getc.net.resolver import _names as resolvers_of_hubs
from getc.net.selector import Endpoint
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.servers import answer_of, read_request, serving


def at(text: str, port: int = 1) -> Address:
    return Address(socket.AF_INET, (text, port))


ONE, TWO = at('10.0.0.1'), at('10.0.0.2')


class FakeLookup:
    """Answers what it is told to, once it is told to."""

    def __init__(self, *addresses: Address) -> None:
        self.addresses = addresses
        self.error: Exception | None = None
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.go = Event()
        self.go.set()

    def __call__(self, host: str, port: int) -> tuple[Address, ...]:
        self.asked.append(host)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait()
        self.at_once -= 1
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
def test_address_is_never_asked_for(host: str, address: Address) -> None:
    """It is its own; a resolver that hangs is none of its business."""
    resolver = FakeLookup()
    assert Resolver(resolver).addresses(host, 7) == [address]
    assert resolver.asked == []


def test_host_is_asked_for_once_for_all_who_wait(etcd_clock: VirtualTime) -> None:
    """And not again for a while; but for another port it is."""
    resolver = FakeLookup(ONE, TWO, ONE)
    hosts = Resolver(resolver)
    resolver.go.clear()
    waiting = [gevent.spawn(hosts.addresses, 'etcd', 1) for _ in range(50)]
    etcd_clock.advance(3)
    resolver.go.set()
    gevent.joinall(waiting)
    assert [each.value for each in waiting] == [[ONE, TWO]] * 50
    etcd_clock.advance(4.9)
    assert hosts.addresses('etcd', 1) == [ONE, TWO]
    assert resolver.asked == ['etcd']
    etcd_clock.advance(0.2)
    hosts.addresses('etcd', 1)
    hosts.addresses('etcd', 2)
    assert resolver.asked == ['etcd'] * 3


def test_few_hosts_are_asked_for_at_a_time(etcd_clock: VirtualTime) -> None:
    """gevent's threads are for the rest of the program, too; whoever waits for one is not forgotten."""
    resolver = FakeLookup(ONE)
    resolver.go.clear()
    hosts = Resolver(resolver)
    waiting = [gevent.spawn(hosts.addresses, f'host-{number}', 1) for number in range(30)]
    etcd_clock.advance(60)
    assert len(resolver.asked) == MAX_LOOKUPS
    resolver.go.set()
    gevent.joinall(waiting)
    assert [each.value for each in waiting] == [[ONE]] * 30
    assert resolver.most_at_once == MAX_LOOKUPS


def test_who_gives_up_leaves_the_lookup_to_the_others(etcd_clock: VirtualTime) -> None:
    """Nobody asks a second time while the first question is open, however often one is killed."""
    resolver = FakeLookup(ONE)
    resolver.go.clear()
    hosts = Resolver(resolver)
    first, second = gevent.spawn(hosts.addresses, 'etcd', 1), gevent.spawn(hosts.addresses, 'etcd', 1)
    etcd_clock.advance(1)
    first.kill()
    with pytest.raises(gevent.Timeout), gevent.Timeout(1):
        hosts.addresses('etcd', 1)
    resolver.go.set()
    assert second.get() == [ONE]
    assert resolver.asked == ['etcd']


@pytest.mark.parametrize('has_begun', [False, True])
def test_lookup_that_is_killed_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, etcd_clock: VirtualTime, has_begun: bool
) -> None:
    """A program may kill every greenlet that it finds: who waits is told, and the next one asks anew."""
    resolver = FakeLookup(ONE)
    resolver.go.clear()
    hosts = Resolver(resolver)
    spawned: list[Any] = []
    spawn = gevent.spawn

    def noted(*args: Any) -> Any:
        spawned.append(spawn(*args))
        if not has_begun:
            spawned[0].kill(block=False)
        return spawned[-1]

    monkeypatch.setattr('getc.net.resolver.gevent.spawn', noted)
    waiting = spawn(hosts.addresses, 'etcd', 1)
    etcd_clock.advance(1)
    spawned[0].kill()
    assert resolver.asked == ['etcd'] * has_begun
    with pytest.raises(socket.gaierror) as caught:
        waiting.get(timeout=1)
    assert caught.value.errno == socket.EAI_AGAIN
    resolver.go.set()
    assert hosts.addresses('etcd', 1) == [ONE]


def test_old_answer_serves_when_the_next_is_late(etcd_clock: VirtualTime) -> None:
    """After a moment, and then without one; the late answer counts when it comes."""
    resolver = FakeLookup(ONE)
    hosts = Resolver(resolver)
    hosts.addresses('etcd', 1)
    etcd_clock.advance(10)
    resolver.go.clear()
    resolver.addresses = (TWO,)
    asking = gevent.spawn(hosts.addresses, 'etcd', 1)
    etcd_clock.advance(0.9)
    assert not asking.ready()
    etcd_clock.advance(0.2)
    assert asking.value == [ONE]
    assert hosts.addresses('etcd', 1) == [ONE]
    resolver.go.set()
    etcd_clock.advance(0)
    assert hosts.addresses('etcd', 1) == [TWO]
    assert resolver.asked == ['etcd'] * 2


@pytest.mark.parametrize('error', [socket.gaierror(socket.EAI_AGAIN, 'later'), OSError(errno.EMFILE, 'files')])
def test_old_answer_serves_when_there_is_none_any_more(etcd_clock: VirtualTime, error: OSError) -> None:
    """A name server that is down takes nothing away."""
    resolver = FakeLookup(ONE)
    hosts = Resolver(resolver)
    hosts.addresses('etcd', 1)
    etcd_clock.advance(10)
    resolver.error = error
    assert hosts.addresses('etcd', 1) == [ONE]
    resolver.error = None
    resolver.addresses = (TWO,)
    etcd_clock.advance(10)
    assert hosts.addresses('etcd', 1) == [TWO]


@pytest.mark.parametrize('error', [socket.gaierror(socket.EAI_NONAME, 'no'), UnicodeError('label too long'), None])
def test_host_without_an_address_is_an_error_of_its_own_for_each(etcd_clock: VirtualTime, error: Any) -> None:
    """And is asked for again the next time."""
    resolver = FakeLookup()
    resolver.error = error
    hosts = Resolver(resolver)
    asking = [gevent.spawn(hosts.addresses, 'nowhere', 1) for _ in range(2)]
    gevent.joinall(asking)
    assert [type(each.exception) for each in asking] == [socket.gaierror] * 2
    assert asking[0].exception is not asking[1].exception
    resolver.error, resolver.addresses = None, (ONE,)
    assert hosts.addresses('nowhere', 1) == [ONE]


def test_address_that_worked_is_the_first_and_failures_ask_anew(etcd_clock: VirtualTime) -> None:
    """When none did, the host may have moved."""
    resolver = FakeLookup(ONE, TWO)
    hosts = Resolver(resolver)
    hosts.addresses('etcd', 1)
    hosts.mark_good('etcd', 1, TWO)
    assert hosts.addresses('etcd', 1) == [TWO, ONE]
    hosts.failed('etcd', 1, TWO)
    assert hosts.addresses('etcd', 1) == hosts.known('etcd', 1) == [ONE, TWO]
    etcd_clock.advance(1)
    hosts.failed('etcd', 1, ONE)
    assert hosts.addresses('etcd', 1) == [TWO, ONE]  # whose failure is longer ago
    assert resolver.asked == ['etcd']
    hosts.expire('etcd', 1)
    assert hosts.addresses('etcd', 1) == [TWO, ONE]  # the resolver knows nothing of failures
    assert resolver.asked == ['etcd'] * 2
    hosts.mark_good('etcd', 1, ONE)
    assert hosts.addresses('etcd', 1) == [ONE, TWO]
    hosts.mark_good('another', 1, TWO)
    hosts.failed('another', 1, TWO)
    hosts.expire('another', 1)
    assert hosts.known('another', 1) == []


def test_each_thread_has_names_of_its_own() -> None:
    """Greenlets of one cannot wait for those of another."""
    here = names()
    assert names() is here
    assert gevent.get_hub().threadpool.apply(lambda: names() is here) is False


def test_system_is_asked_when_nobody_else_is() -> None:
    """This machine knows itself."""
    found = Resolver().addresses('localhost', 7)
    assert found
    assert all(address.sockaddr[0] in ('127.0.0.1', '::1') and address.sockaddr[1] == 7 for address in found)


# -- connections


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> FakeLookup:
    """Who is asked by connections that are made here."""
    resolver = FakeLookup()
    hosts = Resolver(resolver)
    monkeypatch.setitem(resolvers_of_hubs, gevent.get_hub(), hosts)
    return resolver


def welcome(sock: Any) -> None:
    while read_request(sock):
        sock.sendall(answer_of(b'{}'))


@pytest.fixture
def deaf() -> Any:
    """An address that takes no connection and refuses none: its queue is full."""
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


def test_next_address_is_tried_when_one_refuses_or_is_silent(resolver: FakeLookup, deaf: Address) -> None:
    """Each has its share of the time; the one that took the connection is the first from then on."""
    with serving(welcome) as endpoint:
        good = at('127.0.0.1', endpoint.port)
        resolver.addresses = (at('127.0.0.1', 1), deaf, good)
        sock = sockets.connect('etcd', 1, deadline=Deadline(2.0))
        assert sock.getpeername() == good.sockaddr
        sock.close()
        sock = sockets.connect('etcd', 1)
        assert sock.getpeername() == good.sockaddr
        sock.close()
    assert resolver.asked == ['etcd']


def test_last_error_is_raised_when_no_address_takes_a_connection(resolver: FakeLookup) -> None:
    """And the host is asked for again the next time."""
    resolver.addresses = (at('127.0.0.1', 1), at('127.0.0.1', 2))
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            sockets.connect('etcd', 1, deadline=Deadline(10))
    assert resolver.asked == ['etcd', 'etcd']


def test_addresses_that_fail_differently_are_all_named(resolver: FakeLookup, deaf: Address) -> None:
    """The last one alone would hide why the others were of no use."""
    resolver.addresses = (deaf, at('127.0.0.1', 1))
    with pytest.raises(OSError, match=r'127\.0\.0\.1:\d+: an address does not answer; 127\.0\.0\.1:1: Connection ref'):
        sockets.connect('etcd', 1, deadline=Deadline(0.2))


@pytest.mark.parametrize('once', [True, False])
def test_call_goes_to_the_next_address_when_a_server_accepts_and_says_nothing(
    resolver: FakeLookup, serve: Any, open_channel: Any, etcd_clock: VirtualTime, once: bool
) -> None:
    """A write that must not happen twice is not sent there at all; other channels know that address from then on."""
    received: list[bytes] = []

    def say_nothing(sock: Any) -> None:
        while data := sock.recv(65536):
            received.append(data)

    server = serve()
    with serving(say_nothing) as hung:
        resolver.addresses = (at('127.0.0.1', hung.port), at('127.0.0.1', server.endpoint.port))
        endpoint = Endpoint('http', 'etcd.example', 1)
        call = gevent.spawn(open_channel(endpoint).unary, '/a/b', b'x', Deadline(30), is_write=once, once=once)
        etcd_clock.advance(2.4)
        assert not call.ready()
        etcd_clock.advance(0.2)
        if once:
            assert call.get() == b'x'
        else:
            assert isinstance(call.exception, ConnectionError) and not call.exception.maybe_applied
        assert (b'/a/b' in b''.join(received)) is not once
        count = len(received)
        assert open_channel(endpoint).unary('/a/b', b'y', Deadline(30), once=once) == b'y'
        assert len(received) == count


def test_server_that_speaks_http1_and_hangs_is_the_last_to_be_tried(resolver: FakeLookup) -> None:
    """The call that waited for it has timed out; the next one goes to another address of the name."""
    with serving(lambda sock: gevent.sleep(60)) as hung, serving(welcome) as server:
        resolver.addresses = (at('127.0.0.1', hung.port), at('127.0.0.1', server.port))
        transport, endpoint = Http(), Endpoint('http', 'etcd.example', 1)
        with pytest.raises(TimedOut):
            transport.call(endpoint, Request('GET', '/version'), Deadline(0.05))
        assert transport.call(endpoint, Request('GET', '/version'), Deadline(30)).body == b'{}'
        transport.close()


@pytest.mark.parametrize('is_forked', [False, True])
def test_lookup_that_hangs_is_named_in_the_error(
    resolver: FakeLookup, monkeypatch: pytest.MonkeyPatch, is_forked: bool
) -> None:
    """With what to do in a child that was forked without gevent's knowledge: its threads for lookups are gone."""
    monkeypatch.setattr(names_module, '_was_forked', is_forked)
    resolver.go.clear()
    endpoint = Endpoint('http', 'etcd.example', 1)
    transport, channel = Http(), Channel(endpoint)
    calls: list[Callable[[], object]] = [
        lambda: transport.call(endpoint, Request('GET', '/version'), Deadline(0.05)),
        lambda: channel.unary('/a/b', b'', Deadline(0.05)),
    ]
    for call in calls:
        with pytest.raises(TimedOut, match=r'the lookup of the name etcd\.example has not returned') as caught:
            call()
        assert ('gevent.reinit()' in str(caught.value)) is is_forked
    resolver.go.set()
    transport.close()
    channel.close()


def test_callers_timeout_ends_the_wait_for_a_name(resolver: FakeLookup) -> None:
    """Of a connection for HTTP, and for gRPC; the hub goes on meanwhile, and the next call finds the answer."""
    resolver.go.clear()
    with serving(welcome) as server:
        resolver.addresses = (at('127.0.0.1', server.port),)
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
        assert resolver.asked == ['etcd.example']
        resolver.go.set()
        assert transport.call(endpoint, request, Deadline(30)).body == b'{}'
        transport.close()
        channel.close()
    assert resolver.asked == ['etcd.example']


def test_certificate_that_is_not_trusted_is_no_matter_of_the_address(
    resolver: FakeLookup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next address is of the same host: it is told at once."""
    resolver.addresses = (ONE, TWO)
    tried: list[Address] = []

    def refuse(address: Address, *_: object) -> Any:
        tried.append(address)
        raise ssl.SSLCertVerificationError('no')

    monkeypatch.setattr(sockets, '_connect_to', refuse)
    with pytest.raises(ssl.SSLCertVerificationError):
        sockets.connect('etcd', 1)
    assert tried == [ONE]


def test_forked_child_asks_anew() -> None:
    """The threads that were asking are the parent's, and so are the greenlets that wait for them."""
    here = names()
    pid = os.fork()
    if not pid:
        os._exit(names() is here)
    _, status = os.waitpid(pid, 0)
    assert status == 0
    assert names() is here
