"""The network a run begins with: a published encoder under a fresh head, or an architecture from scratch."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fer_scale import artifact, encoder, hub, log, model_config
from fer_scale.config import ConfigError
from fer_scale.finetune.recipe import Model
from shards.order import Keys, uniform

_SCRATCH_MEAN, _SCRATCH_STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)  # as pre-training's default
_DROP = 40  # the first of the streams of a sample's key that blocks are left out by; see images.py for the others


@dataclass(frozen=True, slots=True)
class Start:
    """A network and what its folder will say about it."""

    model: nn.Module
    architecture: str
    model_args: dict[str, Any]
    image_px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    base_model: str | None  # the address with its commit; None from scratch
    licence: str | None
    base_licence: str | None  # of base_model and of what that began with
    base_data: tuple[dict[str, str], ...] = ()  # see model_config.data_of
    trained_on: tuple[dict[str, Any], ...] = ()  # what base_model, and what that began with, learned labels of

    @property
    def network(self) -> str:
        """Its sizes, as 192x6x6, or timm's name where that tells them."""
        args = self.model_args
        return f"{args['embed_dim']}x{args['depth']}x{args['num_heads']}" if "embed_dim" in args else self.architecture

    @property
    def layers(self) -> int:
        """The blocks of a ViT that was pre-trained; 0 where all layers are to learn at one rate."""
        return len(self.model.blocks) if self.base_model and isinstance(self.model, VisionTransformer) else 0


def start(recipe: Model, classes: int, seed: int, address: str = "") -> Start:
    """The network for `classes` expressions; its random parts are a function of `seed`.

    `address` is what `start_from` stands for in this run: with its commit, where it lies on the Hub.
    """
    torch.manual_seed(seed)
    scratch = recipe.start_from == "none"
    begun = _from_scratch(recipe, classes) if scratch else _from_folder(recipe, address or recipe.start_from, classes)
    if recipe.pool != "encoder":
        if not isinstance(begun.model, VisionTransformer):
            raise ConfigError(f"model.pool: only a ViT has a choice of what its head sees, not {begun.architecture}")
        if recipe.pool == "token" and begun.model.cls_token is None:
            raise ConfigError(f"model.pool: {begun.architecture} has no class token here; use avg")
        begun.model.global_pool = begun.model_args["global_pool"] = recipe.pool
        # Left open, timm would decide by the pool which norm there is, and find the other one's weights.
        begun.model_args["fc_norm"] = not isinstance(begun.model.fc_norm, nn.Identity)
    _use_drop_path_of_samples(begun.model)
    return begun


def _from_folder(recipe: Model, address: str, classes: int) -> Start:
    with log.progress(f"pulling {address}", unit="bytes") as tick:
        pulled = hub.pull(address, key=recipe.start_key, progress=tick)
    model, config = encoder.load(
        pulled.folder, num_classes=classes, drop_path=recipe.drop_path, image_px=recipe.image_px or None
    )
    fresh_head(model)
    args = dict(config.get("model_args", {}))
    if recipe.image_px:
        args["img_size"] = [recipe.image_px, recipe.image_px]
    pretrained = config["pretrained_cfg"]
    return Start(
        model,
        config["architecture"],
        args,
        recipe.image_px or pretrained["input_size"][-1],
        tuple(pretrained["mean"]),
        tuple(pretrained["std"]),
        pulled.address,
        pretrained.get("license"),
        artifact.licence(pulled.folder, config),
        tuple(model_config.data_of(config)),
        trainings(config),
    )


def trainings(config: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """What a model's labels were of, and before that those of the model it began with: set, fingerprint, split.

    None for an encoder. The config may be a stranger's.
    """
    last = config.get("fer_scale", {}).get("trained_on")
    if not last:
        return ()
    before = last.get("before", [])
    return ({k: v for k, v in last.items() if k != "before"}, *(x for x in before if isinstance(x, dict)))


def _from_scratch(recipe: Model, classes: int) -> Start:
    name, px = recipe.architecture, recipe.image_px
    model: nn.Module
    if name[:1].isdigit():
        args = encoder.model_args(name, image_px=px, patch_px=recipe.patch_px)
        vit = encoder.build(name, image_px=px, patch_px=recipe.patch_px)
        _add_drop_path(vit, recipe.drop_path)
        vit.reset_classifier(classes)
        model, architecture = vit, str(vit.pretrained_cfg["architecture"])
    else:
        model, args = _timm(name, classes, px, recipe)
        architecture = name
    fresh_head(model)
    return Start(model, architecture, args, px, _SCRATCH_MEAN, _SCRATCH_STD, None, None, None)


def _timm(name: str, classes: int, px: int, recipe: Model) -> tuple[nn.Module, dict[str, Any]]:
    """Any timm architecture with random weights, and the arguments that make it again."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:5]
        hint = f"; near: {', '.join(near)}" if near else "; `timm.list_models()` names them"
        raise ConfigError(f"model.architecture: timm {timm.__version__} knows no {name!r}{hint}")
    if not model_config.is_allowed(name):  # or the model could be trained, and not be loaded again
        raise ConfigError(
            f"model.architecture: {name} is of none of timm's families {', '.join(model_config.FAMILIES)}"
        )
    args: dict[str, Any] = {}
    with torch.device("meta"):  # only to see whether it cuts its input into patches, and so must know its size
        if hasattr(timm.create_model(name, num_classes=classes), "patch_embed"):
            args = {"img_size": [px, px]} | ({"patch_size": recipe.patch_px} if recipe.patch_px else {})
    drop = {"drop_path_rate": recipe.drop_path} if recipe.drop_path else {}
    try:
        return timm.create_model(name, num_classes=classes, **args, **drop), args
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"model.architecture: {name} cannot be built with {args | drop} ({error}); "
            "set model.drop_path = 0 where it knows none, and sizes that it can take"
        ) from None


def fresh_head(model: nn.Module) -> None:
    """Give the head He et al.'s start for fine-tuning, nearly zero, where it is a linear layer."""
    head = model.get_classifier()  # type: ignore[operator]
    if isinstance(head, nn.Linear):
        nn.init.trunc_normal_(head.weight, std=2e-5)
        nn.init.zeros_(head.bias)


class SampleDropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016) whose draws belong to the samples.

    timm's draws from the process's generator, so that the same picture would meet another network on another number
    of processes, or after a resume.
    """

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability
        self.draws_B: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.probability:
            return x
        assert self.draws_B is not None and len(self.draws_B) == len(x)
        kept_B = (self.draws_B >= self.probability).to(x.dtype) / (1 - self.probability)
        return x * kept_B.view(-1, *[1] * (x.ndim - 1))


def draw_paths(model: nn.Module, keys: Keys, device: torch.device) -> None:
    """Draw for the coming forward pass, in which sample b has the key keys[b], which blocks leave it out."""
    drops = [module for module in model.modules() if isinstance(module, SampleDropPath)]
    if drops:
        draws = torch.from_numpy(uniform(keys, _DROP, len(drops))).to(device, torch.float32)
        for number, module in enumerate(drops):
            module.draws_B = draws[:, number]


def _add_drop_path(model: VisionTransformer, most: float) -> None:
    """What timm does with drop_path_rate, for a ViT made without: from 0 in the first block to `most` in the last."""
    for number, block in enumerate(model.blocks):
        block.drop_path1, block.drop_path2 = (DropPath(most * number / max(1, len(model.blocks) - 1)) for _ in range(2))


def _use_drop_path_of_samples(model: nn.Module) -> None:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DropPath):
                setattr(module, name, SampleDropPath(child.drop_prob or 0.0))


def cuts_matter(model: nn.Module) -> bool:
    """Whether what the model computes for a picture depends on the other pictures of its forward pass."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
