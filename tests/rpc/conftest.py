"""Servers that do what they are told, and a caller of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

from getc.net.selector import Endpoint, Endpoints
from getc.rpc.caller import Rpc
from tests.support.fixtures import serve
from tests.support.leftovers import check_greenlets

__all__ = ['open_rpc', 'serve']


@pytest.fixture
def open_rpc(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rpc]]:
    """Callers that are closed after the test; then no greenlet of theirs may be there."""
    opened: list[Rpc] = []

    def open_rpc(*endpoints: Endpoint, timeout: float | None = 30.0) -> Rpc:
        opened.append(Rpc(Endpoints(endpoints), timeout=timeout))
        return opened[-1]

    yield open_rpc
    for rpc in opened:
        rpc.close()
    gevent.sleep(0)
    gevent.sleep(0)
    check_greenlets(request)
