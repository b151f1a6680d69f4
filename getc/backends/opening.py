"""Which backend a URL means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from getc.backends.base import Backend
from getc.backends.keys_v2 import KeysV2
from getc.backends.memory import MemoryBackend, store_named
from getc.backends.namespaced import Namespaced
from getc.errors import NotSupported
from getc.keys import ROOT, normal
from getc.transport.sockets import TLS

__all__ = ['open_backend']

MEMORY: Final = 'memory://'


def open_backend(
    url: str | Sequence[str],
    *,
    api: str | None = None,
    username: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool = True,
    namespace: str | None = None,
) -> tuple[Backend, str]:
    """Return a backend for what :func:`getc.etcd` was given, and its first URL without credentials.

    Raises:
        TypeError, ValueError: An option makes no sense.
        NotSupported: There is no backend for that API.
    """
    if api not in (None, 'v2', 'v3'):
        raise ValueError(f"api is 'v2', 'v3' or None, not {api!r}")
    if (username is None) != (password is None):
        raise ValueError('give both username and password, or neither')
    root = ROOT if namespace is None else normal(namespace)
    backend: Backend
    if isinstance(url, str) and url.startswith(MEMORY):
        if api is not None:
            raise ValueError(f'a store in memory speaks no API: leave api={api!r} out')
        if any((username, ca, cert, key)):
            raise ValueError('a store in memory has no users and no certificates')
        shown, backend = url, MemoryBackend(store_named(url[len(MEMORY) :]))
    elif api == 'v3':
        raise NotSupported("this version of getc speaks api='v2' only; etcd serves it up to 3.5, with --enable-v2")
    else:
        tls = TLS(ca=ca, cert=cert, key=key, verify=verify)
        v2 = KeysV2(url, username=username, password=password, tls=tls)
        shown, backend = v2.url, v2
    return (backend if root == ROOT else Namespaced(backend, root)), shown
