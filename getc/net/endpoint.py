"""Endpoints: the addresses of etcd servers, and their parsing from URLs."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

__all__ = ['DEFAULT_PORT', 'Endpoint', 'parse_endpoints']

DEFAULT_PORT: Final = 2379
UNIX_SCHEMES: Final = ('unix', 'unixs')
SCHEMES: Final = ('http', 'https', *UNIX_SCHEMES)

NEXT_URL: Final = re.compile(r',(?=\s*(?:https?|unixs?|memory|etcd\+srv)://)', re.IGNORECASE)
"""A comma before another URL, in contrast to one in a password."""

MAX_SOCKET_PATH: Final = 107
"""Maximum bytes of the path of a unix socket (``sun_path`` of Linux, without its NUL)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of one server, with the credentials of its URL.

    Attributes:
        scheme: ``'http'`` or ``'https'``; for a unix socket ``'unix'``, or ``'unixs'`` with TLS, as etcd names them.
        host: A name or an address, in ASCII; an IPv6 address without brackets; for a unix socket its absolute path.
        port: The TCP port; 0 for a unix socket.
        username: From the URL, or None.
        password: From the URL, or None; never part of the ``repr``.
    """

    scheme: str
    host: str
    port: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """``scheme://host:port``, or ``unix:///path``, without credentials."""
        if self.is_unix:
            return f'{self.scheme}://{quote(self.host, safe="/:")}'
        return f'{self.scheme}://{self.authority}'

    @property
    def authority(self) -> str:
        """``host:port`` for the ``:authority`` of HTTP/2; ``localhost`` for a unix socket, as in gRPC."""
        if self.is_unix:
            return 'localhost'
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'

    @property
    def authorization(self) -> str | None:
        """The value of the ``Authorization`` header for HTTP Basic; None without credentials."""
        if self.username is None:
            return None
        credentials = f'{self.username}:{self.password or ""}'.encode()
        return 'Basic ' + base64.b64encode(credentials).decode('ascii')

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that are sent to the server and have to be redacted from what it returns."""
        if self.password is None:
            return ()
        return self.password, (self.authorization or '').removeprefix('Basic ')

    @property
    def is_secure(self) -> bool:
        """True if connections to the endpoint use TLS."""
        return self.scheme in ('https', 'unixs')

    @property
    def is_unix(self) -> bool:
        """True for a unix socket."""
        return self.scheme in UNIX_SCHEMES

    def __str__(self) -> str:
        return self.url


def parse_endpoints(
    url: str | Sequence[str], *, username: str | None = None, password: str | None = None
) -> tuple[Endpoint, ...]:
    """Return the endpoints of a URL, of several URLs separated by commas, or of a list of them, without duplicates.

    Args:
        url: One or more URLs.
        username: User of the endpoints whose URL has no credentials, or None.
        password: Password of that user, or None.

    Raises:
        TypeError: ``url`` is not a str or a list of str.
        ValueError: A URL has no known scheme, no host, an invalid port, a path, query or fragment, or a comma in its
            credentials; or there is no URL.  The message does not contain credentials.
    """
    given: object = url
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable):
        raise TypeError(f'url must be a str or a list of str, not {type(url).__name__}')
    endpoints: dict[Endpoint, None] = {}
    for text in [url] if isinstance(url, str) else url:
        if not isinstance(text, str):
            raise TypeError(f'a URL must be a str, not {type(text).__name__}')
        endpoints.update(dict.fromkeys(_parse_all(text)))
    if not endpoints:
        raise ValueError('no URL is given')
    if username is None:
        return tuple(endpoints)
    return tuple(
        replace(endpoint, username=username, password=password) if endpoint.username is None else endpoint
        for endpoint in endpoints
    )


def _parse_all(text: str) -> Iterator[Endpoint]:
    """Yield the endpoints of one or more URLs, separated by commas."""
    has_credentials = '@' in text
    for url in NEXT_URL.split(text):
        if ',' in url.rpartition('@')[0]:
            # Splitting at this comma would show one half of a password in the error for the other half.
            raise ValueError(
                f'{_redacted(url)} has a comma before the @: write %2C instead, and start each URL with http:// or https://'
            )
        for part in url.split(','):
            if part.strip():
                yield _parse(part.strip(), has_credentials)


def _parse(text: str, has_credentials: bool) -> Endpoint:
    shown = _redacted(text, has_credentials)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f'invalid host or port in {shown}') from None
    if parts.scheme in UNIX_SCHEMES:
        return Endpoint(parts.scheme, _socket_path(parts, shown), 0, *_credentials(parts))
    if '://' not in text:
        if text.startswith('/'):
            proposed = _redacted('unix://' + text, has_credentials)
            raise ValueError(f'{shown} has no scheme: write {proposed} for a unix socket')
        proposed = _redacted('http://' + text.lstrip('/'), has_credentials)
        raise ValueError(f'{shown} has no scheme: write {proposed}, or https:// for TLS')
    if parts.scheme not in SCHEMES:
        if parts.scheme == 'memory':
            raise ValueError('memory:// must be the only URL, given as a str')
        if parts.scheme == 'etcd+srv':
            raise ValueError('etcd+srv:// must be the only URL, given as a str')
        raise ValueError(f'{shown} has an unknown scheme: write http://, https://, unix://, etcd+srv:// or memory://')
    if not parts.hostname or any(char.isspace() or not char.isprintable() for char in parts.hostname):
        raise ValueError(f'{shown} has no host')
    host = _ascii(parts.hostname)
    if host is None:
        raise ValueError(f'invalid host in {shown}')
    if parts.path not in ('', '/') or parts.query or parts.fragment:
        raise ValueError(f'{shown} has more than a host and a port: write http://host:port')
    return Endpoint(parts.scheme, host, DEFAULT_PORT if port is None else port, *_credentials(parts))


def _socket_path(parts: SplitResult, shown: str) -> str:
    path = unquote(parts.path)
    if parts.netloc.rpartition('@')[2] or not path.startswith('/') or parts.query or parts.fragment:
        raise ValueError(f'{shown} is not a unix socket: write {parts.scheme}:///path, with three slashes')
    if '\0' in path or path.endswith('/') or len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise ValueError(
            f'{shown} is not a unix socket: its path is longer than {MAX_SOCKET_PATH} bytes, or a directory'
        )
    return path


def _ascii(host: str) -> str | None:
    """Return the host in ASCII, with IDNA for names; None if that is impossible."""
    try:
        return (host.encode('ascii') if ':' in host else host.encode('idna')).decode('ascii')
    except UnicodeError:  # an empty label, a label that is too long, or characters that IDNA forbids
        return None


def _credentials(parts: SplitResult) -> tuple[str | None, str | None]:
    username = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return username, password


def _redacted(text: str, has_credentials: bool = False) -> str:
    """Return the URL, quoted for a message, without anything that may be a password.

    Args:
        text: The URL.
        has_credentials: The text that contains the URL has credentials, which may begin in this URL.
    """
    scheme, separator, _ = text.partition('://')
    if '@' not in text:
        return repr(f'{scheme}{separator}...' if has_credentials and separator else text)
    return repr(f'{scheme}{separator}...@{text.rpartition("@")[2]}' if separator else f'...@{text.rpartition("@")[2]}')
