"""Which box a face gets when it is packed.

    auto          its annotated box; else what the detector finds, where one is given; else the template
    annotation    its annotated box, or none
    detector      what the detector finds, else the template; annotated boxes are passed over
    template      the template; annotated boxes are passed over

The template goes to faces of which more is known, and to those on which the detector has looked: an unlabeled face
that nobody boxed or looked at stays the image alone. Where an image comes out of a set that was packed before, its
detector's box counts as annotated for "auto", and its template stays its template.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from shards.boxes import WHOLE
from shards.detector import FILE, ON_THE_HUB, detector_at
from shards.errors import ShardError
from shards.pixels import Pixels
from shards.sample import Face

MODES = ("auto", "annotation", "detector", "template")


@dataclass(frozen=True, slots=True)
class Boxing:
    """How boxes are given."""

    mode: str = "auto"
    model: Path | None = None  # of the detector, which travels to other processes as this path


def check_boxing(boxing: Boxing, *, decode_check: bool) -> None:
    """ShardError for what cannot be meant, or done here."""
    if boxing.mode not in MODES:
        raise ShardError(f"unknown boxes {boxing.mode!r}; say {', '.join(MODES)}")
    if boxing.mode == "detector" and not boxing.model:
        raise ShardError(f"boxes 'detector': which one? give its model file, --detector {FILE}, or say {ON_THE_HUB}")
    if boxing.model and boxing.mode in ("annotation", "template"):
        raise ShardError(
            f"boxes {boxing.mode!r}: no detector looks at the images then; leave --detector out, or say auto"
        )
    if boxing.model and not decode_check:
        raise ShardError(
            "the detector needs pixels, and without the decode check there are none; leave one of them out"
        )
    if boxing.model:
        detector_at(boxing.model)


def boxed(face: Face | None, pixels: Pixels | None, boxing: Boxing) -> Face | None:
    """What is known of a face, with its box; None: nothing."""
    if face is None and not boxing.model:  # most images, and quick
        return None
    if face and _stays(face, boxing):
        return face
    template = face.box if face and face.box and face.box_source == "template" else WHOLE
    bare = replace(face or Face(), box=None, box_source=None, faces=None)
    if boxing.model:
        assert pixels is not None, "check_boxing() asks for the decode check"
        box, faces = detector_at(boxing.model).find(pixels)
        source = "detector" if box else "template"
        return replace(bare, box=box or template, box_source=source, faces=None if faces == 1 else faces)
    if boxing.mode == "annotation" or bare == Face(made=bare.made):
        return None if bare == Face() else bare
    return replace(bare, box=template, box_source="template")


def _stays(face: Face, boxing: Boxing) -> bool:
    """Whether a face keeps the box that it has."""
    if boxing.mode == "auto":
        return face.box is not None and not (boxing.model and face.box_source == "template")
    return boxing.mode == "annotation" and face.box_source == "annotation"
