"""A lobby: it shows the players which game servers are registered.

``run`` contains all that a lobby needs of getc.  A real lobby would update its screen instead of calling ``report``.
"""

from __future__ import annotations

import signal
from typing import Literal

import gevent
from gevent.event import Event

import getc
from tools.demo.reports import Report, on_stdin_closed

__all__ = ['change_name', 'run']


def run(url: str, api: Literal['v2', 'v3'], report: Report) -> None:
    """Follow the servers until SIGTERM."""
    roster: dict[str, str] = {}  # by server: 'here', or how it went
    stopped = Event()
    gevent.signal_handler(signal.SIGTERM, stopped.set)
    on_stdin_closed(stopped.set)

    with getc.etcd(url, api=api) as etcd:

        def follow(result: getc.EtcdResult) -> None:
            """Called for each registered server, then for each change: in order, each exactly once."""
            name = result.key.removeprefix('/servers/')
            change = change_name(result)
            roster[name] = 'here' if change == 'joined' else change
            report(server=name, change=change, resync=result.resync, roster=roster)

        def after_resync(watcher: getc.Watcher) -> None:
            """The event history was lost; ``follow`` has received the differences, so the roster is current again."""
            report(resynced=True, roster=roster)

        watcher = etcd.on_change('/servers', follow, initial=True, on_resync=after_resync)
        was_stale = False
        while not stopped.wait(0.05):
            if watcher.is_stale != was_stale:  # reading `is_stale` does no I/O
                was_stale = watcher.is_stale
                report(stale=was_stale, roster=roster)


def change_name(result: getc.EtcdResult) -> str:
    """Return one word for a change of a server's node."""
    if isinstance(result, getc.Expired):
        return 'expired'  # the server crashed, or could not reach etcd for longer than its TTL
    if isinstance(result, getc.Deleted):
        return 'gone' if result.resync else 'left'  # a resync cannot distinguish expiry from deletion
    return 'joined'
