"""News for one listener, told on the next turn of the hub: whoever brings them need not care what it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gevent.hub import get_hub

from getc.backends.base import Listener
from getc.errors import EtcException
from getc.model import EtcdResult

__all__ = ['News']


class News:
    """A watch that is told from outside.

    Args:
        listener: Whom to tell.
        on_close: Called once when nothing is to be told any more.
    """

    __slots__ = ('_is_closed', '_listener', '_news', '_on_close')

    def __init__(self, listener: Listener, on_close: Callable[[], object]) -> None:
        self._listener = listener
        self._on_close = on_close
        self._news: deque[Sequence[EtcdResult] | EtcException | int] = deque()
        self._is_closed = False

    def tell(self, news: Sequence[EtcdResult] | EtcException | int) -> None:
        """Have the listener told: the changes of a revision, what ended the watch, or the index at which it is live."""
        if self._is_closed:
            return
        self._news.append(news)
        if len(self._news) == 1:
            get_hub().loop.run_callback(self._deliver)

    def move(self, on_close: Callable[[], object]) -> None:
        """Somebody else brings the news from now on."""
        self._on_close = on_close

    def close(self) -> None:
        """Tell nothing more.  Does not block, may be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._news.clear()
            self._on_close()

    def _deliver(self) -> None:
        while self._news:
            news = self._news[0]
            if isinstance(news, int):
                self._listener.on_live(news)
            elif isinstance(news, EtcException):
                self.close()
                self._listener.on_ended(news)
                return
            else:
                self._listener.on_changes(news)
            if self._news:  # it may have closed us
                self._news.popleft()
