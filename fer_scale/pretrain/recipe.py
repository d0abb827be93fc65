"""Every knob of a pre-training run: its name, its unit, its default and where the default comes from.

Sources: "MAE" is He et al. 2022 (arXiv 2111.06377), "SSFER" Song et al. 2024 (arXiv 2410.17622) and its code.
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

from fer_scale.card_keys import CardOfPretraining
from fer_scale.config import ConfigError, above_0, at_least, did_you_mean, in_0_to_1, knob, require
from fer_scale.pretrain import limits
from fer_scale.pretrain.publish_keys import Publish
from shards.mix import Mix
from shards.order import Order
from shards.remote import CACHE_DIR, CACHE_GB

Rgb = tuple[float, float, float]
ENCODERS = ("vit_tiny", "vit_small", "vit_base", "vit_large")  # encoder.SHAPES, without its import of torch
_WEIGHTED = re.compile(r"(.+)=([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d\d?)?)")  # PATH=NUMBER; a path may hold a "="


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    shards: tuple[str, ...] = knob(
        kind="layout",
        help="folder or address of a shard set, or a list (content is checked); PATH=WEIGHT mixes each batch (maths)",
    )
    exclude: tuple[str, ...] = knob(
        (), kind="layout", help="FILE#LIST of a split file, not trained on (content is checked)"
    )
    cache_dir: str = knob(CACHE_DIR, kind="layout", help="where shards of sets that lie far away are kept")
    cache_gb: float = knob(CACHE_GB, kind="layout", help="the most that cache_dir may hold; what was read last stays")
    workers: int = knob(2, kind="layout", help="reader processes per rank; 0 reads in the rank itself")
    max_bad: float = knob(
        0.001, kind="watch", help="share of unreadable images, beyond the first ten, that ends the run"
    )
    lanes: Literal["shuffled", "fixed"] = knob("shuffled", help="fixed keeps a node on its shards in every epoch")
    window_mb: float = knob(512, help="shards of a lane that are shuffled together, where a set is not packed shuffled")
    slot_px: int = knob(0, help="readers reduce larger images to this side; 0: twice image_px, at least 128")

    def sets(self) -> list[tuple[str, Fraction | None]]:
        """Path and weight of each set; no weight where the sets are one pool."""
        found = [(spec, _WEIGHTED.fullmatch(spec)) for spec in self.shards]
        return [(match[1], Fraction(match[2])) if match else (spec, None) for spec, match in found]

    def weights(self) -> list[Fraction]:
        """The share of each set in a batch, exactly; empty where the sets are one pool."""
        given = [weight for _, weight in self.sets() if weight is not None]
        return [weight / sum(given) for weight in given]

    def __post_init__(self) -> None:
        given = [weight for _, weight in self.sets() if weight is not None]
        bare = next((path for path, weight in self.sets() if weight is None), "")
        require(
            (all(self.shards) and len(self.shards) > 0, "shards: must name at least one folder"),
            (
                len(given) in (0, len(self.shards)),
                f"shards: {bare!r} has no weight and others have; write {bare}=NUMBER, or no weights at all",
            ),
            (all(weight > 0 for weight in given), f"shards: weights must be above 0, not {' '.join(self.shards)}"),
            *above_0(self, "cache_gb"),
            *at_least(self, 0, "workers", "window_mb", "slot_px"),
            *in_0_to_1(self, "max_bad"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    encoder: str = knob(help="vit_tiny, vit_small, vit_base, vit_large, or WIDTHxDEPTHxHEADS")
    image_px: int = knob(224, help="side of the images that the encoder sees")
    patch_px: int = knob(16, help="side of a patch")
    mask_ratio: float = knob(0.75, help="share of the patches that is hidden (MAE Figure 5)")
    norm_pixels: bool = knob(True, help="predict pixels normalised per patch (MAE Table 1d)")
    norm_eps: float = knob(1e-6, help="added to a patch's variance; 1e-3 for small faces with flat patches")
    decoder_width: int = knob(512, help="(MAE Table 1b)")
    decoder_depth: int = knob(8, help="blocks (MAE Table 1a)")
    decoder_heads: int = knob(16, help="(MAE's code)")
    mean: Rgb = knob((0.5, 0.5, 0.5), help="of the pixels in 0..1; goes with the encoder from here on")
    std: Rgb = knob((0.25, 0.25, 0.25), help="of the pixels in 0..1; goes with the encoder from here on")
    start_from: str | None = knob(None, help="weights to go on from: a folder, hf://ORG/NAME or timm:NAME")
    start_key: Path | None = knob(None, kind="layout", help="public key (PEM) by which start_from must be signed")
    start_decoder: bool = knob(False, help="start_from's decoder too, published with --parts encoder,decoder")

    def __post_init__(self) -> None:
        whole = self.patch_px < 1 or self.image_px % self.patch_px == 0
        patches = (self.image_px // max(1, self.patch_px)) ** 2
        heads = self.decoder_heads < 1 or self.decoder_width % self.decoder_heads == 0
        require(
            _known_encoder(self.encoder),
            *at_least(self, 1, "image_px", "patch_px", "decoder_width", "decoder_depth", "decoder_heads"),
            (whole, f"image_px: {self.image_px} px is not a whole number of {self.patch_px} px patches"),
            (0 < self.mask_ratio < 1, f"mask_ratio: must lie between 0 and 1, not {self.mask_ratio}"),
            (
                self.mask_ratio >= 1 or patches < 1 or patches * (1 - self.mask_ratio) >= 1,
                f"mask_ratio: {self.mask_ratio} hides all of {patches} patches; the encoder must be shown one",
            ),
            (
                heads and self.decoder_width % 4 == 0,
                f"decoder_width: {self.decoder_width} must be a multiple of 4 and of decoder_heads",
            ),
            *above_0(self, "norm_eps", "std"),
            *in_0_to_1(self, "mean"),
            (not self.start_decoder or bool(self.start_from), "start_decoder: needs start_from, whose decoder it is"),
        )


def _known_encoder(name: str) -> tuple[bool, str]:
    """The rule that encoder.model_args will be able to build it."""
    if shape := re.fullmatch(r"(\d+)x(\d+)x(\d+)", name):
        width, depth, heads = map(int, shape.groups())
        holds = min(width, depth, heads) > 0 and width % heads == 0 and width % 4 == 0
        return holds, f"encoder: {name} must have a width that is a multiple of 4 and of its heads, and some depth"
    known = ", ".join(ENCODERS)
    hint = did_you_mean(name, ENCODERS)
    return name in ENCODERS, f"encoder: must be one of {known}, or WIDTHxDEPTHxHEADS as 192x6x6, not {name!r}{hint}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    crop_scale: tuple[float, float] = knob((0.2, 1.0), help="share of the area that a random crop keeps (MAE A.1)")
    crop_ratio: tuple[float, float] = knob((0.75, 1.3333), help="width / height of a crop (MAE A.1, torchvision's)")
    flip: bool = knob(True, help="mirror half of the images (MAE A.1)")
    grey: float = knob(0.0, help="share of the images whose colour is taken away")

    def __post_init__(self) -> None:
        scale, ratio = self.crop_scale, self.crop_ratio
        require(
            (0 < scale[0] <= scale[1] <= 1, f"crop_scale: must be 0 < low <= high <= 1, not {list(scale)}"),
            (0 < ratio[0] <= ratio[1], f"crop_ratio: must be 0 < low <= high, not {list(ratio)}"),
            *in_0_to_1(self, "grey"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    size: int = knob(4096, help="images per optimizer step, over all ranks (MAE A.1)")
    micro: int = knob(64, kind="layout", help="images per forward pass, on one rank; accumulation follows")

    def __post_init__(self) -> None:
        require(*at_least(self, 1, "size", "micro"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    lr: float | None = knob(None, help="peak learning rate; or give base_lr")
    base_lr: float | None = knob(None, help="per 256 images: lr = base_lr * batch.size / 256 (MAE: 1.5e-4)")
    betas: tuple[float, float] = knob((0.9, 0.95), help="AdamW (MAE A.1)")
    weight_decay: float = knob(0.05, help="of matrices only (MAE A.1)")
    warmup_steps: int | None = knob(None, help="steps of linear warm-up; or give warmup_epochs")
    warmup_epochs: float | None = knob(None, help="epochs of linear warm-up (MAE: 40 of 800)")
    clip_norm: float = knob(1.0, help="limit of the norm of the whole gradient; 0 turns clipping off")

    def __post_init__(self) -> None:
        require(
            ((self.lr is None) != (self.base_lr is None), "lr: give exactly one of lr and base_lr"),
            *above_0(self, "lr", "base_lr"),
            (all(0 <= beta < 1 for beta in self.betas), f"betas: must lie in 0..1, below 1, not {list(self.betas)}"),
            (
                self.warmup_steps is None or self.warmup_epochs is None,
                "warmup_steps: give at most one of warmup_steps and warmup_epochs",
            ),
            *at_least(self, 0, "weight_decay", "warmup_steps", "warmup_epochs", "clip_norm"),
        )

    @property
    def lr_given(self) -> tuple[str, float]:
        """The key by which the recipe gives the learning rate, and its value."""
        return ("lr", self.lr) if self.lr is not None else ("base_lr", self.base_lr or 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    out: Path = knob(kind="watch", help="the run's folder; started again with the same one, a run goes on")
    steps: int | None = knob(None, help="optimizer steps; or give epochs")
    epochs: float | None = knob(None, help="passes over the images (MAE: 800)")
    seed: int = knob(0, help="of weights, order, crops and masks")
    precision: Literal["fp32", "bf16"] = knob("bf16", help="bf16: fp32 weights and sums, bf16 matrix products")
    reduce_dtype: Literal["fp32", "bf16"] = knob(
        "fp32", help="in which gradients travel between ranks; bf16: half their traffic, each sum rounded to 8 bits"
    )
    deepspeed: Path = knob(Path("configs/deepspeed/zero1.json"), kind="layout", help="ZeRO layout, nothing else")
    compile: bool = knob(False, kind="layout", help="torch.compile; not at ZeRO stage 3")
    recompute: bool = knob(
        False, kind="layout", help="activations are computed again backward: less memory, 1/3 more work"
    )
    resume: Literal["auto", "must", "never"] = knob(
        "auto", kind="watch", help="go on from the newest checkpoint in out"
    )
    resume_from: str | None = knob(
        None, kind="watch", help="a run, checkpoint or hf://ORG/NAME-state[@REVISION] to go on from, while out has none"
    )
    log_every_steps: int = knob(20, kind="watch", help="steps between lines of metrics.jsonl")
    checkpoint_every_steps: int = knob(1000, kind="watch", help="steps between checkpoints")
    checkpoint_async: bool = knob(True, kind="layout", help="checkpoints are written while training goes on")
    keep_checkpoints: int = knob(2, kind="watch", help="how many are kept")
    keep_every_steps: int | None = knob(
        None, kind="watch", help="the first checkpoint at or after every so many steps is kept for good"
    )
    stop_after_steps: int | None = knob(None, kind="watch", help="end early at this step; the schedule stays")
    max_hours: float | None = knob(None, kind="watch", help="save and end after this time, to be started again")
    grace_s: float = knob(
        25, kind="watch", help="seconds in which a stop must have been saved; a slower save is reported"
    )
    hang_seconds: float | tuple[str, ...] = knob(
        (),
        kind="watch",
        help=f'when a phase hangs and the run ends: a number for all, or ["step=60", "save=600"]; else {limits.SAID}',
    )
    max_skipped: int = knob(20, kind="watch", help="steps in a row with a loss or gradient that is not finite end it")
    profile_steps: int = knob(0, kind="watch", help="so many steps of rank 0 are profiled, to RUN/trace.json.gz")
    tensorboard: bool = knob(False, kind="watch", help="also write RUN/tensorboard (extra: tensorboard)")
    wandb: str = knob("", kind="watch", help="also send the metrics to this project of W&B (extra: wandb)")

    def __post_init__(self) -> None:
        require(
            ((self.steps is None) != (self.epochs is None), "steps: give exactly one of steps and epochs"),
            *at_least(self, 1, "steps", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints", "max_skipped"),
            *above_0(self, "epochs"),
            (0 <= self.seed < 2**63, f"seed: must lie in 0..2^63-1, not {self.seed}"),
            (not (self.resume_from and self.resume == "never"), "resume_from: goes on, which resume = never forbids"),
            *at_least(self, 0, "keep_every_steps", "stop_after_steps", "max_hours", "grace_s", "profile_steps"),
            *((False, line) for line in limits.mistakes(self.hang_seconds)),
        )

    @property
    def hang_limits(self) -> dict[str, float]:
        """How long each phase may last, in seconds."""
        return limits.of_phases(self.hang_seconds)

    @property
    def waiting_s(self) -> float:
        """How long a collective may take, in any phase: what the watchdog should have ended long before."""
        return limits.BEYOND * max(self.hang_limits.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrain:
    data: Data
    model: Model
    augment: Augment = field(default_factory=Augment)
    batch: Batch = field(default_factory=Batch)
    optim: Optim
    run: Run
    publish: Publish = field(default_factory=Publish)
    card: CardOfPretraining = field(default_factory=CardOfPretraining)

    def __post_init__(self) -> None:
        mixed, none = bool(self.data.weights()), "a mixture of weighted sets has no epoch of its own; set"
        run, optim = self.run, self.optim
        require(
            (
                not self.publish.to or bool((self.card.license or "").strip()),
                "card.license: publish.to needs the licence of the weights, as cc-by-nc-4.0; there is no default",
            ),
            (not mixed or run.epochs is None, f"run.epochs: {none} run.steps=N run.epochs=none"),
            (
                not mixed or optim.warmup_epochs is None,
                f"optim.warmup_epochs: {none} optim.warmup_steps=N optim.warmup_epochs=none",
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a recipe comes to on so many ranks and images. Printed before the first step."""

    ranks: int
    accumulation: int  # micro-batches per optimizer step, on each rank
    images: int  # in an epoch, of all sets
    steps: int
    views: int  # images seen in all
    epochs: tuple[float, ...]  # of all sets; of weighted ones, those of each
    lr: float  # peak
    warmup_steps: int


def plan(recipe: Pretrain, ranks: int, order: Order | Mix) -> Plan:
    """The derived numbers; steps come from the order alone. A batch that the ranks cannot share is refused."""
    size, micro = recipe.batch.size, recipe.batch.micro
    if size < ranks:
        raise ConfigError(f"batch.size = {size} is smaller than the number of ranks, {ranks}: use fewer ranks")
    smallest, largest = size // ranks, -(-size // ranks)
    accumulation = -(-largest // micro)
    if accumulation > smallest:
        raise ConfigError(
            f"batch.micro = {micro}: {ranks} ranks share {size} images as {smallest} or {largest}, "
            f"so a rank would have an empty micro-batch; use batch.micro = {largest}"
        )
    optim, run = recipe.optim, recipe.run
    steps, warmup = run.steps or 0, optim.warmup_steps or 0
    if isinstance(order, Order):  # a Mix has no epochs as a whole, and its recipe none either
        steps = order.steps(run.epochs) if run.epochs is not None else steps
        warmup = order.steps(optim.warmup_epochs) if optim.warmup_epochs is not None else warmup
    if steps < 1:
        raise ConfigError(f"run.epochs = {run.epochs}: {order.samples_per_epoch} images make no step of {size}")
    return Plan(
        ranks=ranks,
        accumulation=accumulation,
        images=order.samples_per_epoch,
        steps=steps,
        views=steps * size,
        epochs=tuple(order.epochs(steps)),
        lr=optim.lr if optim.lr is not None else (optim.base_lr or 0) * size / 256,
        warmup_steps=min(warmup, steps),
    )
