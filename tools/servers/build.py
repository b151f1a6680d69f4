"""Builds etcd and etcdctl of a line with Go, from the module that is in the folder of that line."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tools.servers.lines import BUILT_LINES, FOLDER, MODULES, newest_of

__all__ = ['BuildFailed', 'CannotBuild', 'build']

PACKAGES: Final = {'etcd': 'go.etcd.io/etcd/server/v3', 'etcdctl': 'go.etcd.io/etcd/etcdctl/v3'}

REMEDY: Final = """\
Either install Go 1.26 or newer (https://go.dev/dl) and let it reach a module proxy (`go env GOPROXY`), or download etcd
from https://github.com/etcd-io/etcd/releases and run the tests on it: make test-servers ARGS=/path/to/etcd"""

DOWNLOAD_TIMEOUT: Final = 900.0
"""Seconds for the download of all modules of a line."""

MAX_OUTPUT_LINES: Final = 40
"""Lines of Go's output in an error message."""


class CannotBuild(Exception):
    """There is no Go that can build etcd, or no module proxy.  The message says why and names the alternatives."""


class BuildFailed(Exception):
    """Go failed to build.  The message contains the end of its output."""


def build(line: str, folder: Path = FOLDER, *, report: Callable[[str], object] = lambda progress: None) -> None:
    """Build etcd and etcdctl of a line.  Blocks for about a minute, and longer while Go downloads the modules.

    Args:
        line: One of ``BUILT_LINES``.
        folder: The binaries become ``folder/line/etcd`` and ``folder/line/etcdctl``.
        report: Called with the progress, at each downloaded module and each compiled package.

    Raises:
        CannotBuild: Go is not installed, is too old, or cannot download the modules.
        BuildFailed: Go failed otherwise, for example because a module does not have the checksum in ``go.sum``.
        ValueError: The line is not built here.
    """
    if line not in BUILT_LINES:
        raise ValueError(f'{line} is not one of {", ".join(BUILT_LINES)}')
    go = shutil.which('go')
    if go is None:
        raise CannotBuild(f'There is no Go to build etcd {newest_of(line)} with.\n{REMEDY}')
    _download(go, line, report)
    target = folder / line
    target.mkdir(parents=True, exist_ok=True)
    count = 0

    def count_package(text: str) -> bool:
        nonlocal count
        # `go build -v` prints the import path of each package; every other line is a message.
        if not text or ' ' in text or '.go:' in text or text.startswith('#'):
            return False
        count += 1
        report(f'{count} packages compiled')
        return True

    for name, package in PACKAGES.items():
        # A build that is interrupted leaves no binary under the final name.
        unfinished = target / f'{name}.part'
        command = [go, 'build', '-v', '-trimpath', '-ldflags=-s -w', '-o', str(unfinished), package]
        status, messages = _run(command, line, count_package)
        if status:
            raise BuildFailed(
                f'`go build {package}` of etcd {newest_of(line)} failed with status {status}:\n{messages}'
            )
        unfinished.replace(target / name)


def _download(go: str, line: str, report: Callable[[str], object]) -> None:
    """Download the modules that the build needs, if they are not in Go's cache."""
    count = 0

    def count_module(text: str) -> bool:
        nonlocal count
        if not text.startswith('go: downloading '):
            return False
        count += 1
        report(f'{count} modules downloaded')
        return True

    command = [go, 'list', '-deps', '-f', '', *PACKAGES.values()]
    status, messages = _run(command, line, count_module, timeout=DOWNLOAD_TIMEOUT)
    if not status:
        return
    text = f'Go cannot load the modules of etcd {newest_of(line)}:\n{messages}'
    if 'SECURITY ERROR' in messages or 'checksum mismatch' in messages:
        raise BuildFailed(text)
    raise CannotBuild(f'{text}\n{REMEDY}')


def _run(
    command: list[str], line: str, is_progress: Callable[[str], bool], timeout: float | None = None
) -> tuple[int, str]:
    """Run Go in the module of a line, and return its status and the messages that are not progress."""
    messages: deque[str] = deque(maxlen=MAX_OUTPUT_LINES)
    environment = {**os.environ, 'CGO_ENABLED': '0', 'LC_ALL': 'C'}
    process = subprocess.Popen(
        command,
        cwd=MODULES / line,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        errors='replace',
    )
    limit = None if timeout is None else threading.Timer(timeout, process.kill)
    if limit is not None:
        limit.start()
    try:
        with process:
            assert process.stderr is not None
            for text in process.stderr:
                if not is_progress(text.rstrip()):
                    messages.append(text.rstrip())
    finally:
        if limit is not None:
            limit.cancel()
    return process.returncode, '\n'.join(messages)
