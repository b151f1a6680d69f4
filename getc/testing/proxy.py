"""A TCP proxy that misbehaves on command."""

from __future__ import annotations

from types import TracebackType
from urllib.parse import urlsplit

import gevent

from getc.testing.ports import HOST, listener
from getc.testing.tcp_faults import FaultyLink, Socket
from getc.testing.virtual_loop import real_sleep

__all__ = ['FaultProxy']


class FaultProxy(FaultyLink):
    """A TCP proxy in front of one server, whose faults are switched at any time: see :class:`FaultyLink`.

    It knows nothing of what it carries: TLS goes through, and the certificate is the server's.  It runs on this
    program's hub: while that is blocked, nothing moves.  The server may come and go.  Also a context manager,
    which starts and stops it.

    ====================  ===========================================================================
    ``heal()``            everything is passed on
    ``cut()``             connections are reset, new ones too
    ``silence()``         connections stay, and nothing that is said arrives
    ``half()``            what the client says arrives, and the reply is lost
    ``delay(seconds)``    every byte arrives so much later
    ``chop(size)``        a few bytes at a time
    ``throttle(rate)``    a few bytes a second
    ====================  ===========================================================================

    Example::

        from getc.testing import EtcdServer, FaultProxy

        with EtcdServer() as server, FaultProxy(server.url) as proxy, getc.etcd(proxy.url) as etcd:
            etcd.ready()
            proxy.half()
            try:
                etcd.set('/a', '1', timeout=0.5)
            except getc.TimedOut as error:
                assert error.maybe_applied
            proxy.heal()
            assert etcd.get('/a').value == '1'

    Args:
        target: The URL or ``host:port`` of the server.

    Attributes:
        port: Where it listens, from the first start on.

    Raises:
        ValueError: The target is neither.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.port = 0
        self._scheme = urlsplit(target).scheme if '://' in target else 'http'
        self._listener: Socket | None = None
        self._accepting: gevent.Greenlet[..., None] | None = None

    @property
    def url(self) -> str:
        """What to give a client instead of the server's, from the first start on."""
        return f'{self._scheme}://{HOST}:{self.port}'

    def start(self) -> FaultProxy:
        """Listen on a free port, after :meth:`stop` on the same one, and return it.

        Raises:
            OSError: The port is taken.
            RuntimeError: It is started.
        """
        if self._listener is not None:
            raise RuntimeError(f'{self!r} is started')
        self._listener = listener(self.port)
        self.port = self._listener.getsockname()[1]
        self._accepting = gevent.spawn(self._accept, self._listener)
        self._accepting.name = f'fault proxy on {self.port}'
        return self

    def stop(self) -> None:
        """Reset all connections and refuse new ones.  No greenlet and no socket is left.  Once is enough."""
        if self._accepting is not None:
            self._accepting.kill()
            self._accepting = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.reset()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _accept(self, listening: Socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # no file descriptor is left, or the client was gone before
                real_sleep(0.05)
                continue
            self.take(client)
