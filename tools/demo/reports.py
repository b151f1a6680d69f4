"""What a role of the demo tells the director: one JSON object a line, by its standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Final, Protocol

import gevent
from gevent.socket import wait_read

__all__ = ['Tell', 'tell', 'when_dismissed']

STDIN: Final = 0
STDOUT: Final = 1


class Tell(Protocol):
    """Reports facts."""

    def __call__(self, **facts: object) -> None: ...


def tell(**facts: object) -> None:
    """Report facts to whoever started this process."""
    try:
        os.write(STDOUT, json.dumps(facts).encode() + b'\n')  # a short line to a pipe is one piece
    except BrokenPipeError:
        pass  # nobody is there to be told; the end of stdin ends this process


def when_dismissed(callback: Callable[[], object]) -> None:
    """Have it called when our standard input ends: whoever started this process is gone, in whatever way."""

    def listen() -> None:
        wait_read(STDIN)
        while os.read(STDIN, 1024):
            wait_read(STDIN)
        callback()

    gevent.spawn(listen)
