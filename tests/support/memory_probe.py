"""Measuring memory in an interpreter of its own: what earlier tests did to classes and caches is not in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

__all__ = ['printed_by']

REPOSITORY = Path(__file__).parents[2]


def printed_by(program: str, *arguments: str) -> float:
    """Run a program, which prints a number last, and return it."""
    command = [sys.executable, '-c', dedent(program), *arguments]
    # Coverage would measure the program, too, and what it remembers of each line would be counted.
    environment = {name: value for name, value in os.environ.items() if not name.startswith('COVERAGE_')}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])
