"""``etcd.v3.lease`` on a real etcd, and renewals on one stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

import getc
from getc.errors import AlreadyExists, ClientClosed, LeaseNotFound, NoLeader
from getc.testing import EtcdServer, VirtualTime
from getc.timing import Deadline
from getc.v3 import schema
from getc.v3.keep_alive_stream import KeepAliveStream
from getc.v3.lease import Lease
from getc.v3.schema.lease import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from tests.support.fake_stream import FakeStream
from tests.support.server_probe import connections_to, pause

SERVICE = schema.Lease


@pytest.fixture
def lease(client: getc.Client) -> Iterator[Lease]:
    """Its leases are revoked after the test."""
    before = {known.ID for known in client.v3.lease.leases().leases}
    yield client.v3.lease
    with getc.etcd(client.url) as sweeper:
        left = [known.ID for known in sweeper.v3.lease.leases().leases if known.ID not in before]
        Pool(50).map(sweeper.v3.lease.revoke, left)


# -- one call each


def test_grant_returns_an_id_and_the_ttl(lease: Lease) -> None:
    granted = lease.grant(60)
    assert granted.ID > 0 and granted.TTL == 60
    assert lease.grant(60).ID != granted.ID


def test_grant_raises_a_ttl_below_the_minimum_of_the_server(lease: Lease) -> None:
    assert lease.grant(1).TTL == 2


def test_grant_accepts_an_id(lease: Lease) -> None:
    assert lease.grant(60, ID=4711).ID == 4711
    assert lease.grant(60, ID=2**63 - 1).ID == 2**63 - 1
    with pytest.raises(AlreadyExists, match='already exists'):
        lease.grant(60, ID=4711)


def test_grant_refuses_a_ttl_that_is_too_large(lease: Lease) -> None:
    with pytest.raises(getc.EtcdError, match='too large'):
        lease.grant(2**62)


def test_revoke_deletes_the_keys_of_the_lease(client: getc.Client, lease: Lease) -> None:
    granted = lease.grant(60).ID
    client.v3.kv.put(b'/a', b'', lease=granted)
    client.v3.kv.put(b'/b', b'', lease=granted)
    lease.revoke(granted)
    assert client.v3.kv.range(b'/', range_end=b'0', count_only=True).count == 0
    with pytest.raises(LeaseNotFound):
        lease.revoke(granted)


def test_time_to_live_returns_seconds_and_keys(client: getc.Client, lease: Lease) -> None:
    granted = lease.grant(60).ID
    client.v3.kv.put(b'/b', b'', lease=granted)
    client.v3.kv.put(b'/a', b'', lease=granted)
    known = lease.time_to_live(granted, keys=True)
    assert (known.ID, known.grantedTTL, sorted(known.keys)) == (granted, 60, [b'/a', b'/b'])
    assert 50 < known.TTL <= 60
    assert not lease.time_to_live(granted).keys


def test_time_to_live_of_a_missing_lease_is_minus_one(lease: Lease) -> None:
    assert lease.time_to_live(4712).TTL == -1


def test_leases_returns_all_leases(lease: Lease) -> None:
    granted = {lease.grant(60).ID for _ in range(3)}
    assert granted <= {known.ID for known in lease.leases().leases}


def test_lease_expires_without_renewals(client: getc.Client, lease: Lease, wait_until: Callable[..., None]) -> None:
    granted = lease.grant(2).ID
    client.v3.kv.put(b'/a', b'', lease=granted)
    wait_until(lambda: lease.time_to_live(granted).TTL == -1)
    wait_until(lambda: not client.v3.kv.range(b'/a').kvs)
    with pytest.raises(LeaseNotFound):
        lease.keep_alive(granted)


# -- renewals


def test_keep_alive_renews(lease: Lease, wait_until: Callable[..., None]) -> None:
    granted = lease.grant(30).ID
    wait_until(lambda: lease.time_to_live(granted).TTL < 30)
    renewed = lease.keep_alive(granted)
    assert (granted, 30) == (renewed.ID, renewed.TTL)
    assert lease.time_to_live(granted).TTL >= 29


def test_missing_lease_does_not_affect_other_renewals(lease: Lease, server: EtcdServer) -> None:
    granted = [lease.grant(60, ID=7000 + number).ID for number in range(20)]
    for gone in granted[::4]:
        lease.revoke(gone)
    renewing = [gevent.spawn(lease.keep_alive, number) for number in granted * 3]
    gevent.joinall(renewing)
    for number, renewal in zip(granted * 3, renewing, strict=True):
        if number in granted[::4]:
            assert isinstance(renewal.exception, LeaseNotFound), renewal.exception
            assert f'{number:x}' in str(renewal.exception) and renewal.exception.endpoint == server.url
        else:
            assert number == renewal.value.ID


def test_killed_callers_do_not_affect_the_responses_of_others(lease: Lease) -> None:
    granted = lease.grant(60).ID
    lease.keep_alive(granted)
    renewing = [gevent.spawn(lease.keep_alive, granted) for _ in range(100)]
    gevent.sleep(0)
    gevent.killall(renewing[::2])
    gevent.joinall(renewing[1::2], raise_error=True)
    assert lease.keep_alive(granted).TTL == 60


def test_renewals_end_with_the_connection_and_the_next_one_reconnects(own_server: EtcdServer) -> None:
    with getc.etcd(own_server.url) as client:
        granted = [client.v3.lease.grant(600).ID for _ in range(10)]
        client.v3.lease.keep_alive(granted[0])
        pause(own_server)
        renewing = [gevent.spawn(client.v3.lease.keep_alive, number) for number in granted]
        gevent.sleep(0.05)  # they are sent
        own_server.kill()
        gevent.joinall(renewing)
        for renewal in renewing:
            assert isinstance(renewal.exception, getc.ConnectionError), renewal.exception
            assert not isinstance(renewal.exception, getc.TimedOut) and renewal.exception.maybe_applied
        assert len({id(renewal.exception) for renewal in renewing}) == 10
        own_server.start()
        assert client.v3.lease.keep_alive(granted[5]).TTL == 600


def test_renewal_times_out(own_server: EtcdServer) -> None:
    with getc.etcd(own_server.url) as client:
        granted = client.v3.lease.grant(600).ID
        client.v3.lease.keep_alive(granted)
        pause(own_server)
        with pytest.raises(getc.TimedOut, match='not renewed') as caught:
            client.v3.lease.keep_alive(granted, timeout=0.1)
        assert caught.value.maybe_applied
        own_server.resume()
        assert client.v3.lease.keep_alive(granted).TTL == 600


def test_close_ends_renewals(own_server: EtcdServer) -> None:
    client = getc.etcd(own_server.url)
    granted = client.v3.lease.grant(600).ID
    client.v3.lease.keep_alive(granted)
    pause(own_server)
    renewing = [gevent.spawn(client.v3.lease.keep_alive, granted) for _ in range(3)]
    gevent.sleep(0)
    client.close()
    gevent.joinall(renewing)
    assert [type(renewal.exception) for renewal in renewing] == [ClientClosed] * 3
    with pytest.raises(ClientClosed):
        client.v3.lease.keep_alive(granted)


def test_concurrent_renewals_share_one_stream(
    client: getc.Client, lease: Lease, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    begin = lease._rpc.open
    monkeypatch.setattr(lease._rpc, 'open', lambda *args: opened.append(args) or begin(*args))
    granted = lease.grant(60).ID
    client.v3.clear()  # the connection is made again, and all of them wait for it
    gevent.joinall([gevent.spawn(lease.keep_alive, granted) for _ in range(200)], raise_error=True)
    assert len(opened) == 1


def test_ten_thousand_leases_are_renewed_over_one_connection(
    client: getc.Client, lease: Lease, server: EtcdServer
) -> None:
    granted = [response.ID for response in Pool(200).map(lease.grant, [600] * 10_000)]
    renewed = Pool(1000).map(lease.keep_alive, granted)
    assert [response.ID for response in renewed] == granted
    assert connections_to(server.url) == 1


def test_renewal_succeeds_when_the_process_stalls_beyond_the_timeout(lease: Lease) -> None:
    """The response is in the socket before the deadline."""
    granted = lease.grant(60).ID
    lease.keep_alive(granted)
    renewing = gevent.spawn(lease.keep_alive, granted, timeout=0.3)
    for _ in range(2):  # the request is sent in the second turn
        gevent.sleep(0)
    time.sleep(0.5)
    assert renewing.get().TTL == 60


# -- the stream alone


@pytest.fixture
def stream() -> FakeStream:
    return FakeStream()


@pytest.fixture
def renewals(stream: FakeStream) -> Iterator[KeepAliveStream]:
    renewals = KeepAliveStream(stream)
    yield renewals
    stream.cancel()
    gevent.sleep(0)


def renew(renewals: KeepAliveStream, number: int, timeout: float | None = None) -> Any:
    return gevent.spawn(renewals.renew, LeaseKeepAliveRequest(ID=number), Deadline(timeout))


def answer(number: int, ttl: int) -> LeaseKeepAliveResponse:
    return LeaseKeepAliveResponse(ID=number, TTL=ttl)


def test_responses_are_assigned_in_the_order_of_the_requests_of_a_lease(
    stream: FakeStream, renewals: KeepAliveStream
) -> None:
    pending = [renew(renewals, number) for number in (1, 2, 1, 1)]
    gevent.sleep(0)
    stream.push(answer(1, 10), answer(1, 11), answer(2, 20), answer(1, 0))
    gevent.joinall(pending)
    assert [renewal.value and renewal.value.TTL for renewal in pending] == [10, 20, 11, None]
    assert isinstance(pending[3].exception, LeaseNotFound)


def test_response_to_a_killed_renewal_is_consumed(stream: FakeStream, renewals: KeepAliveStream) -> None:
    """Otherwise each later renewal would take an older response for its own."""
    first, second = renew(renewals, 1), renew(renewals, 1)
    gevent.sleep(0)
    first.kill()
    stream.push(answer(1, 10))
    gevent.sleep(0.01)
    assert not second.ready()
    stream.push(answer(1, 11))
    assert second.get().TTL == 11


def test_unexpected_responses_are_dropped(stream: FakeStream, renewals: KeepAliveStream) -> None:
    stream.push(answer(1, 10))
    gevent.sleep(0.01)
    pending = renew(renewals, 1)
    gevent.sleep(0)
    stream.push(answer(1, 11))
    assert pending.get().TTL == 11


def test_refused_stream_ends_every_renewal_with_its_error(stream: FakeStream, renewals: KeepAliveStream) -> None:
    pending = [renew(renewals, number) for number in (1, 1, 2)]
    gevent.sleep(0)
    stream.end(NoLeader('no leader'))
    gevent.joinall(pending)
    assert [type(renewal.exception) for renewal in pending] == [NoLeader] * 3
    assert renewals.is_over


def test_stream_that_ends_with_status_ok_counts_as_lost(stream: FakeStream, renewals: KeepAliveStream) -> None:
    pending = renew(renewals, 1)
    gevent.sleep(0)
    stream.end()
    with pytest.raises(getc.ConnectionError) as caught:
        pending.get()
    assert caught.value.maybe_applied


def test_stream_is_not_used_again_after_a_timeout(
    stream: FakeStream, renewals: KeepAliveStream, etcd_clock: VirtualTime
) -> None:
    """Renewals with more time wait on, and the last one ends the stream."""
    first, second, third = renew(renewals, 1, 1), renew(renewals, 2, 3), renew(renewals, 3, 5)
    etcd_clock.advance(0.5)
    assert (renewals.is_over, stream.is_reported_silent) == (False, False)
    etcd_clock.advance(1)
    assert isinstance(first.exception, getc.TimedOut)
    assert (renewals.is_over, stream.is_reported_silent, stream.is_cancelled) == (True, True, False)
    stream.push(answer(2, 20))
    assert second.get().TTL == 20
    assert not stream.is_cancelled
    etcd_clock.advance(5)
    assert isinstance(third.exception, getc.TimedOut)
    assert stream.is_cancelled


@pytest.mark.parametrize('timeout', [0, 0.05])
def test_timeout_below_the_minimum_does_not_mark_the_stream_as_silent(
    stream: FakeStream, renewals: KeepAliveStream, etcd_clock: VirtualTime, timeout: float
) -> None:
    hasty = renew(renewals, 1, timeout)
    etcd_clock.advance(0.06)
    assert isinstance(hasty.exception, getc.TimedOut)
    assert (renewals.is_over, stream.is_reported_silent) == (False, False)
    patient = renew(renewals, 1, 1)
    gevent.sleep(0)
    stream.push(answer(1, 10), answer(1, 11))
    assert patient.get().TTL == 11


def test_gevent_timeout_of_the_caller_is_raised(renewals: KeepAliveStream) -> None:
    def renewal() -> str:
        with gevent.Timeout(0.02) as own:
            try:
                renewals.renew(LeaseKeepAliveRequest(ID=1), Deadline(0.02))
            except gevent.Timeout as fired:
                return 'own' if fired is own else 'another'
            except getc.TimedOut:
                return 'renewal'
        return 'none'

    assert gevent.spawn(renewal).get() in ('own', 'renewal')
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        renewals.renew(LeaseKeepAliveRequest(ID=1), Deadline(None))
