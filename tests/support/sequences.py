"""Random sequences of calls, for tests that compare two stores.

``GETC_EXAMPLES=5000`` tries that many random sequences; without it they are few and deterministic.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import getc

__all__ = [
    'ENDING',
    'EXAMPLES',
    'TOP',
    'TTLS',
    'Call',
    'Look',
    'current_index',
    'example_settings',
    'looks',
    'resolve_name',
    'sequences',
]

EXAMPLES = os.environ.get('GETC_EXAMPLES')

TOP = '/t'
"""Root of all keys that a sequence writes."""

TTLS = (1_000, 50_000, 2_000_000)
"""Far enough apart that the seconds a test takes do not matter."""


def example_settings(examples: int) -> settings:
    """Return hypothesis settings with a number of examples, unless ``GETC_EXAMPLES`` is set."""
    return settings(
        max_examples=int(EXAMPLES or examples),
        derandomize=EXAMPLES is None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Call:
    """A call of a client's method.

    A segment ``#3`` in the key stands for the name that an append as the third change of the sequence creates.  A
    ``prev_index`` of 3 stands for the index of that change; 0 stands for the node's current index.
    """

    method: str
    key: str
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        options = ''.join(f', {name}={value!r}' for name, value in self.options.items())
        return f'{self.method}({self.key!r}{options})'

    def at(self, start: int, store: getc.Client) -> Call:
        """Return the call with real indices for a sequence that starts after an index."""
        key, options = resolve_name(self.key, start), dict(self.options)
        if 'prev_index' in options:
            options['prev_index'] = (
                start + options['prev_index'] if options['prev_index'] else current_index(store, key)
            )
        return Call(self.method, key, options)


@dataclass(frozen=True)
class Look:
    """A wait for the first change of a node, from a numbered change of the sequence on."""

    key: str
    change: int
    recursive: bool


def resolve_name(key: str, start: int) -> str:
    return re.sub('(?<=/)#([0-9])(?=/|$)', lambda found: f'{start + int(found[1]):020}', key)


def current_index(store: getc.Client, key: str) -> int:
    try:
        return store.get(key).modified_index or 1
    except getc.EtcdError:
        return 1


UNUSUAL_NAMES = [
    'a b',
    ' ',
    '?x=1',
    '%',
    '%41',
    '+',
    ';',
    '&',
    '=',
    '\\',
    '"',
    '<>',
    '...',
    '.a',
    '*',
    '~',
    '\t',
    '\x7f',
]
any_name = st.text(st.characters(exclude_characters='\0/', exclude_categories=['Cs']), min_size=1, max_size=5)
names = st.one_of(
    st.sampled_from(['a', 'b']),
    st.sampled_from(['a', 'ab', '_h', '_', '#2', '#4', 'é', 'e\u0301', '🔑', *UNUSUAL_NAMES]),
    any_name.filter(lambda name: name not in ('.', '..')),
)
paths = st.lists(names, max_size=4).map(lambda segments: '/'.join([TOP, *segments]))
common_keys = st.sampled_from(['/t/a', '/t/b', '/t/_h'])
OTHER_KEYS = ['/t/a/b', '/t/b/_h', '/t/_h/a', '/t/a/#3', '/t/#3/a', TOP, TOP]
keys = st.one_of(common_keys, common_keys, st.sampled_from(OTHER_KEYS), paths)
keys_and_root = st.one_of(common_keys, common_keys, st.sampled_from([*OTHER_KEYS, '/']), paths)
texts = st.one_of(
    st.sampled_from(['1', '1', '2', '']),
    st.sampled_from(['é🔑', 'a&b=c', '100%', '[1 != 2]', '\0', ' \r\n']),
    st.text(st.characters(exclude_categories=['Cs']), max_size=5),
)
flags = st.booleans()

Options = st.SearchStrategy[dict[str, Any]]


def with_optional(required: Options, **optional: st.SearchStrategy[Any]) -> Options:
    """Combine required options with any of the optional ones."""
    return st.builds(dict.__or__, required, st.fixed_dictionaries({}, optional=optional))


def call_of(method: str, *options: Options) -> st.SearchStrategy[Call]:
    """Generate a call with all of these options."""
    where = keys if method == 'append' else keys_and_root  # a node appended to the root would not be deleted
    return st.builds(Call, st.just(method), where, st.tuples(*options).map(lambda parts: dict(ChainMap(*parts))))


none: Options = st.fixed_dictionaries({})
value = st.fixed_dictionaries({'value': texts})
content = value | value | st.just({'dir': True})
ttls = st.sampled_from(TTLS)
ttl = with_optional(none, ttl=ttls)
conditions: Options = st.one_of(
    st.sampled_from([{'prev_value': '1'}, {'prev_index': 0}, {'prev_value': '1', 'prev_index': 0}]),
    with_optional(none, prev_value=texts.filter(bool), prev_index=st.sampled_from([0, 1, 2, 3, 5])),
)
calls = st.one_of(
    call_of('set', value, ttl),
    call_of('set', content, ttl),
    call_of('set', content, ttl, conditions),
    call_of('create', content, ttl),
    call_of('update', content, ttl),
    call_of('update', content, ttl, conditions),
    call_of('refresh', st.fixed_dictionaries({'ttl': ttls})),
    call_of('refresh', st.fixed_dictionaries({'ttl': ttls}), conditions),
    call_of('append', content, ttl),
    call_of('delete', st.sampled_from([{}, {'dir': True}, {'recursive': True}])),
    call_of('delete', conditions),
    call_of('delete', with_optional(none, dir=flags, recursive=flags), conditions),
    call_of('get', with_optional(none, recursive=flags, sorted=flags, quorum=flags)),
)
first_keys = common_keys | st.sampled_from(['/t/a/b', '/t/b/_h'])
first_options = st.builds(dict.__or__, st.just({'value': '1'}), ttl)
first_calls = st.builds(Call, st.sampled_from(['set', 'update']), first_keys, first_options)
sequences = st.tuples(
    st.lists(first_calls, max_size=6), st.lists(calls, min_size=1, max_size=10), st.lists(calls, max_size=10)
).map(lambda parts: [call for part in parts for call in part])
looks = st.builds(Look, keys, st.integers(1, 10), flags)

ENDING = [
    Call('get', '/', {'recursive': True, 'sorted': True}),
    Call('delete', TOP, {'recursive': True}),
    # The directory may exist or not: it is deleted now, and every waiter below it receives that.
    Call('set', TOP, {'dir': True}),
    Call('delete', TOP, {'dir': True}),
]
