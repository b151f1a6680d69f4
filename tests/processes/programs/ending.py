"""Runs every kind of daemon and exits in a given way.

    ending.py URL API return|exit|raise|interrupt|signal closing|leaving

It prints ``ready``, and reads a line before it exits: etcd may be unreachable by then.
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


def call_in_a_loop() -> None:
    while True:
        try:
            etcd.set('/busy', 'x', timeout=2)
        except getc.EtcException:
            gevent.sleep(0.01)


def ignore_etcd_errors(call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except getc.EtcException:
        pass


def end() -> None:
    if ending == 'signal':
        facts = gevent.event.Event()
        gevent.signal_handler(signal.SIGTERM, facts.set)
        ready()
        facts.wait()
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


logging.getLogger('getc').addHandler(logging.NullHandler())  # only Python's own output may be printed
etcd = getc.etcd(url, api=None if api == 'memory' else api, timeout=None)
etcd.on_state(lambda state: None)
keeper = etcd.keep_node('/servers/a', 'x', ttl=60)
etcd.on_change('/', lambda result: gevent.sleep(0.01))
mirror = etcd.mirror('/servers')
changes = etcd.changes('/busy')
background = (
    [gevent.spawn(ignore_etcd_errors, etcd.wait, '/never'), gevent.spawn(call_in_a_loop)] if api != 'memory' else []
)
if api == 'v3':
    watching = etcd.v3.watch.create(b'/a')
    background.append(gevent.spawn(ignore_etcd_errors, watching.receive))
gevent.sleep(0.1)
try:
    end()
finally:
    if close == 'closing':
        etcd.close(timeout=1)
