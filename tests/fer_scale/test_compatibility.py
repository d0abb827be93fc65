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
def expression_folder(tmp_path: Path) -> Path:
    """A published expression model, its head random rather than nearly zero."""
    torch.manual_seed(1)
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    model.reset_classifier(len(NAMES))
    torch.nn.init.normal_(model.head.weight)
    args = encoder.model_args("64x2x2", image_px=32, patch_px=8)
    more = {"mean": (0.5, 0.45, 0.4), "std": (0.25, 0.2, 0.3), "label_names": NAMES, "block": {}}
    encoder.write(tmp_path / "model", model.state_dict(), encoder.make_config(model, args, image_px=32, **more))
    publish(tmp_path / "model", str(tmp_path / "expressions"), licence="mit")
    return tmp_path / "expressions"


def test_timm_and_transformers_compute_what_we_compute_to_the_last_bit(
    encoder_folder: Path, expression_folder: Path, hub_server: Hub, tmp_path: Path, record_property: Callable[..., None]
) -> None:
    hub.push(encoder_folder, "hf://lab/encoder", message="m")
    hub.push(expression_folder, "hf://lab/expressions", message="m")
    picture = tmp_path / "face.png"
    pixels = torch.randint(0, 256, (45, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(picture)

    places = [str(encoder_folder), "lab/encoder", str(expression_folder), "lab/expressions", str(picture)]
    script = str(Path(__file__).with_name("foreign_loaders.py"))
    settings = {"HF_ENDPOINT": hub_server.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, script, *places],
        env=os.environ | settings | {"HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    record_property("differences", found["differences"])
    assert found["names"] == NAMES
    assert len(found["differences"]) == 16
    assert set(found["differences"].values()) == {0.0}, found["differences"]
