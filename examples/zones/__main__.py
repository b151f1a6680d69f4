"""The example from the command line."""

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
from examples.zones.matchmaker import Full, Matchmaker
from examples.zones.tour import Tour
from examples.zones.zone import SHARDS, Zone

__all__ = ['main']

DESCRIPTION: Final = """\
A small online world on getc.  It has six shards, run by zone servers; a matchmaker gives players their places.

Without a ROLE it shows itself in half a minute: in this process alone, with a store in memory and no etcd.  Zones
come, drain, and are cut off; each shard has one owner at most, and no player is lost.  The status is 0 if that is so.
"""

EPILOG: Final = """\
With an etcd each role is a process.  In a terminal each:

  python -m examples.zones zone a          a zone server; Ctrl-C or SIGTERM drains it, SIGKILL is a crash
  python -m examples.zones zone b
  python -m examples.zones seat ann bob    finds places for two players
  python -m examples.zones board           shows who runs what

and while they run:

  etcdctl put /cfg/step 0.2                shards take five steps a second
  etcdctl put /cfg/drain/a now             zone a gives its shards away, and serves on without
  etcdctl del /cfg/drain/a                 and takes its share again

Start reading in examples/zones/shard.py.  NO_COLOR=1 leaves the colours out.
"""

URL: Final = 'http://127.0.0.1:2379'

log = logging.getLogger('zones')


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a role, or show them all; return the exit status."""
    options = _parser().parse_args(arguments)
    screen = Screen(sys.stdout)
    log.addHandler(screen)
    log.setLevel(logging.INFO)
    logging.getLogger('getc').setLevel(logging.ERROR)  # what it warns of, we tell ourselves
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)  # it is raised here, and need not be printed too
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
    except (Full, getc.EtcException) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        log.removeHandler(screen)
    return 0


def serve(etcd: getc.Client, name: str, ttl: int) -> None:
    """Be a zone server until a signal says that it is enough; then drain."""
    log.info('%s: waits for etcd at %s', name, etcd.url)
    zone = Zone(etcd, name, ttl=ttl)
    at_signal(zone.end)  # before this there is nothing to give back, and a signal ends us at once
    zone.run()


def seat(etcd: getc.Client, players: Sequence[str]) -> None:
    """Find places for these players, and say where they are."""
    matchmaker = Matchmaker(etcd)
    for player in players:
        shard = matchmaker.seat(player)
        log.info('%s goes to the %s, which zone %s runs', player, shard, matchmaker.server_of(player))


def show(etcd: getc.Client, screen: Screen) -> None:
    """Show the board until a signal comes."""
    board = Board(etcd, SHARDS, is_coloured=screen.is_coloured)
    ended = Event()
    at_signal(ended.set)
    screen.draw(board.lines())
    while not ended.wait(0.1 if screen.is_terminal else 5.0):
        screen.draw(board.lines())


def at_signal(do: Callable[[], object]) -> None:
    """Do it at SIGTERM, and at Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, do)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='python -m examples.zones', description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    roles = parser.add_subparsers(dest='role', metavar='ROLE', title='one role of it, on an etcd')
    url = argparse.ArgumentParser(add_help=False)
    url.add_argument('--url', default=URL, help='of the etcd, or several separated by commas (%(default)s)')
    role = roles.add_parser('zone', parents=[url], help='a zone server')
    role.add_argument('name', metavar='NAME', help='its node is /zones/NAME')
    role.add_argument(
        '--ttl', type=int, default=10, help='seconds after which others have its shards if it dies (%(default)s)'
    )
    role = roles.add_parser('seat', parents=[url], help='a matchmaker, for as long as it takes')
    role.add_argument('players', metavar='PLAYER', nargs='+', help='who wants to play')
    roles.add_parser('board', parents=[url], help='a table of what goes on')
    return parser


if __name__ == '__main__':
    sys.exit(main())
