"""The server's own lock."""

from __future__ import annotations

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import lock as schema

__all__ = ['Lock']


class Lock:
    """``etcd.v3.lock``: one method for each RPC of etcd's Lock service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def lock(self, name: bytes, *, lease: int, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.LockResponse:
        """Wait for the lock, which is held while the lease lives; the response's ``key`` is what :meth:`unlock` takes.

        Args:
            name: The lock's.
            lease: By which it is held.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            LeaseNotFound: There is no such lease: we do not wait for it.
            EtcException: We do not have it, not in time (TimedOut) for one.  With ``maybe_applied`` it may be, or
                become, ours all the same: the lease tells.
        """
        return self._rpc.call(schema.Lock.Lock, build(schema.LockRequest, name=name, lease=lease), timeout)

    def unlock(self, key: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.UnlockResponse:
        """Let the lock go, or its place in the queue."""
        return self._rpc.call(schema.Lock.Unlock, build(schema.UnlockRequest, key=key), timeout)
