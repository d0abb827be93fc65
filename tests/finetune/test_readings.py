"""Options of the two stages in whole runs: sampling, the readings of the authors' code, and what the log says."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fer_scale import checkpoint
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import digest
from fer_scale.log import rows
from shards.index import ShardSet
from shards.pack import pack

RUN = """
import sys
from pathlib import Path
from fer_scale.finetune.loop import finetune
finetune(Path(sys.argv[1]), sys.argv[2:])
"""


def curve(run: Path, *keys: str) -> list[list[Any]]:
    return [
        [row.get(key) for key in keys or ("loss", "grad_norm", "one_minus_iou")] for row in rows(run / "metrics.jsonl")
    ]


def same(a: Path, b: Path, within: float = 0) -> bool:
    """Whether two runs have one curve and end in one model."""
    one, other = (load_file(run / "model/model.safetensors") for run in (a, b))
    close = max((one[name] - other[name]).abs().max().item() for name in one) <= within
    return close and all(x == pytest.approx(y, abs=within, rel=within) for x, y in zip(curve(a), curve(b), strict=True))


def relabeled(pictures: Path, split_file: Path, labeled_set: Path, tmp_path: Path, expression: str | None) -> list[str]:
    """Overrides for the same set and split, but that all unlabeled faces carry this expression."""
    folder, content = tmp_path / f"as_{expression}", json.loads(split_file.read_text())
    shard_set = ShardSet.open(labeled_set)
    hidden = {s.image for s in shard_set.samples_in_order() if s.key in {*content["unlabeled"]}}
    folder.mkdir()
    for child in pictures.iterdir():
        if child.is_dir():
            shutil.copytree(child, folder / child.name)
    lines = [json.loads(line) for line in (pictures / "labels.jsonl").read_text().splitlines()]
    for line in lines:
        if (pictures / line["path"]).read_bytes() in hidden:
            line.pop("expression")
            line |= {"expression": expression} if expression else {}
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / f"set_{expression}"
    pack(folder, out, source="folder", name="blobs", shard_mb=0.1, workers=1, licence="cc0-1.0")
    content["fingerprint"] = ShardSet.open(out).fingerprint
    content["sha256"] = digest(content)
    (tmp_path / f"split_{expression}.json").write_text(json.dumps(content))
    return [f"data.shards={out}", f"data.split={tmp_path / f'split_{expression}.json'}"]


def test_hidden_labels_are_counted_in_the_log_and_never_trained_on(
    recipe: Callable[..., Path], pictures: Path, split_file: Path, labeled_set: Path, tmp_path: Path
) -> None:
    """The same faces with their expressions, with one that no label has, and with none: one run to the last digit."""
    finetune(recipe(steps=20, semi=3, out="true"), [])
    for expression in ("contempt", None):
        given = relabeled(pictures, split_file, labeled_set, tmp_path, expression)
        finetune(recipe(steps=20, semi=3, out=f"run_{expression}"), given)
        assert same(tmp_path / "true", tmp_path / f"run_{expression}")
        keys = ("kept", "predicted", "kept_by_class")
        assert curve(tmp_path / "true", *keys) == curve(tmp_path / f"run_{expression}", *keys)
    true, contempt, none = (rows(tmp_path / run / "metrics.jsonl") for run in ("true", "run_contempt", "run_None"))
    assert "precision" not in true[19]
    assert 0.5 < true[-1]["precision"] <= 1
    assert list(true[-1]["precision_by_class"]) == ["neutral", "happiness", "surprise"]
    assert contempt[-1]["precision"] == 0
    assert none[-1]["precision"] is None and set(none[-1]["precision_by_class"].values()) == {None}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_log_of_pseudo_labels_is_alike_in_parts_on_two_processes_and_from_disk(
    recipe: Callable[..., Path], tmp_path: Path, launch: Callable[..., Any], ranks: int
) -> None:
    """And so are batches that are sampled by the roots, mixed in stage 2 alone, adjusted by the prior."""
    given = ["supervised.sampling=sqrt", "semi.sampling=sqrt", "supervised.logit_adjustment=0.5", "facemix.stages=2"]
    finetune(recipe(out="one"), given)
    cut = ["batch.micro=4", "data.memory_mb=0", "data.workers=0"]
    if ranks == 1:
        finetune(recipe(out="two"), [*given, *cut])
    else:
        launch(ranks, "-c", RUN, str(recipe(out="two")), *given, *cut).wait()
    assert same(tmp_path / "one", tmp_path / "two", 1e-5)
    for key in ("predicted", "kept", "precision"):
        one, two = (curve(tmp_path / run, key) for run in ("one", "two"))
        assert one[0] == [None] and one[-1] != [None]
        assert one == (two if key == "predicted" else [[pytest.approx(v, abs=1e-5) for v in row] for row in two])


def test_a_run_with_every_option_goes_on_to_the_last_digit(recipe: Callable[..., Path], tmp_path: Path) -> None:
    given = ["supervised.sampling=sqrt", "supervised.logit_adjustment=0.5", "semi.start=last", "facemix.real=mixed"]
    given += ["supervised.start_lr=0.001", "supervised.end_lr=0.0005", "supervised.decay_steps=4", "semi.end_lr=0.0003"]
    finetune(recipe(out="whole"), given)
    for stop in (4, 6, 8):
        assert finetune(recipe(out="parts"), [*given, f"run.stop_after_steps={stop}"])["outcome"] == "preempted"
    finetune(recipe(out="parts"), given)
    assert same(tmp_path / "whole", tmp_path / "parts")
    rates = [row["lr"] for row in rows(tmp_path / "whole/metrics.jsonl")]
    assert rates == pytest.approx([0.002, 0.003, 0.003, 0.00175, 0.0005, 0.0005, *[0.0003] * 6])


def test_stage_3_can_start_from_the_last_weights(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """With a rate near zero student and teacher stay where they began: at stage 2's student."""
    given = ["semi.start=last", "semi.lr=1e-12", "run.checkpoint_every_steps=6"]
    finetune(recipe(steps=6, semi=2), given)
    before, after = (checkpoint.read(tmp_path / f"run/checkpoints/step_{n:08d}")[0] for n in (6, 8))
    names = [name[2:] for name in before if name[:2] == "w."]
    assert any((before[f"w.{n}"] - before[f"e.{n}"]).abs().max() > 1e-4 for n in names)
    for kind in "we":
        assert all((after[f"{kind}.{n}"] - before[f"w.{n}"]).abs().max() < 1e-6 for n in names)


def test_without_a_stage_3_the_average_is_what_comes_out_whatever_it_would_have_started_from(
    recipe: Callable[..., Path], tmp_path: Path
) -> None:
    for start in ("average", "last"):
        finetune(recipe(steps=4, semi=0, out=start), [f"semi.start={start}"])
    assert same(tmp_path / "average", tmp_path / "last")


def test_the_options_change_what_is_trained(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Each from the step on that it is about; steps 0-2 are stage 2, 3-4 stage 3."""
    finetune(recipe(steps=3, semi=2, out="plain"), [])
    plain = curve(tmp_path / "plain", "loss")
    for option, first in {
        "facemix.real=mixed": 1,  # at step 0 all answers are alike: the head is nearly zero
        "facemix.stages=2": 3,
        "supervised.logit_adjustment=1": None,  # 8 labels of each expression: the prior is flat and adds a constant
    }.items():
        finetune(recipe(steps=3, semi=2, out=option), [option])
        found = curve(tmp_path / option, "loss")
        differ = [i for i, (a, b) in enumerate(zip(plain, found, strict=True)) if a != pytest.approx(b, abs=1e-5)]
        assert differ[:1] == ([] if first is None else [first]), option


def test_plain_batches_of_stage_3_lie_apart_by_nothing(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """`facemix.stages = 2` is weighting none there: the same losses, to the last digit."""
    for out, given in {"stages": ["facemix.stages=2"], "none": ["facemix.weighting=none"]}.items():
        finetune(
            recipe(steps=1, semi=2, out=out),
            [*given, "supervised.lr=1e-12", "supervised.warmup_steps=0", "semi.lr=1e-12"],
        )
    assert curve(tmp_path / "stages", "loss")[1:] == [
        [pytest.approx(loss, abs=1e-6)] for [loss] in curve(tmp_path / "none", "loss")[1:]
    ]
