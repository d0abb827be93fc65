"""`fer-scale check` of a fine-tuning recipe: what it counts, what it refuses, and what it measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, PartialState

from fer_scale import checkpoint
from fer_scale.__main__ import main
from fer_scale.finetune import cost
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import digest, split
from fer_scale.log import rows
from shards.errors import UserError
from shards.index import ShardSet


def checked(recipe: Path, *overrides: str, try_out: bool = False) -> dict[str, Any]:
    return cost.check(recipe, list(overrides), try_out=try_out)


def test_json_counts_faces_views_and_passes_of_both_stages(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(recipe()), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["data"]["labels"] == {"neutral": 8, "happiness": 8, "surprise": 8}
    assert [found["data"][name] for name in ("labeled", "unlabeled", "valid", "test")] == [24, 54, 12, 30]
    two, three = found["stages"]
    # 6 steps of 14 labels, each as it is and mixed; 6 of 10 labels and 20 unlabeled faces, whose two views pass once.
    assert [two[key] for key in ("steps", "views", "pictures_a_step", "labeled_seen")] == [6, 84, 28, 3.5]
    assert [three[key] for key in ("steps", "views", "pictures_a_step", "labeled_seen")] == [6, 300, 60, 2.5]
    assert three["teachers_pictures_a_step"] == 20 and three["unlabeled_seen"] == pytest.approx(6 * 20 / 54)
    assert found["seen"] == pytest.approx({"neutral": 6, "happiness": 6, "surprise": 6})
    assert found["data"]["decoded_mb"]["unlabeled"] == 54 * 24 * 24 * 3 / 1e6 and found["data"]["kept"]["unlabeled"]
    assert found["tried"] is None and "seconds" not in found


def test_flop_are_those_of_the_matrix_products_of_a_vit(recipe: Callable[..., Path]) -> None:
    found = checked(recipe())
    width, depth, tokens, patch, classes = 32, 2, 5, 8 * 8 * 3, 3
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    forward = 2 * 4 * patch * width + depth * block + 2 * width * classes
    assert found["model"]["forward_flops"] == forward == 301_504
    assert found["model"]["step_flops"] == 3 * forward - 2 * 4 * patch * width  # pictures have no gradient
    two, three = found["stages"]
    assert two["tflop_a_step"] * 1e12 == pytest.approx(28 * found["model"]["step_flops"])
    assert three["tflop_a_step"] * 1e12 == pytest.approx(40 * found["model"]["step_flops"] + 20 * forward)
    assert found["tflop"] == pytest.approx(6 * (two["tflop_a_step"] + three["tflop_a_step"]))


@pytest.mark.parametrize(
    ("overrides", "labeled"),
    [
        (["facemix.weighting=none"], (14, 10)),
        (["facemix.weighting=mixup"], (14, 10)),
        (["facemix.real=mixed"], (14, 10)),
        (["facemix.stages=2"], (28, 10)),
        (["facemix.probability=0.5"], (21, 15)),
    ],
)
def test_facemix_costs_the_passes_that_it_makes(
    overrides: list[str], labeled: tuple[int, int], recipe: Callable[..., Path]
) -> None:
    two, three = checked(recipe(), *overrides)["stages"]
    assert (two["pictures_a_step"], three["pictures_a_step"] - 40) == labeled


def test_memory_and_disk_are_those_of_the_state_and_of_the_pictures_at_once(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    found = checked(recipe())
    many = checked(recipe(), "batch.micro=4")
    kept = found["model"]["kept"] / 1e6
    # At once: 14 labeled faces, each as it is and mixed; in fours, 4 and their mixtures.
    assert found["memory_mb"]["activations"] == pytest.approx(28 * kept)
    assert many["memory_mb"]["activations"] == pytest.approx(8 * kept)
    finetune(recipe(), [])
    folder, _ = checkpoint.newest(tmp_path / "run")
    assert folder is not None
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert found["model"]["saved"] == pytest.approx(size, rel=0.1)  # of which names and shapes are a few kB


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["run.keep_every_steps=0"], 0),
        (["run.checkpoint_every_steps=2"], 3),  # steps 4, 8 and 12
        (["run.checkpoint_every_steps=2", "run.stop_after_steps=7"], 1),
        (["run.checkpoint_every_steps=0"], 2),  # the ends of the two stages
    ],
)
def test_checkpoints_that_are_kept_for_good_are_counted_among_those_on_the_disk(
    recipe: Callable[..., Path], overrides: list[str], count: int
) -> None:
    found = checked(recipe(), "run.keep_every_steps=4", *overrides)
    assert found["checkpoints_mb"] == pytest.approx((2 + 1 + count) * found["model"]["saved"] / 1e6)


def test_rare_expressions_are_seen_more_often_where_the_square_root_counts(
    recipe: Callable[..., Path], labeled_set: Path, split_file: Path, tmp_path: Path
) -> None:
    content = json.loads(split_file.read_text())
    faces = {sample.key: sample.face for sample in ShardSet.open(labeled_set).samples_in_order()}
    happy = [key for key in content["labeled"] if (face := faces[key]) and face.expression == "happiness"]
    content["labeled"] = [key for key in content["labeled"] if key not in happy[2:]]
    content["class_counts"]["labeled"] = {"neutral": 8, "happiness": 2, "surprise": 8}
    file = tmp_path / "rare.json"
    file.write_text(json.dumps(content | {"sha256": digest(content)}))
    natural = checked(recipe(), f"data.split={file}")
    assert natural["seen"] == pytest.approx(dict.fromkeys(natural["seen"], 8))  # 144 labeled views of 18 faces
    found = checked(recipe(), f"data.split={file}", "supervised.sampling=sqrt", "semi.sampling=sqrt")
    assert found["seen"] == pytest.approx({"neutral": 7.2, "happiness": 14.4, "surprise": 7.2})
    assert any("happiness 14.4" in line for line in cost.lines(found))


def test_what_would_stop_the_run_is_told_before_it(
    recipe: Callable[..., Path], labeled_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = tmp_path / "every.json"
    split(labeled_set, labels="120", seed=0, out=every)
    for override, said in (
        ("data.split=/none.json", "no such split file"),
        ("supervised.target=votes", "carry no votes"),
        (f"data.split={every}", "lists no unlabeled faces"),
        ("model.architecture=resnet18", "has batch norm"),
        ("supervised.stepz=3", "stepz"),
        ("run.keep_checkpoints=1000000000", "make room"),
    ):
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        extra = ["batch.micro=2"] if "resnet" in override else []
        assert main(["check", str(recipe()), override, *extra]) == 2, override
        assert said in capsys.readouterr().err
    with pytest.raises(UserError, match=r"nowhere"):
        checked(
            recipe(),
            f"model.start_from={tmp_path}/nowhere",
            "model.architecture=",
            *["model.image_px=0", "model.patch_px=0"],
        )
    assert not (tmp_path / "run").exists()


def test_a_person_reads_a_column_for_each_stage(
    recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(recipe())]) == 0
    said = capsys.readouterr().out
    assert "labels   24: 8 neutral, 8 happiness, 8 surprise" in said
    rows = {line[:26].strip(): line[26:].split() for line in said.splitlines()}
    assert rows["views"] == ["84", "300"]
    assert rows["most decay of the average"] == ["0.4", "0.571"]  # 6/15, 12/21: ema_decay = 0.999 is far
    assert "--try measures" in said and "h100 at its peak" in said
    assert main(["check", str(recipe()), "--ranks", "2"]) == 2
    assert "is for fine-tuning" in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_step_takes_is_what_a_real_run_takes(recipe: Callable[..., Path], tmp_path: Path) -> None:
    larger = ["model.architecture=128x6x4", "model.image_px=48", "supervised.batch=32"]
    file = recipe(steps=12, semi=12)
    found = checked(file, *larger, try_out=True)
    assert not (tmp_path / "run").exists()
    finetune(file, larger)
    for row in found["stages"]:
        quickest, *_, slowest = sorted(
            _steps_s(tmp_path / "run", row["stage"])[2:]
        )  # without what begins with the first
        print(f"stage {row['stage']}: {row['step_s']:.3f} s tried, {quickest:.3f} to {slowest:.3f} s in a run")
        assert quickest / 2 < row["step_s"] < 2 * slowest
    tried = found["tried"]
    assert tried["micro"] == 64 and tried["peak_mb"] > 50
    assert found["seconds"] == pytest.approx(tried["setup_s"] + sum(row["seconds"] for row in found["stages"]))
    assert found["seconds_of_5_seeds"] == 5 * found["seconds"]


def _steps_s(run: Path, stage: int) -> list[float]:
    faces = {2: 32, 3: 30}
    return [faces[stage] / row["images_per_s"] for row in rows(run / "metrics.jsonl") if row.get("stage") == stage]
