"""Waits for everything that the store had, with a fake store, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from getc.daemons.synchronizer import Synchronizer
from getc.errors import ClientClosed, ConnectionError, EtcException, PermissionDenied, TimedOut
from getc.testing import VirtualTime
from getc.timing import Deadline
from tests.support.killing import killing_next_greenlet


class Bench:
    """A synchronizer whose reads take a second."""

    def __init__(self) -> None:
        self.index = 7
        self.reads = 0
        self.requested: list[int] = []
        self.errors: list[EtcException] = []
        self.on_read: Callable[[], object] = lambda: None
        self.greenlets: list[Any] = []
        self.synchronizer = Synchronizer('mirror /a', self._read, self.requested.append, self._spawn)

    def _read(self, deadline: Deadline) -> int:
        self.reads += 1
        index = self.index
        gevent.sleep(1)
        self.on_read()
        if self.errors:
            raise self.errors.pop(0)
        return index

    def _spawn(self, function: Callable[[], None]) -> Any:
        self.greenlets.append(gevent.spawn(function))
        return self.greenlets[-1]

    def wait(self, timeout: float | None = 30) -> Any:
        return gevent.spawn(self.synchronizer.wait, Deadline(timeout))


@pytest.fixture
def bench(etcd_clock: VirtualTime) -> Bench:
    return Bench()


def test_wait_returns_the_reported_index(bench: Bench, etcd_clock: VirtualTime) -> None:
    """A report of an earlier index is not enough."""
    wait = bench.wait()
    etcd_clock.advance(1.5)
    assert bench.requested == [7]
    bench.synchronizer.on_progress(6)
    etcd_clock.advance(0)
    assert not wait.ready()
    bench.synchronizer.on_progress(9)
    etcd_clock.advance(0)
    assert wait.get(block=False) == 9
    assert all(greenlet.dead for greenlet in bench.greenlets)


def test_thousand_greenlets_share_one_read_and_those_that_come_later_the_next(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """A read in flight may miss what was written before they came."""
    first = [bench.wait() for _ in range(1000)]
    etcd_clock.advance(0.5)
    bench.index = 8
    later = [bench.wait() for _ in range(1000)]
    etcd_clock.advance(3)
    assert (bench.reads, bench.requested) == (2, [7, 8])
    bench.synchronizer.on_progress(7)
    etcd_clock.advance(0)
    assert [wait.get(block=False) for wait in first] == [7] * 1000
    assert not any(wait.ready() for wait in later)
    bench.synchronizer.on_progress(8)
    etcd_clock.advance(0)
    assert [wait.get(block=False) for wait in later] == [8] * 1000


def test_read_is_repeated_after_an_outage(bench: Bench, etcd_clock: VirtualTime) -> None:
    bench.errors = [ConnectionError('no server'), ConnectionError('no server')]
    wait = bench.wait()
    etcd_clock.advance(10)
    assert (bench.reads, bench.requested) == (3, [7])
    bench.synchronizer.on_progress(7)
    etcd_clock.advance(0)
    assert wait.get(block=False) == 7


def test_timeout_names_what_is_missing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """The index, or why it could not be read.  Nothing goes on afterwards."""
    wait = bench.wait(5)
    etcd_clock.advance(6)
    text = 'mirror /a did not show everything that etcd had, up to index 7, within 5 s'
    assert (type(wait.exception), str(wait.exception)) == (TimedOut, text)
    bench.errors = [ConnectionError('no server')] * 100
    wait = bench.wait(5)
    etcd_clock.advance(6)
    text = 'mirror /a did not show everything that etcd had within 5 s: no server'
    assert (type(wait.exception), str(wait.exception)) == (TimedOut, text)
    reads = bench.reads
    etcd_clock.advance(30)
    assert bench.reads <= reads + 1
    assert all(greenlet.dead for greenlet in bench.greenlets)


def test_refused_read_ends_the_waits_that_share_it(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Each with an error of its own."""
    bench.errors = [PermissionDenied('permission denied')]
    waits = [bench.wait() for _ in range(2)]
    etcd_clock.advance(1.5)
    assert [type(wait.exception) for wait in waits] == [PermissionDenied] * 2
    assert waits[0].exception is not waits[1].exception


@pytest.mark.parametrize('is_reading', [True, False], ids=['during the read', 'after the read'])
def test_index_is_read_again_for_another_watch(bench: Bench, etcd_clock: VirtualTime, is_reading: bool) -> None:
    """The store may have been restored to an earlier index, which the first one would never reach."""
    wait = bench.wait()
    etcd_clock.advance(0.5 if is_reading else 1.5)
    bench.index = 3
    bench.synchronizer.on_new_watch()
    etcd_clock.advance(3)
    assert (bench.reads, bench.requested[-1]) == (2, 3)
    bench.synchronizer.on_progress(3)
    etcd_clock.advance(0)
    assert wait.get(block=False) == 3


def test_killed_greenlet_leaves_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """During the read, and while it waits for the report."""
    for seconds in (0.5, 1.5):
        wait = bench.wait()
        etcd_clock.advance(seconds)
        wait.kill(block=False)
        etcd_clock.advance(2)
        assert bench.synchronizer._awaited == bench.synchronizer._unread == {}
    assert all(greenlet.dead for greenlet in bench.greenlets)


def test_killed_reader_is_replaced(bench: Bench, etcd_clock: VirtualTime) -> None:
    wait = bench.wait()
    etcd_clock.advance(0.5)
    bench.greenlets[0].kill(block=False)
    etcd_clock.advance(0)
    second = bench.wait()
    etcd_clock.advance(1.5)
    bench.synchronizer.on_progress(7)
    etcd_clock.advance(0)
    assert (wait.get(block=False), second.get(block=False)) == (7, 7)


def test_reader_that_was_killed_before_it_ran_is_replaced(bench: Bench, etcd_clock: VirtualTime) -> None:
    wait = bench.wait()
    with killing_next_greenlet():
        etcd_clock.advance(0)
    assert len(bench.greenlets) == 1 and bench.reads == 0
    second = bench.wait()
    etcd_clock.advance(1.5)
    bench.synchronizer.on_progress(7)
    etcd_clock.advance(0)
    assert (wait.get(block=False), second.get(block=False)) == (7, 7)


def test_fail_ends_all_waits(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Those during a read, those that need the next one, and those that wait for the report."""
    waits = [bench.wait()]
    etcd_clock.advance(1.5)
    waits.append(bench.wait())
    etcd_clock.advance(0.5)
    waits.append(bench.wait())
    etcd_clock.advance(0)
    bench.synchronizer.fail(ClientClosed('mirror /a was stopped'))
    etcd_clock.advance(3)
    assert [type(wait.exception) for wait in waits] == [ClientClosed] * 3
