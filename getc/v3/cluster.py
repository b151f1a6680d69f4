"""etcd's Cluster service: add, remove, update, list and promote members."""

from __future__ import annotations

from collections.abc import Sequence

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import cluster as schema

__all__ = ['Cluster']


class Cluster:
    """``etcd.v3.cluster``: one method for each RPC of etcd's Cluster service.

    All methods block, take a ``timeout`` in seconds (None: no limit; left out: the client's), and raise
    :class:`~getc.EtcdError` or another :class:`~getc.EtcException`.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def member_add(
        self,
        peerURLs: Sequence[str],  # noqa: N803
        *,
        isLearner: bool = False,  # noqa: N803
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.MemberAddResponse:
        """Add a member, which has to be started afterwards.

        Args:
            peerURLs: The URLs at which the other members reach it.
            isLearner: Add a learner, which receives the log and does not vote.
            timeout: Seconds.
        """
        request = build(schema.MemberAddRequest, peerURLs=peerURLs, isLearner=isLearner)
        return self._rpc.call(schema.Cluster.MemberAdd, request, timeout)

    def member_remove(self, ID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.MemberRemoveResponse:  # noqa: N803
        """Remove a member.  Raises NotFound if it does not exist."""
        return self._rpc.call(schema.Cluster.MemberRemove, build(schema.MemberRemoveRequest, ID=ID), timeout)

    def member_update(
        self,
        ID: int,  # noqa: N803
        *,
        peerURLs: Sequence[str],  # noqa: N803
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.MemberUpdateResponse:
        """Change the peer URLs of a member.  Raises NotFound if it does not exist."""
        request = build(schema.MemberUpdateRequest, ID=ID, peerURLs=peerURLs)
        return self._rpc.call(schema.Cluster.MemberUpdate, request, timeout)

    def member_list(
        self, *, linearizable: bool = True, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.MemberListResponse:
        """Return the members.

        With ``linearizable=False`` the server answers from its own data, as etcd before 3.5 always does.
        """
        request = build(schema.MemberListRequest, linearizable=linearizable)
        return self._rpc.call(schema.Cluster.MemberList, request, timeout)

    def member_promote(self, ID: int, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.MemberPromoteResponse:  # noqa: N803
        """Promote a learner to a voting member.  Raises FailedPrecondition if it is not a learner, or lags behind."""
        return self._rpc.call(schema.Cluster.MemberPromote, build(schema.MemberPromoteRequest, ID=ID), timeout)
