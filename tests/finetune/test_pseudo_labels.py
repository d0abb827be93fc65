"""Pseudo-labels: three labelers, alignment, and statistics that do not depend on how a batch is cut."""

import math

import pytest
import torch
from torch import Tensor

from fer_scale.finetune import pseudo_labels
from fer_scale.finetune.pseudo_labels import PseudoLabels, Statistics, align, gaussian, label

PROBABILITIES = torch.tensor([[0.97, 0.02, 0.01], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.94, 0.03, 0.03]])


def alone(tensor: Tensor) -> Tensor:
    return tensor


def labels(labeler: pseudo_labels.Labeler, threshold: float = 0.95) -> PseudoLabels:
    fresh = Statistics.fresh(3)
    return label(PROBABILITIES, fresh, labeler=labeler, threshold=threshold, prior=None, total=alone)


def test_fixed_keeps_what_reaches_the_threshold_with_the_likeliest_class() -> None:
    found = labels("fixed")
    assert found.weights_B.tolist() == [1, 0, 0, 0]
    assert found.targets_BK.argmax(1).tolist() == [0, 0, 2, 0]
    assert labels("fixed", threshold=0.69).weights_B.tolist() == [1, 0, 1, 1]


def test_soft_keeps_the_probabilities_and_everything() -> None:
    found = labels("soft")
    assert torch.allclose(found.targets_BK, PROBABILITIES)
    assert found.weights_B.tolist() == [1, 1, 1, 1]


def test_softmatch_weighs_by_a_gaussian_below_the_mean_only() -> None:
    weights = gaussian(torch.tensor([0.9, 0.8, 0.7]), mean=0.8, variance=0.04)
    assert weights.tolist() == pytest.approx([1, 1, math.exp(-(0.1**2) / (2 * 0.04 / 4))])


def test_softmatch_follows_the_running_mean_and_variance_of_the_highest_probability() -> None:
    found = labels("softmatch").statistics
    top = torch.tensor([0.97, 0.5, 0.7, 0.94], dtype=torch.float64)
    decay = 1 / 10  # (1 + 0) / (10 + 0)
    assert found.top_mean == pytest.approx(decay / 3 + (1 - decay) * top.mean().item())
    assert found.top_variance == pytest.approx(decay * 1.0 + (1 - decay) * top.var().item())
    assert found.updates == 1


def test_alignment_moves_the_mean_of_the_probabilities_to_the_labeled_prior() -> None:
    prior = (0.2, 0.5, 0.3)
    statistics, probabilities = Statistics.fresh(3), torch.rand(512, 3, generator=torch.Generator().manual_seed(0))
    probabilities = (probabilities * torch.tensor([4.0, 1.0, 1.0])).softmax(1)
    for _ in range(200):
        found = label(probabilities, statistics, labeler="soft", threshold=0, prior=prior, total=alone)
        statistics = found.statistics
    raw, aligned = probabilities.mean(0), found.targets_BK.mean(0)
    wanted = torch.tensor(prior)
    assert (aligned - wanted).abs().max() < 0.35 * (raw - wanted).abs().max()


def test_without_a_prior_nothing_is_aligned_and_rows_always_sum_to_one() -> None:
    assert torch.allclose(align(PROBABILITIES, torch.tensor([1.0, 1.0, 1.0])), PROBABILITIES)
    assert align(PROBABILITIES, torch.tensor([0.1, 2.0, 5.0])).sum(1).tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("labeler", ["fixed", "softmatch", "soft"])
def test_two_processes_label_as_one_does(labeler: pseudo_labels.Labeler) -> None:
    """Each process's sums are known beforehand here, so `total` can be faked by the ones of the whole batch."""
    prior, fresh = (0.2, 0.5, 0.3), Statistics.fresh(3)
    sums: list[Tensor] = []

    def record(tensor: Tensor) -> Tensor:
        sums.append(tensor)
        return tensor

    whole = label(PROBABILITIES, fresh, labeler=labeler, threshold=0.5, prior=prior, total=record)
    halves = []
    for rows in (PROBABILITIES[:1], PROBABILITIES[1:]):
        known = iter(sums)
        answer = {"total": lambda _, known=known: next(known)}
        halves.append(label(rows, fresh, labeler=labeler, threshold=0.5, prior=prior, **answer))  # type: ignore[arg-type]
    assert halves[0].statistics == halves[1].statistics == whole.statistics
    assert torch.equal(torch.cat([h.weights_B for h in halves]), whole.weights_B)
    assert torch.equal(torch.cat([h.targets_BK for h in halves]), whole.targets_BK)
