"""Builds requests from keyword arguments, and parses responses."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from getc.errors import ProtocolError, ResponseTooLarge
from getc.grpc.framing import MAX_MESSAGE, OversizedMessage
from getc.v3.protobuf_fields import beginning
from getc.v3.schema.table import Method

__all__ = ['build', 'parse', 'parse_beginning', 'too_large']

AnyMessage = TypeVar('AnyMessage', bound=Message)
Request = TypeVar('Request', bound=Message)
Response = TypeVar('Response', bound=Message)


def build(kind: type[AnyMessage], **fields: Any) -> AnyMessage:
    """Return a message with these fields.  An error names the field, not its value, which may be a secret.

    Raises:
        TypeError: A field has a value of another type, or the message has no field of that name.
        ValueError: A number is out of range, or a text cannot be encoded.
    """
    try:
        if None not in fields.values():  # protobuf treats None as a field that was left out
            return kind(**fields)
    except (TypeError, ValueError):
        pass
    for name, value in fields.items():
        _check_field(kind, name, value)
    raise TypeError(f'cannot build a {kind.__name__} from these fields')  # such as a generator that is exhausted


def _check_field(kind: type[Message], name: str, value: Any) -> None:
    if name not in kind.DESCRIPTOR.fields_by_name:
        raise TypeError(f'{kind.__name__} has no field {name}')
    try:
        if value is None:
            raise TypeError
        kind(**{name: value})
    except TypeError:
        raise TypeError(f'{name} of {kind.__name__} cannot be {type(value).__name__}') from None
    except ValueError:
        raise ValueError(f'{name} of {kind.__name__} cannot have this value') from None


def parse(method: Method[Request, Response], data: bytes, url: str, *, is_write: bool) -> Response:
    """Return the response that these bytes encode.

    Args:
        method: The RPC.
        data: The encoded response.
        url: The server, for the error.
        is_write: The call may have changed something: ``maybe_applied`` of the error.

    Raises:
        ProtocolError: The bytes are not a response of this RPC.
    """
    try:
        return method.response.FromString(data)
    except (DecodeError, UnicodeDecodeError):
        text = f'the response of {url} to {method.path} is not a valid {method.response.__name__}'
        raise ProtocolError(text, maybe_applied=is_write, endpoint=url) from None  # the cause may contain the response


def parse_beginning(method: Method[Request, Response], message: OversizedMessage) -> Response:
    """Return the header, and the numbers that follow it, of a response that was too large to be received."""
    try:
        return method.response.FromString(beginning(message))
    except (DecodeError, UnicodeDecodeError):
        return method.response()


def too_large(
    method: Method[Request, Response], message: OversizedMessage, url: str, *, is_write: bool
) -> ProtocolError:
    """Return the error for a response larger than the limit; a ResponseTooLarge if its beginning is etcd's.

    The arguments are those of :func:`parse`.
    """
    response: Any = parse_beginning(method, message)
    has_header = 'header' in method.response.DESCRIPTOR.fields_by_name
    if has_header and not response.header.cluster_id:
        text = f'gRPC: a message of {message.size} bytes exceeds the limit of {MAX_MESSAGE}'
        return ProtocolError(text, maybe_applied=is_write, endpoint=url)
    if not (is_write or method.server_streaming):
        then = ': request fewer keys at a time'
    else:
        then = '; the request was applied' if is_write and not hasattr(response, 'succeeded') else ''
    text = f'the response of {url} to {method.path} is {message.size} bytes, over the limit of {MAX_MESSAGE}{then}'
    error = ResponseTooLarge(text, maybe_applied=is_write, endpoint=url)
    error.size = message.size
    if has_header:
        error.index = response.header.revision
    error.succeeded = getattr(response, 'succeeded', None)
    return error
