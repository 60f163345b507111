"""The face: a drawn head whose brows, eyes, mouth and colour show an emotion.

The cue sets the expression and its level how far it goes, how close the head leans in and how
strong the light of its colour is. Who it is (skin, hair, eyes, wall), where the head is, blinks,
the talking mouth and the camera's noise are nuisance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.demo.hidden import State
from pipeline.demo.rhythm import Rhythm
from pipeline.demo.spec import Emotion

SIZE = 112
FRAME_RATE = 12
_SCALE = 2
_CANVAS = SIZE * _SCALE

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Expression:
    """How far features move from rest, in head heights; all but `light` grow with the level.

    Attributes:
        brow: Height of the brows.
        slant: How much lower the inner end of a brow is than the outer end.
        eye: How much wider than at rest the eyes are open.
        smile: How much higher than the middle the corners of the mouth are.
        width: How much wider than at rest the mouth is.
        gape: How far the mouth is open without speech.
        light: Colour of the light that falls on the face.
        tears: Length of the tears.
        cheeks: Redness of the cheeks, 0 to 1.
    """

    light: Colour
    brow: float = 0.0
    slant: float = 0.0
    eye: float = 0.0
    smile: float = 0.0
    width: float = 0.0
    gape: float = 0.0
    tears: float = 0.0
    cheeks: float = 0.0


EXPRESSIONS: dict[Emotion, Expression] = {
    "anger": Expression(
        light=(225, 40, 30), brow=-0.035, slant=0.1, eye=-0.018, smile=-0.035, width=-0.03
    ),
    "sadness": Expression(
        light=(50, 90, 215), brow=0.0, slant=-0.09, eye=-0.025, smile=-0.085, tears=0.12
    ),
    "neutral": Expression(light=(95, 190, 120)),
    "joy": Expression(
        light=(255, 205, 50), brow=0.03, eye=-0.01, smile=0.1, width=0.07, gape=0.05, cheeks=0.6
    ),
    "surprise": Expression(
        light=(210, 90, 230), brow=0.09, eye=0.05, width=-0.03, gape=0.13, slant=-0.01
    ),
}
_STRENGTH = (0.55, 1.0, 1.45)
_LEAN = (0.86, 1.0, 1.14)
_LIGHT = (0.26, 0.44, 0.62)

_HEAD_HEIGHT = 0.82
_DARK, _WHITE, _MOUTH = (40, 26, 24), (250, 250, 250), (70, 20, 26)
_LIPS, _BLUSH, _TEAR = (176, 64, 62), (235, 70, 80), (170, 215, 255)
_SKINS: tuple[Colour, ...] = (
    (255, 224, 196),
    (241, 194, 152),
    (224, 172, 125),
    (198, 134, 88),
    (160, 104, 66),
    (128, 82, 54),
)
_HAIRS: tuple[Colour, ...] = (
    (36, 28, 24),
    (72, 46, 30),
    (120, 76, 40),
    (196, 156, 90),
    (150, 150, 152),
)
_WALLS: tuple[Colour, ...] = (
    (200, 205, 210),
    (210, 206, 198),
    (198, 206, 200),
    (205, 200, 208),
    (190, 194, 198),
)


@dataclass(frozen=True)
class Person:
    """What somebody looks like, whatever they feel."""

    skin: Colour
    hair: Colour
    wall: Colour
    shirt: Colour
    long_hair: bool
    wide: float


def draw_person(rng: np.random.Generator) -> Person:
    """Return a person and the wall behind them."""

    def pick(colours: tuple[Colour, ...]) -> Colour:
        chosen = np.array(colours[rng.integers(len(colours))]) + rng.integers(-8, 9, size=3)
        return _colour(chosen)

    return Person(
        skin=pick(_SKINS),
        hair=pick(_HAIRS),
        wall=pick(_WALLS),
        shirt=_colour(rng.integers(60, 200, size=3)),
        long_hair=bool(rng.random() < 0.5),
        wide=float(rng.uniform(0.94, 1.06)),
    )


def render_face(
    cue: State, person: Person, rhythm: Rhythm, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return the frames of one clip, `[frames, SIZE, SIZE, 3]` at `FRAME_RATE`."""
    time = np.arange(max(1, round(rhythm.duration * FRAME_RATE))) / FRAME_RATE
    centre = np.array([0.5, 0.53]) + rng.uniform(-0.025, 0.025, size=2)
    sway, phase = rng.uniform(0.004, 0.01), rng.uniform(0, 2 * np.pi, size=2)
    zoom = rng.uniform(0.97, 1.03)
    blink = rng.uniform(0, 2.5)
    frames = []
    for now, talk in zip(time, rhythm.openness(time), strict=True):
        head = _Head(
            centre=centre + sway * np.sin(2 * np.pi * 0.6 * now + phase),
            zoom=zoom,
            talk=float(talk),
            shut=0.0 <= now - blink < 0.12,
        )
        frames.append(_draw(cue, person, head))
    video = np.stack(frames).astype(np.int16)
    video += np.rint(rng.normal(0, 2.0, size=(len(video), SIZE, SIZE, 1))).astype(np.int16)
    return video.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Head:
    """Where the head is in one frame, how open the talking mouth is, and whether the eyes shut."""

    centre: NDArray[np.float64]
    zoom: float
    talk: float
    shut: bool


@dataclass(frozen=True)
class _Pen:
    """Draws in head heights around the head's centre, y down."""

    image: ImageDraw.ImageDraw
    centre: tuple[float, float]
    unit: float

    def point(self, x: float, y: float) -> tuple[float, float]:
        return self.centre[0] + x * self.unit, self.centre[1] + y * self.unit

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.image.ellipse((*self.point(x - rx, y - ry), *self.point(x + rx, y + ry)), fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        self.image.rectangle((*self.point(left, top), *self.point(right, bottom)), fill=fill)

    def line(self, points: list[tuple[float, float]], width: float, fill: Colour) -> None:
        ends = [self.point(*point) for point in points]
        self.image.line(ends, fill=fill, width=max(1, round(width * self.unit)), joint="curve")

    def polygon(self, points: list[tuple[float, float]], fill: Colour) -> None:
        self.image.polygon([self.point(*point) for point in points], fill=fill)


def _draw(cue: State, person: Person, head: _Head) -> NDArray[np.uint8]:
    look, strength = EXPRESSIONS[cue.emotion], _STRENGTH[cue.level - 1]
    light = _LIGHT[cue.level - 1]
    skin = _mix(person.skin, look.light, light * 0.6)
    hair = _mix(person.hair, look.light, light * 0.4)
    image = Image.new("RGB", (_CANVAS, _CANVAS), _mix(person.wall, look.light, light))
    x, y = head.centre * _CANVAS
    unit = _CANVAS * _HEAD_HEIGHT * head.zoom * _LEAN[cue.level - 1]
    pen = _Pen(ImageDraw.Draw(image), (float(x), float(y)), unit)

    wide = 0.33 * person.wide
    pen.ellipse(0, 0.78, 0.55, 0.32, _mix(person.shirt, look.light, light * 0.5))
    if person.long_hair:
        pen.box(-wide - 0.06, -0.12, wide + 0.06, 0.42, hair)
    pen.ellipse(0, -0.08, wide + 0.06, 0.44, hair)
    pen.box(-0.11, 0.3, 0.11, 0.52, _mix(skin, _DARK, 0.15))
    pen.ellipse(0, 0.04, wide, 0.42, skin)
    shade = _mix(skin, _DARK, 0.35)
    for side in (-1, 1):
        if look.cheeks:
            blush = _mix(skin, _BLUSH, min(0.9, look.cheeks * strength))
            pen.ellipse(side * 0.2, 0.14, 0.075, 0.055, blush)
        _draw_eye(pen, side * 0.14, look.eye * strength, head.shut, shade)
        height, slant = -0.13 - look.brow * strength, look.slant * strength / 2
        brow = [(side * 0.055, height + slant), (side * 0.23, height - slant)]
        pen.line(brow, 0.04, _mix(hair, _DARK, 0.5))
        if look.tears:
            length = look.tears * strength / 2
            pen.ellipse(side * 0.15, 0.06 + length, 0.022, length, _TEAR)
    pen.line([(0, 0.02), (0.02, 0.11), (-0.015, 0.115)], 0.018, shade)
    _draw_mouth(pen, look, strength, head.talk, _mix(_LIPS, look.light, light * 0.3))
    return np.asarray(image.reduce(_SCALE))


def _draw_eye(pen: _Pen, x: float, wider: float, shut: bool, lid: Colour) -> None:
    y, opening = -0.02, max(0.012, 0.05 + wider)
    if shut:
        pen.line([(x - 0.07, y), (x + 0.07, y)], 0.02, lid)
        return
    pen.ellipse(x, y, 0.08, opening + 0.012, lid)
    pen.ellipse(x, y, 0.075, opening, _WHITE)
    pen.ellipse(x, y, 0.034, min(0.034, opening), _DARK)


def _draw_mouth(pen: _Pen, look: Expression, strength: float, talk: float, lips: Colour) -> None:
    half = max(0.04, 0.12 + look.width * strength)
    gap = look.gape * strength + 0.045 * talk
    bend = look.smile * strength
    across = np.linspace(-1, 1, 13)
    middle = 0.235 + bend * (0.5 - across**2)
    round_ = np.sqrt(1 - across**2)
    upper = list(zip(half * across, middle - 0.35 * gap * round_, strict=True))
    lower = list(zip(half * across, middle + 0.65 * gap * round_, strict=True))
    if gap > 0.01:
        pen.polygon(upper + lower[::-1], _MOUTH)
    pen.line(upper, 0.028, lips)
    pen.line(lower, 0.028, lips)


def _mix(base: Colour, other: Colour, share: float) -> Colour:
    return _colour(np.array(base) * (1 - share) + np.array(other) * share)


def _colour(values: NDArray[np.generic]) -> Colour:
    red, green, blue = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return red, green, blue
