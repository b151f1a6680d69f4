"""Fails where an import goes up, sideways or in a circle.

A module of getc imports only from layers below its own and, without circles, from its own folder.
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

__all__ = ['Import', 'Module', 'broken_rules', 'imports_of', 'layer_of', 'main', 'modules_of']

LAYERS = (
    ('getc.errors', 'getc.paths', 'getc.retry', 'getc.timing', 'getc._dataclasses', 'getc.redact'),
    ('getc.results', 'getc.operations'),
    ('getc.wire',),
    ('getc.net',),
    ('getc.grpc',),
    ('getc.transport',),
    ('getc.v3',),
    ('getc.backends',),
    ('getc.daemons',),
    ('getc.tree', 'getc.background', 'getc.connection_listeners', 'getc.client'),
    ('getc',),
    ('getc.recipes', 'getc.testing', 'getc.cli'),
)
"""From the bottom up.  ``getc`` is the package's front: it gathers the public names."""

IO = frozenset({'gevent', 'greenlet', 'requests', 'urllib3', 'socket', 'ssl'})
IO_FROM = 3
"""Below this layer there is no I/O and no gevent."""


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
        """The package that it stands in."""
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
    """The number of a module's layer; None if it has none."""
    for number, prefixes in enumerate(LAYERS):
        for prefix in prefixes:
            if name == prefix or (prefix != 'getc' and name.startswith(prefix + '.')):
                return number
    return None


def imports_of(module: Module, known: dict[str, Module]) -> Iterator[Import]:
    """Every import in a module, at whatever depth.  What is imported from getc is a module's name."""
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
    """A line for every import that breaks a rule, and for every circle."""
    known = modules_of(root)
    broken = []
    edges: dict[str, dict[str, int]] = {name: {} for name in known}
    for module in known.values():
        where = module.path.relative_to(root)
        layer = layer_of(module.name)
        if layer is None:
            broken.append(f'{where}:1: {module.name} stands in no layer')
            continue
        for found in imports_of(module, known):
            fault = _fault(module, layer, found.target)
            if not fault and found.target in known and found.target != module.name:
                edges[module.name].setdefault(found.target, found.line)
            if fault:
                broken.append(f'{where}:{found.line}: {module.name} (layer {layer}) imports {found.target}{fault}')
    return broken + [_told(circle, edges, known, root) for circle in _circles(edges)]


def _fault(module: Module, layer: int, target: str) -> str:
    top = target.partition('.')[0]
    if top != 'getc':
        return f': no gevent and no I/O below layer {IO_FROM}' if top in IO and layer < IO_FROM else ''
    other = layer_of(target)
    if other is None:
        return ', which stands in no layer'
    if other > layer:
        return f' (layer {other}): upward'
    if other == layer and not _is_one_folder(module.name, target):
        return f' (layer {other}): sideways, into another folder'
    return ''


def _is_one_folder(name: str, other: str) -> bool:
    # Of the layer's own folder: getc.wire and all below it; for single modules, the folder getc.
    if name.count('.') == 1 and other.count('.') == 1:
        return layer_of(name) != len(LAYERS) - 1 or name == other
    return name.split('.')[:2] == other.split('.')[:2]


def _circles(edges: dict[str, dict[str, int]]) -> Iterator[list[str]]:
    """Each circle that a walk along the imports meets."""
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


def _told(circle: list[str], edges: dict[str, dict[str, int]], known: dict[str, Module], root: Path) -> str:
    line = edges[circle[0]][circle[1] if len(circle) > 1 else circle[0]]
    where = known[circle[0]].path.relative_to(root)
    return f'{where}:{line}: a circle: {" -> ".join([*circle, circle[0]])}'


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
