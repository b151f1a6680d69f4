"""What the demo looks like: a line for each thing that happens, and colours where there is a terminal."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Final, TextIO

from tools.demo.expectations import Row

__all__ = ['Display', 'has_colours']

RESET: Final = '\x1b[0m'
BOLD: Final = '\x1b[1m'
DIM: Final = '\x1b[2m'
RED: Final = '\x1b[31m'
GREEN: Final = '\x1b[32m'
YELLOW: Final = '\x1b[33m'
CYAN: Final = '\x1b[36m'

TONES: Final = {
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
"""The words that have a colour wherever they stand."""

SHOWN: Final = 10
"""Faults that are listed."""

TONED: Final = re.compile(rf'\b({"|".join(TONES)})\b\??')


def has_colours(stream: TextIO) -> bool:
    """True for a terminal, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


class Display:
    """Writes the story, with the seconds since its start.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_coloured = has_colours(stream)
        self._began = time.monotonic()

    def headline(self, title: str, details: str) -> None:
        """Begin; the clock starts here."""
        self._began = time.monotonic()
        self._write(f'{self._in(BOLD, title)}\n{self._in(DIM, details)}')

    def scene(self, number: int, title: str) -> None:
        """Begin a scene."""
        self._write(f'\n{self._in(BOLD, f"{number}  {title}")}')

    def line(self, who: str, what: str, roster: Mapping[str, str] | None = None, *, is_stale: bool = False) -> None:
        """Somebody says something; whoever knows the roster shows it."""
        if roster is not None:
            mark = '?' if is_stale else ''
            cells = '  '.join(f'{name} {roster[name] + mark:<8}' for name in sorted(roster))
            what = f'{what:<31}{cells}'.rstrip()
        said = TONED.sub(lambda found: self._in(TONES[found[1]], found[0]), what)
        self._write(
            f'{self._in(DIM, self._seconds())}  {self._in(BOLD if who != "director" else DIM, f"{who:<8}")}  {said}'
        )

    def table(self, rows: Sequence[Row]) -> None:
        """Show what became of everything."""
        self._write('\n' + self._in(BOLD, f'{"":<34}{"announced":>9}{"seen":>8}{"lost":>8}'))
        total = Row('changes in all', *(sum(figures) for figures in zip(*map(_figures, rows), strict=True)))
        for row in (*rows, total):
            lost = self._in(RED if row.lost else GREEN, f'{row.lost:>8}')
            self._write(f'{row.title:<34}{row.announced:>9}{row.seen:>8}{lost}')

    def figure(self, title: str, value: str) -> None:
        """Show something measured, below the table."""
        self._write(f'{title:<34}{value}')

    def verdict(self, faults: Sequence[str]) -> None:
        """Say how it ended."""
        self._write('')
        for fault in faults[:SHOWN]:
            self._write(self._in(RED, fault))
        if len(faults) > SHOWN:
            self._write(self._in(RED, f'... and {len(faults) - SHOWN} more'))
        if faults:
            self._write(self._in(RED, 'FAILED: not everything was seen as it was announced.'))
        else:
            self._write(self._in(GREEN, 'Everything that was announced was seen, once and in order.'))

    def _seconds(self) -> str:
        return f'{time.monotonic() - self._began:6.2f} s'

    def _in(self, tone: str, text: str) -> str:
        return f'{tone}{text}{RESET}' if self._is_coloured else text

    def _write(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _figures(row: Row) -> tuple[int, int, int]:
    return row.announced, row.seen, row.lost
