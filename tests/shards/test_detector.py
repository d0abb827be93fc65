"""Boxes that YuNet finds: on drawn faces, whose true box is known. Skipped without its model file (conftest.py)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_scale.demo.face import act, draw_face, person
from shards import detector
from shards.boxes import WHOLE, Box, iou
from shards.boxing import Boxing, boxed, check_boxing
from shards.detector import Detector
from shards.errors import ShardError
from shards.index import ShardSet
from shards.pack import pack
from shards.pixels import Pixels
from shards.plan import survey
from shards.sample import Face
from shards.show import show
from shards.sources import entries

Contents = Callable[[Path], dict[str, bytes]]


def drawn(number: int, px: int = 112) -> tuple[Image.Image, Box]:
    """A drawn face, and where it is."""
    rng = np.random.default_rng(number)
    picture, box = draw_face(person(rng), act("happiness", rng), rng)
    return picture.convert("RGB").resize((px, px), Image.Resampling.BICUBIC), box


def scene(width: int, height: int, *faces: tuple[int, int, int, int]) -> Pixels:
    """A grey picture with drawn faces: number, left, top, side."""
    picture = Image.new("RGB", (width, height), (128, 128, 128))
    for number, left, top, px in faces:
        picture.paste(drawn(number, px)[0], (left, top))
    return np.asarray(picture)


# ---- what it finds


def test_faces_that_fill_the_picture_are_found_where_they_are(yunet: Path) -> None:
    looks, overlaps = Detector(yunet), []
    for number in range(20):
        for px in (48, 112, 400):
            picture, true = drawn(number, px)
            box, faces = looks.find(np.asarray(picture))
            assert box is not None and faces == 1, (number, px)
            overlaps.append(iou(box, true))
    assert min(overlaps) > 0.7 and np.mean(overlaps) > 0.8


@pytest.mark.parametrize(("width", "height", "left", "top"), [(600, 200, 360, 60), (150, 500, 40, 30)])
def test_a_box_is_of_the_picture_whatever_its_shape(yunet: Path, width: int, height: int, left: int, top: int) -> None:
    box, faces = Detector(yunet).find(scene(width, height, (15, left, top, 100)))
    assert box is not None and faces == 1
    _, (x1, y1, x2, y2) = drawn(15)
    true = ((left + 100 * x1) / width, (top + 100 * y1) / height, (left + 100 * x2) / width, (top + 100 * y2) / height)
    assert iou(box, true) > 0.6


def test_a_picture_without_a_face_has_none(yunet: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for pixels in (noise, np.zeros((1, 1, 3), np.uint8), np.full((3, 500, 3), 200, np.uint8)):
        assert Detector(yunet).find(pixels) == (None, 0)


def test_of_several_faces_the_largest_near_the_centre_is_taken_and_all_are_counted(yunet: Path) -> None:
    looks = Detector(yunet)
    central, corner = (15, 140, 140, 120), (5, 0, 0, 130)
    box, faces = looks.find(scene(400, 400, corner, central))
    assert faces == 2 and box is not None and 0.4 < (box[0] + box[2]) / 2 < 0.6
    box, faces = looks.find(scene(400, 400, (5, 0, 0, 240), (15, 250, 250, 110)))  # far larger: taken though off centre
    assert faces == 2 and box is not None and (box[0] + box[2]) / 2 < 0.4


def test_the_detector_gets_a_square_in_the_colours_that_it_was_trained_on(
    yunet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, seen = Detector(yunet), []

    class Net:
        def detect(self, square: Pixels) -> tuple[int, None]:
            seen.append(square)
            return 1, None

    monkeypatch.setattr(looks, "_net", Net())
    assert looks.find(np.full((25, 50, 3), (250, 100, 10), np.uint8)) == (None, 0)
    assert seen[0].shape == (256, 256, 3) and seen[0][128, 0].tolist() == [10, 100, 250]
    assert not seen[0][63].any() and seen[0][64].all() and seen[0][191].all() and not seen[0][192].any()


# ---- the model file


def test_other_bytes_than_the_known_ones_are_refused(tmp_path: Path, yunet: Path) -> None:
    file = tmp_path / "yunet.onnx"
    with pytest.raises(ShardError, match=r"yunet.onnx: cannot be read \(No such file.*face_detection_yunet_2023mar"):
        Detector(file)
    data = bytearray(yunet.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ShardError, match=r"yunet.onnx: has other bytes \(232,589\) than.*hf://opencv"):
        Detector(file)


def test_without_opencv_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "cv2", None)
    with pytest.raises(ShardError, match=r"pip install 'fer_scale\[faces\]'"):
        Detector(tmp_path / "any.onnx")


# ---- which box a face gets

OWN = (0.2, 0.2, 0.8, 0.8)
ANNOTATED = Face("fear", box=OWN, box_source="annotation")
BEFORE = Face("fear", box=(0.0, 0.0, 0.5, 0.5), box_source="template")  # packed before
DETECTED = Face(box=OWN, box_source="detector", faces=2)


@pytest.mark.parametrize(
    ("mode", "face", "expected"),
    [
        ("auto", None, None),
        ("auto", Face(made="rotated, jpg"), Face(made="rotated, jpg")),
        ("auto", Face("fear"), Face("fear", box=WHOLE, box_source="template")),
        ("auto", ANNOTATED, ANNOTATED),
        ("auto", BEFORE, BEFORE),
        ("auto", DETECTED, DETECTED),
        ("annotation", None, None),
        ("annotation", Face("fear"), Face("fear")),
        ("annotation", ANNOTATED, ANNOTATED),
        ("annotation", BEFORE, Face("fear")),
        ("annotation", DETECTED, None),
        ("template", None, None),
        ("template", ANNOTATED, Face("fear", box=WHOLE, box_source="template")),
        ("template", BEFORE, BEFORE),
        ("template", DETECTED, None),
        ("template", Face(box=OWN, box_source="annotation", made="rotated, jpg"), Face(made="rotated, jpg")),
    ],
)
def test_without_a_detector_the_box_is_annotated_or_the_template(
    mode: str, face: Face | None, expected: Face | None
) -> None:
    assert boxed(face, None, Boxing(mode)) == expected


def test_with_a_detector_annotated_boxes_stay_and_all_other_faces_are_looked_at(yunet: Path) -> None:
    auto, face, nobody = Boxing("auto", yunet), scene(100, 100, (5, 0, 0, 100)), scene(100, 100)
    assert boxed(ANNOTATED, face, auto) == ANNOTATED and boxed(DETECTED, face, auto) == DETECTED
    found = boxed(None, face, auto)
    assert found is not None and found.box and found == Face(box=found.box, box_source="detector")
    assert boxed(Face("fear"), face, auto) == Face("fear", box=found.box, box_source="detector")
    assert boxed(BEFORE, face, auto) == Face("fear", box=found.box, box_source="detector")
    assert boxed(None, nobody, auto) == Face(box=WHOLE, box_source="template", faces=0)
    assert boxed(BEFORE, nobody, auto) == Face("fear", box=BEFORE.box, box_source="template", faces=0)
    everything = Boxing("detector", yunet)
    assert boxed(ANNOTATED, face, everything) == Face("fear", box=found.box, box_source="detector")
    assert boxed(ANNOTATED, nobody, everything) == Face("fear", box=WHOLE, box_source="template", faces=0)
    two = boxed(None, scene(400, 400, (15, 140, 140, 120), (5, 0, 0, 130)), everything)
    assert two is not None and two.faces == 2


def test_what_cannot_be_meant_is_refused(yunet: Path) -> None:
    for boxing, decode_check, words in (
        (Boxing("detectr"), True, "unknown boxes 'detectr'; say auto, annotation, detector, template"),
        (Boxing("detector"), True, "which one.*--detector face_detection_yunet_2023mar.onnx"),
        (Boxing("template", yunet), True, "leave --detector out"),
        (Boxing("annotation", yunet), True, "leave --detector out"),
        (Boxing("auto", yunet), False, "needs pixels"),
        (Boxing("auto", Path("nowhere.onnx")), True, "nowhere.onnx: cannot be read"),
    ):
        with pytest.raises(ShardError, match=words):
            check_boxing(boxing, decode_check=decode_check)
    check_boxing(Boxing("auto", yunet), decode_check=True)
    check_boxing(Boxing("template"), decode_check=False)


# ---- packing


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """12 drawn faces, of which four are labeled, two with a box; and a picture without a face."""
    (tmp_path / "people").mkdir()
    for number in range(12):
        drawn(number, 48)[0].save(tmp_path / "people" / f"{number:02d}.png")
    Image.new("L", (30, 40)).save(tmp_path / "people" / "nobody.png")
    labels: list[dict[str, Any]] = [{"path": f"{number:02d}.png", "expression": "fear"} for number in range(4)]
    labels[0]["box"] = labels[1]["box"] = [0.25, 0.25, 0.75, 0.75]
    (tmp_path / "people" / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    return tmp_path / "people"


def packing(src: Path, out: Path, **options: Any) -> ShardSet:
    return pack(src, out, **{"source": "folder", "name": "people", "shard_mb": 0.01, "workers": 1} | options)


def faces_of(shards: ShardSet) -> dict[str, Face | None]:
    origins = [origin.partition(":")[2] for shard in range(len(shards.counts)) for origin in shards.origins(shard)]
    return {name: sample.face for name, sample in zip(origins, shards.samples_in_order(), strict=True)}


def test_a_set_counts_its_boxes_by_where_they_came_from(yunet: Path, people: Path, tmp_path: Path) -> None:
    shards = packing(people, tmp_path / "set", detector=yunet)
    assert show(shards.path)["boxes"] == {"annotation": 2, "detector": 10, "template": 1}
    assert shards.index["detector"] == "face_detection_yunet_2023mar"
    faces = faces_of(shards)
    assert faces["00.png"] == Face("fear", box=(0.25, 0.25, 0.75, 0.75), box_source="annotation")
    assert faces["nobody.png"] == Face(box=(0.0, 0.0, 1.0, 1.0), box_source="template", faces=0)
    found = faces["09.png"]
    assert found and found.box and found.box_source == "detector" and iou(found.box, drawn(9)[1]) > 0.7
    everywhere = packing(people, tmp_path / "everywhere", detector=str(yunet), boxes="detector")
    assert everywhere.index["boxes"] == {"detector": 12, "template": 1}


def test_without_a_detector_no_face_is_looked_for(people: Path, tmp_path: Path) -> None:
    counts = {
        mode: packing(people, tmp_path / mode, boxes=mode).index["boxes"] for mode in ("auto", "annotation", "template")
    }
    assert counts == {
        "auto": {"annotation": 2, "template": 2}, "annotation": {"annotation": 2}, "template": {"template": 4}
    }  # fmt: skip
    shards = ShardSet.open(tmp_path / "auto")
    assert "detector" not in shards.index and faces_of(shards)["09.png"] is None


def test_detected_boxes_do_not_depend_on_the_number_of_processes(
    yunet: Path, people: Path, tmp_path: Path, read_folder: Contents
) -> None:
    for workers in (1, 2):
        packing(people, tmp_path / f"by {workers}", detector=yunet, workers=workers)
    assert read_folder(tmp_path / "by 1") == read_folder(tmp_path / "by 2")


def test_shards_are_planned_with_the_json_that_the_detector_adds(people: Path) -> None:
    listing = entries("folder", people, split=None, protocol="argmax")
    without, looked_at = survey(listing.entries, [])[0], survey(listing.entries, [], all_known=True)[0]
    assert sorted((looked_at - without).tolist()) == [0] * 4 + [1024] * 9  # four are labeled and have it anyway


def test_a_set_is_packed_again_to_find_its_faces(yunet: Path, people: Path, tmp_path: Path) -> None:
    before = packing(people, tmp_path / "before")
    after = packing(before.path, tmp_path / "after", source="tar", detector=yunet)
    assert after.index["boxes"] == {"annotation": 2, "detector": 10, "template": 1}
    again = packing(after.path, tmp_path / "again", source="tar")
    assert again.index["boxes"] == after.index["boxes"]


@pytest.mark.parametrize("shape", [(8, 800), (800, 8), (5, 1000), (1, 600), (20_000, 16)])
def test_on_a_strip_no_face_is_found_and_no_number_is_none(yunet: Path, shape: tuple[int, int]) -> None:
    look = detector.Detector(yunet)
    for seen in look.see(np.full((*shape, 3), 200, np.uint8)):
        assert np.isfinite(seen.box).all() and max(map(abs, seen.box)) < 2 * max(shape)
