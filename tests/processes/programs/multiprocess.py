"""Passes a client to a process of ``multiprocessing``, as a game server does with CPU-bound work.

    multiprocess.py URL API fork|spawn|forkserver

It prints a line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from typing import Any

import getc
from getc.daemons import monitor

monitor.MAX_HUB_DELAY = 3600.0  # on a busy machine the hub may not run for seconds, which would be logged


def work(etcd: getc.Client, keeper: getc.Keeper, answers: Any) -> None:
    """Use the inherited client, in the child."""
    try:
        keeper.ensure()
    except getc.NodeLost as error:
        lost = str(error)
    value = etcd.get('/cfg/a').value
    with etcd.keep_node('/servers/child', 'x', ttl=60) as own:
        etcd.set('/from/child', own.state.name)
    answers.put([value, lost, keeper.state.name, etcd.get('/servers/parent').value])


def work_with_new_client(url: str, api: Any, answers: Any) -> None:
    """Use a new client, in the child."""
    with getc.etcd(url, api=api) as etcd:
        etcd.set('/from/child', 'KEPT')
        answers.put(etcd.get('/cfg/a').value)


def error_of(function: Any, *args: Any) -> str:
    try:
        function(*args)
    except TypeError as error:
        return str(error)
    return 'it was taken'


def main(url: str, api: Any, method: str) -> None:
    processes = multiprocessing.get_context(method)
    answers = processes.SimpleQueue()
    with getc.etcd(url, api=api) as etcd:
        etcd.set('/cfg/a', '1')
        keeper = etcd.keep_node('/servers/parent', 'x', ttl=60)
        token = keeper.ensure()
        refused = ''
        if method == 'fork':
            child = processes.Process(target=work, args=(etcd, keeper, answers))
        else:
            refused = error_of(processes.Process(target=work, args=(etcd, keeper, answers)).start)
            child = processes.Process(target=work_with_new_client, args=(url, api, answers))
        child.start()
        child.join(60)
        facts = {
            'refused': refused,
            'status': child.exitcode,
            'child': answers.get() if child.exitcode == 0 else None,
            'said': etcd.get('/from/child').value,
            'keeper': [keeper.state.name, keeper.ensure() == token],
        }
    print(json.dumps(facts), flush=True)


if __name__ == '__main__':
    main(*sys.argv[1:])
