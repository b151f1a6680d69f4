"""One listener of a shared watch, with its position."""

from __future__ import annotations

from collections.abc import Callable

from getc.backends.base import WatchListener
from getc.backends.delivery import EventQueue
from getc.backends.history import another_store
from getc.backends.tree.watch.replay_buffer import RangeHistory

__all__ = ['Subscriber']


class Subscriber(EventQueue):
    """One listener of a shared watch, with its position.

    Attributes:
        cursor: Every change up to this revision was delivered or not requested; -1 for one that starts from now.
        cluster_id: The id of the cluster whose changes are delivered; 0 for any.
        unsubscribe: Called once with this subscriber when it is closed: a method of its shared watch, which changes
            when two watches of one range are merged.
    """

    __slots__ = ('cluster_id', 'cursor', 'unsubscribe')

    def __init__(
        self, listener: WatchListener, cursor: int, cluster_id: int, unsubscribe: Callable[[Subscriber], object]
    ) -> None:
        super().__init__(listener)
        self.cursor = cursor
        self.cluster_id = cluster_id
        self.unsubscribe = unsubscribe

    def go_live(self, position: int, cluster_id: int, history: RangeHistory) -> bool:
        """Notify the listener that the watch is live, and replay what it has not received.

        Args:
            position: The position of the shared watch.
            cluster_id: The id of the cluster of the shared watch.
            history: The recent revisions of the shared watch.

        Returns:
            False if the subscriber needs the changes of another cluster: then it ends.
        """
        if self.cluster_id not in (0, cluster_id):
            self.end(another_store(position))
            return False
        self.cluster_id = cluster_id
        if self.cursor < 0:
            self.cursor = position
        self.post(self.listener.on_live, self.cursor)
        self.replay(history)
        return True

    def replay(self, history: RangeHistory) -> None:
        """Deliver the changes of the history after the cursor."""
        for revision, results in history.since(self.cursor):
            self.cursor = revision
            self.post(self.listener.on_changes, results)

    def _on_closed(self) -> None:
        self.unsubscribe(self)
