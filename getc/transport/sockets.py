"""Connections made by gevent, plain and TLS.  Nothing is patched, and nothing needs to be."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import gevent.socket
import gevent.ssl

__all__ = ['TLS', 'Socket', 'connect', 'is_quiet']

Socket = gevent.socket.socket
Path = str | PathLike[str]

KEEPALIVE_AFTER = 20
"""Seconds of silence after which the kernel asks a peer whether it is there, three times, 10 s apart."""

UNACKNOWLEDGED = 20
"""Seconds after which what was sent and not acknowledged by the peer's kernel ends the connection."""


@dataclass(frozen=True, slots=True)
class TLS:
    """How ``https`` endpoints are trusted, and who we are to them.

    Attributes:
        ca: A PEM file of the authorities to trust; None for the system's.
        cert: A PEM file of our certificate, or None.
        key: A PEM file of its key; None if ``cert`` holds it.
        verify: False trusts any server: for experiments only.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = field(default=None, repr=False)
    verify: bool = True

    def context(self, protocol: str | None = None) -> ssl.SSLContext:
        """A context whose sockets are gevent's.  Reads the files.

        Args:
            protocol: What is to be spoken, by its name in ALPN (RFC 7301), or None.

        Raises:
            ValueError: A key without a certificate.
            OSError: A file is missing or holds no such thing (``ssl.SSLError`` is an OSError).
        """
        if self.key is not None and self.cert is None:
            raise ValueError('a key needs its cert')
        # The standard library's context would make sockets that block the hub.
        context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is not None:
            context.load_verify_locations(self.ca)
        else:
            context.load_default_certs()
        if protocol is not None:
            context.set_alpn_protocols([protocol])
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        return context


def connect(host: str, port: int, context: ssl.SSLContext | None = None, *, protocol: str | None = None) -> Socket:
    """Connect to the first address of the host that takes it; with a context, shake hands for TLS.

    Blocks the greenlet without a limit: the caller sets one.  Whatever strikes, no socket is left.

    Args:
        host: A name or an address.
        port: The TCP port.
        context: For TLS, or None.
        protocol: What the other side must have agreed to speak over TLS, by its name in ALPN, or None.

    Raises:
        OSError: No address, none that takes it, or no TLS.
    """
    error: OSError | None = None
    for family, kind, number, _, address in gevent.socket.getaddrinfo(host, port, 0, gevent.socket.SOCK_STREAM):
        try:
            return _connect_to(family, kind, number, address, host, context, protocol)
        except OSError as failure:
            if isinstance(failure, ssl.SSLError):
                raise
            error = failure
    raise error if error is not None else OSError(f'{host} has no address')


def _connect_to(
    family: int,
    kind: int,
    number: int,
    address: Any,
    host: str,
    context: ssl.SSLContext | None,
    protocol: str | None,
) -> Socket:
    sock = Socket(family, kind, number)
    sock.settimeout(None)  # whatever the program's default is: time is kept above
    try:
        sock.connect(address)
        _tune(sock)
        if context is not None:
            sock = context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=host)
            sock.do_handshake()
            if protocol is not None and sock.selected_alpn_protocol() != protocol:
                raise ssl.SSLError(0, f'it does not speak {protocol}')
    except BaseException:
        sock.close()
        raise
    return sock


def _tune(sock: Socket) -> None:
    sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_KEEPALIVE, 1)
    for option, seconds in (('TCP_KEEPIDLE', KEEPALIVE_AFTER), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 3)):
        number = getattr(gevent.socket, option, None)  # not on every system
        if number is not None:
            sock.setsockopt(gevent.socket.IPPROTO_TCP, number, seconds)
    user_timeout = getattr(gevent.socket, 'TCP_USER_TIMEOUT', None)
    if user_timeout is not None:
        sock.setsockopt(gevent.socket.IPPROTO_TCP, user_timeout, UNACKNOWLEDGED * 1000)


def is_quiet(sock: Socket) -> bool:
    """True if the peer has neither sent anything nor closed.  Does not block, switch or consume."""
    sock.settimeout(0.0)
    try:
        Socket.recv(sock, 1, gevent.socket.MSG_PEEK)  # of the TCP socket, beneath TLS
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(None)
    return False
