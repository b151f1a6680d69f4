"""How the process of a client is started: in a virtual environment, ``.venv-bench-NAME``, or as the Go program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.bench.registry import BenchClient
from tools.interop import build as interop

__all__ = ['Launch', 'NotInstalled', 'prepare']

ROOT = Path(__file__).resolve().parent.parent.parent
WORKER = Path(__file__).parent / 'worker'
PIP_TIMEOUT = 600
"""Seconds for pip."""


class NotInstalled(Exception):
    """The packages of a client could not be installed, or there is no Go.  The message has the reason."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the process of a client.

    Attributes:
        command: The program and its arguments, without the URL of the etcd, which is the last one.
        environment: Variables to add to the environment of this process.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def prepare(client: BenchClient, root: Path = ROOT) -> Launch:
    """Install what a client requires, or build it, unless that was done before.

    A client without requirements runs in the current environment.

    Raises:
        NotInstalled: Creating the environment or the program failed.
    """
    if client.mode == 'go':
        return Launch((_build_go(), 'bench'))
    python = _prepare_python(client, root)
    environment = {} if client.package is None else _import_from(client.package)
    return Launch((python, str(WORKER), str(client.path), client.mode), environment)


def _import_from(package: Path) -> dict[str, str]:
    return {'PYTHONPATH': str(package), 'GETC_BENCH_PACKAGE': str(package)}


def _build_go() -> str:
    try:
        return str(interop.build())
    except (interop.CannotBuild, interop.BuildFailed) as error:
        raise NotInstalled(str(error)) from error


def _prepare_python(client: BenchClient, root: Path) -> str:
    """Return the path of the current Python, or of one with the packages that the client requires."""
    if not client.requires:
        return sys.executable
    directory = root / f'.venv-bench-{client.file_name}'
    python, ready = directory / 'bin' / 'python', directory / '.ready'
    wanted = '\n'.join(client.requires)
    if not ready.exists() or ready.read_text() != wanted:
        _run(sys.executable, '-m', 'venv', '--clear', str(directory))
        _run(str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *client.requires)
        ready.write_text(wanted)
    return str(python)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith('ERROR')] or lines[-1:] or [f'{command} failed']
        raise NotInstalled(errors[-1])
