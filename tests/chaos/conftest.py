"""A short run, and the end that it has when nothing happens to it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from disturbed import DOOMED, EVERY, RECIPE, STEPS, Life


@pytest.fixture
def life(faces: Path, tmp_path: Path, launch: Any) -> Callable[..., Life]:
    """life(name, *overrides): a run of a few steps in tmp_path / name, not started."""

    def new(name: str = "run", *overrides: str, driver: str = DOOMED) -> Life:
        command = [driver, "pretrain", RECIPE, f"data.shards={faces}", f"run.steps={STEPS}"]
        command += [f"run.checkpoint_every_steps={EVERY}", "run.keep_checkpoints=1", *overrides]
        return Life(tmp_path / name, launch, command)

    return new
