"""``leader`` on every backend."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

import getc
from getc.results import Value
from getc.testing import wait_until
from tests.contract.conftest import BackendUnderTest

KEY = '/leaders/match'


class Seen:
    """The values of the leaders in the order in which they were reported; None for no leader."""

    def __init__(self) -> None:
        self.values: list[str | None] = []
        self.tokens: list[int | None] = []

    def __call__(self, leader: Value | None) -> None:
        self.values.append(None if leader is None else leader.value)
        self.tokens.append(None if leader is None else leader.created_index)


def is_led_by(value: str | None) -> Any:
    return lambda leader: leader.value == value


def test_leader_shows_value_key_and_token(client: getc.Client, other: getc.Client) -> None:
    candidacy = client.elect(KEY, 'ann')
    token = candidacy.wait_elected(30)
    leader = other.leader(KEY)
    (own,) = client.lock(KEY).contenders()
    assert (leader.value, leader.key, leader.token) == ('ann', own.key, token)
    assert leader.node is not None and leader.node.key == own.key
    assert (leader.election, leader.is_stale) == (KEY, False)
    candidacy.stop()
    assert leader.wait(lambda leader: leader.token is None, 30)
    assert (leader.value, leader.key, leader.token, leader.node) == (None, None, None, None)


def test_election_without_a_candidate_has_no_leader(client: getc.Client) -> None:
    """Also where the key does not exist."""
    seen = Seen()
    leader = client.leader(KEY, seen)
    assert (leader.value, leader.key, leader.token) == (None, None, None)
    wait_until(lambda: seen.values == [None])
    leader.stop()


def test_each_leader_and_each_value_is_reported_once(client: getc.Client, other: getc.Client) -> None:
    """The sequence equals the history: proclaimed values, hand-overs, and no leader."""
    seen = Seen()
    leader = other.leader(KEY, seen)
    first = client.elect(KEY, 'ann', wait=True)
    first.wait_elected(30)
    second = other.elect(KEY, 'bob', wait=True)
    first.proclaim('Ann')
    first.proclaim('Ann')
    first.proclaim('ANN')
    second.resign()
    wait_until(lambda: len(client.lock(KEY).contenders()) == 2)
    third = client.elect(KEY, 'cid', wait=True)
    first.stop()
    assert leader.wait(lambda leader: leader.value == 'bob', 30)
    second.wait_elected(30)
    second.stop()
    third.wait_elected(30)
    third.stop()
    assert leader.wait(is_led_by(None), 30)
    wait_until(lambda: len(seen.values) == 7)
    assert seen.values == [None, 'ann', 'Ann', 'ANN', 'bob', 'cid', None]
    tokens = [token for token in seen.tokens if token is not None]
    assert tokens == sorted(tokens) and len(set(tokens)) == 3


def test_leader_is_the_oldest_key_not_the_first_event(client: getc.Client, other: getc.Client) -> None:
    """etcd#18163; the oldest key has the highest name, and is not written last."""
    leader = other.leader(KEY)
    client.set(f'{KEY}/z', 'oldest')
    client.set(f'{KEY}/m', 'second')
    client.set(f'{KEY}/a', 'newest')
    client.update(f'{KEY}/m', 'second again')
    assert leader.wait(is_led_by('oldest'), 30)
    wait_until(lambda: leader.index >= client.get(f'{KEY}/m').node.modified_index)
    assert (leader.value, leader.key) == ('oldest', f'{KEY}/z')
    fresh = client.leader(KEY)
    assert fresh.value == 'oldest'
    client.delete(f'{KEY}/z')
    assert leader.wait(is_led_by('second again'), 30) and fresh.wait(is_led_by('second again'), 30)


def test_hidden_and_nested_keys_lead_where_the_api_shows_them(client: getc.Client, other: getc.Client) -> None:
    """Go contends with every key below the election."""
    leader = other.leader(KEY)
    client.set(f'{KEY}/_hidden', 'hidden')
    client.set(f'{KEY}/sub/x', 'nested')
    client.set(f'{KEY}/x', 'plain')
    expected = 'nested' if client.api == 'v2' else 'hidden'
    assert leader.wait(is_led_by(expected), 30)
    wait_until(lambda: leader.index >= client.get(f'{KEY}/x').node.modified_index)
    assert leader.value == expected == client.leader(KEY).value
    client.delete(f'{KEY}/_hidden')
    assert leader.wait(is_led_by('nested'), 30)
    client.delete(f'{KEY}/sub', recursive=True)
    assert leader.wait(is_led_by('plain'), 30)


def test_value_at_the_key_of_the_election_is_no_leader(client: getc.Client) -> None:
    client.set(KEY, 'x')
    leader = client.leader(KEY)
    assert leader.value is None
    client.delete(KEY)
    client.set(f'{KEY}/a', 'ann')
    assert leader.wait(is_led_by('ann'), 30)


def test_neighbouring_keys_are_no_candidates(client: getc.Client) -> None:
    client.set(f'{KEY}2/a', 'x')
    client.set('/leaders/matc', 'x')
    leader = client.leader(KEY)
    client.set(f'{KEY}2/b', 'x')
    client.set(f'{KEY}/a', 'ann')
    assert leader.wait(lambda leader: leader.value, 30) == 'ann'


def test_renewals_are_not_reported(
    client: getc.Client, other: getc.Client, backend_under_test: BackendUnderTest
) -> None:
    seen = Seen()
    leader = other.leader(KEY, seen)
    candidacy = client.elect(KEY, 'ann', ttl=1)
    candidacy.wait_elected(30)
    until = gevent.get_hub().loop.now() + 1.5
    backend_under_test.pass_time(60)
    wait_until(lambda: backend_under_test.name.startswith('memory') or gevent.get_hub().loop.now() > until)
    candidacy.stop()
    assert leader.wait(is_led_by(None), 30)
    wait_until(lambda: seen.values[-1] is None and len(seen.values) > 1)
    assert seen.values == [None, 'ann', None]


def test_leader_with_an_expired_key_is_replaced(client: getc.Client, backend_under_test: BackendUnderTest) -> None:
    client.set(f'{KEY}/a', 'dead', ttl=1)
    client.set(f'{KEY}/b', 'alive')
    seen = Seen()
    leader = client.leader(KEY, seen)
    backend_under_test.pass_time(5)
    assert leader.wait(is_led_by('alive'), 30)
    wait_until(lambda: seen.values[-1] == 'alive')
    assert seen.values in (['dead', 'alive'], ['alive'])


def test_leader_survives_the_loss_of_history(
    client: getc.Client, other: getc.Client, backend_under_test: BackendUnderTest
) -> None:
    """etcd#7815: changes of other keys are compacted meanwhile."""
    client.set(f'{KEY}/a', 'ann')
    leader = other.leader(KEY)
    backend_under_test.compact_history(client)
    client.set(f'{KEY}/b', 'bob')
    client.delete(f'{KEY}/a')
    assert leader.wait(is_led_by('bob'), 30)


def test_wait_returns_what_the_predicate_returns_or_times_out(client: getc.Client) -> None:
    leader = client.leader(KEY)
    with pytest.raises(getc.TimedOut, match=r'leader /leaders/match: the predicate was not true within 0.05 s'):
        leader.wait(lambda leader: leader.value, 0.05)
    waiting = gevent.spawn(leader.wait, lambda leader: leader.value)
    gevent.sleep(0)
    client.set(f'{KEY}/a', 'ann')
    assert waiting.get(timeout=30) == 'ann'


def test_stopped_leader_raises_in_wait_and_calls_nothing(client: getc.Client) -> None:
    seen = Seen()
    with client.leader(KEY, seen) as leader:
        waiting = gevent.spawn(leader.wait, lambda leader: leader.value)
        wait_until(lambda: seen.values == [None])
    with pytest.raises(getc.ClientClosed, match='leader /leaders/match was stopped'):
        waiting.get(timeout=30)
    client.set(f'{KEY}/a', 'ann')
    gevent.sleep(0.02)
    assert seen.values == [None]


def test_candidates_and_leaders_see_keys_relative_to_the_namespace(backend_under_test: BackendUnderTest) -> None:
    inside = backend_under_test.open(namespace='/games')
    outside = backend_under_test.open(namespace=None)
    candidacy = inside.elect(KEY, 'ann')
    candidacy.wait_elected(30)
    leader = inside.leader(KEY)
    assert leader.key is not None and leader.key.startswith(f'{KEY}/')
    assert outside.leader(f'/games{KEY}').key == f'/games{leader.key}'
    candidacy.stop()


def test_invalid_arguments_raise_before_any_request(refusing: getc.Client) -> None:
    for arguments, error in [(('/',), ValueError), ((5,), TypeError), ((KEY, 5), TypeError)]:
        with pytest.raises(error):
            refusing.leader(*arguments)  # type: ignore[arg-type]


def test_repr_shows_the_leader(client: getc.Client) -> None:
    leader = client.leader(KEY)
    assert repr(leader) == f'<getc.Leader {KEY} no leader LIVE index={leader.index}>'
    client.set(f'{KEY}/a', 'ann')
    leader.wait(lambda leader: leader.value, 30)
    assert repr(leader) == f"<getc.Leader {KEY} 'ann' LIVE index={leader.index}>"
