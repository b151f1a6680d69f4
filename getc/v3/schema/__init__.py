"""etcd's v3 messages and RPCs, as tables: one module a service, and its messages in front of it.

Field numbers, names and types are those of etcd 3.6; what is marked ``since 3.5`` or ``since 3.6`` older
servers ignore and do not send.  Sources, in etcd's repository: ``api/etcdserverpb/rpc.proto``,
``api/mvccpb/kv.proto``, ``api/authpb/auth.proto``, ``v3lock.proto`` and ``v3election.proto`` below
``server/etcdserver/api``.  What is ``repeatable``: what etcd's own client repeats
(``client/v3/retry.go`` there) without LeaseGrant, Alarm and MoveLeader, which a second time may do
something else; and what it leaves out though it only reads.

    >>> from getc.v3.schema.kv import KV, RangeRequest
    >>> KV.Range.path, RangeRequest(key=b'/cfg').SerializeToString()
    ('/etcdserverpb.KV/Range', b'\\n\\x04/cfg')

How a table becomes classes is in :mod:`getc.v3.schema.table`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from getc.v3.schema.auth import Auth
from getc.v3.schema.cluster import Cluster
from getc.v3.schema.election import Election
from getc.v3.schema.kv import KV
from getc.v3.schema.lease import Lease
from getc.v3.schema.lock import Lock
from getc.v3.schema.maintenance import Maintenance
from getc.v3.schema.table import Method
from getc.v3.schema.watch import Watch

__all__ = ['SERVICES', 'methods']

SERVICES: Final[tuple[type, ...]] = (KV, Watch, Lease, Cluster, Maintenance, Auth, Lock, Election)


def methods() -> Iterator[Method[Any, Any]]:
    """Every RPC of etcd."""
    for service in SERVICES:
        yield from (thing for thing in vars(service).values() if isinstance(thing, Method))
