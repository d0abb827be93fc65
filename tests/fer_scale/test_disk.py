"""Small files that are whole or absent."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fer_scale import disk


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


def test_what_is_no_file_is_written_into_and_not_replaced(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", list[bytes]()
    os.mkfifo(pipe)
    listener = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    listener.start()
    disk.put(pipe, b"said")
    listener.join(30)
    assert heard == [b"said"] and pipe.is_fifo()


def test_a_file_that_many_write_at_once_is_that_of_one_of_them(tmp_path: Path) -> None:
    file, texts = tmp_path / "stop", [f"{number}" * 5_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(disk.put, file, text, alone=False) for text in texts * 20]:
            done.result()
    assert file.read_text() in texts and os.listdir(tmp_path) == ["stop"]
