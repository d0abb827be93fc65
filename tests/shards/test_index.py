"""Reading a packed set: one sample at a time, checked, from any process; and saying what is wrong with it."""

import errno
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from damage import flip

from shards import index
from shards.errors import Broken, ShardError
from shards.index import ENTRY, ShardSet
from shards.pixels import decode, grey_cells, perceptual_hashes, pixel_hash
from shards.verify import verify


def test_a_set_gives_back_every_image_with_its_key_and_origin(packed: ShardSet, faces: Path) -> None:
    assert packed.samples == sum(packed.counts) == 60 and len(packed.counts) > 3
    keys = [key for shard in range(len(packed.counts)) for key in packed.keys(shard)]
    assert keys == [f"{number:09d}" for number in range(60)]
    samples = list(packed.samples_in_order())
    assert [sample.key for sample in samples] == keys
    for row in packed.index["shards"]:
        del row["first"]  # as packed before it was kept
    assert [key for shard in range(len(packed.counts)) for key in packed.keys(shard)] == keys
    origins = [origin for shard in range(len(packed.counts)) for origin in packed.origins(shard)]
    for sample, origin in zip(samples, origins, strict=True):
        name, _, path = origin.partition(":")
        assert name == "made-up" and sample.image == (faces / path).read_bytes() and sample.face is None
    assert packed.where(1, 2) == f"made-up/made-up-000001.tar[000002] {packed.origins(1)[2]}"


def test_hashes_are_those_of_the_decoded_images(packed: ShardSet) -> None:
    pixels, perceptual = packed.hashes()
    assert pixels.shape == (60, 16) and perceptual.shape == (60, 32)
    for row, sample in enumerate(packed.samples_in_order()):
        image = decode(sample.image)
        assert pixels[row].tobytes() == pixel_hash(image)
        assert np.array_equal(perceptual[[row]], perceptual_hashes(grey_cells(image)))


def test_the_index_describes_the_images(packed: ShardSet) -> None:
    pixels = np.stack([decode(sample.image) for sample in packed.samples_in_order()]) / 255
    found = packed.index
    assert found["image_px"] == {"min": [24, 24], "max": [24, 24], "mean": [24.0, 24.0]}
    assert np.allclose(found["mean"], pixels[:, ::8].mean(axis=(0, 1, 2)), atol=1e-4)
    assert np.allclose(found["std"], pixels[:, ::8].std(axis=(0, 1, 2)), atol=1e-4)
    assert (found["identities"], found["expressions"], found["left_out"]) == (12, {}, {})
    assert found["bytes"] == sum(file.stat().st_size for file in packed.path.glob("*.tar"))


def test_the_fingerprint_is_of_the_tars_in_their_order(packed: ShardSet) -> None:
    other = json.loads(json.dumps(packed.index))
    assert index.fingerprint_of(other) == packed.fingerprint
    other["shards"].reverse()
    assert index.fingerprint_of(other) != packed.fingerprint


def test_an_open_set_travels_to_other_processes_and_survives_a_fork(packed: ShardSet) -> None:
    first = packed.read(0, 0)
    assert pickle.loads(pickle.dumps(packed)).read(0, 0) == first
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(packed.read, [(0, 0)] * 20) == [first] * 20


def test_no_more_files_are_kept_open_than_allowed(packed: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_OPEN_SHARDS", 2)
    before = len(os.listdir("/proc/self/fd"))
    for shard in [*range(len(packed.counts))] * 2:
        packed.read(shard, 0)
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_a_folder_without_a_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no shard set \(index.json is missing\); `fer-scale pack` makes one"):
        ShardSet.open(tmp_path)


def test_an_index_that_is_not_ours_is_refused(packed: ShardSet) -> None:
    (packed.path / "index.json").write_text(json.dumps(packed.index | {"format": 7}))
    with pytest.raises(ShardError, match="format version 7, this program reads 2"):
        ShardSet.open(packed.path)
    (packed.path / "index.json").write_text(json.dumps({k: v for k, v in packed.index.items() if k != "shards"}))
    with pytest.raises(ShardError, match="has no shards; pack the set again"):
        ShardSet.open(packed.path)
    (packed.path / "index.json").write_text("{")
    with pytest.raises(ShardError, match="cannot be read"):
        ShardSet.open(packed.path)


@pytest.mark.parametrize("shards", [3, None, [3], ["ab"], [None], {"a": {}}])
def test_an_index_whose_shards_are_no_rows_is_refused(packed: ShardSet, shards: object) -> None:
    (packed.path / "index.json").write_text(json.dumps(packed.index | {"shards": shards}))
    with pytest.raises(ShardError, match=r"index.json: says .* for shards; pack the set again"):
        ShardSet.open(packed.path)


@pytest.mark.parametrize("key", ["image_px", "order", "bytes", "source", "licence", "template_box"])
def test_an_index_without_what_is_read_of_it_later_is_refused_at_once(packed: ShardSet, key: str) -> None:
    (packed.path / "index.json").write_text(json.dumps({k: v for k, v in packed.index.items() if k != key}))
    for opened in (ShardSet.open, verify):
        with pytest.raises(ShardError, match=rf"index.json: has no {key}; pack the set again"):
            opened(packed.path)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("name", 3), ("samples", "x"), ("samples", True), ("bytes", -1), ("licence", 5), ("source", ["x"]),
        ("order", 0),
        ("image_px", "x"), ("image_px", {"min": [1, 1], "max": [2, 2]}), ("expressions", {"happiness": "many"}),
        ("image_px", {"min": [1, 1], "max": [10**400, float("inf")], "mean": [float("nan"), 1]}),
        ("template_box", [0, 0, 1]), ("template_box", [0, 0, 10**400, 1]), ("files", [1]), ("files", None),
        ("made", [1]), ("boxes", "x"), ("left_out", {"no image": None}), ("identities", "x"), ("mean", [[0], [0], [0]]),
    ],
)  # fmt: skip
def test_an_index_whose_facts_are_of_another_kind_than_ours_is_refused_at_once(
    packed: ShardSet, key: str, said: object
) -> None:
    (packed.path / "index.json").write_text(json.dumps(packed.index | {key: said}))
    for opened in (ShardSet.open, verify):
        with pytest.raises(ShardError, match=rf"index.json: says .* for {key}; pack the set again"):
            opened(packed.path)


@pytest.mark.parametrize("key", ["name", "samples", "bytes", "sha256", "idx_sha256", "origin_sha256"])
def test_a_row_without_what_is_read_of_it_is_refused_here_as_it_is_far_away(packed: ShardSet, key: str) -> None:
    for row in ({}, {key: -1}, {key: None}, {key: [1]}):
        shards = [*packed.index["shards"][1:], {k: v for k, v in packed.index["shards"][0].items() if k != key} | row]
        (packed.path / "index.json").write_text(json.dumps(packed.index | {"shards": shards}))
        for opened in (ShardSet.open, verify):
            with pytest.raises(ShardError, match=r"index.json: .* is no shard; copy the set again, or pack it again"):
                opened(packed.path)


def test_what_this_format_has_got_since_or_has_where_there_is_cause_may_be_missing(packed: ShardSet) -> None:
    may_lack = {"files", "seed", "split", "identities", "left_out", "mean", "std"}
    rows = [{k: v for k, v in row.items() if k not in ("first", "gaps")} for row in packed.index["shards"]]
    old = {k: v for k, v in packed.index.items() if k not in may_lack} | {"shards": rows}
    (packed.path / "index.json").write_text(json.dumps(old))
    assert ShardSet.open(packed.path).read(0, 0) == packed.read(0, 0)
    assert verify(packed.path)["damaged"] == []


def test_an_index_nested_without_an_end_is_refused() -> None:
    with pytest.raises(ShardError, match=r"far/index.json: cannot be read"):
        index.index_from(b"[" * 1_000_000, "far/index.json")


@pytest.mark.parametrize("name", ["../x", "", "a/b", "-x", "x\n", 3, None, ["x"]])
def test_a_set_from_elsewhere_whose_name_or_whose_shards_names_cannot_be_ours_is_refused(
    packed: ShardSet, name: object
) -> None:
    index.check_names(packed.index, "far")
    with pytest.raises(ShardError, match=r"far: .* is no name of a set"):
        index.check_names(packed.index | {"name": name}, "far")
    shards = [packed.index["shards"][0] | {"name": name}]
    with pytest.raises(ShardError, match=r"far: .* is no shard"):
        index.check_names(packed.index | {"shards": shards}, "far")


def test_two_shards_of_one_name_are_refused(packed: ShardSet) -> None:
    shards = [*packed.index["shards"], packed.index["shards"][2]]
    with pytest.raises(ShardError, match=r"far: two shards are called made-up-000002"):
        index.check_names(packed.index | {"shards": shards}, "far")


@pytest.mark.parametrize("kind", ["tar", "idx", "hashes"])
def test_a_shard_that_is_missing_or_cut_short_is_refused_when_the_set_is_opened(packed: ShardSet, kind: str) -> None:
    file = packed.path / f"made-up-000002.{kind}"
    size = file.stat().st_size
    os.truncate(file, size - 12)
    with pytest.raises(ShardError, match=f"made-up-000002.{kind}: {size - 12} bytes, the index says {size}"):
        ShardSet.open(packed.path)
    file.unlink()
    with pytest.raises(ShardError, match=f"made-up-000002.{kind}: missing; copy the set again"):
        ShardSet.open(packed.path)


def test_a_flipped_byte_is_found_and_named_and_harms_no_other_sample(packed: ShardSet) -> None:
    offset, length, _ = ENTRY.unpack_from(packed.file(3, "idx").read_bytes(), 2 * ENTRY.size)
    flip(packed.file(3, "tar"), offset * 512 + length // 2)
    damaged = ShardSet.open(packed.path)
    with pytest.raises(ShardError, match=r"made-up/made-up-000003\.tar\[000002\] made-up:person-.*: other bytes"):
        damaged.read(3, 2)
    assert damaged.read(3, 1) and damaged.read(3, 3)


def test_a_damaged_index_entry_is_found_and_takes_no_memory(packed: ShardSet) -> None:
    file = packed.file(0, "idx")
    file.write_bytes(ENTRY.pack(0, 2**32 - 1, 0) + file.read_bytes()[ENTRY.size :])
    packed.file(0, "origin.gz").unlink()
    with pytest.raises(ShardError, match=r"made-up-000000\.tar\[000000\] \(origin unknown\): other bytes"):
        ShardSet.open(packed.path).read(0, 0)


def test_a_shard_whose_open_file_went_stale_is_opened_anew(packed: ShardSet, tmp_path: Path) -> None:
    before = packed.read(1, 2)
    os.dup2(os.open(tmp_path, os.O_RDONLY), packed._shard(1).fd)  # of a folder: no read of it succeeds
    assert packed.read(1, 2) == before


@pytest.mark.parametrize(("number", "again"), [(errno.ESTALE, True), (errno.EIO, True), (errno.ENOENT, False)])
def test_a_shard_that_cannot_be_opened_says_whether_another_time_it_may(
    packed: ShardSet, monkeypatch: pytest.MonkeyPatch, number: int, again: bool
) -> None:
    def fails(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ShardSet, "open_file", fails)
    with pytest.raises(ShardError, match=f"made-up: {os.strerror(number)}; is the set still there") as caught:
        packed.read(1, 2)
    assert isinstance(caught.value, Broken) == again
