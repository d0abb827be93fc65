"""Faces in files: datasets packed into WebDataset tars, and the order in which they are read.

To read in this order: `sample.py` (one face, and how it lies in a tar: the contract), `tar.py` and `index.py`
(a shard set on disk), `pack.py` (a dataset becomes one), `order.py` (who reads what, and when).

    from shards.pixels import decode
    from shards.remote import open_set

    faces = open_set("sets/lfw")  # or hf://datasets/ORG/NAME, https://..., s3://...
    sample = faces.read(shard=0, row=17)  # .key, .image (bytes of a JPEG, PNG or WebP), .face (expression, box, ...)
    pixels = decode(sample.image)  # uint8 [height, width, 3], RGB

Imports neither torch nor fer_scale: packing needs no GPU image.
"""
