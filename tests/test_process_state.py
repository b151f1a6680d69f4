"""Process-wide state of getc is listed here: a new piece of it is a decision.

State of a process outlives clients, is shared by all of them, and is copied into forked children.  Everything else
belongs to a client.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import getc

PACKAGE = Path(getc.__file__).parent

STATE = {
    'backends/memory/registry.py': ['_named'],  # stores in memory by name, as long as a client has them
    'client.py': ['_numbers'],  # of the clients, for the log
    'daemons/failures.py': ['FAILURE_HOOKS'],  # of test harnesses
    'grpc/channel.py': ['_channels'],  # to abandon in a forked child
    'net/resolver.py': ['_resolvers', '_was_forked'],  # a resolver for each thread
    'net/sockets.py': ['_silent_peers', '_sockets'],  # to disconnect in a forked child
    'runtime.py': ['_callbacks'],  # to call in a forked child
    'timing.py': ['_clock', '_rng', 'now', 'now_with_suspend', 'wall_time'],  # replaced by test harnesses
}
"""Names of modules that are bound to mutable objects, or bound again by functions."""

CACHES = {
    'backends/namespace.py',
    'backends/tree/codec/append.py',
    'backends/tree/codec/read.py',
    'backends/tree/codec/write.py',
    'grpc/framing.py',
    'paths.py',
}
"""Modules with an ``lru_cache``."""

FORK_HOOKS = {'grpc/channel.py', 'net/resolver.py', 'net/sockets.py'}
"""Modules that register a function to call in forked children, with the one hook of ``runtime.py``."""

MUTABLE = {
    'WeakSet',
    'WeakKeyDictionary',
    'WeakValueDictionary',
    'count',
    'defaultdict',
    'deque',
    'dict',
    'list',
    'local',
    'set',
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob('*.py')):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith('testing/'):
            yield name, ast.parse(path.read_text('utf-8'))


def name_of_call(node: ast.AST | None) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')


def state_of(module: ast.Module) -> set[str]:
    names = {name for node in ast.walk(module) if isinstance(node, ast.Global) for name in node.names}
    for node in module.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        value = getattr(node, 'value', None)
        is_empty = (isinstance(value, ast.List) and not value.elts) or (isinstance(value, ast.Dict) and not value.keys)
        if is_empty or name_of_call(value) in MUTABLE:
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return names - {'__all__'}


def test_process_wide_state_is_that_of_the_list() -> None:
    assert {name: sorted(state) for name, module in modules() if (state := state_of(module))} == STATE


def test_caches_and_fork_hooks_are_those_of_the_lists() -> None:
    text = {name: ast.unparse(module) for name, module in modules()}
    assert {name for name, source in text.items() if 'lru_cache(' in source} == CACHES
    assert {name for name, source in text.items() if 'after_fork(' in source} == FORK_HOOKS | {'runtime.py'}
    assert [name for name, source in text.items() if 'register_at_fork(' in source] == ['runtime.py']
