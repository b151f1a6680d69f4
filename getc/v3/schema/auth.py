"""Messages and RPCs of the Auth service."""
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
    """Enable authentication.  Requires a user root with the role root."""


class AuthEnableResponse(Message):
    """Confirms that authentication is enabled."""

    header: ResponseHeader = field(1)


class AuthDisableRequest(Message):
    """Disable authentication."""


class AuthDisableResponse(Message):
    """Confirms that authentication is disabled."""

    header: ResponseHeader = field(1)


class AuthStatusRequest(Message):
    """Request whether authentication is enabled.  Since 3.5."""


class AuthStatusResponse(Message):
    """Whether authentication is enabled; ``authRevision`` grows with every change of users and roles.  Since 3.5."""

    header: ResponseHeader = field(1)
    enabled: bool = field(2)
    authRevision: uint64 = field(3)


class AuthenticateRequest(Message):
    """Request a token."""

    name: str = field(1)
    password: str = field(2)


class AuthenticateResponse(Message):
    """The token, which is sent with every call as the metadata ``token``."""

    header: ResponseHeader = field(1)
    token: str = field(2)


class AuthUserAddRequest(Message):
    """Add a user."""

    name: str = field(1)
    password: str = field(2)
    options: UserAddOptions = field(3)
    hashedPassword: str = field(4)  # since 3.5


class AuthUserAddResponse(Message):
    """Confirms that the user was added."""

    header: ResponseHeader = field(1)


class AuthUserGetRequest(Message):
    """Request the roles of a user."""

    name: str = field(1)


class AuthUserGetResponse(Message):
    """Names of roles."""

    header: ResponseHeader = field(1)
    roles: Repeated[str] = field(2)


class AuthUserListRequest(Message):
    """Request the names of all users."""


class AuthUserListResponse(Message):
    """The names of all users."""

    header: ResponseHeader = field(1)
    users: Repeated[str] = field(2)


class AuthUserDeleteRequest(Message):
    """Delete a user."""

    name: str = field(1)


class AuthUserDeleteResponse(Message):
    """Confirms that the user was deleted."""

    header: ResponseHeader = field(1)


class AuthUserChangePasswordRequest(Message):
    """Change the password of a user.  ``hashedPassword`` is used between members and not sent by clients."""

    name: str = field(1)
    password: str = field(2)
    hashedPassword: str = field(3)  # since 3.5


class AuthUserChangePasswordResponse(Message):
    """Confirms that the password was changed."""

    header: ResponseHeader = field(1)


class AuthUserGrantRoleRequest(Message):
    """Grant a role to a user."""

    user: str = field(1)
    role: str = field(2)


class AuthUserGrantRoleResponse(Message):
    """Confirms that the role was granted."""

    header: ResponseHeader = field(1)


class AuthUserRevokeRoleRequest(Message):
    """Revoke a role of the user ``name``."""

    name: str = field(1)
    role: str = field(2)


class AuthUserRevokeRoleResponse(Message):
    """Confirms that the role was revoked."""

    header: ResponseHeader = field(1)


class AuthRoleAddRequest(Message):
    """Add a role."""

    name: str = field(1)


class AuthRoleAddResponse(Message):
    """Confirms that the role was added."""

    header: ResponseHeader = field(1)


class AuthRoleGetRequest(Message):
    """Request the permissions of a role."""

    role: str = field(1)


class AuthRoleGetResponse(Message):
    """The permissions of the role."""

    header: ResponseHeader = field(1)
    perm: Repeated[Permission] = field(2)


class AuthRoleListRequest(Message):
    """Request the names of all roles."""


class AuthRoleListResponse(Message):
    """Names of roles."""

    header: ResponseHeader = field(1)
    roles: Repeated[str] = field(2)


class AuthRoleDeleteRequest(Message):
    """Delete a role."""

    role: str = field(1)


class AuthRoleDeleteResponse(Message):
    """Confirms that the role was deleted."""

    header: ResponseHeader = field(1)


class AuthRoleGrantPermissionRequest(Message):
    """Grant a permission to the role ``name``."""

    name: str = field(1)
    perm: Permission = field(2)


class AuthRoleGrantPermissionResponse(Message):
    """Confirms that the permission was granted."""

    header: ResponseHeader = field(1)


class AuthRoleRevokePermissionRequest(Message):
    """Revoke a permission of a role; ``key`` and ``range_end`` are those of the grant."""

    role: str = field(1)
    key: bytes = field(2)
    range_end: bytes = field(3)


class AuthRoleRevokePermissionResponse(Message):
    """Confirms that the permission was revoked."""

    header: ResponseHeader = field(1)


build('etcdserverpb', globals())


class Auth:
    """The Auth service."""

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
