"""One contestant at work: requests come on standard input, answers go to standard output, JSON by line.

It runs in a process and a virtual environment of the contestant's own, and imports nothing but the
standard library and what the contestant imports::

    python tools/bench/worker CONTESTANT.py MODE URL

A request says in ``work`` what to measure::

    {"work": "get", "in_flight": 50, "size": 64, "seconds": 0.5}          or "set"
    {"work": "tree-get", "in_flight": 50, "size": 64, "seconds": 0.5}     or "tree-set": see cases.py
    {"work": "connect", "size": 64, "seconds": 0.5}                       a new client and its first get
    {"work": "replay", "prefix": "/events", "index": 17, "count": 20000, "times": 3}  or "live"
    {"work": "memory", "count": 500}                                      of an idle client, and of a watch
    {"work": "keepers", "count": 10000}                                   or "watchers", "directory": see crowds.py

The answer is ``{"operations": 4711, "seconds": 0.501, "cpu": 0.42}``, the last of them this process's time on
a processor; for memory ``{"base": 31000000, "each": 2048}`` (bytes).  Or it is ``{"error": "KeyError: ..."}``,
or ``{"cannot": "..."}`` where the client has no such thing.  The first line, unasked, tells the versions.
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


def crew_of(module: ModuleType, mode: str, url: str) -> Any:
    """Who works the contestant's client."""
    if mode == 'process':
        return module.Crew(url)
    if mode == 'asyncio':
        from coroutines import Coroutines

        return Coroutines(module, url)
    from blocking import Greenlets, Threads

    return Greenlets(module, url) if mode == 'greenlets' else Threads(module, url)


def load(path: str) -> ModuleType:
    """The contestant's file as a module whose name hides no library's."""
    spec = importlib.util.spec_from_file_location('contestant', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(crew: Any) -> dict[str, Any]:
    """Of Python, and of the packages that the contestant uses."""
    packages = getattr(crew, 'versions', None)
    if packages is None:
        known = importlib.metadata.packages_distributions()
        modules = {name.partition('.')[0] for name in sys.modules}
        names = {name for module in modules for name in known.get(module, ()) if name != 'setuptools'}
        packages = {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}
    return {'python': platform.python_version(), 'packages': packages}


def main() -> None:
    """Answer until the input ends."""
    _, contestant, mode, url = sys.argv
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    crew = crew_of(load(contestant), mode, url)
    print(json.dumps(versions(crew)), file=answers)
    for line in sys.stdin:
        cpu = time.process_time()
        try:
            answer = crew.perform(json.loads(line))
        except NotImplementedError as error:
            answer = {'cannot': str(error)}
        except Exception as error:
            answer = {'error': f'{type(error).__name__}: {error}'[:500]}
        answer['cpu'] = time.process_time() - cpu
        print(json.dumps(answer), file=answers)
    answers.flush()
    os._exit(0)  # threads and event loops of libraries are not waited for


if __name__ == '__main__':
    main()
