"""The checkers of presence and of owners: a life of one node with an outage, and each way for it to go wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from tests.faults.checking import owners, presence
from tests.faults.checking.model_etcd import TTL, ToyEtcd, rewritten
from tests.faults.checking.owners import check_owners
from tests.faults.checking.presence import check_presence
from tests.faults.checking.violation import Violation
from tests.faults.history import REMOVAL, REVOCATION, Change, Claim, Fault, History, Presence, Probe, Record

KEY = '/s/a'
LEASE = 7


class Life:
    """One node, its keeper ``k`` and whoever else wants it, told step by step.

    Attributes:
        etcd: Where.
        token: The keeper's.
    """

    def __init__(self) -> None:
        self.etcd = ToyEtcd()
        self.token = 0
        self.etcd.say('k', 'started')
        self.put()
        self.etcd.say('k', 'kept')
        self.own(2.0)

    def put(self, keeper: str = 'k', lease: int = LEASE) -> int:
        """The node is written by a keeper, whose value is its name."""
        self.token = self.etcd.commit({KEY: keeper}, lease)
        return self.token

    def own(self, seconds: float, keeper: str = 'k') -> None:
        """It is kept for some time, its client is served, and it is asked for its token."""
        for _ in range(round(seconds / 0.5)):
            self.etcd.serve(0.5)
            self.etcd.claim(keeper, self.token)

    def suffer(self, seconds: float) -> None:
        """The client is not served, and does not know of a loss yet."""
        for _ in range(round(seconds / 0.5)):
            self.etcd.serve(0.5, but={'a': {0, 1, 2}})
            self.etcd.claim('k', self.token)

    def lose(self) -> None:
        """The keeper knows, and says so, before the node goes."""
        self.etcd.say('k', 'lost')
        self.etcd.claim('k', None)
        self.etcd.serve(0.5, but={'a': {0, 1, 2}})

    def expire(self) -> None:
        """The node goes."""
        self.etcd.commit({KEY: None})

    def come_back(self, after: float = 0.5) -> None:
        """The client is served again, and some time later the node is there."""
        self.etcd.serve(after)
        self.put()
        self.etcd.say('k', 'restored')
        self.own(1.0)

    def stop(self) -> None:
        """The keeper stops, and takes the node with it."""
        self.etcd.say('k', 'stopped')
        self.etcd.serve(0.1)
        self.expire()
        self.etcd.serve(4.0)

    def violations(self) -> list[Violation]:
        """What is wrong with it."""
        return violations(self.etcd.history)


def violations(history: History) -> list[Violation]:
    """What both checkers say."""
    return [*check_presence(history), *check_owners(history)]


def broken(history: History) -> set[str]:
    """The rules that they say are broken."""
    return {violation.rule for violation in violations(history)}


def an_outage() -> Life:
    """The node is lost for want of service, comes back, and is given up."""
    life = Life()
    life.suffer(4.5)
    life.lose()
    life.expire()
    life.etcd.serve(3.0, but={'a': {0, 1, 2}})
    life.come_back()
    life.stop()
    return life


def dropped(history: History, is_meant: Callable[[Record], bool]) -> History:
    """The same but for some records."""
    assert any(is_meant(record) for record in history)
    return rewritten(history, lambda record: () if is_meant(record) else (record,))


def test_life_with_an_outage_passes() -> None:
    """Lost in time, back at once, given up in the end."""
    assert an_outage().violations() == []


def test_loss_without_an_outage_is_found() -> None:
    """The client was served all the time, and the node went."""
    life = Life()
    life.own(4.0)
    life.lose()
    life.expire()
    life.come_back()
    (violation,) = life.violations()
    assert violation.rule == presence.THERE
    assert [(type(record), getattr(record, 'value', 0)) for record in violation.piece] == [
        (Change, 'k'),
        (Change, None),
    ]


@pytest.mark.parametrize('seconds', [2.0, 4.0])
def test_loss_after_a_short_service_is_no_wonder(seconds: float) -> None:
    """A renewal needs up to a third of the TTL and a sixth, and a moment."""
    life = Life()
    life.suffer(4.0)
    life.etcd.serve(seconds)
    life.suffer(0.5)
    life.lose()
    life.expire()
    life.come_back()
    life.stop()
    assert (presence.THERE in broken(life.etcd.history)) == (seconds == 4.0)


@pytest.mark.parametrize('ways', [1, 2])
def test_each_way_that_is_broken_may_cost_an_attempt(ways: int) -> None:
    """A client that has to try one way after the other needs longer."""
    life = Life()
    life.suffer(5.0)
    life.etcd.serve(3.6, but={'a': set(range(ways))})
    life.suffer(0.5)
    life.lose()
    life.expire()
    life.come_back()
    life.stop()
    assert (presence.THERE in broken(life.etcd.history)) == (ways == 0)
    life = Life()
    life.suffer(5.0)
    life.etcd.serve(3.6)
    life.suffer(0.5)
    life.lose()
    life.expire()
    life.come_back()
    assert presence.THERE in broken(life.etcd.history)


def test_service_of_another_client_is_no_service() -> None:
    """Here b is served all the time; the bounds of time come from its probes."""
    history = an_outage().etcd.history
    assert any(record.client == 'b' for record in history.of(Probe))
    assert check_presence(history) == []


@pytest.mark.parametrize(('kind', 'target'), [(REVOCATION, str(LEASE)), (REMOVAL, KEY)])
def test_node_that_others_took_is_no_fault(kind: str, target: str) -> None:
    """And its keeper may learn of it with its next renewal only."""
    life = Life()
    life.own(2.0)
    began = life.etcd.now
    life.etcd.serve(0.2)
    life.expire()
    life.etcd.serve(0.2)
    life.etcd.history.add(Fault(kind, target, began, life.etcd.now))
    life.own(2.0)  # it does not know
    life.etcd.say('k', 'lost')
    life.come_back()
    life.stop()
    assert life.violations() == []
    other = rewritten(
        life.etcd.history, lambda record: (replace(record, target='9'),) if isinstance(record, Fault) else (record,)
    )
    assert broken(other) >= {presence.THERE, presence.KNOWN, owners.ONE}


def test_wipe_takes_every_node_and_they_come_back() -> None:
    """A token of the era before may be given for a TTL."""
    life = Life()
    life.etcd.wipe()
    life.own(1.5)
    life.etcd.say('k', 'lost')
    life.come_back()
    life.stop()
    assert life.violations() == []


@pytest.mark.parametrize('cause', ['outage', 'wipe'])
def test_node_that_comes_back_too_late_is_found(cause: str) -> None:
    """Service was there for seconds, and the node was not."""
    life = Life()
    if cause == 'outage':
        life.suffer(4.5)
        life.lose()
        life.expire()
    else:
        life.etcd.wipe()
    life.come_back(after=5.5)
    life.stop()
    assert broken(life.etcd.history) == {presence.BACK}


def test_node_that_never_comes_back_is_found() -> None:
    """There is nothing after it in the log."""
    life = Life()
    life.suffer(4.5)
    life.lose()
    life.expire()
    life.etcd.serve(5.0)
    (violation,) = life.violations()
    assert violation.rule == presence.BACK
    assert [type(record) for record in violation.piece] == [Change, Probe, Presence]


def test_node_that_another_has_taken_need_not_come_back() -> None:
    """The name is there, and whose it is does not matter."""
    life = Life()
    life.suffer(4.5)
    life.lose()
    life.expire()
    life.etcd.say('other', 'started', client='b')
    life.put('other')
    life.etcd.say('other', 'kept', client='b')
    life.own(5.0, 'other')
    assert life.violations() == []


def test_loss_that_is_told_late_is_found() -> None:
    """The node had gone when its keeper said so; it gave its token for as long."""
    life = Life()
    life.suffer(5.0)
    life.expire()
    life.suffer(1.0)
    life.lose()
    life.come_back()
    life.stop()
    assert broken(life.etcd.history) == {presence.KNOWN, owners.ONE}


def test_loss_that_is_never_told_is_found() -> None:
    """Nobody asked for a token either."""
    history = dropped(
        an_outage().etcd.history,
        lambda record: isinstance(record, Claim) or (isinstance(record, Presence) and record.what == 'lost'),
    )
    assert broken(history) == {presence.KNOWN}


@pytest.mark.parametrize('kind', [Presence, Claim])
def test_one_word_in_time_is_enough(kind: type) -> None:
    """Either the callback or a token that is refused: a process that did not run can only do the latter."""

    def is_the_other(record: Record) -> bool:
        is_loss = isinstance(record, Presence) and record.what == 'lost'
        return isinstance(record, kind) and (is_loss or (isinstance(record, Claim) and record.token is None))

    assert violations(dropped(an_outage().etcd.history, is_the_other)) == []


def test_two_owners_are_found() -> None:
    """The piece: the node, its end, its next owner's, who knew of the end, and the token that was given after that."""
    life = an_outage()
    life.etcd.say('other', 'started', client='b')
    life.put('other')
    life.own(1.0, 'other')
    old = next(record for record in life.etcd.history.of(Claim) if record.token is not None)
    life.etcd.history.add(replace(old, at=life.etcd.now))
    (violation,) = life.violations()
    assert violation.rule == owners.ONE
    assert [type(record) for record in violation.piece] == [Change, Change, Change, Probe, Claim]
    assert [record.value for record in violation.piece[:3]] == ['k', None, 'k']  # type: ignore[union-attr]


def test_token_that_never_was_is_found_once() -> None:
    """However often it was given."""
    history = rewritten(
        an_outage().etcd.history,
        lambda record: (replace(record, token=99),) if isinstance(record, Claim) and record.token else (record,),
    )
    (violation,) = violations(history)
    assert violation.rule == owners.TRUE


def test_token_of_another_owner_is_found() -> None:
    """It has to be the keeper's own write."""
    life = Life()
    life.etcd.say('other', 'started', client='b')
    life.etcd.claim('other', life.token)
    assert broken(life.etcd.history) == {owners.TRUE}


@pytest.mark.parametrize('on_conflict', ['wait', 'raise', 'replace'])
def test_taking_of_a_node_that_is_there_is_found_but_for_those_that_replace(on_conflict: str) -> None:
    """Whose node was replaced learns of it with its next renewal."""
    life = Life()
    life.etcd.say('other', 'started', client='b', on_conflict=on_conflict)
    old = life.token
    life.put('other', 8)
    life.etcd.say('other', 'kept', client='b', on_conflict=on_conflict)
    life.etcd.serve(1.0)
    life.etcd.claim('k', old)
    life.etcd.serve(0.5)
    life.etcd.say('k', 'overtaken')
    life.own(1.0, 'other')
    expected = set() if on_conflict == 'replace' else {presence.RESPECT, presence.KNOWN, owners.ONE}
    assert broken(life.etcd.history) == expected


def test_token_of_a_replaced_owner_is_not_given_for_longer_than_the_ttl() -> None:
    """By then it has to know."""
    life = Life()
    life.etcd.say('other', 'started', client='b', on_conflict='replace')
    old = life.token
    life.put('other', 8)
    life.own(TTL + 1, 'other')
    life.etcd.claim('k', old)
    assert broken(life.etcd.history) == {owners.ONE}


def test_node_of_one_that_has_stopped_may_be_taken_over() -> None:
    """It could not delete it, and its successor found it."""
    life = Life()
    life.etcd.say('k', 'stopped')
    life.etcd.serve(0.5)
    life.etcd.say('next', 'started')
    life.put('next')
    life.etcd.say('next', 'kept')
    life.own(1.0, 'next')
    assert life.violations() == []


def test_node_that_was_adopted_is_the_same_owners() -> None:
    """The keeper lost it, found it still there, and put it on another lease: its old token is as good as the new."""
    life = Life()
    old = life.token
    life.suffer(4.5)
    life.lose()
    life.put('k', 8)
    life.etcd.say('k', 'restored')
    life.own(1.0)
    assert life.token > old
    life.etcd.claim('k', old)
    assert life.violations() == []


def test_keeper_that_says_it_has_what_is_not_there_is_found() -> None:
    """keep_node returned, and nothing was written."""
    etcd = ToyEtcd()
    etcd.say('k', 'started')
    etcd.say('k', 'kept')
    etcd.serve(1.0)
    assert broken(etcd.history) == {presence.TRUE}


def test_keeper_whose_client_was_not_probed_is_no_pass() -> None:
    """Nobody knows when it was served."""
    history = dropped(an_outage().etcd.history, lambda record: isinstance(record, Probe) and record.client == 'a')
    assert presence.PROBED in broken(history)


@pytest.mark.parametrize('probe', ['slow', 'missing'])
def test_service_that_is_not_known_of_does_not_count(probe: str) -> None:
    """A slow answer is no service to count on; where there was no probe for long nobody knows."""

    def worse(record: Record) -> Iterable[Record]:
        if isinstance(record, Probe) and record.client == 'a' and record.began > 3.0:
            if probe == 'slow':
                return (replace(record, ended=record.began + 1.5),)
            return (record,) if round(record.began * 10) % 20 == 0 else ()
        return (record,)

    life = Life()
    life.own(4.0)
    life.lose()
    life.expire()
    life.come_back()
    life.stop()
    assert presence.THERE in broken(life.etcd.history)
    assert presence.THERE not in broken(rewritten(life.etcd.history, worse))


def a_rivalry() -> Life:
    """Two keepers of one node with one value: ``k`` has it, and ``other`` waits for it."""
    etcd = ToyEtcd()
    for keeper, client in (('k', 'a'), ('other', 'b')):
        etcd.say(keeper, 'started', client=client, value='same')
    life = Life.__new__(Life)
    life.etcd = etcd
    life.put('same')
    etcd.say('k', 'kept', value='same')
    life.own(2.0)
    return life


def test_equal_values_are_told_apart_by_their_leases_and_tokens() -> None:
    """The other one has the node when it is free."""
    life = a_rivalry()
    life.suffer(4.5)
    life.lose()
    life.expire()
    life.put('same', 8)
    life.etcd.say('other', 'kept', client='b', value='same')
    life.own(2.0, 'other')
    assert life.violations() == []


def test_equal_value_that_is_put_on_another_lease_of_its_owner_is_no_taking() -> None:
    """The keeper lost it, and found it still there."""
    life = a_rivalry()
    old = life.token
    life.suffer(4.5)
    life.lose()
    life.put('same', 8)
    life.etcd.say('k', 'restored', value='same')
    life.own(1.0)
    life.etcd.claim('k', old)
    assert life.violations() == []


def test_taking_by_force_of_a_node_with_an_equal_value_is_found() -> None:
    """Both give a token."""
    life = a_rivalry()
    old = life.token
    life.put('same', 8)
    life.etcd.say('other', 'kept', client='b', value='same')
    life.own(1.0, 'other')
    life.etcd.claim('k', old)
    assert broken(life.etcd.history) == {presence.RESPECT, presence.KNOWN, owners.ONE}


@pytest.mark.parametrize('client', ['a', 'b'])
def test_node_that_its_keeper_has_lost_may_be_taken_by_another_keeper_of_its_client(client: str) -> None:
    """The lease tells it that the node is its own; nobody else can know before the lease ends."""
    life = a_rivalry()
    life.etcd.say('third', 'started', client=client, value='same')
    life.suffer(4.5)
    life.lose()
    life.put('same', 8)
    life.etcd.say('third', 'kept', client=client, value='same')
    life.own(1.0, 'third')
    assert broken(life.etcd.history) == (set() if client == 'a' else {presence.RESPECT})


def test_clean_up_that_deletes_the_node_of_another_with_an_equal_value_is_found() -> None:
    """Its keeper is served, and does not know."""
    life = a_rivalry()
    life.own(3.0)
    life.expire()
    life.own(1.0)
    life.etcd.say('other', 'stopped', client='b', value='same')
    assert broken(life.etcd.history) == {presence.THERE, presence.KNOWN, owners.ONE}


def test_token_that_two_keepers_give_is_found() -> None:
    """One of them did not write the node then."""
    life = a_rivalry()
    life.etcd.claim('other', life.token)
    assert broken(life.etcd.history) == {owners.TRUE}


def test_node_of_a_backup_is_kept_on_when_the_backup_is_restored() -> None:
    """The lease came with the backup: its keeper need not notice."""
    life = Life()
    life.etcd.back_up()
    life.own(1.0)
    life.etcd.restore()
    life.own(3.0)
    life.stop()
    assert life.violations() == []


@pytest.mark.parametrize('restored', [True, False])
def test_node_that_a_backup_does_not_have_has_to_come_back(restored: bool) -> None:
    """It was taken after the backup was made; a token of the era before may be given for a TTL."""
    life = Life.__new__(Life)
    life.etcd = ToyEtcd()
    life.etcd.serve(1.0)
    life.etcd.back_up()
    life.etcd.say('k', 'started')
    life.put()
    life.etcd.say('k', 'kept')
    life.own(2.0)
    life.etcd.restore()
    life.own(1.5)
    life.etcd.say('k', 'lost')
    if restored:
        life.come_back()
    else:
        life.etcd.serve(8.0)
    assert broken(life.etcd.history) == (set() if restored else {presence.BACK})


@pytest.mark.parametrize('lease', [LEASE, 8])
def test_older_node_that_a_backup_brings_back_on_the_same_lease_looks_like_its_own(lease: int) -> None:
    """The keeper cannot know; on another lease it would miss it with the next renewal."""
    life = Life()
    life.etcd.back_up()
    life.etcd.say('k', 'stopped')
    life.expire()
    life.etcd.serve(1.0)
    life.etcd.say('next', 'started')
    life.put('next', lease)
    life.etcd.say('next', 'kept')
    life.own(1.0, 'next')
    life.etcd.restore()
    life.own(TTL + 2, 'next')
    assert broken(life.etcd.history) - {presence.BACK} == (set() if lease == LEASE else {owners.ONE})


def test_loss_of_a_node_of_a_backup_that_is_told_late_is_found() -> None:
    """The lease of the backup ran out, and its keeper did not say so before."""
    life = Life()
    life.etcd.back_up()
    life.own(1.0)
    life.etcd.restore()
    life.suffer(6.0)
    life.expire()
    life.suffer(1.0)
    life.lose()
    assert broken(life.etcd.history) == {presence.KNOWN, owners.ONE}
