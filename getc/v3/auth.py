"""etcd's Auth service: users, roles and permissions."""

from __future__ import annotations

from getc.timing import DEFAULT_TIMEOUT, Timeout
from getc.v3.messages import build
from getc.v3.rpc import RpcClient
from getc.v3.schema import auth as schema
from getc.v3.schema.authpb import Permission, UserAddOptions

__all__ = ['Auth']


class Auth:
    """``etcd.v3.auth``: one method for each RPC of etcd's Auth service.

    The client authenticates automatically, with its ``username`` and ``password``.  All methods block, take a
    ``timeout`` in seconds (None: no limit; left out: the client's), and raise :class:`~getc.EtcdError`,
    or another :class:`~getc.EtcException`.
    """

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc

    def enable(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthEnableResponse:
        """Enable authentication.  Raises FailedPrecondition without a user ``root`` with the role ``root``."""
        return self._rpc.call(schema.Auth.AuthEnable, schema.AuthEnableRequest(), timeout)

    def disable(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthDisableResponse:
        """Disable authentication."""
        return self._rpc.call(schema.Auth.AuthDisable, schema.AuthDisableRequest(), timeout)

    def status(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthStatusResponse:
        """Return whether authentication is enabled.  Raises NotSupported before etcd 3.5."""
        return self._rpc.call(schema.Auth.AuthStatus, schema.AuthStatusRequest(), timeout)

    def authenticate(
        self, name: str, password: str, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthenticateResponse:
        """Return a token, as the client does automatically.  Raises Unauthorized if the credentials are wrong."""
        request = build(schema.AuthenticateRequest, name=name, password=password)
        return self._rpc.call(schema.Auth.Authenticate, request, timeout)

    # -- users

    def user_add(
        self, name: str, password: str = '', *, no_password: bool = False, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthUserAddResponse:
        """Add a user; with ``no_password`` one that authenticates by its certificate only.  Raises AlreadyExists."""
        options = UserAddOptions(no_password=no_password)
        request = build(schema.AuthUserAddRequest, name=name, password=password, options=options)
        return self._rpc.call(schema.Auth.UserAdd, request, timeout)

    def user_get(self, name: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthUserGetResponse:
        """Return the roles of a user.  Raises NotFound if the user does not exist."""
        return self._rpc.call(schema.Auth.UserGet, build(schema.AuthUserGetRequest, name=name), timeout)

    def user_list(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthUserListResponse:
        """Return all users."""
        return self._rpc.call(schema.Auth.UserList, schema.AuthUserListRequest(), timeout)

    def user_delete(self, name: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthUserDeleteResponse:
        """Delete a user."""
        return self._rpc.call(schema.Auth.UserDelete, build(schema.AuthUserDeleteRequest, name=name), timeout)

    def user_change_password(
        self, name: str, password: str, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthUserChangePasswordResponse:
        """Change the password of a user, which invalidates the user's tokens."""
        request = build(schema.AuthUserChangePasswordRequest, name=name, password=password)
        return self._rpc.call(schema.Auth.UserChangePassword, request, timeout)

    def user_grant_role(
        self, user: str, role: str, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthUserGrantRoleResponse:
        """Grant a role to a user."""
        request = build(schema.AuthUserGrantRoleRequest, user=user, role=role)
        return self._rpc.call(schema.Auth.UserGrantRole, request, timeout)

    def user_revoke_role(
        self, name: str, role: str, *, timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthUserRevokeRoleResponse:
        """Revoke a role of a user."""
        request = build(schema.AuthUserRevokeRoleRequest, name=name, role=role)
        return self._rpc.call(schema.Auth.UserRevokeRole, request, timeout)

    # -- roles

    def role_add(self, name: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthRoleAddResponse:
        """Add a role without permissions."""
        return self._rpc.call(schema.Auth.RoleAdd, build(schema.AuthRoleAddRequest, name=name), timeout)

    def role_get(self, role: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthRoleGetResponse:
        """Return the permissions of a role."""
        return self._rpc.call(schema.Auth.RoleGet, build(schema.AuthRoleGetRequest, role=role), timeout)

    def role_list(self, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthRoleListResponse:
        """Return all roles."""
        return self._rpc.call(schema.Auth.RoleList, schema.AuthRoleListRequest(), timeout)

    def role_delete(self, role: str, *, timeout: Timeout = DEFAULT_TIMEOUT) -> schema.AuthRoleDeleteResponse:
        """Delete a role."""
        return self._rpc.call(schema.Auth.RoleDelete, build(schema.AuthRoleDeleteRequest, role=role), timeout)

    def role_grant_permission(
        self,
        name: str,
        key: bytes,
        *,
        range_end: bytes = b'',
        perm_type: int = Permission.Type.READWRITE,
        timeout: Timeout = DEFAULT_TIMEOUT,
    ) -> schema.AuthRoleGrantPermissionResponse:
        """Grant a role access to a key, or to the keys from it up to ``range_end``.

        Args:
            name: The role.
            key: The first key.
            range_end: The key after the last one.
            perm_type: One of ``Permission.Type``.
            timeout: Seconds.
        """
        perm = build(Permission, key=key, range_end=range_end, permType=perm_type)
        request = build(schema.AuthRoleGrantPermissionRequest, name=name, perm=perm)
        return self._rpc.call(schema.Auth.RoleGrantPermission, request, timeout)

    def role_revoke_permission(
        self, role: str, key: bytes, *, range_end: bytes = b'', timeout: Timeout = DEFAULT_TIMEOUT
    ) -> schema.AuthRoleRevokePermissionResponse:
        """Revoke a permission; ``key`` and ``range_end`` are those of the grant."""
        request = build(schema.AuthRoleRevokePermissionRequest, role=role, key=key, range_end=range_end)
        return self._rpc.call(schema.Auth.RoleRevokePermission, request, timeout)
