"""Where a set appears: what no rename can replace is refused before the work, and nobody else is at work there."""

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shards import place
from shards.errors import ShardError
from shards.index import ShardSet
from shards.pack import pack
from shards.pull import pull

sys.path.append(str(Path(__file__).parent))
from servers import Web

Make = Callable[[Path], object]


@pytest.fixture(params=["pack", "pull"])
def make(request: pytest.FixtureRequest, faces: Path, packed: ShardSet, web: str) -> Iterator[Make]:
    """What makes a set at a path."""

    def packing(out: Path) -> object:
        return pack(faces, out, source="folder", name="made-up", shard_mb=0.016, workers=1)

    yield packing if request.param == "pack" else lambda out: pull(web, out)


@pytest.fixture
def web(packed: ShardSet) -> Iterator[str]:
    server = Web(packed.path)
    yield server.url
    server.stop()


@pytest.mark.parametrize("leads_to", ["empty", "nowhere"])
def test_a_link_is_refused_before_the_work(make: Make, tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "empty").mkdir()
    os.symlink(leads_to, tmp_path / "out")
    with pytest.raises(ShardError, match=r"out: is a link, which no rename can replace; give a folder inside of it"):
        make(tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists() and not (tmp_path / "out.part").exists()
    if leads_to == "empty":
        make(tmp_path / "out" / "set")
        assert ShardSet.open(tmp_path / "empty" / "set").samples == 60


def test_a_mount_point_is_refused_before_the_work(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "out")
    with pytest.raises(ShardError, match=r"out: is a mount point, which no rename can replace"):
        make(tmp_path / "out")
    assert not (tmp_path / "out.unfinished").exists() and not (tmp_path / "out.part").exists()


def test_a_set_on_a_file_system_without_locks_is_made_and_that_is_said(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    make(tmp_path / "out")
    assert ShardSet.open(tmp_path / "out").samples == 60
    assert capsys.readouterr().err.count("nothing keeps a second process out") == 1


def test_another_fault_of_a_lock_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(file: Any, how: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output"), place.alone(tmp_path / "lock", "another is there"):
        pass


def test_the_lock_is_closed_when_its_folder_is_removed(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS would keep it under another name, and its folder could not be removed."""
    removed, still_held = [], []

    def rmtree(folder: Path, **how: Any) -> None:
        removed.append(folder.name)
        if (folder / "lock").exists():
            opened = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
            still_held.append(str(folder / "lock") in opened)
        real(folder, **how)

    real = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    pack(faces, tmp_path / "out", source="folder", workers=1)
    assert removed[-1] == "out.unfinished" and still_held == [False]
    assert not (tmp_path / "out.unfinished").exists()
