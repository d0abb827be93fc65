"""A masked autoencoder as a newcomer sees it: a face, the few patches that the network is shown, and what it paints.

It comes from a run, one of its checkpoints, or an encoder that was published with its decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_scale import checkpoint, checkpoints, config, decoder, encoder, hub, images, plots
from fer_scale.photos import Pixels
from fer_scale.pretrain import setup
from fer_scale.pretrain.mae import MaskedAutoencoder, mask_of, patchify, unpatchify
from fer_scale.pretrain.recipe import Pretrain
from shards.errors import UserError

_HIDDEN = 0.75  # of the patches of a published decoder, which does not say it (He et al. 2022)
_ROWS = 8  # faces in a picture
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
    return not hub.is_remote(address) and ((place / "checkpoints").is_dir() or (place / "progress.json").is_file())


def load(address: str, key: Path | None = None) -> Painter:
    """The autoencoder at a run, a checkpoint, a model folder or an hf:// address; UserError where no decoder is."""
    return _of_run(Path(address)) if is_run(address) else _published(address, key)


def _of_run(place: Path) -> Painter:
    folder = checkpoints.find(place)
    rec = config.load(Pretrain, folder.parent.parent / "recipe.toml")
    state = {name[2:]: tensor for name, tensor in checkpoint.read(folder)[0].items() if name[0] in "wfb"}
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
    sizes = {name: facts[name] for name in ("decoder_width", "decoder_depth", "decoder_heads", "norm_pixels")}
    model = MaskedAutoencoder(vit, mask_ratio=_HIDDEN, norm_eps=1e-6, **sizes)  # type: ignore[arg-type]
    own = decoder.of(model.state_dict())
    model.load_state_dict(decoder.read(folder, said, facts, own), strict=False)
    pixels = said["pretrained_cfg"]
    return Painter(model.eval(), pixels["input_size"][-1], tuple(pixels["mean"]), tuple(pixels["std"]), block)


def paint(painter: Painter, crops: Sequence[Pixels], names: Sequence[str], out: Path) -> list[tuple[float, Path]]:
    """Draw crops, what is shown of them and what is painted, some to a picture in the folder `out`.

    Of each crop the mean error on its hidden patches in levels of 0 to 255, and its picture. Which patches are hidden
    depends on the place in the list alone.
    """
    done: list[tuple[float, Path]] = []
    for start in range(0, len(crops), _ROWS):
        file = out / f"reconstructions-{start // _ROWS + 1:03d}.png"
        some = slice(start, start + _ROWS)
        done += [(error, file) for error in _paint(painter, crops[some], names[some], start, file)]
    return done


def _paint(painter: Painter, crops: Sequence[Pixels], names: Sequence[str], first: int, file: Path) -> list[float]:
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
