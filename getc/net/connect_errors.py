"""Maps failures of sockets, TLS and name resolution to the errors of getc, with the cause and the remedy."""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

import gevent.ssl

from getc.errors import ConnectionError, ConnectionRefused, TimedOut
from getc.net.endpoint import Endpoint
from getc.net.resolver import get_resolver, is_forked_without_threads
from getc.net.sockets import ForkedWhileConnecting, Socket
from getc.net.tls import UnusableFile
from getc.timing import Deadline

__all__ = [
    'MAYBE_NO_UPSTREAM',
    'MAYBE_REVOKED',
    'MAYBE_TLS_REQUIRED',
    'TLS_REQUIRED',
    'connect_error',
    'connect_timeout',
    'describe_broken',
    'for_scheme',
    'is_tls_rejection',
    'is_tls_required',
    'pending_alert',
]

TLS_REQUIRED: Final = 'the server requires TLS: use https:// in the URL'

MAYBE_NO_UPSTREAM: Final = 'a proxy at this address may have no etcd behind it'
"""TCP proxies close a connection without a response if they cannot connect to a server."""

MAYBE_TLS_REQUIRED: Final = 'the server may require TLS: use https:// in the URL'
"""etcd closes a plain connection to a TLS port without a response."""

MAYBE_REVOKED: Final = 'the server probably rejected the client certificate (revoked?): check cert='
"""etcd with ``--client-crl-file`` completes the handshake, and then closes the connection without an alert."""

TLS_ALERT: Final = b'\x15\x03'
"""First bytes of the alert with which a TLS server responds to plain text (RFC 8446, 5.1)."""

TLS_REQUIRED_PAGE: Final = re.compile(rb'HTTPS|SSL-enabled')
"""Text of the pages with which Go, nginx and Apache respond to plain HTTP on a TLS port."""

CERTIFICATE_HINTS: Final = {
    9: 'check the clock of this machine',
    10: 'renew the certificate of the server, or check the clock of this machine',
    **dict.fromkeys((18, 19, 20, 21), 'pass its CA file as ca='),
    **dict.fromkeys((62, 64), 'use a URL with one of its subjectAltNames'),
}
"""Remedies by the verification error of OpenSSL (``X509_V_ERR``)."""

ALERT_HINTS: Final = {
    'CERTIFICATE_REQUIRED': 'the server requires a client certificate: pass cert= and key=',
    'BAD_CERTIFICATE': 'the server requires a client certificate, or rejects this one: check cert= and key=',
    'UNKNOWN_CA': 'the server does not trust the authority of the client certificate: check cert=',
    'CERTIFICATE_EXPIRED': 'the client certificate has expired: check cert=',
    'CERTIFICATE_REVOKED': 'the client certificate was revoked: check cert=',
    'CERTIFICATE_UNKNOWN': 'the server rejects the client certificate: check cert=',
    'UNSUPPORTED_CERTIFICATE': 'the server rejects the client certificate, perhaps for its key usage: check cert=',
    'DECRYPT_ERROR': 'the server rejects the client certificate: check cert= and key=',
    'ACCESS_DENIED': 'the server denies access to the owner of the client certificate: check cert=',
    'HANDSHAKE_FAILURE': 'no common cipher, or the server requires a client certificate: check cert= and key=',
    'PROTOCOL_VERSION': 'the server supports neither TLS 1.2 nor 1.3',
    'NO_APPLICATION_PROTOCOL': 'the server does not support HTTP/2 over TLS, which API v3 needs',
}
"""Meanings of the alerts with which servers end a handshake (RFC 8446, 6.2)."""

NOT_TLS: Final = frozenset(
    {'WRONG_VERSION_NUMBER', 'HTTP_REQUEST', 'UNKNOWN_PROTOCOL', 'RECORD_LAYER_FAILURE', 'PACKET_LENGTH_TOO_LONG'}
)
"""Errors of OpenSSL about bytes that are not TLS."""


def connect_error(endpoint: Endpoint, error: OSError) -> ConnectionError:
    """Return the error for a failed attempt to connect.  No request was sent."""
    url = endpoint.url
    if isinstance(error, ConnectionRefusedError):
        return ConnectionRefused(f'{url} refused the connection: check that etcd runs there', endpoint=url)
    if isinstance(error, FileNotFoundError) and endpoint.is_unix and not isinstance(error, UnusableFile):
        return ConnectionRefused(f'no socket at {url}: check the path, and that etcd runs', endpoint=url)
    if isinstance(error, UnusableFile):
        what = f'TLS handshake with {url} failed: {error} (the next attempt reads it again)'
    elif isinstance(error, ssl.SSLCertVerificationError):
        what = f'the certificate of {url} is not trusted: {_verification_error(error)}'
    elif isinstance(error, ssl.SSLError):
        what = f'TLS handshake with {url} failed: {_handshake_error(error)}'
    elif isinstance(error, socket.gaierror):
        what = f'name lookup for {url} failed: {error.strerror}'
    elif endpoint.is_secure and isinstance(error, ConnectionResetError):
        what = f'TLS handshake with {url} failed: {_closed_in_handshake("the server reset the connection")}'
    else:
        what = f'no connection to {url}: {error.strerror or error}'
    failed = ConnectionError(for_scheme(what, url), endpoint=url)
    failed.is_outage = not isinstance(error, ForkedWhileConnecting)
    return failed


def connect_timeout(endpoint: Endpoint, deadline: Deadline) -> TimedOut:
    """Return the error for an attempt to connect that took too long.  No request was sent."""
    url = endpoint.url
    what = f'no connection to {url} within {deadline.timeout:g} s'
    if get_resolver().is_looking_up(endpoint.host, endpoint.port):
        what += f': the name lookup for {endpoint.host} has not returned'
        if is_forked_without_threads():
            what += ', as in a forked child of a program without monkey patching: call gevent.reinit() after os.fork()'
    return TimedOut(what, endpoint=url)


def for_scheme(hint: str, url: str) -> str:
    """Return a hint with the schemes of unix sockets if the URL is that of one."""
    if not url.startswith('unix'):
        return hint
    return hint.replace('use https://', 'use unixs://').replace('use http://', 'use unix://')


def is_tls_required(response: bytes) -> bool:
    """Return True for a response to plain HTTP that requires TLS: a TLS alert, or a page with status 400."""
    return response.startswith(TLS_ALERT) or TLS_REQUIRED_PAGE.search(response) is not None


def describe_broken(url: str, error: OSError) -> str:
    """Return the message for an established connection that broke."""
    alert = _alert(error)
    if alert is not None:
        return f'TLS handshake with {url} failed: {ALERT_HINTS[alert]}'
    reason = getattr(error, 'reason', None) or error.strerror or type(error).__name__
    return f'the connection to {url} broke: {reason}'


def is_tls_rejection(error: BaseException) -> bool:
    """Return True if the server ended the TLS handshake with an alert, so that it processed no request.

    With TLS 1.3 the handshake may be complete for the client by then, and a request already sent.
    """
    return isinstance(error, OSError) and _alert(error) is not None


def pending_alert(sock: Socket, error: OSError) -> OSError:
    """Return the TLS alert that the server sent before it closed the connection; else the error of the failed send.

    Does not block.  The socket cannot be used afterwards.
    """
    if isinstance(sock, gevent.ssl.SSLSocket) and not is_tls_rejection(error):
        sock.settimeout(0.0)
        try:
            sock.recv(1)
        except OSError as received:
            if is_tls_rejection(received):
                return received
    return error


def _alert(error: OSError) -> str | None:
    reason = getattr(error, 'reason', None) or ''
    _, is_alert, name = str(reason).partition('_ALERT_')
    return name if is_alert and name in ALERT_HINTS else None


def _verification_error(error: ssl.SSLCertVerificationError) -> str:
    what = str(error.verify_message).rstrip('.')
    hint = CERTIFICATE_HINTS.get(error.verify_code)
    return what if hint is None else f'{what}: {hint}'


def _handshake_error(error: ssl.SSLError) -> str:
    alert = _alert(error)
    if alert is not None:
        return ALERT_HINTS[alert]
    reason = getattr(error, 'reason', None)  # not every SSLError has the attribute
    if reason in NOT_TLS:
        return 'the server does not use TLS: use http:// in the URL'
    if isinstance(error, ssl.SSLEOFError) or reason == 'UNEXPECTED_EOF_WHILE_READING':
        return _closed_in_handshake('the server closed the connection')
    return reason or error.strerror or 'the handshake failed'


def _closed_in_handshake(what: str) -> str:
    return f'{what} during the handshake: if it does not use TLS, use http:// in the URL'
