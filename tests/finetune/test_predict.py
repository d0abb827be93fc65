"""Predictions from photos of every kind, and the crop that belongs to the model."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from fer_scale import encoder, predict
from fer_scale import photos as files
from fer_scale.cuts import PredictError, as_input, crop_for
from fer_scale.finetune.evaluate import evaluate
from fer_scale.finetune.loop import finetune
from fer_scale.predicted import Photo, as_json
from shards.index import ShardSet
from shards.pixels import decode

BROKEN = Path(__file__).parents[3] / "shared/data/broken"


def crops(model: str, pictures: list[Path]) -> tuple[list[Photo], list[str]]:
    """What the model says of pictures that are face crops, and of which photos it can say nothing."""
    said = predict.load(model, faces="whole").predict(pictures)
    return [photo for photo in said if photo.faces], [photo.problem for photo in said if photo.problem]


def test_labels_come_with_probabilities_by_name(model: str, pictures: Path) -> None:
    photos = [pictures / "p0/000.png", pictures / "p1/001.png", pictures / "p2/002.png"]
    found, problems = crops(model, photos)
    faces = [face for photo in found for face in photo.faces]
    assert [face.label for face in faces] == ["neutral", "happiness", "surprise"] and not problems
    assert list(faces[0].probabilities) == ["neutral", "happiness", "surprise"]
    assert sum(faces[0].probabilities.values()) == pytest.approx(1)
    assert faces[0].confidence == max(faces[0].probabilities.values())
    assert (faces[0].box, faces[0].score) == ((0, 0, 24, 24), None)
    assert json.loads(as_json(found[0]))["faces"][0]["label"] == "neutral"


def test_a_model_that_answers_with_no_numbers_is_an_error_and_not_unsure(model: str, pictures: Path) -> None:
    loaded = predict.load(model, faces="whole")
    with torch.no_grad():
        loaded.network.get_parameter("norm.weight").fill_(3e38)  # finite, as all weights are that were read
    with pytest.raises(PredictError, match="what is no number"):
        loaded.predict([pictures / "p0/000.png"])


def test_a_square_crop_is_seen_exactly_as_timm_sees_it(model: str, pictures: Path) -> None:
    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.no_grad():
        theirs = network(transform(Image.open(pictures / "p0/000.png").convert("RGB"))[None]).softmax(1)[0]
    [ours], _ = crops(model, [pictures / "p0/000.png"])
    assert list(ours.faces[0].probabilities.values()) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_a_broken_photo_is_one_line_and_the_others_go_on(model: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes((pictures / "p0/000.png").read_bytes()[:400])
    (tmp_path / "text.jpg").write_text("no picture")
    photos = [tmp_path / "cut.png", pictures / "p0/000.png", tmp_path / "text.jpg", tmp_path / "absent.png"]
    found, problems = crops(model, photos)
    assert [photo.name for photo in found] == [str(pictures / "p0/000.png")]
    assert len(problems) == 3 and all("\n" not in line for line in problems)
    assert "cut.png: cannot be read as a picture" in problems[0] and "absent.png: no such file" in problems[2]


def test_grey_16_bit_transparent_turned_and_huge_photos_are_read(model: str, tmp_path: Path) -> None:
    pixels = np.full((40, 40), 90, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(np.full((40, 40, 4), 90, np.uint8)).save(tmp_path / "alpha.png")
    Image.new("P", (40, 40), 3).save(tmp_path / "palette.gif")
    Image.new("RGB", (5000, 4000), (90, 90, 90)).save(tmp_path / "huge.jpg", quality=30)
    photos = sorted(tmp_path.glob("*.*g*"))
    found, problems = crops(model, [p for p in photos if p.suffix != ".toml"])
    assert not problems and len(found) == 5
    by_name = {Path(photo.name).name: photo.faces[0].probabilities for photo in found}
    assert by_name["deep.png"] == by_name["grey.png"] == by_name["alpha.png"]


def test_a_photo_turned_by_exif_is_seen_upright(model: str, tmp_path: Path) -> None:
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16] = (200, 60, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    Image.fromarray(upright).save(tmp_path / "a.png")
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "b.png", exif=exif)
    (one, other), _ = crops(model, [tmp_path / "a.png", tmp_path / "b.png"])
    assert one.faces[0].probabilities == pytest.approx(other.faces[0].probabilities, abs=1e-6)  # rows of one batch


def test_a_box_puts_the_face_where_it_lay_in_training() -> None:
    cut = crop_for((100, 100, 200, 220), (0.1, 0.2, 0.9, 0.8), (640, 480))
    left, top, right, bottom = cut
    assert ((100 - left) / (right - left), (200 - left) / (right - left)) == pytest.approx((0.1, 0.9))
    assert ((100 - top) / (bottom - top), (220 - top) / (bottom - top)) == pytest.approx((0.2, 0.8))


def test_a_cut_that_sticks_out_repeats_the_border() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 200
    seen = as_input(pixels, 16, (40, -5, 75, 40))
    assert seen.shape == (16, 16, 3)
    assert seen[:, -3:].min() == 200  # right of the photo


def test_the_box_of_the_whole_picture_gives_the_whole_picture_for_whole_face_models(model: str, pictures: Path) -> None:
    whole = replace(predict.load(model, faces="whole"), face_box=(0.0, 0.0, 1.0, 1.0))
    photo = files.upright(pictures / "p0/000.png")
    [by_box], [without] = whole.predict([photo], box=(0, 0, 24, 24)), whole.predict([photo])
    assert by_box.faces[0].probabilities == without.faces[0].probabilities


def test_the_middle_that_a_recipe_asks_for_is_what_evaluation_prediction_and_timm_show_the_model(
    recipe: Callable[..., Path], labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    finetune(recipe(steps=20, semi=0), ["model.crop_pct=0.75"])
    model = tmp_path / "run/model"
    pretrained = encoder.config_of(model)["pretrained_cfg"]
    assert timm.data.resolve_data_config(pretrained_cfg=pretrained)["crop_pct"] == pretrained["crop_pct"] == 0.75
    evaluate(str(model), labeled_set, tmp_path / "out", split_file=split_file)
    with (tmp_path / "out/predictions.csv").open() as file:
        measured = {row["key"]: row for row in csv.DictReader(file)}
    samples = [sample for sample in ShardSet.open(labeled_set).samples_in_order() if sample.key in measured]
    ready = predict.load(model, faces="whole")
    assert len(samples) > 5 and ready.crop_pct == 0.75
    for sample, photo in zip(samples, ready.predict(decode(s.image).copy() for s in samples), strict=True):
        for name, probability in photo.faces[0].probabilities.items():
            assert probability == pytest.approx(float(measured[sample.key][name]), abs=2e-3)  # PIL rounds to 8 bits
    [other] = replace(ready, crop_pct=1.0).predict([decode(sample.image).copy()])
    assert other.faces[0].probabilities != photo.faces[0].probabilities


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (0, 0, -4, 9), (0.1, 0.1, 0.9, 0.9), (0, 0, np.inf, 9), (0, 0, np.nan, 9)]
)
def test_a_box_that_is_none_is_an_error(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(PredictError, match="must be x1,y1,x2,y2 in pixels of the upright photo"):
        crop_for(box, (0.1, 0.2, 0.9, 0.8), (24, 24))


@pytest.mark.parametrize("cut", [(0, 0, np.inf, 9), (-1e300, 0, 1e300, 9), (0, 0, 30_000, 30_000)])
def test_a_cut_that_is_too_large_is_an_error(cut: tuple[float, float, float, float]) -> None:
    with pytest.raises(PredictError, match="more than 200,000,000 pixels"):
        as_input(np.zeros((4, 4, 3), np.uint8), 8, cut)


def test_a_cut_beside_the_photo_is_its_border() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 59] = 200
    assert as_input(pixels, 16, (70, 50, 90, 70)).min() == 200


@pytest.mark.skipif(not BROKEN.exists(), reason="no broken pictures in ../shared/data")
def test_every_nasty_file_is_a_prediction_or_one_line(model: str) -> None:
    photos = sorted(p for p in BROKEN.iterdir() if p.name != "manifest.csv")
    found, problems = crops(model, photos)
    assert len(found) + len(problems) == len(photos) and all("\n" not in line for line in problems)
    assert any("hopper_gray" in photo.name for photo in found)
