"""getc's own suite uses the plugin that comes with it."""

from __future__ import annotations

import pytest

from pytest_getc import show_failures


@pytest.fixture(autouse=True)
def _failures_end_the_test() -> None:
    """A test's timeout ends it, whatever its greenlets wait for."""
    show_failures()
