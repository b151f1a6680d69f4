"""Runs one client: reads requests from standard input and writes answers to standard output, one line of JSON each.

The process runs in the client's virtual environment, and imports only the standard library and what the client
imports::

    python tools/bench/worker CONTESTANT.py MODE URL

``work`` in a request selects what is measured::

    {"work": "get", "in_flight": 50, "size": 64, "seconds": 0.5}          or "set"
    {"work": "tree-get", "in_flight": 50, "size": 64, "seconds": 0.5}     or "tree-set": see cases.py
    {"work": "lock", "in_flight": 50, "seconds": 0.5}                     acquire and release a lock of its own
    {"work": "connect", "size": 64, "seconds": 0.5}                       a new client and its first get
    {"work": "replay", "prefix": "/events", "index": 17, "count": 20000, "times": 3}  or "live"
    {"work": "memory", "count": 500}                                      of an idle client, and of a watch
    {"work": "keepers", "count": 10000}                                   or "watchers", "directory": see scale.py

The answer is ``{"operations": 4711, "seconds": 0.501, "cpu": 0.42}`` with the CPU time of this process in seconds, and
for calls the median and the 99th percentile of their seconds, ``{"p50": 0.0001, "p99": 0.0004}``.  For memory it is
``{"base": 31000000, "each": 2048}`` in bytes; ``{"error": "KeyError: ..."}`` if the work failed; or ``{"unsupported":
"..."}`` if the client has no such operation.  The first line, before any request, has the versions.
"""

from __future__ import annotations

import sys

if sys.argv[2] == 'gevent':
    from gevent import monkey

    monkey.patch_all()

import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from types import ModuleType
from typing import Any


def make_worker(module: ModuleType, mode: str, url: str) -> Any:
    """Return the object that runs the client in this mode."""
    if mode == 'process':
        return module.Worker(url)
    if mode == 'asyncio':
        from coroutines import Coroutines

        return Coroutines(module, url)
    from blocking import Greenlets, Threads

    return Greenlets(module, url) if mode == 'greenlets' else Threads(module, url)


def load(path: str) -> ModuleType:
    """Import the client's file under a name that cannot hide a library."""
    spec = importlib.util.spec_from_file_location('client', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(worker: Any) -> dict[str, Any]:
    """Return the versions of Python and of the packages that the client uses."""
    packages = getattr(worker, 'versions', None)
    if packages is None:
        known = importlib.metadata.packages_distributions()
        modules = {name.partition('.')[0] for name in sys.modules}
        names = {name for module in modules for name in known.get(module, ()) if name != 'setuptools'}
        packages = {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}
    return {'python': platform.python_version(), 'packages': packages}


def check_package() -> None:
    """Raise ImportError unless getc comes from the folder that the environment names, if it names one."""
    folder = os.environ.get('GETC_BENCH_PACKAGE')
    if folder is not None:
        import getc

        if not str(getc.__file__).startswith(folder + os.sep):
            raise ImportError(f'getc was imported from {getc.__file__}, not from {folder}')


def main() -> None:
    """Answer requests until the input ends."""
    from common import percentiles

    check_package()
    _, client, mode, url = sys.argv
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # the output of libraries must not be mistaken for an answer
    worker = make_worker(load(client), mode, url)
    print(json.dumps(versions(worker)), file=answers)
    for line in sys.stdin:
        cpu = time.process_time()
        try:
            answer = worker.run(json.loads(line))
        except NotImplementedError as error:
            answer = {'unsupported': str(error)}
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'[:500]}
        answer['cpu'] = time.process_time() - cpu
        if 'laps' in answer:
            answer |= percentiles(answer.pop('laps'))
        print(json.dumps(answer), file=answers)
    answers.flush()
    os._exit(0)  # do not wait for threads and event loops of libraries


if __name__ == '__main__':
    main()
