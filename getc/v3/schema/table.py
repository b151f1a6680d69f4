"""The words that the tables of this folder are written in, and how they become protobuf's classes.

A message is a class, a field an annotation with its number, and the types are protobuf's::

    class Compare(Message):
        class CompareResult(IntEnum):
            EQUAL = 0
            GREATER = 1

        result: int = field(1, CompareResult)
        key: bytes = field(3)
        version: int64 = field(4, oneof='target_union')

A module is one file in protobuf's sense.  Below its messages it calls :func:`build`, which puts the
class that protobuf makes in the place of each: at run time there is nothing but protobuf's own, and a
type checker goes by the table.  What protobuf calls a service is a class of :class:`Method`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform as _with_fields
else:

    def _with_fields(**_: object) -> Callable[[type], type]:
        return lambda table: table  # tells a type checker of keyword arguments, and does nothing


__all__ = ['Message', 'Method', 'Repeated', 'build', 'field', 'int64', 'uint32', 'uint64']

Repeated = Sequence
int64 = int
uint32 = int
uint64 = int

POOL: Final = descriptor_pool.DescriptorPool()
"""A pool of our own: other packages put etcd's files in the default one, and a name can be there once."""

WIRE: Final = descriptor_pb2.FieldDescriptorProto
SCALARS: Final = {
    'bool': WIRE.TYPE_BOOL,
    'bytes': WIRE.TYPE_BYTES,
    'int64': WIRE.TYPE_INT64,
    'str': WIRE.TYPE_STRING,
    'uint32': WIRE.TYPE_UINT32,
    'uint64': WIRE.TYPE_UINT64,
}
ANNOTATION: Final = re.compile(r'(?:(Repeated)\[(\w+)\]|(\w+))')

Request = TypeVar('Request', bound=message.Message)
Response = TypeVar('Response', bound=message.Message)


@_with_fields(kw_only_default=True)
class Message(message.Message):
    """A message of protobuf: keyword arguments are its fields, and all of them may be left out.

    An unset field reads as zero, empty or an empty message; :meth:`HasField` tells of messages and of
    the members of a oneof.  Fields that a server does not know it ignores, and so do we.
    """


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """An RPC.

    Attributes:
        path: ``/package.Service/Method``, as gRPC has it.
        request: The class of what is sent.
        response: The class of what comes back.
        client_streaming: Any number of requests, not one.
        server_streaming: Any number of responses, not one.
        reads: It changes nothing, whatever is in the request.
        idempotent: It writes, and sending it twice does no more than sending it once.
        waits: It writes, and then waits: what it is refused for may have come after the write.
    """

    path: str
    request: type[Request]
    response: type[Response]
    client_streaming: bool = False
    server_streaming: bool = False
    reads: bool = False
    idempotent: bool = False
    waits: bool = False

    @property
    def repeatable(self) -> bool:
        """True if sending it twice cannot apply a write twice.  Where that depends on the request it is False."""
        return self.reads or self.idempotent


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    enum: type[IntEnum] | None
    oneof: str | None


def field(number: int, enum: type[IntEnum] | None = None, *, oneof: str | None = None) -> Any:
    """A field of a message, whose annotation is its type.

    Args:
        number: What it has on the wire.
        enum: The names of its values.  The annotation is then ``int``: a server may send a newer one.
        oneof: The group of which one field at most is set.
    """
    return _Field(number, enum, oneof)


def build(package: str, module: dict[str, Any]) -> None:
    """Put protobuf's own class in the place of every message of a module.

    Args:
        package: The name of protobuf's package.
        module: Its ``globals()``.

    Raises:
        ValueError: The table is wrong; says where.
    """
    name = module['__name__']
    own = [thing for thing in module.values() if inspect.isclass(thing) and thing.__module__ == name]
    tables = [thing for thing in own if issubclass(thing, Message)]
    file = descriptor_pb2.FileDescriptorProto(name=f'{name}.proto', package=package, syntax='proto3')
    names = _Names(package, module)
    file.enum_type.extend(_enum(thing) for thing in own if issubclass(thing, IntEnum))
    file.message_type.extend(_message(table, names) for table in tables)
    file.dependency.extend(sorted(names.files))
    try:
        POOL.AddSerializedFile(file.SerializeToString())
    except TypeError as error:
        raise ValueError(f'{name}: {error}') from error
    for table in tables:
        module[table.__name__] = _class(table, POOL.FindMessageTypeByName(f'{package}.{table.__name__}'))


class _Names:
    """What the names in annotations stand for; remembers the files of those from elsewhere."""

    def __init__(self, package: str, module: dict[str, Any]) -> None:
        self.files: set[str] = set()
        self._package = package
        self._module = module

    def message(self, name: str) -> str:
        """The full name of a message; KeyError if there is none."""
        found = self._module[name]
        if not inspect.isclass(found) or not issubclass(found, message.Message):
            raise KeyError(name)
        if issubclass(found, Message):
            return f'.{self._package}.{name}'
        self.files.add(found.DESCRIPTOR.file.name)
        return f'.{found.DESCRIPTOR.full_name}'

    def enum(self, enum: type[IntEnum]) -> str:
        """The full name of an enum of this module."""
        return f'.{self._package}.{enum.__qualname__}'


def _message(table: type[Message], names: _Names) -> descriptor_pb2.DescriptorProto:
    made = descriptor_pb2.DescriptorProto(name=table.__name__)
    made.enum_type.extend(_enum(enum) for enum in _enums_of(table))
    where = f'{table.__module__}.{table.__name__}'
    oneofs: dict[str, int] = {}
    numbers: dict[int, str] = {}
    annotations = inspect.get_annotations(table)
    for name, value in vars(table).items():
        if isinstance(value, _Field) and name not in annotations:
            raise ValueError(f'{where}.{name} has no type')
    for name, annotation in annotations.items():
        found = vars(table).get(name)
        if not isinstance(found, _Field):
            raise ValueError(f'{where}.{name} has no number: write {name}: {annotation} = field(NUMBER)')
        other = numbers.setdefault(found.number, name)
        if other != name:
            raise ValueError(f'{where}.{name} has the number {found.number}, as {other} has')
        line = made.field.add(name=name, number=found.number)
        if found.oneof is not None:
            line.oneof_index = oneofs.setdefault(found.oneof, len(oneofs))
        _set_type(line, annotation, found.enum, names, f'{where}.{name}')
    for oneof in oneofs:
        made.oneof_decl.add(name=oneof)
    return made


def _set_type(
    line: descriptor_pb2.FieldDescriptorProto, annotation: Any, enum: type[IntEnum] | None, names: _Names, where: str
) -> None:
    parts = ANNOTATION.fullmatch(annotation) if isinstance(annotation, str) else None
    if parts is None:
        raise ValueError(f'{where}: {annotation!r} is neither a name nor Repeated[a name]')
    repeated, item, single = parts.groups()
    name = item or single
    line.label = WIRE.LABEL_REPEATED if repeated else WIRE.LABEL_OPTIONAL
    if (name == 'int') != (enum is not None):
        raise ValueError(f'{where}: an enum is int and field(NUMBER, ENUM), and any other number has its width')
    if enum is not None:
        line.type, line.type_name = WIRE.TYPE_ENUM, names.enum(enum)
    elif name in SCALARS:
        line.type = SCALARS[name]
    else:
        try:
            line.type, line.type_name = WIRE.TYPE_MESSAGE, names.message(name)
        except KeyError:
            raise ValueError(f'{where}: there is no type {name}') from None


def _enum(enum: type[IntEnum]) -> descriptor_pb2.EnumDescriptorProto:
    made = descriptor_pb2.EnumDescriptorProto(name=enum.__name__)
    for member in enum:
        made.value.add(name=member.name, number=member.value)
    return made


def _enums_of(table: type[Message]) -> Iterator[type[IntEnum]]:
    return (thing for thing in vars(table).values() if inspect.isclass(thing) and issubclass(thing, IntEnum))


def _class(table: type[Message], descriptor: Any) -> type[message.Message]:
    """What protobuf makes, with the names of the table's module and the enums as the table has them."""
    made = message_factory.GetMessageClass(descriptor)
    made.__module__, made.__doc__ = table.__module__, inspect.getdoc(table)
    for enum in _enums_of(table):
        setattr(made, enum.__name__, enum)
    return made
