"""Parquet in Hugging Face's layout, as their datasets and others write it."""

import errno
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from shards.errors import ShardError
from shards.pack import pack
from shards.sample import Face
from shards.sources import entries, parquet
from shards.sources.listing import Listing

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROOT = Path(__file__).parents[2]


def listed(src: Path) -> Listing:
    return entries("parquet", src, split=None, protocol="argmax")


def found(src: Path) -> list[tuple[str, bytes, str | None]]:
    return [(entry.origin, entry.read(), entry.identity) for entry in listed(src).entries]


def features(**columns: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": columns}}).encode()}


def write(file: Path, columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None, **how: Any) -> None:
    """A table; a column of pairs becomes a struct {bytes, path}."""
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    arrays = {
        name: pyarrow.array(values, image if isinstance(values[0], dict) else None) for name, values in columns.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pyarrow.table(arrays).replace_schema_metadata(metadata), file, **how)


def faces(first: int, count: int) -> list[dict[str, Any]]:
    return [{"bytes": b"image %d" % n, "path": f"{n}.jpg"} for n in range(first, first + count)]


@pytest.mark.parametrize("how", [{}, {"row_group_size": 3}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_rows_of_all_files_are_images_with_their_label_as_identity(tmp_path: Path, how: dict[str, Any]) -> None:
    write(
        tmp_path / "data" / "train-00001-of-00002.parquet", {"image": faces(10, 4), "label": [7, 7, None, 93430]}, **how
    )
    write(tmp_path / "data" / "train-00000-of-00002.parquet", {"image": faces(0, 2), "label": [0, 7]}, **how)
    (tmp_path / "README.md").write_text("a card")
    assert found(tmp_path) == [
        ("data/train-00000-of-00002.parquet#0", b"image 0", "0"),
        ("data/train-00000-of-00002.parquet#1", b"image 1", "7"),
        ("data/train-00001-of-00002.parquet#0", b"image 10", "7"),
        ("data/train-00001-of-00002.parquet#1", b"image 11", "7"),
        ("data/train-00001-of-00002.parquet#2", b"image 12", None),
        ("data/train-00001-of-00002.parquet#3", b"image 13", "93430"),
    ]
    assert [entry.size_bytes for entry in listed(tmp_path).entries] == [7, 7, 8, 8, 8, 8]
    assert not any(entry.face for entry in listed(tmp_path).entries)
    one = tmp_path / "data" / "train-00000-of-00002.parquet"
    assert found(one)[1] == ("train-00000-of-00002.parquet#1", b"image 1", "7")


@pytest.mark.parametrize(
    ("columns", "identities"),
    [
        ({"photo": faces(0, 2), "identity": ["Ada", "Lovelace"]}, ["Ada", "Lovelace"]),
        ({"jpg": [b"image 0", b"image 1"], "cls": [5, 6], "__key__": ["a", "b"]}, ["5", "6"]),
        ({"img": [b"image 0", b"image 1"], "mask": [b"0", b"1"]}, [None, None]),
        ({"image": pyarrow.array([b"image 0", b"image 1"], pyarrow.large_binary())}, [None, None]),
    ],
)
def test_columns_are_found_by_shape_or_name(tmp_path: Path, columns: dict[str, Any], identities: list[str]) -> None:
    write(tmp_path / "a.parquet", columns)
    assert found(tmp_path) == [(f"a.parquet#{n}", b"image %d" % n, who) for n, who in enumerate(identities)]


def test_classes_that_are_all_expressions_are_the_faces_expressions(tmp_path: Path) -> None:
    names = features(label={"names": ["Angry", "fear", "Happy"], "_type": "ClassLabel"})
    write(tmp_path / "a.parquet", {"image": faces(0, 4), "label": [2, 0, -1, 1]}, names)
    listing = listed(tmp_path)
    assert [entry.face for entry in listing.entries] == [Face("happiness"), Face("anger"), None, Face("fear")]
    assert [entry.identity for entry in listing.entries] == [None] * 4


def test_classes_that_are_people_are_told_by_name(tmp_path: Path) -> None:
    names = features(label={"names": ["n000001", "Fear"], "_type": "ClassLabel"}, image={"_type": "Image"})
    write(tmp_path / "a.parquet", {"image": faces(0, 3), "label": [1, 0, -1]}, names)
    assert [who for _, _, who in found(tmp_path)] == ["Fear", "n000001", None]
    assert not any(entry.face for entry in listed(tmp_path).entries)


def test_classes_of_which_some_are_expressions_are_refused(tmp_path: Path) -> None:
    names = features(label={"names": ["anger", "fear", "none", "no-face"], "_type": "ClassLabel"})
    write(tmp_path / "a.parquet", {"image": faces(0, 1), "label": [1]}, names)
    with pytest.raises(ShardError, match=r"a\.parquet: of its classes none, no-face are no expressions; take them"):
        listed(tmp_path)


def test_a_label_that_is_none_of_the_classes_is_refused(tmp_path: Path) -> None:
    names = features(label={"names": ["Ada", "Grace"], "_type": "ClassLabel"})
    write(tmp_path / "a.parquet", {"image": faces(0, 3), "label": [1, 2, None]}, names)
    with pytest.raises(ShardError, match=r"a\.parquet: label 2 is none of its 2 classes"):
        listed(tmp_path)


def test_rows_without_an_image_are_named(tmp_path: Path) -> None:
    rows = [{"bytes": None, "path": "/data/1.jpg"}, *faces(1, 2), None]
    write(tmp_path / "a.parquet", {"image": rows, "label": [1, 2, 3, 4]})
    assert [(origin, who) for origin, _, who in found(tmp_path)] == [("a.parquet#1", "2"), ("a.parquet#2", "3")]
    left_out = [(left.path, left.reason, left.counts) for left in listed(tmp_path).left_out]
    assert left_out == [(f"a.parquet#{n}", "no bytes of an image in this row", True) for n in (0, 3)]


def test_many_processes_pack_a_parquet_file_and_nothing_is_left_in_tmpdir(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    image: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scratch = tmp_path_factory.mktemp("t")  # of a short name: sockets lie in it, whose paths have 107 letters at most
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    images = [image(n) for n in range(60)]
    rows = [{"bytes": data, "path": None} for data in images]
    write(tmp_path / "a.parquet", {"image": rows, "label": [n // 6 for n in range(60)]}, row_group_size=7)
    shards = pack(tmp_path / "a.parquet", tmp_path / "set", source="parquet", name="a", shard_mb=0.016, workers=2)
    origins = [origin for shard in range(len(shards.counts)) for origin in shards.origins(shard)]
    packed = {origin: sample.image for origin, sample in zip(origins, shards.samples_in_order(), strict=True)}
    assert packed == {f"a:a.parquet#{n}": data for n, data in enumerate(images)}
    assert len(shards.counts) > 3 and shards.index["identities"] == 10
    assert [file.name for file in scratch.iterdir() if not file.name.startswith("pymp-")] == []


def test_an_entry_is_read_after_its_listing_and_travels(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": faces(0, 9)})
    entry = listed(tmp_path).entries[8]
    assert entry.read() == b"image 8" == pickle.loads(pickle.dumps(entry)).read()


@pytest.mark.parametrize("rows_a_group", [100, 16_000])
def test_a_file_is_read_in_little_memory_whatever_its_groups(tmp_path: Path, rows_a_group: int) -> None:
    """64 MB of images; the most memory that a process has had is what VmHWM says."""
    rows = [{"bytes": os.urandom(4000), "path": None} for _ in range(16_000)]
    write(tmp_path / "a.parquet", {"image": rows}, row_group_size=rows_a_group)
    code = """if True:
        import re, sys
        from pathlib import Path
        from shards.sources import entries
        most = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
        before = most()
        print(len(entries("parquet", Path(sys.argv[1]), split=None, protocol="argmax").entries), most() - before)
    """
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    images, more_kb = map(int, said.stdout.split())
    assert images == 16_000 and more_kb < 72_000  # 98,000 and more where a group or the file is held


def test_a_disk_that_is_full_while_unpacking_is_said(tmp_path: Path) -> None:
    """By a limit on the size of a process's files, which is the same to it."""
    write(tmp_path / "a.parquet", {"image": [{"bytes": os.urandom(1000), "path": None} for _ in range(5000)]})
    code = """if True:
        import resource, signal, sys
        from pathlib import Path
        from shards.sources import entries
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        try:
            entries("parquet", Path(sys.argv[1]), split=None, protocol="argmax")
        except ValueError as error:
            print(type(error).__name__, error)
    """
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.startswith(f"ShardError {tmp_path}: must be unpacked into a temporary file of about 0.01 GB")
    assert "there was no room for it in" in said.stdout and said.stderr == ""


def test_where_no_temporary_file_can_be_made_that_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", {"image": faces(0, 1)})
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    with pytest.raises(ShardError, match=r"none can be made \(Read-only file system\); set TMPDIR to a folder"):
        listed(tmp_path)  # what __del__ raised would be a warning here, and warnings are errors


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": faces(0, 2), "mask": faces(2, 2)},
            r"several columns of images \(.*\) among image, mask; leave it one",
        ),
        (
            {"pixels": [b"1", b"2"], "label": [1, 2]},
            r"no column of images \(image: {bytes, path}\) among pixels, label",
        ),
        ({"image": [{"bytes": None, "path": "a"}] * 2}, "no images in its files; rows that only tell a path have none"),
    ],
)
def test_files_without_one_column_of_images_are_refused(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(ShardError, match=message):
        listed(tmp_path)


def test_files_of_two_datasets_in_a_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": faces(0, 1), "label": [1]})
    write(tmp_path / "b.parquet", {"image": faces(0, 1), "label": [1]}, features(label={"names": ["a", "b"]}))
    with pytest.raises(ShardError, match=r"b\.parquet: other columns or classes than .*a\.parquet; pack the datasets"):
        listed(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no \.parquet in it"):
        listed(tmp_path)
    file = tmp_path / "a.parquet"
    write(file, {"image": [{"bytes": b"x" * 9000, "path": ""}]}, compression="none", use_dictionary=False)
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    with pytest.raises(ShardError, match=r"a\.parquet: not a whole parquet file \(.*\); get it again"):
        listed(tmp_path)
    file.write_bytes(data[:4] + bytes(200) + data[204:])  # a page's header; the next, a bit of its content
    with pytest.raises(ShardError, match=r"a\.parquet: not a whole parquet file \(.*\); get it again"):
        listed(tmp_path)
    write(file, {"image": faces(0, 9)}, compression="none", use_dictionary=False, write_page_checksum=True)
    file.write_bytes(file.read_bytes().replace(b"image 7", b"image 6"))
    with pytest.raises(ShardError, match=r"a\.parquet: not a whole parquet file \(.*CRC.*\); get it again"):
        listed(tmp_path)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "pyarrow", None)
    with pytest.raises(ShardError, match=r"needs pyarrow: pip install 'fer_scale\[parquet\]'"):
        listed(tmp_path)


@pytest.mark.parametrize("labels", [[[1], [2, 3]], [{"id": 1}, {"id": 2}]])
def test_a_label_of_several_parts_is_refused(tmp_path: Path, labels: list[Any]) -> None:
    table = pyarrow.table({"jpg": pyarrow.array([b"one", b"two"]), "label": pyarrow.array(labels)})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        ShardError, match=r"a\.parquet: its column label holds (list|struct)<.*>; a label is a number or"
    ):
        listed(tmp_path)


def test_folders_that_are_called_as_files_and_what_a_mac_puts_beside_them_are_none(tmp_path: Path) -> None:
    write(tmp_path / "data.parquet" / "part-0.parquet", {"image": faces(0, 2)})
    (tmp_path / "data.parquet" / "._part-0.parquet").write_bytes(b"no parquet")
    assert [image for _, image, _ in found(tmp_path)] == [b"image 0", b"image 1"]


def test_files_behind_a_link_are_read_but_none_that_are_hidden(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write(tmp_path / "far" / "a.parquet", {"image": faces(0, 1)})
    write(src / "b.parquet", {"image": faces(1, 1)})
    write(src / ".Trash-1000" / "c.parquet", {"image": faces(2, 1)})
    (src / "a").symlink_to(tmp_path / "far")
    (src / "circle").symlink_to(src)
    assert [(origin, image) for origin, image, _ in found(src)] == [
        ("a/a.parquet#0", b"image 0"),
        ("b.parquet#0", b"image 1"),
    ]
