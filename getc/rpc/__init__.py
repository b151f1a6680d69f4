"""How an RPC of etcd is called.

``caller`` picks the server and says whether a call may be repeated, ``tokens`` says who we are, ``streams`` types what
goes both ways, ``watch_stream`` has any number of watches on one, ``messages`` makes messages from arguments and from
bytes.
"""

from __future__ import annotations

__all__: list[str] = []
