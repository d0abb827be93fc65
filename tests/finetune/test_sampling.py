"""How often each labeled face is seen, and the priors that follow from it."""

from collections import Counter

import numpy as np
import pytest
import torch

from fer_scale.finetune.recipe import Data, Finetune, Model, Run, Sampling, Semi, Supervised
from fer_scale.finetune.sampling import Sampled, rows_of_each, shares
from fer_scale.finetune.steps import known_labels, lr_at
from shards.order import Order, permutation

CLASSES = np.array([0] * 16 + [1] * 4 + [2])  # 16, 4 and 1 labels: roots 4, 2 and 1


def test_an_epoch_has_rows_of_each_class_as_the_roots_of_its_labels() -> None:
    assert rows_of_each(CLASSES, "sqrt").tolist() == [16, 8, 4]
    assert rows_of_each(CLASSES, "natural").tolist() == [16, 4, 1]
    assert rows_of_each(np.array([0] * 10 + [1] * 3), "sqrt").tolist() == [10, 5]  # sqrt(30) = 5.48


def test_natural_sampling_is_the_order_as_it_is() -> None:
    rows = np.arange(21)
    sampled = Sampled(CLASSES, "natural", seed=3)
    assert len(sampled) == 21
    assert sampled.faces(rows, np.full(21, 5)).tolist() == rows.tolist()


def test_faces_of_a_class_are_seen_equally_often_up_to_one_time() -> None:
    """Three faces in five rows: ten in two epochs, fifteen in three."""
    classes = np.array([1, 0, 1, 1, *[0] * 9])
    sampled = Sampled(classes, "sqrt", seed=0)
    assert len(sampled) == 15
    seen = [Counter(sampled.faces(np.arange(15), np.full(15, epoch)).tolist()) for epoch in range(3)]
    for epoch in seen:
        assert all(epoch[face] == 1 for face in (1, *range(4, 13)))
        assert sorted(epoch[face] for face in (0, 2, 3)) == [1, 2, 2]
    total = seen[0] + seen[1] + seen[2]
    assert [total[face] for face in (0, 2, 3)] == [5, 5, 5]


def test_what_a_row_holds_is_a_function_of_seed_and_epoch() -> None:
    classes = np.array([0] * 40 + [1] * 7)
    rows = np.arange(len(Sampled(classes, "sqrt", seed=1)))
    first = Sampled(classes, "sqrt", seed=1).faces(rows, rows % 3)
    assert first.tolist() == Sampled(classes, "sqrt", seed=1).faces(rows, rows % 3).tolist()
    assert first[5:9].tolist() == Sampled(classes, "sqrt", seed=1).faces(rows[5:9], rows[5:9] % 3).tolist()
    assert first.tolist() != Sampled(classes, "sqrt", seed=2).faces(rows, rows % 3).tolist()


@pytest.mark.parametrize("sampling", ["natural", "sqrt"])
def test_every_batch_holds_expressions_as_the_whole_does(sampling: Sampling) -> None:
    """Of an epoch its order takes pieces, one after the other: in none may an expression be missing."""
    counts = [386, 281, 133, 131, 93, 7, 26, 7]  # of 1,064 labels of FERPlus
    classes = np.repeat(np.arange(8), counts)[permutation(7, sum(counts))]
    sampled = Sampled(classes, sampling, seed=3)
    order = Order([len(sampled)], seed=3, batch=32, lanes=1)
    every = [order.slots(step, 0, 32) for step in range(500)]
    of_step = np.array([np.bincount(classes[sampled.faces(s.row, s.epoch)], minlength=8) for s in every])
    expected = 32 * rows_of_each(classes, sampling) / len(sampled)
    chi_square = ((of_step - expected) ** 2 / expected).sum(axis=1).mean()
    assert 5 < chi_square < 8 and of_step[:, 0].min() > 0  # 7 where a batch is drawn without looking


def test_shares_say_how_often_each_face_is_seen() -> None:
    assert shares(CLASSES, "natural").tolist() == pytest.approx([1 / 21] * 21)
    assert shares(CLASSES, "sqrt").tolist() == pytest.approx([1 / 28] * 16 + [2 / 28] * 4 + [4 / 28])


def recipe(**stages: Supervised | Semi) -> Finetune:
    data, run = Data(shards="s", split="f"), Run(out="r")  # type: ignore[arg-type]
    return Finetune(data=data, model=Model(start_from="e"), run=run, **stages)  # type: ignore[arg-type]


def test_alignment_keeps_the_prior_of_the_labels_and_adjustment_takes_that_of_the_batches() -> None:
    targets = torch.eye(3)[torch.from_numpy(CLASSES)]
    targets[16] = torch.tensor([0.5, 0.5, 0.0])  # votes: one face of class 1 is half of class 0
    labels = known_labels(
        targets, np.zeros((21, 4), np.float32), CLASSES, recipe(semi=Semi(sampling="sqrt")), torch.device("cpu")
    )
    assert labels.prior == pytest.approx((16.5 / 21, 3.5 / 21, 1 / 21))
    assert labels.sampled[0].tolist() == pytest.approx([16.5 / 21, 3.5 / 21, 1 / 21])
    assert labels.sampled[1].tolist() == pytest.approx([17 / 28, 7 / 28, 4 / 28])


def test_an_expression_without_any_vote_does_not_make_the_adjustment_infinite() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    labels = known_labels(targets, np.zeros((2, 4), np.float32), np.array([0, 1]), recipe(), torch.device("cpu"))
    assert labels.sampled[0].tolist() == pytest.approx([1.0, 1e-6])


def test_the_rate_of_both_stages() -> None:
    two = Supervised(steps=20, lr=1.0, start_lr=0.5, end_lr=0.2, warmup_steps=4, decay_steps=12)
    three = Semi(steps=10, lr=0.4, end_lr=0.4, warmup_steps=2)
    rates = [lr_at(recipe(supervised=two, semi=three), step) for step in range(30)]
    assert rates[:5] == pytest.approx([0.625, 0.75, 0.875, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.6)  # half-way from 4 to 12, from 1 to 0.2
    assert rates[12:20] == pytest.approx([0.2] * 8)
    assert rates[20:] == pytest.approx([0.2] + [0.4] * 9)
    usual = Supervised(steps=20, lr=1.0, warmup_steps=0)
    assert lr_at(recipe(supervised=usual), 10) == pytest.approx(0.5)
    falling = Semi(steps=10, lr=0.4, end_lr=0.1, warmup_steps=0)
    assert lr_at(recipe(supervised=usual, semi=falling), 25) == pytest.approx(0.25)
