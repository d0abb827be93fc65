"""What the page of the app says: the words around, and what was seen in a picture, as HTML.

No colour means anything here: each face has a number in the picture, and each probability a bar, a number and a name.
"""

import base64
import io
from dataclasses import dataclass
from html import escape

from PIL import Image

from fer_scale.card_reading import CONTACT, CardSaid
from fer_scale.markdown import code, inline
from fer_scale.predicted import Face, Photo

GIVE = "Drop a picture here, or choose one"
CROP = "The picture shows one face and nothing else: do not look for faces in it"
FEELING = "**An expression is not a feeling.** This model says how a face looks, as annotators named such faces."
HERE = "Pictures stay on this machine. Each is deleted as soon as it is answered; none is stored or passed on."
SERVED = (
    "Pictures go to the machine that serves this page. Each is deleted as soon as it is answered; none is stored or "
    "passed on."
)
STYLE = """
.fer figure { position: relative; margin: 0 0 1rem; max-width: max-content; }
.fer img { display: block; max-width: 100%; max-height: 32rem; }
.fer svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.fer h2 { margin: 1rem 0 .3rem; font-size: 1.1rem; }
.fer table { border-collapse: collapse; width: 100%; max-width: 32rem; }
.fer table, .fer tr, .fer th, .fer td { border: 0; }
.fer th, .fer td { padding: .15rem .5rem .15rem 0; text-align: left; font-weight: normal; white-space: nowrap; }
.fer td:last-child { text-align: right; }
.fer td.bar { width: 100%; }
.fer td.bar div { height: .8rem; min-width: 1px; background: currentColor; opacity: .6; }
.fer tr.first th, .fer tr.first td { font-weight: bold; }
.fer tr.first td.bar div { opacity: 1; }
span.or { color: inherit !important; }
"""
_SHOWN_PX = 1280  # of the longer side


@dataclass(frozen=True, slots=True)
class Words:
    """What the page says around the pictures."""

    name: str  # the model's address, or the name of its folder, whose place is nobody's business
    card: CardSaid
    licence: str
    privacy: str
    min_confidence: float

    @property
    def title(self) -> str:
        return self.card.title or "Facial expressions"


def head(words: Words) -> str:
    """The head of the page, Markdown."""
    return f"# {inline(words.title)}\n\n{code(words.name)}\n\n{FEELING} {words.privacy}"


def limits(words: Words) -> list[str]:
    """What the model may be used for, as its card says it: texts in Markdown.

    Each is to be shown by itself, so that nothing which a stranger's card leaves open swallows the next.
    """
    parts = [f"## Limits\n\n{words.card.limits()}"]
    if words.min_confidence > 0:
        parts.append(f"A face of which the model is less sure than {_percent(words.min_confidence)} gets no name here.")
    parts.append(f"## Licence\n\nOf the model: {inline(words.licence)}.")
    if words.card.sections:
        parts.append(f"The card of {code(words.name)} says what it was trained on, and how well it does.")
    else:
        parts.append("It has no card: what it was trained on, and how well it does, is not recorded.")
    if contact := words.card.sections.get(CONTACT):
        parts.append(f"## Contact\n\n{contact}")
    return parts


def problem(text: str) -> str:
    """What cannot be answered, as HTML."""
    return f'<div class="fer"><p role="alert">{escape(text)}</p></div>'


def answer(photo: Photo, picture: Image.Image) -> str:
    """What was seen in a photo, as HTML; `picture` is the photo, upright and in RGB."""
    if photo.found and photo.problem:
        return problem(photo.problem)
    if not photo.faces:
        return problem(f"No face was found. If the picture is of one face only, tick “{CROP}”, and give it again.")
    faces = "".join(_face(number, face) for number, face in enumerate(photo.faces, start=1))
    return f'<div class="fer">{_figure(photo, picture)}{faces}</div>'


def _told(face: Face) -> str:
    return face.label or "not sure enough to say"


def _figure(photo: Photo, picture: Image.Image) -> str:
    _small(picture).save(jpeg := io.BytesIO(), "JPEG", quality=90)
    data = base64.b64encode(jpeg.getvalue()).decode()
    words = " ".join(f"Face {number}: {_told(face)}." for number, face in enumerate(photo.faces, start=1))
    boxes = "".join(
        _box(number, face.box, photo.size)
        for number, face in enumerate(photo.faces, start=1)
        if face.score is not None  # else it is the whole picture
    )
    width, height = photo.size
    drawn = f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{boxes}</svg>' if boxes else ""
    return f'<figure><img alt="The picture. {escape(words)}" src="data:image/jpeg;base64,{data}">{drawn}</figure>'


def _small(picture: Image.Image) -> Image.Image:
    """The picture as it is shown; Image.thumbnail would take a copy of all its pixels first."""
    shrink = min(1, _SHOWN_PX / max(picture.size))
    width, height = (max(1, round(shrink * side)) for side in picture.size)
    return picture.resize((width, height), reducing_gap=2.0)


def _box(number: int, box: tuple[float, ...], size: tuple[int, int]) -> str:
    """A frame, black on white so that it is seen on any picture, and its number in a corner."""
    x1, y1, x2, y2 = box
    unit = max(size) / 100
    frame = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}" fill="none"'
    lines = f'<rect {frame} stroke="#fff" stroke-width="{unit:.2f}"/>'
    lines += f'<rect {frame} stroke="#000" stroke-width="{0.4 * unit:.2f}"/>'
    side = 5 * unit
    x, y = (min(max(low, 0), most - side) for low, most in zip((x1, y1), size, strict=True))  # a box may stick out
    plate = f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" fill="#000"/>'
    at = f'x="{x + side / 2:.1f}" y="{y + 0.76 * side:.1f}" font-size="{0.8 * side:.1f}"'
    return f'{lines}{plate}<text {at} fill="#fff" text-anchor="middle">{number}</text>'


def _face(number: int, face: Face) -> str:
    ranked = sorted(face.probabilities.items(), key=lambda item: -item[1])
    rows = "".join(_row(name, share, first=place == 0) for place, (name, share) in enumerate(ranked))
    sure = f", {_percent(face.confidence)}" if face.label is not None else ""
    caption = f"<h2>Face {number}: {escape(_told(face))}{sure}</h2>"
    return f"<section>{caption}<table><tbody>{rows}</tbody></table></section>"


def _row(name: str, share: float, *, first: bool) -> str:
    bar = f'<td class="bar" aria-hidden="true"><div style="width: {100 * share:.1f}%"></div></td>'
    kind = ' class="first"' if first else ""
    return f'<tr{kind}><th scope="row">{escape(name)}</th>{bar}<td>{_percent(share)}</td></tr>'


def _percent(share: float) -> str:
    """A probability in whole percent; none is said to be certain or impossible."""
    if share < 0.005:
        return "under 1 %"
    return "over 99 %" if share > 0.995 else f"{100 * share:.0f} %"
