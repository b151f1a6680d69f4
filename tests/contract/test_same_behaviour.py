"""The memory store behaves like a real etcd: random sequences of calls on both.

Results, errors, and the results of waits (live and from the history) are compared.  Both stores are advanced to the
same index first, so that indices can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

import gevent
import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import getc
from getc.testing import EtcdServer
from tests.support.api_support import skip_unless_supported
from tests.support.sequences import (
    ENDING,
    EXAMPLES,
    TOP,
    TTLS,
    Call,
    Look,
    example_settings,
    looks,
    resolve_name,
    sequences,
)

CHANGE_TIMEOUT = 10.0
"""Seconds after which a missing change is a failure."""


# -- results


def outcome(call: Callable[[], getc.EtcdResult], is_sorted: bool = True) -> object:
    """A result or error, as far as it has to be equal."""
    try:
        result = call()
    except getc.EtcdError as error:
        return type(error), error.errno, str(error), error.index
    prev_node = None if result.prev_node is None else plain(result.prev_node, is_sorted)
    return replace(result, node=plain(result.node, is_sorted), prev_node=prev_node, raft_index=0, raft_term=0)


def plain(node: getc.Node, is_sorted: bool) -> getc.Node:
    """A node with the TTL that it was given, and its nodes in the order of keys if they have none."""
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


def is_refused_by_etcd_3_5(memory: getc.Client, server: getc.Client, call: Call) -> bool:
    """True if the call updates a directory: the memory store does that as etcd 3.4, and etcd 3.5 refuses it."""
    options = call.options
    if call.method not in ('update', 'refresh') or options.get('value') or {'prev_value', 'prev_index'} & set(options):
        return False
    try:
        is_directory = isinstance(memory.get(call.key).node, getc.Directory)
    except getc.EtcdError:
        return False
    if not is_directory or call.key == '/':
        return False
    with pytest.raises(getc.NotFile):
        getattr(server, call.method)(call.key, **options)
    return True


def waited(client: getc.Client, key: str, index: int, recursive: bool = False) -> object:
    """The result of a wait without the index of the store, which depends on when the wait was registered."""
    return outcome(lambda: replace(client.wait(key, index, recursive=recursive, timeout=CHANGE_TIMEOUT), etcd_index=0))


def record_changes(client: getc.Client, first: int, seen: list[object], last: int | None = None) -> None:
    """Record every change in ``TOP`` from one index to another."""
    while last is None or first <= last:
        result = client.wait(TOP, first, recursive=True, timeout=CHANGE_TIMEOUT)
        seen.append(outcome(lambda result=result: replace(result, etcd_index=0)))  # type: ignore[misc]
        first = result.modified_index + 1


# -- the two stores

Pair = tuple[getc.Client, getc.Client]


@pytest.fixture
def pair(etcd_server: EtcdServer) -> Iterator[Pair]:
    """A client of a memory store and a client of a server, both empty."""
    skip_unless_supported('v2', etcd_server.binary)
    with getc.etcd('memory://') as memory, getc.etcd(etcd_server.url, api='v2') as server:
        yield memory, server


def level(pair: Pair) -> int:
    """Empty both stores, advance them to the same index, and return it."""
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
@example_settings(250)
@given(calls=sequences, looks=st.lists(looks, max_size=3))
def test_memory_behaves_like_a_server(
    pair: Pair, etcd_server: EtcdServer, calls: list[Call], looks: list[Look]
) -> None:
    """Every result and error of a sequence is equal, and so are the waits, live and from the history."""
    memory, server = pair
    is_3_5 = etcd_server.binary.version >= (3, 5)
    start = level(pair)
    note(f'index at the start: {start}')
    live: list[list[object]] = [[], []]
    following = [gevent.spawn(record_changes, client, start + 1, seen) for client, seen in zip(pair, live, strict=True)]
    try:
        gevent.sleep(0)
        for call in [*calls, *ENDING]:
            now = call.at(start, memory)
            if is_3_5 and is_refused_by_etcd_3_5(memory, server, now):
                continue
            assert done(memory, now) == done(server, now), now
        last = memory.get('/').etcd_index
        afterwards: list[list[object]] = [[], []]
        for client, seen in zip(pair, afterwards, strict=True):
            record_changes(client, start + 1, seen, last)
        with gevent.Timeout(CHANGE_TIMEOUT, AssertionError('a change was not received')):
            while any(len(seen) < len(afterwards[0]) for seen in live):
                gevent.sleep(0)
    finally:
        gevent.killall(following)
    assert afterwards[0] == afterwards[1]
    assert live == afterwards
    for look in looks:
        key, index = resolve_name(look.key, start), start + look.change
        if index != last + 1:  # nothing would end a wait for the next change
            assert waited(memory, key, index, look.recursive) == waited(server, key, index, look.recursive), look


def test_memory_keeps_as_much_history_as_a_server(pair: Pair) -> None:
    """The history of both goes back equally far, with the same error beyond it."""
    start = level(pair)
    for client in pair:
        for number in range(1100):
            client.set(TOP, str(number))
    memory, server = pair
    for index in (start, start + 100, start + 101, start + 1100, start + 1102):
        assert waited(memory, TOP, index) == waited(server, TOP, index)
