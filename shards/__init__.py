"""Faces in files: datasets packed into WebDataset tars, and the order in which they are read.

To read in this order: `sample.py` (one face, and how it lies in a tar: the contract), `tar.py` and `index.py`
(a shard set on disk), `pack.py` (a dataset becomes one), `order.py` (who reads what, and when).

    from shards.index import ShardSet
    from shards.order import Order

Imports neither torch nor fer_scale: packing needs no GPU image.
"""
