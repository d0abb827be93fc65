"""One curve, on a GPU too: the golden curve of the CPUs, at every ZeRO stage, and through a change of machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fer_scale import log
from shards.index import ShardSet
from shards.order import Order

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE.parent / "golden" / "pretrain_curve.json").read_text())
pytestmark = pytest.mark.gpu


@pytest.fixture
def train(faces: Path, tmp_path: Path, launch: Any) -> Any:
    """train(stage, accelerator, *overrides): one rank runs to its end; the losses."""
    poison = str(Order(ShardSet.open(faces).counts, seed=0, batch=25).slots(16, 0, 1).key.view("int64")[0])

    def start(stage: int, accelerator: str, *overrides: str) -> list[float | None]:
        layout = tmp_path / f"zero{stage}.json"
        layout.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        command = [str(HERE / "poisoned.py"), "pretrain", str(HERE / "pretrain.toml"), f"data.shards={faces}"]
        command += [f"run.out={tmp_path / 'run'}", f"run.deepspeed={layout}", *overrides]
        launch(1, *command, POISON=poison, DS_ACCELERATOR=accelerator).wait()
        rows = log.rows(tmp_path / "run" / "metrics.jsonl")
        assert ("memory_mb" in rows[-1]) == (accelerator == "cuda"), "it ran elsewhere"
        return [row["loss"] for row in rows]

    return start


def apart(losses: list[float | None]) -> float:
    """The largest distance from the golden curve, as a share of it."""
    assert len(losses) == len(GOLDEN) and losses[16] is None
    return max(abs(a - b) / b for a, b in zip(losses, GOLDEN, strict=True) if a is not None)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_gpu_gives_the_golden_curve_at_every_stage(train: Any, stage: int) -> None:
    assert apart(train(stage, "cuda", "data.workers=2", "batch.micro=13")) < 1e-3


def test_bf16_stays_near_the_curve_compiled_and_computed_again_too(train: Any, tmp_path: Path) -> None:
    for overrides in ([], ["run.compile=true"], ["run.recompute=true"]):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        found = apart(train(1, "cuda", "run.precision=bf16", *overrides))
        print(overrides, f"{found:.4f}")
        assert found < 0.02


def test_a_run_of_a_gpu_goes_on_without_one_and_the_other_way_round(train: Any, tmp_path: Path) -> None:
    for first, then in (("cuda", "cpu"), ("cpu", "cuda")):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert len(train(1, first, "run.stop_after_steps=25")) == 25
        assert apart(train(2, then)) < 1e-3
