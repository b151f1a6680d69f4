"""The example in virtual time: hours of a world in which servers are lost, cut off, drained and stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

import getc
from examples.zones.matchmaker import Full
from examples.zones.shard import Shard
from examples.zones.world import Record, World
from getc.testing import MemoryLink, MemoryStore, VirtualTime
from tests.examples.stage import SHARDS, Stage, is_sure

pytestmark = pytest.mark.etcd_leaks

TTL = 10
STEP = 1.0
"""Seconds, the default of /cfg/step."""

PLAYERS = ('ann', 'bob', 'cid', 'dot', 'eve', 'fay', 'gus', 'hal')


@pytest.fixture
def stage(etcd_store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[Stage]:
    """A world without zones; nothing that must not be may have happened in it."""
    with Stage(etcd_store.url, ttl=TTL, now=lambda: etcd_clock.elapsed) as stage:
        yield stage
    etcd_clock.advance(0)
    assert stage.audit.faults == []
    assert stage.audit.orphaned == []
    assert stage.audit.writes.total() > 0


@pytest.fixture
def start(stage: Stage, etcd_store: MemoryStore, etcd_clock: VirtualTime) -> Callable[..., dict[str, MemoryLink]]:
    """Start zones, each with a link of its own, and let them settle."""

    def start(*names: str) -> dict[str, MemoryLink]:
        links = {name: etcd_store.link() for name in names}
        for name, link in links.items():
            stage.start(name, url=link.url)
        etcd_clock.advance(2 * STEP)
        return links

    return start


def share_of(stage: Stage, name: str) -> list[str]:
    return [shard for shard, zone in stage.audit.owners().items() if zone == name]


def test_each_shard_is_run_by_one_zone(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """Each zone has as many as the others, and those of a new one come from them."""
    start('a', 'b')
    assert sorted(stage.audit.owners()) == sorted(SHARDS)
    assert {len(share_of(stage, name)) for name in 'ab'} == {3}
    start('c')
    assert {len(share_of(stage, name)) for name in 'abc'} == {2}
    before = stage.steps()
    etcd_clock.advance(120)
    assert {shard: steps - before[shard] for shard, steps in stage.steps().items()} == dict.fromkeys(SHARDS, 120)
    assert [stage.acting(shard) for shard in SHARDS] == [[stage.audit.owners()[shard]] for shard in SHARDS]


# -- a server is lost


def test_shards_of_a_lost_zone_are_run_by_others_within_a_ttl(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """They go on where it ended, and its players are where they were."""
    links = start('a', 'b', 'c')
    places = stage.seat(*PLAYERS)
    etcd_clock.advance(60)
    lost, before, gold = share_of(stage, 'a'), stage.steps(), stage.gold()
    assert len(lost) == 2
    links['a'].disconnect()  # so a crash looks to everybody else
    stage.serving['a'].kill()
    etcd_clock.advance(TTL)
    assert sorted(stage.audit.owners()) == sorted(SHARDS)
    assert share_of(stage, 'a') == []
    etcd_clock.advance(2 * STEP)
    assert all(stage.steps()[shard] >= before[shard] for shard in lost)
    assert all(stage.gold()[player] > gold[player] for player in PLAYERS)
    assert {player: stage.matchmaker.seat(player) for player in PLAYERS} == places
    assert 'a' not in {stage.matchmaker.server_of(player) for player in PLAYERS}


def test_zone_whose_shard_has_died_of_a_mistake_gives_all_away(
    stage: Stage, start, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not look well, so it is taken for lost; what is left of it is in order, and comes back."""
    start('a', 'b')
    dying = share_of(stage, 'a')[0]
    stepped, deaths = World.stepped, []

    def stepped_or_dead(world: World, players: list[str]) -> World:
        if not deaths and world.steps == stage.steps()[dying]:
            deaths.append(dying)
            raise ZeroDivisionError
        return stepped(world, players)

    monkeypatch.setattr(World, 'stepped', stepped_or_dead)
    etcd_clock.advance(TTL)
    assert len(deaths) == 1
    assert sorted(stage.audit.owners()) == sorted(SHARDS)
    before = stage.steps()
    etcd_clock.advance(60)
    assert all(stage.steps()[shard] > before[shard] + 50 for shard in SHARDS)
    assert {len(share_of(stage, name)) for name in 'ab'} == {3}


# -- a server is cut off


def test_zone_that_is_cut_off_stops_before_its_shards_can_be_anothers(
    stage: Stage, start, etcd_clock: VirtualTime
) -> None:
    """There is a margin between its last moment and the first one of the next owner; healed, it has its share again."""
    links = start('a', 'b')
    etcd_clock.advance(60)
    shards = share_of(stage, 'a')
    assert len(shards) == 3
    links['a'].disconnect()
    last_sure: dict[str, float] = {}
    first_taken: dict[str, float] = {}
    while etcd_clock.elapsed < 120:
        etcd_clock.advance(0.1)
        for shard in shards:
            acting = stage.acting(shard)
            assert len(acting) <= 1
            if acting == ['a']:
                last_sure[shard] = etcd_clock.elapsed
            if share_of(stage, 'b').count(shard):
                first_taken.setdefault(shard, etcd_clock.elapsed)
    assert all(0.5 <= first_taken[shard] - last_sure[shard] <= TTL / 2 for shard in shards)
    assert len(share_of(stage, 'b')) == 6
    links['a'].connect()
    etcd_clock.advance(TTL)
    assert sorted(share_of(stage, 'a')) == sorted(shards)


def test_zone_that_was_stopped_does_not_write_when_it_goes_on(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """It knows from the first instruction on, though no timer and no callback was in time."""
    start('a')
    etcd_clock.advance(60)
    claims = [shard.claim for shard in stage.zones['a'].shards.values()]
    assert all(map(is_sure, claims))
    written = stage.audit.writes['a']
    etcd_clock.stall(TTL)
    assert not any(map(is_sure, claims))
    assert stage.audit.writes['a'] == written
    etcd_clock.advance(2 * TTL)
    assert sorted(share_of(stage, 'a')) == sorted(SHARDS)


def test_world_goes_on_after_an_outage_of_etcd(
    stage: Stage, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """Nobody owns anything meanwhile, and nothing is lost."""
    start('a', 'b', 'c')
    stage.seat(*PLAYERS)
    etcd_clock.advance(60)
    before, gold = stage.steps(), stage.gold()
    etcd_store.disconnect()
    etcd_clock.advance(90)
    assert [stage.acting(shard) for shard in SHARDS] == [[]] * len(SHARDS)
    etcd_store.connect()
    etcd_clock.advance(2 * TTL)
    assert sorted(stage.audit.owners()) == sorted(SHARDS)
    assert all(stage.steps()[shard] > before[shard] for shard in SHARDS)
    assert all(stage.gold()[player] > gold[player] for player in PLAYERS)


def test_zones_begin_anew_when_etcd_has_lost_its_disk(
    stage: Stage, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """They are registered, and every shard is run, from the first step on."""
    start('a', 'b')
    etcd_clock.advance(60)
    etcd_store.wipe()
    etcd_clock.advance(2 * TTL)
    assert sorted(stage.audit.owners()) == sorted(SHARDS)
    assert all(0 < steps <= 2 * TTL for steps in stage.steps().values())


def test_compaction_is_nothing_to_the_zones(
    stage: Stage, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """Whoever was behind compares, and goes on."""
    start('a', 'b')
    owners, before = stage.audit.owners(), stage.steps()
    etcd_store.compact()
    etcd_clock.advance(60)
    assert stage.audit.owners() == owners
    assert {steps - before[shard] for shard, steps in stage.steps().items()} == {60}


# -- two want the same


def test_two_zones_that_want_a_shard_never_both_act(
    stage: Stage, etcd_store: MemoryStore, etcd_clock: VirtualTime
) -> None:
    """Whatever becomes of the connection of its owner, for ten minutes."""
    links = {name: etcd_store.link() for name in 'ab'}
    clients = {name: getc.etcd(link.url) for name, link in links.items()}
    settings = stage.matchmaker.settings
    shards = {
        name: Shard(client, 'forest', name, ttl=TTL, settings=settings, players={}) for name, client in clients.items()
    }
    acted = []
    for second in range(600):
        etcd_clock.advance(1)
        acting = [name for name, shard in shards.items() if is_sure(shard.claim)]
        assert len(acting) <= 1
        acted += acting
        if second % 60 == 20 and acting:
            links[acting[0]].disconnect()
        if second % 60 == 40:
            for link in links.values():
                link.connect()
    assert set(acted) == {'a', 'b'}
    assert min(acted.count('a'), acted.count('b')) > 100
    for client in clients.values():
        client.close()


def test_claim_that_was_deleted_by_force_is_no_way_to_write(
    stage: Stage, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """A zone that is cut off then believes for a while that it owns what another has.  The record tells it better."""
    links = start('a', 'b')
    shard = share_of(stage, 'a')[0]
    links['a'].disconnect()
    stage.etcd.set('/cfg/drain/a', 'it does not answer')
    etcd_store.expire('/zones/a')
    etcd_store.expire(f'/claims/{shard}')
    etcd_clock.advance(STEP)
    assert stage.acting(shard) == ['a', 'b']
    before = stage.steps()[shard]
    links['a'].connect()
    etcd_clock.advance(60)
    assert stage.acting(shard) == ['b']
    assert stage.steps()[shard] == before + 60


class Certain:
    """A claim that is always sure, as that of a zone that stands still between ``ensure`` and its write."""

    def __init__(self, claim: getc.Keeper) -> None:
        self.value = claim.value
        self._token = claim.ensure()

    def ensure(self) -> int:
        return self._token

    def remaining(self) -> float:
        return 60.0


def test_write_that_arrives_late_is_refused_by_the_store(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """Even of an owner who is sure: the next one has written, and what it wrote stays."""
    start('a')
    stage.end('a')
    etcd = stage.etcd
    with etcd.keep_node('/claims/forest', 'late', on_conflict='wait') as claim:
        late = Record(etcd, 'forest', Certain(claim))
        world = late.open()
        late.save(world.stepped(['ann']))
    with etcd.keep_node('/claims/forest', 'next', on_conflict='wait') as claim:
        record = Record(etcd, 'forest', claim)
        world = record.open()
        record.save(world.stepped(['ann']))
        with pytest.raises(getc.TestFailed):
            late.save(World(1000))
        with pytest.raises(getc.NodeLost, match='has token'):
            late.open()
        etcd_clock.advance(0)
        assert stage.audit.worlds['forest'].zone == 'next'
        assert stage.gold() == {'ann': 2}


# -- servers are restarted


def test_restart_of_each_zone_in_turn_leaves_no_shard_alone(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """None is without an owner for a step, and every player stays where it is and plays on."""
    start('a', 'b', 'c')
    places = stage.seat(*PLAYERS)
    etcd_clock.advance(60)
    assert stage.audit.gaps == [] or max(stage.audit.gaps) < STEP
    for name in 'abc':
        steps, gold = stage.steps(), stage.gold()
        stage.end(name)
        assert share_of(stage, name) == []
        etcd_clock.advance(30)
        assert sorted(stage.audit.owners()) == sorted(SHARDS)
        start(name)
        assert len(share_of(stage, name)) == 2
        etcd_clock.advance(30)
        assert all(stage.steps()[shard] - before >= 50 for shard, before in steps.items())
        assert all(stage.gold()[player] - before >= 50 for player, before in gold.items())
    assert len(stage.audit.gaps) >= 6
    assert max(stage.audit.gaps) < STEP
    assert {player: stage.matchmaker.seat(player) for player in PLAYERS} == places
    assert len(stage.gold()) == len(PLAYERS)


def test_zone_is_drained_by_configuration_and_comes_back(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """It is not among those who take shards meanwhile, and goes on running."""
    start('a', 'b')
    stage.etcd.set('/cfg/drain/a', 'maintenance')
    etcd_clock.advance(STEP)
    assert len(share_of(stage, 'b')) == len(SHARDS)
    assert [node.key for node in stage.etcd.get('/zones').nodes] == ['/zones/b']
    assert not stage.serving['a'].ready()
    stage.etcd.delete('/cfg/drain/a')
    etcd_clock.advance(STEP)
    assert len(share_of(stage, 'a')) == 3
    assert max(stage.audit.gaps) < STEP


# -- configuration


def test_settings_are_in_force_as_soon_as_they_are_set(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """In every zone; deleted, they are what they were at first."""
    start('a', 'b')
    for text, rate in (('0.25', 4), ('0.5', 2), ('2', 0.5)):
        stage.etcd.set('/cfg/step', text)
        etcd_clock.advance(2)  # a step that has begun is taken
        before = stage.steps()
        etcd_clock.advance(20)
        assert {steps - before[shard] for shard, steps in stage.steps().items()} == {20 * rate}
    stage.etcd.delete('/cfg/step')
    etcd_clock.advance(2)
    before = stage.steps()
    etcd_clock.advance(20)
    assert {steps - before[shard] for shard, steps in stage.steps().items()} == {20}


@pytest.mark.parametrize('text', ['', 'quick', '0', '-1', 'nan', '1e9'])
def test_setting_without_sense_changes_nothing(
    stage: Stage, start, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """It is logged, and the last one stays in force."""
    start('a')
    stage.etcd.set('/cfg/step', '0.5')
    etcd_clock.advance(1)
    stage.etcd.set('/cfg/step', text)
    before = stage.steps()
    etcd_clock.advance(20)
    assert {steps - before[shard] for shard, steps in stage.steps().items()} == {40}
    assert [record.levelno for record in caplog.records if '/cfg/step' in record.message] == [logging.ERROR] * 2


def test_settings_are_what_they_were_at_first_when_all_are_deleted(
    stage: Stage, start, etcd_clock: VirtualTime
) -> None:
    """At once, as one change of the store."""
    start('a', 'b')
    for key, text in (('step', '5'), ('seats', '1'), ('drain/a', 'now')):
        stage.etcd.set(f'/cfg/{key}', text)
    etcd_clock.advance(5)
    settings = stage.zones['a'].settings
    assert (settings.step, settings.seats, settings.drained) == (5.0, 1, {'a'})
    stage.etcd.delete('/cfg/drain', recursive=True)
    etcd_clock.advance(5)
    assert (settings.step, settings.seats, settings.drained) == (5.0, 1, set())
    stage.etcd.delete('/cfg', recursive=True)
    etcd_clock.advance(5)
    assert (settings.step, settings.seats, settings.drained) == (1.0, 4, set())
    assert len(share_of(stage, 'a')) == 3


# -- players


def test_players_are_spread_over_the_shards_until_all_seats_are_taken(
    stage: Stage, start, etcd_clock: VirtualTime
) -> None:
    """More seats are there at once when an operator says so, and one when a player leaves."""
    with pytest.raises(Full, match='none of 0 shards'):
        stage.seat('ann')
    start('a', 'b')
    stage.etcd.set('/cfg/seats', '2')
    etcd_clock.advance(0)
    players = [f'player-{number}' for number in range(12)]
    places = stage.seat(*players)
    assert sorted(places.values()) == sorted([*SHARDS, *SHARDS])
    with pytest.raises(Full, match='none of 6 shards has one of its 2 seats free'):
        stage.seat('ann')
    stage.matchmaker.leave('player-3')
    stage.matchmaker.leave('player-3')
    etcd_clock.advance(0)
    assert stage.seat('ann') == {'ann': places['player-3']}
    stage.etcd.set('/cfg/seats', '3')
    etcd_clock.advance(0)
    assert stage.seat('bob')['bob'] in SHARDS


def test_player_has_one_seat_when_the_answer_was_lost(
    stage: Stage, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """Whoever asks again gets the seat of the first time."""
    start('a')
    etcd_store.lose_next_reply()
    with pytest.raises(getc.ConnectionError) as caught:
        stage.seat('ann')
    assert caught.value.maybe_applied
    etcd_clock.advance(0)
    place = stage.matchmaker.players['/players/ann']
    assert stage.seat('ann') == {'ann': place}
    assert len(stage.matchmaker.players) == 1


def test_step_counts_once_when_the_answer_was_lost(stage: Stage, start, etcd_clock: VirtualTime) -> None:
    """The zone looks what is there, and goes on from that; a refusal on the way is no harm either."""
    links = start('a')
    stage.seat('ann')
    etcd_clock.advance(10)
    for number in range(20):
        links['a'].lose_next_reply()
        links['a'].fail_next(getc.TimedOut('no answer'))
        etcd_clock.advance(7.3)
        assert stage.gold()['ann'] <= 9 + 7.3 * (number + 1)
    before = stage.gold()['ann']
    assert before > 80
    etcd_clock.advance(10)
    assert stage.gold()['ann'] == before + 10


# -- all of it


def ten_minutes() -> list[str]:
    """All that was changed in a store in which everything happens, and when."""
    store = MemoryStore()
    with VirtualTime() as clock, Stage(store.url, now=lambda: clock.elapsed) as stage:
        stage.etcd.set('/cfg/step', '2')
        links = {name: store.link() for name in 'abc'}
        for name, link in links.items():
            stage.start(name, url=link.url)
            clock.advance(20)
        stage.seat(*PLAYERS)
        clock.advance(40)
        links['b'].disconnect()
        clock.advance(50)
        stage.etcd.set('/cfg/step', '3')
        links['b'].connect()
        clock.advance(50)
        store.expire('/claims/lake')
        store.expire('/zones/a')
        clock.advance(50)
        store.lose_next_reply()
        store.fail_next(getc.TooManyRequests('etcdserver: too many requests'))
        store.delay(0.2)
        clock.advance(50)
        store.delay(0)
        store.compact()
        store.disconnect()
        clock.advance(50)
        store.connect()
        clock.advance(50)
        stage.end('c')
        clock.stall(30)
        clock.advance(50)
        store.wipe()
        clock.advance(150)
        assert clock.elapsed == 630
        assert sorted(stage.audit.owners()) == sorted(SHARDS)
        assert {shard: stage.acting(shard) for shard in SHARDS} == {
            shard: [zone] for shard, zone in stage.audit.owners().items()
        }
        assert stage.audit.faults == []
    return stage.audit.story


def test_ten_minutes_of_everything_are_the_same_each_time() -> None:
    """To the millisecond, and in the same order."""
    first = ten_minutes()
    assert len(first) > 500
    assert ten_minutes() == first
