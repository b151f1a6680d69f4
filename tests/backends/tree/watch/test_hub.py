"""Watches of the tree, on a fake etcd: sharing, replay, catching up, recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import pytest

from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.watch import replay_buffer
from getc.backends.tree.watch.hub import WatchHub
from getc.errors import ClientClosed, ConnectionError, EtcException, EventIndexCleared, PermissionDenied, Unauthorized
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.testing import VirtualTime
from getc.v3.schema.watch import WatchResponse
from tests.support.fake_etcd import FakeEtcd
from tests.support.fake_faults import delay, hang, refuse
from tests.support.fake_rpc import FakeRpc
from tests.support.leftovers import check_greenlets, greenlets_of_getc


class Recorder:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.live_at: int | None = None
        self.caught_up_after: int | None = None  # revisions
        self.revisions: list[list[str]] = []
        self.error: EtcException | None = None
        self.on_event: Callable[[], object] = lambda: None

    @property
    def changes(self) -> list[str]:
        """All changes, such as ``Set /a=1``."""
        return [change for revision in self.revisions for change in revision]

    def on_live(self, index: int) -> None:
        assert self.live_at is None
        self.live_at = index

    def on_caught_up(self) -> None:
        self.caught_up_after = len(self.revisions)

    def on_changes(self, results: Sequence[EtcdResult]) -> None:
        assert self.live_at is not None
        assert self.error is None
        self.revisions.append([_text(result) for result in results])
        self.on_event()

    def on_ended(self, error: EtcException) -> None:
        assert self.error is None
        self.error = error
        self.on_event()


def _text(result: EtcdResult) -> str:
    return f'{type(result).__name__} {result.key}' + ('' if result.value is None else f'={result.value}')


class Environment:
    """A hub on a fake etcd."""

    def __init__(self, clock: VirtualTime) -> None:
        self.server = FakeEtcd()
        self.rpc: Any = FakeRpc(self.server)
        self.guard = RevisionGuard()
        self.hub = WatchHub(self.rpc, self.guard)
        self.settle: Callable[[], None] = lambda: clock.advance(0)

    def subscribe(self, key: str = '/', index: int | None = None, *, after: Any = None) -> tuple[Recorder, Any]:
        """Subscribe, and return when the watch is live."""
        recorder = Recorder()
        watch = self.hub.subscribe(WatchSpec(key, index, True), recorder, after)
        self.settle()
        return recorder, watch

    @property
    def server_watches(self) -> int:
        """The number of watches on the server."""
        return sum(len(getattr(stream, 'watches', ())) for stream in self.server.streams)


@pytest.fixture
def env(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Environment]:
    """The environment; at its end, no greenlet may be left."""
    env = Environment(etcd_clock)
    yield env
    env.hub.close()
    env.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


# -- sharing


def test_hub_uses_one_stream_and_one_server_watch_for_each_range(env: Environment) -> None:
    index = env.server.revision + 1
    recorders = [env.subscribe(key, index)[0] for key in ('/a', '/a', '/b')]
    env.server.put('/a/x', '1')
    env.server.put('/b/x', '2')
    env.settle()
    assert [recorder.changes for recorder in recorders] == [['Set /a/x=1'], ['Set /a/x=1'], ['Set /b/x=2']]
    assert (len(env.server.streams), env.server_watches) == (1, 2)


def test_shared_watch_is_cancelled_when_its_last_subscriber_leaves(env: Environment) -> None:
    """A later subscriber creates another one."""
    (first, one), (second, two) = (env.subscribe('/a', 2) for _ in range(2))
    one.close()
    one.close()
    assert env.server_watches == 1
    env.server.put('/a', '1')
    env.settle()
    assert (first.changes, second.changes) == ([], ['Set /a=1'])
    two.close()
    env.settle()
    assert env.server_watches == 0
    third, _ = env.subscribe('/a', 2)
    assert third.changes == ['Set /a=1']


def test_new_subscriber_receives_the_replay_from_its_index_on(env: Environment) -> None:
    """A daemon lists at an index while the watch goes on: it needs all changes since, each once."""
    first, _ = env.subscribe('/a', 2)
    for number in range(2, 7):
        env.server.put('/a', str(number))
    env.settle()
    late, _ = env.subscribe('/a', 4)
    early, _ = env.subscribe('/a', 9)
    for number in range(7, 10):
        env.server.put('/a', str(number))
    env.settle()
    assert first.changes == [f'Set /a={number}' for number in range(2, 10)]
    assert (late.live_at, late.changes) == (3, [f'Set /a={number}' for number in range(4, 10)])
    assert (early.live_at, early.changes) == (8, ['Set /a=9'])
    assert env.server_watches == 1


def test_subscriber_gets_its_own_watch_when_the_replay_is_too_short_and_is_merged_later(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 3 * replay_buffer.MIN_BYTES)
    first, _ = env.subscribe('/a', 2)
    for number in range(2, 12):
        env.server.put('/a', str(number))
        env.settle()
    late = Recorder()
    env.hub.subscribe(WatchSpec('/a', 2, True), late)
    assert env.server_watches == 2
    env.settle()
    assert late.changes == [f'Set /a={number}' for number in range(2, 12)]
    assert env.server_watches == 1
    env.server.put('/a', '12')
    env.settle()
    assert first.changes == late.changes == [f'Set /a={number}' for number in range(2, 13)]


def test_subscriber_without_index_gets_its_own_watch(env: Environment) -> None:
    """The shared watch may still deliver changes from before the subscription."""
    shared, _ = env.subscribe('/a', 2)
    env.server.put('/a', '2')
    now, watch = env.subscribe('/a')
    assert now.live_at == 2
    env.server.put('/a', '3')
    env.settle()
    assert (shared.changes, now.changes) == (['Set /a=2', 'Set /a=3'], ['Set /a=3'])
    assert env.server_watches == 1
    watch.close()
    env.settle()
    assert env.server_watches == 1


def test_merged_subscriber_can_be_closed(env: Environment) -> None:
    shared, other = env.subscribe('/a', 2)
    moved, watch = env.subscribe('/a')
    env.server.put('/a', '2')
    env.settle()
    watch.close()
    env.server.put('/a', '3')
    env.settle()
    assert (shared.changes, moved.changes) == (['Set /a=2', 'Set /a=3'], ['Set /a=2'])
    other.close()
    env.settle()
    assert env.server_watches == 0


def test_thousands_of_subscribers_share_one_server_watch(env: Environment) -> None:
    recorders = [env.hub.subscribe(WatchSpec('/a', 2, True), Recorder()).listener for _ in range(5000)]  # type: ignore[attr-defined]
    env.settle()
    env.server.put('/a', '1')
    env.settle()
    assert {tuple(recorder.changes) for recorder in recorders} == {('Set /a=1',)}
    assert len(env.server.times('WatchCreate')) == 1


# -- delivery


def test_changes_of_one_revision_are_delivered_together(env: Environment) -> None:
    recorder, _ = env.subscribe('/d', 2)
    env.server.put_all({'/d/a': '1', '/d/b': '2', '/e': '3', '/d/c': '4'})
    env.server.put('/d/a', '5')
    env.settle()
    assert recorder.revisions == [['Set /d/a=1', 'Set /d/b=2', 'Set /d/c=4'], ['Set /d/a=5']]


def test_event_is_delivered_once_when_the_server_sends_it_twice(env: Environment) -> None:
    """As etcd 3.4.23 may do."""
    env.server.duplicates_events = True
    recorder, _ = env.subscribe('/d', 2)
    env.server.put_all({'/d/a': '1', '/d/b': '2'})
    env.server.put('/d/a', '3')
    env.settle()
    late, _ = env.subscribe('/d', 2)
    assert recorder.revisions == late.revisions == [['Set /d/a=1', 'Set /d/b=2'], ['Set /d/a=3']]


def test_key_between_a_node_and_its_children_is_ignored(env: Environment) -> None:
    """/d-e sorts between /d and /d/a."""
    recorder, _ = env.subscribe('/d', 2)
    env.server.put('/d-e', '1')
    env.server.put('/d', '2')
    env.settle()
    assert recorder.changes == ['Set /d=2']


# -- listeners


def test_listener_may_close_itself_and_others(env: Environment) -> None:
    """No closed subscriber is called, not even with changes that are queued for it."""
    recorders = [env.subscribe('/a', 2) for _ in range(3)]

    def close_all() -> None:
        for _, watch in recorders:
            watch.close()

    for recorder, _ in recorders:
        recorder.on_event = close_all
    env.server.put('/a', '1')
    env.server.put('/a', '2')
    env.settle()
    assert sorted(len(recorder.changes) for recorder, _ in recorders) == [0, 0, 1]
    assert env.server_watches == 0


def test_listener_may_subscribe_again_in_on_ended(env: Environment) -> None:
    """As a daemon does after its connection was lost."""
    recorder, watch = env.subscribe('/a', 2)
    again = Recorder()
    recorder.on_event = lambda: env.hub.subscribe(WatchSpec('/a', 2, True), again, watch)
    env.server.break_streams()
    env.server.put('/a', '1')
    env.settle()
    assert isinstance(recorder.error, ConnectionError)
    assert again.changes == ['Set /a=1']


# -- the stream


def _slow(do: Callable[[], Any], *_: Any) -> Any:
    """Delay a call by a second."""
    gevent.sleep(1)
    return do()


def test_close_while_the_stream_is_opened_leaves_no_stream(env: Environment, etcd_clock: VirtualTime) -> None:
    """The listener is notified of the end."""
    env.server.fault = _slow
    recorder, _ = env.subscribe('/a', 2)
    env.hub.close()
    etcd_clock.advance(5)
    assert recorder.live_at is None
    assert isinstance(recorder.error, ClientClosed)
    assert env.server.streams == []


def test_subscriber_closed_before_its_watch_is_created_leaves_no_watch(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    """Neither while the stream is opened, nor while the create request is in flight."""
    env.server.fault = _slow
    recorder, watch = env.subscribe('/a', 2)
    env.server.fault = None
    watch.close()
    etcd_clock.advance(2)
    kept, _ = env.subscribe('/b', 2)
    env.server.is_silent = True
    _, watch = env.subscribe('/c', 2)
    watch.close()
    env.server.is_silent = False
    env.server.put('/b', '1')
    env.settle()
    assert (recorder.live_at, kept.changes, env.server_watches) == (None, ['Set /b=1'], 1)


def test_all_listeners_are_notified_when_the_stream_is_lost_or_cannot_be_opened(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    recorders = [env.subscribe(key, 2)[0] for key in ('/a', '/a', '/b')]
    env.server.go_down()
    env.settle()
    assert all(isinstance(recorder.error, ConnectionError) for recorder in recorders)
    refused, _ = env.subscribe('/a', 2)
    assert isinstance(refused.error, ConnectionError)
    env.server.recover()
    again, _ = env.subscribe('/a', 2)
    assert again.live_at == 1


def test_changes_received_before_the_loss_are_delivered_before_the_error(env: Environment) -> None:
    recorder, _ = env.subscribe('/a', 2)
    env.server.put('/a', '1')
    env.server.break_streams()
    env.settle()
    assert recorder.changes == ['Set /a=1']
    assert isinstance(recorder.error, ConnectionError)


# -- history and store identity


def test_watch_of_compacted_history_ends_with_event_index_cleared(env: Environment) -> None:
    env.server.put('/a', '1')
    env.server.put('/a', '2')
    env.server.compact()
    recorder, _ = env.subscribe('/a', 2)
    assert isinstance(recorder.error, EventIndexCleared)
    assert env.server_watches == 0
    again, _ = env.subscribe('/a', 4)
    assert again.live_at == 3


def test_subscriber_of_later_history_gets_connection_error_when_earlier_history_was_compacted(env: Environment) -> None:
    """It joined a watch that starts too early; it may subscribe again and has no gap."""
    env.server.put('/a', '1')
    env.server.put('/a', '2')
    env.server.compact()
    early, late = Recorder(), Recorder()
    env.hub.subscribe(WatchSpec('/a', 2, True), early)
    env.hub.subscribe(WatchSpec('/a', 4, True), late)
    env.settle()
    assert isinstance(early.error, EventIndexCleared)
    assert isinstance(late.error, ConnectionError)
    again, _ = env.subscribe('/a', 4)
    env.server.put('/a', '3')
    env.settle()
    assert again.changes == ['Set /a=3']


def test_continued_watch_ends_when_the_cluster_id_differs(env: Environment) -> None:
    """The revision of the new store may be higher."""
    _, watch = env.subscribe('/a', 2)
    env.server.wipe()
    env.settle()
    for number in range(5):
        env.server.put('/a', str(number))
    recorder, _ = env.subscribe('/a', 2, after=watch)
    assert isinstance(recorder.error, EventIndexCleared)
    assert recorder.changes == []
    stranger, _ = env.subscribe('/a', 2)
    assert stranger.changes == [f'Set /a={number}' for number in range(5)]


def test_watch_ends_when_the_revision_of_the_store_went_back(env: Environment) -> None:
    """The cluster id may be the same.  Otherwise the watch would be silent until the store reaches the revision."""
    env.server.wipe(cluster_id=1)
    recorder, _ = env.subscribe('/a', 100)
    assert isinstance(recorder.error, EventIndexCleared)
    assert env.server_watches == 0


def test_watch_on_a_lagging_member_goes_live_after_a_quorum_read(env: Environment, etcd_clock: VirtualTime) -> None:
    """The cluster has reached the revision: the watch will deliver what follows."""
    env.server.put('/a', '1')

    def catch_up(do: Callable[[], Any], *_: Any) -> Any:
        env.server.put('/a', '2')
        gevent.sleep(1)
        env.server.put('/a', '3')
        return do()

    env.server.next('Range', catch_up)
    recorder, _ = env.subscribe('/a', 4)
    etcd_clock.advance(0.5)
    assert (recorder.live_at, recorder.changes) == (None, [])
    etcd_clock.advance(1)
    env.server.put('/a', '4')
    env.settle()
    assert (recorder.live_at, recorder.changes, recorder.error) == (3, ['Set /a=3', 'Set /a=4'], None)


def test_watch_without_index_starts_after_the_revision_that_the_client_has_seen(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    """Its member lags: changes that the client has read from another member are not delivered."""
    env.server.put('/a', '1')
    env.guard.observe(3)

    def catch_up(do: Callable[[], Any], *_: Any) -> Any:
        env.server.put('/a', '2')
        env.server.put('/a', '3')
        return do()

    env.server.next('Range', catch_up)
    recorder, _ = env.subscribe('/a')
    assert (recorder.live_at, recorder.changes, recorder.error) == (3, ['Set /a=3'], None)


def test_watch_without_index_starts_at_the_revision_of_a_store_that_went_back(env: Environment) -> None:
    env.server.put('/a', '1')
    env.guard.observe(100)
    recorder, _ = env.subscribe('/a')
    assert (recorder.live_at, env.guard.index) == (2, 2)
    env.server.put('/a', '2')
    env.settle()
    assert (recorder.changes, env.guard.index) == (['Set /a=2'], 3)


@pytest.mark.parametrize('fault', [refuse, hang])
def test_watch_ends_when_the_quorum_read_fails(env: Environment, etcd_clock: VirtualTime, fault: Any) -> None:
    env.server.next('Range', fault)
    recorder, _ = env.subscribe('/a', 100)
    etcd_clock.advance(10)
    assert isinstance(recorder.error, ConnectionError)
    assert env.server_watches == 0


@pytest.mark.parametrize('is_live', [True, False], ids=['live', 'not yet live'])
def test_subscriber_does_not_join_a_watch_on_a_lagging_server(
    env: Environment, etcd_clock: VirtualTime, is_live: bool
) -> None:
    """That watch may have caught up without a change that the subscriber has to receive first."""
    env.server.put('/a/x', '1')
    env.hub.subscribe(WatchSpec('/a', 3, True), Recorder())
    while not env.server_watches:
        gevent.sleep(0)  # the created response is under way
    if is_live:
        env.settle()
    env.server.is_silent = True
    env.server.put('/a/x', '2')
    env.server.is_silent = False
    env.guard.observe(3)  # by way of another server
    recorder = Recorder()
    env.hub.subscribe(WatchSpec('/a', 3, True, is_seen=True), recorder)
    env.settle()
    assert (recorder.changes[:1], recorder.caught_up_after) == (['Set /a/x=2'], 1)


def test_progress_response_requested_before_a_watch_does_not_mark_it_as_caught_up(
    env: Environment, etcd_clock: VirtualTime
) -> None:
    """The response arrives after the watch was created."""
    env.subscribe('/other', 2)
    env.server.put('/a/x', '1')
    env.server.history_delay = 1.0
    assert env.hub._watches.streams.latest is not None
    stream = env.server.streams[0]
    env.server.is_silent = True  # the response takes a while
    env.hub._watches.streams.latest.request_progress()
    env.server.is_silent = False
    recorder, _ = env.subscribe('/a', 2)
    stream.push(WatchResponse(header=env.server.header(), watch_id=-1))
    env.settle()
    assert (recorder.live_at, recorder.caught_up_after) == (1, None)
    etcd_clock.advance(1.5)
    assert (recorder.changes, recorder.caught_up_after) == (['Set /a/x=1'], 1)


# -- permission


def test_range_is_narrowed_to_the_children_when_the_user_may_not_read_all_of_it(env: Environment) -> None:
    env.server.forbidden.add((b'/d', b'/d0'))
    first, _ = env.subscribe('/d', 2)
    second, _ = env.subscribe('/d', 2)
    env.server.put('/d/a', '1')
    env.settle()
    assert first.changes == second.changes == ['Set /d/a=1']
    assert env.server_watches == 1


def test_watch_ends_with_permission_denied_when_the_children_may_not_be_read(env: Environment) -> None:
    env.server.forbidden |= {(b'/d', b'/d0'), (b'/d/', b'/d0')}
    recorder, _ = env.subscribe('/d', 2)
    assert isinstance(recorder.error, PermissionDenied)


# -- tokens


def test_watch_is_created_on_another_stream_when_the_token_is_stale(env: Environment) -> None:
    """One more stream serves all new watches; existing watches stay on the old one."""
    before, watch = env.subscribe('/before', 2)
    env.server.invalidate_tokens()
    index = env.server.revision + 1
    recorders = [Recorder() for _ in range(100)]
    for number, recorder in enumerate(recorders):
        env.hub.subscribe(WatchSpec(f'/after/{number % 50}', index, True), recorder)
    env.settle()
    env.server.put_all({'/before/a': '1', '/after/7/a': '2', '/after/49': '3'})
    env.settle()
    assert before.changes == ['Set /before/a=1']
    assert [recorder.changes for recorder in recorders if recorder.changes] == [
        ['Set /after/7/a=2'],
        ['Set /after/49=3'],
    ] * 2
    assert len(env.server.streams) == 2
    watch.close()
    env.settle()
    assert len(env.server.streams) == 1


def test_range_is_narrowed_on_a_stream_with_a_stale_token_only_when_a_read_is_denied(env: Environment) -> None:
    """The server may refuse both with the same error."""
    env.subscribe('/before', 2)
    env.server.invalidate_tokens()
    env.server.forbidden.add((b'/d', b'/d0'))
    narrow, _ = env.subscribe('/d', 2)
    wide, _ = env.subscribe('/e', 2)
    for key in ('/d', '/d/a', '/e', '/e/a'):
        env.server.put(key, '1')
    env.settle()
    assert narrow.changes == ['Set /d/a=1']
    assert wide.changes == ['Set /e=1', 'Set /e/a=1']


def test_watch_ends_when_it_is_refused_twice(env: Environment) -> None:
    """Reads are permitted and watches are not: one attempt on another stream is made."""
    env.server.invalidate_tokens(permanently=True)
    recorder, _ = env.subscribe('/d', 2)
    assert isinstance(recorder.error, Unauthorized)
    assert len(env.server.times('WatchCreate')) == 2
    assert env.server_watches == 0


def test_watch_ends_with_the_error_of_the_read_when_the_credentials_are_wrong(env: Environment) -> None:
    def guess(*_: Any) -> Any:
        raise Unauthorized('authentication failed, invalid user ID or password')

    env.subscribe('/before', 2)
    env.server.invalidate_tokens()
    env.server.next('Range', guess)
    recorder, _ = env.subscribe('/d', 2)
    assert 'invalid user ID or password' in str(recorder.error)


# -- expired or deleted


def test_key_is_expired_when_its_lease_is_gone_and_deleted_otherwise(env: Environment, etcd_clock: VirtualTime) -> None:
    recorder, _ = env.subscribe('/', 2)
    lease, other = (env.server.grant(5) for _ in range(2))
    env.server.put('/expires', 'x', lease)
    env.server.put('/deleted', 'x', other)
    env.server.put('/plain', 'x')
    env.server.delete('/deleted')
    env.server.delete('/plain')
    env.settle()
    env.server.revoke(lease)
    env.settle()
    assert recorder.changes[3:] == ['Deleted /deleted', 'Deleted /plain', 'Expired /expires']


def test_order_is_kept_during_a_lease_lookup(env: Environment, etcd_clock: VirtualTime) -> None:
    """Each lease is looked up once."""
    recorder, _ = env.subscribe('/', 2)
    other, _ = env.subscribe('/b', 2)
    lease = env.server.grant(5)
    env.server.put_all({'/a': '1'})
    env.server.put('/b', 'x', lease)
    env.server.put('/c', 'x', lease)
    env.server.next('LeaseTimeToLive', delay(1))
    env.server.delete('/b')
    env.server.put('/a', '2')
    env.server.delete('/c')
    etcd_clock.advance(0.5)
    assert recorder.changes[-1] == 'Set /c=x'
    etcd_clock.advance(1)
    assert recorder.changes[3:] == ['Deleted /b', 'Set /a=2', 'Deleted /c']
    assert other.changes == ['Set /b=x', 'Deleted /b']
    assert len(env.server.times('LeaseTimeToLive')) == 1


def test_key_counts_as_deleted_when_the_lease_lookup_times_out(env: Environment, etcd_clock: VirtualTime) -> None:
    recorder, _ = env.subscribe('/', 2)
    leases = [env.server.grant(50) for _ in range(100)]
    for number, lease in enumerate(leases):
        env.server.put(f'/{number}', 'x', lease)
    env.settle()
    env.server.fault = hang
    for lease in leases:
        env.server.revoke(lease)
    etcd_clock.advance(200)
    assert recorder.changes[100:] == [f'Deleted /{number}' for number in range(100)]


def test_watch_closed_during_a_lease_lookup_is_not_joined(env: Environment, etcd_clock: VirtualTime) -> None:
    _, watch = env.subscribe('/a', 2)
    lease = env.server.grant(50)
    env.server.put('/a', 'x', lease)
    env.server.next('LeaseTimeToLive', delay(1))
    env.server.revoke(lease)
    env.settle()
    watch.close()
    etcd_clock.advance(2)
    recorder, _ = env.subscribe('/a', 4)
    env.server.put('/a', 'y')
    env.settle()
    assert recorder.changes == ['Set /a=y']


def test_stream_lost_during_a_lease_lookup_loses_no_change(env: Environment, etcd_clock: VirtualTime) -> None:
    """The next watch delivers what this one did not."""
    first, watch = env.subscribe('/a', 2)
    lease = env.server.grant(50)
    env.server.put('/a', 'x', lease)
    env.settle()
    env.server.next('LeaseTimeToLive', delay(1))
    env.server.revoke(lease)
    env.settle()
    env.server.break_streams()
    env.settle()
    assert isinstance(first.error, ConnectionError)
    recorder, _ = env.subscribe('/a', 3, after=watch)
    etcd_clock.advance(2)
    env.server.put('/a', 'y')
    env.settle()
    assert (first.changes, recorder.changes) == (['Set /a=x'], ['Expired /a', 'Set /a=y'])


@pytest.mark.parametrize('is_new', [True, False])
def test_watch_ends_when_a_check_that_delivery_waits_for_is_killed(
    env: Environment, etcd_clock: VirtualTime, is_new: bool
) -> None:
    """It would be silent otherwise: gevent.killall of a program kills every greenlet."""
    recorder, _ = env.subscribe('/a', 2)
    lease = env.server.grant(50)
    env.server.put('/a', 'x', lease)
    env.settle()
    if is_new:
        env.server.next('Range', delay(1))
        recorder, _ = env.subscribe('/b', env.server.revision + 3)
    else:
        env.server.next('LeaseTimeToLive', delay(1))
        env.server.revoke(lease)
        env.settle()
    checks = [each for each in greenlets_of_getc() if 'getc watch of' in each.name]
    gevent.killall(checks, block=False)
    etcd_clock.advance(3)
    assert len(checks) == 1 and isinstance(recorder.error, ConnectionError)


# -- replay buffer


def test_replay_buffer_is_bounded_in_bytes_for_all_ranges_together(env: Environment) -> None:
    for number in range(20):
        env.subscribe(f'/{number}', 2)
    for _ in range(10):
        for number in range(20):
            env.server.put(f'/{number}', 'x' * 100_000)
            env.settle()
    assert env.hub._context.replay_buffer._bytes <= replay_buffer.BUFFER_BYTES
    held = sum(len(list(source._history.since(0))) for source in env.hub._context.by_range.values())
    assert 0 < held <= replay_buffer.BUFFER_BYTES / 100_000


def test_watch_without_changes_has_no_buffers(env: Environment) -> None:
    """There are thousands of them."""
    env.subscribe('/a', 2)
    (source,) = env.hub._context.by_range.values()
    assert source._history._revisions is None
    assert source._queue is None
