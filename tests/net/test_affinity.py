"""Where something belongs."""

from __future__ import annotations

import pickle
import threading

import gevent
import pytest
from gevent.event import Event

from getc.net.affinity import ThreadAffinity, Unpicklable


def in_another_thread(function: object) -> object:
    """What a function returns, or raises, in a thread of its own."""
    answers: list[object] = []

    def call() -> None:
        try:
            answers.append(function())  # type: ignore[operator]
        except RuntimeError as error:
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return answers[0]


def test_home_is_the_first_thread_that_asks() -> None:
    """Not the one that made it; from then on there is no other."""
    home = ThreadAffinity()
    assert in_another_thread(home.check) is None
    with pytest.raises(RuntimeError, match='a client belongs to the thread that was the first to use it'):
        home.check()
    home = ThreadAffinity()
    home.check()
    home.check()
    assert str(in_another_thread(lambda: home.check('a store'))).startswith('a store belongs to the thread')


def test_home_was_left_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has one thread, whatever the parent's were."""
    home = ThreadAffinity()
    assert in_another_thread(home.check) is None
    assert not home.in_forked_child
    monkeypatch.setattr('os.getpid', lambda: -1)
    assert home.in_forked_child
    home.check()


def test_function_is_called_by_the_thread_of_the_home_whoever_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the next turn of its hub; where nobody lives, and in a child, never."""
    home, called = ThreadAffinity(), Event()
    threads: list[int] = []
    ThreadAffinity().call_soon(lambda: threads.append(0))
    home.check()

    def note() -> None:
        threads.append(threading.get_ident())
        called.set()

    in_another_thread(lambda: home.call_soon(note))
    assert called.wait(60)
    assert threads == [threading.get_ident()]
    monkeypatch.setattr('os.getpid', lambda: -1)
    home.call_soon(note)
    gevent.sleep(0)
    gevent.sleep(0)
    assert len(threads) == 1


def test_resident_is_not_pickled() -> None:
    """It says what it is, and what to do."""
    with pytest.raises(TypeError, match='a Unpicklable of getc cannot be pickled or copied: it lives in one process'):
        pickle.dumps(Unpicklable())
