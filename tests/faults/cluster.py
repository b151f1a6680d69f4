"""The ground of a run: three etcds, and for each client a way of its own to each of them, which can be broken alone.

Client ``b`` has a learner among its endpoints, the first of them, and client ``c`` goes through proxies that answer
HTTP/2 PINGs themselves.
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
from tests.faults.gateway import Gateway, Refused
from tests.faults.pings import PingProxy

__all__ = ['CLIENTS', 'MEMBERS', 'Ground']

MEMBERS: Final = 3
CLIENTS: Final = ('a', 'b', 'c')

HAS_LEARNER: Final = 'b'
"""The client that has a learner among its endpoints."""

HAS_PING_PROXIES: Final = 'c'
"""The client that goes through proxies that answer PINGs."""

USER: Final = 'root'

FILLER: Final = '/filler'
"""A key that is written for the sake of its revisions."""

PATIENCE: Final = 2.0
"""Seconds for a member to obey, before another is asked."""


class Ground:
    """Three members that are one store, and the ways to them.  A context manager.

    All clients have the credentials of a user from the start; etcd asks for them only while it is told to.

    Args:
        binary: The etcd.

    Attributes:
        cluster: The members.
        ways: Of each client: a proxy in front of each member, and behind those one in front of the learner, for the
            client that has one.
        era: Counts how often the data was wiped or put back from a backup.
        has_backup: There is a backup of this era.
    """

    def __init__(self, binary: EtcdBinary) -> None:
        self.cluster = EtcdCluster(MEMBERS, binary=binary.path)
        self.ways: dict[str, FaultProxies] = {}
        self.era = 0
        self.has_backup = False
        self._entrances: dict[str, list[str]] = {}  # the URLs of each client
        self._folder = Path()  # of backups
        self._password = secrets.token_hex(8)
        self._open = ExitStack()

    @property
    def urls(self) -> list[str]:
        """Where the members are, past all proxies."""
        return [member.url for member in self.cluster.members]

    @property
    def may_kill(self) -> bool:
        """False for etcds whose members may go on with different data after a SIGKILL."""
        return not self.cluster.binary.may_diverge

    @property
    def ports(self) -> set[int]:
        """The ports that clients connect to, or proxies on their behalf."""
        urls = [url for urls in self._entrances.values() for url in urls]
        return {way.port for ways in self.ways.values() for way in ways} | {_port_of(url) for url in urls}

    def client(self, name: str) -> getc.Client:
        """A new client that goes its own ways; whoever asks closes it."""
        return getc.etcd(self._entrances[name], username=USER, password=self._password)

    def gateway(self, url: str, *, timeout: float) -> Gateway:
        """A member, or a way to it, without getc."""
        return Gateway(url, USER, self._password, timeout=timeout)

    # -- commands to etcd, past all proxies; each is repeated until it was obeyed

    def compact(self, revision: int, timeout: float) -> None:
        """Have etcd forget what was before a revision.

        Raises:
            TimeoutError: It was not possible in time.
        """
        self._command('/v3/kv/compaction', {'revision': str(revision)}, timeout, but='has been compacted')

    def put(self, key: str, value: str, timeout: float) -> None:
        """Write a key.  Raises TimeoutError like the others."""
        self._command('/v3/kv/put', {'key': _packed(key), 'value': _packed(value)}, timeout)

    def ask_for_credentials(self, timeout: float) -> None:
        """Switch etcd's authentication on.  Raises TimeoutError like the others."""
        self._command('/v3/auth/enable', {}, timeout)

    def trust_everybody(self, timeout: float) -> None:
        """Switch etcd's authentication off.  Raises TimeoutError like the others."""
        self._command('/v3/auth/disable', {}, timeout, but='authentication is not enabled')

    def revoke(self, lease: int, timeout: float) -> None:
        """Have a lease end, with all that is on it.  Raises TimeoutError like the others."""
        self._command('/v3/lease/revoke', {'ID': str(lease)}, timeout, but='lease not found')

    def delete(self, key: str, timeout: float) -> None:
        """Delete a key.  Raises TimeoutError like the others."""
        self._command('/v3/kv/deleterange', {'key': _packed(key)}, timeout)

    def leases(self, timeout: float) -> int:
        """How many leases there are."""
        return len(self._command('/v3/lease/leases', {}, timeout).get('leases', ()))

    def wipe(self) -> None:
        """Kill all members and start them without data.  An era ends; no client may be connected.

        Raises:
            ServerFailed: They did not get well.
        """
        self._begin_era()
        self.cluster.wipe()
        self._add_user()

    def back_up(self) -> None:
        """Copy the data of all members, of one moment: they are paused meanwhile."""
        members = self._all_members()
        with _paused(members):
            for member in members:
                self._in_thread(_copy, member.data, self._folder / member.name)
        self.has_backup = True

    def restore(self) -> None:
        """Kill all members and start them with the data of the backup.  An era ends; no client may be connected.

        Raises:
            ServerFailed: They did not get well.
        """
        self._begin_era()
        for member in self._all_members():
            member.kill()
            self._in_thread(_copy, self._folder / member.name, member.data)
        self.cluster.mend()

    def pass_revision(self, revision: int, timeout: float) -> None:
        """Write until the store is past a revision.

        Raises:
            TimeoutError: It was not possible in time.
        """
        end = time.monotonic() + timeout
        number = 0
        while True:
            number += 1
            answer = self._command('/v3/kv/put', {'key': _packed(FILLER), 'value': _packed(str(number))}, timeout)
            if int(answer['header']['revision']) > revision:
                return
            if time.monotonic() > end:
                raise TimeoutError(f'the store was not past revision {revision} within {timeout:g} s')

    def _begin_era(self) -> None:
        self.era += 1
        self.has_backup = False

    def _all_members(self) -> list[Member]:
        return [*self.cluster.members, *self.cluster.learners]

    def _in_thread(self, function: Any, *args: object) -> None:
        """Call it in a thread: the members talk over this program's hub."""
        gevent.get_hub().threadpool.apply(function, args)

    def _add_user(self) -> None:
        for path, request in (
            ('/v3/auth/user/add', {'name': USER, 'password': self._password}),
            ('/v3/auth/role/add', {'name': 'root'}),
            ('/v3/auth/user/grant', {'user': USER, 'role': 'root'}),
        ):
            self._command(path, request, 30.0, but='already exists')

    def _command(self, path: str, request: dict[str, Any], timeout: float, *, but: str | None = None) -> dict[str, Any]:
        """Ask one member after the other until one obeys; ``but`` is what it says when it had been done before."""
        end = time.monotonic() + timeout
        while True:
            for url in self.urls:
                gateway = self.gateway(url, timeout=PATIENCE)
                try:
                    return gateway.ask(path, request)
                except (OSError, Refused) as error:
                    if but is not None and but in str(error):
                        return {}
                    trouble = error
                finally:
                    gateway.close()
                if time.monotonic() > end:
                    raise TimeoutError(f'{path} was not possible within {timeout:g} s: {trouble}') from trouble
            gevent.sleep(0.1)

    # -- the beginning and the end

    def __enter__(self) -> Ground:
        with ExitStack() as opened:
            self._folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix='getc-backup-')))
            opened.enter_context(self.cluster)
            self.cluster.add_learner()
            for name in CLIENTS:
                self._make_ways(name, opened)
            self._add_user()
            self._open = opened.pop_all()
        return self

    def _make_ways(self, name: str, opened: ExitStack) -> None:
        learners = [learner.url for learner in self.cluster.learners]
        urls = [*self.urls, *learners] if name == HAS_LEARNER else self.urls
        ways = self.ways[name] = opened.enter_context(FaultProxies(urls))
        entrances = [way.url for way in ways]
        if name == HAS_PING_PROXIES:
            entrances = [opened.enter_context(PingProxy(url)).url for url in entrances]
        elif name == HAS_LEARNER:
            entrances = [*entrances[MEMBERS:], *entrances[:MEMBERS]]
        self._entrances[name] = entrances

    def __exit__(self, *_: object) -> None:
        self._open.close()


@contextmanager
def _paused(members: list[Member]) -> Iterator[None]:
    """Those that were paused before stay so."""
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
    """Copy what was written, and leave out the rest: etcd reserves 64 MB for its log."""
    with open(source, 'rb', buffering=0) as reading, open(target, 'wb', buffering=0) as writing:
        size = os.fstat(reading.fileno()).st_size
        end = 0
        while end < size:
            try:
                begin = os.lseek(reading.fileno(), end, os.SEEK_DATA)
            except OSError:  # there is no more
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


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
