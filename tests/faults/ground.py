"""The ground of a run: three etcds, and for each client a way of its own to each of them, which can be broken alone."""

from __future__ import annotations

import base64
import secrets
import time
from contextlib import ExitStack
from typing import Any, Final

import gevent

import getc
from getc.testing import EtcdCluster, FaultProxies
from getc.testing.cluster import DIVERGING
from tests.faults.gateway import Gateway, Refused

__all__ = ['CLIENTS', 'MEMBERS', 'Ground']

MEMBERS: Final = 3
CLIENTS: Final = ('a', 'b', 'c')

USER: Final = 'root'

PATIENCE: Final = 2.0
"""Seconds for a member to obey, before another is asked."""


class Ground:
    """Three members that are one store, and the ways to them.  A context manager.

    All clients have the credentials of a user from the start; etcd asks for them only while it is told to.

    Attributes:
        cluster: The members.
        ways: Of each client: a proxy in front of each member.
        era: Counts how often the data was wiped.
    """

    def __init__(self) -> None:
        self.cluster = EtcdCluster(MEMBERS)
        self.ways: dict[str, FaultProxies] = {}
        self.era = 0
        self._password = secrets.token_hex(8)
        self._open = ExitStack()

    @property
    def urls(self) -> list[str]:
        """Where the members are, past all proxies."""
        return [member.url for member in self.cluster.members]

    @property
    def may_kill(self) -> bool:
        """False for etcds whose members may go on with different data after a SIGKILL."""
        return not DIVERGING[0] <= self.cluster.binary.version <= DIVERGING[1]

    def client(self, name: str) -> getc.Client:
        """A new client that goes its own ways; whoever asks closes it."""
        return getc.etcd(self.ways[name].url, username=USER, password=self._password)

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
        self.era += 1
        self.cluster.wipe()
        self._add_user()

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
            opened.enter_context(self.cluster)
            for name in CLIENTS:
                self.ways[name] = opened.enter_context(FaultProxies(self.urls))
            self._add_user()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
