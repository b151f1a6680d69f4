"""Following a part of the tree: every change, in order, each exactly once, and never a gap that is not told.

A follower starts from a listing and watches from the index after it, never from "now".  After an outage it
resumes only if the store still has the last change that was delivered, unchanged: the watch starts at that change,
which has to come first.  A store that was restored from a backup shares its past with the original, so an older
key proves nothing.  Before the first change the listing takes its place.

It remembers of each value below its key when it was created, when it was last changed, and a hash: enough to
compute the difference where it cannot resume.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

import gevent

from getc import timing
from getc.backends.base import Backend, Watch, WatchListener
from getc.daemons.base import REFUSED_CAP, Daemon
from getc.errors import EtcException, EventIndexCleared, KeyNotFound, NotDir, ProtocolError, ResponseTooLarge
from getc.net.client_log import ClientLog
from getc.operations import Get, WatchSpec
from getc.paths import is_below
from getc.results import Deleted, Directory, EtcdResult, Got, Node, Set, Value
from getc.retry import is_transient
from getc.timing import Deadline

__all__ = ['Follower', 'WatcherState']

LIST_TIMEOUT: Final = 10.0
"""Seconds for a listing."""

BOUND: Final = 1000
"""Calls that may wait for a slow callback; past it the watch is closed until they are made."""

MIN_STABLE_SECONDS: Final = 1.0
"""Seconds after which a watch that was lost counts as having worked."""


LOST: Final = (EventIndexCleared, ResponseTooLarge)
"""With these a watch ends whose next changes cannot be had: list again, and compare."""


class WatcherState(Enum):
    """How it stands with the watch."""

    STARTING = 'it was never live yet'
    LIVE = 'everything that etcd had when the watch began was delivered, and changes come as they happen'
    STALE = 'the connection is lost, or the callback is far behind: there may be changes not yet seen'
    STOPPED = 'the watcher has ended'


class _Fingerprint(NamedTuple):
    """What is remembered of a value."""

    created: int
    modified: int
    digest: int

    @classmethod
    def of(cls, node: Value) -> _Fingerprint:
        return cls(node.created_index, node.modified_index, hash(node.value))


class _Change(NamedTuple):
    """What is remembered of a change."""

    key: str
    modified: int
    digest: int

    @classmethod
    def of(cls, node: Node) -> _Change:
        return cls(node.key, node.modified_index, hash(node.value) if isinstance(node, Value) else 0)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What was there at an index."""

    index: int
    values: dict[str, Value]

    def fingerprint(self) -> int:
        """A hash of the values, which a refresh of a TTL does not change."""
        return hash(frozenset((key, value.created_index, value.value) for key, value in self.values.items()))


class Follower(Daemon):
    """Follows a part of the tree; what it does with what it is told is its kinds' business.

    Args:
        log: The log of the client.
        backend: What is followed.
        spec: The part of the tree, and the first index of interest; None for "from now on".
        name: What it does, for logs.
        is_mapped: It remembers what is there, and can tell what is different after history was lost.

    Attributes:
        key: The node.
        recursive: Every node below it, too.
    """

    def __init__(self, log: ClientLog, backend: Backend, spec: WatchSpec, name: str, *, is_mapped: bool = True) -> None:
        super().__init__(log, name)
        self.key = spec.key
        self.recursive = spec.recursive
        self._backend = backend
        self._is_mapped = is_mapped
        self._cursor: int | None = None if spec.index is None else spec.index - 1  # all up to it was taken
        self._known: dict[str, _Fingerprint] | None = None
        self._fingerprint = 0  # of the listing; for followers that remember no values
        self._latest: _Change | None = None  # the last change that was delivered or listed
        self._proof: _Change | None = None  # the change that has to come first: then the store is the same
        self._is_caught_up = False  # the watch has delivered what the store had when it began
        self._is_cleared = False  # history after the cursor is lost
        self._is_behind = False  # too many calls wait for the callback
        self._state = WatcherState.STARTING
        self._watch: Watch | None = None
        self._followed: Watch | None = None  # the one before, if the next goes on from it
        self._live_at = math.inf

    # -- what its kinds do with it; none of these blocks

    def _on_snapshot(self, found: Sequence[Got]) -> None:
        """What was there at the beginning, in the order of the keys."""

    def _on_revision(self, results: Sequence[EtcdResult]) -> None:
        """What changed in one revision."""
        raise NotImplementedError

    def _on_created(self) -> None:
        """The watch was created: every later change will be delivered, or it ends."""
        self._start_once()

    def _on_difference(self, results: Sequence[EtcdResult]) -> None:
        """History was lost; this leads from what was told to what is there, in the order of the keys."""
        raise NotImplementedError

    @property
    def state(self) -> WatcherState:
        """How it stands; STOPPED in a forked child."""
        return WatcherState.STOPPED if self._home.in_forked_child else self._state

    @property
    def is_stale(self) -> bool:
        """False only while changes come as they happen."""
        return self.state is not WatcherState.LIVE

    @property
    def index(self) -> int:
        """The index up to which every change was seen; 0 before the start."""
        return self._cursor or 0

    def __repr__(self) -> str:
        return f'<getc.{type(self).__name__} {self.key} {self.state.name} index={self.index}>'

    # -- following

    def _step(self) -> float | None:
        """List if necessary, decide where to resume, and watch from there."""
        self._close_watch()
        self._proof = None
        if self._known is None:
            self._begin(self._list())
        elif self._is_cleared:
            self._resynchronise(self._list())
        elif self._latest is not None and self._latest.modified == self._cursor:
            self._proof = self._latest
        else:
            self._compare(self._list())
        if not self._is_stopped:
            assert self._cursor is not None
            self._live_at = math.inf
            first = self._cursor + 1 if self._proof is None else self._proof.modified
            spec = WatchSpec(self.key, first, self.recursive, is_seen=self._proof is not None)
            self._watch = self._followed = self._backend.watch(spec, self, self._followed)
        return None

    def _list(self) -> _Listing:
        try:
            found = self._backend.execute(Get(self.key, recursive=self.recursive, quorum=True), Deadline(LIST_TIMEOUT))
        except (KeyNotFound, NotDir) as error:  # something above it may be a value now
            if error.index is None:
                raise ProtocolError(f'no index came with: {error}') from error
            return _Listing(error.index, {})
        node = found.node
        if isinstance(node, Value):
            values = [node]
        else:
            values = list(node.leaves()) if isinstance(node, Directory) and self.recursive else []
        return _Listing(found.etcd_index, {value.key: value for value in sorted(values, key=lambda value: value.key)})

    def _begin(self, listing: _Listing) -> None:
        if self._cursor is None:
            self._cursor = listing.index
        self._on_snapshot([Got(value, etcd_index=listing.index) for value in listing.values.values()])
        self._reset_known(listing)

    def _compare(self, listing: _Listing) -> None:
        """Decide how to resume when no change was delivered since the last listing.

        A value that was there at the cursor and is not known, or is another one, proves that the store is another one.
        If a known value is missing or was created anew, or the latest listed change is no longer there, that may have
        happened since, or before the cursor in another store: the watch starts at that change and shows which.
        Refreshes of a TTL, of which no watch is notified, change the index but neither creation nor value.
        """
        assert self._cursor is not None and self._known is not None
        if self._is_mapped:
            there = listing.values
            is_other = any(
                value.modified_index <= self._cursor and not self._is_known(value) for value in there.values()
            )
            is_unproven = self._has_lost_listed(there)
        else:
            is_other, is_unproven = listing.fingerprint() != self._fingerprint, False
        if is_other or listing.index < self._cursor or (is_unproven and self._latest is None):
            self._resynchronise(listing)
        elif is_unproven:
            self._proof = self._latest

    def _has_lost_listed(self, there: Mapping[str, Value]) -> bool:
        """True if a known value is gone or was created anew, or the latest listed change is no longer there."""
        assert self._known is not None
        latest = self._latest
        if latest is not None and (latest.key not in there or _Change.of(there[latest.key]) != latest):
            return True
        return any(key not in there or there[key].created_index != known.created for key, known in self._known.items())

    def _is_known(self, value: Value) -> bool:
        """True if this value is the known one, apart from a refresh."""
        assert self._known is not None
        found, known = _Fingerprint.of(value), self._known.get(value.key)
        return known is not None and (found.created, found.digest) == (known.created, known.digest)

    def _resynchronise(self, listing: _Listing) -> None:
        """Deliver the difference between what was known and what is there."""
        assert self._known is not None
        self._log_soon(logging.WARNING, 'history was lost; compared at index %d', listing.index)
        difference = list(self._difference(listing)) if self._is_mapped else []
        self._cursor = listing.index
        self._reset_known(listing)
        self._is_cleared = False
        self._followed = None
        self._on_difference(difference)

    def _difference(self, listing: _Listing) -> Iterator[EtcdResult]:
        """Results that lead from what was known to the listing, in the order of the keys."""
        assert self._known is not None
        for key in sorted({*self._known, *listing.values}):
            known, value = self._known.get(key), listing.values.get(key)
            if value is None:
                gone = Node(key, modified_index=listing.index)
                yield Deleted(gone, etcd_index=listing.index, resync=True)
            elif known is None or (known.created, known.digest) != (value.created_index, hash(value.value)):
                yield Set(value, etcd_index=listing.index, is_new=known is None, resync=True)

    def _reset_known(self, listing: _Listing) -> None:
        """Forget what was known, and know what was there at the cursor."""
        assert self._cursor is not None
        self._known = {}
        self._latest = None
        if not self._is_mapped:
            self._fingerprint = listing.fingerprint()
        for value in listing.values.values():
            if value.modified_index <= self._cursor:  # a later one comes as a change
                self._note(value)
                # A refresh moves the index, and is told to nobody.
                if value.ttl is None and (self._latest is None or value.modified_index > self._latest.modified):
                    self._latest = _Change.of(value)

    def _note(self, value: Value) -> None:
        if self._is_mapped and self._known is not None:
            self._known[value.key] = _Fingerprint.of(value)

    def _forget(self, gone: str) -> None:
        """Remove what was known of a node, and of all below it."""
        assert self._known is not None
        if self._known.pop(gone, None) is None:
            for key in [key for key in self._known if is_below(key, gone)]:
                del self._known[key]

    # -- what the watch tells (``WatchListener``)

    def on_live(self, index: int) -> None:
        """The watch is on.  For the backend."""
        if self._is_stopped:
            return
        self._live_at = timing.now()
        self._on_created()

    def on_caught_up(self) -> None:
        """Everything that the store had when the watch was created was delivered.  For the backend."""
        if self._is_stopped:
            return
        if self._proof is not None:
            self._lose_track()
            return
        self._is_caught_up = True
        self._start_once()
        self._update_state()

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        """Something changed.  For the backend."""
        if self._is_stopped:
            return
        assert self._cursor is not None and self._known is not None
        if self._proof is not None:
            if self._proof not in map(_Change.of, (result.node for result in results)):
                self._lose_track()
                return
            self._proof = None
        elif results[-1].modified_index <= self._cursor and self._contradicts_listing(results):
            self._lose_track()
            return
        news = [result for result in results if result.modified_index > self._cursor]
        for result in news:
            if isinstance(result.node, Value):
                self._note(result.node)
            elif isinstance(result, Deleted):
                self._forget(result.key)
            else:  # a new directory, perhaps in place of a value
                self._known.pop(result.key, None)
            self._latest = _Change.of(result.node)
        self._cursor = max(self._cursor, results[-1].modified_index)
        self._backoff.reset()
        if news:
            self._on_revision(news)
        if len(self._calls) > BOUND:
            self._close_watch()
            self._is_behind = True
            self._state = WatcherState.STALE
            self._start_once()

    def _contradicts_listing(self, results: Sequence[EtcdResult]) -> bool:
        """True if these changes, up to the cursor, deleted a value that was listed at the cursor."""
        assert self._known is not None
        return any(
            isinstance(result, Deleted)
            and known.created < result.modified_index
            and (key == result.key or is_below(key, result.key))
            for result in results
            for key, known in self._known.items()
        )

    def _lose_track(self) -> None:
        """The store does not have the history that was followed: list and compare at once."""
        self._close_watch()
        self._is_cleared = True
        self._attempt_in(0)

    def _start_once(self) -> None:
        if self._is_starting:
            self._started()

    def _update_state(self) -> None:
        """LIVE if the watch has delivered everything, and the callback is not far behind."""
        if self._is_caught_up and len(self._calls) <= BOUND:
            self._state = WatcherState.LIVE

    def on_ended(self, error: EtcException) -> None:
        """The watch has ended.  For the backend."""
        self._watch = None
        self._is_caught_up = False
        if self._is_stopped:
            return
        is_refused = not (is_transient(error) or isinstance(error, LOST))
        if is_refused and self._is_starting:
            self._refuse(error)
            return
        self.last_error = error
        if self._state is WatcherState.LIVE:
            self._state = WatcherState.STALE
            self._log_soon(logging.WARNING, 'stale: %s', error)
        if isinstance(error, LOST):
            self._is_cleared = True
        if timing.now() - self._live_at > MIN_STABLE_SECONDS:
            self._backoff.reset()
        self._attempt_in(self._backoff.next_delay(REFUSED_CAP if is_refused else None))

    def _on_called(self) -> None:
        if self._is_behind:
            self._is_behind = False
            self._attempt_in(0)
        else:
            self._update_state()

    # -- the end

    def _on_stop(self, deadline: Deadline) -> None:
        self._close_watch()
        self._state = WatcherState.STOPPED
        if self._attempting is not None and self._attempting is not gevent.getcurrent():
            self._attempting.kill(block=False)  # it only reads

    def _close_watch(self) -> None:
        self._is_caught_up = False
        if self._watch is not None:
            self._watch.close()
            self._watch = None


_: type[WatchListener] = Follower
