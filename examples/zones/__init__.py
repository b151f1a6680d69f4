"""A small online world in shards: zone servers that run them, a matchmaker, and configuration that changes live.

It all is this tree in etcd:

======================================  ===========================================================================
``/zones/a``                            a zone server that takes shards; kept by it, gone while it drains
``/claims/forest = a``                  who runs the shard; kept by the zone, its index is the fencing token
``/worlds/forest = {"token": 17, ...}`` how it stands in the shard; written by the owner alone, at each step
``/players/ann = forest``               where a player is; written by the matchmaker
``/cfg/step``, ``seats``, ``drain/a``   what operators set, while everything runs
======================================  ===========================================================================

Read ``shard.py`` first, then ``zone.py`` and ``matchmaker.py``.  How to run it: ``python -m examples.zones --help``.
"""
