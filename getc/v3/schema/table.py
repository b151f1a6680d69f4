"""Builds protobuf message classes from tables that are written as Python classes.

A message is a class, a field is an annotation with its number, and the types are protobuf's::

    class Compare(Message):
        class CompareResult(IntEnum):
            EQUAL = 0
            GREATER = 1

        result: int = field(1, CompareResult)
        key: bytes = field(3)
        version: int64 = field(4, oneof='target_union')

A module is one protobuf file.  Below its messages it calls :func:`build`, which replaces each table by the class that
protobuf creates for it.  At run time there are only protobuf's classes; type checkers use the tables.  A protobuf
service is a class with :class:`Method` attributes.
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
        return lambda table: table  # only type checkers evaluate it


__all__ = ['Message', 'Method', 'Repeated', 'build', 'field', 'int64', 'uint32', 'uint64']

Repeated = Sequence
int64 = int
uint32 = int
uint64 = int

POOL: Final = descriptor_pool.DescriptorPool()
"""A private pool: the default one holds each name once, and other packages may add etcd's files to it."""

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
    """A protobuf message.  The keyword arguments are its fields, all of which are optional.

    An unset field reads as zero, empty or an empty message; :meth:`HasField` works for messages and for the members
    of a oneof.  Unknown fields are ignored.
    """


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """An RPC.

    Attributes:
        path: The gRPC path, ``/package.Service/Method``.
        request: The class of its requests.
        response: The class of its responses.
        client_streaming: The client sends any number of requests, not one.
        server_streaming: The server sends any number of responses, not one.
        reads: The RPC changes nothing, whatever the request.
        idempotent: The RPC writes, and sending it twice has the same effect as sending it once.
        waits: The RPC writes and then waits for an event: an error may come after the write.
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
        """True if sending a request twice cannot apply a write twice; False if that depends on the request."""
        return self.reads or self.idempotent


@dataclass(frozen=True, slots=True)
class _Field:
    number: int
    enum: type[IntEnum] | None
    oneof: str | None


def field(number: int, enum: type[IntEnum] | None = None, *, oneof: str | None = None) -> Any:
    """Declare a field of a message.  The annotation is its type.

    Args:
        number: The field number.
        enum: The enum of its values.  The annotation is then ``int``, since a server may send another value.
        oneof: The name of the group of which at most one field is set.
    """
    return _Field(number, enum, oneof)


def build(package: str, module: dict[str, Any]) -> None:
    """Replace every table of a module by the class that protobuf creates for it.

    Args:
        package: The name of the protobuf package.
        module: The ``globals()`` of the module.

    Raises:
        ValueError: A table is not valid; the message names the field.
    """
    name = module['__name__']
    classes = [value for value in module.values() if inspect.isclass(value) and value.__module__ == name]
    tables = [cls for cls in classes if issubclass(cls, Message)]
    file = descriptor_pb2.FileDescriptorProto(name=f'{name}.proto', package=package, syntax='proto3')
    names = _Names(package, module)
    file.enum_type.extend(_enum(cls) for cls in classes if issubclass(cls, IntEnum))
    file.message_type.extend(_message(table, names) for table in tables)
    file.dependency.extend(sorted(names.files))
    try:
        POOL.AddSerializedFile(file.SerializeToString())
    except TypeError as error:
        raise ValueError(f'{name}: {error}') from error
    for table in tables:
        module[table.__name__] = _class(table, POOL.FindMessageTypeByName(f'{package}.{table.__name__}'))


class _Names:
    """Resolves the names in annotations, and collects the files of messages from other modules."""

    def __init__(self, package: str, module: dict[str, Any]) -> None:
        self.files: set[str] = set()
        self._package = package
        self._module = module

    def message(self, name: str) -> str:
        """Return the full name of a message.  Raises KeyError if there is none."""
        found = self._module[name]
        if not inspect.isclass(found) or not issubclass(found, message.Message):
            raise KeyError(name)
        if issubclass(found, Message):
            return f'.{self._package}.{name}'
        self.files.add(found.DESCRIPTOR.file.name)
        return f'.{found.DESCRIPTOR.full_name}'

    def enum(self, enum: type[IntEnum]) -> str:
        """Return the full name of an enum of this module."""
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
            raise ValueError(f'{where}.{name} has no annotation')
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
    return (value for value in vars(table).values() if inspect.isclass(value) and issubclass(value, IntEnum))


def _class(table: type[Message], descriptor: Any) -> type[message.Message]:
    """Return protobuf's class, with the module, the docstring and the enums of the table."""
    made = message_factory.GetMessageClass(descriptor)
    made.__module__, made.__doc__ = table.__module__, inspect.getdoc(table)
    for enum in _enums_of(table):
        setattr(made, enum.__name__, enum)
    return made
