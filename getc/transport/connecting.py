"""Why there is no connection: each failure of the system's, once, as an error of ours."""

from __future__ import annotations

import socket
import ssl

from getc.errors import ConnectionError, ConnectionRefused, TimedOut
from getc.timing import Deadline
from getc.transport.endpoints import Endpoint

__all__ = ['not_connected', 'not_connected_in_time']


def not_connected(endpoint: Endpoint, error: OSError) -> ConnectionError:
    """The error for an attempt that failed.  Nothing was sent."""
    url = endpoint.url
    if isinstance(error, ConnectionRefusedError):
        return ConnectionRefused(f'{url} refuses connections: nobody listens there', endpoint=url)
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionError(f'the certificate of {url} is not trusted: {error.verify_message}', endpoint=url)
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, 'reason', None) or error.strerror or 'the handshake failed'  # not all have one
        return ConnectionError(f'no TLS with {url}: {reason}', endpoint=url)
    if isinstance(error, socket.gaierror):
        return ConnectionError(f'the host of {url} is not known: {error.strerror}', endpoint=url)
    return ConnectionError(f'no connection to {url}: {error.strerror or error}', endpoint=url)


def not_connected_in_time(endpoint: Endpoint, deadline: Deadline) -> TimedOut:
    """The error for an attempt that took too long.  Nothing was sent."""
    url = endpoint.url
    return TimedOut(f'no connection to {url} within {deadline.timeout:g} s', endpoint=url)
