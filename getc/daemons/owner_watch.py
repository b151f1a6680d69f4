"""Watches the node of another owner, to take the name as soon as it is free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from getc.backends.base import Backend, Watch
from getc.errors import EtcdError, EtcException, NodeExist, NotFile
from getc.operations import WatchSpec
from getc.results import Deleted, EtcdResult, Node, Value

__all__ = ['OwnerWatch', 'permanent_node_error']


class OwnerWatch:
    """Watches a node of another owner for its deletion.

    Args:
        backend: The store.
        spec: The node, and the index after the one at which it was read.
        check_interval: Seconds after which to read the node again, even if the watch reports nothing.
        on_deleted: A function that must not block or raise, called when the node was deleted.
        on_ended: A function that must not block or raise, called when the watch has ended and a deletion may be missed.

    Attributes:
        check_interval: The same.
    """

    __slots__ = ('_on_deleted', '_on_ended', '_watch', 'check_interval')

    def __init__(
        self,
        backend: Backend,
        spec: WatchSpec,
        *,
        check_interval: float,
        on_deleted: Callable[[], object],
        on_ended: Callable[[], object],
    ) -> None:
        self.check_interval = check_interval
        self._on_deleted = on_deleted
        self._on_ended = on_ended
        self._watch: Watch = backend.watch(spec, self)

    def close(self) -> None:
        """Call neither function any more.  Does not block."""
        self._watch.close()

    # -- WatchListener

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if any(isinstance(result, Deleted) for result in results):
            self._on_deleted()

    def on_ended(self, error: EtcException) -> None:
        self._on_ended()


def permanent_node_error(node: Node, index: int) -> EtcdError:
    """Return the error for an existing node without a TTL."""
    if isinstance(node, Value):
        reason = 'it has no TTL, so it is not taken over: delete it, or keep another key'
        return NodeExist(f'Key already exists: {reason}', node.key, index)
    error = NotFile('Not a file', node.key, index)
    error.hint = 'it is a directory, which cannot be kept: keep a node below it'
    return error
