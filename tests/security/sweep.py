"""Searches for secrets in all output of a program: logs, errors, tracebacks, pickles and local variables."""

from __future__ import annotations

import gc
import io
import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import pytest

import getc
from getc.results import EtcdResult, Node

__all__ = ['Sweep']

EXEMPT_MODULES = ('getc.testing', 'getc.v3.schema')
"""Objects of these modules may show secrets: the test harness, and protobuf messages."""


class Sweep:
    """Checks that no log, error or object shows a secret.

    A context manager: while it is entered it records all logs at level DEBUG.

    Args:
        passwords: Texts that must not be shown, not even by local variables of functions of getc.
        others: Texts that only local variables of type bytes or str may show: tokens, keys.
        values: Texts that only nodes, and results with a node, may show.
        loggers: Names of the loggers to record; all by default.
    """

    def __init__(
        self,
        passwords: Iterable[str],
        values: Iterable[str],
        *,
        others: Iterable[str] = (),
        loggers: tuple[str, ...] = ('',),
    ) -> None:
        self.passwords = list(passwords)
        self.others = list(others)
        self.values = list(values)
        self.errors: list[BaseException] = []
        self._logged = io.StringIO()
        self._loggers = [logging.getLogger(name) for name in loggers]
        self._levels = [logger.level for logger in self._loggers]
        self._handler = _RecordingHandler(self._logged)

    def __enter__(self) -> Sweep:
        for logger in self._loggers:
            logger.setLevel(logging.DEBUG)
            logger.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.removeHandler(self._handler)
            logger.setLevel(level)

    @property
    def credentials(self) -> list[str]:
        """The passwords and the other secrets, without the values."""
        return self.passwords + self.others

    def expect_error(self, call: Callable[[], object], *kinds: type[BaseException], shows_locals: bool = True) -> None:
        """Call a function that fails, and check its error.

        Args:
            call: The function.
            kinds: Expected error classes; ``EtcException`` by default.
            shows_locals: Check local variables too.  False if the secret is a local variable of the caller.
        """
        with pytest.raises(kinds or getc.EtcException) as caught:
            call()
        self._check_error(caught.value, shows_locals)

    def check_errors(self, *errors: BaseException | None) -> None:
        """Check errors that an object keeps."""
        for error in errors:
            assert error is not None
            self._check_error(error, True)

    def check(self) -> None:
        """Check the logs and the ``repr`` of every object of getc."""
        self.check_logs()
        for thing in gc.get_objects():
            if _is_of_getc(thing):
                self._refuse('an object', repr(thing), self._secrets_of(thing))

    def check_logs(self) -> None:
        """Check the logs only."""
        self._refuse('the logs', self._logged.getvalue(), self.credentials + self.values)

    def _check_error(self, error: BaseException, shows_locals: bool) -> None:
        self.errors.append(error)
        secrets = self.credentials + self.values
        for part in _chain(error):
            for shown in (str(part), repr(part), repr(part.args), repr(part.__dict__)):
                self._refuse(type(part).__name__, shown, secrets)
        self._refuse('a traceback', ''.join(traceback.format_exception(error)), secrets)
        self._refuse('a pickle', pickle.dumps(error).decode('latin-1'), secrets)
        for where, thing in _locals_of(error) if shows_locals else ():
            self._refuse(where, repr(thing), self.passwords)
            if _is_of_getc(thing):
                self._refuse(where, repr(thing), self._secrets_of(thing))

    def _secrets_of(self, thing: object) -> list[str]:
        return self.credentials + ([] if isinstance(thing, (Node, EtcdResult)) else self.values)

    def _refuse(self, where: str, text: str, secrets: list[str]) -> None:
        shown = [secret for secret in secrets if secret in text]
        assert not shown, f'{where} shows {shown}: {text}'


class _RecordingHandler(logging.StreamHandler[io.StringIO]):
    """Records the message, its arguments and the traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.stream.write(f'{record.args!r}\n')


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return the error with all its causes and contexts that a traceback shows."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _locals_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    """Yield the local variables in the frames of getc, as an error report may show them: place and value."""
    for part in _chain(error):
        for frame, line in traceback.walk_tb(part.__traceback__):
            name = frame.f_code.co_filename
            if '/getc/' in name and '/tests/' not in name:
                yield from ((f'{name}:{line} {variable}', value) for variable, value in frame.f_locals.items())


def _is_of_getc(thing: object) -> bool:
    module = str(getattr(type(thing), '__module__', ''))
    return module.startswith('getc.') and not module.startswith(EXEMPT_MODULES)
