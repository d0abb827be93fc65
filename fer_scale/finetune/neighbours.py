"""Nearest neighbours by an encoder's features: copies that were cut, mirrored or retouched, which no hash finds.

A face's features are those of its grey picture and of the mirrored one, added up. They are whitened by the statistics
of the second set (scaled so that no direction in which all faces differ anyway says more than another) and compared by
their cosine. Whitening is what makes it work: without it light and pose, which strangers share, outweigh the rest.
configs/finetune/README.md says what it found in real sets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fer_scale import encoder, hub, images
from fer_scale.finetune import views
from fer_scale.finetune.pool import Pool
from fer_scale.finetune.steps import Input
from fer_scale.log import Ticker

FOUND = 0.95  # share of the known near copies that the threshold finds
ENOUGH = 50  # known near copies to take a threshold from
COSINE = 0.7  # where there are fewer: FERPlus's with a 192x6x6 encoder, rounded
_AT_ONCE, _BLOCK = 256, 1 << 15  # faces that are read together, and compared with each of them together
_OF_MANY = 50_000  # faces that the statistics are of; a set is packed in a random order
_RIDGE = 0.01  # of the mean variance: directions with less are noise

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Eye:
    """An encoder that looks at faces."""

    address: str  # with its commit, where it has one
    network: nn.Module
    as_input: Input
    device: torch.device

    @classmethod
    def open(cls, address: str, key: Path | None = None) -> "Eye":
        """The encoder at a folder or hf:// address, of an expression model without its head, on a GPU if there is one.

        It must be signed by the owner of the public key in `key`, if one is given.
        """
        pulled = hub.pull(address, key=key)
        network, config = encoder.load(pulled.folder, num_classes=0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(pulled.address, network.to(device).eval(), Input.of(config["pretrained_cfg"]), device)

    @torch.no_grad()
    def features(self, pool: Pool, tick: Ticker) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [B, D] of the pool's faces, chunk by chunk, and which of them could be read [B]."""
        for start in range(0, len(pool), _AT_ONCE):
            ids = np.arange(start, min(start + _AT_ONCE, len(pool)))
            batch = pool.batch(ids)
            see = self.as_input
            pictures = views.middle(batch.pixels.to(self.device), batch.sizes, see.px, see.crop_pct)
            pictures = images.grey(pictures, np.ones(len(ids), bool))
            seen = self.network(see(pictures)) + self.network(see(pictures.flip(3)))
            yield seen.float(), torch.from_numpy(batch.ids == ids).to(self.device)
            tick(int(ids[-1]) + 1, len(pool))


@dataclass(frozen=True, slots=True)
class Alike:
    """Of each of N faces the nearest on the other side."""

    at: Ints  # [N] its place there
    cosine: Floats  # [N]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of all faces of both sides the nearest, and from which cosine on it counts as a copy."""

    a: Alike
    b: Alike
    threshold: float
    chosen_by: str  # in words
    unreadable: int


def nearest(eye: Eye, a: Pool | None, b: Pool, known: Ints, cosine: float | None, tick: Ticker) -> Neighbours:
    """The nearest neighbours of all faces, exactly: every cosine is computed.

    `a` is None where it is b: then only pairs count of which the face of a comes before that of b. `known` [K, 2] are
    pairs of b that are near copies; the threshold is what FOUND of them reach, unless `cosine` says it. The features of
    b stay in memory, those of a go by.
    """
    total = len(b) + len(a or ())
    parts = zip(*eye.features(b, lambda done, _: tick(done, total)), strict=True)
    seen, sound = (torch.cat(part) for part in parts)
    whiten = _Whitening.of(seen[sound][:_OF_MANY])
    theirs = whiten(seen, sound)
    unreadable = int((~sound).sum())
    del seen
    reached = np.array([], np.float32)
    for some in np.array_split(known, max(1, len(known) // _BLOCK)):
        some_of = [theirs[torch.from_numpy(some[:, side]).to(eye.device)] for side in (0, 1)]
        reached = np.append(reached, (some_of[0] * some_of[1]).sum(1).cpu().numpy())
    first, of_a, of_b = 0, _Best(len(a or b), eye.device), _Best(len(b), eye.device)
    chunks = eye.features(a, lambda done, _: tick(len(b) + done, total)) if a else _chunks(theirs, sound)
    for mine, there in chunks:
        if a:
            mine, unreadable = whiten(mine, there), unreadable + int((~there).sum())
        for start in range(0, len(theirs), _BLOCK):
            cosines = mine @ theirs[start : start + _BLOCK].T
            if not a:  # only what lies above the diagonal
                cosines = torch.where(torch.ones_like(cosines).triu(first - start + 1) > 0, cosines, -1.0)
            of_a.put(cosines, first, start)
            of_b.put(cosines.T, start, first)
        first += len(mine)
    threshold, chosen_by = _threshold(reached, cosine)
    return Neighbours(of_a.found(), of_b.found(), threshold, chosen_by, unreadable)


def _threshold(reached: Floats, cosine: float | None) -> tuple[float, str]:
    if cosine is not None:
        return cosine, "given"
    if len(reached) < ENOUGH:
        return COSINE, f"default: only {len(reached)} pairs are known as near copies by their hashes"
    words = f"reached by {FOUND:.0%} of {len(reached):,} pairs that are near copies by their hashes"
    return float(np.quantile(reached, 1 - FOUND)), words


def _chunks(features: Tensor, sound: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(features.split(_AT_ONCE), sound.split(_AT_ONCE), strict=True)


class _Whitening:
    """Features -> directions of equal variance, of length 1."""

    def __init__(self, mean: Tensor, matrix: Tensor) -> None:
        self._mean, self._matrix = mean, matrix

    @classmethod
    def of(cls, features: Tensor) -> "_Whitening":
        """From the mean and covariance of features [N, D]."""
        wide = features.double()
        mean = wide.mean(0)
        centred = wide - mean
        variances, directions = torch.linalg.eigh(centred.T @ centred / max(1, len(wide) - 1))
        ridge = _RIDGE * variances.mean().clamp(min=1e-12)
        matrix = directions / (variances.clamp(min=0) + ridge).sqrt()
        return cls(mean.float(), matrix.float())

    def __call__(self, features: Tensor, sound: Tensor) -> Tensor:
        """float32 [N, D]; zeros, which are near to nothing, for a face that could not be read."""
        return functional.normalize((features - self._mean) @ self._matrix, dim=1) * sound[:, None]


class _Best:
    """The highest cosine of each face so far, and whose it is: of several the first."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._cosine = torch.full((count,), -1.0, device=device)
        self._at = torch.full((count,), -1, device=device, dtype=torch.int64)

    def put(self, cosines: Tensor, first: int, other: int) -> None:
        """Cosines [n, m] of the faces from `first` on and those of the other side from `other` on."""
        mine = slice(first, first + len(cosines))
        value, place = cosines.max(1)
        better = value > self._cosine[mine]
        self._cosine[mine] = torch.where(better, value, self._cosine[mine])
        self._at[mine] = torch.where(better, place + other, self._at[mine])

    def found(self) -> Alike:
        return Alike(self._at.cpu().numpy(), self._cosine.cpu().numpy())
