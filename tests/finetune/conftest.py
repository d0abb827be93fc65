"""Labeled faces for the tests of fine-tuning: coloured blobs with boxes, of which each expression has its own."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, PartialState
from PIL import Image

from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import split
from shards.pack import pack

COLOURS = {"neutral": (200, 60, 60), "happiness": (60, 200, 60), "surprise": (60, 60, 200)}


def draw(folder: Path, count: int = 120) -> Path:
    """A folder of `count` noisy 24 px pictures with labels.jsonl; the colour tells the expression, boxes differ."""
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        expression = list(COLOURS)[number % 3]
        base = np.array(COLOURS[expression]) + rng.normal(0, 30, 3)
        pixels = (base + rng.normal(0, 25, (24, 24, 3))).clip(0, 255).astype(np.uint8)
        path = f"p{number % 12}/{number:03d}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
        low, high = rng.uniform(0, 0.3, 2), rng.uniform(0.7, 1, 2)
        lines.append({"path": path, "expression": expression, "box": [*low.tolist(), *high.tolist()]})
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    """accelerate keeps one state a process; each test is to begin as a process does."""
    AcceleratorState._reset_state(True)
    PartialState._reset_state()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("labeled"))


@pytest.fixture(scope="session")
def labeled_set(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as a shard set of 120 labeled faces in three expressions."""
    out = tmp_path_factory.mktemp("sets") / "blobs"
    pack(pictures, out, source="folder", name="blobs", shard_mb=0.1, workers=1, licence="cc0-1.0")
    return out


@pytest.fixture(scope="session")
def split_file(labeled_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 labels, 12 faces for the temperature, a quarter for the test."""
    out = tmp_path_factory.mktemp("splits") / "split.json"
    split(labeled_set, labels="24", seed=0, test="25%", valid="12", out=out)
    return out


@pytest.fixture(scope="session")
def ferplus_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real FERPlus training faces, packed; they lie beside the repository, never in it."""
    source = Path(__file__).parents[3] / "shared/data/ferplus"
    if not source.exists():
        pytest.skip("no real faces in ../shared/data/ferplus")
    folder, out = tmp_path_factory.mktemp("ferplus"), tmp_path_factory.mktemp("sets") / "ferplus"
    with tarfile.open(source / "ferplus_train.tar.gz") as tar:
        tar.extractall(folder, filter="data")
    (folder / "fer2013new.csv").write_bytes((source / "fer2013new.csv").read_bytes())
    pack(folder, out, source="ferplus", name="ferplus", workers=1)
    return out


@pytest.fixture
def recipe(labeled_set: Path, split_file: Path, tmp_path: Path) -> Callable[..., Path]:
    """recipe(steps=..., semi=...): a recipe file for a tiny ViT from scratch, 16 px, seconds on one core."""

    def write(*, steps: int = 6, semi: int = 6, out: str = "run", extra: str = "") -> Path:
        file = tmp_path / f"{out}.toml"
        file.write_text(
            f"""
[data]
shards = "{labeled_set}"
split = "{split_file}"
[model]
start_from = "none"
architecture = "32x2x2"
image_px = 16
patch_px = 8
drop_path = 0.2
[supervised]
steps = {steps}
batch = 14
warmup_steps = 2
layer_decay = 1.0
lr = 0.003
[semi]
steps = {semi}
batch = 10
unlabeled_ratio = 2
warmup_steps = 1
[run]
out = "{tmp_path / out}"
log_every_steps = 1
checkpoint_every_steps = 0
{extra}
"""
        )
        return file

    return write


@pytest.fixture
def model(recipe: Callable[..., Path], tmp_path: Path) -> str:
    """An expression model that tells the colours apart."""
    finetune(recipe(steps=60, semi=1), [])
    return str(tmp_path / "run/model")
