"""HTTP/2 for a gRPC client: received bytes in, events and bytes to send out, without I/O and without a clock.

:mod:`~getc.grpc.http2.protocol` is the state machine of a connection.  ``send`` holds what is sent within the peer's
windows, ``receive`` the state of the streams that the peer sends on, ``control`` handles the frames about the whole
connection, ``headers`` encodes and decodes header blocks, and ``frames`` and ``events`` define the vocabulary.
Source: RFC 9113 and RFC 7541; numbers in messages and comments are sections of RFC 9113.
"""

from __future__ import annotations

__all__: list[str] = []
