"""TTLs: setting, refreshing, dropping, expiry.

On a real server time is real, so tests wait for conditions and never sleep.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import gevent
import pytest

import getc

CHANGE_TIMEOUT = 60.0
"""Seconds after which a missing change is a failure."""


def test_set_returns_the_ttl(client: getc.Client) -> None:
    """The result has the TTL, and the time of the expiration by the server's clock."""
    result = client.set('/a', '1', ttl=100)
    assert result.ttl == result.node.ttl == 100
    assert result.expiration is not None
    assert result.expiration.tzinfo == timezone.utc
    assert result.expiration == result.node.expiration


def test_get_returns_the_remaining_ttl_rounded_up(client: getc.Client, backend_under_test: Any) -> None:
    """The remaining seconds until the same expiration."""
    written = client.set('/a', '1', ttl=100)
    read = client.get('/a')
    assert read.ttl in range(90, 101)
    assert read.expiration is not None and written.expiration is not None
    assert abs(read.expiration - written.expiration) < timedelta(seconds=2)  # v3 returns whole seconds only
    backend_under_test.pass_time(9.5)
    assert client.get('/a').ttl in range(80, 101)


def test_expiration_is_the_ttl_from_now(client: getc.Client) -> None:
    """The expirations of two TTLs differ by the difference of the TTLs."""
    near = client.set('/a', '1', ttl=100).expiration
    far = client.set('/b', '1', ttl=1100).expiration
    assert isinstance(near, datetime)
    assert isinstance(far, datetime)
    assert timedelta(seconds=1000) <= far - near < timedelta(seconds=1000 + CHANGE_TIMEOUT)


def test_node_expires_when_its_ttl_runs_out(client: getc.Client, backend_under_test: Any) -> None:
    """An Expired is received, and the node does not exist any more."""
    written = client.set('/a', '1', ttl=1)
    backend_under_test.pass_time(2)
    seen = client.wait('/a', written.etcd_index + 1, timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Expired
    assert isinstance(seen, getc.Deleted)
    assert (seen.key, seen.value) == ('/a', None)
    assert type(seen.node) is getc.Node
    assert isinstance(seen.prev_node, getc.Value)
    assert (seen.prev_node.key, seen.prev_node.value) == ('/a', '1')
    assert seen.prev_node.modified_index == written.modified_index
    assert seen.created_index == written.created_index
    assert seen.modified_index == written.etcd_index + 1
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')
    assert client.create('/a', '2').is_new


def test_node_expires_at_once_when_its_ttl_is_zero(client: getc.Client, backend_under_test: Any) -> None:
    """A TTL of 0 is valid."""
    written = client.set('/a', '1', ttl=0)
    assert (written.value, written.ttl) == ('1', 0)
    assert written.expiration is not None
    backend_under_test.pass_time(1)
    assert type(client.wait('/a', written.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


def test_wait_returns_when_the_ttl_runs_out(
    client: getc.Client, other: getc.Client, spawn: Callable[..., Any], backend_under_test: Any
) -> None:
    """Also for the node of another client, and without further requests."""
    written = client.set('/d/a', '1', ttl=1)
    waiting = spawn(other.wait, '/d', written.etcd_index + 1, recursive=True)
    gevent.sleep(0)
    backend_under_test.pass_time(3)
    seen = waiting.get(timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Expired
    assert seen.key == '/d/a'


@pytest.mark.v3_differs('a directory with a TTL is NotSupported on v3 (design, section 3)')
def test_directory_expires_with_its_nodes(client: getc.Client, backend_under_test: Any) -> None:
    """One event, with the key of the directory."""
    made = client.set('/d', dir=True, ttl=1)
    assert made.ttl == 1
    last = client.set('/d/sub/a', '1')
    backend_under_test.pass_time(2)
    seen = client.wait('/d', last.etcd_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Expired
    assert seen.key == '/d'
    assert isinstance(seen.node, getc.Directory)
    assert seen.modified_index == last.etcd_index + 1
    for key in ('/d', '/d/sub/a'):
        with pytest.raises(getc.KeyNotFound):
            client.get(key)
    assert client.set('/x', '1').etcd_index == seen.modified_index + 1


def test_nodes_expire_in_the_order_of_their_expiration(client: getc.Client, backend_under_test: Any) -> None:
    """One event for each node, in the order of expiration, not of the writes."""
    client.set('/d/late', '1', ttl=4)  # v3 raises smaller TTLs to 2 s
    written = client.set('/d/soon', '1', ttl=1)
    backend_under_test.pass_time(5)
    first = client.wait('/d', written.etcd_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    second = client.wait('/d', first.modified_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert [first.key, second.key] == ['/d/soon', '/d/late']
    assert isinstance(first, getc.Expired)
    assert isinstance(second, getc.Expired)


def test_node_stays_when_its_ttl_was_dropped(client: getc.Client, backend_under_test: Any) -> None:
    for drop in (
        lambda key: client.set(key, '2'),
        lambda key: client.update(key, '2'),
        lambda key: client.set(key, '2', prev_value='1'),
    ):
        client.set('/kept', '1', ttl=2)
        drop('/kept')
        expiring = client.set('/witness', '1', ttl=2)
        backend_under_test.pass_time(3)
        assert type(client.wait('/witness', expiring.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
        assert client.get('/kept').value == '2'


# -- refresh


def test_refresh_sets_the_ttl_and_keeps_the_rest(client: getc.Client) -> None:
    """TTL and modified_index change; value and created_index do not."""
    first = client.set('/a', '1', ttl=50)
    result = client.refresh('/a', ttl=100)
    assert type(result) is getc.Updated
    assert (result.value, result.ttl, result.created_index) == ('1', 100, first.created_index)
    assert result.modified_index == result.etcd_index == first.modified_index + 1
    assert result.prev_node is not None
    assert result.prev_node.modified_index == first.modified_index
    assert not result.is_new
    read = client.get('/a')
    assert (read.value, read.modified_index) == ('1', result.modified_index)


@pytest.mark.v3_differs('v3 returns the remaining whole seconds, from which the expiration is computed')
def test_expiration_is_the_same_for_every_read(client: getc.Client) -> None:
    """It is the time of the server."""
    first = client.set('/a', '1', ttl=50)
    assert client.get('/a').expiration == first.expiration
    result = client.refresh('/a', ttl=100)
    assert client.get('/a').expiration == result.expiration


def test_refresh_adds_a_ttl_to_a_permanent_node(client: getc.Client) -> None:
    client.set('/a', '1')
    assert client.refresh('/a', ttl=100).ttl == 100
    assert client.get('/a').ttl in range(90, 101)


@pytest.mark.parametrize('method', ['set', 'update'])
def test_refresh_is_an_option_of_set_and_update(client: getc.Client, method: str) -> None:
    """The node is not created again."""
    first = client.set('/a', '1', ttl=50)
    result = getattr(client, method)('/a', refresh=True, ttl=100)
    assert isinstance(result, getc.Updated)
    assert (result.value, result.ttl, result.created_index) == ('1', 100, first.created_index)


def test_refresh_raises_key_not_found_when_the_node_does_not_exist(client: getc.Client) -> None:
    """Nothing is created: error 100."""
    for refresh in (
        lambda: client.refresh('/a', ttl=5),
        lambda: client.set('/a', refresh=True, ttl=5),
        lambda: client.update('/a', refresh=True, ttl=5),
    ):
        with pytest.raises(getc.KeyNotFound) as caught:
            refresh()
        assert caught.value.cause == '/a'
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


def test_refresh_is_not_delivered_to_waiters(client: getc.Client, spawn: Callable[..., Any]) -> None:
    """A blocked wait returns the next change."""
    first = client.set('/a', '1', ttl=100)
    waiting = spawn(client.wait, '/a', first.etcd_index + 1)
    gevent.sleep(0)
    client.refresh('/a', ttl=100)
    client.update('/a', refresh=True, ttl=100)
    client.set('/a', '2', ttl=100)
    seen = waiting.get(timeout=CHANGE_TIMEOUT)
    assert (type(seen), seen.value) == (getc.Set, '2')


def test_refresh_outlives_the_first_ttl(client: getc.Client, backend_under_test: Any) -> None:
    client.set('/kept', '1', ttl=2)
    expiring = client.set('/witness', '1', ttl=2)
    client.refresh('/kept', ttl=100)
    backend_under_test.pass_time(3)
    index = expiring.etcd_index + 2
    assert client.wait('/witness', index, timeout=CHANGE_TIMEOUT).modified_index == index
    assert client.get('/kept').value == '1'


def test_refresh_can_end_a_node(client: getc.Client, backend_under_test: Any) -> None:
    """A refresh with TTL 0 expires the node at once."""
    client.set('/a', '1', ttl=100)
    refreshed = client.refresh('/a', ttl=0)
    assert refreshed.ttl == 0
    index = refreshed.etcd_index
    backend_under_test.pass_time(1)
    assert type(client.wait('/a', index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired


def test_ttl_may_be_very_long(client: getc.Client) -> None:
    """A century."""
    century = 100 * 365 * 24 * 3600
    assert client.set('/a', '1', ttl=century).ttl == century
    assert client.get('/a').value == '1'
