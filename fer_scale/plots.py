"""The pictures of a run; the only file that imports matplotlib."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from fer_scale import disk
from fer_scale.markdown import one_line

matplotlib.use("agg")


def _plain(said: Any) -> str:
    """A text from outside, of which matplotlib takes nothing for a formula and nothing for a line break."""
    return one_line(said).replace("$", r"\$")


def curves(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Loss, learning rate and images a second over the steps, from the lines of metrics.jsonl.

    Where a run was measured on its list `valid`, a panel more with what was found there.
    """
    measured = [row for row in rows if {"valid_accuracy", "valid_uar", "valid_recall"} <= row.keys()]
    names = ("loss", "lr", "images_per_s")
    figure = Figure(figsize=(9, 9 if measured else 6), layout="constrained")
    grid = figure.add_gridspec(len(names) + bool(measured), 1, height_ratios=[1, 1, 1, 2][: 4 if measured else 3])
    for number, name in enumerate(names):
        axes = figure.add_subplot(grid[number], sharex=figure.axes[0] if number else None)
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=1)
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    if measured:
        _on_valid(figure.add_subplot(grid[len(names)], sharex=figure.axes[0]), measured)
    for axes in figure.axes[:-1]:
        axes.tick_params(labelbottom=False)
    figure.axes[-1].set_xlabel("step")
    figure.savefig(file, dpi=100)


def _on_valid(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    """Accuracy, uar and the recall of each expression in percent over the steps at which they were measured."""
    steps = [row["step"] for row in rows]
    for name in ("accuracy", "uar"):
        axes.plot(steps, [100 * row[f"valid_{name}"] for row in rows], marker="o", markersize=3, label=name)
    for name in rows[-1]["valid_recall"]:
        found = [row["valid_recall"].get(name) for row in rows]
        percent = [math.nan if share is None else 100 * share for share in found]
        axes.plot(steps, percent, linewidth=0.8, linestyle="--", label=f"recall of {_plain(name)}")
    axes.set_ylabel("% on the list valid")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)


def watched(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Accuracy and uar in percent over the images that the encoder has seen, from the lines of watch.jsonl."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name in ("accuracy", "uar"):
        axes.plot([row["images"] for row in rows], [100 * row[name] for row in rows], marker="o", label=name)
    axes.set_xlabel("images seen in pre-training")
    axes.set_ylabel("% after a short fine-tuning")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=100)


def reconstructions(originals: Tensor, masked: Tensor, filled: Tensor, file: Path, step: int) -> None:
    """Three rows of pictures [B, 3, p, p] in 0..1: what was there, what the encoder saw, what the decoder filled in.

    The file, which is a PNG, says the `step` (step_of).
    """
    rows = [np.concatenate(list(_bytes(batch)), axis=1) for batch in (originals, masked, filled)]
    picture = Image.fromarray(np.concatenate(rows, axis=0))
    scale = max(1, 96 // originals.shape[-1])
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    said, written = PngImagePlugin.PngInfo(), io.BytesIO()
    said.add_text("step", f"{step}")
    picture.save(written, "PNG", pnginfo=said)
    disk.put(file, written.getvalue())  # another process may publish it


def step_of(file: Path) -> int | None:
    """The step whose reconstructions these are; None where there are none, or they do not say it."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            return int(picture.info["step"])
    except (OSError, ValueError, KeyError):
        return None


def over_labels(lines: dict[str, list[tuple[float, float, float]]], measure: str, file: Path) -> None:
    """A measure in percent over the number of labels; of each row its points (labels, mean, half of its interval)."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, points) in enumerate(lines.items()):
        labels, means, halves = zip(*points, strict=True)
        low_high = [100 * half for half in halves]
        style = {"marker": "osDv^<>pP*"[number % 10], "capsize": 3, "linewidth": 1}
        axes.errorbar(labels, [100 * m for m in means], low_high, label=_plain(name), **style)
    axes.set_xscale("log")
    axes.set_xlabel("labels")
    axes.set_ylabel(f"{measure} in %, with the 95 % interval over seeds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=120)


def _bytes(images: Tensor) -> NDArray[np.uint8]:
    """[B, 3, p, p] in 0..1 as uint8 [B, p, p, 3]."""
    return (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def confusion_matrix(matrix: NDArray[np.int64], names: Sequence[str], file: Path) -> None:
    """Counts [truth, predicted], shaded by the share of the true class."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    figure = Figure(figsize=(1.6 + 0.75 * len(names), 1.2 + 0.7 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{share[row, column]:.2f}\n{matrix[row, column]}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    shown = [_plain(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.savefig(file, dpi=120)


def reliability(bins: Sequence[dict[str, float]], ece: float, file: Path) -> None:
    """Accuracy against confidence; a bin is {"confidence", "accuracy", "count"}."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    filled = [b for b in bins if b["count"]]
    most = max((b["count"] for b in filled), default=1)
    sizes = [20 + 180 * b["count"] / most for b in filled]
    axes.scatter([b["confidence"] for b in filled], [b["accuracy"] for b in filled], s=sizes, alpha=0.7)
    axes.set_xlabel("confidence (area: share of the images)")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(f"expected calibration error {100 * ece:.1f} %")
    figure.savefig(file, dpi=120)


def coverage(rows: Sequence[dict[str, float]], aurc: float, file: Path) -> None:
    """Accuracy over the share of the images that are answered, the surest first; of metrics.coverage."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    points = [(100 * row["coverage"], 100 * row["accuracy"]) for row in rows]
    axes.plot(*zip(*points, strict=True), marker="o", markersize=4)
    axes.set_xlabel("% of the images answered, the surest first")
    axes.set_ylabel("% right among them")
    axes.set_xlim(0, 102)
    axes.grid(alpha=0.3)
    axes.set_title(f"area under risk and coverage {aurc:.3f}")
    figure.savefig(file, dpi=120)


def explained(
    crop: NDArray[np.uint8], heat: NDArray[np.float32], said: dict[str, float], figures: dict[str, float], file: Path
) -> None:
    """A face as its model sees it, over it what the probability of the label loses where it is hidden, and all labels.

    Orange takes from the answer, purple adds to it: ColorBrewer's PuOr, which all colour vision tells apart.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    seen, over, bars = figure.subplots(1, 3, width_ratios=[3, 3.6, 3])
    px, likeliest = len(crop), max(said, key=said.__getitem__)
    label = _plain(likeliest)
    seen.imshow(crop)
    seen.set_title(f"What the model sees\n({px} x {px} px)", fontsize=10)
    most = max(float(np.abs(heat).max()), 0.01)  # a map of nothing stays pale
    over.imshow(crop.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    laid = over.imshow(100 * heat, cmap="PuOr_r", vmin=-100 * most, vmax=100 * most, alpha=0.6)
    over.set_title(f'What it goes by for "{label}"\n(orange speaks for it, purple against)', fontsize=10)
    figure.colorbar(laid, ax=over, shrink=0.85, label="points of probability lost where hidden")
    for axes in (seen, over):
        axes.set_axis_off()
    names = sorted(said, key=said.__getitem__)
    shown = bars.barh(range(len(names)), [100 * said[name] for name in names], color="0.6")
    bars.set_yticks(range(len(names)), [_plain(name) for name in names])
    shown[-1].set_color("tab:orange")
    bars.bar_label(shown, fmt="%.0f %%", padding=3, fontsize=9)
    bars.set_xlim(0, 115)
    bars.set_xticks([])
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    bars.set_title("What it answers", fontsize=10)
    hit, spared = (f"{100 * figures[name]:.0f} % without the fifth" for name in ("without_most", "without_least"))
    figure.supxlabel(
        f'"{label}" has {100 * said[likeliest]:.0f} %; {hit} of the face that speaks most for it, {spared} that speaks '
        "least for it.\nThis shows what a model reacts to, not what somebody feels.",
        fontsize=9,
    )
    figure.savefig(file, dpi=110)


def painted(
    faces: Tensor, seen: Tensor, made: Tensor, names: Sequence[str], hidden: float, norm_pixels: bool, file: Path
) -> None:
    """Faces [B, 3, p, p] in 0..1, what a masked autoencoder is shown of them, and what it paints: a row each."""
    titles = ("The face", f"What the network sees:\n{100 * (1 - hidden):.0f} % of it", "What it paints in the gaps")
    figure = Figure(figsize=(7, 1 + 2.2 * len(faces)), layout="constrained")
    grid = figure.subplots(len(faces), 3, squeeze=False)
    for row, name, *pictures in zip(grid, names, *map(_bytes, (faces, seen, made)), strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(_plain(name), fontsize=8)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=10)
    if norm_pixels:
        note = "It was taught the pattern of each patch alone: brightness and contrast are lent by the face."
        figure.supxlabel(note, fontsize=8)
    figure.savefig(file, dpi=110)
