"""A backend on etcd's v2 keys API over HTTP (etcd up to 3.5; from 3.4 on with ``--enable-v2``).

A call is sent to one endpoint, and to the next one if that cannot apply a write twice.  A watch polls in a greenlet.
Nodes are kept alive by refreshing each of them, on the condition that this client still owns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
from gevent.event import Event

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.backends.creation_order import read_contenders, read_predecessor
from getc.backends.monotonic import RevisionGuard
from getc.backends.refresh import RefreshGroup
from getc.backends.store_index import index_of_read
from getc.backends.v2.codec import poll_of, request_of, result_of
from getc.backends.v2.http import Http
from getc.backends.v2.members import V2Members
from getc.backends.v2.poll import Poll
from getc.backends.v2.version import VERSION, version_from
from getc.backends.v2.watch import PollingWatch
from getc.error_context import copy_error
from getc.errors import ClientClosed, ConnectionError, EtcdError, EtcException, TimedOut
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import EndpointSelector
from getc.net.tls import TLSContexts
from getc.operations import Contenders, Get, Operation, Predecessor, WatchSpec
from getc.paths import ROOT, child_prefix
from getc.results import EtcdResult
from getc.retry import Effect, is_transient
from getc.timing import Deadline
from getc.transactions import AnyOperation, SnapshotRead, Transaction, no_transactions_on_v2

__all__ = ['KeysV2']

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for one server to accept a connection while other servers can be tried."""

POLL_TIMEOUT: Final = 10.0
"""Seconds for the headers of a long poll, over all attempts.  A healthy server sends them at once."""

MAX_WATCHED: Final = 16
"""Kept nodes of one TTL that are watched, so that a foreign change is detected at once.  Each watch takes a connection;
a change of any other node is detected by its next renewal."""

CHECK_TIMEOUT: Final = 2.0
"""Seconds for a server to send its version, for which it needs no other member."""

QUORUM_PROBE_KEY: Final = '_getc'
"""The name of a hidden node that does not exist: reading it returns next to nothing."""


class KeysV2(Backend):
    """A backend on etcd's v2 keys API.

    Args:
        endpoints: The servers, with the credentials.
        contexts: The TLS contexts of ``https`` endpoints, or None if there are none.

    Example::

        backend = KeysV2(EndpointSelector(parse_endpoints('http://127.0.0.1:2379')))
        backend.execute(Put('/hello', 'world'), Deadline.after(10))
        backend.close()
    """

    api: Final = 'v2'

    def __init__(self, endpoints: EndpointSelector, contexts: TLSContexts | None = None) -> None:
        self._endpoints = endpoints
        self._http = Http(contexts)
        self._revision_guard = RevisionGuard(self._endpoints.__len__, self._endpoints.switch)
        self._watches: set[PollingWatch] = set()
        self._checking: set[Endpoint] = set()  # servers with a health check in flight
        self._groups: dict[int, RefreshGroup] = {}
        self._is_closed = False
        self._closed = Event()  # ends the delays of `ready`
        endpoints.subscribe(self._on_endpoints_changed)

    def __repr__(self) -> str:
        return f'<getc.backends.v2.backend.KeysV2 {",".join(endpoint.url for endpoint in self._endpoints)}>'

    # -- calls

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        self._check_open()
        if isinstance(operation, (Transaction, SnapshotRead)):
            raise no_transactions_on_v2()
        if isinstance(operation, Predecessor):
            return read_predecessor(self._execute, operation, deadline)
        if isinstance(operation, Contenders):
            return read_contenders(self._execute, operation, deadline)
        return self._execute(operation, deadline)

    def _execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        if isinstance(operation, Get):
            if not operation.quorum:
                return self._revision_guard.run_serializable(operation, lambda get: self._call(get, deadline))
            return self._revision_guard.run_linearizable(lambda: self._call(operation, deadline))
        return self._revision_guard.run_write(lambda: self._call(operation, deadline))

    def _call(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        request = request_of(operation)

        def attempt(endpoint: Endpoint, attempt_deadline: Deadline) -> EtcdResult:
            # A write that was sent cannot be sent to another server: it may use all of the time that is left.
            respond_by = deadline if operation.is_write else attempt_deadline
            connect_by = attempt_deadline
            if attempt_deadline is not deadline:
                connect_by = attempt_deadline.fraction(1.0, at_most=CONNECT_TIMEOUT)
            try:
                with _endpoint_in_errors(endpoint):
                    return result_of(operation, self._http.call(endpoint, request, respond_by, connect_by=connect_by))
            except TimedOut as error:
                if error.is_outage:
                    self._check_server(endpoint)
                raise

        effect = Effect.NON_IDEMPOTENT if operation.is_write else Effect.NONE
        return call_with_failover(self._endpoints, attempt, deadline, effect)

    def ready(self, deadline: Deadline) -> None:
        retry_until_served(lambda: self.execute(Get(ROOT, quorum=True), deadline), deadline, self._closed)

    # -- watches

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        self._check_open()
        identity = after.identity if isinstance(after, PollingWatch) else None
        watch = PollingWatch(
            spec, listener, self._open_poll, self._revision_guard, identity=identity, on_done=self._watches.discard
        )
        self._watches.add(watch)
        return watch

    def _open_poll(self, spec: WatchSpec, index: int | None, verify_quorum: bool) -> Poll:
        request = poll_of(spec, index)
        opened: list[Poll] = []

        def attempt(endpoint: Endpoint, attempt_deadline: Deadline) -> Poll:
            with _endpoint_in_errors(endpoint):
                if verify_quorum:
                    self._verify_quorum(endpoint, spec, attempt_deadline)
                poll = self._http.poll(endpoint, request, attempt_deadline)
                opened.append(poll)
                if poll.status >= 500:  # fail over; the watch reads every other refusal
                    with poll:
                        result_of(spec, poll.read(attempt_deadline))
                return poll

        try:
            return call_with_failover(self._endpoints, attempt, Deadline(POLL_TIMEOUT), Effect.NONE)
        except BaseException:  # also if the greenlet is killed after the headers have arrived
            for poll in opened:
                poll.close()
            raise

    def _verify_quorum(self, endpoint: Endpoint, spec: WatchSpec, deadline: Deadline) -> None:
        """Perform a linearizable read, which a server that lags behind or is cut off cannot answer."""
        read = _probe_of(spec)
        response = self._http.call(endpoint, request_of(read), deadline)
        try:
            result_of(read, response)
        except EtcdError as error:
            if is_transient(error):
                raise

    def _check_server(self, endpoint: Endpoint) -> None:
        """Start a health check of a server on which a call has timed out, if watches poll there.  Does not block."""
        if endpoint not in self._checking and any(watch.endpoint == endpoint for watch in self._watches):
            self._checking.add(endpoint)
            gevent.spawn(self._run_check, endpoint).name = f'getc check of {endpoint.url}'

    def _run_check(self, endpoint: Endpoint) -> None:
        """End the watches that poll a server which does not respond at all, so that they continue on another one."""
        try:
            self._http.call(endpoint, VERSION, Deadline(CHECK_TIMEOUT), takes_slot=False)
        except ConnectionError as error:
            for watch in list(self._watches):
                if watch.endpoint == endpoint:
                    watch.fail_with(endpoint, copy_error(error))
        except EtcException:
            pass  # the server has responded, or the client is closed
        finally:
            self._checking.discard(endpoint)

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        return index_of_read(self, _probe_of(spec), deadline)

    # -- members

    def members(self) -> V2Members:
        """Return the source of the cluster's members."""
        return V2Members(self._endpoints, self._http)

    def version(self, deadline: Deadline) -> tuple[int, ...]:
        """Return the version of a server, such as ``(3, 5)``.  Blocks until the deadline at most.

        Raises:
            EtcException: The error of the last server.
        """

        def read(endpoint: Endpoint, attempt_deadline: Deadline) -> tuple[int, ...]:
            return version_from(self._http.call(endpoint, VERSION, attempt_deadline), endpoint.url)

        return call_with_failover(self._endpoints, read, deadline, Effect.NONE)

    # -- kept nodes

    def keep_group(self, ttl: int) -> KeepGroup:
        self._check_open()
        group = self._groups.get(ttl)
        if group is None:
            group = RefreshGroup(self.execute, self.watch, ttl, max_watched=MAX_WATCHED)
            self._groups[ttl] = group
        return group

    # -- closing

    def clear(self) -> None:
        self._http.clear()

    def _on_endpoints_changed(self) -> None:
        """Close the connections to removed endpoints.  A watch that polls one goes on until its poll is replaced."""
        self._http.retain(self._endpoints)

    def close(self) -> None:
        self._is_closed = True
        self._closed.set()
        for group in self._groups.values():
            group.close()
        for watch in list(self._watches):
            watch.close()
        self._http.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')


@contextmanager
def _endpoint_in_errors(endpoint: Endpoint) -> Iterator[None]:
    """Add the endpoint to errors that do not name one."""
    try:
        yield
    except EtcException as error:
        if error.endpoint is not None:
            raise
        raise copy_error(error, endpoint=endpoint.url) from error.__cause__


def _probe_of(spec: WatchSpec) -> Get:
    """Return a linearizable read with a small response that a user is permitted who may create the watch.

    For a recursive watch it is of a node that does not exist, below the watched one.
    """
    return Get(child_prefix(spec.key) + QUORUM_PROBE_KEY if spec.recursive else spec.key, quorum=True)
