"""What a checker says of a history that breaks a rule."""

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
        piece: The shortest piece of the history that shows it.
    """

    rule: str
    text: str
    piece: tuple[Record, ...]

    @classmethod
    def of(cls, rule: str, text: str, *records: Record | None) -> Violation:
        """A violation whose piece is made of the records that there are.  One may be told in two roles, and is one."""
        piece = {id(record): record for record in records if record is not None}
        return cls(rule, text, tuple(piece.values()))

    def __str__(self) -> str:
        lines = [f'broken: {self.rule}', f'        {self.text}', *(f'          {record}' for record in self.piece)]
        return '\n'.join(lines)
