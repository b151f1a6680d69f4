"""Nothing that a client is told is older than what it has seen; and a store that went back is no trap."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from getc.backends.monotonic import RevisionGuard
from getc.errors import EtcException, FutureRevision, KeyNotFound, LeaderElect, TimedOut
from getc.operations import Get
from getc.results import EtcdResult, Got, Value

LOCAL = Get('/a', quorum=False)


class Servers:
    """What one server answers, and what they agree on; an error is raised."""

    def __init__(self, local: int | EtcException, agreed: int | EtcException = 0) -> None:
        self.asked: list[bool | None] = []
        self._local = local
        self._agreed = agreed

    def __call__(self, get: Get) -> EtcdResult:
        self.asked.append(get.quorum)
        answer = self._agreed if get.quorum else self._local
        if isinstance(answer, EtcException):
            raise answer
        return Got(Value('/a', 1, 1, None, None, 'x'), etcd_index=answer)


def seen(index: int) -> RevisionGuard:
    horizon = RevisionGuard()
    horizon.saw(index)
    return horizon


@pytest.mark.parametrize('index', [10, 11])
def test_answer_of_one_server_is_taken_if_it_is_no_older_than_what_was_seen(index: int) -> None:
    """And nobody else is asked."""
    horizon, servers = seen(10), Servers(index)
    assert horizon.read(LOCAL, servers).etcd_index == horizon.index == index
    assert servers.asked == [False]


@pytest.mark.parametrize('stale', [9, KeyNotFound(index=9), FutureRevision('a page of a later revision')])
def test_all_are_asked_if_one_is_behind(stale: int | EtcException) -> None:
    """Also where it says that there is no such key, or cannot go on with a listing that another began."""
    horizon, servers = seen(10), Servers(stale, 12)
    assert horizon.read(LOCAL, servers).etcd_index == horizon.index == 12
    assert servers.asked == [False, True]


@pytest.mark.parametrize('error', [KeyNotFound(index=10), KeyNotFound(), TimedOut('x'), LeaderElect(index=3)])
def test_refusal_that_is_no_older_and_trouble_are_raised(error: EtcException) -> None:
    """Nobody else is asked."""
    horizon, servers = seen(10), Servers(error)
    with pytest.raises(type(error)):
        horizon.read(LOCAL, servers)
    assert (servers.asked, horizon.index) == ([False], 10)


def test_nothing_is_answered_if_not_all_can_be_asked() -> None:
    """The error is theirs; what was seen stays seen."""
    horizon, servers = seen(10), Servers(9, TimedOut('no quorum'))
    with pytest.raises(TimedOut, match='no quorum'):
        horizon.read(LOCAL, servers)
    assert horizon.index == 10


@pytest.mark.parametrize('agreed', [3, KeyNotFound(index=3)])
def test_store_that_went_back_is_seen_anew(agreed: int | EtcException) -> None:
    """It was wiped or restored: all answers are behind what was seen; the next answer of one server is taken."""
    horizon, servers = seen(10), Servers(3, agreed)
    if isinstance(agreed, EtcException):
        with pytest.raises(KeyNotFound):
            horizon.read(LOCAL, servers)
    else:
        assert horizon.read(LOCAL, servers).etcd_index == 3
    assert horizon.index == 3
    assert horizon.read(LOCAL, servers).etcd_index == 3
    assert servers.asked == [False, True, True, False]  # one answer alone proves nothing


def test_agreement_is_compared_with_what_was_seen_before_it_was_asked_for() -> None:
    """What a watch told meanwhile is later, and no sign of a store that went back."""
    horizon = seen(10)

    def execute() -> EtcdResult:
        horizon.saw(20)
        return Servers(0, 15)(Get('/a', quorum=True))

    assert horizon.agree(execute).etcd_index == 15
    assert horizon.index == 20


@pytest.mark.parametrize('api', ['agree', 'write'])
@pytest.mark.parametrize(('index', 'seen_then'), [(11, 11), (4, 4), (None, 10)])
def test_refusal_shows_how_far_etcd_is(api: str, index: int | None, seen_then: int) -> None:
    """As answers do."""
    horizon = seen(10)
    with pytest.raises(KeyNotFound):
        getattr(horizon, api)(_raising(KeyNotFound(index=index)))
    assert horizon.index == seen_then


class Members:
    """Servers that answer linearizable reads, each with its own index, or with an error."""

    def __init__(self, *answers: int | EtcException) -> None:
        self.horizon = RevisionGuard(len(answers), self._turn)
        self.asked: list[int] = []
        self._answers = answers
        self._current = 0

    def __call__(self) -> EtcdResult:
        self.asked.append(self._current)
        answer = self._answers[self._current]
        if isinstance(answer, EtcException):
            raise answer
        return Got(Value('/a', 1, 1, None, None, 'x'), etcd_index=answer)

    def _turn(self) -> None:
        self._current = (self._current + 1) % len(self._answers)


@pytest.mark.parametrize('stale', [9, KeyNotFound(index=9)])
def test_linearizable_answer_that_is_older_than_what_was_seen_is_not_given_out(stale: int | EtcException) -> None:
    """Another server is asked, and the guard stays where it was."""
    members = Members(stale, stale, 12)
    members.horizon.saw(10)
    assert members.horizon.agree(members).etcd_index == members.horizon.index == 12
    assert members.asked == [0, 1, 2]
    members = Members(9, 12)
    members.horizon.saw(10)
    assert members.horizon.observe_quorum(lambda: members().etcd_index) == 12


def test_read_fails_if_the_other_servers_cannot_confirm_that_the_store_went_back() -> None:
    """One server alone proves nothing."""
    members = Members(9, TimedOut('no answer'), 9)
    members.horizon.saw(10)
    with pytest.raises(TimedOut):
        members.horizon.agree(members)
    assert members.horizon.index == 10


def test_store_went_back_if_every_server_is_behind() -> None:
    """It is seen anew from there."""
    members = Members(9, 8, 9)
    members.horizon.saw(10)
    assert members.horizon.agree(members).etcd_index == members.horizon.index == 9
    assert members.asked == [0, 1, 2]


def test_write_with_an_older_index_is_done_once_and_proves_that_the_store_went_back() -> None:
    """Its index is the outcome of consensus."""
    members = Members(3, 12)
    members.horizon.saw(10)
    assert members.horizon.write(members).etcd_index == members.horizon.index == 3
    assert members.asked == [0]


def test_answer_without_an_index_says_nothing_of_the_store() -> None:
    """A proxy has cut it out."""
    horizon = seen(10)
    horizon.agree(lambda: Servers(0)(LOCAL))
    horizon.write(lambda: Servers(0)(LOCAL))
    assert horizon.index == 10


def test_trouble_says_nothing_of_the_store() -> None:
    """A server without a leader tells its own index."""
    horizon = seen(10)
    with pytest.raises(LeaderElect):
        horizon.agree(_raising(LeaderElect(index=4)))
    assert horizon.index == 10


def _raising(error: EtcException) -> Callable[[], EtcdResult]:
    def execute() -> EtcdResult:
        raise error

    return execute
