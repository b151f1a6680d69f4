"""Lists the public names of getc, and compares them with the list in the tree, ``tests/public_names.txt``.

    python -m tools.public_names             shows the difference; the status is 1 if there is one
    python -m tools.public_names --update    shows the difference, and writes the list

Public are the names of ``getc``, ``getc.v3`` and ``getc.testing``, and the attributes of their classes and of the
services of ``etcd.v3``, without those that Python's own base classes add.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from getc.v3 import V3

__all__ = ['LIST', 'difference', 'main', 'public_names']

ROOT: Final = Path(__file__).resolve().parent.parent
LIST: Final = ROOT / 'tests' / 'public_names.txt'

MODULES: Final = ('getc', 'getc.v3', 'getc.testing')


def public_names() -> Iterator[str]:
    """Yield the lines of the list: each module and class, followed by its names, indented.

    A class with a public base class is followed by the names that it adds to those of the base.
    """
    classes: dict[type, str] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        yield from _section(name, module.__all__)
        for member in module.__all__:
            _collect(f'{name}.{member}', getattr(module, member), classes)
    for cls, name in sorted(classes.items(), key=lambda item: item[1]):
        base = next((base for base in cls.__mro__[1:] if base in classes), None)
        inherited = set() if base is None else _attributes(base)
        yield from _section(name if base is None else f'{name} ({classes[base]})', _attributes(cls) - inherited)


def difference() -> list[str]:
    """Return the lines of a unified diff from the list in the tree to the public names; empty if they are equal."""
    listed = LIST.read_text('utf-8').splitlines() if LIST.exists() else []
    return list(difflib.unified_diff(listed, list(public_names()), str(LIST.relative_to(ROOT)), 'getc', lineterm=''))


def _section(title: str, names: Iterable[str]) -> Iterator[str]:
    yield title
    for name in sorted(names):
        yield f'    {name}'


def _collect(name: str, thing: object, classes: dict[type, str]) -> None:
    if not inspect.isclass(thing) or thing in classes:
        return
    classes[thing] = name
    if thing is V3:
        rpc: Any = None
        for attribute, service in vars(V3(rpc)).items():
            if not attribute.startswith('_'):
                _collect(f'getc.v3.{type(service).__name__}', type(service), classes)


def _attributes(cls: type) -> set[str]:
    """Return the public names in ``dir`` of a class, without those that the standard library adds."""
    own = [base for base in cls.__mro__ if base.__module__.partition('.')[0] == 'getc']
    return {name for name in dir(cls) if not name.startswith('_') and any(name in vars(base) for base in own)}


def main(arguments: list[str]) -> int:
    """Print the difference; with ``--update`` write the list."""
    lines = difference()
    print('\n'.join(lines) if lines else f'{LIST.relative_to(ROOT)} is up to date')
    if arguments == ['--update']:
        LIST.write_text('\n'.join(public_names()) + '\n', 'utf-8')
        return 0
    return 1 if lines else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
