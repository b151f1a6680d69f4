"""The process of the Go program in ``tools/interop``: commands on its input, events on its output.

``tests/support/interop.py`` has the commands as methods.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import gevent
from gevent.event import Event
from gevent.lock import RLock
from gevent.subprocess import PIPE, Popen, TimeoutExpired

from tests.support.interop_events import GoError, parse_event

__all__ = ['TIMEOUT', 'Call', 'GoEnded', 'GoProcess']

T = TypeVar('T')
E = TypeVar('E')

TIMEOUT = 60.0
"""Seconds until a command or an event that does not arrive fails the test."""

CLOSE_TIMEOUT = 10.0
"""Seconds for the program to end after its input was closed."""


class GoEnded(AssertionError):
    """The program has ended while a command was in progress.  The message has the end of its standard error."""


class Call(Generic[T]):
    """A command of the Go program.  ``T`` is the type of its result.

    Attributes:
        number: Its id.
        events: All its events so far.
    """

    def __init__(self, go: GoProcess, number: int, verb: str) -> None:
        self.events: list[Any] = []
        self._go = go
        self.number = number
        self._verb = verb
        self._result: Any = None
        self._error: Exception | None = None
        self._is_done = False
        self._changed = Event()

    def __repr__(self) -> str:
        state = 'done' if self._is_done else 'in progress'
        return f'<Call {self._verb}, {state}, events={self.events}>'

    @property
    def is_done(self) -> bool:
        """True if the command has ended, also by an error."""
        return self._is_done

    def result(self, timeout: float = TIMEOUT) -> T:
        """Wait for the end of the command and return its result.

        Raises:
            GoError: The command failed.
            GoEnded: The program ended before the command.
            AssertionError: The command did not end in time.
        """
        self._await(lambda: self._is_done, 'its end', timeout)
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result

    def wait(self, kind: type[E], accept: Callable[[E], bool] = lambda event: True, timeout: float = TIMEOUT) -> E:
        """Return the first event of this class, from the begin of the command on, that ``accept`` returns true for.

        Raises:
            GoError: The command failed before such an event.
            GoEnded: The program ended before.
            AssertionError: There was no such event in time, or before the end of the command.
        """

        def find() -> E | None:
            return next((one for one in self.events if isinstance(one, kind) and accept(one)), None)

        self._await(lambda: self._is_done or find() is not None, f'an event {kind.__name__}', timeout)
        found = find()
        if found is None:
            raise self._error or AssertionError(f'{self!r} ended without an event {kind.__name__}')
        return found

    def cancel(self) -> None:
        """Cancel the context of the command, and wait for the end of the command.

        A command that lasts until then has ended well; any other fails with the code ``Canceled``.  Does nothing if the
        command has ended.
        """
        if self._is_done:
            return
        try:
            self._go.call('cancel', id=self.number).result()
        except GoError as error:
            if error.code != 'NotFound':  # it has ended in the meantime
                raise
        self._await(lambda: self._is_done, 'its end', TIMEOUT)

    def _await(self, condition: Callable[[], bool], what: str, timeout: float) -> None:
        end = time.monotonic() + timeout
        while not condition():
            self._changed.clear()
            if not self._changed.wait(max(end - time.monotonic(), 0)) and time.monotonic() >= end and not condition():
                raise AssertionError(f'{self!r}: waited {timeout:g} s for {what}')

    def _receive(self, name: str, result: Mapping[str, Any]) -> bool:
        """Add an event; return True if it is the last one."""
        event = parse_event(self._verb, name, result)
        if name == 'error':
            self._error = event
        elif name == 'done':
            self._result = event
        else:
            self.events.append(event)
        self._is_done = name in ('error', 'done')
        self._changed.set()
        return self._is_done

    def _fail(self, error: Exception) -> None:
        self._error, self._is_done = error, True
        self._changed.set()


class GoProcess:
    """A running Go program on one etcd.

    Args:
        urls: The URL of an etcd, or those of a cluster.
        binary: The program, see :func:`tools.interop.build.build`.

    Attributes:
        pid: Its process id.
        versions: Of Go and of the modules.
    """

    def __init__(self, urls: str | Sequence[str], binary: Path) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        joined = urls if isinstance(urls, str) else ','.join(urls)
        command = [str(binary), 'serve', joined]
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=self._errors, start_new_session=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self.pid: int = self._process.pid
        self._numbers = itertools.count(1)
        self._calls: dict[int, Call[Any]] = {}
        self._writing = RLock()
        self._has_ended = False
        ready: Call[Any] = Call(self, 0, 'ready')
        self._calls[0] = ready
        self._reader = gevent.spawn(self._read)
        self._reader.name = 'interop reader'
        try:
            self.versions: dict[str, Any] = ready.result()
        except BaseException:
            self.kill()
            raise

    def call(self, verb: str, *, timeout: float = 0, **arguments: Any) -> Call[Any]:
        """Send a command.

        Args:
            verb: Its name in ``tools/interop``.
            timeout: Seconds after which Go's context ends; 0 for no limit.
            **arguments: Its arguments; bytes are encoded.
        """
        call: Call[Any] = Call(self, next(self._numbers), verb)
        message = {'id': call.number, 'verb': verb, 'timeout': timeout, 'arguments': _encoded(arguments)}
        with self._writing:
            if self._has_ended:
                raise self._ended()
            self._calls[call.number] = call
            self._input.write(json.dumps(message).encode() + b'\n')
            self._input.flush()
        return call

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close the input, so that the program revokes its leases and ends; kill it if it does not.

        May be called repeatedly.
        """
        self._close(self._input)
        try:
            self._process.wait(timeout)
        except TimeoutExpired:
            pass
        self.kill()

    def kill(self) -> None:
        """Kill the program, which leaves its leases to their TTL.  May be called repeatedly."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._reader.join(CLOSE_TIMEOUT)
        self._reader.kill()
        for file in (self._input, self._output, self._errors):
            self._close(file)

    def _close(self, file: Any) -> None:
        try:
            file.close()
        except OSError:  # a command that was not flushed cannot be sent any more
            pass

    def _read(self) -> None:
        for line in self._output:
            event = json.loads(line)
            name, result = event['event'], event['result']
            if name == 'ready':
                call = self._calls.pop(0)
                call._result, call._is_done = result, True
                call._changed.set()
            elif self._calls[event['id']]._receive(name, result):
                del self._calls[event['id']]
        self._has_ended = True
        error = self._ended()
        for call in self._calls.values():
            call._fail(error)

    def _ended(self) -> GoEnded:
        lines: list[str] = []
        if not self._errors.closed:
            self._errors.seek(0)
            lines = self._errors.read().decode('utf-8', 'replace').splitlines()
        return GoEnded('the Go program has ended: ' + '\n'.join(lines[-20:]))


def _encoded(argument: Any) -> Any:
    if isinstance(argument, bytes):
        return b64encode(argument).decode()
    if isinstance(argument, dict):
        return {name: _encoded(one) for name, one in argument.items()}
    if isinstance(argument, list):
        return [_encoded(one) for one in argument]
    return argument
