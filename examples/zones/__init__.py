"""A small online world in shards: zone servers that run the shards, a matchmaker, and live configuration.

The state is kept in this tree in etcd:

======================================  ===========================================================================
``/zones/a``                            a zone server that accepts shards; kept by the server, deleted to drain it
``/claims/forest = a``                  the owner of a shard; kept by the zone, its index is the fencing token
``/worlds/forest = {"token": 17, ...}`` the state of a shard; written only by its owner, at each step
``/players/ann = forest``               the shard of a player; written by the matchmaker
``/cfg/step``, ``seats``, ``drain/a``   settings of the operators
======================================  ===========================================================================

Read ``shard.py`` first, then ``zone.py`` and ``matchmaker.py``.  To run it: ``python -m examples.zones --help``.
"""
