"""The etcd servers that ``make servers`` has built, for clusters whose members are killed."""

from __future__ import annotations

import os
from pathlib import Path

from getc.testing.binaries import KILLABLE

__all__ = ['name_built_servers']

FOLDER = Path(__file__).parents[2] / '.servers'


def name_built_servers() -> None:
    """Let :func:`getc.testing.find_etcd` find the built servers, unless the environment names others."""
    paths = [str(path) for path in sorted(FOLDER.glob('*/etcd'))]
    if paths:
        os.environ.setdefault(KILLABLE, os.pathsep.join(paths))
