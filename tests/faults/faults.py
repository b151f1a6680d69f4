"""Implements each kind of fault: how to inject it, how to heal it, and which locks it needs.

A fault is healed at the end of its duration.  If the run is aborted it is not, because the cluster is stopped then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final

import gevent

from getc.errors import EtcException
from getc.testing import FaultProxy, ServerFailed
from tests.faults.cluster import CLIENTS, MEMBERS, ProxiedCluster
from tests.faults.gateway import RequestRefused
from tests.faults.history_reader import HistoryReader
from tests.faults.schedule import PlannedFault

__all__ = ['FaultAction', 'Skipped', 'action_for']

COMMAND_TIMEOUT: Final = 20.0
"""Seconds for a command to etcd."""

MAX_LEADER_PAUSE: Final = 1.8
"""Maximal pause of a leader, in seconds.  After a longer pause the old leader revokes leases that its clock considers
expired, although the new leader has renewed them (etcd issue 15247): their keys are deleted whatever the client
does."""

COMMIT_INTERVAL: Final = 0.5
"""Seconds after which etcd has committed what it has applied; its default interval is 0.1."""

STORE: Final = frozenset({'store'})
AUTH: Final = frozenset({'auth'})


class Skipped(Exception):
    """The fault could not be injected, or it had no target."""


@dataclass(frozen=True, slots=True)
class FaultAction:
    """A fault that can be injected.

    Attributes:
        target: What it affects, for reports and checkers.
        locks: Names of the locks that it holds meanwhile.
        inject: A context manager: injects on entry, heals on exit; it yields the maximal seconds, or None for no limit.
        revision: The revision up to which it removes history.
    """

    target: str
    locks: frozenset[str]
    inject: Callable[[], AbstractContextManager[float | None]]
    revision: int | None = None


def action_for(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    """Return the action for a planned fault in the current state of the cluster.

    Raises:
        Skipped: It is not possible now.
    """
    if fault.kind in LINK_FAULTS:
        return _link_fault(fault, cluster)
    return ACTIONS[fault.kind](fault, cluster, history_reader)


# -- members


def _member_lock(index: int) -> frozenset[str]:
    return frozenset({f'member {index}'})


EVERY_MEMBER: Final = frozenset[str]().union(*map(_member_lock, range(MEMBERS)))


def _link_name(client: str, member: int) -> str:
    return f'way of {client} to member {member}'


EVERYTHING: Final = frozenset(
    {
        *EVERY_MEMBER,
        *STORE,
        *AUTH,
        'leader',
        *(_link_name(client, member) for client in CLIENTS for member in range(MEMBERS)),
    }
)


def _kill(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def killed() -> Iterator[None]:
        cluster.etcd.kill(fault.member)
        yield
        cluster.etcd.restart(fault.member)

    return FaultAction(f'member {fault.member}', _member_lock(fault.member), killed)


def _restart(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def restarted() -> Iterator[None]:
        cluster.etcd.restart(fault.member)
        yield

    return FaultAction(f'member {fault.member}', _member_lock(fault.member), restarted)


def _pause(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def paused() -> Iterator[float | None]:
        is_short = _may_lead(cluster, fault.member)
        cluster.etcd.pause(fault.member)
        yield MAX_LEADER_PAUSE if is_short else None
        cluster.etcd.resume(fault.member)

    return FaultAction(f'member {fault.member}', _member_lock(fault.member), paused)


def _may_lead(cluster: ProxiedCluster, member: int) -> bool:
    gateway = cluster.gateway(cluster.urls[member], timeout=1.0)
    try:
        status = gateway.request('/v3/maintenance/status', {})
        return bool(status.get('leader') == status['header']['member_id'])
    except (OSError, RequestRefused):
        return True
    finally:
        gateway.close()


def _outage(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def stopped() -> Iterator[None]:
        for member in range(MEMBERS):
            cluster.etcd.pause(member)
        yield
        for member in range(MEMBERS):
            cluster.etcd.resume(member)

    return FaultAction('all members', EVERY_MEMBER, stopped)


def _isolate(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def isolated() -> Iterator[None]:
        cluster.etcd.isolate(fault.member)
        yield
        cluster.etcd.heal(fault.member)

    return FaultAction(f'member {fault.member}', _member_lock(fault.member), isolated)


def _replace(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def replaced() -> Iterator[None]:
        if cluster.etcd.leader() == fault.member:
            cluster.etcd.move_leader((fault.member + 1) % MEMBERS)  # the others need a leader while the member is away
        _replace_member(cluster, fault.member)
        cluster.has_backup = False  # the backup does not have the new member
        yield

    # Changes of the membership need all other members, and no authentication.
    return FaultAction(f'member {fault.member}', EVERY_MEMBER | AUTH, replaced)


def _replace_member(cluster: ProxiedCluster, member: int) -> None:
    """Replace a member, and retry if the others refuse or do not answer; it may be removed already by then."""
    for is_last in (False, False, True):
        try:
            cluster.etcd.restart(member, wipe=True)
            return
        except EtcException as error:
            if is_last:
                raise ServerFailed(f'member {member} could not be replaced: {error}') from error
            gevent.sleep(1.0)


def _move_leader(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def moved() -> Iterator[None]:
        cluster.etcd.move_leader(fault.member)
        yield

    return FaultAction(f'to member {fault.member}', frozenset({'leader'}), moved)


# -- the store


def _compact(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    # Later changes may not have been recorded yet.  Older etcds lose a deletion at the very revision of a compaction: a
    #   watch from there is neither refused nor notified (etcd issue 18089).
    revision = history_reader.compactable_revision
    if revision < 2:
        raise Skipped('there is no history to compact')

    @contextmanager
    def compacted() -> Iterator[None]:
        cluster.compact(revision, COMMAND_TIMEOUT)
        yield

    return FaultAction(f'up to {revision}', STORE, compacted, revision)


@contextmanager
def _all_links_cut(cluster: ProxiedCluster) -> Iterator[None]:
    """Cut all links, so that no client writes or reads what the history reader cannot see."""
    proxies = [proxy for links in cluster.links.values() for proxy in links]
    for proxy in proxies:
        proxy.cut()
    try:
        yield
    finally:
        for proxy in proxies:
            proxy.heal()


def _wipe(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def wiped() -> Iterator[None]:
        with _all_links_cut(cluster):
            try:
                history_reader.end_era(COMMAND_TIMEOUT, cluster.wipe)
            except TimeoutError as error:
                raise Skipped('the history could not be read') from error
        yield

    return FaultAction('all data', EVERYTHING, wiped)


def _back_up(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def backed_up() -> Iterator[None]:
        history_reader.save_checkpoint(COMMAND_TIMEOUT)
        if cluster.may_kill:
            cluster.back_up()
        else:  # the data are as after a SIGKILL, so no write may be in flight
            with _all_links_cut(cluster):
                gevent.sleep(COMMIT_INTERVAL)
                cluster.back_up()
        yield

    # A backup with authentication would enable it when it is restored.
    return FaultAction('all members', EVERY_MEMBER | STORE | AUTH if cluster.may_kill else EVERYTHING, backed_up)


def _restore(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    if not cluster.has_backup:
        raise Skipped('there is no backup of this era')
    checkpoint = history_reader.checkpoint
    assert checkpoint is not None

    @contextmanager
    def restored() -> Iterator[None]:
        with _all_links_cut(cluster):
            try:
                history_reader.end_era(COMMAND_TIMEOUT, cluster.restore, checkpoint)
            except TimeoutError as error:
                raise Skipped('the history could not be read') from error
            cluster.pass_revision(history_reader.previous_revision, COMMAND_TIMEOUT)
        yield

    return FaultAction('all data', EVERYTHING, restored, checkpoint.revision)


def _enable_auth(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    @contextmanager
    def enabled() -> Iterator[None]:
        try:
            cluster.enable_auth(COMMAND_TIMEOUT)
            yield
        except TimeoutError:
            cluster.disable_auth(COMMAND_TIMEOUT)  # it may have been enabled all the same
            raise
        cluster.disable_auth(60.0)

    return FaultAction('all members', AUTH, enabled)


def _revoke_lease(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    leases = sorted({change.lease for change in history_reader.keys.values() if change.lease})
    if not leases:
        raise Skipped('there is no lease')
    lease = leases[int(fault.severity * len(leases))]

    @contextmanager
    def revoked() -> Iterator[None]:
        cluster.revoke(lease, COMMAND_TIMEOUT)
        yield

    return FaultAction(str(lease), STORE, revoked)


def _delete_key(fault: PlannedFault, cluster: ProxiedCluster, history_reader: HistoryReader) -> FaultAction:
    keys = sorted(change.key for change in history_reader.keys.values() if change.lease)
    if not keys:
        raise Skipped('there is no node with a lease')
    key = keys[int(fault.severity * len(keys))]

    @contextmanager
    def removed() -> Iterator[None]:
        cluster.delete(key, COMMAND_TIMEOUT)
        yield

    return FaultAction(key, STORE, removed)


ACTIONS: Final[dict[str, Callable[[PlannedFault, ProxiedCluster, HistoryReader], FaultAction]]] = {
    'kill': _kill,
    'restart': _restart,
    'pause': _pause,
    'outage': _outage,
    'isolate': _isolate,
    'replace': _replace,
    'move leader': _move_leader,
    'compaction': _compact,
    'wipe': _wipe,
    'backup': _back_up,
    'restore': _restore,
    'auth': _enable_auth,
    'revocation': _revoke_lease,
    'removal': _delete_key,
}


# -- the links of a client


def _link_fault(fault: PlannedFault, cluster: ProxiedCluster) -> FaultAction:
    links, inject_on = cluster.links[fault.client], LINK_FAULTS[fault.kind]
    is_whole_client = fault.kind in CLIENT_FAULTS
    indices = range(len(links)) if is_whole_client else range(fault.member, fault.member + 1)
    names = frozenset(_link_name(fault.client, member) for member in indices)

    @contextmanager
    def injected() -> Iterator[None]:
        greenlets = [gevent.spawn(inject_on, links[member], fault.severity) for member in indices]
        try:
            gevent.joinall(greenlets, timeout=0)
            yield
        finally:
            gevent.killall(greenlets)
        for member in indices:
            links[member].heal()

    return FaultAction(f'all ways of {fault.client}' if is_whole_client else min(names), names, injected)


def _flap(proxy: FaultProxy, severity: float) -> None:
    while True:
        proxy.cut()
        gevent.sleep(0.1 + severity / 2)
        proxy.heal()
        gevent.sleep(0.2 + severity)


def _partition(proxy: FaultProxy, severity: float) -> None:
    if severity < 0.4:
        proxy.cut()
    elif severity < 0.8:
        proxy.silence()
    else:
        proxy.drop_replies()


LINK_FAULTS: Final[dict[str, Callable[[FaultProxy, float], object]]] = {
    'cut': lambda proxy, severity: proxy.cut(),
    'silence': lambda proxy, severity: proxy.silence(),
    'half': lambda proxy, severity: proxy.drop_replies(),
    'delay': lambda proxy, severity: proxy.delay(0.02 + severity / 2),
    'chop': lambda proxy, severity: proxy.chop(1 + int(severity * 50)),
    'throttle': lambda proxy, severity: proxy.throttle(1000 + severity * 20_000),
    'partition': _partition,
    'hang': lambda proxy, severity: proxy.silence(),
    'flap': _flap,
    'lost replies': lambda proxy, severity: proxy.drop_replies(),
}

CLIENT_FAULTS: Final = frozenset({'partition', 'hang', 'lost replies'})
"""Faults that affect all links of a client."""
