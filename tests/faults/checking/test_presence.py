"""Tests of the checkers of presence and owners: a node with an outage, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tests.faults.checking import owners, presence
from tests.faults.checking.model_etcd import TTL, ModelEtcd, rewrite_records
from tests.faults.checking.owners import check_owners
from tests.faults.checking.presence import check_presence
from tests.faults.checking.violation import Violation
from tests.faults.history import REMOVAL, REVOCATION, Change, Fault, History, KeeperEvent, Probe, Record, TokenCheck

KEY = '/s/a'
LEASE = 7


class KeeperScenario:
    """A node, its keeper ``k`` and competitors, step by step.

    Attributes:
        etcd: The model.
        token: The token of the last writer.
    """

    def __init__(self) -> None:
        self.etcd = ModelEtcd()
        self.token = 0
        self.etcd.keeper_event('k', 'started')
        self.put()
        self.etcd.keeper_event('k', 'kept')
        self.keep(2.0)

    def put(self, keeper: str = 'k', lease: int = LEASE) -> int:
        """Write the node as a keeper, whose value is its name."""
        self.token = self.etcd.commit({KEY: keeper}, lease)
        return self.token

    def keep(self, seconds: float, keeper: str = 'k') -> None:
        """Pass time in which the client is served and the token is checked."""
        for _ in range(round(seconds / 0.5)):
            self.etcd.pass_time_with_probes(0.5)
            self.etcd.check_token(keeper, self.token)

    def pass_time_unserved(self, seconds: float) -> None:
        """Pass time in which the client is not served, and has not detected a loss."""
        for _ in range(round(seconds / 0.5)):
            self.etcd.pass_time_with_probes(0.5, unserved={'a': {0, 1, 2}})
            self.etcd.check_token('k', self.token)

    def report_loss(self) -> None:
        """Report the loss before the node is deleted."""
        self.etcd.keeper_event('k', 'lost')
        self.etcd.check_token('k', None)
        self.etcd.pass_time_with_probes(0.5, unserved={'a': {0, 1, 2}})

    def expire(self) -> None:
        """Delete the node."""
        self.etcd.commit({KEY: None})

    def restore_node(self, delay: float = 0.5) -> None:
        """Serve the client again, and restore the node some time later."""
        self.etcd.pass_time_with_probes(delay)
        self.put()
        self.etcd.keeper_event('k', 'restored')
        self.keep(1.0)

    def stop(self) -> None:
        """Stop the keeper, which deletes the node."""
        self.etcd.keeper_event('k', 'stopped')
        self.etcd.pass_time_with_probes(0.1)
        self.expire()
        self.etcd.pass_time_with_probes(4.0)

    def violations(self) -> list[Violation]:
        return violations(self.etcd.history)


def violations(history: History) -> list[Violation]:
    """Return the violations that both checkers report."""
    return [*check_presence(history), *check_owners(history)]


def broken_rules(history: History) -> set[str]:
    """Return the rules that were broken."""
    return {violation.rule for violation in violations(history)}


def outage_scenario() -> KeeperScenario:
    """A node is lost in an outage, restored, and released."""
    scenario = KeeperScenario()
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.expire()
    scenario.etcd.pass_time_with_probes(3.0, unserved={'a': {0, 1, 2}})
    scenario.restore_node()
    scenario.stop()
    return scenario


def without_records(history: History, is_match: Callable[[Record], bool]) -> History:
    """Return the history without some records."""
    assert any(is_match(record) for record in history)
    return rewrite_records(history, lambda record: () if is_match(record) else (record,))


def test_node_with_an_outage_passes() -> None:
    assert outage_scenario().violations() == []


def test_loss_without_an_outage_is_found() -> None:
    """The client was served all the time."""
    scenario = KeeperScenario()
    scenario.keep(4.0)
    scenario.report_loss()
    scenario.expire()
    scenario.restore_node()
    (violation,) = scenario.violations()
    assert violation.rule == presence.KEPT_WHILE_SERVED
    assert [(type(record), getattr(record, 'value', 0)) for record in violation.piece] == [
        (Change, 'k'),
        (Change, None),
    ]


@pytest.mark.parametrize('seconds', [2.0, 4.0])
def test_loss_after_a_short_service_is_excused(seconds: float) -> None:
    """A renewal takes up to a third and a sixth of the TTL, and a margin."""
    scenario = KeeperScenario()
    scenario.pass_time_unserved(4.0)
    scenario.etcd.pass_time_with_probes(seconds)
    scenario.pass_time_unserved(0.5)
    scenario.report_loss()
    scenario.expire()
    scenario.restore_node()
    scenario.stop()
    assert (presence.KEPT_WHILE_SERVED in broken_rules(scenario.etcd.history)) == (seconds == 4.0)


@pytest.mark.parametrize('links', [1, 2])
def test_each_broken_link_may_cost_an_attempt(links: int) -> None:
    """A client that has to try one link after another needs more time."""
    scenario = KeeperScenario()
    scenario.pass_time_unserved(5.0)
    scenario.etcd.pass_time_with_probes(3.6, unserved={'a': set(range(links))})
    scenario.pass_time_unserved(0.5)
    scenario.report_loss()
    scenario.expire()
    scenario.restore_node()
    scenario.stop()
    assert (presence.KEPT_WHILE_SERVED in broken_rules(scenario.etcd.history)) == (links == 0)
    scenario = KeeperScenario()
    scenario.pass_time_unserved(5.0)
    scenario.etcd.pass_time_with_probes(3.6)
    scenario.pass_time_unserved(0.5)
    scenario.report_loss()
    scenario.expire()
    scenario.restore_node()
    assert presence.KEPT_WHILE_SERVED in broken_rules(scenario.etcd.history)


def test_service_of_another_client_does_not_count() -> None:
    """Client b is served all the time; its probes bound the times of revisions."""
    history = outage_scenario().etcd.history
    assert any(record.client == 'b' for record in history.of(Probe))
    assert check_presence(history) == []


@pytest.mark.parametrize(('kind', 'target'), [(REVOCATION, str(LEASE)), (REMOVAL, KEY)])
def test_deletion_by_others_is_excused(kind: str, target: str) -> None:
    """Its keeper may detect that with its next renewal."""
    scenario = KeeperScenario()
    scenario.keep(2.0)
    began = scenario.etcd.now
    scenario.etcd.pass_time_with_probes(0.2)
    scenario.expire()
    scenario.etcd.pass_time_with_probes(0.2)
    scenario.etcd.history.add(Fault(kind, target, began, scenario.etcd.now))
    scenario.keep(2.0)  # it has not detected the deletion
    scenario.etcd.keeper_event('k', 'lost')
    scenario.restore_node()
    scenario.stop()
    assert scenario.violations() == []
    other = rewrite_records(
        scenario.etcd.history, lambda record: (replace(record, target='9'),) if isinstance(record, Fault) else (record,)
    )
    assert broken_rules(other) >= {presence.KEPT_WHILE_SERVED, presence.LOSS_REPORTED, owners.SINGLE_OWNER}


def test_restored_node_passes_after_a_wipe() -> None:
    """A token of the previous era may be returned for a TTL."""
    scenario = KeeperScenario()
    scenario.etcd.wipe()
    scenario.keep(1.5)
    scenario.etcd.keeper_event('k', 'lost')
    scenario.restore_node()
    scenario.stop()
    assert scenario.violations() == []


@pytest.mark.parametrize('cause', ['outage', 'wipe'])
def test_node_that_is_restored_too_late_is_found(cause: str) -> None:
    scenario = KeeperScenario()
    if cause == 'outage':
        scenario.pass_time_unserved(4.5)
        scenario.report_loss()
        scenario.expire()
    else:
        scenario.etcd.wipe()
    scenario.restore_node(delay=5.5)
    scenario.stop()
    assert broken_rules(scenario.etcd.history) == {presence.RESTORED_SOON}


def test_node_that_is_never_restored_is_found() -> None:
    """The log has no later change."""
    scenario = KeeperScenario()
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.expire()
    scenario.etcd.pass_time_with_probes(5.0)
    (violation,) = scenario.violations()
    assert violation.rule == presence.RESTORED_SOON
    assert [type(record) for record in violation.piece] == [Change, Probe, KeeperEvent]


def test_node_of_another_owner_need_not_be_restored() -> None:
    scenario = KeeperScenario()
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.expire()
    scenario.etcd.keeper_event('other', 'started', client='b')
    scenario.put('other')
    scenario.etcd.keeper_event('other', 'kept', client='b')
    scenario.keep(5.0, 'other')
    assert scenario.violations() == []


def test_loss_that_is_reported_late_is_found() -> None:
    """The node was deleted before its keeper reported the loss and refused the token."""
    scenario = KeeperScenario()
    scenario.pass_time_unserved(5.0)
    scenario.expire()
    scenario.pass_time_unserved(1.0)
    scenario.report_loss()
    scenario.restore_node()
    scenario.stop()
    assert broken_rules(scenario.etcd.history) == {presence.LOSS_REPORTED, owners.SINGLE_OWNER}


def test_loss_that_is_never_reported_is_found() -> None:
    """Nor was a token refused."""
    history = without_records(
        outage_scenario().etcd.history,
        lambda record: isinstance(record, TokenCheck) or (isinstance(record, KeeperEvent) and record.kind == 'lost'),
    )
    assert broken_rules(history) == {presence.LOSS_REPORTED}


@pytest.mark.parametrize('kind', [KeeperEvent, TokenCheck])
def test_callback_or_refused_token_reports_a_loss(kind: type) -> None:
    """Either the callback or a refused token: a process that was not running can only refuse the token."""

    def is_the_other(record: Record) -> bool:
        is_loss = isinstance(record, KeeperEvent) and record.kind == 'lost'
        return isinstance(record, kind) and (is_loss or (isinstance(record, TokenCheck) and record.token is None))

    assert violations(without_records(outage_scenario().etcd.history, is_the_other)) == []


def test_two_owners_are_found() -> None:
    """The violation shows the write, its deletion, the next owner's write, the probe, and the late token."""
    scenario = outage_scenario()
    scenario.etcd.keeper_event('other', 'started', client='b')
    scenario.put('other')
    scenario.keep(1.0, 'other')
    old = next(record for record in scenario.etcd.history.of(TokenCheck) if record.token is not None)
    scenario.etcd.history.add(replace(old, at=scenario.etcd.now))
    (violation,) = scenario.violations()
    assert violation.rule == owners.SINGLE_OWNER
    assert [type(record) for record in violation.piece] == [Change, Change, Change, Probe, TokenCheck]
    assert [record.value for record in violation.piece[:3]] == ['k', None, 'k']  # type: ignore[union-attr]


def test_invalid_token_is_reported_once() -> None:
    history = rewrite_records(
        outage_scenario().etcd.history,
        lambda record: (replace(record, token=99),) if isinstance(record, TokenCheck) and record.token else (record,),
    )
    (violation,) = violations(history)
    assert violation.rule == owners.VALID_TOKEN


def test_token_of_another_owner_is_found() -> None:
    """A token has to be a write of its keeper."""
    scenario = KeeperScenario()
    scenario.etcd.keeper_event('other', 'started', client='b')
    scenario.etcd.check_token('other', scenario.token)
    assert broken_rules(scenario.etcd.history) == {owners.VALID_TOKEN}


@pytest.mark.parametrize('on_conflict', ['wait', 'raise', 'replace'])
def test_overwriting_a_node_is_found_unless_it_is_a_replacement(on_conflict: str) -> None:
    """The keeper of a replaced node detects that with its next renewal."""
    scenario = KeeperScenario()
    scenario.etcd.keeper_event('other', 'started', client='b', on_conflict=on_conflict)
    old = scenario.token
    scenario.put('other', 8)
    scenario.etcd.keeper_event('other', 'kept', client='b', on_conflict=on_conflict)
    scenario.etcd.pass_time_with_probes(1.0)
    scenario.etcd.check_token('k', old)
    scenario.etcd.pass_time_with_probes(0.5)
    scenario.etcd.keeper_event('k', 'overtaken')
    scenario.keep(1.0, 'other')
    expected = (
        set() if on_conflict == 'replace' else {presence.NO_TAKEOVER, presence.LOSS_REPORTED, owners.SINGLE_OWNER}
    )
    assert broken_rules(scenario.etcd.history) == expected


def test_token_of_a_replaced_owner_is_invalid_after_the_ttl() -> None:
    scenario = KeeperScenario()
    scenario.etcd.keeper_event('other', 'started', client='b', on_conflict='replace')
    old = scenario.token
    scenario.put('other', 8)
    scenario.keep(TTL + 1, 'other')
    scenario.etcd.check_token('k', old)
    assert broken_rules(scenario.etcd.history) == {owners.SINGLE_OWNER}


def test_node_of_a_stopped_keeper_may_be_taken() -> None:
    """The keeper could not delete it, and its successor found it."""
    scenario = KeeperScenario()
    scenario.etcd.keeper_event('k', 'stopped')
    scenario.etcd.pass_time_with_probes(0.5)
    scenario.etcd.keeper_event('next', 'started')
    scenario.put('next')
    scenario.etcd.keeper_event('next', 'kept')
    scenario.keep(1.0, 'next')
    assert scenario.violations() == []


def test_reclaimed_node_has_the_same_owner() -> None:
    """The keeper reported a loss, and moved the node to another lease: the old token is valid, too."""
    scenario = KeeperScenario()
    old = scenario.token
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.put('k', 8)
    scenario.etcd.keeper_event('k', 'restored')
    scenario.keep(1.0)
    assert scenario.token > old
    scenario.etcd.check_token('k', old)
    assert scenario.violations() == []


def test_keeper_without_a_node_is_found() -> None:
    """keep_node returned, but the node was not written."""
    etcd = ModelEtcd()
    etcd.keeper_event('k', 'started')
    etcd.keeper_event('k', 'kept')
    etcd.pass_time_with_probes(1.0)
    assert broken_rules(etcd.history) == {presence.REPORTED_NODE_EXISTS}


def test_client_without_probes_is_reported() -> None:
    history = without_records(
        outage_scenario().etcd.history, lambda record: isinstance(record, Probe) and record.client == 'a'
    )
    assert presence.CLIENTS_PROBED in broken_rules(history)


@pytest.mark.parametrize('probe', ['slow', 'missing'])
def test_slow_or_missing_probes_do_not_count_as_service(probe: str) -> None:
    """Neither a slow answer nor a long time without probes is service."""

    def degrade(record: Record) -> Iterable[Record]:
        if isinstance(record, Probe) and record.client == 'a' and record.began > 3.0:
            if probe == 'slow':
                return (replace(record, ended=record.began + 1.5),)
            return (record,) if round(record.began * 10) % 20 == 0 else ()
        return (record,)

    scenario = KeeperScenario()
    scenario.keep(4.0)
    scenario.report_loss()
    scenario.expire()
    scenario.restore_node()
    scenario.stop()
    assert presence.KEPT_WHILE_SERVED in broken_rules(scenario.etcd.history)
    assert presence.KEPT_WHILE_SERVED not in broken_rules(rewrite_records(scenario.etcd.history, degrade))


def rivals_scenario() -> KeeperScenario:
    """Two keepers of a node with the same value: ``k`` owns it, and ``other`` waits."""
    etcd = ModelEtcd()
    for keeper, client in (('k', 'a'), ('other', 'b')):
        etcd.keeper_event(keeper, 'started', client=client, value='same')
    scenario = KeeperScenario.__new__(KeeperScenario)
    scenario.etcd = etcd
    scenario.put('same')
    etcd.keeper_event('k', 'kept', value='same')
    scenario.keep(2.0)
    return scenario


def test_equal_values_are_distinguished_by_lease_and_token() -> None:
    """The other keeper takes the node when it is free."""
    scenario = rivals_scenario()
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.expire()
    scenario.put('same', 8)
    scenario.etcd.keeper_event('other', 'kept', client='b', value='same')
    scenario.keep(2.0, 'other')
    assert scenario.violations() == []


def test_equal_value_may_be_moved_to_another_lease_of_its_owner() -> None:
    """The keeper reported a loss, and the node still existed."""
    scenario = rivals_scenario()
    old = scenario.token
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.put('same', 8)
    scenario.etcd.keeper_event('k', 'restored', value='same')
    scenario.keep(1.0)
    scenario.etcd.check_token('k', old)
    assert scenario.violations() == []


def test_overwriting_a_node_with_an_equal_value_is_found() -> None:
    """Both keepers return a token."""
    scenario = rivals_scenario()
    old = scenario.token
    scenario.put('same', 8)
    scenario.etcd.keeper_event('other', 'kept', client='b', value='same')
    scenario.keep(1.0, 'other')
    scenario.etcd.check_token('k', old)
    assert broken_rules(scenario.etcd.history) == {presence.NO_TAKEOVER, presence.LOSS_REPORTED, owners.SINGLE_OWNER}


@pytest.mark.parametrize('client', ['a', 'b'])
def test_lost_node_may_be_taken_by_another_keeper_of_its_client(client: str) -> None:
    """The lease proves that the node belongs to the client; others cannot know that before the lease ends."""
    scenario = rivals_scenario()
    scenario.etcd.keeper_event('third', 'started', client=client, value='same')
    scenario.pass_time_unserved(4.5)
    scenario.report_loss()
    scenario.put('same', 8)
    scenario.etcd.keeper_event('third', 'kept', client=client, value='same')
    scenario.keep(1.0, 'third')
    assert broken_rules(scenario.etcd.history) == (set() if client == 'a' else {presence.NO_TAKEOVER})


def test_deletion_of_another_keepers_node_with_an_equal_value_is_found() -> None:
    """The keeper of the node is served, and does not detect the deletion."""
    scenario = rivals_scenario()
    scenario.keep(3.0)
    scenario.expire()
    scenario.keep(1.0)
    scenario.etcd.keeper_event('other', 'stopped', client='b', value='same')
    assert broken_rules(scenario.etcd.history) == {
        presence.KEPT_WHILE_SERVED,
        presence.LOSS_REPORTED,
        owners.SINGLE_OWNER,
    }


def test_token_of_two_keepers_is_found() -> None:
    """One of them did not write the node then."""
    scenario = rivals_scenario()
    scenario.etcd.check_token('other', scenario.token)
    assert broken_rules(scenario.etcd.history) == {owners.VALID_TOKEN}


def test_node_in_a_backup_is_kept_after_the_restore() -> None:
    """The lease is in the backup, too, so its keeper does not notice."""
    scenario = KeeperScenario()
    scenario.etcd.back_up()
    scenario.keep(1.0)
    scenario.etcd.restore()
    scenario.keep(3.0)
    scenario.stop()
    assert scenario.violations() == []


@pytest.mark.parametrize('restored', [True, False])
def test_node_that_is_not_in_a_backup_has_to_be_restored(restored: bool) -> None:
    """It was taken after the backup; a token of the previous era may be returned for a TTL."""
    scenario = KeeperScenario.__new__(KeeperScenario)
    scenario.etcd = ModelEtcd()
    scenario.etcd.pass_time_with_probes(1.0)
    scenario.etcd.back_up()
    scenario.etcd.keeper_event('k', 'started')
    scenario.put()
    scenario.etcd.keeper_event('k', 'kept')
    scenario.keep(2.0)
    scenario.etcd.restore()
    scenario.keep(1.5)
    scenario.etcd.keeper_event('k', 'lost')
    if restored:
        scenario.restore_node()
    else:
        scenario.etcd.pass_time_with_probes(8.0)
    assert broken_rules(scenario.etcd.history) == (set() if restored else {presence.RESTORED_SOON})


@pytest.mark.parametrize('lease', [LEASE, 8])
def test_older_node_in_a_backup_on_the_same_lease_is_excused(lease: int) -> None:
    """The keeper cannot detect that; on another lease it does with the next renewal."""
    scenario = KeeperScenario()
    scenario.etcd.back_up()
    scenario.etcd.keeper_event('k', 'stopped')
    scenario.expire()
    scenario.etcd.pass_time_with_probes(1.0)
    scenario.etcd.keeper_event('next', 'started')
    scenario.put('next', lease)
    scenario.etcd.keeper_event('next', 'kept')
    scenario.keep(1.0, 'next')
    scenario.etcd.restore()
    scenario.keep(TTL + 2, 'next')
    assert broken_rules(scenario.etcd.history) - {presence.RESTORED_SOON} == (
        set() if lease == LEASE else {owners.SINGLE_OWNER}
    )


def test_late_report_of_the_loss_of_a_node_in_a_backup_is_found() -> None:
    """The lease in the backup expired before the keeper reported it."""
    scenario = KeeperScenario()
    scenario.etcd.back_up()
    scenario.keep(1.0)
    scenario.etcd.restore()
    scenario.pass_time_unserved(6.0)
    scenario.expire()
    scenario.pass_time_unserved(1.0)
    scenario.report_loss()
    assert broken_rules(scenario.etcd.history) == {presence.LOSS_REPORTED, owners.SINGLE_OWNER}
