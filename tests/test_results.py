"""Nodes and results as values, made here rather than by a server: what the contract suite does not get to see."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from datetime import datetime, timezone
from typing import Any

import pytest

import getc
from getc import results
from getc.results import ACTIONS, Directory, EtcdResult, Node, Value

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


def assert_travels(value: Any) -> None:
    """Pickled and copied it is the same, in every field; and none of it can be changed."""
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
def test_node_travels_and_does_not_change(node: Node) -> None:
    """Each class of nodes: immutable, comparable, picklable."""
    assert_travels(node)


@result_kinds
def test_result_travels_and_does_not_change(kind: type[EtcdResult]) -> None:
    """Each class of results: immutable, comparable, picklable, flags and raft's numbers included."""
    assert_travels(result_of(kind))


@nodes
def test_node_differs_when_a_field_does(node: Node) -> None:
    """Every field counts in a comparison."""
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


def test_node_differs_when_its_class_does() -> None:
    """What is left of a value is not the value."""
    assert Node('/a', 1, 1) != Value('/a', 1, 1)
    assert Value('/a', 1, 1) != Directory('/a', 1, 1)


def test_results_differ_when_their_classes_do() -> None:
    """Not even a kind of Set equals a Set."""
    made = [result_of(kind) for kind in RESULTS]
    assert all((one == other) == (one is other) for one in made for other in made)


def test_node_shows_itself() -> None:
    """Key, value or number of nodes, indices, and the TTL where there is one."""
    assert [repr(node) for node in NODES] == [
        '<getc.Node /gone modified_index=9 created_index=4 ttl=3>',
        "<getc.Value /a='text' modified_index=9 created_index=4 ttl=3>",
        '<getc.Directory /d[2] modified_index=9 created_index=4 ttl=3>',
    ]
    assert repr(Value('/hello', 2, 1, value='Hello, world')) == (
        "<getc.Value /hello='Hello, world' modified_index=2 created_index=1>"
    )


@result_kinds
def test_result_shows_itself(kind: type[EtcdResult]) -> None:
    """The class, the node, the previous node where there is one, and whether it was made up."""
    plain = kind(Directory('/container', 3, 3), etcd_index=3)
    assert repr(plain) == (
        f'<getc.{kind.__name__} <getc.Directory /container[0] modified_index=3 created_index=3> etcd_index=3>'
    )
    assert repr(result_of(kind)) == (
        f'<getc.{kind.__name__} {NODES[1]!r} prev_node={NODES[2]!r} etcd_index=10 resync=True>'
    )


def test_actions_have_a_public_class_each() -> None:
    """Every action of etcd has a result class, which getc exports."""
    assert len(set(ACTIONS.values())) == len(ACTIONS) == 8
    for kind in [*RESULTS, *map(type, NODES)]:
        assert kind.__name__ in results.__all__
        assert getattr(getc, kind.__name__) is kind


# -- values


@pytest.mark.parametrize('value', ['', 'é🔑', '\udcff\udc80', '\0'], ids=ascii)
def test_raw_value_is_what_etcd_holds(value: str) -> None:
    """Text is UTF-8; bytes that are none come back as they were."""
    raw = Value('/a', value=value).raw_value
    assert raw.decode('utf-8', 'surrogateescape') == value


@pytest.mark.parametrize(
    'value', ['secret{', '', '[1, secret]', '1' * 5000, '[' * 100_000, '\udcff'], ids=lambda value: ascii(value[:9])
)
def test_json_names_the_key_and_not_the_value(value: str) -> None:
    """Whatever is wrong with it, the error says whose value it is, and tells nothing of it."""
    with pytest.raises(ValueError, match='the value of /cfg/a is not JSON') as caught:
        Value('/cfg/a', value=value).json()
    assert not value or value not in f'{caught.value} {caught.value.__cause__} {caught.value.__context__}'


def test_leaves_are_the_values_at_any_depth() -> None:
    """Depth first, in the order of the nodes; directories and what is left of deleted nodes are none."""
    deep = Directory('/d/e', nodes=(Value('/d/e/b', value='2'), Directory('/d/e/f')))
    directory = Directory('/d', nodes=(deep, Node('/d/x'), Value('/d/a', value='1')))
    assert [leaf.key for leaf in directory.leaves()] == ['/d/e/b', '/d/a']
    assert directory.values == ('1',)


def test_relative_to_takes_a_path_off_every_key() -> None:
    """At any depth, of the previous node too; all else stays."""
    inside = Value('/ns/d/a', 6, 5, 3, END, '1')
    result = getc.Set(Directory('/ns/d', 7, 5, nodes=(inside,)), Value('/ns', 2, 2), 10, 20, 30, is_new=True)
    relative = result.relative_to('/ns')
    assert relative.node == Directory('/d', 7, 5, nodes=(Value('/d/a', 6, 5, 3, END, '1'),))
    assert relative.prev_node == Value('/', 2, 2)
    assert type(relative) is getc.Set
    assert (relative.etcd_index, relative.raft_index, relative.raft_term, relative.is_new) == (10, 20, 30, True)
    assert result.key == '/ns/d'
