"""Exact copies: kept, dropped, dropped where labels contradict each other, or listed; the same for any workers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_scale.finetune.split import split
from shards import copies
from shards.errors import ShardError
from shards.index import ShardSet
from shards.pack import pack

Contents = Callable[[Path], dict[str, bytes]]
Picture = Callable[..., bytes]

# Which picture lies at a path (the same number: a copy), and which expression it has.
LAID = {
    "a/1.png": (1, "fear"),
    "a/2.png": (2, "fear"),
    "b/1.png": (1, "fear"),
    "b/2.png": (2, "anger"),
    "b/3.png": (3, None),
    "c/1.png": (1, None),
    "c/2.png": (2, None),
    "c/3.png": (3, "neutral"),
    "c/4.png": (4, "sadness"),
    "c/5.png": (5, None),
}
NO_1 = "the same pixels as a/1.png"
NO_2 = ", and of them the labels anger, fear"


@pytest.fixture
def laid(tmp_path: Path, image: Picture) -> Path:
    """A folder as LAID says, and a broken file twice."""
    src, labels = tmp_path / "src", []
    for path, (number, expression) in LAID.items():
        (src / path).parent.mkdir(parents=True, exist_ok=True)
        (src / path).write_bytes(image(number, 20, "png"))
        if expression:
            labels.append(json.dumps({"path": path, "expression": expression}))
    for name in ("c/broken.png", "c/broken_too.png"):
        (src / name).write_bytes(b"no picture")
    (src / "labels.jsonl").write_text("\n".join(labels))
    return src


def packing(src: Path, out: Path, **how: Any) -> ShardSet:
    return pack(src, out, **{"source": "folder", "name": "made-up", "workers": 1, "max_left_out": "2"} | how)


def origins(shards: ShardSet) -> list[str]:
    return sorted(origin.partition(":")[2] for k in range(len(shards.counts)) for origin in shards.origins(k))


def reasons(shards: ShardSet) -> dict[str, str]:
    lines = (shards.path / "left_out.jsonl").read_text().splitlines()
    return {line["path"]: line["reason"] for line in map(json.loads, lines)}


BROKEN = {"c/broken.png": "not an image", "c/broken_too.png": "not an image"}
DROPPED = {
    "a/2.png": f"the same pixels as b/2.png{NO_2}",
    "b/1.png": NO_1,
    "b/2.png": f"the same pixels as a/2.png{NO_2}",
    "c/1.png": NO_1,
    "c/2.png": f"the same pixels as a/2.png{NO_2}",
    "b/3.png": "the same pixels as c/3.png",  # which has a label
}
CONFLICTS = {path: reason for path, reason in DROPPED.items() if path.endswith("2.png")}


@pytest.mark.parametrize(("mode", "gone"), [("keep", {}), ("report", {}), ("drop", DROPPED), ("conflicts", CONFLICTS)])
def test_which_copies_stay_and_why_the_others_do_not(laid: Path, tmp_path: Path, mode: str, gone: Any) -> None:
    shards = packing(laid, tmp_path / "set", duplicates=mode)
    assert origins(shards) == [path for path in LAID if path not in gone]
    assert reasons(shards) == gone | BROKEN
    counted = {"the same pixels as another": len(gone)} if gone else {}
    assert shards.index["left_out"] == {"not an image": 2} | counted
    assert (shards.path / "duplicates.jsonl").exists() == (mode == "report")


def test_a_report_lists_the_groups_with_their_expressions(laid: Path, tmp_path: Path) -> None:
    shards = packing(laid, tmp_path / "set", duplicates="report", shard_mb=0.005)
    assert len(shards.counts) > 2
    lines = (shards.path / "duplicates.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"paths": ["a/1.png", "b/1.png", "c/1.png"], "expressions": ["fear", "fear", None]},
        {"paths": ["a/2.png", "b/2.png", "c/2.png"], "expressions": ["fear", "anger", None]},
        {"paths": ["b/3.png", "c/3.png"], "expressions": [None, "neutral"]},
    ]


@pytest.mark.parametrize("mode", ["drop", "conflicts", "report"])
def test_the_number_of_workers_changes_no_byte(
    laid: Path, tmp_path: Path, read_folder: Contents, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", 3)
    one, two = (packing(laid, tmp_path / f"{n}", duplicates=mode, workers=n) for n in (1, 2))
    assert read_folder(one.path) == read_folder(two.path)


def test_keys_have_no_gaps_where_copies_were(laid: Path, tmp_path: Path) -> None:
    for path in BROKEN:
        (laid / path).unlink()
    shards = packing(laid, tmp_path / "set", duplicates="drop")
    assert shards.keys(0) == [f"{number:09d}" for number in range(4)]


def test_dropped_copies_do_not_count_against_the_budget(laid: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="2 of 6 images cannot be packed, 1 may be left out"):
        packing(laid, tmp_path / "set", duplicates="drop", max_left_out="1")


def test_copies_are_of_pixels_as_they_are_packed(laid: Path, tmp_path: Path) -> None:
    """The first of them is copied as a bmp."""

    Image.open(laid / "a" / "1.png").save(laid / "z.bmp")
    shards = packing(laid, tmp_path / "set", duplicates="drop", transcode=True)
    assert reasons(shards)["z.bmp"] == NO_1


def test_nothing_but_contradictions_makes_no_set(tmp_path: Path, image: Picture) -> None:
    src = tmp_path / "src"
    src.mkdir()
    for name in ("1.png", "2.png"):
        (src / name).write_bytes(image(1, 20, "png"))
    lines = ['{"path": "1.png", "expression": "fear"}', '{"path": "2.png", "expression": "anger"}']
    (src / "labels.jsonl").write_text("\n".join(lines))
    with pytest.raises(ShardError, match=r"no image is left.*the same pixels as 2\.png"):
        packing(src, tmp_path / "set", duplicates="conflicts")


def test_progress_goes_through_both_passes(laid: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    packing(laid, tmp_path / "set", duplicates="drop", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [*range(1, 19), 18]
    assert [total for _, total in seen] == [24] * 12 + [18] * 7


def test_nothing_is_left_of_hashes_that_were_not_finished(
    laid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, data: bytes) -> str:
        path.write_bytes(data[:7])
        raise KeyboardInterrupt

    at = tmp_path / "set.unfinished"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(copies, "write_through", killed)
        packing(laid, tmp_path / "set", duplicates="drop")
    assert len(list((at / "parts").iterdir())) == 1 and list((at / "hashes").iterdir()) == []
    with pytest.raises(ShardError, match="cannot be packed"):
        packing(laid, tmp_path / "set", duplicates="drop", max_left_out="1")
    assert list((at / "parts").iterdir()) == []


def test_groups_are_found_among_many(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (5000, 16), dtype=np.uint8)
    hashes[[7, 4000, 12]] = hashes[3000]
    hashes[2500, 8:] = hashes[2499, 8:]  # half of a hash is no copy
    hashes[[50, 60, 70], :8] = hashes[80, :8]
    hashes[70, 8:] = hashes[50, 8:]
    hashes[[100, 200]] = 0  # could not be decoded
    hashes[4999] = hashes[0]
    assert list(copies.groups(hashes)) == [[0, 4999], [7, 12, 3000, 4000], [50, 70]]
    assert list(copies.groups(hashes[:1])) == []


def test_two_faces_of_one_picture_are_no_copies_of_each_other(tmp_path: Path, image: Picture) -> None:
    """As in AffectNet: each has its own box and expression."""
    rows = [("a", "fear", [0, 0, 0.5, 0.5]), ("b", "anger", [0.5, 0.5, 1, 1]), ("c", "fear", [0, 0, 0.5, 0.51])]
    (tmp_path / "src").mkdir()
    for name, _, _ in rows:
        (tmp_path / "src" / f"{name}.png").write_bytes(image(1, 20, "png"))
    lines = [json.dumps({"path": f"{name}.png", "expression": said, "box": box}) for name, said, box in rows]
    (tmp_path / "src" / "labels.jsonl").write_text("\n".join(lines))
    shards = packing(tmp_path / "src", tmp_path / "set", duplicates="drop")
    assert origins(shards) == ["a.png", "b.png"] and list(reasons(shards)) == ["c.png"]
    drawn = split(tmp_path / "set", labels="100%", seed=0, out=tmp_path / "split.json")
    assert drawn["excluded"] == [] and len(drawn["labeled"]) == 2
