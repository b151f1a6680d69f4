"""Counts the Python calls of single operations on a real etcd v3: ``python -m tools.bench.frames``.

Unlike times, the counts are the same on every machine:

* ``calls``: Python functions that are called until the operation returns, in all greenlets, including the hub.
* ``modules``: modules of getc on the call stack of the caller, from the public method down to the socket; or on the
  longest stack, if the caller does not call the socket.
* ``switches``: switches between greenlets for one event, from the socket to the callback of a watcher.

Each count is the minimum of several runs after a warm-up: timers, PINGs and window updates can only add to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Final

import gevent
import greenlet
from gevent.event import Event

import getc
from getc.testing import EtcdServer

__all__ = ['Frames', 'count', 'count_switches', 'main', 'measure']

WARM_UP: Final = 20
RUNS: Final = 30

SETTLE: Final = 0.01
"""Seconds in which acknowledgements of one operation arrive before the next one is counted."""

SOCKET: Final = 'getc.grpc.socket_io'

KEY: Final = '/bench/frames/key'


@dataclass(frozen=True, slots=True)
class Frames:
    """The Python calls of one operation.

    Attributes:
        functions: The functions that are called, in this order, as ``module:function``.
        modules: The modules of getc on the call stack to the socket, or else on the longest one, outermost first.
    """

    functions: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def calls(self) -> int:
        """The number of calls."""
        return len(self.functions)


def count(operation: Callable[[], object]) -> Frames:
    """Perform the operation, and return its calls."""
    caller = greenlet.getcurrent()
    functions: list[str] = []
    stacks: list[tuple[str, ...]] = []

    def on_event(frame: FrameType, event: str, _: object) -> None:
        if event != 'call':
            return
        functions.append(_name_of(frame.f_code))
        if greenlet.getcurrent() is caller:
            stacks.append(tuple(dict.fromkeys(_modules_on(frame)))[::-1])

    sys.setprofile(on_event)
    try:
        operation()
    finally:
        sys.setprofile(None)
    to_socket = [stack for stack in stacks if stack and stack[-1] == SOCKET]
    return Frames(tuple(functions[1:]), max(to_socket or stacks, key=len))  # without the function that was passed


def _modules_on(frame: FrameType | None) -> Iterator[str]:
    """Yield the modules of getc on the stack, from the innermost frame on."""
    while frame is not None:
        name = frame.f_globals.get('__name__', '')
        if name.partition('.')[0] == 'getc':
            yield name
        frame = frame.f_back


def _name_of(code: CodeType) -> str:
    _, found, path = code.co_filename.replace('\\', '/').rpartition('/getc/')
    name = getattr(code, 'co_qualname', code.co_name)
    return f'{path.removesuffix(".py") if found else "-"}:{name}'


def count_switches(etcd: getc.Client) -> int:
    """Return the switches between greenlets for one event, from the socket to the callback of a watcher.

    Switches to and from the greenlet that writes the key are not counted.
    """
    switches = 0
    until_callback = 0
    delivered = Event()
    writer = greenlet.getcurrent()

    def on_switch(event: str, args: tuple[object, object]) -> None:
        nonlocal switches
        switches += writer not in args

    def callback(result: getc.EtcdResult) -> None:
        nonlocal until_callback
        until_callback = switches
        delivered.set()

    with etcd.on_change(KEY, callback):
        gevent.sleep(SETTLE)
        previous = greenlet.settrace(on_switch)
        try:
            etcd.set(KEY, 'value')
            delivered.wait(10)
        finally:
            greenlet.settrace(previous)
    return until_callback


def measure(url: str, runs: int = RUNS) -> tuple[dict[str, Frames], int]:
    """Return the calls of ``set``, ``get`` and the start of ``on_change``, and the switches of an event, on etcd v3."""
    with getc.etcd(url, api='v3') as etcd:
        for number in range(WARM_UP):
            etcd.set(KEY, str(number))
            etcd.get(KEY)
            etcd.on_change(KEY, print).stop()
        watchers: list[getc.Watcher] = []
        operations: dict[str, Callable[[], object]] = {
            'set': lambda: etcd.set(KEY, 'value'),
            'get': lambda: etcd.get(KEY),
            'on_change': lambda: watchers.append(etcd.on_change(KEY, lambda result: None)),
        }
        frames = {}
        for name, operation in operations.items():
            counted = []
            for _ in range(runs):
                counted.append(count(operation))
                while watchers:
                    watchers.pop().stop()
                gevent.sleep(SETTLE)
            frames[name] = min(counted, key=lambda each: each.calls)
        switches = min(count_switches(etcd) for _ in range(runs))
        return frames, switches


def main(arguments: list[str] | None = None) -> int:
    """Print the counts."""
    parser = argparse.ArgumentParser(prog='python -m tools.bench.frames', description=__doc__.partition('\n')[0])
    parser.add_argument('--list', metavar='OPERATION', help='also list the calls of set, get or on_change')
    options = parser.parse_args(arguments)
    with EtcdServer(api='v3') as server:
        frames, switches = measure(server.url)
    print(f'{"":10} calls  modules')
    for name, each in frames.items():
        print(f'{name:10} {each.calls:5}  {len(each.modules):7}  {" > ".join(each.modules)}')
    print(f'switches from the socket to the callback of a watcher: {switches}')
    if options.list:
        print('\n'.join(frames[options.list].functions))
    return 0


if __name__ == '__main__':
    sys.exit(main())
