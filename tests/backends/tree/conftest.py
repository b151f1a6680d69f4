"""Fixtures for the tree on etcd v3."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from getc.backends.tree import backend
from getc.errors import NotSupported
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.kv import RangeRequest, RangeResponse


@pytest.fixture
def no_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read large directories in pages, as from an etcd before 3.7."""

    def stream_parts(rpc: RpcClient, request: RangeRequest, deadline: Deadline) -> Iterator[RangeResponse]:
        raise NotSupported('RangeStream needs a newer version')
        yield RangeResponse()

    monkeypatch.setattr(backend, 'stream_parts', stream_parts)
