"""The statuses of etcd's server, code and text, read from the source of its Go package ``rpctypes``."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

from tools.servers.lines import BUILT_LINES, MODULES, newest_of

__all__ = ['PACKAGES', 'fetch_source', 'statuses_in']

PACKAGES: Final = {
    '3.4': ('go.etcd.io/etcd@v0.5.0-alpha.5.0.20200824191128-ae9734ed278b', 'etcdserver/api/v3rpc/rpctypes/error.go'),
    **{line: (f'go.etcd.io/etcd/api/v3@v{newest_of(line)}', 'v3rpc/rpctypes/error.go') for line in BUILT_LINES},
}
"""For each line the Go module and the file in it.  That of 3.4 is etcd 3.4.13, by the name that Go gives it."""

STATUS: Final = re.compile(r'\bErr\w+\s*=\s*status\.(?:New|Error)\(codes\.(\w+), "([^"]+)"\)')


def fetch_source(line: str) -> str:
    """Return the source of the package of a line.  Go downloads the module once.

    Raises:
        FileNotFoundError: Go is not installed.
        subprocess.CalledProcessError: Go failed; its output is on standard error.
    """
    module, file = PACKAGES[line]
    command = ['go', 'mod', 'download', '-json', module]
    found = subprocess.run(command, cwd=MODULES.parent, stdout=subprocess.PIPE, check=True)
    return Path(json.loads(found.stdout)['Dir'], file).read_text('utf-8')


def statuses_in(source: str) -> set[str]:
    """Return the statuses, each as ``NotFound: etcdserver: member not found``.

    Raises:
        ValueError: The source has a status that is not understood.
    """
    found = STATUS.findall(source)
    if not found or len(found) != len(re.findall(r'\bstatus\.(?:New|Error)\(', source)):
        raise ValueError('the source of rpctypes has statuses of another form')
    return {f'{code}: {text}' for code, text in found}
