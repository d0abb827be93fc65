"""The ablation of tests/benchmarks/few_labels.py: a row that leaves the model as it was is measured for nothing."""

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import split
from shards.pack import pack

ROOT = Path(__file__).parents[2]
ROWS = runpy.run_path(str(ROOT / "tests/benchmarks/few_labels.py"))
OURS = ROOT / "configs/finetune/few_labels.toml"
TINY = (
    "supervised.steps=6 supervised.batch=14 supervised.warmup_steps=1 "
    "semi.steps=3 semi.batch=10 semi.unlabeled_ratio=2 semi.warmup_steps=1 run.checkpoint_every_steps=0"
).split()

Weights = dict[str, torch.Tensor]


@pytest.fixture
def tuned(model: str, pictures: Path, tmp_path: Path) -> Callable[[str, str], tuple[Weights, float]]:
    """tuned(name, keys): what a few steps of our recipe with these keys end in: weights, and how it crops."""
    faces = shutil.copytree(pictures, tmp_path / "faces")
    lines = (faces / "labels.jsonl").read_text().splitlines(keepends=True)
    (faces / "labels.jsonl").write_text("".join(lines[:60] + lines[60::3]))  # one expression has twice as many labels
    pack(faces, tmp_path / "set", source="folder", name="blobs", workers=1, licence="cc0-1.0")
    split(tmp_path / "set", labels="24", seed=0, test="25%", valid="12", out=tmp_path / "split.json")
    given = [f"model.start_from={model}", f"data.shards={tmp_path / 'set'}", f"data.split={tmp_path / 'split.json'}"]

    def tune(name: str, keys: str) -> tuple[Weights, float]:
        out = tmp_path / name.replace(" ", "-")
        finetune(OURS, [*TINY, *given, f"run.out={out}", *keys.split()])
        crop_pct = json.loads((out / "model/config.json").read_text())["pretrained_cfg"]["crop_pct"]
        return load_file(out / "model/model.safetensors"), crop_pct

    return tune


def same(one: tuple[Weights, float], other: tuple[Weights, float]) -> bool:
    return one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


@pytest.mark.slow
@pytest.mark.parametrize(("table", "base"), [("ABLATION", "semi.steps=0"), ("ABLATION_3", "")])
def test_each_row_of_the_ablation_ends_in_another_model_and_the_same_row_in_the_same(
    table: str, base: str, tuned: Callable[[str, str], tuple[Weights, float]]
) -> None:
    ours = tuned("ours", base)
    assert same(ours, tuned("again", base))
    rows = {name: keys for name, keys in ROWS[table].items() if keys}
    assert [name for name, keys in rows.items() if same(ours, tuned(name, f"{base} {keys}"))] == []
