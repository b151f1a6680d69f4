"""A real etcd for tests, demos and experiments."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from types import TracebackType

import gevent

from getc.errors import EtcException
from getc.testing.binaries import Api, EtcdBinary, find_etcd, version_of
from getc.testing.cleaning import Requests, clear_v2, clear_v3
from getc.testing.processes import Guard, Process, wait_until
from getc.testing.virtual import real_sleep

__all__ = ['EtcdServer', 'ServerFailed']

PORTS = range(20_000, 32_000)
"""Below the ports that systems give to outgoing connections: a client that keeps trying to reach a
dead server there would one day be given the server's own port, and connect to itself."""

ATTEMPTS = 5

PATIENCE = 1.0
"""Seconds for one answer about its health, before it is asked again."""


class ServerFailed(EtcException):
    """The etcd did not start.  The message has the end of its log."""


class EtcdServer:
    """One etcd on free loopback ports, with its data in a temporary directory.

    It does not outlive this program, however that ends, and leaves no files.  Its methods block the
    calling greenlet only, in real time even where time is virtual.  Writes are not synchronised to
    the disk (where etcd can leave that out): it is for data that may be lost.

    Also a context manager, which starts and stops it.

    Args:
        api: ``'v2'`` or ``'v3'``: the API that it must speak; None for whichever it does.
        binary: The path of the etcd; None to look for one as :func:`find_etcd` does.
        timeout: Seconds within which it must serve after a start.

    Attributes:
        binary: The etcd that is run: its path, version, and why it is this one.
        url: Where it serves, from the first start on; a restart does not change it.

    Raises:
        EtcdNotFound: There is no etcd that speaks the API.
        OSError: ``binary`` cannot be run.

    Example::

        with EtcdServer(api='v2') as server:
            etcd = getc.etcd(server.url, api='v2')
            etcd.set('/hello', 'Hello, world')
            server.kill()                # an outage
            server.restart(wipe=True)    # and back, empty
    """

    def __init__(
        self, *, api: Api | None = None, binary: str | os.PathLike[str] | None = None, timeout: float = 30.0
    ) -> None:
        if binary is None:
            self.binary = find_etcd(api)
        else:
            self.binary = EtcdBinary(os.fspath(binary), version_of(os.fspath(binary)), 'as asked for')
            if not self.binary.supports(api):
                raise ValueError(f'{self.binary} does not speak the {api} API')
        self.url = ''
        self._timeout = timeout
        self._directory: str | None = None
        self._guard: Guard | None = None
        self._process: Process | None = None
        self._peer_url = ''
        self._has_served = False
        self._clean_at = 0

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
        return self._process.pid if self._process is not None and not self._has_ended() else None

    def start(self) -> EtcdServer:
        """Start it and return it once it serves: after :meth:`kill` with its data, after :meth:`stop` empty.

        Raises:
            ServerFailed: It ended, or did not serve within the timeout.  Nothing is left running.
        """
        if not self._has_ended():
            raise RuntimeError(f'{self!r} is running')
        if self._directory is None:
            self._directory = tempfile.mkdtemp(prefix='getc-etcd-')
            self._guard = Guard(self._directory)
        for attempt in range(1, ATTEMPTS + 1):
            if not self._has_served:
                self.url, self._peer_url = (f'http://127.0.0.1:{port}' for port in _free_ports(2))
            self._launch()
            if wait_until(self._serves_or_has_ended, self._timeout) and not self._has_ended():
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
        if not self._has_ended():
            self.resume()
            self._signal(signal.SIGTERM)
            wait_until(self._has_ended, timeout)
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
            self._clean_at = 0
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would; its data stay.  Does nothing if it is down."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._guard is not None:
            self._guard.watch(None)

    def restart(self, *, wipe: bool = False) -> EtcdServer:
        """Kill it if it runs, and start it at the same URL.

        Args:
            wipe: Throw its data away first.

        Raises:
            ServerFailed: As :meth:`start`.
        """
        self.kill()
        if wipe and self._directory is not None:
            shutil.rmtree(self._data, ignore_errors=True)
            self._clean_at = 0
        return self.start()

    def pause(self) -> None:
        """Stop it from running (SIGSTOP): connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run on."""
        self._signal(signal.SIGCONT)

    def clear(self) -> None:
        """Delete every key, of both APIs.  Revisions, indices and their history go on.

        Unless there were more than 1000 changes since the last call (v2): it is restarted, empty,
        since nothing tells then which hidden nodes there are.

        Raises:
            OSError: It does not answer.
        """
        with Requests(self.url) as requests:
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
        if self._directory is None or not self._log.exists():
            return ''
        return '\n'.join(self._log.read_text('utf-8', 'replace').splitlines()[-lines:])

    def __enter__(self) -> EtcdServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = 'down' if self._has_ended() else f'at {self.url}'
        return f'<EtcdServer {self.version} {state}>'

    @property
    def _data(self) -> Path:
        return Path(self._directory or '', 'data')

    @property
    def _log(self) -> Path:
        return Path(self._directory or '', 'log')

    def _launch(self) -> None:
        assert self._guard is not None
        with self._log.open('ab') as output:
            self._process = Process([self.binary.path, *self._options()], output=output.fileno(), env=_environment())
        self._guard.watch(self._process.pid)

    def _options(self) -> list[str]:
        options = {
            'name': 'getc',
            'data-dir': str(self._data),
            'listen-client-urls': self.url,
            'advertise-client-urls': self.url,
            'listen-peer-urls': self._peer_url,
            'initial-advertise-peer-urls': self._peer_url,
            'initial-cluster': f'getc={self._peer_url}',
            'logger': 'zap',
            'log-level': 'warn',
        }
        if self.binary.version < (3, 4, 0):
            del options['logger'], options['log-level']
        elif self.binary.supports('v2'):
            options['enable-v2'] = 'true'
        if self.binary.version >= (3, 5, 0):
            options['unsafe-no-fsync'] = 'true'
        return [f'--{name}={value}' for name, value in options.items()]

    def _has_ended(self) -> bool:
        return self._process is None or self._process.has_ended()

    def _serves_or_has_ended(self) -> bool:
        if self._has_ended():
            return True
        # Whoever listens there may be another, who never answers: ours has ended then.  No timeout of
        # the socket's would help where time is virtual.
        asking = gevent.spawn(self._is_healthy)
        try:
            wait_until(lambda: asking.ready() or self._has_ended(), PATIENCE)
            return asking.value is True
        finally:
            asking.kill()

    def _is_healthy(self) -> bool:
        try:
            with Requests(self.url) as requests:
                return 'true' in requests.ask('GET', '/health')
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)


def _free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens now."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(('127.0.0.1', port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f'no {count} free ports between {PORTS.start} and {PORTS.stop}')


def _environment() -> dict[str, str]:
    """This process's environment without etcd's options, which would fight with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('ETCD_', 'ETCDCTL_'))}
    if os.uname().machine in ('aarch64', 'arm64'):
        kept['ETCD_UNSUPPORTED_ARCH'] = 'arm64'  # etcd before 3.5 wants to hear it
    return kept
