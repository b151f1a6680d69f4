"""Why there is no connection, or not any more: each failure of the system's, once, in words of ours.

Each says what is wrong and, where that can be known, what to do.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

import gevent.ssl

from getc.errors import ConnectionError, ConnectionRefused, TimedOut
from getc.net.resolver import is_forked_without_threads, names
from getc.net.selector import Endpoint
from getc.net.sockets import LeftToParent, Socket
from getc.net.tls import UnusableFile
from getc.timing import Deadline

__all__ = [
    'MAYBE_REVOKED',
    'NEEDS_TLS',
    'broken',
    'is_tls_rejection',
    'needs_tls',
    'not_connected',
    'not_connected_in_time',
    'pending_alert',
]

NEEDS_TLS: Final = 'it speaks TLS: its URL begins with https://'

MAYBE_REVOKED: Final = 'it may not accept our certificate, which may have been revoked: see cert'
"""etcd with ``--client-crl-file`` completes the handshake, and then closes the connection without an alert."""

TLS_ALERT: Final = b'\x15\x03'
"""How an answer in TLS begins to what is none (RFC 8446, 5.1)."""

TLS_PAGE: Final = re.compile(rb'HTTPS|SSL-enabled')
"""What is in the pages with which Go, nginx and Apache answer plain HTTP at a port for TLS."""

UNTRUSTED: Final = {
    9: 'is the clock of this machine right?',
    10: 'it has to be renewed there, unless the clock of this machine is wrong',
    **dict.fromkeys((18, 19, 20, 21), 'give the file of its authority as ca'),
    **dict.fromkeys((62, 64), 'use a URL with one of its subjectAltNames'),
}
"""What to do about a certificate, by OpenSSL's number of what is wrong with it."""

TURNED_AWAY: Final = {
    'CERTIFICATE_REQUIRED': 'it wants a certificate of ours: give cert and key',
    'BAD_CERTIFICATE': 'it wants a certificate of ours, or another one: see cert and key',
    'UNKNOWN_CA': 'it does not know the authority of our certificate: see cert',
    'CERTIFICATE_EXPIRED': 'our certificate has expired: see cert',
    'CERTIFICATE_REVOKED': 'our certificate was revoked: see cert',
    'CERTIFICATE_UNKNOWN': 'it does not take our certificate: see cert',
    'UNSUPPORTED_CERTIFICATE': 'it does not take our certificate, which may be for another purpose: see cert',
    'DECRYPT_ERROR': 'it does not take our certificate: see cert and key',
    'ACCESS_DENIED': 'it does not let the owner of our certificate in: see cert',
    'HANDSHAKE_FAILURE': 'there is nothing that both sides speak, or it wants a certificate of ours: see cert and key',
    'PROTOCOL_VERSION': 'it speaks another version of TLS: 1.2 or 1.3 is needed',
    'NO_APPLICATION_PROTOCOL': 'it does not speak HTTP/2 over TLS, which API v3 needs',
}
"""What servers say when they end a handshake (RFC 8446, 6.2), and what it means here."""

NOT_TLS: Final = frozenset(
    {'WRONG_VERSION_NUMBER', 'HTTP_REQUEST', 'UNKNOWN_PROTOCOL', 'RECORD_LAYER_FAILURE', 'PACKET_LENGTH_TOO_LONG'}
)
"""What OpenSSL says of bytes that are no TLS."""


def not_connected(endpoint: Endpoint, error: OSError) -> ConnectionError:
    """The error for an attempt that failed.  Nothing was sent."""
    url = endpoint.url
    if isinstance(error, ConnectionRefusedError):
        return ConnectionRefused(f'{url} refuses connections: nobody listens there', endpoint=url)
    if isinstance(error, UnusableFile):
        what = f'no TLS with {url}: {error} (it is read again for the next attempt)'
    elif isinstance(error, ssl.SSLCertVerificationError):
        what = f'the certificate of {url} is not trusted: {_untrusted(error)}'
    elif isinstance(error, ssl.SSLError):
        what = f'no TLS with {url}: {_no_tls(error)}'
    elif isinstance(error, socket.gaierror):
        what = f'the host of {url} is not known: {error.strerror}'
    elif endpoint.is_secure and isinstance(error, ConnectionResetError):
        what = f'no TLS with {url}: {_cut("it broke the connection off")}'
    else:
        what = f'no connection to {url}: {error.strerror or error}'
    failed = ConnectionError(what, endpoint=url)
    failed.is_outage = not isinstance(error, LeftToParent)
    return failed


def not_connected_in_time(endpoint: Endpoint, deadline: Deadline) -> TimedOut:
    """The error for an attempt that took too long.  Nothing was sent."""
    url = endpoint.url
    what = f'no connection to {url} within {deadline.timeout:g} s'
    if names().is_looking_up(endpoint.host, endpoint.port):
        what += f': the lookup of the name {endpoint.host} has not returned'
        if is_forked_without_threads():
            what += ', as in a forked child of a program that is not patched: call gevent.reinit() after os.fork()'
    return TimedOut(what, endpoint=url)


def needs_tls(answer: bytes) -> bool:
    """True if this refuses plain HTTP because TLS is expected: an alert, or a page with status 400."""
    return answer.startswith(TLS_ALERT) or TLS_PAGE.search(answer) is not None


def broken(url: str, error: OSError) -> str:
    """What to say of a connection that was there."""
    alert = _alert(error)
    if alert is not None:
        return f'no TLS with {url}: {TURNED_AWAY[alert]}'
    why = getattr(error, 'reason', None) or error.strerror or type(error).__name__
    return f'the connection to {url} broke: {why}'


def is_tls_rejection(error: BaseException) -> bool:
    """True if the server has ended the handshake: it has looked at nothing that was sent.

    Of TLS 1.3 the client's half may be over by then, and a request on its way.
    """
    return isinstance(error, OSError) and _alert(error) is not None


def pending_alert(sock: Socket, error: OSError) -> OSError:
    """The error of a send, or the refusal that the server sent before it closed: it is still to be read then.

    Does not block.  Nothing else can be done with the socket after it.
    """
    if isinstance(sock, gevent.ssl.SSLSocket) and not is_tls_rejection(error):
        sock.settimeout(0.0)
        try:
            sock.recv(1)
        except OSError as said:
            if is_tls_rejection(said):
                return said
    return error


def _alert(error: OSError) -> str | None:
    reason = getattr(error, 'reason', None) or ''
    _, is_alert, name = str(reason).partition('_ALERT_')
    return name if is_alert and name in TURNED_AWAY else None


def _untrusted(error: ssl.SSLCertVerificationError) -> str:
    what = str(error.verify_message).rstrip('.')
    hint = UNTRUSTED.get(error.verify_code)
    return what if hint is None else f'{what}: {hint}'


def _no_tls(error: ssl.SSLError) -> str:
    alert = _alert(error)
    if alert is not None:
        return TURNED_AWAY[alert]
    reason = getattr(error, 'reason', None)  # not all have one
    if reason in NOT_TLS:
        return 'it does not speak TLS: then its URL begins with http://'
    if isinstance(error, ssl.SSLEOFError) or reason == 'UNEXPECTED_EOF_WHILE_READING':
        return _cut('it closed the connection')
    return reason or error.strerror or 'the handshake failed'


def _cut(what: str) -> str:
    return f'{what} in the middle of the handshake: does it speak TLS?  Otherwise its URL begins with http://'
