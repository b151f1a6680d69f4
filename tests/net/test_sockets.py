"""TCP and TLS connections: what is left behind when one cannot be made."""

from __future__ import annotations

import gc
import os
import socket
import struct
import warnings

import pytest

from getc.net import sockets
from getc.net.tls import TLS
from getc.testing.processes import poll_until

RESET_ON_CLOSE = struct.pack('ii', 1, 0)


def test_connect_leaves_no_socket_open_when_the_server_resets_before_the_handshake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then gevent's TLS socket raises while it is made, and has taken the descriptor from the TCP socket."""
    set_options = sockets._set_options

    def reset(sock: sockets.Socket) -> None:
        set_options(sock)
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        accepted.close()
        assert poll_until(lambda: not is_connected(sock), 60)

    context = TLS(verify=False).contexts().current()
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(sockets, '_set_options', reset)
        before = len(os.listdir('/dev/fd'))
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            for _ in range(3):
                with pytest.raises(ConnectionResetError):
                    sockets.connect('127.0.0.1', port, context)
            gc.collect()  # a socket that is open is reported by ResourceWarning
        assert len(os.listdir('/dev/fd')) == before


def is_connected(sock: sockets.Socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
