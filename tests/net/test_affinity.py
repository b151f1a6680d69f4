"""Affinity of objects to a process and a thread."""

from __future__ import annotations

import pickle
import threading

import gevent
import pytest
from gevent.event import Event

from getc.net.affinity import ThreadAffinity, Unpicklable


def in_another_thread(function: object) -> object:
    """Return what a function returns or raises in a new thread."""
    results: list[object] = []

    def call() -> None:
        try:
            results.append(function())  # type: ignore[operator]
        except RuntimeError as error:
            results.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return results[0]


def test_affinity_binds_the_first_thread_that_checks_it() -> None:
    affinity = ThreadAffinity()
    assert in_another_thread(affinity.check) is None
    with pytest.raises(RuntimeError, match='a client can only be used in the thread that first used it'):
        affinity.check()
    affinity = ThreadAffinity()
    affinity.check()
    affinity.check()
    assert str(in_another_thread(lambda: affinity.check('a store'))).startswith(
        'a store can only be used in the thread'
    )


def test_affinity_checks_no_thread_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    affinity = ThreadAffinity()
    assert in_another_thread(affinity.check) is None
    assert not affinity.in_forked_child
    monkeypatch.setattr('os.getpid', lambda: -1)
    assert affinity.in_forked_child
    affinity.check()


def test_call_soon_calls_in_the_bound_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bound thread and in a forked child the function is never called."""
    affinity, called = ThreadAffinity(), Event()
    threads: list[int] = []
    ThreadAffinity().call_soon(lambda: threads.append(0))
    affinity.check()

    def record() -> None:
        threads.append(threading.get_ident())
        called.set()

    in_another_thread(lambda: affinity.call_soon(record))
    assert called.wait(60)
    assert threads == [threading.get_ident()]
    monkeypatch.setattr('os.getpid', lambda: -1)
    affinity.call_soon(record)
    gevent.sleep(0)
    gevent.sleep(0)
    assert len(threads) == 1


def test_unpicklable_refuses_pickle_with_a_remedy() -> None:
    with pytest.raises(TypeError, match=r'cannot pickle or copy getc\.Unpicklable: it is bound to its process'):
        pickle.dumps(Unpicklable())
