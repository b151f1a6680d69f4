"""Workers that append to a queue, and workers that write several keys in one transaction."""

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

__all__ = ['PAIRS', 'QUEUE', 'AppendWorker', 'PairWorker']

QUEUE: Final = '/queue'
PAIRS: Final = '/pairs'
SIDES: Final = ('left', 'right')

MEAN_PAUSE: Final = 0.15
"""Mean seconds between two writes of a worker."""

TIMEOUT: Final = 3.0


class _WriteWorker:
    """Makes one write after another.

    Args:
        name: Unique in the run.
        client_name: The name of the client.
        client: The client.
        history: Records the calls.
        rng: Determines the writes.

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

    def run(self) -> None:
        """Write until killed."""
        while True:
            self._count += 1
            self._write(f'{self.name}.{self._count}')
            gevent.sleep(self._rng.expovariate(1 / MEAN_PAUSE))

    def _write(self, tag: str) -> None:
        """Write values that begin with the tag."""
        raise NotImplementedError

    def _record(self, kind: str, values: dict[str, str], write: Callable[[], int]) -> None:
        """Execute a write, and record a call for each key, all with the same outcome."""
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
            for number, (key, value) in enumerate(values.items()):
                process = self.name if not number else f'{self.name}/{number}'
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


class AppendWorker(_WriteWorker):
    """Appends to the queue."""

    def _write(self, tag: str) -> None:
        self._record('append', {QUEUE: tag}, lambda: self._client.append(QUEUE, tag, timeout=TIMEOUT).modified_index)


class PairWorker(_WriteWorker):
    """Writes both sides of a pair in one transaction, and sometimes deletes both."""

    def _write(self, tag: str) -> None:
        pair = f'{PAIRS}/{self._rng.randrange(4)}'
        keys = [f'{pair}/{side}' for side in SIDES]
        if self._rng.random() < 0.15:
            operations = [txn.delete(key.encode()) for key in keys]
            values = {}
        else:
            values = {key: f'{tag}.{side}' for key, side in zip(keys, SIDES, strict=True)}
            operations = [txn.put(key.encode(), value.encode()) for key, value in values.items()]
        self._record('txn', values, lambda: self._commit(operations))

    def _commit(self, operations: list[txn.RequestOp]) -> int:
        return self._client.v3.kv.when().then(*operations).commit(timeout=TIMEOUT).header.revision
