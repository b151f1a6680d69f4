"""``make faults``: a cluster under fire, from the command line."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import gevent

from getc.testing import EtcdNotFound, ServerFailed
from getc.testing.binaries import EtcdBinary, chosen_etcd
from tests.faults.bugs import BUGS
from tests.faults.history import History
from tests.faults.history_reader import IncompleteArchive
from tests.faults.progress import Progress
from tests.faults.report import judged, place_of, report, summary
from tests.faults.run import Order, Run
from tests.faults.schedule import KINDS
from tests.faults.verdict import check

__all__ = ['main']

DESCRIPTION = """\
Three etcds and three clients, each of which reaches them by proxies of its own: one client has a learner among
its endpoints, another goes through proxies that answer HTTP/2 PINGs themselves.  For some minutes members are
killed, paused, cut off, replaced and wiped, backups are restored, connections cut, silenced and slowed down,
history is compacted, leases are revoked, etcd asks for passwords; everything that clients do and are told
meanwhile is noted.  Then all is mended, and the history is judged: whether registers are linearizable, writes
applied at most once, watchers told everything once and in order, followers LIVE only when they had received
everything, nodes there as long as etcd was, names owned by one at a time, and whether anything is left behind.

The status is 0 only if no rule was broken.  A run that failed names the rule, the shortest piece of the
history that shows it, the seed, and the file with all of the history.
"""

EPILOG = f"""\
The kinds of faults: {', '.join(KINDS)}.

  make faults                          3 minutes, with a seed that is printed
  make faults SEED=7 MINUTES=10        the same strikes at the same times as each time with this seed
  make faults SEEDS=10                 ten seeds in a row
  python -m tests.faults --minutes 0.5 --faults cut,half --bug blind-retry
                                       does it notice that getc applies a write twice?
  python -m tests.faults --history /tmp/getc-faults-7.jsonl
                                       judge a run again that failed

Times are real, so a seed gives the same faults, not the same history.  --etcd-binary or GETC_ETCD names the etcd.
Members of etcd 3.5.0 to 3.5.2 are not killed, because they are known to go on with different data then; wiped and
restored they are.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it, and return the exit status."""
    options = _parser().parse_args(arguments)
    if options.history is not None:
        verdict = check(History.load(options.history))
        print(verdict)
        return 0 if verdict.is_good else 1
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)  # raised in the main greenlet, but not printed too
    try:
        binary = chosen_etcd('v3', options.etcd_binary, for_kills=True)
        print(binary)
        return max([_run(order, keeps=options.keep) for order in _orders(options, binary)])
    except (EtcdNotFound, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted; nothing is left running', file=sys.stderr)
        return 130


def _orders(options: argparse.Namespace, binary: EtcdBinary) -> list[Order]:
    first = random.randrange(1_000_000) if options.seed is None else options.seed
    kinds = tuple(KINDS) if options.faults is None else options.faults
    seconds = 60 * options.minutes
    return [Order(first + number, seconds, kinds, binary, options.bug) for number in range(options.seeds)]


def _run(order: Order, *, keeps: bool) -> int:
    run = Run(order)
    place = place_of(order)
    is_good = False
    try:
        with Progress(run, sys.stdout):
            result = run.perform()
            verdict = judged(result)
        is_good = verdict.is_good
        print('\n'.join(report(order, result, verdict)))
        print(summary(order, verdict), flush=True)
    except (IncompleteArchive, ServerFailed, TimeoutError) as error:
        print(f'seed {order.seed}: UNKNOWN, which is no pass; {type(error).__name__}: {error}')
    finally:
        if keeps or not is_good:
            run.history.save(place)
            print(f'the history is in {place}')
    return 0 if is_good else 1


def _kinds(text: str) -> tuple[str, ...]:
    kinds = tuple(text.split(','))
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise argparse.ArgumentTypeError(f'no such faults: {", ".join(unknown)}; there are {", ".join(KINDS)}')
    return kinds


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='python -m tests.faults', description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument('--seed', type=int, help='what the faults and the load are drawn from (default: any)')
    parser.add_argument('--seeds', type=int, default=1, help='so many seeds in a row (default: %(default)s)')
    parser.add_argument('--minutes', type=float, default=3.0, help='of fire, for each seed (default: %(default)s)')
    parser.add_argument('--faults', type=_kinds, metavar='KIND,...', help='only these kinds')
    parser.add_argument('--etcd-binary', metavar='PATH', help='of the etcd (default: GETC_ETCD, or one that is found)')
    parser.add_argument(
        '--bug', action='append', default=[], choices=sorted(BUGS), help='put this into getc, to see that it is caught'
    )
    parser.add_argument('--keep', action='store_true', help='keep the history of runs that are good, too')
    parser.add_argument('--history', type=Path, metavar='FILE', help='judge this history, and run nothing')
    return parser


if __name__ == '__main__':
    sys.exit(main())
