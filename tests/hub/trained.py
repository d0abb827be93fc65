"""What training leaves on disk, made without training: runs to publish."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fer_scale import checkpoint, encoder, plots

RECIPE = """\
[data]
shards = ["/secret/place/faces"]
[model]
encoder = "64x2x2"
image_px = 32
patch_px = 8
mask_ratio = 0.75
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
decoder_width = 4
decoder_depth = 0
decoder_heads = 1
norm_pixels = true
[batch]
size = 16
[run]
out = "/secret/place/run"
steps = 20
precision = "fp32"
seed = 7
[card]
"""
DATA = [
    {
        "name": "drawn",
        "source": "folder",
        "licence": "apache-2.0",
        "samples": 1200,
        "excluded": 30,
        "fingerprint": "ab" * 32,
    },
    {"name": "found", "source": "tar", "licence": "unknown", "samples": 50, "excluded": 0, "fingerprint": "cd" * 32},
]

_START = {
    "ranks": 2,
    "hosts": ["secret-host"],
    "device": "cpu",
    "versions": {"timm": "1.0", "this folder's code": "c0de"},
}
EVENTS = [  # a start that died at step 15, and went on from 10
    {"time": "2026-01-01T00:00:00+00:00", "event": "start", "step": 0, **_START},
    {"time": "2026-01-01T00:20:00+00:00", "event": "checkpoint", "step": 10},
    {"time": "2026-01-01T01:00:00+00:00", "event": "rewound", "step": 10, "reached": 15, "images_per_s": 0.2},
    {"time": "2026-01-01T01:00:00+00:00", "event": "resume", "step": 10, **_START},
    {"time": "2026-01-01T01:30:00+00:00", "event": "checkpoint", "step": 20},
]


def weights(seed: int) -> dict[str, Tensor]:
    """An encoder's tensors, each one random."""
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in model.state_dict().items()}


def save_checkpoint(run: Path, step: int, *, broken: bool = False, **more: Any) -> dict[str, Tensor]:
    """A checkpoint as pre-training writes it, in two files; the encoder in it. `more` is for its progress.json."""
    state = weights(step)
    whole = {f"{'f' if name == 'pos_embed' else 'w'}.encoder.{name}": value for name, value in state.items()}
    whole |= {f"{kind}{name[1:]}": value.clone() for name, value in whole.items() if name[0] == "w" for kind in "mv"}
    whole |= {"w.decoder_embed.weight": torch.ones(4, 2), "w.mask_token": torch.ones(1)}
    place = checkpoint.folder_of(run, step)
    part = checkpoint.part_of(place)
    names = sorted(whole)
    lines = [checkpoint.write_part(part, k, 2, {name: whole[name] for name in names[k::2]}) for k in (0, 1)]
    if broken:  # as another program may have written it: ours refuses to
        whole["w.encoder.norm.bias"][3] = float("nan")
        lines = [
            checkpoint.put(part / line["name"], [save({name: whole[name] for name in names[k::2]}, {"format": "pt"})])
            for k, line in enumerate(lines)
        ]
    progress = {"step": step, "images": step * 16, "adam_step": step, "recipe": (run / "recipe.toml").read_text()}
    checkpoint.finish(part, place, lines, progress | more)
    return state


def pretrain(folder: Path) -> Path:
    """A run of pre-training with checkpoints of steps 10 and 20."""
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "data.json").write_text(json.dumps(DATA))
    rows = [{"step": step, "loss": 1 / step, "lr": 1e-3, "images_per_s": 0.2} for step in (5, 10, 15, 20)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in EVENTS))
    (folder / "curves.png").write_bytes(b"a curve")
    plots.reconstructions(*torch.rand(3, 2, 3, 8, 8), folder / "reconstructions.png", 20)
    save_checkpoint(folder, 10)
    save_checkpoint(folder, 20)
    return folder


def finetune(folder: Path) -> Path:
    """A run of fine-tuning as it ends."""
    (folder / "evaluation").mkdir(parents=True)
    (folder / "recipe.toml").write_text('[semi]\nlabeler = "softmatch"\n[run]\nseed = 3\nprecision = "fp32"\n')
    (folder / "data.json").write_text(json.dumps([DATA[0] | {"protocol": "argmax"}]))
    (folder / "evaluation" / "confusion_matrix.png").write_bytes(b"counts")
    metrics = {
        "set": "ferplus",
        "fingerprint": DATA[0]["fingerprint"],
        "split": {"file": "/secret/place/split.json", "sha256": "ef" * 32, "list": "test"},
        "left_out": {"unknown_expression": 3, "unreadable": 0},
        "warning": "it may have seen these faces",
        "samples": 700,
        "accuracy": 0.612,
        "uar": 0.4,
        "macro_f1": 0.41,
        "ece": 0.05,
        "intervals_95": {"accuracy": [0.6, 0.63]},
        "label_names": ["neutral", "happiness", "fear"],
        "reliability": [
            {"count": 0, "confidence": 0.0, "accuracy": 0.0},
            {"count": 700, "confidence": 0.55, "accuracy": 0.612},
        ],
        "per_class": {"neutral": {"count": 500, "recall": 0.7, "precision": 0.6}, "fear": {"count": 0, "recall": None}},
    }
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    names = ["neutral", "happiness", "fear"]
    model = encoder.build("64x2x2", image_px=32, patch_px=8)
    model.reset_classifier(len(names))
    config = encoder.make_config(
        model,
        encoder.model_args("64x2x2", image_px=32, patch_px=8),
        image_px=32,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        label_names=names,
        licence="cc-by-nc-4.0",
        block={"base_model": "/secret/place/encoder", "face_box": [0.1, 0.1, 0.9, 0.98], "folded_temperature": 1.7},
    )
    encoder.write(folder / "model", model.state_dict(), config)
    return folder
