"""Whether leases have ended."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from getc.backends.tree.watch import expiry
from getc.backends.tree.watch.expiry import ExpiryCache
from getc.testing import VirtualTime
from tests.support.fake_etcd import FakeEtcd, FakeRpc, delay, hang, refuse
from tests.support.leftovers import greenlets_of_getc


@pytest.fixture
def server(etcd_clock: VirtualTime) -> FakeEtcd:
    return FakeEtcd()


def make(server: FakeEtcd) -> ExpiryCache:
    rpc: Any = FakeRpc(server)
    return ExpiryCache(rpc)


def test_lease_is_gone_or_not(server: FakeEtcd) -> None:
    """As the server says."""
    found, lives, gone = make(server), server.grant(10), server.grant(10)
    server.revoke(gone)
    assert not found.is_resolved({lives, gone})
    found.resolve({lives, gone})
    assert found.is_resolved({lives, gone})
    assert (found.is_expired(lives), found.is_expired(gone)) == (False, True)


def test_lease_is_asked_about_once(server: FakeEtcd) -> None:
    """Also by several at the same time, and after a failure."""
    found, lease = make(server), server.grant(10)
    server.next('LeaseTimeToLive', refuse)
    gevent.joinall([gevent.spawn(found.resolve, {lease}) for _ in range(3)], raise_error=True)
    found.resolve({lease})
    assert len(server.times('LeaseTimeToLive')) == 1
    assert not found.is_expired(lease)


def test_so_many_are_asked_about_at_a_time(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """A thousand nodes of a rack that fails are no flood."""
    found = make(server)
    server.fault = delay(0.1)
    asking = gevent.spawn(found.resolve, {server.grant(10) for _ in range(100)})
    etcd_clock.advance(0.05)
    assert len(server.times('LeaseTimeToLive')) == expiry.MAX_REQUESTS
    asking_greenlets = [greenlet for greenlet in greenlets_of_getc() if 'lease lookups' in greenlet.name]
    assert len(asking_greenlets) == expiry.MAX_REQUESTS  # a greenlet costs 9 kB
    etcd_clock.advance(0.5)
    assert asking.ready()
    assert len(server.times('LeaseTimeToLive')) == 100


def test_silence_ends_the_questions_all_together(server: FakeEtcd, etcd_clock: VirtualTime) -> None:
    """However many there are."""
    found = make(server)
    server.fault = hang
    found.resolve({server.grant(100) for _ in range(1000)})
    assert etcd_clock.elapsed == pytest.approx(expiry.TIMEOUT)


def test_oldest_is_forgotten(server: FakeEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered is bounded."""
    monkeypatch.setattr(expiry, 'MAX_LEASES', 3)
    found, leases = make(server), [server.grant(10) for _ in range(4)]
    for lease in leases:
        found.resolve({lease})
    assert [found.is_resolved({lease}) for lease in leases] == [False, True, True, True]
