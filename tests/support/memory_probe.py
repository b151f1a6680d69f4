"""Memory measurements in a new interpreter, unaffected by the classes and caches of earlier tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.support.environments import without_coverage

__all__ = ['printed_by']

REPOSITORY = Path(__file__).parents[2]


def printed_by(program: str, *arguments: str) -> float:
    """Run a program and return the number that it prints last."""
    command = [sys.executable, '-c', dedent(program), *arguments]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=without_coverage(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])
