"""TensorBoard and W&B get what metrics.jsonl gets, and nothing else."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_scale import boards
from fer_scale.finetune.loop import finetune
from fer_scale.log import rows
from shards.errors import UserError

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef0123456789abcdef01234567"
LOSE_ITS_PROCESS = """
import os, signal, subprocess, sys, time
from pathlib import Path
from fer_scale.log import Journal
journal = Journal(Path(sys.argv[1]), wandb="faces")
journal.metrics(step=1, loss=1.0)
child = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"], capture_output=True, text=True).stdout
os.kill(int(child), signal.SIGKILL)
time.sleep(1)
for step in (2, 3):
    journal.metrics(step=step, loss=1.0)
"""


def python(*command: str) -> str:
    """What a process said that W&B takes for one without a network."""
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], env=environment, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_numbers_in_an_object_are_named_by_it() -> None:
    row = {"loss": 0.5, "kept": None, "valid_recall": {"neutral": 0.25, "fear": None}, "stage": 3}
    assert dict(boards.scalars(row)) == {"loss": 0.5, "valid_recall/neutral": 0.25, "stage": 3}


def test_tensorboard_has_the_curves_of_a_fine_tuning_run(recipe: Callable[..., Path], tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    finetune(recipe(steps=2, semi=1), ["run.tensorboard=true", "run.evaluate_every_steps=3"])
    found = events.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    assert [point.step for point in found.Scalars("loss")] == [1, 2, 3]
    assert [point.step for point in found.Scalars("valid_recall/neutral")] == [3]


def test_tensorboard_shows_a_step_once_that_a_resumed_run_has_computed_again(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for steps in (range(1, 6), range(4, 7)):
        board = boards.TensorBoard(tmp_path)
        for step in steps:
            board.draw(step, {"loss": 1 / step})
        board._writer.close()
        time.sleep(1.1)  # a file is called by the second it was begun in, and read in that order
    found = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [point.step for point in found.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("key", "module"), [("wandb=faces", "wandb"), ("tensorboard=true", "torch.utils.tensorboard")])
def test_a_board_that_is_not_installed_is_asked_for_in_plain_words(
    key: str, module: str, recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"run\.{key.split('=')[0]}: needs .*: pip install"):
        finetune(recipe(steps=2, semi=0), [f"run.{key}"])


def test_a_run_that_goes_on_is_one_run_of_wandb_and_its_key_is_nowhere(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    command = ["-m", "fer_scale", "finetune", str(recipe(steps=3, semi=1)), "run.wandb=faces"]
    said = python(*command, "run.stop_after_steps=2") + python(*command, "run.evaluate_every_steps=4")
    run = tmp_path / "run"
    name = (run / "wandb/id").read_text()
    first, second = sorted(run.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert b"grad_norm" in first.read_bytes() and b"valid_accuracy" not in first.read_bytes()
    assert b"valid_recall/neutral" in second.read_bytes()
    assert KEY not in said and not any(KEY.encode() in f.read_bytes() for f in run.rglob("*") if f.is_file())
    unsaid = [word.encode() for word in (socket.gethostname(), str(tmp_path), "recipe.toml")]
    assert not any(word in file.read_bytes() for word in unsaid for file in (first, second)), "numbers alone"


def test_a_run_outlives_the_process_of_wandb(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    said = python("-c", LOSE_ITS_PROCESS, str(tmp_path / "run"))
    assert said.count("W&B gets nothing more from step 2 on") == 1
    assert [row["step"] for row in rows(tmp_path / "run/metrics.jsonl")] == [1, 2, 3]
