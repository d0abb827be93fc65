"""What the loop writes and says, of steps that went wrong among them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runs import recipe

from fer_scale import config, log
from fer_scale.pretrain import begin, loop
from fer_scale.pretrain.engine import Stepped
from fer_scale.pretrain.meter import Meter
from fer_scale.resume import Found
from fer_scale.skips import Skips
from shards.errors import UserError


def run_of(folder: Path, *overrides: str) -> Any:
    """As much of a run of one rank as the functions here look at."""
    us = SimpleNamespace(is_main=True, device=torch.device("cpu"), sum=lambda loss: [loss.item()])
    return SimpleNamespace(
        recipe=recipe(*overrides, out=folder), us=us, journal=log.Journal(folder), meter=Meter(), step=7, bad=0,
        skips=Skips(1, folder, in_a_row=1), engine=SimpleNamespace(adam_step=6), plan=SimpleNamespace(steps=9),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("optim.lr=4e-3",), r"\(now 0.004\) by --change optim.lr="),
        (("optim.lr=none", "optim.base_lr=3e-2"), r"\(now 0.03\) by --change optim.base_lr="),
    ],
)
def test_a_run_that_learns_nothing_names_the_key_that_its_recipe_gives_the_learning_rate_by(
    tmp_path: Path, given: tuple[str, ...], said: str
) -> None:
    run = run_of(tmp_path, *given)
    with pytest.raises(UserError, match=said):
        loop._report_skipped(run, {"step": 7, "ranks": [], "samples": 0, "file": None})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_line_of_metrics_is_json_whatever_the_loss_and_the_gradient_are(tmp_path: Path, value: float) -> None:
    run = run_of(tmp_path)
    run.meter.add(Stepped(loss=torch.tensor(value), grad_norm=value), 25, 0.1, 1.0)
    loop._log(run, 1e-3, {"exploding": 0.0})
    [line] = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["loss"] is None and row["grad_norm"] is None and row["images_per_s"] == 25


def test_images_are_counted_on_from_the_start_before_also_where_a_batch_is_another_one_now(
    tmp_path: Path,
) -> None:
    run, begun = run_of(tmp_path, "batch.size=50"), list[dict[str, Any]]()
    run.before, run.read, run.prints, run.start = 3 * 25, 4 * 50, [], None
    run.saver = SimpleNamespace(finish=lambda: None, begin=begun.append)
    loop._save(run, wait=False)
    assert [(progress["step"], progress["images"]) for progress in begun] == [(7, 275)]


def test_another_size_of_a_batch_is_said_to_be_another_place_in_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, now = run_of(tmp_path).recipe, run_of(tmp_path, "batch.size=50").recipe
    found = Found(tmp_path / "step_00000003", {}, {"step": 3, "recipe": config.dump(before)}, [])
    begin._say_another_place(before, found)
    begin._say_another_place(now, Found(None, {}, {"step": 0}, []))
    assert capsys.readouterr().err == ""
    begin._say_another_place(now, found)
    assert "batch.size 25 -> 50: the place in the data is that of step 3 of batches of 50" in capsys.readouterr().err
