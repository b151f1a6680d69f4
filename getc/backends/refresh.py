"""Keep nodes alive where there are no leases: each node is refreshed on its own (v2, memory)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from getc import timing
from getc.backends.base import AcquiringWrite, KeepGroup, KeepListener, KeptNode
from getc.backends.refresh_context import Execute, RefreshContext, StartWatch
from getc.backends.refreshed_node import RefreshedNode
from getc.errors import KeyNotFound, NodeExist, NodeLost, TestFailed
from getc.operations import Delete, Get, Predecessor, Put
from getc.results import PredecessorResult, Value
from getc.timing import Deadline

__all__ = ['RefreshGroup']


class RefreshGroup(KeepGroup):
    """The nodes of one TTL, each renewed on its own at a third of it.

    Attributes:
        ttl: Seconds.

    Args:
        execute: Executes an operation.
        start_watch: Starts a watch.
        ttl: Seconds.
        max_watched: Maximum number of nodes that are watched.
    """

    ttl: int

    __slots__ = ('_context', 'ttl')

    def __init__(self, execute: Execute, start_watch: StartWatch, ttl: int, *, max_watched: int) -> None:
        self.ttl = ttl
        self._context = RefreshContext(execute, start_watch, ttl, max_watched=max_watched)

    def keep(self, put: Put, listener: KeepListener, deadline: Deadline) -> KeptNode:
        earlier = tuple(listener.unanswered)
        try:
            return self._keep(put, listener, deadline)
        except NodeExist:
            node = self._find_own_write(put.key, earlier, deadline)
            if node is None:
                raise
            takeover = replace(put, prev_exist=True, prev_index=node.modified_index)
            try:
                return self._keep(takeover, listener, deadline)
            except (KeyNotFound, TestFailed):
                pass  # it has just changed
            raise

    def contend(
        self, put: Put, listener: KeepListener, predecessor: Predecessor, deadline: Deadline
    ) -> tuple[KeptNode, PredecessorResult | None]:
        try:
            node = self._keep(put, listener, deadline, is_watched=False)
        except NodeExist:
            try:
                node = self._keep(replace(put, prev_exist=True), listener, deadline, is_watched=False)
            except KeyNotFound:
                raise NodeLost('{key} was deleted, or has expired', key=put.key) from None
        node.token = node.created_index
        return node, None

    def _keep(self, put: Put, listener: KeepListener, deadline: Deadline, *, is_watched: bool = True) -> RefreshedNode:
        value = put.value or ''
        sent_at = timing.now_with_suspend()
        listener.on_writing(AcquiringWrite(value, put.prev_exist is False))
        result = self._context.execute(replace(put, ttl=self.ttl), deadline)
        node = RefreshedNode(self._context, listener, result, value, sent_at, is_watched=is_watched)
        self._context.nodes.add(node)
        return node

    def _find_own_write(self, key: str, writes: Collection[AcquiringWrite], deadline: Deadline) -> Value | None:
        """Read the node; return it if one of these unanswered writes may have made it, by its value and its indices."""
        if not writes:
            return None
        try:
            node = self._context.execute(Get(key, quorum=True), deadline).node
        except KeyNotFound:
            return None
        if not isinstance(node, Value) or node.ttl is None:
            return None
        # A keeper refreshes only nodes that it keeps: a node that was refreshed since its creation is another keeper's.
        is_new = node.modified_index == node.created_index
        is_ours = any(node.value == write.value and (is_new or not write.is_create) for write in writes)
        return node if is_ours else None

    def delete_unanswered(self, key: str, listener: KeepListener, deadline: Deadline) -> None:
        node = self._find_own_write(key, listener.unanswered, deadline)
        if node is not None:
            try:
                self._context.execute(Delete(key, prev_index=node.modified_index), deadline)
            except (KeyNotFound, TestFailed):
                pass  # it is deleted, or belongs to another client by now

    def reclaim(
        self, key: str, value: str, previous: KeptNode, listener: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        node = previous.reclaim(value, listener, deadline) if isinstance(previous, RefreshedNode) else None
        if node is not None:
            self._context.nodes.add(node)
        return node

    def close(self) -> None:
        """Stop all renewals.  No I/O, does not block."""
        for node in list(self._context.nodes):
            node.abandon()
