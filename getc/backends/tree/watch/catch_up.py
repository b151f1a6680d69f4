"""Detects when a watch has delivered every change that the store had when the watch was created.

A watch with a start revision in the past receives the history first, and etcd does not mark the end of the history.
Evidence, the cheapest first:

- A response with events that is complete up to its header's revision (checked by ``SharedWatch``).
- A progress response: etcd from 3.4.25 and 3.5.8 on sends it only when all watches of the stream are up to date.
- For older servers, and for ``etcd grpc-proxy``, which drops progress requests: two reads show that no key of the range
  was changed after the watch's position.  Reads do not show deletions; the time between the two reads is for those:
  etcd sends the history every 100 ms.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import gevent
from gevent.event import Event

from getc import timing
from getc.backends.tree.watch.position import WatchPosition
from getc.errors import EtcException
from getc.net.affinity import ThreadAffinity, kill_soon
from getc.timing import Deadline
from getc.v3.watch_stream import WatchStream

__all__ = ['CatchUpDetector']

PROGRESS_TIMEOUT: Final = 2.0
"""Seconds for a progress response before the range is read."""

READ_INTERVAL: Final = 0.5
"""Seconds between the two reads that find no pending change."""

READ_TIMEOUT: Final = 5.0
"""Seconds for a read."""

MIN_DELAY: Final = 0.05
MAX_DELAY: Final = 0.5
"""Seconds between two progress requests: the first delay, and the upper bound."""


class CatchUpDetector:
    """Notifies watches when they have caught up.  While no watch has to catch up it has no greenlet."""

    def __init__(self) -> None:
        self._watches: dict[WatchPosition, Deadline] = {}  # each with the deadline of its progress response
        # The time of the first read without a pending change, and the goal of the watch before that read.
        self._first_empty_read: dict[WatchPosition, tuple[float, int]] = {}
        self._poller: gevent.Greenlet[[], None] | None = None
        self._goal_raised = Event()  # wakes the poller
        self._affinity = ThreadAffinity()

    def attach(self, stream: WatchStream) -> None:
        """Listen to a stream's progress responses.

        A progress request is sent before the first watch: only an older server answers it.

        Raises:
            EtcException: The stream has ended, with this error.
        """
        stream.on_progress = partial(self._on_progress, stream)
        stream.request_progress()

    def add(self, watch: WatchPosition) -> None:
        """Notify this watch, which was created on another stream, when it has caught up.  Does not block."""
        self._watches[watch] = Deadline(PROGRESS_TIMEOUT)
        self._first_empty_read.pop(watch, None)  # of its previous stream
        self._start()

    def raise_goal(self, watch: WatchPosition) -> None:
        """Notify this watch when it has reached its goal, which is a later one now.  Does not block."""
        if watch not in self._watches:
            self._watches[watch] = Deadline(PROGRESS_TIMEOUT)
        self._start()
        self._goal_raised.set()

    def _start(self) -> None:
        if self._poller is None or self._poller.ready():  # ready: it was killed before it ran
            self._poller = gevent.spawn(self._poll)
            self._poller.name = 'getc watches, catching up'

    def close(self) -> None:
        """Stop notifying watches.  Does not block."""
        self._watches.clear()
        if self._poller is not None:
            kill_soon(self._poller)

    def _on_progress(self, stream: WatchStream, revision: int) -> None:
        if stream.progress.proves_delivery:
            for watch in [watch for watch in self._watches if watch.stream is stream]:
                watch.on_progress(revision)

    def _poll(self) -> None:
        delay = MIN_DELAY
        try:
            while self._remove_finished():
                self._goal_raised.clear()
                self._request_progress()
                for watch, deadline in list(self._watches.items()):
                    stream = watch.stream
                    if deadline.has_passed() or stream is None or not stream.progress.proves_delivery:
                        self._check_by_read(watch, deadline)
                delay = MIN_DELAY if self._goal_raised.wait(delay) else min(MAX_DELAY, 1.5 * delay)
        finally:
            self._poller = None
            self._first_empty_read.clear()

    def _remove_finished(self) -> bool:
        """Remove watches that do not have to catch up any more; return True if there are others."""
        if self._affinity.in_forked_child:
            self._watches.clear()  # the watches are the parent's
        for watch in [watch for watch in self._watches if not watch.is_catching_up]:
            del self._watches[watch]
            self._first_empty_read.pop(watch, None)
        return bool(self._watches)

    def _request_progress(self) -> None:
        for stream in {watch.stream for watch in self._watches}:
            if stream is not None and stream.progress.proves_delivery and not stream.is_over:
                stream.request_progress()

    def _check_by_read(self, watch: WatchPosition, deadline: Deadline) -> None:
        if not watch.is_catching_up:
            return
        sent_at, goal = timing.now(), watch.goal
        try:
            has_pending = watch.has_pending(Deadline(READ_TIMEOUT))
        except EtcException:
            return  # the next round reads again
        if self._watches.get(watch) is not deadline:
            return  # the watch was created again meanwhile: the read shows nothing about its new stream
        if has_pending:
            self._first_empty_read.pop(watch, None)
            return
        first_at, first_goal = self._first_empty_read.setdefault(watch, (timing.now(), goal))
        if sent_at - first_at >= READ_INTERVAL and watch.is_catching_up:
            del self._first_empty_read[watch]  # the goal may be a later one by now
            watch.on_nothing_pending(first_goal)
            if watch.stream is not None and not watch.stream.progress.has_responses:
                watch.stream.progress.proves_delivery = False  # further watches do not wait for progress responses
