"""What is seen of a run while it goes on: one line that changes in a terminal, a line now and then elsewhere."""

from __future__ import annotations

from collections import Counter
from typing import Final, TextIO

import gevent

from tests.faults.run import Run

__all__ = ['Progress']

OFTEN: Final = 0.5
SELDOM: Final = 15.0
WIDTH: Final = 118


class Progress:
    """Shows a run.  A context manager.

    Args:
        run: What is shown.
        stream: Where to.
    """

    def __init__(self, run: Run, stream: TextIO) -> None:
        self._run = run
        self._stream = stream
        self._is_live = stream.isatty()
        self._shown = 0  # records that were counted
        self._counts: Counter[str] = Counter()
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
                print(f'\r\x1b[K{line[:WIDTH]}', end='', file=self._stream, flush=True)
                gevent.sleep(OFTEN)
                continue
            print(line, file=self._stream, flush=True)
            phase, waited = self._run.phase, 0.0
            while self._run.phase == phase and waited < SELDOM:
                gevent.sleep(OFTEN)
                waited += OFTEN

    def line(self) -> str:
        """How far it is."""
        run = self._run
        records = list(run.history)
        self._counts.update(type(record).__name__ for record in records[self._shown :])
        self._shown = len(records)
        counts = ' '.join(f'{self._counts[kind]:,} {what}' for kind, what in (('Call', 'calls'), ('Seen', 'events')))
        left = '' if run.ends_at is None else f' -{max(0, run.ends_at - run.history.now()):.0f} s'
        broken = '' if run.fire is None or not run.fire.now else f' | {", ".join(run.fire.now)}'
        return f'seed {run.order.seed} {run.history.now():4.0f} s {run.phase}{left} | {counts}{broken}'
