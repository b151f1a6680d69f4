"""Kills a greenlet before it has run, as ``gevent.killall`` of a program may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gevent.greenlet import Greenlet

__all__ = ['killing_next_greenlet']


@contextmanager
def killing_next_greenlet() -> Iterator[list[Greenlet[..., Any]]]:
    """Kill the next greenlet that is spawned, before it runs.  Yields the list to which it is added."""
    killed: list[Greenlet[..., Any]] = []

    def kill(greenlet: Greenlet[..., Any]) -> None:
        if not killed:
            killed.append(greenlet)
            greenlet.kill(block=False)

    Greenlet.add_spawn_callback(kill)
    try:
        yield killed
    finally:
        Greenlet.remove_spawn_callback(kill)
