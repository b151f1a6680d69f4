"""Follows the nodes at and below a key: every change in order, each exactly once, and no gap that is not reported.

A follower lists first and watches from the index after the listing, never from "now".  ``continuity`` decides where the
follower resumes after an outage.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from enum import Enum
from operator import attrgetter
from typing import Final, Protocol

from getc import timing
from getc.backends.base import Backend, Watch
from getc.daemons.base import Daemon
from getc.daemons.callbacks import CallbackQueue
from getc.daemons.continuity import Continuity, Listing
from getc.daemons.retry_loop import MAX_REFUSED_DELAY
from getc.daemons.synchronizer import Synchronizer
from getc.error_context import copy_error
from getc.errors import (
    ClientClosed,
    EtcException,
    EventIndexCleared,
    KeyNotFound,
    NotDir,
    ProtocolError,
    ResponseTooLarge,
)
from getc.net.client_log import ClientLog
from getc.operations import Get, WatchSpec
from getc.results import Directory, EtcdResult, Got, Value
from getc.retry import is_transient
from getc.timing import Deadline

__all__ = ['MAX_BACKLOG', 'Follower', 'FollowerSink', 'WatcherState']

LIST_TIMEOUT: Final = 10.0
"""Seconds for a listing."""

MAX_BACKLOG: Final = 1000
"""Calls that may wait for a slow callback.  At more, the watch is closed until these calls have returned."""

MIN_STABLE_SECONDS: Final = 1.0
"""Seconds after which a watch that ends counts as having worked, so that the backoff restarts."""

HISTORY_LOST: Final = (EventIndexCleared, ResponseTooLarge)
"""A watch that ends with one of these cannot deliver its next changes: list and compare."""


class WatcherState(Enum):
    """The state of a watcher or a mirror."""

    STARTING = 'the watcher was never LIVE'
    LIVE = 'everything that etcd had when the watch was created was delivered, and changes arrive as they happen'
    STALE = 'the connection is lost, or the callback is far behind: there may be changes that were not delivered'
    STOPPED = 'the watcher was stopped'


class FollowerSink(Protocol):
    """Receives values and changes from a follower.

    The methods of a sink do not block or raise.  They call user callbacks through ``callbacks``, the queue of
    the follower.
    """

    def on_snapshot(self, found: Sequence[Got], callbacks: CallbackQueue) -> None:
        """Receive the existing values at the start, in the order of the keys."""

    def on_changes(self, results: Sequence[EtcdResult], callbacks: CallbackQueue) -> None:
        """Receive the changes of one revision, or the difference of a resync in the order of the keys."""

    def on_resync(self, callbacks: CallbackQueue) -> None:
        """History was lost, and the difference was passed to :meth:`on_changes`."""

    def on_caught_up(self, callbacks: CallbackQueue) -> None:
        """Everything that the store had when the watch was created was passed to :meth:`on_changes`."""


class Follower(Daemon):
    """Follows the nodes at and below a key, and passes values and changes to a sink.

    Args:
        log: The log of the client.
        backend: The store.
        spec: The key, whether hidden nodes are included, and the first index to deliver; None for the changes from now
            on.
        name: The operation and the key, for logs.
        sink: Receives the values and changes.
        keeps_values: Remember the values, so that the difference can be delivered after history was lost.
        starts_caught_up: The follower counts as started when it has caught up, instead of when its watch was created.
    """

    __slots__ = (
        '_backend',
        '_continuity',
        '_hidden',
        '_is_behind',
        '_is_caught_up',
        '_is_history_lost',
        '_live_at',
        '_previous_watch',
        '_recursive',
        '_sink',
        '_starts_caught_up',
        '_state',
        '_synced_index',
        '_synchronizer',
        '_watch',
    )

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        spec: WatchSpec,
        name: str,
        sink: FollowerSink,
        *,
        keeps_values: bool = True,
        starts_caught_up: bool = False,
    ) -> None:
        super().__init__(log, spec.key, name, on_callbacks_done=self._on_callbacks_done)
        self._backend = backend
        self._recursive = spec.recursive
        self._hidden = spec.hidden
        self._sink = sink
        self._starts_caught_up = starts_caught_up
        self._continuity = Continuity(None if spec.index is None else spec.index - 1, keeps_values=keeps_values)
        self._state = WatcherState.STARTING
        self._is_caught_up = False  # the watch has delivered what the store had when it was created
        self._is_history_lost = False  # the changes after the cursor are not available
        self._is_behind = False  # the watch is closed until the callbacks have returned
        self._watch: Watch | None = None
        self._previous_watch: Watch | None = None  # which the next watch continues
        self._live_at = math.inf
        self._synced_index = 0  # every change up to it was received, as the watch has reported
        self._synchronizer: Synchronizer | None = None  # before the first `sync`

    @property
    def state(self) -> WatcherState:
        """The state of the follower; STOPPED in a forked child."""
        return WatcherState.STOPPED if self.in_forked_child else self._state

    @property
    def is_stale(self) -> bool:
        """False only while changes arrive as they happen."""
        return self.state is not WatcherState.LIVE

    @property
    def index(self) -> int:
        """The index up to which every change was received; 0 before the start."""
        return max(self._continuity.cursor or 0, self._synced_index)

    def sync(self, deadline: Deadline) -> int:
        """Wait until every change that was made before this call has been passed to the sink; return the index.

        Blocks until the deadline at most.

        Raises:
            TimedOut: That was not so before the deadline.
            ClientClosed: The follower was stopped, or this is a forked child.
            EtcException: The store refuses to be read.
            RuntimeError: This is not the thread of the client.
        """
        self.check_thread()
        self.check_running()
        if self._synchronizer is None:
            self._synchronizer = Synchronizer(self.name, self._read_index, self._request_progress, self.greenlets.spawn)
        return self._synchronizer.wait(deadline)

    # -- attempts

    def _step(self) -> float | None:
        """List if necessary, decide where to resume, and watch from there."""
        self._close_watch()
        self._backend = self._backend.detect_api(Deadline(LIST_TIMEOUT))
        continuity = self._continuity
        if not continuity.has_started:
            listing = self._list()
            continuity.start(listing)
            found = [Got(value, etcd_index=listing.index) for value in listing.values.values()]
            self._sink.on_snapshot(found, self.callbacks)
        elif self._is_history_lost:
            self._resync(self._list())
        elif not continuity.resume_at_last_change():
            listing = self._list()
            if listing.index < self._synced_index or not continuity.resume_after(listing):
                self._resync(listing)
        if not self._is_stopped:
            self._live_at = math.inf
            spec = WatchSpec(
                self.key,
                continuity.first_index,
                self._recursive,
                is_seen=continuity.awaits_marker,
                hidden=self._hidden,
            )
            self._watch = self._previous_watch = self._backend.watch(spec, self, self._previous_watch)
        return None

    def _list(self) -> Listing:
        try:
            get = Get(self.key, recursive=self._recursive, quorum=True, hidden=self._hidden)
            found = self._backend.execute(get, Deadline(LIST_TIMEOUT))
        except (KeyNotFound, NotDir) as error:  # NotDir: an ancestor is a value
            if error.index is None:
                raise ProtocolError(f'the listing of {{key}} has no index: {error}', key=self.key) from error
            return Listing(error.index, {})
        node = found.node
        if isinstance(node, Value):
            values = [node]
        else:
            values = list(node.leaves()) if isinstance(node, Directory) and self._recursive else []
        return Listing(found.etcd_index, {value.key: value for value in sorted(values, key=attrgetter('key'))})

    def _resync(self, listing: Listing) -> None:
        """Deliver the difference between the known state and a listing."""
        self.log_event(logging.WARNING, 'history lost; resynced by a listing at index %d', listing.index)
        difference = self._continuity.resync(listing)
        self._synced_index = 0  # perhaps of another store
        self._is_history_lost = False
        self._previous_watch = None
        self._sink.on_changes(difference, self.callbacks)
        self._sink.on_resync(self.callbacks)

    # -- WatchListener

    def on_live(self, index: int) -> None:
        """The watch was created: every later change will be delivered, or the watch ends."""
        if self._is_stopped:
            return
        self._live_at = timing.now()
        if not self._starts_caught_up and self._never_started:
            self.mark_started()

    def on_caught_up(self) -> None:
        """Everything that the store had when the watch was created was delivered."""
        if self._is_stopped:
            return
        if self._continuity.awaits_marker:
            self._restart_with_listing()
            return
        self._is_caught_up = True
        if self._never_started:
            self.mark_started()
        self._update_state()
        self._sink.on_caught_up(self.callbacks)
        if self._synchronizer is not None:
            self._synchronizer.on_new_watch()

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        """Changes of one revision arrived."""
        if self._is_stopped:
            return
        new = self._continuity.process(results)
        if new is None:
            self._restart_with_listing()
            return
        self.retry.backoff.reset()
        if new:
            self._sink.on_changes(new, self.callbacks)
        if len(self.callbacks) > MAX_BACKLOG:
            self._close_watch()
            self._is_behind = True
            self._state = WatcherState.STALE
            if self._never_started:
                self.mark_started()

    def on_ended(self, error: EtcException) -> None:
        """The watch ended."""
        self._watch = None
        self._is_caught_up = False
        if self._is_stopped:
            return
        is_refused = not (is_transient(error) or isinstance(error, HISTORY_LOST))
        if is_refused and self._never_started:
            self.fail_start(error)
            return
        self.last_error = error
        if self._state is WatcherState.LIVE:
            self._state = WatcherState.STALE
            self.log_event(logging.WARNING, 'connection lost, may be stale: %s', error)
        if isinstance(error, HISTORY_LOST):
            self._is_history_lost = True
        if timing.now() - self._live_at > MIN_STABLE_SECONDS:
            self.retry.backoff.reset()
        self.retry.schedule(self.retry.backoff.next_delay(MAX_REFUSED_DELAY if is_refused else None))

    def _restart_with_listing(self) -> None:
        """List and compare at once, because the store does not have the history that was followed."""
        self._close_watch()
        self._is_history_lost = True
        self.retry.schedule(0)

    # -- sync

    def check_running(self) -> None:
        """Raise the error of a follower that was stopped, if this one was."""
        if self.is_stopped:
            raise self._stopped_error()

    def _read_index(self, deadline: Deadline) -> int:
        return self._backend.detect_api(deadline).read_index(WatchSpec(self.key, recursive=self._recursive), deadline)

    def _request_progress(self, index: int) -> None:
        if self._watch is not None and self._is_caught_up:
            self._watch.request_progress(index, self._on_progress)

    def _on_progress(self, index: int) -> None:
        assert self._synchronizer is not None
        self._synced_index = max(self._synced_index, index)
        self._synchronizer.on_progress(self.index)

    def _stopped_error(self) -> EtcException:
        if self._fatal_error is not None:
            return copy_error(self._fatal_error)
        what = 'belongs to the parent of this forked process' if self.in_forked_child else 'was stopped'
        return ClientClosed(f'{self.name} {what}')

    # -- state changes

    def _update_state(self) -> None:
        """Become LIVE if the watch has delivered everything, and the callbacks are not far behind."""
        if self._is_caught_up and len(self.callbacks) <= MAX_BACKLOG:
            self._state = WatcherState.LIVE

    def _on_callbacks_done(self) -> None:
        if self._is_behind:
            self._is_behind = False
            self.retry.schedule(0)
        else:
            self._update_state()

    def _on_stop(self, deadline: Deadline) -> None:
        self._close_watch()
        self._state = WatcherState.STOPPED
        self.retry.kill_attempt()  # an attempt only reads
        if self._synchronizer is not None:
            self._synchronizer.fail(self._stopped_error())

    def _close_watch(self) -> None:
        self._is_caught_up = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None
