"""The decoder of a masked autoencoder, published beside its encoder for those who go on with the pre-training.

It lies in a file of its own, which timm and transformers do not look at; its sizes, and what it was trained to predict,
stand in config.json under `fer_scale.decoder`. Its positions are a function of the sizes and do not travel.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import tensors, weights
from shards.errors import UserError

FILE = "decoder.safetensors"
_FIXED = "decoder_positions"
_KEYS = ("decoder_width", "decoder_depth", "decoder_heads", "patch_px", "norm_pixels")  # of a recipe's section model


class DecoderError(UserError):
    """A decoder that is not there, or is not the one that a recipe asks for."""


def facts(model: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the decoder of a recipe's section [model]."""
    return {key: model[key] for key in _KEYS}


def of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's tensors among those of the whole autoencoder, by its parameters' names."""
    return {name: tensor for name, tensor in state.items() if not name.startswith("encoder.") and name != _FIXED}


def write(folder: Path, state: dict[str, Tensor]) -> None:
    """Put the decoder's tensors into a model folder; UserError where a value is not finite."""
    with (folder / FILE).open("wb") as out:
        out.writelines(tensors.serialised(state, {"format": "pt"}))


def read(folder: Path, config: dict[str, Any], wanted: dict[str, Any], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder in a model folder, its tensors those of `own` in name and shape.

    `config` is the folder's config.json, `wanted` the `facts` of the recipe that asks for it.
    """
    if not (folder / FILE).is_file():
        raise DecoderError(
            "holds no decoder; publish it with --parts encoder,decoder, or set model.start_decoder=false"
        )
    said = config.get("fer_scale", {}).get("decoder")
    said = said if isinstance(said, dict) else {}
    if other := [f"{key} {said.get(key)!r}, not {value!r}" for key, value in wanted.items() if said.get(key) != value]:
        raise DecoderError(f"its decoder has {', '.join(other)}: set model's keys alike, or model.start_decoder=false")
    try:
        state = weights.read(folder / FILE)
    except (ValueError, OSError) as error:
        raise DecoderError(f"its {FILE} {error}; pull or publish it again") from None
    if odd := sorted(state.keys() ^ own.keys()) or [name for name in own if own[name].shape != state[name].shape]:
        raise DecoderError(f"its {FILE} is not the decoder that its config.json tells of: {', '.join(odd[:5])}")
    return state
