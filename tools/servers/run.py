"""Runs the tests that use an etcd on one server, with progress, and counts their results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import ParseError

from tools.servers.lines import FOLDER, Server
from tools.servers.results import Results, read_junit

__all__ = ['FOLDERS', 'command_for', 'run_tests']

FOLDERS: Final = ('contract', 'v3', 'backends', 'daemons', 'members', 'security', 'testing')
"""The folders of tests that depend on the server."""

REPOSITORY: Final = Path(__file__).parents[2]
PERCENT: Final = re.compile(r'\[ *(\d+)%\]')
MAX_LOG_LINES: Final = 200
"""Lines of pytest's output that are printed after a failure."""

TESTS_FAILED: Final = 1
"""pytest's exit status when tests failed; a higher one means that it could not run them."""


def command_for(
    server: Server, folders: Iterable[str], *, workers: str, junit: Path, further: Sequence[str]
) -> list[str]:
    """Return the command that runs the tests of the folders that use an etcd, the slow ones included."""
    command = [sys.executable, '-m', 'pytest', '-q', '-n', workers, '--dist', 'loadfile', '-m', 'not soak']
    command += ['--needs-etcd', '--etcd-binary', str(server.path), f'--junitxml={junit}', *further]
    return command + [f'tests/{folder}' for folder in folders]


def run_tests(server: Server, folders: Iterable[str], *, workers: str, further: Sequence[str] = ()) -> Results:
    """Run the tests on a server, with the progress on one line of a terminal, or a line each minute.

    The output of pytest is in ``.servers/<version>.log``; its end is printed if a test has failed.
    """
    FOLDER.mkdir(exist_ok=True)
    log, junit = FOLDER / f'{server.version}.log', FOLDER / f'{server.version}.xml'
    junit.unlink(missing_ok=True)
    command = command_for(server, folders, workers=workers, junit=junit, further=further)
    title = f'etcd {server.version}'
    print(f'{title}: {server.path} ({server.source})', flush=True)
    start = time.monotonic()
    # Servers that tests start without the fixtures are of this line, too.
    environment = {**os.environ, 'GETC_ETCD': str(server.path)}
    with log.open('w', encoding='utf-8') as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=REPOSITORY, env=environment)
        try:
            _show_progress(running, title, log, start)
        finally:
            running.terminate()
            status = running.wait()
    results = Results(server.version, server.source, time.monotonic() - start)
    try:
        read_junit(junit, results)
    except (OSError, ParseError):
        results.names.append(f'pytest has written no results: see {log}')
    if status < 0 or status > TESTS_FAILED:
        results.names.append(f'pytest ended with status {status}: see {log}')
    passed = sum(count.passed for count in results.folders.values())
    if not results.is_good:
        print('\n'.join(log.read_text('utf-8', 'replace').splitlines()[-MAX_LOG_LINES:]))
    verdict = 'all passed' if results.is_good else f'{len(results.names)} FAILED, see {log}'
    print(f'\r{title}: {passed:,} tests in {results.seconds / 60:.1f} min: {verdict}', flush=True)
    return results


def _show_progress(running: subprocess.Popen[bytes], title: str, log: Path, start: float) -> None:
    begin, end, interval = ('\r', ' ', 1.0) if sys.stdout.isatty() else ('', '\n', 60.0)
    while True:
        try:
            running.wait(interval)
            return
        except subprocess.TimeoutExpired:
            print(f'{begin}{title}: {_percent(log)} %, {time.monotonic() - start:.0f} s', end=end, flush=True)


def _percent(log: Path) -> str:
    found = PERCENT.findall(log.read_text('utf-8', 'replace')[-4000:])
    return found[-1] if found else '0'
