"""A program with all that goes on in the background, which ends as it is told.

    ending.py URL API return|exit|raise|interrupt|signal closing|leaving

It prints ``ready``, and reads a line before it ends: etcd may be dead by then.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

import gevent
import gevent.event
import gevent.socket

import getc

url, api, ending, close = sys.argv[1:]


def read_line() -> None:
    gevent.socket.wait_read(0)
    os.read(0, 1)


def ready() -> None:
    print('ready', flush=True)


def call_for_ever() -> None:
    while True:
        try:
            etcd.set('/busy', 'x', timeout=2)
        except getc.EtcException:
            gevent.sleep(0.01)


def until_it_fails(call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except getc.EtcException:
        pass


def end() -> None:
    if ending == 'signal':
        told = gevent.event.Event()
        gevent.signal_handler(signal.SIGTERM, told.set)
        ready()
        told.wait()
        sys.exit(0)
    ready()
    read_line()
    if ending == 'exit':
        sys.exit(3)
    if ending == 'raise':
        raise ValueError('the end')
    if ending == 'interrupt':
        print('waiting', flush=True)
        etcd.wait('/never')


logging.getLogger('getc').addHandler(logging.NullHandler())  # what is printed shall be Python's alone
etcd = getc.etcd(url, api=None if api == 'memory' else api, timeout=None)
etcd.on_state(lambda state: None)
keeper = etcd.keep_node('/servers/a', 'x', ttl=60)
etcd.on_change('/', lambda result: gevent.sleep(0.01))
mirror = etcd.mirror('/servers')
changes = etcd.changes('/busy')
background = [gevent.spawn(until_it_fails, etcd.wait, '/never'), gevent.spawn(call_for_ever)] if api != 'memory' else []
if api == 'v3':
    watching = etcd.v3.watch.create(b'/a')
    background.append(gevent.spawn(until_it_fails, watching.receive))
gevent.sleep(0.1)
try:
    end()
finally:
    if close == 'closing':
        etcd.close(timeout=1)
