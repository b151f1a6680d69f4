"""The store in memory does what a real etcd does: random sequences of calls, made on both side by side.

What is compared is all that a caller sees: results, errors, and what those who wait are told, live and from the
history.  Both stores are brought to one index first, so that indices compare as they are.

``GETC_EXAMPLES=5000`` tries so many sequences, other ones each time; without it they are few and always the same.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import gevent
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import getc
from getc.testing import EtcdServer

EXAMPLES = os.environ.get('GETC_EXAMPLES')

LONG = 10.0
"""Seconds after which a change that does not come is a failure."""

TOP = '/t'
"""All that a sequence writes is here or below."""

TTLS = (1_000, 50_000, 2_000_000)
"""So far apart that it does not matter how many seconds have passed."""

ENOUGH = settings(
    max_examples=int(EXAMPLES or 250),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


# -- what is done


@dataclass(frozen=True)
class Call:
    """A call of a client's method.

    A segment ``#3`` in the key is the name that an append takes as the third change of the sequence.  A
    ``prev_index`` of 3 is the index of that change; one of 0 is the node's own.
    """

    method: str
    key: str
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        options = ''.join(f', {name}={value!r}' for name, value in self.options.items())
        return f'{self.method}({self.key!r}{options})'

    def at(self, start: int, store: getc.Client) -> Call:
        """The call with the indices that it has in a sequence that starts after this one."""
        key, options = numbered(self.key, start), dict(self.options)
        if 'prev_index' in options:
            options['prev_index'] = start + options['prev_index'] if options['prev_index'] else own_index(store, key)
        return Call(self.method, key, options)


@dataclass(frozen=True)
class Look:
    """A wait for the first change of a node, counted from one of the changes of the sequence on."""

    key: str
    change: int
    recursive: bool


def numbered(key: str, start: int) -> str:
    return re.sub('(?<=/)#([0-9])(?=/|$)', lambda found: f'{start + int(found[1]):020}', key)


def own_index(store: getc.Client, key: str) -> int:
    try:
        return store.get(key).modified_index or 1
    except getc.EtcdError:
        return 1


AWKWARD = ['a b', ' ', '?x=1', '%', '%41', '+', ';', '&', '=', '\\', '"', '<>', '...', '.a', '*', '~', '\t', '\x7f']
any_name = st.text(st.characters(exclude_characters='\0/', exclude_categories=['Cs']), min_size=1, max_size=5)
names = st.one_of(
    st.sampled_from(['a', 'b']),
    st.sampled_from(['a', 'ab', '_h', '_', '#2', '#4', 'é', 'e\u0301', '🔑', *AWKWARD]),
    any_name.filter(lambda name: name not in ('.', '..')),
)
paths = st.lists(names, max_size=4).map(lambda segments: '/'.join([TOP, *segments]))
usual = st.sampled_from(['/t/a', '/t/b', '/t/_h'])
UNUSUAL = ['/t/a/b', '/t/b/_h', '/t/_h/a', '/t/a/#3', '/t/#3/a', TOP, TOP]
keys = st.one_of(usual, usual, st.sampled_from(UNUSUAL), paths)
keys_and_root = st.one_of(usual, usual, st.sampled_from([*UNUSUAL, '/']), paths)
texts = st.one_of(
    st.sampled_from(['1', '1', '2', '']),
    st.sampled_from(['é🔑', 'a&b=c', '100%', '[1 != 2]', '\0', ' \r\n']),
    st.text(st.characters(exclude_categories=['Cs']), max_size=5),
)
flags = st.booleans()

Options = st.SearchStrategy[dict[str, Any]]


def some(required: Options, **optional: st.SearchStrategy[Any]) -> Options:
    """These options, and any of those."""
    return st.builds(dict.__or__, required, st.fixed_dictionaries({}, optional=optional))


def made(method: str, *options: Options) -> st.SearchStrategy[Call]:
    """A call with all of these options."""
    where = keys if method == 'append' else keys_and_root  # what is appended to the root would stay
    return st.builds(Call, st.just(method), where, st.tuples(*options).map(lambda parts: dict(ChainMap(*parts))))


none: Options = st.fixed_dictionaries({})
value = st.fixed_dictionaries({'value': texts})
content = value | value | st.just({'dir': True})
ttls = st.sampled_from(TTLS)
ttl = some(none, ttl=ttls)
conditions: Options = st.one_of(
    st.sampled_from([{'prev_value': '1'}, {'prev_index': 0}, {'prev_value': '1', 'prev_index': 0}]),
    some(none, prev_value=texts.filter(bool), prev_index=st.sampled_from([0, 1, 2, 3, 5])),
)
calls = st.one_of(
    made('set', value, ttl),
    made('set', content, ttl),
    made('set', content, ttl, conditions),
    made('create', content, ttl),
    made('update', content, ttl),
    made('update', content, ttl, conditions),
    made('refresh', st.fixed_dictionaries({'ttl': ttls})),
    made('refresh', st.fixed_dictionaries({'ttl': ttls}), conditions),
    made('append', content, ttl),
    made('delete', st.sampled_from([{}, {'dir': True}, {'recursive': True}])),
    made('delete', conditions),
    made('delete', some(none, dir=flags, recursive=flags), conditions),
    made('get', some(none, recursive=flags, sorted=flags, quorum=flags)),
)
first_keys = usual | st.sampled_from(['/t/a/b', '/t/b/_h'])
first_options = st.builds(dict.__or__, st.just({'value': '1'}), ttl)
first_calls = st.builds(Call, st.sampled_from(['set', 'update']), first_keys, first_options)
sequences = st.tuples(
    st.lists(first_calls, max_size=6), st.lists(calls, min_size=1, max_size=10), st.lists(calls, max_size=10)
).map(lambda parts: [call for part in parts for call in part])
looks = st.builds(Look, keys, st.integers(1, 10), flags)

ENDING = [
    Call('get', '/', {'recursive': True, 'sorted': True}),
    Call('delete', TOP, {'recursive': True}),
    # Whatever was there: a directory is gone now, and everybody who waits for something in it sees that.
    Call('set', TOP, {'dir': True}),
    Call('delete', TOP, {'dir': True}),
]


# -- what is seen


def outcome(call: Callable[[], getc.EtcdResult], is_sorted: bool = True) -> object:
    """A result or an error, as far as it has to be the same."""
    try:
        result = call()
    except getc.EtcdError as error:
        return type(error), error.errno, str(error), error.index
    prev_node = None if result.prev_node is None else plain(result.prev_node, is_sorted)
    return replace(result, node=plain(result.node, is_sorted), prev_node=prev_node, raft_index=0, raft_term=0)


def plain(node: getc.Node, is_sorted: bool) -> getc.Node:
    """A node with the TTL that it was once given, and its nodes in one order where they have none."""
    expiration, ttl = node.expiration, node.ttl
    assert (ttl is None) == (expiration is None)
    if ttl is not None and expiration is not None:
        (ttl,) = (each for each in TTLS if 0 <= each - ttl < 500)
        assert abs((expiration - datetime.now(timezone.utc)).total_seconds() - ttl) < 500
    node = replace(node, ttl=ttl, expiration=None)
    if isinstance(node, getc.Directory):
        nodes = [plain(child, is_sorted) for child in node.nodes]
        node = replace(node, nodes=tuple(nodes if is_sorted else sorted(nodes, key=lambda child: child.key)))
    return node


def done(client: getc.Client, call: Call) -> object:
    method = getattr(client, call.method)
    return outcome(lambda: method(call.key, **call.options), call.options.get('sorted', False))


def waited(client: getc.Client, key: str, index: int, recursive: bool = False) -> object:
    """What a wait sees, but for the index of the store, which depends on how soon the wait was on."""
    return outcome(lambda: replace(client.wait(key, index, recursive=recursive, timeout=LONG), etcd_index=0))


def follow(client: getc.Client, first: int, seen: list[object], last: int | None = None) -> None:
    """Note down every change in ``TOP`` from one index to another."""
    while last is None or first <= last:
        result = client.wait(TOP, first, recursive=True, timeout=LONG)
        seen.append(outcome(lambda result=result: replace(result, etcd_index=0)))  # type: ignore[misc]
        first = result.modified_index + 1


# -- the two stores

Pair = tuple[getc.Client, getc.Client]


@pytest.fixture
def pair(etcd_server: EtcdServer) -> Iterator[Pair]:
    """A client of a store in memory, and one of a server: both empty."""
    if etcd_server.binary.version < (3, 5):
        pytest.skip('memory is like etcd 3.5; older ones can update the TTL of a directory')
    with getc.etcd('memory://') as memory, getc.etcd(etcd_server.url, api='v2') as server:
        yield memory, server


def level(pair: Pair) -> int:
    """Empty both stores, bring them to one index, and return it."""
    for client in pair:
        with suppress(getc.KeyNotFound):
            client.delete(TOP, recursive=True)
    indices = [client.get('/').etcd_index for client in pair]
    if len(set(indices)) > 1:
        for client in pair:
            while client.set(TOP, '').etcd_index <= max(indices):
                pass
            client.delete(TOP)
    return pair[0].get('/').etcd_index


@pytest.mark.timeout(0 if EXAMPLES else 120)
@ENOUGH
@given(calls=sequences, looks=st.lists(looks, max_size=3))
def test_memory_does_what_a_server_does(pair: Pair, calls: list[Call], looks: list[Look]) -> None:
    """Every result and every error of a sequence is the same, and so is what is told of it, live and afterwards."""
    memory, server = pair
    start = level(pair)
    note(f'index at the start: {start}')
    live: list[list[object]] = [[], []]
    following = [gevent.spawn(follow, client, start + 1, seen) for client, seen in zip(pair, live, strict=True)]
    try:
        gevent.sleep(0)
        for call in [*calls, *ENDING]:
            now = call.at(start, memory)
            assert done(memory, now) == done(server, now), now
        last = memory.get('/').etcd_index
        afterwards: list[list[object]] = [[], []]
        for client, seen in zip(pair, afterwards, strict=True):
            follow(client, start + 1, seen, last)
        with gevent.Timeout(LONG, AssertionError('a change is not told')):
            while any(len(seen) < len(afterwards[0]) for seen in live):
                gevent.sleep(0)
    finally:
        gevent.killall(following)
    assert afterwards[0] == afterwards[1]
    assert live == afterwards
    for look in looks:
        key, index = numbered(look.key, start), start + look.change
        if index != last + 1:  # nothing would end a wait for the next change
            assert waited(memory, key, index, look.recursive) == waited(server, key, index, look.recursive), look


def test_memory_forgets_what_a_server_forgets(pair: Pair) -> None:
    """The history of both reaches back equally far, and they say the same where it does not."""
    start = level(pair)
    for client in pair:
        for number in range(1100):
            client.set(TOP, str(number))
    memory, server = pair
    for index in (start, start + 100, start + 101, start + 1100, start + 1102):
        assert waited(memory, TOP, index) == waited(server, TOP, index)
