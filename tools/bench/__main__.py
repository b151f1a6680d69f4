"""Command line of the benchmark: ``python -m tools.bench``."""

from __future__ import annotations

import argparse
import datetime
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from getc.testing import EtcdNotFound, EtcdServer
from tools.bench.against import NoCommit, clients_of, compare, comparison_table, extract
from tools.bench.cases import CASES, QUICK, Case, select
from tools.bench.chart import draw_chart
from tools.bench.machine import describe_machine
from tools.bench.registry import BenchClient, find_clients
from tools.bench.registry import select as select_clients
from tools.bench.report import APIS, Report, case_table, memory_table
from tools.bench.runner import Runner
from tools.bench.scale import scale_table

HOME = Path(__file__).resolve().parent.parent.parent / 'docs' / 'benchmarks'

EPILOG = """\
examples:
  python -m tools.bench                                    everything; writes docs/benchmarks
  python -m tools.bench --quick                            a minute or two, prints to the terminal only
  python -m tools.bench --cases 'get-50-*,set-50-*'        some cases
  python -m tools.bench --clients getc_v2,python_etcd      some clients
  python -m tools.bench --quick --output /tmp/bench        also writes files
  python -m tools.bench --against v0.1 --rounds 21         this getc and that of another commit, in turns

Each client runs in a process and a virtual environment of its own (.venv-bench-NAME, created with pip
at the first use).  To measure another client, add a file to tools/bench/clients; see
tools/bench/registry.py.  Results are ratios within a round: a busy machine adds noise, not bias.

--against REV measures getc's own clients with the package of that commit as well (in .venv-bench-at-REV), and
prints the median of the ratios of each case.  The status is 1 if a case is slower by more than --tolerance
percent, or if the rounds differ too much to tell: use many rounds on a busy machine.
"""


class Screen:
    """The terminal: results are permanent lines, progress is one line that is overwritten."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._begin = time.monotonic()

    def show_progress(self, text: str) -> None:
        """Show what is being measured, if the output is a terminal."""
        if self._is_terminal:
            seconds = time.monotonic() - self._begin
            print(f'\r\x1b[K\x1b[2m{int(seconds // 60)}:{int(seconds % 60):02} {text}\x1b[0m', end='', flush=True)

    def say(self, text: str = '') -> None:
        """Print a line."""
        print(('\r\x1b[K' if self._is_terminal else '') + text, flush=True)

    def highlight(self, text: str) -> str:
        """Return the text in bold if the output is a terminal."""
        return f'\x1b[1;36m{text}\x1b[0m' if self._is_terminal else text


def parse_arguments(command: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.bench',
        description='Compare the speed of getc with that of other etcd clients, on an etcd that is started for it.',
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--quick', action='store_true', help='the most important cases, three short rounds')
    parser.add_argument('--cases', metavar='NAMES', help='names or patterns, separated by commas; --list shows them')
    parser.add_argument('--clients', metavar='NAMES', help='names, separated by commas; --list shows them')
    parser.add_argument('--against', metavar='REV', help='compare with the getc of a commit, and with no other client')
    parser.add_argument('--tolerance', type=float, default=3.0, metavar='PERCENT', help='of --against (%(default)g)')
    parser.add_argument('--rounds', type=int, help='slices of each case (7; 3 if quick)')
    parser.add_argument('--seconds', type=float, help='the length of a slice (0.5; 0.3 if quick)')
    parser.add_argument('--output', type=Path, metavar='DIR', help='where results.* are written')
    parser.add_argument('--list', action='store_true', help='show cases and clients, and measure nothing')
    return parser.parse_args(command)


def show_list() -> None:
    """Print all cases and clients."""
    print('cases:')
    for case in CASES:
        print(f'  {case.name:14} {case.title}{" (quick)" if case.name in QUICK else ""}')
    print('clients:')
    for one in find_clients():
        print(f'  {one.name:24} {one.api}  {one.role}  {" ".join(one.requires)}')


def start_any_etcd() -> EtcdServer:
    """Return a server that is not started: one with both APIs if such an etcd is installed."""
    try:
        return EtcdServer(api='v2')
    except EtcdNotFound:
        return EtcdServer(api='v3')


def print_case(screen: Screen, runner: Runner, case: Case) -> None:
    """Print the results of a case."""
    results = runner.results
    screen.say(screen.highlight(case.title))
    if case.work == 'memory':
        tables = [('  ', memory_table(results))] if results.memory else []
    elif case.counts:
        tables = [('  ', scale_table(case, results.scale[case]))] if case in results.scale else []
    else:
        tables = [(f'  {api}  ', case_table(figures)) for api in APIS if (figures := results.figures(case, api))]
    for indent, table in tables:
        for line in table.as_text(indent):
            screen.say(screen.highlight(line) if line[len(indent) :].startswith('getc') else line)
        if case.counts:
            screen.say(f'  ({", ".join(table.columns)})')
    for (of_case, one), reason in results.gaps.items():
        if of_case == case:
            screen.say(f'  {one.api}  {one.label}: {reason}')


def print_comparison(screen: Screen, report: Report, commit: str, tolerance: float) -> int:
    """Print the comparison with another commit; return the exit status: 0 if no case is slower."""
    comparisons = list(compare(report.results, report.cases))
    if not comparisons:
        screen.say(f'nothing was compared with {commit}')
        return 1
    verdicts = [one.verdict(tolerance) for one in comparisons]
    slower, unclear = verdicts.count('SLOWER'), verdicts.count('unclear')
    screen.say(
        f'\ncompared with {commit}: case, client, rate (quartiles), CPU each; medians of the ratios of all rounds'
    )
    for line in comparison_table(comparisons, commit, tolerance).as_text('  '):
        screen.say(line)
    screen.say(
        f'{slower} of {len(comparisons)} are slower than {commit} by more than {tolerance:.1%}, {unclear} unclear'
    )
    if unclear:
        screen.say('unclear: the ratios of the rounds differ too much; take more --rounds, or a quieter machine')
    return 1 if slower or unclear else 0


def run_cases(
    screen: Screen, cases: Sequence[Case], clients: Sequence[BenchClient], rounds: int, seconds: float
) -> Report:
    """Measure the cases and return a report."""
    rng = random.Random()
    with start_any_etcd() as server:
        screen.say(f'etcd {server.version}, {server.reason}; {rounds} rounds of {seconds:g} s')
        screen.say(
            'columns: calls or events per second, noise, CPU each, p50, p99, ratio to the fastest peer (quartiles), '
            'ratio to the limit'
        )
        known = [one for one in clients if server.binary.supports('v2' if one.api == 'v2' else 'v3')]
        runner = Runner(server.url, known, rounds=rounds, seconds=seconds, rng=rng, show_progress=screen.show_progress)
        for one in clients:
            if one not in known:
                runner.results.left_out[one] = f'etcd {server.version} does not support {one.api}'
        for one, reason in runner.results.left_out.items():
            screen.say(f'without {one.label}: {reason}')
        with runner:
            for case in cases:
                runner.measure(case)
                print_case(screen, runner, case)
        return Report(
            runner.results,
            cases,
            date=datetime.date.today().isoformat(),
            machine=describe_machine(),
            etcd=server.version,
            rounds=rounds,
            seconds=seconds,
        )


def write(report: Report, directory: Path) -> None:
    """Write the report in all formats."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ('results.json', report.as_json()),
        ('results.md', report.as_markdown('results.svg')),
        ('results.rst', report.as_rst('results.svg')),
        ('results.svg', draw_chart(report.results, report.cases)),
    ):
        (directory / name).write_text(text, encoding='utf-8')


def main(command: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit status."""
    options = parse_arguments(sys.argv[1:] if command is None else command)
    if options.list:
        show_list()
        return 0
    clients = find_clients()
    try:
        patterns = options.cases.split(',') if options.cases else QUICK if options.quick else ['*']
        cases = select(patterns)
        if options.clients:
            clients = select_clients(options.clients.split(','), clients)
        if options.against:
            commit, folder = extract(options.against)
            ours = clients if options.clients else [one for one in clients if one.role == 'ours']
            clients = clients_of(commit, folder, ours)
    except (ValueError, NoCommit) as error:
        print(error, file=sys.stderr)
        return 2
    rounds = options.rounds or (3 if options.quick else 7)
    seconds = options.seconds or (0.3 if options.quick else 0.5)
    # The documentation shows a complete run, which a partial one must not overwrite.
    is_complete = not (options.quick or options.cases or options.clients or options.against)
    output = options.output or (HOME if is_complete else None)
    screen = Screen()
    report = run_cases(screen, cases, clients, rounds, seconds)
    if output is not None:
        write(report, output)
        screen.say(f'written: {output}/results.json, .md, .rst and .svg')
    return print_comparison(screen, report, commit, options.tolerance / 100) if options.against else 0


if __name__ == '__main__':
    sys.exit(main())
