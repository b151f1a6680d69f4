"""A run: the ground, the load, the fire, and what came of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import gevent

import getc
from getc.paths import is_below
from getc.testing.binaries import EtcdBinary
from tests.faults.bugs import applied
from tests.faults.clients import Troupe
from tests.faults.cluster import CLIENTS, Ground
from tests.faults.followers import halves
from tests.faults.history import History, Moment, Resources
from tests.faults.history_reader import Archivist
from tests.faults.injector import Fire
from tests.faults.prober import Prober
from tests.faults.resources import measured, measured_at_rest
from tests.faults.schedule import drawn
from tests.faults.unexpected_errors import Surprises
from tests.faults.verdict import Violation
from tests.faults.writers import PAIRS

__all__ = ['Order', 'Result', 'Run']

CALM: Final = 2.0
"""Seconds of load before the first fault, and after the last."""

PATIENCE: Final = 45.0
"""Seconds for anything to be as it should be when all is well."""

SOON: Final = 5.0
"""Seconds for what is as good as done."""

EXPIRY: Final = 20.0
"""Seconds for leases that nobody renews to end."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run.

    Attributes:
        seed: What it is made from.
        seconds: For which there is fire.
        kinds: The kinds of faults.
        binary: The etcd.
        bugs: What is put into getc on purpose.
    """

    seed: int
    seconds: float
    kinds: Sequence[str]
    binary: EtcdBinary
    bugs: Sequence[str] = ()


@dataclass(slots=True)
class Result:
    """What came of it.

    Attributes:
        history: All of it.
        violations: What needs no history to be seen.
        version: Of etcd.
        omitted: Faults that could not be done, by kind and reason.
        errors: Calls that ended with an error, by class.
        looks: How often mirrors were looked at.
        renewals: How many renewals of leases were answered.
        notes: What the reader should know.
    """

    history: History
    violations: list[Violation] = field(default_factory=list)
    version: str = ''
    omitted: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    renewals: int = 0
    notes: list[str] = field(default_factory=list)


class Run:
    """One run.

    Args:
        order: What is to be run.

    Attributes:
        history: What has happened so far.
        phase: What it is about now.
        ends_at: When the fire ends, in seconds of the history; None before it has begun.
        fire: The fire, once there is one.
    """

    def __init__(self, order: Order) -> None:
        self.order = order
        self.history = History(order.seed)
        self.phase = ''
        self.ends_at: float | None = None
        self.fire: Fire | None = None
        self._result = Result(self.history)

    def perform(self) -> Result:
        """Do all of it.  Whatever happens, nothing goes on after it.

        Raises:
            IncompleteArchive: Nothing can be said about what happened.
        """
        with ExitStack() as opened:
            opened.enter_context(applied(self.order.bugs))
            surprises = opened.enter_context(Surprises())
            self._enter('start three etcds')
            ground = opened.enter_context(Ground(self.order.binary))
            self._result.version = ground.cluster.version
            if not ground.may_kill:
                self._result.notes.append(
                    'members of this etcd diverge after a SIGKILL, so none is killed but to be wiped or restored'
                )
            self._on(ground)
        self._blame('No error of getc goes uncaught.', surprises.found)
        return self._result

    def _on(self, ground: Ground) -> None:
        with ground.client(CLIENTS[0]) as client:  # what is made once and kept is no leak
            client.ready()
        before = measured('before', ground)
        self.history.add(before)
        archivist = Archivist(ground, self.history)
        probers = [Prober(ground, self.history, name) for name in CLIENTS]
        troupe = Troupe(ground, self.history)
        self.fire = Fire(ground, archivist, self.history)
        try:
            self._burn(ground, archivist, probers, troupe, self.fire)
            self._settle(ground, archivist, troupe)
            self._close(ground, before, probers, troupe)
        finally:
            self.fire.stop()
            troupe.close()
            for each in (archivist, *probers):
                each.stop()

    def _burn(
        self, ground: Ground, archivist: Archivist, probers: Sequence[Prober], troupe: Troupe, fire: Fire
    ) -> None:
        self._enter('begin')
        archivist.start()
        for prober in probers:
            prober.start()
        troupe.start()
        gevent.sleep(CALM)
        self._enter('under fire')
        self.ends_at = self.history.now() + self.order.seconds
        kinds = [kind for kind in self.order.kinds if kind != 'kill' or ground.may_kill]
        fire.burn(drawn(self.order.seed, self.order.seconds, kinds), self.order.seconds)
        self._enter('mend')
        for ways in ground.ways.values():
            ways.heal()
        ground.cluster.mend()
        ground.trust_everybody(PATIENCE)
        gevent.sleep(CALM)
        self._result.omitted = fire.omitted

    def _settle(self, ground: Ground, archivist: Archivist, troupe: Troupe) -> None:
        self._enter('catch up')
        troupe.stop_writing()
        failures = troupe.failures()
        troupe.stop_following()
        self._result.errors, self._result.renewals = troupe.errors, troupe.renewals
        self._result.looks = sum(reader.looks for reader in troupe.readers)
        self._blame('Nobody gets an error that is not to be expected.', [repr(failure) for failure in failures])
        end = time.monotonic() + EXPIRY
        while (left := ground.leases(PATIENCE)) and time.monotonic() < end:
            gevent.sleep(0.2)  # until then nodes go, and whoever is closed does not see it
        self._blame('Nobody renews what nobody keeps.', [f'there are {left} leases'] if left else [])
        ends = {follower.end for follower in troupe.followers}
        for key in sorted(ends, key=len, reverse=True):  # that of everything comes last
            ground.put(key, 'the end', PATIENCE)
        late = self._late_followers(troupe)
        self._blame('A watcher catches up when all is well.', late)
        archivist.check(PATIENCE)
        there = {key: change.value for key, change in archivist.there.items() if change.value is not None}
        mirrors = [reader.mirror for reader in troupe.readers if reader.mirror is not None]
        self._until(lambda: not any(map(partial(_difference, there), mirrors)), SOON)
        wrong = [text for mirror in mirrors if (text := _difference(there, mirror))]
        self._blame('A mirror shows what is there when all is well.', wrong)
        torn = [text for reader in troupe.readers for text in reader.seen_by_half]
        pairs = {key: value for key, value in there.items() if is_below(key, PAIRS)}
        self._blame('A mirror never shows half a transaction.', torn + halves(pairs))

    def _late_followers(self, troupe: Troupe) -> list[str]:
        awaited = [follower for follower in troupe.followers if follower.is_watching]
        self._until(lambda: all(follower.has_seen_end for follower in awaited))
        return [
            f'{follower.name}: {follower.watcher}, {follower.watcher and follower.watcher.last_error!r}'
            for follower in awaited
            if not follower.has_seen_end
        ]

    def _close(self, ground: Ground, before: Resources, probers: Sequence[Prober], troupe: Troupe) -> None:
        self._enter('close')
        for prober in probers:
            prober.stop()
        troupe.close()
        self.history.add(measured_at_rest('after', ground, before, EXPIRY))
        self._enter('judge')

    # -- on the way

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.history.add(Moment(self.history.now(), phase))

    def _until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        """Wait for it, and no longer than is reasonable: what follows says what is missing."""
        end = time.monotonic() + patience
        while not condition() and time.monotonic() < end:
            gevent.sleep(0.05)

    def _blame(self, rule: str, texts: Sequence[str]) -> None:
        self._result.violations += [Violation(rule, text, ()) for text in texts]


def _difference(there: Mapping[str, str], mirror: getc.Mirror) -> str:
    """What is wrong with a mirror, given all keys of etcd and their values; empty if nothing is."""
    shown, there = dict(mirror), {key: value for key, value in there.items() if is_below(key, mirror.key)}
    keys = sorted(key for key in {*shown, *there} if shown.get(key) != there.get(key))
    texts = [f'{key} is {shown.get(key)!r} and not {there.get(key)!r}' for key in keys[:3]]
    return f'{mirror}: {", ".join(texts)}, {len(keys)} keys in all' if keys else ''
