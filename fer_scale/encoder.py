"""The encoder: a timm VisionTransformer, and the folder in which it is published.

The parameter names are timm's all the way through. The folder holds `model.safetensors` and `config.json` in timm's
schema, which plain timm (`local-dir:`, `hf-hub:`) and transformers' AutoModel read without any of this code.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from shards.errors import UserError

FORMAT = 1
SHAPES = {  # width, depth, heads (Dosovitskiy et al. 2021, Table 1; DeiT for tiny and small)
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}
_CARRIER = "vit_base_patch16_224"  # the timm architecture that every shape of ours is a set of arguments to


class EncoderError(UserError):
    """An encoder folder, or an encoder's name, that cannot be used as it is."""


def model_args(name: str, *, image_px: int, patch_px: int) -> dict[str, Any]:
    """timm's arguments for an encoder: a name of SHAPES, or WIDTHxDEPTHxHEADS as "192x6x6"."""
    if match := re.fullmatch(r"(\d+)x(\d+)x(\d+)", name):
        width, depth, heads = map(int, match.groups())
    elif name in SHAPES:
        width, depth, heads = SHAPES[name]
    else:
        raise EncoderError(f"encoder {name!r}: unknown; one of {', '.join(SHAPES)}, or WIDTHxDEPTHxHEADS as 192x6x6")
    if not width or not depth or not heads or width % heads or width % 4:
        raise EncoderError(f"encoder {name!r}: the width must be a multiple of the heads, and of 4")
    if image_px % patch_px:
        raise EncoderError(f"{image_px} px is not a whole number of {patch_px} px patches")
    return {
        "img_size": [image_px, image_px],
        "patch_size": patch_px,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        # An MAE encoder has its norm before the pooling: with global_pool alone timm makes an fc_norm, and MAE's
        # norm does not load. transformers takes the pooling from here and from nowhere else.
        "global_pool": "avg",
        "fc_norm": False,
    }


def build(name: str, *, image_px: int, patch_px: int) -> VisionTransformer:
    """A fresh timm ViT without a head, its positions frozen at the sine-cosine of He et al. 2022.

    The weights start as timm draws them. The reference MAE draws them wider (xavier), from which short runs hardly
    leave: 800 steps on drawn faces and the same fine-tuning gave 26.4 % of accuracy against 44.1 % (one run each).
    """
    model = timm.create_model(_CARRIER, num_classes=0, **model_args(name, image_px=image_px, patch_px=patch_px))
    side, width = image_px // patch_px, model.embed_dim
    model.pos_embed = nn.Parameter(sincos_positions(width, side)[None], requires_grad=False)
    return model


def sincos_positions(width: int, side: int) -> Tensor:
    """Fixed 2-D positions [1 + side * side, width], zeros for the class token first (He et al. 2022, A.1)."""
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    along = torch.arange(side, dtype=torch.float64)[:, None] * frequency  # [side, width / 4]
    one = torch.cat([along.sin(), along.cos()], dim=1)  # [side, width / 2]
    across, down = one[None].expand(side, -1, -1), one[:, None].expand(-1, side, -1)
    grid = torch.cat([across, down], dim=2).reshape(side * side, width)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), grid]).float()


def make_config(
    model: nn.Module,
    args: dict[str, Any],
    *,
    architecture: str = _CARRIER,
    image_px: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    label_names: list[str] | None = None,
    licence: str | None = None,
    block: dict[str, Any],
) -> dict[str, Any]:
    """config.json of a folder: timm's schema, `label_names` at the top level, our own facts in `fer_scale`.

    `pretrained_cfg` is built from nothing: a copy of timm's would bring the tag, licence and crop of an unrelated
    model. `num_classes` must not stand in `model_args`: transformers passes it a second time and dies.
    """
    classes = len(label_names or ())
    pretrained: dict[str, Any] = {
        "tag": "fer_scale",
        "custom_load": False,
        "input_size": [3, image_px, image_px],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(mean),
        "std": list(std),
        "num_classes": classes,
        "pool_size": None,
    }
    for key in ("first_conv", "classifier"):
        if value := getattr(model, "pretrained_cfg", {}).get(key):
            pretrained[key] = value
    if licence:
        pretrained["license"] = licence
    config: dict[str, Any] = {
        "architecture": architecture,
        "num_classes": classes,
        "num_features": int(model.num_features),  # type: ignore[arg-type]
        "global_pool": args.get("global_pool", getattr(model, "global_pool", "")),
        "model_args": args,
        "pretrained_cfg": pretrained,
        "fer_scale": {"format": FORMAT, **block},
    }
    if label_names:
        config["label_names"] = list(label_names)
    return config


def write(folder: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Put `model.safetensors` and `config.json` into `folder`, each whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / "model.safetensors.part"
    # Not save_file, which reports a full disk as an error of the format.
    beside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata={"format": "pt"}))
    os.replace(beside, folder / "model.safetensors")
    beside = folder / "config.json.part"
    beside.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(beside, folder / "config.json")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder, checked: what is missing, damaged or not finite is named."""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise EncoderError(f"{folder}: no {name}; an encoder folder is what `fer-scale publish` writes")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise EncoderError(f"{folder / 'config.json'}: not JSON ({error}); pull or publish it again") from None
    if not isinstance(config, dict) or "architecture" not in config:
        raise EncoderError(f"{folder / 'config.json'}: names no architecture; it is not in timm's schema")
    form = config.get("fer_scale", {}).get("format", FORMAT)
    if form != FORMAT:
        raise EncoderError(f"{folder}: written in format {form}, this version reads {FORMAT}; update fer_scale")
    try:
        state = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise EncoderError(
            f"{folder / 'model.safetensors'}: cannot be read ({error}); pull or publish it again"
        ) from None
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise EncoderError(f"{folder / 'model.safetensors'}: NaN or infinite values in {', '.join(broken[:5])}")
    return config, state


def load(
    folder: Path, *, num_classes: int | None = None, drop_path: float = 0.0, image_px: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The timm model of a folder, strictly loaded, and its config.

    `num_classes` other than the folder's gives a fresh head (None keeps the one that is there); `image_px` resamples
    the positions. Every other tensor must be there in its shape, and no other one.
    """
    config, state = read(folder)
    architecture, args = config["architecture"], dict(config.get("model_args", {}))
    if not timm.is_model(architecture):
        raise EncoderError(f"{folder / 'config.json'}: timm {timm.__version__} knows no architecture {architecture!r}")
    classes = config.get("num_classes", 0) if num_classes is None else num_classes
    if image_px is not None:
        args["img_size"] = [image_px, image_px]
    if drop_path:
        args["drop_path_rate"] = drop_path
    try:
        model = timm.create_model(architecture, num_classes=classes, **args)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise EncoderError(f"{folder / 'config.json'}: model_args do not fit {architecture} ({error})") from None
    own = model.state_dict()
    head = {name for name in own if name.startswith(f"{model.pretrained_cfg.get('classifier', 'head')}.")}
    if classes != config.get("num_classes", 0):
        state = {k: v for k, v in state.items() if k not in head} | {k: v for k, v in own.items() if k in head}
    if "pos_embed" in state and "pos_embed" in own and state["pos_embed"].shape != own["pos_embed"].shape:
        state["pos_embed"] = _resampled(state["pos_embed"], own["pos_embed"].shape[1])
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not part of {architecture}" for name in state if name not in own]
    faults += [
        f"{name} is {list(state[name].shape)}, not {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise EncoderError(f"{folder / 'model.safetensors'}: does not fit its config: {'; '.join(faults[:5])}{more}")
    model.load_state_dict(state)
    return model, config


def _resampled(positions: Tensor, tokens: int) -> Tensor:
    """Positions [1, 1 + n, D] for another number of patches, as timm resamples them."""
    side = round((tokens - 1) ** 0.5)
    return resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=1)
