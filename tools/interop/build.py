"""Builds the Go program once, and again after a change of its source."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

__all__ = ['BINARY', 'BuildFailed', 'CannotBuild', 'build', 'is_built', 'required_version']

SOURCE: Final = Path(__file__).parent
BINARY: Final = SOURCE.parents[1] / '.interop' / 'interop'
"""The program.  Git ignores the folder."""

REMEDY: Final = """\
there is no Go, which builds the program with etcd's own client: install Go 1.26 or newer (https://go.dev/dl) and run \
`make interop`"""

PROXY_REMEDY: Final = 'let Go 1.26 or newer reach a module proxy (`go env GOPROXY`), and run `make interop`'

SHOWN_OUTPUT: Final = 2_000
"""Characters of Go's output in an error message."""


class CannotBuild(Exception):
    """There is no Go, or it cannot download the modules.  The message says why and names the remedy."""


class BuildFailed(Exception):
    """Go did not compile the program.  The message has the end of Go's output."""


def required_version() -> str:
    """Return the version of etcd's client that ``go.mod`` requires, such as ``3.7.3``."""
    lines = (SOURCE / 'go.mod').read_text('utf-8').split('\n')
    return next(line.rpartition(' v')[2] for line in lines if 'go.etcd.io/etcd/client/v3 v' in line)


def is_built(binary: Path = BINARY) -> bool:
    """True if the program exists and was built from the present source."""
    stamp = _stamp(binary)
    return binary.is_file() and stamp.is_file() and stamp.read_text('utf-8') == _fingerprint()


def build(binary: Path = BINARY, *, report: Callable[[str], None] = lambda line: None) -> Path:
    """Build the program unless it is built; return its path.

    Blocks for some seconds, and for about a minute while Go downloads and compiles the modules for the first time.
    May be called by several processes at once: one of them builds.

    Args:
        binary: Where the program is written.
        report: Called with a line before each step.

    Raises:
        CannotBuild: Go is not installed, or cannot download the modules.
        BuildFailed: Go did not compile the program.
    """
    if is_built(binary):
        return binary
    go = shutil.which('go')
    if go is None:
        raise CannotBuild(REMEDY)
    binary.parent.mkdir(parents=True, exist_ok=True)
    with _locked(binary.with_suffix('.lock')):
        if is_built(binary):
            return binary
        report('downloading the modules ...')
        try:
            _run([go, 'mod', 'download'])
        except BuildFailed as error:
            raise CannotBuild(f'{error}\n{PROXY_REMEDY}') from error
        report('compiling, about a minute for the first time ...')
        unfinished = binary.with_suffix('.part')  # an interrupted build leaves no program under the final name
        _run([go, 'build', '-trimpath', '-ldflags=-s -w', '-o', str(unfinished), '.'])
        unfinished.replace(binary)
        _stamp(binary).write_text(_fingerprint(), 'utf-8')
    return binary


def _stamp(binary: Path) -> Path:
    return binary.with_suffix('.source')


def _fingerprint() -> str:
    """Return a digest of the source, which is compared instead of times, since Git sets those at a checkout."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCE.glob('*.go'), SOURCE / 'go.mod', SOURCE / 'go.sum']):
        digest.update(f'{path.name}\0'.encode() + path.read_bytes() + b'\0')
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(command: list[str]) -> None:
    environment = {**os.environ, 'CGO_ENABLED': '0'}
    done = subprocess.run(command, cwd=SOURCE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr).strip()[-SHOWN_OUTPUT:]
        raise BuildFailed(f'{" ".join(["go", *command[1:3]])} failed with status {done.returncode}: {output}')
