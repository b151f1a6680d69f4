"""Servers that mean harm: a typed error, bounded memory and time, nothing given away, and the next server serves.

What they do is in ``http_peers`` for etcd v2, in ``http2_peers`` for etcd v3.
"""

from __future__ import annotations

import pytest

import getc
from getc.testing import until
from tests.hostile import http2_peers, http_peers
from tests.hostile.victims import IN_THE_KERNEL, HostileServer, Peer, good, opened

pytestmark = pytest.mark.timeout(60)

TABLE = [('v2', peer) for peer in http_peers.PEERS] + [('v3', peer) for peer in http2_peers.PEERS]
IDS = [f'{api}: {peer}' for api, peer in TABLE]


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_reads_fail_with_a_typed_error_and_little_is_taken(api: str, peer: Peer) -> None:
    """It names the server, and the connection is given up: the server cannot go on sending."""
    with HostileServer(peer) as server, opened(api, server.url, timeout=0.3 if peer.is_slow else 5) as client:
        with pytest.raises(peer.error) as caught:
            client.get('/a')
        assert peer.told in str(caught.value)
        assert caught.value.endpoint == server.url
        assert not caught.value.maybe_applied
        if not peer.is_slow:
            assert not isinstance(caught.value, getc.TimedOut)
        client.close()
        visits = server.visits
        assert 0 < visits <= 2
        assert server.sent <= visits * (peer.most + IN_THE_KERNEL)
        until(lambda: not server.is_busy)


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_writes_are_told_that_they_may_have_happened(api: str, peer: Peer) -> None:
    """They were sent once, and to no other server."""
    with HostileServer(peer) as server, HostileServer(peer) as other:
        with opened(api, server.url, other.url, timeout=0.3 if peer.is_slow else 5) as client:
            with pytest.raises(peer.error) as caught:
                client.set('/a', '1')
        if caught.value.maybe_applied:
            assert (server.visits, other.visits) == (1, 0)
        assert caught.value.endpoint in (server.url, other.url)


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_reads_are_served_by_the_next_server(api: str, peer: Peer) -> None:
    """Within the time of the call; a hostile server does not eat it all."""
    timeout = 2 if peer.is_slow else 5
    with HostileServer(peer) as server, good(api) as url, opened(api, server.url, url, timeout=timeout) as client:
        assert client.get('/a').value == 'good'
        assert server.visits >= 1
        assert client.get('/a').value == 'good'
