"""Following on v3: one stream for all, one watch of the server's for all who follow the same range."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gevent
import pytest

from getc.backends.monotonic import RevisionGuard
from getc.backends.tree.watch import replay_buffer
from getc.backends.tree.watch.hub import WatchHub
from getc.errors import ConnectionError, EtcException, EventIndexCleared, PermissionDenied, Unauthorized
from getc.operations import WatchSpec
from getc.results import EtcdResult
from getc.testing import VirtualTime
from getc.v3.schema.watch import WatchResponse
from tests.support.fake_etcd import FakeEtcd, FakeRpc, delay, hang, refuse
from tests.support.leftovers import check_greenlets


class Story:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.live_at: int | None = None
        self.caught_up_after: int | None = None  # revisions
        self.revisions: list[list[str]] = []
        self.error: EtcException | None = None
        self.on_news: Callable[[], object] = lambda: None

    @property
    def told(self) -> list[str]:
        """All changes: ``'Set /a=1'``."""
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
        self.on_news()

    def on_ended(self, error: EtcException) -> None:
        assert self.error is None
        self.error = error
        self.on_news()


def _text(result: EtcdResult) -> str:
    return f'{type(result).__name__} {result.key}' + ('' if result.value is None else f'={result.value}')


class Bench:
    """What is followed on a fake etcd."""

    def __init__(self, clock: VirtualTime) -> None:
        self.server = FakeEtcd()
        self.rpc: Any = FakeRpc(self.server)
        self.guard = RevisionGuard()
        self.following = WatchHub(self.rpc, self.guard)
        self.settle: Callable[[], None] = lambda: clock.advance(0)

    def follow(self, key: str = '/', index: int | None = None, *, after: Any = None) -> tuple[Story, Any]:
        """Follow; it has begun when this returns."""
        story = Story()
        watch = self.following.subscribe(WatchSpec(key, index, True), story, after)
        self.settle()
        return story, watch

    @property
    def watches(self) -> int:
        """Those that the server has."""
        return sum(len(getattr(stream, 'watches', ())) for stream in self.server.streams)


@pytest.fixture
def bench(request: pytest.FixtureRequest, etcd_clock: VirtualTime) -> Iterator[Bench]:
    """The bench; when all has ended, no greenlet may be left."""
    bench = Bench(etcd_clock)
    yield bench
    bench.following.close()
    bench.rpc.close()
    etcd_clock.advance(0)
    check_greenlets(request)


# -- sharing


def test_all_watches_are_on_one_stream_and_those_of_one_range_are_one(bench: Bench) -> None:
    """Three stories, two ranges."""
    index = bench.server.revision + 1
    stories = [bench.follow(key, index)[0] for key in ('/a', '/a', '/b')]
    bench.server.put('/a/x', '1')
    bench.server.put('/b/x', '2')
    bench.settle()
    assert [story.told for story in stories] == [['Set /a/x=1'], ['Set /a/x=1'], ['Set /b/x=2']]
    assert (len(bench.server.streams), bench.watches) == (1, 2)


def test_range_is_watched_until_the_last_follower_leaves(bench: Bench) -> None:
    """And again when another comes."""
    (first, one), (second, two) = (bench.follow('/a', 2) for _ in range(2))
    one.close()
    one.close()
    assert bench.watches == 1
    bench.server.put('/a', '1')
    bench.settle()
    assert (first.told, second.told) == ([], ['Set /a=1'])
    two.close()
    bench.settle()
    assert bench.watches == 0
    third, _ = bench.follow('/a', 2)
    assert third.told == ['Set /a=1']


def test_who_comes_a_moment_late_is_told_what_was_told_already(bench: Bench) -> None:
    """The listing was read at an index, and the watch has gone on since: no gap, and nothing twice."""
    first, _ = bench.follow('/a', 2)
    for number in range(2, 7):
        bench.server.put('/a', str(number))
    bench.settle()
    late, _ = bench.follow('/a', 4)
    early, _ = bench.follow('/a', 9)
    for number in range(7, 10):
        bench.server.put('/a', str(number))
    bench.settle()
    assert first.told == [f'Set /a={number}' for number in range(2, 10)]
    assert (late.live_at, late.told) == (3, [f'Set /a={number}' for number in range(4, 10)])
    assert (early.live_at, early.told) == (8, ['Set /a=9'])
    assert bench.watches == 1


def test_who_asks_for_more_than_is_remembered_reads_by_a_watch_of_its_own_and_joins(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As soon as the other knows all that is still to come."""
    monkeypatch.setattr(replay_buffer, 'BUFFER_BYTES', 3 * replay_buffer.MIN_BYTES)
    first, _ = bench.follow('/a', 2)
    for number in range(2, 12):
        bench.server.put('/a', str(number))
        bench.settle()
    late = Story()
    bench.following.subscribe(WatchSpec('/a', 2, True), late)
    assert bench.watches == 2
    bench.settle()
    assert late.told == [f'Set /a={number}' for number in range(2, 12)]
    assert bench.watches == 1
    bench.server.put('/a', '12')
    bench.settle()
    assert first.told == late.told == [f'Set /a={number}' for number in range(2, 13)]


def test_from_now_on_is_a_watch_of_its_own(bench: Bench) -> None:
    """What the shared one has not told yet would be no news."""
    shared, _ = bench.follow('/a', 2)
    bench.server.put('/a', '2')
    now, watch = bench.follow('/a')
    assert now.live_at == 2
    bench.server.put('/a', '3')
    bench.settle()
    assert (shared.told, now.told) == (['Set /a=2', 'Set /a=3'], ['Set /a=3'])
    assert bench.watches == 1
    watch.close()
    bench.settle()
    assert bench.watches == 1


def test_follower_that_moved_can_be_closed(bench: Bench) -> None:
    """It leaves the watch that it is on now."""
    shared, other = bench.follow('/a', 2)
    moved, watch = bench.follow('/a')
    bench.server.put('/a', '2')
    bench.settle()
    watch.close()
    bench.server.put('/a', '3')
    bench.settle()
    assert (shared.told, moved.told) == (['Set /a=2', 'Set /a=3'], ['Set /a=2'])
    other.close()
    bench.settle()
    assert bench.watches == 0


def test_thousands_of_followers_cost_the_server_one_watch(bench: Bench) -> None:
    """And each is told everything once."""
    stories = [bench.following.subscribe(WatchSpec('/a', 2, True), Story())._listener for _ in range(5000)]  # type: ignore[attr-defined]
    bench.settle()
    bench.server.put('/a', '1')
    bench.settle()
    assert {tuple(story.told) for story in stories} == {('Set /a=1',)}
    assert len(bench.server.times('WatchCreate')) == 1


# -- what is told


def test_revision_is_told_as_a_whole(bench: Bench) -> None:
    """A transaction that wrote several keys is one call."""
    story, _ = bench.follow('/d', 2)
    bench.server.put_all({'/d/a': '1', '/d/b': '2', '/e': '3', '/d/c': '4'})
    bench.server.put('/d/a', '5')
    bench.settle()
    assert story.revisions == [['Set /d/a=1', 'Set /d/b=2', 'Set /d/c=4'], ['Set /d/a=5']]


def test_event_that_a_server_sends_twice_is_told_once(bench: Bench) -> None:
    """etcd 3.4.23 may."""
    bench.server.doubles = True
    story, _ = bench.follow('/d', 2)
    bench.server.put_all({'/d/a': '1', '/d/b': '2'})
    bench.server.put('/d/a', '3')
    bench.settle()
    late, _ = bench.follow('/d', 2)
    assert story.revisions == late.revisions == [['Set /d/a=1', 'Set /d/b=2'], ['Set /d/a=3']]


def test_neighbour_in_the_range_is_no_news(bench: Bench) -> None:
    """/d-e lies between /d and /d/a."""
    story, _ = bench.follow('/d', 2)
    bench.server.put('/d-e', '1')
    bench.server.put('/d', '2')
    bench.settle()
    assert story.told == ['Set /d=2']


# -- listeners


def test_listener_may_close_itself_and_others(bench: Bench) -> None:
    """They hear nothing more, not even what was on its way to them."""
    stories = [bench.follow('/a', 2) for _ in range(3)]

    def close_all() -> None:
        for _, watch in stories:
            watch.close()

    for story, _ in stories:
        story.on_news = close_all
    bench.server.put('/a', '1')
    bench.server.put('/a', '2')
    bench.settle()
    assert sorted(len(story.told) for story, _ in stories) == [0, 0, 1]
    assert bench.watches == 0


def test_listener_may_follow_on_from_its_end(bench: Bench) -> None:
    """As a daemon does that lost its connection."""
    story, watch = bench.follow('/a', 2)
    again = Story()
    story.on_news = lambda: bench.following.subscribe(WatchSpec('/a', 2, True), again, watch)
    bench.server.break_streams()
    bench.server.put('/a', '1')
    bench.settle()
    assert isinstance(story.error, ConnectionError)
    assert again.told == ['Set /a=1']


# -- the stream


def _slow(do: Callable[[], Any], *_: Any) -> Any:
    """The connection takes a while."""
    gevent.sleep(1)
    return do()


def test_close_before_the_stream_is_open_leaves_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Nobody is told, then or later."""
    bench.server.fault = _slow
    story, _ = bench.follow('/a', 2)
    bench.following.close()
    etcd_clock.advance(5)
    assert (story.live_at, story.error) == (None, None)
    assert bench.server.streams == []


def test_follower_that_leaves_before_its_watch_is_on_leaves_nothing(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Neither while the stream is opened, nor while the watch is asked for."""
    bench.server.fault = _slow
    story, watch = bench.follow('/a', 2)
    bench.server.fault = None
    watch.close()
    etcd_clock.advance(2)
    kept, _ = bench.follow('/b', 2)
    bench.server.is_silent = True
    _, watch = bench.follow('/c', 2)
    watch.close()
    bench.server.is_silent = False
    bench.server.put('/b', '1')
    bench.settle()
    assert (story.live_at, kept.told, bench.watches) == (None, ['Set /b=1'], 1)


def test_everybody_is_told_when_the_stream_is_lost_or_cannot_be_opened(bench: Bench, etcd_clock: VirtualTime) -> None:
    """ConnectionError, last; the next one opens another."""
    stories = [bench.follow(key, 2)[0] for key in ('/a', '/a', '/b')]
    bench.server.go_down()
    bench.settle()
    assert all(isinstance(story.error, ConnectionError) for story in stories)
    refused, _ = bench.follow('/a', 2)
    assert isinstance(refused.error, ConnectionError)
    bench.server.come_back()
    again, _ = bench.follow('/a', 2)
    assert again.live_at == 1


def test_what_came_before_the_loss_is_told_before_it(bench: Bench) -> None:
    """What was told is whole."""
    story, _ = bench.follow('/a', 2)
    bench.server.put('/a', '1')
    bench.server.break_streams()
    bench.settle()
    assert story.told == ['Set /a=1']
    assert isinstance(story.error, ConnectionError)


# -- history, and whose


def test_compacted_history_is_cleared(bench: Bench) -> None:
    """List, compare, and watch from there."""
    bench.server.put('/a', '1')
    bench.server.put('/a', '2')
    bench.server.compact()
    story, _ = bench.follow('/a', 2)
    assert isinstance(story.error, EventIndexCleared)
    assert bench.watches == 0
    again, _ = bench.follow('/a', 4)
    assert again.live_at == 3


def test_who_asked_for_less_than_was_cleared_lost_nothing(bench: Bench) -> None:
    """He joined a watch that began too early, before it was refused: he may ask again, and has no gap."""
    bench.server.put('/a', '1')
    bench.server.put('/a', '2')
    bench.server.compact()
    early, late = Story(), Story()
    bench.following.subscribe(WatchSpec('/a', 2, True), early)
    bench.following.subscribe(WatchSpec('/a', 4, True), late)
    bench.settle()
    assert isinstance(early.error, EventIndexCleared)
    assert isinstance(late.error, ConnectionError)
    again, _ = bench.follow('/a', 4)
    bench.server.put('/a', '3')
    bench.settle()
    assert again.told == ['Set /a=3']


def test_another_store_is_told_by_its_id(bench: Bench) -> None:
    """Its revision may be higher already."""
    _, watch = bench.follow('/a', 2)
    bench.server.wipe()
    bench.settle()
    for number in range(5):
        bench.server.put('/a', str(number))
    story, _ = bench.follow('/a', 2, after=watch)
    assert isinstance(story.error, EventIndexCleared)
    assert story.told == []
    stranger, _ = bench.follow('/a', 2)
    assert stranger.told == [f'Set /a={number}' for number in range(5)]


def test_store_whose_revision_went_back_is_another_one(bench: Bench) -> None:
    """Though it has the same id: it would tell nothing until it has come so far."""
    bench.server.wipe(cluster_id=1)
    story, _ = bench.follow('/a', 100)
    assert isinstance(story.error, EventIndexCleared)
    assert bench.watches == 0


def test_member_that_lags_is_waited_for(bench: Bench, etcd_clock: VirtualTime) -> None:
    """etcd as a whole has come so far: the watch is good, and tells what comes."""
    bench.server.put('/a', '1')

    def catch_up(do: Callable[[], Any], *_: Any) -> Any:
        bench.server.put('/a', '2')
        gevent.sleep(1)
        bench.server.put('/a', '3')
        return do()

    bench.server.next('Range', catch_up)
    story, _ = bench.follow('/a', 4)
    etcd_clock.advance(0.5)
    assert (story.live_at, story.told) == (None, [])
    etcd_clock.advance(1)
    bench.server.put('/a', '4')
    bench.settle()
    assert (story.live_at, story.told, story.error) == (3, ['Set /a=3', 'Set /a=4'], None)


def test_watch_from_now_on_begins_no_earlier_than_what_was_seen(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Its member lags: what the client has seen by way of another is no news when it arrives here."""
    bench.server.put('/a', '1')
    bench.guard.observe(3)

    def catch_up(do: Callable[[], Any], *_: Any) -> Any:
        bench.server.put('/a', '2')
        bench.server.put('/a', '3')
        return do()

    bench.server.next('Range', catch_up)
    story, _ = bench.follow('/a')
    assert (story.live_at, story.told, story.error) == (3, ['Set /a=3'], None)


def test_watch_from_now_on_begins_in_a_store_that_went_back(bench: Bench) -> None:
    """etcd as a whole knows less than was seen: now is what it says."""
    bench.server.put('/a', '1')
    bench.guard.observe(100)
    story, _ = bench.follow('/a')
    assert (story.live_at, bench.guard.index) == (2, 2)
    bench.server.put('/a', '2')
    bench.settle()
    assert (story.told, bench.guard.index) == (['Set /a=2'], 3)


@pytest.mark.parametrize('fault', [refuse, hang])
def test_watch_ends_when_nobody_can_say_how_far_etcd_has_come(
    bench: Bench, etcd_clock: VirtualTime, fault: Any
) -> None:
    """The next one asks again."""
    bench.server.next('Range', fault)
    story, _ = bench.follow('/a', 100)
    etcd_clock.advance(10)
    assert isinstance(story.error, ConnectionError)
    assert bench.watches == 0


@pytest.mark.parametrize('is_live', [True, False], ids=['live', 'not yet live'])
def test_follower_joins_no_watch_whose_server_lags_behind_what_the_follower_was_told(
    bench: Bench, etcd_clock: VirtualTime, is_live: bool
) -> None:
    """That watch has caught up without the change that has to come first."""
    bench.server.put('/a/x', '1')
    bench.following.subscribe(WatchSpec('/a', 3, True), Story())
    while not bench.watches:
        gevent.sleep(0)  # the created response is under way
    if is_live:
        bench.settle()
    bench.server.is_silent = True
    bench.server.put('/a/x', '2')
    bench.server.is_silent = False
    bench.guard.observe(3)  # by way of another server
    story = Story()
    bench.following.subscribe(WatchSpec('/a', 3, True, is_seen=True), story)
    bench.settle()
    assert (story.told[:1], story.caught_up_after) == (['Set /a/x=2'], 1)


def test_progress_response_from_before_a_watch_does_not_make_it_caught_up(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """It was requested for another watch of the stream, and arrives after this one was created."""
    bench.follow('/other', 2)
    bench.server.put('/a/x', '1')
    bench.server.history_delay = 1.0
    assert bench.following._streams.latest is not None
    stream = bench.server.streams[0]
    bench.server.is_silent = True  # the response takes a while
    bench.following._streams.latest.request_progress()
    bench.server.is_silent = False
    story, _ = bench.follow('/a', 2)
    stream.say(WatchResponse(header=bench.server.header(), watch_id=-1))
    bench.settle()
    assert (story.live_at, story.caught_up_after) == (1, None)
    etcd_clock.advance(1.5)
    assert (story.told, story.caught_up_after) == (['Set /a/x=1'], 1)


# -- permission


def test_range_that_is_too_wide_for_the_user_is_narrowed(bench: Bench) -> None:
    """What is below, without a value in its place."""
    bench.server.forbidden.add((b'/d', b'/d0'))
    first, _ = bench.follow('/d', 2)
    second, _ = bench.follow('/d', 2)
    bench.server.put('/d/a', '1')
    bench.settle()
    assert first.told == second.told == ['Set /d/a=1']
    assert bench.watches == 1


def test_user_who_may_not_even_read_below_is_told(bench: Bench) -> None:
    """A refusal."""
    bench.server.forbidden |= {(b'/d', b'/d0'), (b'/d/', b'/d0')}
    story, _ = bench.follow('/d', 2)
    assert isinstance(story.error, PermissionDenied)


# -- tokens


def test_watch_begins_on_another_stream_when_the_token_of_the_first_was_forgotten(bench: Bench) -> None:
    """However many come, one more stream is enough; what was watched before goes on where it is."""
    before, watch = bench.follow('/before', 2)
    bench.server.forget_tokens()
    index = bench.server.revision + 1
    stories = [Story() for _ in range(100)]
    for number, story in enumerate(stories):
        bench.following.subscribe(WatchSpec(f'/after/{number % 50}', index, True), story)
    bench.settle()
    bench.server.put_all({'/before/a': '1', '/after/7/a': '2', '/after/49': '3'})
    bench.settle()
    assert before.told == ['Set /before/a=1']
    assert [story.told for story in stories if story.told] == [['Set /after/7/a=2'], ['Set /after/49=3']] * 2
    assert len(bench.server.streams) == 2
    watch.close()
    bench.settle()
    assert len(bench.server.streams) == 1


def test_range_is_narrowed_on_a_stream_whose_token_was_forgotten(bench: Bench) -> None:
    """For a user who may not read all of it; and not for one who may, though the refusal may be the same."""
    bench.follow('/before', 2)
    bench.server.forget_tokens()
    bench.server.forbidden.add((b'/d', b'/d0'))
    narrow, _ = bench.follow('/d', 2)
    wide, _ = bench.follow('/e', 2)
    for key in ('/d', '/d/a', '/e', '/e/a'):
        bench.server.put(key, '1')
    bench.settle()
    assert narrow.told == ['Set /d/a=1']
    assert wide.told == ['Set /e=1', 'Set /e/a=1']


def test_watch_that_is_refused_again_is_told(bench: Bench) -> None:
    """Reads are permitted, and no watch is: it is tried once on another stream."""
    bench.server.forget_tokens(for_ever=True)
    story, _ = bench.follow('/d', 2)
    assert isinstance(story.error, Unauthorized)
    assert len(bench.server.times('WatchCreate')) == 2
    assert bench.watches == 0


def test_watch_whose_credentials_are_wrong_by_now_is_told_so(bench: Bench) -> None:
    """By what the read was refused with, which says more."""

    def guess(*_: Any) -> Any:
        raise Unauthorized('authentication failed, invalid user ID or password')

    bench.follow('/before', 2)
    bench.server.forget_tokens()
    bench.server.next('Range', guess)
    story, _ = bench.follow('/d', 2)
    assert 'invalid user ID or password' in str(story.error)


# -- expired or deleted


def test_key_that_went_with_its_lease_has_expired(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Any other was deleted."""
    story, _ = bench.follow('/', 2)
    lease, other = (bench.server.grant(5) for _ in range(2))
    bench.server.put('/expires', 'x', lease)
    bench.server.put('/deleted', 'x', other)
    bench.server.put('/plain', 'x')
    bench.server.delete('/deleted')
    bench.server.delete('/plain')
    bench.settle()
    bench.server.revoke(lease)
    bench.settle()
    assert story.told[3:] == ['Deleted /deleted', 'Deleted /plain', 'Expired /expires']


def test_order_is_kept_while_it_is_asked(bench: Bench, etcd_clock: VirtualTime) -> None:
    """What comes meanwhile is told after it; and each lease is asked about once."""
    story, _ = bench.follow('/', 2)
    other, _ = bench.follow('/b', 2)
    lease = bench.server.grant(5)
    bench.server.put_all({'/a': '1'})
    bench.server.put('/b', 'x', lease)
    bench.server.put('/c', 'x', lease)
    bench.server.next('LeaseTimeToLive', delay(1))
    bench.server.delete('/b')
    bench.server.put('/a', '2')
    bench.server.delete('/c')
    etcd_clock.advance(0.5)
    assert story.told[-1] == 'Set /c=x'
    etcd_clock.advance(1)
    assert story.told[3:] == ['Deleted /b', 'Set /a=2', 'Deleted /c']
    assert other.told == ['Set /b=x', 'Deleted /b']
    assert len(bench.server.times('LeaseTimeToLive')) == 1


def test_question_that_is_not_answered_counts_as_deleted_after_a_moment(bench: Bench, etcd_clock: VirtualTime) -> None:
    """Events do not wait longer for a word of difference."""
    story, _ = bench.follow('/', 2)
    leases = [bench.server.grant(50) for _ in range(100)]
    for number, lease in enumerate(leases):
        bench.server.put(f'/{number}', 'x', lease)
    bench.settle()
    bench.server.fault = hang
    for lease in leases:
        bench.server.revoke(lease)
    etcd_clock.advance(200)
    assert story.told[100:] == [f'Deleted /{number}' for number in range(100)]


def test_follower_that_leaves_during_the_question_leaves_the_range_to_the_next(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """The watch that it was on is over, and nobody may join it."""
    _, watch = bench.follow('/a', 2)
    lease = bench.server.grant(50)
    bench.server.put('/a', 'x', lease)
    bench.server.next('LeaseTimeToLive', delay(1))
    bench.server.revoke(lease)
    bench.settle()
    watch.close()
    etcd_clock.advance(2)
    story, _ = bench.follow('/a', 4)
    bench.server.put('/a', 'y')
    bench.settle()
    assert story.told == ['Set /a=y']


def test_loss_of_the_stream_during_the_question_leaves_the_range_to_the_next(
    bench: Bench, etcd_clock: VirtualTime
) -> None:
    """What was not told yet is told by the next watch, from where the last one stopped."""
    first, watch = bench.follow('/a', 2)
    lease = bench.server.grant(50)
    bench.server.put('/a', 'x', lease)
    bench.settle()
    bench.server.next('LeaseTimeToLive', delay(1))
    bench.server.revoke(lease)
    bench.settle()
    bench.server.break_streams()
    bench.settle()
    assert isinstance(first.error, ConnectionError)
    story, _ = bench.follow('/a', 3, after=watch)
    etcd_clock.advance(2)
    bench.server.put('/a', 'y')
    bench.settle()
    assert (first.told, story.told) == (['Set /a=x'], ['Expired /a', 'Set /a=y'])


# -- what is remembered


def test_what_is_remembered_is_bounded_for_all_ranges_together(bench: Bench) -> None:
    """In bytes: a few large values weigh as much as many small ones."""
    for number in range(20):
        bench.follow(f'/{number}', 2)
    for _ in range(10):
        for number in range(20):
            bench.server.put(f'/{number}', 'x' * 100_000)
            bench.settle()
    assert bench.following._context.replay_buffer._bytes <= replay_buffer.BUFFER_BYTES
    held = sum(len(list(source._history.since(0))) for source in bench.following._context.by_range.values())
    assert 0 < held <= replay_buffer.BUFFER_BYTES / 100_000


def test_quiet_range_remembers_nothing(bench: Bench) -> None:
    """There are thousands."""
    bench.follow('/a', 2)
    (source,) = bench.following._context.by_range.values()
    assert source._history._revisions is None
    assert source._queue is None
