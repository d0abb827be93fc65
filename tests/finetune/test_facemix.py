"""FaceMix against numbers worked out by hand, and IoU against counting pixels."""

import math

import pytest
import torch
from torch import Tensor

from fer_scale.finetune import facemix


def losses(weighting: facemix.Weighting, iou: list[float], *, share: float = 0.25, smoothing: float = 0.0) -> Tensor:
    """Two images, two classes; f says (0, log 3), so class 1 has 3/4, to image 0, and the reverse to image 1.

    Cross entropies by hand: log 4 towards the unlikely class, log 4/3 towards the likely one. The mixed logits are
    (0, 0): log 2 towards anything.
    """
    log3 = math.log(3)
    return facemix.losses(
        weighting,
        real_NK=torch.tensor([[0.0, log3], [log3, 0.0]]),
        mixed_NK=torch.zeros(2, 2),
        targets_NK=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        iou_N=torch.tensor(iou),
        share=share,
        smoothing=smoothing,
    )


FAR, NEAR, HALF = math.log(4), math.log(4 / 3), math.log(2)


def test_none_is_the_smoothed_cross_entropy_of_the_clean_images() -> None:
    found = losses("none", [0.5, 0.5], smoothing=0.1)
    assert found.tolist() == pytest.approx([0.95 * FAR + 0.05 * NEAR, 0.95 * NEAR + 0.05 * FAR], abs=1e-6)


def test_mixup_sees_the_mixed_images_only() -> None:
    assert losses("mixup", [0.2, 0.2]).tolist() == pytest.approx([HALF, HALF], abs=1e-6)


def test_additive_adds_both_real_images_by_one_minus_iou() -> None:
    found = losses("additive", [0.4, 0.4])
    assert found.tolist() == pytest.approx([HALF + 0.6 * (FAR + NEAR)] * 2, abs=1e-6)


def test_convex_shares_between_mixed_and_real_and_between_the_real_ones() -> None:
    found = losses("convex", [0.4, 0.4], share=0.25)
    first = 0.4 * HALF + 0.6 * (0.25 * FAR + 0.75 * NEAR)
    second = 0.4 * HALF + 0.6 * (0.25 * NEAR + 0.75 * FAR)
    assert found.tolist() == pytest.approx([first, second], abs=1e-6)


def test_the_real_images_keep_hard_targets_where_the_mixed_ones_are_smoothed() -> None:
    mixed = facemix.cross_entropy(torch.tensor([[0.0, 2.0]]), facemix.smooth(torch.tensor([[1.0, 0.0]]), 0.2))
    by_hand = 0.9 * math.log(1 + math.exp(2)) + 0.1 * (math.log(1 + math.exp(2)) - 2)
    assert mixed.item() == pytest.approx(by_hand, abs=1e-6)
    additive, smoothed = losses("additive", [0.0, 0.0]), losses("additive", [0.0, 0.0], smoothing=0.1)
    assert additive.tolist() == pytest.approx(smoothed.tolist())  # mixed logits are flat: only real ones could differ


def test_faces_that_lie_on_each_other_make_facemix_mixup() -> None:
    for weighting in ("additive", "convex"):
        assert losses(weighting, [1.0, 1.0]).tolist() == pytest.approx(losses("mixup", [1.0, 1.0]).tolist())
        assert facemix.needs(weighting, torch.ones(4)) == (False, True)


def test_faces_apart_make_additive_mixup_plus_both_and_convex_the_real_images_alone() -> None:
    assert losses("additive", [0.0, 0.0]).tolist() == pytest.approx([HALF + FAR + NEAR] * 2, abs=1e-6)
    assert losses("convex", [0.0, 0.0], share=0.25)[0].item() == pytest.approx(0.25 * FAR + 0.75 * NEAR, abs=1e-6)
    assert facemix.needs("convex", torch.tensor([1.0, 0.9])) == (True, True)


@pytest.mark.parametrize(
    ("weighting", "mixed_weight", "first_weight", "second_weight"),
    [("mixup", 1.0, 0.0, 0.0), ("additive", 1.0, 0.6, 0.6), ("convex", 0.4, 0.6 * 0.25, 0.6 * 0.75)],
)
def test_the_mixed_target_is_the_share_of_each_smoothed_label(
    weighting: facemix.Weighting, mixed_weight: float, first_weight: float, second_weight: float
) -> None:
    """Image 0 of class 0, image 1 of class 1; the mixed logits say 3/4 for class 1 of image 0, 3/4 for class 0 of 1.

    With share 1/4 and smoothing 0.1 the mixed target of image 0 is 0.25 (.95, .05) + 0.75 (.05, .95) = (.275, .725),
    and that of image 1 the reverse. The clean logits, against hard labels: log 4 for image 0, log 4/3 for image 1.
    """
    log3 = math.log(3)
    found = facemix.losses(
        weighting,
        real_NK=torch.tensor([[0.0, log3], [0.0, log3]]),
        mixed_NK=torch.tensor([[0.0, log3], [log3, 0.0]]),
        targets_NK=torch.eye(2),
        iou_N=torch.tensor([0.4, 0.4]),
        share=0.25,
        smoothing=0.1,
    )
    mixed = mixed_weight * (0.275 * FAR + 0.725 * NEAR)
    first = mixed + first_weight * FAR + second_weight * NEAR
    second = mixed + first_weight * NEAR + second_weight * FAR
    assert found.tolist() == pytest.approx([first, second], abs=1e-6)


def test_skipping_clean_images_of_weight_zero_changes_nothing() -> None:
    whole = losses("convex", [1.0, 1.0])
    without = facemix.losses(
        "convex",
        real_NK=None,
        mixed_NK=torch.zeros(2, 2),
        targets_NK=torch.tensor([[1.0, 0.0], [1.0, 0.0]]),
        iou_N=torch.ones(2),
        share=0.25,
        smoothing=0.0,
    )
    assert torch.equal(whole, without)


def test_mixing_leaves_its_input_untouched_and_pairs_first_with_last() -> None:
    images = torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 2).contiguous()
    before = images.clone()
    mixed = facemix.mix(images, 0.75)
    assert torch.equal(images, before)
    assert mixed[:, 0, 0, 0].tolist() == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0])


def test_iou_equals_counting_the_cells_of_a_grid() -> None:
    cells = 40
    corners = torch.randint(0, cells + 1, (200, 4, 2), generator=torch.Generator().manual_seed(0))
    low, high = corners[:, :2].amin(1), corners[:, :2].amax(1)
    low2, high2 = corners[:, 2:].amin(1), corners[:, 2:].amax(1)
    first, second = torch.cat([low, high], 1) / cells, torch.cat([low2, high2], 1) / cells
    found = facemix.iou(first, second)
    for row in range(200):
        grids = []
        for a, b in ((low[row], high[row]), (low2[row], high2[row])):
            grid = torch.zeros(cells, cells, dtype=torch.bool)
            grid[a[1] : b[1], a[0] : b[0]] = True
            grids.append(grid)
        both, either = (grids[0] & grids[1]).sum().item(), (grids[0] | grids[1]).sum().item()
        assert found[row].item() == pytest.approx(both / either if either else 0.0, abs=1e-6)
    assert torch.equal(found, facemix.iou(second, first))


def test_iou_of_equal_boxes_is_exactly_one_and_of_empty_ones_zero() -> None:
    box = torch.rand(100, 4, generator=torch.Generator().manual_seed(1)).sort(dim=1).values
    assert (facemix.iou(box, box) == 1).all()
    empty = torch.tensor([[0.3, 0.3, 0.3, 0.3]])
    assert facemix.iou(empty, empty).item() == 0.0
    assert facemix.iou(empty, torch.tensor([[0.0, 0.0, 1.0, 1.0]])).item() == 0.0


def test_real_images_that_are_mixed_ones_keep_the_hard_label_of_their_first_parent() -> None:
    """The mixed logits say 3/4 for class 1 to image 0, and 3/4 for class 0 to image 1; labels are 0 and 1.

    Towards its own parent's label each mixed image costs log 4; towards the mixed target (.275, .725), as above.
    """
    log3 = math.log(3)
    found = {}
    for weighting in ("none", "mixup", "additive", "convex"):
        found[weighting] = facemix.losses(
            weighting,  # type: ignore[arg-type]
            real_NK=torch.zeros(2, 2) if weighting == "none" else None,
            mixed_NK=torch.tensor([[0.0, log3], [log3, 0.0]]),
            targets_NK=torch.eye(2),
            iou_N=torch.tensor([0.4, 0.4]),
            share=0.25,
            smoothing=0.1,
            real="mixed",
        ).tolist()
    mixed = 0.275 * FAR + 0.725 * NEAR
    assert found["none"] == pytest.approx([HALF, HALF], abs=1e-6)
    assert found["mixup"] == pytest.approx([mixed, mixed], abs=1e-6)
    assert found["additive"] == pytest.approx([mixed + 0.6 * 2 * FAR] * 2, abs=1e-6)
    assert found["convex"] == pytest.approx([0.4 * mixed + 0.6 * FAR] * 2, abs=1e-6)


def test_what_is_passed_forward() -> None:
    """(clean, mixed) images; a batch of faces that lie on each other in all rows but one still needs the clean ones."""
    apart, together = torch.tensor([1.0, 0.9, 1.0]), torch.ones(3)
    assert facemix.needs("none", apart) == facemix.needs("none", together) == (True, False)
    assert facemix.needs("none", apart, "mixed") == (True, False)
    assert facemix.needs("mixup", apart) == facemix.needs("mixup", apart, "mixed") == (False, True)
    assert facemix.needs("additive", apart) == facemix.needs("convex", apart) == (True, True)
    assert facemix.needs("additive", together) == facemix.needs("convex", together) == (False, True)
    assert facemix.needs("additive", apart, "mixed") == facemix.needs("convex", apart, "mixed") == (False, True)


def test_iou_by_hand() -> None:
    """Quarters that share a sixteenth; boxes that touch; a box inside another; one drawn backwards is empty."""
    first = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0], [0.8, 0.0, 0.2, 1.0]])
    second = torch.tensor([[0.25, 0.25, 0.75, 0.75], [0.5, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert facemix.iou(first, second).tolist() == pytest.approx([0.0625 / 0.4375, 0.0, 0.25, 0.0])


def test_smoothing_spreads_over_all_classes() -> None:
    smoothed = facemix.smooth(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]]), 0.2)
    assert smoothed.tolist() == [pytest.approx([0.85, 0.05, 0.05, 0.05]), pytest.approx([0.45, 0.45, 0.05, 0.05])]


def test_cross_entropy_is_computed_in_float32() -> None:
    """In half precision the loss of a certain answer would be 0, and that of a wrong one 11.09."""
    logits = torch.tensor([[0.0, 11.1], [11.1, 0.0]], dtype=torch.float16)
    found = facemix.cross_entropy(logits, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert found.dtype == torch.float32
    exact = logits[0, 1].item()
    assert found.tolist() == pytest.approx(
        [math.log1p(math.exp(-exact)), math.log1p(math.exp(-exact)) + exact], rel=1e-2
    )
