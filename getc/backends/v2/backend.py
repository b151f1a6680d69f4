"""etcd's v2 keys API (etcd up to 3.5, from 3.4 on with ``--enable-v2``), over HTTP.

A call goes to one endpoint and moves on to the next where that cannot write anything twice.  A watch
is a greenlet that polls; nodes are kept by refreshing each under the condition that it is still ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import gevent

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.monotonic import RevisionGuard
from getc.backends.refresh import RefreshGroup
from getc.backends.v2.codec import poll_of, request_of, result_of
from getc.backends.v2.http import Http, Poll
from getc.backends.v2.http_messages import Request
from getc.backends.v2.watch import PollingWatch
from getc.error_context import copy_error
from getc.errors import ClientClosed, ConnectionError, EtcdError, EtcException, TimedOut
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import EndpointSelector
from getc.net.tls import TLSContexts
from getc.operations import Get, Operation, WatchSpec
from getc.paths import ROOT, child_prefix
from getc.results import EtcdResult
from getc.retry import Effect, is_transient
from getc.timing import Deadline

__all__ = ['KeysV2']

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one server to take a connection where there are others to ask."""

POLL_TIMEOUT: Final = 10.0
"""Seconds for the headers of a long poll, which come at once from a server that is well, from all servers."""

MAX_WATCHED: Final = 16
"""Nodes of one TTL of which a change is noticed at once: each takes a connection.  The others wait for a renewal."""

VERSION: Final = Request('GET', '/version')

CHECK_TIMEOUT: Final = 2.0
"""Seconds for a server to answer what it can answer by itself."""

QUORUM_PROBE_KEY: Final = '_getc'
"""The name of a hidden node that nobody makes."""


class KeysV2(Backend):
    """A backend on etcd's v2 keys API.

    Args:
        endpoints: The servers, with the credentials.
        contexts: The TLS contexts of ``https`` endpoints, or None without such.

    Example::

        backend = KeysV2(EndpointSelector(parse_endpoints('http://127.0.0.1:2379')))
        backend.execute(Put('/hello', 'world'), Deadline.after(10))
        backend.close()
    """

    api: Final = 'v2'

    def __init__(
        self,
        endpoints: EndpointSelector,
        contexts: TLSContexts | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._http = Http(contexts)
        self._horizon = RevisionGuard(len(self._endpoints), self._endpoints.switch)
        self._watches: set[PollingWatch] = set()
        self._suspects: set[Endpoint] = set()  # which are being checked
        self._groups: dict[int, RefreshGroup] = {}
        self._is_closed = False

    @property
    def url(self) -> str:
        """The first endpoint, without credentials."""
        return self._endpoints.first.url

    def __repr__(self) -> str:
        return f'<getc.backends.v2.backend.KeysV2 {",".join(endpoint.url for endpoint in self._endpoints)}>'

    # -- calls

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        self._check_open()
        if isinstance(operation, Get):
            if not operation.quorum:
                return self._horizon.run_serializable(operation, lambda get: self._done(get, deadline))
            return self._horizon.run_linearizable(lambda: self._done(operation, deadline))
        return self._horizon.run_write(lambda: self._done(operation, deadline))

    def _done(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        request = request_of(operation)

        def ask(endpoint: Endpoint, share: Deadline) -> EtcdResult:
            # A write cannot move on once it was sent: nothing is kept for others.
            answer_by = deadline if operation.is_write else share
            connect_by = share if share is deadline else share.fraction(1.0, at_most=CONNECT_TIMEOUT)
            try:
                with _naming(endpoint):
                    return result_of(operation, self._http.call(endpoint, request, answer_by, connect_by=connect_by))
            except TimedOut:
                self._suspect(endpoint)
                raise

        return call_with_failover(
            self._endpoints, ask, deadline, Effect.NON_IDEMPOTENT if operation.is_write else Effect.NONE
        )

    def ready(self, deadline: Deadline) -> None:
        retry_until_served(lambda: self.execute(Get(ROOT, quorum=True), deadline), deadline)

    # -- watches

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        origin = after.origin if isinstance(after, PollingWatch) else None
        watch = PollingWatch(
            spec, listener, self._open_poll, self._horizon, origin=origin, on_done=self._watches.discard
        )
        self._watches.add(watch)
        return watch

    def _open_poll(self, spec: WatchSpec, index: int | None, *, is_proven: bool) -> Poll:
        request = poll_of(spec, index)

        def ask(endpoint: Endpoint, share: Deadline) -> Poll:
            with _naming(endpoint):
                if is_proven:
                    self._prove(endpoint, spec, share)
                poll = self._http.poll(endpoint, request, share)
                if poll.status >= 500:  # another may do better; what etcd says no with is its reader's
                    with poll:
                        result_of(spec, poll.read(share))
                return poll

        return call_with_failover(self._endpoints, ask, Deadline(POLL_TIMEOUT), Effect.NONE)

    def _suspect(self, endpoint: Endpoint) -> None:
        """A call has waited for this server in vain: find out whether the polls there do so, too.  Does not block."""
        if endpoint not in self._suspects and any(watch.endpoint == endpoint for watch in self._watches):
            self._suspects.add(endpoint)
            gevent.spawn(self._check, endpoint).name = f'getc check of {endpoint.url}'

    def _check(self, endpoint: Endpoint) -> None:
        """End the polls of a server that answers nothing at all: where they are opened again another one may answer."""
        try:
            self._http.call(endpoint, VERSION, Deadline(CHECK_TIMEOUT))
        except ConnectionError as error:
            for watch in list(self._watches):
                if watch.endpoint == endpoint:
                    watch.lose(copy_error(error))
        except EtcException:
            pass  # whatever answers is there, or the client is closed
        finally:
            self._suspects.discard(endpoint)

    def _prove(self, endpoint: Endpoint, spec: WatchSpec, deadline: Deadline) -> None:
        """Have a server show that it reaches the others, and knows what they know.  Raises if it does not.

        What is read is of no interest: next to nothing, where the user may read.
        """
        read = Get(child_prefix(spec.key) + QUORUM_PROBE_KEY if spec.recursive else spec.key, quorum=True)
        answer = self._http.call(endpoint, request_of(read), deadline)
        try:
            result_of(read, answer)
        except EtcdError as error:
            if is_transient(error):
                raise

    # -- nodes that are kept

    def keep(self, ttl: int) -> KeepGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = RefreshGroup(self.execute, self.watch, ttl, max_watched=MAX_WATCHED)
            self._groups[ttl] = group
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


@contextmanager
def _naming(endpoint: Endpoint) -> Iterator[None]:
    """Have errors name the server."""
    try:
        yield
    except EtcException as error:
        if error.endpoint is not None:
            raise
        raise copy_error(error, endpoint=endpoint.url) from error.__cause__
