"""A table of what goes on, and the latest news below it."""

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
TONES: Final = ('\x1b[32m', '\x1b[36m', '\x1b[35m', '\x1b[34m')
"""Of the zones, by their names."""

HOME: Final = '\x1b[H'
CLEAR_LINE: Final = '\x1b[K'
CLEAR_REST: Final = '\x1b[J'
CLEAR: Final = '\x1b[2J'

NEWS: Final = 8
"""Lines of news that are shown."""


class Board:
    """What anybody can see in etcd of the zones, shards and players.

    Args:
        etcd: The client.
        all_shards: The shards that there are.
        is_coloured: Whether zones have a colour.
    """

    def __init__(self, etcd: getc.Client, all_shards: tuple[str, ...], *, is_coloured: bool = False) -> None:
        self._all_shards = all_shards
        self._is_coloured = is_coloured
        self._settings = Settings(etcd)
        self._zones = etcd.mirror('/zones', timeout=None)
        self._claims = etcd.mirror('/claims', timeout=None)
        self._worlds = etcd.mirror('/worlds', timeout=None)
        self._players = etcd.mirror('/players', timeout=None)

    def lines(self) -> list[str]:
        """The table."""
        zones = [key.removeprefix('/zones/') for key in sorted(self._zones)]
        named = ' '.join(self._zone(zone) for zone in zones) or 'none'
        stale = self._in(YELLOW, '   etcd does not answer: this is what was there') if self._claims.is_stale else ''
        head = f'{"shard":<10}{"run by":<8}{"token":>6}{"steps":>7}  players, with their gold'
        return [
            f'zones that take shards: {named}   step {self._settings.step:g} s   seats {self._settings.seats}{stale}',
            '',
            self._in(BOLD, head),
            *(self._row(shard) for shard in self._all_shards),
        ]

    def _row(self, shard: str) -> str:
        owner = self._claims.get(f'/claims/{shard}')
        world = json.loads(self._worlds.get(f'/worlds/{shard}', '{}'))
        here = sorted(key.removeprefix('/players/') for key, at in self._players.items() if at == shard)
        players = ', '.join(f'{player} {world.get("gold", {}).get(player, 0)}' for player in here)
        run_by = self._in(YELLOW, f'{"nobody":<8}') if owner is None else self._zone(owner, 8)
        return f'{shard:<10}{run_by}{world.get("token", "-"):>6}{world.get("steps", 0):>7}  {players}'.rstrip()

    def _zone(self, name: str, width: int = 0) -> str:
        return self._in(TONES[sum(name.encode()) % len(TONES)], f'{name:<{width}}')

    def _in(self, tone: str, text: str) -> str:
        return f'{tone}{text}{RESET}' if self._is_coloured else text


class Screen(logging.Handler):
    """Shows news as they come: on a terminal below the board, which is drawn again and again; else a line each.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.is_terminal = stream.isatty() and os.environ.get('TERM') != 'dumb'
        self.is_coloured = self.is_terminal and not os.environ.get('NO_COLOR')
        self._stream = stream
        self._news: deque[str] = deque(maxlen=NEWS)
        self._began = time.monotonic()
        self._is_clear = False

    def emit(self, record: logging.LogRecord) -> None:
        """One more piece of news."""
        line = f'{time.monotonic() - self._began:6.1f} s  {record.getMessage()}'
        if self.is_terminal:
            self._news.append(line)
        else:
            print(line, file=self._stream, flush=True)

    def draw(self, lines: list[str]) -> None:
        """Show the board.  Where there is no terminal that is for the end, not for each moment."""
        if not self.is_terminal:
            print('\n'.join(['', *lines, '']), file=self._stream, flush=True)
            return
        start = HOME if self._is_clear else CLEAR + HOME
        self._is_clear = True
        text = ''.join(f'{line}{CLEAR_LINE}\n' for line in [*lines, '', *self._news])
        print(start + text + CLEAR_REST, end='', file=self._stream, flush=True)
