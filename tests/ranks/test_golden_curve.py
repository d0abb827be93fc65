"""One recipe, one curve: for every ZeRO stage, number of ranks, accumulation and number of readers, and through a kill.

Real processes over gloo, fp32, 50 steps, one of which is skipped for a gradient that is not finite. The curve of the
plain run is frozen in tests/golden/pretrain_curve.json; regenerate it with `REGENERATE=1 pytest tests/ranks` and say
why in the commit.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import layout

from fer_scale import log
from shards.index import ShardSet
from shards.order import Order

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "pretrain_curve.json"
SKIPPED = 17  # counting from 1: the step whose gradient is not finite
STEPS = 50


@pytest.fixture(scope="module")
def poison(faces: Path) -> str:
    """The key of the sample in the first slot of the step that is to be skipped."""
    order = Order(ShardSet.open(faces).counts, seed=0, batch=25)
    return str(order.slots(SKIPPED - 1, 0, 1).key.view(np.int64)[0])


@pytest.fixture
def train(faces: Path, poison: str, tmp_path: Path, launch: Any) -> Any:
    """train(ranks, stage, *overrides): start the run; its folder is always tmp_path / "run"."""

    def start(ranks: int, stage: int, *overrides: str) -> Any:
        command = [str(HERE / "poisoned.py"), "pretrain", str(HERE / "pretrain.toml"), f"data.shards={faces}"]
        command += [f"run.out={tmp_path / 'run'}", layout(tmp_path, stage)]
        return launch(ranks, *command, *overrides, POISON=poison)

    return start


def curve(run: Path) -> list[float | None]:
    rows = log.rows(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["skipped_steps"] == 1
    return [row["loss"] for row in rows]


def test_activations_that_are_computed_again_leave_the_curve(train: Any, tmp_path: Path) -> None:
    train(2, 1, "run.recompute=true").wait()
    assert_golden(tmp_path / "run")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_compiled_blocks_leave_the_curve(train: Any, tmp_path: Path) -> None:
    train(1, 1, "run.compile=true").wait()
    assert_golden(tmp_path / "run")


def assert_golden(run: Path) -> None:
    losses = curve(run)
    assert losses[SKIPPED - 1] is None
    golden = json.loads(GOLDEN.read_text())
    apart = [abs(a - b) for a, b in zip(losses, golden, strict=True) if a is not None and b is not None]
    assert len(apart) == STEPS - 1
    assert max(apart) < 1e-4, f"{max(apart):.2e} from the golden curve"


def test_the_plain_run_gives_the_golden_curve_and_learns(train: Any, tmp_path: Path) -> None:
    train(1, 0).wait()
    if os.environ.get("REGENERATE"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(curve(tmp_path / "run"), indent=0) + "\n")
    assert_golden(tmp_path / "run")
    losses = curve(tmp_path / "run")
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ranks", "stage", "micro", "workers"),
    [
        (1, 1, 64, 0),
        (1, 3, 13, 0),  # two micro-batches, of 12 and 13
        (2, 0, 64, 0),
        (2, 1, 7, 2),  # 12 and 13 images a rank, two micro-batches of 6 or 7, two readers a rank
        (2, 2, 64, 0),
        (2, 3, 64, 0),
        (3, 0, 5, 0),
        (3, 2, 64, 0),
        (4, 1, 64, 0),
        (4, 3, 4, 0),
    ],
)
def test_ranks_stages_micro_batches_and_readers_leave_the_curve(
    train: Any, tmp_path: Path, ranks: int, stage: int, micro: int, workers: int
) -> None:
    train(ranks, stage, f"batch.micro={micro}", f"data.workers={workers}").wait()
    assert_golden(tmp_path / "run")


@pytest.mark.parametrize(("before", "after"), [((2, 1), (3, 3)), ((3, 3), (2, 0)), ((1, 0), (2, 2))])
def test_a_run_killed_with_sigkill_goes_on_at_other_ranks_and_another_stage(
    train: Any, tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
) -> None:
    run = tmp_path / "run"
    killed = train(*before)
    until = time.monotonic() + 200
    while (
        len(log.rows(run / "metrics.jsonl")) < 25
    ):  # past the skipped step and a checkpoint, in the middle of a stretch
        assert time.monotonic() < until and all(p.poll() is None for p in killed.processes)
        time.sleep(0.02)
    killed.kill()
    assert not (run / "checkpoints" / "step_00000050").exists(), "the kill came too late to prove anything"
    said = train(*after).wait()
    assert "goes on from" in said
    assert_golden(run)
    assert json.loads((run / "outcome.json").read_text())["outcome"] == "done"
