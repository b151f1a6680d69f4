"""Workers on registers: keys that several clients read and write concurrently."""

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

__all__ = ['KEYS', 'RegisterWorker', 'outcome_of']

KEYS: Final = tuple(f'/reg/{number}' for number in range(6))

MEAN_PAUSE: Final = 0.03
"""Mean seconds between two calls of a worker."""

MIN_TIMEOUT, MAX_TIMEOUT = 0.5, 4.0
"""Range of the timeout of a call, in seconds."""

CALL_WEIGHTS: Final = {'get': 4, 'serializable get': 1, 'set': 3, 'create': 1, 'swap': 3, 'delete': 1}
"""Relative frequency of each kind of call."""


def outcome_of(error: EtcException) -> Outcome:
    """Return the outcome that an error reports."""
    if error.maybe_applied:
        return Outcome.AMBIGUOUS
    has_refused = isinstance(error, EtcdError) and not isinstance(error, (Unavailable, LeaderElect, RaftInternal))
    return Outcome.REFUSED if has_refused else Outcome.NOT_APPLIED


@dataclass(frozen=True, slots=True)
class _PlannedCall:
    """A call to be made."""

    kind: str
    key: str
    value: str | None
    expected: str | None


class RegisterWorker:
    """Makes one call after another.

    Args:
        name: Unique in the run.
        client_name: The name of the client.
        client: The client.
        history: Records the calls.
        rng: Determines the calls.

    Attributes:
        errors: The number of failed calls by error class.
    """

    def __init__(self, name: str, client_name: str, client: getc.Client, history: History, rng: random.Random) -> None:
        self.name = name
        self.errors: Counter[str] = Counter()
        self._client_name = client_name
        self._client = client
        self._history = history
        self._rng = rng
        self._count = 0
        self._last_seen: dict[str, str] = {}  # the latest value it has seen of each register
        self._do: dict[str, Callable[[_PlannedCall, float], EtcdResult]] = {
            'get': lambda planned, timeout: client.get(planned.key, timeout=timeout),
            'serializable get': lambda planned, timeout: client.get(planned.key, quorum=False, timeout=timeout),
            'set': lambda planned, timeout: client.set(planned.key, planned.value, timeout=timeout),
            'create': lambda planned, timeout: client.create(planned.key, planned.value, timeout=timeout),
            'swap': lambda planned, timeout: client.set(
                planned.key, planned.value, prev_value=planned.expected, timeout=timeout
            ),
            'delete': lambda planned, timeout: client.delete(planned.key, timeout=timeout),
        }

    def run(self) -> None:
        """Make calls until killed; a call in flight is recorded as ambiguous then."""
        while True:
            planned = self._next_call()
            timeout = self._rng.uniform(MIN_TIMEOUT, MAX_TIMEOUT)
            call = Call(
                self.name,
                self._client_name,
                planned.key,
                planned.kind,
                self._history.now(),
                0.0,
                Outcome.AMBIGUOUS,
                planned.value,
                planned.expected,
            )
            try:
                call = self._completed(call, self._do[planned.kind](planned, timeout))
            except KeyNotFound as error:
                is_read = planned.kind.endswith('get')
                outcome = Outcome.DONE if is_read else Outcome.REFUSED
                call = replace(call, outcome=outcome, revision=error.index, error=type(error).__name__)
                self._last_seen.pop(planned.key, None)
            except EtcException as error:
                self.errors[type(error).__name__] += 1
                index = error.index if isinstance(error, EtcdError) else None
                call = replace(call, outcome=outcome_of(error), revision=index, error=type(error).__name__)
            finally:
                self._history.add(replace(call, ended=self._history.now()))
            gevent.sleep(self._rng.expovariate(1 / MEAN_PAUSE))

    def _next_call(self) -> _PlannedCall:
        key = self._rng.choice(KEYS)
        kind = self._rng.choices(list(CALL_WEIGHTS), list(CALL_WEIGHTS.values()))[0]
        if kind == 'swap' and key not in self._last_seen:
            kind = 'get'
        self._count += 1
        writes = kind in ('set', 'create', 'swap')
        value = f'{self.name}.{self._count}' if writes else None
        return _PlannedCall(kind, key, value, self._last_seen[key] if kind == 'swap' else None)

    def _completed(self, call: Call, result: EtcdResult) -> Call:
        value = result.value if call.kind.endswith('get') else call.value
        if value is None:
            self._last_seen.pop(call.key, None)
        else:
            self._last_seen[call.key] = value
        return replace(
            call, outcome=Outcome.DONE, value=value, revision=result.etcd_index, modified=result.modified_index
        )
