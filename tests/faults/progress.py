"""Shows the progress of a run: a line that is updated in a terminal, or a new line from time to time."""

from __future__ import annotations

from collections import Counter
from typing import Final, TextIO

import gevent

from tests.faults.history import Call, WatchEvent
from tests.faults.run import Run

__all__ = ['Progress']

LIVE_INTERVAL: Final = 0.5
LINE_INTERVAL: Final = 15.0
MAX_WIDTH: Final = 118


class Progress:
    """Shows the progress of a run.  A context manager.

    Args:
        run: The run.
        stream: The output.
    """

    def __init__(self, run: Run, stream: TextIO) -> None:
        self._run = run
        self._stream = stream
        self._is_live = stream.isatty()
        self._counted = 0  # the number of records that were counted
        self._counts: Counter[type] = Counter()
        self._showing: gevent.Greenlet[..., None] | None = None

    def __enter__(self) -> Progress:
        self._showing = gevent.spawn(self._show)
        return self

    def __exit__(self, *_: object) -> None:
        if self._showing is not None:
            self._showing.kill()
        if self._is_live:
            print('\r\x1b[K', end='', file=self._stream, flush=True)

    def _show(self) -> None:
        phase = ''
        while True:
            line = self.line()
            if self._is_live:
                print(f'\r\x1b[K{line[:MAX_WIDTH]}', end='', file=self._stream, flush=True)
                gevent.sleep(LIVE_INTERVAL)
                continue
            print(line, file=self._stream, flush=True)
            phase, waited = self._run.phase, 0.0
            while self._run.phase == phase and waited < LINE_INTERVAL:
                gevent.sleep(LIVE_INTERVAL)
                waited += LIVE_INTERVAL

    def line(self) -> str:
        """Return the current status line."""
        run = self._run
        records = list(run.history)
        self._counts.update(type(record) for record in records[self._counted :])
        self._counted = len(records)
        counts = ' '.join(f'{self._counts[kind]:,} {what}' for kind, what in ((Call, 'calls'), (WatchEvent, 'events')))
        left = '' if run.ends_at is None else f' -{max(0, run.ends_at - run.history.now()):.0f} s'
        broken = '' if run.injector is None or not run.injector.active else f' | {", ".join(run.injector.active)}'
        return f'seed {run.config.seed} {run.history.now():4.0f} s {run.phase}{left} | {counts}{broken}'
