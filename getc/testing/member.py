"""The process of one etcd and its files, alone or in a cluster."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import gevent

from getc.client import Client
from getc.client import etcd as connect
from getc.testing.admin import Requests
from getc.testing.binaries import EtcdBinary
from getc.testing.certificates import ServerTLS
from getc.testing.processes import Guard, Process, poll_until

__all__ = ['Member', 'MemberState']

PATIENCE = 1.0
"""Seconds for one answer about its health, before it is asked again."""


class MemberState(Enum):
    """What its process does."""

    UP = 'it runs'
    PAUSED = 'it is stopped by a signal, and its connections stay'
    DOWN = 'there is no process'


class Member:
    """One etcd.  It never outlives this program, however that ends, and neither do its files.

    Attributes:
        name: What it is called in its cluster.
        binary: The etcd that is run.
        tls: How it serves clients over TLS; None for plain HTTP.
        number: What its cluster counts it as; never that of another.
        url: Where clients reach it.
        peer_url: Where it listens for other members.
        advertised_url: Where the others are told to reach it.
        id: Its number in etcd; 0 until it is known.
    """

    def __init__(self, name: str, binary: EtcdBinary, *, tls: ServerTLS | None = None, number: int = 1) -> None:
        self.name = name
        self.binary = binary
        self.tls = tls
        self.number = number
        self.url = ''
        self.peer_url = ''
        self.advertised_url = ''
        self.id = 0
        self._directory: str | None = None
        self._guard: Guard | None = None
        self._process: Process | None = None
        self._is_paused = False

    @property
    def pid(self) -> int | None:
        """The process, or None while there is none."""
        return None if self._process is None or self.has_ended() else self._process.pid

    @property
    def state(self) -> MemberState:
        """What its process does now."""
        if self.has_ended():
            return MemberState.DOWN
        return MemberState.PAUSED if self._is_paused else MemberState.UP

    @property
    def data(self) -> Path:
        """Where its data are.  There is no such place before the first launch."""
        return self._folder / 'data'

    def listen(self, client_port: int, peer_port: int, *, advertised_url: str | None = None) -> None:
        """Serve on these loopback ports from the next launch on.

        Args:
            client_port: For clients.
            peer_port: For members.
            advertised_url: Where the others are told to reach it; None for where it listens.
        """
        self.url = f'{"http" if self.tls is None else "https"}://127.0.0.1:{client_port}'
        self.peer_url = f'http://127.0.0.1:{peer_port}'
        self.advertised_url = self.peer_url if advertised_url is None else advertised_url

    def launch(self, cluster: str, *, joins: bool = False, env: Mapping[str, str] | None = None) -> None:
        """Start the process, with the data that are there, and do not wait until it serves.

        Args:
            cluster: All members, as etcd's ``--initial-cluster`` takes them.
            joins: The cluster has data already, and this member is new in it.
            env: More variables for its environment.

        Raises:
            OSError: It cannot be run.
        """
        if self._directory is None:
            self._directory = tempfile.mkdtemp(prefix='getc-etcd-')
            self._guard = Guard(self._directory)
        assert self._guard is not None
        command = [self.binary.path, *self._options(cluster, 'existing' if joins else 'new')]
        with self._log.open('ab') as output:
            self._process = Process(command, output=output.fileno(), env={**_environment(), **(env or {})})
        self._is_paused = False
        self._guard.watch(self._process.pid)

    def has_ended(self) -> bool:
        """True if there is no process (any more).  Does not block."""
        return self._process is None or self._process.has_ended()

    def serves_or_has_ended(self) -> bool:
        """True if it answers that it is well, which needs a leader, or is not there at all."""
        if self.has_ended():
            return True
        # Whoever listens there may be another, who never answers: ours has ended then.  No timeout of
        # the socket's would help where time is virtual.
        asking = gevent.spawn(self._is_healthy)
        try:
            poll_until(lambda: asking.ready() or self.has_ended(), PATIENCE)
            return asking.value is True
        finally:
            asking.kill()

    def requests(self) -> Requests:
        """Plain requests to it, which trust it whatever its certificate says."""
        return Requests(self.url, context=None if self.tls is None else self.tls.context())

    def client(self) -> Client:
        """A getc client of it alone, which trusts it whatever its certificate says."""
        options: dict[str, Any] = {} if self.tls is None else self.tls.client_options()
        return connect(self.url, api='v3', **options)

    def pause(self) -> None:
        """Stop it from running (SIGSTOP).  When this returns no thread of it runs, where the system tells (/proc)."""
        if self._process is not None:
            self._process.pause()
        self._is_paused = True

    def resume(self) -> None:
        """Let it run on."""
        self._signal(signal.SIGCONT)
        self._is_paused = False

    def end(self, timeout: float) -> None:
        """End it, kindly for so many seconds.  Its data stay."""
        self.resume()
        self._signal(signal.SIGTERM)
        poll_until(self.has_ended, timeout)
        self.kill()

    def kill(self) -> None:
        """End it by SIGKILL.  Its data stay."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._guard is not None:
            self._guard.watch(None)

    def wipe(self) -> None:
        """Throw its data away, if there are any.  It is down."""
        if self._directory is not None:
            shutil.rmtree(self.data, ignore_errors=True)

    def discard(self) -> None:
        """Kill it and remove all its files."""
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def log_tail(self, lines: int = 15) -> str:
        """The end of its log; empty when its files are gone."""
        if self._directory is None or not self._log.exists():
            return ''
        return '\n'.join(self._log.read_text('utf-8', 'replace').splitlines()[-lines:])

    def __repr__(self) -> str:
        return f'<etcd member {self.name} at {self.url}, {self.state.name.lower()}>'

    @property
    def _folder(self) -> Path:
        return Path(self._directory or '/nonexistent')

    @property
    def _log(self) -> Path:
        return self._folder / 'log'

    def _options(self, cluster: str, state: str) -> list[str]:
        options = {
            'name': self.name,
            'data-dir': str(self.data),
            'listen-client-urls': self.url,
            'advertise-client-urls': self.url,
            'listen-peer-urls': self.peer_url,
            'initial-advertise-peer-urls': self.advertised_url,
            'initial-cluster': cluster,
            'initial-cluster-state': state,
            # Members come and go as a test says; with it, one that has just started may not be joined for 5 s.
            'strict-reconfig-check': 'false',
            'logger': 'zap',
            'log-level': 'warn',
        }
        if self.binary.version < (3, 4, 0):
            del options['logger'], options['log-level']
        elif self.binary.supports('v2'):
            options['enable-v2'] = 'true'
        if self.binary.version >= (3, 5, 0):
            options['unsafe-no-fsync'] = 'true'
        if self.tls is not None:
            options.update(self.tls.options())
        return [f'--{name}={value}' for name, value in options.items()]

    def _is_healthy(self) -> bool:
        try:
            with self.requests() as requests:
                return 'true' in requests.ask('GET', '/health')
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)


def _environment() -> dict[str, str]:
    """This process's environment without etcd's options, which would fight with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('ETCD_', 'ETCDCTL_'))}
    if os.uname().machine in ('aarch64', 'arm64'):
        kept['ETCD_UNSUPPORTED_ARCH'] = 'arm64'  # etcd before 3.5 wants to hear it
    return kept
