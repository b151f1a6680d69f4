"""A contestant's process, from outside: asked by a line, answers by a line."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tools.bench.registry import Contestant

__all__ = ['Cannot', 'Failed', 'Performer']

STAGE = Path(__file__).parent / 'worker'
START_PATIENCE = 30.0


class Failed(Exception):
    """The contestant did not do what it was asked.  The text says why."""


class Cannot(Failed):
    """The contestant's client has no such thing, and never will in this run."""


class Performer:
    """One contestant in a process of its own.  It idles while others are asked.

    Also a context manager, which ends the process.

    Args:
        contestant: Whose file is run.
        python: The Python that runs it.
        url: The etcd.

    Attributes:
        versions: Of its Python and its packages.

    Raises:
        Failed: It did not start; nothing is left running.
    """

    def __init__(self, contestant: Contestant, python: str, url: str) -> None:
        self.contestant = contestant
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._received = b''
        self._process = subprocess.Popen(
            [python, str(STAGE), str(contestant.path), contestant.mode, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.versions: dict[str, Any] = self._read(START_PATIENCE)
        except BaseException:
            self.close()
            raise

    def ask(self, request: dict[str, Any], patience: float) -> dict[str, float]:
        """Return the answer.  After any error but Cannot the process is of no more use.

        Raises:
            Cannot: The client has no such thing.
            Failed: It ended, said what went wrong, or did not answer within so many seconds.
        """
        self.begin(request)
        return self.finish(patience)

    def begin(self, request: dict[str, Any]) -> None:
        """Ask, and do not wait."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b'\n')
            self._process.stdin.flush()
        except OSError as error:
            raise Failed(f'it has ended: {self._last_words()}') from error

    def finish(self, patience: float) -> dict[str, float]:
        """Wait for the answer.  Raises what ``ask`` does."""
        answer = self._read(patience)
        if 'cannot' in answer:
            raise Cannot(answer['cannot'])
        if 'error' in answer:
            raise Failed(' '.join(answer['error'].split())[:200])
        return answer

    def close(self) -> None:
        """End the process.  May be called twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what was not sent cannot be sent any more
                pass

    def __enter__(self) -> Performer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + patience
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b'\n' not in self._received:
                if not selector.select(end - time.monotonic()) and time.monotonic() >= end:
                    raise Failed(f'no answer within {patience:g} s')
                received = os.read(self._process.stdout.fileno(), 65536)
                if not received:
                    self._process.wait()
                    raise Failed(self._last_words())
                self._received += received
        line, _, self._received = self._received.partition(b'\n')
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode('utf-8', 'replace').strip().splitlines()
        return lines[-1][:300] if lines else f'it ended with status {self._process.poll()}'
