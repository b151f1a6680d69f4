"""Reports from a role's process to the orchestrator: one JSON object a line on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final, Protocol

import gevent
from gevent.socket import wait_read

__all__ = ['Report', 'on_stdin_closed', 'report']

STDIN: Final = 0
STDOUT: Final = 1


class Report(Protocol):
    """Sends the keyword arguments as one report."""

    def __call__(self, **facts: object) -> None: ...


def report(**facts: object) -> None:
    """Write the facts to standard output as one line of JSON."""
    try:
        os.write(STDOUT, json.dumps(facts).encode() + b'\n')  # a write of less than PIPE_BUF bytes is atomic
    except BrokenPipeError:
        pass  # the parent process has ended; the end of stdin ends this process


def on_stdin_closed(callback: Callable[[], object]) -> None:
    """Call the callback when standard input closes: the parent process has ended, even if it was killed."""

    def read() -> None:
        wait_read(STDIN)
        while os.read(STDIN, 1024):
            wait_read(STDIN)
        callback()

    gevent.spawn(read)
