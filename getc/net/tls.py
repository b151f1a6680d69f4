"""Whom we trust over TLS, and who we are: from files that may be replaced while the program runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import NoReturn

import gevent.ssl

__all__ = ['TLS', 'Contexts', 'UnusableFile']

Path = str | PathLike[str]
Stamps = tuple[tuple[int, ...], ...]
"""What tells that a file is another one than before, for each file."""


class UnusableFile(OSError):
    """A file of a certificate, a key or an authority cannot be used.  The text says which, and why."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How ``https`` endpoints are trusted, and who we are to them.

    Attributes:
        ca: A PEM file of the authorities to trust; None for the system's.
        cert: A PEM file of our certificate, or None.
        key: A PEM file of its key, which is not encrypted; None if ``cert`` holds it.
        verify: False trusts any server: for experiments only.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = field(default=None, repr=False)
    verify: bool = True

    def contexts(self, protocol: str | None = None) -> Contexts:
        """The contexts of connections, each of the files as they are when it is made.  Reads the files.

        Args:
            protocol: What is to be spoken, by its name in ALPN (RFC 7301), or None.

        Raises:
            ValueError: A key without a certificate.
            UnusableFile: A file is missing, or holds no such thing.
        """
        if self.key is not None and self.cert is None:
            raise ValueError('a key needs its cert')
        return Contexts(self, protocol)

    @property
    def _files(self) -> list[Path]:
        ca = self.ca if self.verify else None  # which nobody reads otherwise
        return [path for path in (ca, self.cert, self.key) if path is not None]


class Contexts:
    """The TLS contexts of connections that are still to be made.

    The files are looked at for each connection, which costs microseconds, and read again when one of them has changed.
    Where they cannot be used, as when they are just being written, that connection fails, and the next one reads them
    again.  Connections that are there go on with what they began with.

    Args:
        tls: The files.
        protocol: What is to be spoken, by its name in ALPN, or None.

    Raises:
        UnusableFile: A file is missing, or holds no such thing.
    """

    def __init__(self, tls: TLS, protocol: str | None = None) -> None:
        self._tls = tls
        self._protocol = protocol
        self._stamps = _stamps_of(tls)
        self._context = _context_of(tls, protocol)

    def fresh(self) -> ssl.SSLContext:
        """The context for a new connection.

        Raises:
            UnusableFile: A file cannot be used now.
        """
        stamps = _stamps_of(self._tls)  # before they are read: what is written meanwhile is read the next time
        if stamps != self._stamps:
            self._context = _context_of(self._tls, self._protocol)
            self._stamps = stamps
        return self._context


def _stamps_of(tls: TLS) -> Stamps:
    stamps = []
    for path in tls._files:
        with _reading(path):
            status = os.stat(path)
        # The time of modification can be set, and is where files are copied with theirs; that of the change cannot.
        stamps.append((status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino, status.st_size))
    return tuple(stamps)


def _context_of(tls: TLS, protocol: str | None) -> ssl.SSLContext:
    # The standard library's context would make sockets that block the hub.
    context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        with _reading(tls.ca):
            context.load_verify_locations(tls.ca)
    else:
        context.load_default_certs()
    context.hostname_checks_common_name = False  # as in Go's clients: subjectAltName alone counts (RFC 6125, 6.4.4)
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    if tls.cert is not None:
        with _reading(tls.cert, *([] if tls.key is None else [tls.key])):
            context.load_cert_chain(tls.cert, tls.key, _no_passphrase)
    return context


def _no_passphrase() -> NoReturn:
    """Raise where OpenSSL would ask on the terminal, and wait."""
    raise ValueError('the key is encrypted: it is needed without a passphrase')


@contextmanager
def _reading(*paths: Path) -> Iterator[None]:
    """Say which file, or which two, and why, where they cannot be used."""
    try:
        yield
    except (OSError, ValueError) as error:
        what = ' with '.join(os.fspath(path) for path in paths)
        raise UnusableFile(f'{what} cannot be used: {_why(error)}') from error


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == 'KEY_VALUES_MISMATCH':
            return 'the key is not that of the certificate'
        return 'it is no PEM of what it should hold, or is not whole'
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
