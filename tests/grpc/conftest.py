"""What must not be left of a transport, and a certificate to speak TLS with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

from getc.grpc.channel import Channel
from getc.grpc.socket_io import PlainWire
from getc.net.selector import Endpoint
from tests.support.fixtures import certificate, serve
from tests.support.leftovers import check_greenlets, has_failed

__all__ = ['certificate', 'open_channel', 'serve']


@pytest.fixture
def open_channel(request: pytest.FixtureRequest) -> Iterator[Callable[..., Channel]]:
    """Channels that are closed after the test; then no greenlet, socket or timer of theirs may be there."""
    opened: list[Channel] = []

    def open_channel(endpoint: Endpoint, *args: object) -> Channel:
        channel = Channel(endpoint, *args)  # type: ignore[arg-type]
        opened.append(channel)
        return channel

    yield open_channel
    links = [link for channel in opened for link in channel._links]
    for channel in opened:
        channel.close()
    gevent.sleep(0)
    gevent.sleep(0)
    if has_failed(request):
        return
    check_greenlets(request)
    for channel in opened:
        assert (channel._link, channel._links, channel._attempt) == (None, set(), None)
        assert channel._wheel._timer is None
    for link in links:
        assert link._wire._sock.fileno() == -1
        if isinstance(link._wire, PlainWire):
            assert not link._wire._readable.active and not link._wire._writable.active
        assert not link._timer.active
