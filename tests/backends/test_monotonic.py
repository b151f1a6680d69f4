"""Monotonic reads: no response is older than what the client has seen, unless the store went back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from getc.backends.monotonic import RevisionGuard
from getc.errors import EtcException, FutureRevision, KeyNotFound, LeaderElect, TimedOut
from getc.operations import Get
from getc.results import EtcdResult, Got, Value

SERIALIZABLE = Get('/a', quorum=False)


class Cluster:
    """The response of one server and that of a quorum; an error is raised."""

    def __init__(self, local: int | EtcException, quorum: int | EtcException = 0) -> None:
        self.requests: list[bool | None] = []
        self._local = local
        self._quorum = quorum

    def __call__(self, get: Get) -> EtcdResult:
        self.requests.append(get.quorum)
        response = self._quorum if get.quorum else self._local
        if isinstance(response, EtcException):
            raise response
        return Got(Value('/a', 1, 1, None, None, 'x'), etcd_index=response)


def guard_at(index: int) -> RevisionGuard:
    guard = RevisionGuard()
    guard.observe(index)
    return guard


@pytest.mark.parametrize('index', [10, 11])
def test_serializable_response_is_returned_if_it_is_not_behind(index: int) -> None:
    guard, cluster = guard_at(10), Cluster(index)
    assert guard.run_serializable(SERIALIZABLE, cluster).etcd_index == guard.index == index
    assert cluster.requests == [False]


@pytest.mark.parametrize('stale', [9, KeyNotFound(index=9), FutureRevision('a page of a later revision')])
def test_linearizable_read_follows_a_serializable_response_that_is_behind(stale: int | EtcException) -> None:
    """Also where the server reports that the key does not exist, or cannot continue a listing of another server."""
    guard, cluster = guard_at(10), Cluster(stale, 12)
    assert guard.run_serializable(SERIALIZABLE, cluster).etcd_index == guard.index == 12
    assert cluster.requests == [False, True]


@pytest.mark.parametrize('error', [KeyNotFound(index=10), KeyNotFound(), TimedOut('x'), LeaderElect(index=3)])
def test_serializable_read_raises_refusals_that_are_not_behind_and_failures(error: EtcException) -> None:
    guard, cluster = guard_at(10), Cluster(error)
    with pytest.raises(type(error)):
        guard.run_serializable(SERIALIZABLE, cluster)
    assert (cluster.requests, guard.index) == ([False], 10)


def test_serializable_read_raises_the_error_of_the_linearizable_read_that_follows() -> None:
    """The guard keeps its index."""
    guard, cluster = guard_at(10), Cluster(9, TimedOut('no quorum'))
    with pytest.raises(TimedOut, match='no quorum'):
        guard.run_serializable(SERIALIZABLE, cluster)
    assert guard.index == 10


@pytest.mark.parametrize('quorum', [3, KeyNotFound(index=3)])
def test_store_that_went_back_resets_the_guard(quorum: int | EtcException) -> None:
    """The store was wiped or restored: every response is behind.  The next serializable response is returned."""
    guard, cluster = guard_at(10), Cluster(3, quorum)
    if isinstance(quorum, EtcException):
        with pytest.raises(KeyNotFound):
            guard.run_serializable(SERIALIZABLE, cluster)
    else:
        assert guard.run_serializable(SERIALIZABLE, cluster).etcd_index == 3
    assert guard.index == 3
    assert guard.run_serializable(SERIALIZABLE, cluster).etcd_index == 3
    assert cluster.requests == [False, True, True, False]  # one linearizable response alone proves nothing


def test_linearizable_response_is_compared_with_the_index_before_the_request() -> None:
    """A later index that a watch delivered meanwhile does not mean that the store went back."""
    guard = guard_at(10)

    def execute() -> EtcdResult:
        guard.observe(20)
        return Cluster(0, 15)(Get('/a', quorum=True))

    assert guard.run_linearizable(execute).etcd_index == 15
    assert guard.index == 20


@pytest.mark.parametrize('method', ['run_linearizable', 'run_write'])
@pytest.mark.parametrize(('index', 'expected'), [(11, 11), (4, 4), (None, 10)])
def test_guard_takes_the_index_of_a_refusal(method: str, index: int | None, expected: int) -> None:
    guard = guard_at(10)
    with pytest.raises(KeyNotFound):
        getattr(guard, method)(_raising(KeyNotFound(index=index)))
    assert guard.index == expected


class Members:
    """Servers that respond to linearizable reads, each with an index of its own, or with an error."""

    def __init__(self, *responses: int | EtcException) -> None:
        self.guard = RevisionGuard(lambda: len(responses), self._turn)
        self.requested: list[int] = []
        self._responses = responses
        self._current = 0

    def __call__(self) -> EtcdResult:
        self.requested.append(self._current)
        response = self._responses[self._current]
        if isinstance(response, EtcException):
            raise response
        return Got(Value('/a', 1, 1, None, None, 'x'), etcd_index=response)

    def _turn(self) -> None:
        self._current = (self._current + 1) % len(self._responses)


@pytest.mark.parametrize('stale', [9, KeyNotFound(index=9)])
def test_linearizable_read_is_repeated_on_the_next_server_while_it_is_behind(stale: int | EtcException) -> None:
    members = Members(stale, stale, 12)
    members.guard.observe(10)
    assert members.guard.run_linearizable(members).etcd_index == members.guard.index == 12
    assert members.requested == [0, 1, 2]
    members = Members(9, 12)
    members.guard.observe(10)
    assert members.guard.observe_quorum(lambda: members().etcd_index) == 12


def test_linearizable_read_fails_if_the_other_servers_cannot_confirm_that_the_store_went_back() -> None:
    """The response of one server alone proves nothing."""
    members = Members(9, TimedOut('no answer'), 9)
    members.guard.observe(10)
    with pytest.raises(TimedOut):
        members.guard.run_linearizable(members)
    assert members.guard.index == 10


def test_store_went_back_if_every_server_is_behind() -> None:
    members = Members(9, 8, 9)
    members.guard.observe(10)
    assert members.guard.run_linearizable(members).etcd_index == members.guard.index == 9
    assert members.requested == [0, 1, 2]


def test_write_with_an_older_index_is_sent_once_and_resets_the_guard() -> None:
    """Its index results from consensus."""
    members = Members(3, 12)
    members.guard.observe(10)
    assert members.guard.run_write(members).etcd_index == members.guard.index == 3
    assert members.requested == [0]


def test_response_without_an_index_does_not_change_the_guard() -> None:
    """A proxy removed the header."""
    guard = guard_at(10)
    guard.run_linearizable(lambda: Cluster(0)(SERIALIZABLE))
    guard.run_write(lambda: Cluster(0)(SERIALIZABLE))
    assert guard.index == 10


def test_server_failure_does_not_change_the_guard() -> None:
    """A server without a leader reports its own index."""
    guard = guard_at(10)
    with pytest.raises(LeaderElect):
        guard.run_linearizable(_raising(LeaderElect(index=4)))
    assert guard.index == 10


def _raising(error: EtcException) -> Callable[[], EtcdResult]:
    def execute() -> EtcdResult:
        raise error

    return execute
