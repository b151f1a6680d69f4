"""Refuse words that do not belong in the code and its documentation.

    python tools/check_words.py [PATH ...]

Prints ``file:line: word -> suggestion`` for each hit, and exits with status 1 if there is one.  Without arguments it
checks ``getc/``, ``docs/`` and ``README.rst``.  The list is short, and has only words that are wrong in every context
here: what depends on the sentence is for reviewers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

__all__ = ['WORDS', 'hits', 'main']

REPOSITORY: Final = Path(__file__).resolve().parents[1]

PATHS: Final = ('getc', 'docs', 'README.rst')
SUFFIXES: Final = ('.py', '.rst')

WORDS: Final = {
    r'who(?:so)?ever|whom(?:so)?ever': 'name the caller, client or server',
    r'somebody|someone': 'name the client, process or user',
    r'nobody': '"no client", "no server", "not ..."',
    r'everybody|everyone': '"all clients", "every subscriber"',
    r'(?:him|her)self': 'itself',
    r'anew|afresh': 'again, or the verb: reopen, restart, reconnect',
    r'for ever': 'forever, or "without a limit"',
    r'(?<!\.)tells?|(?<!\.)telling|told': 'notify, report, return, receive, distinguish',
    # "There is no leader" and "it is no longer kept" are plain English; "this is no etcd" is not.
    r'(?:is|are|was|were) no (?!(?:longer|more|less|fewer|faster|slower|better|worse|later|earlier|older|newer|higher'
    r'|lower|greater|larger|smaller)\b)[\w-]+': 'is not a ...',
    r'_?(?:MOST|LEAST)_\w+': 'MAX_..., MIN_...',
}
"""A regular expression of whole words in lower case (constants in upper case), and what to write instead."""

_EXISTENCE: Final = re.compile(r'\bthere (?:\w+ )?$', re.IGNORECASE)
"""What precedes "is no" in a sentence about existence: "there is no", "there still is no"."""

_LITERAL: Final = re.compile(r'``[^`]+``')
"""Inline code, such as the name of a user or a constant of another program."""

_PATTERNS: Final = [
    (re.compile(rf'\b(?:{words})(?!\w)', 0 if words.startswith('_?') else re.IGNORECASE), suggestion)
    for words, suggestion in WORDS.items()
]


def hits(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line number, word and suggestion for each banned word.

    Words are found across a line break, which counts to the first line.
    """
    text = _LITERAL.sub(lambda found: re.sub(r'\S', ' ', found[0]), text)
    found = []
    for pattern, suggestion in _PATTERNS:
        for match in pattern.finditer(re.sub(r'\n', ' ', text)):
            is_existence = suggestion == 'is not a ...' and _EXISTENCE.search(text[: match.start()].replace('\n', ' '))
            if not is_existence:
                found.append((match.start(), match[0], suggestion))
    for start, word, suggestion in sorted(found):
        yield text.count('\n', 0, start) + 1, word, suggestion


def main(paths: Sequence[str] = ()) -> int:
    """Check files and folders; return the exit status."""
    is_good = True
    for path in paths or [str(REPOSITORY / path) for path in PATHS]:
        for file in _files(Path(path)):
            for line, word, suggestion in hits(file.read_text(encoding='utf-8')):
                is_good = False
                print(f'{_shown(file)}:{line}: {word} -> {suggestion}')
    return 0 if is_good else 1


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (file for suffix in SUFFIXES for file in path.rglob(f'*{suffix}'))
    return sorted(file for file in files if '_build' not in file.parts)


def _shown(file: Path) -> Path:
    return file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
