"""`fer-scale watch`: each checkpoint of a real run is fine-tuned and measured once, beside the run or after it."""

import json
import shutil
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fer_scale import log, watch
from fer_scale.__main__ import main
from fer_scale.artifact import ArtifactError
from fer_scale.finetune import loop
from fer_scale.finetune.split import split
from shards.errors import UserError

PRETRAIN = Path(__file__).parents[1] / "ranks" / "pretrain.toml"


@pytest.fixture
def words(labeled_set: Path, tmp_path: Path) -> list[str]:
    """A pre-training of six steps with checkpoints after three and six."""
    keys = ["model.image_px=16", "run.steps=6", "run.checkpoint_every_steps=3", f"run.out={tmp_path / 'pre'}"]
    return ["-m", "fer_scale", "pretrain", str(PRETRAIN), f"data.shards={labeled_set}", *keys]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """watch.toml, but six steps."""
    file = tmp_path / "short.toml"
    text = watch.RECIPE.read_text().replace("steps = 300", "steps = 6").replace("warmup_steps = 30", "warmup_steps = 2")
    file.write_text(text)
    return file


def test_every_checkpoint_is_measured_once_and_beside_a_run_until_its_end(
    words: list[str], labeled_set: Path, split_file: Path, short: Path, tmp_path: Path, launch: Any
) -> None:
    run, given = tmp_path / "pre", {"recipe": short, "look_s": 0.2}
    launch(1, *words, "run.stop_after_steps=3").wait()
    first = watch.watch(run, str(labeled_set), split_file, once=True, **given)
    assert [row["step"] for row in first] == [3] and first[0]["images"] == 75
    going_on = launch(1, *words)
    rows = watch.watch(run, str(labeled_set), split_file, **given)  # until the run has ended
    going_on.wait()
    assert [row["step"] for row in rows] == [3, 6] and rows[0] == first[0]
    assert all(0 <= row["accuracy"] <= 1 and 0 <= row["uar"] <= 1 for row in rows)
    assert log.rows(run / "watch.jsonl") == rows and (run / "watch.png").stat().st_size > 1000
    before, after = (np.asarray(Image.open(run / "watch" / f"step_{step:08d}.png")) for step in (3, 6))
    third = len(before) // 3  # what was there, what was seen, what the decoder made of it
    assert (before[: 2 * third] == after[: 2 * third]).all(), "held-out faces and what is hidden stay the same"
    assert (before[:third] != before[third : 2 * third]).any() and (before[2 * third :] != after[2 * third :]).any()


def test_a_checkpoint_that_the_run_removes_meanwhile_is_measured_and_drawn_to_its_end(
    words: list[str], labeled_set: Path, split_file: Path, short: Path, tmp_path: Path, launch: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    launch(1, *words, "run.stop_after_steps=3").wait()
    run, tune = tmp_path / "pre", loop.finetune

    def finetune(*given: Any) -> dict[str, Any]:
        shutil.rmtree(run / "checkpoints" / "step_00000003")
        return tune(*given)

    monkeypatch.setattr(loop, "finetune", finetune)
    [row] = watch.watch(run, str(labeled_set), split_file, once=True, recipe=short)
    assert row["step"] == 3 and "accuracy" in row and (run / "watch" / "step_00000003.png").exists()


def test_a_damaged_checkpoint_is_written_down_and_the_others_are_measured(
    words: list[str], labeled_set: Path, split_file: Path, short: Path, tmp_path: Path, launch: Any,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    launch(1, *words).wait()
    run = tmp_path / "pre"
    being_saved = run / "checkpoints" / "step_00000009.part"
    being_saved.mkdir()
    (being_saved / "manifest.json").touch()
    [file] = (run / "checkpoints" / "step_00000003").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    asked = ["watch", str(run), str(labeled_set), "--split", str(split_file), "--recipe", str(short), "--json"]
    assert main(asked) == 0
    broken, whole = json.loads(capsys.readouterr().out)
    (run / "watch.jsonl").unlink()

    def full(*_: object, **__: object) -> None:
        raise ArtifactError("our disk is full")

    with monkeypatch.context() as patched, pytest.raises(ArtifactError):  # which says nothing of the checkpoint
        patched.setattr(watch.publish, "publish", full)
        watch._measure(run, run / "checkpoints" / "step_00000006", str(labeled_set), split_file, short)
    assert not (run / "watch.jsonl").exists()
    assert broken["step"] == 3 and "use another step" in broken["problem"]
    assert whole["step"] == 6 and "accuracy" in whole


def test_what_cannot_be_watched_is_refused_before_anything_is_trained(labeled_set: Path, tmp_path: Path) -> None:
    bare = tmp_path / "split.json"
    split(labeled_set, labels="24", seed=0, test="25%", out=bare)
    with pytest.raises(UserError, match="no run of pre-training"):
        watch.watch(tmp_path, str(labeled_set), bare, once=True)
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(UserError, match=r"its list `valid` is empty; draw it with `fer-scale split --valid 20%`"):
        watch.watch(tmp_path, str(labeled_set), bare, once=True)


def test_a_run_that_failed_and_is_not_started_again_is_not_waited_for_without_end(
    labeled_set: Path, split_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    start = tmp_path / "attempts" / "0001"
    start.mkdir(parents=True)
    (tmp_path / "recipe.toml").touch()
    begun = datetime.now(UTC).replace(microsecond=0)
    now = begun.isoformat()
    (start / "claim.json").write_text(json.dumps({"attempt": 1, "host": "a", "pid": 1, "time": now}))
    outcome = {"outcome": "failed", "reason": "Hang: rank 1\nmore", "time": now, "restart": True}
    (start / "outcome.json").write_text(json.dumps(outcome))
    slept = list[float]()
    clock = SimpleNamespace(time=map(begun.timestamp().__add__, count(1)).__next__, sleep=slept.append)
    monkeypatch.setattr(watch, "time", clock)
    assert watch.watch(tmp_path, str(labeled_set), split_file, look_s=0.1, patience_s=3) == []
    assert slept == [0.1] * 3, "it may be started again"
    waits, ends = capsys.readouterr().err.splitlines()
    assert waits.endswith("stands still (failed: Hang: rank 1); watch waits for it to go on, for 3s at most")
    assert ends.endswith("is not started again (failed): watch ends; started again, it goes on where it was")
