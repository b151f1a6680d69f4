"""Ten minutes of a small game world under virtual time, with every fault, repeated with the same outcome."""

from __future__ import annotations

import getc
from getc.testing import MemoryStore, VirtualTime

Log = list[tuple[float, str]]

TTL = 10


class World:
    """Two servers that compete for leadership, a record of what they do, and an observer."""

    def __init__(self, clock: VirtualTime) -> None:
        self.clock = clock
        self.log: Log = []
        self.store = MemoryStore()
        self.links = {name: self.store.link() for name in ('one', 'two')}
        self.servers = {name: getc.etcd(link.url) for name, link in self.links.items()}
        self.admin = getc.etcd(self.store.url)

    def record(self, line: str) -> None:
        self.log.append((self.clock.elapsed, line))

    def start(self) -> None:
        self.admin.on_change('/', self.on_change)
        self.presence = {
            name: server.keep_node(f'/servers/{name}', name, ttl=TTL, **self.callbacks(name))
            for name, server in self.servers.items()
        }
        self.mirror = self.servers['two'].mirror('/cfg', on_update=self.on_update)
        self.leading = {
            name: server.keep_node('/leader', name, ttl=TTL, on_conflict='wait', wait=False, **self.callbacks('leader'))
            for name, server in self.servers.items()
        }

    def callbacks(self, name: str) -> dict[str, object]:
        return {
            'on_lost': lambda keeper: self.record(f'{name}: {keeper.key} lost'),
            'on_restored': lambda keeper: self.record(f'{name}: {keeper.key} restored'),
        }

    def on_change(self, result: getc.EtcdResult) -> None:
        self.record(f'{type(result).__name__} {result.key} {result.value} {result.resync}')

    def on_update(self, results: tuple[getc.EtcdResult, ...]) -> None:
        self.record(f'mirror: {dict(self.mirror)}')

    def leaders(self) -> list[str]:
        """Return the servers that may act as the leader now."""
        return [name for name, keeper in self.leading.items() if keeper.state is getc.KeeperState.KEPT]

    def close(self) -> None:
        for client in (*self.servers.values(), self.admin):
            client.close()


def ten_minutes() -> Log:
    """Run the scenario: presence lost and regained, a new leader, new configuration, a wiped etcd."""
    with VirtualTime() as clock:
        world = World(clock)
        world.start()
        clock.advance(60)
        assert world.leaders() == ['one']

        for number in range(3):
            world.admin.set('/cfg/rate', str(number))
        clock.advance(30)

        world.links['one'].disconnect()  # the leader is disconnected, and the other one takes over
        for _ in range(60):
            clock.advance(1)
            assert len(world.leaders()) <= 1
        assert world.leaders() == ['two']
        world.links['one'].connect()
        clock.advance(60)
        assert world.leaders() == ['two']
        assert world.presence['one'].state is getc.KeeperState.KEPT

        world.store.expire('/leader')
        clock.advance(30)
        assert len(world.leaders()) == 1

        world.store.compact()  # watchers resync without differences
        world.store.fail_next(getc.TooManyRequests('etcdserver: too many requests'))
        world.store.fail_next(getc.NoLeader('etcdserver: no leader'))
        clock.advance(30)
        assert len(world.leaders()) == 1

        world.store.disconnect()  # an outage for all
        clock.advance(45)
        assert world.leaders() == []
        world.store.connect()
        clock.advance(60)

        world.admin.set('/cfg/rate', '7')
        world.store.wipe()
        clock.advance(60)
        world.admin.set('/cfg/rate', '8')
        world.store.delay(0.5)
        clock.advance(60)
        world.store.delay(0)
        world.store.lose_next_reply()
        clock.stall(4)
        clock.advance(61)
        for link in world.links.values():  # replies to one server are lost
            link.lose_next_reply()
            clock.advance(20)
        assert dict(world.mirror) == {'/cfg/rate': '8'}
        assert len(world.leaders()) == 1
        assert clock.elapsed == 600
        world.close()
        clock.advance(0)
        return world.log


def test_ten_minutes_are_deterministic() -> None:
    """To the nanosecond, including the order of simultaneous events and random retry delays."""
    first = ten_minutes()
    lines = [line for _, line in first]
    assert 'one: /servers/one lost' in lines
    assert 'one: /servers/one restored' in lines
    assert "mirror: {'/cfg/rate': '2'}" in lines
    assert any(line.startswith('Expired /leader') for line in lines)
    assert "mirror: {'/cfg/rate': '8'}" in lines
    assert 'leader: /leader restored' in lines
    assert any(line.endswith('True') for line in lines)  # the wiped store was reported by a resync
    for _ in range(5):
        assert ten_minutes() == first
