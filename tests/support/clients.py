"""Clients on backends that a test has made."""

from __future__ import annotations

from collections.abc import Callable

from getc.backends.base import Backend
from getc.backends.connect import OpenBackend
from getc.client import Client
from getc.net.client_log import ClientLog
from getc.net.selector import ConnectionState
from getc.options import CALL_TIMEOUT, Options
from getc.v3 import V3

__all__ = ['client_on']


def client_on(
    backend: Backend, *, url: str = 'memory://', v3: V3 | None = None, timeout: float | None = CALL_TIMEOUT
) -> Client:
    """Return a client that uses this backend, whatever its URL is.  Its log names it ``etcd client``."""

    def open_backend(
        options: Options,
        *,
        label: str,
        on_state: Callable[[ConnectionState], object],
        on_detected: Callable[[Backend], object],
    ) -> OpenBackend:
        def open_again() -> OpenBackend:
            return OpenBackend(backend, v3, ClientLog(), lambda: (url,), lambda: url, open_again)

        return open_again()

    return Client(Options(url, timeout=timeout), open_backend)
