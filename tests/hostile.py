"""What a stranger may put into a model folder or hand over as a photo, and what each gets: refused, or harmless.

    python tests/hostile.py        prints the table, with what each cost

A case is a name, a function that makes a sound folder hostile, and the words of the refusal; "" where the folder loads,
because what was put there is never looked at. The manifest is written anew after it: a stranger can do that as well.
Repository names, ETags and redirects, which a server does, are in the tests of the Hub.
"""

import io
import json
import os
import pickle
import shutil
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fer_scale import artifact, cuts, encoder, photos
from shards.errors import UserError

MOST_CPU_S, MOST_MB = 5.0, 100.0  # a case


def sound(folder: Path) -> Path:
    """An expression model that loads."""
    torch.manual_seed(0)
    model = encoder.build("32x2x2", image_px=32, patch_px=8)
    model.reset_classifier(3)
    args = encoder.model_args("32x2x2", image_px=32, patch_px=8)
    more = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "label_names": ["neutral", "happiness", "fear"]}
    block = {"face_box": [0.1, 0.1, 0.9, 0.98]}
    encoder.write(folder, model.state_dict(), encoder.make_config(model, args, image_px=32, block=block, **more))
    (folder / "manifest.json").unlink()  # written anew after each change
    return folder


class Runs:
    """What unpickling it would do: make the file `ran` beside the folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place.parent / "ran"),)


# ---- model.safetensors


def _weights(data: bytes | Callable[[Path], bytes]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(data if isinstance(data, bytes) else data(folder))

    return change


def _header(text: str | bytes, after: bytes = b"", length: int | None = None) -> bytes:
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + after


def _one(name: str = "a", dtype: str = '"F32"', shape: str = "[1]", place: str = "[0,4]") -> str:
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{place}}}'


def _tensors(**changed: torch.Tensor) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(load_file(file) | {name.replace("__", "."): value for name, value in changed.items()}, file)

    return change


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data.pkl", data)
    return out.getvalue()


def _many(folder: Path) -> bytes:
    return _header("{" + ",".join(_one(str(n), shape="[0]", place="[0,0]") for n in range(150_000)) + "}")


WEIGHTS = [
    ("a pickle that runs a program", _weights(lambda f: pickle.dumps(Runs(f))), "fewer than its header says"),
    ("a pickle in torch's zip", _weights(lambda f: _zip(pickle.dumps(Runs(f)))), "fewer than its header says"),
    ("a zip bomb of 100 MB", _weights(lambda f: _zip(bytes(100 << 20))), "fewer than its header says"),
    ("nothing at all", _weights(b""), "0 bytes, fewer than its header says"),
    ("a header of 2**63 bytes", _weights(_header("{}", length=2**63)), "fewer than its header says"),
    ("a header of 11 MB", _weights(_header("{}" + " " * 11_000_000)), "11,000,002 bytes, and may have 10,000,000"),
    ("150,000 tensors of no size", _weights(_many), "tells of more than 10,000 tensors"),
    (
        "a shape of 4 million numbers",
        _weights(_header("{" + _one(shape=f"[{'0,' * 4_000_000}0]") + "}")),
        "longer shapes than any has",
    ),
    ("brackets within brackets", _weights(_header('{"a":' + "[" * 9_999 + "]" * 9_999 + "}")), "too many"),
    ("one name twice", _weights(_header("{" + _one() + "," + _one() + "}", bytes(4))), "it says 'a' twice"),
    (
        "two tensors over one another",
        _weights(_header("{" + _one() + "," + _one("b") + "}", bytes(8))),
        "one after the",
    ),
    ("a hole between tensors", _weights(_header("{" + _one(place="[4,8]") + "}", bytes(8))), "one after the other"),
    (
        "a zip behind the last tensor",
        _weights(_header("{" + _one() + "}", bytes(4) + _zip(b"x"))),
        "one after the other",
    ),
    (
        "a shape that overflows",
        _weights(_header("{" + _one(shape=f"[{2**62},{2**62},4]") + "}", bytes(4))),
        "other bytes",
    ),
    ("a negative place", _weights(_header("{" + _one(place="[-4,0]") + "}", bytes(4))), "no shape or no place"),
    (
        "a type that nobody has",
        _weights(_header("{" + _one(dtype='"O"') + "}", bytes(4))),
        "is of a type that we do not read",
    ),
    ("a name that rewrites the terminal", _weights(_header("{" + _one(r"\u001b[2J") + "}", bytes(4))), "is no tensor"),
    ("NaN", _tensors(norm__bias=torch.full((32,), float("nan"))), "NaN or infinite values in norm.bias"),
    ("infinity", _tensors(norm__bias=torch.full((32,), float("inf"))), "NaN or infinite values in norm.bias"),
    (
        "whole numbers for weights",
        _tensors(norm__bias=torch.ones(32, dtype=torch.int32)),
        "norm.bias is of int32, which",
    ),
    (
        "true and false for weights",
        _tensors(norm__bias=torch.ones(32) > 0),
        "norm.bias is of bool, which holds no frac",
    ),
    ("a tensor too many", _tensors(surplus=torch.ones(1)), "surplus is not part of"),
]

# ---- config.json


def _config(top: dict[str, Any] | None = None, **inside: dict[str, Any]) -> Callable[[Path], None]:
    """Keys at the top of config.json, and in its objects."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        said = json.loads(file.read_text()) | (top or {})
        file.write_text(json.dumps(said | {name: said[name] | more for name, more in inside.items()}))

    return change


def _text(old: str, new: str) -> Callable[[Path], None]:
    """Other characters in config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return change


def _args(**args: Any) -> Callable[[Path], None]:
    return _config(model_args=args)


DECODER = {"decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2, "patch_px": 8, "norm_pixels": True}


def decoder(**sizes: Any) -> Callable[[Path], None]:
    """A decoder in our block, of these sizes where they are others."""
    return _config(fer_scale={"decoder": DECODER | sizes})


CONFIG = [
    ("an architecture on a Hub", _config({"architecture": "hf-hub:evil/model"}), "knows no architecture 'hf-hub:evil"),
    ("an architecture in a folder", _config({"architecture": "local-dir:/tmp"}), "knows no architecture 'local-dir:/"),
    ("an architecture of another family", _config({"architecture": "xcit_nano_12_p16_224"}), "of no family that may"),
    ("a checkpoint to unpickle", _args(checkpoint_path="/tmp/w.bin"), "model_args may not hold checkpoint_path"),
    ("weights from elsewhere", _args(pretrained=True), "model_args may not hold pretrained"),
    ("a function as norm_layer", _args(norm_layer="os.system"), "model_args.norm_layer is 'os.system', not one of"),
    ("a million layers", _args(depth=10**6), "model_args.depth is 1000000, not a whole number of 1 to 100"),
    (
        "80 billion weights, none of them there",
        _args(embed_dim=8192, depth=100, num_heads=64),
        "does not fit its config",
    ),
    ("a picture of a million px", _args(img_size=10**6), "model_args.img_size is 1000000, not"),
    ("a million patches", _args(img_size=[1024, 1024], patch_size=1), "does not fit its config"),
    ("a network that pools nothing", _args(global_pool=""), "model_args.global_pool is '', so that a picture gives no"),
    ("true as a number", _args(depth=True), "model_args.depth is True, not a whole number"),
    ("a crop of nothing", _config(pretrained_cfg={"crop_pct": 0}), "pretrained_cfg.crop_pct is 0, not a number"),
    ("a std of 0", _config(pretrained_cfg={"std": [0, 0.5, 0.5]}), "pretrained_cfg.std is [0, 0.5, 0.5], not three"),
    ("a mean of infinity", _text("0.5,", "1e999,"), "pretrained_cfg.mean is [inf, 0.5, 0.5], not three times"),
    ("a mean of NaN", _text("0.5,", "NaN,"), "NaN is no number of JSON"),
    (
        "an input that is not the network's",
        _config(pretrained_cfg={"input_size": [3, 64, 64]}),
        "the network's is [32, 32]",
    ),
    ("one key twice", _text('"num_classes": 3,', '"num_classes": 3, "num_classes": 4,'), "it says 'num_classes' twice"),
    ("brackets within brackets", lambda f: _put(f / "config.json", b"[" * 100_000), "brackets within brackets"),
    ("5 MB of it", lambda f: _put(f / "config.json", b" " * 5_000_000), "more than 4,194,304 bytes"),
    ("bytes that are no text", lambda f: _put(f / "config.json", b"\xff\xfe{}"), "not JSON"),
    ("a label that rewrites the terminal", _config({"label_names": ["a", "b", "\x1b[2J"]}), "not a list of at most"),
    (
        "a label that turns the reading direction",
        _config({"label_names": ["a", "b", "\u202ec"]}),
        "not a list of at most",
    ),
    ("one label twice", _config({"label_names": ["a", "b", "a"]}), "not a list of at most"),
    ("more labels than classes", _config({"label_names": list("abcd")}), "4 label_names for num_classes 3"),
    ("half a million labels", _config({"label_names": [str(n) for n in range(500_000)]}), "bytes"),
    (
        "a face box turned over",
        _config(fer_scale={"face_box": [0.9, 0.1, 0.1, 0.9]}),
        "fer_scale.face_box is [0.9, 0.1",
    ),
    ("a detector's box as thin as a hair", _config(fer_scale={"face_boxes": {"a": [0.1, 0, 0.1, 1]}}), "face_boxes is"),
    ("a detector's box far away", _config(fer_scale={"face_boxes": {"a": [-9e9, 0, 0.1, 1]}}), "face_boxes is"),
    ("a decoder without sizes", _config(fer_scale={"decoder": {}}), "fer_scale.decoder is {}, not an object with"),
    ("a decoder with no heads", decoder(decoder_heads=0), "fer_scale.decoder is {'decoder_width': 32"),
    ("a decoder whose width its heads do not share", decoder(decoder_heads=3), "fer_scale.decoder is {'decoder_w"),
    ("a decoder of a billion layers", decoder(decoder_depth=10**9), "fer_scale.decoder is {'decoder_width': 32"),
    ("an origin that rewrites the terminal", _config(fer_scale={"base_model": "\x1b[2J"}), "fer_scale.base_model is '"),
    ("the same, deep in our block", _config(fer_scale={"a": [{"b": "\x1b[2J"}]}), "fer_scale holds '"),
    ("code of its own for transformers", _config({"auto_map": {"AutoModel": "evil.Model"}}), ""),
    ("an address to load weights from", _config(pretrained_cfg={"url": "http://127.0.0.1:1/w.pth"}), ""),
]

# ---- manifest.json, and what else may lie there


def _put(file: Path, data: bytes) -> None:
    file.write_bytes(data)


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        artifact.seal(folder)
        said = json.loads((folder / "manifest.json").read_text())
        change(said["files"])
        (folder / "manifest.json").write_text(json.dumps(said))

    return changed


def _manifest_text(old: str, new: str) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        artifact.seal(folder)
        file = folder / "manifest.json"
        file.write_text(file.read_text().replace(old, new, 1))

    return changed


def _unlisted(folder: Path) -> None:
    artifact.seal(folder)
    (folder / "adapter_config.json").write_text("{}")


def _link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def _fifo(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


_OUTSIDE = {"../../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}
_OTHER = '"files": {'
MANIFEST = [
    ("a file outside the folder", _manifest(lambda files: files.update(_OUTSIDE)), "../../../etc/passwd is missing"),
    (
        "a list of nothing",
        _manifest(lambda files: files.clear()),
        "config.json is not in its manifest.json; model.safet",
    ),
    (
        "a list without the weights",
        _manifest(lambda files: files.pop("model.safetensors")),
        "model.safetensors is not in",
    ),
    ("a file that loaders read, not listed", _unlisted, "adapter_config.json is not in its manifest.json"),
    ("two lists", _manifest_text(_OTHER, '"files": {}, "files": {'), "it says 'files' twice"),
    ("1e999 bytes", _manifest_text(_OTHER, '"files": {"a.json": {"bytes": 1e999, "sha256": "x"},'), "says no bytes"),
    (
        "2 MB of it",
        lambda f: (artifact.seal(f), _put(f / "manifest.json", b" " * 2_000_000)),
        "more than 1,048,576 bytes",
    ),
    ("config.json as a pipe that nobody writes", _fifo, "no config.json"),
    ("weights that never end (/dev/zero)", _link, "no model.safetensors"),
    ("a pickle beside the weights", lambda f: _put(f / "pytorch_model.bin", pickle.dumps(Runs(f))), ""),
    ("a program beside the weights", lambda f: _put(f / "evil.py", b"import os; os.mkdir('../ran')"), ""),
    ("a card of 60 MB", lambda f: _put(f / "README.md", b"---\nlicense: mit\n" + b"a: b\n" * 12_000_000), ""),
]

# ---- photos


def _png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG of zeros: its pixels take a thousandth of what they say."""
    packer, row = zlib.compressobj(), bytes(1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        *chunks,
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    packed = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _bomb_of_text() -> bytes:
    return _png(8, 8, *((b"zTXt", b"a\0\0" + zlib.compress(bytes(40 << 20))) for _ in range(3)))


PHOTOS: list[tuple[str, Callable[[], bytes], str]] = [
    (
        "a PNG of 225 megapixels in 0.2 MB",
        lambda: _png(15_000, 15_000),
        "more than 200,000,000 pixels",
    ),
    ("a PNG with 120 MB of text in 0.1 MB", _bomb_of_text, "cannot be read as a picture"),
    ("a PNG whose pixels are missing", lambda: _png(64, 64)[:60], "cannot be read as a picture"),
    ("a pickle", lambda: pickle.dumps(Runs(Path("/nowhere/x"))), "cannot be read as a picture"),
    (
        "a PostScript program",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/ran) run\n",
        "cannot be read",
    ),
    (
        "an SVG that fetches",
        lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://x/"/></svg>',
        "cannot be",
    ),
]


# ---- what they get

FOLDERS = [(f"{file}: {name}", change, says) for file, cases in (
    ("model.safetensors", WEIGHTS), ("config.json", CONFIG), ("the folder", MANIFEST)
) for name, change, says in cases]  # fmt: skip


def spoil(folder: Path, change: Callable[[Path], Any]) -> None:
    """Make a folder hostile, its manifest what a stranger would make it."""
    change(folder)
    if not (folder / "manifest.json").is_file() and all((folder / name).is_file() for name in artifact.NEEDED):
        artifact.seal(folder)


def load(folder: Path) -> str:
    """What loading a folder says; "" where it loads."""
    try:
        _, config = encoder.load(folder)
    except UserError as error:
        return str(error)
    artifact.licence(folder, config)
    return ""


def show(photo: Path, data: bytes) -> str:
    """What predict says to a file as a photo."""
    photo.write_bytes(data)
    try:
        cuts.as_input(photos.upright(photo), 32, (0, 0, 32, 32))
    except UserError as error:
        return str(error)
    return ""


def cost(call: Callable[[], str]) -> tuple[str, float, float]:
    """What `call` returns, its seconds of processor time, and by how many MB it made the process larger meanwhile."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = _memory_mb("VmRSS"), time.process_time()
    said = call()
    return said, time.process_time() - began, max(0.0, _memory_mb("VmHWM") - before)


def _memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def main() -> None:
    print("| what a stranger sent | what it got | CPU s | MB |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        whole = sound(Path(scratch) / "sound")
        encoder.load(whole)  # timm and torch are warm
        place = Path(scratch) / "model"
        for name, change, _ in FOLDERS:
            shutil.rmtree(place, ignore_errors=True)
            spoil(Path(shutil.copytree(whole, place)), change)
            _row(name, place, *cost(lambda: load(place)))
        for name, make, _ in PHOTOS:
            data = make()
            _row(f"a photo: {name}", place, *cost(lambda data=data: show(place / "a.jpg", data)))


def _row(name: str, place: Path, said: str, seconds: float, mb: float) -> None:
    short = said.replace(f"{place}/", "").replace(str(place), "the folder") or "loads; it is not looked at"
    print(f"| {name} | {short[:150].replace('|', '/')} | {seconds:.2f} | {mb:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
