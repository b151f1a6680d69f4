"""Makes the backend that the options of a client ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from getc.backends.autodetect import AutoBackend, VersionProbe
from getc.backends.base import Backend
from getc.backends.memory.registry import StoreFactory, store_named
from getc.backends.namespace import Namespaced
from getc.backends.tree.backend import TreeV3
from getc.backends.v2.backend import KeysV2
from getc.backends.v2.version import VersionPage
from getc.net.client_log import ClientLog
from getc.net.selector import ConnectionState, EndpointSelector
from getc.net.tls import TLS
from getc.options import Options
from getc.v3 import V3
from getc.v3.rpc import RpcClient

__all__ = ['OpenBackend', 'open_backend']


@dataclass(frozen=True, slots=True)
class OpenBackend:
    """The backend of a client with what belongs to it.

    Attributes:
        backend: The backend.
        v3: The RPCs of etcd v3; None for a store in memory.
        log: The log of the client.
        url_in_use: Returns the endpoint that is called first, without credentials; None before the API is detected.
        reopen: Makes the same again for a forked child, which shares nothing with its parent but the contents of files.
    """

    backend: Backend
    v3: V3 | None
    log: ClientLog
    url_in_use: Callable[[], str | None]
    reopen: Callable[[], OpenBackend]

    def clear(self) -> None:
        """Close the connections that are not in use.  Does not block."""
        self.backend.clear()
        if self.v3 is not None:
            self.v3.clear()

    def close(self) -> None:
        """End all calls with ClientClosed, close all connections, and flush the log.  Does not block."""
        self.backend.close()
        if self.v3 is not None:
            self.v3.close()
        self.log.close()


def open_backend(
    options: Options,
    *,
    label: str,
    on_state: Callable[[ConnectionState], object],
    on_detected: Callable[[Backend], object],
) -> OpenBackend:
    """Make the backend that the options ask for.  Reads the files of TLS, and performs no other I/O.

    Args:
        options: The options of the client.
        label: Names the client in its log.
        on_state: Called with each new state of the connection; it must not block or raise.
        on_detected: Called with the backend of the detected API, which replaces the one that is returned here; it must
            not block or raise.  Not called if the options name the API.

    Raises:
        OSError: A file of ``ca``, ``cert`` or ``key`` cannot be used.
    """
    if options.store_name is not None:
        return _open_memory(store_named(options.store_name), options, label)
    tls = TLS(ca=options.ca, cert=options.cert, key=options.key, verify=options.verify)
    plain, http2 = (tls.contexts(), tls.contexts('h2')) if options.is_secure else (None, None)

    def open_all() -> OpenBackend:
        log = ClientLog(label)
        selector = EndpointSelector(options.endpoints, on_state=on_state, log=log)
        rpc = RpcClient(selector, http2, timeout=options.timeout)
        v3 = V3(rpc)

        def open_api(api: str) -> Backend:
            return TreeV3(v3, rpc, is_strict=options.strict) if api == 'v3' else KeysV2(selector, plain)

        def on_api_detected(detected: Backend) -> None:
            on_detected(_in_namespace(detected, options))

        def url_in_use() -> str | None:
            return None if backend.api is None else selector.current.url

        if options.api is None:
            probe = VersionProbe(selector, rpc, VersionPage(plain))
            backend: Backend = AutoBackend(probe, open_api, log=log, on_detected=on_api_detected)
        else:
            backend = open_api(options.api)
        return OpenBackend(_in_namespace(backend, options), v3, log, url_in_use, open_all)

    return open_all()


def _open_memory(store: StoreFactory, options: Options, label: str) -> OpenBackend:
    url = options.urls[0]
    backend = _in_namespace(store.backend(), options)
    return OpenBackend(backend, None, ClientLog(label), lambda: url, lambda: _open_memory(store, options, label))


def _in_namespace(backend: Backend, options: Options) -> Backend:
    return backend if options.namespace is None else Namespaced(backend, options.namespace)
