"""Detects that the store of a watch was replaced by another one, or restored to an earlier revision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from getc.backends.monotonic import RevisionGuard
from getc.v3.rpc import RpcClient
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, RangeRequest

__all__ = ['StoreIdentity', 'read_identity']

READ_TIMEOUT: Final = 5.0
"""Seconds for one read."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """What identifies the state of a store.

    Attributes:
        cluster_id: The id of its cluster.
        revision: Its revision.
    """

    cluster_id: int
    revision: int

    def continues(self, cluster_id: int, revision: int) -> bool:
        """Return True if the store is that of the cluster and has reached the revision."""
        return self.cluster_id == cluster_id and revision <= self.revision


def read_identity(rpc: RpcClient, revision_guard: RevisionGuard, key: bytes) -> StoreIdentity:
    """Read the identity of the store, from several servers if the first answer is older than the client has seen.

    Blocks.

    Args:
        rpc: Calls the read.
        revision_guard: What the client has seen.
        key: A key that the user may read.

    Raises:
        EtcException: A read failed.
    """
    request = RangeRequest(key=key, keys_only=True)
    headers: list[ResponseHeader] = []

    def read_revision() -> int:
        headers.append(rpc.call(KV.Range, request, READ_TIMEOUT).header)
        return int(headers[-1].revision)

    revision = revision_guard.observe_quorum(read_revision)
    return StoreIdentity(headers[-1].cluster_id, revision)
