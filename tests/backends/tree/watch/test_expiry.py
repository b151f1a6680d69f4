"""Lookups of leases of deleted keys."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from getc.backends.tree.watch import expiry
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.testing import VirtualTime
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import delay, hang, refuse
from tests.support.fake_rpc import FakeRpc
from tests.support.leftovers import greenlets_of_getc


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


def make(server: FakeEtcd) -> ExpiryCache:
    rpc: Any = FakeRpc(server)
    return ExpiryCache(rpc)


def test_resolve_finds_out_which_leases_have_expired(server: FakeEtcd) -> None:
    cache, lives, gone = make(server), server.grant(10), server.grant(10)
    server.revoke(gone)
    assert not cache.is_resolved({lives, gone})
    cache.resolve({lives, gone})
    assert cache.is_resolved({lives, gone})
    assert (cache.is_expired(lives), cache.is_expired(gone)) == (False, True)


def test_lease_is_looked_up_once(server: FakeEtcd) -> None:
    """Also by concurrent callers, and after a failure."""
    cache, lease = make(server), server.grant(10)
    server.next('LeaseTimeToLive', refuse)
    gevent.joinall([gevent.spawn(cache.resolve, {lease}) for _ in range(3)], raise_error=True)
    cache.resolve({lease})
    assert len(server.times('LeaseTimeToLive')) == 1
    assert not cache.is_expired(lease)


def test_lease_is_looked_up_again_when_its_ttl_can_have_run_out(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """The first of its keys was deleted by a client, the others expire later."""
    cache, lease = make(server), server.grant(10)
    cache.resolve({lease})
    etcd_clock.advance(9)
    assert cache.is_resolved({lease})
    etcd_clock.advance(1)
    assert not cache.is_resolved({lease})
    cache.resolve({lease})
    assert cache.is_expired(lease)
    etcd_clock.advance(100)
    assert cache.is_resolved({lease}) and cache.is_expired(lease)
    assert len(server.times('LeaseTimeToLive')) == 2


def test_failed_lookup_is_repeated_after_an_interval(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    cache, lease = make(server), server.grant(10)
    server.next('LeaseTimeToLive', refuse)
    cache.resolve({lease})
    server.revoke(lease)
    cache.resolve({lease})
    assert not cache.is_expired(lease)
    etcd_clock.advance(expiry.RETRY_INTERVAL)
    cache.resolve({lease})
    assert cache.is_expired(lease)


def test_lookups_in_flight_are_bounded(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """A rack that fails may expire a thousand leases at once."""
    cache = make(server)
    server.fault = delay(0.1)
    resolving = gevent.spawn(cache.resolve, {server.grant(10) for _ in range(100)})
    etcd_clock.advance(0.05)
    assert len(server.times('LeaseTimeToLive')) == expiry.MAX_REQUESTS
    workers = [greenlet for greenlet in greenlets_of_getc() if 'lease lookups' in greenlet.name]
    assert len(workers) == expiry.MAX_REQUESTS  # a greenlet costs 9 kB
    etcd_clock.advance(0.5)
    assert resolving.ready()
    assert len(server.times('LeaseTimeToLive')) == 100


def test_all_lookups_together_end_after_the_timeout(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    cache = make(server)
    server.fault = hang
    cache.resolve({server.grant(100) for _ in range(1000)})
    assert etcd_clock.elapsed == pytest.approx(expiry.TIMEOUT)


def test_oldest_lease_is_dropped_when_the_cache_is_full(server: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, 'MAX_LEASES', 3)
    cache, leases = make(server), [server.grant(10) for _ in range(4)]
    for lease in leases:
        cache.resolve({lease})
    assert [cache.is_resolved({lease}) for lease in leases] == [False, True, True, True]


def test_resolve_returns_when_a_lookup_never_ends(
    server: FakeEtcd, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose greenlet was killed before it started."""
    cache, lease = make(server), server.grant(10)
    monkeypatch.setattr(expiry.ExpiryCache, '_work', lambda _: None)
    cache.resolve({lease})
    assert etcd_clock.elapsed == pytest.approx(2 * expiry.TIMEOUT)
    assert not cache.is_expired(lease)
