"""Prints the output of the demo: one line for each event, colored if the output is a terminal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from tools.demo.expectations import Row

__all__ = ['Display', 'has_colors']

RESET: Final = '\x1b[0m'
BOLD: Final = '\x1b[1m'
DIM: Final = '\x1b[2m'
RED: Final = '\x1b[31m'
GREEN: Final = '\x1b[32m'
YELLOW: Final = '\x1b[33m'
CYAN: Final = '\x1b[36m'

COLORS: Final = {
    'KEPT': GREEN,
    'SUSPECT': YELLOW,
    'LOST': RED,
    'here': GREEN,
    'joined': GREEN,
    'expired': RED,
    'left': CYAN,
    'gone': RED,
    'stale': YELLOW,
    'SIGKILL': RED,
    'SIGTERM': CYAN,
}
"""Words that are colored wherever they occur."""

MAX_FAULTS: Final = 10
"""Faults that are listed at most."""

COLORED: Final = re.compile(rf'\b({"|".join(COLORS)})\b\??')


def has_colors(stream: TextIO) -> bool:
    """Return True for a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


class Display:
    """Prints events with the seconds since the start.

    Args:
        stream: Where the output is printed.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_colored = has_colors(stream)
        self._started_at = time.monotonic()

    def headline(self, title: str, details: str) -> None:
        """Print the title and start the clock."""
        self._started_at = time.monotonic()
        self._write(f'{self._in(BOLD, title)}\n{self._in(DIM, details)}')

    def step(self, number: int, title: str) -> None:
        """Print the title of a step."""
        self._write(f'\n{self._in(BOLD, f"{number}  {title}")}')

    def line(
        self, source: str, message: str, roster: Mapping[str, str] | None = None, *, is_stale: bool = False
    ) -> None:
        """Print the message of a source, and the roster if there is one."""
        if roster is not None:
            mark = '?' if is_stale else ''
            cells = '  '.join(f'{name} {roster[name] + mark:<8}' for name in sorted(roster))
            message = f'{message:<31}{cells}'.rstrip()
        text = COLORED.sub(lambda found: self._in(COLORS[found[1]], found[0]), message)
        name = self._in(DIM if source == 'demo' else BOLD, f'{source:<8}')
        self._write(f'{self._in(DIM, self._seconds())}  {name}  {text}')

    def table(self, rows: Sequence[Row]) -> None:
        """Print the totals."""
        self._write('\n' + self._in(BOLD, f'{"":<34}{"expected":>9}{"observed":>10}{"missing":>9}'))
        total = Row('all changes', *(sum(figures) for figures in zip(*map(_figures, rows), strict=True)))
        for row in (*rows, total):
            missing = self._in(RED if row.missing else GREEN, f'{row.missing:>9}')
            self._write(f'{row.title:<34}{row.expected:>9}{row.observed:>10}{missing}')

    def figure(self, title: str, value: str) -> None:
        """Print a measured value, below the table."""
        self._write(f'{title:<34}{value}')

    def verdict(self, faults: Sequence[str]) -> None:
        """Print the faults and the result."""
        self._write('')
        for fault in faults[:MAX_FAULTS]:
            self._write(self._in(RED, fault))
        if len(faults) > MAX_FAULTS:
            self._write(self._in(RED, f'... and {len(faults) - MAX_FAULTS} more'))
        if faults:
            self._write(self._in(RED, 'FAILED: not every change was observed as expected.'))
        else:
            self._write(self._in(GREEN, 'PASSED: every expected change was observed, once and in order.'))

    def _seconds(self) -> str:
        return f'{time.monotonic() - self._started_at:6.2f} s'

    def _in(self, color: str, text: str) -> str:
        return f'{color}{text}{RESET}' if self._is_colored else text

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _figures(row: Row) -> tuple[int, int, int]:
    return row.expected, row.observed, row.missing
