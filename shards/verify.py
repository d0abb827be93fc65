"""Every byte of a shard set again, against its index and hashes."""

import hashlib
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shards.cache import empty
from shards.errors import ShardError
from shards.index import HASH_BYTES, INDEX, ShardSet, kinds, read_index, sha256
from shards.patience import said_once
from shards.pixels import BadImage, decode, pixel_hash
from shards.remote import CACHE_DIR, RemoteSet, is_far, open_set
from shards.transfer import NotThere, OtherBytes, fetch

Damage = dict[str, str]  # "where", "what"
_OTHER_BYTES = "other bytes than were packed (sha256)"


def verify(
    path: Path | str, *, decode: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """A report on the set at `path`, a folder or an address; it is sound when the report's list `damaged` is empty.

    Reads all files and names each damaged one, and the samples in it. `decode` decodes every image too, and
    counts in `other_pixels` those that another decoder than the packer's makes other pixels of (None: the set was
    packed without the decode check, and has nothing to compare with). Never stops at the first damage; ShardError
    only where there is no index to verify against.

    Of a set far away every file is fetched for it, a shard at a time, into a folder of its own beside the cache: what
    lies in the cache says nothing of what the server has now.
    """
    if not is_far(path):
        return _verify(ShardSet(Path(path), read_index(Path(path))), decode, progress)
    with empty(Path(CACHE_DIR).expanduser().absolute()) as folder:
        return _verify(open_set(path, folder, math.inf), decode, progress)


def _verify(shards: ShardSet, decode: bool, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    damaged, other_pixels, done = _wrong_sums(shards) + _damaged_lists(shards), 0, 0
    far = isinstance(shards, RemoteSet)
    for shard, count in enumerate(shards.counts):
        faults = _damaged_files(shards, shard)
        name = f"{shards.name}/{shards.index['shards'][shard]['name']}"
        damaged += [_damage(f"{name}.{kind}", what) for kind, what in faults.items()]
        if not {"tar", "idx"} & set(faults) and shards.keys(shard) != shards.keys_in_tar(shard):
            damaged.append(_damage(f"{shards.name}/{INDEX}", f"other keys than lie in {name}.tar"))
        if ("tar" in faults or decode) and "idx" not in faults and not (far and "tar" in faults):
            compare = "hashes" in kinds(shards.index["shards"][shard]) and "hashes" not in faults
            samples, other = _damaged_samples(shards, shard, decode_them=decode, compare=compare)
            damaged += samples
            other_pixels += other
        if isinstance(shards, RemoteSet):
            shards.drop(shard)
        done += count
        if progress:
            progress(done, shards.samples)
    report: dict[str, Any] = {
        "set": shards.name,
        "samples": shards.samples,
        "shards": len(shards.counts),
        "bytes": sum(shard["bytes"] for shard in shards.index["shards"]),
        "damaged": damaged,
    }
    compared = shards.index.get("hashes", True)
    return report | {"other_pixels": other_pixels if compared else None} if decode else report


def _damage(where: str, what: str) -> Damage:
    return {"where": where, "what": what}


def _wrong_sums(shards: ShardSet) -> list[Damage]:
    """Where index.json contradicts itself."""
    index, damaged = shards.index, list[Damage]()
    for name in ("samples", "bytes"):
        total = sum(shard[name] for shard in index["shards"])
        if index[name] != total:
            damaged.append(_damage(f"{shards.name}/{INDEX}", f"{name} {index[name]}, its shards have {total}"))
    return damaged


def _damaged_lists(shards: ShardSet) -> list[Damage]:
    """What is wrong with the lists beside the shards; a set packed before their sha256 was kept has none to check."""
    damaged = list[Damage]()
    for name, expected in shards.index.get("files", {}).items():
        try:
            found = _sum_far_away(shards, name) if isinstance(shards, RemoteSet) else sha256(shards.path / name)
            what = None if found == expected else _OTHER_BYTES
        except OSError as error:
            what = str(error.strerror)
        except (OtherBytes, NotThere) as error:
            what = str(error)
        if what:
            damaged.append(_damage(f"{shards.name}/{name}", what))
    return damaged


def _sum_far_away(shards: RemoteSet, name: str) -> str:
    with tempfile.TemporaryFile() as file:
        fetch(shards.source, name, file, None, said_once(f"{shards.source.address}/{name}"))
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged_files(shards: ShardSet, shard: int) -> dict[str, str]:
    """What is wrong with the files of a shard, by kind; empty where all are as they were packed."""
    faults = dict[str, str]()
    for kind, entry in kinds(shards.index["shards"][shard]).items():
        expected = shards.index["shards"][shard][entry]
        try:
            file = shards.file(shard, kind)  # of a set far away it is fetched now, and hashed then
            if not isinstance(shards, RemoteSet) and sha256(file) != expected:
                faults[kind] = _OTHER_BYTES
        except OSError as error:
            faults[kind] = str(error.strerror)
        except (OtherBytes, NotThere) as error:
            faults[kind] = str(error)
    return faults


def _damaged_samples(shards: ShardSet, shard: int, *, decode_them: bool, compare: bool) -> tuple[list[Damage], int]:
    """The samples of a shard that cannot be used, and how many decode to other pixels than when packed."""
    damaged, other_pixels = list[Damage](), 0
    if not shards.file(shard, "tar").exists():
        return damaged, other_pixels
    hashes = shards.file(shard, "hashes").read_bytes() if compare else b""
    for row in range(shards.counts[shard]):
        try:
            sample = shards.read(shard, row)
            if decode_them:
                found, place = pixel_hash(decode(sample.image)), row * sum(HASH_BYTES)
                other_pixels += compare and found != hashes[place : place + HASH_BYTES[0]]
        except (ShardError, BadImage) as error:
            where = shards.where(shard, row)
            damaged.append(_damage(where, str(error).removeprefix(f"{where}: ")))
    return damaged, other_pixels
