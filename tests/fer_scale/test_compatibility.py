"""What is published loads in plain timm and in transformers, from a folder and from the Hub, and computes the same.

Not nearly: the differences are 0.0. A wrong pooling, a head whose temperature is applied twice, or weights that fell
back to random ones would all load without a word.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hub.server import Hub
from PIL import Image

from fer_scale import encoder, hub
from fer_scale.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """An encoder and an expression model as training leaves them, weights random rather than nearly zero."""
    found = {}
    for name, labels in (("encoder", []), ("expressions", NAMES)):
        torch.manual_seed(len(labels))
        model = encoder.build("64x2x2", image_px=32, patch_px=8)
        model.reset_classifier(len(labels))
        if labels:
            torch.nn.init.normal_(model.head.weight)
        args = encoder.model_args("64x2x2", image_px=32, patch_px=8)
        more = {"mean": (0.5, 0.45, 0.4), "std": (0.25, 0.2, 0.3), "label_names": labels, "block": {}}
        found[name] = tmp_path / "trained" / name
        encoder.write(found[name], model.state_dict(), encoder.make_config(model, args, image_px=32, **more))
    return found


def test_timm_and_transformers_compute_what_we_compute_to_the_last_bit(
    models: dict[str, Path], hub_server: Hub, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    places = []
    for name, folder in models.items():
        publish(folder, f"hf://lab/{name}", licence="mit", data=["random weights, no data"])
        hub.pull(f"hf://lab/{name}", tmp_path / name)
        places += [str(tmp_path / name), f"lab/{name}"]
    pixels = torch.randint(0, 256, (45, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "face.jpg")

    settings = {"HF_ENDPOINT": hub_server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("foreign_loaders.py")), *places],
        cwd=tmp_path,
        env=os.environ | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("differences", found["differences"])
    assert found["names"] == NAMES
    assert found["snippets"] == 4
    assert len(found["differences"]) == 16
    assert set(found["differences"].values()) == {0.0}, found["differences"]
