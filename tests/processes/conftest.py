"""Whole processes: how they fork, end, and share a client between threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.api_support import skip_unless_spoken

PROGRAMS = Path(__file__).parent / 'programs'
REPOSITORY = Path(__file__).parents[2]

LIMIT = 60.0
"""Seconds for a program that fails; it never decides for one that does not."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and what it printed."""

    status: int
    output: str
    errors: str


class Program:
    """A Python program in a process group of its own, so that nothing that it has forked outlives the test."""

    def __init__(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def read_line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def read_error(self) -> str:
        """The next line of its errors."""
        assert self._process.stderr is not None
        return self._process.stderr.readline().strip()

    def write(self, text: str) -> None:
        """Give it this to read."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self, text: str = '') -> Ended:
        """Give it this to read, and wait until it has ended."""
        output, errors = self._process.communicate(text, timeout=LIMIT)
        return Ended(self._process.returncode, output, errors)

    def kill(self) -> None:
        """End it, and all that it has forked."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody is left
        self._process.communicate()


Run = Callable[..., Program]


@pytest.fixture
def run() -> Iterator[Run]:
    """Start a program of the folder ``programs``, or a module of Python's (``-m``), with arguments."""
    started: list[Program] = []

    def start(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Program:
        command = [name] if name.startswith('-') else [str(PROGRAMS / name)]
        started.append(Program(*command, *arguments, environment=environment))
        return started[-1]

    yield start
    for program in started:
        program.kill()


@pytest.fixture(params=['v2', 'v3'])
def api(request: pytest.FixtureRequest, etcd_server: EtcdServer) -> str:
    """An API that the etcd speaks."""
    api: str = request.param
    skip_unless_spoken(api, etcd_server.binary)
    return api


@pytest.fixture
def client(etcd_server: EtcdServer, api: str) -> Iterator[getc.Client]:
    """A client of an empty etcd, to see what the programs do."""
    with getc.etcd(etcd_server.url, api=api) as client:  # type: ignore[arg-type]
        yield client
