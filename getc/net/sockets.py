"""Connections made by gevent, plain and TLS.  Nothing is patched, and nothing needs to be."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import weakref

import gevent
import gevent.socket
import gevent.ssl

from getc.net.resolver import Address, names
from getc.timing import Deadline

__all__ = ['ADDRESS_TIMEOUT', 'LeftToParent', 'Socket', 'address_of', 'close_inherited', 'connect', 'is_quiet']

Socket = gevent.socket.socket

KEEPALIVE_AFTER = 20
"""Seconds of silence after which the kernel asks a peer whether it is there, three times, 10 s apart."""

UNACKNOWLEDGED = 20
"""Seconds after which what was sent and not acknowledged by the peer's kernel ends the connection."""

ADDRESS_TIMEOUT = 2.5
"""Seconds for one address of a host, at most, where there are others."""


class LeftToParent(OSError):
    """The process was forked during the attempt, and this is the child: it says nothing of the server."""


def connect(
    host: str,
    port: int,
    context: ssl.SSLContext | None = None,
    *,
    protocol: str | None = None,
    deadline: Deadline | None = None,
) -> Socket:
    """Connect to the first address of the host that takes it; with a context, shake hands for TLS.

    Blocks the greenlet without a limit: the caller sets one.  Whatever strikes, no socket is left.

    Args:
        host: A name or an address.
        port: The TCP port.
        context: For TLS, or None.
        protocol: What the other side must have agreed to speak over TLS, by its name in ALPN, or None.
        deadline: When the caller will end it: an address that is silent leaves some time to the others.

    Raises:
        OSError: No address, none that takes it, or no TLS.
    """
    process = os.getpid()
    known = names()
    waiting = list(known.addresses(host, port))
    deadline = deadline or Deadline(None)
    met: list[tuple[Address, OSError]] = []
    while True:
        address = waiting.pop(0)
        share = deadline.fraction(1 / (len(waiting) + 1), at_most=ADDRESS_TIMEOUT) if waiting else Deadline(None)
        try:
            return _connect_in_time(address, host, context, protocol, share)
        except OSError as error:
            if os.getpid() != process:
                raise LeftToParent('the attempt was begun before the fork') from error
            known.failed(host, port, address)
            met.append((address, error))
            if isinstance(error, ssl.SSLError) or not waiting:
                known.expire(host, port)
                if isinstance(error, ssl.SSLError) or len({_why(each) for _, each in met}) == 1:
                    raise
                what = '; '.join(f'{_shown(each)}: {_why(trouble)}' for each, trouble in met)
                raise OSError(errno.EHOSTUNREACH, what) from error
        except BaseException:
            known.failed(host, port, address)
            known.expire(host, port)
            raise


def address_of(sock: Socket) -> Address:
    """Where a socket is connected to, as :class:`~getc.net.resolver.Names` has it."""
    return Address(sock.family, sock.getpeername())


def _shown(address: Address) -> str:
    host, port = address.sockaddr[:2]
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def _why(error: OSError) -> str:
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
        raise TimeoutError(errno.ETIMEDOUT, 'an address does not answer') from None
    finally:
        timeout.close()


def _connect_to(address: Address, host: str, context: ssl.SSLContext | None, protocol: str | None) -> Socket:
    sock = Socket(address.family, socket.SOCK_STREAM)
    _sockets.add(sock)
    sock.settimeout(None)  # whatever the program's default is: time is kept above
    try:
        sock.connect(address.sockaddr)
        _tune(sock)
        if context is not None:
            sock = context.wrap_socket(sock, do_handshake_on_connect=False, server_hostname=host)
            _sockets.add(sock)
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


# -- forked children


def close_inherited(sock: Socket) -> None:
    """In a forked child: close the copy of a parent's socket at once, and send nothing to the peer.

    ``sock.close`` would close it in a later turn of the hub, which may never come.
    """
    try:
        descriptor = sock.detach()
    except (AttributeError, ValueError):  # the hub of its thread was destroyed, and with it the watchers' loop
        descriptor = sock._sock.detach()  # type: ignore[attr-defined]
    os.close(descriptor)


_sockets: weakref.WeakSet[Socket] = weakref.WeakSet()
_silent: list[socket.socket] = []


def _leave_to_parent() -> None:
    """In a forked child: have the sockets that were inherited hear nothing any more, and be heard by nobody.

    The greenlets that wait for them are copies of the parent's, and go on: what they would read or write is its.
    """
    inherited = [sock for sock in _sockets if sock.fileno() != -1]
    if inherited:
        ours, silent = socket.socketpair()
        _silent.append(silent)  # closed it would be heard
        for sock in inherited:
            os.dup2(ours.fileno(), sock.fileno(), inheritable=False)
        ours.close()


os.register_at_fork(after_in_child=_leave_to_parent)
