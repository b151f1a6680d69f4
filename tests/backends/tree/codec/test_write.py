"""Writes as transactions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from getc.backends.tree.codec import write
from getc.backends.tree.codec.nodes import TTL
from getc.backends.tree.codec.write import (
    LAST_NUMBER,
    appended,
    check,
    last_of,
    number_of,
    packed_put,
    txn_of_append,
    txn_of_put,
    written,
)
from getc.errors import EtcdError, KeyNotFound, NodeExist, NotDir, NotFile, NotSupported, RootROnly, TestFailed
from getc.operations import Append, Put
from getc.results import ComparedThenSwapped, Created, Directory, Set, Updated, Value
from getc.v3.schema.kv import TxnRequest
from tests.backends.tree.codec.messages import INDEX, compares, deletion, does, found, kv, put, response

EVIDENCE = [('range', b'/a'), ('range', b'/a/b'), ('range', b'/a/b/c/', b'/a/b/c0'), ('range', b'/a/b/c')]
GUARD = [('none', b'/a'), ('none', b'/a/b'), ('none', b'/a/b/c/', b'/a/b/c0')]
KEY = '/a/b/c'


# -- what is asked


def test_set_compares_what_is_above_first_and_the_range_below_last() -> None:
    """A range of 100,000 keys takes long to compare; a single key that fails before it saves that."""
    txn = txn_of_put(Put(KEY, 'x'))
    assert compares(txn) == GUARD
    assert does(txn.success) == [('put', b'/a/b/c', b'x')]
    assert does(txn.failure) == EVIDENCE


def test_create_compares_the_key_itself_before_all_others() -> None:
    """And puts it."""
    txn = txn_of_put(Put(KEY, 'x', prev_exist=False))
    assert compares(txn) == [('none', b'/a/b/c'), *GUARD]
    assert does(txn.failure) == EVIDENCE


def test_update_compares_only_the_node() -> None:
    """Where it is a value, nothing above it is one."""
    txn = txn_of_put(Put(KEY, 'x', prev_exist=True, prev_value='old', prev_index=7))
    assert compares(txn) == [('there', b'/a/b/c'), ('value', b'/a/b/c', b'old'), ('mod_revision', b'/a/b/c', 7)]
    assert does(txn.success) == [('put', b'/a/b/c', b'x')]
    assert does(txn.failure) == EVIDENCE


def test_set_of_a_directory_deletes_the_value_and_puts_the_marker() -> None:
    """In one transaction."""
    txn = txn_of_put(Put('/d', dir=True))
    assert compares(txn) == [('none', b'/d/', b'/d0')]
    assert does(txn.success) == [('delete_range', b'/d'), ('put', b'/d/', b'')]


def test_create_of_a_directory_only_puts_the_marker() -> None:
    """There is no value."""
    txn = txn_of_put(Put('/d', dir=True, prev_exist=False))
    assert compares(txn) == [('none', b'/d'), ('none', b'/d/', b'/d0')]
    assert does(txn.success) == [('put', b'/d/', b'')]


def test_nothing_above_is_asked_about_when_not_strict() -> None:
    """The server wants the permission even for what it does not come to."""
    txn = txn_of_put(Put(KEY, 'x'), is_strict=False)
    assert (compares(txn), does(txn.failure)) == ([], [])
    txn = txn_of_put(Put(KEY, 'x', prev_exist=False), is_strict=False)
    assert (compares(txn), does(txn.failure)) == ([('none', b'/a/b/c')], EVIDENCE[2:])
    txn = txn_of_append(Append('/a/b', 'x'), 7, is_strict=False)
    assert compares(txn) == [('none', b'/a/b/00000000000000000007', b'/a/b/1')]
    assert does(txn.failure) == [('range', b'/a/b/00000000000000000007', b'/a/b/1')]


def test_put_carries_the_lease() -> None:
    """Or none, which drops the TTL that a node had."""
    assert txn_of_put(Put(KEY, 'x', ttl=5), lease=77).success[0].request_put.lease == 77
    assert txn_of_put(Put(KEY, 'x')).success[0].request_put.lease == 0


def test_append_compares_what_is_above_and_then_the_numbers() -> None:
    """None may be as high."""
    txn = txn_of_append(Append('/a/b', 'x'), 7, lease=77)
    first = b'/a/b/00000000000000000007'
    assert compares(txn) == [('none', b'/a'), ('none', b'/a/b'), ('none', first, b'/a/b/1')]
    assert does(txn.success) == [('put', first, b'x')]
    assert txn.success[0].request_put.lease == 77
    evidence = [('range', b'/a'), ('range', b'/a/b/', b'/a/b0'), ('range', b'/a/b')]
    assert does(txn.failure) == [*evidence, ('range', first, b'/a/b/1')]
    assert txn.failure[-1].request_range.limit == 1


def test_append_of_a_directory_puts_a_marker() -> None:
    """At the root there is nothing above to compare."""
    txn = txn_of_append(Append('/', dir=True), 7)
    assert compares(txn) == [('none', b'/00000000000000000007', b'/1')]
    assert does(txn.success) == [('put', b'/00000000000000000007/', b'')]


@pytest.mark.parametrize(
    ('end', 'taken'),
    [(b'/q/0zebra', b'/q/0zebra'), (b'/q/00000000000000000006x', b'/q/1'), (b'/q/00000000000000000007', b'/q/1')],
)
def test_append_leaves_out_other_names_only_where_they_come_after_the_number(end: bytes, taken: bytes) -> None:
    """Else the range would be empty, nothing would fail, and a node would be overwritten."""
    assert compares(txn_of_append(Append('/q', 'x'), 7, end=end))[-1] == ('none', b'/q/00000000000000000007', taken)


def test_append_is_refused_when_there_is_no_number_left() -> None:
    """Names of 20 digits begin with a zero."""
    assert compares(txn_of_append(Append('/q', 'x'), LAST_NUMBER))[-1][1] == b'/q/09999999999999999999'
    with pytest.raises(NotSupported, match='/q has a name after which'):
        txn_of_append(Append('/q', 'x'), LAST_NUMBER + 1)


@pytest.mark.parametrize(
    ('name', 'number'),
    [
        (b'00000000000000000012', 12),
        (b'00000000000000000012/', 12),
        (b'00000000000000000012/below', 12),
        (b'0000000000000000007', None),
        (b'000000000000000000120', None),
        (b'0zebra', None),
        ('0000000000000000000\u00b2'.encode(), None),
    ],
)
def test_number_of_a_name_is_told_only_when_it_is_one(name: bytes, number: int | None) -> None:
    """Of 20 digits, and nothing else."""
    assert number_of(Append('/q', 'x'), b'/q/' + name) == number


# -- what is refused before


@pytest.mark.parametrize(
    'operation',
    [
        Put('/d', dir=True, ttl=5),
        Put('/d', dir=True, ttl=0, prev_exist=False),
        Append('/d', dir=True, ttl=5),
        Put('/d', dir=True, prev_exist=True),
        Put('/d', dir=True, prev_index=5),
        Put('/d' * 127, 'x'),
        Append('/d' * 126, 'x'),
    ],
)
def test_check_refuses_what_flat_keys_cannot_do(operation: Put | Append) -> None:
    """A directory has no TTL and nothing to change; a key has 126 segments at most, also one that append makes."""
    with pytest.raises(NotSupported, match='on etcd v3'):
        check(operation)


def test_check_lets_the_deepest_through() -> None:
    """126 segments."""
    check(Put('/d' * 126, 'x'))
    check(Append('/d' * 125, 'x'))


def test_check_refuses_to_write_the_root() -> None:
    """It is there anyway."""
    with pytest.raises(RootROnly):
        check(Put('/', 'x'))


# -- what it did


def test_written_value_keeps_the_index_of_its_creation() -> None:
    """A put does not replace the key."""
    result = written(Put('/a', 'new'), response(put(kv('/a', 'old')), succeeded=True), TTL.of(9, 0.0))
    assert type(result) is Set
    assert (result.node.modified_index, result.node.created_index, result.etcd_index) == (INDEX, 3, INDEX)
    assert (result.value, result.ttl, result.raft_term, result.is_new) == ('new', 9, 2, False)
    assert result.prev_node == Value('/a', 5, 3, None, None, 'old')


@pytest.mark.parametrize(
    ('operation', 'kind', 'is_new'),
    [
        (Put('/a', 'x'), Set, True),
        (Put('/a', 'x', prev_exist=False), Created, True),
        (Put('/a', 'x', prev_exist=True), Updated, False),
        (Put('/a', 'x', prev_value='o'), ComparedThenSwapped, False),
        (Put('/a', 'x', prev_exist=True, prev_index=5), ComparedThenSwapped, False),
    ],
)
def test_written_result_is_of_the_kind_of_its_operation(operation: Put, kind: type, is_new: bool) -> None:
    """And new only if it may be."""
    result = written(operation, response(put(), succeeded=True))
    assert (type(result), result.is_new) == (kind, is_new)


def test_written_directory_has_the_value_before_it() -> None:
    """Where there was one."""
    result = written(Put('/a', dir=True), response(deletion(kv('/a', 'old')), put(), succeeded=True))
    assert result.node == Directory('/a', INDEX, INDEX)
    assert result.prev_node == Value('/a', 5, 3, None, None, 'old')
    assert not result.is_new
    assert written(Put('/a', dir=True), response(deletion(), put(), succeeded=True)).is_new


def test_appended_node_is_created_under_its_number() -> None:
    """As a value or as a directory."""
    done = response(put(), succeeded=True)
    assert appended(Append('/q', 'x'), 7, done) == Created(
        Value('/q/00000000000000000007', INDEX, INDEX, None, None, 'x'), None, INDEX, 0, 2, True
    )
    assert appended(Append('/q', dir=True), 7, done).node == Directory('/q/00000000000000000007', INDEX, INDEX)


# -- verdicts

IS_VALUE, IS_INSIDE, IS_ABOVE = kv('/a/b/c', 'old'), kv('/a/b/c/x'), kv('/a/b')
SET, CREATE, UPDATE, SWAP = (
    Put(KEY, 'x'),
    Put(KEY, 'x', prev_exist=False),
    Put(KEY, 'x', prev_exist=True),
    Put(KEY, 'x', prev_value='secret', prev_index=4),
)


@pytest.mark.parametrize(
    ('operation', 'above', 'inside', 'itself', 'error'),
    [
        (SET, True, True, True, NotDir),
        (SET, False, True, True, NotFile),
        (SET, False, True, False, NotFile),
        (CREATE, True, True, True, NotDir),
        (CREATE, False, True, False, NodeExist),
        (CREATE, False, False, True, NodeExist),
        (UPDATE, True, True, False, NotDir),
        (UPDATE, False, True, False, NotFile),
        (UPDATE, False, False, False, KeyNotFound),
        (SWAP, True, True, True, NotDir),
        (SWAP, False, True, True, NotFile),
        (SWAP, False, False, False, KeyNotFound),
        (SWAP, False, False, True, TestFailed),
    ],
)
def test_verdict_names_the_first_obstacle_in_one_order(
    operation: Put, above: bool, inside: bool, itself: bool, error: type[EtcdError]
) -> None:
    """104, then 102 (of a create: 105), then 100, then 101: as etcd v2 has it."""
    kvs = [((), above and IS_ABOVE), ((), inside and IS_INSIDE), ((), itself and IS_VALUE)]
    refused = response(found(), *(found(*([each] if each else none)) for none, each in kvs), succeeded=False)
    with pytest.raises(error) as caught:
        written(operation, refused)
    assert caught.value.index == INDEX
    assert type(caught.value) is error
    assert 'secret' not in str(caught.value) and 'old' not in str(caught.value)
    if error is NotDir:
        assert caught.value.cause == '/a/b'
    elif error is TestFailed:
        assert caught.value.cause == 'prev_value differs, prev_index differs: 4 != 5'
    else:
        assert caught.value.cause == KEY


def test_append_is_refused_because_of_a_value_and_not_because_of_a_number() -> None:
    """A value that another program put beside its numbers would be tried for ever."""
    number = found(kv('/q/00000000000000000012'))
    append = Append('/p/q', 'x')
    assert last_of(append, response(found(), found(), found(), number, succeeded=False)).endswith(b'12')
    assert last_of(append, response(number, succeeded=False)).endswith(b'12')
    with pytest.raises(NotDir) as caught:
        last_of(append, response(found(), found(kv('/p/q/x')), found(kv('/p/q')), number, succeeded=False))
    assert caught.value.cause == '/p/q'
    with pytest.raises(NotDir) as caught:
        last_of(append, response(found(kv('/p')), found(), found(), number, succeeded=False))
    assert caught.value.cause == '/p'


@pytest.mark.parametrize('is_strict', [True, False])
@pytest.mark.parametrize(
    'write',
    [
        Put(KEY, 'x'),
        Put(KEY, ''),
        Put(KEY, 'x', prev_exist=False),
        Put(KEY, 'x', prev_exist=True),
        Put(KEY, 'x', prev_value='old', prev_index=7),
        Put('/d', dir=True),
        Put('/d', dir=True, prev_exist=False),
    ],
    ids=repr,
)
def test_packed_put_is_the_transaction_whatever_was_remembered(write: Put, is_strict: bool) -> None:
    """Also the second time, with another value and another lease."""
    for lease, value in ((0, write.value), (77, write.value and 'another value')):
        again = replace(write, value=value)
        packed = TxnRequest.FromString(packed_put(again, lease=lease, is_strict=is_strict))
        assert packed == txn_of_put(again, lease=lease, is_strict=is_strict)


@pytest.mark.parametrize('key', ['/' + 'directory' * 1000, '/directory' * 40], ids=['long', 'deep'])
def test_packed_put_of_a_large_key_is_the_transaction_and_not_remembered(key: str) -> None:
    """What is remembered of 4,096 keys would fill the memory."""
    before = write._remembered_parts_of_put.cache_info()
    packed = packed_put(Put(key, 'x'))
    assert TxnRequest.FromString(packed) == txn_of_put(Put(key, 'x'))
    assert write._remembered_parts_of_put.cache_info() == before
