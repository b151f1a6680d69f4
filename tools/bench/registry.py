"""The clients of the benchmark: the files in ``clients/``.

A client is a file with a class ``Client`` (see ``worker/blocking.py`` and ``worker/coroutines.py``) and these lines,
which are parsed without importing the file, since its imports are installed in another environment::

    TITLE = 'aetcd'           # the name in reports
    API = 'v3'                # or 'v2'
    ROLE = 'peer'             # 'ours' for getc, 'limit' for an upper bound that no client can reach
    REQUIRES = ('aetcd',)     # packages to install; empty: the client runs in the current environment
    MODES = ('asyncio',)      # also 'threads', 'gevent' (patched), 'greenlets' (not patched), 'process', 'go'
    WATCHES = 5_000           # optional: watches for the memory case, if one connection carries so many
    SCALE = True              # optional: the client runs the cases of scale (``run_scale(url, request)``)

A client with several modes is measured in each of them.  The mode ``'go'`` is the Go program in ``tools/interop``,
which answers the same requests as ``worker/``.
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
OPTIONAL = {'SCALE': False}
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
        runs_scale: True if the client runs the cases of scale.
        commit: The short name of the commit whose getc the client runs; empty for the present one.
        package: The folder that holds the package ``getc`` of that commit; None for the present one.
    """

    path: Path
    title: str
    api: str
    role: str
    requires: tuple[str, ...]
    mode: str
    has_modes: bool = False
    runs_scale: bool = False
    commit: str = ''
    package: Path | None = None

    @property
    def file_name(self) -> str:
        """The name on the command line."""
        return self.path.stem

    @property
    def name(self) -> str:
        """The name in result files, with the mode if there are several."""
        name = f'{self.file_name}/{self.mode}' if self.has_modes else self.file_name
        return f'{name}@{self.commit}' if self.commit else name

    @property
    def label(self) -> str:
        """The name in reports, with the mode if there are several."""
        label = f'{self.title}, {self.mode}' if self.has_modes else self.title
        return f'{label} at {self.commit}' if self.commit else label


def find_clients(folder: Path = FOLDER) -> tuple[BenchClient, ...]:
    """Return every client in a folder, in every mode: ours first, limits last.

    Raises:
        ValueError: A file lacks a line of the header.
    """
    found = [one for path in sorted(folder.glob('*.py')) if path.stem != '__init__' for one in _read(path)]
    return tuple(sorted(found, key=lambda one: (one.api, ROLES.index(one.role))))


def _read(path: Path) -> list[BenchClient]:
    header: dict[str, Any] = dict(OPTIONAL)
    known = (*HEADER, *OPTIONAL)
    for line in ast.parse(path.read_text('utf-8'), str(path)).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id in known:
            header[line.targets[0].id] = ast.literal_eval(line.value)
    missing = [name for name in HEADER if name not in header]
    if missing or header['ROLE'] not in ROLES:
        raise ValueError(f'{path} is not a client of the benchmark: {", ".join(missing) or "a valid ROLE"} is missing')
    modes = header['MODES']
    # The worker process monkey-patches, not the client's library.
    requires = (*header['REQUIRES'], *(['gevent'] if 'gevent' in modes else []))
    return [
        BenchClient(
            path, header['TITLE'], header['API'], header['ROLE'], requires, mode, len(modes) > 1, header['SCALE']
        )
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
