"""The demo: its commands are the real ones, it goes on where it was stopped, and over three seeds pre-training pays."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fer_scale import command_line
from fer_scale.__main__ import VERBS
from fer_scale.demo import flow
from shards.errors import UserError


def metrics(accuracy: float) -> str:
    return json.dumps({"accuracy": accuracy, "uar": accuracy, "intervals_95": {"accuracy": [accuracy, accuracy]}})


def words(step: flow.Step) -> list[str]:
    values = {"OUT": "runs/x", "SEED": "0", "RANKS": "2", "PORT": "1234"}
    return flow.words(step, values)


@pytest.mark.parametrize("step", flow.FLOW, ids=lambda step: step.title)
def test_every_command_of_the_demo_is_one_that_the_command_line_takes(step: flow.Step) -> None:
    command = words(step)
    verb = command[command.index("fer_scale") + 1 :] if command[0] == "deepspeed" else command[1:]
    assert command_line.parse(VERBS, verb).verb == verb[0]


def test_values_replace_whole_words_only() -> None:
    step = flow.Step("", "", "fer-scale verify OUT/sets/OUTPUT --seed SEED")
    assert words(step) == ["fer-scale", "verify", "runs/x/sets/OUTPUT", "--seed", "0"]


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="is not empty, and no demo"):
        flow.claim(tmp_path, 0)


def test_a_demo_of_another_seed_is_refused_and_says_which(tmp_path: Path) -> None:
    flow.claim(tmp_path, 3)
    with pytest.raises(UserError, match="go on with --seed 3"):
        flow.claim(tmp_path, 0)


def test_a_stopped_demo_is_kept_and_a_finished_one_is_cleared_away(tmp_path: Path) -> None:
    flow.claim(tmp_path, 0)
    (tmp_path / "faces").mkdir()
    flow.claim(tmp_path, 0)
    assert (tmp_path / "faces").exists()
    (tmp_path / "ladder.json").write_text("{}")
    flow.claim(tmp_path, 0)
    assert [file.name for file in tmp_path.iterdir()] == ["demo.json"]


def run(step: flow.Step, out: Path) -> float:
    return flow.run(step, out, {"OUT": str(out), "SEED": "0", "RANKS": "2", "PORT": "1"}, quiet=True)


def test_a_step_runs_once_and_a_failed_one_says_what_to_do(tmp_path: Path) -> None:
    step = flow.Step("Make it.", "made", "mkdir OUT/made")
    assert run(step, tmp_path) > 0
    assert run(step, tmp_path) == 0  # done already: not run again
    with pytest.raises(UserError, match=r"false did not finish \(exit code 1.*goes on from here"):
        run(flow.Step("Fail.", "", "false"), tmp_path)


def test_a_run_that_was_only_stopped_does_not_pass_for_done(tmp_path: Path) -> None:
    """The launcher's exit code is 0 then."""
    (tmp_path / "outcome.json").write_text('{"outcome": "preempted"}')
    with pytest.raises(UserError, match="did not finish"):
        run(flow.Step("Train.", "", "true run.out=OUT"), tmp_path)


def test_the_ladder_is_read_from_what_was_measured_and_printed_with_the_caveat(tmp_path: Path) -> None:
    for number, file in enumerate(flow.RUNGS.values()):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(metrics(0.2 + number / 10))
    ladder = flow.ladder(tmp_path)
    assert [rung["accuracy"] for rung in ladder] == pytest.approx([0.125, 0.2, 0.3, 0.4, 0.5])
    result: dict[str, Any] = {"ladder": ladder, "note": flow.NOTE, "seconds": 61, "device": "2 CPU cores", "ranks": 2}
    text = flow.report(result, tmp_path)
    assert "50.0 to 50.0" in text and "say nothing about real ones" in text and "1m01s on 2 CPU cores" in text
    assert str(tmp_path / "model") in text


def test_importing_the_drawing_does_not_import_torch() -> None:
    """The processes that draw start in a fraction of a second."""
    code = "import sys, fer_scale.demo.draw; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pre_training_beats_pixels_by_8_points_and_the_same_network_from_scratch_by_20(
    tmp_path: Path, seed: int
) -> None:
    command = ["bash", "launch/demo.sh", "--out", str(tmp_path / "demo"), "--seed", str(seed), "--json"]
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # one of launch/test.sh's
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    print(json.dumps(result, indent=2))
    pixels, scratch, stage2, stage3 = (100 * rung["accuracy"] for rung in result["ladder"][1:])
    assert stage2 > pixels + 8 and stage3 > pixels + 8
    assert stage2 > scratch + 20 and stage3 > scratch + 20
