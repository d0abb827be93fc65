"""The drawn faces are what the demo claims: reproducible, of strangers, evenly spread, with boxes around the face."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_scale.demo import draw as drawing
from fer_scale.demo.draw import draw
from fer_scale.demo.face import ACTIONS, SIDE_PX, Actions, Person, act, draw_face, person
from shards.errors import UserError
from shards.expressions import EXPRESSIONS


def small(out: Path, **changes: int) -> dict[str, bytes]:
    """Draws a few faces into `out`; every file's bytes by its path."""
    draw(out, **({"unlabeled": 23, "labeled": 16, "workers": 1} | changes))
    return {str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.*"))}


def test_the_same_seed_draws_the_same_bytes_with_any_number_of_workers(tmp_path: Path) -> None:
    assert small(tmp_path / "one", workers=1) == small(tmp_path / "two", workers=2)


def test_another_seed_and_another_folder_draw_other_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[Person]()
    monkeypatch.setattr(drawing, "person", lambda rng: seen.append(person(rng)) or seen[-1])
    for seed in (0, 1):
        for folder in drawing.FOLDERS:
            for number in range(4):
                drawing._draw_person(tmp_path / str(seed), seed, drawing.Task(folder, number, 2))
    assert len(seen) == len(set(seen)) == 16


def test_a_smaller_drawing_is_the_beginning_of_a_larger_one(tmp_path: Path) -> None:
    few, more = small(tmp_path / "few", unlabeled=10), small(tmp_path / "more", unlabeled=40)
    assert all(more[name] == data for name, data in few.items() if name.startswith("unlabeled"))


def test_labels_name_every_picture_once_and_every_expression_equally_often(tmp_path: Path) -> None:
    files = small(tmp_path / "faces")
    rows = [json.loads(line) for line in files["labeled/labels.jsonl"].splitlines()]
    pictures = [name for name in files if name.startswith("labeled/") and name.endswith(".jpg")]
    assert sorted(f"labeled/{row['path']}" for row in rows) == pictures
    assert Counter(row["expression"] for row in rows) == dict.fromkeys(EXPRESSIONS, 2)


def test_of_nobody_with_a_label_there_are_two_pictures_so_that_any_split_tests_on_strangers(tmp_path: Path) -> None:
    people = [name.split("/")[1] for name in small(tmp_path / "faces") if name.startswith("labeled/0")]
    assert len(people) == len(set(people)) == 16


def test_there_are_as_many_pictures_as_were_asked_for(tmp_path: Path) -> None:
    assert sum(name.startswith("unlabeled") for name in small(tmp_path / "faces")) == 23


def test_drawing_over_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        draw(tmp_path)


def test_the_box_holds_the_face_and_little_else() -> None:
    boxes = []
    for number in range(40):
        rng = np.random.default_rng(number)
        picture, box = draw_face(person(rng), Actions(), rng)
        assert picture.size == (SIDE_PX, SIDE_PX) and picture.mode == "RGB"
        boxes.append(box)
    x1, y1, x2, y2 = np.median(np.array(boxes), axis=0)
    assert (x1 + x2) / 2 == pytest.approx(0.5, abs=0.02) and (y1 + y2) / 2 == pytest.approx(0.5, abs=0.02)
    assert 0.6 < x2 - x1 < 0.8 and 0.75 < y2 - y1 < 0.95


def test_the_box_goes_with_the_head() -> None:
    """Of a face in a colour that is nowhere else."""
    apart = []
    for number in range(60):
        rng = np.random.default_rng(number)
        picture, (x1, _, x2, _) = draw_face(replace(person(rng), skin=(250, 0, 250), beard=False), Actions(), rng)
        red, green = np.asarray(picture, int)[..., 0], np.asarray(picture, int)[..., 1]
        if (columns := np.flatnonzero((red - green > 80).any(axis=0))).size:  # else it is one of the grey ones
            apart.append((SIDE_PX * x1 - columns[0], SIDE_PX * x2 - columns[-1] - 1))
    assert len(apart) > 30 and np.median(np.abs(apart), axis=0).max() < 1.5


def test_every_expression_has_actions_of_its_own() -> None:
    assert tuple(ACTIONS) == EXPRESSIONS
    assert len(set(ACTIONS.values())) == len(EXPRESSIONS)


def test_an_expression_is_shown_more_or_less_strongly_and_never_quite_purely() -> None:
    rng = np.random.default_rng(0)
    curves = [act("happiness", rng).mouth_curve for _ in range(500)]
    assert np.mean(curves) == pytest.approx(0.875 * 1.6, abs=0.02)  # the middle of U(.75, 1), times 1.6
    raises = [act("neutral", rng).brow_raise for _ in range(500)]
    assert np.std(raises) == pytest.approx(0.06, abs=0.01)


def test_a_quarter_of_the_pictures_is_grey() -> None:
    grey = 0
    for number in range(200):
        rng = np.random.default_rng(number)
        pixels = np.asarray(draw_face(person(rng), Actions(), rng)[0])
        grey += bool((pixels == pixels[:, :, :1]).all())
    assert 30 <= grey <= 70


def test_pictures_are_jpeg_that_any_program_opens(tmp_path: Path) -> None:
    small(tmp_path / "faces")
    with Image.open(tmp_path / "faces/unlabeled/00001/0007.jpg") as image:
        assert image.format == "JPEG"
