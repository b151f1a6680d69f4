"""Which backend a URL means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from getc.backends.autodetect import AutoBackend, VersionProbe
from getc.backends.base import Backend
from getc.backends.memory.registry import StoreFactory, store_named
from getc.backends.namespace import Namespaced
from getc.backends.tree.backend import TreeV3
from getc.backends.v2.backend import KeysV2
from getc.backends.v2.version import VersionPage
from getc.net.client_log import ClientLog
from getc.net.endpoint import parse_endpoints
from getc.net.selector import ConnectionState, EndpointSelector
from getc.net.tls import TLS
from getc.paths import ROOT, normalize
from getc.timing import Deadline
from getc.v3 import V3
from getc.v3.rpc import RpcClient

__all__ = ['OpenBackend', 'open_backend']

MEMORY: Final = 'memory://'


@dataclass(frozen=True, slots=True)
class OpenBackend:
    """What a URL means.

    Attributes:
        backend: The tree.
        urls: The endpoints, without credentials.
        in_use: Returns the endpoint that is asked first; None where that is not known yet.
        namespace: The path that every key is below; the root for none.
        v3: etcd v3 as it is; None for a store in memory.
        log: The log of the client.
        reopen: Makes the same once more, for a forked child: nothing but the files that were read is shared.
    """

    backend: Backend
    urls: tuple[str, ...]
    in_use: Callable[[], str | None]
    namespace: str
    v3: V3 | None
    log: ClientLog
    reopen: Callable[[], OpenBackend]


def open_backend(
    url: str | Sequence[str],
    *,
    api: str | None = None,
    timeout: float | None = None,
    username: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool = True,
    namespace: str | None = None,
    strict: bool = True,
    on_state: Callable[[ConnectionState], object] | None = None,
    label: str = 'etcd client',
) -> OpenBackend:
    """Make what :func:`getc.etcd` was asked for.  Reads the files of TLS, and does no other I/O.

    Raises:
        TypeError, ValueError: An option makes no sense.
        NotSupported: There is no backend for that API.
    """
    if api not in (None, 'v2', 'v3'):
        raise ValueError(f"api is 'v2', 'v3' or None, not {api!r}")
    if (username is None) != (password is None):
        raise ValueError('give both username and password, or neither')
    Deadline.after(timeout)  # refuses what is no timeout
    root = ROOT if namespace is None else normalize(namespace)
    if isinstance(url, str) and url.startswith(MEMORY):
        if api is not None:
            raise ValueError(f'a store in memory speaks no API: leave api={api!r} out')
        if any((username, ca, cert, key)):
            raise ValueError('a store in memory has no users and no certificates')
        return _open_memory(store_named(url[len(MEMORY) :]), url, root, label)
    tls = TLS(ca=ca, cert=cert, key=key, verify=verify)
    endpoints = parse_endpoints(url, username=username, password=password)
    is_secure = any(endpoint.is_secure for endpoint in endpoints)
    if not is_secure and any((ca, cert, key)):
        names = ', '.join(f'{name}=' for name, path in (('ca', ca), ('cert', cert), ('key', key)) if path)
        raise ValueError(
            f'{names} is for https://, and {endpoints[0].url} is not encrypted: change the URL, or leave it out'
        )
    plain, http2 = (tls.contexts(), tls.contexts('h2')) if is_secure else (None, None)

    def open_all() -> OpenBackend:
        log = ClientLog(label)
        servers = EndpointSelector(endpoints, on_state=on_state, log=log)
        rpc = RpcClient(servers, http2, timeout=timeout)
        v3 = V3(rpc)

        def open_api(choice: str) -> Backend:
            if choice == 'v3':
                return TreeV3(v3, rpc, is_strict=strict)
            return KeysV2(servers, plain)

        def in_use() -> str | None:
            return None if backend.api is None else servers.current.url

        if api is None:
            backend: Backend = AutoBackend(VersionProbe(servers, VersionPage(plain), rpc), open_api, log=log)
        else:
            backend = open_api(api)
        urls = tuple(endpoint.url for endpoint in endpoints)
        return OpenBackend(_inside(backend, root), urls, in_use, root, v3, log, open_all)

    return open_all()


def _open_memory(store: StoreFactory, url: str, root: str, label: str) -> OpenBackend:
    backend = _inside(store.backend(), root)
    return OpenBackend(
        backend, (url,), lambda: url, root, None, ClientLog(label), lambda: _open_memory(store, url, root, label)
    )


def _inside(backend: Backend, root: str) -> Backend:
    return backend if root == ROOT else Namespaced(backend, root)
