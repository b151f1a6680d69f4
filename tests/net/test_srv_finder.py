"""SrvFinder: the first look-up, repeated ones during an outage, failures, closing, and clients of real servers."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable

import gevent
import pytest
from gevent.event import Event

import getc
from getc.errors import ClientClosed, ConnectionError, TimedOut
from getc.net import srv
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.selector import EndpointSelector
from getc.net.srv import SrvRecord
from getc.net.srv_finder import SrvFinder
from getc.testing import EtcdServer, VirtualTime, wait_until
from getc.timing import Deadline
from tests.support.api_support import skip_unless_supported
from tests.support.killing import killing_next_greenlet
from tests.support.leftovers import greenlets_of_getc

URL = 'etcd+srv://example.com'
A, B = parse_endpoints('http://a,http://b')


class Lookups:
    """Look-ups that block until they may return.

    Attributes:
        count: Number of look-ups that were started.
        result: What they return or raise.
        go: Set while they may return.
    """

    def __init__(self, *result: Endpoint) -> None:
        self.count = 0
        self.result: list[Endpoint] | Exception = list(result)
        self.go = Event()
        self.go.set()

    def __call__(self) -> list[Endpoint]:
        self.count += 1
        self.go.wait()
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def opened(lookups: Lookups) -> tuple[EndpointSelector, SrvFinder]:
    endpoints = EndpointSelector()
    endpoints.finder = finder = SrvFinder(URL, endpoints, lookups, log=ClientLog('test'))
    return endpoints, finder


def test_calls_that_wait_share_one_look_up(etcd_clock: VirtualTime) -> None:
    lookups = Lookups(A, B)
    endpoints, _ = opened(lookups)
    waiting = [gevent.spawn(endpoints.wait, Deadline(10)) for _ in range(5)]
    assert [each.get() for each in waiting] == [[A, B]] * 5
    assert lookups.count == 1


def test_look_up_goes_on_when_the_call_that_waits_gives_up(etcd_clock: VirtualTime) -> None:
    lookups = Lookups(A)
    lookups.go.clear()
    endpoints, _ = opened(lookups)
    late = gevent.spawn(endpoints.wait, Deadline(3))
    killed = gevent.spawn(endpoints.wait, Deadline(None))
    etcd_clock.advance(1)
    killed.kill()
    etcd_clock.advance(3)
    with pytest.raises(TimedOut, match=r'the DNS look-up of etcd\+srv://example.com has not returned within 3 s'):
        late.get()
    lookups.go.set()
    assert (endpoints.wait(Deadline(1)), lookups.count) == ([A], 1)
    assert greenlets_of_getc() == []


def test_failed_look_up_fails_the_calls_that_wait_and_the_next_call_starts_another(
    etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged once per outage."""
    caplog.set_level(logging.INFO)
    lookups = Lookups()
    endpoints, _ = opened(lookups)
    for failure in (OSError('no response'), OSError('no response'), ValueError('bug')):
        lookups.result = failure
        waiting = [gevent.spawn(endpoints.wait, Deadline(10)) for _ in range(2)]
        gevent.joinall(waiting)
        errors = [each.exception for each in waiting]
        assert errors[0] is not errors[1]
        for error in errors:
            assert isinstance(error, ConnectionError) and not error.maybe_applied
            assert str(failure) in str(error) and 'no endpoints of etcd+srv://example.com were found' in str(error)
    lookups.result = [B]
    assert endpoints.wait(Deadline(10)) == [B]
    gevent.sleep(0)
    assert [record.levelname for record in caplog.records] == ['WARNING', 'INFO']


def test_look_up_is_repeated_while_no_endpoint_responds(etcd_clock: VirtualTime) -> None:
    """At most every few seconds, in the background, and until it finds other servers."""
    lookups = Lookups(A)
    endpoints, _ = opened(lookups)
    endpoints.wait(Deadline(10))
    for _ in range(100):
        endpoints.mark_down(A)
        etcd_clock.advance(0.1)
    assert 2 <= lookups.count <= 4
    lookups.result = OSError('no response')
    etcd_clock.advance(10)
    endpoints.mark_down(A)
    etcd_clock.advance(10)
    assert list(endpoints) == [A]
    lookups.result = [B]
    endpoints.mark_down(A)
    etcd_clock.advance(0.1)
    assert endpoints.candidates() == [B]


def test_close_ends_the_calls_that_wait(etcd_clock: VirtualTime) -> None:
    lookups = Lookups(A)
    lookups.go.clear()
    endpoints, finder = opened(lookups)
    waiting = gevent.spawn(endpoints.wait, Deadline(None))
    etcd_clock.advance(1)
    finder.close()
    for call in (waiting.get, lambda: endpoints.wait(Deadline(None))):
        with pytest.raises(ClientClosed):
            call()
    finder.on_all_down()
    etcd_clock.advance(1)
    assert (greenlets_of_getc(), len(endpoints), lookups.count) == ([], 0, 1)


def test_killed_look_up_wakes_the_calls_that_wait(etcd_clock: VirtualTime) -> None:
    """gevent.killall of a program kills every greenlet."""
    lookups = Lookups(A)
    lookups.go.clear()
    endpoints, _ = opened(lookups)
    waiting = gevent.spawn(endpoints.wait, Deadline(None))
    etcd_clock.advance(1)
    gevent.killall(greenlets_of_getc())
    with pytest.raises(ClientClosed):
        waiting.get()
    lookups.go.set()
    assert endpoints.wait(Deadline(1)) == [A]


def test_look_up_that_was_killed_before_it_ran_wakes_the_calls_that_wait(etcd_clock: VirtualTime) -> None:
    endpoints, _ = opened(Lookups(A))
    with killing_next_greenlet(), pytest.raises(ClientClosed, match='killed'):
        endpoints.wait(Deadline(5))
    assert endpoints.wait(Deadline(5)) == [A]


def test_selector_and_finder_are_freed_without_a_garbage_collection(etcd_clock: VirtualTime) -> None:
    endpoints, finder = opened(Lookups(A))
    endpoints.wait(Deadline(1))
    gevent.sleep(0)
    references = weakref.ref(endpoints), weakref.ref(finder)
    gc.disable()
    try:
        del endpoints, finder
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


# -- clients


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], list[SrvRecord]]]:
    """The records of each name; names that are not in it have none."""
    found: dict[str, Callable[[], list[SrvRecord]]] = {}
    monkeypatch.setattr('getc.backends.connect.dns_query', lambda name: found[name]() if name in found else [])
    return found


def record_of(server: EtcdServer) -> SrvRecord:
    return SrvRecord(0, 0, '127.0.0.1', int(server.url.rpartition(':')[2]))


@pytest.mark.parametrize('api', [None, 'v3', 'v2'])
def test_client_finds_its_servers_by_dns(etcd_server: EtcdServer, records, api) -> None:
    """The first call looks them up; opening the client does not."""
    skip_unless_supported(api or 'v3', etcd_server.binary)
    with getc.etcd(URL, api=api) as client:
        records['_etcd-client._tcp.example.com'] = lambda: [record_of(etcd_server)]
        assert (client.url, client.endpoints) == (URL, ())
        assert 'in_use' not in repr(client)
        client.set('/a', '1')
        assert client.get('/a').value == '1'
        assert client.endpoints == (etcd_server.url,)
        assert URL in repr(client) and f'in_use={etcd_server.url}' in repr(client)


def test_client_found_by_dns_follows_the_members(etcd_server: EtcdServer, records) -> None:
    """The address of DNS leads to the member, so only the one without a server is replaced."""
    records['_etcd-client._tcp.example.com'] = lambda: [record_of(etcd_server), SrvRecord(0, 0, '127.0.0.1', 1)]
    with getc.etcd(URL, sync=1.0) as client:
        client.set('/a', '1')
        wait_until(lambda: client.endpoints == (etcd_server.url,))
        assert client.get('/a').value == '1'


def test_client_finds_another_server_when_its_own_does_not_respond(etcd_server: EtcdServer, records) -> None:
    records['_etcd-client-blue._tcp.example.com'] = lambda: [SrvRecord(0, 0, '127.0.0.1', 1)]
    with getc.etcd(f'{URL}?name=blue', api='v3') as client:
        with pytest.raises(ConnectionError):
            client.get('/', timeout=1)
        records['_etcd-client-blue._tcp.example.com'] = lambda: [record_of(etcd_server)]

        def is_served() -> bool:
            try:
                client.ready(timeout=0.5)
            except getc.EtcException:
                return False
            return True

        wait_until(is_served)
        assert client.endpoints == (etcd_server.url,)


def test_call_times_out_while_dns_does_not_respond(records) -> None:
    """And other greenlets run meanwhile; closing the client does not wait for the look-up."""
    go = Event()
    records['_etcd-client-ssl._tcp.example.com'] = lambda: go.wait() or []
    client = getc.etcd(URL, api='v3')
    with pytest.raises(TimedOut, match='the DNS look-up of'):
        client.get('/a', timeout=0.1)
    waiting = gevent.spawn(client.get, '/a', timeout=None)
    gevent.sleep(0)
    client.close()
    with pytest.raises(ClientClosed):
        waiting.get()
    assert client.endpoints == ()


def test_daemons_start_when_dns_recovers(etcd_server: EtcdServer, records) -> None:
    is_up = Event()

    def found() -> list[SrvRecord]:
        if not is_up.is_set():
            raise OSError('no response')
        return [record_of(etcd_server)]

    records['_etcd-client-ssl._tcp.example.com'] = list
    records['_etcd-client._tcp.example.com'] = found
    with getc.etcd(URL) as client:
        keeper = client.keep_node('/a', ttl=5, wait=False)
        mirror = client.mirror('/', wait=False)
        gevent.sleep(0)
        is_up.set()
        wait_until(lambda: keeper.state is getc.KeeperState.KEPT and '/a' in mirror)


def test_client_without_dnspython_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'dns.resolver', None)
    with pytest.raises(ImportError, match=r"pip install 'getc\[srv\]'"):
        getc.etcd(URL)
    assert srv.SRV_SCHEME == 'etcd+srv://'
