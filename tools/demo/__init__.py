"""A small game world on a real etcd: game servers, a lobby, and a director who makes trouble for them.

``server.py`` and ``lobby.py`` are the example: what a game server and whoever follows it need of getc.
``director.py`` starts them, kills them, and checks in the ``ledger`` that each change was seen once.
"""
