"""Order and exclusion of locks."""

from __future__ import annotations

import gevent

from tests.faults.locks import Locks


def test_requests_for_one_name_are_served_in_order_and_others_overlap(etcd_clock) -> None:
    """A later request does not overtake one for several names."""
    locks, log = Locks(), []

    def hold(name: str, *names: str) -> None:
        with locks.acquire(frozenset(names)):
            log.append(f'{name} has')
            gevent.sleep(10)
            log.append(f'{name} had')

    for name, names in (('one', 'a'), ('other', 'b'), ('both', 'ab'), ('late', 'a')):
        gevent.spawn(hold, name, *names)
        gevent.sleep(1)
    etcd_clock.advance(60)
    assert log == ['one has', 'other has', 'one had', 'other had', 'both has', 'both had', 'late has', 'late had']


def test_requests_for_the_same_set_are_served_in_order(etcd_clock) -> None:
    """Also if the set is the same object."""
    locks, names, log = Locks(), frozenset('ab'), []

    def hold(name: str) -> None:
        with locks.acquire(names):
            log.append(f'{name} has')
            gevent.sleep(10)
            log.append(f'{name} had')

    for name in ('first', 'second'):
        gevent.spawn(hold, name)
    etcd_clock.advance(60)
    assert log == ['first has', 'first had', 'second has', 'second had']


def test_killed_waiter_does_not_block_others(etcd_clock) -> None:
    locks, log = Locks(), []

    def hold(name: str) -> None:
        with locks.acquire(frozenset('a')):
            log.append(name)
            gevent.sleep(10)

    waiting = [gevent.spawn(hold, name) for name in ('first', 'second', 'third')]
    gevent.sleep(1)
    waiting[1].kill()
    etcd_clock.advance(60)
    assert log == ['first', 'third']
