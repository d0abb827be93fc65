"""Metrics against hand-computed values, and the bootstrap against drawing the images one by one."""

import math

import numpy as np
import pytest

from fer_scale.finetune import metrics

TRUE = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])
MATRIX = np.array([[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]])  # a fourth class without images


def test_the_confusion_matrix_has_truth_in_rows() -> None:
    assert metrics.confusion(TRUE, PREDICTED, 4).tolist() == MATRIX.tolist()


def test_accuracy_recall_uar_and_macro_f1_as_by_hand() -> None:
    assert metrics.accuracy(MATRIX) == pytest.approx(3 / 6)
    assert metrics.recall(MATRIX)[:3].tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert np.isnan(metrics.recall(MATRIX)[3])
    assert metrics.uar(MATRIX) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert metrics.macro_f1(MATRIX) == pytest.approx((4 / 7 + 2 / 4 + 0) / 3)
    assert metrics.precision(MATRIX)[:2].tolist() == pytest.approx([2 / 4, 1 / 2])


@pytest.mark.parametrize("measure", ["accuracy", "recall", "precision", "uar", "macro_f1"])
def test_of_many_matrices_each_is_measured(measure: str) -> None:
    measured, many = getattr(metrics, measure), np.random.default_rng(0).integers(0, 9, (2, 3, 4, 4))
    expected = [[measured(matrix) for matrix in row] for row in many]
    assert np.array_equal(measured(many), expected)


def test_ece_is_the_gap_between_confidence_and_accuracy_weighed_by_the_bins() -> None:
    probabilities = np.array([[0.91, 0.09], [0.92, 0.08], [0.6, 0.4], [0.45, 0.55]])
    true = np.array([0, 1, 0, 1])
    bins = metrics.reliability(probabilities, true, bins=10)
    assert [row["count"] for row in bins] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    assert metrics.ece(bins) == pytest.approx((0.45 + 0.4 + 2 * (0.915 - 0.5)) / 4)


def test_a_bin_knows_its_ends_and_an_empty_one_says_nothing() -> None:
    assert metrics.reliability(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]), bins=2) == [
        {"from": 0.0, "to": 0.5, "count": 0, "confidence": 0.0, "accuracy": 0.0},
        {"from": 0.5, "to": 1.0, "count": 2, "confidence": pytest.approx(0.85), "accuracy": 0.5},
    ]
    assert metrics.ece([]) == 0


def test_of_no_image_nothing_is_right() -> None:
    none = np.zeros((2, 3, 3), int)
    none[1, 0, 0] = 1
    assert metrics.accuracy(none).tolist() == [0, 1]
    assert metrics.macro_f1(np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1]])) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_one_image_counts_whole() -> None:
    assert metrics.ece(metrics.reliability(np.array([[0.8, 0.2]]), np.array([1]))) == 0.8
    assert metrics.recall(np.eye(2, dtype=int)).tolist() == metrics.precision(np.eye(2, dtype=int)).tolist() == [1, 1]


def test_a_certain_classifier_falls_into_the_last_bin() -> None:
    bins = metrics.reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert bins[-1]["count"] == 1 and metrics.ece(bins) == 0


SURE = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])  # confidence .9 .7 .6 .5
FOUND = np.array([0, 1, 2, 0])  # of them the third is wrong


def test_adaptive_ece_weighs_the_gaps_of_bins_of_equally_many_images() -> None:
    assert metrics.adaptive_ece(SURE, FOUND, bins=2) == pytest.approx((abs(1.6 - 2) + abs(1.1 - 1)) / 4)
    assert metrics.adaptive_ece(SURE, FOUND, bins=3) == pytest.approx((abs(1.6 - 2) + 0.6 + 0.5) / 4)
    assert metrics.adaptive_ece(SURE, FOUND) == pytest.approx((0.1 + 0.3 + 0.6 + 0.5) / 4)  # more bins than images


def test_fifteen_bins_are_the_default_of_both_calibration_errors() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), 200)
    true = (probabilities.cumsum(axis=1) > rng.random((200, 1))).argmax(axis=1)  # a calibrated one
    assert len(metrics.reliability(probabilities, true)) == 15
    assert metrics.adaptive_ece(probabilities, true) == metrics.adaptive_ece(probabilities, true, bins=15)
    assert metrics.adaptive_ece(probabilities, true) != metrics.adaptive_ece(probabilities, true, bins=16)


def test_nll_and_brier_as_by_hand() -> None:
    assert metrics.nll(SURE, FOUND) == pytest.approx(-math.log(0.9 * 0.7 * 0.1 * 0.5) / 4)
    assert metrics.brier(SURE, FOUND) == pytest.approx((0.02 + 0.14 + (0.36 + 0.09 + 0.81) + (0.25 + 0.09 + 0.04)) / 4)
    assert metrics.brier(np.array([[1.0, 0.0]]), np.array([1])) == 2


def test_an_impossible_truth_has_a_finite_nll() -> None:
    assert metrics.nll(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(708.396, abs=0.001)


def test_coverage_tells_how_right_the_surest_images_are() -> None:
    assert metrics.coverage(SURE, FOUND, levels=4) == [
        {"coverage": 0.25, "confidence": pytest.approx(0.9), "accuracy": 1.0},
        {"coverage": 0.5, "confidence": pytest.approx(0.7), "accuracy": 1.0},
        {"coverage": 0.75, "confidence": pytest.approx(0.6), "accuracy": pytest.approx(2 / 3)},
        {"coverage": 1.0, "confidence": pytest.approx(0.5), "accuracy": 0.75},
    ]
    assert [row["coverage"] for row in metrics.coverage(SURE, FOUND, levels=3)] == [0.5, 0.75, 1]  # of 1.3, 2.7, 4
    assert [row["coverage"] for row in metrics.coverage(SURE, FOUND)] == [0.25, 0.5, 0.75, 1]  # no image is cut
    many = metrics.coverage(np.tile(SURE, (10, 1)), np.tile(FOUND, 10))
    assert [row["coverage"] for row in many] == pytest.approx([share / 20 for share in range(1, 21)])
    assert many[9]["accuracy"] == 1 and many[10]["accuracy"] == pytest.approx(20 / 22)


def test_aurc_is_the_mean_error_over_all_coverages() -> None:
    assert metrics.aurc(SURE, FOUND) == pytest.approx((0 + 0 + 1 / 3 + 1 / 4) / 4)
    assert metrics.aurc(SURE[::-1], FOUND[::-1]) == metrics.aurc(SURE, FOUND)


def test_equally_sure_images_count_the_same_in_any_order() -> None:
    alike = np.tile([[0.7, 0.3]], (40, 1))
    true = np.repeat([0, 1], [28, 12])
    assert metrics.adaptive_ece(alike, true) == pytest.approx(0)
    assert metrics.aurc(alike, true) == pytest.approx(0.3)
    assert {round(row["accuracy"], 9) for row in metrics.coverage(alike, true)} == {0.7}


def test_the_distance_from_votes_as_by_hand() -> None:
    votes = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    said = metrics.against_votes(SURE[:2], votes)
    cross = (-(math.log(0.9) + math.log(0.1)) / 2 - math.log(0.7)) / 2
    assert said == {
        "samples": 2,
        "cross_entropy": pytest.approx(cross),
        "entropy": pytest.approx(math.log(2) / 2),
        "kl": pytest.approx(cross - math.log(2) / 2),
    }
    assert metrics.against_votes(votes, votes)["kl"] == 0


def test_intervals_are_those_of_drawing_images_with_replacement() -> None:
    rng = np.random.default_rng(5)
    true = rng.integers(0, 3, 400)
    predicted = np.where(rng.random(400) < 0.7, true, rng.integers(0, 3, 400))
    found = metrics.intervals(metrics.confusion(true, predicted, 3), resamples=4000)
    drawn = []
    for _ in range(2000):
        rows = rng.integers(0, 400, 400)
        drawn.append(metrics.uar(metrics.confusion(true[rows], predicted[rows], 3)))
    assert found["uar"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]).tolist(), abs=0.006)


def test_the_bootstrap_is_a_function_of_its_seed() -> None:
    many = MATRIX * 37
    assert metrics.intervals(many, seed=1) == metrics.intervals(many, seed=1)
    assert metrics.intervals(many, seed=1) != metrics.intervals(many, seed=2)


def test_an_interval_is_what_lies_between_the_percentiles_of_2000_draws_unless_another_is_asked_for() -> None:
    many = MATRIX * 37
    for asked, ends in (({}, [2.5, 97.5]), ({"level": 0.5}, [25, 75])):
        drawn = np.random.default_rng(0).multinomial(222, many.ravel() / 222, size=2000).reshape(2000, 4, 4)
        for name in ("accuracy", "uar", "macro_f1"):
            expected = np.percentile(getattr(metrics, name)(drawn), ends)
            assert metrics.intervals(many, **asked)[name] == pytest.approx(expected.tolist())


def test_measure_is_plain_json_and_names_its_classes() -> None:
    probabilities = np.eye(4)[PREDICTED] * 0.9 + 0.025
    result = metrics.measure(probabilities, TRUE, ["neutral", "happiness", "surprise", "fear"])
    assert result["per_class"]["neutral"] == {
        "count": 3,
        "predicted": 4,
        "recall": pytest.approx(2 / 3),
        "precision": pytest.approx(1 / 2),
    }
    assert result["per_class"]["fear"]["recall"] is None
    assert result["confusion"] == MATRIX.tolist() and result["samples"] == 6
    assert result["label_names"] == ["neutral", "happiness", "surprise", "fear"]
    assert result["intervals_95"] == metrics.intervals(MATRIX, seed=0)
    assert result["intervals_95"]["accuracy"][0] <= result["accuracy"] <= result["intervals_95"]["accuracy"][1]
    assert result["reliability"] == metrics.reliability(probabilities, TRUE)
    assert result["coverage"] == metrics.coverage(probabilities, TRUE)


def test_the_figures_are_those_of_the_measures() -> None:
    assert metrics.figures(SURE, FOUND) == {
        "accuracy": 0.75,
        "uar": pytest.approx(2 / 3),
        "macro_f1": pytest.approx((4 / 5 + 1 + 0) / 3),
        "ece": pytest.approx((0.1 + 0.3 + 0.6 + 0.5) / 4),
        "adaptive_ece": pytest.approx((0.1 + 0.3 + 0.6 + 0.5) / 4),
        "nll": metrics.nll(SURE, FOUND),
        "brier": metrics.brier(SURE, FOUND),
        "aurc": metrics.aurc(SURE, FOUND),
        "intervals_95": metrics.intervals(metrics.confusion(FOUND, np.array([0, 1, 0, 0]), 3), seed=0),
    }
    rng = np.random.default_rng(0)
    many, true = rng.dirichlet(np.ones(3), 90), rng.integers(0, 3, 90)  # so many that the ends differ with the seed
    ends = metrics.intervals(metrics.confusion(true, many.argmax(axis=1), 3))
    assert metrics.figures(many, true)["intervals_95"] == ends
    assert metrics.measure(many, true, ["a", "b", "c"])["intervals_95"] == ends
    assert metrics.figures(np.array([[0.1, 0.2, 0.7]]), np.array([2]))["accuracy"] == 1  # fewer images than expressions
