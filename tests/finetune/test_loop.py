"""A whole run: two stages, the artifact, and the same mathematics however it is cut, killed or shared."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from fer_scale import checkpoint
from fer_scale.checkpoint import CheckpointError
from fer_scale.config import ConfigError
from fer_scale.finetune.evaluate import evaluate
from fer_scale.finetune.loop import TrainingError, finetune
from fer_scale.log import rows
from fer_scale.publish import PublishError, publish
from shards.errors import UserError
from shards.index import ENTRY, ShardSet
from shards.tar import BLOCK

ROOT = Path(__file__).parents[2]
RUN = """
import sys
from pathlib import Path
from fer_scale.finetune.loop import finetune
finetune(Path(sys.argv[1]), sys.argv[2:])
"""


def curve(run: Path) -> list[tuple[int, float, float]]:
    return [(r["step"], r["loss"], r["grad_norm"]) for r in rows(run / "metrics.jsonl")]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def close(a: Path, b: Path, within: float) -> None:
    """The two runs have one curve and end in one model."""
    assert [r[0] for r in curve(a)] == [r[0] for r in curve(b)]
    for one, other in zip(curve(a), curve(b), strict=True):
        assert one == pytest.approx(other, abs=within, rel=within)
    mine, theirs = weights(a), weights(b)
    assert mine.keys() == theirs.keys()
    assert max((mine[n] - theirs[n]).abs().max().item() for n in mine) <= within


def test_a_run_learns_and_ends_in_a_model_that_plain_timm_loads(
    recipe: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = finetune(recipe(steps=60, semi=20), [])
    assert "stage 2  60 steps of 14: 35.0 epochs of the labels, lr 0.003" in capsys.readouterr().err  # 24 labels
    run = tmp_path / "run"
    assert result == {"outcome": "done", "step": 80, "run": str(run), "model": str(run / "model"), "main": True}
    assert json.loads((run / "outcome.json").read_text())["outcome"] == "done"
    said = json.loads((run / "model/config.json").read_text())
    assert said["label_names"] == ["neutral", "happiness", "surprise"]
    assert said["fer_scale"]["detector"] == "annotation" and 0 < said["fer_scale"]["face_box"][0] < 0.3
    assert said["fer_scale"]["folded_temperature"] != 1 and said["fer_scale"]["base_model"] is None
    assert said["fer_scale"]["temperature_from"] == "valid"
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    pictures = torch.zeros(3, 3, 16, 16)
    pictures[0, 0], pictures[1, 1], pictures[2, 2] = 1.0, 1.0, 1.0
    assert model(pictures).argmax(1).tolist() == [0, 1, 2]
    table = rows(run / "metrics.jsonl")
    assert len(table) == 80 and table[0]["stage"] == 2 and table[-1]["stage"] == 3
    assert table[-1]["loss"] < table[0]["loss"]
    assert 0 < table[0]["one_minus_iou"] < 0.7
    assert 0 <= table[-1]["kept"] <= 1 and sum(table[-1]["predicted"].values()) == 20


@pytest.mark.parametrize("weighting", ["none", "mixup", "convex"])
@pytest.mark.parametrize("labeler", ["fixed", "soft"])
def test_every_weighting_and_labeler_runs(recipe: Callable[..., Path], weighting: str, labeler: str) -> None:
    file = recipe(steps=2, semi=2, extra=f'[facemix]\nweighting = "{weighting}"\nprobability = 0.5')
    assert finetune(file, [f"semi.labeler={labeler}", "run.precision=fp32"])["outcome"] == "done"


def test_bf16_keeps_float32_weights(recipe: Callable[..., Path], tmp_path: Path) -> None:
    finetune(recipe(steps=2, semi=1), ["run.precision=bf16"])
    assert {w.dtype for w in weights(tmp_path / "run").values()} == {torch.float32}


def test_accumulation_and_reading_from_disk_change_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """A batch of 14 in parts of 4, faces read by two processes instead of kept: to 1e-5."""
    finetune(recipe(out="whole"), [])
    finetune(recipe(out="cut"), ["batch.micro=4", "data.memory_mb=0", "data.workers=2"])
    close(tmp_path / "whole", tmp_path / "cut", 1e-5)


def test_two_and_three_processes_compute_what_one_does(
    recipe: Callable[..., Path], tmp_path: Path, launch: Callable[..., Any]
) -> None:
    """Real processes over gloo; 7 FaceMix pairs and 20 unlabeled faces divide by neither."""
    finetune(recipe(out="one"), [])
    for ranks, name in ((2, "two"), (3, "three")):
        launch(ranks, "-c", RUN, str(recipe(out=name)), "batch.micro=4").wait()
        close(tmp_path / "one", tmp_path / name, 1e-5)


def test_accelerate_launch_starts_it(recipe: Callable[..., Path], tmp_path: Path) -> None:
    finetune(recipe(out="one", steps=2, semi=2), [])
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "fer_scale", "finetune", str(recipe(out="two", steps=2, semi=2))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    [begun, *_] = rows(tmp_path / "two/events.jsonl")
    assert begun["processes"] == 2 and begun["hosts"] == [socket.gethostname()]
    assert (begun["network"], begun["image_px"]) == ("32x2x2", 16)
    close(tmp_path / "one", tmp_path / "two", 1e-5)


@pytest.mark.parametrize("stop_at", [3, 6, 9])
def test_a_stopped_run_goes_on_to_the_last_digit(recipe: Callable[..., Path], tmp_path: Path, stop_at: int) -> None:
    """In stage 2, at the border, in stage 3."""
    finetune(recipe(out="whole"), [])
    ended = finetune(recipe(out="parts"), [f"run.stop_after_steps={stop_at}"])
    assert ended["outcome"] == "preempted" and ended["step"] == stop_at
    assert json.loads((tmp_path / "parts/outcome.json").read_text())["outcome"] == "preempted"
    finetune(recipe(out="parts"), [])
    close(tmp_path / "whole", tmp_path / "parts", 0)


def test_another_recipe_is_refused_by_its_keys_and_let_through_by_change(recipe: Callable[..., Path]) -> None:
    finetune(recipe(), ["run.stop_after_steps=2"])
    with pytest.raises(ConfigError) as caught:
        finetune(recipe(), ["supervised.lr=0.5", "semi.labeler=soft", "batch.micro=6"])
    assert "supervised.lr: 0.003 -> 0.5" in str(caught.value)
    assert 'semi.labeler: "softmatch" -> "soft"' in str(caught.value)
    assert "batch.micro" not in str(caught.value)
    assert finetune(recipe(), [], ["supervised.lr=0.001"])["outcome"] == "done"


@pytest.mark.parametrize(("stop", "steps"), [(3, 2), (5, 6)])
def test_the_end_of_stage_2_is_not_moved_under_a_run_that_is_past_it(
    recipe: Callable[..., Path], stop: int, steps: int
) -> None:
    """Shorter, stage 3 would go on where it had not begun; longer, stage 2 with the student of stage 3."""
    file = recipe(steps=4, semi=4)
    finetune(file, [f"run.stop_after_steps={stop}"])
    with pytest.raises(CheckpointError, match=rf"at step {stop}, past the end of stage 2 by supervised.steps = "):
        finetune(file, [], [f"supervised.steps={steps}"])


@pytest.mark.parametrize("change", ["semi.steps=0", "semi.steps=1", "supervised.lr=0.5", "augment.flip=false"])
def test_a_run_with_all_its_steps_takes_no_change_of_what_it_was_trained_with(
    recipe: Callable[..., Path], tmp_path: Path, change: str
) -> None:
    """Nothing would be trained by it, and the card would say that everything was."""
    file = recipe(steps=2, semi=2)
    finetune(file, [])
    before = (tmp_path / "run/recipe.toml").read_text()
    with pytest.raises(CheckpointError, match=r"past the end|nothing would be trained with"):
        finetune(file, [], [change])
    assert (tmp_path / "run/recipe.toml").read_text() == before
    assert json.loads((tmp_path / "run/outcome.json").read_text())["outcome"] == "done"
    assert finetune(file, [], ["run.temperature=2", "model.crop_pct=0.5"])["outcome"] == "done"


def test_a_finished_run_started_again_does_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    finetune(recipe(steps=2, semi=2), [])
    before = weights(tmp_path / "run")
    assert finetune(recipe(steps=2, semi=2), [])["outcome"] == "done"
    assert all(torch.equal(before[n], w) for n, w in weights(tmp_path / "run").items())
    assert len(rows(tmp_path / "run/metrics.jsonl")) == 4


def test_a_longer_run_takes_the_shorter_ones_model_back(recipe: Callable[..., Path], tmp_path: Path) -> None:
    finetune(recipe(steps=2, semi=0), [])
    assert (tmp_path / "run/model").exists()
    assert finetune(recipe(steps=2, semi=0), ["run.stop_after_steps=3"], ["semi.steps=4"])["outcome"] == "preempted"
    assert not (tmp_path / "run/model").exists()
    with pytest.raises(PublishError, match="publish the run once it is done"):
        publish(tmp_path / "run", str(tmp_path / "published"), licence="cc0-1.0")
    assert finetune(recipe(steps=2, semi=0), [], ["semi.steps=4"])["step"] == 6
    assert (tmp_path / "run/model").exists() and (tmp_path / "run/curves.png").exists()
    publish(tmp_path / "run", str(tmp_path / "published"), licence="cc0-1.0")
    card = (tmp_path / "published/README.md").read_text()
    for line in (
        "| devices | 1 x cpu, on 1 host |",
        f"| timm | {timm.__version__} |",
        "| starts | 3 |",
        "| steps | 6 |",
    ):
        assert line in card


def test_the_average_is_what_is_published_and_what_stage_3_starts_from(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """With a rate near zero the student of stage 3 stays where it began."""
    finetune(recipe(steps=6, semi=2), ["semi.lr=1e-12", "run.checkpoint_every_steps=6"])
    before, after = (checkpoint.read(tmp_path / f"run/checkpoints/step_{n:08d}")[0] for n in (6, 8))
    names = [name[2:] for name in before if name[:2] == "w."]
    assert any((before[f"w.{n}"] - before[f"e.{n}"]).abs().max() > 1e-4 for n in names)
    assert all((after[f"w.{n}"] - before[f"e.{n}"]).abs().max() < 1e-6 for n in names)
    model = weights(tmp_path / "run")
    assert all(torch.equal(model[n], after[f"e.{n}"]) for n in names if not n.startswith("head."))  # temperature


def test_the_unlabeled_loss_counts_by_its_weight(recipe: Callable[..., Path], tmp_path: Path) -> None:
    losses = []
    for weight in (0, 1, 3):
        finetune(recipe(steps=2, semi=1, out=f"w{weight}"), [f"semi.weight={weight}", "semi.labeler=soft"])
        losses.append(rows(tmp_path / f"w{weight}/metrics.jsonl")[-1]["loss"])
    assert losses[1] - losses[0] > 0.1
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_timm_vit_with_another_pool_is_loaded_by_plain_timm(
    recipe: Callable[..., Path], tmp_path: Path, pool: str
) -> None:
    vit = ["model.architecture=vit_tiny_patch16_224", "model.patch_px=8", f"model.pool={pool}"]
    finetune(recipe(steps=2, semi=0), vit)
    assert timm.create_model(f"local-dir:{tmp_path / 'run/model'}", pretrained=True).global_pool == pool


@pytest.mark.parametrize(
    "key", ["run.log_every_steps=0", "supervised.lr=-1", "supervised.betas=[0.9, 1]", "semi.confidence_threshold=70"]
)
def test_numbers_that_cannot_be_meant_are_refused(recipe: Callable[..., Path], key: str) -> None:
    with pytest.raises(ConfigError, match=key.split("=")[0]):
        finetune(recipe(), [key])


def test_batch_norm_is_refused_where_the_batch_is_cut(recipe: Callable[..., Path]) -> None:
    scratch = ["model.architecture=resnet10t", "model.image_px=32", "model.patch_px=0"]
    with pytest.raises(TrainingError, match=r"resnet10t has batch norm.*batch.micro=20"):
        finetune(recipe(steps=2, semi=1), [*scratch, "batch.micro=8"])
    with pytest.raises(TrainingError, match=r"batch.micro=16"):  # pairs: of 15 pictures at 15 one would stand alone
        finetune(recipe(steps=2, semi=0), [*scratch, "supervised.batch=15", "batch.micro=15"])
    assert finetune(recipe(steps=2, semi=1), scratch)["outcome"] == "done"


@pytest.fixture
def holed(labeled_set: Path, split_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """holed(LIST, ...): the labeled set with a hole in the picture of one face of each of these lists."""

    def make(*lists: str) -> Path:
        copy = tmp_path / "damaged"
        shutil.copytree(labeled_set, copy)
        shard_set, drawn = ShardSet.open(copy), json.loads(split_file.read_text())
        for name in lists:
            shards = map(shard_set.keys, range(len(shard_set.counts)))
            rows = [[row for row, key in enumerate(keys) if key in drawn[name]] for keys in shards]
            shard = max(range(len(rows)), key=lambda shard: len(rows[shard]))  # where another can take its place
            entry = ENTRY.unpack_from(shard_set.file(shard, "idx").read_bytes(), rows[shard][0] * ENTRY.size)
            tar = shard_set.file(shard, "tar")
            data = bytearray(tar.read_bytes())
            hole = data.index(b"IDAT", entry[0] * BLOCK, entry[0] * BLOCK + entry[1])
            data[hole : hole + 100] = bytes(100)
            tar.write_bytes(data)
        return copy

    return make


@pytest.fixture
def damaged(holed: Callable[..., Path]) -> Path:
    return holed("unlabeled")


def test_a_damaged_face_of_any_list_is_left_out_and_ends_nothing(
    recipe: Callable[..., Path], holed: Callable[..., Path], split_file: Path, tmp_path: Path
) -> None:
    faces = holed("labeled", "valid", "test")
    finetune(recipe(extra="evaluate_every_steps = 3"), [f"data.shards={faces}", "data.max_bad=0.5"])
    named = [event["sample"] for event in rows(tmp_path / "run/events.jsonl") if event["event"] == "unreadable"]
    assert len(named) == 1 and named[0].endswith(": damaged")
    for model in (str(tmp_path / "run/model"), "baseline:pixels", "baseline:majority"):
        found = evaluate(model, faces, tmp_path / "measured", split_file=split_file)
        assert found["left_out"] == {"unknown_expression": 0, "unreadable": 1} and found["samples"] == 29


def test_an_unreadable_face_is_named_and_replaced_alike_from_memory_and_disk(
    recipe: Callable[..., Path], damaged: Path, tmp_path: Path
) -> None:
    given = [f"data.shards={damaged}", "data.max_bad=0.5", "semi.steps=8"]
    finetune(recipe(out="kept"), given)
    finetune(recipe(out="read"), [*given, "data.memory_mb=0", "data.workers=0"])
    close(tmp_path / "kept", tmp_path / "read", 0)
    for run in ("kept", "read"):
        named = [e["sample"] for e in rows(tmp_path / run / "events.jsonl") if e["event"] == "unreadable"]
        assert len({*named}) == 1 and re.search(r"blobs/blobs-\d+\.tar\[", named[0])
        assert rows(tmp_path / run / "metrics.jsonl")[-1]["unreadable"] > 0


@pytest.mark.parametrize("where", ["data.memory_mb=2048", "data.memory_mb=0"])
def test_too_many_unreadable_faces_end_the_run_by_name(
    recipe: Callable[..., Path], damaged: Path, tmp_path: Path, where: str
) -> None:
    with pytest.raises(UserError, match=r"could not be read|cannot be read"):
        finetune(recipe(), [f"data.shards={damaged}", where, "data.workers=0", "semi.steps=60", "data.max_bad=0"])
    assert json.loads((tmp_path / "run/outcome.json").read_text())["outcome"] == "failed"
