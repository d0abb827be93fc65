"""A publisher killed at any of its file operations: the same command publishes what an undisturbed one does."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disturbed import DOOMED, Life

Lives = Callable[..., Life]


@pytest.mark.chaos
def test_a_publisher_killed_ten_times_publishes_what_one_left_in_peace_does(
    life: Lives, tmp_path: Path, launch: Any
) -> None:
    run = life()
    run.go("run.stop_after_steps=3", ranks=1)

    def publish(to: Path, nth: int) -> int:
        doom = json.dumps({"rank": 0, "phase": "publish", "nth": nth, "what": "killed"})
        command = [DOOMED, "publish", str(run.run), str(to), "--licence", "mit"]
        [process] = launch(1, *command, DOOM=doom, PUBLISHED=str(tmp_path)).processes
        process.communicate(timeout=100)
        return process.returncode

    draw, folder = random.Random(0), tmp_path / "encoder"
    publish(tmp_path / "peace", 10**6)
    whole = contents(tmp_path / "peace")
    killed = 0
    while killed < 10:
        code = publish(folder, draw.randint(1, 12))
        killed += code == -signal.SIGKILL
        assert code == -signal.SIGKILL or contents(folder) == whole
        if folder.exists():
            assert contents(folder) == whole, "whole or absent"
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    publish(folder, 10**6)
    assert contents(folder) == whole


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
