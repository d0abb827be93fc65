"""What in a face a model goes by: maps that lie where the model looks, and change when its weights do."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import recipe
from safetensors.torch import save_file
from torch import nn

from fer_scale import checkpoint, config, cuts, encoder, explain, photos, plots
from fer_scale.__main__ import main
from fer_scale.pretrain import painted, setup
from shards.detector import Seen
from shards.errors import UserError

ROOT = Path(__file__).parents[2]
PX = 32
Ask = Callable[[list[NDArray[np.uint8]]], list[list[float]]]


def asking(network: nn.Module) -> Ask:
    @torch.inference_mode()
    def ask(crops: list[NDArray[np.uint8]]) -> list[list[float]]:
        batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
        return network(batch - 0.5).softmax(dim=1).tolist()

    return ask


def test_a_model_that_looks_at_one_quadrant_alone_has_its_map_there() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * PX * PX, 2))
    weights = torch.zeros(2, 3, PX, PX)
    checks = (torch.arange(PX)[:, None] + torch.arange(PX)) % 2 * 2 - 1
    weights[0, :, : PX // 2, PX // 2 :] = 0.02 * checks[: PX // 2, PX // 2 :]
    network[1].weight.data, network[1].bias.data = weights.reshape(2, -1), torch.zeros(2)
    board = np.repeat(((checks.numpy() + 1) * 127).astype(np.uint8)[:, :, None], 3, axis=2)  # everywhere alike
    heat = explain.occlusion(asking(network), board, 0)
    assert heat.shape == (PX, PX) and heat.min() > -1e-6
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert y < PX // 2 <= x
    assert heat[: PX // 2, PX // 2 :].sum() > 0.6 * heat.sum(), "spots are soft: some of it lies beside"
    assert heat[PX // 2 + 8 :, : PX // 2 - 8].max() < 0.02 * heat.max()


@dataclass
class Striped:
    """A small network that has learnt which way stripes go, somewhere in noise; and pictures it has not seen."""

    network: nn.Module
    pictures: NDArray[np.uint8]
    answers: NDArray[np.int64]
    places: NDArray[np.int64]  # of the stripes: top, left; 10 px a side


def stripes(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    pictures = rng.normal(128, 12, (count, PX, PX, 3))
    answers, places = rng.integers(0, 2, count), rng.integers(0, PX - 10, (count, 2))
    wave = np.where(np.arange(10) // 2 % 2, 70, -70)
    for picture, answer, (top, left) in zip(pictures, answers, places, strict=True):
        picture[top : top + 10, left : left + 10] += (wave[:, None] if answer else wave[None, :])[..., None]
    return pictures.clip(0, 255).astype(np.uint8), answers, places


def untrained(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.fixture(scope="module")
def striped() -> Striped:
    network, (pictures, answers, _) = untrained(0), stripes(256, 0)
    batch, right = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - 0.5, torch.from_numpy(answers)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(60):
        some = slice(64 * (step % 4), 64 * (step % 4) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch[some]), right[some]).backward()
        optimizer.step()
    network[-1].weight.data, network[-1].bias.data = (
        network[-1].weight.data / 4,
        network[-1].bias.data / 4,
    )  # calibrated
    pictures, answers, places = stripes(16, 1)
    said = np.array(asking(network)(list(pictures))).argmax(axis=1)
    assert (said == answers).mean() > 0.9, "it has learnt it"
    return Striped(network, pictures[said == answers], answers[said == answers], places[said == answers])


def test_the_map_of_a_trained_model_lies_on_what_it_was_trained_to_see(striped: Striped) -> None:
    hits = 0
    for picture, answer, (top, left) in zip(striped.pictures, striped.answers, striped.places, strict=True):
        heat = explain.occlusion(asking(striped.network), picture, answer)
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        hits += top - 2 <= y < top + 12 and left - 2 <= x < left + 12
    assert hits >= 0.85 * len(striped.pictures)


def test_hiding_what_counts_most_costs_more_than_hiding_anything_else(striped: Striped) -> None:
    """The deletion test (Petsiuk et al. 2018)."""
    ask, rng = asking(striped.network), np.random.default_rng(0)
    kept = {"most": [], "any": [], "least": []}
    for picture, answer in zip(striped.pictures, striped.answers, strict=True):
        heat = explain.occlusion(ask, picture, answer)
        coarse = np.kron(rng.random((4, 4), np.float32), np.ones((8, 8), np.float32))
        for name, order in (("most", heat), ("any", coarse), ("least", -heat)):
            kept[name].append(ask([explain.hide(picture, order)])[0][answer])
    most, anything, least = (np.mean(kept[name]) for name in kept)
    assert most < anything - 0.1 and most < least - 0.2


def test_the_map_is_another_one_when_the_weights_are_drawn_anew(striped: Striped) -> None:
    """The check of Adebayo et al. 2018: rank correlation with the map of the trained network."""

    def ranks(heat: NDArray[np.float32]) -> NDArray[np.int64]:
        return heat.ravel().argsort().argsort()

    alike, fresh = [], untrained(1)
    for picture, answer in zip(striped.pictures, striped.answers, strict=True):
        maps = [explain.occlusion(asking(network), picture, answer) for network in (striped.network, fresh)]
        alike.append(np.corrcoef(*map(ranks, maps))[0, 1])
    assert np.mean(alike) < 0.5


def test_the_map_knows_the_head(striped: Striped) -> None:
    """Attention rollout does not: it would be the same for a head that has its two answers the other way round."""
    other = copy.deepcopy(striped.network)
    other[-1].weight.data, other[-1].bias.data = other[-1].weight.data.flip(0), other[-1].bias.data.flip(0)
    maps = [explain.occlusion(asking(n), striped.pictures[0], 0) for n in (striped.network, striped.network, other)]
    assert np.array_equal(maps[0], maps[1]), "nothing is drawn by chance"
    assert maps[2] == pytest.approx(-maps[0], abs=1e-6) and np.abs(maps[0]).max() > 0.01


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three pictures in two folders; two of them have one name."""
    rng = np.random.default_rng(0)
    for name in ("a/face.png", "b/face.png", "b/other.png"):
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((40, 48), Image.Resampling.BICUBIC).save(tmp_path / "crops" / name)
    return tmp_path / "crops"


def test_each_face_gets_its_picture_and_figures(
    finetuned: Path, crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (crops / "cut.jpg").write_bytes(b"no picture")
    words = [
        "explain",
        str(finetuned / "model"),
        str(crops),
        "--faces",
        "whole",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    assert main(words) == 2, "one could not be read"
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert "cut.jpg: cannot be read as a picture" in said.err
    assert sorted(Path(row["picture"]).name for row in rows) == ["face.1-2.png", "face.1.png", "other.1.png"]
    for row in rows:
        assert row["confidence"] == row["probabilities"][row["label"]] == max(row["probabilities"].values())
        assert row["without_most"] <= row["confidence"] + 1e-6 and 0 <= row["most_at"][0] <= 1
        with Image.open(row["picture"]) as picture:
            assert picture.width > 1000 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 100


@pytest.fixture
def autoencoder(tmp_path: Path) -> Path:
    """A run of pre-training with one checkpoint of untrained weights."""
    run = tmp_path / "autoencoder"
    rec = recipe(out=run)
    run.mkdir()
    (run / "recipe.toml").write_text(config.dump(rec))
    model = setup.fresh(rec)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    state = {f"{'f' if name in frozen else 'w'}.{name}": value for name, value in model.state_dict().items()}
    place = checkpoint.folder_of(run, 5)
    lines = [checkpoint.write_part(checkpoint.part_of(place), 0, 1, state)]
    facts = {"step": 5, "images": 125, "adam_step": 5, "recipe": config.dump(rec)}
    checkpoint.finish(checkpoint.part_of(place), place, lines, facts)
    return run


def test_a_run_and_the_encoder_published_of_it_with_its_decoder_paint_alike(
    autoencoder: Path, crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published, found = tmp_path / "published", []
    words = ["publish", str(autoencoder), str(published), "--licence", "mit", "--parts", "encoder,decoder"]
    words += ["--data", "noise, cc0-1.0, drawn"]
    assert main(words) == 0
    for model in (autoencoder, autoencoder / "checkpoints/step_00000005", published):
        capsys.readouterr()
        out = tmp_path / "out" / model.name
        assert main(["explain", str(model), str(crops), "--faces", "whole", "--out", str(out), "--json"]) == 0
        found.append([row["error"] for row in json.loads(capsys.readouterr().out)])
        with Image.open(out / "reconstructions-001.png") as picture:
            assert picture.height > picture.width, "three faces below each other"
    assert found[0] == found[1] == pytest.approx(found[2]) and all(0 < error < 255 for error in found[0])


def test_a_checkpoint_paints_by_its_own_recipe_and_wherever_it_lies(
    autoencoder: Path, crops: Path, tmp_path: Path
) -> None:
    """The run's recipe may have been changed since, and the checkpoint be a copy."""
    recipe, place = autoencoder / "recipe.toml", autoencoder / "checkpoints/step_00000005"
    shutil.copytree(place, tmp_path / "copy")
    before = [painted.load(str(which)).model.norm_pixels for which in (place, tmp_path / "copy")]
    recipe.write_text(re.sub("norm_pixels = .*", f"norm_pixels = {str(not before[0]).lower()}", recipe.read_text()))
    assert [painted.load(str(which)).model.norm_pixels for which in (autoencoder, place)] == before == [before[0]] * 2


def test_a_run_is_not_taken_for_signed(
    autoencoder: Path, crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["explain", str(autoencoder), str(crops), "--faces", "whole", "--out", str(out), "--key", "no.pem"]
    assert main(words) == 2 and not list(out.iterdir())
    assert "is a run, which nobody signs; leave --key out" in capsys.readouterr().err


def test_what_is_painted_takes_the_place_of_no_photo(autoencoder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "reconstructions-001.png"
    Image.new("RGB", (48, 48), (90, 80, 70)).save(photo)
    before = photo.read_bytes()
    assert main(["explain", str(autoencoder), str(photo), "--faces", "whole", "--out", str(tmp_path)]) == 0
    assert photo.read_bytes() == before and (tmp_path / "reconstructions-002.png").is_file()


def test_some_faces_are_painted_before_the_next_are_cut_out(
    autoencoder: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a folder of any size takes little memory; names that look like formulas, or are no text, do no harm."""
    cut, done = list[str](), list[int]()
    read, draw = photos.upright, painted.paint
    for number in range(6):
        shutil.copy(crops / "a/face.png", crops / f"a$1_$2^{number}.png")
    shutil.copy(crops / "a/face.png", os.fsencode(crops) + b"/\xff.png")
    monkeypatch.setattr(photos, "upright", lambda file: cut.append(file) or read(file))
    monkeypatch.setattr(painted, "paint", lambda *given: done.append(len(cut)) or draw(*given))
    out = tmp_path / "out"
    assert main(["explain", str(autoencoder), str(crops), "--faces", "whole", "--out", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert done == [8, 10] and len(rows) == 10
    first, second = sorted(map(str, out.iterdir()))
    assert [row["picture"] for row in rows] == [first] * 8 + [second] * 2


def test_labels_that_look_like_formulas_are_written_as_they_are(tmp_path: Path) -> None:
    crop, file = np.zeros((PX, PX, 3), np.uint8), tmp_path / "a.png"
    said = {r"a$1_$2^": 0.7, r"\$\frac$": 0.3}
    plots.explained(crop, np.zeros((PX, PX), np.float32), said, {"without_most": 0.1, "without_least": 0.6}, file)
    plots.confusion_matrix(np.eye(2, dtype=np.int64), list(said), file)
    plots.over_labels({name: [(10.0, 0.5, 0.1)] for name in said}, "uar", file)
    assert file.is_file()


def test_a_decoder_that_is_told_of_and_not_there_takes_no_memory(tmp_path: Path) -> None:
    sizes = {"decoder_width": 8192, "decoder_depth": 100, "decoder_heads": 64}  # 80 billion weights
    folder = hostile.sound(tmp_path / "model")
    save_file({"mask_token": torch.zeros(1, 1, 8192)}, folder / "decoder.safetensors")
    hostile.spoil(folder, hostile.decoder(**sizes))

    def loaded() -> str:
        with pytest.raises(UserError) as error:
            painted.load(str(folder))
        return str(error.value)

    said, _, mb = hostile.cost(loaded)
    assert said.startswith(f"{folder}: its decoder.safetensors is not the decoder that its config.json tells of")
    assert mb < hostile.MOST_MB


def test_a_network_that_is_not_as_we_pretrain_them_is_not_painted_with(tmp_path: Path) -> None:
    args = encoder.model_args("32x2x2", image_px=32, patch_px=8) | {"global_pool": "avg", "class_token": False}
    folder = hostile.sound(tmp_path / "model")
    model = encoder.create(folder, json.loads((folder / "config.json").read_text()), num_classes=0, **args)
    pixels = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "block": {"decoder": hostile.DECODER}}
    encoder.write(folder, model.state_dict(), encoder.make_config(model, args, image_px=32, **pixels))
    (folder / "decoder.safetensors").write_bytes(b"")
    (folder / "manifest.json").unlink()
    hostile.artifact.seal(folder)
    with pytest.raises(UserError, match="is no vision transformer as `fer-scale pretrain` makes them"):
        painted.load(str(folder))


def test_a_face_that_cannot_be_cut_out_and_a_photo_without_one_are_lines_and_the_others_go_on(tmp_path: Path) -> None:
    class Sees:  # a detector's answers in turn: a box of a kilometre, nothing, a face
        boxes = iter([[(0, 0, 1e6, 1e6)], [], [(4, 4, 20, 20)]])

        def find(self, pixels: NDArray[np.uint8], *, largest: bool) -> tuple[list[Seen], int]:
            seen = [Seen(box, 1.0) for box in next(self.boxes)]
            return seen, len(seen)

    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file in files:
        Image.fromarray(np.arange(24 * 24 * 3, dtype=np.uint8).reshape(24, 24, 3)).save(file)
    finder: Any = Sees()
    without: list[cuts.Cut] = []
    [found] = explain.crops(files, 16, finder, (0, 0, 1, 1), largest=True, crop_pct=0.5, without=without)
    huge, none = (str(cut.problem) for cut in without)
    assert huge.startswith(f"{files[0]}: the cut around a face would have more than") and "no face found" in none
    assert [cut.is_answered for cut in without] == [False, True]
    cut = cuts.middle(cuts.around((4, 4, 20, 20), (0, 0, 1, 1)), 0.5)  # what the model would be shown
    assert np.array_equal(found.pixels, cuts.as_input(photos.upright(files[2]), 16, cut))


def test_no_map_takes_the_place_of_a_photo(tmp_path: Path) -> None:
    name = explain.namer(tmp_path, [tmp_path / "a.jpg", tmp_path / "a.1.png"])
    crop = SimpleNamespace(photo=str(tmp_path / "a.jpg"), number=1)
    assert [name(crop).name for _ in range(2)] == ["a.1-2.png", "a.1-3.png"]
