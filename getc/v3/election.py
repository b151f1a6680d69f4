"""The server's own election."""

from __future__ import annotations

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import election as schema
from getc.v3.schema.election import LeaderKey
from getc.v3.stream import MessageStream

__all__ = ['Election']


class Election:
    """``etcd.v3.election``: one method for each RPC of etcd's Election service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def campaign(
        self, name: bytes, *, lease: int, value: bytes = b'', timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.CampaignResponse:
        """Wait to be elected; the response's ``leader`` is what the others take.

        Args:
            name: The election's.
            lease: By which the office is held.
            value: What the others see of the leader.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            LeaseNotFound: There is no such lease: we do not stand.
            EtcException: We are not elected, not in time (TimedOut) for one.  With ``maybe_applied`` we may stand, and
                be elected, all the same: the lease tells.
        """
        request = build(schema.CampaignRequest, name=name, lease=lease, value=value)
        return self._rpc.call(schema.Election.Campaign, request, timeout)

    def proclaim(
        self, leader: LeaderKey, value: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.ProclaimResponse:
        """Change what the others see.  Raises FailedPrecondition if somebody else is leader."""
        return self._rpc.call(
            schema.Election.Proclaim, build(schema.ProclaimRequest, leader=leader, value=value), timeout
        )

    def leader(self, name: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaderResponse:
        """Who is leader.  Raises NotFound if nobody is."""
        return self._rpc.call(schema.Election.Leader, build(schema.LeaderRequest, name=name), timeout)

    def observe(
        self, name: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> MessageStream[schema.LeaderRequest, schema.LeaderResponse]:
        """Follow who is leader: an iterator with each new one; leaving its block, or ``cancel()``, ends it."""
        stream = self._rpc.open(schema.Election.Observe, timeout)
        stream.send(build(schema.LeaderRequest, name=name))
        stream.finish()
        return stream

    def resign(self, leader: LeaderKey, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.ResignResponse:
        """Give the office up."""
        return self._rpc.call(schema.Election.Resign, build(schema.ResignRequest, leader=leader), timeout)
