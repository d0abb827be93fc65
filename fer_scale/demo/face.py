"""Faces drawn by seeded code: an identity, one of eight expressions, and a face box that is known because we drew it.

A drawing is learnable when it is neither a caricature that pixels give away nor a riddle. The strengths below were
found by trying: with 14 degrees of rotation, 5 % of shift and weak expressions nothing learns in minutes; the less
shift, the more pixels tell; noise costs the masked autoencoder most. With these a logistic regression on pixels is
right about half of the time, and an encoder that has seen many faces is far better than one that has not. Everything
that varies comes from the generator that is passed in.

Coordinates: x to the right and y down, in units of the picture's side, measured from the middle of the face; see Pen.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

from shards.boxes import Box

SIDE_PX = 48
SCALE = 3  # drawn at 144 px and reduced, for smooth edges: 1,000 pictures a second on a core
STRENGTH = (0.75, 1.0)  # of the full expression; from .35 on, half of the pictures show nothing
EXAGGERATION = 1.6
SPILL = 0.06  # standard deviation that every action has anyway: no face is ever quite still
FEATURE_SIZE = 1.45  # of eyes and mouth: at 48 px natural ones are two pixels high

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Actions:
    """What the muscles do, each between -1 and 1, 0 at rest."""

    brow_raise: float = 0.0
    brow_angle: float = 0.0  # inner ends up (grief) or down (anger)
    eye_opening: float = 0.0
    mouth_curve: float = 0.0  # corners up or down
    mouth_opening: float = 0.0
    mouth_width: float = 0.0
    nose_wrinkle: float = 0.0
    asymmetry: float = 0.0  # one corner of the mouth alone goes up


# After the action units of Ekman's facial action coding system, as far as so few strokes can show them.
ACTIONS: dict[str, Actions] = {
    "neutral": Actions(),
    "happiness": Actions(mouth_curve=1.0, mouth_width=0.6, mouth_opening=0.25, eye_opening=-0.3),
    "surprise": Actions(brow_raise=1.0, eye_opening=0.9, mouth_opening=1.0, mouth_width=-0.5),
    "sadness": Actions(brow_angle=0.9, eye_opening=-0.35, mouth_curve=-0.8, mouth_width=-0.2),
    "anger": Actions(brow_angle=-1.0, brow_raise=-0.6, eye_opening=0.2, mouth_curve=-0.3, mouth_width=-0.3),
    "disgust": Actions(brow_raise=-0.5, eye_opening=-0.6, mouth_curve=-0.6, mouth_opening=0.3, nose_wrinkle=1.0),
    "fear": Actions(brow_raise=0.7, brow_angle=0.8, eye_opening=0.8, mouth_opening=0.45, mouth_width=0.6),
    "contempt": Actions(asymmetry=1.0, brow_raise=-0.1, mouth_curve=0.1, eye_opening=-0.1),
}


@dataclass(frozen=True, slots=True)
class Person:
    """All that stays the same from one picture of somebody to the next."""

    width: float  # half of the face's
    height: float
    chin: float  # 0 round .. 1 pointed
    eye_apart: float
    eye_y: float
    eye_size: float
    brow_thick: float
    brow_y: float
    nose: float
    mouth_y: float
    mouth_width: float
    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    hair_length: float
    fringe: float
    glasses: bool
    beard: bool


def person(rng: Generator) -> Person:
    """Somebody, at random."""
    tone = rng.uniform(0.25, 1.0)
    skin = _colour(np.array([255, 215, 185]) * tone + rng.normal(0, 8, 3))
    hair = _colour(np.array([70, 50, 35]) * rng.uniform(0.2, 3.0) + rng.normal(0, 12, 3))
    return Person(
        width=rng.uniform(0.31, 0.39),
        height=rng.uniform(0.40, 0.46),
        chin=rng.uniform(0.0, 1.0),
        eye_apart=rng.uniform(0.135, 0.175),
        eye_y=rng.uniform(-0.11, -0.05),
        eye_size=rng.uniform(0.85, 1.15),
        brow_thick=rng.uniform(0.018, 0.036),
        brow_y=rng.uniform(-0.125, -0.10),
        nose=rng.uniform(0.10, 0.16),
        mouth_y=rng.uniform(0.20, 0.25),
        mouth_width=rng.uniform(0.095, 0.13),
        skin=skin,
        hair=hair,
        iris=_colour(rng.uniform(20, 130, 3)),
        lips=_colour(np.array(skin) * (0.85, 0.55, 0.55)),
        hair_length=rng.uniform(-0.25, 0.45),
        fringe=rng.uniform(-0.36, -0.27),
        glasses=bool(rng.random() < 0.2),
        beard=bool(rng.random() < 0.2),
    )


def act(expression: str, rng: Generator) -> Actions:
    """The expression as this face shows it now: stronger or weaker, and not quite pure."""
    strength = rng.uniform(*STRENGTH) * EXAGGERATION
    full = ACTIONS[expression]
    return Actions(*(strength * getattr(full, name) + rng.normal(0, SPILL) for name in Actions.__slots__))


class Pen:
    """Draws in face coordinates, turned and moved as the head is."""

    def __init__(self, canvas: ImageDraw.ImageDraw, *, middle: tuple[float, float], degrees: float, size: float):
        self.canvas = canvas
        self.px = SIDE_PX * SCALE
        self.middle = middle
        self.cos = math.cos(math.radians(degrees)) * size
        self.sin = math.sin(math.radians(degrees)) * size

    def to_px(self, points: Points) -> Points:
        (mx, my), c, s = self.middle, self.cos, self.sin
        return [((mx + c * x - s * y) * self.px, (my + s * x + c * y) * self.px) for x, y in points]

    def fill(self, points: Points, colour: Colour) -> None:
        self.canvas.polygon(self.to_px(points), fill=colour)

    def stroke(self, points: Points, colour: Colour, thick: float) -> None:
        self.canvas.line(self.to_px(points), fill=colour, width=max(1, round(thick * self.px)), joint="curve")


def draw_face(who: Person, actions: Actions, rng: Generator) -> tuple[Image.Image, Box]:
    """The picture, SIDE_PX on a side, RGB, and the face's box in it (x1, y1, x2, y2 in parts of the side)."""
    px = SIDE_PX * SCALE
    picture = Image.new("RGB", (px, px), _colour(rng.uniform(20, 235, 3)))
    canvas = ImageDraw.Draw(picture)
    _clutter(canvas, rng)
    middle = (0.5 + rng.normal(0, 0.035), 0.5 + rng.normal(0, 0.035))
    pen = Pen(canvas, middle=middle, degrees=rng.normal(0, 6), size=rng.uniform(0.96, 1.04))
    outline = _head(pen, who)
    _nose(pen, who, actions)
    _mouth(pen, who, actions)
    _eyes(pen, who, actions)
    if rng.random() < 0.05:
        _occluder(canvas, rng)
    corners = np.clip(np.array(outline) / px, 0.0, 1.0)
    x1, y1 = corners.min(axis=0)
    x2, y2 = corners.max(axis=0)
    return _photograph(picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR), rng), (
        float(x1),
        float(y1),
        float(x2),
        float(y2),
    )


def _clutter(canvas: ImageDraw.ImageDraw, rng: Generator) -> None:
    px = SIDE_PX * SCALE
    for x, y, w, h in rng.uniform(-0.2, 1.0, (rng.integers(2, 6), 4)):
        box = (x * px, y * px, (x + 0.1 + abs(w) / 2) * px, (y + 0.1 + abs(h) / 2) * px)
        shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        shape(box, fill=_colour(rng.uniform(20, 235, 3)))


def _head(pen: Pen, who: Person) -> Points:
    """Draws hair, neck, face and beard; returns the face's outline in pixels."""
    w, h = who.width, who.height
    shoulder = _shade(who.skin, 0.8)
    back = _oval(0, -0.06, w * 1.16, h * 1.05)
    if who.hair_length > 0:
        back = [(x, y if y < 0 else y * (1 + who.hair_length)) for x, y in back]
    pen.fill(back, who.hair)
    pen.fill([(-w * 0.45, h * 0.6), (w * 0.45, h * 0.6), (w * 0.5, 0.7), (-w * 0.5, 0.7)], shoulder)
    face = [(x * (1 - 0.35 * who.chin * max(0.0, y / h) ** 2), y) for x, y in _oval(0, 0, w, h)]
    pen.fill(face, who.skin)
    if who.beard:
        jaw = [(x, y) for x, y in face if y > who.mouth_y - 0.07]
        jaw = sorted(jaw, key=lambda p: math.atan2(p[1] - 0.1, p[0]))
        pen.fill([*jaw, (-w * 0.5, who.mouth_y - 0.05), (w * 0.5, who.mouth_y - 0.05)], _mix(who.hair, who.skin, 0.35))
    crown = [(x, y) for x, y in _oval(0, -0.01, w * 1.04, h * 1.03) if y < who.fringe + 0.06]
    pen.fill([*crown, (w * 0.75, who.fringe), (-w * 0.75, who.fringe)], who.hair)
    return pen.to_px(face)


def _nose(pen: Pen, who: Person, actions: Actions) -> None:
    dark = _shade(who.skin, 0.72)
    tip = who.eye_y + who.nose * 1.2
    pen.stroke([(-0.012, who.eye_y + 0.04), (-0.03, tip), (0.03, tip)], dark, 0.016)
    wrinkle = max(0.0, actions.nose_wrinkle)
    if wrinkle > 0.15:  # folds across the bridge, and from the wings of the nose down to the mouth
        line = _shade(who.skin, 1 - 0.5 * min(1.0, wrinkle))
        for y in (0.0, 0.035):
            pen.stroke([(-0.045, who.eye_y + y), (0, who.eye_y + y + 0.015), (0.045, who.eye_y + y)], line, 0.014)
        for side in (-1, 1):
            pen.stroke([(side * 0.05, tip - 0.02), (side * 0.11, who.mouth_y + 0.01)], line, 0.018)


def _mouth(pen: Pen, who: Person, actions: Actions) -> None:
    half = who.mouth_width * FEATURE_SIZE * (1 + 0.35 * actions.mouth_width)
    opening = max(0.0, actions.mouth_opening) * 0.075 * FEATURE_SIZE
    curve = actions.mouth_curve * 0.05 * FEATURE_SIZE
    lift = actions.asymmetry * 0.07 * FEATURE_SIZE
    y = who.mouth_y - 0.035 * max(0.0, actions.nose_wrinkle)
    upper: Points = []
    lower: Points = []
    for t in np.linspace(-1, 1, 13).tolist():
        line = y + curve * (1 - 2 * t * t) - lift * max(0.0, t) ** 1.5
        gap = opening * math.sqrt(max(0.0, 1 - t * t))
        upper.append((t * half, line - gap * 0.45))
        lower.append((t * half, line + gap))
    if opening > 0.012:
        pen.fill([*upper, *lower[::-1]], (60, 15, 20))
        if actions.mouth_curve > 0.2 or actions.mouth_width > 0.3:
            teeth = [(x * 0.8, y + min(0.03, opening * 0.5)) for x, y in upper[2:-2]]
            pen.fill([*upper[2:-2], *teeth[::-1]], (235, 230, 220))
    pen.stroke(upper, who.lips, 0.026)
    pen.stroke(lower, who.lips, 0.032)


def _eyes(pen: Pen, who: Person, actions: Actions) -> None:
    wide = 0.06 * FEATURE_SIZE * who.eye_size
    high = 0.034 * FEATURE_SIZE * who.eye_size * max(0.15, 1 + 0.75 * actions.eye_opening)
    for side in (-1, 1):
        x, y = side * who.eye_apart, who.eye_y
        pen.fill(_oval(x, y, wide, high), (240, 240, 238))
        iris = min(wide, 0.034 * FEATURE_SIZE * who.eye_size)
        pen.fill(_oval(x, y, iris, min(iris, high)), who.iris)
        pen.fill(_oval(x, y, iris * 0.5, min(iris * 0.5, high)), (10, 10, 10))
        pen.stroke(_oval(x, y, wide, high)[12:], _shade(who.skin, 0.45), 0.014)
        brow = y + who.brow_y - 0.05 * actions.brow_raise
        tilt = 0.055 * actions.brow_angle
        arch = 0.02 + 0.02 * max(0.0, actions.brow_raise)
        inner, outer = x - side * wide * 1.05, x + side * wide * 1.25
        points = [(inner, brow - tilt), ((inner + outer) / 2, brow - arch), (outer, brow + tilt * 0.6)]
        pen.stroke(points, _shade(who.hair, 0.7), who.brow_thick * 1.3)
        if who.glasses:
            ring = _oval(x, y + 0.01, wide * 1.35, wide * 1.25)
            pen.stroke([*ring, ring[0]], (30, 30, 35), 0.014)
    if who.glasses:
        inside = who.eye_apart - wide * 1.35
        pen.stroke([(-inside, who.eye_y), (inside, who.eye_y)], (30, 30, 35), 0.014)


def _occluder(canvas: ImageDraw.ImageDraw, rng: Generator) -> None:
    """A hand, a microphone, somebody's shoulder: one patch that hides what it covers."""
    px = SIDE_PX * SCALE
    x, y = rng.uniform(0.1, 0.8, 2)
    w, h = rng.uniform(0.12, 0.3, 2)
    canvas.rectangle((x * px, y * px, (x + w) * px, (y + h) * px), fill=_colour(rng.uniform(20, 235, 3)))


def _photograph(picture: Image.Image, rng: Generator) -> Image.Image:
    """The drawing under uneven light, through a noisy sensor, and in a quarter of the cases without colour."""
    pixels = np.asarray(picture, dtype=np.float32)
    ramp = np.linspace(-0.5, 0.5, SIDE_PX, dtype=np.float32)
    down, right = rng.normal(0, 0.3, 2)
    light = rng.uniform(0.75, 1.2) * (1 + down * ramp[:, None] + right * ramp[None, :])
    pixels = pixels * light[:, :, None] + rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(0.5, 2.5)
    seen = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return seen.convert("L").convert("RGB") if rng.random() < 0.25 else seen


_CIRCLE = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 24, endpoint=False).tolist()]


def _oval(x: float, y: float, w: float, h: float) -> Points:
    return [(x + w * c, y + h * s) for c, s in _CIRCLE]


def _colour(values: object) -> Colour:
    r, g, b = (int(v) for v in np.clip(np.asarray(values, dtype=np.float64), 0, 255))
    return r, g, b


def _shade(colour: Colour, by: float) -> Colour:
    return _colour(np.array(colour) * by)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    return _colour(np.array(one) * (1 - share) + np.array(other) * share)
