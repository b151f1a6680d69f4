"""The schema of etcd by lines: read from the protobuf descriptors in the binaries, and kept as a table for the tests.

A fact is one line of text: a message, a field, an enum value or an RPC, with everything that matters for its encoding.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

__all__ = [
    'ERRORS_HEAD',
    'ERRORS_TABLE',
    'SCHEMA_HEAD',
    'SCHEMA_TABLE',
    'facts_in',
    'facts_of',
    'format_table',
    'read_table',
]

FILES: Final = ('rpc.proto', 'kv.proto', 'auth.proto', 'v3lock.proto', 'v3election.proto')
"""The files of etcd's services, and of the messages in them."""

MAX_FILE: Final = 100_000
"""Bytes of an encoded descriptor at most; etcd 3.7 has one of 24,000."""

END: Final = b'b\x06proto3'
"""The last field of an encoded descriptor: ``syntax``."""

TABLES: Final = Path(__file__).parents[2] / 'tests' / 'v3' / 'tables'
SCHEMA_TABLE: Final = TABLES / 'schema.txt'
ERRORS_TABLE: Final = TABLES / 'errors.txt'

SCHEMA_HEAD: Final = """\
# Messages, fields, enum values and RPCs of etcd, each after the lines of etcd that have it.
# Made by `python -m tools.servers schema` from the protobuf descriptors in the binaries of etcd {versions}.
"""

ERRORS_HEAD: Final = """\
# The statuses of etcd, each after the lines of etcd that have it.
# Made by `python -m tools.servers schema` from the Go modules:
{modules}
"""


def facts_in(binary: Path) -> set[str]:
    """Return the facts of the descriptors that an etcd binary contains; an empty set if there are none."""
    return {fact for file in _files_in(binary.read_bytes()) for fact in facts_of(file)}


def _files_in(program: bytes) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Yield the descriptors: compressed by gzip up to etcd 3.6, plain from 3.7 on."""
    for found in re.finditer(rb'\x1f\x8b\x08\x00{5}', program):
        try:
            yield from _parsed(zlib.decompressobj(31).decompress(program[found.start() : found.start() + MAX_FILE]))
        except zlib.error:
            continue
    for name in FILES:
        beginning = bytes([0x0A, len(name)]) + name.encode() + b'\x12'
        for found in re.finditer(re.escape(beginning), program):
            end = program.find(END, found.start(), found.start() + MAX_FILE)
            yield from _parsed(program[found.start() : end + len(END)])


def _parsed(content: bytes) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    try:
        file = descriptor_pb2.FileDescriptorProto.FromString(content)
    except DecodeError:
        return
    if file.name in FILES:
        yield file


def facts_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Yield the facts of a descriptor."""
    for service in file.service:
        for rpc in service.method:
            request = 'stream ' * rpc.client_streaming + rpc.input_type.lstrip('.')
            response = 'stream ' * rpc.server_streaming + rpc.output_type.lstrip('.')
            yield f'/{file.package}.{service.name}/{rpc.name}: {request} -> {response}'
    yield from _enum_facts(file.package, file.enum_type)
    for message in file.message_type:
        name = f'{file.package}.{message.name}'
        yield f'{name}: {file.syntax} message'
        yield from _enum_facts(name, message.enum_type)
        for field in message.field:
            yield f'{name}.{field.name}: {_field_fact(message, field)}'


def _field_fact(message: descriptor_pb2.DescriptorProto, field: descriptor_pb2.FieldDescriptorProto) -> str:
    label = field.Label.Name(field.label).removeprefix('LABEL_').lower()
    kind = field.type_name.lstrip('.') or field.Type.Name(field.type).removeprefix('TYPE_').lower()
    oneof = f' in {message.oneof_decl[field.oneof_index].name}' if field.HasField('oneof_index') else ''
    return f'{label} {kind} = {field.number}{oneof}'


def _enum_facts(scope: str, enums: Any) -> Iterator[str]:
    for enum in enums:
        for value in enum.value:
            yield f'{scope}.{enum.name}.{value.name}: enum value = {value.number}'


# -- the table


def format_table(facts: Mapping[str, Iterable[str]], head: str) -> str:
    """Return a table with each fact after the lines of etcd that have it, such as ``3.4-`` or ``3.4-3.5``.

    Args:
        facts: The facts by line, the oldest line first.
        head: The beginning of the file.
    """
    lines = list(facts)
    sets = {line: set(facts[line]) for line in lines}
    rows = []
    for fact in set().union(*sets.values()):
        having = [line for line in lines if fact in sets[line]]
        first, last = lines.index(having[0]), lines.index(having[-1])
        if having != lines[first : last + 1]:
            raise ValueError(f'etcd {", ".join(having)} have what the lines between them have not: {fact}')
        rows.append((fact, f'{having[0]}-{having[-1] if having[-1] != lines[-1] else ""}'))
    width = max(len(span) for _, span in rows)
    return head + ''.join(f'{span:{width}}  {fact}\n' for fact, span in sorted(rows))


def read_table(path: Path, line: str | None = None) -> dict[str, str]:
    """Read a table: for each fact the first line of etcd that has it.

    Args:
        path: The file.
        line: Only the facts that this line has; None for all.
    """
    found = {}
    for row in path.read_text('utf-8').splitlines():
        if row.startswith('#'):
            continue
        span, _, fact = row.partition(' ')
        first, _, last = span.partition('-')
        if line is None or (_number(first) <= _number(line) and (not last or _number(line) <= _number(last))):
            found[fact.strip()] = first
    return found


def _number(line: str) -> tuple[int, ...]:
    return tuple(map(int, line.split('.')))
