"""Detects that the server of a watch stream does not answer, although its connection does.

A stream may be silent for hours because nothing changes, and HTTP/2 PINGs prove little: haproxy, nginx and
``etcd grpc-proxy`` answer them while etcd hangs or is gone.  Therefore etcd itself has to answer, in one of two ways:

- A progress request, on the stream.  ``etcd grpc-proxy`` drops it; so does etcd while a watch of the stream lags behind
  (from 3.4.25 and 3.5.8 on) or starts at a future revision (seen on 3.5.30 and 3.7.1).
- A linearizable read, by the same server.  It shows that etcd answers, whether it had to answer the progress request,
  and behind ``etcd grpc-proxy`` whether etcd is still the one that the watches were created on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub

from getc import timing
from getc.errors import ConnectionError, EtcdError, EtcException
from getc.grpc.stalls import wait_ready
from getc.net.affinity import ThreadAffinity, close_watcher, kill_soon
from getc.retry import is_transient
from getc.timing import Deadline
from getc.v3.create_queue import CREATE_TIMEOUT
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, RangeRequest, RangeResponse
from getc.v3.schema.watch import WatchRequest, WatchResponse
from getc.v3.stream import MessageStream
from getc.v3.watch_progress import WatchProgress
from getc.v3.watch_table import WatchTable
from getc.v3.watched_store import RESTARTED, WatchedStore

__all__ = ['WatchHealthCheck']

WATCH_IDLE_TIMEOUT: Final = 10.0
"""Seconds without a response after which the server is checked."""

BEHIND_TIMEOUT: Final = 2.0
"""The same once other responses show a later revision than the stream has shown."""

CHECK_PROGRESS_TIMEOUT: Final = 1.0
"""Seconds to wait for a progress response before a read follows."""

CHECK_READ_TIMEOUT: Final = 4.0
"""Seconds for the read, and for a progress response that the server had to send."""


class WatchHealthCheck:
    """Ends a watch stream if its server does not answer.  Between two checks there is only a timer.

    Args:
        messages: The stream.
        watches: The watches of the stream.
        progress: Requests progress on the stream.
        store: What the responses have shown of the store.
        on_unhealthy: Called when the server does not answer.  It must not block.
    """

    def __init__(
        self,
        messages: MessageStream[WatchRequest, WatchResponse],
        watches: WatchTable,
        progress: WatchProgress,
        store: WatchedStore,
        on_unhealthy: Callable[[ConnectionError], object],
    ) -> None:
        self._messages = messages
        self._watches = watches
        self._progress = progress
        self._store = store
        self._on_unhealthy = on_unhealthy
        self._affinity = ThreadAffinity()
        self._last_response_at = timing.now()
        self._behind_since: float | None = None  # when another response has shown a later revision
        self._next_response: Event | None = None  # while a check waits for it
        self._check: gevent.Greenlet[[], None] | None = None
        self._is_closed = False
        self._timer: Any = get_hub().loop.timer(WATCH_IDLE_TIMEOUT, ref=False)
        self._timer.start(self._on_timer)

    def on_behind(self) -> None:
        """Check soon: another response of a server shows a later revision than the stream has shown."""
        if self._behind_since is None and self._check is None and not self._is_closed:
            self._behind_since = timing.now()
            self._start_timer(BEHIND_TIMEOUT)

    def on_response(self) -> None:
        """Note that the stream has received a response."""
        self._last_response_at = timing.now()
        if self._next_response is not None:
            self._next_response.set()

    def close(self) -> None:
        """Stop checking.  Does not block."""
        self._is_closed = True
        close_watcher(self._timer)
        if self._check is not None and self._check is not gevent.getcurrent():
            kill_soon(self._check)

    @property
    def _is_idle(self) -> bool:
        """True if no response is expected: the stream has no watch, is over, or belongs to the parent process."""
        return self._messages.is_over or self._affinity.in_forked_child or self._watches.is_empty

    def _on_timer(self) -> None:
        if self._behind_since is not None and self._behind_since < self._last_response_at:
            self._behind_since = None
        if self._behind_since is None:
            since, timeout = self._last_response_at, WATCH_IDLE_TIMEOUT
        else:
            since, timeout = self._behind_since, BEHIND_TIMEOUT
        left = timeout - (timing.now() - since)
        is_creation_late = timing.now() - self._watches.waiting_since > CREATE_TIMEOUT
        if (left <= 0 or is_creation_late) and not self._is_idle:
            self._check = gevent.spawn(self._run_check)
            self._check.name = 'getc watch stream, health check'
            self._check.rawlink(self._on_check_over)
        else:
            self._start_timer(left if left > 0 else WATCH_IDLE_TIMEOUT)

    def _start_timer(self, seconds: float) -> None:
        close_watcher(self._timer)
        self._timer = get_hub().loop.timer(seconds, ref=False)
        self._timer.start(self._on_timer)

    def _run_check(self) -> None:
        self._next_response = Event()
        fault = self._find_fault(self._next_response)
        self._check = self._next_response = self._behind_since = None
        if self._is_closed:
            return  # closed meanwhile: this greenlet was about to run when it was killed
        if fault is None:
            self._last_response_at = timing.now()
            self._start_timer(WATCH_IDLE_TIMEOUT)
        else:
            self._on_unhealthy(fault)

    def _on_check_over(self, check: object) -> None:
        """Check again later if the check was killed or has failed; otherwise there is a timer already."""
        if check is self._check:
            self._check = self._next_response = None
            if not self._is_closed:
                self._start_timer(WATCH_IDLE_TIMEOUT)

    def _find_fault(self, response: Event) -> ConnectionError | None:
        """Return why the stream counts as lost; None if it is healthy.  Blocks.

        Args:
            response: Set by the next response on the stream.
        """
        if self._shows_progress(response):
            return None
        url = self._messages.url
        silence = f'no response on the watch stream for {timing.now() - self._last_response_at:.0f} s'
        deadline = Deadline(CHECK_READ_TIMEOUT)
        try:
            header = self._read(RangeRequest(key=self._watches.key, keys_only=True), deadline).header
        except EtcException as error:
            if response.is_set() or (isinstance(error, EtcdError) and not is_transient(error)):
                return None  # a refusal by etcd itself is an answer
            return ConnectionError(f'{url} does not answer: {silence}, and a read failed: {error}', endpoint=url)
        if self._is_idle:
            return None
        reason = self._reason_to_reopen(header, deadline)
        if reason is not None:
            return _refuted(reason, url)
        if not self._progress.is_answered_at(header.revision):
            return None
        if self._wait_for_progress(response, CHECK_READ_TIMEOUT):
            return None
        seconds = f'{timing.now() - self._last_response_at:.0f} s'
        silence = f'has sent nothing on the watch stream for {seconds}, not even the requested progress'
        return _refuted(f'{url} answers reads, but {silence}', url)

    def _reason_to_reopen(self, header: ResponseHeader, deadline: Deadline) -> str | None:
        """Return why the watches have to be created again although the server answers; None if they do not.  Blocks.

        Args:
            header: That of a read.
            deadline: The end of another read, behind ``etcd grpc-proxy`` only.
        """
        url, waited = self._messages.url, timing.now() - self._watches.waiting_since
        if waited > CREATE_TIMEOUT:
            return f'{url} answers reads, but has not created a watch for {waited:.0f} s'
        if not self._watches.is_proxied:
            return None
        if self._store.observe(header) and self._store.has_last_put(lambda request: self._read(request, deadline)):
            return None
        return RESTARTED.format(url=url)

    def _shows_progress(self, response: Event) -> bool:
        """Return True if a progress response came soon, or none is expected; ``etcd grpc-proxy`` sends none."""
        if self._watches.is_proxied:
            return self._is_idle
        return self._wait_for_progress(response, CHECK_PROGRESS_TIMEOUT) or self._is_idle

    def _wait_for_progress(self, response: Event, timeout: float) -> bool:
        """Request progress each second, since a watch that lags behind has the server drop the request.

        Return True if a response came, or if none is expected any more.
        """
        deadline = Deadline(timeout)
        while not deadline.has_passed():
            if self._is_idle:
                return True
            self._progress.request()
            if wait_ready(response, Deadline(CHECK_PROGRESS_TIMEOUT)):
                return True
        return False

    def _read(self, request: RangeRequest, deadline: Deadline) -> RangeResponse:
        """Read, linearizable, from the stream's own server.  Blocks.

        Raises:
            EtcException: The read failed; no other server is tried.
        """
        return self._messages.call(KV.Range, request, deadline)


def _refuted(text: str, url: str) -> ConnectionError:
    """Return the error of a stream that is of no use, although its server answers."""
    fault = ConnectionError(text, endpoint=url)
    fault.is_outage = False
    return fault
