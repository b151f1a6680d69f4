"""The process and the files of one etcd, which runs alone or in a cluster."""

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

MIN_VERSION_WITH_SOCKET_PATHS = (3, 5, 13)
"""Older versions take only the name of a socket in the working directory, as ``unix://name:1`` (etcd#15940)."""

IN_FOLDER = ('/bin/sh', '-c', 'cd "$0" && exec "$@"')
"""Runs a program in a folder; the arguments are the folder and the command."""

HEALTH_TIMEOUT = 1.0
"""Seconds for one health check, before it is repeated."""


class MemberState(Enum):
    """The state of a member's process."""

    UP = 'the process runs'
    PAUSED = 'the process is suspended by SIGSTOP, and its connections are open'
    DOWN = 'there is no process'


class Member:
    """One etcd process.  It is killed and its files are removed when this program ends, also by SIGKILL.

    Attributes:
        name: The name of the member.
        binary: The etcd that is run.
        tls: How it serves clients over TLS; None for plain HTTP.
        has_socket: It also serves clients on a unix socket.
        number: A number that is unique in the cluster and never reused.
        url: The URL for clients.
        peer_url: The URL on which it listens for other members.
        advertised_url: The URL under which other members connect to it.
        id: Its member id in etcd; 0 until it is known.
    """

    def __init__(
        self,
        name: str,
        binary: EtcdBinary,
        *,
        tls: ServerTLS | None = None,
        number: int = 1,
        has_socket: bool = False,
    ) -> None:
        self.name = name
        self.binary = binary
        self.tls = tls
        self.number = number
        self.has_socket = has_socket
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
        """The process id; None while there is no process."""
        return None if self._process is None or self.has_ended() else self._process.pid

    @property
    def state(self) -> MemberState:
        """The state of its process."""
        if self.has_ended():
            return MemberState.DOWN
        return MemberState.PAUSED if self._is_paused else MemberState.UP

    @property
    def data(self) -> Path:
        """The data directory.  It does not exist before the first launch."""
        return self._folder / 'data'

    @property
    def socket_url(self) -> str:
        """The URL of the unix socket, which exists from the first launch on."""
        return f'{self._socket_scheme}://{self._socket}'

    def listen(self, client_port: int, peer_port: int, *, advertised_url: str | None = None) -> None:
        """Set the loopback ports that the next launch uses.

        Args:
            client_port: The port for clients.
            peer_port: The port for other members.
            advertised_url: The URL under which other members connect to it; None for that of ``peer_port``.
        """
        self.url = f'{"http" if self.tls is None else "https"}://127.0.0.1:{client_port}'
        self.peer_url = f'http://127.0.0.1:{peer_port}'
        self.advertised_url = self.peer_url if advertised_url is None else advertised_url

    def launch(self, cluster: str, *, joins: bool = False, env: Mapping[str, str] | None = None) -> None:
        """Start the process with the existing data.  Does not wait until it serves.

        Args:
            cluster: All members, in the format of etcd's ``--initial-cluster``.
            joins: True if the cluster has data already and the member is new in it.
            env: Additional environment variables.

        Raises:
            OSError: The etcd cannot be run.
        """
        if self._directory is None:
            self._directory = tempfile.mkdtemp(prefix='getc-etcd-')
            self._guard = Guard(self._directory)
        assert self._guard is not None
        self._socket.unlink(missing_ok=True)  # etcd 3.4 does not replace one that was left by a killed process
        command = [] if not self.has_socket or self._takes_socket_paths else [*IN_FOLDER, self._directory]
        command += [self.binary.path, *self._options(cluster, 'existing' if joins else 'new')]
        with self._log.open('ab') as output:
            self._process = Process(command, output=output.fileno(), env={**_environment(), **(env or {})})
        self._is_paused = False
        self._guard.watch(self._process.pid)

    def has_ended(self) -> bool:
        """Return True if there is no process or it has ended.  Does not block."""
        return self._process is None or self._process.has_ended()

    def serves_or_has_ended(self) -> bool:
        """Return True if the health check succeeds, which needs a leader, or if there is no process."""
        if self.has_ended():
            return True
        # Another program that never responds may listen on this port; then our process has ended.  A socket timeout
        # would not help, since it follows virtual time.
        check = gevent.spawn(self._is_healthy)
        try:
            poll_until(lambda: check.ready() or self.has_ended(), HEALTH_TIMEOUT)
            return check.value is True
        finally:
            check.kill()

    def requests(self) -> Requests:
        """Return a sender of plain HTTP requests, which does not verify the member's certificate."""
        return Requests(self.url, context=None if self.tls is None else self.tls.context())

    def client(self) -> Client:
        """Return a getc client of this member only, which does not verify the member's certificate."""
        options: dict[str, Any] = {} if self.tls is None else self.tls.client_options()
        return connect(self.url, api='v3', **options)

    def pause(self) -> None:
        """Suspend the process (SIGSTOP), and wait until none of its threads runs (where /proc shows threads)."""
        if self._process is not None:
            self._process.pause()
        self._is_paused = True

    def resume(self) -> None:
        """Resume the process after :meth:`pause`."""
        self._signal(signal.SIGCONT)
        self._is_paused = False

    def terminate(self, timeout: float) -> None:
        """Send SIGTERM, and SIGKILL if the process has not ended after ``timeout`` seconds.  The data stay."""
        self.resume()
        self._signal(signal.SIGTERM)
        poll_until(self.has_ended, timeout)
        self.kill()

    def kill(self) -> None:
        """Kill the process by SIGKILL.  The data stay."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._guard is not None:
            self._guard.watch(None)

    def wipe(self) -> None:
        """Delete the data.  The process must be down."""
        if self._directory is not None:
            shutil.rmtree(self.data, ignore_errors=True)

    def discard(self) -> None:
        """Kill the process and remove all its files."""
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log; empty if the files are removed."""
        if self._directory is None or not self._log.exists():
            return ''
        return '\n'.join(self._log.read_text('utf-8', 'replace').splitlines()[-lines:])

    def __repr__(self) -> str:
        return f'<etcd member {self.name} at {self.url}, {self.state.name.lower()}>'

    @property
    def _folder(self) -> Path:
        return Path(self._directory or '/nonexistent')

    @property
    def _takes_socket_paths(self) -> bool:
        return self.binary.version >= MIN_VERSION_WITH_SOCKET_PATHS

    @property
    def _socket(self) -> Path:
        return self._folder / ('etcd.sock' if self._takes_socket_paths else 'etcd.sock:1')

    @property
    def _socket_scheme(self) -> str:
        return 'unix' if self.tls is None else 'unixs'

    @property
    def _listen_urls(self) -> str:
        if not self.has_socket:
            return self.url
        socket_url = self.socket_url if self._takes_socket_paths else f'{self._socket_scheme}://{self._socket.name}'
        return f'{self.url},{socket_url}'

    @property
    def _log(self) -> Path:
        return self._folder / 'log'

    def _options(self, cluster: str, state: str) -> list[str]:
        options = {
            'name': self.name,
            'data-dir': str(self.data),
            'listen-client-urls': self._listen_urls,
            'advertise-client-urls': self.url,
            'listen-peer-urls': self.peer_url,
            'initial-advertise-peer-urls': self.advertised_url,
            'initial-cluster': cluster,
            'initial-cluster-state': state,
            # Otherwise etcd refuses further membership changes for 5 s after a member has started.
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
                return 'true' in requests.request('GET', '/health')
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)


def _environment() -> dict[str, str]:
    """Return this process's environment without etcd's variables, which conflict with command-line options."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(('ETCD_', 'ETCDCTL_'))}
    if os.uname().machine in ('aarch64', 'arm64'):
        variables['ETCD_UNSUPPORTED_ARCH'] = 'arm64'  # etcd before 3.5 refuses to start without it
    return variables
