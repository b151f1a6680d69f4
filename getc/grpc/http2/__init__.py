"""HTTP/2 as a gRPC client needs it: bytes in, events out, bytes to send out.  No I/O, no clock.

``connection`` is the state machine; ``outbox`` what it sends within the peer's windows, ``header_blocks`` the fields of
requests and answers, ``frames`` and ``events`` the words for both directions.  Source: RFC 9113 and RFC 7541; numbers
in messages and comments are sections of the first.
"""

from __future__ import annotations

__all__: list[str] = []
