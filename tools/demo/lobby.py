"""A lobby: it shows the players which servers there are.

``run`` is all that it needs of getc.  ``tell`` is where another lobby would draw.
"""

from __future__ import annotations

import signal
from typing import Literal

import gevent
from gevent.event import Event

import getc
from tools.demo.reports import Tell, when_dismissed

__all__ = ['run', 'what_happened']


def run(url: str, api: Literal['v2', 'v3'], tell: Tell) -> None:
    """Follow the servers until SIGTERM."""
    roster: dict[str, str] = {}  # of each server, by name: is it here, and if not, what became of it?
    ended = Event()
    gevent.signal_handler(signal.SIGTERM, ended.set)
    when_dismissed(ended.set)

    with getc.etcd(url, api=api) as etcd:

        def follow(result: getc.EtcdResult) -> None:
            """Called for each server that is there, then for each change: in order, each exactly once."""
            name = result.key.removeprefix('/servers/')
            change = what_happened(result)
            roster[name] = 'here' if change == 'joined' else change
            tell(server=name, change=change, by_comparison=result.resync, roster=roster)

        def after_resync(watcher: getc.Watcher) -> None:
            """History was lost: ``follow`` was told what is different, so the roster is right again."""
            tell(resync=True, roster=roster)

        watcher = etcd.on_change('/servers', follow, initial=True, on_resync=after_resync)
        was_stale = False
        while not ended.wait(0.05):
            # Asking a watcher how it stands does no I/O.
            if watcher.is_stale != was_stale:
                was_stale = watcher.is_stale
                tell(stale=was_stale, roster=roster)


def what_happened(result: getc.EtcdResult) -> str:
    """One word for a change of a server's node."""
    if isinstance(result, getc.Expired):
        return 'expired'  # it died, or could not reach etcd for longer than its TTL
    if isinstance(result, getc.Deleted):
        return 'gone' if result.resync else 'left'  # in a comparison nobody knows how it went
    return 'joined'
