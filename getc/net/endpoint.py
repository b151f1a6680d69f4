"""Endpoints: the addresses of etcd servers, and their parsing from URLs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ['DEFAULT_PORT', 'Endpoint', 'parse_endpoints']

DEFAULT_PORT: Final = 2379
SCHEMES: Final = ('http', 'https')


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of one server, with the credentials of its URL.

    Attributes:
        scheme: ``'http'`` or ``'https'``.
        host: A name or an address, in ASCII; an IPv6 address without brackets.
        port: The TCP port.
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
        """``scheme://host:port``, without credentials."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{self.scheme}://{host}:{self.port}'

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
        return self.scheme == 'https'

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
        TypeError: ``url`` is not text or a list of texts.
        ValueError: A URL has no known scheme, no host, an invalid port, or a path, query or fragment; or there is no
            URL.  The message does not contain credentials.
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
        raise ValueError(f'invalid host or port in {_redacted(text)}') from None
    if '://' not in text:
        raise ValueError(
            f'{_redacted(text)} has no scheme: write {_redacted("http://" + text.lstrip("/"))}, or https:// for TLS'
        )
    if parts.scheme not in SCHEMES:
        raise ValueError(f'{_redacted(text)} has an unknown scheme: write http://, https:// or memory://')
    if not parts.hostname or any(char.isspace() or not char.isprintable() for char in parts.hostname):
        raise ValueError(f'{_redacted(text)} has no host')
    host = _ascii(parts.hostname)
    if host is None:
        raise ValueError(f'invalid host in {_redacted(text)}')
    if parts.path not in ('', '/') or parts.query or parts.fragment:
        raise ValueError(f'{_redacted(text)} has more than a host and a port: write http://host:port')
    return Endpoint(parts.scheme, host, DEFAULT_PORT if port is None else port, *_credentials(parts))


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


def _redacted(text: str) -> str:
    """Return the URL, quoted for a message, without anything that may be a password."""
    if '@' not in text:
        return repr(text)
    scheme, separator, _ = text.partition('://')
    return repr(f'{scheme}{separator}...@{text.rpartition("@")[2]}' if separator else f'...@{text.rpartition("@")[2]}')
