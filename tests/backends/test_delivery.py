"""News for one listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from getc.backends.delivery import EventQueue
from getc.errors import ConnectionError, EtcException
from getc.results import EtcdResult
from getc.testing import VirtualTime


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.story: list[object] = []
        self.on_news: Callable[[], object] = lambda: None

    def on_live(self, index: int) -> None:
        self._note(index)

    def on_caught_up(self) -> None:
        pass

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self._note(results)

    def on_ended(self, error: EtcException) -> None:
        self._note(error)

    def _note(self, news: object) -> None:
        self.story.append(news)
        self.on_news()


def test_news_are_told_in_order_and_not_at_once(etcd_clock: VirtualTime) -> None:
    """Whoever brings them need not care what the listener does."""
    listener, error = Listener(), ConnectionError('gone')
    news = EventQueue(listener)
    news.tell(7)
    news.tell([])
    news.tell(error)
    news.tell([])
    assert listener.story == []
    etcd_clock.advance(0)
    assert listener.story == [7, [], error]


def test_news_that_come_while_it_is_told_follow(etcd_clock: VirtualTime) -> None:
    """Each once."""
    listener = Listener()
    news = EventQueue(listener)
    listener.on_news = lambda: news.tell(len(listener.story)) if len(listener.story) < 5 else None
    news.tell(0)
    etcd_clock.advance(0)
    assert listener.story == [0, 1, 2, 3, 4]


def test_closed_from_inside_and_outside_it_tells_nothing_more(etcd_clock: VirtualTime) -> None:
    """Not even what was on its way."""
    listener = Listener()
    news = EventQueue(listener)
    listener.on_news = news.close
    news.tell(1)
    news.tell(2)
    etcd_clock.advance(0)
    news.tell(3)
    etcd_clock.advance(0)
    assert listener.story == [1]


def test_end_closes_it_once(etcd_clock: VirtualTime) -> None:
    """Before it is told."""
    closed: list[int] = []

    class Counted(EventQueue):
        def _on_closed(self) -> None:
            closed.append(len(listener.story))

    listener = Listener()
    news = Counted(listener)
    news.tell(ConnectionError('gone'))
    etcd_clock.advance(0)
    news.close()
    assert closed == [0]
    assert len(listener.story) == 1
