"""Detects that the server of a stream of watches does not answer, although its connection does.

A quiet stream is silent for hours, and HTTP/2 PINGs prove little: haproxy, nginx and ``etcd grpc-proxy`` answer them
while etcd hangs or is gone.  So etcd itself has to answer, in one of two ways:

- A progress request, on the stream.  ``etcd grpc-proxy`` drops it; so does etcd while a watch of the stream lags behind
  (from 3.4.25 and 3.5.8 on) or starts at a revision that is still to come (seen on 3.5.30 and 3.7.1).
- A linearizable read, by the same server.  It shows that etcd is there, and whether progress was to be expected.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.errors import ConnectionError, EtcdError, EtcException
from getc.net.affinity import close_watcher, kill_soon
from getc.retry import is_transient
from getc.timing import Deadline

__all__ = ['WatchPulse']

QUIET: Final = 10.0
"""Seconds of silence after which the server is asked."""

PASSED: Final = 2.0
"""The same once other responses show that the store has come further than the stream has shown."""

PROGRESS_TIMEOUT: Final = 1.0
"""Seconds for a progress response, before a read follows."""

READ_TIMEOUT: Final = 4.0
"""Seconds for the read, and for a progress response that was to be expected."""


class _WatchStream(Protocol):
    """A stream of watches.  Only ``read_revision`` blocks."""

    @property
    def url(self) -> str: ...

    @property
    def is_idle(self) -> bool:
        """True if it is over, or has no watches, or belongs to the parent process."""

    def request_progress(self) -> None: ...

    def expects_progress(self, revision: int) -> bool:
        """True if a server that has come to this revision answers progress requests."""

    def read_revision(self, deadline: Deadline) -> int: ...

    def lose(self, error: ConnectionError) -> None: ...


class WatchPulse:
    """Ends a stream of watches if its server does not answer.  Between two questions it is a timer.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: _WatchStream) -> None:
        self._stream = stream
        self._heard_at = timing.now()
        self._passed_at: float | None = None  # when another response has shown a later one
        self._answer: Event | None = None  # set by the next message
        self._asking: gevent.Greenlet[[], None] | None = None
        self._is_closed = False
        self._timer: Any = get_hub().loop.timer(QUIET, ref=False)
        self._timer.start(self._look)

    def on_passed(self) -> None:
        """Another response of a server shows a later revision than the stream has shown."""
        if self._passed_at is None and self._asking is None:
            self._passed_at = timing.now()
            self._look_in(PASSED)

    def on_message(self) -> None:
        """Something came on the stream."""
        self._heard_at = timing.now()
        if self._answer is not None:
            self._answer.set()

    def close(self) -> None:
        """Ask no more.  Does not block."""
        self._is_closed = True
        close_watcher(self._timer)
        if self._asking is not None and self._asking is not gevent.getcurrent():
            kill_soon(self._asking)

    def _look(self) -> None:
        if self._passed_at is not None and self._passed_at < self._heard_at:
            self._passed_at = None
        since, quiet = (self._heard_at, QUIET) if self._passed_at is None else (self._passed_at, PASSED)
        left = quiet - (timing.now() - since)
        if left <= 0 and not self._stream.is_idle:
            self._asking = gevent.spawn(self._ask)
            self._asking.name = 'getc watch stream, asking'
        else:
            self._look_in(left if left > 0 else QUIET)

    def _look_in(self, seconds: float) -> None:
        close_watcher(self._timer)
        self._timer = get_hub().loop.timer(seconds, ref=False)
        self._timer.start(self._look)

    def _ask(self) -> None:
        self._answer = Event()
        fault = self._fault(self._answer)
        self._asking = self._answer = self._passed_at = None
        if self._is_closed:
            return  # meanwhile: the greenlet was about to run when it was killed
        if fault is None:
            self._heard_at = timing.now()
            self._look_in(QUIET)
        else:
            self._stream.lose(fault)

    def _fault(self, answer: Event) -> ConnectionError | None:
        """Why the stream is lost; None if it is not.  Blocks."""
        if self._is_answered(answer, PROGRESS_TIMEOUT) or self._stream.is_idle:
            return None
        url = self._stream.url
        silence = f'no message on the stream of watches for {timing.now() - self._heard_at:.0f} s'
        try:
            revision = self._stream.read_revision(Deadline(READ_TIMEOUT))
        except EtcException as error:
            if answer.is_set() or (isinstance(error, EtcdError) and not is_transient(error)):
                return None  # etcd's own refusal is an answer
            return ConnectionError(f'{url} does not answer: {silence}, and a read failed: {error}', endpoint=url)
        if self._stream.is_idle or not self._stream.expects_progress(revision):
            return None
        if self._is_answered(answer, READ_TIMEOUT):
            return None
        fault = ConnectionError(f'{url} answers reads, but there was {silence}', endpoint=url)
        fault.is_outage = False
        return fault

    def _is_answered(self, answer: Event, timeout: float) -> bool:
        """Request progress, each second, for the request may be dropped while a watch lags behind."""
        deadline = Deadline(timeout)
        while not deadline.has_passed():
            if self._stream.is_idle:
                return True
            self._stream.request_progress()
            if answer.wait(PROGRESS_TIMEOUT):
                return True
        return False
