"""A gRPC client for gevent, without knowledge of etcd.

``channel`` opens the connection to a server; ``connection`` multiplexes ``unary_call`` and ``stream_call`` on it;
``http2`` is the protocol without I/O; ``socket_io`` moves the bytes.
"""

from __future__ import annotations

__all__: list[str] = []
