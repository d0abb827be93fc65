"""The life of a run: started by each launcher, stopped, refused, out of space. Real processes over gloo."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runs import events, losses

from fer_scale import checkpoint, config, log
from fer_scale.pretrain.recipe import Pretrain

ROOT = Path(__file__).parents[2]
RECIPE = str(Path(__file__).parent / "pretrain.toml")


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> list[str]:
    """What follows `python`: a run of six steps in tmp_path / "run"."""
    given = [f"data.shards={faces}", f"run.out={tmp_path / 'run'}", "run.steps=6", "run.checkpoint_every_steps=3"]
    return ["-m", "fer_scale", "pretrain", RECIPE, *given]


@pytest.mark.slow  # four starts; that a mixture's batches are the same stands in test_loader.py
def test_a_mixture_gives_one_curve_for_any_ranks_and_readers_and_through_a_stop(
    words: list[str], mixed_sizes: Path, faces: Path, tmp_path: Path, launch: Any
) -> None:
    words = [*words, f'data.shards=["{faces}=0.7", "{mixed_sizes}=0.3"]']
    launch(1, *words, f"run.out={tmp_path / 'plain'}").wait()
    launch(3, *words, "run.stop_after_steps=3").wait()
    said = launch(2, *words, "data.workers=1", "batch.micro=7").wait()
    assert "goes on from" in said and "40 of mixed: 30 % of a batch, 7.5 images a step, 1.3 epochs" in said
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)
    assert [row["weight"] for row in json.loads((tmp_path / "run" / "data.json").read_text())] == [0.7, 0.3]


def test_a_run_too_short_to_be_profiled_says_so(words: list[str], tmp_path: Path, launch: Any) -> None:
    said = launch(1, *words, "run.steps=3", "run.profile_steps=2").wait()
    assert "nothing profiled: the first 3 steps of a start are not, and there were 3" in said
    assert not (tmp_path / "run" / "trace.json.gz").exists()


@pytest.mark.parametrize(
    ("steps", "inside"),
    [(6, 2), pytest.param(4, 1, marks=pytest.mark.slow)],  # the second run ends before what was asked for
)
def test_some_steps_are_profiled_and_the_curve_stays(
    words: list[str], tmp_path: Path, launch: Any, steps: int, inside: int
) -> None:
    words = [*words, f"run.steps={steps}"]
    launch(1, *words, f"run.out={tmp_path / 'plain'}").wait()
    launch(1, *words, "run.profile_steps=2").wait()
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    with gzip.open(tmp_path / "run" / "trace.json.gz") as file:
        names = Counter(event.get("name") for event in json.load(file)["traceEvents"])
    assert names["Optimizer.step#AdamW.step"] == 2 * inside, "ZeRO steps each of two groups of parameters by itself"
    assert names["aten::addmm"] > 0


def outcome(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "run" / "outcome.json").read_text())


def test_the_deepspeed_launcher_trains_and_leaves_the_whole_run_folder(words: list[str], tmp_path: Path) -> None:
    env = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    launcher = Path(sys.executable).parent / "deepspeed"
    command = [str(launcher), "--num_accelerators", "2", "--master_port", str(32000 + os.getpid() % 700), "--module"]
    done = subprocess.run([*command, *words[1:]], cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {f.name for f in (tmp_path / "run").iterdir()} == {
        "recipe.toml", "plan.json", "data.json", "metrics.jsonl", "events.jsonl", "outcome.json",
        "checkpoints", "curves.png", "reconstructions.png", "attempts",
    }  # fmt: skip
    assert outcome(tmp_path)["outcome"] == "done"
    rows = log.rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "lr", "images_per_s", "data_wait", "grad_norm"} <= set(rows[0])
    assert {"communication", "update_ratio", "dead", "exploding"} <= set(rows[0])
    assert [row["event"] for row in log.rows(tmp_path / "run" / "events.jsonl")] == [
        "start",
        "checkpoint",
        "checkpoint",
    ]


def test_each_rank_and_start_has_a_log_that_holds_its_last_words(words: list[str], tmp_path: Path, launch: Any) -> None:
    dying = [str(ROOT / "tests" / "ranks" / "dying.py"), *words[2:]]
    for death, code in (("killed", -signal.SIGKILL), ("failed", 1)):
        run = launch(2, *dying, DEATH=death)
        said = [p.communicate(timeout=100)[0] for p in run.processes]
        logs = max((tmp_path / "run" / "attempts").iterdir())
        kept = [(logs / f"rank-{rank}.log").read_text() for rank in (0, 1)]
        assert run.processes[1].returncode == code
        assert kept[1] == said[1] and "the last words of rank 1" in kept[1]
        met, heard = said[0].split("\n", 1)  # a folder is claimed when all have met
        assert met.startswith("meeting  2 ranks") and "step 2/6" in heard and kept[0].startswith(heard)
        assert "lost another rank" in kept[0] if death == "killed" else "Traceback" in kept[0]
    assert logs.name == "0002" and kept[1].endswith("ValueError: the failure of rank 1\n")
    assert json.loads((logs.parents[1] / "first_failure.json").read_text())["rank"] == 1


def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(words: list[str], tmp_path: Path, launch: Any) -> None:
    launch(1, *words).wait()
    exact = losses(tmp_path / "run")
    launch(1, *words, "run.precision=bf16", f"run.out={tmp_path / 'half'}").wait()
    half = losses(tmp_path / "half")
    assert half == pytest.approx(exact, rel=0.02) and half != exact
    state, _ = checkpoint.read(checkpoint.folder_of(tmp_path / "half", 6))
    assert {str(t.dtype) for t in state.values()} == {"torch.float32"}


def test_another_recipe_is_refused_in_one_message_and_a_change_is_recorded(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    stopped = launch(2, *words, "run.stop_after_steps=3").wait()
    assert "(run.stop_after_steps = 3); a larger run.stop_after_steps, or none, goes on from there" in stopped
    assert outcome(tmp_path)["outcome"] == "preempted"
    refused = launch(2, *words, "optim.lr=1e-3", "data.workers=1")
    said = [p.communicate(timeout=100)[0] for p in refused.processes]
    assert [p.returncode for p in refused.processes] == [2, 2] and outcome(tmp_path)["outcome"] == "preempted"
    text = "".join(said)
    assert text.count("holds a run with another recipe:\n  optim.lr: 0.005 -> 0.001\n") == 1
    assert "--change optim.lr=" in text and "Traceback" not in text
    said = launch(1, *words, "--change", "optim.lr=1e-3", "--change", "batch.size=50").wait()
    resumed = events(tmp_path / "run", "resume")
    assert resumed[-1]["changes"] == ["optim.lr=1e-3", "batch.size=50"] and resumed[-1]["step"] == 3
    assert "batch.size 25 -> 50: the place in the data is that of step 3 of batches of 50" in said
    assert checkpoint.progress_of(checkpoint.folder_of(tmp_path / "run", 6))["images"] == 3 * 25 + 3 * 50


def begun(words: list[str], tmp_path: Path) -> dict[str, bytes]:
    """Make what a run leaves that was killed before its first checkpoint: recipe.toml and a curve."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(config.dump(config.load(Pretrain, Path(RECIPE), words[4:])))
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.9}\n')
    return {name: (run / name).read_bytes() for name in ("recipe.toml", "metrics.jsonl")}


def refused(launch: Any, ranks: int, *words: str) -> str:
    run = launch(ranks, *words)
    said = "".join(p.communicate(timeout=200)[0] for p in run.processes)
    assert all(p.returncode for p in run.processes) and "Traceback" not in said, said
    return said


def test_another_recipe_is_refused_before_the_first_checkpoint_too_and_nothing_is_written(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    before = begun(words, tmp_path)
    said = refused(launch, 2, *words, "optim.lr=1e-3")
    assert said.count("holds a run with another recipe:\n  optim.lr: 0.005 -> 0.001\n") == 1
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before


def test_a_run_of_damaged_checkpoints_is_not_begun_anew_but_one_killed_in_its_first_save_is(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    before = begun(words, tmp_path)
    place = checkpoint.folder_of(tmp_path / "run", 3)
    part = checkpoint.part_of(place)
    checkpoint.finish(part, place, [checkpoint.write_part(part, 0, 1, {})], {"step": 3})
    (place / "progress.json").write_bytes((place / "progress.json").read_bytes().replace(b"3", b"2"))
    said = refused(launch, 1, *words)
    assert f"{place / 'progress.json'}: damaged" in said and f"remove {place.parent} to start anew" in said
    assert {name: (tmp_path / "run" / name).read_bytes() for name in before} == before
    place.rename(part)
    (part / "manifest.json").unlink()
    launch(1, *words).wait()
    assert outcome(tmp_path)["outcome"] == "done"


def test_a_run_folder_that_cannot_be_made_is_said_by_one_rank(words: list[str], tmp_path: Path, launch: Any) -> None:
    (tmp_path / "file").touch()
    said = refused(launch, 3, *words, f"run.out={tmp_path / 'file' / 'run'}")
    assert said.count("give another folder") == 1


def test_a_mistake_of_the_recipe_is_said_by_one_rank(words: list[str], launch: Any) -> None:
    run = launch(3, *words, "run.step=1")
    said = [p.communicate(timeout=100)[0] for p in run.processes]
    assert "".join(said).count("did you mean run.steps?") == 1
    assert {p.returncode for p in run.processes} == {2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_rank_stops_all_at_a_saved_step(
    words: list[str], tmp_path: Path, launch: Any, number: signal.Signals
) -> None:
    endless = [*words, "run.steps=100000", "run.checkpoint_every_steps=100000", "data.workers=1"]
    run = launch(2, *endless)
    until = time.monotonic() + 150
    while len(log.rows(tmp_path / "run" / "metrics.jsonl")) < 3:
        assert time.monotonic() < until and run.processes[0].poll() is None
        time.sleep(0.05)
    run.processes[1].send_signal(number)
    said = run.wait()
    ended = outcome(tmp_path)
    assert ended["outcome"] == "preempted" and f"stopped at step {ended['step']}" in said
    assert checkpoint.progress_of(checkpoint.folder_of(tmp_path / "run", ended["step"]))["step"] == ended["step"]


def test_the_file_stop_stops_a_run_and_while_it_lies_there_none_begins(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    stop = tmp_path / "run" / "stop"
    stop.parent.mkdir()
    stop.touch()
    assert "stop is there since" in refused(launch, 1, *words)
    stop.unlink()
    run = launch(1, *words, "run.steps=100000", "run.checkpoint_every_steps=100000")
    until = time.monotonic() + 100
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < until and run.processes[0].poll() is None
        time.sleep(0.05)
    stop.touch()
    run.wait()
    assert outcome(tmp_path)["outcome"] == "preempted" and not stop.exists()


@pytest.mark.slow  # test_start.py trains from published weights, too
def test_training_goes_on_from_a_published_encoder(words: list[str], tmp_path: Path, launch: Any) -> None:
    launch(1, *words, "run.steps=3").wait()
    publish = ["-m", "fer_scale", "publish", str(tmp_path / "run"), str(tmp_path / "encoder"), "--licence", "cc0-1.0"]
    launch(1, *publish).wait()
    launch(1, *words, "run.steps=3", f"run.out={tmp_path / 'more'}", f"model.start_from={tmp_path / 'encoder'}").wait()
    fresh, continued = (log.rows(tmp_path / run / "metrics.jsonl")[0]["loss"] for run in ("run", "more"))
    assert continued != fresh


def test_a_disk_without_room_for_what_will_be_kept_is_refused_before_the_first_step(
    words: list[str], small_disk: Path, launch: Any
) -> None:
    said = refused(launch, 2, *words, f"run.out={small_disk}", "run.keep_checkpoints=20")
    assert re.search(r"are free, and 21 checkpoints of .* are to be written: make room", said)
    assert not (small_disk / "metrics.jsonl").exists()
