"""Elections on every backend.  Many cases are situations of the suites of kazoo, Go's clientv3, jetcd, tooz, etcd3."""

from __future__ import annotations

import os
import socket
from typing import Any

import gevent
import pytest
from gevent.event import Event

import getc
from getc.recipes import CandidacyState
from getc.results import Value
from getc.testing import wait_until

KEY = '/leaders/match'

CAMPAIGNING, LEADING, STOPPED = CandidacyState.CAMPAIGNING, CandidacyState.LEADING, CandidacyState.STOPPED


def candidates(client: getc.Client, key: str = KEY) -> tuple[Value, ...]:
    """Return the keys of the candidates, the leader first."""
    return client.lock(key).contenders()


def values(client: getc.Client) -> list[str]:
    return [value.value for value in candidates(client)]


class Calls:
    """Records the calls of ``on_elected`` and ``on_lost``, with the states of the candidacy in them."""

    def __init__(self) -> None:
        self.made: list[tuple[str, str]] = []

    def on_elected(self, candidacy: getc.Candidacy) -> None:
        self.made.append(('elected', candidacy.value))

    def on_lost(self, candidacy: getc.Candidacy) -> None:
        self.made.append(('lost', candidacy.value))


# -- one leader (Go Elect, TestElectionWait; jetcd testCampaign; kazoo test_election)


def test_only_candidate_is_elected(client: getc.Client, other: getc.Client) -> None:
    calls = Calls()
    candidacy = client.elect(KEY, 'ann:1', on_elected=calls.on_elected)
    token = candidacy.wait_elected(30)
    assert (candidacy.state, candidacy.token, candidacy.ensure()) == (LEADING, token, token)
    assert 0 < candidacy.remaining() <= candidacy.ttl == 10
    (leader,) = candidates(other)
    assert (leader.value, leader.created_index) == ('ann:1', token)
    assert leader.key.startswith(f'{KEY}/') and len(leader.key) == len(KEY) + 17
    wait_until(lambda: calls.made == [('elected', 'ann:1')])
    candidacy.stop()
    assert (candidacy.state, candidacy.token, candidacy.remaining(), candidates(other)) == (STOPPED, None, 0.0, ())


def test_candidates_lead_in_the_order_in_which_they_came(client: getc.Client, other: getc.Client) -> None:
    """Go's testElection: leadership passes on, and tokens grow."""
    clients = [client, other, client, other]
    candidacies = [each.elect(KEY, f'c{number}', wait=True) for number, each in enumerate(clients)]
    tokens = []
    for number, candidacy in enumerate(candidacies):
        tokens.append(candidacy.wait_elected(30))
        assert [each.state for each in candidacies[number + 1 :]] == [CAMPAIGNING] * (3 - number)
        assert values(client) == [f'c{rest}' for rest in range(number, 4)]
        candidacy.stop()
    assert tokens == sorted(set(tokens))
    assert values(client) == []


def test_waiting_candidate_is_not_the_leader(client: getc.Client, other: getc.Client) -> None:
    leader = client.elect(KEY, 'ann')
    leader.wait_elected(30)
    second = other.elect(KEY, 'bob', wait=True)
    assert (second.state, second.token, second.remaining()) == (CAMPAIGNING, None, 0.0)
    with pytest.raises(getc.NodeLost, match='elect /leaders/match does not lead: it campaigns'):
        second.ensure()
    with pytest.raises(getc.NodeLost):
        assert second.guard
    with pytest.raises(getc.NodeLost):
        second.proclaim('x')
    with pytest.raises(getc.TimedOut, match=r"leadership of /leaders/match was not .* is first, with the value 'ann'"):
        second.wait_elected(0.2)
    assert second.value == 'bob' and values(client) == ['ann', 'bob']
    second.stop()
    leader.stop()


def test_elections_are_independent(client: getc.Client, other: getc.Client) -> None:
    """tooz run_for_election_multiple_clients; jetcd testSegregationByName."""
    first, second = client.elect('/leaders/a'), other.elect('/leaders/b')
    assert first.wait_elected(30) and second.wait_elected(30)


def test_value_is_pid_and_host_by_default(client: getc.Client) -> None:
    assert client.elect(KEY).value == f'{os.getpid()}@{socket.gethostname()}'
    assert client.elect(KEY, b'bytes').value == 'bytes'


# -- proclaim (Go TestElectionOnPrefixOfExistingKey, Proclaim; jetcd testProclaim)


def test_proclaim_writes_the_value_and_keeps_the_token(client: getc.Client, other: getc.Client) -> None:
    candidacy = client.elect(KEY, 'ann')
    token = candidacy.wait_elected(30)
    second = other.elect(KEY, 'bob', wait=True)
    candidacy.proclaim('Ann')
    candidacy.proclaim(b'ANN')
    assert (candidacy.value, candidacy.ensure(), candidacy.state) == ('ANN', token, LEADING)
    assert next((value.value, value.created_index) for value in candidates(other)) == ('ANN', token)
    candidacy.resign()
    assert second.wait_elected(30) > token
    wait_until(lambda: values(client) == ['bob', 'ANN'])  # the value of the next key, too
    second.stop()
    candidacy.stop()


def test_proclaim_after_the_key_was_deleted_raises_and_writes_nothing(client: getc.Client, other: getc.Client) -> None:
    """jetcd testProclaimWithoutLeadership."""
    candidacy = client.elect(KEY, 'ann')
    candidacy.wait_elected(30)
    second = other.elect(KEY, 'bob', wait=True)
    other.delete(candidates(other)[0].key)
    with pytest.raises(getc.NodeLost, match='does not lead'):
        candidacy.proclaim('x')
    assert second.wait_elected(30)
    assert values(other)[0] == 'bob'
    second.stop()
    candidacy.stop()


# -- resign (Go Resign, jetcd testResign, etcd3 #176, tooz stand_down)


def test_resigned_leader_rejoins_at_the_end(client: getc.Client, other: getc.Client) -> None:
    calls = Calls()
    candidacy = client.elect(KEY, 'ann', on_elected=calls.on_elected, on_lost=calls.on_lost)
    token = candidacy.wait_elected(30)
    wait_until(lambda: calls.made == [('elected', 'ann')])
    second = other.elect(KEY, 'bob', wait=True)
    candidacy.resign()
    assert candidacy.token is None
    assert second.wait_elected(30) > token
    wait_until(lambda: values(other) == ['bob', 'ann'])
    second.stop()
    assert candidacy.wait_elected(30) > token
    wait_until(lambda: calls.made == [('elected', 'ann')] * 2)
    candidacy.stop()
    assert calls.made == [('elected', 'ann')] * 2  # `on_lost` is for losses


def test_only_candidate_that_resigns_is_elected_again(client: getc.Client) -> None:
    candidacy = client.elect(KEY)
    tokens = []
    for _ in range(3):
        tokens.append(candidacy.wait_elected(30))
        candidacy.resign()
        assert candidacy.token is None or candidacy.token > tokens[-1]
    assert tokens == sorted(set(tokens))
    candidacy.stop()


def test_waiting_candidate_that_resigns_is_no_false_leader(client: getc.Client, other: getc.Client) -> None:
    """microsoft/etcd3 #176: it takes another place, or none, and the leader stays."""
    leader = client.elect(KEY, 'ann')
    token = leader.wait_elected(30)
    second, third = other.elect(KEY, 'bob', wait=True), other.elect(KEY, 'cid', wait=True)
    second.resign()
    wait_until(lambda: values(client) == ['ann', 'cid', 'bob'])
    assert (leader.ensure(), second.state, third.state) == (token, CAMPAIGNING, CAMPAIGNING)
    third.resign(rejoin=False)
    assert (third.state, values(client)) == (STOPPED, ['ann', 'bob'])
    leader.stop()
    assert second.wait_elected(30) > token
    second.stop()


def test_resign_without_rejoining_stays_out(client: getc.Client, other: getc.Client) -> None:
    candidacy = client.elect(KEY)
    candidacy.wait_elected(30)
    candidacy.resign(rejoin=False)
    assert (candidacy.state, candidates(other)) == (STOPPED, ())
    with pytest.raises(getc.NodeLost, match='it was stopped'):
        candidacy.ensure()
    with pytest.raises(getc.ClientClosed, match='elect /leaders/match was stopped'):
        candidacy.wait_elected(30)
    candidacy.resign()
    candidacy.stop()  # again does nothing
    assert candidates(other) == ()


# -- losses (Go SessionExpired; etcd3 #158; holster #36)


def test_leader_whose_key_is_deleted_campaigns_again_at_the_end(client: getc.Client, other: getc.Client) -> None:
    calls = Calls()
    leader = client.elect(KEY, 'ann', on_elected=calls.on_elected, on_lost=calls.on_lost)
    token = leader.wait_elected(30)
    wait_until(lambda: len(calls.made) == 1)
    gevent.sleep(0.2)  # from then on the key is watched
    second = other.elect(KEY, 'bob', wait=True)
    other.delete(candidates(other)[0].key)
    assert second.wait_elected(30) > token
    wait_until(lambda: values(other) == ['bob', 'ann'])
    wait_until(lambda: calls.made == [('elected', 'ann'), ('lost', 'ann')])
    wait_until(lambda: leader.state is CAMPAIGNING)
    assert leader.last_error is not None
    second.stop()
    assert leader.wait_elected(30) > token
    leader.stop()


def test_waiting_candidate_whose_key_is_deleted_takes_another(client: getc.Client, other: getc.Client) -> None:
    leader = client.elect(KEY, 'ann', ttl=3)
    token = leader.wait_elected(30)
    second = other.elect(KEY, 'bob', ttl=3, wait=True)
    (_, gone) = candidates(client)
    client.delete(gone.key)
    wait_until(lambda: values(client) == ['ann', 'bob'], timeout=30)
    assert leader.ensure() == token and gone not in candidates(client)
    leader.stop()
    assert second.wait_elected(30) > token
    second.stop()


# -- callbacks


def test_callbacks_run_in_order_and_on_lost_does_not_wait_for_on_elected(
    client: getc.Client, other: getc.Client
) -> None:
    made: list[str] = []
    may_return = Event()

    def on_elected(_: getc.Candidacy) -> None:
        made.append('elected')
        may_return.wait()
        made.append('returned')

    candidacy = client.elect(KEY, on_elected=on_elected, on_lost=lambda _: made.append('lost'))
    candidacy.wait_elected(30)
    wait_until(lambda: made == ['elected'])
    gevent.sleep(0.2)
    other.delete(candidates(other)[0].key)
    wait_until(lambda: made == ['elected', 'lost'])
    candidacy.wait_elected(30)
    gevent.sleep(0)
    assert made == ['elected', 'lost']  # the next call waits for this one
    may_return.set()
    wait_until(lambda: made == ['elected', 'lost', 'returned', 'elected', 'returned'])
    candidacy.stop()


def test_no_callback_runs_after_stop(client: getc.Client, other: getc.Client) -> None:
    made: list[str] = []
    leader = other.elect(KEY)
    leader.wait_elected(30)
    candidacy = client.elect(KEY, on_elected=lambda _: made.append('elected'), on_lost=made.append, wait=True)
    candidacy.stop()
    leader.stop()
    gevent.sleep(0.05)
    assert made == [] and candidates(client) == ()


def test_exception_of_a_callback_is_logged_and_changes_nothing(
    client: getc.Client, caplog: pytest.LogCaptureFixture
) -> None:
    called = Event()

    def on_elected(_: getc.Candidacy) -> None:
        called.set()
        raise ZeroDivisionError('of the callback')

    candidacy = client.elect(KEY, on_elected=on_elected)
    token = candidacy.wait_elected(30)
    assert called.wait(30)
    wait_until(lambda: 'ZeroDivisionError: of the callback' in caplog.text)
    assert candidacy.ensure() == token
    candidacy.stop()


def test_candidacy_can_be_stopped_in_its_callback(client: getc.Client, other: getc.Client) -> None:
    stopped = Event()

    def on_elected(candidacy: getc.Candidacy) -> None:
        candidacy.stop()
        stopped.set()

    candidacy = client.elect(KEY, on_elected=on_elected)
    assert stopped.wait(30)
    assert (candidacy.state, candidates(other)) == (STOPPED, ())


# -- ends and errors


def test_leaving_the_block_stops_the_candidacy(client: getc.Client, other: getc.Client) -> None:
    with client.elect(KEY) as candidacy:
        assert candidacy.wait_elected(30)
    assert (candidacy.state, candidates(other)) == (STOPPED, ())
    assert candidacy.join(30) is True


def test_closing_the_client_stops_its_candidacies(client: getc.Client, other: getc.Client) -> None:
    leader = client.elect(KEY)
    leader.wait_elected(30)
    second = client.elect(KEY)
    waiting = gevent.spawn(second.wait_elected)
    wait_until(lambda: len(candidates(other)) == 2)
    client.close()
    assert (leader.state, second.state, candidates(other)) == (STOPPED, STOPPED, ())
    with pytest.raises(getc.ClientClosed):
        waiting.get(timeout=30)
    with pytest.raises(getc.ClientClosed):
        client.elect(KEY)


def test_value_at_the_key_of_the_election_is_refused(client: getc.Client) -> None:
    client.set(KEY, 'x')
    with pytest.raises(getc.NotDir, match=r'a value exists at or above .*: delete it, or use another key') as caught:
        client.elect(KEY, wait=True)
    assert KEY in str(caught.value)
    candidacy = client.elect(KEY)
    with pytest.raises(getc.NotDir):
        candidacy.wait_elected(30)
    assert candidacy.state is STOPPED


@pytest.mark.parametrize(
    ('arguments', 'options', 'error'),
    [
        (('/',), {}, ValueError),
        ((5,), {}, TypeError),
        ((KEY, 5), {}, TypeError),
        ((KEY,), {'ttl': 0}, ValueError),
        ((KEY,), {'ttl': None}, TypeError),
        ((KEY,), {'on_elected': 5}, TypeError),
        ((KEY,), {'on_lost': 'x'}, TypeError),
    ],
)
def test_invalid_arguments_raise_before_any_request(
    refusing: getc.Client, arguments: Any, options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        refusing.elect(*arguments, **options)


def test_invalid_value_of_proclaim_raises_before_any_request(client: getc.Client) -> None:
    candidacy = client.elect(KEY, 'ann')
    candidacy.wait_elected(30)
    for value in (None, 5):
        with pytest.raises(TypeError):
            candidacy.proclaim(value)  # type: ignore[arg-type]
    assert candidacy.value == 'ann'
    candidacy.stop()


def test_repr_shows_key_state_and_ttl(client: getc.Client) -> None:
    candidacy = client.elect(KEY, ttl=7)
    candidacy.wait_elected(30)
    assert repr(candidacy) == '<getc.Candidacy /leaders/match LEADING ttl=7>'
    assert (candidacy.key, candidacy.name) == (KEY, 'elect /leaders/match')
    candidacy.stop()


@pytest.mark.transactions
def test_guard_excludes_writes_of_a_former_leader(client: getc.Client, other: getc.Client) -> None:
    candidacy = client.elect(KEY)
    candidacy.wait_elected(30)
    with client.transaction(guard=candidacy) as transaction:
        transaction.set('/x', '1')
    guard = candidacy.guard
    other.delete(candidates(other)[0].key)
    with pytest.raises(getc.NodeLost), client.transaction(guard=guard) as transaction:
        transaction.set('/x', '2')
    assert client.get('/x').value == '1'
    candidacy.stop()
