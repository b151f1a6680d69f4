"""The steps of the demo, and the function that runs them."""

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
from tools.demo.orchestrator import TIMEOUT, Orchestrator, Step
from tools.demo.server import TICK, TTL

__all__ = [
    'STEPS',
    'change_configuration',
    'crash_etcd',
    'crash_server',
    'join',
    'restore_etcd',
    'run_demo',
    'set_and_confirm_rate',
    'show_gaps',
    'start_server',
    'terminate_server',
]

PAUSE: Final = 1.5
"""Seconds between steps, for people who read the output while it appears."""

BURST: Final = range(3, 53)
"""The rates that are written one after the other without a pause."""

TICKS_DURING_OUTAGE: Final = 50
"""Ticks of each world that have to be counted while etcd is down."""


def join(demo: Orchestrator) -> None:
    """Three servers join"""
    demo.set_rate(1)
    demo.start_lobby()
    for name in 'abc':
        start_server(demo, name)
    gevent.sleep(PAUSE)


def change_configuration(demo: Orchestrator) -> None:
    """The configuration changes"""
    set_and_confirm_rate(demo, 2)
    started_at = time.monotonic()
    for rate in BURST:
        demo.set_rate(rate)
    demo.wait_for_all()
    elapsed = time.monotonic() - started_at
    demo.log(f'{len(BURST)} more in a row: {3 * len(BURST)} confirmations after {elapsed * 1000:.0f} ms')
    gevent.sleep(PAUSE)


def crash_server(demo: Orchestrator) -> None:
    """A server crashes, and returns"""
    demo.log('ends b by SIGKILL')
    started_at = time.monotonic()
    demo.kill_server('b')
    demo.wait_for_all()
    demo.log(f'the lobby was notified {time.monotonic() - started_at:.1f} s after the crash; the TTL is {TTL} s')
    gevent.sleep(PAUSE)
    start_server(demo, 'b')
    gevent.sleep(PAUSE)


def crash_etcd(demo: Orchestrator) -> None:
    """etcd itself crashes"""
    demo.wait_for('a tick count of each server', lambda: all(name in demo.tick_counts for name in demo.servers))
    before = dict(demo.tick_counts)
    demo.expectations.expect(*(Change(name, '/servers', 'lost') for name in demo.servers))
    demo.log('ends etcd by SIGKILL')
    demo.etcd.kill()
    demo.wait_for('a roster marked as stale', lambda: demo.is_stale)
    demo.wait_for('LOST by each server', lambda: all(demo.states[name][-1] == 'LOST' for name in demo.servers))
    demo.wait_for_all()
    gevent.sleep(2 * PAUSE)
    demo.wait_for(
        f'{TICKS_DURING_OUTAGE} ticks of each server',
        lambda: all(demo.tick_counts[name].ticks - before[name].ticks > TICKS_DURING_OUTAGE for name in demo.servers),
    )
    rates = ', '.join(f'{name} {demo.tick_counts[name].rate_since(before[name]):.0f}' for name in demo.servers)
    demo.log(f'the worlds kept ticking meanwhile, per second: {rates}')


def restore_etcd(demo: Orchestrator) -> None:
    """etcd comes back, empty"""
    demo.expectations.expect(Change('lobby', '/servers', 'resync'))
    demo.expectations.expect(*(Change(name, '/servers', 'restored') for name in demo.servers))
    demo.log('starts etcd without its data')
    started_at = time.monotonic()
    demo.etcd.restart(wipe=True)
    demo.wait_for_all()
    demo.wait_for('KEPT by each server', lambda: {states[-1] for states in demo.states.values()} == {'KEPT'})
    demo.wait_for(
        'a live roster with every server on it',
        lambda: not demo.is_stale and demo.roster == dict.fromkeys(demo.servers, 'here'),
    )
    demo.wait_for('no rate at any server', lambda: set(demo.rates.values()) == {None})
    demo.log(f'every server has registered again by itself, {time.monotonic() - started_at:.1f} s after etcd started')
    gevent.sleep(PAUSE)
    set_and_confirm_rate(demo, BURST.stop)
    gevent.sleep(PAUSE)


def terminate_server(demo: Orchestrator) -> None:
    """A server leaves"""
    demo.log('ends c by SIGTERM')
    demo.terminate_server('c')
    demo.wait_for_all()


STEPS: Final[Sequence[Step]] = (join, change_configuration, crash_server, crash_etcd, restore_etcd, terminate_server)


def start_server(demo: Orchestrator, name: str) -> None:
    """Start a server, and wait until the lobby and the server itself report that it is registered."""
    demo.log(f'starts {name}')
    demo.start_server(name)
    demo.wait_for_all()
    demo.wait_for(f'KEPT by {name}', lambda: demo.states[name][-1:] == ['KEPT'])


def set_and_confirm_rate(demo: Orchestrator, rate: int) -> None:
    """Set the rate, wait until each server has reported it, and print the delays."""
    demo.log(f'sets /cfg/rate to {rate}')
    started_at = time.monotonic()
    demo.set_rate(rate)
    demo.wait_for_all()
    for name in demo.servers:
        demo.log(f'has rate {rate} after {(demo.rate_received_at[name] - started_at) * 1000:.1f} ms', source=name)


def run_demo(
    api: Literal['v2', 'v3'], stream: TextIO, *, steps: Sequence[Step] = STEPS, timeout: float = TIMEOUT
) -> int:
    """Run the steps on an etcd of their own, and return the exit status.

    Args:
        api: The API of etcd to use.
        stream: Where the output is printed.
        steps: The steps to run.
        timeout: Seconds until an expectation has failed.

    Returns:
        0 if every expected change was observed, 1 if not, 2 if no etcd was found or it did not start.
    """
    display = Display(stream)
    with ExitStack() as stack:
        try:
            etcd = stack.enter_context(EtcdServer(api=api, timeout=TIMEOUT))
        except (EtcdNotFound, ServerFailed) as error:
            print(error, file=sys.stderr)
            return 2
        demo = stack.enter_context(Orchestrator(etcd, api=api, display=display, timeout=timeout))
        display.headline(
            'A small game world on a real etcd', f'etcd {etcd.version}, {etcd.reason}; the {api} API; TTL {TTL} s'
        )
        faults = demo.run_steps(steps)
        display.table(demo.expectations.rows())
        show_gaps(demo, display)
        for name, count in sorted(demo.expectations.unplanned_losses().items()):
            display.figure(f'renewals of {name} came too late', f'{count:>9} x   (not a fault: the machine is busy)')
        display.verdict(faults)
    return 1 if faults else 0


def show_gaps(demo: Orchestrator, display: Display) -> None:
    """Show how regularly the worlds ticked."""
    gaps = {name: gap * 1000 for name, gap in sorted(demo.worst_gaps.items())}
    if gaps:
        each = ', '.join(f'{name} {gap:.1f}' for name, gap in gaps.items())
        display.figure(
            'longest time between two ticks', f'{max(gaps.values()):9.1f} ms   ({each}; {TICK * 1000:.0f} is due)'
        )
