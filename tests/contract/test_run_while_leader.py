"""``run_while_leader`` on every backend."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

import getc
from getc.recipes import CandidacyState, LeadershipLost, Term
from getc.testing import wait_until

KEY = '/leaders/match'


class Job:
    """A function of a leader that runs until it may return, and records what happens."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.terms: list[Term] = []
        self.may_return = Event()

    def __call__(self, term: Term) -> None:
        self.terms.append(term)
        self.made.append('begin')
        try:
            self.may_return.wait()
            self.made.append('return')
        except LeadershipLost:
            self.made.append('lost')
            raise
        finally:
            self.made.append('finally')


def keys(client: getc.Client) -> list[str]:
    return [value.key for value in client.lock(KEY).contenders()]


def values(client: getc.Client) -> list[str]:
    return [value.value for value in client.lock(KEY).contenders()]


def test_function_runs_with_a_term_while_this_process_leads(client: getc.Client, other: getc.Client) -> None:
    job = Job()
    loop = client.run_while_leader(KEY, job, 'ann')
    wait_until(lambda: job.made == ['begin'])
    (term,) = job.terms
    (leader,) = other.lock(KEY).contenders()
    assert (leader.value, leader.created_index) == ('ann', term.ensure()) and term.token == term.ensure()
    assert 0 < term.remaining() <= loop.ttl and loop.term is term
    assert loop.state is CandidacyState.LEADING
    assert repr(loop) == '<getc.LeaderLoop /leaders/match LEADING ttl=10>'
    loop.stop()
    assert (job.made, keys(other), loop.state) == (['begin', 'lost', 'finally'], [], CandidacyState.STOPPED)
    assert (term.token, term.remaining(), loop.term) == (None, 0.0, None)
    with pytest.raises(getc.NodeLost):
        term.ensure()
    with pytest.raises(getc.NodeLost):
        assert term.guard


def test_function_of_one_process_runs_at_a_time(client: getc.Client, other: getc.Client) -> None:
    first, second = Job(), Job()
    loops = [client.run_while_leader(KEY, first)]
    wait_until(lambda: first.made == ['begin'])
    loops.append(other.run_while_leader(KEY, second))
    wait_until(lambda: len(keys(client)) == 2)
    assert second.made == []
    loops[0].stop()
    wait_until(lambda: second.made == ['begin'])
    assert first.made == ['begin', 'lost', 'finally']
    assert second.terms[0].ensure() > 0
    loops[1].stop()
    assert keys(client) == []


def test_return_resigns_and_campaigns_again_after_the_pause(client: getc.Client, other: getc.Client) -> None:
    first, second = Job(), Job()
    loop = client.run_while_leader(KEY, first, 'ann', pause=0.05)
    wait_until(lambda: first.made == ['begin'])
    waiting = other.run_while_leader(KEY, second, 'bob')
    wait_until(lambda: values(client) == ['ann', 'bob'])
    first.may_return.set()
    wait_until(lambda: second.made == ['begin'])
    assert first.made == ['begin', 'return', 'finally']
    wait_until(lambda: values(client) == ['bob', 'ann'])
    first.may_return.clear()
    waiting.stop()
    wait_until(lambda: first.made[3:] == ['begin'])
    assert first.terms[1].ensure()
    loop.stop()


def test_exception_is_logged_and_the_function_runs_again(client: getc.Client, caplog: pytest.LogCaptureFixture) -> None:
    tokens: list[int] = []
    done = Event()

    def fail_twice(term: Term) -> None:
        tokens.append(term.ensure())
        if len(tokens) < 3:
            raise ZeroDivisionError('of the function')
        done.wait()

    loop = client.run_while_leader(KEY, fail_twice, pause=0.01)
    wait_until(lambda: len(tokens) == 3)
    assert tokens == sorted(set(tokens))
    assert caplog.text.count('ZeroDivisionError: of the function') == 2
    assert 'run_while_leader /leaders/match: the function' in caplog.text
    loop.stop()


def test_function_is_killed_when_the_key_is_deleted(client: getc.Client, other: getc.Client) -> None:
    first, second = Job(), Job()
    loop = client.run_while_leader(KEY, first, 'ann')
    wait_until(lambda: first.made == ['begin'])
    gevent.sleep(0.2)  # from then on the key is watched
    waiting = other.run_while_leader(KEY, second, 'bob')
    wait_until(lambda: values(client) == ['ann', 'bob'])
    other.delete(keys(other)[0])
    wait_until(lambda: first.made == ['begin', 'lost', 'finally'] and second.made == ['begin'])
    with pytest.raises(getc.NodeLost):
        first.terms[0].ensure()
    wait_until(lambda: values(client) == ['bob', 'ann'])  # it campaigns again
    waiting.stop()
    wait_until(lambda: first.made[3:] == ['begin'])
    loop.stop()


def test_stop_waits_for_the_finally_blocks_before_the_key_is_deleted(client: getc.Client, other: getc.Client) -> None:
    present: list[int] = []
    begun = Event()

    def work(term: Term) -> None:
        begun.set()
        try:
            gevent.sleep(60)
        finally:
            present.append(len(keys(other)))
            assert term.ensure()

    loop = client.run_while_leader(KEY, work)
    assert begun.wait(30)
    loop.stop()
    assert (present, keys(other)) == ([1], [])


def test_loop_can_be_stopped_in_its_function(client: getc.Client, other: getc.Client) -> None:
    made: list[str] = []

    def work(_: Term) -> None:
        loop.stop()
        made.append('stopped')

    loop = client.run_while_leader(KEY, work)
    wait_until(lambda: made == ['stopped'])
    wait_until(lambda: keys(other) == [])
    gevent.sleep(0.02)
    assert (made, loop.state) == (['stopped'], CandidacyState.STOPPED)


def test_closing_the_client_ends_the_function(client: getc.Client, other: getc.Client) -> None:
    job = Job()
    client.run_while_leader(KEY, job)
    wait_until(lambda: job.made == ['begin'])
    client.close()
    assert (job.made, keys(other)) == (['begin', 'lost', 'finally'], [])


def test_waiting_loop_is_stopped_without_a_call(client: getc.Client, other: getc.Client) -> None:
    leader = client.elect(KEY)
    leader.wait_elected(30)
    job = Job()
    with other.run_while_leader(KEY, job) as loop:
        wait_until(lambda: len(keys(client)) == 2)
        assert loop.term is None
    assert (job.made, len(keys(client))) == ([], 1)
    leader.stop()


@pytest.mark.transactions
def test_guard_of_a_term_excludes_late_writes(client: getc.Client, other: getc.Client) -> None:
    job = Job()
    loop = client.run_while_leader(KEY, job)
    wait_until(lambda: job.made == ['begin'])
    with client.transaction(guard=job.terms[0]) as transaction:
        transaction.set('/x', '1')
    guard = job.terms[0].guard
    other.delete(keys(other)[0])
    with pytest.raises(getc.NodeLost), client.transaction(guard=guard) as transaction:
        transaction.set('/x', '2')
    assert client.get('/x').value == '1'
    loop.stop()


@pytest.mark.parametrize(
    ('options', 'error', 'text'),
    [
        ({'grace': -1}, ValueError, 'grace must be 0 or more seconds'),
        ({'grace': 6.0}, ValueError, 'grace must be less than 5.67 s with a TTL of 10 s'),
        ({'grace': '1'}, TypeError, 'grace must be a number of seconds, not str'),
        ({'pause': float('nan')}, ValueError, 'pause must be 0 or more seconds'),
        ({'pause': None}, TypeError, 'pause must be a number of seconds'),
        ({'ttl': 0}, ValueError, 'ttl'),
        ({'on_overrun': 5}, TypeError, 'on_overrun must be a function or None'),
        ({'function': 5}, TypeError, 'function must be a function'),
        ({'key': '/'}, ValueError, 'root'),
    ],
)
def test_invalid_arguments_raise_before_any_request(
    refusing: getc.Client, options: dict[str, object], error: type[Exception], text: str
) -> None:
    arguments: dict[str, object] = {'key': KEY, 'function': print, **options}
    with pytest.raises(error, match=text):
        refusing.run_while_leader(**arguments)  # type: ignore[arg-type]
