"""Faces of one set in another: what is found by hashes, what only an encoder sees, and what is left out for it."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_scale import encoder, loader
from fer_scale.__main__ import main
from fer_scale.finetune import neighbours, overlap
from fer_scale.finetune.overlap import OverlapError, find
from fer_scale.finetune.split import split
from shards.index import ShardSet
from shards.pack import pack

COUNT = 60


def smooth(number: int) -> Image.Image:
    """A picture of its own, 40 px."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 5), np.uint8)
    return Image.fromarray(coarse).resize((40, 40), Image.Resampling.BICUBIC).convert("RGB")


def packed(folder: Path, pictures: list[Image.Image], expressions: Sequence[str] = ()) -> Path:
    """These pictures as a set; picture n comes from NNN.png."""
    (folder / "src").mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / "src" / f"{number:03d}.png")
    rows = [{"path": f"{n:03d}.png", "expression": said} for n, said in enumerate(expressions)]
    if rows:
        (folder / "src" / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pack(folder / "src", folder / "set", source="folder", name=folder.name, shard_mb=0.05, workers=1).path


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """60 pictures; and 60 others, of which 0-3 are the same, 4-7 smaller, and 8-11 mirrored ones of the first."""
    folder = tmp_path_factory.mktemp("overlap")
    firsts = [smooth(n) for n in range(COUNT)]
    others = [smooth(1000 + n) for n in range(COUNT)]
    others[:4] = firsts[:4]
    others[4:8] = [one.resize((32, 32), Image.Resampling.BOX) for one in firsts[4:8]]
    others[8:12] = [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in firsts[8:12]]
    return packed(folder / "train", firsts), packed(folder / "test", others)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    vit = encoder.build("32x2x2", image_px=16, patch_px=8)
    args = encoder.model_args("32x2x2", image_px=16, patch_px=8)
    said = encoder.make_config(vit, args, image_px=16, mean=(0.5,) * 3, std=(0.25,) * 3, licence="mit", block={})
    encoder.write(folder, vit.state_dict(), said)
    return str(folder)


def numbers(out: Path, kind: str) -> list[tuple[int, int]]:
    """The pairs of one kind, by the numbers of their pictures."""
    rows = [row for row in csv.DictReader((out / "pairs.csv").read_text().splitlines()) if row["kind"] == kind]
    return sorted((int(row["origin_a"][-7:-4]), int(row["origin_b"][-7:-4])) for row in rows)


def test_hashes_find_what_is_the_same_and_what_is_near_and_an_encoder_what_is_mirrored(
    sets: tuple[Path, Path], tiny: str, tmp_path: Path
) -> None:
    report = find(*sets, tmp_path / "hashes")
    assert numbers(tmp_path / "hashes", "exact") == [(n, n) for n in range(4)]
    assert numbers(tmp_path / "hashes", "near") == [(n, n) for n in range(4, 8)]
    assert report["b"]["with_copies"] == {"exact": 4, "near": 4, "similar": 0, "any": 8, "share": 8 / 60}
    report = find(*sets, tmp_path / "seen", encoder=tiny, cosine=0.99)
    assert numbers(tmp_path / "seen", "similar") == [(n, n) for n in range(8, 12)]
    assert report["a"]["with_copies"] == report["b"]["with_copies"]
    assert report["b"]["with_copies"]["any"] == 12 == report["excluded"]
    with Image.open(tmp_path / "seen" / "pairs.png") as drawn:
        assert drawn.height == 6 * 86, "12 pairs, and 32 that are not counted"


def test_what_is_found_can_be_left_out_of_pre_training(sets: tuple[Path, Path], tmp_path: Path) -> None:
    find(*sets, tmp_path)
    train, test = (ShardSet.open(one) for one in sets)
    rows, fell_out = loader.without([test, train], (f"{tmp_path / 'exclude.json'}#copies",))
    assert fell_out == [0, 8]
    left = loader.Faces([test, train], slot_px=40, rows=rows)
    assert sum(left.counts) == 2 * COUNT - 8
    assert loader.without([train], (f"{tmp_path / 'exclude.json'}#exact",))[1] == [4]


def test_of_copies_within_a_set_the_first_stays(tmp_path: Path, tiny: str) -> None:
    pictures = [smooth(n % 20) for n in range(30)]
    pictures[29] = smooth(15).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one = packed(tmp_path / "one", pictures)
    report = find(one, one, tmp_path / "out", encoder=tiny, cosine=0.99)
    assert report["within"] and report["b"]["with_copies"]["any"] == 20 and report["excluded"] == 10
    shard_set = ShardSet.open(one)
    rows, _ = loader.without([shard_set], (f"{tmp_path / 'out' / 'exclude.json'}#copies",))
    numbers = [int(shard_set.origins(n)[row][-7:-4]) for n, some in enumerate(rows) if some is not None for row in some]
    assert sorted(15 if number == 29 else number % 20 for number in numbers) == list(range(20)), "one of each picture"


def test_a_list_is_compared_with_the_rest_of_its_set_and_expressions_that_contradict_are_counted(
    tmp_path: Path, tiny: str
) -> None:
    names = ["neutral", "happiness", "fear"]
    pictures = [smooth(n) for n in range(COUNT)]
    mirrored = [one.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in pictures]
    one = packed(tmp_path / "one", pictures + mirrored, [names[n % 3] for n in range(COUNT)] + ["fear"] * COUNT)
    split(one, labels="20", seed=0, test="25%", out=tmp_path / "split.json")
    drawn = json.loads((tmp_path / "split.json").read_text())
    report = find(one, one, tmp_path / "out", split_file=tmp_path / "split.json", encoder=tiny, cosine=0.99)
    left = json.loads((tmp_path / "out" / "exclude.json").read_text())
    assert not report["within"] and report["b"]["list"] == {"sha256": drawn["sha256"], "name": "test"}
    assert report["b"]["faces"] == len(drawn["test"]) and report["a"]["faces"] == 2 * COUNT - len(drawn["test"])
    assert not set(left["copies"]) & set(drawn["test"]) and len(left["copies"]) == report["excluded"] > 0
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").read_text().splitlines()))
    different = [row for row in rows if row["expression_a"] != row["expression_b"]]
    assert {row["key_b"] for row in rows} <= set(drawn["test"]) and report["other_expressions"] == len(different) > 0


def test_the_threshold_is_what_known_near_copies_reach(tmp_path: Path, tiny: str) -> None:
    pictures = [smooth(n) for n in range(COUNT)]
    one = packed(tmp_path / "one", pictures + [p.resize((34, 34), Image.Resampling.BOX) for p in pictures])
    said = find(one, one, tmp_path / "out", encoder=tiny)["encoder"]
    assert said["chosen_by"].startswith("reached by 95% of 6") and 0.3 < said["cosine"] < 1
    few = packed(tmp_path / "few", pictures)
    said = find(few, few, tmp_path / "none", encoder=tiny)["encoder"]
    assert said["cosine"] == neighbours.COSINE and "only 0 pairs" in said["chosen_by"]


def test_blocks_and_chunks_change_no_neighbour(
    sets: tuple[Path, Path], tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find(*sets, tmp_path / "whole", encoder=tiny, cosine=0.6)
    monkeypatch.setattr(neighbours, "_AT_ONCE", 7)
    monkeypatch.setattr(neighbours, "_BLOCK", 11)
    cut = find(*sets, tmp_path / "cut", encoder=tiny, cosine=0.6)
    assert cut["b"] == whole["b"] and cut["a"] == whole["a"] and whole["b"]["with_copies"]["similar"] > 4
    assert (tmp_path / "cut" / "exclude.json").read_text() == (tmp_path / "whole" / "exclude.json").read_text()


def test_the_command_line_says_how_many_faces_have_a_copy(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = map(str, sets)
    assert main(["overlap", train, test, "--out", str(tmp_path)]) in (0, None)
    said = capsys.readouterr().out
    assert "60 faces of test: 8 (13.33 %) have a copy in train: 4 exact, 4 near, 0 similar" in said
    assert main(["overlap", train, test, "--out", str(tmp_path), "--json"]) in (0, None)
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "report.json").read_text())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"cosine": 0.7}, "give the encoder"),
        ({"cosine": 1.5, "encoder": "x"}, "above 0, up to 1"),
        ({"near_bits": 90}, "0 to 64"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    sets: tuple[Path, Path], tmp_path: Path, asked: dict[str, float], words: str
) -> None:
    with pytest.raises(OverlapError, match=words):
        find(*sets, tmp_path / "out", **asked)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_empty_list_is_refused_with_those_that_are_not(labeled_set: Path, tmp_path: Path) -> None:
    split(labeled_set, labels="24", seed=0, out=tmp_path / "split.json")
    with pytest.raises(OverlapError, match="not empty: labeled, unlabeled"):
        overlap.find(labeled_set, labeled_set, tmp_path / "out", split_file=tmp_path / "split.json")


def test_a_list_that_is_the_whole_set_has_nothing_to_be_compared_with(labeled_set: Path, tmp_path: Path) -> None:
    split(labeled_set, labels="100%", seed=0, out=tmp_path / "split.json")
    with pytest.raises(OverlapError, match="is the whole set"):
        overlap.find(
            labeled_set, labeled_set, tmp_path / "out", split_file=tmp_path / "split.json", list_name="labeled"
        )
