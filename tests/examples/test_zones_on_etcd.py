"""The example on a real cluster with faults, and as processes that crash.  Tests wait for conditions, not for times."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import getc
from getc.testing import EtcdCluster, EtcdServer, FaultProxies, wait_until
from tests.examples.zone_world import SHARDS, ZoneWorld

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]

TTL = 3
PLAYERS = ('ann', 'bob', 'cid', 'dot', 'eve', 'fay')


@pytest.fixture
def zone_world(etcd_cluster: EtcdCluster) -> Iterator[ZoneWorld]:
    """A world without zones and with short steps.  At the end of a test the audit must have no faults."""
    with ZoneWorld(etcd_cluster.urls, ttl=TTL) as zone_world:
        zone_world.etcd.set('/cfg/step', '0.05')
        yield zone_world
        etcd_cluster.recover()  # otherwise zones could not release their shards
    assert not zone_world.audit.faults, '\n'.join(zone_world.audit.faults)


@pytest.fixture
def running(zone_world: ZoneWorld) -> ZoneWorld:
    """Two zones that run all shards, with players."""
    zone_world.start('a', 'b')
    wait_until(lambda: len(zone_world.steps()) == len(SHARDS))
    zone_world.seat(*PLAYERS)
    play_on(zone_world)
    return zone_world


def play_on(zone_world: ZoneWorld) -> None:
    """Wait until each shard has taken more steps, and each player has found more gold."""
    steps, gold = zone_world.steps(), zone_world.gold()
    wait_until(lambda: all(zone_world.steps().get(shard, 0) > steps.get(shard, 0) + 3 for shard in SHARDS))
    wait_until(lambda: all(zone_world.gold().get(player, 0) > gold.get(player, 0) for player in PLAYERS))


def owned_by(zone_world: ZoneWorld, *names: str) -> Callable[[], bool]:
    """Return a condition: every shard is owned by one of these zones, and each of them owns one."""
    return lambda: len(zone_world.audit.claims) == len(SHARDS) and set(zone_world.audit.owners().values()) == set(names)


def test_world_continues_when_the_leader_is_killed(running: ZoneWorld, etcd_cluster: EtcdCluster) -> None:
    """Zones keep their shards if a new leader is elected in time."""
    lost = etcd_cluster.leader()
    etcd_cluster.kill(lost, may_diverge=True)  # it is wiped at its restart
    etcd_cluster.leader()
    play_on(running)
    etcd_cluster.restart(lost, wipe=True)
    play_on(running)
    wait_until(owned_by(running, 'a', 'b'))


def test_world_continues_when_the_leader_moves(running: ZoneWorld, etcd_cluster: EtcdCluster) -> None:
    for _ in etcd_cluster.members:
        etcd_cluster.move_leader((etcd_cluster.leader() + 1) % len(etcd_cluster.members))
        play_on(running)
    wait_until(owned_by(running, 'a', 'b'))


def test_world_continues_when_the_leader_is_isolated(running: ZoneWorld, etcd_cluster: EtcdCluster) -> None:
    """It accepts requests and cannot execute them."""
    lost = etcd_cluster.leader()
    etcd_cluster.isolate(lost)
    play_on(running)
    etcd_cluster.heal(lost)
    play_on(running)


@pytest.mark.parametrize('fault', ['cut', 'silence', 'drop_replies'])
def test_disconnected_zone_stops_before_its_shards_are_claimed(
    running: ZoneWorld, etcd_faults: FaultProxies, fault: str
) -> None:
    """At most one zone considers itself the owner.  Reconnected, it takes its share again."""
    running.start('c', url=etcd_faults.url)
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)
    for proxy in etcd_faults:
        getattr(proxy, fault)()

    def is_taken_over() -> bool:
        assert max(len(running.owners_of(shard)) for shard in SHARDS) <= 1
        return owned_by(running, 'a', 'b')()

    wait_until(is_taken_over)
    assert not [shard for shard in SHARDS if 'c' in running.owners_of(shard)]
    play_on(running)
    etcd_faults.heal()
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)


def test_shards_of_a_crashed_zone_are_taken_over(running: ZoneWorld, etcd_faults: FaultProxies) -> None:
    running.start('c', url=etcd_faults.url)
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)
    for proxy in etcd_faults:
        proxy.cut()
    running.greenlets['c'].kill()
    wait_until(owned_by(running, 'a', 'b'))
    play_on(running)


def test_rolling_restart_loses_no_player_and_no_step(running: ZoneWorld) -> None:
    places = dict(running.matchmaker.players)
    for name, other in ('ab', 'ba'):
        running.stop(name)
        wait_until(owned_by(running, other))
        play_on(running)
        running.start(name)
        wait_until(owned_by(running, 'a', 'b'))
        play_on(running)
    assert dict(running.matchmaker.players) == places


# -- processes


class RoleProcess:
    """A role of the example in its own process."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'examples.zones', *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """Return its output up to the line that contains the text."""
        assert self._process.stdout is not None
        output = ''
        for line in self._process.stdout:
            output += line
            if text in line:
                return output
        raise AssertionError(f'the process ended without printing {text!r}:\n{output}')

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """Wait for its end; return its status and its output."""
        output, _ = self._process.communicate(timeout=60)
        return self._process.returncode, output

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run(etcd_server: EtcdServer) -> Iterator[Callable[..., RoleProcess]]:
    """Start a role on the etcd; kill it at the end of the test."""
    started: list[RoleProcess] = []

    def run(*arguments: str) -> RoleProcess:
        started.append(RoleProcess(*arguments, '--url', etcd_server.url))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def test_other_zones_take_over_when_processes_crash_or_drain(run, etcd_server: EtcdServer) -> None:
    """After SIGKILL when the claims expire; after SIGTERM at once."""
    with ZoneWorld(etcd_server.url) as zone_world:
        zone_world.etcd.set('/cfg/step', '0.05')
        crashing, draining, staying = (run('zone', name, '--ttl', str(TTL)) for name in 'abc')
        wait_until(owned_by(zone_world, 'a', 'b', 'c'))
        seated = run('seat', *PLAYERS).wait()
        assert seated[0] == 0 and len(seated[1].splitlines()) == len(PLAYERS)
        play_on(zone_world)
        crashing.send(signal.SIGKILL)
        wait_until(owned_by(zone_world, 'b', 'c'))
        play_on(zone_world)
        draining.send(signal.SIGTERM)
        status, output = draining.wait()
        assert status == 0
        assert 'b: has drained and stops' in output
        wait_until(owned_by(zone_world, 'c'))
        play_on(zone_world)
        staying.send(signal.SIGINT)
        assert staying.wait()[0] == 0
        wait_until(lambda: not zone_world.audit.claims)
        assert zone_world.etcd.get('/').nodes  # the world is still there
        with pytest.raises(getc.KeyNotFound):
            zone_world.etcd.get('/zones/c')
    assert not zone_world.audit.faults, '\n'.join(zone_world.audit.faults)


def test_board_shows_the_owner_of_each_shard(run, etcd_server: EtcdServer) -> None:
    """Until SIGTERM."""
    with ZoneWorld(etcd_server.url) as zone_world:
        zone_world.start('a')
        wait_until(owned_by(zone_world, 'a'))
        wait_until(lambda: len(zone_world.steps()) == len(SHARDS))
        zone_world.seat('ann')
        board = run('board')
        shown = board.read_until('tundra')
        board.send(signal.SIGTERM)
        assert board.wait()[0] == 0
    assert 'zones that accept shards: a ' in shown
    assert all(f'\n{shard:<10}a ' in shown for shard in SHARDS)
    assert 'ann' in shown


def test_process_ends_at_a_signal_while_it_waits_for_etcd() -> None:
    """There is nothing to release yet."""
    process = RoleProcess('zone', 'a', '--url', 'http://127.0.0.1:1')
    try:
        process.read_until('waits for etcd')
        process.send(signal.SIGTERM)
        assert process.wait()[0] == -signal.SIGTERM
    finally:
        process.kill()
