"""The published weights that a pre-training goes on from, where `model.start_from` names some.

An address is a folder, `hf://ORG/NAME[@REVISION]`, or `timm:NAME`, which is the repository of timm's weights of that
name; each holds `model.safetensors` and a `config.json` in timm's schema. The layers must be those of the recipe.
Another image or patch size is adapted: positions and patch embedding are resampled by timm's functions. The positions
that the weights were trained with take the place of sines and cosines, frozen as these are.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fer_scale import artifact, decoder, encoder, hub, log, model_config
from fer_scale.config import did_you_mean
from fer_scale.encoder import EncoderError
from fer_scale.peers import by_main
from fer_scale.pretrain.mae import MaskedAutoencoder
from fer_scale.pretrain.recipe import Model
from fer_scale.pretrain.world import World
from shards.errors import UserError

_TIMM = "timm:"


def begin(model: MaskedAutoencoder, wanted: Model, us: World) -> dict[str, Any]:
    """Put the weights of `model.start_from` into every rank's model, rank 0 alone fetching; the facts of load().

    The others wait for it no longer than run.hang_seconds: over a slow network, `fer-scale pull` the weights before.
    """
    facts = by_main(us, lambda: load(model.encoder, wanted, model))
    for tensor in (model if wanted.start_decoder else model.encoder).state_dict().values():
        tensor.copy_(us.broadcast(tensor, of=0))
    return facts


def load(vit: VisionTransformer, wanted: Model, whole: MaskedAutoencoder | None = None) -> dict[str, Any]:
    """Put the weights of `model.start_from` into the encoder; "address", "licence", "data" and "adapted", of them.

    With `model.start_decoder` its decoder goes into that of `whole`, whose encoder this is.

    The address has its exact commit; `data` are the sets that the weights were trained on, as far as they say;
    `adapted` says which sizes were changed, as "patches 16 -> 8 px", or nothing.
    Weights that are not what their own config says are refused, so nothing else was adapted.
    """
    given = f"model.start_from: {wanted.start_from}"
    address = wanted.start_from or ""
    if address.startswith(_TIMM):
        address = _of_timm(address.removeprefix(_TIMM), vit, given)
    with log.progress(f"pulling {address}", unit="bytes") as tick:
        pulled = hub.pull(address, key=wanted.start_key, progress=tick)
    config, state = encoder.read(pulled.folder)
    with torch.device("meta"):
        theirs: VisionTransformer = encoder.create(pulled.folder, config, num_classes=0)
    _refuse_another(theirs, vit, given)
    _same_pixels(wanted, config.get("pretrained_cfg", {}), given)
    for name in [key for key in state if key.startswith(("head.", "pre_logits."))]:
        del state[name]  # pre_logits: timm drops it as well
    encoder.fill(theirs, state, pulled.folder, config["architecture"])
    licence = artifact.licence(pulled.folder, config)
    facts = {"address": pulled.address, "licence": licence, "data": model_config.data_of(config)}
    facts["adapted"] = _adapted(theirs, vit)
    with torch.random.fork_rng(devices=[]):  # timm draws a kernel before it fills it, and only rank 0 is here
        theirs.set_input_size(img_size=vit.patch_embed.img_size, patch_size=vit.patch_embed.patch_size)
    encoder.fill(vit, theirs.state_dict(), pulled.folder, wanted.encoder)
    log.say(f"start    from {pulled.address} (licence: {facts['licence']})")
    if facts["adapted"]:
        log.say(f"adapted  {facts['adapted']}")
    if wanted.start_decoder:
        assert whole is not None
        _fill_decoder(whole, wanted, pulled.folder, config, given)
    elif (pulled.folder / decoder.FILE).is_file():
        log.say("note     its decoder is there too: model.start_decoder=true goes on with it")
    return facts


def _fill_decoder(model: MaskedAutoencoder, wanted: Model, folder: Path, config: dict[str, Any], given: str) -> None:
    try:
        state = decoder.read(folder, config, decoder.facts(asdict(wanted)), decoder.of(model.state_dict()))
    except UserError as error:
        raise EncoderError(f"{given} {error}") from None
    model.load_state_dict(state, strict=False)
    log.say("start    with its decoder")


def _of_timm(name: str, vit: VisionTransformer, given: str) -> str:
    """Where on the Hub timm's weights of this name lie; a network that does not fit is refused before it is fetched."""
    try:
        cfg = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture with an unknown tag
        cfg = None
    if cfg is None:
        hint = did_you_mean(name, timm.list_pretrained())
        raise EncoderError(f"{given}: timm {timm.__version__} knows no weights of this name{hint}")
    if not cfg.hf_hub_id:
        raise EncoderError(f"{given}: timm has no weights of it on the Hub")
    with torch.device("meta"):
        _refuse_another(timm.create_model(cfg.architecture, num_classes=0), vit, given)
    return f"hf://{cfg.hf_hub_id}"


def _refuse_another(theirs: nn.Module, ours: VisionTransformer, given: str) -> None:
    """Refuse a network that computes something else than the recipe's encoder, and say what."""
    if found := list(_differences(theirs, ours)):
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise EncoderError(f"{given} is not the recipe's encoder: {'; '.join(found[:3])}{more}")


def _differences(theirs: nn.Module, ours: VisionTransformer) -> Iterator[str]:
    """What two encoders differ in, but for the sizes of image and patch."""
    if type(theirs) is not VisionTransformer:
        yield f"it is timm's {type(theirs).__name__}, not its VisionTransformer"
        return
    shapes = [f"{v.embed_dim}x{len(v.blocks)}x{v.blocks[0].attn.num_heads}" for v in (theirs, ours)]  # type: ignore
    if shapes[0] != shapes[1]:  # every layer would differ
        yield f"its width x depth x heads are {shapes[0]}, not {shapes[1]} (model.encoder)"
        return
    for trait in ("has_class_token", "num_reg_tokens", "no_embed_class"):
        if (has := getattr(theirs, trait)) != (own := getattr(ours, trait)):
            yield f"its {trait} is {has}, not {own}"
    layers, own_layers = (
        {name: f"{type(m).__name__}({m.extra_repr()})" for name, m in v.named_modules() if not list(m.children())}
        for v in (theirs, ours)
    )
    for name in {**layers, **own_layers}:  # the first block stands for all
        has, own = layers.get(name, "absent"), own_layers.get(name, "absent")
        if has != own and not re.match(r"patch_embed\.proj|blocks\.[1-9]", name):
            yield f"its {name} is {has}, not {own}"


def _same_pixels(wanted: Model, pretrained: dict[str, Any], given: str) -> None:
    """Refuse weights made for another mean and std: they would train on, only worse, and not say so."""
    own = {"mean": list(wanted.mean), "std": list(wanted.std)}
    theirs = {name: list(pretrained.get(name) or own[name]) for name in own}
    if theirs != own:
        values = " ".join(f"model.{name}={values}".replace(" ", "") for name, values in theirs.items())
        raise EncoderError(f"{given} has another mean or std; set {values}")


def _adapted(theirs: VisionTransformer, ours: VisionTransformer) -> str:
    (grid, patch), (own_grid, own_patch) = ((v.patch_embed.grid_size, v.patch_embed.patch_size) for v in (theirs, ours))
    said = []
    if grid != own_grid:
        said.append(f"positions {grid[0]}x{grid[1]} -> {own_grid[0]}x{own_grid[1]}")
    if patch != own_patch:
        said.append(f"patches {patch[0]} -> {own_patch[0]} px")
    return ", ".join(said)
