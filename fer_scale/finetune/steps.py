"""What one optimizer step computes: the losses of stage 2 and stage 3, and their gradients.

A step is a function of (weights, teacher, seed, step). On several processes each computes its parts of the global
batch, every loss is divided by the size of the global batch, and the gradients of all processes are summed. So the
mathematics is that of one process with the whole batch, however it is cut.

Shape letters: B pictures of a part, K expressions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fer_scale import images, optim
from fer_scale.finetune import facemix, pseudo_labels, views
from fer_scale.finetune.pool import take
from fer_scale.finetune.processes import Processes
from fer_scale.finetune.pseudo_labels import PseudoLabels, Statistics
from fer_scale.finetune.recipe import Finetune, Weighting
from fer_scale.finetune.sampling import shares
from fer_scale.finetune.start import draw_paths
from fer_scale.loader import Batch
from shards.order import Keys, key, uniform

_MIXTURE = 51  # the stream of a step's key that lambda is drawn from


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of the labeled faces, a row a face."""

    targets: Tensor  # float32 [N, K]
    boxes: NDArray[np.float32]  # [N, 4]
    classes: NDArray[np.int64]  # [N] numbers of their expressions
    prior: tuple[float, ...]  # the share of each expression among the labels, as the targets have it
    sampled: tuple[Tensor, Tensor]  # float32 [K] the same in the batches of stage 2, and of stage 3; see sampling.py


def known_labels(
    targets_NK: Tensor,
    boxes: NDArray[np.float32],
    classes: NDArray[np.int64],
    recipe: Finetune,
    device: torch.device,
) -> Labels:
    """The labels of a run on its device, with the priors that follow from them.

    Pseudo-labels are aligned to `prior`: unlabeled faces come as they are, however the labeled ones are sampled.
    Logits are adjusted by `sampled`: the network learns the posterior under the prior of its own batches.
    """
    every = targets_NK.double()
    sampled = []
    for sampling in (recipe.supervised.sampling, recipe.semi.sampling):
        often_N = torch.from_numpy(shares(classes, sampling)).to(every)
        sampled.append((often_N[:, None] * every).sum(dim=0).clamp(min=1e-6).float().to(device))
    prior = tuple(every.mean(dim=0).tolist())
    return Labels(targets_NK.to(device), boxes, classes, prior, (sampled[0], sampled[1]))


def lr_at(recipe: Finetune, step: int) -> float:
    """The learning rate of the head at a step, counted over both stages."""
    s, u = recipe.supervised, recipe.semi
    if step < s.steps:
        decay = s.decay_steps or s.steps
        return optim.lr_at(step, peak=s.lr, warmup_steps=s.warmup_steps, steps=decay, start=s.start_lr, end=s.end_lr)
    return optim.lr_at(step - s.steps, peak=u.lr, warmup_steps=u.warmup_steps, steps=u.steps, end=u.end_lr)


@dataclass(frozen=True, slots=True)
class Input:
    """How an encoder wants its input."""

    px: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float = 1.0  # timm's: the middle share of a picture's sides that is shown, once it is trained

    @classmethod
    def of(cls, said: dict[str, Any]) -> "Input":
        """As a model's `pretrained_cfg` says."""
        return cls(said["input_size"][-1], tuple(said["mean"]), tuple(said["std"]), said.get("crop_pct", 1.0))

    def __call__(self, pictures: Tensor) -> Tensor:
        return images.normalise(pictures, self.mean, self.std)


@dataclass(frozen=True, slots=True)
class Guesses:
    """The pseudo-labels of this process's unlabeled faces, for the log: their classes and their weights."""

    best_B: Tensor
    weights_B: Tensor

    @classmethod
    def of(cls, pseudo: PseudoLabels) -> "Guesses":
        return cls(pseudo.targets_BK.argmax(1), pseudo.weights_B)


@dataclass(frozen=True, slots=True)
class Sums:
    """What a step found on this process: float64 vectors on its device, to be added up over processes, and guesses."""

    loss: Tensor  # [1] already divided by the global batch
    apart: Tensor  # [1] sum of 1 - IoU over labeled pictures
    guesses: Guesses | None  # of stage 3


def supervised(
    student: nn.Module,
    parts: list[Batch],
    labels: Labels,
    as_input: Input,
    here: Processes,
    recipe: Finetune,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the labeled loss; its share of the mean loss, and the sum of 1 - IoU.

    With `supervised.logit_adjustment` tau the loss is that of logits + tau log(prior) (Menon et al. 2021, eq. 10), so
    that the network itself answers as if expressions were more equally frequent; nowhere else is anything added.
    """
    semi = step >= recipe.supervised.steps
    batch = recipe.semi.batch if semi else recipe.supervised.batch
    tau = recipe.supervised.logit_adjustment
    weighting, share = mixture(recipe, step)
    loss, apart = (torch.zeros(1, dtype=torch.float64, device=here.device) for _ in range(2))
    view_of = views.strong if recipe.augment.labeled == "strong" else views.weak
    for part in parts:
        boxes = labels.boxes[part.ids]
        view = view_of(part.pixels.to(here.device), part.sizes, boxes, part.keys, as_input.px, recipe.augment)
        iou_B = facemix.iou(view.boxes, view.boxes.flip(0))
        with_real, with_mixed = facemix.needs(weighting, iou_B, recipe.facemix.real)
        real = as_input(view.pictures)
        passes = [real] * with_real + [facemix.mix(real, share)] * with_mixed
        draw_paths(student, path_keys(part.keys, with_real, with_mixed), here.device)
        with here.autocast():
            logits = student(torch.cat(passes)).float()
        if tau:
            logits = logits + tau * labels.sampled[semi].log()
        halves = list(logits.split(len(real)))
        losses_B = facemix.losses(
            weighting,
            real_NK=halves.pop(0) if with_real else None,
            mixed_NK=halves.pop(0) if with_mixed else None,
            targets_NK=take(labels.targets, part),
            iou_N=iou_B.to(here.device),
            share=share,
            smoothing=recipe.facemix.smoothing,
            real=recipe.facemix.real,
        )
        part_loss = losses_B.sum() / batch
        here.backward(part_loss)
        loss += part_loss.detach()
        apart += (1 - iou_B).sum()
    return loss, apart


def mixture(recipe: Finetune, step: int) -> tuple[Weighting, float]:
    """How the batch of a step is weighed, and the share of a picture in its mixture: one draw for all processes."""
    plain = recipe.facemix.stages == 2 and step >= recipe.supervised.steps
    if plain or uniform(_step_keys(recipe, step), _MIXTURE, 1)[0, 0] >= recipe.facemix.probability:
        return "none", 1.0
    alpha = recipe.facemix.alpha
    share = np.random.default_rng(key(recipe.run.seed, step, _MIXTURE)).beta(alpha, alpha)
    return recipe.facemix.weighting, float(share)


def _step_keys(recipe: Finetune, step: int) -> Keys:
    return np.full(1, key(recipe.run.seed, step), np.uint64)


def path_keys(keys: Keys, with_real: bool, with_mixed: bool) -> Keys:
    """Keys of the draws that leave blocks out, for the clean pictures and then for the mixed ones."""
    return np.concatenate([keys] * with_real + [views.keys_of(keys, "mixed")] * with_mixed)


def answers(teacher: nn.Module, parts: list[Batch], as_input: Input, here: Processes, recipe: Finetune) -> Tensor:
    """The teacher's probabilities [B, K] on the weak views of all parts."""
    return torch.cat([teach(teacher, part, as_input, here, recipe) for part in parts])


def guess(
    answers_BK: Tensor, prior: tuple[float, ...], here: Processes, recipe: Finetune, statistics: Statistics
) -> PseudoLabels:
    """The pseudo-labels of this process's unlabeled faces; all processes must call it together."""
    semi = recipe.semi
    return pseudo_labels.label(
        answers_BK,
        statistics,
        labeler=semi.labeler,
        threshold=semi.confidence_threshold,
        prior=prior if semi.alignment else None,
        total=here.total,
    )


def unsupervised(
    student: nn.Module,
    parts: list[Batch],
    pseudo: PseudoLabels,
    as_input: Input,
    here: Processes,
    recipe: Finetune,
) -> Tensor:
    """Add the gradients of the unlabeled loss; its share of it."""
    semi = recipe.semi
    loss = torch.zeros(1, dtype=torch.float64, device=here.device)
    sizes = [len(part.keys) for part in parts]
    ours = zip(parts, pseudo.targets_BK.split(sizes), pseudo.weights_B.split(sizes), strict=True)
    for part, targets_BK, weights_B in ours:
        keys = views.keys_of(part.keys, "strong")
        pixels = part.pixels.to(here.device)
        view = views.strong(pixels, part.sizes, no_boxes(part), keys, as_input.px, recipe.augment)
        draw_paths(student, keys, here.device)
        with here.autocast():
            logits_BK = student(as_input(view.pictures)).float()
        losses_B = weights_B * facemix.cross_entropy(logits_BK, targets_BK)
        part_loss = semi.weight * losses_B.sum() / (semi.batch * semi.unlabeled_ratio)
        here.backward(part_loss)
        loss += part_loss.detach()
    return loss


@torch.no_grad()
def teach(teacher: nn.Module, part: Batch, as_input: Input, here: Processes, recipe: Finetune) -> Tensor:
    """The teacher's probabilities [B, K] on the weak views of a part."""
    view = views.weak(part.pixels.to(here.device), part.sizes, no_boxes(part), part.keys, as_input.px, recipe.augment)
    with here.autocast():
        logits = teacher(as_input(view.pictures))
    return logits.float().softmax(dim=1)


def no_boxes(part: Batch) -> NDArray[np.float32]:
    """Unlabeled faces are not mixed, so where the face lies does not matter."""
    return np.zeros((len(part.keys), 4), np.float32)


def sum_gradients(model: nn.Module, here: Processes, extra: Tensor) -> Tensor:
    """Give every parameter the gradient of the global batch; the sum of `extra`, which travels along."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if here.ranks == 1:
        return extra
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in trained]
    flat = here.total(torch.cat([*(g.flatten() for g in grads), extra.to(grads[0])]))
    for p, summed in zip(trained, flat.split([*(p.numel() for p in trained), len(extra)])[:-1], strict=True):
        p.grad = summed.view_as(p)
    return flat[-len(extra) :]
