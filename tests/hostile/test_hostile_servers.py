"""Servers that mean harm: a typed error, bounded memory and time, nothing given away, and the next server serves.

What they do is in ``http_peers`` for etcd v2, in ``http2_peers`` for etcd v3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.testing import VirtualTime, wait_until
from tests.hostile import http2_peers, http_peers
from tests.hostile.harness import IN_THE_KERNEL, HostileServer, Peer, good, opened
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(120)

TABLE = [('v2', peer) for peer in http_peers.PEERS] + [('v3', peer) for peer in http2_peers.PEERS]
IDS = [f'{api}: {peer}' for api, peer in TABLE]


TIMEOUT = 5.0
"""Virtual seconds of a call to a peer that is slow."""

LIMIT = 60.0
"""Seconds of a call to one that is not: it never decides."""

Ended = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def ended(request: pytest.FixtureRequest, peer: Peer) -> Ended:
    """The result of a call, for which virtual time goes by if the peer is slow."""
    if not peer.is_slow:
        return lambda call: call()
    clock: VirtualTime = request.getfixturevalue('etcd_clock')

    def ended(call: Callable[[], Any]) -> Any:
        calling = gevent.spawn(call)
        while not calling.ready():
            settle()
            clock.advance(TIMEOUT / 50)
        return calling.get()

    return ended


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_reads_fail_with_a_typed_error_and_little_is_taken(ended: Ended, api: str, peer: Peer) -> None:
    """It names the server, and the connection is given up: the server cannot go on sending."""
    with HostileServer(peer) as server, opened(api, server.url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client:
        with pytest.raises(peer.error) as caught:
            ended(lambda: client.get('/a'))
        assert peer.told in str(caught.value)
        assert caught.value.endpoint == server.url
        assert not caught.value.maybe_applied
        if not peer.is_slow:
            assert not isinstance(caught.value, getc.TimedOut)
        client.close()
        visits = server.visits
        assert 0 < visits <= 2
        assert server.sent <= visits * (peer.most + IN_THE_KERNEL)
        ended(lambda: wait_until(lambda: not server.is_busy))


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_writes_are_told_that_they_may_have_happened(ended: Ended, api: str, peer: Peer) -> None:
    """They were sent once, and to no other server."""
    with HostileServer(peer) as server, HostileServer(peer) as other:
        with opened(api, server.url, other.url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client:
            with pytest.raises(peer.error) as caught:
                ended(lambda: client.set('/a', '1'))
        if caught.value.maybe_applied:
            assert (server.visits, other.visits) == (1, 0)
        else:  # a server that ends each new connection is not connected to again and again
            assert max(server.visits, other.visits) <= 4
        assert caught.value.endpoint in (server.url, other.url)


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_reads_are_served_by_the_next_server(ended: Ended, api: str, peer: Peer) -> None:
    """Within the time of the call; a hostile server does not eat it all."""
    with (
        HostileServer(peer) as server,
        good(api) as url,
        opened(api, server.url, url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client,
    ):
        assert ended(lambda: client.get('/a')).value == 'good'
        assert server.visits >= 1
        assert client.get('/a').value == 'good'
