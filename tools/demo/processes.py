"""The roles of the demo as the director has them: processes that report, and that never outlive it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import gevent
from gevent.subprocess import PIPE, Popen

__all__ = ['Actor']

ROOT: Final = Path(__file__).parents[2]


class Actor:
    """A role, played by a process of its own.

    The process ends when its standard input does, so also when the director is killed.

    Args:
        name: The name it goes by.
        role: The arguments of the script that make the process play it.
        hear: Called with the name and the facts of each report.
    """

    def __init__(self, name: str, role: list[str], hear: Callable[[str, dict[str, Any]], None]) -> None:
        self.name = name
        # In a session of its own: a Ctrl-C is for the director alone.
        process = Popen(
            [sys.executable, '-m', 'tools.demo', *role], stdin=PIPE, stdout=PIPE, cwd=ROOT, start_new_session=True
        )
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._hear = hear
        self._listening = gevent.spawn(self._listen)

    def kill(self) -> None:
        """End it as a crash would, if it still runs.  Returns when it is gone, and all its reports were heard."""
        self._process.kill()
        self._process.wait()
        self._listening.join()
        self._stdin.close()
        self._stdout.close()

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    @property
    def status(self) -> int | None:
        """The exit status of the process, minus the signal that ended it; None while it runs."""
        status: int | None = self._process.poll()
        return status

    def _listen(self) -> None:
        for line in self._stdout:
            self._hear(self.name, json.loads(line))
