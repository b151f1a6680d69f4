"""A real etcd server for tests, demos and experiments."""

from __future__ import annotations

import os
from pathlib import Path

from getc.errors import EtcException
from getc.testing.admin import clear_v2, clear_v3
from getc.testing.binaries import Api, choose_etcd
from getc.testing.certificates import ServerTLS
from getc.testing.member import Member
from getc.testing.ports import free_ports
from getc.testing.processes import poll_until
from getc.testing.virtual_loop import real_sleep

__all__ = ['EtcdServer', 'ServerFailed']

MAX_ATTEMPTS = 5
"""Starts that are tried while another program takes a port between its choice and its use."""


class ServerFailed(EtcException):
    """The etcd did not start or did not become healthy.  The message contains the end of its log."""


class EtcdServer:
    """A single etcd process on free loopback ports, with its data in a temporary directory.

    The process and its files are removed when this program ends, also when it is killed.  Methods block the calling
    greenlet only, in real time even under :class:`VirtualTime`.  Writes are not synchronized to the disk if this
    version of etcd can omit that, so the data do not survive a crash of the machine.

    Also a context manager, which starts and stops the server.

    Args:
        api: The API that the etcd must support, ``'v2'`` or ``'v3'``; None for any.
        binary: The path of the etcd; None to search as :func:`find_etcd` does.
        tls: How the etcd serves clients over TLS, from :class:`Certificates`; None for plain HTTP.
        timeout: Seconds within which the etcd must become healthy after a start.
        unix_socket: Serve clients on a unix socket as well, at ``socket_url``.

    Attributes:
        binary: The etcd that is run: path, version, and why it was selected.

    Raises:
        EtcdNotFound: No etcd that supports the API was found.
        OSError: ``binary`` cannot be run.
        ValueError: ``binary`` does not support the API.

    Example::

        with EtcdServer() as server:
            etcd = getc.etcd(server.url)
            etcd.set('/hello', 'Hello, world')
            server.kill()                # an outage
            server.restart(wipe=True)    # it comes back empty
    """

    def __init__(
        self,
        *,
        api: Api | None = None,
        binary: str | os.PathLike[str] | None = None,
        tls: ServerTLS | None = None,
        timeout: float = 30.0,
        unix_socket: bool = False,
    ) -> None:
        self.binary = choose_etcd(api, binary)
        self._timeout = timeout
        self._member = Member('getc', self.binary, tls=tls, has_socket=unix_socket)
        self._has_served = False
        self._cleared_index = 0

    @property
    def url(self) -> str:
        """The URL for clients, from the first start on; a restart does not change it."""
        return self._member.url

    @property
    def socket_url(self) -> str:
        """The URL of the unix socket, if it was requested: ``unix://``, or ``unixs://`` with ``tls``.

        It is valid while the server runs, and changes with the next start after :meth:`stop`.
        """
        if not self._member.has_socket:
            raise ValueError('the server has no unix socket: pass unix_socket=True')
        return self._member.socket_url

    @property
    def version(self) -> str:
        """The version of the etcd, as ``'3.5.1'``."""
        return '.'.join(map(str, self.binary.version))

    @property
    def reason(self) -> str:
        """Why this etcd was selected."""
        return self.binary.reason

    @property
    def pid(self) -> int | None:
        """The process id; None while there is no process."""
        return self._member.pid

    def start(self) -> EtcdServer:
        """Start the etcd, wait until it is healthy, and return the server.

        The etcd starts with its data after :meth:`kill`, and empty after :meth:`stop`.

        Raises:
            ServerFailed: The etcd ended, or did not become healthy within the timeout.  No process is left.
        """
        member = self._member
        if not member.has_ended():
            raise RuntimeError(f'{self!r} is already started')
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if not self._has_served:
                member.listen(*free_ports(2))
            member.launch(f'{member.name}={member.peer_url}')
            if poll_until(member.serves_or_has_ended, self._timeout) and not member.has_ended():
                self._has_served = True
                return self
            log = self.log_tail()
            self.kill()
            if 'address already in use' not in log or attempt == MAX_ATTEMPTS:
                break
            real_sleep(0.2)
        self.stop()
        raise ServerFailed(
            f'{self.binary}, did not become healthy within {self._timeout:g} s; its log ends with\n{log}'
        )

    def stop(self, timeout: float = 5.0) -> None:
        """Terminate the etcd, kill it after ``timeout`` seconds, and remove its files.  Does nothing if it is down."""
        self._member.terminate(timeout)
        self._member.discard()
        self._cleared_index = 0

    def kill(self) -> None:
        """Kill the etcd by SIGKILL; its data stay.  Does nothing if it is down."""
        self._member.kill()

    def restart(self, *, wipe: bool = False) -> EtcdServer:
        """Kill the etcd if it runs, and start it at the same URL.

        Args:
            wipe: Delete its data first.

        Raises:
            ServerFailed: As :meth:`start`.
        """
        self.kill()
        if wipe:
            self._member.wipe()
            self._cleared_index = 0
        return self.start()

    def pause(self) -> None:
        """Suspend the etcd (SIGSTOP): connections stay open, and no request is answered once this returns."""
        self._member.pause()

    def resume(self) -> None:
        """Resume the etcd after :meth:`pause`."""
        self._member.resume()

    def clear(self) -> None:
        """Delete every key, of both APIs.  Revisions, indices and their history continue.

        If there were more than 1000 changes since the last call (v2), the etcd is restarted empty instead, since the
        history no longer shows which hidden nodes exist.

        Raises:
            OSError: The etcd does not respond.
        """
        with self._member.requests() as requests:
            if self.binary.supports('v3'):
                clear_v3(requests)
            if self.binary.supports('v2'):
                index = clear_v2(requests, self._cleared_index)
        if self.binary.supports('v2'):
            if index is None:
                self.restart(wipe=True)
            else:
                self._cleared_index = index

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log; empty after :meth:`stop`."""
        return self._member.log_tail(lines)

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = 'down' if self.pid is None else f'at {self.url}'
        return f'<EtcdServer {self.version} {state}>'

    @property
    def _data(self) -> Path:
        return self._member.data
