"""Metrics against hand-computed values, and the bootstrap against drawing the images one by one."""

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


def test_ece_is_the_gap_between_confidence_and_accuracy_weighed_by_the_bins() -> None:
    probabilities = np.array([[0.91, 0.09], [0.92, 0.08], [0.6, 0.4], [0.45, 0.55]])
    true = np.array([0, 1, 0, 1])
    bins = metrics.reliability(probabilities, true, bins=10)
    assert [row["count"] for row in bins] == [0, 0, 0, 0, 0, 1, 1, 0, 0, 2]
    assert metrics.ece(bins) == pytest.approx((0.45 + 0.4 + 2 * (0.915 - 0.5)) / 4)


def test_a_certain_classifier_falls_into_the_last_bin() -> None:
    bins = metrics.reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert bins[-1]["count"] == 1 and metrics.ece(bins) == 0


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
    assert result["confusion"] == MATRIX.tolist()
    assert result["intervals_95"]["accuracy"][0] <= result["accuracy"] <= result["intervals_95"]["accuracy"][1]
