"""etcd's v2 keys API (etcd up to 3.5, from 3.4 on with ``--enable-v2``), over HTTP.

A call goes to one endpoint and moves on to the next where that cannot write anything twice.  A watch
is a greenlet that polls; nodes are kept by refreshing each under the condition that it is still ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import gevent

from getc.backends.base import Backend, LeaseGroup, Listener, Watch
from getc.backends.chain import ChainGroup
from getc.backends.polling import PollingWatch
from getc.errors import ClientClosed, ConnectionError, EtcException, HTTPError, LeaderElect, RaftInternal
from getc.keys import ROOT
from getc.model import EtcdResult
from getc.operations import Get, Operation, WatchSpec
from getc.timing import Backoff, Deadline
from getc.transport.endpoints import ConnectionState, Endpoint, Endpoints, parse_endpoints
from getc.transport.http import Http, Poll
from getc.transport.sockets import TLS
from getc.wire.keys_api import poll_of, request_of, result_of
from getc.wire.messages import Request

__all__ = ['KeysV2']

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one server to take a connection where there are others to ask."""

POLL_TIMEOUT: Final = 10.0
"""Seconds for the headers of a long poll, which come at once from a server that is well."""


class KeysV2:
    """A backend on etcd's v2 keys API.

    Args:
        url: One URL, several separated by commas, or a list of them.
        username: For servers whose URL has no credentials, or None.
        password: That user's, or None.
        tls: How ``https`` is spoken.
        on_state: Told of each change of the state; it must not block or raise.

    Raises:
        ValueError: A URL is none of etcd's.
        OSError: A file of ``tls`` cannot be read.

    Example::

        backend = KeysV2('http://127.0.0.1:2379')
        backend.execute(Put('/hello', 'world'), Deadline.after(10))
        backend.close()
    """

    api: Final = 'v2'

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        username: str | None = None,
        password: str | None = None,
        tls: TLS | None = None,
        on_state: Callable[[ConnectionState], object] | None = None,
    ) -> None:
        endpoints = parse_endpoints(url, username=username, password=password)
        self._endpoints = Endpoints(endpoints, on_state=on_state)
        is_secure = any(endpoint.is_secure for endpoint in endpoints)
        self._http = Http((tls or TLS()).context() if is_secure else None)
        self._watches: set[PollingWatch] = set()
        self._groups: dict[int, ChainGroup] = {}
        self._is_closed = False

    @property
    def url(self) -> str:
        """The first endpoint, without credentials."""
        return self._endpoints.first.url

    def __repr__(self) -> str:
        return f'<getc.backends.keys_v2.KeysV2 {",".join(endpoint.url for endpoint in self._endpoints)}>'

    # -- calls

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self._check_open()
        request = request_of(operation)
        left = len(self._endpoints)
        for endpoint in self._endpoints.in_turn():
            try:
                result = self._ask(endpoint, operation, request, deadline, others=left - 1)
            except (ConnectionError, HTTPError) as error:
                if not _is_fault(error):
                    raise
                self._endpoints.failed(endpoint)
                left -= 1
                # Sent and not answered: only a read may be asked again.
                if error.maybe_applied or not left or deadline.has_passed():
                    raise
            else:
                self._endpoints.served(endpoint)
                return result
        raise AssertionError('there is always an endpoint')

    def _ask(
        self, endpoint: Endpoint, operation: Operation, request: Request, deadline: Deadline, *, others: int
    ) -> EtcdResult:
        """Ask one server, and leave time for the others as far as they could still be asked."""
        answer_by = connect_by = deadline
        if others:
            connect_by = deadline.share(1 / (others + 1), at_most=CONNECT_TIMEOUT)
            if not operation.is_write:
                answer_by = deadline.share(1 / (others + 1))
        try:
            answer = self._http.call(endpoint, request, answer_by, connect_by=connect_by)
            return result_of(operation, answer)
        except EtcException as error:
            error.endpoint = endpoint.url
            raise

    def ready(self, deadline: Deadline) -> None:
        backoff = Backoff()
        while True:
            try:
                self.execute(Get(ROOT, quorum=True), deadline)
                return
            except (ConnectionError, HTTPError, RaftInternal, LeaderElect) as error:
                delay = backoff.next_delay()
                if not _is_fault(error) or deadline.remaining() <= delay:
                    raise
            gevent.sleep(delay)

    # -- watches

    def watch(self, spec: WatchSpec, listener: Listener, after: Watch | None = None) -> Watch:
        self._check_open()
        origin = after.origin if isinstance(after, PollingWatch) else None
        watch = PollingWatch(spec, listener, self._open_poll, origin=origin, on_done=self._watches.discard)
        self._watches.add(watch)
        return watch

    def _open_poll(self, spec: WatchSpec, index: int | None) -> Poll:
        request = poll_of(spec, index)
        left = len(self._endpoints)
        for endpoint in self._endpoints.in_turn():
            try:
                poll = self._http.poll(endpoint, request, Deadline(POLL_TIMEOUT))
            except ConnectionError:
                self._endpoints.failed(endpoint)
                left -= 1
                if not left:
                    raise
            else:
                self._endpoints.served(endpoint)
                return poll
        raise AssertionError('there is always an endpoint')

    # -- nodes that are kept

    def keep(self, ttl: int) -> LeaseGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = self._groups[ttl] = ChainGroup(self.execute, ttl)
        return group

    # -- the end

    def clear(self) -> None:
        self._http.clear()

    def close(self) -> None:
        self._is_closed = True
        for group in self._groups.values():
            group.close()
        for watch in list(self._watches):
            watch.close()
        self._http.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')


def _is_fault(error: EtcException) -> bool:
    """True if another server, or a later time, may do better; False if any server would say the same."""
    return not isinstance(error, HTTPError) or error.status_code >= 500


_: type[Backend] = KeysV2
