"""Who is measured: the files in ``contestants/``.

A contestant is one file with a class ``Client`` (see ``worker/blocking.py`` and ``stage/coroutines.py``) and
these lines, which are read without importing it, since what it imports is elsewhere::

    TITLE = 'aetcd'           # for people
    API = 'v3'                # or 'v2'
    ROLE = 'peer'             # 'ours' for getc, 'limit' for what no client can reach
    REQUIRES = ('aetcd',)     # to install; empty: it runs in this very environment
    MODES = ('asyncio',)      # and 'threads', 'gevent' (patched), 'greenlets' (not patched), 'process'
    WATCHES = 5_000           # only where so many fit on one connection: how many are weighed

With several modes it is measured in each, and the better one counts.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ['FOLDER', 'Contestant', 'contestants_in', 'select']

FOLDER = Path(__file__).parent / 'clients'
HEADER = ('TITLE', 'API', 'ROLE', 'REQUIRES', 'MODES')
ROLES = ('ours', 'peer', 'limit')


@dataclass(frozen=True, slots=True)
class Contestant:
    """A client, used in one way.

    Attributes:
        path: Its file.
        title: For people.
        api: ``'v2'`` or ``'v3'``.
        role: ``'ours'``, ``'peer'`` or ``'limit'``.
        requires: What pip installs for it; empty if this environment will do.
        mode: How calls are made at the same time.
        has_modes: There is another one of this file.
    """

    path: Path
    title: str
    api: str
    role: str
    requires: tuple[str, ...]
    mode: str
    has_modes: bool = False

    @property
    def file_name(self) -> str:
        """What the command line calls it."""
        return self.path.stem

    @property
    def name(self) -> str:
        """The name of this one, in files."""
        return f'{self.file_name}/{self.mode}' if self.has_modes else self.file_name

    @property
    def label(self) -> str:
        """The name of this one, for people."""
        return f'{self.title}, {self.mode}' if self.has_modes else self.title


def contestants_in(folder: Path = FOLDER) -> tuple[Contestant, ...]:
    """Every contestant in a folder, in every mode: ours first, the limits last.

    Raises:
        ValueError: A file lacks a line of the header.
    """
    found = [one for path in sorted(folder.glob('*.py')) if path.stem != '__init__' for one in _read(path)]
    return tuple(sorted(found, key=lambda one: (one.api, ROLES.index(one.role))))


def _read(path: Path) -> list[Contestant]:
    header: dict[str, Any] = {}
    for line in ast.parse(path.read_text('utf-8'), str(path)).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id in HEADER:
            header[line.targets[0].id] = ast.literal_eval(line.value)
    missing = [name for name in HEADER if name not in header]
    if missing or header['ROLE'] not in ROLES:
        raise ValueError(f'{path} is no contestant: {", ".join(missing) or "its ROLE"} is missing')
    modes = header['MODES']
    # The patches are a mode of the stage, not of the client.
    requires = (*header['REQUIRES'], *(['gevent'] if 'gevent' in modes else []))
    return [
        Contestant(path, header['TITLE'], header['API'], header['ROLE'], requires, mode, len(modes) > 1)
        for mode in modes
    ]


def select(names: Sequence[str], known: Sequence[Contestant]) -> tuple[Contestant, ...]:
    """Those of the known that are called so, by file or in one mode.

    Raises:
        ValueError: There is none of that name.
    """
    for name in names:
        if not any(name in (one.file_name, one.name) for one in known):
            there = ', '.join(dict.fromkeys(one.file_name for one in known))
            raise ValueError(f'no contestant is called {name!r}; there are {there}')
    return tuple(one for one in known if one.file_name in names or one.name in names)
