"""A violation of a rule, as checkers report it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.faults.history import Record

__all__ = ['Violation']


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken.

    Attributes:
        rule: The rule, as a sentence.
        text: How it was broken, with names and numbers.
        piece: The records that show it.
    """

    rule: str
    text: str
    piece: tuple[Record, ...]

    @classmethod
    def of(cls, rule: str, text: str, *records: Record | None) -> Violation:
        """Create a violation with the given records, without None and duplicates."""
        piece = {id(record): record for record in records if record is not None}
        return cls(rule, text, tuple(piece.values()))

    def __str__(self) -> str:
        lines = [
            f'violated: {self.rule}',
            f'          {self.text}',
            *(f'            {record}' for record in self.piece),
        ]
        return '\n'.join(lines)
