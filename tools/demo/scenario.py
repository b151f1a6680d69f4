"""The story of the demo, scene by scene, and its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, Literal, TextIO

import gevent

from getc.testing import EtcdNotFound, EtcdServer, ServerFailed
from tools.demo.display import Display
from tools.demo.expectations import Change
from tools.demo.orchestrator import PATIENCE, Director, Scene
from tools.demo.server import TICK, TTL

__all__ = [
    'SCENES',
    'change_configuration',
    'change_rate',
    'crash_etcd',
    'crash_server',
    'end_server',
    'join',
    'perform',
    'restore_etcd',
    'show_gaps',
    'start',
]

REST: Final = 1.5
"""Seconds to look at what happened."""

BURST: Final = range(3, 53)
"""The rates that are set one after the other, as fast as etcd writes."""


def join(director: Director) -> None:
    """Three servers join"""
    director.set_rate(1)
    director.open_lobby()
    for name in 'abc':
        start(director, name)
    gevent.sleep(REST)


def change_configuration(director: Director) -> None:
    """The configuration changes"""
    change_rate(director, 2)
    began = time.monotonic()
    for rate in BURST:
        director.set_rate(rate)
    director.wait_for_all()
    took = time.monotonic() - began
    director.say(f'{len(BURST)} more in a row: {3 * len(BURST)} confirmations after {took * 1000:.0f} ms')
    gevent.sleep(REST)


def crash_server(director: Director) -> None:
    """A server crashes, and returns"""
    director.say('ends b by SIGKILL')
    began = time.monotonic()
    director.kill('b')
    director.wait_for_all()
    director.say(f'the lobby knew {time.monotonic() - began:.1f} s after the crash; the TTL is {TTL} s')
    gevent.sleep(REST)
    start(director, 'b')
    gevent.sleep(REST)


def crash_etcd(director: Director) -> None:
    """etcd itself crashes"""
    director.ledger.announce(*(Change(name, '/servers', 'lost') for name in director.servers))
    before = dict(director.pulses)
    director.say('ends etcd by SIGKILL')
    director.etcd.kill()
    director.wait_for('a roster marked as stale', lambda: director.is_stale)
    director.wait_for(
        'SUSPECT, then LOST, by each server',
        lambda: all(director.states[name][-2:] == ['SUSPECT', 'LOST'] for name in director.servers),
    )
    director.wait_for_all()
    gevent.sleep(2 * REST)

    def speeds() -> dict[str, float]:
        return {name: director.pulses[name].ticks_a_second_since(before[name]) for name in director.servers}

    director.wait_for('ticks at half the speed at least', lambda: min(speeds().values()) > 0.5 / TICK)
    said = ', '.join(f'{name} {speed:.0f}' for name, speed in speeds().items())
    director.say(f'the worlds tick on all the while, a second: {said}')


def restore_etcd(director: Director) -> None:
    """etcd comes back, empty"""
    director.ledger.announce(Change('lobby', '/servers', 'resync'))
    director.ledger.announce(*(Change(name, '/servers', 'restored') for name in director.servers))
    director.say('starts etcd without its data')
    began = time.monotonic()
    director.etcd.restart(wipe=True)
    director.wait_for_all()
    director.wait_for('KEPT by each server', lambda: {states[-1] for states in director.states.values()} == {'KEPT'})
    director.wait_for(
        'a live roster with every server on it',
        lambda: not director.is_stale and director.roster == dict.fromkeys(director.servers, 'here'),
    )
    director.wait_for('no rate at any server', lambda: set(director.rates.values()) == {None})
    director.say(f'all registered again by themselves, {time.monotonic() - began:.1f} s after the start of etcd')
    gevent.sleep(REST)
    change_rate(director, BURST.stop)
    gevent.sleep(REST)


def end_server(director: Director) -> None:
    """A server leaves"""
    director.say('ends c by SIGTERM')
    director.terminate('c')
    director.wait_for_all()


SCENES: Final[Sequence[Scene]] = (join, change_configuration, crash_server, crash_etcd, restore_etcd, end_server)


def start(director: Director, name: str) -> None:
    """Start a server, and wait until the lobby and the server itself know."""
    director.say(f'starts {name}')
    director.start(name)
    director.wait_for_all()
    director.wait_for(f'KEPT by {name}', lambda: director.states[name][-1:] == ['KEPT'])


def change_rate(director: Director, rate: int) -> None:
    """Set the rate, and say how soon each server knew."""
    director.say(f'sets /cfg/rate to {rate}')
    began = time.monotonic()
    director.set_rate(rate)
    director.wait_for_all()
    for name in director.servers:
        director.say(f'has rate {rate} after {(director.rate_heard_at[name] - began) * 1000:.1f} ms', who=name)


def perform(
    api: Literal['v2', 'v3'], stream: TextIO, *, scenes: Sequence[Scene] = SCENES, patience: float = PATIENCE
) -> int:
    """Play the scenes on an etcd of their own, and return the exit status.

    Args:
        api: Which API of etcd is spoken.
        stream: Where it is shown.
        scenes: What is played.
        patience: Seconds for something to be seen.

    Returns:
        0 if all that there is to see was seen, 1 if not, 2 if there is no etcd to play on.
    """
    display = Display(stream)
    with ExitStack() as stack:
        try:
            etcd = stack.enter_context(EtcdServer(api=api))
        except (EtcdNotFound, ServerFailed) as error:
            print(error, file=sys.stderr)
            return 2
        director = stack.enter_context(Director(etcd, api=api, display=display, patience=patience))
        display.headline(
            'A small game world on a real etcd', f'etcd {etcd.version}, {etcd.reason}; the {api} API; TTL {TTL} s'
        )
        faults = director.play(scenes)
        display.table(director.ledger.rows())
        show_gaps(director, display)
        display.verdict(faults)
    return 1 if faults else 0


def show_gaps(director: Director, display: Display) -> None:
    """Show how regularly the worlds ticked."""
    gaps = {name: gap * 1000 for name, gap in sorted(director.worst_gaps.items())}
    if gaps:
        each = ', '.join(f'{name} {gap:.1f}' for name, gap in gaps.items())
        display.figure(
            'worst gap between two ticks', f'{max(gaps.values()):9.1f} ms   ({each}; {TICK * 1000:.0f} is due)'
        )
