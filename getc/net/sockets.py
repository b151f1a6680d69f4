"""Connections over TCP and unix sockets, and TLS, with gevent sockets, independent of monkey patching."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import weakref

import gevent
import gevent.socket
import gevent.ssl

from getc.net.resolver import Address, get_resolver
from getc.runtime import after_fork
from getc.timing import Deadline

__all__ = [
    'ADDRESS_TIMEOUT',
    'ForkedWhileConnecting',
    'Socket',
    'close_inherited',
    'connect',
    'is_idle',
    'peer_address',
]

Socket = gevent.socket.socket

KEEPALIVE_IDLE = 20
"""Seconds without data after which the kernel sends TCP keepalive probes, three of them, 10 s apart."""

UNACKED_TIMEOUT = 20
"""Seconds after which the kernel closes a connection whose data the peer does not acknowledge."""

LOCAL_NAME = 'localhost'
"""The name that the certificate of a server has to contain on a unix socket."""

ADDRESS_TIMEOUT = 2.5
"""Seconds for connecting to one address of a host, if there are others."""


class ForkedWhileConnecting(OSError):
    """The process was forked during the attempt to connect, and this is the child."""


def connect(
    host: str,
    port: int,
    context: ssl.SSLContext | None = None,
    *,
    protocol: str | None = None,
    deadline: Deadline | None = None,
) -> Socket:
    """Connect to the first address of a host that accepts, and perform the TLS handshake if there is a context.

    Blocks the greenlet without a limit of its own: the caller sets a timeout.  After an exception no socket is left
    open.

    Args:
        host: A name, an IP address, or the absolute path of a unix socket.
        port: The TCP port; 0 for a unix socket.
        context: The TLS context; None for a connection without TLS.
        protocol: The ALPN protocol that the server has to select, or None.
        deadline: When the caller's timeout expires: an address that does not respond leaves time for the others.

    Raises:
        OSError: The lookup failed, no address accepted the connection, or the TLS handshake failed.
    """
    process = os.getpid()
    resolver = get_resolver()
    waiting = list(resolver.addresses(host, port))
    deadline = deadline or Deadline(None)
    failures: list[tuple[Address, OSError]] = []
    while True:
        address = waiting.pop(0)
        part = deadline.fraction(1 / (len(waiting) + 1), at_most=ADDRESS_TIMEOUT) if waiting else Deadline(None)
        try:
            return _connect_in_time(address, host, context, protocol, part)
        except OSError as error:
            if os.getpid() != process:
                raise ForkedWhileConnecting('the attempt to connect was started before the fork') from error
            resolver.mark_bad(host, port, address)
            failures.append((address, error))
            if isinstance(error, ssl.SSLError) or not waiting:
                resolver.expire(host, port)
                if isinstance(error, ssl.SSLError) or len({_reason(each) for _, each in failures}) == 1:
                    raise
                what = '; '.join(f'{_format(each)}: {_reason(failure)}' for each, failure in failures)
                raise OSError(errno.EHOSTUNREACH, what) from error
        except BaseException:
            resolver.mark_bad(host, port, address)
            resolver.expire(host, port)
            raise


def peer_address(sock: Socket) -> Address:
    """Return the address of the server, as the resolver returned it.

    Raises:
        OSError: The socket is not connected any more.
    """
    return Address(sock.family, sock.getpeername())


def _format(address: Address) -> str:
    if address.family == socket.AF_UNIX:
        return str(address.sockaddr)
    host, port = address.sockaddr[:2]
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _connect_in_time(
    address: Address, host: str, context: ssl.SSLContext | None, protocol: str | None, deadline: Deadline
) -> Socket:
    timeout = gevent.Timeout.start_new(deadline.timeout_left())
    try:
        return _connect_to(address, host, context, protocol)
    except gevent.Timeout as fired:
        if fired is not timeout:
            raise
        raise TimeoutError(errno.ETIMEDOUT, 'the address does not respond') from None
    finally:
        timeout.close()


def _connect_to(address: Address, host: str, context: ssl.SSLContext | None, protocol: str | None) -> Socket:
    sock = Socket(address.family, socket.SOCK_STREAM)
    _sockets.add(sock)
    sock.settimeout(None)  # not the default timeout of the program: _connect_in_time sets one
    try:
        sock.connect(address.sockaddr)
        is_unix = address.family == socket.AF_UNIX
        if not is_unix:
            _set_options(sock)
        if context is not None:
            name = LOCAL_NAME if is_unix else host
            sock = context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=name)
            _sockets.add(sock)
            sock.do_handshake()
            if protocol is not None and sock.selected_alpn_protocol() != protocol:
                raise ssl.SSLError(0, f'the server does not support {protocol}')
    except BaseException:
        sock.close()
        raise
    return sock


def _set_options(sock: Socket) -> None:
    sock.setsockopt(gevent.socket.IPPROTO_TCP, gevent.socket.TCP_NODELAY, 1)
    sock.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_KEEPALIVE, 1)
    for option, seconds in (('TCP_KEEPIDLE', KEEPALIVE_IDLE), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 3)):
        number = getattr(gevent.socket, option, None)  # not defined on every system
        if number is not None:
            sock.setsockopt(gevent.socket.IPPROTO_TCP, number, seconds)
    user_timeout = getattr(gevent.socket, 'TCP_USER_TIMEOUT', None)
    if user_timeout is not None:
        sock.setsockopt(gevent.socket.IPPROTO_TCP, user_timeout, UNACKED_TIMEOUT * 1000)


def is_idle(sock: Socket) -> bool:
    """Return True if the peer has not sent data or closed the connection.  Does not block, switch or consume data."""
    sock.settimeout(0.0)
    try:
        Socket.recv(sock, 1, gevent.socket.MSG_PEEK)  # of the TCP socket below TLS
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(None)
    return False


# -- forked children


def close_inherited(sock: Socket) -> None:
    """In a forked child, close the inherited copy of a socket at once, without sending anything to the peer.

    ``sock.close`` would close the copy in a later iteration of the event loop, which the child may never run.
    """
    try:
        descriptor = sock.detach()
    except (AttributeError, ValueError):  # the hub of the socket's thread was destroyed, with the loop of its watchers
        descriptor = sock._sock.detach()  # type: ignore[attr-defined]
    os.close(descriptor)


_sockets: weakref.WeakSet[Socket] = weakref.WeakSet()
_silent_peers: list[socket.socket] = []


def _disconnect_in_child() -> None:
    """In a forked child, connect the inherited sockets to a silent local peer.

    Greenlets that wait for the sockets are copied by the fork and go on in the child: what they would read or write
    belongs to the parent.
    """
    inherited = [sock for sock in _sockets if sock.fileno() != -1]
    if inherited:
        ours, silent = socket.socketpair()
        _silent_peers.append(silent)  # closing it would wake the greenlets
        for sock in inherited:
            os.dup2(ours.fileno(), sock.fileno(), inheritable=False)
        ours.close()


after_fork(_disconnect_in_child)
