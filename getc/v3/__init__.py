"""etcd's v3 API: one method for each RPC.

    etcd = getc.etcd('http://127.0.0.1:2379')
    etcd.v3.kv.put(b'/servers/a', b'10.0.0.7:7000')
    etcd.v3.kv.range(b'/servers/', range_end=prefix_end(b'/servers/')).kvs
    with etcd.v3.watch.create(b'/servers/', range_end=prefix_end(b'/servers/')) as watch:
        for response in watch: ...

Keys and values are bytes, arguments have the names of etcd's fields, and the results are etcd's messages
(:mod:`getc.v3.schema`).  All calls and streams use one connection for each server.
"""

from __future__ import annotations

from getc.v3.auth import Auth
from getc.v3.cluster import Cluster
from getc.v3.election import Election
from getc.v3.kv import KV
from getc.v3.lease import Lease
from getc.v3.lock import Lock
from getc.v3.maintenance import Maintenance
from getc.v3.ranges import EVERYTHING, next_key, prefix_end
from getc.v3.rpc import RpcClient
from getc.v3.watch import Watch
from getc.v3.watch_iterator import WatchIterator

__all__ = ['EVERYTHING', 'V3', 'WatchIterator', 'next_key', 'prefix_end']


class V3:
    """``etcd.v3``: the services of etcd.

    Args:
        rpc: Calls the RPCs.

    Attributes:
        kv: Keys and values, :class:`getc.v3.kv.KV`.
        lease: Leases, :class:`getc.v3.lease.Lease`.
        watch: Watches, :class:`getc.v3.watch.Watch`.
        auth: Users and roles, :class:`getc.v3.auth.Auth`.
        cluster: Members, :class:`getc.v3.cluster.Cluster`.
        maintenance: Health and snapshots, :class:`getc.v3.maintenance.Maintenance`.
        lock: The server's lock, :class:`getc.v3.lock.Lock`.
        election: The server's election, :class:`getc.v3.election.Election`.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self.kv = KV(rpc)
        self.lease = Lease(rpc)
        self.watch = Watch(rpc)
        self.auth = Auth(rpc)
        self.cluster = Cluster(rpc)
        self.maintenance = Maintenance(rpc)
        self.lock = Lock(rpc)
        self.election = Election(rpc)

    def clear(self) -> None:
        """Close connections that are not in use.  Does not block."""
        self._rpc.clear()

    def close(self) -> None:
        """End every call and stream with ClientClosed, and close all connections.  Does not block."""
        self._rpc.close()
