"""A watch on v2: one long poll after another, without losing a change between them.

A poll for index i that does not respond at once has headers with an index N: no change in i..N matches the watch, so
N + 1 is the next index to poll for.  An idle poll is replaced in time, before the history (1000 events of the whole
store) has moved past its index: the new poll is open before the old one is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import gevent

from getc import timing
from getc.backends.base import Watch, WatchListener
from getc.backends.history import ANOTHER_STORE, V2_HISTORY_EVENTS, another_store
from getc.backends.monotonic import RevisionGuard
from getc.backends.v2.codec import etcd_index_of, raft_index_of, result_of
from getc.backends.v2.messages import Response
from getc.backends.v2.poll import Poll
from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, EventIndexCleared, ProtocolError
from getc.net.endpoint import Endpoint
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = ['PollingWatch', 'StorePosition']


OpenPoll = Callable[[WatchSpec, int | None, bool], Poll]
"""Opens a poll for the first change at or after an index; None is from now on.

If the third argument (``verify_quorum``) is True, the server has just answered a linearizable read.  Any other server
may lag behind, or be cut off from the cluster and never respond to the poll.
"""

IDLE_TIMEOUT: Final = 20.0
"""Maximum seconds after which an idle poll is replaced."""

FIRST_IDLE_TIMEOUT: Final = 2.0
"""Seconds before an idle poll is replaced for the first time, which shows how fast the history moves."""

MIN_IDLE_TIMEOUT: Final = 1.0

HISTORY_TIMEOUT: Final = 0.25
"""Seconds for a poll to deliver a change from the history, which etcd sends right after the headers.  A poll that is
idle for longer is replaced."""

REOPEN_TIMEOUT: Final = 1.0
"""Seconds in which a lost poll is opened again without a check.  After a longer time the store may have been restored
from a backup and have grown past the index, which a watch cannot detect: its follower compares the nodes."""

BODY_TIMEOUT: Final = 30.0
"""Seconds for a body to arrive, once its first byte has arrived."""


@dataclass(frozen=True, slots=True)
class StorePosition:
    """The store that answered a poll, and how far it was.

    Attributes:
        cluster_id: The ID of the cluster, or ``''``.
        etcd_index: The index of the store.
        raft_index: The index of the Raft log.
    """

    cluster_id: str
    etcd_index: int
    raft_index: int

    @classmethod
    def of(cls, poll: Poll) -> StorePosition:
        """Return the identity in the headers of a poll."""
        index = etcd_index_of(poll.headers) or 0
        return cls(poll.headers.get('X-Etcd-Cluster-ID', ''), index, raft_index_of(poll.headers))

    def is_followed_by(self, later: StorePosition) -> bool:
        """False if the later identity shows another store, or one that went back."""
        return later.cluster_id == self.cluster_id and later.raft_index >= self.raft_index


class _ServerFailed(BaseException):
    """Thrown into the greenlet of a watch whose server does not respond.

    Not an EtcException, which would count as a failure of another server if the greenlet is opening a poll there.

    Attributes:
        error: The error that ends the watch.
    """

    def __init__(self, error: EtcException) -> None:
        super().__init__(error)
        self.error = error


class _ProgressRequested(BaseException):
    """Thrown into the greenlet of a watch that waits for an idle poll."""


class PollingWatch(Watch):
    """A watch that polls in a greenlet of its own.

    Args:
        spec: What to watch.
        listener: The listener to notify.
        open_poll: Opens the long polls.
        guard: The revision guard of the client.
        identity: The store of an earlier watch that this one continues; None without one.
        on_done: Called once with the watch after its greenlet has ended.

    Attributes:
        spec: What is watched.
        identity: The store that answered the last poll; None before the first response.
    """

    def __init__(
        self,
        spec: WatchSpec,
        listener: WatchListener,
        open_poll: OpenPoll,
        guard: RevisionGuard,
        *,
        identity: StorePosition | None,
        on_done: Callable[[PollingWatch], None],
    ) -> None:
        self.spec = spec
        self.identity = identity
        self._listener = listener
        self._open_poll = open_poll
        self._revision_guard = guard
        self._next_index = spec.index  # None until the first poll shows the current index
        self._min_index = min(spec.index or 0, guard.index)  # a server below this index lags behind
        self._is_live = False
        self._caught_up_index: int | None = None  # changes up to this index precede `on_caught_up`; None afterwards
        self._is_closed = False
        self._pid = os.getpid()
        self._progress_calls: list[tuple[int, Callable[[int], object]]] = []  # those that were requested
        self._is_idle = False  # the greenlet waits for an idle poll
        self._poll: Poll | None = None
        self._polled_at = 0.0
        self._idle_timeout = FIRST_IDLE_TIMEOUT
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f'getc watch of {spec.key}'
        self._greenlet.link(lambda _: on_done(self))

    def close(self) -> None:
        self._is_closed = True
        if self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)

    def request_progress(self, index: int, on_progress: Callable[[int], object]) -> None:
        self._progress_calls.append((index, on_progress))
        gevent.get_hub().loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self._is_idle and not self._is_closed:
            self._is_idle = False
            self._greenlet.throw(_ProgressRequested())

    @property
    def endpoint(self) -> Endpoint | None:
        """The server of the current poll; None while there is no poll."""
        return None if self._poll is None else self._poll.endpoint

    def fail_with(self, endpoint: Endpoint, error: EtcException) -> None:
        """End the watch with this error if it still polls a server that does not respond.  Does not block."""
        gevent.get_hub().loop.run_callback(self._fail_with, endpoint, error)

    def _fail_with(self, endpoint: Endpoint, error: EtcException) -> None:
        if not self._is_closed and self.endpoint == endpoint:
            self._greenlet.throw(_ServerFailed(error))

    # -- the greenlet

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._step()
        except EtcException as error:
            self._end(error)
        except _ServerFailed as failed:
            self._end(failed.error)
        except BaseException as error:
            ended = EtcException(f'the watch of {{key}} failed: {type(error).__name__}', key=self.spec.key)
            ended.__cause__ = error
            self._end(ended)
            if not isinstance(error, Exception):
                raise
        finally:
            self._close_poll()

    def _end(self, error: EtcException) -> None:
        self._close_poll()
        if not self._is_closed:
            self._is_closed = True
            self._listener.on_ended(error)

    def _close_poll(self) -> None:
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.close()

    def _step(self) -> None:
        """Wait for one change, or until the poll is to be replaced."""
        if self._poll is None:
            self._use(self._open(self._next_index, verify_quorum=self._next_index is None))
            return
        is_ready = self._wait_for_change(self._poll)
        if os.getpid() != self._pid:
            self._is_closed = True  # in a forked child: the response belongs to the parent
        elif is_ready:
            self._receive()
        else:
            self._replace_poll()

    def _wait_for_change(self, poll: Poll) -> bool:
        """Return True as soon as the poll has received a change; False if it has been idle for long enough."""
        if self._is_catching_up:
            return poll.wait(max(0.0, HISTORY_TIMEOUT - (timing.now() - self._polled_at)))
        self._is_idle = True
        try:
            return poll.wait(self._idle_timeout)
        except _ProgressRequested:
            return self._wait_for_change(poll)
        finally:
            self._is_idle = False

    @property
    def _is_catching_up(self) -> bool:
        """True if the watch has to report that it has delivered every change up to an index."""
        return self._caught_up_index is not None or bool(self._progress_calls)

    # -- opening polls

    def _open(self, index: int | None, *, verify_quorum: bool = False) -> Poll:
        """Open a poll on the watched store.  Raises EventIndexCleared if the store was replaced."""
        poll = self._open_accepted(index, verify_quorum=verify_quorum)
        if not verify_quorum and not self._same_store(poll):  # the server may just lag behind the others
            poll.close()
            poll = self._open_accepted(index, verify_quorum=True)
        if not self._same_store(poll):
            poll.close()
            at = etcd_index_of(poll.headers)
            self.identity = StorePosition.of(poll)
            raise another_store(at, endpoint=poll.endpoint.url)
        self.identity = StorePosition.of(poll)
        return poll

    def _open_accepted(self, index: int | None, *, verify_quorum: bool) -> Poll:
        """Open a poll.  Raises the error of a poll that the server refuses."""
        poll = self._open_poll(self.spec, index, verify_quorum)
        try:
            if poll.status != 200 or etcd_index_of(poll.headers) is None:
                self._result_of(poll, poll.read(Deadline(BODY_TIMEOUT)))
                what = f'the response to a long poll has status {poll.status} and no X-Etcd-Index'
                raise ProtocolError(what, endpoint=poll.endpoint.url)
        except BaseException:
            poll.close()
            raise
        return poll

    def _same_store(self, poll: Poll) -> bool:
        """True if the poll was answered by the watched store, and the store did not go back."""
        identity = StorePosition.of(poll)
        if identity.etcd_index < max(self._min_index, (self._next_index or 0) - 1):
            return False
        return self.identity is None or self.identity.is_followed_by(identity)

    def _use(self, poll: Poll) -> None:
        """Make this the current poll; the first one makes the watch live."""
        self._close_poll()
        self._poll = poll
        self._polled_at = timing.now()
        if not (self._is_live or self._is_closed):
            assert self.identity is not None
            self._is_live = True
            if self._next_index is None:
                self._next_index = self.identity.etcd_index + 1
            self._listener.on_live(self._next_index - 1)
            self._caught_up_index = self.identity.etcd_index
        self._check_caught_up()

    def _replace_poll(self) -> None:
        """Replace an idle poll by one with a later index.

        If the history has already moved past that index, the old poll is kept: it has lost nothing.

        A poll that is still idle after its server has answered another request delivers no history: the watch has
        caught up.  An idle time alone does not show that on a busy machine.
        """
        assert self._poll is not None and self.identity is not None
        before = self.identity
        next_index = max(self._next_index or 0, before.etcd_index + 1)
        try:
            poll = self._open(next_index, verify_quorum=True)
        except EventIndexCleared as error:
            if error.cause == ANOTHER_STORE or self._progress_calls:  # only a listing shows what the poll may lack
                raise
            self._idle_timeout = IDLE_TIMEOUT
            if self._caught_up_index is not None:
                self._on_caught_up()
            return
        try:
            is_ready = self._poll.wait(0)
        except BaseException:
            poll.close()
            raise
        if is_ready:  # the old poll was just slow: its change comes first
            poll.close()
            return
        events, seconds = self.identity.etcd_index - before.etcd_index, timing.now() - self._polled_at
        self._idle_timeout = IDLE_TIMEOUT
        if events > 0:
            until_a_quarter_is_gone = V2_HISTORY_EVENTS / 4 * seconds / events
            self._idle_timeout = min(IDLE_TIMEOUT, max(MIN_IDLE_TIMEOUT, until_a_quarter_is_gone))
        self._next_index = next_index
        self._use(poll)

    # -- receiving changes

    def _receive(self) -> None:
        """Deliver the change that the poll has received, and continue after it."""
        result = self._read()
        if result is None:  # the poll ended without a change: poll again, once without a delay
            self._close_poll()
            lost_at = timing.now()
            self._use(self._open(self._next_index))
            if timing.now() - lost_at > REOPEN_TIMEOUT:
                what = 'the poll of {key} was lost, and the next one took too long to open'
                raise ConnectionError(what, key=self.spec.key)
            assert self._poll is not None
            if not self._wait_for_change(self._poll):
                return
            result = self._read()
            if result is None:
                raise ConnectionError('two polls of {key} ended without a change', key=self.spec.key)
        self._close_poll()
        self._idle_timeout = FIRST_IDLE_TIMEOUT
        self._next_index = max(self._next_index or 0, result.modified_index + 1)
        self._revision_guard.observe(result.modified_index)
        # A poll that reads the history also matches hidden nodes, and /foobar for /foo.
        if self.spec.matches(result) and not self._is_closed:
            self._listener.on_changes((result,))
        self._check_caught_up()

    def _read(self) -> EtcdResult | None:
        """Return the change; None if the body is empty or truncated."""
        assert self._poll is not None
        try:
            response = self._poll.read(Deadline(BODY_TIMEOUT))
        except ConnectionError:
            return None
        return self._result_of(self._poll, response) if response.body.strip() else None

    def _result_of(self, poll: Poll, response: Response) -> EtcdResult:
        try:
            return result_of(self.spec, response)
        except EtcException as error:
            raise copy_error(error, endpoint=poll.endpoint.url) from error.__cause__

    def _check_caught_up(self) -> None:
        assert self._next_index is not None
        if self._caught_up_index is not None and self._next_index > self._caught_up_index:
            self._on_caught_up()
        calls, self._progress_calls = self._progress_calls, []
        for index, on_progress in calls:
            if index >= self._next_index:
                self._progress_calls.append((index, on_progress))
            elif not self._is_closed:
                on_progress(self._next_index - 1)

    def _on_caught_up(self) -> None:
        """Notify the listener that every change the store had at the first poll was delivered."""
        self._caught_up_index = None
        if not self._is_closed:
            self._listener.on_caught_up()
