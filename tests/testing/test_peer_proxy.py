"""The HTTP proxy of a member."""

from __future__ import annotations

import socket
from typing import Any

import gevent.event
import pytest

from getc.testing import peer_proxy
from getc.testing.ports import HOST


def test_proxy_closes_a_connection_when_stopped_before_its_greenlet_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped between ``accept`` and the first turn of the connection's greenlet."""
    accepted: list[Any] = []
    came = gevent.event.Event()

    def see(sock: Any) -> None:
        accepted.append(sock)
        if len(accepted) > 1:
            came.set()

    monkeypatch.setattr(peer_proxy, 'unref', see)
    outlet = peer_proxy.MemberProxy(peer_proxy.PeerNetwork(), 1).start()
    with socket.create_connection((HOST, int(outlet.url.rpartition(':')[2]))):
        came.wait(5)
        outlet.stop()
        _, client = accepted
        assert client.closed
