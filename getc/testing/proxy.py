"""A TCP proxy with fault injection."""

from __future__ import annotations

from urllib.parse import urlsplit

import gevent

from getc.testing.ports import HOST, listen
from getc.testing.tcp_faults import FaultyLink, Socket
from getc.testing.virtual_loop import real_sleep

__all__ = ['FaultProxy']


class FaultProxy(FaultyLink):
    """A TCP proxy in front of one server, with the faults of :class:`FaultyLink`.

    The proxy does not interpret the data: TLS passes through, with the certificate of the server.  It runs on this
    program's hub: while the hub is blocked, no data move.  The server may be stopped and restarted.  Also a context
    manager, which starts and stops the proxy.

    ====================  ===========================================================================
    ``heal()``            everything is forwarded
    ``cut()``             connections are reset, also new ones
    ``silence()``         connections stay open, and all data are discarded
    ``drop_replies()``    the client's data arrive, and the server's are discarded
    ``delay(seconds)``    all data arrive later
    ``chop(size)``        data arrive in pieces of a few bytes
    ``throttle(rate)``    data arrive at a few bytes a second
    ====================  ===========================================================================

    Example::

        from getc.testing import EtcdServer, FaultProxy

        with EtcdServer() as server, FaultProxy(server.url) as proxy, getc.etcd(proxy.url) as etcd:
            etcd.ready()
            proxy.drop_replies()
            try:
                etcd.set('/a', '1', timeout=0.5)
            except getc.TimedOut as error:
                assert error.maybe_applied
            proxy.heal()
            assert etcd.get('/a').value == '1'

    Args:
        target: The URL or ``host:port`` of the server.

    Attributes:
        port: The port it listens on; 0 before the first start.

    Raises:
        ValueError: The target is neither a URL nor ``host:port``.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.port = 0
        self._scheme = urlsplit(target).scheme if '://' in target else 'http'
        self._listener: Socket | None = None
        self._acceptor: gevent.Greenlet[..., None] | None = None

    @property
    def url(self) -> str:
        """The URL for clients, with the scheme of the target.  Valid from the first start on."""
        return f'{self._scheme}://{HOST}:{self.port}'

    def start(self) -> FaultProxy:
        """Listen on a free port, after :meth:`stop` on the same one as before, and return the proxy.

        Raises:
            OSError: The port is in use.
            RuntimeError: The proxy is already started.
        """
        if self._listener is not None:
            raise RuntimeError(f'{self!r} is already started')
        self._listener = listen(self.port)
        self.port = self._listener.getsockname()[1]
        self._acceptor = gevent.spawn(self._accept, self._listener)
        self._acceptor.name = f'fault proxy on {self.port}'
        return self

    def stop(self) -> None:
        """Reset all connections and refuse new ones.  No greenlet and no socket is left.  May be called repeatedly."""
        if self._acceptor is not None:
            self._acceptor.kill()
            self._acceptor = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self.reset()

    def __enter__(self) -> FaultProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _accept(self, listener: Socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # out of file descriptors, or the client has disconnected already
                real_sleep(0.05)
                continue
            self.forward(client)
