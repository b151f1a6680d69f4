"""Proxies in front of etcd: nginx, haproxy, ``etcd grpc-proxy`` and ``etcd gateway``, with the files of the docs."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from getc.testing.ports import HOST, free_ports
from getc.testing.processes import Process, check_output, poll_until

__all__ = ['KINDS', 'PROXIES', 'Kind', 'RealProxy']

EXAMPLES = Path(__file__).parents[2] / 'examples' / 'proxies'

LISTEN_ADDRESS = '127.0.0.1:23790'
ETCD_ADDRESS = '127.0.0.1:2379'
"""The addresses in the examples, which are replaced by those of the test."""

KEEP_ALIVE_FLAGS = """ \\
    --dial-keepalive-time=10s \\
    --dial-keepalive-timeout=5s"""
"""Flags that ``grpc-proxy`` of etcd 3.5.1 does not have."""

START_TIMEOUT = 30.0
STOP_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of proxy.

    Attributes:
        name: Its name in tests.
        example: The name of its file in ``examples/proxies``.
        program: The program that has to be installed; None for the etcd of the test.
        is_tcp: It forwards bytes, and does not interpret HTTP/2.
        is_grpc_proxy: It is ``etcd grpc-proxy``.
    """

    name: str
    example: str
    program: str | None = None
    is_tcp: bool = False
    is_grpc_proxy: bool = False

    def __str__(self) -> str:
        return self.name


PROXIES = (
    Kind('gateway', 'gateway.sh', is_tcp=True),
    Kind('grpc-proxy', 'grpc-proxy.sh', is_grpc_proxy=True),
    Kind('haproxy-h2', 'haproxy-h2.cfg', 'haproxy'),
    Kind('haproxy-tcp', 'haproxy-tcp.cfg', 'haproxy', is_tcp=True),
    Kind('nginx', 'nginx.conf', 'nginx'),
)

KINDS = {kind.name: kind for kind in PROXIES}


@dataclass
class RealProxy:
    """A proxy on a free port of this machine, in front of one or more etcd servers.

    Args:
        kind: The kind.
        etcd: The path of the etcd executable that is run as ``grpc-proxy`` or ``gateway``.
        targets: The URLs of the servers.
        folder: An empty folder for its files.
        changes: Replacements in the example file; each text has to be in the file.
    """

    kind: Kind
    etcd: str
    targets: list[str]
    folder: Path
    changes: Mapping[str, str] = field(default_factory=dict)
    _process: Process | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        """The URL for clients; a restart does not change it."""
        return f'http://{HOST}:{self._port}'

    @property
    def secure_url(self) -> str:
        """The URL for clients over TLS."""
        return f'https://{HOST}:{self._port}'

    def start(self) -> RealProxy:
        """Start the proxy and wait until it listens.  Skips the test if the program is not installed."""
        program = None if self.kind.program is None else _find(self.kind.program)
        if not self._port:
            (self._port,) = free_ports(1)
        path = self._write_example()
        with open(self.folder / 'log', 'ab') as log:
            self._process = Process(self._command(program, path), output=log.fileno(), env=self._environment())
        if not poll_until(lambda: self._listens() or self._has_ended(), START_TIMEOUT) or self._has_ended():
            self.stop()
            raise OSError(f'{self.kind} does not listen: {self.log()}')
        return self

    def stop(self) -> None:
        """Kill the proxy.  Does nothing if it is down."""
        if self._process is not None:
            if self.kind.name == 'nginx':
                self._process.send_signal(15)  # it ends its workers
                poll_until(self._has_ended, STOP_TIMEOUT)
            self._process.kill()
            self._process = None

    def pause(self) -> None:
        """Suspend the proxy (SIGSTOP); not for nginx, whose workers are other processes."""
        assert self._process is not None and self.kind.name != 'nginx'
        self._process.pause()

    def restart(self) -> None:
        """Kill the proxy and start it at the same URL."""
        self.stop()
        self.start()

    def log(self) -> str:
        """Return the output of the proxy."""
        return (self.folder / 'log').read_text('utf-8', 'replace')[-2000:]

    def __enter__(self) -> RealProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_example(self) -> Path:
        text = (EXAMPLES / self.kind.example).read_text('utf-8')
        addresses = [urlsplit(target).netloc for target in self.targets]
        changes = {LISTEN_ADDRESS: f'{HOST}:{self._port}', **self.changes}
        if self.kind.program is None:
            changes[ETCD_ADDRESS] = ','.join(addresses)
        else:  # one line for each server
            (line,) = [line for line in text.splitlines() if ETCD_ADDRESS in line and LISTEN_ADDRESS not in line]
            names = [line.replace('member1', f'member{number}') for number in range(1, len(addresses) + 1)]
            lines = [name.replace(ETCD_ADDRESS, address) for name, address in zip(names, addresses, strict=True)]
            changes[line] = '\n'.join(lines)
        if self.kind.name == 'nginx':  # as another user than root it cannot use the folders of the package
            names = ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')
            folders = ''.join(f'{name}_temp_path {self.folder}/{name};' for name in names)
            changes['http {'] = f'http {{ access_log off; {folders}'
        if self.kind.is_grpc_proxy and '--dial-keepalive-time' not in check_output(
            [self.etcd, 'grpc-proxy', 'start', '-h']
        ):
            changes[KEEP_ALIVE_FLAGS] = ''
        for old in changes:
            assert old in text, f'{self.kind.example} has no {old!r}'
        # In one pass, the longest first: the address of etcd is the beginning of that of the proxy.
        pattern = '|'.join(re.escape(old) for old in sorted(changes, key=len, reverse=True))
        text = re.sub(pattern, lambda found: changes[found[0]], text)
        path = self.folder / self.kind.example
        path.write_text(text, 'utf-8')
        return path

    def _command(self, program: str | None, path: Path) -> list[str]:
        if self.kind.name == 'nginx':
            assert program is not None
            options = f'daemon off; pid {self.folder}/pid; error_log stderr; worker_processes 1;'
            return [program, '-p', str(self.folder), '-e', 'stderr', '-c', str(path), '-g', options]
        if self.kind.program == 'haproxy':
            assert program is not None
            return [program, '-db', '-f', str(path)]
        return ['/bin/sh', str(path)]

    def _environment(self) -> dict[str, str]:
        """Return the environment: the scripts of the examples find the etcd on PATH."""
        tools = self.folder / 'bin'
        tools.mkdir(exist_ok=True)
        if not (tools / 'etcd').exists():
            (tools / 'etcd').symlink_to(self.etcd)
        return {**os.environ, 'PATH': f'{tools}{os.pathsep}{os.environ["PATH"]}'}

    def _has_ended(self) -> bool:
        return self._process is None or self._process.has_ended()

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex((HOST, self._port)) == 0


def _find(program: str) -> str:
    """Return the path of a program; skip the test if it is not installed."""
    path = shutil.which(program, path=f'{os.environ["PATH"]}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin')
    if path is None:
        pytest.skip(f'{program} is not installed')
    return path
