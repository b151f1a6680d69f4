"""Fixtures for tests of whole processes: fork, exit, threads, and clients shared between threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import getc
from getc.testing import EtcdServer
from tests.support.api_support import skip_unless_supported
from tests.support.programs import Program, Run

PROGRAMS = Path(__file__).parent / 'programs'


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
    """Each API that the etcd supports."""
    api: str = request.param
    skip_unless_supported(api, etcd_server.binary)
    return api


@pytest.fixture
def client(etcd_server: EtcdServer, api: str) -> Iterator[getc.Client]:
    """A client of an empty etcd, to read what the programs write."""
    with getc.etcd(etcd_server.url, api=api) as client:  # type: ignore[arg-type]
        yield client
