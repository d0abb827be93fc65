"""A source that cannot be read for a while costs no image: the set is that of a day on which all goes well."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards import copies, prepare
from shards.errors import Broken, ShardError
from shards.index import ShardSet
from shards.pack import pack
from shards.sources import folder

Contents = Callable[[Path], dict[str, bytes]]
WELL = folder.read_span


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_PAUSES_S", (0, 0))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator["Disk"]:
    disk = Disk()
    monkeypatch.setattr(folder, "read_span", disk.read)
    yield disk


class Disk:
    """The disk of the source, which fails reads of files whose paths end as said, so many times."""

    def __init__(self) -> None:
        self.ends, self.number, self.times, self.reads = "none", 0, 0, 0

    def fails(self, ends: str, number: int, times: int = 1 << 30) -> None:
        self.ends, self.number, self.times = ends, number, times

    def well(self) -> None:
        self.times, self.reads = 0, 0

    def read(self, path: str, offset: int, length: int) -> bytes:
        self.reads += 1
        if self.times and path.endswith(self.ends):
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number), path)
        return WELL(path, offset, length)


def packing(src: Path, out: Path, **how: Any) -> ShardSet:
    return pack(src, out, **{"source": "folder", "name": "made-up", "shard_mb": 0.016, "workers": 1} | how)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_a_read_that_fails_for_a_moment_is_tried_again(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents, disk: Disk, number: int
) -> None:
    disk.fails("7.jpeg", number, times=2)
    packing(faces, tmp_path / "other", max_left_out="100%")
    assert disk.reads == 60 + 2 and read_folder(tmp_path / "other") == read_folder(packed.path)


@pytest.mark.parametrize("duplicates", ["keep", "drop"])
def test_a_disk_that_fails_for_longer_stops_the_packing_which_can_then_go_on(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents, disk: Disk, duplicates: str
) -> None:
    disk.fails("9.jpeg", errno.ESTALE)
    with pytest.raises(Broken, match=rf"9\.jpeg: cannot read: {os.strerror(errno.ESTALE)}, for .*same command again"):
        packing(faces, tmp_path / "other", max_left_out="100%", duplicates=duplicates)
    assert not (tmp_path / "other").exists()
    disk.well()
    packing(faces, tmp_path / "other", duplicates=duplicates)
    assert read_folder(tmp_path / "other") == read_folder(packed.path)


def test_what_could_not_be_read_and_now_can_is_packed_by_the_same_command(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents, disk: Disk
) -> None:
    disk.fails(packed.origins(2)[3].rpartition("/")[2], errno.EACCES)
    with pytest.raises(ShardError, match=r"1 of 60 images cannot be packed.*\n.*denied\n.*make them readable"):
        packing(faces, tmp_path / "other", max_left_out="0")
    disk.well()
    packing(faces, tmp_path / "other", max_left_out="0")
    assert disk.reads <= 60 - sum(packed.counts[:2]) + 1, "what is finished and whole is not read again"
    assert read_folder(tmp_path / "other") == read_folder(packed.path)


def test_what_can_still_not_be_read_is_not_tried_but_once(
    packed: ShardSet, faces: Path, tmp_path: Path, disk: Disk
) -> None:
    disk.fails("7.jpeg", errno.EACCES)  # in several shards
    with pytest.raises(ShardError, match="cannot be packed"):
        packing(faces, tmp_path / "other", max_left_out="0")
    disk.reads = 0
    with pytest.raises(ShardError, match="cannot be packed"):
        packing(faces, tmp_path / "other", max_left_out="0")
    assert disk.reads == 1


def test_copies_that_could_not_be_read_are_found_when_they_can(
    faces: Path, tmp_path: Path, read_folder: Contents, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", 8)
    first = sorted(faces.rglob("*.jpeg"))[0]
    (first.with_name("copied.jpeg")).write_bytes(first.read_bytes())
    packing(faces, tmp_path / "well", duplicates="drop", shard_mb=0.003)
    disk.fails("copied.jpeg", errno.ENOENT)
    with pytest.raises(ShardError, match="1 of 61 images cannot be packed"):
        packing(faces, tmp_path / "other", duplicates="drop", max_left_out="0", shard_mb=0.003)
    disk.well()
    packing(faces, tmp_path / "other", duplicates="drop", max_left_out="0", shard_mb=0.003)
    assert read_folder(tmp_path / "other") == read_folder(tmp_path / "well")


def test_a_disk_that_fails_while_a_folder_is_listed_or_a_set_is_written_may_answer_another_time(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", fails)
        with pytest.raises(Broken, match="Input/output error; look after the disk"):
            packing(faces, tmp_path / "other")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(Broken, match="same command again, finished shards are kept"):
            packing(faces, tmp_path / "other")
    packing(faces, tmp_path / "other")
    assert read_folder(tmp_path / "other") == read_folder(packed.path)
