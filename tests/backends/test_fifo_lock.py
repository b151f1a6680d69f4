"""The lock that keeps the order of the writes of one node."""

from __future__ import annotations

import gevent

from getc.backends.fifo_lock import FifoLock
from getc.testing import VirtualTime


def test_lock_is_held_in_the_order_of_the_calls(etcd_clock: VirtualTime) -> None:
    """Also by a greenlet that asks between the release and the start of the next holder."""
    lock, order = FifoLock(), list[str]()

    def hold(name: str) -> None:
        assert lock.acquire()
        order.append(name)
        gevent.sleep(0)
        lock.release()

    assert lock.acquire()
    for name in ('first', 'second'):
        gevent.spawn(hold, name)
    etcd_clock.advance(0)
    lock.release()
    hold('third')
    assert order == ['first', 'second', 'third']


def test_acquire_returns_false_at_the_timeout_and_leaves_the_line(etcd_clock: VirtualTime) -> None:
    lock = FifoLock()
    assert lock.acquire()
    assert not lock.acquire(timeout=1)
    waiting = gevent.spawn(lock.acquire)
    etcd_clock.advance(0)
    lock.release()
    etcd_clock.advance(0)
    assert waiting.get(block=False)


def test_killed_waiter_passes_the_lock_on(etcd_clock: VirtualTime) -> None:
    """Before its turn, and in the turn in which it gets the lock."""
    lock = FifoLock()
    assert lock.acquire()
    early, late, last = (gevent.spawn(lock.acquire) for _ in range(3))
    etcd_clock.advance(0)
    early.kill()
    late.kill(block=False)
    lock.release()
    etcd_clock.advance(0)
    assert last.get(block=False) is True
    lock.release()
    assert lock.acquire(timeout=0)
