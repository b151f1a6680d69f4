"""Users and roles as they are stored."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.table import Message, Repeated, build, field

__all__ = ['Permission', 'Role', 'User', 'UserAddOptions']


class UserAddOptions(Message):
    """A user without a password is known by the common name of its certificate."""

    no_password: bool = field(1)


class User(Message):
    """Is in etcd's store only: no RPC carries it."""

    name: bytes = field(1)
    password: bytes = field(2)
    roles: Repeated[str] = field(3)
    options: UserAddOptions = field(4)


class Permission(Message):
    """What a role may do with a key, or with the keys from ``key`` up to ``range_end``."""

    class Type(IntEnum):
        """What may be done."""

        READ = 0
        WRITE = 1
        READWRITE = 2

    permType: int = field(1, Type)
    key: bytes = field(2)
    range_end: bytes = field(3)


class Role(Message):
    """Is in etcd's store only: no RPC carries it."""

    name: bytes = field(1)
    keyPermission: Repeated[Permission] = field(2)


build('authpb', globals())
