"""What is exported: a model as one network from faces to what is read off them, and the words that go with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_scale import __version__, encoder, hub, images
from shards.errors import UserError

INPUT = "faces"
# Of our block in the config, what is said in the file too.
_SAID = ("licence", "base_model", "base_licence", "folded_temperature", "face_box", "data")

Pictures = NDArray[np.uint8]  # [batch, px, px, 3]
Outputs = tuple[NDArray[np.float32], ...]


class ExportError(UserError):
    """A model that cannot be exported, or a file of it that does not give what the model gives."""


class Whole(nn.Module):
    """A network with its pre-processing before it, and what is read off it behind."""

    def __init__(self, network: nn.Module, config: dict[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.classifies = bool(config.get("label_names"))
        self.mean, self.std = (tuple(config["pretrained_cfg"][key]) for key in ("mean", "std"))

    @property
    def gives(self) -> tuple[str, str]:
        return ("probabilities", "logits") if self.classifies else ("features", "tokens")

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Of uint8 faces [batch, px, px, 3], what `gives` names."""
        seen = images.normalise(faces.permute(0, 3, 1, 2).float() / 255, self.mean, self.std)
        tokens = self.network.forward_features(seen)  # type: ignore[operator]
        read = self.network.forward_head(tokens)  # type: ignore[operator]
        return (read.softmax(dim=1), read) if self.classifies else (read, tokens)


@dataclass(frozen=True, slots=True)
class Model:
    """What is exported, and what its files say about it."""

    whole: Whole
    px: int
    address: str
    config: dict[str, Any]


def load(address: str, px: int | None = None, key: Path | None = None) -> Model:
    """The model at a folder or hf:// address, on the processor; an encoder, if its classes have no names."""
    pulled = hub.pull(address, key=key)
    network, config = encoder.load(pulled.folder)
    if not config.get("label_names") and config.get("num_classes"):
        network.reset_classifier(0)  # type: ignore[operator]
    own = config["pretrained_cfg"]["input_size"][-1]
    if px is not None and px != own and hasattr(network, "set_input_size"):
        _resize(network, px)
    return Model(Whole(network, config).eval().requires_grad_(False), px or own, pulled.address, config)


def _resize(network: nn.Module, px: int) -> None:
    """Resample the positions of a network for crops of px; a rest of a patch, which timm would cut off, is refused."""
    [patch_px, *_] = getattr(getattr(network, "patch_embed", None), "patch_size", (1,))
    if px % patch_px:
        raise ExportError(f"--px {px}: is not a whole number of the model's {patch_px} px patches")
    try:
        network.set_input_size(img_size=(px, px))  # type: ignore[operator]
    except Exception as error:  # of any kind: it is timm's
        raise ExportError(f"--px {px}: the model cannot see crops of that size ({error})") from None


def metadata(model: Model) -> dict[str, Any]:
    """What stands in a file beside the weights; it is for others, so of a folder of this machine its name alone."""
    config, pretrained = model.config, model.config["pretrained_cfg"]
    block = {"licence": pretrained.get("license")} | config.get("fer_scale", {})
    names = config.get("label_names")
    said = {
        "kind": "expressions" if names else "encoder",
        "source": model.address if hub.is_remote(model.address) else Path(model.address).resolve().name,
        "fer_scale_version": __version__,
        "input": f"uint8 [batch, {model.px}, {model.px}, 3]: face crops in RGB, resized by bicubic interpolation to "
        f"{model.px} x {model.px} px; the face lies in a crop at face_box (x1, y1, x2, y2 in shares of its sides), of "
        "which the middle share crop_pct of each side is what is resized; /255, mean and std are applied inside",
        "mean": list(model.whole.mean),
        "std": list(model.whole.std),
        "crop_pct": pretrained.get("crop_pct", 1.0),
    }
    if names:
        said["label_names"] = names
        said["probabilities"] = "[batch, classes], in the order of label_names; calibrated, if a temperature was fitted"
        said["logits"] = "[batch, classes], before the softmax"
    else:
        said["features"] = f"[batch, width], pooled: {config.get('global_pool') or 'as the network does'}"
        said["tokens"] = "what is pooled: [batch, tokens, width], or a map"
    return said | {name: block[name] for name in _SAID if block.get(name) is not None}


def difference(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest difference between two arrays, in units of the largest number of the first where that is above 1."""
    if ours.shape != theirs.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))


@torch.inference_mode()
def run_in_torch(model: Model, pictures: Pictures) -> Outputs:
    return in_numpy(model.whole(torch.from_numpy(pictures)))


def in_numpy(outputs: tuple[Tensor, ...]) -> Outputs:
    return tuple(output.detach().numpy() for output in outputs)
