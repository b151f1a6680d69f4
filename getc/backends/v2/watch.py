"""Watching on v2: one long poll after the other, with nothing lost between them.

A poll that is asked for index i and blocks has been answered with headers whose index is N: no change
in i..N was of interest, so N + 1 is the next index to ask for.  Quiet polls are renewed, or
the history (1000 events of the whole store) would run away from them: the new poll is open before the
old one is closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import gevent

from getc import timing
from getc.backends.base import WatchListener
from getc.backends.history import ANOTHER_STORE, V2_HISTORY_EVENTS, another_store
from getc.backends.monotonic import RevisionGuard
from getc.backends.v2.codec import etcd_index_of, raft_index_of, result_of
from getc.backends.v2.http import Poll
from getc.backends.v2.http_messages import Answer
from getc.error_context import copy_error
from getc.errors import ConnectionError, EtcException, EventIndexCleared, ProtocolError
from getc.net.endpoint import Endpoint
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.timing import Deadline

__all__ = ['PollingWatch', 'StoreIdentity']


class _Open(Protocol):
    """Opens polls."""

    def __call__(self, spec: WatchSpec, index: int | None, *, is_proven: bool) -> Poll:
        """A poll for the first change at or after an index; None is from now on.

        ``is_proven``: by a server that has just shown that it knows what the others know.  Any other may lag behind
        them, or be cut off and silent for ever.
        """


IDLE_TIMEOUT: Final = 20.0
"""Seconds after which a quiet poll is renewed, at most."""

FIRST_QUIET: Final = 2.0
"""Seconds before the first renewal: it tells how fast the history runs."""

LEAST_QUIET: Final = 1.0

HISTORY_TIMEOUT: Final = 0.25
"""Seconds for a poll to bring what the history holds, which etcd sends right behind the headers.  A poll that is silent
for longer is renewed."""

REOPEN_TIMEOUT: Final = 1.0
"""Seconds in which a lost poll is opened again without a check.  After a longer time the store may have been restored
from a backup and have grown past the index, which the watch alone cannot detect: its follower compares."""

BODY_TIMEOUT: Final = 30.0
"""Seconds for a body to be there whole, once it began."""


@dataclass(frozen=True, slots=True)
class StoreIdentity:
    """Which store a poll was answered from, and how far that was.

    Attributes:
        cluster_id: The cluster's, or ``''``.
        etcd_index: The store's index.
        raft_index: The log's index.
    """

    cluster_id: str
    etcd_index: int
    raft_index: int

    @classmethod
    def of(cls, poll: Poll) -> StoreIdentity:
        """Read it from the headers."""
        index = etcd_index_of(poll.headers) or 0
        return cls(poll.headers.get('X-Etcd-Cluster-ID', ''), index, raft_index_of(poll.headers))

    def is_followed_by(self, later: StoreIdentity) -> bool:
        """False if the later answer is of another store, or of one that went back."""
        return later.cluster_id == self.cluster_id and later.raft_index >= self.raft_index


class PollingWatch:
    """One watch, with a greenlet of its own.

    Args:
        spec: What to follow.
        listener: Whom to tell.
        open_poll: How a poll is opened.
        horizon: Told how far the client has seen.
        origin: What an earlier watch of the same knew of the store, when this one goes on from there.
        on_done: Called once with the watch when its greenlet is done.
    """

    def __init__(
        self,
        spec: WatchSpec,
        listener: WatchListener,
        open_poll: _Open,
        horizon: RevisionGuard,
        *,
        origin: StoreIdentity | None,
        on_done: Callable[[PollingWatch], None],
    ) -> None:
        self.spec = spec
        self.origin = origin
        self._listener = listener
        self._open_poll = open_poll
        self._horizon = horizon
        self._cursor = spec.index
        self._least = min(spec.index or 0, horizon.index)  # index; a server that has not come to it lags behind
        self._is_live = False
        self._target: int | None = None  # the index up to which changes are to be delivered before it has caught up
        self._is_closed = False
        self._pid = os.getpid()
        self._poll: Poll | None = None
        self._polled_at = 0.0
        self._quiet = FIRST_QUIET
        self._greenlet = gevent.spawn(self._run)
        self._greenlet.name = f'getc watch of {spec.key}'
        self._greenlet.link(lambda _: on_done(self))

    def close(self) -> None:
        self._is_closed = True
        if self._greenlet is not gevent.getcurrent():
            self._greenlet.kill(block=False)

    @property
    def endpoint(self) -> Endpoint | None:
        """The server that is polled now; None while there is no poll."""
        return None if self._poll is None else self._poll.endpoint

    def lose(self, error: EtcException) -> None:
        """End it with this error, since its server does not answer.  Does not block."""
        if not self._is_closed:
            self._greenlet.kill(error, block=False)

    # -- the greenlet

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._step()
        except EtcException as error:
            self._end(error)
        except BaseException as error:
            ended = EtcException(f'the watch of {self.spec.key} failed: {type(error).__name__}')
            ended.__cause__ = error
            self._end(ended)
            if not isinstance(error, Exception):
                raise
        finally:
            self._let_go()

    def _end(self, error: EtcException) -> None:
        self._let_go()
        if not self._is_closed:
            self._is_closed = True
            self._listener.on_ended(error)

    def _let_go(self) -> None:
        poll, self._poll = self._poll, None
        if poll is not None:
            poll.close()

    def _step(self) -> None:
        """Wait for one change, or for the time of a renewal."""
        if self._poll is None:
            self._adopt(self._open(self._cursor, is_proven=self._cursor is None))
            return
        is_catching_up = self._target is not None
        has_come = self._poll.wait(HISTORY_TIMEOUT if is_catching_up else self._quiet)
        if os.getpid() != self._pid:
            self._is_closed = True  # in a child that was forked off: the answer is its parent's
        elif has_come:
            self._take()
        else:
            self._renew()

    def _open(self, index: int | None, *, is_proven: bool = False) -> Poll:
        """Open a poll; one that the server refuses raises its error."""
        poll = self._answered(index, is_proven=is_proven)
        if not is_proven and not self._same_store(poll):  # the server may only be behind the others
            poll.close()
            poll = self._answered(index, is_proven=True)
        if not self._same_store(poll):
            poll.close()
            at = etcd_index_of(poll.headers)
            self.origin = StoreIdentity.of(poll)
            raise another_store(at, endpoint=poll.endpoint.url)
        self.origin = StoreIdentity.of(poll)
        return poll

    def _answered(self, index: int | None, *, is_proven: bool) -> Poll:
        """Open a poll that etcd has answered well."""
        poll = self._open_poll(self.spec, index, is_proven=is_proven)
        try:
            if poll.status != 200 or etcd_index_of(poll.headers) is None:
                self._result_of(poll, poll.read(Deadline(BODY_TIMEOUT)))
                what = f'a long poll was answered with status {poll.status} and no X-Etcd-Index'
                raise ProtocolError(what, endpoint=poll.endpoint.url)
        except BaseException:
            poll.close()
            raise
        return poll

    def _same_store(self, poll: Poll) -> bool:
        """True if the poll is of the store that was followed, and that has not gone back."""
        origin = StoreIdentity.of(poll)
        if origin.etcd_index < max(self._least, (self._cursor or 0) - 1):
            return False
        return self.origin is None or self.origin.is_followed_by(origin)

    def _adopt(self, poll: Poll) -> None:
        """Wait on this poll from now on."""
        self._let_go()
        self._poll = poll
        self._polled_at = timing.now()
        if not (self._is_live or self._is_closed):
            assert self.origin is not None
            self._is_live = True
            if self._cursor is None:
                self._cursor = self.origin.etcd_index + 1
            self._listener.on_live(self._cursor - 1)
            self._target = self.origin.etcd_index
        self._check_target()

    def _check_target(self) -> None:
        assert self._cursor is not None
        if self._target is not None and self._cursor > self._target:
            self._catch_up()

    def _catch_up(self) -> None:
        """Notify the listener that everything the store had when the first poll was answered was delivered."""
        self._target = None
        if not self._is_closed:
            self._listener.on_caught_up()

    def _take(self) -> None:
        """Tell what the poll brought, and go on after it."""
        result = self._read()
        if result is None:  # it ended without a word: ask again, once at once
            self._let_go()
            lost_at = timing.now()
            self._adopt(self._open(self._cursor))
            if timing.now() - lost_at > REOPEN_TIMEOUT:
                raise ConnectionError(f'the poll of {self.spec.key} was lost, and the next one took too long to open')
            assert self._poll is not None
            if not self._poll.wait(self._quiet):
                return
            result = self._read()
            if result is None:
                raise ConnectionError(f'the polls of {self.spec.key} end without a change')
        self._let_go()
        self._quiet = FIRST_QUIET
        self._cursor = max(self._cursor or 0, result.modified_index + 1)
        self._horizon.observe(result.modified_index)
        if self.spec.matches(result) and not self._is_closed:
            self._listener.on_changes((result,))
        self._check_target()

    def _read(self) -> EtcdResult | None:
        """The change; None if the body is empty or cut."""
        assert self._poll is not None
        try:
            answer = self._poll.read(Deadline(BODY_TIMEOUT))
        except ConnectionError:
            return None
        return self._result_of(self._poll, answer) if answer.body.strip() else None

    def _result_of(self, poll: Poll, answer: Answer) -> EtcdResult:
        try:
            return result_of(self.spec, answer)
        except EtcException as error:
            raise copy_error(error, endpoint=poll.endpoint.url) from error.__cause__

    def _renew(self) -> None:
        """Replace a quiet poll by one with a later index.

        Where the history has run away already the old poll is kept: it has lost nothing.

        A poll whose server has answered another one meanwhile, and which is still silent, brings no history: the watch
        has caught up.  Time alone does not show that on a busy machine.
        """
        assert self._poll is not None and self.origin is not None
        origin = self.origin
        quiet_from = max(self._cursor or 0, origin.etcd_index + 1)
        try:
            poll = self._open(quiet_from, is_proven=True)
        except EventIndexCleared as error:
            if error.cause == ANOTHER_STORE:
                raise
            self._quiet = IDLE_TIMEOUT
            if self._target is not None:
                self._catch_up()
            return
        try:
            has_come = self._poll.wait(0)
        except BaseException:
            poll.close()
            raise
        if has_come:  # it had only been slow: what it brings comes first
            poll.close()
            return
        seen, seconds = self.origin.etcd_index - origin.etcd_index, timing.now() - self._polled_at
        self._quiet = (
            min(IDLE_TIMEOUT, max(LEAST_QUIET, V2_HISTORY_EVENTS / 4 * seconds / seen)) if seen > 0 else IDLE_TIMEOUT
        )
        self._cursor = quiet_from
        self._adopt(poll)
