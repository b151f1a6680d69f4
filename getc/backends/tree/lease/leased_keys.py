"""The keys of one lease: kept on it, being put on it, being removed from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from getc.errors import EtcException
from getc.net.affinity import ThreadAffinity
from getc.renewal import RenewalClock
from getc.v3.rpc import RpcClient

__all__ = ['LeasedKeys']

Node = TypeVar('Node')


class LeasedKeys(Generic[Node]):
    """One lease of this client and its keys.  At most one node of each key is kept on one lease.

    Attributes:
        rpc: Calls etcd.
        lease_id: The ID of the lease.
        clock: When the lease counts as lost, and with it all its keys.
        nodes: The kept nodes, by key.
        reserved: The keys that are being put on the lease, or moved from it to another one.
    """

    def __init__(self, rpc: RpcClient, lease_id: int, clock: RenewalClock) -> None:
        self.rpc = rpc
        self.lease_id = lease_id
        self.clock = clock
        self.nodes: dict[str, Node] = {}
        self.reserved: set[str] = set()
        self._removals: Counter[str] = Counter()  # deletes in flight, and those that etcd may still apply
        self._affinity = ThreadAffinity()

    @property
    def count(self) -> int:
        """The number of keys that are kept, being put or being moved."""
        return len(self.nodes) + len(self.reserved)

    @property
    def is_empty(self) -> bool:
        """True if no key is kept, being put or being moved."""
        return not self.nodes and not self.reserved

    @property
    def in_forked_child(self) -> bool:
        """True in a process that was forked off the one that granted the lease."""
        return self._affinity.in_forked_child

    def is_taken(self, key: str) -> bool:
        """True if the key is kept, being put or being removed: another node of this key needs another lease."""
        return key in self.nodes or key in self.reserved or key in self._removals

    @contextmanager
    def reserve(self, key: str) -> Iterator[None]:
        """Reserve the key while it is put on the lease, or moved to another one."""
        self.reserved.add(key)
        try:
            yield
        finally:
            self.reserved.discard(key)

    @contextmanager
    def removing(self, key: str) -> Iterator[None]:
        """Block re-attaching the key while its delete is in flight.

        After a delete without an answer the key stays blocked on this lease: etcd may apply the delete at any time, and
        would delete the new node.
        """
        self._removals[key] += 1
        may_be_applied_later = True  # also if this greenlet is killed
        try:
            yield
            may_be_applied_later = False
        except EtcException as error:
            may_be_applied_later = error.maybe_applied
            raise
        finally:
            if not may_be_applied_later:
                self._removals -= Counter((key,))

    def discard(self, key: str, node: Node) -> None:
        """Forget a node that is not kept any more; a later node of this key stays."""
        if self.nodes.get(key) is node:
            del self.nodes[key]
