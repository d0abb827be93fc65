"""A masked autoencoder as a newcomer sees it: a face, the few patches that the network is shown, and what it paints.

It comes from a run, one of its checkpoints, or an encoder that was published with its decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fer_scale import checkpoint, checkpoints, config, decoder, encoder, hub, images, plots
from fer_scale.photos import Pixels
from fer_scale.pretrain import setup
from fer_scale.pretrain.mae import MaskedAutoencoder, mask_of, patchify, unpatchify
from fer_scale.pretrain.recipe import Pretrain
from shards.errors import UserError

_HIDDEN = 0.75  # of the patches of a published decoder, which does not say it (He et al. 2022)
ROWS = 8  # faces in a picture, at most
_GREY = 0.5  # of hidden patches in the picture


@dataclass(frozen=True, slots=True)
class Painter:
    """An autoencoder, and how its input is normalised."""

    model: MaskedAutoencoder
    px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    block: dict[str, Any]  # `fer_scale` of its config.json; empty of a run
    grey: bool = False  # whether it has seen more grey faces than coloured ones, so far as is known


def is_run(address: str) -> bool:
    """Whether an address is the folder of a run of pre-training, or of one of its checkpoints."""
    place = Path(address)
    if hub.is_remote(address) or not ((place / "checkpoints").is_dir() or (place / "progress.json").is_file()):
        return False
    return "made_for" not in checkpoint.progress_of(checkpoints.find(place))  # else it is of fine-tuning


def load(address: str, key: Path | None = None) -> Painter:
    """The autoencoder at a run, a checkpoint, a model folder or an hf:// address; UserError where no decoder is."""
    if not is_run(address):
        return _published(address, key)
    if key:
        raise UserError(f"{address}: is a run, which nobody signs; leave --key out, or publish it first")
    return _of_run(Path(address))


def _of_run(place: Path) -> Painter:
    folder = checkpoints.find(place)
    tensors, progress = checkpoint.read(folder)
    rec = config.parse(Pretrain, progress["recipe"].encode(), f"{folder}: its recipe")
    state = {name[2:]: tensor for name, tensor in tensors.items() if name[0] in "wfb"}
    with torch.device("meta"):
        model = setup.fresh(rec)
    model.load_state_dict(state, assign=True)
    grey = rec.augment.grey > 0.5
    return Painter(model.eval(), rec.model.image_px, rec.model.mean, rec.model.std, {}, grey)


def _published(address: str, key: Path | None) -> Painter:
    folder = hub.pull(address, key=key).folder
    vit, said = encoder.load(folder)
    block = said.get("fer_scale", {})
    facts = block.get("decoder")
    if not isinstance(facts, dict) or not (folder / decoder.FILE).is_file():
        raise UserError(f"{address}: an encoder without a decoder; give its run, or publish it --parts encoder,decoder")
    if not _can_be_masked(vit):
        raise UserError(f"{address}: its encoder is no vision transformer as `fer-scale pretrain` makes them")
    sizes = {name: facts[name] for name in ("decoder_width", "decoder_depth", "decoder_heads", "norm_pixels")}
    with torch.device("meta"):  # what is told takes no memory before it is seen to be there
        model = MaskedAutoencoder(vit, mask_ratio=_HIDDEN, norm_eps=1e-6, **sizes)
    try:
        state = decoder.read(folder, said, facts, decoder.of(model.state_dict()))
    except decoder.DecoderError as error:
        raise UserError(f"{address}: {error}") from None
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False, assign=True)
    positions = encoder.sincos_positions(facts["decoder_width"], round(model.patches**0.5))[None]
    model.decoder_positions = nn.Parameter(positions, requires_grad=False)
    pixels = said["pretrained_cfg"]
    return Painter(model.eval(), pixels["input_size"][-1], tuple(pixels["mean"]), tuple(pixels["std"]), block)


def _can_be_masked(network: nn.Module) -> TypeGuard[VisionTransformer]:
    """Whether a masked autoencoder can work with a network, which may be a stranger's."""
    if not isinstance(network, VisionTransformer) or network.cls_token is None or network.pos_embed is None:
        return False
    patches, (tall, wide) = network.patch_embed, network.patch_embed.patch_size
    fixed = patches.flatten and tall == wide and patches.num_patches >= 4  # one is shown at least
    return fixed and network.num_prefix_tokens == 1 and network.pos_embed.shape[1] == 1 + patches.num_patches


def paint(painter: Painter, crops: Sequence[Pixels], names: Sequence[str], first: int, file: Path) -> list[float]:
    """Draw at most ROWS crops, what is shown of them and what is painted, into `file`.

    Returned is of each crop the mean error on its hidden patches in levels of 0 to 255. Which patches are hidden
    depends on the crop's number alone; `first` is that of the first of these.
    """
    model = painter.model
    real = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    if painter.grey:
        real = images.grey(real, np.ones(len(crops), bool))
    views = images.normalise(real, painter.mean, painter.std)
    keys = torch.arange(first, first + len(crops))
    hidden_BN = mask_of(keys, model.patches, model.mask_ratio).hidden_BN
    _, filled = model.reconstruct(views, keys)
    mean, std = (real.new_tensor(v)[None, :, None, None] for v in (painter.mean, painter.std))
    made = (filled * std + mean).clamp(0, 1)
    shown = unpatchify(patchify(real, model.patch_px).masked_fill(hidden_BN[:, :, None], _GREY), model.patch_px)
    error_BN = (patchify(made, model.patch_px) - patchify(real, model.patch_px)).abs().mean(2)
    share = float(hidden_BN.float().mean())
    plots.painted(real, shown, made, names, share, model.norm_pixels, file)
    return (255 * (error_BN * hidden_BN).sum(1) / hidden_BN.sum(1)).tolist()
