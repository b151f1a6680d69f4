"""etcd's Election service: campaign, proclaim, observe and resign."""

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
        """Campaign until elected; the response's ``leader`` is the argument of ``proclaim`` and ``resign``.  Blocks.

        Args:
            name: The name of the election.
            lease: The lease that holds the leadership.
            value: The value that observers receive.
            timeout: Seconds to wait; None for no limit.

        Raises:
            LeaseNotFound: The lease does not exist; it does not take part in the election.
            EtcException: The election was not won, for example not in time (TimedOut).  With ``maybe_applied`` the
                lease may still take part and be elected later: revoke the lease to prevent that.
        """
        request = build(schema.CampaignRequest, name=name, lease=lease, value=value)
        return self._rpc.call(schema.Election.Campaign, request, timeout)

    def proclaim(
        self, leader: LeaderKey, value: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.ProclaimResponse:
        """Publish another value.  Raises FailedPrecondition if ``leader`` is not the leader any more."""
        return self._rpc.call(
            schema.Election.Proclaim, build(schema.ProclaimRequest, leader=leader, value=value), timeout
        )

    def leader(self, name: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LeaderResponse:
        """Return the leader.  Raises NotFound if there is none."""
        return self._rpc.call(schema.Election.Leader, build(schema.LeaderRequest, name=name), timeout)

    def observe(
        self, name: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> MessageStream[schema.LeaderRequest, schema.LeaderResponse]:
        """Return an iterator over the current and all later leaders; leaving its ``with`` or ``cancel()`` ends it."""
        stream = self._rpc.open(schema.Election.Observe, timeout)
        stream.send(build(schema.LeaderRequest, name=name))
        stream.finish()
        return stream

    def resign(self, leader: LeaderKey, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.ResignResponse:
        """Give up the leadership."""
        return self._rpc.call(schema.Election.Resign, build(schema.ResignRequest, leader=leader), timeout)
