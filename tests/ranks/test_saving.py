"""Checkpoints that are written while training goes on: what is in them, and what never is. Real ranks over gloo."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import layout, losses

from fer_scale import checkpoint, ending, log

HERE = Path(__file__).parent


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> list[str]:
    """What follows a driver's name: a run of six steps in tmp_path / "run", saved at steps 2, 4 and 6."""
    recipe = ["pretrain", str(HERE / "pretrain.toml"), f"data.shards={faces}", f"run.out={tmp_path / 'run'}"]
    return [*recipe, "run.steps=6", "run.checkpoint_every_steps=2", "run.keep_checkpoints=3"]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("ranks", "stage"),
    [(2, 1), *(pytest.param(*how, marks=SLOW) for how in [(1, 0), (1, 1), (2, 0), (2, 2), (2, 3), (3, 1), (3, 3)])],
)
def test_what_is_saved_is_the_state_when_the_save_began_to_the_bit_though_training_went_on(
    words: list[str], tmp_path: Path, launch: Any, ranks: int, stage: int
) -> None:
    words = [*words, layout(tmp_path, stage)]
    said = launch(ranks, str(HERE / "held.py"), *words, LAST="6").wait()
    assert re.findall(r"held: step_0000000(\d)", said) == ["2", "4", "6"], "of rank 0"
    plain = tmp_path / "plain"
    launch(ranks, str(HERE / "held.py"), *words, f"run.out={plain}", "run.checkpoint_async=false", LAST="6").wait()
    for step in (2, 4, 6):
        beside, waited = (checkpoint.manifest(checkpoint.folder_of(run, step)) for run in (tmp_path / "run", plain))
        states = [f"state-{number:02d}-of-{ranks:02d}.safetensors" for number in range(ranks)]
        assert [beside[name] for name in states] == [waited[name] for name in states], "sha256 of the same state"
    assert losses(tmp_path / "run") == losses(plain)


@pytest.mark.parametrize(
    ("stage", "rank"), [(1, 1), *(pytest.param(*how, marks=SLOW) for how in [(0, 0), (2, 0), (3, 1)])]
)
def test_a_state_with_a_value_that_is_not_finite_never_counts_and_the_tensor_is_named(
    words: list[str], tmp_path: Path, launch: Any, stage: int, rank: int
) -> None:
    run = launch(2, str(HERE / "spoiled.py"), *words, layout(tmp_path, stage), SPOILED=str(rank))
    said = "".join(p.communicate(timeout=100)[0] for p in run.processes)
    assert all(p.returncode for p in run.processes) and "Traceback" not in said, said
    assert len(re.findall(r"rank \d on .*: v\.\S+: holds NaN or infinite values; such a state is not saved", said)) == 1
    assert [f.name for f in checkpoint.complete(tmp_path / "run")] == ["step_00000004", "step_00000002"]
    assert not list((tmp_path / "run/checkpoints").glob("*.part"))


def test_a_weight_that_one_rank_computes_with_and_no_other_ends_the_run_and_the_machine_is_named(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    for rank, why in ((1, r"rank 1 on \S+ has other weights than rank 0 on \S+,"), (0, "rank 1 on")):
        run = launch(2, str(HERE / "spoiled.py"), *words, layout(tmp_path, 1), SPOILED=str(rank), BIT="1")
        said = "".join(p.communicate(timeout=100)[0] for p in run.processes)
        assert sorted(p.returncode for p in run.processes) == [1, 75] and "Traceback" not in said, said
        assert len(re.findall(rf"decoder\S+: {why}.* nothing was saved", said)) == 1, said
        assert checkpoint.complete(tmp_path / "run")[0].name == "step_00000004"


def test_a_save_under_way_never_counts_once_another_start_has_followed(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run, flag = tmp_path / "run", tmp_path / "go"
    endless = [*words, "run.steps=100000", "run.checkpoint_every_steps=3"]
    old = launch(2, str(HERE / "held.py"), *endless, LAST="0", HELD_FOR=str(flag))
    wait(old, lambda: "holds: step_00000003" in (run / "attempts/0001/rank-0.log").read_text())
    new = ending.claim(run)
    flag.touch()
    said = "".join(p.communicate(timeout=100)[0] for p in old.processes)
    assert sorted(p.returncode for p in old.processes) == [1, 2]
    assert said.count("start 2 of this run has begun; this one, number 1, ends and writes nothing more") == 1
    assert not checkpoint.complete(run) and new.is_newest()
    assert "checkpoint" not in [row["event"] for row in log.rows(run / "events.jsonl")]


def wait(run: Any, done: Callable[[], bool]) -> None:
    """Until it is, while the run lives."""
    until = time.monotonic() + 100
    while True:
        try:
            if done():
                return
        except FileNotFoundError:
            pass
        assert time.monotonic() < until and run.processes[0].poll() is None
        time.sleep(0.02)


def test_a_disk_that_fills_while_a_thread_writes_ends_the_run_in_one_line_and_it_goes_on_once_there_is_room(
    words: list[str], small_disk: Path, tmp_path: Path, launch: Any
) -> None:
    run, flag = small_disk / "run", tmp_path / "go"
    words = [*words, f"run.out={run}", "run.steps=100000", "run.keep_checkpoints=1", "run.log_every_steps=99999"]
    flag.touch()
    started = launch(2, str(HERE / "held.py"), *words, LAST="0", HELD_FOR=str(flag))
    wait(started, lambda: bool(checkpoint.complete(run)))
    flag.unlink()
    wait(started, lambda: (run / "attempts/0001/rank-0.log").read_text().splitlines()[-1].startswith("holds:"))
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    [before] = checkpoint.complete(run)
    flag.touch()
    said = "".join(p.communicate(timeout=100)[0] for p in started.processes)
    assert all(p.returncode for p in started.processes) and "Traceback" not in said, said
    why = r"rank \d on .*No space left on device; the checkpoint before this one is whole: free space and start"
    assert len(re.findall(why, said)) == 1, said
    assert [f.name for f in (run / "checkpoints").iterdir()] == [before.name]
    (small_disk / "ballast").unlink()
    step = checkpoint.read(before)[1]["step"]
    said = launch(1, "-m", "fer_scale", *words, f"run.stop_after_steps={step + 1}").wait()
    assert f"goes on from {before}" in said
