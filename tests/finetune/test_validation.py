"""What a run that is measured on its list `valid` says, and that measuring changes nothing."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fer_scale import checkpoint, record
from fer_scale.__main__ import main
from fer_scale.config import ConfigError
from fer_scale.finetune.evaluate import evaluate
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import split
from fer_scale.life import life
from fer_scale.log import rows

RUN = """
import sys
from pathlib import Path
from fer_scale.finetune.loop import finetune
finetune(Path(sys.argv[1]), sys.argv[2:])
"""


def measured(run: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run / "metrics.jsonl") if "valid_accuracy" in row]


def test_measuring_changes_no_bit_and_says_what_evaluate_says(
    recipe: Callable[..., Path], labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    finetune(recipe(out="plain"), [])
    finetune(recipe(out="seen"), ["run.evaluate_every_steps=4"])
    plain, seen = (tmp_path / run for run in ("plain", "seen"))
    one, other = (load_file(run / "model/model.safetensors") for run in (plain, seen))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    folders = [checkpoint.newest(run)[0] for run in (plain, seen)]
    assert all(folders), "the student, Adam's memory and the statistics are there too"
    states = [load_file(next(folder.rglob("*.safetensors"))) for folder in folders if folder]
    assert states[0].keys() == states[1].keys() and all((states[0][n] == states[1][n]).all() for n in states[0])
    trained = [[r for r in rows(run / "metrics.jsonl") if "loss" in r] for run in (plain, seen)]
    learned = [[(r["step"], r["loss"], r["grad_norm"]) for r in found] for found in trained]
    assert learned[0] == learned[1]

    lines = measured(seen)
    assert [(row["step"], row["stage"]) for row in lines] == [(4, 2), (8, 3), (12, 3)] and not measured(plain)
    command = f"evaluate {seen / 'model'} {labeled_set} --split {split_file} --list valid --out {tmp_path / 'ev'}"
    assert main(command.split()) == 0
    said = json.loads((tmp_path / "ev/metrics.json").read_text())
    last = lines[-1]
    assert (last["valid_accuracy"], last["valid_uar"]) == (said["accuracy"], said["uar"])
    assert last["valid_recall"] == {name: row["recall"] for name, row in said["per_class"].items()}
    assert life(record.read(seen), time.time())["loss"] == trained[1][-1]["loss"], (
        "what a run says of its time is as before"
    )
    assert (seen / "curves.png").stat().st_size > (plain / "curves.png").stat().st_size


def test_pictures_are_measured_in_grey_where_the_model_will_see_grey(
    recipe: Callable[..., Path], labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    """The blobs' expression is their colour."""
    finetune(recipe(steps=12, semi=0), ["augment.grey=1", "run.evaluate_every_steps=12"])
    said = evaluate(str(tmp_path / "run/model"), labeled_set, tmp_path / "ev", split_file=split_file, list_name="valid")
    [line] = measured(tmp_path / "run")
    assert line["valid_recall"] == {name: row["recall"] for name, row in said["per_class"].items()}


def test_two_processes_measure_once_and_a_resumed_run_has_each_line_once(
    recipe: Callable[..., Path], tmp_path: Path, launch: Callable[..., Any]
) -> None:
    every = "run.evaluate_every_steps=2"
    finetune(recipe(steps=3, semi=2, out="one"), [every])
    file = recipe(steps=3, semi=2, out="two")
    launch(2, "-c", RUN, str(file), every, "run.stop_after_steps=3").wait()
    launch(2, "-c", RUN, str(file), every).wait()
    one, two = (measured(tmp_path / run) for run in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [2, 4]


def test_a_split_without_the_list_is_refused_in_plain_words(
    recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path
) -> None:
    split(labeled_set, labels="24", seed=0, test="25%", out=tmp_path / "split.json")
    with pytest.raises(ConfigError, match=r"run\.evaluate_every_steps: .*no list valid"):
        finetune(recipe(), [f"data.split={tmp_path / 'split.json'}", "run.evaluate_every_steps=2"])
