"""The exception class of each error code."""

from __future__ import annotations

from getc.errors import EtcdError

__all__ = ['error_from_code']

_CLASSES: dict[int, type[EtcdError]] = {subclass.errno: subclass for subclass in EtcdError.__subclasses__()}


def error_from_code(
    code: int,
    message: str,
    cause: str = '',
    index: int | None = None,
    *,
    endpoint: str | None = None,
) -> EtcdError:
    """Return the exception for an error code of etcd v2, or a status code of gRPC.

    An unknown code gives a plain :class:`EtcdError` with that code.
    """
    return _CLASSES.get(code, EtcdError)(message, cause, index, errno=code, endpoint=endpoint)
