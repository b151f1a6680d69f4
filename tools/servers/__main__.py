"""Build etcd servers, and run the tests that need a server on each supported line::

python -m tools.servers build [LINE ...]     # all lines that are built here, if none is named
python -m tools.servers test [SERVER ...]    # every server that is installed, if none is named
python -m tools.servers list [SERVER ...]
python -m tools.servers schema [BINARY ...]  # write the tables in tests/v3/tables that the tests compare getc with
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from getc.testing.binaries import version_of
from tools.servers.build import BuildFailed, CannotBuild, build
from tools.servers.error_texts import PACKAGES, fetch_source, statuses_in
from tools.servers.lines import BUILT_LINES, FOLDER, REMEDY, Server, installed, is_built, newest_of, select
from tools.servers.results import dump, rst_table, text_table
from tools.servers.run import FOLDERS, run_tests
from tools.servers.schema import ERRORS_HEAD, ERRORS_TABLE, SCHEMA_HEAD, SCHEMA_TABLE, facts_in, format_table

TABLE: Final = Path(__file__).parents[2] / 'docs' / '_generated' / 'servers.rst'
NAMES_HELP: Final = 'a line such as 3.4, 3.5.1 or 3.7, or the path of an etcd; all that are installed if left out'


def main(arguments: list[str] | None = None) -> int:
    """Run the command.  The status is 0 if everything was built, or every test passed."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.servers', description=__doc__.partition('::')[0] if __doc__ else None
    )
    verbs = parser.add_subparsers(dest='verb', required=True)
    building = verbs.add_parser('build', help='build etcd and etcdctl with Go, once')
    building.add_argument('lines', nargs='*', metavar='LINE', help=f'{", ".join(BUILT_LINES)}; all if left out')
    building.add_argument(
        '--if-possible', action='store_true', help='succeed where there is no Go, or no proxy for its modules'
    )
    testing = verbs.add_parser('test', help='run the tests on each server and print one table')
    testing.add_argument('servers', nargs='*', metavar='SERVER', help=NAMES_HELP)
    testing.add_argument('--folders', type=_folders, default=list(FOLDERS), help='such as v3,daemons; default: all')
    testing.add_argument('--workers', default=str(2 * (os.cpu_count() or 1)), help='test processes (%(default)s)')
    testing.add_argument('--write', action='store_true', help=f'write {TABLE.name} for the documentation')
    testing.add_argument('--json', type=Path, metavar='FILE', help='write all counts to this file')
    testing.add_argument('--pytest', nargs=argparse.REMAINDER, default=[], help='arguments for pytest, at the end')
    listing = verbs.add_parser('list', help='list the servers that are installed; fails if one that is named is not')
    listing.add_argument('servers', nargs='*', metavar='SERVER', help=NAMES_HELP)
    tables = verbs.add_parser('schema', help="write the tables of etcd's schema and statuses for the tests")
    tables.add_argument('binaries', nargs='*', metavar='BINARY', help='an etcd of each line; the installed if left out')
    options = parser.parse_args(arguments)
    if options.verb == 'build':
        return _build(parser, options.lines or list(BUILT_LINES), if_possible=options.if_possible)
    if options.verb == 'list':
        return _list(parser, options.servers)
    if options.verb == 'schema':
        return _write_tables(parser, options.binaries or [str(server.path) for server in installed()])
    return _test(parser, options)


def _folders(text: str) -> list[str]:
    folders = text.split(',')
    for folder in folders:
        if folder not in FOLDERS:
            raise argparse.ArgumentTypeError(f'{folder!r} is not one of {", ".join(FOLDERS)}')
    return folders


def _build(parser: argparse.ArgumentParser, lines: list[str], *, if_possible: bool) -> int:
    for line in lines:
        if line not in BUILT_LINES:
            parser.error(f'{line} is not one of {", ".join(BUILT_LINES)}')
    for number, line in enumerate(lines, 1):
        title = f'etcd {newest_of(line)} ({number} of {len(lines)})'
        if is_built(line, FOLDER):
            print(f'{title}: {FOLDER / line / "etcd"} exists', flush=True)
            continue
        progress = Progress(title)
        print(f'{title}: building, about a minute ...', flush=True)
        try:
            build(line, FOLDER, report=progress)
        except CannotBuild as error:
            print(f'\n{title}: {"SKIPPED" if if_possible else "not built"}.  {error}', file=sys.stderr)
            return 0 if if_possible else 1
        except BuildFailed as error:
            print(f'\n{title}: {error}', file=sys.stderr)
            return 1
        progress.finish(f'{FOLDER / line / "etcd"}, {progress.seconds:.0f} s')
    return 0


class Progress:
    """Shows what is going on: on one line of a terminal, or a line every 15 seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._start = self._shown = time.monotonic()
        self._begin, self._end, self._interval = ('\r', ' ', 0.2) if sys.stdout.isatty() else ('', '\n', 15.0)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._start

    def __call__(self, progress: str) -> None:
        """Show a text, unless another was shown a moment ago."""
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            print(f'{self._begin}{self._title}: {progress}, {self.seconds:.0f} s', end=self._end, flush=True)

    def finish(self, text: str) -> None:
        """Show the last text and end the line."""
        print(f'{self._begin}{self._title}: {text}', flush=True)


def _list(parser: argparse.ArgumentParser, names: list[str]) -> int:
    for server in _select(parser, names):
        print(f'{server.line:7} {server.version:8} {server.path}  ({server.source})')
    return 0


def _write_tables(parser: argparse.ArgumentParser, binaries: list[str]) -> int:
    newest: dict[str, tuple[tuple[int, int, int], str]] = {}  # version and path by line
    for path in binaries:
        version = version_of(path)
        line = f'{version[0]}.{version[1]}'
        newest[line] = max(newest.get(line, (version, path)), (version, path))
    if missing := sorted(PACKAGES.keys() - newest.keys()):
        parser.error(f"no etcd {', '.join(missing)}: `make servers` builds 3.5 to 3.7, 3.4 is Debian's etcd-server")
    lines = {line: newest[line] for line in sorted(PACKAGES)}
    facts = {line: facts_in(Path(path)) for line, (_, path) in lines.items()}
    versions = ', '.join('.'.join(map(str, version)) for version, _ in lines.values())
    SCHEMA_TABLE.write_text(format_table(facts, SCHEMA_HEAD.format(versions=versions)), 'utf-8')
    statuses = {line: statuses_in(fetch_source(line)) for line in lines}
    modules = '\n'.join(f'#   {module} {file}' for module, file in PACKAGES.values())
    ERRORS_TABLE.write_text(format_table(statuses, ERRORS_HEAD.format(modules=modules)), 'utf-8')
    for table in (SCHEMA_TABLE, ERRORS_TABLE):
        print(f'{table}: {sum(not row.startswith("#") for row in table.read_text("utf-8").splitlines())} rows')
    return 0


def _test(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    servers = _select(parser, options.servers)
    further = options.pytest
    runs = [run_tests(server, options.folders, workers=options.workers, further=further) for server in servers]
    print('\n' + text_table(runs, options.folders))
    for run in runs:
        for name in run.names:
            print(f'FAILED on etcd {run.version}: {name}')
    if options.json:
        options.json.write_text(dump(runs) + '\n', 'utf-8')
    is_good = all(run.is_good for run in runs)
    if options.write and not is_good:
        print(f'not written, because tests have failed: {TABLE}')
    elif options.write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(rst_table(runs, options.folders, _commit()), 'utf-8')
        print(f'written: {TABLE}')
    return 0 if is_good else 1


def _commit() -> str:
    """Return the commit of the source code, and whether it was changed."""
    command = ['git', 'describe', '--always', '--dirty', '--abbrev=12', '--exclude=*']
    done = subprocess.run(command, cwd=TABLE.parent, capture_output=True, text=True)
    return f'commit {done.stdout.strip()}' if done.returncode == 0 else 'an unknown commit'


def _select(parser: argparse.ArgumentParser, names: list[str]) -> list[Server]:
    try:
        servers = installed()
        selected, missing = select(names, servers)
    except OSError as error:
        parser.error(str(error))
    known = ', '.join(server.line for server in servers) or 'none'
    if missing:
        parser.error(f'no etcd {", ".join(missing)}: installed are {known}.  {REMEDY}')
    if not selected:
        parser.error(f'no etcd is installed.  {REMEDY}')
    return selected


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the tests as well
    sys.exit(main())
