"""A set at a glance."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from shards.errors import ShardError
from shards.index import ShardSet
from shards.pack import pack
from shards.show import contact_sheet, show


def test_the_facts_are_those_of_the_index_without_the_list_of_shards(packed: ShardSet) -> None:
    facts = show(packed.path)
    assert facts["shards"] == len(packed.counts) and facts["fingerprint"] == packed.fingerprint
    assert facts["samples"] == 60 and facts["licence"] == "unknown"
    json.dumps(facts)


def test_the_sheet_shows_as_many_faces_as_asked_for_or_all(packed: ShardSet, tmp_path: Path) -> None:
    for count, columns, rows in ((9, 3, 3), (500, 8, 8)):
        contact_sheet(packed.path, tmp_path / "sheet.png", count)
        with Image.open(tmp_path / "sheet.png") as sheet:
            assert sheet.size == (4 + columns * 116, 4 + rows * 130)


def test_a_sheet_that_cannot_be_written_is_a_clear_error(packed: ShardSet, tmp_path: Path) -> None:
    for file in (tmp_path / "sheet.txt", tmp_path / "nowhere" / "sheet.png"):
        with pytest.raises(ShardError, match="cannot be written"):
            contact_sheet(packed.path, file)


def test_a_face_that_cannot_be_decoded_is_passed_over(faces: Path, tmp_path: Path) -> None:
    for number, file in enumerate(sorted(faces.rglob("*.*"))):
        data = bytearray(file.read_bytes())
        if number == 0:
            data[len(data) // 2] ^= 0x55
            file.write_bytes(data)
        elif number > 12:
            file.unlink()
    shards = pack(faces, tmp_path / "set", source="folder", workers=1, decode_check=False)
    assert shards.samples == 13
    contact_sheet(tmp_path / "set", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 + 4 * 116, 4 + 3 * 130), "of 12"


def test_a_set_of_nothing_that_can_be_decoded_has_no_sheet(tmp_path: Path, image: Callable[..., bytes]) -> None:
    data = bytearray(image(0, 24, "png"))
    data[len(data) // 2] ^= 0x55
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "1.png").write_bytes(data)
    pack(tmp_path / "src", tmp_path / "set", source="folder", workers=1, decode_check=False)
    with pytest.raises(ShardError, match="none of 64 images can be decoded; pack the set again, with the decode check"):
        contact_sheet(tmp_path / "set", tmp_path / "sheet.png")


def test_labeled_faces_stand_by_expression_with_a_box_of_their_own(faces: Path, tmp_path: Path) -> None:
    paths = sorted(str(path.relative_to(faces)) for path in faces.rglob("*.png"))
    names = ["fear", "neutral"] * 6
    lines = [{"path": p, "expression": e, "box": [0.2, 0.2, 0.8, 0.8]} for p, e in zip(paths, names, strict=True)]
    (faces / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pack(faces, tmp_path / "set", source="folder", workers=1)
    contact_sheet(tmp_path / "set", tmp_path / "sheet.png", 60)
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = sheet.getcolors(1 << 20) or []
    lime = sum(often for often, colour in colours if colour == (0, 255, 0))
    assert lime > 12 * 200
