"""Registers: keys that several clients read and write at once, each call noted with its outcome."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import gevent

import getc
from getc.errors import (
    EtcdError,
    EtcException,
    KeyNotFound,
    LeaderElect,
    RaftInternal,
    Unavailable,
)
from getc.results import EtcdResult
from tests.faults.history import Call, History, Outcome

__all__ = ['KEYS', 'Process', 'outcome_of']

KEYS: Final = tuple(f'/reg/{number}' for number in range(6))

REST: Final = 0.03
"""Seconds between two calls of a process, on average."""

SOON, LATE = 0.5, 4.0
"""Seconds that a call is given: from the one to the other."""

KINDS: Final = {'get': 4, 'serializable get': 1, 'set': 3, 'create': 1, 'swap': 3, 'delete': 1}
"""How often each is called."""


def outcome_of(error: EtcException) -> Outcome:
    """What a caller was told by an error."""
    if error.maybe_applied:
        return Outcome.AMBIGUOUS
    has_refused = isinstance(error, EtcdError) and not isinstance(error, (Unavailable, LeaderElect, RaftInternal))
    return Outcome.REFUSED if has_refused else Outcome.NOT_APPLIED


@dataclass(frozen=True, slots=True)
class _Plan:
    """A call that is to be made."""

    kind: str
    key: str
    value: str | None
    expected: str | None


class Process:
    """Makes one call after the other.

    Args:
        name: Unique in the run.
        client_name: What its client is called.
        client: The client.
        history: Where calls are noted.
        chance: What it does next.

    Attributes:
        errors: How many calls ended with each class of error.
    """

    def __init__(
        self, name: str, client_name: str, client: getc.Client, history: History, chance: random.Random
    ) -> None:
        self.name = name
        self.errors: Counter[str] = Counter()
        self._client_name = client_name
        self._client = client
        self._history = history
        self._rng = chance
        self._count = 0
        self._latest: dict[str, str] = {}  # what it saw of each register
        self._do: dict[str, Callable[[_Plan, float], EtcdResult]] = {
            'get': lambda plan, timeout: client.get(plan.key, timeout=timeout),
            'serializable get': lambda plan, timeout: client.get(plan.key, quorum=False, timeout=timeout),
            'set': lambda plan, timeout: client.set(plan.key, plan.value, timeout=timeout),
            'create': lambda plan, timeout: client.create(plan.key, plan.value, timeout=timeout),
            'swap': lambda plan, timeout: client.set(plan.key, plan.value, prev_value=plan.expected, timeout=timeout),
            'delete': lambda plan, timeout: client.delete(plan.key, timeout=timeout),
        }

    def run(self) -> None:
        """Go on until killed; the call that is under way then is noted as one that may be done at any time."""
        while True:
            plan = self._plan()
            timeout = self._rng.uniform(SOON, LATE)
            call = Call(
                self.name,
                self._client_name,
                plan.key,
                plan.kind,
                self._history.now(),
                0.0,
                Outcome.AMBIGUOUS,
                plan.value,
                plan.expected,
            )
            try:
                call = self._answered(call, self._do[plan.kind](plan, timeout))
            except KeyNotFound as error:
                is_read = plan.kind.endswith('get')
                outcome = Outcome.DONE if is_read else Outcome.REFUSED
                call = replace(call, outcome=outcome, revision=error.index, error=type(error).__name__)
                self._latest.pop(plan.key, None)
            except EtcException as error:
                self.errors[type(error).__name__] += 1
                index = error.index if isinstance(error, EtcdError) else None
                call = replace(call, outcome=outcome_of(error), revision=index, error=type(error).__name__)
            finally:
                self._history.add(replace(call, ended=self._history.now()))
            gevent.sleep(self._rng.expovariate(1 / REST))

    def _plan(self) -> _Plan:
        key = self._rng.choice(KEYS)
        kind = self._rng.choices(list(KINDS), list(KINDS.values()))[0]
        if kind == 'swap' and key not in self._latest:
            kind = 'get'
        self._count += 1
        writes = kind in ('set', 'create', 'swap')
        value = f'{self.name}.{self._count}' if writes else None
        return _Plan(kind, key, value, self._latest[key] if kind == 'swap' else None)

    def _answered(self, call: Call, result: EtcdResult) -> Call:
        value = result.value if call.kind.endswith('get') else call.value
        if value is None:
            self._latest.pop(call.key, None)
        else:
            self._latest[call.key] = value
        return replace(
            call, outcome=Outcome.DONE, value=value, revision=result.etcd_index, modified=result.modified_index
        )
