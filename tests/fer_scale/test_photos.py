"""Photos as people have them: what is read, where faces are found in them, and what `predict` says and writes."""

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, ImageSequence
from scenes import pasted

import fer_scale
from fer_scale import encoder, faces, photos, predicted
from fer_scale.__main__ import main
from fer_scale.cuts import PredictError, around
from fer_scale.demo.face import act, draw_face, person
from fer_scale.faces import YUNET, Finder, NoDetector, place_of
from fer_scale.photos import PhotoError, listed, upright
from fer_scale.predicted import Photo
from shards import detector
from shards.boxes import iou
from shards.detector import HAAR
from shards.expressions import EXPRESSIONS

REAL = Path(__file__).parents[3] / "shared/data/lfw/lfw112.tar"
SIZES = (64, 120, 300)
SURE = (5, 6, 11, 12, 13, 16, 20, 21, 28, 30, 40, 45)  # drawn faces that YuNet finds at each of these sizes


def face(number: int, px: int) -> Image.Image:
    """A drawn face of the expression number % 8."""
    rng = np.random.default_rng(number)
    picture, _ = draw_face(person(rng), act(EXPRESSIONS[number % 8], rng), rng)
    return picture.convert("RGB").resize((px, px), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight expressions that tells drawn faces apart better than chance: random features, a fitted head."""
    folder = tmp_path_factory.mktemp("photos") / "model"
    torch.manual_seed(0)
    network = encoder.build("64x2x2", image_px=48, patch_px=8).eval()
    crops = np.stack([np.asarray(face(number, 48)) for number in range(800)])
    with torch.no_grad():
        features = torch.cat([network(torch.from_numpy(c).permute(0, 3, 1, 2) / 127.5 - 1) for c in np.split(crops, 8)])
    centred = features.double() - (middle := features.double().mean(0))
    wanted = torch.eye(8, dtype=torch.float64).repeat(100, 1) - 1 / 8
    ridge = 1e-3 * centred.var() * len(crops) * torch.eye(64, dtype=torch.float64)
    weight = 8 * torch.linalg.solve(centred.T @ centred + ridge, centred.T @ wanted)
    network.reset_classifier(8)
    with torch.no_grad():
        network.head.weight.copy_(weight.T)  # type: ignore[union-attr]
        network.head.bias.copy_(-(middle @ weight))  # type: ignore[union-attr]
    config = encoder.make_config(
        network, encoder.model_args("64x2x2", image_px=48, patch_px=8), image_px=48, mean=(0.5,) * 3, std=(0.5,) * 3,
        label_names=list(EXPRESSIONS), block={"face_boxes": {YUNET: [0.2, 0.1, 0.8, 1.0]}},
    )  # fmt: skip
    encoder.write(folder, network.state_dict(), config)
    return folder


# ---- which files, and what is in them


def test_folders_and_globs_give_their_pictures_sorted_and_each_once(tmp_path: Path) -> None:
    for name in ("b/2.JPG", "b/deep/1.png", "a.txt", "b/notes.md", "c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = lambda *paths: [str(f.relative_to(tmp_path)) for f in listed(str(tmp_path / p) for p in paths)]  # noqa: E731
    assert names("b") == ["b/2.JPG", "b/deep/1.png"]
    assert names("c.jpg", "**/*.png", ".") == ["c.jpg", "b/deep/1.png", "b/2.JPG"]
    assert names("a.txt", "gone.jpg") == ["a.txt", "gone.jpg"]  # named themselves: it is said of each why it is none
    for nothing in ("*.webp", "b/deep/empty"):
        (tmp_path / "b/deep/empty").mkdir(exist_ok=True)
        with pytest.raises(PhotoError, match="no pictures there"):
            names(nothing)


def test_of_a_folder_what_is_hidden_is_left_out_and_what_is_not_read_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / ".mine" / "album"
    for name in (".thumbnails/a.jpg", "b/._1.jpg", "b/1.jpg", "b/2.HEIC", "3.avif", ".trash/4.heic"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    assert listed([place]) == [place / "b/1.jpg"]
    assert f"{place}: HEIC and AVIF are not read (2 files); convert to jpg" in capsys.readouterr().err.replace("\n", "")


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/1.jpg").touch()
    (tmp_path / "album/happiness").mkdir(parents=True)
    (tmp_path / "album/happiness/far").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "album")
    found = listed([tmp_path / "album"])
    assert found == [tmp_path / "album/happiness/far/1.jpg"]


def test_a_picture_of_floats_is_in_shares_of_white_or_in_levels(tmp_path: Path) -> None:
    grey = np.linspace(0, 1, 48, dtype=np.float32)[None].repeat(32, axis=0)
    for name, most in (("shares.tif", 1), ("levels.tif", 255)):
        Image.fromarray(grey * most).save(tmp_path / name)
        assert abs(upright(tmp_path / name)[..., 0] - 255.0 * grey).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_what_pillow_reads_whichever_way_up_it_is(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    face(1, 64).crop((0, 0, 64, 40)).save(tmp_path / "a.jpg", exif=exif, quality=80)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert np.array_equal(upright(tmp_path / "a.jpg"), np.asarray(ImageOps.exif_transpose(picture).convert("RGB")))
        assert np.array_equal(upright(tmp_path / "a.jpg"), upright(picture))


@pytest.mark.parametrize("kind", ["tiff", "png", "webp", "mpo"])
def test_a_turned_photo_of_another_kind_is_what_pillow_reads(kind: str, tmp_path: Path) -> None:
    """Of which Pillow turns a tiff by itself as it decodes it."""
    exif, drawn = Image.Exif(), face(1, 64).crop((0, 0, 64, 40))
    exif[0x0112] = 6
    more = {"append_images": [drawn], "save_all": True} if kind == "mpo" else {}
    drawn.save(tmp_path / f"a.{kind}", exif=exif, **more)
    with Image.open(tmp_path / f"a.{kind}") as picture:
        assert picture.format == kind.upper()
        assert np.array_equal(upright(tmp_path / f"a.{kind}"), np.asarray(ImageOps.exif_transpose(picture)))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_damaged_exif_does_not_harm_a_photo(kind: str, tmp_path: Path) -> None:
    face(1, 64).save(tmp_path / f"a.{kind}", exif=b"Exif\0\0garbage of some program", dpi=(72, 72))
    with Image.open(tmp_path / f"a.{kind}") as picture:
        with pytest.raises(SyntaxError):
            picture.getexif()
        assert np.array_equal(upright(tmp_path / f"a.{kind}"), np.asarray(picture.convert("RGB")))
        assert np.array_equal(upright(picture), np.asarray(picture.convert("RGB")))


def test_the_photos_of_a_telephone_are_decoded_beside_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are MPO, a jpeg with more pictures behind it; Pillow would decode one after another."""
    face(1, 64).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[face(2, 32)])
    monkeypatch.setattr(photos, "_rgb", lambda _: pytest.fail("Pillow, and under the lock"))
    assert upright(tmp_path / "a.jpg").shape == (64, 64, 3)


def test_arrays_and_images_in_memory_are_photos_too(model: Path) -> None:
    array = np.asarray(face(3, 48))
    of_all = fer_scale.load(model, faces="whole").predict([array, face(3, 48), face(3, 48).convert("RGBA")])
    assert [photo.name for photo in of_all] == ["photo 0", "photo 1", "photo 2"]
    assert of_all[0].faces == of_all[1].faces == of_all[2].faces
    wrong: list[Any] = [array.astype(float), None, b"", 7]
    for photo in fer_scale.load(model, faces="whole").predict(wrong):
        assert not photo.is_read and "uint8 [height, width, 3] in RGB" in str(photo.problem)


def test_pictures_in_memory_are_those_of_the_moment_when_they_were_given(model: Path, tmp_path: Path) -> None:
    """The frames of a film are one object of Pillow's, and a camera's may be one array."""
    frames = [face(number, 48) for number in range(12)]
    frames[0].save(tmp_path / "film.tiff", save_all=True, append_images=frames[1:])
    ready, memory = fer_scale.load(model, faces="whole"), np.empty((48, 48, 3), np.uint8)
    alone = [photo.faces for photo in ready.predict(frames)]

    def filmed() -> Iterator[photos.Pixels]:
        for frame in frames:
            memory[:] = np.asarray(frame)
            yield memory

    with Image.open(tmp_path / "film.tiff") as film:
        for given in (ImageSequence.Iterator(film), filmed()):
            assert [photo.faces for photo in ready.predict(given)] == alone


@pytest.mark.parametrize(("mode", "white"), [("I", 255), ("I", 65535), ("I;16", 65535), ("F", 1), ("F", 255)])
def test_a_picture_of_wider_pixels_is_as_bright_as_it_was(mode: str, white: int) -> None:
    grey = np.asarray(face(3, 48).convert("L"))
    kind: Any = {"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode]
    wide = Image.fromarray((grey * (white / 255)).round(4 if white == 1 else 0).astype(kind))
    assert wide.mode == mode and abs(upright(wide)[:, :, 0].astype(int) - grey).max() <= 1


def test_what_is_no_number_in_a_picture_of_floats_is_black_and_says_nothing() -> None:
    pixels = np.full((8, 8), 200, np.float32)
    pixels[0] = np.nan
    assert upright(Image.fromarray(pixels))[:2, 0, 0].tolist() == [0, 200]


def test_what_cannot_be_read_in_memory_or_by_its_name_is_a_problem_of_that_photo(model: Path, tmp_path: Path) -> None:
    face(3, 48).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(photos.MOST_BYTES + 1)  # takes no disk
    with Image.open(tmp_path / "cut.png") as cut, Image.open(tmp_path / "a.png") as lazy:
        given = [cut, Image.new("RGB", (0, 0)), "a\0b", tmp_path / "huge.jpg", *[lazy] * 8]
        said = fer_scale.load(model, faces="whole").predict(given)
    told = ["an image: cannot be read as a picture", "no pixels", "null byte", "a photo may have 1,000,000,000"]
    assert all(words in str(photo.problem) for words, photo in zip(told, said, strict=False))
    assert [len(photo.faces) for photo in said] == [0] * 4 + [1] * 8


def test_one_photo_in_place_of_a_list_is_an_error(model: Path) -> None:
    ready = fer_scale.load(model, faces="whole")
    for one in ("a.jpg", Path("a.jpg"), face(3, 48), np.asarray(face(3, 48))):
        with pytest.raises(PredictError, match=r"is one photo; give a list, as \[photo\]"):
            ready.predict(one)  # type: ignore[arg-type]
    assert len(ready.predict(np.stack([np.asarray(face(3, 48))] * 2))) == 2


# ---- where faces are found


@pytest.fixture(params=[YUNET, HAAR])
def finder(request: pytest.FixtureRequest, yunet: Path) -> Finder:
    return faces.finder(yunet if request.param == YUNET else "haar")


@pytest.mark.parametrize("finder", [YUNET, pytest.param(HAAR, marks=pytest.mark.slow)], indirect=True)
@pytest.mark.skipif(not REAL.exists(), reason="no real faces in ../shared/data")
def test_a_real_face_in_a_photo_is_cut_as_it_was_cropped(finder: Finder) -> None:
    with tarfile.open(REAL) as tar:
        names = [member for member in tar if member.name.endswith(".jpg")][::660]  # 21
        crops = [Image.open(io.BytesIO(tar.extractfile(name).read())) for name in names]  # type: ignore[union-attr]
    place, off = finder.place([np.asarray(crop) for crop in crops]), []
    assert place is not None
    for px in SIZES:
        for number, crop in enumerate(crops[::2]):
            photo, true = pasted(crop, px, number)
            found, _ = finder.find(photo)
            cuts = [cut for seen in found if iou(cut := around(seen.box, place), true) > 0.3]
            middle = (true[0] + px * 0.05, true[1] + px * 0.05, true[2] - px * 0.05, true[3] - px * 0.05)
            off.append((number, px, iou(cuts[0], middle) if len(cuts) == 1 else 0))
    assert np.mean([same > 0.3 for _, _, same in off]) > 0.95, off
    assert np.median([same for _, _, same in off]) > 0.85, off  # 5 % too wide is .91, 25 % is .64


def test_large_photos_are_searched_for_small_faces_and_large_ones(yunet: Path) -> None:
    photo, true = Image.new("RGB", (4000, 3000), (120, 130, 110)), []
    places = [(3500, 200, 250), (200, 300, 300), (1200, 1300, 1500), (3200, 2400, 500)]
    for number, (left, top, px) in zip(SURE, places, strict=False):
        photo.paste(face(number, px), (left, top))
        true.append((left, top, left + px, top + px))
    found, count = faces.finder(yunet).find(np.asarray(photo))
    assert count == 4 and all(any(iou(seen.box, place) > 0.3 for seen in found) for place in true)
    [largest], count = faces.finder(yunet).find(np.asarray(photo), largest=True)
    assert count == 4 and iou(largest.box, true[2]) > 0.3


def test_a_model_says_where_a_detector_sees_its_faces_or_it_is_derived_from_what_it_says() -> None:
    told = {"face_boxes": {HAAR: [0.1, 0.2, 0.8, 1.1]}, "face_box": [0, 0, 1, 1]}
    assert place_of(HAAR, told) == (0.1, 0.2, 0.8, 1.1)
    aligned = place_of(YUNET, {})
    assert place_of(YUNET, {"face_box": [0, 0, 1, 1], "detector": "template"}) == aligned
    quarter = (0.5 + aligned[0] / 2, aligned[1] / 2, 0.5 + aligned[2] / 2, aligned[3] / 2)
    assert place_of(YUNET, {"face_box": [0.5, 0, 1, 0.5]}) == pytest.approx(quarter)
    packed = place_of(YUNET, {"face_box": [0.11, 0.02, 0.92, 1.0], "detector": YUNET})  # of an aligned set
    assert packed == pytest.approx(aligned)
    assert place_of(HAAR, {"face_box": [0.11, 0.02, 0.92, 1.0], "detector": YUNET}) == pytest.approx(place_of(HAAR, {}))


def test_a_damaged_yunet_in_the_cache_is_told_and_the_cascade_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / detector.FILE).write_bytes(b"cut")
    monkeypatch.setattr(faces, "cached", lambda: tmp_path / detector.FILE)
    assert [one.name for one in faces.at_hand()] == [HAAR] == [faces.finder().name]
    assert "".join(capsys.readouterr()).count("has other bytes (3)") == 2


def test_crops_without_faces_give_no_place(finder: Finder) -> None:
    rng = np.random.default_rng(0)
    assert finder.place([rng.integers(0, 256, (24, 24, 3), np.uint8) for _ in range(40)]) is None


def test_where_no_face_is_found_that_is_said_and_not_the_whole_picture(model: Path) -> None:
    [photo] = fer_scale.load(model, detector="haar").predict([np.full((300, 400, 3), 99, np.uint8)])
    assert photo == Photo("photo 0", (400, 300), (), 0, faces.no_face("photo 0"))


def test_without_opencv_the_extra_and_the_way_out_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "cv2", None)
    with pytest.raises(NoDetector, match=r"pip install 'fer_scale\[faces\]'.*--faces whole"):
        fer_scale.load(model)
    assert fer_scale.load(model, faces="whole").predict([face(0, 48)])[0].faces


# ---- many


def test_threads_that_share_a_model_get_what_one_gets(model: Path, yunet: Path) -> None:
    ready = fer_scale.load(model, faces="all", detector=yunet)
    scenes = [pasted(face(number, 120), 120, number)[0] for number in SURE]
    alone = ready.predict(scenes)
    with ThreadPoolExecutor(4) as pool:
        for together in pool.map(lambda _: ready.predict(scenes), range(8)):
            assert together == alone
    assert sum(len(photo.faces) for photo in alone) >= 11


def test_answers_come_while_photos_are_still_being_given(model: Path) -> None:
    given = 0

    def endless() -> object:
        nonlocal given
        while True:
            given += 1
            yield face(given % 8, 48)

    answers = fer_scale.load(model, faces="whole").stream(endless())  # type: ignore[arg-type]
    assert next(answers).faces and given <= 64 + 2 * 16 + 2  # pictures in memory do not pile up
    for _ in range(100):
        assert next(answers).faces
    assert given < 1000
    answers.close()  # type: ignore[attr-defined]


def test_answers_come_where_no_photo_can_be_read(model: Path) -> None:
    absent = iter([Path(f"{number}.jpg") for number in range(1000)])
    assert not next(fer_scale.load(model, faces="whole").stream(absent)).is_read
    assert len(list(absent)) > 500


# ---- the command


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of a photo with two faces, one without, and a broken one."""
    folder = tmp_path / "album"
    folder.mkdir()
    photo = Image.new("RGB", (640, 480), (120, 130, 110))
    photo.paste(face(11, 120), (30, 40))
    photo.paste(face(20, 200), (350, 200))
    photo.save(folder / "a two.jpg", quality=95)
    Image.new("RGB", (50, 30), (10, 20, 30)).save(folder / "b none.png")
    (folder / "c broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


def test_predict_says_and_writes_every_photo(
    model: Path, yunet: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, pictures = tmp_path / "faces.csv", tmp_path / "drawn"
    more = ["--detector", str(yunet), "--csv", str(table), "--draw", str(pictures)]
    assert main(["predict", str(model), str(album), "--faces", "all", "--json", *more]) == 2  # one could not be read
    out, err = capsys.readouterr()
    two, none, broken = map(json.loads, out.splitlines())
    assert (two["size"], two["found"], len(two["faces"]), two["problem"]) == ([640, 480], 2, 2, None)
    assert [seen["label"] in EXPRESSIONS and len(seen["probabilities"]) for seen in two["faces"]] == [8, 8]
    assert two["faces"][0]["box"][0] < 150 < 350 < two["faces"][1]["box"][0]
    assert none["faces"] == [] and "b none.png: no face found" in none["problem"] and none["size"] == [50, 30]
    assert broken["size"] == [0, 0] and "c broken.jpg: cannot be read as a picture" in broken["problem"]
    assert err.count("fer-scale predict: ") == 2
    with table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [Path(row["photo"]).name[0] + row["face"] for row in rows] == ["a0", "a1", "b", "c"]
    assert float(rows[1]["p_fear"]) == pytest.approx(two["faces"][1]["probabilities"]["fear"], abs=1e-6)
    assert rows[2]["problem"] == none["problem"] and not rows[2]["label"]
    assert sorted(file.name for file in pictures.iterdir()) == ["a two.faces.jpg", "b none.faces.jpg"]
    with Image.open(pictures / "a two.faces.jpg") as picture:
        assert picture.size == (640, 480)


def test_a_photo_that_is_gone_when_it_is_drawn_has_its_answer_and_the_others_theirs(
    model: Path, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = predicted.as_text

    def and_remove(photo: Photo) -> list[str]:
        (album / "a two.jpg").unlink(missing_ok=True)
        return told(photo)

    monkeypatch.setattr(predicted, "as_text", and_remove)
    table, pictures = tmp_path / "faces.csv", tmp_path / "drawn"
    photos = [str(album / "a two.jpg"), str(album / "b none.png")]
    assert main(["predict", str(model), *photos, "--faces", "whole", "--csv", str(table), "--draw", str(pictures)]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == len(table.read_text().splitlines()) - 1 == 2
    assert "a two.jpg: no such file; it is not drawn" in err
    assert [file.name for file in pictures.iterdir()] == ["b none.faces.jpg"]


def test_predict_takes_the_largest_face_and_tells_of_the_others(
    model: Path, yunet: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(model), str(album / "a*.jpg"), "--detector", str(yunet)]
    assert main(command) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith("(the largest of 2 faces)") and line.split("  ")[1] in EXPRESSIONS
    assert main([*command, "--min-confidence", "1"]) == 0
    assert "  unsure  0." in capsys.readouterr().out
    assert main([*command, "--min-confidence", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"][0]["label"] is None


def test_a_box_beside_one_photo_is_a_problem_of_that_one_and_no_face_is_an_answer(
    model: Path, yunet: Path, album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(model), str(album / "b*"), "--detector", str(yunet)]) == 0
    assert main(["predict", str(model), str(album / "[ab]*"), "--box", "350", "200", "550", "400"]) == 2
    out, err = capsys.readouterr()
    assert "a two.jpg  " in out and "b none.png: box 350,200,550,400: lies outside of the 50x30 photo" in err
