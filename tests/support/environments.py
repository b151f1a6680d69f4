"""The environment of programs that tests start."""

from __future__ import annotations

import os

__all__ = ['without_coverage']


def without_coverage() -> dict[str, str]:
    """Return the environment of this process without coverage's variables, for programs that must not be measured.

    Coverage starts itself in each Python program of a measured run.  Its memory would count as the program's, and a
    KeyboardInterrupt that is raised in its trace function is lost (seen in 1 of 24 runs).
    """
    return {name: value for name, value in os.environ.items() if not name.startswith('COVERAGE_')}
