"""A backend that asks the server for its version at the first call, and is the one for that from then on."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import gevent
from gevent.lock import BoundedSemaphore

from getc.backends.base import Backend, Hold, LeaseGroup, Listener, Member, Watch
from getc.errors import ClientClosed, ConnectionError, EtcException, HTTPError, ProtocolError, TimedOut
from getc.model import EtcdResult
from getc.operations import Operation, Put, WatchSpec
from getc.timing import Deadline
from getc.transport.endpoints import Endpoint, Endpoints
from getc.transport.http import Http
from getc.wire.messages import Request

__all__ = ['Choosing', 'Inquiry', 'VersionInquiry', 'version_of']

log = logging.getLogger('getc')

V3_SINCE: Final = (3, 4)
"""Before it, servers ignore some comparisons of v3 silently."""

WATCH_PATIENCE: Final = 10.0
"""Seconds for the choice where it is a watch that needs it."""

VERSION: Final = Request('GET', '/version')


def version_of(endpoints: Endpoints, http: Http, deadline: Deadline) -> tuple[int, ...]:
    """The version of the first server that answers, as ``(3, 5)``.  Blocks until the deadline at most.

    Raises:
        ConnectionError: None answers.
        HTTPError, ProtocolError: The answer is not etcd's.
    """
    left = len(endpoints)
    for endpoint in endpoints.in_turn():
        try:
            answer = http.call(endpoint, VERSION, deadline.share(1 / left))
            break
        except ConnectionError:
            endpoints.failed(endpoint)
            left -= 1
            if not left:
                raise
    if answer.status != 200:
        raise HTTPError(answer.status, f'no version of etcd at {endpoint.url}', endpoint=endpoint.url)
    try:
        text = json.loads(answer.body)['etcdserver']
        return tuple(int(part) for part in text.split('.')[:2])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        text = f'what {endpoint.url} calls its version is none of etcd'
        raise ProtocolError(text, endpoint=endpoint.url) from None


class Inquiry(Protocol):
    """Asks what version a server is of."""

    def ask(self, deadline: Deadline) -> tuple[int, ...]:
        """The version, as ``(3, 5)``.  Blocks until the deadline at most."""

    def close(self) -> None:
        """End what is under way with ClientClosed.  Does not block."""


class VersionInquiry:
    """Asks servers for ``/version``.

    Args:
        endpoints: The servers.
        context: The TLS context of ``https`` endpoints, or None without such.
    """

    def __init__(self, endpoints: Sequence[Endpoint], context: ssl.SSLContext | None) -> None:
        self._endpoints = Endpoints(endpoints)
        self._context = context
        self._http: Http | None = None

    def ask(self, deadline: Deadline) -> tuple[int, ...]:
        self._http = Http(self._context)
        try:
            return version_of(self._endpoints, self._http, deadline)
        finally:
            self.close()

    def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            http.close()


class Choosing:
    """A backend that is chosen at the first call: v3 from etcd 3.4 on, v2 before.

    Args:
        inquiry: Asks the server what it is, one greenlet at a time.
        open_api: Makes the backend of an API.
    """

    def __init__(self, inquiry: Inquiry, open_api: Callable[[str], Backend]) -> None:
        self._inquiry = inquiry
        self._open_api = open_api
        self._backend: Backend | None = None
        self._turn = BoundedSemaphore(1)
        self._is_closed = False

    @property
    def api(self) -> str | None:
        """The API that was chosen; None before."""
        return None if self._backend is None else self._backend.api

    def chosen(self, deadline: Deadline) -> Backend:
        """The backend.  Blocks until the deadline at most, the first time."""
        if self._backend is not None:
            return self._backend
        self._check_open()
        if not self._turn.acquire(timeout=deadline.timeout_left()):
            raise TimedOut(f'the server did not tell its version within {deadline.timeout:g} s')
        try:
            if self._backend is None:
                self._check_open()
                version = self._inquiry.ask(deadline)
                self._check_open()
                self._backend = self._open_api('v3' if version >= V3_SINCE else 'v2')
                log.info('etcd %s: using API %s', '.'.join(map(str, version)), self._backend.api)
            return self._backend
        finally:
            self._turn.release()

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        return (self._backend or self.chosen(deadline)).execute(operation, deadline)

    def watch(self, spec: WatchSpec, listener: Listener, after: Watch | None = None) -> Watch:
        if isinstance(after, _LateWatch):
            after = after.watch
        if self._backend is not None:
            return self._backend.watch(spec, listener, after)
        self._check_open()
        return _LateWatch(self, spec, listener)

    def keep(self, ttl: int) -> LeaseGroup:
        return self._backend.keep(ttl) if self._backend is not None else _LateGroup(self, ttl)

    def ready(self, deadline: Deadline) -> None:
        self.chosen(deadline).ready(deadline)

    def clear(self) -> None:
        if self._backend is not None:
            self._backend.clear()

    def close(self) -> None:
        self._is_closed = True
        self._inquiry.close()
        if self._backend is not None:
            self._backend.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')


class _LateWatch:
    """A watch that begins once there is a backend."""

    def __init__(self, choosing: Choosing, spec: WatchSpec, listener: Listener) -> None:
        self.watch: Watch | None = None
        self._choosing = choosing
        self._spec = spec
        self._listener = listener
        self._greenlet = gevent.spawn(self._begin)
        self._greenlet.name = f'getc watch of {spec.key}, choosing'

    def close(self) -> None:
        self._greenlet.kill(block=False)
        if self.watch is not None:
            self.watch.close()

    def _begin(self) -> None:
        try:
            self.watch = self._choosing.chosen(Deadline(WATCH_PATIENCE)).watch(self._spec, self._listener)
        except EtcException as error:
            self._listener.on_ended(error)


class _LateGroup:
    """A lease group that is there once there is a backend."""

    def __init__(self, choosing: Choosing, ttl: int) -> None:
        self._choosing = choosing
        self._ttl = ttl
        self._group: LeaseGroup | None = None

    @property
    def ttl(self) -> int:
        return self._ttl if self._group is None else self._group.ttl

    def hold(self, put: Put, member: Member, deadline: Deadline) -> Hold:
        return self._chosen(deadline).hold(put, member, deadline)

    def adopt(self, key: str, value: str, previous: Hold, member: Member, deadline: Deadline) -> Hold | None:
        return self._chosen(deadline).adopt(key, value, previous, member, deadline)

    def _chosen(self, deadline: Deadline) -> LeaseGroup:
        if self._group is None:
            self._group = self._choosing.chosen(deadline).keep(self._ttl)
        return self._group


_: type[Backend] = Choosing
