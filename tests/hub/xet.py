"""Xet without a server of chunks: hf_xet keeps them in a folder when the Hub names one as the place for them.

hf_xet 1.8 takes `local:///FOLDER` where the Hub's token endpoint says https://cas-server.xethub.hf.co: all of it runs,
chunks, deduplication and shards, but no network between. Nobody promises that; where it breaks, the tests of Xet fail
and those of LFS go on.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

_HASH, _ENTRY, _HEAD = 32, 48, 48  # bytes: a hash, an entry of a shard file's list of files, and its head
_MORE, _META = 1 << 31, 1 << 30  # flags of a file: verification entries follow, and its sha256


class Xet:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder, self.url = folder, f"local://{folder}"

    def hash_of(self, sha256: str) -> str | None:
        """What Xet calls the file with this sha256, if its chunks are there."""
        return next((xet for known, xet in self._files() if known == sha256), None)

    def _files(self) -> Iterator[tuple[str, str]]:
        """(sha256, Xet's hash) of all files, from the shard files that list them."""
        for shard in self.folder.rglob("*.mdb"):
            raw, at = shard.read_bytes(), _HEAD
            while at + _ENTRY <= len(raw) and (name := raw[at : at + _HASH]) != b"\xff" * _HASH:
                flags, count = struct.unpack("<II", raw[at + _HASH : at + _HASH + 8])
                at += _ENTRY + _ENTRY * count * (2 if flags & _MORE else 1)
                if flags & _META:
                    yield _hex(raw[at : at + _HASH]), _hex(name)
                    at += _ENTRY


def _hex(raw: bytes) -> str:
    """A hash as Xet writes it: four little-endian words of 64 bits, each printed with its first digit first."""
    return "".join(raw[k : k + 8][::-1].hex() for k in range(0, _HASH, 8))
