"""The clients of the benchmark: the files in ``clients/``.

A client is a file with a class ``Client`` (see ``worker/blocking.py`` and ``worker/coroutines.py``) and these lines,
which are parsed without importing the file, since its imports are installed in another environment::

    TITLE = 'aetcd'           # the name in reports
    API = 'v3'                # or 'v2'
    ROLE = 'peer'             # 'ours' for getc, 'limit' for an upper bound that no client can reach
    REQUIRES = ('aetcd',)     # packages to install; empty: the client runs in the current environment
    MODES = ('asyncio',)      # also 'threads', 'gevent' (patched), 'greenlets' (not patched), 'process'
    WATCHES = 5_000           # optional: watches for the memory case, if one connection carries so many

A client with several modes is measured in each of them.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ['FOLDER', 'BenchClient', 'find_clients', 'select']

FOLDER = Path(__file__).parent / 'clients'
HEADER = ('TITLE', 'API', 'ROLE', 'REQUIRES', 'MODES')
ROLES = ('ours', 'peer', 'limit')


@dataclass(frozen=True, slots=True)
class BenchClient:
    """A client in one mode.

    Attributes:
        path: The file of the client.
        title: Its name in reports.
        api: ``'v2'`` or ``'v3'``.
        role: ``'ours'``, ``'peer'`` or ``'limit'``.
        requires: The packages that pip installs for it; empty for the current environment.
        mode: How concurrent calls are made.
        has_modes: True if the client has several modes.
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
        """The name on the command line."""
        return self.path.stem

    @property
    def name(self) -> str:
        """The name in result files, with the mode if there are several."""
        return f'{self.file_name}/{self.mode}' if self.has_modes else self.file_name

    @property
    def label(self) -> str:
        """The name in reports, with the mode if there are several."""
        return f'{self.title}, {self.mode}' if self.has_modes else self.title


def find_clients(folder: Path = FOLDER) -> tuple[BenchClient, ...]:
    """Return every client in a folder, in every mode: ours first, limits last.

    Raises:
        ValueError: A file lacks a line of the header.
    """
    found = [one for path in sorted(folder.glob('*.py')) if path.stem != '__init__' for one in _read(path)]
    return tuple(sorted(found, key=lambda one: (one.api, ROLES.index(one.role))))


def _read(path: Path) -> list[BenchClient]:
    header: dict[str, Any] = {}
    for line in ast.parse(path.read_text('utf-8'), str(path)).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id in HEADER:
            header[line.targets[0].id] = ast.literal_eval(line.value)
    missing = [name for name in HEADER if name not in header]
    if missing or header['ROLE'] not in ROLES:
        raise ValueError(f'{path} is not a client of the benchmark: {", ".join(missing) or "a valid ROLE"} is missing')
    modes = header['MODES']
    # The worker process monkey-patches, not the client's library.
    requires = (*header['REQUIRES'], *(['gevent'] if 'gevent' in modes else []))
    return [
        BenchClient(path, header['TITLE'], header['API'], header['ROLE'], requires, mode, len(modes) > 1)
        for mode in modes
    ]


def select(names: Sequence[str], known: Sequence[BenchClient]) -> tuple[BenchClient, ...]:
    """Return the known clients with one of these names, with or without a mode.

    Raises:
        ValueError: There is no client of that name.
    """
    for name in names:
        if not any(name in (one.file_name, one.name) for one in known):
            available = ', '.join(dict.fromkeys(one.file_name for one in known))
            raise ValueError(f'unknown client {name!r}; the clients are {available}')
    return tuple(one for one in known if one.file_name in names or one.name in names)
