"""News for one listener, told on the next turn of the hub: whoever brings them need not care what it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from gevent.hub import get_hub

from getc.backends.base import WatchListener
from getc.errors import EtcException
from getc.results import EtcdResult

__all__ = ['EventQueue']


class EventQueue:
    """A watch that is told from outside.

    Args:
        listener: Whom to tell.
    """

    __slots__ = ('_is_closed', '_listener', '_news')

    def __init__(self, listener: WatchListener) -> None:
        self._listener = listener
        self._news: deque[Sequence[EtcdResult] | EtcException | int | None] | None = None  # most are quiet
        self._is_closed = False

    def tell(self, news: Sequence[EtcdResult] | EtcException | int | None) -> None:
        """Queue one notification for the listener.

        Args:
            news: The changes of a revision, the error that ended the watch, the index at which it is live, or None
                once it has caught up.
        """
        if self._is_closed:
            return
        if self._news is None:
            self._news = deque()
            get_hub().loop.run_callback(self._deliver)
        self._news.append(news)

    def close(self) -> None:
        """Tell nothing more.  Does not block, may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._news = None
            self._on_closed()

    def _on_closed(self) -> None:
        """Nothing is to be told any more.  Called once."""

    def _deliver(self) -> None:
        while self._news:  # whom we tell may close us
            news = self._news.popleft()
            if isinstance(news, int):
                self._listener.on_live(news)
            elif news is None:
                self._listener.on_caught_up()
            elif isinstance(news, EtcException):
                self.close()
                self._listener.on_ended(news)
            else:
                self._listener.on_changes(news)
        self._news = None
