"""What :func:`getc.etcd` takes: the options of a client with their defaults, validated once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Final, Literal

from getc.net.endpoint import Endpoint, parse_endpoints
from getc.paths import ROOT, normalize
from getc.timing import Deadline

__all__ = ['CALL_TIMEOUT', 'DEFAULT_URL', 'STOP_TIMEOUT', 'Api', 'Options']

DEFAULT_URL: Final = 'http://127.0.0.1:2379'
"""The URL of etcd's own default configuration."""

CALL_TIMEOUT: Final = 10.0
"""Seconds that a call may take, unless the client or the call has its own timeout."""

STOP_TIMEOUT: Final = 5.0
"""Seconds that stopping a daemon or closing a client may take, unless the call has its own timeout."""

MEMORY: Final = 'memory://'

Api = Literal['v2', 'v3']
"""The APIs of etcd."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a client.  Their meaning is documented at :func:`getc.etcd`.

    Creating them performs no I/O; the files of ``ca``, ``cert`` and ``key`` are not read here.  The ``repr`` shows no
    credentials.

    Attributes:
        endpoints: The servers of ``url``, with credentials; empty for a store in memory.
        namespace: The namespace in normal form; None for none, and for the root.
        urls: The endpoints without credentials; for a store in memory its URL.

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

    endpoints: tuple[Endpoint, ...] = field(init=False, repr=False)
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
        if isinstance(self.url, str) and self.url.startswith(MEMORY):
            self._check_memory()
            endpoints: tuple[Endpoint, ...] = ()
            urls: tuple[str, ...] = (self.url,)
        else:
            endpoints = parse_endpoints(self.url, username=self.username, password=self.password)
            self._check_files(endpoints)
            urls = tuple(endpoint.url for endpoint in endpoints)
        object.__setattr__(self, 'endpoints', endpoints)
        object.__setattr__(self, 'urls', urls)

    @property
    def is_secure(self) -> bool:
        """True if an endpoint uses TLS."""
        return any(endpoint.is_secure for endpoint in self.endpoints)

    @property
    def store_name(self) -> str | None:
        """The name of the store in memory, ``''`` for a private one; None if the URL is one of a server."""
        return None if self.endpoints else self.urls[0][len(MEMORY) :]

    def _check_memory(self) -> None:
        if self.api is not None:
            raise ValueError('api= cannot be used with memory://')
        if any((self.username, self.ca, self.cert, self.key)):
            raise ValueError('memory:// takes no username, password, ca, cert or key')

    def _check_files(self, endpoints: tuple[Endpoint, ...]) -> None:
        names = [f'{name}=' for name, path in (('ca', self.ca), ('cert', self.cert), ('key', self.key)) if path]
        if names and not any(endpoint.is_secure for endpoint in endpoints):
            verb = 'needs' if len(names) == 1 else 'need'
            raise ValueError(f'{", ".join(names)} {verb} an https:// URL, not {endpoints[0].url}')
