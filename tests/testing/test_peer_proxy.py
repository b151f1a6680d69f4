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
    is_accepted = gevent.event.Event()

    def record(sock: Any) -> None:
        accepted.append(sock)
        if len(accepted) > 1:
            is_accepted.set()

    monkeypatch.setattr(peer_proxy, 'unref', record)
    proxy = peer_proxy.MemberProxy(peer_proxy.PeerNetwork(), 1).start()
    with socket.create_connection((HOST, int(proxy.url.rpartition(':')[2]))):
        is_accepted.wait(60)
        proxy.stop()
        _, client = accepted
        assert client.closed
