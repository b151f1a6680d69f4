"""Client.wait: waits for the first change of a node, across lost connections."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gevent.event import Event

from getc.backends.autodetect import DETECTION_TIMEOUT
from getc.backends.base import Backend, Watch
from getc.error_hints import add_hint
from getc.errors import ClientClosed, ConnectionError, EtcdError, EtcException, TimedOut
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.retry import is_transient
from getc.timing import Backoff, Deadline

__all__ = ['PendingWaits']


class PendingWaits:
    """The calls of ``wait`` of one client that are in progress."""

    def __init__(self) -> None:
        self._listeners: set[_FirstChange] = set()
        self._closed = Event()

    def wait(self, backend: Backend, spec: WatchSpec, deadline: Deadline) -> EtcdResult:
        """Return the first change that the watch reports.  Blocks until the deadline at most.

        Raises what :meth:`getc.Client.wait` documents.
        """
        try:
            backend = backend.detect_api(deadline.fraction(1.0, at_most=DETECTION_TIMEOUT))
        except TimedOut as late:
            raise _not_watched(spec.key, deadline, late) from late
        backoff = Backoff()
        was_live = False
        first: _FirstChange | None = None
        error: EtcException | None = None
        watch: Watch | None = None
        try:
            while True:
                last_error = error
                first, watch = self._first_change(backend, spec, deadline, watch)
                if first.result is not None:
                    return first.result
                error, first.error = first.error, None  # frames of the error may reference `first`
                if error is None:
                    if first.live_index is None:
                        raise _not_watched(spec.key, deadline, last_error)
                    raise TimedOut(f'no change of {{key}} within {deadline.timeout:g} s', key=spec.key)
                was_live = was_live or first.live_index is not None
                if not is_transient(error) or not (was_live or isinstance(error, TimedOut)):
                    if isinstance(error, EtcdError):
                        add_hint(error, spec)
                    raise error
                if not was_live or deadline.has_passed():
                    raise _not_watched(spec.key, deadline, error)
                if first.live_index is not None:
                    spec = WatchSpec(spec.key, first.live_index + 1, spec.recursive)
                self._closed.wait(min(backoff.next_delay(), deadline.remaining()))
        finally:
            first = error = last_error = None  # breaks the cycle of this frame, the error and its traceback

    def close(self) -> None:
        """End all calls with ClientClosed.  Does not block."""
        self._closed.set()
        for first in self._listeners:
            first.on_ended(ClientClosed('the client was closed'))

    def _first_change(
        self, backend: Backend, spec: WatchSpec, deadline: Deadline, after: Watch | None
    ) -> tuple[_FirstChange, Watch]:
        if self._closed.is_set():
            raise ClientClosed('the client was closed')
        first = _FirstChange()
        watch = backend.watch(spec, first, after)
        self._listeners.add(first)
        try:
            first.is_over.wait(deadline.timeout_left())
        finally:
            watch.close()
            self._listeners.discard(first)
        return first, watch


def _not_watched(key: str, deadline: Deadline, cause: EtcException | None) -> ConnectionError:
    # Not a TimedOut, which would mean that nothing has changed: without a watch that is unknown.
    limit = '' if deadline.at == math.inf else f' within {deadline.timeout:g} s'
    reason = 'no server has answered' if cause is None else str(cause)
    endpoint = None if cause is None else cause.endpoint
    error = ConnectionError(f'no watch of {{key}} was created{limit}: {reason}', endpoint=endpoint, key=key)
    error.__cause__ = cause
    return error


class _FirstChange:
    """A watch listener that keeps the first change.

    Attributes:
        is_over: Set when there is a result or an error.
        result: The change, or None.
        error: The error that ended the watch before a change, or None.
        live_index: Every change after this index is reported; None until the watch is live.
    """

    def __init__(self) -> None:
        self.is_over = Event()
        self.result: EtcdResult | None = None
        self.error: EtcException | None = None
        self.live_index: int | None = None

    def on_live(self, index: int) -> None:
        self.live_index = index

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        if not self.is_over.is_set():
            self.result = results[0]
            self.is_over.set()

    def on_caught_up(self) -> None:
        pass

    def on_ended(self, error: EtcException) -> None:
        if not self.is_over.is_set():
            self.error = error
            self.is_over.set()
