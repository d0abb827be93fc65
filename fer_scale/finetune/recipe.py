"""Every knob of a fine-tuning run: its name, its unit, its default and where the default comes from.

The recipes in configs/finetune/ say where they differ from the defaults, and why. Lengths are optimizer steps, batches
are images per optimizer step over all processes; accumulation follows from `batch.micro`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fer_scale.card_keys import Card
from fer_scale.config import above_0, at_least, in_0_to_1, knob, require
from shards.remote import CACHE_DIR, CACHE_GB

Range = tuple[float, float]
# Here and not where they are at work: what reads a recipe needs no torch.
Weighting = Literal["none", "mixup", "additive", "convex"]
Labeler = Literal["fixed", "softmatch", "soft"]
Precision = Literal["fp32", "bf16", "fp16"]
Real = Literal["clean", "mixed"]
Sampling = Literal["natural", "sqrt"]
CropOf = Literal["picture", "face"]
Target = Literal["argmax", "votes"]


def _range(name: str, value: Range, least: float, most: float) -> tuple[bool, str]:
    holds = least < value[0] <= value[1] <= most
    return holds, f"{name}: must be [low, high] with {least:g} < low <= high <= {most:g}, not {list(value)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    shards: str = knob(kind="layout", help="the labeled shard set: its folder or address")
    split: Path = knob(kind="layout", help="the split file that `fer-scale split` wrote for this set")
    cache_dir: str = knob(CACHE_DIR, kind="layout", help="where shards of a set that lies far away are kept")
    cache_gb: float = knob(CACHE_GB, kind="layout", help="the most that cache_dir may hold; what was read last stays")
    workers: int = knob(2, kind="layout", help="reader processes a process, where the faces do not fit in memory")
    memory_mb: int = knob(2048, kind="layout", help="MB; a list whose decoded faces fit is decoded once and kept")

    max_bad: float = knob(0.01, kind="watch", help="share of unreadable faces at which the run stops")

    def __post_init__(self) -> None:
        require(*at_least(self, 0, "workers", "memory_mb"), *above_0(self, "cache_gb"), *in_0_to_1(self, "max_bad"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    start_from: str = knob(
        help="an encoder or expression model: a folder or hf://ORG/NAME[@REVISION]; none: from scratch"
    )
    start_key: Path | None = knob(None, kind="layout", help="public key (PEM) by which start_from must be signed")
    architecture: str = knob("", help="where start_from is none: any timm name, or WIDTHxDEPTHxHEADS as 192x6x6")
    image_px: int = knob(0, help="pixels a side of the input; 0: as the encoder's (from scratch it must be given)")
    patch_px: int = knob(0, help="pixels a side of a patch, for WIDTHxDEPTHxHEADS from scratch")
    drop_path: float = knob(0.1, help="most probability of leaving a block out (MAE fine-tuning, He et al. Table 9)")
    crop_pct: float = knob(
        1.0,
        help="share of a picture's sides, its middle, that the trained model is shown (timm's crop_pct); training's "
        "crops are smaller than pictures, and so look nearer (Touvron et al. 2019)",
    )
    pool: Literal["encoder", "avg", "token"] = knob(
        "encoder", help="what the head sees; encoder: as the encoder's config says"
    )

    def __post_init__(self) -> None:
        scratch = self.start_from == "none"
        sized = self.architecture[:1].isdigit()
        require(
            (
                not scratch or bool(self.architecture),
                "architecture: needed where start_from (--from) is none: a timm name, or 192x6x6",
            ),
            (scratch or not self.architecture, "architecture: only where start_from = none; an encoder knows its own"),
            *at_least(self, 0, "image_px", "patch_px"),
            (not scratch or self.image_px > 0, "image_px: needed where start_from is none"),
            (scratch or not self.patch_px, "patch_px: only where start_from = none; an encoder knows its own"),
            (not (scratch and sized) or self.patch_px > 0, "patch_px: needed with WIDTHxDEPTHxHEADS"),
            (0 <= self.drop_path < 1, f"drop_path: must lie in 0..1, not {self.drop_path}"),
            (0.1 <= self.crop_pct <= 1, f"crop_pct: must lie in 0.1..1, not {self.crop_pct}"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    crop_of: CropOf = knob("picture", help="what is cropped; face: what lies around its box, see framing.py")
    crop_scale: Range = knob(
        (0.7, 1.0), help="weak view: share of the area (the authors' 0.2 cuts half the face off in 26 %)"
    )
    crop_ratio: Range = knob((0.85, 1.18), help="both views: width / height of the crop, in shares of the picture's")
    flip: bool = knob(True, help="both views: mirror every second picture")
    grey: float = knob(0.0, help="both views: share of the pictures that lose their colour")
    labeled: Literal["weak", "strong"] = knob("strong", help="the view that labeled pictures are trained on")
    strong_scale: Range = knob((0.65, 1.0), help="strong view: share of the area")
    strong_rotation_degrees: float = knob(15.0, help="strong view: most turn to either side")
    strong_brightness: float = knob(0.3, help="strong view: brightness times 1 -/+ this")
    strong_contrast: float = knob(0.3, help="strong view: contrast times 1 -/+ this")
    strong_cutout: float = knob(
        0.3, help="strong view: largest side of the one hidden square, in shares of the picture's"
    )

    def __post_init__(self) -> None:
        require(
            _range("crop_scale", self.crop_scale, 0, 1),
            _range("strong_scale", self.strong_scale, 0, 1),
            _range("crop_ratio", self.crop_ratio, 0, 10),
            (0 <= self.strong_rotation_degrees <= 45, "strong_rotation_degrees: must lie in 0..45"),
            *in_0_to_1(self, "grey", "strong_brightness", "strong_contrast", "strong_cutout"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceMix:
    weighting: Weighting = knob(
        "additive", help="the loss; additive is the authors' code, convex reads the paper's words"
    )
    real: Real = knob("clean", help="what its real pictures are; mixed: what the authors' code sees, see facemix.py")
    stages: Literal["both", 2] = knob("both", help="2: the labeled half of stage 3 is trained plainly")
    probability: float = knob(1.0, help="share of the batches that are mixed; the others are trained plainly")
    alpha: float = knob(1.0, help="the share of a picture in its mixture is drawn from Beta(alpha, alpha)")
    smoothing: float = knob(0.1, help="share of a target spread over all expressions, in mixed and in plain batches")

    def __post_init__(self) -> None:
        require(
            *in_0_to_1(self, "probability"),
            *above_0(self, "alpha"),
            (0 <= self.smoothing < 1, f"smoothing: must lie in 0..1, not {self.smoothing}"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Supervised:
    steps: int = knob(1000, help="optimizer steps of stage 2")
    batch: int = knob(64, help="labeled pictures per step, over all processes")
    sampling: Sampling = knob("natural", help="of labeled faces; sqrt: n labels of an expression count as sqrt(n)")
    logit_adjustment: float = knob(
        0.0,
        help="labeled losses, both stages: this times log(prior) on the logits (Menon et al. 2021); 1 costs accuracy",
    )
    lr: float = knob(1e-3, help="peak learning rate of the head; cosine to end_lr")
    start_lr: float = knob(0.0, help="from which the warm-up rises")
    end_lr: float = knob(0.0, help="to which the cosine falls")
    decay_steps: int = knob(0, help="the step at which the cosine has reached end_lr, flat from there; 0: the last")
    layer_decay: float = knob(
        0.75, help="a layer learns at this times the rate of the next (He et al. Table 9); a pre-trained ViT's only"
    )
    weight_decay: float = knob(0.05, help="of matrices; both stages (He et al. Table 9)")
    warmup_steps: int = knob(100, help="steps from start_lr to the peak")
    clip_norm: float = knob(1.0, help="of the whole gradient, both stages; 0 turns clipping off")
    ema_decay: float = knob(0.999, help="most decay of the average (the authors' value), after 9,000 steps; see ema.py")
    target: Target = knob("argmax", help="the label, or the annotators' votes; two tracks, both stages")
    betas: Range = knob((0.9, 0.95), help="Adam's, both stages (the authors' values)")

    def __post_init__(self) -> None:
        require(
            *above_0(self, "steps", "lr"),
            (self.batch > 1, f"batch: must be above 1, not {self.batch}"),
            *at_least(self, 0, "weight_decay", "clip_norm", "logit_adjustment"),
            (0 <= self.start_lr <= self.lr, "start_lr: must lie between 0 and supervised.lr"),
            (0 <= self.end_lr <= self.lr, "end_lr: must lie between 0 and supervised.lr"),
            (
                not self.decay_steps or self.warmup_steps <= self.decay_steps <= self.steps,
                "decay_steps: must be 0 or lie between supervised.warmup_steps and supervised.steps",
            ),
            (0 <= self.ema_decay < 1, f"ema_decay: must lie in 0..1, below 1, not {self.ema_decay}"),
            (all(0 <= beta < 1 for beta in self.betas), f"betas: must lie in 0..1, below 1, not {list(self.betas)}"),
            (0 < self.layer_decay <= 1, f"layer_decay: must lie in 0..1, not {self.layer_decay}"),
            (0 <= self.warmup_steps <= self.steps, "warmup_steps: must lie between 0 and supervised.steps"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Semi:
    steps: int = knob(600, help="optimizer steps of stage 3; 0 leaves it out")
    batch: int = knob(32, help="labeled pictures per step, over all processes")
    unlabeled_ratio: int = knob(3, help="unlabeled pictures for each labeled one")
    start: Literal["average", "last"] = knob(
        "average", help="stage 2's weights that it begins with; last: the student's, as the authors' code does"
    )
    sampling: Sampling = knob("natural", help="of labeled faces, as supervised.sampling")
    lr: float = knob(3e-4, help="peak learning rate of the head; cosine to end_lr")
    end_lr: float = knob(0.0, help="to which the cosine falls; as lr: constant")
    warmup_steps: int = knob(50, help="steps from 0 to the peak")
    labeler: Labeler = knob("softmatch", help="how pseudo-labels are weighed; see pseudo_labels.py")
    confidence_threshold: float = knob(0.95, help="for labeler = fixed (FixMatch; the authors' code: 0.7)")
    weight: float = knob(1.0, help="of the unlabeled loss (the authors' code: 5)")
    alignment: bool = knob(True, help="align the teacher's probabilities to the labeled prior")
    ema_decay: float = knob(0.999, help="most decay of the teacher; see ema.py")

    def __post_init__(self) -> None:
        require(
            *at_least(self, 0, "steps", "weight"),
            (self.batch > 1, f"batch: must be above 1, not {self.batch}"),
            *above_0(self, "unlabeled_ratio", "lr"),
            *in_0_to_1(self, "confidence_threshold"),
            (0 <= self.end_lr <= self.lr, "end_lr: must lie between 0 and semi.lr"),
            (0 <= self.ema_decay < 1, f"ema_decay: must lie in 0..1, below 1, not {self.ema_decay}"),
            (not self.steps or 0 <= self.warmup_steps <= self.steps, "warmup_steps: must lie between 0 and semi.steps"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    micro: int = knob(
        64, kind="layout", help="pictures per forward pass on one process; FaceMix adds as many mixed ones"
    )

    def __post_init__(self) -> None:
        require((self.micro >= 2, f"micro: must be 2 or more, a FaceMix pair, not {self.micro}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    out: Path = knob(kind="layout", help="the run folder; started again with the same one, a run goes on")
    seed: int = knob(0, help="of the head, the order, the views and the mixtures")
    precision: Precision = knob("fp32", help="of matrix products; weights and losses stay float32")
    temperature: float = knob(
        0.0, help="the logits are divided by it in the end; 0: fitted on the split's list valid, 1 without one"
    )
    log_every_steps: int = knob(20, kind="watch", help="a line of metrics.jsonl")
    evaluate_every_steps: int = knob(
        0, kind="watch", help="the teacher is measured on the list valid, to be seen: nothing is chosen by it; 0: never"
    )
    checkpoint_every_steps: int = knob(500, kind="watch", help="steps, over both stages; 0: only at the end of a stage")
    keep_checkpoints: int = knob(2, kind="watch", help="how many are kept")
    keep_every_steps: int = knob(0, kind="watch", help="checkpoints of every so many steps are kept for good; 0: none")
    stop_after_steps: int = knob(0, kind="watch", help="end early, to be resumed; steps over both stages, 0: do not")
    max_hours: float = knob(0.0, kind="watch", help="hours after which the run saves and ends, to be resumed; 0: never")
    grace_s: float = knob(
        25, kind="watch", help="seconds in which a stop must have been saved; a slower save is reported"
    )
    max_skipped: int = knob(20, kind="watch", help="steps in a row with a loss or gradient that is not finite end it")
    tensorboard: bool = knob(False, kind="watch", help="also write RUN/tensorboard (extra: tensorboard)")
    wandb: str = knob("", kind="watch", help="also send the metrics to this project of W&B (extra: wandb)")

    def __post_init__(self) -> None:
        require(
            *above_0(self, "log_every_steps"),
            (0 <= self.seed < 2**63, f"seed: must lie in 0..2^63-1, not {self.seed}"),
            (
                self.temperature == 0 or 0.05 <= self.temperature <= 20,
                f"temperature: must be 0 or lie in 0.05..20, not {self.temperature}",
            ),
            *at_least(self, 1, "keep_checkpoints", "max_skipped"),
            *at_least(self, 0, "evaluate_every_steps", "checkpoint_every_steps", "keep_every_steps"),
            *at_least(self, 0, "stop_after_steps", "max_hours", "grace_s"),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Finetune:
    data: Data
    model: Model
    augment: Augment = field(default_factory=Augment)
    facemix: FaceMix = field(default_factory=FaceMix)
    supervised: Supervised = field(default_factory=Supervised)
    semi: Semi = field(default_factory=Semi)
    batch: Batch = field(default_factory=Batch)
    run: Run
    card: Card = field(default_factory=Card)
