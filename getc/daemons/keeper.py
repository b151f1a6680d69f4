"""keep_node: keeps a node in etcd for as long as its process lives and works."""

from __future__ import annotations

from getc.backends.base import Backend
from getc.daemons.handle import DaemonHandle
from getc.daemons.keep_daemon import KeepDaemon
from getc.daemons.keeper_state import KeeperState
from getc.daemons.options import KeepOptions, value_of_owner
from getc.error_context import copy_error
from getc.errors import EtcException
from getc.net.client_log import ClientLog
from getc.operations import Put, text_of
from getc.options import CALL_TIMEOUT, STOP_TIMEOUT
from getc.paths import ROOT
from getc.results import EtcdResult
from getc.timing import DEFAULT_TIMEOUT, Deadline, Timeout
from getc.transactions import Guard

__all__ = ['Keeper', 'KeeperState']


class Keeper(DaemonHandle):
    """Keeps one node in etcd.  :meth:`getc.Client.keep_node` returns it.

    ``state``, ``remaining()`` and ``ensure()`` read the clock and perform no I/O.  All three are correct immediately
    after the process was paused (SIGSTOP, a blocked hub).
    """

    __slots__ = ('_timeout',)

    _daemon: KeepDaemon

    def __init__(
        self,
        log: ClientLog,
        backend: Backend,
        key: str,
        value: str | bytes | None,
        options: KeepOptions,
        *,
        timeout: float | None = CALL_TIMEOUT,
    ) -> None:
        put = Put(key, value_of_owner(value), ttl=options.ttl)
        if put.key == ROOT:
            raise ValueError('cannot keep the root: give the key of a node below it')
        self._timeout = timeout  # of `update`
        super().__init__(KeepDaemon(log, backend, put.key, put.value or '', options, self))

    @property
    def state(self) -> KeeperState:
        """The state of the keeper; STOPPED in a forked child."""
        return self._daemon.state

    @property
    def value(self) -> str:
        """The value that is, or will be, written to the node."""
        return self._daemon.value

    @property
    def ttl(self) -> int:
        """The TTL of the node in seconds: the requested one, or more if the server has a higher minimum."""
        return self._daemon.ttl

    def remaining(self) -> float:
        """Return the seconds for which the keeper certainly owns the node without another renewal, or 0.0.

        Performs no I/O.  Returns 0.0 in a forked child.
        """
        return self._daemon.remaining()

    def ensure(self) -> int:
        """Return the fencing token if the keeper certainly owns the node now.

        The token is the index of the write that took the node, and grows with each owner: a store that refuses tokens
        lower than the highest it has seen is protected against writes of a former owner.  Performs no I/O.

        Raises:
            NodeLost: The keeper does not own the node, or not certainly.
            Overtaken: A NodeLost: another owner has the node.
        """
        return self._daemon.ensure().token

    @property
    def guard(self) -> Guard:
        """The condition that the keeper still owns the node, for ``etcd.transaction(guard=keeper)``.

        etcd checks it with the write itself, so no clock is involved.  It holds for this ownership: after a loss the
        keeper has another guard.  Reading it performs no I/O.

        Raises:
            NodeLost: The keeper does not own the node, or not certainly.
            Overtaken: A NodeLost: another owner has the node.
        """
        return self._daemon.ensure().guard

    def update(self, value: str | bytes, timeout: Timeout = DEFAULT_TIMEOUT) -> EtcdResult:
        """Write another value to the node.  Blocks.

        Concurrent calls write in the order in which they were made, and etcd applies no earlier one after a later one.

        Args:
            value: Text or bytes.  The keeper uses the value whenever it writes the node again, even if this call
                raises: every error has ``maybe_applied``, unless the keeper was stopped.
            timeout: Seconds; None for no limit, omitted for the timeout of the client.

        Raises:
            NodeLost: The keeper does not own the node at the moment, and will write it with this value.
            Overtaken: A NodeLost: another owner has the node.
            ConnectionError: No response.
        """
        text = text_of(value) if isinstance(value, bytes) else value
        Put(self.key, text)  # validates the value
        deadline = Deadline(self._timeout) if timeout is DEFAULT_TIMEOUT else Deadline.after(timeout)
        daemon = self._daemon
        daemon.check_thread()
        try:
            return daemon.update(text, deadline)
        except EtcException as error:
            if error.maybe_applied or daemon.is_stopped:
                raise
            raise copy_error(error, maybe_applied=True) from error.__cause__

    def detach(self, timeout: float | None = STOP_TIMEOUT) -> None:
        """Stop, but leave the node until its TTL has passed, for a successor that takes it over.  Blocks.

        Does nothing in a forked child.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            EtcException: No response, or a refusal.  The keeper has stopped, and the node may be deleted before its TTL
                has passed.
        """
        self._daemon.detach(Deadline.after(timeout))

    orphan = detach

    def __repr__(self) -> str:
        return f'<getc.Keeper {self.key} {self.state.name} ttl={self.ttl}>'
