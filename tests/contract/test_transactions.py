"""Transactions: several checks and writes in one request, applied together or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import getc
from getc.recipes import TransactionBuilder
from tests.contract.conftest import REFUSING_URL, BackendUnderTest

TTL = 10

Steps = Callable[[TransactionBuilder], object]

transactions = pytest.mark.transactions


def apply(client: getc.Client, *steps: Steps, **options: Any) -> TransactionBuilder:
    """Apply a transaction with these steps."""
    with client.transaction(**options) as t:
        for step in steps:
            step(t)
    return t


def refuse(client: getc.Client, kind: type[Exception], *steps: Steps, **options: Any) -> Any:
    """Apply a transaction that is refused with an error of exactly this class; return the error."""
    before = client.set('/before', 'x').etcd_index
    with pytest.raises(kind) as caught:
        apply(client, lambda t: t.set('/written', 'x'), *steps, **options)
    assert type(caught.value) is kind
    with pytest.raises(getc.KeyNotFound):
        client.get('/written')
    if 'guard' not in options:  # a keeper may write its node again
        assert client.get('/before').etcd_index == before
    return caught.value


# -- what a transaction does


@transactions
def test_operations_are_applied_at_one_index_with_the_results_of_the_verbs(client: getc.Client) -> None:
    for key in '/set', '/updated', '/swapped', '/deleted', '/compared', '/read':
        client.set(key, 'old')
    swapped, compared = client.get('/swapped').index, client.get('/compared').index
    before = client.set('/other', 'x').etcd_index
    with client.transaction() as t:
        t.set('/set', 'a')
        t.create('/dir/created', 'b')
        t.update('/updated', 'c', prev_value=None)
        t.set('/swapped', 'd', prev_index=swapped)
        t.delete('/deleted')
        t.delete('/compared', prev_value='old', prev_index=compared)
        t.get('/read')
        t.set('/bytes', b'\xff')
    assert t.index == before + 1
    assert [type(result) for result in t.results] == [
        getc.Set,
        getc.Created,
        getc.Updated,
        getc.ComparedThenSwapped,
        getc.Deleted,
        getc.ComparedThenDeleted,
        getc.Got,
        getc.Set,
    ]
    assert {result.etcd_index for result in t.results} == {t.index}
    written = [result for result in t.results if not isinstance(result, getc.Got)]
    assert {result.modified_index for result in written} == {t.index}
    assert [result.value for result in t.results] == ['a', 'b', 'c', 'd', None, None, 'old', '\udcff']
    previous = [result.prev_node.value if result.prev_node else None for result in t.results]
    assert previous == ['old', None, 'old', 'old', 'old', 'old', None, None]
    assert [result.is_new for result in t.results] == [False, True, False, False, False, False, False, True]
    assert client.get('/set').value == 'a'
    assert client.get('/dir/created').modified_index == t.index
    assert client.get('/bytes').raw_value == b'\xff'
    with pytest.raises(getc.KeyNotFound):
        client.get('/deleted')


@transactions
def test_checks_that_hold_change_nothing(client: getc.Client) -> None:
    """A transaction without a write has the index of the store."""
    index = client.set('/a', 'x').index
    client.set('/empty', '')
    now = client.set('/b/c', 'y').etcd_index
    with client.transaction() as t:
        t.check('/a', index=index)
        t.check('/a', value='x', exists=True)
        t.check('/a', value=b'x')
        t.check('/empty', value='')
        t.check('/nothing', exists=False)
        t.check('/nothing', index=0)
        t.check('/a/below/a/value', exists=False)
    assert (t.index, t.results) == (now, ())


@transactions
def test_empty_transaction_is_not_sent(client: getc.Client) -> None:
    t = apply(client)
    assert (t.index, t.results) == (0, ())
    with getc.etcd(REFUSING_URL, api='v3') as refusing:
        assert apply(refusing).index == 0


@transactions
def test_read_before_a_write_of_the_same_node_returns_the_old_value(client: getc.Client) -> None:
    client.set('/a', 'old')
    t = apply(client, lambda t: t.get('/a'), lambda t: t.set('/a', 'new'))
    assert [result.value for result in t.results] == ['old', 'new']


@transactions
def test_nodes_with_a_ttl_expire(client: getc.Client, backend_under_test: BackendUnderTest, wait_until: Any) -> None:
    """Each distinct TTL is granted once."""
    with client.transaction() as t:
        t.set('/short/a', 'x', ttl=2)
        t.create('/short/b', 'x', ttl=2)
        t.set('/long', 'x', ttl=3600)
        t.set('/forever', 'x')
    assert [result.ttl for result in t.results] == [2, 2, 3600, None]
    assert client.get('/long').ttl == 3600

    def are_gone() -> bool:
        backend_under_test.pass_time(1)
        return '/short' not in [node.key for node in client.get('/', recursive=True).nodes if list(leaves(node))]

    wait_until(are_gone)
    assert client.get('/forever').ttl is None
    assert client.get('/long').ttl is not None


@transactions
def test_nodes_without_a_ttl_expire_with_their_directory(
    client: getc.Client, other: getc.Client, backend_under_test: BackendUnderTest, wait_until: Any
) -> None:
    """As those of single writes."""
    other.set('/dir', dir=True, ttl=3)
    other.set('/dir/sub/known', 'x')
    for number in range(2):  # the second one knows the directory
        apply(
            client,
            lambda t, number=number: t.set(f'/dir/{number}', 'x'),
            lambda t, number=number: t.create(f'/dir/sub/{number}', 'x'),
            lambda t, number=number: t.set(f'/stays/{number}', 'x'),
        )
    apply(client, lambda t: t.update('/dir/0', 'y'))
    client.atomically(lambda stm: stm.set('/dir/stm', stm.get('/dir/0').value or ''))
    assert {node.key for node in client.get('/dir').nodes} == {'/dir/0', '/dir/1', '/dir/sub', '/dir/stm'}

    def is_gone() -> bool:
        backend_under_test.pass_time(1)
        try:
            client.get('/dir')
        except getc.KeyNotFound:
            return True
        return False

    wait_until(is_gone)
    assert client.get('/stays').values == ('x', 'x')
    apply(client, lambda t: t.set('/dir/again', 'x'))  # the directory has no TTL now
    assert client.get('/dir/again').ttl is None


@transactions
def test_transaction_is_applied_when_the_ttl_of_a_directory_has_changed(
    client: getc.Client, other: getc.Client
) -> None:
    other.set('/dir', dir=True, ttl=60)
    apply(client, lambda t: t.set('/dir/a', 'x'))
    other.delete('/dir', recursive=True)
    other.set('/dir', dir=True, ttl=600)
    with client.transaction() as t:
        t.set('/dir/a', 'y')
        t.set('/dir/b', 'y')
    assert client.get('/dir').ttl is not None
    assert {node.key for node in client.get('/dir').nodes} == {'/dir/a', '/dir/b'}
    assert client.get('/dir/a').index == client.get('/dir/b').index == t.index


def leaves(node: Any) -> Any:
    return node.leaves() if isinstance(node, getc.Directory) else [node]


# -- what other clients see


@transactions
def test_mirror_and_watcher_receive_one_revision(client: getc.Client, other: getc.Client, wait_until: Any) -> None:
    """A mirror never shows a part of a transaction."""
    other.set('/world/gone', 'x')
    updates: list[tuple[getc.EtcdResult, ...]] = []
    changes: list[getc.EtcdResult] = []
    states: list[dict[str, str]] = []
    mirror = other.mirror('/world', on_update=lambda results: (updates.append(results), states.append(values(mirror))))
    other.on_change('/world', changes.append)
    with client.transaction() as t:
        t.set('/world/a', '1')
        t.set('/elsewhere', 'x')
        t.create('/world/b', '2')
        t.delete('/world/gone')
    wait_until(lambda: len(changes) == 3 and updates)
    assert {result.key for result in updates[0]} == {'/world/a', '/world/b', '/world/gone'}
    assert {result.modified_index for result in updates[0]} == {t.index}
    assert states == [{'/world/a': '1', '/world/b': '2'}]
    assert {result.modified_index for result in changes} == {t.index}
    index = client.set('/world/c', '3').index
    wait_until(lambda: len(updates) == 2)
    assert index == t.index + 1


def values(mirror: Any) -> dict[str, str]:
    return {key: node if isinstance(node, str) else node.value for key, node in mirror.items()}


@transactions
def test_history_has_all_changes_of_a_transaction(client: getc.Client) -> None:
    """Also for a watch that starts at its index later."""
    t = apply(client, lambda t: t.set('/a/1', 'x'), lambda t: t.set('/a/2', 'y'))
    client.set('/a/3', 'z')
    with client.changes('/a', index=t.index) as changes:
        found = [next(changes) for _ in range(3)]
    assert sorted(result.key for result in found[:2]) == ['/a/1', '/a/2']
    assert [result.modified_index for result in found] == [t.index, t.index, t.index + 1]


@transactions
def test_wait_returns_a_change_of_a_transaction(client: getc.Client, spawn: Any, wait_until: Any) -> None:
    index = client.set('/a', 'old').index
    waiting = spawn(client.wait, '/a', index + 1)
    t = apply(client, lambda t: t.set('/b', 'x'), lambda t: t.set('/a', 'new'))
    wait_until(waiting.ready)
    assert (waiting.get().value, waiting.get().index) == ('new', t.index)


# -- conditions that do not hold


CONDITIONS: list[tuple[Steps, type[getc.EtcdError], str, str]] = [
    (lambda t: t.check('/a', index=1000), getc.TestFailed, '/a', r'\(/a: index differs: 1000 != \d+\)'),
    (lambda t: t.check('/a', index=0), getc.TestFailed, '/a', r'\(/a: index differs: 0 != \d+\)'),
    (lambda t: t.check('/a', value='y'), getc.TestFailed, '/a', r'\(/a: value differs\)'),
    (lambda t: t.check('/a', value=''), getc.TestFailed, '/a', r'\(/a: value differs\)'),
    (lambda t: t.check('/a', value='y', index=1000), getc.TestFailed, '/a', r'value differs, index differs: 1000 != '),
    (lambda t: t.check('/a', exists=False), getc.NodeExist, '/a', r'already exists \(/a\)'),
    (lambda t: t.check('/dir', exists=False), getc.NodeExist, '/dir', r'already exists \(/dir\)'),
    (lambda t: t.check('/none', exists=True), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.check('/none', value='x'), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.check('/none', index=7), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.check('/dir', exists=True), getc.NotFile, '/dir', r'\(/dir\): it is a directory, and a transaction'),
    (lambda t: t.check('/dir', index=7), getc.NotFile, '/dir', r'\(/dir\): it is a directory, and a transaction'),
    (lambda t: t.create('/a', 'x'), getc.NodeExist, '/a', r'already exists \(/a\)'),
    (lambda t: t.create('/dir', 'x'), getc.NodeExist, '/dir', r'already exists \(/dir\)'),
    (lambda t: t.create('/a/below', 'x'), getc.NotDir, '/a/below', r'Not a directory \(/a\)'),
    (lambda t: t.set('/a/below/it', 'x'), getc.NotDir, '/a/below/it', r'Not a directory \(/a\)'),
    (lambda t: t.set('/dir', 'x'), getc.NotFile, '/dir', r'Not a file \(/dir\)'),
    (lambda t: t.update('/none', 'x'), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.update('/dir', 'x'), getc.NotFile, '/dir', r'Not a file \(/dir\)'),
    (lambda t: t.update('/a', 'z', prev_value='y'), getc.TestFailed, '/a', r'\(/a: prev_value differs\)'),
    (lambda t: t.set('/a', 'z', prev_index=1000), getc.TestFailed, '/a', r'\(/a: prev_index differs: 1000 != \d+\)'),
    (lambda t: t.set('/dir', 'z', prev_index=9), getc.NotFile, '/dir', r'Not a file \(/dir\)'),
    (lambda t: t.set('/none', 'z', prev_index=9), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.delete('/none'), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.delete('/dir'), getc.NotFile, '/dir', r'Not a file \(/dir\)'),
    (lambda t: t.delete('/a', prev_value='y'), getc.TestFailed, '/a', r'\(/a: prev_value differs\)'),
    (lambda t: t.get('/none'), getc.KeyNotFound, '/none', r'not found \(/none\)'),
    (lambda t: t.get('/dir'), getc.NotFile, '/dir', r'Not a file \(/dir\)'),
]


@transactions
@pytest.mark.parametrize(
    'case', CONDITIONS, ids=[f'{number}-{case[1].__name__}' for number, case in enumerate(CONDITIONS)]
)
def test_nothing_is_written_when_a_condition_does_not_hold(
    client: getc.Client, case: tuple[Steps, type[getc.EtcdError], str, str]
) -> None:
    """The error is typed, and has the key."""
    step, kind, key, text = case
    client.set('/a', 'x')
    client.set('/dir/file', 'x')
    error = refuse(client, kind, step)
    assert error.key == key
    assert error.maybe_applied is False
    assert error.index == client.get('/a').etcd_index
    assert re.search(text, str(error))


@transactions
def test_error_is_that_of_the_first_condition_that_does_not_hold(client: getc.Client) -> None:
    """Checks come first, then the operations, both in order."""
    client.set('/a', 'x')
    failing: list[Steps] = [
        lambda t: t.create('/a', 'x'),
        lambda t: t.delete('/none'),
        lambda t: t.check('/a', value='y'),
        lambda t: t.check('/absent', exists=True),
    ]
    assert refuse(client, getc.TestFailed, *failing).key == '/a'
    assert refuse(client, getc.KeyNotFound, *failing[:2][::-1], failing[3]).key == '/absent'
    assert refuse(client, getc.KeyNotFound, *failing[:2][::-1]).key == '/none'
    assert refuse(client, getc.NodeExist, *failing[:2]).key == '/a'


@transactions
def test_errors_do_not_show_values(client: getc.Client) -> None:
    client.set('/a', 'the-secret')
    error = refuse(client, getc.TestFailed, lambda t: t.check('/a', value='another-secret'))
    assert 'secret' not in f'{error} {error!r}'


# -- transactions that are refused before any I/O


@pytest.fixture
def unreachable() -> Any:
    """A client of v3 that fails with ConnectionRefused on any I/O."""
    with getc.etcd(REFUSING_URL, api='v3') as client:
        yield client


INVALID: list[tuple[Steps, str]] = [
    (lambda t: (t.set('/a', 'x'), t.set('a/', 'y')), '/a is written twice'),
    (lambda t: (t.set('/a', 'x'), t.delete('/a')), '/a is written twice'),
    (lambda t: (t.set('/a', 'x'), t.create('/a/b', 'y')), '/a and /a/b are both written'),
    (lambda t: (t.delete('/a/b/c'), t.update('/a', 'y')), '/a and /a/b/c are both written'),
    (lambda t: (t.set('/a', 'x'), t.get('/a')), '/a is read after it was written'),
    (lambda t: t.check('/a'), 'the check of /a has no condition'),
    (lambda t: t.check('/a', exists=False, value='x'), 'the check of /a can never hold'),
    (lambda t: t.check('/a', exists=False, index=3), 'the check of /a can never hold'),
    (lambda t: t.check('/a', index=0, value='x'), 'the check of /a can never hold'),
    (lambda t: t.check('/a', index=-1), 'index must be at least 0'),
    (lambda t: t.check('/', exists=True), 'cannot check the root'),
    (lambda t: t.get('/'), 'cannot read the root'),
    (lambda t: t.set('/a', 'x', prev_index=0), 'prev_index must be at least 1'),
    (lambda t: t.set('/a', 'x', prev_value=''), "prev_value cannot be ''"),
    (lambda t: t.set('/a/../b', 'x'), "cannot have a segment '.' or '..'"),
    (lambda t: t.set('/a', 'x', ttl=-1), 'ttl must be at least 0'),
]


@pytest.mark.parametrize('case', INVALID, ids=range(len(INVALID)))
def test_invalid_transaction_is_a_value_error_before_any_io(unreachable: getc.Client, case: tuple[Steps, str]) -> None:
    """Raised where the operation is added."""
    step, text = case
    with pytest.raises(ValueError, match=text), unreachable.transaction() as t:
        step(t)
        pytest.fail('the operation was accepted')


@pytest.mark.parametrize(
    'step',
    [
        lambda t: t.set('/a', None),
        lambda t: t.set('/a', 5),
        lambda t: t.set(5, 'x'),
        lambda t: t.check('/a', value=5),
        lambda t: t.check('/a', index='5'),
        lambda t: t.check('/a', exists='yes'),
        lambda t: t.set('/a', 'x', ttl=1.5),
        lambda t: t.set('/a', 'x', dir=True),
        lambda t: t.delete('/a', recursive=True),
    ],
)
def test_argument_of_another_type_is_refused(unreachable: getc.Client, step: Any) -> None:
    with pytest.raises((TypeError, ValueError)), unreachable.transaction() as t:
        step(t)


def test_root_cannot_be_written(unreachable: getc.Client) -> None:
    for step in (lambda t: t.set('/', 'x'), lambda t: t.delete('/')):
        with pytest.raises(getc.RootROnly), unreachable.transaction() as t:
            step(t)


@pytest.mark.parametrize(
    ('fill', 'text'),
    [
        (lambda t: [t.set(f'/{number}', 'x') for number in range(129)], '129 operations, and etcd allows 128'),
        (lambda t: [t.set(f'/a/{number}', 'x') for number in range(127)], '129 compares, and etcd allows 128'),
        (lambda t: [t.check(f'/{number}', index=1) for number in range(130)], '130 compares'),
        (lambda t: [t.check(f'/{number}', value='x') for number in range(64)], '129 compares'),
        (lambda t: t.set('/deep' * 65, 'x'), '129 compares'),
    ],
    ids=['operations', 'structure', 'checks', 'values', 'depth'],
)
def test_transaction_over_the_limit_of_etcd_is_a_value_error_before_any_io(
    unreachable: getc.Client, fill: Any, text: str
) -> None:
    """With the count after expansion."""
    with pytest.raises(ValueError, match=text):
        apply(unreachable, fill)
    with getc.etcd('memory://') as memory, pytest.raises(ValueError, match=text):
        apply(memory, fill)


AT_THE_LIMIT: dict[str, tuple[Steps, Callable[[getc.Client], object], type[getc.EtcdError]]] = {
    'sets in one directory': (
        lambda t: [t.set(f'/w/{number}', 'x') for number in range(126)],
        lambda client: (client.delete('/w/125'), client.set('/w/125/below', 'x')),
        getc.NotFile,
    ),
    'sets': (
        lambda t: [t.set(f'/{number}', 'x') for number in range(128)],
        lambda client: (client.delete('/127'), client.set('/127/below', 'x')),
        getc.NotFile,
    ),
    'creates': (
        lambda t: [t.create(f'/{number}', 'x') for number in range(64)],
        lambda client: [client.delete(f'/{number}') for number in range(63)],
        getc.NodeExist,
    ),
    'checks': (
        lambda t: [t.check(f'/{number}', index=0) for number in range(128)],
        lambda client: client.set('/127', 'x'),
        getc.TestFailed,
    ),
    'values': (
        lambda t: [t.check('/x', value='x'), *(t.check(f'/{number}', index=0) for number in range(125))],
        lambda client: client.set('/x', 'y'),
        getc.TestFailed,
    ),
    'present': (
        lambda t: [t.check('/x', exists=True), *(t.check(f'/{number}', index=0) for number in range(127))],
        lambda client: client.delete('/x'),
        getc.KeyNotFound,
    ),
    'depth': (
        lambda t: t.set('/deep' * 64, 'x'),
        lambda client: (client.delete('/deep', recursive=True), client.set('/deep/deep', 'x')),
        getc.NotDir,
    ),
}
"""Steps of 128 compares, what makes the last condition fail, and the error."""


@transactions
@pytest.mark.whole_tree
@pytest.mark.parametrize('case', AT_THE_LIMIT.values(), ids=AT_THE_LIMIT)
def test_transaction_at_the_limit_is_applied_and_refused_with_its_error(
    client: getc.Client,
    case: tuple[Steps, Callable[[getc.Client], object], type[getc.EtcdError]],
) -> None:
    """Structural compares that several operations need are sent once."""
    fill, break_condition, kind = case
    client.set('/x', 'x')
    apply(client, fill)
    break_condition(client)
    with pytest.raises(kind):
        apply(client, fill)


# -- the block


@transactions
def test_nothing_is_sent_when_the_block_raises(client: getc.Client) -> None:
    with pytest.raises(ZeroDivisionError), client.transaction() as t:
        t.set('/a', 'x')
        raise ZeroDivisionError
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')
    with pytest.raises(RuntimeError, match='no result: its with block was left by an exception, so nothing was sent'):
        _ = t.results


@transactions
def test_nothing_is_sent_when_the_greenlet_is_killed_in_the_block(client: getc.Client, spawn: Any) -> None:
    def run() -> None:
        with client.transaction() as t:
            t.set('/a', 'x')
            gevent.sleep(3600)

    greenlet = spawn(run)
    gevent.sleep(0)
    greenlet.kill()
    with pytest.raises(getc.KeyNotFound):
        client.get('/a')


@transactions
def test_transaction_is_used_once(client: getc.Client) -> None:
    """Not before its block, not after it, not in a second one, not nested in itself."""
    t = client.transaction()
    with pytest.raises(RuntimeError, match='belong into the with block of the transaction: its with block was not'):
        t.set('/a', 'x')
    with pytest.raises(RuntimeError, match='no result: its with block was not entered yet'):
        _ = t.index
    with t:
        t.set('/a', 'x')
        with pytest.raises(RuntimeError, match='one with block'), t:
            pytest.fail('the block was entered')
        with pytest.raises(RuntimeError, match='no result: its with block is not over'):
            _ = t.results
    assert client.get('/a').index == t.index
    with pytest.raises(RuntimeError, match='one with block'):
        t.__enter__()
    with pytest.raises(RuntimeError, match='belong into the with block of the transaction: it was applied'):
        t.check('/a', exists=True)


@transactions
def test_transaction_in_the_block_of_another_is_independent(client: getc.Client) -> None:
    with client.transaction() as outer:
        outer.set('/outer', 'x')
        inner = apply(client, lambda t: t.set('/inner', 'x'))
    assert outer.index == inner.index + 1


@transactions
def test_refused_transaction_has_no_result(client: getc.Client) -> None:
    t = client.transaction()
    with pytest.raises(getc.KeyNotFound), t:
        t.delete('/a')
    with pytest.raises(RuntimeError, match='it was not applied, or its response was not received'):
        _ = t.index


@transactions
def test_repr_shows_the_state_and_no_value(client: getc.Client) -> None:
    client.set('/a', 'x')
    t = client.transaction()
    assert repr(t) == '<getc.TransactionBuilder NEW checks=0 operations=0>'
    with t:
        t.check('/a', value='x')
        t.set('/b', 'the-secret')
        assert repr(t) == '<getc.TransactionBuilder OPEN checks=1 operations=1>'
    assert repr(t) == '<getc.TransactionBuilder APPLIED checks=1 operations=1>'


def test_closed_client_refuses_transactions() -> None:
    client = getc.etcd('memory://')
    t = client.transaction()
    with pytest.raises(getc.ClientClosed), t:
        t.set('/a', 'x')
        client.close()
    with pytest.raises(getc.ClientClosed):
        client.transaction()


@pytest.mark.parametrize('timeout', [-1, 'soon'])
def test_invalid_timeout_is_refused_before_the_block(unreachable: getc.Client, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match='timeout must be'):
        unreachable.transaction(timeout=timeout)


def test_transactions_on_v2_are_not_supported_before_any_io(refusing: getc.Client) -> None:
    """The message names the alternative."""
    with pytest.raises(getc.NotSupported, match=r'compare and write one node with prev_index.*examples/zones/world.py'):
        refusing.transaction()
    with pytest.raises(getc.NotSupported, match='prev_index'):
        refusing.atomically(lambda stm: pytest.fail('the function was called'))


# -- the guard


@transactions
def test_guard_holds_while_the_node_is_kept(client: getc.Client, wait_until: Any) -> None:
    """Renewals and updates do not change it, nor does the time between reading and using it."""
    keeper = client.keep_node('/owner', 'a', ttl=3)
    guard, end = keeper.guard, keeper._daemon._node.lost_at
    apply(client, lambda t: t.set('/x', '1'), guard=keeper)
    keeper.update('b')
    t = apply(client, lambda t: t.set('/x', '2'), guard=guard)
    wait_until(lambda: keeper._daemon._node.lost_at > end)
    apply(client, lambda each: each.update('/x', '3', prev_index=t.index), guard=guard)
    assert client.get('/x').value == '3'


@transactions
def test_guard_fails_when_another_client_has_taken_the_node(client: getc.Client, other: getc.Client) -> None:
    """Also where created_index and value are the same, and before the keeper has noticed."""
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    guard = keeper.guard
    other.update('/owner', 'a', ttl=TTL)
    error = refuse(client, getc.NodeLost, guard=guard)
    assert error.key == '/owner'
    assert error.maybe_applied is False
    assert '/owner, the guard of the transaction, is not kept any more: it was written by another' in str(error)


@transactions
def test_guard_fails_when_the_node_is_deleted(client: getc.Client) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    guard = keeper.guard
    keeper.stop()
    assert 'it was deleted, or has expired' in str(refuse(client, getc.NodeLost, guard=guard))


@transactions
def test_guard_of_a_former_ownership_fails_after_the_node_is_restored(
    client: getc.Client, other: getc.Client, wait_until: Any
) -> None:
    """The same keeper owns the node again: its guard is another one."""
    keeper = client.keep_node('/owner', 'a', ttl=3)
    former, token = keeper.guard, keeper.ensure()
    other.delete('/owner')
    wait_until(lambda: keeper.state is getc.KeeperState.KEPT and keeper.ensure() > token)
    assert 'acquired again' in str(refuse(client, getc.NodeLost, guard=former))
    apply(client, lambda t: t.set('/x', '1'), guard=keeper)


@transactions
def test_guard_is_that_of_the_start_of_the_block(client: getc.Client, other: getc.Client, wait_until: Any) -> None:
    """What the block decides must not be written by a later ownership."""
    keeper = client.keep_node('/owner', 'a', ttl=3)
    token = keeper.ensure()
    with pytest.raises(getc.NodeLost), client.transaction(guard=keeper) as t:
        t.set('/x', '1')
        other.delete('/owner')
        wait_until(lambda: keeper.state is getc.KeeperState.KEPT and keeper.ensure() > token)
    with pytest.raises(getc.KeyNotFound):
        client.get('/x')


@transactions
def test_guard_that_fails_comes_before_checks_that_fail(client: getc.Client, other: getc.Client) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    guard = keeper.guard
    other.update('/owner', 'a', ttl=TTL)
    refuse(client, getc.NodeLost, lambda t: t.check('/none', exists=True), guard=guard)


@transactions
def test_guard_without_operations_confirms_the_ownership(client: getc.Client, other: getc.Client) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    guard = keeper.guard
    assert apply(client, guard=keeper).results == ()
    other.set('/owner', 'b', ttl=TTL)
    with pytest.raises(getc.NodeLost):
        apply(client, guard=guard)


@transactions
def test_guarded_transaction_may_write_the_node_of_the_guard_after_checking_it(client: getc.Client) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    t = apply(client, lambda t: t.check('/owner', value='a'), lambda t: t.get('/owner'), guard=keeper)
    assert t.results[0].value == 'a'


@transactions
def test_transaction_with_a_keeper_that_has_lost_its_node_raises_at_once(client: getc.Client) -> None:
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    keeper.stop()
    with pytest.raises(getc.NodeLost, match='/owner is not kept: STOPPED'):
        client.transaction(guard=keeper)


def test_guard_without_a_guard_is_a_type_error(unreachable: getc.Client) -> None:
    guard: Any
    for guard in 'a', 5, object(), unreachable.rwlock('/locks/world'):
        with pytest.raises(TypeError, match=f'guard must be a Keeper, .* not {type(guard).__name__}'):
            unreachable.transaction(guard=guard)


# -- the guard of a lock


@transactions
def test_guard_of_a_lock_holds_while_the_lock_is_held(client: getc.Client, other: getc.Client) -> None:
    """It is that of one owner: the guard of a former one fails while another client holds the lock."""
    lock, rival = client.lock('/locks/a', ttl=TTL), other.lock('/locks/a', ttl=TTL)
    with lock:
        former = lock.guard
        apply(client, lambda t: t.set('/x', '1'), guard=lock)
        apply(client, lambda t: t.update('/x', '2'), guard=former)
    with rival:
        assert 'it was deleted, or has expired' in str(refuse(client, getc.NodeLost, guard=former))
        apply(other, lambda t: t.set('/x', '3'), guard=rival)
    with lock:
        refuse(client, getc.NodeLost, guard=former)
        apply(client, lambda t: t.update('/x', '4'), guard=lock)
    assert client.get('/x').value == '4'


@transactions
def test_guard_of_a_lock_fails_when_its_key_was_deleted(client: getc.Client, other: getc.Client) -> None:
    """Before the owner has noticed."""
    lock = client.lock('/locks/a', ttl=TTL)
    lock.acquire()
    guard = lock.guard
    other.delete(guard.key)
    assert refuse(client, getc.NodeLost, guard=guard).key == guard.key


@transactions
def test_transaction_with_a_lock_that_is_not_held_raises_at_once(client: getc.Client) -> None:
    with pytest.raises(getc.NodeLost):
        client.transaction(guard=client.lock('/locks/a', ttl=TTL))


# -- namespaces


@transactions
def test_keys_in_results_and_errors_are_relative_to_the_namespace(backend_under_test: BackendUnderTest) -> None:
    whole = backend_under_test.open(namespace=None)
    client = backend_under_test.open(namespace='/ns')
    whole.set('/x', 'outside')
    keeper = client.keep_node('/owner', 'a', ttl=TTL)
    with client.transaction(guard=keeper) as t:
        t.check('/x', exists=False)
        t.create('/a', 'x')
        t.get('/owner')
    assert [result.key for result in t.results] == ['/a', '/owner']
    assert whole.get('/ns/a').value == 'x'
    for step, kind in [
        (lambda t: t.check('/a', value='y'), getc.TestFailed),
        (lambda t: t.create('/a', 'y'), getc.NodeExist),
        (lambda t: t.delete('/gone'), getc.KeyNotFound),
        (lambda t: t.set('/a/b', 'y'), getc.NotDir),
    ]:
        error = refuse(client, kind, step)
        assert '/ns' not in str(error)
        assert error.key in ('/a', '/gone', '/a/b')
    guard = keeper.guard
    whole.update('/ns/owner', 'b', ttl=TTL)
    error = refuse(client, getc.NodeLost, guard=guard)
    assert (error.key, '/ns' in str(error)) == ('/owner', False)
