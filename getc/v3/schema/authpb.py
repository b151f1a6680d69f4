"""Users, roles and permissions."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from enum import IntEnum

from getc.v3.schema.table import Message, Repeated, build, field

__all__ = ['Permission', 'Role', 'User', 'UserAddOptions']


class UserAddOptions(Message):
    """A user without a password is authenticated by the common name of a client certificate."""

    no_password: bool = field(1)


class User(Message):
    """A stored record of etcd that no RPC uses."""

    name: bytes = field(1)
    password: bytes = field(2)
    roles: Repeated[str] = field(3)
    options: UserAddOptions = field(4)


class Permission(Message):
    """Access to a key, or to the keys from ``key`` up to ``range_end``."""

    class Type(IntEnum):
        """The kind of access."""

        READ = 0
        WRITE = 1
        READWRITE = 2

    permType: int = field(1, Type)
    key: bytes = field(2)
    range_end: bytes = field(3)


class Role(Message):
    """A stored record of etcd that no RPC uses."""

    name: bytes = field(1)
    keyPermission: Repeated[Permission] = field(2)


build('authpb', globals())
