"""Fails where an import of getc goes up, between folders that must not know each other, or in a cycle.

LAYERS, APART and PURE are the rules.
All imports count, also those inside functions and those for type checkers only.

    python tools/check_layers.py [DIRECTORY]

``DIRECTORY`` is the one that holds ``getc/``; this repository's, if left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ['Import', 'Module', 'broken_rules', 'imports_of', 'layer_of', 'main', 'modules_of']

LAYERS: Final = (
    (
        'getc._dataclasses',
        'getc.error_context',
        'getc.error_hints',
        'getc.errors',
        'getc.operations',
        'getc.paths',
        'getc.redact',
        'getc.renewal',
        'getc.results',
        'getc.retry',
        'getc.runtime',
        'getc.timing',
        'getc.transactions',
    ),
    ('getc.net', 'getc.options'),
    ('getc.grpc',),
    ('getc.v3',),
    (
        'getc.backends',
        'getc.backends.acquired',
        'getc.backends.autodetect',
        'getc.backends.base',
        'getc.backends.conditions',
        'getc.backends.creation_order',
        'getc.backends.delivery',
        'getc.backends.history',
        'getc.backends.monotonic',
        'getc.backends.namespace',
        'getc.backends.refresh',
    ),
    ('getc.backends.memory',),
    ('getc.backends.tree',),
    ('getc.backends.v2',),
    ('getc.backends.connect',),
    ('getc.daemons',),
    ('getc.recipes',),
    ('getc.client', 'getc.connection_listeners', 'getc.pending_waits'),
    ('getc',),
    ('getc.cli',),
    ('getc.testing',),
)
"""From the bottom up: a module imports from layers below its own and, without cycles, from its own.

A name stands for the module and everything below it, except what a longer name lists.
"""

APART: Final = (('getc.backends.memory', 'getc.backends.tree', 'getc.backends.v2'), ('getc.cli', 'getc.testing'))
"""Layers that do not import each other, although one is listed below the other."""

PURE: Final = (
    'getc.backends.conditions',
    'getc.backends.tree.codec',
    'getc.backends.v2.codec',
    'getc.error_context',
    'getc.error_hints',
    'getc.errors',
    'getc.grpc.framing',
    'getc.grpc.http2',
    'getc.operations',
    'getc.paths',
    'getc.redact',
    'getc.results',
    'getc.retry',
    'getc.transactions',
    'getc.v3.schema',
    'getc.v3.status_errors',
)
"""Modules that perform no I/O and read no clock."""

IMPURE: Final = frozenset({'gevent', 'greenlet', 'requests', 'socket', 'ssl', 'time', 'urllib3'})


@dataclass(frozen=True, slots=True)
class Module:
    """A module: its dotted name, its file, and whether it is a folder's ``__init__``."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        """True for an ``__init__``."""
        return self.path.name == '__init__.py'

    @property
    def folder(self) -> str:
        """The package that contains it."""
        return self.name if self.is_package else self.name.rpartition('.')[0]


@dataclass(frozen=True, slots=True)
class Import:
    """A line of a module that imports a module."""

    line: int
    target: str


def modules_of(root: Path) -> dict[str, Module]:
    """Every module of getc by its name."""
    found = {}
    for path in sorted((root / 'getc').rglob('*.py')):
        parts = path.relative_to(root).with_suffix('').parts
        name = '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)
        found[name] = Module(name, path)
    return found


def layer_of(name: str) -> int | None:
    """Return the number of a module's layer, by the longest name in LAYERS that covers the module; None without one."""
    found = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if _is_covered(name, prefix) and (prefix != 'getc' or name == 'getc')
    ]
    return max(found)[1] if found else None


def _is_covered(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + '.')


def imports_of(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """Every import in a module, at any depth.  What is imported from getc is a module's name."""
    for node in ast.walk(ast.parse(module.path.read_text('utf-8'), str(module.path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ''
            if node.level:
                above = module.folder.split('.')
                source = '.'.join([*above[: len(above) - node.level + 1], *([source] if source else [])])
            for alias in node.names:
                # `from getc.wire import messages` imports the module, not the package.
                member = f'{source}.{alias.name}'
                yield Import(node.lineno, member if member in known else source)


def broken_rules(root: Path) -> list[str]:
    """A line for every import that breaks a rule and for every cycle."""
    known = modules_of(root)
    broken = []
    edges: dict[str, dict[str, int]] = {name: {} for name in known}
    for module in known.values():
        where = module.path.relative_to(root)
        layer = layer_of(module.name)
        if layer is None:
            broken.append(f'{where}:1: {module.name} is in no layer')
            continue
        for found in imports_of(module, known):
            fault = _fault(module, layer, found.target)
            if not fault and found.target in known and found.target != module.name:
                edges[module.name].setdefault(found.target, found.line)
            if fault:
                broken.append(f'{where}:{found.line}: {module.name} (layer {layer}) imports {found.target}{fault}')
    return broken + [_describe(cycle, edges, known, root) for cycle in _cycles(edges)]


def _fault(module: Module, layer: int, target: str) -> str:
    """Say which rule the import of ``target`` breaks; empty if none."""
    if target.partition('.')[0] != 'getc':
        is_pure = any(_is_covered(module.name, prefix) for prefix in PURE)
        return ': no I/O and no clock here' if is_pure and target.partition('.')[0] in IMPURE else ''
    other = layer_of(target)
    if other is None:
        return ', which is in no layer'
    if other > layer:
        return f' (layer {other}): upward'
    if any(_is_apart(module.name, target, group) for group in APART):
        return f' (layer {other}): these two must not know each other'
    return ''


def _is_apart(name: str, other: str, group: tuple[str, ...]) -> bool:
    own = [prefix for prefix in group if _is_covered(name, prefix)]
    others = [prefix for prefix in group if _is_covered(other, prefix)]
    return bool(own and others and own != others)


def _cycles(edges: dict[str, dict[str, int]]) -> Iterator[list[str]]:
    """Each cycle that a walk along the imports meets."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> Iterator[list[str]]:
        if name in trail:
            yield trail[trail.index(name) :]
        elif name not in done:
            for target in sorted(edges[name]):
                yield from walk(target, [*trail, name])
            done.add(name)

    for name in sorted(edges):
        yield from walk(name, [])


def _describe(cycle: list[str], edges: dict[str, dict[str, int]], known: dict[str, Module], root: Path) -> str:
    line = edges[cycle[0]][cycle[1] if len(cycle) > 1 else cycle[0]]
    where = known[cycle[0]].path.relative_to(root)
    return f'{where}:{line}: a cycle: {" -> ".join([*cycle, cycle[0]])}'


def main(arguments: list[str]) -> int:
    """Print what breaks the rules; the status is 0 if nothing does."""
    root = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent
    if not (root / 'getc').is_dir():
        print(f'{root} has no getc/')
        return 2
    broken = broken_rules(root)
    print('\n'.join(broken) if broken else f'{len(modules_of(root))} modules, every import goes down')
    return 1 if broken else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
