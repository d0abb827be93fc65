"""What is written of photos: the table, the drawings; and which models write nothing."""

import json
from pathlib import Path

import hostile
import numpy as np
import pytest
from PIL import Image

import fer_scale
from fer_scale import drawn, predicted
from fer_scale.cuts import PredictError
from fer_scale.faces import YUNET
from fer_scale.predicted import Face, Photo
from shards.errors import UserError


def test_a_table_is_whole_or_not_there_whatever_ends_it(tmp_path: Path) -> None:
    file, photo = tmp_path / "a.csv", Photo("b\udcff.jpg", (0, 0), (), 0, "b\udcff.jpg: no such file")
    for wrong in (KeyboardInterrupt, BrokenPipeError):
        with pytest.raises(wrong), predicted.table(file, ["fear"]) as add:
            add(photo)
            raise wrong
        assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="is a folder"), predicted.table(tmp_path, ["fear"]):
        pytest.fail("said too late")
    with predicted.table(Path("/dev/null"), ["fear"]) as add:
        add(photo)
    assert not Path("/dev/null").is_file()
    with predicted.table(file, ["fear"]) as add:
        add(photo)
    assert r"b\udcff.jpg" in file.read_text() and len(list(tmp_path.iterdir())) == 1


def test_a_table_takes_the_place_of_a_table_alone(tmp_path: Path) -> None:
    photo, older = tmp_path / "a.jpg", tmp_path / "older.csv"
    photo.write_bytes(b"a photo that was named by a slip")
    with pytest.raises(UserError, match=r"a\.jpg: is there already, and no table of faces"), predicted.table(photo, []):
        pytest.fail("said too late")
    assert photo.read_bytes().startswith(b"a photo") and len(list(tmp_path.iterdir())) == 1
    older.touch()
    for _ in range(2):
        with predicted.table(older, ["fear"]) as add:
            add(Photo("a.jpg", (0, 0), ()))
    assert len(older.read_text().splitlines()) == 2


def test_a_drawing_that_does_not_fit_is_no_half_picture(small_disk: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    Image.fromarray(noise).save(small_disk.parent / "a.png")
    (small_disk / "full").write_bytes(bytes(3_000_000))
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        drawn.write(Photo(str(small_disk.parent / "a.png"), (1500, 1500), ()), small_disk, {})
    assert [file.name for file in small_disk.iterdir()] == ["full"]


def test_a_photo_whose_name_is_as_long_as_may_be_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / ("я" * 125 + ".png")  # 254 bytes
    Image.new("RGB", (48, 48)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(file)
    made = drawn.write(Photo(str(file), (48, 48), ()), tmp_path / "out", {})
    assert made.name == "я" * 100 + ".faces.jpg" and made.is_file()


def test_a_table_lies_where_a_link_leads_or_comes_row_by_row_where_stdout_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latest.csv").symlink_to("first.csv")
    (tmp_path / "stdout").symlink_to("/dev/stdout")
    for name in ("latest.csv", "stdout"):
        with predicted.table(tmp_path / name, ["fear"]) as add:
            print("said", flush=True)
            add(Photo("a.jpg", (0, 0), ()))
            print("more", flush=True)
        assert (tmp_path / name).is_symlink()
    table = (tmp_path / "first.csv").read_text().splitlines()
    assert table[1].startswith("a.jpg,0,0,") and len(list(tmp_path.iterdir())) == 3
    assert capfd.readouterr().out.splitlines() == ["said", "more", table[0], "said", table[1], "more"]


def test_photos_of_one_name_are_drawn_beside_one_another(tmp_path: Path) -> None:
    files, taken = [tmp_path / name for name in ("a/x.png", "b/x.png", "x.2.png", "c/x.jpg")], dict[str, int]()
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 48)).save(file)
    made = [drawn.write(Photo(str(file), (48, 48), ()), tmp_path / "out", taken).name for file in files]
    assert made == ["x.faces.jpg", "x.2.faces.jpg", "x.2.2.faces.jpg", "x.3.faces.jpg"]
    assert len(list((tmp_path / "out").iterdir())) == 4
    taken = {"x.faces.jpg": 1}  # the name of a photo that lies where is drawn
    assert drawn.write(Photo(str(files[0]), (48, 48), ()), tmp_path / "out", taken).name == "x.2.faces.jpg"


@pytest.mark.parametrize(("width", "height"), [(3, 4000), (1, 600), (4000, 3)])
def test_photos_as_thin_as_a_hair_are_drawn(width: int, height: int) -> None:
    said = Face((0, 0, width, height), 0.9, "happiness", 0.93, {})
    picture = drawn.draw(np.zeros((height, width, 3), np.uint8), Photo("a", (width, height), (said,), 1))
    assert picture.size == (width, height)


def test_a_photo_wider_than_a_jpeg_may_be_is_drawn_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (70_000, 20)).save(tmp_path / "wide.png")
    said = Face((0, 0, 70_000, 20), 0.9, "happiness", 0.93, {})
    made = drawn.write(Photo(str(tmp_path / "wide.png"), (70_000, 20), (said,), 1), tmp_path / "out", {})
    with Image.open(made) as picture:
        assert picture.size == (16_000, 5)


@pytest.mark.parametrize(("width", "height"), [(48, 48), (30, 400), (640, 480), (4000, 3000)])
def test_labels_can_be_read_on_photos_of_any_size(width: int, height: int) -> None:
    box = (0.1 * width, 0.02 * height, 0.5 * width, 0.4 * height)
    said = Face(box, 0.9, "happiness", 0.93, {})
    picture = drawn.draw(np.zeros((height, width, 3), np.uint8), Photo("a", (width, height), (said,), 1))
    assert max(picture.size) == max(480, width, height)
    yellow = (np.asarray(picture) == drawn._PAPER).all(2)
    rows = np.flatnonzero(yellow.mean(1) > 0.1)
    assert len(rows) >= max(10, max(picture.size) / 60)  # a label that is high enough to be read


def test_hostile_models_are_refused_here_as_well(tmp_path: Path) -> None:
    formula = {"label_names": ["neutral", "happiness", '=HYPERLINK("http://x")']}
    beside = {"fer_scale": {"face_boxes": {YUNET: [-1, -1, -0.5, -0.5]}}}
    for number, (wrong, says) in enumerate([(formula, "label_names is"), (beside, "face_boxes is")]):
        folder = hostile.sound(tmp_path / str(number))
        file = folder / "config.json"
        hostile.spoil(
            folder, lambda _, file=file, wrong=wrong: file.write_text(json.dumps(json.loads(file.read_text()) | wrong))
        )
        with pytest.raises(UserError, match=says):
            fer_scale.load(folder, faces="whole")
    with pytest.raises(PredictError, match="faces 'some': unknown"):
        fer_scale.load(folder, faces="some")  # type: ignore[arg-type]
