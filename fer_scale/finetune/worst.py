"""A page of the mistakes that a model was surest of: pictures beside what was true and what was said.

One HTML file that needs no other. It shows faces of real people: it is for the eyes of who works on the model, so
nothing but `evaluate --worst` writes it, and nothing publishes it.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fer_scale import disk
from fer_scale.finetune.pool import Pool

MOST = 100  # mistakes on a page
_SIDE_PX = 160

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex"><title>{title}</title>
<style>
body {{ font: 14px sans-serif; margin: 2em }}
.warning {{ background: #c00; color: #fff; padding: .6em; font-weight: bold }}
.faces {{ display: flex; flex-wrap: wrap; gap: 1em }}
figure {{ margin: 0; width: {side}px; overflow-wrap: anywhere }}
img {{ width: 100%; image-rendering: pixelated }}
</style></head><body>
<p class="warning">These are faces of real people: do not publish this page.</p>
<h1>{title}</h1>
<p>{count}</p>
<div class="faces">
{figures}
</div></body></html>
"""


def write(
    file: Path,
    title: str,
    pool: Pool,
    numbers_N: NDArray[np.int64],
    probabilities_NK: NDArray[np.float64],
    true_N: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """The page of the faces `numbers_N` of `pool` whose likeliest class is not the true one, the surest first."""
    said_N, sure_N = probabilities_NK.argmax(axis=1), probabilities_NK.max(axis=1)
    wrong = np.flatnonzero(said_N != true_N)
    worst = wrong[np.argsort(-sure_N[wrong], kind="stable")][:MOST]
    figures, shown = [], [html.escape(name) for name in names]  # which come from the model, perhaps a stranger's
    for row, picture in zip(worst, pictures(pool, numbers_N[worst]), strict=True):
        image = f'<img alt="" src="{picture}">' if picture else "unreadable now"
        figures.append(
            f"<figure>{image}<figcaption>{shown[said_N[row]]} {sure_N[row]:.2f}<br>"
            f"labeled {shown[true_N[row]]} {probabilities_NK[row, true_N[row]]:.2f}<br>"
            f"{html.escape(pool.keys[numbers_N[row]])}</figcaption></figure>"
        )
    count = f"{len(worst):,} of {len(wrong):,} mistakes on {len(true_N):,} faces, the surest first."
    page = _PAGE.format(title=html.escape(title), count=count, figures="\n".join(figures), side=_SIDE_PX)
    file.parent.mkdir(parents=True, exist_ok=True)
    disk.put(file, page)


def pictures(pool: Pool, numbers: NDArray[np.int64]) -> list[str | None]:
    """The faces as data: URIs; None for one that cannot be read, whose place another has in the batch."""
    if not len(numbers):
        return []
    batch = pool.batch(numbers)
    slots = zip(batch.pixels.numpy(), batch.sizes, batch.ids == numbers, strict=True)
    return [_uri(slot[:tall, :wide]) if own else None for slot, (tall, wide), own in slots]


def _uri(pixels: NDArray[np.uint8]) -> str:
    """Encoded anew: nothing but pixels comes from the set."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_SIDE_PX, _SIDE_PX))
    file = io.BytesIO()
    picture.save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
