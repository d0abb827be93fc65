"""model.safetensors as a stranger may have written it: what its header says is checked before anything is loaded.

The library refuses most forgeries itself (holes, overlaps, shapes that do not fit). It takes two that cost: the same
name twice, of which the last wins, and 200,000 tensors of no size, 6.3 s. It reads headers of up to 100 MB; ours have
0.1 MB.
"""

from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fer_scale.artifact import strict_json

MOST_HEADER_BYTES = 10_000_000
MOST_TENSORS = 10_000
_MOST_DIMENSIONS = 8
_ENTRY = {"dtype", "shape", "data_offsets"}
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file; ValueError says why it is not read, or which of them are NaN or infinite."""
    _check_header(file)
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"cannot be read ({error})") from None
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise ValueError(f"NaN or infinite values in {', '.join(broken[:5])}")
    return state


def _check_header(file: Path) -> None:
    """ValueError where a file is not wholly and only tensors, each in its place."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError(f"cannot be read: {size:,} bytes, fewer than its header says")
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, and may have {MOST_HEADER_BYTES:,}")
        raw = opened.read(length)
    _refuse_many(raw)
    try:
        said = strict_json(raw)
    except ValueError as error:
        raise ValueError(f"cannot be read: its header is no JSON ({error})") from None
    if not isinstance(said, dict):
        raise ValueError("cannot be read: its header names no tensors")
    said.pop("__metadata__", None)  # nothing is read of it
    _check_places(said, size - 8 - length)


def _refuse_many(raw: bytes) -> None:
    """By counting, before there is an object for each: a header within its limit can hold three million of them."""
    if max(raw.count(b"{") - 2, raw.count(b"[") // 2, raw.count(b",") // (2 * _MOST_DIMENSIONS)) > MOST_TENSORS:
        raise ValueError(f"its header tells of more than {MOST_TENSORS:,} tensors, or of longer shapes than any has")


def _check_places(said: dict[str, Any], size: int) -> None:
    """ValueError where these are no tensors that fill `size` bytes one after the other."""
    places = []
    for name, one in said.items():
        if not (name.isprintable() and isinstance(one, dict) and one.keys() == _ENTRY):
            raise ValueError(f"cannot be read: {name[:60]!r} in its header is no tensor")
        dtype, shape, place = one["dtype"], one["shape"], one["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _BYTES:
            raise ValueError(f"cannot be read: {name[:60]} is of a type that we do not read")
        if not _counts(shape, range(_MOST_DIMENSIONS + 1)) or not _counts(place, range(2, 3)):
            raise ValueError(f"cannot be read: {name[:60]} in its header has no shape or no place")
        if place[1] - place[0] != prod(shape) * _BYTES[dtype]:
            raise ValueError(f"cannot be read: {name[:60]} takes other bytes than its shape {shape}")
        places.append(place)
    ends = [0, *(end for _, end in sorted(places))]
    if [begin for begin, _ in sorted(places)] != ends[:-1] or ends[-1] != size:
        raise ValueError(f"cannot be read: its tensors do not fill its {size:,} bytes of data one after the other")


def _counts(values: Any, lengths: range) -> bool:
    return (
        isinstance(values, list) and len(values) in lengths and all(type(v) is int and 0 <= v < 2**63 for v in values)
    )
