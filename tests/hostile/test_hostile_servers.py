"""Hostile servers: a typed error, bounded memory and time, no disclosure, and failover to the next server.

Their behaviour is in ``http_peers`` for etcd v2, and in ``http2_peers`` for etcd v3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.testing import VirtualTime, wait_until
from tests.hostile import http2_peers, http_peers
from tests.hostile.harness import KERNEL_BUFFER_BYTES, HostileServer, Peer, healthy_server, opened
from tests.support.settling import settle

pytestmark = pytest.mark.timeout(300)

TABLE = [('v2', peer) for peer in http_peers.PEERS] + [('v3', peer) for peer in http2_peers.PEERS]
IDS = [f'{api}: {peer}' for api, peer in TABLE]


TIMEOUT = 5.0
"""Virtual seconds of a call to a slow peer."""

LIMIT = 60.0
"""Seconds of a call to any other peer, which no call reaches."""

RunCall = Callable[[Callable[[], Any]], Any]


@pytest.fixture
def run_call(request: pytest.FixtureRequest, peer: Peer) -> RunCall:
    """Returns the result of a call; virtual time passes during the call if the peer is slow."""
    if not peer.is_slow:
        return lambda call: call()
    clock: VirtualTime = request.getfixturevalue('etcd_clock')

    def run_call(call: Callable[[], Any]) -> Any:
        calling = gevent.spawn(call)
        while not calling.ready():
            settle()
            clock.advance(TIMEOUT / 50)
        return calling.get()

    return run_call


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_read_fails_with_a_typed_error_and_little_is_read(run_call: RunCall, api: str, peer: Peer) -> None:
    """The error names the server, and the connection is closed, so that the server cannot send more."""
    with HostileServer(peer) as server, opened(api, server.url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client:
        with pytest.raises(peer.error) as caught:
            run_call(lambda: client.get('/a'))
        assert peer.text in str(caught.value)
        assert caught.value.endpoint == server.url
        assert not caught.value.maybe_applied
        if not peer.is_slow:
            assert not isinstance(caught.value, getc.TimedOut)
        client.close()
        visits = server.visits
        assert 0 < visits <= 2
        assert server.sent <= visits * (peer.max_bytes + KERNEL_BUFFER_BYTES)
        run_call(lambda: wait_until(lambda: not server.is_busy))


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_write_is_sent_once_if_it_may_have_been_applied(run_call: RunCall, api: str, peer: Peer) -> None:
    with HostileServer(peer) as server, HostileServer(peer) as other:
        with opened(api, server.url, other.url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client:
            with pytest.raises(peer.error) as caught:
                run_call(lambda: client.set('/a', '1'))
        if caught.value.maybe_applied:
            assert (server.visits, other.visits) == (1, 0)
        else:  # no endless reconnecting to a server that closes each connection
            assert max(server.visits, other.visits) <= 4
        assert caught.value.endpoint in (server.url, other.url)


@pytest.mark.parametrize(('api', 'peer'), TABLE, ids=IDS)
def test_read_fails_over_to_the_next_server(run_call: RunCall, api: str, peer: Peer) -> None:
    """Within the timeout of the call: the hostile server does not use all of it."""
    with (
        HostileServer(peer) as server,
        healthy_server(api) as url,
        opened(api, server.url, url, timeout=TIMEOUT if peer.is_slow else LIMIT) as client,
    ):
        assert run_call(lambda: client.get('/a')).value == 'good'
        assert server.visits >= 1
        assert client.get('/a').value == 'good'
