"""The virtual environment of a client, ``.venv-bench-NAME``, which is created at its first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.bench.registry import BenchClient

__all__ = ['NotInstalled', 'prepare_python']

ROOT = Path(__file__).resolve().parent.parent.parent
PIP_TIMEOUT = 600
"""Seconds for pip."""


class NotInstalled(Exception):
    """The packages of a client could not be installed.  The message is that of pip."""


def prepare_python(client: BenchClient, root: Path = ROOT) -> str:
    """Return the path of the Python for a client: the current one, or one with the packages that the client requires.

    Raises:
        NotInstalled: Creating the environment failed.
    """
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
