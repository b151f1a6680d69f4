"""Monotonic reads: repeat a read whose answer is older than what this client has already seen.

A serializable read is answered by one server, which may lag behind; its index shows that, and a linearizable read
follows.  The response to that read may be older as well: the store was wiped or restored from a backup, or a server is
wrong (etcd 3.5.1 once gave such a response).  A single response therefore proves nothing: the read is repeated, each
time on the next server, and only if every response is behind does the client accept that the store went back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol, TypeVar

from getc.errors import EtcdError, FutureRevision
from getc.operations import Get
from getc.results import EtcdResult
from getc.retry import is_transient

__all__ = ['RevisionGuard']

MIN_RESPONSES: Final = 2
"""Linearizable responses that have to be behind before the store counts as replaced, also if there is one server."""


class _Response(Protocol):
    @property
    def etcd_index(self) -> int: ...


_Result = TypeVar('_Result', bound=_Response)


class RevisionGuard:
    """The highest index that a client has seen, and the checks that keep its reads from going back.

    The ``run_`` methods perform a call under the guard.  The tree backend, which cannot afford their frames, reads
    ``index`` before a call, and calls ``accept`` or ``accept_refusal`` after it.

    Args:
        server_count: Returns the number of servers.
        switch_server: Switches to the next server.

    Attributes:
        index: The highest index seen; 0 before the first response.
    """

    __slots__ = ('_server_count', '_switch_server', 'index')

    def __init__(
        self, server_count: Callable[[], int] = lambda: 1, switch_server: Callable[[], object] = lambda: None
    ) -> None:
        self.index = 0
        self._server_count = server_count
        self._switch_server = switch_server

    def observe(self, index: int) -> None:
        """Record the index of a response that one server gave without consensus."""
        if index > self.index:
            self.index = index

    def observe_quorum(self, read: Callable[[], int]) -> int:
        """Read the current revision of the cluster, repeated as :meth:`run_linearizable` does, and record it."""
        since = self.index
        revision = read()
        if 0 < revision < since:
            for _ in range(self._responses() - 1):
                self._switch_server()
                revision = read()
                if not 0 < revision < since:
                    break
        self.accept(revision, since)
        return revision

    def accept(self, index: int, since: int) -> None:
        """Record the index of a response that required consensus; if it is below ``since``, the store went back.

        Args:
            index: The index; 0 for a response without one, as where a proxy removes the header.
            since: ``self.index`` as it was before the request was sent.
        """
        if index > self.index or 0 < index < since:
            self.index = index

    def accept_refusal(self, error: EtcdError, since: int) -> None:
        """Record the index of an error as :meth:`accept` does, unless a server failure caused the error."""
        if error.index is not None and not is_transient(error):
            self.accept(error.index, since)

    def is_behind(self, error: EtcdError, since: int) -> bool:
        """True if a read was refused by a server whose index is below ``since``."""
        return error.index is not None and 0 < error.index < since and not is_transient(error)

    def run_write(self, execute: Callable[[], _Result]) -> _Result:
        """Perform a write.  Its index results from consensus: if it was seen before, the store went back."""
        since = self.index
        try:
            result = execute()
        except EtcdError as error:
            self.accept_refusal(error, since)
            raise
        self.accept(result.etcd_index, since)
        return result

    def run_linearizable(self, execute: Callable[[], _Result]) -> _Result:
        """Perform a linearizable read; repeat it on the other servers while the response is behind."""
        since = self.index
        try:
            result = execute()
        except EtcdError as error:
            if not self.is_behind(error, since):
                self.accept_refusal(error, since)
                raise
        else:
            if not 0 < result.etcd_index < since:
                self.accept(result.etcd_index, since)
                return result
        return self.repeat_linearizable(execute, since)

    def repeat_linearizable(self, execute: Callable[[], _Result], since: int) -> _Result:
        """Repeat a linearizable read whose first response was behind, until one is not or every server has answered.

        Args:
            execute: Performs the read.
            since: ``self.index`` as it was before the first request was sent.
        """
        remaining = self._responses() - 1
        while True:
            self._switch_server()
            remaining -= 1
            try:
                result = execute()
            except EtcdError as error:
                if remaining and self.is_behind(error, since):
                    continue
                self.accept_refusal(error, since)
                raise
            if not remaining or not 0 < result.etcd_index < since:
                self.accept(result.etcd_index, since)
                return result

    def _responses(self) -> int:
        """Return the number of responses that have to be behind before the store counts as replaced."""
        return max(self._server_count(), MIN_RESPONSES)

    def run_serializable(self, get: Get, execute: Callable[[Get], EtcdResult]) -> EtcdResult:
        """Read from one server; if the response is behind, perform a linearizable read instead."""
        since = self.index
        try:
            result = execute(get)
        except FutureRevision:
            pass  # a later page of a listing was requested from a server that lags behind the first page's
        except EtcdError as error:
            if error.index is None or error.index >= since or is_transient(error):
                raise
        else:
            if result.etcd_index >= since:
                self.observe(result.etcd_index)
                return result
        return self.run_linearizable(lambda: execute(replace(get, quorum=True)))
