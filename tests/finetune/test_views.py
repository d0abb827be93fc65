"""Views depend on nothing but keys and pixels, and boxes follow the pixels."""

import numpy as np
import pytest
import torch

from fer_scale.finetune import views
from fer_scale.finetune.recipe import Augment

KEYS = np.arange(1, 33, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
SIZES = np.full((32, 2), 40, np.int64)
AUGMENT = Augment()


def pixels_with_square(boxes: np.ndarray) -> torch.Tensor:
    """Black 40 px pictures, white inside their box."""
    pixels = torch.zeros(len(boxes), 40, 40, 3, dtype=torch.uint8)
    for row, (x1, y1, x2, y2) in enumerate((boxes * 40).round().astype(int)):
        pixels[row, y1:y2, x1:x2] = 255
    return pixels


def random_boxes() -> np.ndarray:
    rng = np.random.default_rng(0)
    low, high = rng.integers(4, 14, (32, 2)) / 40, rng.integers(24, 36, (32, 2)) / 40
    return np.concatenate([low, high], 1).astype(np.float32)


def seen(pictures: torch.Tensor) -> torch.Tensor:
    """The boxes around what is brighter than half."""
    px = pictures.shape[-1]
    bright = pictures.mean(1) > 0.5
    found = []
    for picture in bright:
        rows, columns = picture.any(1).nonzero(), picture.any(0).nonzero()
        found.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    return torch.tensor(found) / px


@pytest.mark.parametrize("view_of", [views.weak, views.strong])
def test_a_view_of_a_picture_does_not_depend_on_the_batch_it_is_in(view_of) -> None:  # type: ignore[no-untyped-def]
    boxes = random_boxes()
    pixels = pixels_with_square(boxes)
    whole = view_of(pixels, SIZES, boxes, KEYS, 24, AUGMENT)
    for part in (slice(0, 5), slice(5, 32)):
        cut = view_of(pixels[part], SIZES[part], boxes[part], KEYS[part], 24, AUGMENT)
        assert torch.allclose(cut.pictures, whole.pictures[part], atol=1e-6)
        assert torch.equal(cut.boxes, whole.boxes[part])


def test_boxes_follow_crop_and_flip() -> None:
    boxes = random_boxes()
    view = views.weak(pixels_with_square(boxes), SIZES, boxes, KEYS, 80, AUGMENT)
    assert (view.boxes - seen(view.pictures)).abs().max() < 1.5 / 80


def test_boxes_follow_a_turn() -> None:
    boxes = random_boxes()
    pictures = pixels_with_square(boxes).permute(0, 3, 1, 2).float() / 255
    degrees = np.linspace(-15, 15, 32)
    turned = views.rotate(pictures, degrees)
    carried = views.rotate_boxes(torch.from_numpy(boxes), torch.from_numpy(degrees).float())
    # the upright box around a turned square's corners, of which blurred pixels lose the tips
    assert (carried - seen(turned)).abs().max() < 2.5 / 40


def test_a_turn_is_counter_clockwise_in_pictures_and_boxes_alike() -> None:
    boxes = np.array([[0.6, 0.4, 0.9, 0.6]], np.float32)  # at three o'clock
    turned = views.rotate_boxes(torch.from_numpy(boxes), torch.tensor([45.0]))
    assert turned[0, 1] < 0.4  # moved up
    picture = views.rotate(pixels_with_square(boxes).permute(0, 3, 1, 2).float() / 255, np.array([45.0]))
    assert (turned - seen(picture)).abs().max() < 2.5 / 40


@pytest.mark.parametrize(("flipped", "across"), [(False, (0.25, 0.5)), (True, (0.5, 0.75))])
def test_a_box_in_a_crop_of_an_oblong_picture_by_hand(flipped: bool, across: tuple[float, float]) -> None:
    """40 px high and 80 wide, the box in columns 30 to 40 and rows 15 to 20, the crop from row 10, column 20 on."""
    sizes, crops = np.array([[40, 80]]), np.array([[10, 20, 20, 40]])
    box = np.array([[0.375, 0.375, 0.5, 0.5]], np.float32)
    found = views.crop_boxes(box, sizes, crops, np.array([flipped]))
    assert found.dtype == np.float32
    assert found.tolist() == [[across[0], 0.25, across[1], 0.5]]


@pytest.mark.parametrize("degrees", [30.0, -20.0])
def test_a_turned_box_reaches_as_far_as_its_corners(degrees: float) -> None:
    """The corners as complex numbers, y upwards, times that of the turn."""
    x1, y1, x2, y2 = 0.5, 0.25, 0.7, 0.35
    turn = np.exp(1j * np.radians(degrees))
    corners = [turn * complex(x - 0.5, 0.5 - y) for x in (x1, x2) for y in (y1, y2)]
    across, down = [corner.real + 0.5 for corner in corners], [0.5 - corner.imag for corner in corners]
    found = views.rotate_boxes(torch.tensor([[x1, y1, x2, y2]]), torch.tensor([degrees]))
    assert found[0].tolist() == pytest.approx([min(across), min(down), max(across), max(down)], abs=1e-6)


def test_an_empty_box_stays_one_point_of_the_picture_when_it_is_turned() -> None:
    """Without a width, without a height, without both: corners turned by 45 degrees leave the picture sidewards."""
    empty = torch.tensor([[0.95, 0.95, 0.95, 0.99], [0.01, 0.05, 0.05, 0.05], [0.5, 0.75, 0.5, 0.75]])
    found = views.rotate_boxes(empty, torch.tensor([45.0, 45.0, 0.0]))
    edge = 2**-0.5 * 0.02 + 0.5
    assert found.flatten().tolist() == pytest.approx([1, edge, 1, edge, 0, edge, 0, edge, 0.5, 0.75, 0.5, 0.75])


def test_a_face_outside_the_crop_gets_an_empty_box() -> None:
    crops, sizes = np.array([[20, 20, 20, 20]]), np.array([[40, 40]])
    box = views.crop_boxes(np.array([[0.0, 0.0, 0.4, 0.4]], np.float32), sizes, crops, np.array([False]))
    assert (box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1]) == 0
    turned = views.rotate_boxes(torch.from_numpy(box), torch.tensor([10.0]))
    assert ((turned[0, 2] - turned[0, 0]) * (turned[0, 3] - turned[0, 1])).item() == 0


def test_the_whole_picture_stays_a_whole_box_under_everything() -> None:
    boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (32, 1))
    pixels = torch.randint(0, 256, (32, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    view = views.strong(pixels, SIZES, boxes, KEYS, 24, AUGMENT)
    assert torch.equal(view.boxes, torch.from_numpy(boxes))


def test_a_strong_view_stays_in_range_hides_one_square_and_differs_from_the_weak_one() -> None:
    pixels = torch.randint(0, 256, (32, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = np.zeros((32, 4), np.float32)
    weak = views.weak(pixels, SIZES, boxes, KEYS, 24, AUGMENT).pictures
    strong = views.strong(pixels, SIZES, boxes, views.keys_of(KEYS, "strong"), 24, AUGMENT).pictures
    assert strong.min() >= 0 and strong.max() <= 1
    assert ((strong - weak).abs().mean(dim=(1, 2, 3)) > 0.02).all()
    assert (strong == 0.5).all(1).float().mean(dim=(1, 2)).max() <= AUGMENT.strong_cutout**2 * 1.3


def test_the_whole_view_of_a_picture_of_the_right_size_is_the_picture() -> None:
    pixels = torch.randint(0, 256, (3, 24, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = views.middle(pixels, np.full((3, 2), 24, np.int64), 24)
    assert torch.allclose(found, pixels.permute(0, 3, 1, 2).float() / 255, atol=1e-6)
