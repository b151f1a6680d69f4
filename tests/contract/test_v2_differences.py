"""Behaviour of etcd v2 and of the memory store that v3 does not have; see ``test_v3_differences``.

Tests in the common suite are marked ``v3_differs``; these are the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

import getc
from tests.support.api_support import skip_unless_supported

CHANGE_TIMEOUT = 30.0

_numbers = itertools.count()


@pytest.fixture(params=['memory', 'v2'])
def client(request: pytest.FixtureRequest) -> Iterator[getc.Client]:
    """A client of an empty store."""
    if request.param == 'memory':
        opened = getc.etcd(f'memory://v2-{next(_numbers)}')
    else:
        server = request.getfixturevalue('etcd_server')
        skip_unless_supported('v2', server.binary)
        opened = getc.etcd(server.url, api='v2')
    with opened as client:
        yield client


def skip_where_directories_are_not_updated(client: getc.Client, request: pytest.FixtureRequest) -> None:
    """Skip the test on etcd 3.5; etcd 3.4 updates directories, and the memory store does it as well."""
    if client.api == 'v2' and request.getfixturevalue('etcd_server').binary.version >= (3, 5):
        pytest.skip('etcd 3.5 cannot update a directory on v2')


def test_refresh_with_the_same_ttl_changes_the_index(client: getc.Client) -> None:
    """It is a write like others, except that it is not delivered."""
    first = client.set('/a', '1', ttl=60)
    result = client.refresh('/a', ttl=60)
    assert result.modified_index == result.etcd_index == first.modified_index + 1


def test_refresh_with_another_ttl_is_not_delivered(client: getc.Client) -> None:
    """The next event is the next write."""
    first = client.set('/a', '1', ttl=60)
    client.refresh('/a', ttl=100)
    last = client.set('/a', '2')
    assert client.wait('/a', first.modified_index + 1, timeout=CHANGE_TIMEOUT).modified_index == last.modified_index


def test_ttl_may_be_a_second(client: getc.Client) -> None:
    """There is no minimum."""
    assert client.set('/a', '1', ttl=1).ttl == 1


def test_update_of_a_directory_keeps_its_modified_index(client: getc.Client, request: pytest.FixtureRequest) -> None:
    """The change has an index of its own."""
    skip_where_directories_are_not_updated(client, request)
    made = client.set('/d', dir=True, ttl=60)
    updated = client.update('/d', dir=True, ttl=100)
    assert updated.modified_index == made.modified_index + 1
    assert client.get('/d').modified_index == made.modified_index


def test_update_of_a_directory_with_an_empty_value_drops_its_ttl(
    client: getc.Client, request: pytest.FixtureRequest
) -> None:
    """etcd v2 does not distinguish it from no value."""
    skip_where_directories_are_not_updated(client, request)
    client.set('/d', dir=True, ttl=60)
    assert isinstance(client.update('/d', '').node, getc.Directory)
    assert client.get('/d').ttl is None


def test_refresh_of_a_directory_with_another_ttl_is_not_delivered(
    client: getc.Client, request: pytest.FixtureRequest
) -> None:
    skip_where_directories_are_not_updated(client, request)
    made = client.set('/d', dir=True, ttl=60)
    client.refresh('/d', ttl=100)
    last = client.set('/d/a', '1')
    seen = client.wait('/d', made.modified_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert seen.modified_index == last.modified_index


def test_ttl_is_shown_wherever_the_node_is(client: getc.Client) -> None:
    """In listings, in events, and in prev_node."""
    first = client.set('/d/a', '1', ttl=60)
    (listed,) = client.get('/d').nodes
    assert listed.ttl in (59, 60)
    assert listed.expiration is not None
    again = client.set('/d/a', '2')
    assert again.prev_node is not None and again.prev_node.ttl in (59, 60)
    assert client.wait('/d/a', first.modified_index, timeout=CHANGE_TIMEOUT).ttl in (59, 60)


def test_key_may_have_many_segments(client: getc.Client) -> None:
    """As many as fit into a URL."""
    assert client.set('/s' * 200, '1').is_new
    assert client.get('/s' * 199).values == ('1',)


def test_replacing_a_value_by_a_directory_is_one_event(client: getc.Client) -> None:
    start = client.set('/a', '1').etcd_index
    made = client.set('/a', dir=True)
    last = client.set('/b', '1')
    first = client.wait('/', start + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert (type(first), first.node) == (getc.Set, made.node)
    assert isinstance(first.prev_node, getc.Value)
    second = client.wait('/', first.modified_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert second.modified_index == last.modified_index


def test_server_returns_the_raft_index(client: getc.Client) -> None:
    assert (client.set('/a', '1').raft_index > 0) == (client.api == 'v2')
