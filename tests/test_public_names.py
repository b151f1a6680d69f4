"""The public names of getc are those of the list in the tree."""

from __future__ import annotations

from tools.public_names import difference


def test_public_names_are_those_of_the_list() -> None:
    """A name that becomes public, or disappears, is a decision: ``python -m tools.public_names --update``."""
    lines = difference()
    assert not lines, 'run `python -m tools.public_names --update` and check the difference:\n' + '\n'.join(lines)
