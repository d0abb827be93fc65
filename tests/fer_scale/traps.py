"""Run by foreign_loaders.py: the traps that lie between a model and timm or transformers, each sprung on purpose.

What comes of each is a fact about them, which test_compatibility.py holds against what our folders do. Once one of
them changes there, the way round it can go.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline


def sprung(encoder: Path, expressions: Path, here: Path) -> dict[str, Any]:
    """What each trap does: a message of an error, names, or numbers."""
    face = Image.open("face.jpg").convert("RGB")

    def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
        place = Path(shutil.copytree(folder, here / f"trap {len(list(here.iterdir()))}"))
        config = json.loads((place / "config.json").read_text())
        change(config)
        (place / "config.json").write_text(json.dumps(config))
        return place

    def without(*names: str) -> Callable[[dict[str, Any]], object]:
        return lambda config: [config["model_args"].pop(name) for name in names]

    counted = changed(expressions, lambda config: config["model_args"].update(num_classes=7))
    hidden = changed(expressions, lambda config: config["pretrained_cfg"].update(label_names=config.pop("label_names")))
    keyed = changed(expressions, lambda config: config.update(temperature=2.5))
    open_norm, no_pool = changed(encoder, without("fc_norm")), changed(encoder, without("fc_norm", "global_pool"))
    return {
        "num_classes in model_args": _error(lambda: pipeline("image-classification", model=str(counted))),
        "label_names in pretrained_cfg": _names(hidden),
        "label_names at the top": _names(expressions),
        "a key temperature, timm": _moved(_logits(keyed, face), _logits(expressions, face)),
        "a key temperature, pipeline": _moved(_scores(keyed, face), _scores(expressions, face)),
        "no fc_norm in model_args": _error(lambda: _model(open_norm)),
        "no global_pool in model_args": _moved(_logits(no_pool, face), _logits(encoder, face)),
        "a grey picture": _error(lambda: _transform(_model(encoder))(face.convert("L"))),
        "a grey picture, converted": _error(lambda: _transform(_model(encoder))(face.convert("L").convert("RGB"))),
    }


def _model(folder: Path) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def _transform(model: Any) -> Any:
    return timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def _logits(folder: Path, face: Image.Image) -> torch.Tensor:
    model = _model(folder)
    return model(_transform(model)(face)[None])


def _scores(folder: Path, face: Image.Image) -> torch.Tensor:
    said = pipeline("image-classification", model=str(folder))(face, top_k=7, function_to_apply="none")
    return torch.tensor([answer["score"] for answer in said])


def _names(folder: Path) -> list[str]:
    labels = AutoModelForImageClassification.from_pretrained(folder).config.id2label
    return [labels[index] for index in range(len(labels))]


def _moved(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def _error(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
