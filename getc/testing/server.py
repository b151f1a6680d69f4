"""A real etcd for tests, demos and experiments."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from getc.errors import EtcException
from getc.testing.admin import clear_v2, clear_v3
from getc.testing.binaries import Api, chosen_etcd
from getc.testing.certificates import ServerTLS
from getc.testing.member import Member
from getc.testing.ports import free_ports
from getc.testing.processes import poll_until
from getc.testing.virtual_loop import real_sleep

__all__ = ['EtcdServer', 'ServerFailed']

ATTEMPTS = 5


class ServerFailed(EtcException):
    """The etcd did not start, or did not get well.  The message has the end of its log."""


class EtcdServer:
    """One etcd on free loopback ports, with its data in a temporary directory.

    It does not outlive this program, however that ends, and leaves no files.  Its methods block the
    calling greenlet only, in real time even where time is virtual.  Writes are not synchronised to
    the disk (where etcd can leave that out): it is for data that may be lost.

    Also a context manager, which starts and stops it.

    Args:
        api: ``'v2'`` or ``'v3'``: the API that it must speak; None for whichever it does.
        binary: The path of the etcd; None to look for one as :func:`find_etcd` does.
        tls: How it serves clients over TLS, from ``Certificates``; None for plain HTTP.
        timeout: Seconds within which it must serve after a start.

    Attributes:
        binary: The etcd that is run: its path, version, and why it is this one.

    Raises:
        EtcdNotFound: There is no etcd that speaks the API.
        OSError: ``binary`` cannot be run.

    Example::

        with EtcdServer() as server:
            etcd = getc.etcd(server.url)
            etcd.set('/hello', 'Hello, world')
            server.kill()                # an outage
            server.restart(wipe=True)    # and back, empty
    """

    def __init__(
        self,
        *,
        api: Api | None = None,
        binary: str | os.PathLike[str] | None = None,
        tls: ServerTLS | None = None,
        timeout: float = 30.0,
    ) -> None:
        self.binary = chosen_etcd(api, binary)
        self._timeout = timeout
        self._member = Member('getc', self.binary, tls=tls)
        self._has_served = False
        self._clean_at = 0

    @property
    def url(self) -> str:
        """Where it serves, from the first start on; a restart does not change it."""
        return self._member.url

    @property
    def version(self) -> str:
        """The version of the etcd, as ``'3.5.1'``."""
        return '.'.join(map(str, self.binary.version))

    @property
    def reason(self) -> str:
        """Why it is this etcd."""
        return self.binary.reason

    @property
    def pid(self) -> int | None:
        """The process, or None while there is none."""
        return self._member.pid

    def start(self) -> EtcdServer:
        """Start it and return it once it serves: after :meth:`kill` with its data, after :meth:`stop` empty.

        Raises:
            ServerFailed: It ended, or did not serve within the timeout.  Nothing is left running.
        """
        member = self._member
        if not member.has_ended():
            raise RuntimeError(f'{self!r} is running')
        for attempt in range(1, ATTEMPTS + 1):
            if not self._has_served:
                member.listen(*free_ports(2))
            member.launch(f'{member.name}={member.peer_url}')
            if poll_until(member.serves_or_has_ended, self._timeout) and not member.has_ended():
                self._has_served = True
                return self
            log = self.log_tail()
            self.kill()
            if 'address already in use' not in log or attempt == ATTEMPTS:
                break
            real_sleep(0.2)
        self.stop()
        raise ServerFailed(f'{self.binary} did not serve within {self._timeout:g} s; its log ends with\n{log}')

    def stop(self, timeout: float = 5.0) -> None:
        """End it, kindly for so many seconds, and remove its files.  Does nothing if it is not there."""
        self._member.end(timeout)
        self._member.discard()
        self._clean_at = 0

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would; its data stay.  Does nothing if it is down."""
        self._member.kill()

    def restart(self, *, wipe: bool = False) -> EtcdServer:
        """Kill it if it runs, and start it at the same URL.

        Args:
            wipe: Throw its data away first.

        Raises:
            ServerFailed: As :meth:`start`.
        """
        self.kill()
        if wipe:
            self._member.wipe()
            self._clean_at = 0
        return self.start()

    def pause(self) -> None:
        """Stop it from running (SIGSTOP): connections stay, nothing is answered any more when this returns."""
        self._member.pause()

    def resume(self) -> None:
        """Let it run on."""
        self._member.resume()

    def clear(self) -> None:
        """Delete every key, of both APIs.  Revisions, indices and their history go on.

        Unless there were more than 1000 changes since the last call (v2): it is restarted, empty,
        since nothing tells then which hidden nodes there are.

        Raises:
            OSError: It does not answer.
        """
        with self._member.requests() as requests:
            if self.binary.supports('v3'):
                clear_v3(requests)
            if self.binary.supports('v2'):
                index = clear_v2(requests, self._clean_at)
        if self.binary.supports('v2'):
            if index is None:
                self.restart(wipe=True)
            else:
                self._clean_at = index

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log; empty after :meth:`stop`."""
        return self._member.log_tail(lines)

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = 'down' if self.pid is None else f'at {self.url}'
        return f'<EtcdServer {self.version} {state}>'

    @property
    def _data(self) -> Path:
        return self._member.data
