"""A table of all zones, shards and players, with the latest log messages below it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from typing import Final, TextIO

import getc
from examples.zones.settings import Settings

__all__ = ['Board', 'Screen']

BOLD: Final = '\x1b[1m'
DIM: Final = '\x1b[2m'
YELLOW: Final = '\x1b[33m'
RESET: Final = '\x1b[0m'
COLORS: Final = ('\x1b[32m', '\x1b[36m', '\x1b[35m', '\x1b[34m')
"""Colors of zones, selected by a hash of the name."""

HOME: Final = '\x1b[H'
CLEAR_LINE: Final = '\x1b[K'
CLEAR_REST: Final = '\x1b[J'
CLEAR: Final = '\x1b[2J'

MAX_MESSAGES: Final = 8
"""Log messages that are shown."""


class Board:
    """A table of the zones, shards and players in etcd.

    Args:
        etcd: The client.
        all_shards: The names of all shards.
        is_colored: True to color the names of zones.
    """

    def __init__(self, etcd: getc.Client, all_shards: tuple[str, ...], *, is_colored: bool = False) -> None:
        self._all_shards = all_shards
        self._is_colored = is_colored
        self._settings = Settings(etcd)
        self._zones = etcd.mirror('/zones', timeout=None)
        self._claims = etcd.mirror('/claims', timeout=None)
        self._worlds = etcd.mirror('/worlds', timeout=None)
        self._players = etcd.mirror('/players', timeout=None)

    def lines(self) -> list[str]:
        """Return the lines of the table."""
        zones = [key.removeprefix('/zones/') for key in sorted(self._zones)]
        names = ' '.join(self._zone(zone) for zone in zones) or 'none'
        stale = self._in(YELLOW, '   stale: etcd does not respond') if self._claims.is_stale else ''
        head = f'{"shard":<10}{"owner":<8}{"token":>6}{"steps":>7}  players, with their gold'
        return [
            f'zones that accept shards: {names}   step {self._settings.step:g} s   seats {self._settings.seats}{stale}',
            '',
            self._in(BOLD, head),
            *(self._row(shard) for shard in self._all_shards),
        ]

    def _row(self, shard: str) -> str:
        owner = self._claims.get(f'/claims/{shard}')
        world = json.loads(self._worlds.get(f'/worlds/{shard}', '{}'))
        here = sorted(key.removeprefix('/players/') for key, at in self._players.items() if at == shard)
        players = ', '.join(f'{player} {world.get("gold", {}).get(player, 0)}' for player in here)
        zone = self._in(YELLOW, f'{"none":<8}') if owner is None else self._zone(owner, 8)
        return f'{shard:<10}{zone}{world.get("token", "-"):>6}{world.get("steps", 0):>7}  {players}'.rstrip()

    def _zone(self, name: str, width: int = 0) -> str:
        return self._in(COLORS[sum(name.encode()) % len(COLORS)], f'{name:<{width}}')

    def _in(self, color: str, text: str) -> str:
        return f'{color}{text}{RESET}' if self._is_colored else text


class Screen(logging.Handler):
    """A log handler that shows messages below the board, which is redrawn; without a terminal, a line each.

    Args:
        stream: Where the output is printed.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.is_terminal = stream.isatty() and os.environ.get('TERM') != 'dumb'
        self.is_colored = self.is_terminal and not os.environ.get('NO_COLOR')
        self._stream = stream
        self._messages: deque[str] = deque(maxlen=MAX_MESSAGES)
        self._started_at = time.monotonic()
        self._is_clear = False

    def emit(self, record: logging.LogRecord) -> None:
        """Show a message."""
        line = f'{time.monotonic() - self._started_at:6.1f} s  {record.getMessage()}'
        if self.is_terminal:
            self._messages.append(line)
        else:
            print(line, file=self._stream, flush=True)

    def draw(self, lines: list[str]) -> None:
        """Show the board: in place on a terminal, otherwise as further lines."""
        if not self.is_terminal:
            print('\n'.join(['', *lines, '']), file=self._stream, flush=True)
            return
        start = HOME if self._is_clear else CLEAR + HOME
        self._is_clear = True
        text = ''.join(f'{line}{CLEAR_LINE}\n' for line in [*lines, '', *self._messages])
        print(start + text + CLEAR_REST, end='', file=self._stream, flush=True)
