"""The messages and RPCs of etcd v3, as tables: one module for each service, with the service below its messages.

Field numbers, names and types are those of etcd 3.7; a test compares them with the descriptors of etcd 3.4 to 3.7.
Older servers neither send nor evaluate the fields marked ``since 3.5``, ``3.6`` or ``3.7``.  Sources, in etcd's
repository: ``api/etcdserverpb/rpc.proto``, ``api/mvccpb/kv.proto``, ``api/authpb/auth.proto``, ``v3lock.proto`` and
``v3election.proto`` below ``server/etcdserver/api``.

An RPC is ``repeatable`` if etcd's Go client repeats it (``client/v3/retry.go``), except LeaseGrant, Alarm and
MoveLeader, which may have another effect the second time; or if it only reads.

    >>> from getc.v3.schema.kv import KV, RangeRequest
    >>> KV.Range.path, RangeRequest(key=b'/cfg').SerializeToString()
    ('/etcdserverpb.KV/Range', b'\\n\\x04/cfg')

The module :mod:`getc.v3.schema.table` builds protobuf classes from the tables.
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
    """Yield every RPC of etcd."""
    for service in SERVICES:
        yield from (value for value in vars(service).values() if isinstance(value, Method))
