"""The command: ``python -m tools.bench``."""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from getc.testing import EtcdNotFound, EtcdServer
from tools.bench.cases import CASES, QUICK, Case, select
from tools.bench.chart import drawing
from tools.bench.machine import described
from tools.bench.registry import Contestant, contestants_in
from tools.bench.registry import select as select_contestants
from tools.bench.report import APIS, Report, case_table, memory_table
from tools.bench.runner import Conductor
from tools.bench.scale import crowd_table

HOME = Path(__file__).resolve().parent.parent.parent / 'docs' / 'benchmarks'

EPILOG = """\
examples:
  python -m tools.bench                                    everything; writes docs/benchmarks
  python -m tools.bench --quick                            a minute or two, for the terminal only
  python -m tools.bench --cases 'get-50-*,set-50-*'        some cases
  python -m tools.bench --contestants getc_v2,python_etcd  some clients
  python -m tools.bench --quick --output /tmp/bench        files, too

Each client runs in a process and an environment of its own (.venv-bench-NAME, made when it is first
needed, with pip).  To measure one more, add a file to tools/bench/clients; see tools/bench/registry.py.
The figures are ratios taken within a round, so a busy machine makes them noisy, not wrong.
"""


class Screen:
    """The terminal: results stay, what is being done comes and goes."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._begin = time.monotonic()

    def doing(self, text: str) -> None:
        """Say what is being done, where there is a terminal."""
        if self._is_terminal:
            seconds = time.monotonic() - self._begin
            print(f'\r\x1b[K\x1b[2m{int(seconds // 60)}:{int(seconds % 60):02} {text}\x1b[0m', end='', flush=True)

    def say(self, text: str = '') -> None:
        """Write a line that stays."""
        print(('\r\x1b[K' if self._is_terminal else '') + text, flush=True)

    def strong(self, text: str) -> str:
        """The text, where there is a terminal in a way that is seen first."""
        return f'\x1b[1;36m{text}\x1b[0m' if self._is_terminal else text


def arguments_of(command: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.bench',
        description='Measure getc beside other etcd clients, on an etcd that is started for it.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--quick', action='store_true', help='the cases that say most, three short rounds')
    parser.add_argument('--cases', metavar='NAMES', help='names or patterns, separated by commas; --list shows them')
    parser.add_argument('--contestants', metavar='NAMES', help='names, separated by commas; --list shows them')
    parser.add_argument('--rounds', type=int, help='slices of each case (7; 3 if quick)')
    parser.add_argument('--seconds', type=float, help='the length of a slice (0.5; 0.3 if quick)')
    parser.add_argument('--output', type=Path, metavar='DIR', help='where results.* are written')
    parser.add_argument('--list', action='store_true', help='show cases and contestants, and measure nothing')
    return parser.parse_args(command)


def show_list() -> None:
    """Print what there is to measure."""
    print('cases:')
    for case in CASES:
        print(f'  {case.name:14} {case.title}{" (quick)" if case.name in QUICK else ""}')
    print('contestants:')
    for one in contestants_in():
        print(f'  {one.name:24} {one.api}  {one.role}  {" ".join(one.requires)}')


def found_server() -> EtcdServer:
    """An etcd to start: one with both APIs, where there is one."""
    try:
        return EtcdServer(api='v2')
    except EtcdNotFound:
        return EtcdServer(api='v3')


def tell_case(screen: Screen, conductor: Conductor, case: Case) -> None:
    """Write what came out of a case."""
    results = conductor.results
    screen.say(screen.strong(case.title))
    if case.work == 'memory':
        tables = [('  ', memory_table(results))] if results.memory else []
    elif case.counts:
        tables = [('  ', crowd_table(case, results.crowds[case]))] if case in results.crowds else []
    else:
        tables = [(f'  {api}  ', case_table(figures)) for api in APIS if (figures := results.figures(case, api))]
    for indent, table in tables:
        for line in table.as_text(indent):
            screen.say(screen.strong(line) if line[len(indent) :].startswith('getc') else line)
        if case.counts:
            screen.say(f'  ({", ".join(table.columns)})')
    for (of_case, one), reason in results.gaps.items():
        if of_case == case:
            screen.say(f'  {one.api}  {one.label}: {reason}')


def measured(
    screen: Screen, cases: Sequence[Case], contestants: Sequence[Contestant], rounds: int, seconds: float
) -> Report:
    """Measure all that is asked for."""
    lot = random.Random()
    with found_server() as server:
        screen.say(f'etcd {server.version}, {server.reason}; {rounds} rounds of {seconds:g} s')
        screen.say(
            'columns: calls or events a second, noise, CPU each, times the fastest peer (quarters), part of the limit'
        )
        known = [one for one in contestants if server.binary.supports('v2' if one.api == 'v2' else 'v3')]
        conductor = Conductor(server.url, known, rounds=rounds, seconds=seconds, lot=lot, tell=screen.doing)
        for one in contestants:
            if one not in known:
                conductor.results.left_out[one] = f'etcd {server.version} does not speak {one.api}'
        for one, reason in conductor.results.left_out.items():
            screen.say(f'without {one.label}: {reason}')
        with conductor:
            for case in cases:
                conductor.measure(case)
                tell_case(screen, conductor, case)
        return Report(
            conductor.results,
            cases,
            date=datetime.date.today().isoformat(),
            machine=described(),
            etcd=server.version,
            rounds=rounds,
            seconds=seconds,
        )


def write(report: Report, directory: Path) -> None:
    """Write the report in every form."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ('results.json', report.as_json()),
        ('results.md', report.as_markdown('results.svg')),
        ('results.rst', report.as_rst('results.svg')),
        ('results.svg', drawing(report.results, report.cases)),
    ):
        (directory / name).write_text(text, encoding='utf-8')


def main(command: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; the status is 0 if it was done."""
    options = arguments_of(sys.argv[1:] if command is None else command)
    if options.list:
        show_list()
        return 0
    contestants = contestants_in()
    try:
        patterns = options.cases.split(',') if options.cases else QUICK if options.quick else ['*']
        cases = select(patterns)
        if options.contestants:
            contestants = select_contestants(options.contestants.split(','), contestants)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (0.3 if options.quick else 0.5)
    # A run of everything is what the documentation shows; a part of it must not take its place.
    is_whole = not (options.quick or options.cases or options.contestants)
    output = options.output or (HOME if is_whole else None)
    screen = Screen()
    report = measured(screen, cases, contestants, rounds, seconds)
    if output is not None:
        write(report, output)
        screen.say(f'written: {output}/results.json, .md, .rst and .svg')
    return 0


if __name__ == '__main__':
    sys.exit(main())
