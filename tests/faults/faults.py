"""How each kind of fault is done and undone, and what it has to itself meanwhile.

A breakage is mended only if its time is over.  Where the run ends early it is not: the ground stops everything then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import gevent

from getc.errors import EtcException
from getc.testing import FaultProxy, ServerFailed
from tests.faults.cluster import CLIENTS, MEMBERS, Ground
from tests.faults.gateway import Refused
from tests.faults.history_reader import Archivist
from tests.faults.schedule import Strike

__all__ = ['Breakage', 'Omitted', 'breakage_of']

PATIENCE: Final = 20.0
"""Seconds for etcd to do what it is told."""

SHORT: Final = 1.8
"""Seconds for which a leader is paused at most.  One that comes back after longer revokes leases that its clock takes
for expired, though the leader after it has renewed them (etcd issue 15247): whatever a
client does, its node goes."""

COMMIT: Final = 0.5
"""Seconds in which etcd commits what it has applied: 0.1 by default."""

STORE: Final = frozenset({'store'})
AUTH: Final = frozenset({'auth'})


class Omitted(Exception):
    """It could not be done now, or there was nothing to do it to."""


@dataclass(frozen=True, slots=True)
class Breakage:
    """One fault that is to come.

    Attributes:
        target: What is broken, for people and checkers.
        needs: Names of what it has to itself.
        done: Breaks it on entry, and mends it on exit; the seconds that it lasts at most, if fewer than it was to.
        revision: Up to which history is gone by it.
    """

    target: str
    needs: frozenset[str]
    done: Callable[[], AbstractContextManager[float | None]]
    revision: int | None = None


def breakage_of(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    """What a strike means, now.

    Raises:
        Omitted: It makes no sense at the moment.
    """
    if strike.kind in WAYS:
        return _of_way(strike, ground)
    return MAKERS[strike.kind](strike, ground, archivist)


# -- members


def _member(index: int) -> frozenset[str]:
    return frozenset({f'member {index}'})


EVERY_MEMBER: Final = frozenset[str]().union(*map(_member, range(MEMBERS)))


def _way(client: str, member: int) -> str:
    return f'way of {client} to member {member}'


EVERYTHING: Final = frozenset(
    {*EVERY_MEMBER, *STORE, *AUTH, 'leader', *(_way(client, member) for client in CLIENTS for member in range(MEMBERS))}
)


def _of_kill(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def killed() -> Iterator[None]:
        ground.cluster.kill(strike.member)
        yield
        ground.cluster.restart(strike.member)

    return Breakage(f'member {strike.member}', _member(strike.member), killed)


def _of_restart(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def restarted() -> Iterator[None]:
        ground.cluster.restart(strike.member)
        yield

    return Breakage(f'member {strike.member}', _member(strike.member), restarted)


def _of_pause(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def paused() -> Iterator[float | None]:
        is_short = _may_lead(ground, strike.member)
        ground.cluster.pause(strike.member)
        yield SHORT if is_short else None
        ground.cluster.resume(strike.member)

    return Breakage(f'member {strike.member}', _member(strike.member), paused)


def _may_lead(ground: Ground, member: int) -> bool:
    gateway = ground.gateway(ground.urls[member], timeout=1.0)
    try:
        status = gateway.ask('/v3/maintenance/status', {})
        return bool(status.get('leader') == status['header']['member_id'])
    except (OSError, Refused):
        return True
    finally:
        gateway.close()


def _of_outage(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def stopped() -> Iterator[None]:
        for member in range(MEMBERS):
            ground.cluster.pause(member)
        yield
        for member in range(MEMBERS):
            ground.cluster.resume(member)

    return Breakage('all members', EVERY_MEMBER, stopped)


def _of_isolation(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def isolated() -> Iterator[None]:
        ground.cluster.isolate(strike.member)
        yield
        ground.cluster.heal(strike.member)

    return Breakage(f'member {strike.member}', _member(strike.member), isolated)


def _of_replacement(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def replaced() -> Iterator[None]:
        if ground.cluster.leader() == strike.member:
            ground.cluster.move_leader((strike.member + 1) % MEMBERS)  # the others must have one when it is away
        _replace(ground, strike.member)
        ground.has_backup = False  # it has another member
        yield

    # Changing the membership needs all the others, and no credentials.
    return Breakage(f'member {strike.member}', EVERY_MEMBER | AUTH, replaced)


def _replace(ground: Ground, member: int) -> None:
    """Try again where the others refuse, or do not answer: the member is ended already, and may be removed."""
    for last in (False, False, True):
        try:
            ground.cluster.restart(member, wipe=True)
            return
        except EtcException as error:
            if last:
                raise ServerFailed(f'member {member} could not be replaced: {error}') from error
            gevent.sleep(1.0)


def _of_moving(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def moved() -> Iterator[None]:
        ground.cluster.move_leader(strike.member)
        yield

    return Breakage(f'to member {strike.member}', frozenset({'leader'}), moved)


# -- the store


def _of_compaction(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    # Later changes are not in the archive yet.  And older etcds forget a deletion made at the very revision of a
    # compaction: a watch that begins there is neither refused nor told (etcd issue 18089).
    revision = archivist.compactable
    if revision < 2:
        raise Omitted('there is no history')

    @contextmanager
    def compacted() -> Iterator[None]:
        ground.compact(revision, PATIENCE)
        yield

    return Breakage(f'up to {revision}', STORE, compacted, revision)


@contextmanager
def _all_ways_cut(ground: Ground) -> Iterator[None]:
    """Nobody can write what the archivist would not see, and nobody sees what it does not."""
    proxies = [proxy for ways in ground.ways.values() for proxy in ways]
    for proxy in proxies:
        proxy.cut()
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.heal()


def _of_wipe(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def wiped() -> Iterator[None]:
        with _all_ways_cut(ground):
            try:
                archivist.end_era(PATIENCE, ground.wipe)
            except TimeoutError as error:
                raise Omitted('what is there could not be read') from error
        yield

    return Breakage('all data', EVERYTHING, wiped)


def _of_backup(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def backed_up() -> Iterator[None]:
        archivist.keep_bookmark(PATIENCE)
        if ground.may_kill:
            ground.back_up()
        else:  # what members have is as after a SIGKILL, so nothing may be under way
            with _all_ways_cut(ground):
                gevent.sleep(COMMIT)
                ground.back_up()
        yield

    return Breakage('all members', EVERY_MEMBER | STORE if ground.may_kill else EVERYTHING, backed_up)


def _of_restore(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    if not ground.has_backup:
        raise Omitted('there is no backup of this era')
    bookmark = archivist.bookmark
    assert bookmark is not None

    @contextmanager
    def restored() -> Iterator[None]:
        with _all_ways_cut(ground):
            try:
                archivist.end_era(PATIENCE, ground.restore, bookmark)
            except TimeoutError as error:
                raise Omitted('what is there could not be read') from error
            ground.pass_revision(archivist.former, PATIENCE)
        yield

    return Breakage('all data', EVERYTHING, restored, bookmark.revision)


def _of_auth(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    @contextmanager
    def asked() -> Iterator[None]:
        try:
            ground.ask_for_credentials(PATIENCE)
            yield
        except TimeoutError:
            ground.trust_everybody(PATIENCE)  # it may be done all the same
            raise
        ground.trust_everybody(60.0)

    return Breakage('all members', AUTH, asked)


def _of_revocation(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    leases = sorted({change.lease for change in archivist.there.values() if change.lease})
    if not leases:
        raise Omitted('there is no lease')
    lease = leases[int(strike.force * len(leases))]

    @contextmanager
    def revoked() -> Iterator[None]:
        ground.revoke(lease, PATIENCE)
        yield

    return Breakage(str(lease), STORE, revoked)


def _of_removal(strike: Strike, ground: Ground, archivist: Archivist) -> Breakage:
    keys = sorted(change.key for change in archivist.there.values() if change.lease)
    if not keys:
        raise Omitted('there is no node with a lease')
    key = keys[int(strike.force * len(keys))]

    @contextmanager
    def removed() -> Iterator[None]:
        ground.delete(key, PATIENCE)
        yield

    return Breakage(key, STORE, removed)


MAKERS: Final[dict[str, Callable[[Strike, Ground, Archivist], Breakage]]] = {
    'kill': _of_kill,
    'restart': _of_restart,
    'pause': _of_pause,
    'outage': _of_outage,
    'isolate': _of_isolation,
    'replace': _of_replacement,
    'move leader': _of_moving,
    'compaction': _of_compaction,
    'wipe': _of_wipe,
    'backup': _of_backup,
    'restore': _of_restore,
    'auth': _of_auth,
    'revocation': _of_revocation,
    'removal': _of_removal,
}


# -- the ways of a client


def _of_way(strike: Strike, ground: Ground) -> Breakage:
    ways, spoil = ground.ways[strike.client], WAYS[strike.kind]
    is_all = strike.kind in ALL_WAYS
    hurt = range(len(ways)) if is_all else range(strike.member, strike.member + 1)
    names = frozenset(_way(strike.client, member) for member in hurt)

    @contextmanager
    def spoilt() -> Iterator[None]:
        spoiling = [gevent.spawn(spoil, ways[member], strike.force) for member in hurt]
        try:
            gevent.joinall(spoiling, timeout=0)
            yield
        finally:
            gevent.killall(spoiling)
        for member in hurt:
            ways[member].heal()

    return Breakage(f'all ways of {strike.client}' if is_all else min(names), names, spoilt)


def _flap(proxy: FaultProxy, force: float) -> None:
    while True:
        proxy.cut()
        gevent.sleep(0.1 + force / 2)
        proxy.heal()
        gevent.sleep(0.2 + force)


def _part(proxy: FaultProxy, force: float) -> None:
    if force < 0.4:
        proxy.cut()
    elif force < 0.8:
        proxy.silence()
    else:
        proxy.half()


WAYS: Final[dict[str, Callable[[FaultProxy, float], object]]] = {
    'cut': lambda proxy, force: proxy.cut(),
    'silence': lambda proxy, force: proxy.silence(),
    'half': lambda proxy, force: proxy.half(),
    'delay': lambda proxy, force: proxy.delay(0.02 + force / 2),
    'chop': lambda proxy, force: proxy.chop(1 + int(force * 50)),
    'throttle': lambda proxy, force: proxy.throttle(1000 + force * 20_000),
    'partition': _part,
    'hang': lambda proxy, force: proxy.silence(),
    'flap': _flap,
    'lost replies': lambda proxy, force: proxy.half(),
}

ALL_WAYS: Final = frozenset({'partition', 'hang', 'lost replies'})
"""What is done to all ways of a client."""
