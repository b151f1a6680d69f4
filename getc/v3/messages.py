"""Messages made from keyword arguments, and from bytes."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from getc.errors import ProtocolError, ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE, Oversized
from getc.v3.protobuf_fields import beginning
from getc.v3.schema.table import Method

__all__ = ['build', 'parse', 'too_large', 'unpacked_beginning']

AnyMessage = TypeVar('AnyMessage', bound=Message)
Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)


def build(kind: type[AnyMessage], **fields: Any) -> AnyMessage:
    """Make a message.  Errors name the field, and not its value, which may be a secret.

    Raises:
        TypeError: A field has another type, or there is none of that name.
        ValueError: A number is out of its range, or a text cannot be encoded.
    """
    try:
        if None not in fields.values():  # which protobuf takes for a field that was left out
            return kind(**fields)
    except (TypeError, ValueError):
        pass
    for name, value in fields.items():
        _check(kind, name, value)
    raise TypeError(f'a {kind.__name__} cannot be made of these')  # a generator, say, that is used up


def _check(kind: type[Message], name: str, value: Any) -> None:
    if name not in kind.DESCRIPTOR.fields_by_name:
        raise TypeError(f'{kind.__name__} has no {name}')
    try:
        if value is None:
            raise TypeError
        kind(**{name: value})
    except TypeError:
        raise TypeError(f'{name} of {kind.__name__} cannot be {type(value).__name__}') from None
    except ValueError:
        raise ValueError(f'{name} of {kind.__name__} cannot have this value') from None


def parse(method: Method[Request, Response], answer: bytes, url: str, *, writes: bool) -> Response:
    """The response that these bytes are.

    Raises:
        ProtocolError: They are none.
    """
    try:
        return method.response.FromString(answer)
    except (DecodeError, UnicodeDecodeError):
        text = f'the answer of {url} to {method.path} is no {method.response.__name__}'
        raise ProtocolError(text, maybe_applied=writes, endpoint=url) from None  # their arguments may be all of it


def unpacked_beginning(method: Method[Request, Response], answer: Oversized) -> Response:
    """What the beginning of an answer says that was not read: its header, and the numbers that follow it."""
    try:
        return method.response.FromString(beginning(answer))
    except (DecodeError, UnicodeDecodeError):
        return method.response()


def too_large(method: Method[Request, Response], answer: Oversized, url: str, *, writes: bool) -> ProtocolError:
    """The error for an answer that is larger than the bound: a ResponseTooLarge if it begins as etcd's do."""
    response: Any = unpacked_beginning(method, answer)
    if not response.header.cluster_id:
        text = f'gRPC: a message of {answer.size} bytes; the bound is {MAX_MESSAGE}'
        return ProtocolError(text, maybe_applied=writes, endpoint=url)
    if not (writes or method.server_streaming):
        then = ': ask for less at a time'
    else:
        then = '; it was carried out' if writes and not hasattr(response, 'succeeded') else ''
    text = f'{url} answered {method.path} with {answer.size} bytes, and the bound is {MAX_MESSAGE}{then}'
    error = ResponseTooLarge(text, maybe_applied=writes, endpoint=url)
    error.size = answer.size
    error.index = response.header.revision
    error.succeeded = getattr(response, 'succeeded', None)
    return error
