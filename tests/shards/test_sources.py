"""What the sources list: by which identity, with which label, and what they leave out."""

import csv
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.expressions import FERPLUS_COLUMNS
from shards.sample import Face
from shards.sources import entries
from shards.sources.ferplus import expression_of
from shards.sources.listing import Entry, Listing


def listed(source: str, src: Path, split: str | None = None, protocol: str = "argmax") -> Listing:
    return entries(source, src, split=split, protocol=protocol)


def origins(listing: Listing) -> list[str]:
    return [entry.origin for entry in listing.entries]


def reasons(listing: Listing) -> dict[str, str]:
    return {left.path: left.reason for left in listing.left_out}


def touch(path: Path, data: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ------------------------------------------------------------------------------------------------ folder


def test_folder_takes_the_first_level_as_identity_and_any_nesting(tmp_path: Path) -> None:
    for path in ("b/1.jpg", "a/deep/er/2.PNG", "a/0.jpeg", "top.webp", "a/no_ending"):
        touch(tmp_path / path, path.encode())
    listing = listed("folder", tmp_path)
    identities = {entry.origin: entry.identity for entry in listing.entries}
    assert identities == {"a/0.jpeg": "a", "a/deep/er/2.PNG": "a", "a/no_ending": "a", "b/1.jpg": "b", "top.webp": None}
    assert all(entry.read() == entry.origin.encode() for entry in listing.entries)
    assert all(entry.size_bytes == len(entry.origin) and entry.face is None for entry in listing.entries)
    assert [entry.origin for entry in listing.entries[1:3]] == origins(listing)[1:3]


def test_folder_names_files_that_are_no_images_without_counting_them(tmp_path: Path) -> None:
    for path in ("a/1.jpg", "a/readme.txt", ".DS_Store", "a/._1.jpg"):
        touch(tmp_path / path)
    listing = listed("folder", tmp_path)
    assert set(reasons(listing)) == {"a/readme.txt", ".DS_Store", "a/._1.jpg"}
    assert not any(left.counts for left in listing.left_out)


def test_hidden_folders_are_named_and_not_walked(tmp_path: Path) -> None:
    for path in ("a/1.jpg", ".snapshot/hourly.0/a/1.jpg", "a/.ipynb_checkpoints/1-checkpoint.jpg"):
        touch(tmp_path / path)
    listing = listed("folder", tmp_path)
    assert origins(listing) == ["a/1.jpg"]
    assert set(reasons(listing)) == {".snapshot", "a/.ipynb_checkpoints"}


def test_two_labels_that_contradict_each_other_are_refused_and_a_label_said_twice_is_one(tmp_path: Path) -> None:
    touch(tmp_path / "1.jpg")
    lines = ['{"path": "1.jpg", "expression": "fear"}', '{"path": "./1.jpg", "expression": "fear"}']
    touch(tmp_path / "labels.jsonl", "\n".join(lines).encode())
    assert [entry.face for entry in listed("folder", tmp_path).entries] == [Face("fear")]
    touch(tmp_path / "labels.jsonl", "\n".join([*lines, '{"path": "1.jpg"}']).encode())
    with pytest.raises(ShardError, match=r"labels\.jsonl:3: another line says otherwise of 1\.jpg"):
        listed("folder", tmp_path)


def test_folder_follows_links_but_not_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "1.jpg")
    src = tmp_path / "src"
    touch(src / "a" / "2.jpg")
    os.symlink(tmp_path / "elsewhere", src / "b")
    os.symlink(src, src / "a" / "circle")
    os.symlink("nowhere", src / "a" / "3.jpg")
    listing = listed("folder", src)
    assert origins(listing) == ["a/2.jpg", "a/3.jpg", "b/1.jpg"]


def test_folder_reads_labels_of_ones_own(tmp_path: Path) -> None:
    for path in ("a/1.jpg", "a/2.jpg", "a/3.jpg"):
        touch(tmp_path / path)
    lines = [
        {"path": "a/1.jpg", "expression": "fear"},
        {"path": "./a/2.jpg", "expression": "anger", "box": [0, 0.1, 0.5, 1], "more": 1},
        {"path": "a/gone.jpg", "expression": "anger"},
    ]
    touch(tmp_path / "labels.jsonl", "\n".join(map(json.dumps, lines)).encode())
    listing = listed("folder", tmp_path)
    faces = [entry.face for entry in listing.entries]
    assert faces[0] == Face("fear")
    assert faces[1] == Face("anger", None, (0.0, 0.1, 0.5, 1.0), "annotation")
    assert faces[2] is None
    assert reasons(listing) == {"a/gone.jpg": "labels.jsonl names it, but there is no such image"}
    assert listing.left_out[0].counts


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"expression": "fear"}', 'has no "path"'),
        ('{"path": "a", "expression": "sad"}', "sadness"),
        ("x", "Expecting"),
    ],
)
def test_a_wrong_label_is_named_by_its_line(tmp_path: Path, line: str, message: str) -> None:
    touch(tmp_path / "1.jpg")
    touch(tmp_path / "labels.jsonl", f'{{"path": "1.jpg"}}\n{line}\n'.encode())
    with pytest.raises(ShardError, match=rf"labels.jsonl:2: .*{message}"):
        listed("folder", tmp_path)


def test_a_folder_that_is_empty_or_without_images_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="empty; SRC is the folder above"):
        listed("folder", tmp_path)
    touch(tmp_path / "notes.txt")
    with pytest.raises(ShardError, match="no images in it"):
        listed("folder", tmp_path)
    with pytest.raises(ShardError, match="not a folder"):
        listed("folder", tmp_path / "notes.txt")


# ------------------------------------------------------------------------------------------------ FERPlus


def ferplus(src: Path, rows: list[tuple[str, str, list[int]]], images: list[str]) -> None:
    """A folder in FERPlus's layout: rows of usage, name and ten votes."""
    src.mkdir(exist_ok=True)
    with (src / "fer2013new.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Usage", "Image name", *FERPLUS_COLUMNS])
        writer.writerows([usage, name, *votes] for usage, name, votes in rows)
    for image in images:
        touch(src / image)


def votes(**counts: int) -> list[int]:
    return [counts.get(column, 0) for column in FERPLUS_COLUMNS]


def test_ferplus_is_joined_by_name_and_the_last_row_of_a_name_counts(tmp_path: Path) -> None:
    rows = [
        ("Training", "", votes(anger=10)),
        ("Training", "fer0000002.png", votes(fear=6, neutral=4)),
        ("Training", "fer0000001.png", votes(NF=10)),
        ("Training", "fer0000001.png", votes(happiness=9, unknown=1)),
        ("PrivateTest", "fer0000003.png", votes(anger=10)),
    ]
    ferplus(tmp_path, rows, ["FER2013Train/fer0000001.png", "FER2013Train/fer0000002.png"])
    listing = listed("ferplus", tmp_path)
    assert [(entry.origin, entry.face) for entry in listing.entries] == [
        ("FER2013Train/fer0000001.png", Face("happiness", {"happiness": 9, "unknown": 1})),
        ("FER2013Train/fer0000002.png", Face("fear", {"neutral": 4, "fear": 6})),
    ]
    assert listing.protocol == "argmax" and not listing.left_out


def test_ferplus_names_what_it_leaves_out_and_counts_only_what_is_missing(tmp_path: Path) -> None:
    rows = [
        ("Training", "1.png", votes(fear=6)),
        ("Training", "2.png", votes(NF=6, fear=4)),
        ("Training", "3.png", votes(fear=6)),
    ]
    ferplus(tmp_path, rows, ["FER2013Train/1.png", "FER2013Train/2.png", "FER2013Train/4.png"])
    (tmp_path / "FER2013Train" / "label.csv").write_text("not an image")
    listing = listed("ferplus", tmp_path, split="train")
    assert {left.path: left.counts for left in listing.left_out} == {
        "FER2013Train/2.png": False,
        "FER2013Train/3.png": True,
        "FER2013Train/4.png": True,
    }


@pytest.mark.parametrize(
    ("counted", "argmax", "majority"),
    [
        (votes(happiness=6, neutral=4), "happiness", "happiness"),
        (votes(happiness=5, neutral=5), "neutral", None),  # the first column wins a tie; half is no majority
        (votes(happiness=4, neutral=1, fear=1, anger=1, disgust=1, sadness=1, surprise=1), "happiness", "happiness"),
        (votes(unknown=5, fear=4), None, None),
        (votes(fear=4, unknown=4), "fear", None),
        (votes(NF=10), None, None),
        (votes(), None, None),
        (votes(fear=1), "fear", None),
    ],
)
def test_protocols_make_an_expression_of_votes(counted: list[int], argmax: str | None, majority: str | None) -> None:
    assert expression_of(counted, "argmax") == argmax
    assert expression_of(counted, "majority") == majority


def test_ferplus_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no folder FER2013Train, FER2013Valid, FER2013Test"):
        listed("ferplus", tmp_path)
    touch(tmp_path / "FER2013Train" / "1.png")
    with pytest.raises(ShardError, match="no folder FER2013Test in it"):
        listed("ferplus", tmp_path, split="test")
    with pytest.raises(ShardError, match=r"fer2013new\.csv: missing"):
        listed("ferplus", tmp_path)
    touch(tmp_path / "fer2013new.csv", b"emotion,pixels,Usage\n0,1 2 3,Training\n")
    with pytest.raises(ShardError, match=r"not FERPlus's fer2013new\.csv"):
        listed("ferplus", tmp_path)


# ------------------------------------------------------------------------------------------------ tar


def make_tar(path: Path, members: list[tuple[str, bytes]], **how: int) -> None:
    with tarfile.open(path, "w", **how) as tar:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mtime = 1.5  # type: ignore[assignment]  # as webdataset writes: an extended header each
            tar.addfile(info, io.BytesIO(data))


def test_tars_give_images_with_their_identity_and_face(tmp_path: Path) -> None:
    face = b'{"expression": "fear", "votes": {"fear": 3}, "camera": "x"}'
    members = [
        ("train/0001.jpg", b"one"),
        ("train/0001.cls", b"17\n"),
        ("train/0002.json", face),
        ("train/0002.png", b"second"),
        ("train/0003.JPEG", b"3rd"),
        ("train/0003.json", b'{"camera": "y"}'),
        ("train/0004.webp", b"4"),
        ("train/0004.caption.txt", b"nice"),
    ]
    make_tar(tmp_path / "a.tar", members, format=tarfile.PAX_FORMAT)
    make_tar(tmp_path / "b.tar", [("0001.jpg", b"other")])
    found = listed("tar", tmp_path)
    assert [(e.origin, e.read(), e.identity) for e in found.entries] == [
        ("a.tar/train/0001.jpg", b"one", "17"),
        ("a.tar/train/0002.png", b"second", None),
        ("a.tar/train/0003.JPEG", b"3rd", None),
        ("a.tar/train/0004.webp", b"4", None),
        ("b.tar/0001.jpg", b"other", None),
    ]
    faces: list[Face | None] = [entry.face for entry in found.entries]
    assert faces == [None, Face("fear", {"fear": 3.0}), None, None, None]
    assert origins(listed("tar", tmp_path / "b.tar")) == ["b.tar/0001.jpg"]


def test_samples_of_a_tar_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    members = [
        ("1.jpg", b"1"),
        ("2.txt", b"2"),
        ("3.jpg", b"3"),
        ("3.png", b"3"),
        ("4.jpg", b"4"),
        ("4.json", b'{"expression": "glee"}'),
    ]
    make_tar(tmp_path / "a.tar", members)
    found = listed("tar", tmp_path)
    assert origins(found) == ["a.tar/1.jpg"]
    named = reasons(found)
    assert list(named) == ["a.tar/2", "a.tar/3.jpg", "a.tar/3.png", "a.tar/4.jpg"]
    assert "unknown expression 'glee'" in named["a.tar/4.jpg"]
    assert all(left.counts for left in found.left_out)


def test_every_image_whose_key_ends_too_early_in_its_name_is_counted(tmp_path: Path) -> None:
    names = [f"a.b/J.K._Rowling_{n:04d}.JPG" for n in range(1, 4)]
    make_tar(tmp_path / "a.tar", [(name, b"1") for name in ["1.jpg", "1.mask.png", *names, "a.b/2.gif"]])
    found = listed("tar", tmp_path)
    assert origins(found) == ["a.tar/1.jpg"]
    assert [left.path for left in found.left_out] == [f"a.tar/{name}" for name in [*names, "a.b/2.gif"]]
    assert all(left.counts for left in found.left_out)
    early, gif = {left.reason for left in found.left_out[:3]}, found.left_out[3].reason
    (why,) = early
    assert why.startswith("the key ends at the first dot") and "--source folder" in why
    assert gif == "no image in this sample"


@pytest.mark.parametrize("pair", [("2.jpg", "2.jpg"), ("2.jpg", "2.JPG")])
def test_of_two_images_of_one_name_in_a_tar_neither_is_lost_in_silence(tmp_path: Path, pair: tuple[str, str]) -> None:
    make_tar(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.txt", b"a"), ("1.txt", b"b"), (pair[0], b"2"), (pair[1], b"3")])
    found = listed("tar", tmp_path)
    assert origins(found) == ["a.tar/1.jpg"]  # what is not read may stand there twice
    assert [left.path for left in found.left_out] == [f"a.tar/{name}" for name in pair]
    assert all(left.counts and left.reason.startswith("two members of one name (.jpg)") for left in found.left_out)


@pytest.mark.parametrize("damage", ["header", "inside a header", "between members", "inside a member"])
def test_a_damaged_tar_is_an_error_where_tarfile_says_nothing(tmp_path: Path, damage: str) -> None:
    tar = tmp_path / "a.tar"
    make_tar(tar, [(f"{n:04d}.jpg", bytes([n]) * 700) for n in range(50)], format=tarfile.USTAR_FORMAT)
    data = bytearray(tar.read_bytes())
    place = 20 * 1536
    if damage == "header":
        data[place + 5] ^= 0x55
    else:
        del data[place + {"inside a header": 100, "between members": 0, "inside a member": 800}[damage] :]
    tar.write_bytes(data)
    with pytest.raises(ShardError, match=r"a\.tar: (damaged or cut short at byte 30720|not a whole tar)"):
        listed("tar", tmp_path)


def test_what_is_no_tar_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no \.tar in it; SRC is the folder of the tars"):
        listed("tar", tmp_path)
    touch(tmp_path / "a.tar.gz")
    with pytest.raises(ShardError, match=r"a\.tar\.gz: not a whole tar"):
        listed("tar", tmp_path)
    (tmp_path / "a.tar.gz").unlink()
    touch(tmp_path / "b.tar", b"\x1f\x8b" + bytes(2000))
    with pytest.raises(ShardError, match="not a whole tar"):
        listed("tar", tmp_path)
    make_tar(tmp_path / "b.tar", [])
    with pytest.raises(ShardError, match="no images in its tars"):
        listed("tar", tmp_path)


def test_entries_travel_to_other_processes(faces: Path) -> None:
    entry: Entry = pickle.loads(pickle.dumps(listed("folder", faces).entries[3]))
    assert entry.read() == (faces / entry.origin).read_bytes()
