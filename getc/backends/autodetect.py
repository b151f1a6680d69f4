"""Detection of the API: a backend that reads the server's version at the first call, and uses v3 or v2 from then on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from gevent.event import Event
from gevent.lock import BoundedSemaphore

from getc.backends.base import Backend, KeepGroup, Watch, WatchListener
from getc.errors import (
    ClientClosed,
    ConnectionRefused,
    EtcException,
    HTTPError,
    NotSupported,
    ProtocolError,
    TimedOut,
    Unauthorized,
)
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.net.failover import call_with_failover, retry_until_served
from getc.net.selector import EndpointSelector
from getc.operations import WatchSpec
from getc.retry import Effect
from getc.timing import Deadline
from getc.transactions import AnyOperation
from getc.v3.rpc import RpcClient
from getc.v3.schema.maintenance import Maintenance, StatusRequest

__all__ = ['DETECTION_TIMEOUT', 'AutoBackend', 'VersionProbe', 'VersionReader']

MIN_V3_VERSION: Final = (3, 4)
"""Older servers ignore some comparisons of v3 without an error."""

MIN_VERSION_WITH_PROTECTED_STATUS: Final = (3, 5)
"""Older servers return their status without authentication."""

DETECTION_TIMEOUT: Final = 10.0
"""Seconds for a detection that starts without a deadline."""

SETTINGS_TIMEOUT: Final = 5.0
"""Seconds after which a server that has accepted a connection and sent nothing counts as one without HTTP/2."""


class VersionReader(Protocol):
    """Reads the version of a server over HTTP."""

    def read(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        """Return the version, such as ``(3, 5)``.  Blocks until the deadline at most."""

    def close(self) -> None:
        """Close all connections, and end a call in flight with ClientClosed.  Does not block."""


class VersionProbe:
    """Reads the version of the first server that responds: from its status over gRPC, or from its ``/version`` page.

    gRPC comes first: it is all that a gRPC proxy forwards, and all that a port serves whose etcd has
    ``--listen-client-http-urls`` elsewhere; the connection is used further by v3.  The page is read from servers
    without HTTP/2, such as etcd 2, and from proxies that do not pass the call on.

    Args:
        endpoints: The servers, shared with the backend, which prefers servers that have responded.
        rpc: Calls ``Maintenance.Status``.
        page: Reads the ``/version`` page.
    """

    def __init__(self, endpoints: EndpointSelector, rpc: RpcClient, page: VersionReader) -> None:
        self._endpoints = endpoints
        self._rpc = rpc
        self._page = page

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
        """End a read of the page in flight with ClientClosed.  Does not block."""
        self._page.close()

    def _read(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        try:
            return self._read_status(endpoint, deadline.fraction(0.5, at_most=SETTINGS_TIMEOUT))
        except TimedOut:
            if self._rpc.speaks_http2(endpoint) is False:
                return self._read_page(endpoint, deadline)
            return self._read_status(endpoint, deadline)  # a slow server or network
        except EtcException as error:
            if not self._may_have_page(endpoint, error):
                raise
            try:
                return self._read_page(endpoint, deadline)
            except EtcException as page_error:
                if self._rpc.speaks_http2(endpoint):
                    raise error from page_error
                raise

    def _read_page(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        self._rpc.clear()  # a server that is silent on a connection leaves it open
        return self._page.read(endpoint, deadline)

    def _read_status(self, endpoint: Endpoint, deadline: Deadline) -> tuple[int, ...]:
        try:
            version = self._rpc.call_endpoint(endpoint, Maintenance.Status, StatusRequest(), deadline).version
        except Unauthorized:  # no token, a wrong one, or a user without the role: only etcd v3 refuses in this way
            return MIN_VERSION_WITH_PROTECTED_STATUS
        try:
            return tuple(int(part) for part in version.split('.')[:2])
        except ValueError:
            text = f'{endpoint.url} has no version in its status, but {version[:100]!r}: select the API by api='
            raise ProtocolError(text, endpoint=endpoint.url) from None

    def _may_have_page(self, endpoint: Endpoint, error: EtcException) -> bool:
        """Return True if the server, or a proxy, has not responded to the call as a gRPC server that supports it."""
        if isinstance(error, (ClientClosed, ConnectionRefused)):
            return False
        return isinstance(error, (HTTPError, NotSupported)) or self._rpc.speaks_http2(endpoint) is False


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

    def execute(self, operation: AnyOperation, deadline: Deadline) -> Any:
        backend: Any = self.detect_api(deadline)
        return backend.execute(operation, deadline)

    def watch(self, spec: WatchSpec, listener: WatchListener, after: Watch | None = None) -> Watch:
        """Watch as the contract says, but detect the API first: call :meth:`detect_api` before, with a deadline."""
        return self.detect_api(Deadline(DETECTION_TIMEOUT)).watch(spec, listener, after)

    def read_index(self, spec: WatchSpec, deadline: Deadline) -> int:
        return self.detect_api(deadline).read_index(spec, deadline)

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
