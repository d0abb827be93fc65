"""What machines do to a run: it ends in one line that names host and rank, with nothing damaged, or is unmoved."""

import errno
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disturbed import HERE, Life

Lives = Callable[..., Life]
HOST = socket.gethostname()


def told(life: Life, rank: int, *words: str) -> str:
    """The one line of all that was said that names the host and rank of what happened; no traceback beside it."""
    lines = [line for line in life.said.splitlines() if f"rank {rank} on {HOST}" in line]
    assert len(lines) == 1 and "Traceback" not in life.said, life.said
    assert all(word in lines[0] for word in words), lines[0]
    return lines[0]


@pytest.mark.chaos  # tests/ranks/test_saving.py fills a disk in the ordinary suite
@pytest.mark.parametrize(
    ("phase", "nth"),
    [("gather", 200), ("shard write", 2), ("progress", 2), ("manifest", 2), ("rename", 2), ("delete", 1)],
)
def test_a_disk_full_from_any_phase_of_a_save_on_leaves_the_checkpoint_before(
    life: Lives, small_disk: Path, phase: str, nth: int
) -> None:
    peace, run, ballast = life("peace"), life("disk/run"), small_disk / "ballast"
    run.go(doom={"rank": 0, "phase": phase, "nth": nth, "what": "full"}, BALLAST=str(ballast))
    assert f"doom: full at {phase}" in run.said and run.saved >= 3, "the checkpoint before this one is whole"
    assert any(run.codes) == (phase not in ("rename", "delete")), (
        "where old ones are deleted there is room for new ones"
    )
    if any(run.codes):
        told(run, 0, "No space left on device")
    ballast.unlink()
    run.go()
    peace.go()
    assert run.end == peace.end


@pytest.mark.parametrize(
    ("rank", "phase", "what"),
    [
        (1, "shard end", "EIO"),
        pytest.param(0, "manifest end", "EIO", marks=pytest.mark.chaos),
        pytest.param(0, "rename", "EIO", marks=pytest.mark.chaos),
        pytest.param(1, "shard write", "EROFS", marks=pytest.mark.chaos),
        pytest.param(0, "progress", "EDQUOT", marks=pytest.mark.chaos),
        pytest.param(1, "shard write", "ESTALE", marks=pytest.mark.chaos),
    ],
)
def test_a_file_system_that_fails_while_saving_is_one_line_and_damages_nothing(
    life: Lives, rank: int, phase: str, what: str
) -> None:
    run = life()
    run.go(doom={"rank": rank, "phase": phase, "nth": 2, "what": what})
    assert f"doom: {what} at {phase}" in run.said and all(code in (1, 2, 75) for code in run.codes), run.said
    assert run.outcome["outcome"] == "failed" and run.outcome["host"] == HOST
    assert run.saved == 3, "the checkpoint before this one is whole"
    told(run, rank, os.strerror(getattr(errno, what)))
    run.go()
    assert run.outcome["outcome"] == "done"


def test_a_file_system_that_cannot_read_a_shard_is_one_line(life: Lives) -> None:
    run = life()
    run.go("run.stop_after_steps=3")
    run.go(doom={"rank": 1, "phase": "reading", "nth": 1, "what": "EIO!"})
    told(run, 1, "Input/output error")
    run.go()
    assert run.outcome["outcome"] == "done"


def stepping(run: Life, started: Any, steps: int) -> None:
    """Wait until it has made so many."""
    until = time.monotonic() + 100
    while max(run.losses, default=0) < steps:
        assert time.monotonic() < until and started.processes[0].poll() is None
        time.sleep(0.01)


ENDLESS = ("run.steps=100000", "run.checkpoint_every_steps=100000")


def readers(rank: int) -> list[int]:
    """Process ids of the readers that the process of a rank has started."""
    children = [
        int(pid) for task in Path(f"/proc/{rank}/task").iterdir() for pid in (task / "children").read_text().split()
    ]
    return [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_reader_that_the_system_kills_for_memory_is_named(life: Lives) -> None:
    run = life("run", *ENDLESS, "data.workers=1")
    started = run.start()
    stepping(run, started, 3)
    [reader] = readers(started.processes[1].pid)
    os.kill(reader, signal.SIGKILL)
    run.ended(started)
    told(run, 1, "a reader process was killed, as the system does when memory runs out")
    assert sorted(run.codes) == [75, 75] or sorted(run.codes) == [1, 75], run.codes
    assert run.outcome["restart"] is True and run.outcome["rank"] == 1


def test_a_shard_deleted_in_mid_run_ends_it_in_one_line_or_does_not_matter(
    life: Lives, faces: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "faces"
    shutil.copytree(faces, mine)
    run = life("run", *ENDLESS, f"data.shards={mine}")
    started = run.start()
    stepping(run, started, 3)
    for file in sorted(mine.glob("*.tar"))[1:]:
        file.unlink()
    time.sleep(1)
    started.processes[0].send_signal(signal.SIGTERM)
    run.ended(started)
    if run.outcome["outcome"] == "preempted":
        assert run.saved == max(run.losses)
    run.go()
    assert any(run.codes) and re.search(rf"rank \d on {HOST}.*\.tar", run.said), run.said
    assert "Traceback" not in run.said


@pytest.mark.chaos
def test_a_clock_that_jumps_does_not_matter(life: Lives) -> None:
    peace, run = life("peace"), life("run", driver=str(HERE / "jumping.py"))
    run.go("run.stop_after_steps=6", "run.max_hours=1")
    run.go("run.max_hours=1")
    peace.go()
    assert run.end == peace.end
