"""TLS settings: CA, certificate and key files, which are read again for new connections when they change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NoReturn

import gevent.socket
import gevent.ssl

__all__ = ['TLS', 'SSLContext', 'TLSContexts', 'UnusableFile']

Path = str | PathLike[str]
Stamps = tuple[tuple[int, ...], ...]
"""Times, inode and size of each file: a file has changed if they differ."""


class UnusableFile(OSError):
    """A CA, certificate or key file cannot be used.  The text names the file and the reason."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How ``https`` endpoints are verified, and the certificate that the client presents to them.

    Attributes:
        ca: A PEM file with the certificate authorities to trust; None for those of the system.
        cert: A PEM file with the client certificate, or None.
        key: A PEM file with the unencrypted private key; None if ``cert`` contains the key.
        verify: False accepts any server certificate: for experiments only.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = field(default=None, repr=False)
    verify: bool = True

    def contexts(self, protocol: str | None = None) -> TLSContexts:
        """Return the contexts for connections with these settings.  Reads the files.

        Args:
            protocol: The ALPN protocol to offer (RFC 7301), or None.

        Raises:
            ValueError: There is a key without a certificate.
            UnusableFile: A file is missing or invalid.
        """
        if self.key is not None and self.cert is None:
            raise ValueError('key is given without cert: give the certificate of the key')
        return TLSContexts(self, protocol)

    @property
    def files(self) -> list[Path]:
        """The files that are read."""
        ca = self.ca if self.verify else None
        return [path for path in (ca, self.cert, self.key) if path is not None]


class TLSContexts:
    """Provides the TLS context for each new connection, with the current contents of the files.

    The status of the files is checked for each connection, which takes microseconds, and they are read again when one
    of them has changed.  If they cannot be used, for example while they are being written, that connection fails, and
    the next one reads them again.  Open connections are not affected.

    Args:
        tls: The settings.
        protocol: The ALPN protocol to offer, or None.

    Raises:
        UnusableFile: A file is missing or invalid.
    """

    def __init__(self, tls: TLS, protocol: str | None = None) -> None:
        self._tls = tls
        self._protocol = protocol
        self._stamps = _stamps_of(tls)
        self._context = _context_of(tls, protocol)

    def current(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        Raises:
            UnusableFile: A file cannot be used at the moment.
        """
        stamps = _stamps_of(self._tls)  # before the files are read: a later change is detected by the next call
        if stamps != self._stamps:
            self._context = _context_of(self._tls, self._protocol)
            self._stamps = stamps
        return self._context


class _SSLSocket(gevent.ssl.SSLSocket):
    """A TLS socket that is closed if it cannot be made.

    gevent up to 26.9 leaves the descriptor open if the server has reset the connection before the handshake: the TCP
    socket is detached already, and there is no TLS socket that its user could close.
    """

    def __init__(self, sock: gevent.socket.socket, **options: Any) -> None:
        try:
            super().__init__(sock=sock, **options)
        except BaseException:
            if sock.fileno() == -1:
                self.close()
            raise


class SSLContext(gevent.ssl.SSLContext):
    """A context that makes gevent sockets; those of the standard library's context would block the hub."""

    __slots__ = ()
    sslsocket_class = _SSLSocket


def _stamps_of(tls: TLS) -> Stamps:
    stamps = []
    for path in tls.files:
        with _naming_files(path):
            status = os.stat(path)
        # st_mtime can be set, and is preserved by some copy tools; st_ctime cannot be set.
        stamps.append((status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino, status.st_size))
    return tuple(stamps)


def _context_of(tls: TLS, protocol: str | None) -> ssl.SSLContext:
    context: ssl.SSLContext = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca is not None:
        with _naming_files(tls.ca):
            context.load_verify_locations(tls.ca)
    else:
        context.load_default_certs()
    context.hostname_checks_common_name = False  # as in Go's clients: subjectAltName alone counts (RFC 6125, 6.4.4)
    if protocol is not None:
        context.set_alpn_protocols([protocol])
    if tls.cert is not None:
        with _naming_files(tls.cert, *([] if tls.key is None else [tls.key])):
            context.load_cert_chain(tls.cert, tls.key, _no_passphrase)
    return context


def _no_passphrase() -> NoReturn:
    """Raise instead of the prompt on the terminal, with which OpenSSL would block."""
    raise ValueError('the key is encrypted: give a key without a passphrase')


@contextmanager
def _naming_files(*paths: Path) -> Iterator[None]:
    """Raise UnusableFile, with the paths and the reason, if they cannot be read or parsed."""
    try:
        yield
    except (OSError, ValueError) as error:
        what = ' with '.join(os.fspath(path) for path in paths)
        raise UnusableFile(f'{what} cannot be used: {_reason(error)}') from error


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == 'KEY_VALUES_MISMATCH':
            return 'the key does not match the certificate'
        return 'invalid or incomplete PEM'
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
