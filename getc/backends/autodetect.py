"""A backend that asks the server for its version at the first call, and is the one for that from then on."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Final, Protocol

import gevent
from gevent.lock import BoundedSemaphore

from getc.backends.base import Backend, KeepGroup, KeepListener, KeptNode, Watch, WatchListener
from getc.backends.v2.http import Http
from getc.backends.v2.http_messages import Answer, Request
from getc.errors import ClientClosed, ConnectionRefused, EtcException, HTTPError, ProtocolError, TimedOut, Unauthorized
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import EndpointSelector
from getc.net.tls import TLSContexts
from getc.operations import Operation, Put, WatchSpec
from getc.results import EtcdResult
from getc.retry import Effect
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import Maintenance, StatusRequest

__all__ = ['AutoBackend', 'Inquiry', 'VersionProbe']

V3_SINCE: Final = (3, 4)
"""Before it, servers ignore some comparisons of v3 silently."""

STATUS_IS_PROTECTED_SINCE: Final = (3, 5)
"""Before it, etcd told its status to everybody."""

WATCH_TIMEOUT: Final = 10.0
"""Seconds for the choice where it is a watch that needs it."""

VERSION: Final = Request('GET', '/version')


def _version_in(answer: Answer, url: str) -> tuple[int, ...]:
    if answer.status != 200:
        raise HTTPError(answer.status, f'no version of etcd at {url}', endpoint=url)
    try:
        return _numbers(json.loads(answer.body)['etcdserver'])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ProtocolError(f'what {url} calls its version is none of etcd', endpoint=url) from None


def _version_over_grpc(rpc: RpcClient, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...] | None:
    """The version of an etcd v3 that is behind a proxy; None where nothing answers as etcd v3 does."""
    try:
        return _numbers(rpc.ask(endpoint, Maintenance.Status, StatusRequest(), deadline).version)
    except Unauthorized:
        return STATUS_IS_PROTECTED_SINCE
    except (EtcException, ValueError):
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split('.')[:2])


class Inquiry(Protocol):
    """Asks what version a server is of."""

    def ask(self, deadline: Deadline) -> tuple[int, ...]:
        """The version, as ``(3, 5)``.  Blocks until the deadline at most."""

    def close(self) -> None:
        """End what is under way with ClientClosed.  Does not block."""


class VersionProbe:
    """Asks servers for ``/version``, and over gRPC where that page is not to be had.

    Proxies for gRPC, such as ``etcd grpc-proxy``, nginx or haproxy, pass on no other HTTP.

    Args:
        endpoints: The servers, which the backend shares: a server that does not answer is not its first choice.
        contexts: The TLS contexts of ``https`` endpoints, or None without such.
        rpc: Calls ``Maintenance.Status``; None to leave that out.
    """

    def __init__(self, endpoints: EndpointSelector, contexts: TLSContexts | None, rpc: RpcClient | None = None) -> None:
        self._endpoints = endpoints
        self._contexts = contexts
        self._rpc = rpc
        self._http: Http | None = None

    def ask(self, deadline: Deadline) -> tuple[int, ...]:
        http = self._http = Http(self._contexts)

        def ask(endpoint: Endpoint, share: Deadline) -> tuple[int, ...]:
            try:
                return _version_in(http.call(endpoint, VERSION, share), endpoint.url)
            except (TimedOut, ConnectionRefused, ClientClosed):
                raise
            except EtcException:
                version = None if self._rpc is None else _version_over_grpc(self._rpc, endpoint, share)
                if version is None:
                    raise
                return version

        try:
            return call_with_failover(self._endpoints, ask, deadline, Effect.NONE)
        finally:
            self.close()

    def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            http.close()


class AutoBackend(Backend):
    """A backend that is chosen at the first call: v3 from etcd 3.4 on, v2 before.

    Args:
        inquiry: Asks the server what it is, one greenlet at a time.
        open_api: Makes the backend of an API.
        log: The log of the client.
    """

    def __init__(self, inquiry: Inquiry, open_api: Callable[[str], Backend], *, log: ClientLog | None = None) -> None:
        self._log = log if log is not None else ClientLog()
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
                text = f'etcd {".".join(map(str, version))}: using API {self._backend.api}'
                self._log.note(logging.INFO, text)
            return self._backend
        finally:
            self._turn.release()

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        return (self._backend or self.chosen(deadline)).execute(operation, deadline)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        if isinstance(after, _LateWatch):
            after = after.watch
        if self._backend is not None:
            return self._backend.watch(spec, listener, after)
        self._check_open()
        return _LateWatch(self, spec, listener)

    def keep(self, ttl: int) -> KeepGroup:
        return self._backend.keep(ttl) if self._backend is not None else _LateGroup(self, ttl)

    def ready(self, deadline: Deadline) -> None:
        retry_until_served(lambda: self.chosen(deadline), deadline).ready(deadline)

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

    def __init__(self, choosing: AutoBackend, spec: WatchSpec, listener: WatchListener) -> None:
        self.watch: Watch | None = None
        self._choosing = choosing
        self._spec = spec
        self._listener = listener
        self._is_closed = False
        self._greenlet = gevent.spawn(self._begin)
        self._greenlet.name = f'getc watch of {spec.key}, choosing'

    def close(self) -> None:
        self._is_closed = True
        self._greenlet.kill(block=False)  # which strikes one turn later
        if self.watch is not None:
            self.watch.close()

    def _begin(self) -> None:
        try:
            backend = self._choosing.chosen(Deadline(WATCH_TIMEOUT))
            if not self._is_closed:
                self.watch = backend.watch(self._spec, self._listener)
        except EtcException as error:
            self._end(error)
        except Exception as error:
            ended = EtcException(f'the watch of {self._spec.key} failed: {type(error).__name__}')
            ended.__cause__ = error
            self._end(ended)

    def _end(self, error: EtcException) -> None:
        if not self._is_closed:
            self._listener.on_ended(error)


class _LateGroup:
    """A lease group that is there once there is a backend."""

    def __init__(self, choosing: AutoBackend, ttl: int) -> None:
        self._choosing = choosing
        self._ttl = ttl
        self._group: KeepGroup | None = None

    @property
    def ttl(self) -> int:
        return self._ttl if self._group is None else self._group.ttl

    def keep(self, put: Put, member: KeepListener, deadline: Deadline) -> KeptNode:
        return self._chosen(deadline).keep(put, member, deadline)

    def reclaim(
        self, key: str, value: str, previous: KeptNode, member: KeepListener, deadline: Deadline
    ) -> KeptNode | None:
        return self._chosen(deadline).reclaim(key, value, previous, member, deadline)

    def delete_unanswered(self, key: str, member: KeepListener, deadline: Deadline) -> None:
        self._chosen(deadline).delete_unanswered(key, member, deadline)

    def _chosen(self, deadline: Deadline) -> KeepGroup:
        if self._group is None:
            self._group = self._choosing.chosen(deadline).keep(self._ttl)
        return self._group
