"""``make faults``: run a workload against a cluster with injected faults, from the command line."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import gevent

from getc.testing import EtcdNotFound, ServerFailed
from getc.testing.binaries import EtcdBinary, choose_etcd
from tests.faults.bugs import BUGS
from tests.faults.history import History
from tests.faults.history_reader import IncompleteHistory
from tests.faults.progress import Progress
from tests.faults.report import history_path, judge, report, summary
from tests.faults.run import Run, RunConfig
from tests.faults.schedule import FAULT_KINDS
from tests.faults.verdict import check
from tests.support.built_servers import name_built_servers

__all__ = ['main']

DESCRIPTION = """\
Runs three etcds and three clients, each of which connects to each member through a separate proxy: one client has a
learner among its endpoints, another uses proxies that answer HTTP/2 PINGs themselves.  For some minutes members are
killed, paused, isolated, replaced and wiped, backups are restored, connections are cut, silenced and slowed down,
history is compacted, leases are revoked, and authentication is enabled.  All calls, results and events are recorded.
Then all faults are healed, and the history is checked: registers are linearizable, writes are applied at most once,
watchers receive every change once and in order, watchers that report LIVE have received everything, kept nodes exist
as long as etcd is available, nodes have one owner at a time, and no resource is leaked.

The exit status is 0 only if no rule was violated.  A failed run prints the rule, the records that show the violation,
the seed, and the file with the whole history.
"""

EPILOG = f"""\
The kinds of faults: {', '.join(FAULT_KINDS)}.

  make faults                          3 minutes with a random seed, which is printed
  make faults SEED=7 MINUTES=10        the same faults at the same times for each run with this seed
  make faults SEEDS=10                 ten seeds in a row
  python -m tests.faults --minutes 0.5 --faults cut,half --bug blind-retry
                                       is it detected that getc applies a write twice?
  python -m tests.faults --history /tmp/getc-faults-7.jsonl
                                       check the history of a failed run again

Times are real, so a seed determines the faults, but not the history.  --etcd-binary or GETC_ETCD selects the etcd.
Members of etcd 3.5.0 to 3.5.2 are killed only for wipes and restores, because they may diverge after a SIGKILL.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests, and return the exit status."""
    options = _parser().parse_args(arguments)
    if options.history is not None:
        verdict = check(History.load(options.history))
        print(verdict)
        return 0 if verdict.is_good else 1
    hub = gevent.get_hub()
    hub.NOT_ERROR = (
        *hub.NOT_ERROR,
        KeyboardInterrupt,
    )  # it is raised in the main greenlet, and must not be printed as well
    name_built_servers()
    try:
        binary = choose_etcd('v3', options.etcd_binary, for_kills=True)
        print(binary)
        return max([_run(config, keep=options.keep) for config in _configs(options, binary)])
    except (EtcdNotFound, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; all processes are stopped', file=sys.stderr)
        return 130


def _configs(options: argparse.Namespace, binary: EtcdBinary) -> list[RunConfig]:
    first = random.randrange(1_000_000) if options.seed is None else options.seed
    kinds = tuple(FAULT_KINDS) if options.faults is None else options.faults
    seconds = 60 * options.minutes
    return [RunConfig(first + number, seconds, kinds, binary, options.bug) for number in range(options.seeds)]


def _run(config: RunConfig, *, keep: bool) -> int:
    run = Run(config)
    path = history_path(config)
    is_good = False
    try:
        with Progress(run, sys.stdout):
            result = run.execute()
            verdict = judge(result)
        is_good = verdict.is_good
        print('\n'.join(report(config, result, verdict)))
        print(summary(config, verdict), flush=True)
    except (IncompleteHistory, ServerFailed, TimeoutError) as error:
        print(f'seed {config.seed}: UNKNOWN (counts as failed): {type(error).__name__}: {error}')
    finally:
        if keep or not is_good:
            run.history.save(path)
            print(f'the history is in {path}')
    return 0 if is_good else 1


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(','))
    unknown = sorted(set(kinds) - set(FAULT_KINDS))
    if unknown:
        raise argparse.ArgumentTypeError(
            f'unknown kinds of faults: {", ".join(unknown)}; the known ones are {", ".join(FAULT_KINDS)}'
        )
    return kinds


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='python -m tests.faults', description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument('--seed', type=int, help='determines faults and workload (default: random)')
    parser.add_argument(
        '--seeds', type=int, default=1, help='number of runs with successive seeds (default: %(default)s)'
    )
    parser.add_argument(
        '--minutes', type=float, default=3.0, help='duration of the faults for each seed (default: %(default)s)'
    )
    parser.add_argument('--faults', type=_kinds, metavar='KIND,...', help='inject only these kinds')
    parser.add_argument('--etcd-binary', metavar='PATH', help='the etcd (default: GETC_ETCD, or the one that is found)')
    parser.add_argument(
        '--bug',
        action='append',
        default=[],
        choices=sorted(BUGS),
        help='inject this bug into getc, to verify that it is detected',
    )
    parser.add_argument('--keep', action='store_true', help='keep the history of successful runs, too')
    parser.add_argument('--history', type=Path, metavar='FILE', help='check this history instead of a run')
    return parser


if __name__ == '__main__':
    sys.exit(main())
