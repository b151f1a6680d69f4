"""The messages and RPCs of etcd: encoding, agreement with the server, isolation from other packages."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError, Message

from getc.testing import EtcdBinary
from getc.v3 import schema
from getc.v3.schema.auth import AuthenticateRequest
from getc.v3.schema.authpb import Permission
from getc.v3.schema.cluster import MemberListRequest
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.kv import KV, Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest
from getc.v3.schema.maintenance import AlarmRequest, AlarmType, HashKVResponse
from getc.v3.schema.mvccpb import Event, KeyValue
from getc.v3.schema.table import Message as Table
from getc.v3.schema.watch import WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse
from tools.servers.schema import SCHEMA_TABLE, facts_in, facts_of, format_table, read_table

LINES = ('3.4', '3.5', '3.6', '3.7')
PACKAGES = {'etcdserverpb', 'mvccpb', 'authpb', 'v3lockpb', 'v3electionpb'}
MINUS_ONE = 'ffffffffffffffffff01'
"""-1 as a varint: 64 bits in groups of seven."""


def messages() -> Iterator[type[Message]]:
    for module in pkgutil.iter_modules(schema.__path__, 'getc.v3.schema.'):
        for thing in vars(importlib.import_module(module.name)).values():
            is_message = inspect.isclass(thing) and issubclass(thing, Message) and thing is not Table
            if is_message and thing.__module__ == module.name:
                yield thing


MESSAGES = list(messages())


def name_of(message: Message | type[Message]) -> str:
    return message.DESCRIPTOR.name


# -- bytes


GOLDEN = [
    (PutRequest(key=b'k', value=b'v', lease=300), '0a016b 120176 18ac02'),
    (PutRequest(key=b'k', prev_kv=True), '0a016b 2001'),
    (RangeRequest(key=b'/a', range_end=b'/b', limit=-1), f'0a022f61 12022f62 18{MINUS_ONE}'),
    (RangeRequest(key=b'k', sort_order=RangeRequest.SortOrder.DESCEND), '0a016b 2802'),
    # EQUAL is 0 and is not sent; a member of a oneof is, even if it is 0; 64 does not fit in one byte with the type
    (
        Compare(target=Compare.CompareTarget.CREATE, key=b'k', create_revision=0, range_end=b'l'),
        '1001 1a016b 2800 8204016c',
    ),
    (TxnRequest(success=[RequestOp(request_put=PutRequest(key=b'k'))]), '1205 1203 0a016b'),
    # enums are packed
    (WatchRequest(create_request=WatchCreateRequest(key=b'k', filters=[0, 1])), '0a07 0a016b 2a020001'),
    (WatchRequest(progress_request=WatchProgressRequest()), '1a00'),
    (
        WatchResponse(watch_id=-1, events=[Event(type=1, kv=KeyValue(key=b'k', mod_revision=9))]),
        f'10{MINUS_ONE} 5a09 0801 1205 0a016b1809',
    ),
    (ResponseHeader(cluster_id=2**64 - 1, revision=1), f'08{MINUS_ONE} 1801'),
    (HashKVResponse(hash=2**32 - 1), '10ffffffff0f'),
    (AuthenticateRequest(name='ü', password='p'), '0a02c3bc 120170'),
    (MemberListRequest(), ''),
]


@pytest.mark.parametrize(('message', 'golden'), GOLDEN, ids=[f'{name_of(m)}-{n}' for n, (m, _) in enumerate(GOLDEN)])
def test_messages_have_the_expected_encoding(message: Message, golden: str) -> None:
    assert message.SerializeToString().hex(' ') == bytes.fromhex(golden).hex(' ')
    assert type(message).FromString(bytes.fromhex(golden)) == message


@pytest.mark.parametrize('made', MESSAGES, ids=name_of)
def test_every_message_survives_a_round_trip(made: type[Message]) -> None:
    """With every field set, and with each member of its oneofs."""
    oneofs = [field.name for oneof in made.DESCRIPTOR.oneofs for field in oneof.fields]
    for chosen in oneofs or ['']:
        message = filled(made, chosen)
        unset = [field.name for field in made.DESCRIPTOR.fields if field not in dict(message.ListFields())]
        assert unset == [name for name in oneofs if name != chosen]
        assert made.FromString(message.SerializeToString()) == message


def filled(made: type[Message], chosen: str = '', depth: int = 0) -> Message:
    """Return a message with a value in every field, and in those of each oneof that ``chosen`` names."""
    message = made()
    for number, field in enumerate(made.DESCRIPTOR.fields, 1):
        if field.containing_oneof is not None and field.name != chosen:
            continue
        target = getattr(message, field.name)
        value: Any = {9: 'ü', 12: b'\0\xff', 8: True, 14: 1}.get(field.type, 2**31 + number)
        if field.message_type is not None:
            kind = next(known for known in MESSAGES if known.DESCRIPTOR is field.message_type)
            value = kind() if depth > 2 else filled(kind, depth=depth + 1)
            (target.add() if hasattr(target, 'add') else target).CopyFrom(value)
            if not hasattr(target, 'add'):
                target.SetInParent()
        elif hasattr(target, 'extend') and not isinstance(target, (str, bytes)):
            target.extend([value, value])
        else:
            setattr(message, field.name, value)
    return message


def test_unknown_fields_and_enum_values_are_accepted() -> None:
    """As a newer server may send them."""
    message = KeyValue.FromString(bytes.fromhex('0a016b 9a0603616263'))
    assert message.key == b'k'
    assert [field.name for field, _ in message.ListFields()] == ['key']
    assert Event.FromString(bytes.fromhex('0807')).type == 7


def test_truncated_bytes_raise_decode_error() -> None:
    packed = RangeResponse(kvs=[KeyValue(key=b'key', value=b'value')]).SerializeToString()
    for length in range(1, len(packed)):
        with pytest.raises(DecodeError):
            RangeResponse.FromString(packed[:length])
    assert RangeResponse.FromString(packed).kvs[0].value == b'value'


def test_text_that_is_not_utf8_raises_decode_error() -> None:
    with pytest.raises(DecodeError):
        AuthenticateRequest.FromString(bytes.fromhex('0a01ff'))


# -- the classes


def test_at_most_one_member_of_a_oneof_is_set() -> None:
    operation = RequestOp(request_range=RangeRequest(key=b'k'))
    assert operation.WhichOneof('request') == 'request_range'
    operation.request_put.CopyFrom(PutRequest(key=b'k'))
    assert operation.WhichOneof('request') == 'request_put'
    assert not operation.HasField('request_range')
    assert RequestOp().WhichOneof('request') is None


def test_transactions_nest() -> None:
    inner = TxnRequest(success=[RequestOp(request_range=RangeRequest(key=b'k'))])
    outer = TxnRequest(failure=[RequestOp(request_txn=inner)])
    assert TxnRequest.FromString(outer.SerializeToString()).failure[0].request_txn == inner


def test_unset_fields_read_as_empty() -> None:
    response = RangeResponse()
    assert (response.count, response.more, list(response.kvs), response.header.revision) == (0, False, [], 0)
    assert not response.HasField('header')


def test_enums_are_int_enums() -> None:
    assert list(Compare.CompareResult) == [0, 1, 2, 3]
    assert Event.EventType(Event(type=Event.EventType.DELETE).type).name == 'DELETE'
    assert issubclass(Permission.Type, IntEnum)
    assert AlarmRequest(alarm=AlarmType.CORRUPT).alarm == AlarmType.CORRUPT == 2


def test_invalid_name_or_value_is_refused() -> None:
    with pytest.raises(ValueError, match='kei'):
        RangeRequest(kei=b'k')  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        PutRequest(key='text')  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        PutRequest(lease=2**63)


def test_classes_have_the_name_and_docstring_of_their_table() -> None:
    assert (PutRequest.__module__, PutRequest.__name__) == ('getc.v3.schema.kv', 'PutRequest')
    assert PutRequest.DESCRIPTOR.full_name == 'etcdserverpb.PutRequest'
    for made in MESSAGES:
        assert made.__doc__ not in (None, Message.__doc__), name_of(made)


def test_other_packages_may_register_the_same_names() -> None:
    """Also with other fields, and imported before or after getc."""
    program = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

def theirs(name):
    file = descriptor_pb2.FileDescriptorProto(name=name, package='etcdserverpb', syntax='proto3')
    file.message_type.add(name='RangeRequest').field.add(name='other', number=1, type=5, label=1)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('etcdserverpb.RangeRequest'))

{first}
{second}
assert other(other=5).SerializeToString() == b'\\x08\\x05'
assert RangeRequest(key=b'k').SerializeToString() == b'\\x0a\\x01k'
"""
    ours = 'from getc.v3.schema.kv import RangeRequest'
    for name in ('rpc.proto', 'getc.v3.schema.kv.proto'):
        other = f'other = theirs({name!r})'
        for first, second in ((ours, other), (other, ours)):
            code = program.format(first=first, second=second)
            ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
            assert ended.returncode == 0, ended.stderr


# -- the RPCs


def test_every_rpc_has_the_path_of_its_service() -> None:
    for service in schema.SERVICES:
        for name, method in vars(service).items():
            if isinstance(method, schema.Method):
                package = method.path.split('.')[0].lstrip('/')
                assert method.path == f'/{package}.{service.__name__}/{name}'
                assert package in PACKAGES


def test_repeatable_rpcs_read_or_are_idempotent() -> None:
    assert {method.path.partition('.')[2] for method in schema.methods() if method.repeatable} == {
        *('KV/Range', 'KV/RangeStream', 'Watch/Watch'),
        *('Lease/LeaseRevoke', 'Lease/LeaseKeepAlive', 'Lease/LeaseTimeToLive', 'Lease/LeaseLeases'),
        *('Cluster/MemberList', 'Maintenance/Status', 'Maintenance/Hash', 'Maintenance/HashKV', 'Maintenance/Snapshot'),
        *('Auth/AuthStatus', 'Auth/Authenticate', 'Auth/UserGet', 'Auth/UserList', 'Auth/RoleGet', 'Auth/RoleList'),
        *('Election/Leader', 'Election/Observe'),
    }


def test_method_is_immutable_and_hashable() -> None:
    assert (KV.Range.request, KV.Range.response) == (RangeRequest, RangeResponse)
    with pytest.raises(AttributeError):
        KV.Range.path = '/elsewhere'  # type: ignore[misc]


def test_doctest_of_the_package_passes() -> None:
    failed, tried = doctest.testmod(schema)
    assert (failed, tried) == (0, 2)


# -- the schema of etcd 3.4 to 3.7


def facts_of_getc() -> set[str]:
    facts = {fact for made in MESSAGES for fact in facts_of(file_of(made))}
    for method in schema.methods():
        names = method.request.DESCRIPTOR.full_name, method.response.DESCRIPTOR.full_name
        request, response = (
            'stream ' * is_streaming + name
            for name, is_streaming in zip(names, (method.client_streaming, method.server_streaming), strict=True)
        )
        facts.add(f'{method.path}: {request} -> {response}')
    return facts


def file_of(made: type[Message]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    made.DESCRIPTOR.file.CopyToProto(file)
    return file


def test_messages_and_rpcs_are_those_of_etcd_3_7() -> None:
    theirs = read_table(SCHEMA_TABLE, '3.7').keys()
    assert {fact.strip('/').split('.')[0] for fact in theirs} == PACKAGES
    assert facts_of_getc() == theirs


@pytest.mark.parametrize(('line', 'rpcs'), [('3.4', 46), ('3.5', 48), ('3.6', 48), ('3.7', 49)])
def test_messages_and_rpcs_of_an_older_etcd_are_known(line: str, rpcs: int) -> None:
    theirs = read_table(SCHEMA_TABLE, line).keys()
    assert sum(fact.startswith('/') for fact in theirs) == rpcs
    assert theirs - facts_of_getc() == set()


def test_messages_and_rpcs_equal_the_descriptors_in_the_server(etcd_binary: EtcdBinary) -> None:
    """An etcd binary contains its protobuf descriptors."""
    theirs = facts_in(Path(etcd_binary.path))
    assert {fact.strip('/').split('.')[0] for fact in theirs} == PACKAGES
    assert theirs - facts_of_getc() == set()
    major, minor, _ = etcd_binary.version
    line = f'{major}.{minor}'
    if line in LINES:
        assert theirs - read_table(SCHEMA_TABLE, line).keys() == set()


def test_fields_and_rpcs_that_not_every_etcd_has_are_marked() -> None:
    """The mark is ``# since 3.5`` at the end of the declaration, or of the message that has the field."""
    lines = [line for path in Path(schema.__file__).parent.glob('*.py') for line in path.read_text('utf-8').split('\n')]
    for fact, first in read_table(SCHEMA_TABLE).items():
        name, _, kind = fact.partition(': ')
        if first == LINES[0] or kind.startswith(('proto3', 'enum')):
            continue
        owner, _, field = name.rpartition('/' if name.startswith('/') else '.')
        if read_table(SCHEMA_TABLE).get(f'{owner}: proto3 message') == first:
            continue  # the message came with this field
        declared = re.compile(
            rf'    {field}(: .*)? = .*# since {re.escape(first)}$|    \)  # since {re.escape(first)}$'
        )
        assert any(declared.match(line) for line in lines), f'{name} is not marked as since {first}'


def test_table_names_the_lines_of_each_fact(tmp_path: Path) -> None:
    path = tmp_path / 'table.txt'
    facts = {'3.5': ['a: 1', 'b: 2'], '3.6': ['a: 1', 'b: 2', 'c: 3'], '3.7': ['a: 1', 'c: 3']}
    path.write_text(format_table(facts, '# head\n'), 'utf-8')
    assert path.read_text('utf-8') == '# head\n3.5-     a: 1\n3.5-3.6  b: 2\n3.6-     c: 3\n'
    assert read_table(path) == {'a: 1': '3.5', 'b: 2': '3.5', 'c: 3': '3.6'}
    assert {line: list(read_table(path, line)) for line in facts} == facts
    with pytest.raises(ValueError, match='c: 3'):
        format_table({'3.5': ['c: 3'], '3.6': ['a: 1'], '3.7': ['c: 3']}, '')


# -- tables that are wrong


def table_of(name: str, source: str) -> dict[str, Any]:
    """Return a module that contains this table."""
    head = 'from __future__ import annotations\nfrom enum import IntEnum\nfrom getc.v3.schema.table import *\n'
    module = {'__name__': f'tests.{name}'}
    exec(compile(head + source + f'\nbuild({name!r}, globals())', f'<{name}>', 'exec'), module)
    return module


def test_table_becomes_classes() -> None:
    module = table_of(
        'fine',
        """
class Colour(IntEnum):
    RED = 0
    BLUE = 5

class Tree(Message):
    colour: int = field(1, Colour)
    trees: Repeated[Tree] = field(3)
    leaf: Leaf = field(200)

class Leaf(Message):
    name: str = field(1)
""",
    )
    tree = module['Tree'](colour=module['Colour'].BLUE, trees=[module['Tree']()], leaf=module['Leaf'](name='x'))
    assert tree.SerializeToString() == bytes.fromhex('0805 1a00 c20c03 0a0178')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('class A(Message):\n    key: bytes', 'tests.wrong.A.key has no number: write key: bytes = field'),
        ('class A(Message):\n    key: bytes = 1', 'tests.wrong.A.key has no number'),
        ('class A(Message):\n    key = field(1)', 'tests.wrong.A.key has no annotation'),
        ('class A(Message):\n    key: int46 = field(1)', 'tests.wrong.A.key: there is no type int46'),
        ('class A(Message):\n    key: Repeated[int46] = field(1)', 'tests.wrong.A.key: there is no type int46'),
        ('class A(Message):\n    key: IntEnum = field(1)', 'tests.wrong.A.key: there is no type IntEnum'),
        ('class A(Message):\n    key: list[bytes] = field(1)', r"'list\[bytes\]' is neither a name nor Repeated"),
        ('class A(Message):\n    key: int = field(1)', 'tests.wrong.A.key: an enum is int and field'),
        ('class E(IntEnum):\n    A = 0\nclass A(Message):\n    key: bytes = field(1, E)', 'an enum is int and field'),
        ('class A(Message):\n    a: bool = field(1)\n    b: bool = field(1)', 'A.b has the number 1, as a has'),
    ],
)
def test_invalid_table_raises_value_error_with_the_field(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_of('wrong', source)


@pytest.mark.parametrize(
    'source',
    [
        'class A(Message):\n    key: bytes = field(0)',
        'class A(Message):\n    key: bytes = field(2**29)',
        'class E(IntEnum):\n    A = 1\nclass A(Message):\n    key: int = field(1, E)',
        'class A(Message):\n    key: Repeated[bytes] = field(1, oneof="x")',
    ],
)
def test_error_of_protobuf_names_the_module(source: str) -> None:
    """For numbers that are not allowed, enums without a zero, and repeated fields in a oneof."""
    with pytest.raises(ValueError, match=r'tests\.refused: '):
        table_of('refused', source)
