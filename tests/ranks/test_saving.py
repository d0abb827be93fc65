"""Checkpoints that are written while training goes on: what is in them, and what never is. Real ranks over gloo."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from fer_scale import checkpoint, ending, log

HERE = Path(__file__).parent


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> list[str]:
    """What follows a driver's name: a run of six steps in tmp_path / "run", saved at steps 2, 4 and 6."""
    recipe = ["pretrain", str(HERE / "pretrain.toml"), f"data.shards={faces}", f"run.out={tmp_path / 'run'}"]
    return [*recipe, "run.steps=6", "run.checkpoint_every_steps=2", "run.keep_checkpoints=3"]


def layout(folder: Path, stage: int) -> str:
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    (folder / f"zero{stage}.json").write_text(json.dumps({"zero_optimization": zero}))
    return f"run.deepspeed={folder / f'zero{stage}.json'}"


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
    losses = [[row["loss"] for row in log.rows(run / "metrics.jsonl")] for run in (tmp_path / "run", plain)]
    assert losses[0] == losses[1]


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


def test_a_save_under_way_never_counts_once_another_start_has_followed(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run, flag = tmp_path / "run", tmp_path / "go"
    endless = [*words, "run.steps=100000", "run.checkpoint_every_steps=3"]
    old = launch(2, str(HERE / "held.py"), *endless, LAST="6", HELD_FOR=str(flag))
    until = time.monotonic() + 100
    while len(log.rows(run / "metrics.jsonl")) < 3:
        assert time.monotonic() < until and old.processes[0].poll() is None
        time.sleep(0.02)
    new = ending.claim(run)
    flag.touch()
    said = "".join(p.communicate(timeout=100)[0] for p in old.processes)
    assert sorted(p.returncode for p in old.processes) == [1, 2]
    assert said.count("start 2 of this run has begun; this one, number 1, ends and writes nothing more") == 1
    assert not checkpoint.complete(run) and new.is_newest()
    assert "checkpoint" not in [row["event"] for row in log.rows(run / "events.jsonl")]
