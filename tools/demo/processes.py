"""Processes of the demo's roles: they report on a pipe, and end when the orchestrator does."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.subprocess import PIPE, Popen

__all__ = ['RoleProcess']

ROOT: Final = Path(__file__).parents[2]


class RoleProcess:
    """A process that runs one role of the demo.

    The process ends when its standard input is closed, so also when the orchestrator is killed.

    Args:
        name: Passed to ``on_report``.
        role: Command-line arguments that select the role.
        on_report: Called with the name and the facts of each report.
    """

    def __init__(self, name: str, role: list[str], on_report: Callable[[str, dict[str, Any]], None]) -> None:
        self.name = name
        # A new session, so that Ctrl-C reaches the orchestrator only.
        process = Popen(
            [sys.executable, '-m', 'tools.demo', *role], stdin=PIPE, stdout=PIPE, cwd=ROOT, start_new_session=True
        )
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._on_report = on_report
        self._reader = gevent.spawn(self._read_reports)

    def kill(self) -> None:
        """Send SIGKILL if the process runs.  Returns once it has ended and all its reports are processed."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._stdin.close()
        self._stdout.close()

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    @property
    def status(self) -> int | None:
        """The exit status, or minus the number of the signal that ended the process; None while it runs."""
        status: int | None = self._process.poll()
        return status

    def _read_reports(self) -> None:
        for line in self._stdout:
            self._on_report(self.name, json.loads(line))
