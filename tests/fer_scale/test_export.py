"""A model as one file: it gives what the model gives, for batches of any size, or it is not there."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from fer_scale import encoder, export, exported, hub
from fer_scale.__main__ import main
from fer_scale.exported import ExportError

onnx = pytest.importorskip("onnx", reason="the extra onnx is missing: pip install -e .[dev]")
NAMES = ["neutral", "happiness", "surprise"]
PX = 32
FACES = Path(__file__).parents[3] / "shared/data/lfw/lfw112.tar"


def model_folder(folder: Path, names: list[str], architecture: str = "") -> Path:
    """A model with random weights: 64x1x2 in 8 px patches, or another architecture of timm's."""
    torch.manual_seed(0)
    args = {"global_pool": "avg"} if architecture else encoder.model_args("64x1x2", image_px=PX, patch_px=8)
    model = timm.create_model(architecture or "vit_base_patch16_224", num_classes=len(names), **args)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    block = {"face_box": [0.1, 0.2, 0.9, 0.8], "folded_temperature": 1.5, "base_model": "hf://lab/faces@abc"}
    config = encoder.make_config(
        model, args, image_px=PX, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), label_names=names, licence="mit",
        block=block, architecture=architecture or "vit_base_patch16_224",
    )  # fmt: skip
    encoder.write(folder, model.state_dict(), config)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An expression model and an encoder."""
    here = tmp_path_factory.mktemp("models")
    return {"expressions": model_folder(here / "e", NAMES), "encoder": model_folder(here / "f", [])}


@pytest.fixture(scope="module")
def files(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both of them as ONNX, and the first as a program of torch."""
    out = tmp_path_factory.mktemp("files")
    made = {name: out / f"{name}.onnx" for name in folders} | {"program": out / "expressions.pt2"}
    export.export(str(folders["expressions"]), made["expressions"], made["program"])
    export.export(str(folders["encoder"]), made["encoder"])
    assert sorted(out.iterdir()) == sorted(made.values())
    return made


def noise(batch: int, px: int = PX) -> exported.Pictures:
    return np.random.default_rng(batch).integers(0, 256, (batch, px, px, 3), np.uint8)


def worst(model: Path, file: Path, pictures: exported.Pictures) -> float:
    """The largest difference between a model and its file."""
    ours = exported.run_in_torch(exported.load(str(model)), pictures)
    theirs = export.open_session(str(file)).run(None, {"faces": pictures})
    return max(exported.difference(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["expressions", "encoder"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_onnxruntime_gives_what_torch_gives(
    kind: str, batch: int, folders: dict[str, Path], files: dict[str, Path]
) -> None:
    assert worst(folders[kind], files[kind], noise(batch)) < 1e-5


@pytest.mark.skipif(not FACES.exists(), reason="no faces in ../shared/data")
@pytest.mark.parametrize("kind", ["expressions", "encoder"])
def test_it_does_so_for_real_faces(kind: str, folders: dict[str, Path], files: dict[str, Path]) -> None:
    with tarfile.open(FACES) as tar:
        photos = [io.BytesIO(tar.extractfile(tar.next()).read()) for _ in range(64)]  # type: ignore[arg-type, union-attr]
    pictures = np.stack([np.asarray(Image.open(photo).convert("RGB").resize((PX, PX))) for photo in photos])
    for batch in (1, 3, 64):
        assert worst(folders[kind], files[kind], pictures[:batch]) < 1e-5


def test_a_crop_is_all_it_needs_and_plain_timm_with_its_transforms_agrees(
    folders: dict[str, Path], files: dict[str, Path]
) -> None:
    face = Image.fromarray(noise(1)[0])
    network = timm.create_model(f"local-dir:{folders['expressions']}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.no_grad():
        theirs = network(transform(face)[None]).softmax(1)[0]
    probabilities, logits = export.open_session(str(files["expressions"])).run(None, {"faces": np.asarray(face)[None]})
    assert probabilities[0] == pytest.approx(theirs.numpy(), abs=1e-5) and probabilities.sum() == pytest.approx(1)
    assert logits.shape == (1, 3)


def test_an_encoders_features_are_those_of_timm_and_its_tokens_are_what_is_pooled(
    folders: dict[str, Path], files: dict[str, Path]
) -> None:
    features, tokens = export.open_session(str(files["encoder"])).run(None, {"faces": noise(2)})
    assert features.shape == (2, 64) and tokens.shape == (2, 1 + (PX // 8) ** 2, 64)
    assert tokens[:, 1:].mean(1) == pytest.approx(features, abs=1e-4)


def test_a_program_of_torch_runs_without_this_code_and_says_the_same_of_itself(
    folders: dict[str, Path], files: dict[str, Path]
) -> None:
    said = {"fer_scale.json": ""}
    program = torch.export.load(files["program"], extra_files=said).module()
    for batch in (1, 64):
        ours = exported.run_in_torch(exported.load(str(folders["expressions"])), noise(batch))
        for a, b in zip(ours, program(torch.from_numpy(noise(batch))), strict=True):
            assert exported.difference(a, b.detach().numpy()) < 1e-5
    assert json.loads(said["fer_scale.json"])["label_names"] == NAMES


def test_the_file_says_what_one_must_know(folders: dict[str, Path], files: dict[str, Path]) -> None:
    proto = onnx.load(files["expressions"])
    onnx.checker.check_model(proto)
    said = {prop.key: prop.value for prop in proto.metadata_props}
    assert json.loads(said["label_names"]) == NAMES
    assert json.loads(said["mean"]) == [0.4, 0.5, 0.6] and json.loads(said["face_box"]) == [0.1, 0.2, 0.9, 0.8]
    assert said["kind"] == "expressions" and said["licence"] == "mit" and said["folded_temperature"] == "1.5"
    assert said["base_model"] == "hf://lab/faces@abc" and said["source"] == folders["expressions"].name
    [taken] = proto.graph.input
    sizes = taken.type.tensor_type.shape.dim
    assert taken.name == "faces" and sizes[0].dim_param == "batch" and [s.dim_value for s in sizes[1:]] == [PX, PX, 3]
    assert said["crop_pct"] == "1.0" and "the middle share crop_pct of each side" in taken.doc_string
    assert "RGB" in taken.doc_string and [out.name for out in proto.graph.output] == ["probabilities", "logits"]
    assert (proto.opset_import[0].version, proto.ir_version) == (18, 8), "onnxruntime 1.14 reads no newer one"


def test_a_file_that_differs_is_refused_and_what_lay_there_stays(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.onnx").write_text("an older one")
    monkeypatch.setattr(export, "ALLOWED", -1.0)
    for name in ("old.onnx", "new.pt2"):
        way = (None, tmp_path / name) if name == "new.pt2" else (tmp_path / name,)
        with pytest.raises(ExportError, match=f"{name}: not written, since it would differ"):
            export.export(str(folders["expressions"]), *way)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an older one"]


def test_numbers_that_are_none_and_other_shapes_are_differences() -> None:
    ours = np.ones((2, 3), np.float32)
    assert exported.difference(ours, ours) == 0
    assert exported.difference(ours, ours[:1]) == exported.difference(ours, ours * np.nan) == float("inf")
    assert exported.difference(100 * ours, 101 * ours) == pytest.approx(0.01)


def test_crops_of_another_size_are_taken_where_the_model_can_see_them(folders: dict[str, Path]) -> None:
    model = exported.load(str(folders["encoder"]), px=48)
    features, tokens = exported.run_in_torch(model, noise(1, px=48))
    assert features.shape == (1, 64) and tokens.shape == (1, 37, 64)
    with pytest.raises(ExportError, match="--px 33: is not a whole number of the model's 8 px patches"):
        exported.load(str(folders["encoder"]), px=33)


def test_a_published_model_is_named_with_its_commit(published: str) -> None:
    assert exported.metadata(exported.load("hf://lab/faces"))["source"] == published
    with pytest.raises(hub.HubError):
        exported.load("hf://lab/nobody")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "what to write? Give --onnx FILE, --torch FILE.pt2, or both"),
        (["--onnx", "{}/no/m.onnx"], "no/m.onnx: its folder is not there; give a file"),
        (["--onnx", "{}"], "is a folder; give a file"),
        (["--torch", "{}/m.pt"], "m.pt: torch.export's files end in .pt2"),
        (["--onnx", "{}/photo.jpg"], "photo.jpg: files of ONNX end in .onnx"),
        (["--onnx", "{}/m.onnx", "--opset", "17"], "--opset 17: must be 18 to 25"),
        (["--onnx", "{}/m.onnx", "--px", "0"], "--px 0: must be 1 to 1024"),
        (["--onnx", "{}/m.onnx"], "nowhere: no such folder; a repository of the Hub is written hf://ORG/NAME"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "nowhere", *(word.format(tmp_path) for word in words)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("fer-scale export: ") and says in said
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_into_an_onnx_file_and_a_missing_extra_are_told(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_MOST_BYTES", 1000)
    with pytest.raises(ExportError, match=r"more than the 2 GiB of an ONNX file; --torch FILE.pt2 has no such limit"):
        export.export(str(folders["encoder"]), tmp_path / "m.onnx")
    monkeypatch.setattr(export, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'fer_scale\[onnx\]'"):
        export.export(str(folders["encoder"]), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("opset", range(export.OPSET, export.NEWEST_OPSET + 1))
def test_every_opset_gives_the_same(opset: int, folders: dict[str, Path], tmp_path: Path) -> None:
    export.export(str(folders["expressions"]), tmp_path / "m.onnx", opset=opset)
    assert worst(folders["expressions"], tmp_path / "m.onnx", noise(5)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet10t", "convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
@pytest.mark.parametrize("names", [NAMES, []], ids=["expressions", "encoder"])
def test_other_families_are_exported_too(architecture: str, names: list[str], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", names, architecture)
    export.export(str(folder), tmp_path / "m.onnx")
    assert worst(folder, tmp_path / "m.onnx", noise(5)) < 1e-4
