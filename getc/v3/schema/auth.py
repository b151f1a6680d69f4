"""Users, roles and what they may do."""
# ruff: noqa: N815 - the names of the fields are etcd's

from __future__ import annotations

from getc.v3.schema.authpb import Permission, UserAddOptions
from getc.v3.schema.header import ResponseHeader
from getc.v3.schema.table import Message, Method, Repeated, build, field, uint64

__all__ = [
    'Auth',
    'AuthDisableRequest',
    'AuthDisableResponse',
    'AuthEnableRequest',
    'AuthEnableResponse',
    'AuthRoleAddRequest',
    'AuthRoleAddResponse',
    'AuthRoleDeleteRequest',
    'AuthRoleDeleteResponse',
    'AuthRoleGetRequest',
    'AuthRoleGetResponse',
    'AuthRoleGrantPermissionRequest',
    'AuthRoleGrantPermissionResponse',
    'AuthRoleListRequest',
    'AuthRoleListResponse',
    'AuthRoleRevokePermissionRequest',
    'AuthRoleRevokePermissionResponse',
    'AuthStatusRequest',
    'AuthStatusResponse',
    'AuthUserAddRequest',
    'AuthUserAddResponse',
    'AuthUserChangePasswordRequest',
    'AuthUserChangePasswordResponse',
    'AuthUserDeleteRequest',
    'AuthUserDeleteResponse',
    'AuthUserGetRequest',
    'AuthUserGetResponse',
    'AuthUserGrantRoleRequest',
    'AuthUserGrantRoleResponse',
    'AuthUserListRequest',
    'AuthUserListResponse',
    'AuthUserRevokeRoleRequest',
    'AuthUserRevokeRoleResponse',
    'AuthenticateRequest',
    'AuthenticateResponse',
]


class AuthEnableRequest(Message):
    """From now on ask everybody who they are.  Needs a user root with the role root."""


class AuthEnableResponse(Message):
    """It is so."""

    header: ResponseHeader = field(1)


class AuthDisableRequest(Message):
    """From now on ask nobody."""


class AuthDisableResponse(Message):
    """It is so."""

    header: ResponseHeader = field(1)


class AuthStatusRequest(Message):
    """Ask whether users are asked who they are.  Since 3.5."""


class AuthStatusResponse(Message):
    """``authRevision`` grows with every change of users and roles.  Since 3.5."""

    header: ResponseHeader = field(1)
    enabled: bool = field(2)
    authRevision: uint64 = field(3)


class AuthenticateRequest(Message):
    """Say who you are."""

    name: str = field(1)
    password: str = field(2)


class AuthenticateResponse(Message):
    """The token goes with every call, as the metadata ``token``."""

    header: ResponseHeader = field(1)
    token: str = field(2)


class AuthUserAddRequest(Message):
    """Add a user."""

    name: str = field(1)
    password: str = field(2)
    options: UserAddOptions = field(3)
    hashedPassword: str = field(4)  # since 3.5


class AuthUserAddResponse(Message):
    """It is added."""

    header: ResponseHeader = field(1)


class AuthUserGetRequest(Message):
    """Ask for the roles of a user."""

    name: str = field(1)


class AuthUserGetResponse(Message):
    """The names of the roles."""

    header: ResponseHeader = field(1)
    roles: Repeated[str] = field(2)


class AuthUserListRequest(Message):
    """Ask for all users."""


class AuthUserListResponse(Message):
    """The names of the users."""

    header: ResponseHeader = field(1)
    users: Repeated[str] = field(2)


class AuthUserDeleteRequest(Message):
    """Remove a user."""

    name: str = field(1)


class AuthUserDeleteResponse(Message):
    """It is removed."""

    header: ResponseHeader = field(1)


class AuthUserChangePasswordRequest(Message):
    """Give a user another password.  The hash is the server's: it is not to be sent."""

    name: str = field(1)
    password: str = field(2)
    hashedPassword: str = field(3)  # since 3.5


class AuthUserChangePasswordResponse(Message):
    """The old one is worth nothing."""

    header: ResponseHeader = field(1)


class AuthUserGrantRoleRequest(Message):
    """Give a user a role."""

    user: str = field(1)
    role: str = field(2)


class AuthUserGrantRoleResponse(Message):
    """It is given."""

    header: ResponseHeader = field(1)


class AuthUserRevokeRoleRequest(Message):
    """Take a role from the user ``name``."""

    name: str = field(1)
    role: str = field(2)


class AuthUserRevokeRoleResponse(Message):
    """It is taken."""

    header: ResponseHeader = field(1)


class AuthRoleAddRequest(Message):
    """Add a role."""

    name: str = field(1)


class AuthRoleAddResponse(Message):
    """It is added."""

    header: ResponseHeader = field(1)


class AuthRoleGetRequest(Message):
    """Ask what a role may do."""

    role: str = field(1)


class AuthRoleGetResponse(Message):
    """What it may do."""

    header: ResponseHeader = field(1)
    perm: Repeated[Permission] = field(2)


class AuthRoleListRequest(Message):
    """Ask for all roles."""


class AuthRoleListResponse(Message):
    """The names of the roles."""

    header: ResponseHeader = field(1)
    roles: Repeated[str] = field(2)


class AuthRoleDeleteRequest(Message):
    """Remove a role."""

    role: str = field(1)


class AuthRoleDeleteResponse(Message):
    """It is removed."""

    header: ResponseHeader = field(1)


class AuthRoleGrantPermissionRequest(Message):
    """Let the role ``name`` do something."""

    name: str = field(1)
    perm: Permission = field(2)


class AuthRoleGrantPermissionResponse(Message):
    """It may."""

    header: ResponseHeader = field(1)


class AuthRoleRevokePermissionRequest(Message):
    """Let a role do it no more; key and range end as they were granted."""

    role: str = field(1)
    key: bytes = field(2)
    range_end: bytes = field(3)


class AuthRoleRevokePermissionResponse(Message):
    """It may not."""

    header: ResponseHeader = field(1)


build('etcdserverpb', globals())


class Auth:
    """Users, roles and what they may do."""

    AuthEnable = Method('/etcdserverpb.Auth/AuthEnable', AuthEnableRequest, AuthEnableResponse)
    AuthDisable = Method('/etcdserverpb.Auth/AuthDisable', AuthDisableRequest, AuthDisableResponse)
    AuthStatus = Method('/etcdserverpb.Auth/AuthStatus', AuthStatusRequest, AuthStatusResponse, reads=True)  # since 3.5
    Authenticate = Method('/etcdserverpb.Auth/Authenticate', AuthenticateRequest, AuthenticateResponse, reads=True)
    UserAdd = Method('/etcdserverpb.Auth/UserAdd', AuthUserAddRequest, AuthUserAddResponse)
    UserGet = Method('/etcdserverpb.Auth/UserGet', AuthUserGetRequest, AuthUserGetResponse, reads=True)
    UserList = Method('/etcdserverpb.Auth/UserList', AuthUserListRequest, AuthUserListResponse, reads=True)
    UserDelete = Method('/etcdserverpb.Auth/UserDelete', AuthUserDeleteRequest, AuthUserDeleteResponse)
    UserChangePassword = Method(
        '/etcdserverpb.Auth/UserChangePassword', AuthUserChangePasswordRequest, AuthUserChangePasswordResponse
    )
    UserGrantRole = Method('/etcdserverpb.Auth/UserGrantRole', AuthUserGrantRoleRequest, AuthUserGrantRoleResponse)
    UserRevokeRole = Method('/etcdserverpb.Auth/UserRevokeRole', AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse)
    RoleAdd = Method('/etcdserverpb.Auth/RoleAdd', AuthRoleAddRequest, AuthRoleAddResponse)
    RoleGet = Method('/etcdserverpb.Auth/RoleGet', AuthRoleGetRequest, AuthRoleGetResponse, reads=True)
    RoleList = Method('/etcdserverpb.Auth/RoleList', AuthRoleListRequest, AuthRoleListResponse, reads=True)
    RoleDelete = Method('/etcdserverpb.Auth/RoleDelete', AuthRoleDeleteRequest, AuthRoleDeleteResponse)
    RoleGrantPermission = Method(
        '/etcdserverpb.Auth/RoleGrantPermission', AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse
    )
    RoleRevokePermission = Method(
        '/etcdserverpb.Auth/RoleRevokePermission', AuthRoleRevokePermissionRequest, AuthRoleRevokePermissionResponse
    )
