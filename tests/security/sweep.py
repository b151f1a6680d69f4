"""Looks for secrets wherever a program, its logs or its reports of errors could show them."""

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

THEIRS = ('getc.testing', 'getc.v3.schema')
"""What is the harness's, or protobuf's: a message shows what is in it."""


class Sweep:
    """What was shown, and whether a secret is in it.

    A context manager: while it is entered it listens to every log at DEBUG.

    Args:
        passwords: Texts that nothing of getc's may show, local variables of its functions included.
        others: Texts that nothing may show but such a variable, if it is mere bytes or text: tokens, keys.
        values: Texts that only a node, or a result with one, may show.
        loggers: The names of those that are listened to; of all by default.
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
        self._handler = _Everything(self._logged)

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
        """All but the values."""
        return self.passwords + self.others

    def refused(self, call: Callable[[], object], *kinds: type[BaseException], shows_locals: bool = True) -> None:
        """Do what fails, and look at how it does.

        Args:
            call: What to do.
            kinds: How it may fail; as an error of getc's, by default.
            shows_locals: Also at what a report with local variables would show.  Not where the caller's own are there.
        """
        with pytest.raises(kinds or getc.EtcException) as caught:
            call()
        self._look_at(caught.value, shows_locals)

    def look_at(self, *errors: BaseException | None) -> None:
        """Look at errors that somebody keeps."""
        for error in errors:
            assert error is not None
            self._look_at(error, True)

    def look(self) -> None:
        """Look at the logs, and at every object of getc's that there is."""
        self.look_at_logs()
        for thing in gc.get_objects():
            if _is_of_getc(thing):
                self._deny('an object', repr(thing), self._secrets_of(thing))

    def look_at_logs(self) -> None:
        """Look at the logs alone."""
        self._deny('the logs', self._logged.getvalue(), self.credentials + self.values)

    def _look_at(self, error: BaseException, shows_locals: bool) -> None:
        self.errors.append(error)
        secrets = self.credentials + self.values
        for part in _chain(error):
            for shown in (str(part), repr(part), repr(part.args), repr(part.__dict__)):
                self._deny(type(part).__name__, shown, secrets)
        self._deny('a traceback', ''.join(traceback.format_exception(error)), secrets)
        self._deny('a pickle', pickle.dumps(error).decode('latin-1'), secrets)
        for where, thing in _locals_of(error) if shows_locals else ():
            self._deny(where, repr(thing), self.passwords)
            if _is_of_getc(thing):
                self._deny(where, repr(thing), self._secrets_of(thing))

    def _secrets_of(self, thing: object) -> list[str]:
        return self.credentials + ([] if isinstance(thing, (Node, EtcdResult)) else self.values)

    def _deny(self, where: str, text: str, secrets: list[str]) -> None:
        shown = [secret for secret in secrets if secret in text]
        assert not shown, f'{where} shows {shown}: {text}'


class _Everything(logging.StreamHandler[io.StringIO]):
    """Writes down the message, its parts, and the traceback."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.stream.write(f'{record.args!r}\n')


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error, with those that it is told to have come from."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _locals_of(error: BaseException) -> Iterator[tuple[str, Any]]:
    """The local variables of frames of getc's, as a report of an error may have them: where, and what."""
    for part in _chain(error):
        for frame, line in traceback.walk_tb(part.__traceback__):
            name = frame.f_code.co_filename
            if '/getc/' in name and '/tests/' not in name:
                yield from ((f'{name}:{line} {variable}', value) for variable, value in frame.f_locals.items())


def _is_of_getc(thing: object) -> bool:
    module = str(getattr(type(thing), '__module__', ''))
    return module.startswith('getc.') and not module.startswith(THEIRS)
