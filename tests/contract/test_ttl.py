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


# -- directories


def is_gone(client: getc.Client, key: str) -> bool:
    try:
        client.get(key)
    except getc.KeyNotFound:
        return True
    return False


def test_directory_has_the_ttl_that_it_was_given(client: getc.Client) -> None:
    """In the result of the write, and when it is read."""
    for number, write in enumerate((client.set, client.create)):
        made = write(f'/d{number}', dir=True, ttl=100)
        assert isinstance(made.node, getc.Directory)
        assert (made.ttl, made.is_new) == (100, True)
        read = client.get(made.key)
        assert read.ttl in range(90, 101)
        assert made.expiration is not None and read.expiration is not None
        assert abs(read.expiration - made.expiration) < timedelta(seconds=2)
        assert (read.modified_index, read.created_index) == (made.modified_index, made.created_index)
    appended = client.append('/q', dir=True, ttl=100)
    assert (appended.ttl, client.get(appended.key).ttl in range(90, 101)) == (100, True)
    assert client.get('/q').ttl is None


def test_nodes_expire_with_their_directory(client: getc.Client, other: getc.Client, backend_under_test: Any) -> None:
    """However they were written, at any depth, by any client; the first change is that of the directory."""
    client.set('/d', dir=True, ttl=3)
    client.set('/d/set', '1')
    client.set('/d/set', '2')
    other.create('/d/create', '1')
    other.update('/d/create', '2')
    client.set('/d/swap', '1')
    other.set('/d/swap', '2', prev_value='1')
    client.set('/d/dropped', '1', ttl=100)
    client.update('/d/dropped', '2')
    appended = other.append('/d/queue', '1').key
    client.set('/d/empty', dir=True)
    last = client.set('/d/deep/er/node', '1')
    backend_under_test.pass_time(4)
    seen = client.wait('/d', last.etcd_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert type(seen) is getc.Expired
    assert isinstance(seen.node, getc.Directory)
    assert isinstance(seen.prev_node, getc.Directory)
    assert (seen.key, seen.modified_index) == ('/d', last.etcd_index + 1)
    names = ('set', 'create', 'swap', 'dropped', 'empty', 'deep/er/node')
    assert all(is_gone(client, key) for key in ('/d', appended, *(f'/d/{name}' for name in names)))
    assert client.set('/x', '1').etcd_index == seen.modified_index + 1
    assert client.set('/d/set', '1').is_new
    assert client.get('/d').ttl is None


@pytest.mark.v3_differs('the expiry of a directory is one change for each node in it')
def test_expiry_of_a_directory_is_one_event(client: getc.Client, backend_under_test: Any) -> None:
    """With the key of the directory, also for the watcher of a node in it."""
    client.set('/d', dir=True, ttl=2)
    client.set('/d/a', '1')
    last = client.set('/d/sub/b', '1')
    backend_under_test.pass_time(3)
    for key, recursive in (('/', True), ('/d', False), ('/d/a', False), ('/d/sub', True), ('/d/sub/b', False)):
        seen = client.wait(key, last.etcd_index + 1, recursive=recursive, timeout=CHANGE_TIMEOUT)
        assert (type(seen), seen.key, seen.modified_index) == (getc.Expired, '/d', last.etcd_index + 1)
    after = client.set('/x', '1')
    assert client.wait('/', last.etcd_index + 2, recursive=True, timeout=CHANGE_TIMEOUT).node == after.node


def test_wait_for_a_node_returns_when_its_directory_expires(
    client: getc.Client, other: getc.Client, spawn: Callable[..., Any], backend_under_test: Any
) -> None:
    client.set('/d', dir=True, ttl=2)
    last = client.set('/d/a', '1')
    waiting = [spawn(other.wait, key, last.etcd_index + 1, recursive=each) for key in ('/d', '/d/a') for each in (0, 1)]
    gevent.sleep(0)
    backend_under_test.pass_time(3)
    assert [type(each.get(timeout=CHANGE_TIMEOUT)) for each in waiting] == [getc.Expired] * 4


def test_node_expires_before_its_directory_when_its_ttl_is_shorter(
    client: getc.Client, backend_under_test: Any
) -> None:
    client.set('/d', dir=True, ttl=100)
    client.set('/d/in', dir=True, ttl=2)
    client.set('/d/in/a', '1')
    client.set('/d/kept', '1')
    last = client.set('/d/short', '1', ttl=3)
    backend_under_test.pass_time(4)
    client.wait('/d/short', last.etcd_index + 1, timeout=CHANGE_TIMEOUT)
    assert is_gone(client, '/d/in')
    assert is_gone(client, '/d/in/a')
    assert client.get('/d').ttl in range(10, 101)
    assert [node.key for node in client.get('/d').nodes] == ['/d/kept']


@pytest.mark.v3_differs('a node has one lease: its own, or that of its directory')
def test_node_with_a_longer_ttl_expires_with_its_directory(client: getc.Client, backend_under_test: Any) -> None:
    client.set('/d', dir=True, ttl=2)
    client.set('/d/in', dir=True, ttl=100)
    client.set('/d/in/a', '1')
    last = client.set('/d/long', '1', ttl=100)
    backend_under_test.pass_time(3)
    assert client.wait('/d', last.etcd_index + 1, timeout=CHANGE_TIMEOUT).key == '/d'
    assert all(is_gone(client, key) for key in ('/d', '/d/long', '/d/in', '/d/in/a'))


def test_node_in_a_directory_with_a_ttl_has_none_of_its_own(client: getc.Client, other: getc.Client) -> None:
    """So a keeper does not take it over."""
    client.set('/d', dir=True, ttl=100)
    for write in (client.set, client.update):
        assert write('/d/a', '1').ttl is None
        assert other.get('/d/a').ttl is None
        assert client.get('/d/a').ttl is None
    client.set('/d/own', '1', ttl=200)
    assert other.get('/d/own').ttl in range(190, 201)
    assert client.get('/d/own').ttl in range(190, 201)
    client.set('/d/in', dir=True)
    client.set('/d/in/own', dir=True, ttl=200)
    assert client.get('/d/in').ttl is None
    assert client.get('/d/in/own').ttl in range(190, 201)
    with pytest.raises(getc.NodeExist):
        other.keep_node('/d/a', 'mine', ttl=60)
    assert other.keep_node('/d/own', 'mine', ttl=60).value == 'mine'


def test_ttl_of_a_directory_is_not_changed_by_a_refused_write(client: getc.Client) -> None:
    """It exists, so it is neither set nor created."""
    client.set('/d', dir=True, ttl=100)
    client.set('/d/a', '1')
    with pytest.raises(getc.NotFile):
        client.set('/d', dir=True, ttl=1000)
    with pytest.raises(getc.NodeExist):
        client.create('/d', dir=True, ttl=1000)
    with pytest.raises(getc.NotFile):
        client.update('/d', 'x', ttl=1000)
    assert client.get('/d').ttl in range(90, 101)


@pytest.mark.whole_tree
def test_root_has_no_ttl(client: getc.Client) -> None:
    for write in (client.set, client.create, client.update):
        with pytest.raises(getc.RootROnly):
            write('/', dir=True, ttl=100)
    with pytest.raises(getc.RootROnly):
        client.refresh('/', ttl=100)
    assert client.get('/').ttl is None


@pytest.mark.usefixtures('directory_updates')
def test_directory_gets_another_ttl_by_update_and_by_refresh(client: getc.Client) -> None:
    """The nodes in it are unchanged."""
    made = client.set('/d', dir=True, ttl=100)
    client.set('/d/a', '1')
    for write in (
        lambda ttl: client.update('/d', dir=True, ttl=ttl),
        lambda ttl: client.refresh('/d', ttl=ttl),
        lambda ttl: client.update('/d', dir=True, ttl=ttl, refresh=True),
        lambda ttl: client.set('/d', dir=True, ttl=ttl, refresh=True),
    ):
        for ttl in (1000, 500):
            written = write(ttl)
            assert type(written) is getc.Updated
            assert isinstance(written.node, getc.Directory) and isinstance(written.prev_node, getc.Directory)
            assert (written.key, written.ttl, written.is_new) == ('/d', ttl, False)
            assert written.created_index == written.prev_node.created_index == made.created_index
            assert client.get('/d').ttl in range(ttl - 10, ttl + 1)
            assert client.get('/d').values == ('1',)


@pytest.mark.usefixtures('directory_updates')
def test_directory_outlives_the_ttl_that_was_changed(client: getc.Client, backend_under_test: Any) -> None:
    """With the nodes in it, those of before and those that were written since; without a TTL, for good."""
    client.set('/update', dir=True, ttl=3)
    client.set('/refresh', dir=True, ttl=3)
    client.set('/drop', dir=True, ttl=3)
    expiring = client.set('/witness', '1', ttl=3)
    for key in ('/update', '/refresh', '/drop'):
        client.set(f'{key}/before/a', '1')
    client.update('/update', dir=True, ttl=100)
    client.refresh('/refresh', ttl=100)
    assert client.update('/drop', dir=True).ttl is None
    for key in ('/update', '/refresh', '/drop'):
        client.set(f'{key}/after', '2')
    backend_under_test.pass_time(4)
    client.wait('/witness', expiring.etcd_index + 1, timeout=CHANGE_TIMEOUT)
    while not is_gone(client, '/witness'):  # the wait may have returned the write
        gevent.sleep(0.05)
    for key in ('/update', '/refresh', '/drop'):
        assert client.get(f'{key}/before/a').value == '1'
        assert client.get(f'{key}/after').value == '2'
        assert (client.get(key).ttl is None) == (key == '/drop')


@pytest.mark.usefixtures('directory_updates')
@pytest.mark.parametrize('method', ['update', 'refresh'])
def test_nodes_that_exist_expire_when_their_directory_gets_a_ttl(
    client: getc.Client, backend_under_test: Any, method: str
) -> None:
    """Also that of a directory which was not created by itself."""
    client.set('/d/a', '1')
    client.set('/d/sub/b', '1')
    client.set('/d/empty', dir=True)
    written = client.refresh('/d', ttl=2) if method == 'refresh' else client.update('/d', dir=True, ttl=2)
    assert (written.ttl, written.is_new) == (2, False)
    last = client.set('/d/c', '1')
    backend_under_test.pass_time(3)
    while not is_gone(client, '/d/c'):
        gevent.sleep(0.05)
    assert all(is_gone(client, key) for key in ('/d', '/d/a', '/d/sub', '/d/sub/b', '/d/empty'))
    assert type(client.wait('/d/c', last.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired


@pytest.mark.usefixtures('directory_updates')
def test_update_of_a_directory_is_delivered(client: getc.Client) -> None:
    made = client.set('/d', dir=True, ttl=100)
    client.set('/d/a', '1')
    updated = client.update('/d', dir=True, ttl=200)
    seen = client.wait('/d', made.modified_index + 1, timeout=CHANGE_TIMEOUT)
    assert isinstance(seen, getc.Set)
    assert isinstance(seen.node, getc.Directory)
    assert (seen.key, seen.modified_index, seen.is_new) == ('/d', updated.modified_index, False)


@pytest.mark.usefixtures('directory_updates')
def test_refresh_of_a_directory_with_the_same_ttl_is_not_delivered(client: getc.Client) -> None:
    made = client.set('/d', dir=True, ttl=100)
    client.refresh('/d', ttl=100)
    client.refresh('/d', ttl=100)
    last = client.set('/d/a', '1')
    seen = client.wait('/d', made.modified_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)
    assert (seen.key, seen.modified_index) == ('/d/a', last.modified_index)


@pytest.mark.usefixtures('directory_updates')
def test_directory_that_does_not_exist_is_not_updated(client: getc.Client) -> None:
    client.set('/a', '1')
    for key, error, cause in (('/none', getc.KeyNotFound, '/none'), ('/a/d', getc.NotDir, '/a')):
        for write in (
            lambda key=key: client.update(key, dir=True),
            lambda key=key: client.update(key, dir=True, ttl=60),
            lambda key=key: client.refresh(key, ttl=60),
        ):
            with pytest.raises(error) as caught:
                write()
            assert caught.value.cause == cause
    assert [node.key for node in client.get('/').nodes] == ['/a']


def test_value_gets_a_ttl_by_an_update_with_dir(client: getc.Client) -> None:
    """And the value ''."""
    client.set('/a', '1')
    updated = client.update('/a', dir=True, ttl=100)
    assert (type(updated), updated.value, updated.ttl) == (getc.Updated, '', 100)
    assert client.get('/a').ttl in range(90, 101)


def test_directory_expires_at_once_when_its_ttl_is_zero(client: getc.Client, backend_under_test: Any) -> None:
    made = client.set('/d', dir=True, ttl=0)
    assert made.ttl == 0
    backend_under_test.pass_time(1)
    assert type(client.wait('/d', made.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    assert is_gone(client, '/d')


@pytest.mark.usefixtures('directory_updates')
@pytest.mark.parametrize('method', ['update', 'refresh'])
def test_directory_ends_with_its_nodes_when_its_ttl_becomes_zero(
    client: getc.Client, backend_under_test: Any, method: str
) -> None:
    client.set('/d', dir=True, ttl=100)
    client.set('/d/a', '1')
    written = client.refresh('/d', ttl=0) if method == 'refresh' else client.update('/d', dir=True, ttl=0)
    assert written.ttl == 0
    backend_under_test.pass_time(1)
    assert type(client.wait('/d/a', written.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    assert is_gone(client, '/d')


def test_deleted_directory_leaves_no_ttl_behind(client: getc.Client, backend_under_test: Any) -> None:
    """A directory of the same key, and the nodes in it, do not expire with the old one."""
    client.set('/empty', dir=True, ttl=3)
    assert isinstance(client.delete('/empty', dir=True).prev_node, getc.Directory)
    client.set('/empty', dir=True)
    client.set('/d', dir=True, ttl=3)
    client.set('/d/a', '1')
    with pytest.raises(getc.DirNotEmpty):
        client.delete('/d', dir=True)
    gone = client.delete('/d', recursive=True)
    assert (type(gone), gone.key) == (getc.Deleted, '/d')
    client.set('/d/a', '2')
    expiring = client.set('/witness', '1', ttl=3)
    backend_under_test.pass_time(4)
    assert type(client.wait('/witness', expiring.etcd_index + 1, timeout=CHANGE_TIMEOUT)) is getc.Expired
    assert client.get('/d/a').value == '2'
    assert client.get('/empty').nodes == ()


@pytest.mark.usefixtures('directory_updates')
def test_refresh_of_a_node_does_not_refresh_its_directory(client: getc.Client, backend_under_test: Any) -> None:
    """The node gets a TTL of its own."""
    client.set('/d', dir=True, ttl=3)
    client.set('/d/a', '1')
    client.set('/d/b', '1')
    last = client.refresh('/d/a', ttl=3)
    backend_under_test.pass_time(2)
    client.refresh('/d/a', ttl=3)
    backend_under_test.pass_time(2)
    assert type(client.wait('/d', last.etcd_index + 1, recursive=True, timeout=CHANGE_TIMEOUT)) is getc.Expired


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
