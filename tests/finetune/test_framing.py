"""Frames of loosely cropped faces: the part of a picture that a tight crop of the same face would show."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fer_scale.finetune import framing
from fer_scale.finetune.evaluate import evaluate
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.pool import Pool
from fer_scale.finetune.split import digest
from fer_scale.log import rows
from shards.boxes import WHOLE, Box
from shards.index import ShardSet
from shards.pack import pack

TEMPLATE: Box = (0.1, 0.2, 0.9, 1.0)


def boxes(*rows: list[float]) -> framing.Boxes:
    return np.array(rows, np.float32)


def test_a_frame_is_the_box_widened_to_the_template() -> None:
    """A face of .4 of the picture in a template of .8: a frame of half the picture, begun .05 and .1 before the box."""
    found = framing.frames(boxes([0.3, 0.4, 0.7, 0.8]), TEMPLATE)
    assert found.tolist() == [pytest.approx([0.25, 0.3, 0.75, 0.8], abs=1e-6)]


def test_a_frame_is_known_to_six_digits() -> None:
    endless = boxes([0.4 / 3, 0.1, 0.9, 2.5 / 3])
    assert framing.frames(endless, WHOLE).tolist() == [[0.133333, 0.1, 0.9, 0.833333]]


def test_a_frame_ends_where_the_picture_does() -> None:
    found = framing.frames(boxes([0.0, 0.05, 0.4, 0.45], [0.6, 0.6, 1.0, 1.0]), TEMPLATE)
    assert found.tolist() == [pytest.approx([0.0, 0.0, 0.45, 0.45]), pytest.approx([0.55, 0.5, 1.0, 1.0])]


@pytest.mark.parametrize("template", [TEMPLATE, (0.0, 0.0, 1.0, 1.0), (0.13, 0.07, 0.93, 1.0)])
def test_a_face_where_the_template_says_or_that_fills_the_picture_has_all_of_it_as_its_frame(template: Box) -> None:
    given = boxes([*template], [0.0, 0.0, 1.0, 1.0])
    found = framing.frames(given, template)
    assert found.tolist() == [[0, 0, 1, 1]] * 2
    assert np.array_equal(framing.within(given, found), given)
    image = np.arange(6 * 7 * 3, dtype=np.uint8).reshape(6, 7, 3)
    assert np.array_equal(framing.cut(image, found[0]), image)


def test_boxes_in_shares_of_their_frames() -> None:
    frames = np.array([[0.25, 0.3, 0.75, 0.8], [0.0, 0.5, 0.5, 1.0]])
    found = framing.within(boxes([0.3, 0.4, 0.7, 0.8], [0.25, 0.4, 0.75, 0.75]), frames)
    assert found.dtype == np.float32
    assert found.tolist() == [pytest.approx([0.1, 0.2, 0.9, 1.0]), pytest.approx([0.5, 0.0, 1.0, 0.5])]


def test_a_box_without_a_size_has_a_frame_that_nothing_is_divided_by() -> None:
    point = boxes([0.4, 0.4, 0.4 + 3e-8, 0.4 + 3e-8])
    assert np.isfinite(framing.within(point, framing.frames(point, TEMPLATE))).all()


IMAGE = np.arange(32, dtype=np.uint8).reshape(4, 8, 1).repeat(3, 2)  # each pixel says where it is


def test_cutting_leaves_the_frame_alone() -> None:
    """Columns 2 to 5.6, rounded to 6; rows 2 to 4."""
    found = framing.cut(IMAGE, np.array([0.25, 0.5, 0.7, 1.0]))
    assert found[..., 1].tolist() == [[18, 19, 20, 21], [26, 27, 28, 29]]


@pytest.mark.parametrize(
    ("frame", "pixel"), [([0.99, 0.26, 1.0, 0.27], 15), ([0.26, 0.99, 0.27, 1.0], 26), ([1.0, 1.0, 1.0, 1.0], 31)]
)
def test_the_smallest_frame_is_a_pixel(frame: list[float], pixel: int) -> None:
    assert framing.cut(IMAGE, np.array(frame)).tolist() == [[[pixel] * 3]]


@pytest.fixture
def loose_set(pictures: Path, labeled_set: Path, split_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The labeled set twice as loosely cropped: each picture's left upper quarter is what the tight one shows."""
    folder = tmp_path / "loose"
    shutil.copytree(pictures, folder)
    lines = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    for line in lines:
        tight = np.asarray(Image.open(folder / line["path"]))
        clutter = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
        clutter[:24, :24] = tight
        Image.fromarray(clutter).save(folder / line["path"])
        line["box"] = [0.0, 0.0, 0.5, 0.5]
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out, split = tmp_path / "loose_set", tmp_path / "loose.json"
    pack(folder, out, source="folder", name="blobs", shard_mb=0.1, workers=1, licence="cc0-1.0")
    content = json.loads(split_file.read_text()) | {"fingerprint": ShardSet.open(out).fingerprint}
    split.write_text(json.dumps(content | {"sha256": digest(content)}))
    return out, split


def test_a_loose_crop_gives_the_pixels_of_the_tight_one(labeled_set: Path, loose_set: tuple[Path, Path]) -> None:
    tight, loose = ShardSet.open(labeled_set), ShardSet.open(loose_set[0])
    template = loose.index["template_box"]
    assert template == [0.0, 0.0, 1.0, 1.0]
    keys = [key for shard in range(len(tight.counts)) for key in tight.keys(shard)]
    every = np.arange(len(keys))
    whole = Pool(tight, keys, slot_px=64).batch(every)
    framed = Pool(loose, keys, slot_px=64, crop_of="face")
    assert np.array_equal(framed.batch(every).sizes, whole.sizes)
    assert torch.equal(framed.batch(every).pixels[:, :24, :24], whole.pixels)
    assert framed.boxes(framed.known()).tolist() == [[0, 0, 1, 1]] * 120


def test_a_baseline_is_cut_as_what_it_is_compared_with(
    labeled_set: Path, split_file: Path, loose_set: tuple[Path, Path], tmp_path: Path
) -> None:
    tight = evaluate("baseline:pixels", labeled_set, tmp_path / "tight", split_file=split_file)
    at = {"split_file": loose_set[1]}
    face = evaluate("baseline:pixels", loose_set[0], tmp_path / "face", crop_of="face", **at)
    picture = evaluate("baseline:pixels", loose_set[0], tmp_path / "picture", **at)
    assert face["nll"] == pytest.approx(tight["nll"], abs=1e-3) and picture["nll"] != pytest.approx(
        tight["nll"], abs=0.05
    )


def test_a_run_on_loose_crops_is_the_run_on_tight_ones_and_is_measured_alike(
    recipe: Callable[..., Path], labeled_set: Path, split_file: Path, loose_set: tuple[Path, Path], tmp_path: Path
) -> None:
    """The tight run has FaceMix's boxes taken away: all of its faces lie on each other, as they do in the loose one."""
    mixup = ["facemix.weighting=mixup"]
    finetune(recipe(out="tight"), mixup)
    given = [*mixup, f"data.shards={loose_set[0]}", f"data.split={loose_set[1]}"]
    finetune(recipe(out="face"), [*given, "augment.crop_of=face", "data.memory_mb=0", "data.workers=0"])
    finetune(recipe(out="picture"), given)
    tight, face, picture = (
        [r["loss"] for r in rows(tmp_path / run / "metrics.jsonl")] for run in ("tight", "face", "picture")
    )
    assert face == pytest.approx(tight, abs=1e-6) and picture != pytest.approx(tight, abs=1e-3)
    one, other = (load_file(tmp_path / run / "model/model.safetensors") for run in ("tight", "face"))
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-5
    said = json.loads((tmp_path / "face/model/config.json").read_text())["fer_scale"]
    assert said["trained_on"]["crop_of"] == "face" and said["face_box"] == [0, 0, 1, 1]
    for run, (place, split) in {"tight": (labeled_set, split_file), "face": loose_set}.items():
        evaluate(str(tmp_path / run / "model"), place, tmp_path / f"of_{run}", split_file=split)
    [a, b] = (json.loads((tmp_path / f"of_{run}/metrics.json").read_text()) for run in ("tight", "face"))
    assert a["accuracy"] == b["accuracy"] and a["ece"] == pytest.approx(b["ece"], abs=1e-6)
