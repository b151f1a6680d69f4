"""Monotonic reads: a client is never given data older than what it has already seen.

A read that one server answers alone may come from a server that lags behind.  Its index shows that; then a
linearizable read follows.  The answer to that one may be older as well: the store was wiped or restored from a backup,
or a server is wrong (etcd 3.5.1 gave such an answer once).  A single answer therefore proves nothing: the read is
repeated, each time by the next server, and only if every one of them is behind does the client accept that the store
went back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

from getc.errors import EtcdError, FutureRevision
from getc.operations import Get
from getc.results import EtcdResult
from getc.retry import is_transient

__all__ = ['RevisionGuard']

MIN_ANSWERS: Final = 2
"""Linearizable answers that have to be behind before the store counts as another one, also if there is one server."""

Answer = TypeVar('Answer')


class RevisionGuard:
    """How far a client has seen.

    Args:
        servers: The number of servers.
        turn: Has the next read asked of another server first.

    Attributes:
        index: Of the latest that the client was given; 0 before anything.
    """

    __slots__ = ('_answers', '_turn', 'index')

    def __init__(self, servers: int = 1, turn: Callable[[], object] = lambda: None) -> None:
        self.index = 0
        self._answers = max(servers, MIN_ANSWERS)
        self._turn = turn

    def saw(self, index: int) -> None:
        """The client was given this by one server alone."""
        if index > self.index:
            self.index = index

    def write(self, execute: Callable[[], EtcdResult]) -> EtcdResult:
        """Write.  The index of a write is the outcome of consensus: if it was passed before, the store went back."""
        since = self.index
        try:
            result = execute()
        except EtcdError as error:
            if error.index is not None and not is_transient(error):
                self._accept(error.index, since)
            raise
        self._accept(result.etcd_index, since)
        return result

    def agree(self, execute: Callable[[], EtcdResult]) -> EtcdResult:
        """Do a linearizable read; again, by the other servers, if its answer is older than what was seen."""
        since = self.index
        remaining = self._answers
        while True:
            remaining -= 1
            try:
                result = execute()
            except EtcdError as error:
                if error.index is None or is_transient(error):
                    raise
                if not remaining or not 0 < error.index < since:
                    self._accept(error.index, since)
                    raise
            else:
                if not remaining or not 0 < result.etcd_index < since:
                    self._accept(result.etcd_index, since)
                    return result
            self._turn()

    def observe_quorum(self, read: Callable[[], int]) -> int:
        """Read how far etcd as a whole has come, as :meth:`agree` does."""
        since = self.index
        for _ in range(self._answers):
            revision = read()
            if not 0 < revision < since:
                break
            self._turn()
        self._accept(revision, since)
        return revision

    def read(self, get: Get, execute: Callable[[Get], EtcdResult]) -> EtcdResult:
        """Read from one server; linearizable, if that one has not come as far as was seen."""
        since = self.index
        try:
            result = execute(get)
        except FutureRevision:
            pass  # the rest of a listing came to one that lags behind who began it
        except EtcdError as error:
            if error.index is None or error.index >= since or is_transient(error):
                raise
        else:
            if result.etcd_index >= since:
                self.saw(result.etcd_index)
                return result
        return self.agree(lambda: execute(replace(get, quorum=True)))

    def _accept(self, index: int, since: int) -> None:
        """This is how far etcd as a whole has come; if less than what was seen, the store went back.

        An index of 0 means that the answer does not contain one, as where a proxy cuts it out.
        """
        if index > self.index or 0 < index < since:
            self.index = index
