"""Finds out when a watch has delivered every change that the store had when the watch was created.

A watch that starts in the past receives the history first, and etcd does not mark its end.  Evidence, the cheapest
first:

- A response with events that is complete up to its header's revision (``Source`` checks that itself).
- A progress response: etcd from 3.4.25 and 3.5.8 on sends it only when all watches of the stream are up to date.
- For older servers, and for ``etcd grpc-proxy``, which drops progress requests: no key of the range was changed after
  the watch's position, by two reads.  These do not show deletions, for which the time between them is meant: etcd sends
  the history every 100 ms.
"""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import gevent

from getc import timing
from getc.errors import EtcException
from getc.net.affinity import ThreadAffinity, kill_soon
from getc.timing import Deadline
from getc.v3.watch_stream import WatchStream

__all__ = ['CatchingUp']

PATIENCE: Final = 2.0
"""Seconds for a progress response, before the range is read."""

BETWEEN_READS: Final = 0.5
"""Seconds between the two reads that show nothing."""

READ_TIMEOUT: Final = 5.0
"""Seconds for a read."""

FIRST_DELAY: Final = 0.05
LAST_DELAY: Final = 0.5
"""Seconds between two requests."""


class _Source(Protocol):
    """A watch that is shared by its followers."""

    @property
    def stream(self) -> WatchStream | None: ...

    @property
    def is_catching_up(self) -> bool: ...

    def on_progress(self, revision: int) -> None: ...

    def has_pending(self, deadline: Deadline) -> bool: ...

    def on_nothing_pending(self) -> None: ...


class CatchingUp:
    """Notifies sources when they have caught up.  Without such sources it has no greenlet."""

    def __init__(self) -> None:
        self._waiting: dict[_Source, Deadline] = {}
        self._seen_empty: dict[_Source, float] = {}  # when the answer of the first read came that showed nothing
        self._asking: gevent.Greenlet[[], None] | None = None
        self._home = ThreadAffinity()

    def adopt(self, stream: WatchStream) -> None:
        """Listen to a stream's progress responses.  Raises what has ended it.

        The request comes before the first watch: a server that answers it is an older one.
        """
        stream.on_progress = partial(self._on_progress, stream)
        stream.request_progress()

    def add(self, source: _Source) -> None:
        """Notify this source.  Does not block."""
        self._waiting[source] = Deadline(PATIENCE)
        if self._asking is None:
            self._asking = gevent.spawn(self._ask)
            self._asking.name = 'getc watches, catching up'

    def close(self) -> None:
        """Stop notifying sources.  Does not block."""
        self._waiting.clear()
        if self._asking is not None:
            kill_soon(self._asking)

    def _on_progress(self, stream: WatchStream, revision: int) -> None:
        if stream.proves_progress:
            for source in [source for source in self._waiting if source.stream is stream]:
                source.on_progress(revision)

    def _ask(self) -> None:
        delay = FIRST_DELAY
        try:
            while self._keep_waiting():
                self._request_progress()
                for source, deadline in list(self._waiting.items()):
                    if deadline.has_passed() or not (source.stream is not None and source.stream.proves_progress):
                        self._read(source)
                gevent.sleep(delay)
                delay = min(LAST_DELAY, 1.5 * delay)
        finally:
            self._asking = None
            self._seen_empty.clear()

    def _keep_waiting(self) -> bool:
        if self._home.in_forked_child:
            self._waiting.clear()  # in a forked child: the watches are the parent's
        self._waiting = {source: deadline for source, deadline in self._waiting.items() if source.is_catching_up}
        return bool(self._waiting)

    def _request_progress(self) -> None:
        for stream in {source.stream for source in self._waiting}:
            if stream is not None and stream.proves_progress and not stream.is_over:
                stream.request_progress()

    def _read(self, source: _Source) -> None:
        if not source.is_catching_up:
            return
        asked_at = timing.now()
        try:
            has_pending = source.has_pending(Deadline(READ_TIMEOUT))
        except EtcException:
            return  # the next round reads again
        if has_pending:
            self._seen_empty.pop(source, None)
        elif asked_at - self._seen_empty.setdefault(source, timing.now()) >= BETWEEN_READS and source.is_catching_up:
            source.on_nothing_pending()
            if source.stream is not None and not source.stream.has_progress:
                source.stream.proves_progress = False  # the next source does not wait for what never comes
