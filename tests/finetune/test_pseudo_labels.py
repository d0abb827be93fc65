"""Pseudo-labels: three labelers, alignment, and statistics that do not depend on how a batch is cut."""

import math

import pytest
import torch
from torch import Tensor

from fer_scale.finetune import pseudo_labels
from fer_scale.finetune.pseudo_labels import PseudoLabels, Statistics, align, gaussian, label, tally, told

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


def test_alignment_and_a_threshold_by_hand() -> None:
    """One update from fresh statistics: decay 1/10, so the mean is (1/3 + 9 times the batch's mean) / 10.

    Batch mean (.6, .4), hence mean (.5 / 10 + .9 * .6, .5 / 10 + .9 * .4) = (.59, .41); prior (.295, .705) makes the
    ratios 1/2 and 1.7195: (.8, .2) -> (.4, .3439) -> .5377 for class 0; (.4, .6) -> (.2, 1.0317) -> .8376 for class 1.
    """
    probabilities = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    found = label(probabilities, Statistics.fresh(2), labeler="fixed", threshold=0.8, prior=(0.295, 0.705), total=alone)
    assert found.statistics.mean == pytest.approx((0.59, 0.41))
    first, second = 0.4 / (0.4 + 0.2 * 0.705 / 0.41), 1 - 0.2 / (0.2 + 0.6 * 0.705 / 0.41)
    assert (first, second) == (pytest.approx(0.5377, abs=1e-4), pytest.approx(0.8376, abs=1e-4))
    assert found.targets_BK.tolist() == [[1, 0], [0, 1]] and found.weights_B.tolist() == [0, 1]
    assert found.statistics.top_mean == pytest.approx(0.1 * 0.5 + 0.9 * (first + second) / 2)
    soft = label(probabilities, Statistics.fresh(2), labeler="soft", threshold=0, prior=(0.295, 0.705), total=alone)
    assert soft.targets_BK.tolist() == [
        pytest.approx([first, 1 - first], abs=1e-6),
        pytest.approx([1 - second, second], abs=1e-6),
    ]


def test_softmatch_weighs_by_the_statistics_with_this_batch_in_them() -> None:
    """Tops .9 and .5: mean .7, unbiased variance .08; from (1/2, 1): mean .68, variance .1 + .9 * .08 = .172."""
    probabilities = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    found = label(probabilities, Statistics.fresh(2), labeler="softmatch", threshold=2, prior=None, total=alone)
    assert found.statistics.top_mean == pytest.approx(0.68)
    assert found.statistics.top_variance == pytest.approx(0.172)
    assert found.weights_B.tolist() == pytest.approx([1, math.exp(-(0.18**2) / (2 * 0.172 / 4))])


def test_statistics_begin_as_softmatch_has_them_and_remember_by_the_growing_decay() -> None:
    fresh = Statistics.fresh(4)
    assert fresh == Statistics(0, (0.25,) * 4, 0.25, 1.0)
    old = Statistics(10**6, (0.5, 0.5), 0.6, 0.01)
    found = label(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), old, labeler="soft", threshold=0, prior=None, total=alone)
    assert found.statistics.mean == pytest.approx((0.5005, 0.4995))
    assert found.statistics.top_mean == pytest.approx(0.6004)
    assert found.statistics.top_variance == pytest.approx(0.00999)
    assert found.statistics.updates == 10**6 + 1


def test_one_face_alone_has_no_variance_and_no_weight_is_lost_to_a_variance_of_zero() -> None:
    found = label(torch.tensor([[0.9, 0.1]]), Statistics.fresh(2), labeler="soft", threshold=0, prior=None, total=alone)
    assert found.statistics.top_variance == pytest.approx(0.1)
    assert gaussian(torch.tensor([0.5, 0.4999]), mean=0.5, variance=0.0).tolist() == [1, 0]


def test_equally_sure_faces_have_no_variance_below_zero() -> None:
    """Three times 0.05: the sum of the squares less three times that of the mean is -1.7e-18 in float64."""
    certain = Statistics(10**6, (0.05,), 0.05, 0.0)
    tops = torch.full((3, 1), 0.05, dtype=torch.float64)
    found = label(tops, certain, labeler="soft", threshold=0, prior=None, total=alone)
    assert found.statistics.top_variance == 0


def test_means_are_kept_in_double_precision_whatever_the_network_computes_in() -> None:
    old = Statistics(10**6, (1 / 3, 2 / 3), 0.7, 0.01)
    half = torch.tensor([[0.25, 0.75]], dtype=torch.bfloat16)
    found = label(half, old, labeler="soft", threshold=0, prior=None, total=alone).statistics
    assert found.mean == pytest.approx((0.999 / 3 + 0.001 / 4, 0.999 * 2 / 3 + 0.001 * 3 / 4), rel=1e-14)
    assert found.top_mean == pytest.approx(0.999 * 0.7 + 0.001 * 0.75, rel=1e-14)


@pytest.mark.parametrize(
    ("mean", "top_mean", "top_variance"),
    [((math.nan, 0.5), 0.5, 1.0), ((0.5, 0.5), math.inf, 1.0), ((0.5, 0.5), 0.5, math.nan)],
)
def test_statistics_that_are_no_numbers_are_known(
    mean: tuple[float, ...], top_mean: float, top_variance: float
) -> None:
    assert not Statistics(1, mean, top_mean, top_variance).are_finite and Statistics.fresh(2).are_finite


def test_the_log_of_pseudo_labels_by_hand() -> None:
    """Seven faces, classes a, b and c: the fifth has another expression, the sixth none that is known."""
    best = torch.tensor([0, 0, 0, 1, 1, 1, 0])
    weights = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.5, 0.25, 0.5])
    hidden = torch.tensor([0, 1, 0, 1, 3, -1, 0])
    found = tally(best, weights, hidden, 3)
    assert found.dtype == torch.float64
    assert found.tolist() == [[4, 3, 0], [2, 1.75, 0], [2, 1.5, 0], [1.5, 1, 0]]
    assert told(found, ["a", "b", "c"]) == {
        "kept": pytest.approx(3.75 / 7),
        "predicted": {"a": 4, "b": 3, "c": 0},
        "kept_by_class": {"a": pytest.approx(0.5), "b": pytest.approx(1.75 / 3), "c": None},
        "precision": pytest.approx(2.5 / 3.5),
        "precision_by_class": {"a": pytest.approx(0.75), "b": pytest.approx(1 / 1.5), "c": None},
    }


def test_the_log_has_no_precision_where_no_expression_is_known_or_nothing_is_kept() -> None:
    unknown = told(tally(torch.tensor([0, 1]), torch.tensor([1.0, 1.0]), torch.tensor([-1, -1]), 2), ["a", "b"])
    assert unknown["kept"] == 1 and unknown["precision"] is None
    assert unknown["precision_by_class"] == {"a": None, "b": None}
    nothing = told(tally(torch.tensor([0, 1]), torch.tensor([0.0, 0.0]), torch.tensor([0, 1]), 2), ["a", "b"])
    assert nothing["kept"] == 0 and nothing["kept_by_class"] == {"a": 0, "b": 0} and nothing["precision"] is None
    broken = told(tally(torch.tensor([0, 0]), torch.tensor([math.nan, 1.0]), torch.tensor([0, 0]), 2), ["a", "b"])
    assert broken["kept"] is None and broken["precision"] is None


def test_the_log_of_two_processes_is_that_of_one() -> None:
    best, weights, hidden = torch.tensor([0, 1, 1, 0]), torch.tensor([1.0, 0.5, 0.25, 1.0]), torch.tensor([0, 1, 0, -1])
    parts = [tally(best[rows], weights[rows], hidden[rows], 2) for rows in (slice(0, 1), slice(1, 4))]
    assert torch.equal(parts[0] + parts[1], tally(best, weights, hidden, 2))


def test_a_probability_at_the_threshold_is_kept_and_a_class_that_was_never_seen_divides_by_no_zero() -> None:
    sure = torch.tensor([[0.5, 0.25, 0.25]])
    found = label(sure, Statistics.fresh(3), labeler="fixed", threshold=0.5, prior=None, total=alone)
    assert found.weights_B.tolist() == [1] and found.targets_BK.dtype == found.weights_B.dtype == torch.float32
    never = Statistics(10**6, (0.0, 0.5, 0.5), 0.5, 1.0)
    nothing = torch.tensor([[0.0, 0.5, 0.5]])
    found = label(nothing, never, labeler="soft", threshold=0, prior=(0.5, 0.25, 0.25), total=alone)
    assert found.targets_BK.tolist() == [[0, 0.5, 0.5]]
