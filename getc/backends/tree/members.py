"""The members of a cluster, read over etcd's v3 API."""

from __future__ import annotations

from getc.backends.member_sync import ClusterMembers, MemberSource
from getc.net.endpoint import Endpoint
from getc.timing import Deadline
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema.cluster import Cluster, MemberListRequest

__all__ = ['V3Members']


class V3Members(MemberSource):
    """Reads the members by ``MemberList``.

    Args:
        rpc: Calls the RPCs.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def members(self, deadline: Deadline) -> ClusterMembers:
        """Return the members, confirmed by a majority from etcd 3.5 on."""
        response = self._rpc.call(Cluster.MemberList, build(MemberListRequest, linearizable=True), deadline)
        # A member without a name was added and has not been started.
        voters = {
            f'{each.ID:x}': tuple(each.clientURLs) for each in response.members if each.name and not each.isLearner
        }
        return ClusterMembers(f'{response.header.cluster_id:x}', voters)

    def member_at(self, endpoint: Endpoint, deadline: Deadline) -> tuple[str, str]:
        """Return the IDs in the header of a ``MemberList``.

        A learner refuses it.  In contrast to ``Status`` it needs no other permission than reading the members.
        """
        request = build(MemberListRequest, linearizable=False)
        header = self._rpc.probe(endpoint, Cluster.MemberList, request, deadline).header
        return f'{header.cluster_id:x}', f'{header.member_id:x}'
