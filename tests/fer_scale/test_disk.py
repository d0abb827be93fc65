"""Small files that are whole or absent."""

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fer_scale import disk
from shards.errors import Broken


def test_a_file_that_cannot_be_written_whole_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    disk.put(file, "ä")
    assert file.read_bytes() == "ä".encode()
    with pytest.raises(UnicodeEncodeError):
        disk.put(file, "\udcff")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(IsADirectoryError):
        disk.put(tmp_path / "folder.txt", b"x")
    assert file.read_bytes() == "ä".encode() and sorted(os.listdir(tmp_path)) == ["folder.txt", "metrics.json"]


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.EIO, errno.ESTALE])
def test_a_disk_that_may_come_back_is_named_with_host_and_rank_and_tried_again(number: int) -> None:
    with pytest.raises(Broken, match=r"rank 3 on node2: /far/set: .*nothing that was saved is lost"):
        with disk.in_words("rank 3 on node2"):
            raise OSError(number, os.strerror(number), "/far/set")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, sync, replace = list[tuple[str, int]](), os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(("synced", os.fstat(fd).st_size)), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda old, new: (done.append(("named", 4)), replace(old, new)))
    disk.put(tmp_path / "recipe.toml", "four")
    assert done == [("synced", 4), ("named", 4)] and (tmp_path / "recipe.toml").read_text() == "four"


def test_what_is_no_file_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    listener = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    listener.start()
    disk.put(pipe, b"said")
    listener.join(30)
    assert heard == [b"said"] and pipe.is_fifo()


def test_a_file_is_written_at_the_end_of_a_link_which_stays(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "latest").symlink_to("deep/first")
    for text in (b"new", b"newer"):
        disk.put(tmp_path / "latest", text)
        assert (tmp_path / "latest").is_symlink() and (tmp_path / "deep/first").read_bytes() == text
    assert os.listdir(tmp_path / "deep") == ["first"]


def test_what_goes_to_stdout_comes_behind_what_it_says_though_it_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    script = "import pathlib; from fer_scale import disk; print('said', flush=True)\n"
    script += "disk.put(pathlib.Path('link'), b'put\\n'); print('more')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, stdout=out, check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "said\nput\nmore\n"
    assert (tmp_path / "link").is_symlink() and len(os.listdir(tmp_path)) == 2


def test_a_file_that_many_write_at_once_is_that_of_one_of_them(tmp_path: Path) -> None:
    file, texts = tmp_path / "stop", [f"{number}" * 5_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(disk.put, file, text, alone=False) for text in texts * 20]:
            done.result()
    assert file.read_text() in texts and os.listdir(tmp_path) == ["stop"]
