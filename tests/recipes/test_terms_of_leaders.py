"""Terms of leaders under random faults, in virtual time: disjoint, without long gaps, and all of them observed."""

from __future__ import annotations

import itertools
import random

import gevent
import pytest

import getc
from getc import timing
from getc.recipes import LeadershipLost, Term
from getc.results import Value
from getc.testing import MemoryStore, VirtualTime

TTL = 10
KEY = '/leaders/match'
STEPS = 120


class Process:
    """A client on a link of its own, which leads whenever it can; records its terms in real time."""

    def __init__(self, store: MemoryStore, name: str, terms: list[tuple[float, float, int]]) -> None:
        self.name = name
        self.link = store.link()
        self.client = getc.etcd(self.link.url)
        self._terms = terms
        self.loop = self.client.run_while_leader(KEY, self._lead, name, ttl=TTL, pause=0.1)

    def _lead(self, term: Term) -> None:
        token, began = term.ensure(), timing.now()
        last = began
        try:
            while True:
                gevent.sleep(0.05)
                term.ensure()
                last = timing.now()
        except (LeadershipLost, getc.NodeLost):
            raise
        finally:
            if term.remaining():
                last = timing.now()
            self._terms.append((began, last, token))

    def close(self) -> None:
        self.link.connect()
        self.client.close()


@pytest.mark.parametrize('seed', range(4))
def test_terms_are_disjoint_and_observed_and_gaps_are_short(etcd_clock: VirtualTime, seed: int) -> None:
    """Three processes; links fail, all are paused, and they are stopped and started.  (No operator deletes
    keys: a leader that is cut off would notice that only at the end of its TTL.)"""
    chance = random.Random(seed)
    store = MemoryStore()
    terms: list[tuple[float, float, int]] = []
    seen: list[Value | None] = []
    processes = [Process(store, name, terms) for name in ('ann', 'bob', 'cid')]
    began = timing.now()
    with getc.etcd(store.url) as observer:
        leader = observer.leader(KEY, seen.append)
        for _ in range(STEPS):
            fault = chance.choice(['cut', 'cut', 'pause', 'restart', 'nothing'])
            process = chance.choice(processes)
            if fault == 'cut':
                process.link.disconnect()
            elif fault == 'pause':
                etcd_clock.stall(chance.uniform(0, 2 * TTL))
            elif fault == 'restart':
                process.close()
                processes[processes.index(process)] = Process(store, process.name, terms)
            etcd_clock.advance(chance.uniform(0, 1.5 * TTL))
            if chance.random() < 0.7:
                process.link.connect()
            if all(not each.link.is_connected for each in processes):
                chance.choice(processes).link.connect()
        for process in processes:
            process.close()
        etcd_clock.advance(3 * TTL)
        assert leader.value is None
    terms.sort()
    assert len(terms) > STEPS / 8
    for (_, ended, token), (begins, _, next_token) in itertools.pairwise(terms):
        assert ended <= begins and token < next_token
        assert begins - ended <= 3 * TTL + 2  # a pause of two TTLs, and one TTL until the key has expired
    assert terms[0][0] - began <= TTL + 2
    tokens = [value.created_index for value in seen if value is not None]
    assert tokens == sorted(set(tokens))
    assert {token for _, _, token in terms} <= set(tokens)
