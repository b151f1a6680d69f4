"""Who has what to himself, and in which order."""

from __future__ import annotations

import gevent

from tests.faults.locks import Claims


def test_claims_of_the_same_come_one_after_the_other_and_those_of_different_things_overlap(etcd_clock) -> None:
    """In the order in which they were asked for, also past one who waits for many."""
    claims, told = Claims(), []

    def have(name: str, *names: str) -> None:
        with claims.of(frozenset(names)):
            told.append(f'{name} has')
            gevent.sleep(10)
            told.append(f'{name} had')

    for name, names in (('one', 'a'), ('other', 'b'), ('both', 'ab'), ('late', 'a')):
        gevent.spawn(have, name, *names)
        gevent.sleep(1)
    etcd_clock.advance(60)
    assert told == ['one has', 'other has', 'one had', 'other had', 'both has', 'both had', 'late has', 'late had']


def test_claims_of_one_set_of_names_come_one_after_the_other(etcd_clock) -> None:
    """Also where the set is the same object."""
    claims, names, told = Claims(), frozenset('ab'), []

    def have(name: str) -> None:
        with claims.of(names):
            told.append(f'{name} has')
            gevent.sleep(10)
            told.append(f'{name} had')

    for name in ('first', 'second'):
        gevent.spawn(have, name)
    etcd_clock.advance(60)
    assert told == ['first has', 'first had', 'second has', 'second had']


def test_claim_of_who_is_killed_while_he_waits_holds_up_nobody(etcd_clock) -> None:
    """A run may end at any time."""
    claims, told = Claims(), []

    def have(name: str) -> None:
        with claims.of(frozenset('a')):
            told.append(name)
            gevent.sleep(10)

    waiting = [gevent.spawn(have, name) for name in ('first', 'second', 'third')]
    gevent.sleep(1)
    waiting[1].kill()
    etcd_clock.advance(60)
    assert told == ['first', 'third']
