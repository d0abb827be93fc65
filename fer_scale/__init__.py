"""Faces as tensors: pre-training, publishing, fine-tuning and using facial expression models.

From photos to expressions in three lines:

    model = fer_scale.load("hf://ORG/NAME")
    for photo in model.predict(["a.jpg", "b.jpg"]):
        print(photo.name, [face.label for face in photo.faces])
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fer_scale.predict import Model

__version__ = "0.1.0"

if not os.environ.get("HF_ENDPOINT", "unset"):
    del os.environ["HF_ENDPOINT"]  # huggingface_hub, which reads it at its import, would ask a Hub without a name


def load(
    model: str | Path,
    *,
    faces: Literal["all", "largest", "whole"] = "largest",
    device: str = "auto",
    key: Path | None = None,
    detector: str | Path | None = None,
) -> "Model":
    """The expression model in a folder or at an hf:// address, ready for photos; see fer_scale/predict.py."""
    from fer_scale import predict  # an extra second, of those alone who ask

    return predict.load(model, faces=faces, device=device, key=key, detector=detector)
