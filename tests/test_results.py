"""Nodes and results as values: equality, immutability, pickling and repr."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest

import getc
from getc import results
from getc.results import ACTIONS, Directory, EtcdResult, Node, Value, strip_namespace

END = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
NODES: list[Node] = [
    Node('/gone', 9, 4, 3, END),
    Value('/a', 9, 4, 3, END, 'text'),
    Directory('/d', 9, 4, 3, END, (Value('/d/a', 6, 5, value='1'), Directory('/d/e'))),
]
RESULTS = [EtcdResult, *ACTIONS.values()]

nodes = pytest.mark.parametrize('node', NODES, ids=lambda node: type(node).__name__)
result_kinds = pytest.mark.parametrize('kind', RESULTS, ids=lambda kind: kind.__name__)


def result_of(kind: type[EtcdResult]) -> EtcdResult:
    return kind(NODES[1], NODES[2], 10, 20, 30, is_new=True, resync=True)


def fields_of(value: Any) -> dict[str, object]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def check_is_value(value: Any) -> None:
    """Check that the value is equal to its pickled and copied twins in every field, and immutable."""
    twins = [pickle.loads(pickle.dumps(value, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    for twin in [*twins, copy.copy(value), copy.deepcopy(value)]:
        assert type(twin) is type(value)
        assert twin == value
        assert hash(twin) == hash(value)
        assert fields_of(twin) == fields_of(value)
    for name in [*fields_of(value), 'another']:
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(value, name, None)
    assert not hasattr(value, '__dict__')


@nodes
def test_node_is_immutable_comparable_and_picklable(node: Node) -> None:
    check_is_value(node)


@result_kinds
def test_result_is_immutable_comparable_and_picklable(kind: type[EtcdResult]) -> None:
    check_is_value(result_of(kind))


@nodes
def test_node_is_unequal_when_a_field_differs(node: Node) -> None:
    others: dict[str, Any] = {
        'key': '/other',
        'modified_index': 99,
        'created_index': 99,
        'ttl': None,
        'expiration': None,
        'value': 'other',
        'nodes': (),
    }
    for name in fields_of(node):
        assert dataclasses.replace(node, **{name: others[name]}) != node


def test_node_is_unequal_when_the_class_differs() -> None:
    assert Node('/a', 1, 1) != Value('/a', 1, 1)
    assert Value('/a', 1, 1) != Directory('/a', 1, 1)


def test_result_is_unequal_when_the_class_differs() -> None:
    """Including a subclass of Set and a Set."""
    made = [result_of(kind) for kind in RESULTS]
    assert all((one == other) == (one is other) for one in made for other in made)


def test_repr_of_a_node_shows_key_content_indices_and_ttl() -> None:
    assert [repr(node) for node in NODES] == [
        '<getc.Node /gone modified_index=9 created_index=4 ttl=3>',
        "<getc.Value /a='text' modified_index=9 created_index=4 ttl=3>",
        '<getc.Directory /d[2] modified_index=9 created_index=4 ttl=3>',
    ]
    assert repr(Value('/hello', 2, 1, value='Hello, world')) == (
        "<getc.Value /hello='Hello, world' modified_index=2 created_index=1>"
    )


@result_kinds
def test_repr_of_a_result_shows_class_nodes_and_resync(kind: type[EtcdResult]) -> None:
    plain = kind(Directory('/container', 3, 3), etcd_index=3)
    assert repr(plain) == (
        f'<getc.{kind.__name__} <getc.Directory /container[0] modified_index=3 created_index=3> etcd_index=3>'
    )
    assert repr(result_of(kind)) == (
        f'<getc.{kind.__name__} {NODES[1]!r} prev_node={NODES[2]!r} etcd_index=10 resync=True>'
    )


def test_getc_exports_a_class_for_each_action() -> None:
    assert len(set(ACTIONS.values())) == len(ACTIONS) == 8
    for kind in [*RESULTS, *map(type, NODES)]:
        assert kind.__name__ in results.__all__
        assert getattr(getc, kind.__name__) is kind


# -- values


@pytest.mark.parametrize('value', ['', 'é🔑', '\udcff\udc80', '\0'], ids=ascii)
def test_raw_value_returns_the_bytes_of_the_value(value: str) -> None:
    """Surrogate-escaped bytes are restored."""
    raw = Value('/a', value=value).raw_value
    assert raw.decode('utf-8', 'surrogateescape') == value


@pytest.mark.parametrize(
    'value', ['secret{', '', '[1, secret]', '1' * 5000, '[' * 100_000, '\udcff'], ids=lambda value: ascii(value[:9])
)
def test_json_raises_an_error_with_the_key_and_without_the_value(value: str) -> None:
    with pytest.raises(ValueError, match='the value of /cfg/a is not JSON') as caught:
        Value('/cfg/a', value=value).json()
    assert not value or value not in f'{caught.value} {caught.value.__cause__} {caught.value.__context__}'


def test_leaves_yields_the_values_at_any_depth() -> None:
    """Depth first, in the order of the nodes, without directories and deleted nodes."""
    deep = Directory('/d/e', nodes=(Value('/d/e/b', value='2'), Directory('/d/e/f')))
    directory = Directory('/d', nodes=(deep, Node('/d/x'), Value('/d/a', value='1')))
    assert [leaf.key for leaf in directory.leaves()] == ['/d/e/b', '/d/a']
    assert directory.values == ('1',)


def test_strip_namespace_removes_the_namespace_from_every_key() -> None:
    """At any depth, and in the previous node; the other fields stay the same."""
    inside = Value('/ns/d/a', 6, 5, 3, END, '1')
    result = getc.Set(Directory('/ns/d', 7, 5, nodes=(inside,)), Value('/ns', 2, 2), 10, 20, 30, is_new=True)
    relative = strip_namespace(result, '/ns')
    assert relative.node == Directory('/d', 7, 5, nodes=(Value('/d/a', 6, 5, 3, END, '1'),))
    assert relative.prev_node == Value('/', 2, 2)
    assert type(relative) is getc.Set
    assert (relative.etcd_index, relative.raft_index, relative.raft_term, relative.is_new) == (10, 20, 30, True)
    assert result.key == '/ns/d'
