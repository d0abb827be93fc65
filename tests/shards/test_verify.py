"""Verification finds every damage, names it, and goes on."""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
from damage import flip

from shards.errors import ShardError
from shards.index import ENTRY, ShardSet
from shards.verify import verify


def test_a_sound_set_has_no_damage(packed: ShardSet) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(packed.path, progress=lambda done, total: seen.append((done, total)))
    assert report == {
        "set": "made-up",
        "samples": 60,
        "shards": len(packed.counts),
        "bytes": packed.index["bytes"],
        "damaged": [],
    }
    assert seen[-1] == (60, 60) and len(seen) == len(packed.counts)
    assert verify(packed.path, decode=True) == report | {"other_pixels": 0}


def test_all_damages_are_reported_at_once_with_the_samples_they_hit(packed: ShardSet) -> None:
    offset, length, _ = ENTRY.unpack_from(packed.file(1, "idx").read_bytes(), ENTRY.size)
    flip(packed.file(1, "tar"), offset * 512 + length - 600)
    flip(packed.file(2, "idx"), 3)
    flip(packed.file(2, "hashes"), 3)
    packed.file(3, "tar").unlink()
    flip(packed.file(4, "origin.gz"), 20)
    index = packed.index | {"samples": 61}
    (packed.path / "index.json").write_text(json.dumps(index))
    damaged = verify(packed.path)["damaged"]
    where = [each["where"] for each in damaged]
    assert where == [
        "made-up/index.json",
        "made-up/made-up-000001.tar",
        f"made-up/made-up-000001.tar[000001] {packed.origins(1)[1]}",
        "made-up/made-up-000002.idx",
        "made-up/made-up-000002.hashes",
        "made-up/made-up-000003.tar",
        "made-up/made-up-000004.origin.gz",
    ]
    assert damaged[0]["what"] == "samples 61, its shards have 60"
    assert damaged[2]["what"] == "other bytes than were packed; copy the shard again"
    assert damaged[5]["what"] == "No such file or directory"


def test_an_index_that_tells_other_keys_than_the_tars_hold_is_found(packed: ShardSet) -> None:
    packed.index["shards"][2]["first"] += 1  # faces would be excluded that were not meant
    (packed.path / "index.json").write_text(json.dumps(packed.index))
    what = "other keys than lie in made-up/made-up-000002.tar"
    assert verify(packed.path)["damaged"] == [{"where": "made-up/index.json", "what": what}]


def test_each_of_a_hundred_random_bits_that_flip_is_found(packed: ShardSet) -> None:
    draw = random.Random(7)
    for _ in range(100):
        file = packed.file(draw.randrange(len(packed.counts)), "tar")
        sound = file.read_bytes()
        hurt, bit = bytearray(sound), draw.randrange(8 * len(sound))
        hurt[bit // 8] ^= 1 << bit % 8
        file.write_bytes(hurt)
        assert verify(packed.path)["damaged"][0]["where"] == f"made-up/{file.name}"
        file.write_bytes(sound)
    assert verify(packed.path)["damaged"] == []


def test_of_a_shard_cut_short_the_samples_behind_the_cut_are_named(packed: ShardSet) -> None:
    offset, _, _ = ENTRY.unpack_from(packed.file(0, "idx").read_bytes(), 4 * ENTRY.size)
    os.truncate(packed.file(0, "tar"), offset * 512 + 100)
    where = [each["where"] for each in verify(packed.path)["damaged"]]
    assert len(where) == 1 + packed.counts[0] - 4 and "[000004]" in where[1]


def test_pixels_of_another_decoder_are_counted_and_no_damage(packed: ShardSet) -> None:
    flip(packed.file(0, "hashes"), 48)
    index = json.loads((packed.path / "index.json").read_text())
    index["shards"][0]["hashes_sha256"] = hashlib.sha256(packed.file(0, "hashes").read_bytes()).hexdigest()
    (packed.path / "index.json").write_text(json.dumps(index))
    report = verify(packed.path, decode=True)
    assert report["damaged"] == [] and report["other_pixels"] == 1


def test_without_an_index_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no shard set"):
        verify(tmp_path)
