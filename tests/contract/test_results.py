"""Results and nodes are immutable, comparable and picklable values with a readable repr."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

import getc


def results_of(client: getc.Client) -> list[getc.EtcdResult]:
    """A result of each class, for values and directories."""
    results = [
        client.set('/a', 'text', ttl=100),
        client.get('/a'),
        client.update('/a', 'é'),
        client.set('/a', 'x', prev_value='é'),
        client.set('/d', dir=True),
        client.create('/d/b', '{"a": 1}'),
        client.append('/d', '1'),
        client.get('/d', recursive=True, sorted=True),
        client.delete('/a', prev_value='x'),
        client.delete('/d', recursive=True),
    ]
    results.append(client.wait('/d', results[-1].modified_index, timeout=30))
    return results


def test_result_pickles_and_copies_as_equal(client: getc.Client) -> None:
    """Equal, and of the same class."""
    for result in results_of(client):
        for copied in (*(pickle.loads(pickle.dumps(result, p)) for p in range(2, 6)), copy.deepcopy(result)):
            assert type(copied) is type(result)
            assert copied == result
            assert repr(copied) == repr(result)


def test_result_is_immutable(client: getc.Client) -> None:
    """No attribute can be changed or added."""
    for result in results_of(client):
        for holder in (result, result.node):
            for name in ('key', 'modified_index', 'ttl', 'no_such_name'):
                with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
                    setattr(holder, name, 1)
        assert not hasattr(result, '__dict__')
        assert not hasattr(result.node, '__dict__')


def test_result_can_be_hashed(client: getc.Client) -> None:
    """Equal ones are one element of a set."""
    result = client.set('/a', '1')
    assert len({result, pickle.loads(pickle.dumps(result)), client.get('/a')}) == 2
    assert len({result.node, client.get('/a').node}) == 1


def test_result_differs_when_its_class_does(client: getc.Client) -> None:
    """A Got is not equal to a Set of the same node."""
    written = client.set('/a', '1')
    read = client.get('/a')
    assert read.node == written.node
    assert read != written


def test_result_has_the_attributes_of_its_node(client: getc.Client) -> None:
    for result in results_of(client):
        node = result.node
        assert (result.key, result.ttl, result.expiration) == (node.key, node.ttl, node.expiration)
        assert result.index == result.modified_index == node.index == node.modified_index
        assert result.created_index == node.created_index
        assert result.value == (node.value if isinstance(node, getc.Value) else None)
        assert result.nodes == (node.nodes if isinstance(node, getc.Directory) else ())
        assert result.values == (node.values if isinstance(node, getc.Directory) else ())


def test_result_has_the_classes_of_the_design(client: getc.Client) -> None:
    """The classes of Set and of Deleted are subclasses, and all are EtcdResult."""
    kinds = [type(result) for result in results_of(client)]
    assert kinds[:6] == [getc.Set, getc.Got, getc.Updated, getc.ComparedThenSwapped, getc.Set, getc.Created]
    assert kinds[6:] == [getc.Created, getc.Got, getc.ComparedThenDeleted, getc.Deleted, getc.Deleted]
    for kind in (getc.Created, getc.Updated, getc.ComparedThenSwapped):
        assert issubclass(kind, getc.Set)
    for kind in (getc.Expired, getc.ComparedThenDeleted):
        assert issubclass(kind, getc.Deleted)
    for kind in (getc.Got, getc.Set, getc.Deleted):
        assert issubclass(kind, getc.EtcdResult)
    for kind in (getc.Value, getc.Directory):
        assert issubclass(kind, getc.Node)


def test_repr_of_a_result_shows_class_node_and_value(client: getc.Client) -> None:
    """As in the examples."""
    written = client.set('/hello', 'Hello, world')
    assert repr(written).startswith("<getc.Set <getc.Value /hello='Hello, world' ")
    assert repr(client.get('/hello')).startswith("<getc.Got <getc.Value /hello='Hello, world' ")
    gone = repr(client.delete('/hello'))
    assert gone.startswith('<getc.Deleted <getc.Node /hello ')
    assert " prev_node=<getc.Value /hello='Hello, world' " in gone
    assert repr(client.set('/container', dir=True)).startswith('<getc.Set <getc.Directory /container[0] ')
    client.set('/container/a', '1')
    assert '/container[1] ' in repr(client.get('/container'))


def test_result_has_the_index_of_the_store(client: getc.Client) -> None:
    """etcd_index is the index of the store, also if another node is read."""
    first = client.set('/a', '1')
    last = client.set('/b', '1')
    read = client.get('/a')
    assert (read.modified_index, read.etcd_index) == (first.modified_index, last.etcd_index)


# -- values


def test_value_has_json_and_bytes(client: getc.Client) -> None:
    """json() parses the value, raw_value has the bytes in etcd."""
    client.set('/a', '{"é": [1, 2.5, null]}')
    node = client.get('/a').node
    assert isinstance(node, getc.Value)
    assert node.json() == {'é': [1, 2.5, None]}
    assert node.raw_value == '{"é": [1, 2.5, null]}'.encode()


def test_result_has_json_and_bytes_of_its_node(client: getc.Client) -> None:
    """As other attributes of the node; without a value neither exists."""
    client.set('/d/a', '[1]')
    assert (client.get('/d/a').json(), client.get('/d/a').raw_value) == ([1], b'[1]')
    for result in (client.get('/d'), client.delete('/d/a')):
        assert result.raw_value is None
        with pytest.raises(ValueError, match=f'{result.key} has no value'):
            result.json()


def test_json_error_names_the_key_and_not_the_value(client: getc.Client) -> None:
    """The ValueError has the key, but not the value."""
    client.set('/cfg/broken', 'secret{')
    node = client.get('/cfg/broken').node
    assert isinstance(node, getc.Value)
    with pytest.raises(ValueError, match='/cfg/broken') as caught:
        node.json()
    assert 'secret' not in str(caught.value)


def test_values_of_a_directory_are_those_of_its_children(client: getc.Client) -> None:
    """In the order of nodes, without directories."""
    client.set('/d/b', '2')
    client.set('/d/a', '1')
    client.set('/d/sub/c', '3')
    result = client.get('/d', sorted=True, recursive=True)
    assert result.values == ('1', '2')
    assert isinstance(result.node, getc.Directory)
    assert [leaf.value for leaf in result.node.leaves()] == ['1', '2', '3']


# -- errors as values


def test_error_pickles_as_equal(client: getc.Client) -> None:
    """With all attributes."""
    client.set('/a', '1')
    client.set('/d/b', '1')
    for refused in (
        lambda: client.get('/none'),
        lambda: client.set('/a', '2', prev_value='x'),
        lambda: client.create('/a', '2'),
        lambda: client.delete('/d'),
        lambda: client.delete('/d', dir=True),
        lambda: client.set('/a/b', '1'),
        lambda: client.wait('/a', client.get('/a').etcd_index + 1, timeout=0.05),
    ):
        with pytest.raises(getc.EtcException) as caught:
            refused()
        copied = pickle.loads(pickle.dumps(caught.value))
        assert type(copied) is type(caught.value)
        assert (str(copied), copied.args, copied.__dict__) == (
            str(caught.value),
            caught.value.args,
            {name: value for name, value in caught.value.__dict__.items() if not name.startswith('__')},
        )


def test_each_error_has_a_class_and_a_number(client: getc.Client) -> None:
    """Every error of etcd is an EtcdError with its number, and an EtcException."""
    client.set('/a', '1')
    client.set('/d/b', '1')
    for errno, refused in (
        (100, lambda: client.get('/none')),
        (101, lambda: client.set('/a', '2', prev_value='x')),
        (102, lambda: client.set('/d', '1')),
        (104, lambda: client.set('/a/b', '1')),
        (105, lambda: client.create('/a', '2')),
        (108, lambda: client.delete('/d', dir=True)),
    ):
        with pytest.raises(getc.EtcdError) as caught:
            refused()
        error = caught.value
        assert error.errno == errno
        assert isinstance(error, getc.EtcException)
        assert str(error).startswith(f'[{errno}] {error.message} ({error.cause})')
        assert error.args == (error.message, error.cause, error.index)
