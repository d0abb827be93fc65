"""Whose hang it is, by what ranks report, and when a watchdog ends a process. Whole runs that hang: tests/chaos."""

import json
import os
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from fer_scale import ending
from fer_scale.pretrain import hangs, limits
from fer_scale.pretrain.begin import Begun
from fer_scale.pretrain.hangs import READS, WAITS, WORKS, Report
from fer_scale.pretrain.watchdog import Watchdog
from fer_scale.pretrain.world import World

RANKS = Path(__file__).parents[1] / "ranks"
WATCHED = str(RANKS / "watched.py")
NAMES = {rank: f"rank {rank} on node{rank // 2}" for rank in range(8)}


def reports(**doing: tuple[str, str]) -> list[Report]:
    """r0=(doing, place), ...: what these ranks say."""
    return [Report(int(rank[1:]), "", 0, "step", 7, 60.0, *said) for rank, said in doing.items()]


IN_ALL_REDUCE = {f"r{rank}": (WAITS, "all_reduce") for rank in range(8)}


@pytest.mark.parametrize(
    ("said", "whose"),
    [
        ({"r3": (WORKS, "mae.py:12 forward")}, "rank 3 on node1: in mae.py:12 forward; the others wait for it"),
        (
            {"r3": (READS, "readers.py:9 ahead")},
            "rank 3 on node1: waiting for images in readers.py:9 ahead; the others",
        ),
        (
            {},
            "rank 0 on node0, rank 1 on node0, rank 2 on node1 and 5 more: waiting for the others in all_reduce; is",
        ),
    ],
)
def test_a_rank_that_is_not_in_a_collective_hangs_by_itself(said: dict[str, Any], whose: str) -> None:
    assert hangs.blame(reports(**IN_ALL_REDUCE | said), NAMES).startswith(whose)


def test_a_rank_that_says_nothing_is_to_blame_whatever_the_others_do() -> None:
    said = reports(**IN_ALL_REDUCE | {"r5": (WORKS, "mae.py:12 forward")})
    said = [report for report in said if report.rank not in (2, 6)]
    assert hangs.blame(said, NAMES).startswith("rank 2 on node1, rank 6 on node3 said nothing: stopped, cut off, ")


def test_ranks_that_all_hang_elsewhere_are_told_by_where() -> None:
    said = reports(r0=(WORKS, "a.py:1 f"), r1=(WORKS, "b.py:2 g"), r2=(WORKS, "a.py:1 f"))
    told = hangs.blame(said, {rank: NAMES[rank] for rank in range(3)})
    assert told == "rank 0 on node0, rank 2 on node1: in a.py:1 f; rank 1 on node0: in b.py:2 g"


def test_what_a_thread_does_is_told_by_the_innermost_of_our_own_lines() -> None:
    frames: list[FrameType] = []
    threading.Thread(target=lambda: frames.append(sys._getframe().f_back)).run()  # type: ignore[arg-type]
    what, where = hangs.doing(frames[0])  # the standard library's run, called by us
    assert what == WORKS and where.startswith(f"{Path(__file__).name}:")
    assert where.endswith(f" {sys._getframe().f_code.co_name}")


@pytest.mark.parametrize(
    "last", ["hang", pytest.param("lock", marks=pytest.mark.slow), pytest.param("end", marks=pytest.mark.slow)]
)
def test_a_step_that_lasts_too_long_ends_the_process_and_neither_short_steps_nor_a_long_save_do(
    last: str, tmp_path: Path, launch: Any
) -> None:
    run = launch(1, WATCHED, str(tmp_path), WATCHED=last)
    [process] = run.processes
    said = process.communicate(timeout=60)[0]
    assert process.returncode == {"hang": os.EX_TEMPFAIL, "lock": 1, "end": 0}[last]
    assert said.startswith("all is well\n")
    folder = tmp_path / "attempts" / "0001"
    if last == "lock":
        assert "Timeout (0:00:02.250000)!" in said and 'watched.py", line' in said
    if last != "hang":
        assert {file.name for file in folder.iterdir()} == {"claim.json"}
        return
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["restart"] and outcome["step"] == 17 and outcome["outcome"] == "failed"
    assert "hung after step 17: phase step took longer than 1.5 s (run.hang_seconds): rank 0 on" in outcome["reason"]
    assert said.count(outcome["reason"]) == 1 and ": in watched.py:" in outcome["reason"]
    first, stacks = (folder / "rank-0.stacks").read_text().split("\n", 1)
    assert json.loads(first)["place"].endswith(" hang") and " in hang\n" in stacks


def test_a_run_that_ends_while_the_watchdog_begins_to_look_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"):
        monkeypatch.setenv(name, "")  # so that what the watchdog sets is taken back
    us, attempt = World(0, 1, torch.device("cpu")), ending.claim(tmp_path)
    begun = Begun(attempt, attempt.folder / "rank-0.log", [0], [us.name], [us.host])
    watchdog = Watchdog(limits.of_phases(3600.0), us, begun)

    class Overtaken(threading.Event):
        """The run ends just before the thread forgets what had changed."""

        def clear(self) -> None:
            watchdog._over = True
            self.set()
            super().clear()

    watchdog._changed = Overtaken()
    with watchdog:
        watchdog._thread.join(10)
        assert not watchdog._thread.is_alive()


def test_a_save_that_hangs_beside_the_steps_ends_the_run_and_its_folder_is_named(
    faces: Path, tmp_path: Path, launch: Any
) -> None:
    words = ["pretrain", str(RANKS / "pretrain.toml"), f"data.shards={faces}", f"run.out={tmp_path}"]
    words += ["run.steps=100000", "run.hang_seconds=save=1", "run.log_every_steps=1000"]
    held = {"HELD_FOR": str(tmp_path / "never"), "LAST": "-1"}
    [process] = launch(1, str(RANKS / "held.py"), *words, "run.checkpoint_every_steps=50", **held).processes
    said = process.communicate(timeout=100)[0]
    assert process.returncode == os.EX_TEMPFAIL, said
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert f" has been writing to {tmp_path}/checkpoints for more than 1 s" in outcome["reason"]
    assert outcome["reason"].endswith("held_write") and outcome["restart"] and outcome["step"] > 50, "steps went on"
    assert said.count(outcome["reason"]) == 1
    assert (tmp_path / "attempts" / "0001" / "rank-0.stacks").exists()
