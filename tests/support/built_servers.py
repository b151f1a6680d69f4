"""The etcd servers that ``make servers`` has built, for clusters whose members are killed or upgraded."""

from __future__ import annotations

import os
from pathlib import Path

from getc.testing.binaries import KILLABLE

__all__ = ['built_server', 'name_built_servers']

FOLDER = Path(__file__).parents[2] / '.servers'


def name_built_servers() -> None:
    """Let :func:`getc.testing.find_etcd` find the built servers, unless the environment names others."""
    paths = [str(path) for path in sorted(FOLDER.glob('*/etcd'))]
    if paths:
        os.environ.setdefault(KILLABLE, os.pathsep.join(paths))


def built_server(line: str) -> Path | None:
    """Return the etcd of a line such as ``3.7``; None if it is not built."""
    path = FOLDER / line / 'etcd'
    return path if path.is_file() else None
