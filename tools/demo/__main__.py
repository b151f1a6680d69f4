"""Command line of the demo."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Final

import gevent

from tools.demo import lobby, server
from tools.demo.reports import report
from tools.demo.scenario import run_demo

__all__ = ['main']

APIS: Final = ('v3', 'v2')
"""The APIs of etcd that getc supports; the first is the default."""

DESCRIPTION: Final = """\
A small game world on a real etcd, in about 20 seconds.

Three game servers tick 50 times a second and keep a node each in /servers; a lobby shows which
servers are registered.  The configuration changes, a server crashes, etcd itself crashes and comes
back empty, a server shuts down.  At the end a table compares expected with observed changes.  The
exit status is 0 only if every expected change was observed.  etcd is started on free ports and
stopped; no process and no file is left behind.
"""

EPILOG: Final = """\
Each role is a process of its own, and can be run by hand against your own etcd:

  python -m tools.demo lobby http://127.0.0.1:2379       in one terminal
  python -m tools.demo server a http://127.0.0.1:2379    in another one

They report in JSON, and end at Ctrl-C.  How a game server uses getc is in tools/demo/server.py, how
a lobby does in tools/demo/lobby.py.  NO_COLOR=1 turns colors off.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo, or one role of it; return the exit status."""
    options = _parser().parse_args(arguments)
    hub = gevent.get_hub()
    hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)  # raised in the main greenlet, but not printed as well
    try:
        if options.role is None:
            return run_demo(options.api, sys.stdout)
        logging.getLogger('getc').setLevel(logging.ERROR)  # the reports contain what the warnings say
        if options.role == 'server':
            server.run(options.name, options.url, options.api, report)
        else:
            lobby.run(options.url, options.api, report)
    except KeyboardInterrupt:
        print('\ninterrupted; no process is left running', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog='python -m tools.demo', description=DESCRIPTION, epilog=EPILOG, formatter_class=raw
    )
    parser.add_argument('--api', choices=APIS, default=APIS[0], help='the API of etcd (default: %(default)s)')
    roles = parser.add_subparsers(dest='role', metavar='ROLE', title='run a single role')
    role = roles.add_parser('server', help='a game server')
    role.add_argument('name', metavar='NAME', help='its node is /servers/NAME')
    role.add_argument('url', metavar='URL', help='URL of the etcd')
    role = roles.add_parser('lobby', help='a lobby')
    role.add_argument('url', metavar='URL', help='URL of the etcd')
    return parser


if __name__ == '__main__':
    sys.exit(main())
