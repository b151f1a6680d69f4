"""The process of a client: it receives requests and returns answers, one line of JSON each."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

from tools.bench.environments import Launch

__all__ = ['Unsupported', 'WorkerFailed', 'WorkerProcess']

START_TIMEOUT = 60.0


class WorkerFailed(Exception):
    """The process did not start, or a request failed.  The message contains the reason."""


class Unsupported(WorkerFailed):
    """The client has no such operation."""


class WorkerProcess:
    """A process that runs one client.  It is idle between requests.

    Also a context manager, which kills the process.

    Args:
        launch: How to start it.
        url: The URL of the etcd.

    Attributes:
        versions: Of its language and its packages.

    Raises:
        WorkerFailed: The process did not start.  No process is left.
    """

    def __init__(self, launch: Launch, url: str) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by close)
        self._received = b''
        self._process = subprocess.Popen(
            [*launch.command, url],
            env={**os.environ, **launch.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.versions: dict[str, Any] = self._read(START_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def run(self, request: dict[str, Any], timeout: float) -> dict[str, float]:
        """Send a request and return the answer.  After an error other than Unsupported the process must be closed.

        Raises:
            Unsupported: The client has no such operation.
            WorkerFailed: The request failed, the process ended, or it did not answer within ``timeout`` seconds.
        """
        self.send(request)
        return self.receive(timeout)

    def send(self, request: dict[str, Any]) -> None:
        """Send a request without waiting for the answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b'\n')
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerFailed(f'the process has ended: {self._error_output()}') from error

    def receive(self, timeout: float) -> dict[str, float]:
        """Wait for the answer.  Raises what :meth:`run` does."""
        answer = self._read(timeout)
        if 'unsupported' in answer:
            raise Unsupported(answer['unsupported'])
        if 'error' in answer:
            raise WorkerFailed(' '.join(answer['error'].split())[:200])
        return answer

    def close(self) -> None:
        """Kill the process.  May be called repeatedly."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # a request that was not flushed cannot be sent any more
                pass

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b'\n' not in self._received:
                if not selector.select(end - time.monotonic()) and time.monotonic() >= end:
                    raise WorkerFailed(f'no answer within {timeout:g} s')
                received = os.read(self._process.stdout.fileno(), 65536)
                if not received:
                    self._process.wait()
                    raise WorkerFailed(self._error_output())
                self._received += received
        line, _, self._received = self._received.partition(b'\n')
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _error_output(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode('utf-8', 'replace').strip().splitlines()
        return lines[-1][:300] if lines else f'the process ended with status {self._process.poll()}'
