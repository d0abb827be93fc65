"""Memory that is too short for a step is answered by smaller parts of the same step, on all processes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fer_scale.finetune.again import Room
from fer_scale.finetune.loop import finetune
from fer_scale.log import rows

NARROW = str(Path(__file__).with_name("narrow.py"))
LARGE = ["model.image_px=64", "supervised.batch=1024", "semi.batch=16", "semi.unlabeled_ratio=8"]


def test_only_a_lack_of_memory_ends_quietly() -> None:
    room = Room()
    with room:
        torch.empty(2**60)
    assert "can't allocate memory" in room.short
    with pytest.raises(RuntimeError, match="shape"), Room():
        torch.zeros(2).view(3)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_process_short_of_memory_goes_on_in_smaller_parts_with_one_curve(
    recipe: Callable[..., Path], tmp_path: Path, launch: Callable[..., Any], ranks: int
) -> None:
    """Real: the last process may take 600 MB more than after its set-up; 1,024 pictures of 64 px take more."""
    file = recipe(steps=2, semi=1, out="short")
    started = launch(
        ranks, NARROW, "finetune", str(file), *LARGE, "batch.micro=1024", ROOM="600", NARROW=str(ranks - 1)
    )
    said = started.wait()
    assert "memory is too short; from here on" in said
    halved = [row["micro"] for row in rows(tmp_path / "short/events.jsonl") if row["event"] == "smaller"]
    assert halved and halved[0] == 512 // ranks
    finetune(recipe(steps=2, semi=1, out="small"), [*LARGE, f"batch.micro={halved[-1]}"])
    for one, other in zip(*(rows(tmp_path / run / "metrics.jsonl") for run in ("short", "small")), strict=True):
        for key in ("step", "loss", "grad_norm"):
            assert one[key] == pytest.approx(other[key], abs=1e-6, rel=1e-6)
