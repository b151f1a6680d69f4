"""Grant a lease."""

from __future__ import annotations

from getc import timing
from getc.backends.tree.codec.keyspace import TTL
from getc.backends.tree.codec.responses import malformed
from getc.operations import MAX_TTL
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.lease import Lease, LeaseGrantRequest

__all__ = ['grant']


def grant(rpc: RpcClient, ttl: int, deadline: Deadline) -> tuple[int, TTL]:
    """Grant a lease; return its ID and the TTL of its keys, which is at least ``ttl`` seconds.

    The request is repeated after a lost response, since a lease without keys ends by itself.

    Raises:
        ProtocolError: The response has no ID or no valid TTL.
    """
    request = LeaseGrantRequest(TTL=max(ttl, 1))
    response = rpc.call(Lease.LeaseGrant, request, deadline.timeout_left(), is_write=False)
    if response.ID <= 0 or not 0 < response.TTL <= 2 * MAX_TTL:
        raise malformed('a lease without an ID or without a valid TTL', is_write=False)
    return response.ID, TTL.of(response.TTL, timing.wall_time())
