"""Tables for a terminal, Markdown and reStructuredText."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ['Table']


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first column is left-aligned, all others are right-aligned.

    Attributes:
        columns: The names of the columns.
        rows: The rows, with a cell for each column.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self, indent: str = '') -> list[str]:
        """Return the lines for a terminal, without the names of the columns."""
        widths = [max(len(row[number]) for row in self.rows) for number in range(len(self.columns))]
        return [
            indent + '  '.join(_set(cell, widths[number], not number) for number, cell in enumerate(row))
            for row in self.rows
        ]

    def as_markdown(self) -> list[str]:
        """Return the lines in Markdown."""
        rules = ['---', *(['---:'] * (len(self.columns) - 1))]
        return [f'| {" | ".join(cells)} |' for cells in (self.columns, rules, *self.rows)]

    def as_rst(self) -> list[str]:
        """Return the lines in reStructuredText."""
        lines = ['.. list-table::', '   :header-rows: 1', '']
        for cells in (self.columns, *self.rows):
            lines += [f'   {"*" if not number else " "} - {cell}' for number, cell in enumerate(cells)]
        return lines


def _set(cell: str, width: int, is_left: bool) -> str:
    return cell.ljust(width) if is_left else cell.rjust(width)
