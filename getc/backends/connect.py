"""Makes the backend that the options of a client ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from getc.backends.autodetect import AutoBackend, VersionProbe
from getc.backends.base import Backend
from getc.backends.member_sync import ConfiguredEndpoints, MemberSource, MemberSync
from getc.backends.memory.registry import StoreFactory, store_named
from getc.backends.namespace import Namespaced
from getc.backends.tree.backend import TreeV3
from getc.backends.tree.members import V3Members
from getc.backends.v2.backend import KeysV2
from getc.backends.v2.version import VersionPage
from getc.net.client_log import ClientLog
from getc.net.endpoint import Endpoint
from getc.net.selector import ConnectionState, EndpointSelector
from getc.net.srv import SrvName, dns_query, load_dns, look_up
from getc.net.srv_finder import SrvFinder
from getc.net.tls import TLS
from getc.options import Options
from getc.timing import Deadline
from getc.v3 import V3
from getc.v3.rpc import RpcClient

__all__ = ['OpenBackend', 'open_backend']

MIN_VERSION_WITH_LEARNERS: Final = (3, 4)
"""From this version on the members are read over v3: v2 lists learners like voters, and they answer v2 requests."""


@dataclass(frozen=True, slots=True)
class OpenBackend:
    """The backend of a client with what belongs to it.

    Attributes:
        backend: The backend.
        v3: The RPCs of etcd v3; None for a store in memory.
        log: The log of the client.
        urls: Returns the current endpoints, without credentials.
        url_in_use: Returns the endpoint that is called first, without credentials; None before the API is detected.
        reopen: Makes the same again for a forked child, which shares nothing with its parent but the contents of files.
        sync: Keeps the endpoints equal to the members; None without ``sync=``.
        finder: Finds the endpoints by DNS; None without ``etcd+srv://``.
    """

    backend: Backend
    v3: V3 | None
    log: ClientLog
    urls: Callable[[], tuple[str, ...]]
    url_in_use: Callable[[], str | None]
    reopen: Callable[[], OpenBackend]
    sync: MemberSync | None = field(default=None, kw_only=True)
    finder: SrvFinder | None = field(default=None, kw_only=True)

    def start(self) -> None:
        """Start the work in the background, in this thread.  Does not block; can be called twice."""
        if self.sync is not None:
            self.sync.start()

    def clear(self) -> None:
        """Close the connections that are not in use.  Does not block."""
        self.backend.clear()
        if self.v3 is not None:
            self.v3.clear()

    def close(self) -> None:
        """End all calls with ClientClosed, close all connections, and flush the log.  Does not block."""
        for part in (self.sync, self.finder):
            if part is not None:
                part.close()
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
        ImportError: The URL is ``etcd+srv://``, and dnspython is not installed.
    """
    if options.store_name is not None:
        return _open_memory(store_named(options.store_name), options, label)
    if options.srv is not None:
        load_dns()
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

        def urls() -> tuple[str, ...]:
            return tuple(endpoint.url for endpoint in selector)

        def url_in_use() -> str | None:
            return None if backend.api is None or selector.current is None else selector.current.url

        def open_source(deadline: Deadline) -> MemberSource:
            detected = backend.detect_api(deadline)
            if isinstance(detected, KeysV2) and detected.version(deadline) < MIN_VERSION_WITH_LEARNERS:
                return detected.members()
            return V3Members(rpc)

        if options.api is None:
            probe = VersionProbe(selector, rpc, VersionPage(plain))
            backend: Backend = AutoBackend(probe, open_api, log=log, on_detected=on_api_detected)
        else:
            backend = open_api(options.api)
        finder = sync = None
        if options.srv is not None:
            selector.finder = finder = _srv_finder(options.srv, selector, options, log)
        if options.sync is not None:
            sync = MemberSync(selector, open_source, interval=options.sync, log=log)
            selector.finder = finder or ConfiguredEndpoints(selector, options.endpoints)
        opened = _in_namespace(backend, options)
        return OpenBackend(opened, v3, log, urls, url_in_use, open_all, sync=sync, finder=finder)

    return open_all()


def _srv_finder(name: SrvName, selector: EndpointSelector, options: Options, log: ClientLog) -> SrvFinder:
    is_tls_required = any((options.ca, options.cert, options.key))
    accepts_any_host = options.ca is not None or not options.verify

    def find() -> list[Endpoint]:
        return look_up(name, query=dns_query, is_tls_required=is_tls_required, accepts_any_host=accepts_any_host)

    return SrvFinder(name.url, selector, find, log=log)


def _open_memory(store: StoreFactory, options: Options, label: str) -> OpenBackend:
    url = options.urls[0]
    backend = _in_namespace(store.backend(), options)

    def reopen() -> OpenBackend:
        return _open_memory(store, options, label)

    return OpenBackend(backend, None, ClientLog(label), lambda: (url,), lambda: url, reopen)


def _in_namespace(backend: Backend, options: Options) -> Backend:
    return backend if options.namespace is None else Namespaced(backend, options.namespace)
