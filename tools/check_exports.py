"""Fails where a module's ``__all__`` and what the module has do not agree, or a public name has no docstring.

    python tools/check_exports.py [PACKAGE]

Every module says in a sorted ``__all__`` which names are public: all of its classes and functions
without an underscore in front.  Each has a docstring, and so have its methods; one that a protocol or a
base class asks for may be told there.  Whatever the package itself exports is the same object, and
public, in the module that defines it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ['documented_by_protocols', 'faults_of_front', 'faults_of_module', 'main', 'modules_of']


def modules_of(package: str) -> list[ModuleType]:
    """The package and every module in it, imported."""
    front = importlib.import_module(package)
    names = [found.name for found in pkgutil.walk_packages(front.__path__, package + '.')]
    return [front, *(importlib.import_module(name) for name in sorted(names) if not name.endswith('.__main__'))]


def documented_by_protocols(modules: Iterable[ModuleType]) -> set[str]:
    """The methods that protocols ask for and tell of: implementations need not repeat it."""
    protocols = {
        thing
        for module in modules
        for thing in vars(module).values()
        if inspect.isclass(thing) and getattr(thing, '_is_protocol', False) and _is_defined_in(thing, module)
    }
    return {name for protocol in protocols for name in vars(protocol) if not _lacks_docstring(protocol, name)}


def faults_of_module(module: ModuleType, told: Container[str] = ()) -> Iterator[str]:
    """What is wrong with the public names of one module, a line each; ``told`` are methods told elsewhere."""
    if not _has_code(module):
        return
    if not module.__doc__:
        yield f'{module.__name__} has no docstring'
    public = getattr(module, '__all__', None)
    if public is None:
        yield f'{module.__name__} has no __all__'
        return
    if list(public) != sorted(set(public), key=_rank):
        yield f'{module.__name__}.__all__ is not sorted, or has a name twice'
    for name in public:
        if not hasattr(module, name):
            yield f'{module.__name__}.__all__ has {name}, which does not exist'
    for name, thing in vars(module).items():
        if _is_defined_in(thing, module) and not name.startswith('_'):
            if name not in public:
                yield f'{module.__name__}.{name} is neither in __all__ nor private'
            yield from _undocumented(thing, f'{module.__name__}.{name}', told)


def faults_of_front(front: ModuleType) -> Iterator[str]:
    """Names that the package exports and that are not those of the modules that define them."""
    for name in getattr(front, '__all__', ()):
        thing = getattr(front, name, None)
        home = sys.modules.get(getattr(thing, '__module__', None) or '')
        if home is None or isinstance(thing, ModuleType):
            continue
        if getattr(home, name, None) is not thing:
            yield f'{front.__name__}.{name} is not {home.__name__}.{name}'
        elif name not in getattr(home, '__all__', ()):
            yield f'{front.__name__}.{name} is public, but not in {home.__name__}.__all__'


def _has_code(module: ModuleType) -> bool:
    path = getattr(module, '__file__', None)
    return path is not None and bool(Path(path).read_text('utf-8').strip())


def _rank(name: str) -> tuple[int, str]:
    # The order that ruff gives them: constants, then classes, then the rest.
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def _is_defined_in(thing: Any, module: ModuleType) -> bool:
    is_definition = inspect.isclass(thing) or inspect.isroutine(thing)
    return is_definition and getattr(thing, '__module__', None) == module.__name__


def _undocumented(thing: Any, name: str, told: Container[str]) -> Iterator[str]:
    if not inspect.getdoc(thing):
        yield f'{name} has no docstring'
    for member in vars(thing) if inspect.isclass(thing) else ():
        if member not in told and _lacks_docstring(thing, member):
            yield f'{name}.{member} has no docstring'


def _lacks_docstring(thing: type, member: str) -> bool:
    value = vars(thing)[member]
    if member.startswith('_') or not (inspect.isroutine(value) or isinstance(value, (property, classmethod))):
        return False
    if inspect.getdoc(getattr(thing, member)) or f'{member}: ' in (thing.__doc__ or ''):
        return False
    return not any(hasattr(base, member) for base in thing.__mro__[1:])


def main(arguments: list[str]) -> int:
    """Print what is wrong; the status is 0 if nothing is."""
    package = arguments[0] if arguments else 'getc'
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    modules = modules_of(package)
    told = documented_by_protocols(modules)
    faults = [fault for module in modules for fault in faults_of_module(module, told)]
    faults += faults_of_front(modules[0])
    print('\n'.join(faults) if faults else f'{len(modules)} modules, every public name is there and documented')
    return 1 if faults else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
