"""Python programs that tests run in a process group of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ['Ended', 'Program', 'Run', 'is_running']

REPOSITORY = Path(__file__).parents[2]

EXIT_TIMEOUT = 60.0
"""Seconds until a program that does not exit fails the test."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Exit status and output of a program."""

    status: int
    output: str
    errors: str


class Program:
    """A Python program in a process group of its own, so that no process that it forks outlives the test.

    Args:
        command: Arguments of the interpreter.
        environment: Variables to add to the environment of this process.
    """

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
        """Return the next line of its stdout."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def read_error(self) -> str:
        """Return the next line of its stderr."""
        assert self._process.stderr is not None
        return self._process.stderr.readline().strip()

    def write(self, text: str) -> None:
        """Write to its stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def end(self, text: str = '') -> Ended:
        """Write to its stdin, close that, and wait for the program to exit."""
        output, errors = self._process.communicate(text, timeout=EXIT_TIMEOUT)
        return Ended(self._process.returncode, output, errors)

    def kill(self) -> None:
        """Kill the whole process group."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all of them have exited
        self._process.communicate()


Run = Callable[..., Program]
"""Starts a program: see the fixture ``run`` of tests/processes."""


def is_running(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    done = subprocess.run(['ps', '-o', 'stat=', '-p', str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip()[:1] not in ('', 'Z')
