"""What :func:`getc.etcd` takes: the options of a client with their defaults, validated once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Final, Literal

from getc.net.endpoint import Endpoint, parse_endpoints
from getc.net.srv import SRV_SCHEME, SrvName, parse_srv_url
from getc.paths import ROOT, normalize
from getc.timing import Deadline

__all__ = ['CALL_TIMEOUT', 'DEFAULT_URL', 'STOP_TIMEOUT', 'Api', 'Options']

DEFAULT_URL: Final = 'http://127.0.0.1:2379'
"""The URL of etcd's own default configuration."""

CALL_TIMEOUT: Final = 10.0
"""Seconds that a call may take, unless the client or the call has its own timeout."""

STOP_TIMEOUT: Final = 5.0
"""Seconds that stopping a daemon or closing a client may take, unless the call has its own timeout."""

MIN_SYNC_INTERVAL: Final = 1.0
"""Seconds between two syncs of the endpoints at least."""

MEMORY: Final = 'memory://'

Api = Literal['v2', 'v3']
"""The APIs of etcd."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a client.  Their meaning is documented at :func:`getc.etcd`.

    Creating them performs no I/O; the files of ``ca``, ``cert`` and ``key`` are not read here.  The ``repr`` shows no
    credentials.

    Attributes:
        api: The API; ``'v3'`` if an endpoint is a unix socket.
        endpoints: The servers of ``url``, with credentials; empty for a store in memory, and for ``etcd+srv://``.
        srv: The domain of an ``etcd+srv://`` URL, with credentials; else None.
        namespace: The namespace in normal form; None for none, and for the root.
        urls: The endpoints without credentials; for a store in memory and ``etcd+srv://`` the URL.

    Raises:
        TypeError, ValueError: An option is invalid, or two options exclude each other.
    """

    url: str | Sequence[str] = field(default=DEFAULT_URL, repr=False)
    api: Api | None = None
    timeout: float | None = CALL_TIMEOUT
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True
    namespace: str | None = None
    strict: bool = True
    sync: float | None = None

    endpoints: tuple[Endpoint, ...] = field(init=False, repr=False)
    srv: SrvName | None = field(init=False, repr=False, default=None)
    urls: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if self.api not in (None, 'v2', 'v3'):
            raise ValueError(f"api must be 'v2', 'v3' or None, not {self.api!r}")
        for name in ('username', 'password'):
            text = getattr(self, name)
            if text is not None and not isinstance(text, str):
                raise TypeError(f'{name} must be a str, not {type(text).__name__}')
        for name in ('ca', 'cert', 'key'):
            path = getattr(self, name)
            if path is not None and not isinstance(path, (str, PathLike)):
                raise TypeError(f'{name} must be the path of a file (str), not {type(path).__name__}')
        if (self.username is None) != (self.password is None):
            raise ValueError('give both username and password, or neither')
        Deadline.after(self.timeout)
        if self.namespace is not None:
            namespace = normalize(self.namespace)
            object.__setattr__(self, 'namespace', None if namespace == ROOT else namespace)
        self._check_sync()
        endpoints: tuple[Endpoint, ...] = ()
        if isinstance(self.url, str) and self.url.startswith(MEMORY):
            self._check_memory()
            urls: tuple[str, ...] = (self.url,)
        elif isinstance(self.url, str) and self.url.lower().startswith(SRV_SCHEME):
            srv = parse_srv_url(self.url, username=self.username, password=self.password)
            object.__setattr__(self, 'srv', srv)
            urls = (srv.url,)
        else:
            endpoints = parse_endpoints(self.url, username=self.username, password=self.password)
            self._check_files(endpoints)
            self._check_sockets(endpoints)
            urls = tuple(endpoint.url for endpoint in endpoints)
        object.__setattr__(self, 'endpoints', endpoints)
        object.__setattr__(self, 'urls', urls)

    @property
    def is_secure(self) -> bool:
        """True if an endpoint uses TLS, or may use it after it was found."""
        return self.srv is not None or any(endpoint.is_secure for endpoint in self.endpoints)

    @property
    def store_name(self) -> str | None:
        """The name of the store in memory, ``''`` for a private one; None if the URL is one of a server."""
        return self.urls[0][len(MEMORY) :] if self.urls[0].startswith(MEMORY) else None

    def _check_memory(self) -> None:
        if self.api is not None:
            raise ValueError('api= cannot be used with memory://')
        if any((self.username, self.ca, self.cert, self.key)):
            raise ValueError('memory:// takes no username, password, ca, cert or key')
        if self.sync is not None:
            raise ValueError('sync= cannot be used with memory://')

    def _check_sync(self) -> None:
        if self.sync is None:
            return
        if not isinstance(self.sync, (float, int)) or isinstance(self.sync, bool):
            raise TypeError(f'sync must be a number of seconds or None, not {type(self.sync).__name__}')
        if not MIN_SYNC_INTERVAL <= self.sync < math.inf:
            raise ValueError(f'sync must be at least {MIN_SYNC_INTERVAL:g} s, and finite, not {self.sync}')

    def _check_files(self, endpoints: tuple[Endpoint, ...]) -> None:
        names = [f'{name}=' for name, path in (('ca', self.ca), ('cert', self.cert), ('key', self.key)) if path]
        if names and not any(endpoint.is_secure for endpoint in endpoints):
            verb = 'needs' if len(names) == 1 else 'need'
            raise ValueError(f'{", ".join(names)} {verb} an https:// URL, not {endpoints[0].url}')

    def _check_sockets(self, endpoints: tuple[Endpoint, ...]) -> None:
        sockets = [endpoint.url for endpoint in endpoints if endpoint.is_unix]
        if sockets and self.api == 'v2':
            raise ValueError(f"{sockets[0]} is a unix socket, which API v2 cannot use: leave out api='v2'")
        if sockets:  # the API needs no detection, which could need HTTP/1
            object.__setattr__(self, 'api', 'v3')
