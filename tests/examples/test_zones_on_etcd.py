"""The same world on a real cluster that misbehaves, and as processes that crash.  Nothing is timed here but by TTLs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import getc
from getc.testing import EtcdCluster, EtcdServer, FaultProxies, wait_until
from tests.examples.stage import SHARDS, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]

TTL = 3
PLAYERS = ('ann', 'bob', 'cid', 'dot', 'eve', 'fay')


@pytest.fixture
def stage(etcd_cluster: EtcdCluster) -> Iterator[Stage]:
    """A world without zones, quick in its steps; nothing that must not be may have happened in it."""
    with Stage(etcd_cluster.urls, ttl=TTL) as stage:
        stage.etcd.set('/cfg/step', '0.05')
        yield stage
        etcd_cluster.recover()  # or the zones could not give back what they have
    assert not stage.audit.faults, '\n'.join(stage.audit.faults)


@pytest.fixture
def running(stage: Stage) -> Stage:
    """Two zones that run all shards, and players in them."""
    stage.start('a', 'b')
    wait_until(lambda: len(stage.steps()) == len(SHARDS))
    stage.seat(*PLAYERS)
    play_on(stage)
    return stage


def play_on(stage: Stage) -> None:
    """Wait until each shard has taken a few more steps, and each player has found more."""
    steps, gold = stage.steps(), stage.gold()
    wait_until(lambda: all(stage.steps().get(shard, 0) > steps.get(shard, 0) + 3 for shard in SHARDS))
    wait_until(lambda: all(stage.gold().get(player, 0) > gold.get(player, 0) for player in PLAYERS))


def owned_by(stage: Stage, *names: str) -> Callable[[], bool]:
    """True when every shard is run by one of these."""
    return lambda: len(stage.audit.claims) == len(SHARDS) and set(stage.audit.owners().values()) == set(names)


def test_world_goes_on_when_a_member_is_killed(running: Stage, etcd_cluster: EtcdCluster) -> None:
    """Be it the leader; and each zone keeps what it has, if the others have a new leader in time."""
    lost = etcd_cluster.leader()
    etcd_cluster.kill(lost, may_diverge=True)  # it comes back without what it had
    etcd_cluster.leader()
    play_on(running)
    etcd_cluster.restart(lost, wipe=True)
    play_on(running)
    wait_until(owned_by(running, 'a', 'b'))


def test_world_goes_on_when_the_leader_moves(running: Stage, etcd_cluster: EtcdCluster) -> None:
    """From member to member."""
    for _ in etcd_cluster.members:
        etcd_cluster.move_leader((etcd_cluster.leader() + 1) % len(etcd_cluster.members))
        play_on(running)
    wait_until(owned_by(running, 'a', 'b'))


def test_world_goes_on_when_a_member_is_cut_off(running: Stage, etcd_cluster: EtcdCluster) -> None:
    """Though it takes calls and cannot do anything about them."""
    lost = etcd_cluster.leader()
    etcd_cluster.isolate(lost)
    play_on(running)
    etcd_cluster.heal(lost)
    play_on(running)


@pytest.mark.parametrize('fault', ['cut', 'silence', 'drop_replies'])
def test_zone_that_is_cut_off_stops_before_its_shards_are_anothers(
    running: Stage, etcd_faults: FaultProxies, fault: str
) -> None:
    """At each look one zone is sure of a shard at most.  When its connection is well again, so is the zone."""
    running.start('c', url=etcd_faults.url)
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)
    for proxy in etcd_faults:
        getattr(proxy, fault)()

    def is_taken_over() -> bool:
        assert max(len(running.acting(shard)) for shard in SHARDS) <= 1
        return owned_by(running, 'a', 'b')()

    wait_until(is_taken_over)
    assert not [shard for shard in SHARDS if 'c' in running.acting(shard)]
    play_on(running)
    etcd_faults.heal()
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)


def test_shards_of_a_lost_zone_are_run_by_others(running: Stage, etcd_faults: FaultProxies) -> None:
    """When their claims have expired."""
    running.start('c', url=etcd_faults.url)
    wait_until(owned_by(running, 'a', 'b', 'c'))
    play_on(running)
    for proxy in etcd_faults:
        proxy.cut()
    running.serving['c'].kill()
    wait_until(owned_by(running, 'a', 'b'))
    play_on(running)


def test_restart_of_each_zone_in_turn_loses_no_player(running: Stage) -> None:
    """Nor a step."""
    places = dict(running.matchmaker.players)
    for name, other in ('ab', 'ba'):
        running.end(name)
        wait_until(owned_by(running, other))
        play_on(running)
        running.start(name)
        wait_until(owned_by(running, 'a', 'b'))
        play_on(running)
    assert dict(running.matchmaker.players) == places


# -- processes


class Process:
    """A role of the example that runs by itself."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'examples.zones', *arguments],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, text: str) -> str:
        """What it says, up to the line with this text."""
        assert self._process.stdout is not None
        said = ''
        for line in self._process.stdout:
            said += line
            if text in line:
                return said
        raise AssertionError(f'it ended, and did not say {text!r}:\n{said}')

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end; its status, and what it said."""
        said, _ = self._process.communicate(timeout=60)
        return self._process.returncode, said

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run(etcd_server: EtcdServer) -> Iterator[Callable[..., Process]]:
    """Start a role on the etcd; what still runs after the test is killed."""
    started: list[Process] = []

    def run(*arguments: str) -> Process:
        started.append(Process(*arguments, '--url', etcd_server.url))
        return started[-1]

    yield run
    for process in started:
        process.kill()


def test_zones_are_processes_that_crash_and_drain(run, etcd_server: EtcdServer) -> None:
    """After a SIGKILL others have the shards when the claims expire; after a SIGTERM they have them at once."""
    with Stage(etcd_server.url) as stage:
        stage.etcd.set('/cfg/step', '0.05')
        crashing, draining, staying = (run('zone', name, '--ttl', str(TTL)) for name in 'abc')
        wait_until(owned_by(stage, 'a', 'b', 'c'))
        seated = run('seat', *PLAYERS).end()
        assert seated[0] == 0 and len(seated[1].splitlines()) == len(PLAYERS)
        play_on(stage)
        crashing.send(signal.SIGKILL)
        wait_until(owned_by(stage, 'b', 'c'))
        play_on(stage)
        draining.send(signal.SIGTERM)
        status, said = draining.end()
        assert status == 0
        assert 'b: has drained and ends' in said
        wait_until(owned_by(stage, 'c'))
        play_on(stage)
        staying.send(signal.SIGINT)
        assert staying.end()[0] == 0
        wait_until(lambda: not stage.audit.claims)
        assert stage.etcd.get('/').nodes  # the world is still there
        with pytest.raises(getc.KeyNotFound):
            stage.etcd.get('/zones/c')
    assert not stage.audit.faults, '\n'.join(stage.audit.faults)


def test_board_shows_who_runs_what(run, etcd_server: EtcdServer) -> None:
    """Until it is told to end."""
    with Stage(etcd_server.url) as stage:
        stage.start('a')
        wait_until(owned_by(stage, 'a'))
        wait_until(lambda: len(stage.steps()) == len(SHARDS))
        stage.seat('ann')
        board = run('board')
        shown = board.read_until('tundra')
        board.send(signal.SIGTERM)
        assert board.end()[0] == 0
    assert 'zones that take shards: a ' in shown
    assert all(f'\n{shard:<10}a ' in shown for shard in SHARDS)
    assert 'ann' in shown


def test_process_that_waits_for_etcd_ends_at_a_signal() -> None:
    """There is nothing to give back yet."""
    process = Process('zone', 'a', '--url', 'http://127.0.0.1:1')
    try:
        process.read_until('waits for etcd')
        process.send(signal.SIGTERM)
        assert process.end()[0] == -signal.SIGTERM
    finally:
        process.kill()
