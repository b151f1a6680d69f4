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
        await_revision: Called with a revision that :meth:`on_received` has to report: another method of it.
    """

    __slots__ = ('_progress_calls', 'await_revision', 'cluster_id', 'cursor', 'unsubscribe')

    def __init__(
        self,
        listener: WatchListener,
        cursor: int,
        cluster_id: int,
        *,
        unsubscribe: Callable[[Subscriber], object],
        await_revision: Callable[[int], object],
    ) -> None:
        super().__init__(listener)
        self.cursor = cursor
        self.cluster_id = cluster_id
        self.unsubscribe = unsubscribe
        self.await_revision = await_revision
        self._progress_calls: list[tuple[int, Callable[[int], object]]] | None = None  # most are never synced

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

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        if not self._is_closed:
            self._progress_calls = [*(self._progress_calls or ()), (index, on_progress)]
            self.await_revision(index)

    def on_received(self, revision: int) -> None:
        """Report the progress that was requested: every change up to this revision was delivered."""
        waiting = []
        for index, on_progress in self._progress_calls or ():
            if index <= revision:
                self.post(on_progress, revision)
            else:
                waiting.append((index, on_progress))
        self._progress_calls = waiting or None

    def _on_closed(self) -> None:
        self.unsubscribe(self)
