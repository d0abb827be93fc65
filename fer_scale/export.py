"""A model as one file for programs without this code, or without Python: ONNX, and torch.export's .pt2.

What a file takes are face crops as they come out of a decoder: uint8 RGB, [batch, px, px, 3], resized to the model's
px; /255, mean and std are inside, and so is the temperature, which `publish` has folded into the weights. An expression
model gives `probabilities` and `logits` [batch, classes], an encoder `features` [batch, width], pooled as its config
says, and `tokens`, what it pools. Where the face lies in the crop, the names of the classes and the rest of what one
must know stands in the file's metadata. A file is written when onnxruntime has given what torch gives, or it is not.

Opset 18 is the oldest that torch exports, and so the one that most runtimes read (onnxruntime from 1.14); newer ones
gave the same numbers. `python tests/benchmarks/onnx_speed.py` (2026-11-27, one thread of two slow, busy cores; median
and middle 80 % of the rounds): torch took so many times what onnxruntime took for

                         one face            64 faces
    192x6x6 at 48 px     1.79 (1.15-2.30)    1.08 (0.99-1.14)
    ViT-B at 224 px      1.21 (1.16-1.25)    1.06 (0.55-3.37)
"""

import io
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from fer_scale import __version__, disk, exported, model_config
from fer_scale.exported import INPUT, ExportError, Model, Outputs, Pictures

try:
    import onnx
    import onnxruntime
    import onnxscript  # which torch's exporter writes with
except ImportError:
    onnx = onnxruntime = onnxscript = None  # type: ignore[assignment]

OPSET, NEWEST_OPSET = 18, 25
ALLOWED = 1e-4  # of difference to torch, in units of the largest number where that is above 1
BATCHES = (1, 3)  # that are compared
_SPEED_S = 1.5  # of measuring; three times at least
_MOST_BYTES = 2**31 - 2**24  # of one file of ONNX, which is one protobuf message; some is left for the graph


def export(
    address: str,
    onnx_file: Path | None,
    torch_file: Path | None = None,
    *,
    px: int | None = None,
    opset: int = OPSET,
    key: Path | None = None,
) -> dict[str, Any]:
    """Write the model at a folder or hf:// address as ONNX, as a program of torch, or both, and say what came of it.

    With `px` for crops of another size, to which the positions are resampled. The model must be signed by the owner of
    the public key in `key`, if one is given.
    """
    _refuse(onnx_file, torch_file, px, opset)
    model = exported.load(address, px, key)
    program = _program(model)
    facts: dict[str, Any] = {"model": model.address, "input": f"{INPUT}: uint8 [batch, {model.px}, {model.px}, 3], RGB"}
    facts["outputs"] = ", ".join(model.whole.gives)
    if torch_file:
        facts |= _as_torch(model, program, torch_file)
    if onnx_file:
        facts |= _as_onnx(model, program, onnx_file, opset)
    return facts


def _refuse(onnx_file: Path | None, torch_file: Path | None, px: int | None, opset: int) -> None:
    """What is known to go wrong before the model is fetched."""
    if not onnx_file and not torch_file:
        raise ExportError("what to write? Give --onnx FILE, --torch FILE.pt2, or both")
    if onnx_file and onnx is None:
        raise ExportError("--onnx needs onnx, onnxscript and onnxruntime: pip install 'fer_scale[onnx]'")
    if not OPSET <= opset <= NEWEST_OPSET:
        raise ExportError(f"--opset {opset}: must be {OPSET} to {NEWEST_OPSET}, which torch's exporter writes")
    if px is not None and not 0 < px <= model_config.MOST_PX:
        raise ExportError(f"--px {px}: must be 1 to {model_config.MOST_PX}")
    for file in filter(None, (onnx_file, torch_file)):
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise ExportError(f"{file}: {'is a folder' if file.is_dir() else 'its folder is not there'}; give a file")
    if onnx_file and onnx_file.suffix != ".onnx":
        raise ExportError(f"{onnx_file}: files of ONNX end in .onnx")
    if torch_file and torch_file.suffix != ".pt2":
        raise ExportError(f"{torch_file}: torch.export's files end in .pt2")


def _program(model: Model) -> torch.export.ExportedProgram:
    """The network as a graph, for batches of any size."""
    example = torch.zeros(2, model.px, model.px, 3, dtype=torch.uint8)  # of 1, torch would take the size for fixed
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            return torch.export.export(model.whole, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:  # of any kind: it is torch's and timm's
        raise _impossible(model, error) from error


def _as_torch(model: Model, program: torch.export.ExportedProgram, file: Path) -> dict[str, Any]:
    written, said = io.BytesIO(), json.dumps(exported.metadata(model), indent=2)
    with _quiet():
        torch.export.save(program, written, extra_files={"fer_scale.json": said})
        written.seek(0)
        module = torch.export.load(written).module()

    def run(pictures: Pictures) -> Outputs:
        return exported.in_numpy(module(torch.from_numpy(pictures)))

    differs = _compared(model, run, file)
    disk.put(file, written.getvalue())
    return {"torch": str(file), "torch_mb": _mb(file), "torch_difference": differs}


def _as_onnx(model: Model, program: torch.export.ExportedProgram, file: Path, opset: int) -> dict[str, Any]:
    weights = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if weights > _MOST_BYTES:
        raise ExportError(
            f"{file}: {weights / 2**30:.1f} GiB of weights are more than the 2 GiB of an ONNX file; "
            "--torch FILE.pt2 has no such limit"
        )
    written = _proto(model, program, opset).SerializeToString()
    session = open_session(written)

    def run(pictures: Pictures) -> Outputs:
        return tuple(session.run(None, {INPUT: pictures}))

    differs = _compared(model, run, file)
    disk.put(file, written)
    return {
        "onnx": str(file), "onnx_mb": _mb(file), "opset": opset, "difference": differs,
        "speed": _speed(model, run),
    }  # fmt: skip


def _proto(model: Model, program: torch.export.ExportedProgram, opset: int) -> Any:
    """The model as ONNX, with what one must know about it."""
    try:
        with _quiet():
            made = torch.onnx.export(
                program, opset_version=opset, input_names=[INPUT], output_names=list(model.whole.gives), verbose=False
            )
    except Exception as error:  # of any kind: it is torch's and onnxscript's
        raise _impossible(model, error) from error
    assert made is not None  # as its type allows
    proto = made.model_proto
    if [(one.domain, one.version) for one in proto.opset_import] != [("", opset)]:
        raise ExportError(f"--opset {opset}: this model needs another one; leave it out")
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)  # torch writes a newer one than it needs
    proto.producer_name, proto.producer_version = "fer_scale", __version__
    said = exported.metadata(model)
    onnx.helper.set_model_props(proto, {k: v if isinstance(v, str) else json.dumps(v) for k, v in said.items()})
    proto.graph.input[0].doc_string = said["input"]
    for output in proto.graph.output:
        output.doc_string = said[output.name]
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == batch:
                dim.dim_param = "batch"
    return proto


def open_session(model: bytes | str) -> "onnxruntime.InferenceSession":
    """onnxruntime on the processor, by one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _compared(model: Model, run: Callable[[Pictures], Outputs], file: Path) -> float:
    """The largest difference to torch on random pictures; ExportError where that is too large."""
    random, worst = np.random.default_rng(0), 0.0
    for batch in BATCHES:
        pictures = random.integers(0, 256, (batch, model.px, model.px, 3), np.uint8)
        pairs = zip(exported.run_in_torch(model, pictures), run(pictures), strict=True)
        worst = max(worst, *(exported.difference(ours, theirs) for ours, theirs in pairs))
    if not worst <= ALLOWED:
        raise ExportError(
            f"{file}: not written, since it would differ from the model by {worst:.2g} (allowed are {ALLOWED:g}); "
            "are the packages of the extra onnx of the newest version?"
        )
    return float(f"{worst:.1e}")


def _speed(model: Model, run: Callable[[Pictures], Outputs]) -> dict[str, float]:
    """Milliseconds for one face, by one thread: the median of interleaved turns, for a second or two."""
    face = np.zeros((1, model.px, model.px, 3), np.uint8)
    ways = {"onnxruntime_ms": run, "torch_ms": lambda one: exported.run_in_torch(model, one)}
    took: dict[str, list[float]] = {name: [] for name in ways}
    with _one_thread():
        end = time.monotonic() + _SPEED_S
        while time.monotonic() < end or len(took["torch_ms"]) < 3:
            for name, way in ways.items():
                began = time.perf_counter()
                way(face)
                took[name].append(1000 * (time.perf_counter() - began))
    return {name: round(median(times), 2) for name, times in took.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters warn their own authors of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _impossible(model: Model, error: Exception) -> ExportError:
    why = (str(error).strip() or "no more is said").splitlines()[0][:200]
    name = model.config["architecture"]
    return ExportError(f"{model.address}: its {name} cannot be exported ({type(error).__name__}: {why})")


def _mb(file: Path) -> float:
    return round(file.stat().st_size / 1e6, 2)
