"""The encoder: a timm VisionTransformer, and the folder in which it is published.

The parameter names are timm's all the way through. The folder holds `model.safetensors` and `config.json` in timm's
schema, which plain timm (`local-dir:`, `hf-hub:`) and transformers' AutoModel read without any of this code.

A folder may be a stranger's. Before anything of it is used: every byte against its manifest (artifact.py), config.json
against lists of what may stand there (model_config.py), the header of the weights (weights.py), and then whether the
weights are those of the network that the config describes, and whether a picture passes through that: both on the
`meta` device, which takes no memory.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fer_scale import artifact, model_config, weights
from shards.errors import UserError

FORMAT = 1
SHAPES = {  # width, depth, heads (Dosovitskiy et al. 2021, Table 1; DeiT for tiny and small)
    "vit_tiny": (192, 12, 3),
    "vit_small": (384, 12, 6),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
}
_CARRIER = "vit_base_patch16_224"  # the timm architecture that every shape of ours is a set of arguments to
_CONFIG_BYTES = 4 << 20
_MOST_KEPT = 64_000_000  # numbers; BEiT-large at 512 px has 25 million
_LARGER_PX = 224  # which every network that takes pictures of any size can take
_THREE = ("input_size", "mean", "std")  # of pretrained_cfg: a number for each colour


class EncoderError(UserError):
    """An encoder folder, or an encoder's name, that cannot be used as it is."""


def model_args(name: str, *, image_px: int, patch_px: int) -> dict[str, Any]:
    """timm's arguments for an encoder: a name of SHAPES, or WIDTHxDEPTHxHEADS as "192x6x6"; else EncoderError."""
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
    crop_pct: float = 1.0,
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
        "crop_pct": crop_pct,
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
    """Put `model.safetensors` and `config.json` into `folder`, each whole or absent, and then their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / artifact.MANIFEST).unlink(missing_ok=True)  # of what is replaced now
    beside = folder / "model.safetensors.part"
    # Not save_file, which reports a full disk as an error of the format.
    beside.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata={"format": "pt"}))
    os.replace(beside, folder / "model.safetensors")
    beside = folder / "config.json.part"
    beside.write_text(json.dumps(config, indent=2) + "\n")
    os.replace(beside, folder / "config.json")
    artifact.seal(folder)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and the tensors of a folder.

    EncoderError or ArtifactError names what is missing, damaged, not allowed or not finite.
    """
    artifact.refuse_no_model(folder)
    artifact.check(folder)
    config = config_of(folder)
    form = config.get("fer_scale", {}).get("format", FORMAT)
    if form != FORMAT:
        raise EncoderError(f"{folder}: written in format {form}, this version reads {FORMAT}; update fer_scale")
    file = folder / artifact.WEIGHTS
    try:
        return config, weights.read(file)
    except (ValueError, OSError) as error:
        raise EncoderError(f"{file}: {error}; pull or publish it again") from None


def config_of(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says, nothing in it that is not on the lists of model_config.py."""
    file = folder / "config.json"
    try:
        config = artifact.strict_json(artifact.small(file, _CONFIG_BYTES))
        faults = model_config.faults(config)
    except ValueError as error:
        raise EncoderError(f"{file}: not JSON ({error}); pull or publish it again") from None
    except RecursionError:  # nearly too deep to be read, and too deep to be shown
        raise EncoderError(f"{file}: brackets within brackets, too many; it is no config of a model") from None
    if faults:
        more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise EncoderError(f"{file}: {'; '.join(faults[:5])}{more}; only what is known to be harmless is loaded")
    return config


def load(
    folder: Path, *, num_classes: int | None = None, drop_path: float = 0.0, image_px: int | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The timm model of a folder, strictly loaded, and its config.

    It takes pictures [N, 3, px, px], normalised by the config's mean and std, and gives features [N, width] without a
    head, else logits [N, classes]. Every tensor must be there in the shape that the config says, and no other one;
    EncoderError or ArtifactError names what is not. `num_classes` other than the folder's gives a fresh head (None
    keeps the one that is there); `image_px` then resamples the positions.
    """
    config, state = read(folder)
    args = {"drop_path_rate": drop_path} if drop_path else {}
    with torch.device("meta"):
        described = create(folder, config)
        _refuse_misfit(described, config, state, folder)
        _refuse_what_cannot_run(described, config, folder)
    classes = config.get("num_classes", 0) if num_classes is None else num_classes
    model = create(folder, config, num_classes=classes, **args)
    if classes != config.get("num_classes", 0):
        head = f"{getattr(model, 'pretrained_cfg', {}).get('classifier', 'head')}."
        state = {k: v for k, v in state.items() if not k.startswith(head)}
        state |= {k: v for k, v in model.state_dict().items() if k.startswith(head)}
    fill(model, state, folder, config["architecture"])
    if image_px is not None:
        if not hasattr(model, "set_input_size"):
            raise EncoderError(f"{folder}: a {config['architecture']} takes any size; leave image_px out")
        patch_px = max(getattr(getattr(model, "patch_embed", None), "patch_size", (1,)))
        if image_px % patch_px:
            raise EncoderError(f"model.image_px: {image_px} px is not a whole number of {patch_px} px patches")
        model.set_input_size(img_size=(image_px, image_px))  # type: ignore[operator]
    return model, config


def create(folder: Path, config: dict[str, Any], **args: Any) -> nn.Module:
    """The timm model that a folder's config describes, its weights as timm draws them; `args` win over the config's.

    The config says how the model is built, and never where weights are to be had.
    """
    file, architecture = folder / "config.json", config["architecture"]
    args = {"num_classes": config.get("num_classes", 0)} | config.get("model_args", {}) | args
    try:
        return timm.create_model(architecture, pretrained=False, **args)
    except Exception as error:  # of any kind: timm takes the arguments as they come
        raise EncoderError(f"{file}: model_args do not fit {architecture} ({type(error).__name__}: {error})") from None


def _refuse_misfit(described: nn.Module, config: dict[str, Any], state: dict[str, Tensor], folder: Path) -> None:
    """Refuse weights and sizes that are not those of the network that the config describes, which is not built yet."""
    file, pretrained = folder / "config.json", config.get("pretrained_cfg", {})
    if missing := [name for name in _THREE if name not in pretrained]:
        raise EncoderError(f"{file}: its pretrained_cfg does not say {', '.join(missing)}")
    _refuse_other_tensors(described, state, folder, config["architecture"])
    patches = getattr(described, "patch_embed", None)
    size, many = getattr(patches, "img_size", None), getattr(patches, "num_patches", 0)
    if size and not getattr(described, "dynamic_img_size", False) and list(size) != pretrained["input_size"][1:]:
        raise EncoderError(f"{file}: its input_size is {pretrained['input_size']}, but the network's is {list(size)}")
    # What a network keeps beside its weights (positions of BEiT and Swin) grows with the square of the patches.
    kept = sum(buffer.numel() for name, buffer in described.named_buffers() if name not in state)
    if kept > _MOST_KEPT:
        raise EncoderError(f"{file}: its network keeps {kept:,} numbers beside its weights, and may {_MOST_KEPT:,}")
    if many and many > model_config.MOST_PATCHES:
        raise EncoderError(f"{file}: {many:,} patches a picture, and it may have {model_config.MOST_PATCHES:,}")


def _refuse_what_cannot_run(described: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Refuse a network that gives no vector for a picture of the config's size, by a trial on `meta`."""
    px, classes = config["pretrained_cfg"]["input_size"][-1], config.get("num_classes", 0)
    gives = _tried(described, px)
    if isinstance(gives, list) and (gives == [1, classes] if classes else len(gives) == 2):
        return
    args, name = config.get("model_args", {}), config["architecture"]
    if args.get("global_pool") == "":
        said = "model_args.global_pool is '', so that a picture gives no single vector"
    elif isinstance(gives, str) and isinstance(_tried(described, _LARGER_PX), list):
        said = f"pretrained_cfg.input_size is {px} px, and its {name} takes no pictures of that size"
    else:
        said = f"its {name} cannot be run with model_args {', '.join(args) or 'of timm'}"
    raise EncoderError(f"{folder / 'config.json'}: {said} ({gives})")


@torch.no_grad()
def _tried(described: nn.Module, px: int) -> list[int] | str:
    """The shape of what a network on `meta` gives for a picture, or in torch's words why it gives nothing."""
    try:
        return list(described.eval()(torch.empty(1, 3, px, px, device="meta")).shape)
    except Exception as error:  # of any kind: it is timm's and torch's
        return f"{type(error).__name__}: {(str(error).strip() or 'no more is said').splitlines()[0][:160]}"


def fill(model: nn.Module, state: dict[str, Tensor], folder: Path, name: str) -> None:
    """Load exactly the model's tensors; what is missing, surplus or of another shape is named.

    A model on the `meta` device takes the tensors themselves, in their precision.
    """
    own = model.state_dict()
    _refuse_other_tensors(model, state, folder, name)
    model.load_state_dict(state, assign=any(tensor.is_meta for tensor in own.values()))


def _refuse_other_tensors(model: nn.Module, state: dict[str, Tensor], folder: Path, name: str) -> None:
    own = model.state_dict()
    faults = [f"{key} is missing" for key in own if key not in state]
    faults += [f"{key} is not part of {name}" for key in state if key not in own]
    faults += [
        f"{key} is {list(state[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults += [
        f"{key} is of {str(state[key].dtype).removeprefix('torch.')}, which holds no fractions"
        for key in own
        if key in state and own[key].is_floating_point() and not state[key].is_floating_point()
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise EncoderError(f"{folder / 'model.safetensors'}: does not fit its config: {'; '.join(faults[:5])}{more}")
