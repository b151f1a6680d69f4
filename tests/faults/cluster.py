"""The cluster of a run: three members, and a separate proxy from each client to each member.

The first endpoint of client ``b`` is a learner, and client ``c`` connects through proxies that answer HTTP/2 PINGs.
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import gevent

import getc
from getc.testing import EtcdCluster, FaultProxies
from getc.testing.binaries import EtcdBinary
from getc.testing.member import Member, MemberState
from tests.faults.gateway import Gateway, RequestRefused
from tests.faults.pings import PingProxy

__all__ = ['CLIENTS', 'MEMBERS', 'ProxiedCluster']

MEMBERS: Final = 3
CLIENTS: Final = ('a', 'b', 'c')

CLIENT_WITH_LEARNER: Final = 'b'
"""The client with a learner among its endpoints."""

CLIENT_WITH_PING_PROXIES: Final = 'c'
"""The client whose proxies answer PINGs."""

USER: Final = 'root'

FILLER_KEY: Final = '/filler'
"""A key that is written only to increase the revision."""

REQUEST_TIMEOUT: Final = 2.0
"""Seconds for the response of a member, before the next one is tried."""


class ProxiedCluster:
    """Three members, a learner, and the links (proxies) of each client to them.  A context manager.

    All clients have credentials from the start; etcd requires them only while authentication is enabled.

    Args:
        binary: The etcd.

    Attributes:
        etcd: The members.
        links: For each client a proxy in front of each member, and one in front of the learner for the client that
            uses it.
        era: Incremented when the data are wiped or restored from a backup.
        has_backup: There is a backup of the current era.
    """

    def __init__(self, binary: EtcdBinary) -> None:
        self.etcd = EtcdCluster(MEMBERS, binary=binary.path)
        self.links: dict[str, FaultProxies] = {}
        self.era = 0
        self.has_backup = False
        self._endpoints: dict[str, list[str]] = {}  # the URLs for each client
        self._backups = Path()  # a folder
        self._password = secrets.token_hex(8)
        self._open = ExitStack()

    @property
    def urls(self) -> list[str]:
        """The URLs of the members, without proxies."""
        return [member.url for member in self.etcd.members]

    @property
    def may_kill(self) -> bool:
        """False for versions of etcd whose members may diverge after a SIGKILL."""
        return not self.etcd.binary.may_diverge

    @property
    def ports(self) -> set[int]:
        """The ports of all proxies that connections of clients go through."""
        urls = [url for urls in self._endpoints.values() for url in urls]
        return {link.port for links in self.links.values() for link in links} | {_port_of(url) for url in urls}

    def client(self, name: str) -> getc.Client:
        """Return a new client that connects through its own links; the caller closes it."""
        return getc.etcd(self._endpoints[name], username=USER, password=self._password)

    def gateway(self, url: str, *, timeout: float) -> Gateway:
        """Return a connection to a member or a link that does not use getc."""
        return Gateway(url, USER, self._password, timeout=timeout)

    # -- commands to etcd, without proxies; each is retried until it succeeds

    def compact(self, revision: int, timeout: float) -> None:
        """Compact the history up to a revision.

        Raises:
            TimeoutError: It was not possible in time.
        """
        self._command('/v3/kv/compaction', {'revision': str(revision)}, timeout, already_done='has been compacted')

    def put(self, key: str, value: str, timeout: float) -> None:
        """Put a key.  Raises TimeoutError."""
        self._command('/v3/kv/put', {'key': _base64(key), 'value': _base64(value)}, timeout)

    def enable_auth(self, timeout: float) -> None:
        """Enable authentication.  Raises TimeoutError."""
        self._command('/v3/auth/enable', {}, timeout)

    def disable_auth(self, timeout: float) -> None:
        """Disable authentication.  Raises TimeoutError."""
        self._command('/v3/auth/disable', {}, timeout, already_done='authentication is not enabled')

    def revoke(self, lease: int, timeout: float) -> None:
        """Revoke a lease, which deletes its keys.  Raises TimeoutError."""
        self._command('/v3/lease/revoke', {'ID': str(lease)}, timeout, already_done='lease not found')

    def delete(self, key: str, timeout: float) -> None:
        """Delete a key.  Raises TimeoutError."""
        self._command('/v3/kv/deleterange', {'key': _base64(key)}, timeout)

    def leases(self, timeout: float) -> int:
        """Return the number of leases.  Raises TimeoutError."""
        return len(self._command('/v3/lease/leases', {}, timeout).get('leases', ()))

    def wipe(self) -> None:
        """Kill all members and start them without data, which begins a new era.  No client may be connected.

        Raises:
            ServerFailed: A member did not become healthy.
        """
        self._start_era()
        self.etcd.wipe()
        self._add_user()

    def back_up(self) -> None:
        """Copy the data of all members while they are paused."""
        members = self._all_members()
        with _paused(members):
            for member in members:
                self._in_thread(_copy, member.data, self._backups / member.name)
        self.has_backup = True

    def restore(self) -> None:
        """Kill all members and start them with the data of the backup, which begins a new era.  No client may be
        connected.

        Raises:
            ServerFailed: A member did not become healthy.
        """
        self._start_era()
        for member in self._all_members():
            member.kill()
            self._in_thread(_copy, self._backups / member.name, member.data)
        self.etcd.recover()

    def pass_revision(self, revision: int, timeout: float) -> None:
        """Write until the store is past a revision.

        Raises:
            TimeoutError: It was not possible in time.
        """
        end = time.monotonic() + timeout
        number = 0
        while True:
            number += 1
            answer = self._command('/v3/kv/put', {'key': _base64(FILLER_KEY), 'value': _base64(str(number))}, timeout)
            if int(answer['header']['revision']) > revision:
                return
            if time.monotonic() > end:
                raise TimeoutError(f'the store was not past revision {revision} within {timeout:g} s')

    def _start_era(self) -> None:
        self.era += 1
        self.has_backup = False

    def _all_members(self) -> list[Member]:
        return [*self.etcd.members, *self.etcd.learners]

    def _in_thread(self, function: Any, *args: object) -> None:
        """Call a function in a thread, because the members communicate through proxies on this program's hub."""
        gevent.get_hub().threadpool.apply(function, args)

    def _add_user(self) -> None:
        for path, body in (
            ('/v3/auth/user/add', {'name': USER, 'password': self._password}),
            ('/v3/auth/role/add', {'name': 'root'}),
            ('/v3/auth/user/grant', {'user': USER, 'role': 'root'}),
        ):
            self._command(path, body, 30.0, already_done='already exists')

    def _command(
        self, path: str, body: dict[str, Any], timeout: float, *, already_done: str | None = None
    ) -> dict[str, Any]:
        """Send a request to one member after another until one succeeds.

        Args:
            path: The path of the request.
            body: The request.
            timeout: Seconds.
            already_done: Text of the error that says that an earlier attempt has succeeded.
        """
        end = time.monotonic() + timeout
        while True:
            for url in self.urls:
                gateway = self.gateway(url, timeout=REQUEST_TIMEOUT)
                try:
                    return gateway.request(path, body)
                except (OSError, RequestRefused) as error:
                    if already_done is not None and already_done in str(error):
                        return {}
                    failure = error
                finally:
                    gateway.close()
                if time.monotonic() > end:
                    raise TimeoutError(f'{path} failed for {timeout:g} s: {failure}') from failure
            gevent.sleep(0.1)

    # -- start and stop

    def __enter__(self) -> ProxiedCluster:
        with ExitStack() as opened:
            self._backups = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix='getc-backup-')))
            opened.enter_context(self.etcd)
            self.etcd.add_learner()
            for name in CLIENTS:
                self._add_links(name, opened)
            self._add_user()
            self._open = opened.pop_all()
        return self

    def _add_links(self, name: str, opened: ExitStack) -> None:
        learners = [learner.url for learner in self.etcd.learners]
        urls = [*self.urls, *learners] if name == CLIENT_WITH_LEARNER else self.urls
        links = self.links[name] = opened.enter_context(FaultProxies(urls))
        endpoints = [link.url for link in links]
        if name == CLIENT_WITH_PING_PROXIES:
            endpoints = [opened.enter_context(PingProxy(url)).url for url in endpoints]
        elif name == CLIENT_WITH_LEARNER:
            endpoints = [*endpoints[MEMBERS:], *endpoints[:MEMBERS]]
        self._endpoints[name] = endpoints

    def __exit__(self, *_: object) -> None:
        self._open.close()


@contextmanager
def _paused(members: list[Member]) -> Iterator[None]:
    """Pause the running members; members that were paused before stay paused."""
    running = [member for member in members if member.state is MemberState.UP]
    try:
        for member in running:
            member.pause()
        yield
    finally:
        for member in running:
            member.resume()


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns('*.tmp'), copy_function=_copy_file)


def _copy_file(source: str, target: str) -> None:
    """Copy the written parts of a sparse file: etcd reserves 64 MB for its log."""
    with open(source, 'rb', buffering=0) as reading, open(target, 'wb', buffering=0) as writing:
        size = os.fstat(reading.fileno()).st_size
        end = 0
        while end < size:
            try:
                begin = os.lseek(reading.fileno(), end, os.SEEK_DATA)
            except OSError:  # there are no more data
                break
            end = os.lseek(reading.fileno(), begin, os.SEEK_HOLE)
            reading.seek(begin)
            writing.seek(begin)
            writing.write(reading.read(end - begin))
        writing.truncate(size)


def _port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
