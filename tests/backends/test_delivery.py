"""The queue of notifications for one listener."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from getc.backends.delivery import EventQueue
from getc.errors import ConnectionError, EtcException
from getc.results import EtcdResult
from getc.testing import VirtualTime


class Listener:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.received: list[object] = []
        self.on_notification: Callable[[], object] = lambda: None

    def on_live(self, index: int) -> None:
        self._record(index)

    def on_caught_up(self) -> None:
        self._record(None)

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        self._record(results)

    def on_ended(self, error: EtcException) -> None:
        self._record(error)

    def _record(self, notification: object) -> None:
        self.received.append(notification)
        self.on_notification()


def test_notifications_are_delivered_later_and_in_order(etcd_clock: VirtualTime) -> None:
    """In the next loop iteration; nothing follows an error."""
    listener, error = Listener(), ConnectionError('gone')
    queue = EventQueue(listener)
    queue.post(listener.on_live, 7)
    queue.post(listener.on_caught_up)
    queue.post(listener.on_changes, [])
    queue.end(error)
    queue.post(listener.on_changes, [])
    assert listener.received == []
    etcd_clock.advance(0)
    assert listener.received == [7, None, [], error]


def test_notification_posted_by_the_listener_is_delivered_once(etcd_clock: VirtualTime) -> None:
    listener = Listener()
    queue = EventQueue(listener)
    listener.on_notification = lambda: (
        queue.post(listener.on_live, len(listener.received)) if len(listener.received) < 5 else None
    )
    queue.post(listener.on_live, 0)
    etcd_clock.advance(0)
    assert listener.received == [0, 1, 2, 3, 4]


def test_closed_queue_delivers_nothing(etcd_clock: VirtualTime) -> None:
    """Neither what was queued when the listener closed it, nor what is posted later."""
    listener = Listener()
    queue = EventQueue(listener)
    listener.on_notification = queue.close
    queue.post(listener.on_live, 1)
    queue.post(listener.on_live, 2)
    etcd_clock.advance(0)
    queue.post(listener.on_live, 3)
    etcd_clock.advance(0)
    assert listener.received == [1]


def test_error_closes_the_queue_once_before_the_listener_is_called(etcd_clock: VirtualTime) -> None:
    closed: list[int] = []

    class Counted(EventQueue):
        def _on_closed(self) -> None:
            closed.append(len(listener.received))

    listener = Listener()
    queue = Counted(listener)
    queue.end(ConnectionError('gone'))
    etcd_clock.advance(0)
    queue.close()
    assert closed == [0]
    assert len(listener.received) == 1


def test_exception_of_the_listener_is_logged_and_ends_the_watch(
    etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    queue = EventQueue(listener)

    def fail() -> None:
        listener.on_notification = lambda: None
        raise KeyError('a bug')

    listener.on_notification = fail
    queue.post(listener.on_live, 1)
    queue.post(listener.on_caught_up)
    etcd_clock.advance(0)
    queue.post(listener.on_caught_up)
    etcd_clock.advance(0)
    live, ended = listener.received
    assert live == 1
    assert type(ended) is EtcException and isinstance(ended.__cause__, KeyError)
    assert 'a bug' in caplog.text
