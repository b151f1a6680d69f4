"""The virtual environment of a contestant: ``.venv-bench-NAME``, made when it is first needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tools.bench.registry import Contestant

__all__ = ['NotInstalled', 'python_of']

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 600
"""Seconds for pip."""


class NotInstalled(Exception):
    """The contestant's packages cannot be installed here.  The text says why."""


def python_of(contestant: Contestant, root: Path = ROOT) -> str:
    """The Python that runs a contestant: this one, or one in an environment with what it requires.

    Raises:
        NotInstalled: Making the environment failed.
    """
    if not contestant.requires:
        return sys.executable
    directory = root / f'.venv-bench-{contestant.file_name}'
    python, ready = directory / 'bin' / 'python', directory / '.ready'
    wanted = '\n'.join(contestant.requires)
    if not ready.exists() or ready.read_text() != wanted:
        _run(sys.executable, '-m', 'venv', '--clear', str(directory))
        _run(str(python), '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', *contestant.requires)
        ready.write_text(wanted)
    return str(python)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith('ERROR')] or lines[-1:] or ['no reason was given']
        raise NotInstalled(told[-1])
