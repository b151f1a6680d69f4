"""Command line of the example."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import gevent
from gevent.event import Event

import getc
from examples.zones.board import Board, Screen
from examples.zones.matchmaker import Matchmaker, NoFreeSeat
from examples.zones.tour import Tour
from examples.zones.zone import SHARDS, Zone

__all__ = ['main']

DESCRIPTION: Final = """\
A small online world on getc: zone servers run six shards, and a matchmaker assigns players to them.

Without a ROLE it runs a demonstration of half a minute, in this process and with a store in memory instead of an etcd.
Zones start, drain, and lose their connection; each shard has at most one owner, and no player is lost.  The exit status
is 0 if no player was lost.
"""

EPILOG: Final = """\
With an etcd each role is a process.  Run each in a terminal of its own:

  python -m examples.zones zone a          a zone server; Ctrl-C or SIGTERM drains it, SIGKILL is a crash
  python -m examples.zones zone b
  python -m examples.zones seat ann bob    assigns two players to shards
  python -m examples.zones board           shows the owner of each shard

While they run, change the configuration:

  etcdctl put /cfg/step 0.2                shards take five steps a second
  etcdctl put /cfg/drain/a now             zone a releases its shards, and keeps running
  etcdctl del /cfg/drain/a                 zone a takes its share again

Start reading in examples/zones/shard.py.  NO_COLOR=1 turns colors off.
"""

URL: Final = 'http://127.0.0.1:2379'

log = logging.getLogger('zones')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one role, or the demonstration; return the exit status."""
    options = _parser().parse_args(arguments)
    screen = Screen(sys.stdout)
    log.addHandler(screen)
    log.setLevel(logging.INFO)
    logging.getLogger('getc').setLevel(logging.ERROR)  # the example logs the same events itself
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)  # raised in the main greenlet, but not printed as well
    try:
        if options.role is None:
            return 0 if Tour(screen).run() else 1
        with getc.etcd(options.url) as etcd:
            if options.role == 'zone':
                serve(etcd, options.name, options.ttl)
            elif options.role == 'seat':
                seat(etcd, options.players)
            else:
                show(etcd, screen)
    except (NoFreeSeat, getc.EtcException) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        log.removeHandler(screen)
    return 0


def serve(etcd: getc.Client, name: str, ttl: int) -> None:
    """Run a zone server until SIGTERM or SIGINT, which drains it."""
    log.info('%s: waits for etcd at %s', name, etcd.url)
    zone = Zone(etcd, name, ttl=ttl)
    on_signal(zone.stop)  # until here a signal ends the process at once: there is nothing to release
    zone.run()


def seat(etcd: getc.Client, players: Sequence[str]) -> None:
    """Assign players to shards, and print the shards."""
    matchmaker = Matchmaker(etcd)
    for player in players:
        shard = matchmaker.seat(player)
        log.info('%s goes to the %s, which zone %s runs', player, shard, matchmaker.server_of(player))


def show(etcd: getc.Client, screen: Screen) -> None:
    """Show the board until SIGTERM or SIGINT."""
    board = Board(etcd, SHARDS, is_colored=screen.is_colored)
    stopped = Event()
    on_signal(stopped.set)
    screen.draw(board.lines())
    while not stopped.wait(0.1 if screen.is_terminal else 5.0):
        screen.draw(board.lines())


def on_signal(callback: Callable[[], object]) -> None:
    """Call the function on SIGTERM and on SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, callback)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='python -m examples.zones', description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    roles = parser.add_subparsers(dest='role', metavar='ROLE', title='run a single role, on an etcd')
    url = argparse.ArgumentParser(add_help=False)
    url.add_argument('--url', default=URL, help='URLs of the etcd, separated by commas (default: %(default)s)')
    role = roles.add_parser('zone', parents=[url], help='a zone server')
    role.add_argument('name', metavar='NAME', help='its node is /zones/NAME')
    role.add_argument(
        '--ttl', type=int, default=10, help='seconds until other zones take its shards after a crash (%(default)s)'
    )
    role = roles.add_parser('seat', parents=[url], help='a matchmaker that assigns these players and ends')
    role.add_argument('players', metavar='PLAYER', nargs='+', help='names of players')
    roles.add_parser('board', parents=[url], help='a table of all zones, shards and players')
    return parser


if __name__ == '__main__':
    sys.exit(main())
