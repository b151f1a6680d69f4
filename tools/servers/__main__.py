"""Build etcd servers, and run the tests that need a server on each supported line::

python -m tools.servers build [LINE ...]     # all lines that are built here, if none is named
python -m tools.servers test [LINE ...]      # every server that is installed, if none is named
python -m tools.servers list
python -m tools.servers schema [BINARY ...]  # write the tables in tests/v3/tables that the tests compare getc with
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from getc.testing.binaries import version_of
from tools.servers.error_texts import PACKAGES, fetch_source, statuses_in
from tools.servers.lines import BUILT_LINES, FOLDER, NoGo, Server, build, installed, is_built, newest_of
from tools.servers.results import Results, dump, read_junit, rst_table, text_table
from tools.servers.schema import ERRORS_HEAD, ERRORS_TABLE, SCHEMA_HEAD, SCHEMA_TABLE, facts_in, format_table

FOLDERS: Final = ('contract', 'v3', 'backends', 'daemons', 'members', 'security', 'testing')
"""The tests that depend on the server."""

TABLE: Final = Path(__file__).parents[2] / 'docs' / '_generated' / 'servers.rst'
PERCENT: Final = re.compile(r'\[ *(\d+)%\]')


def main(arguments: list[str] | None = None) -> int:
    """Run the command.  The status is 0 if everything was built, or every test passed."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.servers', description=__doc__.partition('::')[0] if __doc__ else None
    )
    verbs = parser.add_subparsers(dest='verb', required=True)
    building = verbs.add_parser('build', help='build etcd and etcdctl with Go, once')
    building.add_argument('lines', nargs='*', metavar='LINE', help=f'{", ".join(BUILT_LINES)}; all if left out')
    testing = verbs.add_parser('test', help='run the tests on each server and print one table')
    testing.add_argument('lines', nargs='*', metavar='LINE', help='such as 3.4, 3.5.1 or 3.7; all if left out')
    testing.add_argument('--workers', default=str(2 * (os.cpu_count() or 1)), help='test processes (%(default)s)')
    testing.add_argument('--write', action='store_true', help=f'write {TABLE.name} for the documentation')
    testing.add_argument('--json', type=Path, metavar='FILE', help='write all counts to this file')
    testing.add_argument('--pytest', nargs=argparse.REMAINDER, default=[], help='arguments for pytest, at the end')
    verbs.add_parser('list', help='list the servers that are installed')
    tables = verbs.add_parser('schema', help="write the tables of etcd's schema and statuses for the tests")
    tables.add_argument('binaries', nargs='*', metavar='BINARY', help='an etcd of each line; the installed if left out')
    options = parser.parse_args(arguments)
    if options.verb == 'build':
        return _build(parser, options.lines or list(BUILT_LINES))
    if options.verb == 'list':
        return _list()
    if options.verb == 'schema':
        return _write_tables(parser, options.binaries or [str(server.path) for server in installed()])
    return _test(parser, options)


def _build(parser: argparse.ArgumentParser, lines: list[str]) -> int:
    for line in lines:
        if line not in BUILT_LINES:
            parser.error(f'{line} is not one of {", ".join(BUILT_LINES)}')
    for number, line in enumerate(lines, 1):
        title = f'etcd {newest_of(line)} ({number} of {len(lines)})'
        if is_built(line):
            print(f'{title}: {FOLDER / line / "etcd"} exists', flush=True)
            continue
        print(f'{title}: building, about a minute ...', flush=True)
        start = time.monotonic()
        try:
            build(line)
        except NoGo as error:
            print(error, file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            print(f'{title}: go failed with status {error.returncode}', file=sys.stderr)
            return 1
        print(f'{title}: {FOLDER / line / "etcd"}, {time.monotonic() - start:.0f} s', flush=True)
    return 0


def _list() -> int:
    servers = installed()
    for server in servers:
        print(f'{server.line:7} {server.version:8} {server.path}  ({server.source})')
    return 0 if servers else 1


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
    servers = installed()
    missing = set(options.lines) - {server.line for server in servers}
    if missing:
        known = ', '.join(server.line for server in servers) or 'none'
        parser.error(f'no etcd {", ".join(sorted(missing))}: installed are {known}; `make servers` builds the others')
    servers = [server for server in servers if not options.lines or server.line in options.lines]
    runs = [_run(server, options.workers, options.pytest) for server in servers]
    print('\n' + text_table(runs, FOLDERS))
    for run in runs:
        for name in run.names:
            print(f'FAILED on etcd {run.version}: {name}')
    if options.json:
        options.json.write_text(dump(runs) + '\n', 'utf-8')
    if options.write:
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(rst_table(runs, FOLDERS), 'utf-8')
    return 0 if runs and all(run.is_good for run in runs) else 1


def _run(server: Server, workers: str, further: list[str]) -> Results:
    """Run the tests on a server, with the progress on one line of a terminal, or a line each minute."""
    FOLDER.mkdir(exist_ok=True)
    log, junit = FOLDER / f'{server.line}.log', FOLDER / f'{server.line}.xml'
    junit.unlink(missing_ok=True)
    command = [sys.executable, '-m', 'pytest', '-q', '-n', workers, '--dist', 'loadfile', '-m', 'not soak']
    command += ['--etcd-binary', str(server.path), f'--junitxml={junit}', *further]
    command += [f'tests/{folder}' for folder in FOLDERS]
    title = f'etcd {server.version}'
    print(f'{title}: {server.path}', flush=True)
    start = time.monotonic()
    with log.open('w', encoding='utf-8') as output:
        running = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=Path(__file__).parents[2])
        begin, end = ('\r', ' ') if sys.stdout.isatty() else ('', '\n')
        interval = 1.0 if sys.stdout.isatty() else 60.0
        while True:
            try:
                running.wait(interval)
                break
            except subprocess.TimeoutExpired:
                seconds = time.monotonic() - start
                print(f'{begin}{title}: {_percent(log)} %, {seconds:.0f} s', end=end, flush=True)
    results = Results(server.version, server.source, time.monotonic() - start)
    try:
        read_junit(junit, results)
    except OSError:
        results.names.append(f'pytest ended with status {running.returncode} before the tests: see {log}')
    passed = sum(count.passed for count in results.folders.values())
    verdict = 'all passed' if results.is_good else f'{len(results.names)} FAILED, see {log}'
    print(f'\r{title}: {passed:,} tests in {results.seconds / 60:.1f} min: {verdict}', flush=True)
    return results


def _percent(log: Path) -> str:
    found = PERCENT.findall(log.read_text('utf-8', 'replace')[-4000:])
    return found[-1] if found else '0'


if __name__ == '__main__':
    sys.exit(main())
