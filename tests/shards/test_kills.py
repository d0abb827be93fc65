"""A packer killed at any moment, in either pass, and started again makes the same set as one that was left in peace."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards import copies
from shards.pack import pack

Contents = Callable[[Path], dict[str, bytes]]

HOW: dict[str, Any] = {"source": "folder", "name": "made-up", "shard_mb": 0.016, "duplicates": "drop", "max_px": 20}
AT_ONCE = 8

KILLED = """
import json, os, signal, sys, threading
from shards import copies
from shards.pack import pack

if __name__ == "__main__":
    src, out, workers, moment, how, copies._AT_ONCE = *sys.argv[1:6], int(sys.argv[6])
    killer = threading.Timer(float(moment), os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()
    pack(src, out, workers=int(workers), **json.loads(how))
"""


@pytest.fixture
def copied(faces: Path) -> Path:
    """The 60 faces, ten of them twice."""
    for number, file in enumerate(sorted(faces.rglob("*.*"))):
        if number % 6 == 0:
            shutil.copy(file, faces / "person-00" / f"copy-{file.name}")
    return faces


def survives(src: Path, tmp_path: Path, read_folder: Contents, *, kills: int, workers: int) -> None:
    """Kill a packer `kills` times at random moments, each time going on with what is there, and compare."""
    out, script = tmp_path / "out", tmp_path / "killed.py"
    script.write_text(KILLED)
    began = time.monotonic()
    pack(src, tmp_path / "whole", workers=workers, **HOW)
    whole, seconds = read_folder(tmp_path / "whole"), time.monotonic() - began
    draw, killed = random.Random(0), 0
    for _ in range(10 * kills):
        moment = str(draw.uniform(0, 1.1 * seconds))
        command = [sys.executable, str(script), str(src), str(out), str(workers), moment, json.dumps(HOW), str(AT_ONCE)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        killed += ended.returncode != 0
        if out.exists():
            assert read_folder(out) == whole
            shutil.rmtree(out)
        if killed == kills:
            break
    assert killed == kills
    pack(src, out, workers=1, **HOW)
    assert read_folder(out) == whole and not (tmp_path / "out.unfinished").exists()


def test_a_packer_that_is_killed_goes_on_to_the_same_set(
    copied: Path, tmp_path: Path, read_folder: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", AT_ONCE)
    survives(copied, tmp_path, read_folder, kills=3, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_packer_that_is_killed_twenty_times_goes_on_to_the_same_set(
    copied: Path, tmp_path: Path, read_folder: Contents, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(copies, "_AT_ONCE", AT_ONCE)
    survives(copied, tmp_path, read_folder, kills=20, workers=workers)


def test_hashes_that_are_there_are_not_made_again(
    copied: Path, tmp_path: Path, read_folder: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of the first pass, as it were: only what is missing is read again."""
    monkeypatch.setattr(copies, "_AT_ONCE", AT_ONCE)
    pack(copied, tmp_path / "whole", workers=1, **HOW)

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 30:
            raise Stopped

    with pytest.raises(Stopped):
        pack(copied, tmp_path / "out", workers=1, progress=stop, **HOW)
    assert len(list((tmp_path / "out.unfinished" / "hashes").iterdir())) == 30 // AT_ONCE
    seen: list[int] = []
    pack(copied, tmp_path / "out", workers=1, progress=lambda done, total: seen.append(done), **HOW)
    assert seen[0] == 25
    assert read_folder(tmp_path / "out") == read_folder(tmp_path / "whole")
