"""An in-memory etcd v3 with injected faults, in virtual time."""

from __future__ import annotations

from typing import Any

from getc.backends.tree.backend import TreeV3
from getc.client import Client
from getc.v3 import V3
from tests.support.clients import client_on
from tests.support.fake_rpc import FakeRpc
from tests.support.fake_store import FakeStore

__all__ = ['FakeEtcd']


class FakeEtcd(FakeStore):
    """A store that clients can be opened on."""

    def open(self) -> Client:
        """Return a client of this etcd."""
        rpc: Any = FakeRpc(self)
        v3 = V3(rpc)
        return client_on(TreeV3(v3, rpc), url='http://fake', v3=v3)
