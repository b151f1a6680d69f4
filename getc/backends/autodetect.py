"""Detection of the API: a backend that reads the server's version at the first call, and uses v3 or v2 from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.errors import ClientClosed, ConnectionRefused, EtcException, TimedOut, Unauthorized
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import EndpointSelector
from getc.operations import Operation, WatchSpec
from getc.results import EtcdResult
from getc.retry import Effect
from getc.timing import Deadline
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import Maintenance, StatusRequest

__all__ = ['DETECTION_TIMEOUT', 'AutoBackend', 'VersionProbe', 'VersionReader']

MIN_V3_VERSION: Final = (3, 4)
"""Older servers ignore some comparisons of v3 without an error."""

MIN_VERSION_WITH_PROTECTED_STATUS: Final = (3, 5)
"""Older servers return their status without authentication."""

DETECTION_TIMEOUT: Final = 10.0
"""Seconds for a detection that starts without a deadline."""


class VersionReader(Protocol):
    """Reads the version of a server over HTTP."""

    def read(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        """Return the version, such as ``(3, 5)``.  Blocks until the deadline at most."""

    def close(self) -> None:
        """Close all connections, and end a call in flight with ClientClosed.  Does not block."""


class VersionProbe:
    """Reads the version of the first server that responds: its ``/version`` page, or its status over gRPC.

    gRPC is used where a server responds without that page: gRPC proxies, such as ``etcd grpc-proxy``, nginx or
    haproxy, forward no other HTTP.

    Args:
        endpoints: The servers, shared with the backend, which prefers servers that have responded.
        page: Reads the ``/version`` page.
        rpc: Calls ``Maintenance.Status``; None to use the page only.
    """

    def __init__(self, endpoints: EndpointSelector, page: VersionReader, rpc: RpcClient | None = None) -> None:
        self._endpoints = endpoints
        self._page = page
        self._rpc = rpc

    def read(self, deadline: Deadline) -> tuple[int, ...]:
        """Return the version, such as ``(3, 5)``.  Blocks until the deadline at most.

        Raises:
            EtcException: The error of the last server.
        """
        try:
            return call_with_failover(self._endpoints, self._read, deadline, Effect.NONE)
        finally:
            self.close()

    def close(self) -> None:
        """End a read in flight with ClientClosed.  Does not block."""
        self._page.close()

    def _read(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        try:
            return self._page.read(endpoint, deadline)
        except (TimedOut, ConnectionRefused, ClientClosed):
            raise
        except EtcException:
            version = None if self._rpc is None else _version_over_grpc(self._rpc, endpoint, deadline)
            if version is None:
                raise
            return version


def _version_over_grpc(rpc: RpcClient, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...] | None:
    """Return the version of an etcd v3 behind a proxy; None if the server does not respond as etcd v3."""
    try:
        version = rpc.call_endpoint(endpoint, Maintenance.Status, StatusRequest(), deadline).version
        return tuple(int(part) for part in version.split('.')[:2])
    except Unauthorized:
        return MIN_VERSION_WITH_PROTECTED_STATUS
    except (EtcException, ValueError):
        return None


class AutoBackend(Backend):
    """A backend that detects the API with its first call: v3 from etcd 3.4 on, v2 before.

    Args:
        probe: Reads the version of a server; called by one greenlet at a time.
        open_api: Returns the backend of an API, ``'v2'`` or ``'v3'``.
        log: The log of the client.
        on_detected: Called once with the backend of the detected API; it must not block or raise.
    """

    def __init__(
        self,
        probe: VersionProbe,
        open_api: Callable[[str], Backend],
        *,
        log: ClientLog | None = None,
        on_detected: Callable[[Backend], object] = lambda backend: None,
    ) -> None:
        self._log = log if log is not None else ClientLog()
        self._on_detected = on_detected
        self._probe = probe
        self._open_api = open_api
        self._backend: Backend | None = None
        self._lock = BoundedSemaphore(1)
        self._is_closed = False
        self._closed = Event()  # ends the delays of `ready`

    @property
    def api(self) -> str | None:
        """The API that was detected; None before."""
        return None if self._backend is None else self._backend.api

    def detect_api(self, deadline: Deadline) -> Backend:
        if self._backend is not None:
            return self._backend
        self._check_open()
        if not self._lock.acquire(timeout=deadline.timeout_left()):
            raise TimedOut(f'no server has responded with its version within {deadline.timeout:g} s')
        try:
            if self._backend is None:
                self._check_open()
                version = self._probe.read(deadline)
                self._check_open()
                self._backend = self._open_api('v3' if version >= MIN_V3_VERSION else 'v2')
                text = f'etcd {".".join(map(str, version))}: using API {self._backend.api}'
                self._log.note(logging.INFO, text)
                self._on_detected(self._backend)
            return self._backend
        finally:
            self._lock.release()

    def execute(self, operation: Operation, deadline: Deadline) -> EtcdResult:
        return self.detect_api(deadline).execute(operation, deadline)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Watch as the contract says, but detect the API first: call :meth:`detect_api` before, with a deadline."""
        return self.detect_api(Deadline(DETECTION_TIMEOUT)).watch(spec, listener, after)

    def keep_group(self, ttl: int) -> KeepGroup:
        """Return the keep group, but detect the API first: call :meth:`detect_api` before, with a deadline."""
        return self.detect_api(Deadline(DETECTION_TIMEOUT)).keep_group(ttl)

    def ready(self, deadline: Deadline) -> None:
        retry_until_served(lambda: self.detect_api(deadline), deadline, self._closed).ready(deadline)

    def clear(self) -> None:
        if self._backend is not None:
            self._backend.clear()

    def close(self) -> None:
        self._is_closed = True
        self._closed.set()
        self._probe.close()
        if self._backend is not None:
            self._backend.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClientClosed('the client is closed')
