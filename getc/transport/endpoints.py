"""Which servers there are, and which of them is asked next."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ['DEFAULT_PORT', 'Endpoint', 'Endpoints', 'parse_endpoints']

DEFAULT_PORT: Final = 2379
SCHEMES: Final = ('http', 'https')


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server.

    Attributes:
        scheme: ``'http'`` or ``'https'``.
        host: A name or an address; an IPv6 address without brackets.
        port: The TCP port.
        username: From the URL, or None.
        password: From the URL, or None; never shown.
    """

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """``scheme://host:port``, without credentials."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{self.scheme}://{host}:{self.port}'

    @property
    def authorization(self) -> str | None:
        """The value of the HTTP header, or None without credentials."""
        if self.username is None:
            return None
        credentials = f'{self.username}:{self.password or ""}'.encode()
        return 'Basic ' + base64.b64encode(credentials).decode('ascii')

    @property
    def is_secure(self) -> bool:
        """True if it speaks TLS."""
        return self.scheme == 'https'

    def __str__(self) -> str:
        return self.url


def parse_endpoints(
    url: str | Sequence[str], *, username: str | None = None, password: str | None = None
) -> tuple[Endpoint, ...]:
    """The servers of one URL, of several separated by commas, or of a list of them.

    Args:
        url: What names them.
        username: For those whose URL has no credentials, or None.
        password: That user's, or None.

    Raises:
        TypeError: It is no text and no list of texts.
        ValueError: A URL has no known scheme or no host, a bad port, or a path, a query or a fragment;
            or there is none.  The message never shows credentials.
    """
    urls: list[str] = []
    for text in [url] if isinstance(url, str) else url:
        if not isinstance(text, str):
            raise TypeError(f'a URL is text (str), not {type(text).__name__}')
        urls.extend(part.strip() for part in text.split(',') if part.strip())
    if not urls:
        raise ValueError('no URL is given')
    endpoints = tuple(dict.fromkeys(_parse(text) for text in urls))
    if username is None:
        return endpoints
    return tuple(
        replace(endpoint, username=username, password=password) if endpoint.username is None else endpoint
        for endpoint in endpoints
    )


def _parse(text: str) -> Endpoint:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f'the port or the host of {_shown(text)} is no such') from None
    if '://' not in text or parts.scheme not in SCHEMES:
        raise ValueError(f'{_shown(text)} begins with none of the known schemes: http://, https://')
    if not parts.hostname or any(char.isspace() or not char.isprintable() for char in parts.hostname):
        raise ValueError(f'{_shown(text)} has no host')
    if parts.path not in ('', '/') or parts.query or parts.fragment:
        raise ValueError(f'{_shown(text)} has more than a host and a port: getc knows the paths of etcd by itself')
    return Endpoint(parts.scheme, parts.hostname, DEFAULT_PORT if port is None else port, *_credentials(parts))


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return username, password


def _shown(text: str) -> str:
    """The URL for a message: whatever may be a password is cut out."""
    if '@' not in text:
        return repr(text)
    scheme, separator, _ = text.partition('://')
    return repr(f'{scheme}{separator}...@{text.rpartition("@")[2]}' if separator else f'...@{text.rpartition("@")[2]}')


class Endpoints:
    """The servers of one client.  One is asked until it fails; then the next one is.

    Args:
        endpoints: At least one.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        if not endpoints:
            raise ValueError('no endpoint is given')
        self._endpoints = tuple(endpoints)
        self._current = 0

    @property
    def first(self) -> Endpoint:
        """The first one given."""
        return self._endpoints[0]

    @property
    def current(self) -> Endpoint:
        """The one that is asked first."""
        return self._endpoints[self._current]

    def in_turn(self) -> Iterator[Endpoint]:
        """Each of them once, for one call: the current one first."""
        begin = self._current
        for step in range(len(self._endpoints)):
            yield self._endpoints[(begin + step) % len(self._endpoints)]

    def failed(self, endpoint: Endpoint) -> None:
        """It did not answer: if it is the current one, the next one is from now on."""
        if self._endpoints[self._current] == endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)
