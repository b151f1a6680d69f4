"""etcd's Lock service: lock and unlock."""

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
        """Acquire the lock.  It is held until the lease ends, or until ``unlock(response.key)``.  Blocks.

        Args:
            name: The name of the lock.
            lease: The lease that holds the lock.
            timeout: Seconds to wait; None for no limit.

        Raises:
            LeaseNotFound: The lease does not exist; the lock was not requested.
            EtcException: The lock was not acquired, for example not in time (TimedOut).  With ``maybe_applied`` the
                request may still be queued, and the lease may acquire the lock later: revoke the lease to prevent that.
        """
        return self._rpc.call(schema.Lock.Lock, build(schema.LockRequest, name=name, lease=lease), timeout)

    def unlock(self, key: bytes, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.UnlockResponse:
        """Release the lock, or leave its queue."""
        return self._rpc.call(schema.Lock.Unlock, build(schema.UnlockRequest, key=key), timeout)
