"""The watch of a name that another owner has."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from getc.backends.base import Backend, Watch
from getc.errors import EtcException
from getc.operations import WatchSpec
from getc.results import Deleted, EtcdResult

__all__ = ['OwnerWatch']


class OwnerWatch:
    """Watches a node of another owner.

    Args:
        backend: Where it is.
        spec: The node, and the index from which on its deletion is of interest.
        patience: Seconds after which to look at it again, whatever the watch says.
        on_gone: Called when the node was deleted.  It must not block or raise.
        on_ended: Called when the watch has ended.  It must not block or raise.

    Attributes:
        patience: The same.
    """

    def __init__(
        self,
        backend: Backend,
        spec: WatchSpec,
        *,
        patience: float,
        on_gone: Callable[[], object],
        on_ended: Callable[[], object],
    ) -> None:
        self.patience = patience
        self._on_gone = on_gone
        self._on_ended = on_ended
        self._watch: Watch = backend.watch(spec, self)

    def close(self) -> None:
        """Call nothing any more.  Does not block."""
        self._watch.close()

    # -- what the watch tells (``Listener``)

    def on_live(self, index: int) -> None:
        pass

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if any(isinstance(result, Deleted) for result in results):
            self._on_gone()

    def on_ended(self, error: EtcException) -> None:
        self._on_ended()
