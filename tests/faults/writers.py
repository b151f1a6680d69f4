"""Writers of what is no register: appenders to a queue, and transactions that write several keys at once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import gevent

import getc
from getc.errors import EtcException
from getc.v3 import txn
from tests.faults.history import Call, History, Outcome
from tests.faults.registers import outcome_of

__all__ = ['PAIRS', 'QUEUE', 'Appender', 'PairWriter']

QUEUE: Final = '/queue'
PAIRS: Final = '/pairs'
SIDES: Final = ('left', 'right')

REST: Final = 0.15
"""Seconds between two writes of one writer, on average."""

TIMEOUT: Final = 3.0


class _Writer:
    """Makes one write after the other.

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

    def run(self) -> None:
        """Go on until killed."""
        while True:
            self._count += 1
            self._write(f'{self.name}.{self._count}')
            gevent.sleep(self._rng.expovariate(1 / REST))

    def _write(self, tag: str) -> None:
        """Write values that begin with the tag."""
        raise NotImplementedError

    def _note(self, kind: str, values: dict[str, str], write: Callable[[], int]) -> None:
        """Do it, and note one call for each key, all of which have the same fate."""
        began = self._history.now()
        outcome, revision, name = Outcome.AMBIGUOUS, None, None  # also if this greenlet is killed
        try:
            revision = write()
            outcome = Outcome.DONE
        except EtcException as error:
            self.errors[type(error).__name__] += 1
            outcome, name = outcome_of(error), type(error).__name__
        finally:
            ended = self._history.now()
            for part, (key, value) in enumerate(values.items()):
                process = self.name if not part else f'{self.name}/{part}'
                self._history.add(
                    Call(
                        process,
                        self._client_name,
                        key,
                        kind,
                        began,
                        ended,
                        outcome,
                        value,
                        revision=revision,
                        modified=revision,
                        error=name,
                    )
                )


class Appender(_Writer):
    """Appends to the queue."""

    def _write(self, tag: str) -> None:
        self._note('append', {QUEUE: tag}, lambda: self._client.append(QUEUE, tag, timeout=TIMEOUT).modified_index)


class PairWriter(_Writer):
    """Writes both sides of a pair by one transaction, and now and then deletes both by one."""

    def _write(self, tag: str) -> None:
        pair = f'{PAIRS}/{self._rng.randrange(4)}'
        keys = [f'{pair}/{side}' for side in SIDES]
        if self._rng.random() < 0.15:
            operations = [txn.delete(key.encode()) for key in keys]
            values = {}
        else:
            values = {key: f'{tag}.{side}' for key, side in zip(keys, SIDES, strict=True)}
            operations = [txn.put(key.encode(), value.encode()) for key, value in values.items()]
        self._note('txn', values, lambda: self._commit(operations))

    def _commit(self, operations: list[txn.RequestOp]) -> int:
        return self._client.v3.kv.when().then(*operations).commit(timeout=TIMEOUT).header.revision
