"""The example in virtual time: hours in which zones crash, lose their connection, drain and stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

import getc
from examples.zones.matchmaker import NoFreeSeat
from examples.zones.shard import Shard
from examples.zones.world import Record, World
from getc.testing import MemoryLink, MemoryStore, VirtualTime
from tests.examples.zone_world import SHARDS, ZoneWorld, is_owner

pytestmark = pytest.mark.etcd_leaks

TTL = 10
STEP = 1.0
"""Seconds, the default of /cfg/step."""

PLAYERS = ('ann', 'bob', 'cid', 'dot', 'eve', 'fay', 'gus', 'hal')


@pytest.fixture
def zone_world(etcd_store: MemoryStore, etcd_clock: VirtualTime) -> Iterator[ZoneWorld]:
    """A world without zones.  At the end of a test the audit must have no faults."""
    with ZoneWorld(etcd_store.url, ttl=TTL, now=lambda: etcd_clock.elapsed) as zone_world:
        yield zone_world
    etcd_clock.advance(0)
    assert zone_world.audit.faults == []
    assert zone_world.audit.orphaned == []
    assert zone_world.audit.writes.total() > 0


@pytest.fixture
def start(
    zone_world: ZoneWorld, etcd_store: MemoryStore, etcd_clock: VirtualTime
) -> Callable[..., dict[str, MemoryLink]]:
    """Start zones, each with its own link, and let them settle."""

    def start(*names: str) -> dict[str, MemoryLink]:
        links = {name: etcd_store.link() for name in names}
        for name, link in links.items():
            zone_world.start(name, url=link.url)
        etcd_clock.advance(2 * STEP)
        return links

    return start


def share_of(zone_world: ZoneWorld, name: str) -> list[str]:
    return [shard for shard, zone in zone_world.audit.owners().items() if zone == name]


def test_each_shard_has_one_owner(zone_world: ZoneWorld, start, etcd_clock: VirtualTime) -> None:
    """The shards are balanced, also after a zone is added."""
    start('a', 'b')
    assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
    assert {len(share_of(zone_world, name)) for name in 'ab'} == {3}
    start('c')
    assert {len(share_of(zone_world, name)) for name in 'abc'} == {2}
    before = zone_world.steps()
    etcd_clock.advance(120)
    assert {shard: steps - before[shard] for shard, steps in zone_world.steps().items()} == dict.fromkeys(SHARDS, 120)
    assert [zone_world.owners_of(shard) for shard in SHARDS] == [[zone_world.audit.owners()[shard]] for shard in SHARDS]


# -- a zone crashes


def test_shards_of_a_crashed_zone_are_taken_over_within_a_ttl(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """They continue from the last record, and players keep their shards."""
    links = start('a', 'b', 'c')
    places = zone_world.seat(*PLAYERS)
    etcd_clock.advance(60)
    lost, before, gold = share_of(zone_world, 'a'), zone_world.steps(), zone_world.gold()
    assert len(lost) == 2
    links['a'].disconnect()  # what a crash looks like to other zones
    zone_world.greenlets['a'].kill()
    etcd_clock.advance(TTL)
    assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
    assert share_of(zone_world, 'a') == []
    etcd_clock.advance(2 * STEP)
    assert all(zone_world.steps()[shard] >= before[shard] for shard in lost)
    assert all(zone_world.gold()[player] > gold[player] for player in PLAYERS)
    assert {player: zone_world.matchmaker.seat(player) for player in PLAYERS} == places
    assert 'a' not in {zone_world.matchmaker.server_of(player) for player in PLAYERS}


def test_zone_loses_its_shards_when_the_loop_of_one_fails(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unhealthy, so it is removed from ``/zones``; afterwards it registers again."""
    start('a', 'b')
    dying = share_of(zone_world, 'a')[0]
    after_step, deaths = World.after_step, []

    def stepped_or_dead(world: World, players: list[str]) -> World:
        if not deaths and world.steps == zone_world.steps()[dying]:
            deaths.append(dying)
            raise ZeroDivisionError
        return after_step(world, players)

    monkeypatch.setattr(World, 'after_step', stepped_or_dead)
    etcd_clock.advance(TTL)
    assert len(deaths) == 1
    assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
    before = zone_world.steps()
    etcd_clock.advance(60)
    assert all(zone_world.steps()[shard] > before[shard] + 50 for shard in SHARDS)
    assert {len(share_of(zone_world, name)) for name in 'ab'} == {3}


# -- a zone is disconnected


def test_disconnected_zone_stops_before_its_shards_can_be_claimed(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """With a margin between the two.  Reconnected, it takes its share again."""
    links = start('a', 'b')
    etcd_clock.advance(60)
    shards = share_of(zone_world, 'a')
    assert len(shards) == 3
    links['a'].disconnect()
    last_sure: dict[str, float] = {}
    first_taken: dict[str, float] = {}
    while etcd_clock.elapsed < 120:
        etcd_clock.advance(0.1)
        for shard in shards:
            acting = zone_world.owners_of(shard)
            assert len(acting) <= 1
            if acting == ['a']:
                last_sure[shard] = etcd_clock.elapsed
            if share_of(zone_world, 'b').count(shard):
                first_taken.setdefault(shard, etcd_clock.elapsed)
    assert all(0.5 <= first_taken[shard] - last_sure[shard] <= TTL / 2 for shard in shards)
    assert len(share_of(zone_world, 'b')) == 6
    links['a'].connect()
    etcd_clock.advance(TTL)
    assert sorted(share_of(zone_world, 'a')) == sorted(shards)


def test_zone_does_not_write_when_its_process_was_suspended(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """``ensure`` raises from the first instruction on, before any timer or callback runs."""
    start('a')
    etcd_clock.advance(60)
    claims = [shard.claim for shard in zone_world.zones['a'].shards.values()]
    assert all(map(is_owner, claims))
    written = zone_world.audit.writes['a']
    etcd_clock.stall(TTL)
    assert not any(map(is_owner, claims))
    assert zone_world.audit.writes['a'] == written
    etcd_clock.advance(2 * TTL)
    assert sorted(share_of(zone_world, 'a')) == sorted(SHARDS)


def test_world_continues_after_an_outage_of_etcd(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """No shard has an owner meanwhile, and no state is lost."""
    start('a', 'b', 'c')
    zone_world.seat(*PLAYERS)
    etcd_clock.advance(60)
    before, gold = zone_world.steps(), zone_world.gold()
    etcd_store.disconnect()
    etcd_clock.advance(90)
    assert [zone_world.owners_of(shard) for shard in SHARDS] == [[]] * len(SHARDS)
    etcd_store.connect()
    etcd_clock.advance(2 * TTL)
    assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
    assert all(zone_world.steps()[shard] > before[shard] for shard in SHARDS)
    assert all(zone_world.gold()[player] > gold[player] for player in PLAYERS)


def test_zones_start_over_when_etcd_has_lost_its_data(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    start('a', 'b')
    etcd_clock.advance(60)
    etcd_store.wipe()
    etcd_clock.advance(2 * TTL)
    assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
    assert all(0 < steps <= 2 * TTL for steps in zone_world.steps().values())


def test_compaction_does_not_affect_the_zones(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    start('a', 'b')
    owners, before = zone_world.audit.owners(), zone_world.steps()
    etcd_store.compact()
    etcd_clock.advance(60)
    assert zone_world.audit.owners() == owners
    assert {steps - before[shard] for shard, steps in zone_world.steps().items()} == {60}


# -- two zones claim the same shard


def test_two_zones_never_own_a_shard_at_the_same_time(
    zone_world: ZoneWorld, etcd_store: MemoryStore, etcd_clock: VirtualTime
) -> None:
    """Whatever happens to the owner's connection, for ten minutes."""
    links = {name: etcd_store.link() for name in 'ab'}
    clients = {name: getc.etcd(link.url) for name, link in links.items()}
    settings = zone_world.matchmaker.settings
    shards = {
        name: Shard(client, 'forest', name, ttl=TTL, settings=settings, players={}) for name, client in clients.items()
    }
    acted = []
    for second in range(600):
        etcd_clock.advance(1)
        acting = [name for name, shard in shards.items() if is_owner(shard.claim)]
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


def test_deleted_claim_does_not_allow_two_writers(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """A disconnected zone still considers itself the owner; the condition of its write fails."""
    links = start('a', 'b')
    shard = share_of(zone_world, 'a')[0]
    links['a'].disconnect()
    zone_world.etcd.set('/cfg/drain/a', 'it does not answer')
    etcd_store.expire('/zones/a')
    etcd_store.expire(f'/claims/{shard}')
    etcd_clock.advance(STEP)
    assert zone_world.owners_of(shard) == ['a', 'b']
    before = zone_world.steps()[shard]
    links['a'].connect()
    etcd_clock.advance(2)  # b's steps need not fall on whole seconds
    assert zone_world.owners_of(shard) == ['b']
    first = zone_world.steps()[shard]
    assert before < first <= before + 2
    etcd_clock.advance(60)
    assert zone_world.owners_of(shard) == ['b']
    assert zone_world.steps()[shard] == first + 60


class StaleClaim:
    """A claim whose ``ensure`` never raises, like that of a zone suspended between ``ensure`` and its write."""

    def __init__(self, claim: getc.Keeper) -> None:
        self.value = claim.value
        self._token = claim.ensure()

    def ensure(self) -> int:
        return self._token

    def remaining(self) -> float:
        return 60.0


def test_late_write_is_refused_by_the_store(zone_world: ZoneWorld, start, etcd_clock: VirtualTime) -> None:
    """The next owner has written, and its record stays."""
    start('a')
    zone_world.stop('a')
    etcd = zone_world.etcd
    with etcd.keep_node('/claims/forest', 'late', on_conflict='wait') as claim:
        late = Record(etcd, 'forest', StaleClaim(claim))
        world = late.take_over()
        late.save(world.after_step(['ann']))
    with etcd.keep_node('/claims/forest', 'next', on_conflict='wait') as claim:
        record = Record(etcd, 'forest', claim)
        world = record.take_over()
        record.save(world.after_step(['ann']))
        with pytest.raises(getc.TestFailed):
            late.save(World(1000))
        with pytest.raises(getc.NodeLost, match='has token'):
            late.take_over()
        etcd_clock.advance(0)
        assert zone_world.audit.worlds['forest'].zone == 'next'
        assert zone_world.gold() == {'ann': 2}


# -- zones are restarted


def test_rolling_restart_leaves_no_shard_without_an_owner(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """For longer than a step.  Players keep their shards and continue to play."""
    start('a', 'b', 'c')
    places = zone_world.seat(*PLAYERS)
    etcd_clock.advance(60)
    assert zone_world.audit.gaps == [] or max(zone_world.audit.gaps) < STEP
    for name in 'abc':
        steps, gold = zone_world.steps(), zone_world.gold()
        zone_world.stop(name)
        assert share_of(zone_world, name) == []
        etcd_clock.advance(30)
        assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
        start(name)
        assert len(share_of(zone_world, name)) == 2
        etcd_clock.advance(30)
        assert all(zone_world.steps()[shard] - before >= 50 for shard, before in steps.items())
        assert all(zone_world.gold()[player] - before >= 50 for player, before in gold.items())
    assert len(zone_world.audit.gaps) >= 6
    assert max(zone_world.audit.gaps) < STEP
    assert {player: zone_world.matchmaker.seat(player) for player in PLAYERS} == places
    assert len(zone_world.gold()) == len(PLAYERS)


def test_zone_drains_and_returns_by_configuration(zone_world: ZoneWorld, start, etcd_clock: VirtualTime) -> None:
    """Its process keeps running."""
    start('a', 'b')
    zone_world.etcd.set('/cfg/drain/a', 'maintenance')
    etcd_clock.advance(STEP)
    assert len(share_of(zone_world, 'b')) == len(SHARDS)
    assert [node.key for node in zone_world.etcd.get('/zones').nodes] == ['/zones/b']
    assert not zone_world.greenlets['a'].ready()
    zone_world.etcd.delete('/cfg/drain/a')
    etcd_clock.advance(STEP)
    assert len(share_of(zone_world, 'a')) == 3
    assert max(zone_world.audit.gaps) < STEP


# -- configuration


def test_settings_take_effect_at_once(zone_world: ZoneWorld, start, etcd_clock: VirtualTime) -> None:
    """In every zone; a deleted setting has its default."""
    start('a', 'b')
    for text, rate in (('0.25', 4), ('0.5', 2), ('2', 0.5)):
        zone_world.etcd.set('/cfg/step', text)
        etcd_clock.advance(2)  # a step that has begun is taken
        before = zone_world.steps()
        etcd_clock.advance(20)
        assert {steps - before[shard] for shard, steps in zone_world.steps().items()} == {20 * rate}
    zone_world.etcd.delete('/cfg/step')
    etcd_clock.advance(2)
    before = zone_world.steps()
    etcd_clock.advance(20)
    assert {steps - before[shard] for shard, steps in zone_world.steps().items()} == {20}


@pytest.mark.parametrize('text', ['', 'quick', '0', '-1', 'nan', '1e9'])
def test_invalid_setting_is_logged_and_ignored(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    start('a')
    zone_world.etcd.set('/cfg/step', '0.5')
    etcd_clock.advance(1)
    zone_world.etcd.set('/cfg/step', text)
    before = zone_world.steps()
    etcd_clock.advance(20)
    assert {steps - before[shard] for shard, steps in zone_world.steps().items()} == {40}
    assert [record.levelno for record in caplog.records if '/cfg/step' in record.message] == [logging.ERROR] * 2


def test_settings_have_their_defaults_when_all_are_deleted(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """By one recursive delete."""
    start('a', 'b')
    for key, text in (('step', '5'), ('seats', '1'), ('drain/a', 'now')):
        zone_world.etcd.set(f'/cfg/{key}', text)
    etcd_clock.advance(5)
    settings = zone_world.zones['a'].settings
    assert (settings.step, settings.seats, settings.drained) == (5.0, 1, {'a'})
    zone_world.etcd.delete('/cfg/drain', recursive=True)
    etcd_clock.advance(5)
    assert (settings.step, settings.seats, settings.drained) == (5.0, 1, set())
    zone_world.etcd.delete('/cfg', recursive=True)
    etcd_clock.advance(5)
    assert (settings.step, settings.seats, settings.drained) == (1.0, 4, set())
    assert len(share_of(zone_world, 'a')) == 3


# -- players


def test_players_are_spread_over_the_shards_until_no_seat_is_free(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime
) -> None:
    """A changed number of seats and a freed seat take effect at once."""
    with pytest.raises(NoFreeSeat, match='none of 0 shards'):
        zone_world.seat('ann')
    start('a', 'b')
    zone_world.etcd.set('/cfg/seats', '2')
    etcd_clock.advance(0)
    players = [f'player-{number}' for number in range(12)]
    places = zone_world.seat(*players)
    assert sorted(places.values()) == sorted([*SHARDS, *SHARDS])
    with pytest.raises(NoFreeSeat, match='none of 6 shards with an owner has a free seat'):
        zone_world.seat('ann')
    zone_world.matchmaker.leave('player-3')
    zone_world.matchmaker.leave('player-3')
    etcd_clock.advance(0)
    assert zone_world.seat('ann') == {'ann': places['player-3']}
    zone_world.etcd.set('/cfg/seats', '3')
    etcd_clock.advance(0)
    assert zone_world.seat('bob')['bob'] in SHARDS


def test_player_has_one_seat_when_the_reply_was_lost(
    zone_world: ZoneWorld, start, etcd_clock: VirtualTime, etcd_store: MemoryStore
) -> None:
    """Repeating the call returns the same shard."""
    start('a')
    etcd_store.lose_next_reply()
    with pytest.raises(getc.ConnectionError) as caught:
        zone_world.seat('ann')
    assert caught.value.maybe_applied
    etcd_clock.advance(0)
    place = zone_world.matchmaker.players['/players/ann']
    assert zone_world.seat('ann') == {'ann': place}
    assert len(zone_world.matchmaker.players) == 1


def test_step_is_applied_once_when_the_reply_was_lost(zone_world: ZoneWorld, start, etcd_clock: VirtualTime) -> None:
    """The zone reads the record and continues from it, also when a read fails."""
    links = start('a')
    zone_world.seat('ann')
    etcd_clock.advance(10)
    for number in range(20):
        links['a'].lose_next_reply()
        links['a'].fail_next(getc.TimedOut('no answer'))
        etcd_clock.advance(7.3)
        assert zone_world.gold()['ann'] <= 9 + 7.3 * (number + 1)
    before = zone_world.gold()['ann']
    assert before > 80
    etcd_clock.advance(10)
    assert zone_world.gold()['ann'] == before + 10


# -- every fault


def ten_minutes() -> list[str]:
    """Run a scenario with every fault; return the log of all changes."""
    store = MemoryStore()
    with VirtualTime() as clock, ZoneWorld(store.url, now=lambda: clock.elapsed) as zone_world:
        zone_world.etcd.set('/cfg/step', '2')
        links = {name: store.link() for name in 'abc'}
        for name, link in links.items():
            zone_world.start(name, url=link.url)
            clock.advance(20)
        zone_world.seat(*PLAYERS)
        clock.advance(40)
        links['b'].disconnect()
        clock.advance(50)
        zone_world.etcd.set('/cfg/step', '3')
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
        zone_world.stop('c')
        clock.stall(30)
        clock.advance(50)
        store.wipe()
        clock.advance(150)
        assert clock.elapsed == 630
        assert sorted(zone_world.audit.owners()) == sorted(SHARDS)
        assert {shard: zone_world.owners_of(shard) for shard in SHARDS} == {
            shard: [zone] for shard, zone in zone_world.audit.owners().items()
        }
        assert zone_world.audit.faults == []
    return zone_world.audit.log


def test_ten_minutes_with_every_fault_are_deterministic() -> None:
    first = ten_minutes()
    assert len(first) > 500
    assert ten_minutes() == first
