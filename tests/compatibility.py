"""How far timm and transformers are from us, for the encoder of each recipe in configs/pretrain: no differences.

    python tests/compatibility.py [NAME ...]      prints the table as Markdown: all recipes, or these

Each encoder, and an expression model of its shape, has random weights and lies in a folder and on a Hub on loopback;
foreign_loaders.py loads them in a process of its own, in which nothing of ours is imported before it is done.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

sys.path.append(str(Path(__file__).parent))
from hub.server import Hub

from fer_scale import artifact, encoder
from fer_scale.pretrain.recipe import Model

ROOT = Path(__file__).parents[1]
NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]
COLUMNS = (
    "timm `local-dir:`", "timm `hf-hub:`", "timm `@v1`", "timm, other sizes", "`AutoModel`", "`AutoModel`, other sizes",
    "`AutoModelForImageClassification`", "`AutoImageProcessor`", "`pipeline`",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What one or more recipes pre-train."""

    encoder: str
    image_px: int
    patch_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def other_sizes(self) -> list[int]:
        """Twice the patches a side, and about two thirds of them."""
        side = self.image_px // self.patch_px
        return [2 * side * self.patch_px, (2 * side // 3) * self.patch_px]


def shapes() -> dict[str, Shape]:
    """The shape of each recipe in configs/pretrain, by the recipe's name."""
    found = {}
    for file in sorted((ROOT / "configs" / "pretrain").glob("*.toml")):
        said = tomllib.loads(file.read_text())["model"]
        model = Model(**{key: tuple(value) if isinstance(value, list) else value for key, value in said.items()})
        found[file.stem] = Shape(model.encoder, model.image_px, model.patch_px, tuple(model.mean), tuple(model.std))
    return found


def make(folder: Path, shape: Shape, names: list[str]) -> Path:
    """A model of this shape as training leaves it, but for its weights: random ones, not nearly zero."""
    torch.manual_seed(len(names))
    sizes = {"image_px": shape.image_px, "patch_px": shape.patch_px}
    model = encoder.build(shape.encoder, **sizes)
    model.reset_classifier(len(names))
    if names:
        torch.nn.init.normal_(model.head.weight)
    more: dict[str, Any] = {"mean": shape.mean, "std": shape.std, "label_names": names, "block": {}}
    args = encoder.model_args(shape.encoder, **sizes)
    encoder.write(folder, model.state_dict(), encoder.make_config(model, args, image_px=shape.image_px, **more))
    return folder


def upload(server: Hub, repo: str, folder: Path) -> None:
    """Put a folder on the Hub with the tag v1, without any client."""
    files = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        files[path.name] = (
            server.store.large(server.store.keep(data)) if len(data) > 1 << 20 else server.store.small(data)
        )
    made = server.store.create(repo)
    made.tags["v1"] = made.commit(files, "a model").sha


def loaded(server: Hub, cases: list[dict[str, Any]], here: Path) -> dict[str, Any]:
    """What foreign_loaders.py finds; in `here` lies face.jpg."""
    settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(here / "home"), "HF_HUB_DISABLE_XET": "1"}
    settings |= {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    (here / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/fer_scale/foreign_loaders.py"), "cases.json"],
        cwd=here, env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def case(server: Hub, name: str, shape: Shape, here: Path) -> dict[str, Any]:
    """An encoder and an expression model of a shape, in folders and on the Hub, for foreign_loaders.py."""
    told: dict[str, Any] = {"name": name, "sizes": shape.other_sizes}
    for kind, names in (("encoder", []), ("expressions", NAMES)):
        folder = make(here / name / kind, shape, names)
        artifact.seal(folder)
        upload(server, f"lab/{name}-{kind}", folder)
        told[kind] = {"folder": str(folder), "repo": f"lab/{name}-{kind}"}
    return told


def photograph(here: Path) -> None:
    """face.jpg, which is no face and of no model's size, and grey/face.jpg."""
    pixels = torch.randint(0, 256, (45, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    (here / "grey").mkdir()
    Image.fromarray(pixels.numpy()).save(here / "face.jpg")
    Image.fromarray(pixels.numpy()).convert("L").save(here / "grey" / "face.jpg")


def measure(name: str, shape: Shape, here: Path) -> dict[str, float]:
    """The largest difference in each column."""
    server = Hub(here / "server")
    try:
        photograph(here)
        differences: dict[str, float] = loaded(server, [case(server, name, shape, here)], here)["differences"][name]
        return differences
    finally:
        server.stop()


def row(names: list[str], shape: Shape, differences: dict[str, float]) -> str:
    pixels = f"{shape.image_px} px, patches {shape.patch_px}, other sizes {', '.join(map(str, shape.other_sizes))}"
    cells = [", ".join(f"`{name}`" for name in names), f"{shape.encoder}, {pixels}"]
    return "| " + " | ".join([*cells, *(f"{differences[column]:g}" for column in COLUMNS)]) + " |"


def main(chosen: list[str]) -> None:
    recipes: dict[Shape, list[str]] = {}
    for name, shape in shapes().items():
        if not chosen or name in chosen:
            recipes.setdefault(shape, []).append(name)
    print("| recipe | encoder | " + " | ".join(COLUMNS) + " |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for shape, names in recipes.items():
        with tempfile.TemporaryDirectory() as here:
            print(row(names, shape, measure(names[0], shape, Path(here))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
