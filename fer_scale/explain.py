"""What in a face an expression model goes by, as maps: how much of its answer goes when a region is hidden.

Occlusion (Zeiler & Fergus 2014): a soft spot is blurred away at each place of a grid in turn, and what the probability
of the predicted expression loses is laid over the face. It measures what it says, of any network; it needs some 200
passes a face. Attention rollout (Abnar & Zuidema 2020) needs one, but knows neither classes nor the head: it would not
change when the head's weights are drawn anew, which is the check of Adebayo et al. 2018 that a map has to pass
(tests/fer_scale/test_explain.py). A map tells of a model, not of what somebody feels.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fer_scale import encoder, faces, hub, photos, plots, predict
from fer_scale.cuts import Cut, cut_out
from fer_scale.photos import Pixels
from shards.detector import Rectangle

Ask = Callable[[Sequence[Pixels]], list[list[float]]]  # crops -> the probabilities of each class
Map = NDArray[np.float32]

GRID = 14  # places a side at which a spot is hidden
_SPOT = 0.1  # a spot's standard deviation, in shares of the side: about an eye
_BLUR = 0.12  # standard deviation of what is put there, in the same: neither eye nor mouth is left of a face
_AT_ONCE = 64
_FIFTH = 0.2  # share of the face that is hidden to see whether the map is right


@dataclass(frozen=True, slots=True)
class Crop:
    """A face, cut out as a network sees it."""

    photo: str
    number: int  # from 1, among the faces of its photo
    box: Rectangle  # in pixels of the upright photo
    pixels: Pixels  # uint8 [px, px, 3]


def crops(
    files: Iterable[Path],
    px: int,
    finder: faces.Finder | None,
    place: faces.Place,
    *,
    largest: bool,
    crop_pct: float,
    without: list[Cut],
) -> Iterator[Crop]:
    """The faces of photos as cut_out() cuts them; photos of which it says a problem are added to `without`."""
    for file in files:
        cut = cut_out(str(file), file, px, finder, place, largest=largest, crop_pct=crop_pct)
        if cut.problem:
            without.append(cut)
        for number, (seen, pixels) in enumerate(zip(cut.seen, cut.crops, strict=True), 1):
            yield Crop(cut.name, number, seen.box, pixels)


def explain(model: predict.Model, crop: Crop, file: Path) -> dict[str, Any]:
    """Draw what the model goes by in a face; the figures of the picture, and its name."""
    [row] = model.ask([crop.pixels])
    chosen = max(range(len(row)), key=row.__getitem__)
    heat = occlusion(model.ask, crop.pixels, chosen)
    most, least = model.ask([hide(crop.pixels, heat), hide(crop.pixels, -heat)])
    said = dict(zip(model.names, row, strict=True))
    figures = {"without_most": most[chosen], "without_least": least[chosen]}
    plots.explained(crop.pixels, heat, said, figures, file)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    side = len(heat)
    return {
        "photo": crop.photo,
        "box": [round(edge, 1) for edge in crop.box],
        "label": model.names[chosen],
        "confidence": row[chosen],
        "probabilities": said,
        "most_at": [round((float(n) + 0.5) / side, 3) for n in (x, y)],  # x, y in shares of the crop
        "most_lost": float(heat.max()),
        **figures,
        "picture": str(file),
    }


def occlusion(ask: Ask, crop: Pixels, chosen: int) -> Map:
    """The loss of probability of the class `chosen` where the crop is hidden: float32 [px, px], negative for a gain."""
    [before] = ask([crop])
    spots = _spots(len(crop), GRID)
    blurred = blur(crop)
    lost: list[float] = []
    for start in range(0, len(spots), _AT_ONCE):
        some = spots[start : start + _AT_ONCE]
        lost += [before[chosen] - row[chosen] for row in ask([_mixed(crop, blurred, spot) for spot in some])]
    weighed = np.tensordot(np.array(lost, np.float32), spots, axes=1)
    return (weighed / spots.sum(axis=0)).astype(np.float32)


def hide(crop: Pixels, order: Map) -> Pixels:
    """The crop with the fifth of its pixels blurred away that `order` has highest."""
    highest = order >= np.quantile(order, 1 - _FIFTH)
    return _mixed(crop, blur(crop), highest.astype(np.float32))


def blur(crop: Pixels) -> Pixels:
    """The crop with only its broadest light and shade left."""
    return np.asarray(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(_BLUR * len(crop))))


def _spots(px: int, grid: int) -> Map:
    """Bells of height 1 around the places of a grid, [grid * grid, px, px]."""
    middle = (np.arange(grid) + 0.5) * px / grid
    bell = np.exp(-((np.arange(px) + 0.5 - middle[:, None]) ** 2) / (2 * (_SPOT * px) ** 2)).astype(np.float32)
    return (bell[:, None, :, None] * bell[None, :, None, :]).reshape(-1, px, px)


def _mixed(crop: Pixels, other: Pixels, share: Map) -> Pixels:
    mixed = crop + (other.astype(np.float32) - crop) * share[:, :, None]
    return mixed.round().astype(np.uint8)


def namer(out: Path, files: Iterable[Path] = ()) -> Callable[[Crop], Path]:
    """What names a file in `out` for each crop, none twice, and none as one of the photos."""
    taken, theirs = Counter[str](), {file.resolve() for file in files}

    def name(crop: Crop) -> Path:
        stem = f"{photos.stem(crop.photo)}.{crop.number}"  # ends in a number: with "-2" behind it, it is nobody's stem
        while True:
            taken[stem] += 1
            file = out / (f"{stem}.png" if taken[stem] == 1 else f"{stem}-{taken[stem]}.png")
            if file.resolve() not in theirs:
                return file

    return name


def has_labels(address: str, key: Path | None) -> bool:
    """Whether a model names expressions, and is no encoder alone."""
    return bool(encoder.config_of(hub.pull(address, key=key).folder).get("label_names"))


def line(row: dict[str, Any]) -> str:
    """What was drawn of a face, in words."""
    if "error" in row:
        return f"{row['photo']}  painted with a mean error of {row['error']:.0f} of 255 levels: {row['picture']}"
    x, y = (round(100 * at) for at in row["most_at"])
    lost = f"{100 * row['most_lost']:.0f} points go where {x} % from the left, {y} % from the top are hidden"
    return f"{row['photo']}  {row['label']} {100 * row['confidence']:.0f} %, {lost}: {row['picture']}"
