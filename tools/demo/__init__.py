"""A small game world on a real etcd: game servers, a lobby, and an orchestrator that injects faults.

``server.py`` and ``lobby.py`` are the example: how a game server and a client that follows the servers use getc.
``orchestrator.py`` starts and kills them, and compares what they report with ``expectations.py``.
"""
