"""The built-in picture set `cartoons`: drawn faces whose attributes are known, independent and a pure function of
(seed, index), at any size from 32 to 256 px."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from math import ceil, cos, pi, radians, sin

import numpy as np
from PIL import Image, ImageDraw

SMALLEST, LARGEST = 32, 256

Color = tuple[int, ...]
Points = np.ndarray
Part = tuple[tuple[Points, str], ...]  # outlines [count, 2] and the name of the tone that fills each, back to front

# ---------------------------------------------------------------------------------------------------------------------
# Palettes: value of an attribute -> red, green, blue
# ---------------------------------------------------------------------------------------------------------------------

HAIR_COLORS: dict[str, Color] = {
    "black": (52, 46, 56),
    "brown": (104, 64, 40),
    "auburn": (166, 62, 44),
    "ginger": (240, 128, 44),
    "blond": (248, 208, 98),
    "silver": (196, 202, 212),
    "blue": (74, 128, 206),
    "pink": (238, 122, 168),
}
SKINS: dict[str, Color] = {
    "porcelain": (255, 226, 210),
    "peach": (250, 202, 170),
    "honey": (232, 178, 126),
    "olive": (204, 148, 100),
    "brown": (166, 110, 76),
    "deep": (124, 80, 62),
}
EYE_COLORS: dict[str, Color] = {
    "brown": (124, 74, 36),
    "green": (62, 150, 74),
    "blue": (44, 126, 214),
    "grey": (132, 144, 158),
}
SHIRTS: dict[str, Color] = {
    "red": (220, 74, 72),
    "orange": (244, 158, 66),
    "green": (78, 166, 108),
    "blue": (66, 112, 196),
    "purple": (138, 94, 182),
    "charcoal": (78, 84, 98),
}
BACKGROUNDS: dict[str, Color] = {
    "white": (250, 250, 248),
    "sky": (208, 232, 250),
    "mint": (210, 242, 222),
    "cream": (254, 240, 204),
    "rose": (252, 222, 228),
    "lilac": (228, 220, 248),
}

# ---------------------------------------------------------------------------------------------------------------------
# Geometry: x to the right from the face's axis, y downwards
# ---------------------------------------------------------------------------------------------------------------------

SIDE = 93.0  # units along a picture's side
PIVOT = (0.0, 56.0)  # the point about which a face tilts and grows ...
PLACE = (0.5, 0.57)  # ... and where it lies in the picture, in sides


def path(text: str) -> Points:
    """[count, 2] points from "x,y x,y ..."."""
    return np.array([pair.split(",") for pair in text.split()], dtype=float)


def flipped(points: Points) -> Points:
    """The mirror image in the face's axis, in reverse order so that it can continue the original."""
    return points[::-1] * (-1.0, 1.0)


def symmetric(half: str) -> Points:
    """A closed outline from its right half, which starts and ends on the axis."""
    right = path(half)
    return np.concatenate([right, flipped(right[1:-1])])


def ellipse(x: float, y: float, width: float, height: float, count: int = 28) -> Points:
    """`count` points on the ellipse around (x, y) with these half axes."""
    angle = np.arange(count) * (2 * pi / count)
    return np.stack([x + width * np.cos(angle), y + height * np.sin(angle)], axis=1)


def scallops(
    x: float, y: float, width: float, height: float, first: int, last: int, count: int, depth: float
) -> Points:
    """An elliptic arc from angle `first` to `last` (degrees, clockwise from the right) made of `count` round bumps."""
    t = np.linspace(0, count, count * 6 + 1)
    angle = np.radians(first + (last - first) * t / count)
    radius = 1 + depth * (np.abs(np.sin(pi * t)) - 1)
    return np.stack([x + width * radius * np.cos(angle), y + height * radius * np.sin(angle)], axis=1)


def smooth(knots: Points, closed: bool = True, steps: int = 6) -> Points:
    """The uniform Catmull-Rom curve through the knots, `steps` points per span."""
    if closed:
        before, start, end, after = (np.roll(knots, shift, axis=0) for shift in (1, 0, -1, -2))
    else:
        padded = np.concatenate([knots[:1], knots, knots[-1:]])
        before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    a, b, c, d = (k[:, None, :] for k in (before, start, end, after))
    t = (np.arange(steps) / steps)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, end[-1:]])


def grown(outline: Points, distance: float) -> Points:
    """The closed outline moved outwards by `distance`."""
    following = np.roll(outline, -1, axis=0)
    tangent = following - np.roll(outline, 1, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    clockwise = np.sum(outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]) > 0
    return outline + normal * (distance if clockwise else -distance)


def stroke(knots: Points, width: float, taper: float = 1.0) -> Points:
    """The outline of a pen line along the knots: `width` across in the middle, `width * taper` at its round ends."""
    line = smooth(knots, closed=False, steps=5)
    tangent = np.gradient(line, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    half = width / 2 * (1 - (1 - taper) * np.linspace(-1, 1, len(line))[:, None] ** 2)
    turn = np.linspace(0, pi, 7)[1:-1, None]
    end = line[-1] + half[-1] * (np.cos(turn) * normal[-1] + np.sin(turn) * tangent[-1])
    start = line[0] - half[0] * (np.cos(turn) * normal[0] + np.sin(turn) * tangent[0])
    return np.concatenate([line + half * normal, end, (line - half * normal)[::-1], start])


def ring(inner: Points, width: float) -> Points:
    """The band of this width around an outline, as one polygon with a cut."""
    outer = grown(inner, width)
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def pair(outline: Points, tone: str) -> Part:
    """A shape and its mirror image."""
    return ((outline, tone), (flipped(outline), tone))


def outlined(outline: Points, tone: str, width: float = 1.0) -> Part:
    """A shape with a line of this width around it, in the tone's own darker line color."""
    return ((grown(outline, width), f"{tone} line"), (outline, tone))


# ---------------------------------------------------------------------------------------------------------------------
# Body and head: the skull is the same for every face shape, so every hair style fits every face
# ---------------------------------------------------------------------------------------------------------------------

BODY: Part = (
    *outlined(smooth(symmetric("0,88.5 8,88 20,90.5 29,95.5 34,106 34,125 0,125")), "shirt"),
    (smooth(symmetric("0,88.4 10,88.4 11.8,89.4 8.4,94.8 0,96.6"), steps=4), "collar"),
    *outlined(smooth(symmetric("0,70 8.6,70 8.6,85 8.6,89.4 5.4,93 0,94")), "neck"),
)
EARS: Part = (
    *pair(ellipse(24.6, 54.0, 5.2, 7.0), "skin line"),
    *pair(ellipse(24.4, 54.0, 4.2, 6.0), "skin"),
    *pair(ellipse(25.4, 54.0, 2.0, 3.6, 16), "blush"),
)
SKULL = "0,19.5 9.5,21.2 17.8,26.4 22.8,35.5 24.2,46"
JAWS = {
    "oval": "23.4,57 19.6,68.5 12.5,77.5 5,81.6 0,82.3",
    "round": "24.9,56 23.8,66 17.2,75.2 7.5,79.5 0,80",
    "square": "24,57 22.8,68.5 19,77.4 9,81.6 0,82",
    "pointed": "22.2,56 16,67 8.8,77.5 3.4,83.2 0,84.4",
}
FACES: dict[str, Part] = {
    name: (
        *outlined(smooth(symmetric(f"{SKULL} {jaw}")), "skin"),
        *pair(ellipse(14.6, 64.4, 4.8, 3.4, 20), "rouge"),
    )
    for name, jaw in JAWS.items()
}

NOSES: dict[str, Part] = {
    "button": ((stroke(path("-3.2,61.8 -1.8,64 0,64.5 1.8,64 3.2,61.8"), 1.9, 0.7), "skin line"),),
    "straight": ((stroke(path("1,54 -1.2,58 -3.6,63 -1,65 2.6,64.6"), 1.8, 0.6), "skin line"),),
    "wide": (
        (smooth(symmetric("0,57 2.8,59.6 5.6,63 4,65.6 0,66")), "blush"),
        (stroke(path("-5.6,61.8 -5,65 -2,64.9 0,66 2,64.9 5,65 5.6,61.8"), 1.7, 0.8), "skin line"),
    ),
}

OPEN_MOUTH = smooth(path("-8.8,68.8 0,70.4 8.8,68.8 7.2,73.6 3.4,76.4 0,77 -3.4,76.4 -7.2,73.6"))
MOUTHS: dict[str, Part] = {
    "smile": ((stroke(path("-8.4,69.2 -4.4,72.4 0,73.4 4.4,72.4 8.4,69.2"), 2.2, 0.7), "lip"),),
    "grin": (
        (grown(OPEN_MOUTH, 0.9), "lip"),
        (OPEN_MOUTH, "mouth"),
        (smooth(path("-7.8,69.3 0,70.7 7.8,69.3 7,72.2 0,73.6 -7,72.2")), "white"),
        (smooth(path("-3.6,75.6 0,74.6 3.6,75.6 0,76.9")), "tongue"),
    ),
    "smirk": ((stroke(path("-6.8,72.4 -1.6,73.2 4.2,71.8 8.2,68.6"), 2.2, 0.7), "lip"),),
    "lips": (
        (smooth(path("-7,71.4 -2.4,68.9 0,69.7 2.4,68.9 7,71.4 3.6,74.8 0,75.4 -3.6,74.8")), "lipstick"),
        (stroke(path("-6.4,71.4 0,71.9 6.4,71.4"), 1.0, 0.6), "lip"),
    ),
    "surprised": (
        (ellipse(0, 72.2, 4.6, 5.0), "lip"),
        (ellipse(0, 72.2, 3.6, 4.0), "mouth"),
        (ellipse(0, 74.4, 2.2, 1.5, 16), "tongue"),
    ),
}

# ---------------------------------------------------------------------------------------------------------------------
# Eyes: the white, then iris and pupil, which follow the gaze, then lids of skin that cut the iris
# ---------------------------------------------------------------------------------------------------------------------

EYE = (11.2, 52.6)
WHITES = {
    "round": "-6.4,0.2 -4.7,-4.6 0,-6.4 4.7,-4.6 6.4,0.2 4.5,4.6 0,6.1 -4.5,4.6",
    "almond": "-6.9,1.1 -3.9,-3.1 0.4,-4.8 4.7,-3.6 7.9,-1.9 4.9,2.8 0.4,4.3 -3.9,3.4",
    "sleepy": "-6.7,0.2 -3.7,-1.2 0,-1.6 3.7,-1.2 6.7,0.2 4.7,3.9 0,5.6 -4.7,3.9",
}


def eye_lids(name: str) -> Part:
    """What lies around and over the white of an eye at (0, 0)."""
    outline = smooth(path(WHITES[name]))
    corner = int(np.argmax(outline[:, 0]))
    upper, lower = outline[: corner + 1], np.concatenate([outline[corner:], outline[:1]])
    lash = (stroke(upper[::3], 1.8, 0.7), "lash")
    if name == "round":
        return (lash,)
    skin: Part = (
        (np.concatenate([upper, path("7.9,-6.6 -6.9,-6.6")]), "skin"),
        (np.concatenate([lower, path("-6.9,6.6 7.9,6.6")]), "skin"),
    )
    fold = smooth(path("6.7,0.2 4.7,-4.2 0,-6.2 -4.7,-4.2 -6.7,0.2"), closed=False)
    return (*skin, (np.concatenate([upper, fold]), "blush"), lash) if name == "sleepy" else (*skin, lash)


def at_eyes(part: Part) -> Part:
    """A part drawn around (0, 0), moved to the right eye and mirrored to the left."""
    return tuple(layer for outline, tone in part for layer in pair(outline + EYE, tone))


EYE_WHITES: dict[str, Part] = {name: at_eyes(((smooth(path(white)), "white"),)) for name, white in WHITES.items()}
EYE_LIDS: dict[str, Part] = {name: at_eyes(eye_lids(name)) for name in WHITES}
IRISES: Part = (
    *at_eyes(((ellipse(0, 0.3, 4.5, 4.7), "iris line"), (ellipse(0, 0.3, 3.7, 3.9), "iris"))),
    *at_eyes(((ellipse(0, 0.3, 2.0, 2.1, 20), "pupil"),)),
    *((ellipse(x + 1.5, EYE[1] - 1.2, 1.3, 1.3, 14), "white") for x in (-EYE[0], EYE[0])),
)
EYEBROWS: dict[str, Part] = {
    "arched": pair(stroke(path("5,43.6 8.7,40.4 12.9,39.8 17.6,43.4"), 2.1, 0.5), "brow"),
    "straight": pair(stroke(path("5,42.8 10.9,42.2 17.4,42.8"), 2.3, 0.7), "brow"),
    "thick": pair(stroke(path("5,43 10.9,41.2 17.8,43.2"), 4.0, 0.6), "brow"),
    "gentle": pair(stroke(path("5,39.8 10.9,40.8 17,44.6"), 2.3, 0.6), "brow"),
}

# ---------------------------------------------------------------------------------------------------------------------
# Beards, fitted to each face shape
# ---------------------------------------------------------------------------------------------------------------------


def full_beard(jaw: str) -> Part:
    """A beard along this jaw, with skin left free around the mouth."""
    edge = path(jaw)
    below = edge * (1.02, 1.0) + (0.0, 2.6) * ((edge[:, 1:] - 50) / 32)
    cheek = path("0,67.4 6.5,66.4 13,66 19,61.5 21.4,51.5 24.4,50")
    right = np.concatenate([cheek, below])
    shape = smooth(np.concatenate([right, flipped(right[1:-1])]))
    return (*outlined(shape, "beard"), (ellipse(0, 72.2, 9.6, 4.8), "skin"))


def goatee(jaw: str) -> Part:
    """A tuft on the chin of this jaw."""
    chin = path(jaw)[-1, 1]
    return outlined(smooth(symmetric(f"0,77.4 4.4,76.8 7.6,{chin - 3} 5.2,{chin + 2} 0,{chin + 3.6}")), "beard", 0.7)


MOUSTACHE = smooth(symmetric("0,65.8 4,64.8 9.4,66.6 13.4,70.6 8,70.8 3.6,69.4 0,69.6"))
BEARDS: dict[str, dict[str, Part]] = {
    "none": dict.fromkeys(JAWS, ()),
    "moustache": {name: outlined(MOUSTACHE, "beard", 0.7) for name in JAWS},
    "goatee": {name: goatee(jaw) for name, jaw in JAWS.items()},
    "full": {name: full_beard(jaw) for name, jaw in JAWS.items()},
}

# ---------------------------------------------------------------------------------------------------------------------
# Hair: what lies behind the head and what lies on it
# ---------------------------------------------------------------------------------------------------------------------

AFRO_ARC = scallops(0, 41, 37.0, 32.5, 165, 375, 14, 0.06)
AFRO_LINE = scallops(0, 58, 23.4, 26.0, -25, -155, 6, -0.08)
CURLS = np.concatenate([scallops(0, 40, 31.5, 29.0, 165, 375, 11, 0.1), scallops(0, 59, 22.6, 25, -18, -162, 7, -0.1)])
SHORT = path(
    "-25.4,51 -28,38 -24.5,23 -12,13.4 6,11 21,16.5 28,30 27.5,42 25.4,51"
    " 22.8,48 21.4,39 15.5,31 9.5,27.4 0,32.6 -12,35.4 -20.5,35.8 -22.6,46"
)
SPIKES = path(
    "-25.4,52 -28.5,41 -33.5,32.5 -27,31 -30,19.5 -20.5,21.5 -18,9.5 -9,16 -1,7 6,15.4 15.5,8.5 18.4,20"
    " 28.5,16.5 26.5,29.5 33.5,31 28.5,41 25.4,52 22.8,50 21,38 15.5,31 11.5,36.5 6.5,30.5 1,37 -5,30.5 -10,36.5"
    " -15.5,31 -21,38 -22.8,50"
)
CAP = smooth(symmetric("0,16.4 19.4,24.5 26,40 25.2,52 22.6,51 21.4,41 14,33.4 0,31.4"))
PARTED = path(
    "-26,68 -29.5,46 -26.5,27 -16,15.5 -2,11.8 15,14.6 26.5,27 29.5,46 26,68 22.8,56 21,44 13.5,34 3.4,24.6"
    " -5,31.5 -14.5,37.5 -21,46 -22.8,56"
)
TAIL = smooth(path("25.5,36 31,30.5 38,33 41.5,44 41,58 36,71 34.5,61 31.5,55 29.5,46"))
SHINE = (stroke(path("-16.5,29 -11,23 -4,20.4"), 2.2, 0.3), "hair shine")
HIGH_SHINE = (stroke(path("-19,26.5 -13,20 -4.5,17"), 2.4, 0.3), "hair shine")

HAIR_BEHIND: dict[str, Part] = {
    "afro": outlined(scallops(0, 41, 37.0, 32.5, 120, 420, 20, 0.06), "hair"),
    "bob": (
        *outlined(smooth(symmetric("0,14 16,16.4 27,28 32,46 34.5,64 33.5,75.5 24,78.5 14,76 0,76")), "hair"),
        (smooth(symmetric("0,30 26,40 27,66 20,75 0,74")), "hair shade"),
    ),
    "long": (
        *outlined(smooth(symmetric("0,14 16,16.4 27,28 31.5,45 33,62 35.5,80 37,98 30,108 18,104 0,100")), "hair"),
        (smooth(symmetric("0,30 26,40 26,70 22,92 0,94")), "hair shade"),
    ),
    "bun": outlined(ellipse(0, 14.4, 9.4, 7.4), "hair"),
    "pigtails": outlined(TAIL, "hair") + outlined(flipped(TAIL), "hair"),
}
HAIR: dict[str, Part] = {
    "bald": ((stroke(path("-14.5,29.5 -10,25.4 -4,23.6"), 2.2, 0.3), "skin shine"),),
    "buzz": outlined(smooth(symmetric("0,18.6 18.2,25.8 24.6,40 24.6,50 22.8,49 21.6,38 17,31.4 0,30.4")), "hair", 0.7),
    "short": (*outlined(smooth(SHORT), "hair"), (stroke(path("-20,25 -11,20 1,18.4"), 2.4, 0.3), "hair shine")),
    "spiky": (*outlined(SPIKES, "hair"), (stroke(path("-17,26 -10,22.6 -1,21.4"), 2.2, 0.3), "hair shine")),
    "curly": (*outlined(CURLS, "hair"), HIGH_SHINE),
    "afro": (
        (np.concatenate([AFRO_ARC, AFRO_LINE]), "hair"),
        (stroke(AFRO_LINE[::2], 1.0), "hair line"),
        (stroke(path("-25,29 -19,18.5 -8,13.5"), 2.6, 0.3), "hair shine"),
    ),
    "bob": (
        *outlined(
            smooth(symmetric("0,11.6 15,14.6 26.5,26 29.6,44 26.5,64 22.4,56 21.6,45 19.5,37.4 10,36.8 0,37.2")), "hair"
        ),
        HIGH_SHINE,
    ),
    "long": (*outlined(smooth(PARTED), "hair"), (stroke(path("-20.5,30 -14,21.5 -6,17"), 2.4, 0.3), "hair shine")),
    "bun": (*outlined(CAP, "hair"), SHINE, (stroke(path("-5.6,13.4 -3.4,10 0.4,9"), 1.8, 0.3), "hair shine")),
    "pigtails": (*outlined(CAP, "hair"), SHINE, (stroke(path("0,17 0.6,24 0,31"), 0.9, 0.5), "hair line")),
}

# ---------------------------------------------------------------------------------------------------------------------
# Glasses
# ---------------------------------------------------------------------------------------------------------------------

ROUND_LENS = ellipse(11.6, 53.0, 9.0, 8.8, 36)
SQUARE_LENS = smooth(
    path("2.8,47 4.2,45.6 11.4,45.4 19.2,45.6 20.8,47 20.8,53 20.2,59.2 18.6,60.8 11,61 5,60.8 3.4,59.2 2.8,53")
)
DARK_LENS = smooth(path("2.4,47.4 4,46 11,45.4 19.4,45.8 21.4,47.2 20.8,54 17.4,60.4 11.6,62 6,60.2 3,54"))
GLARE = stroke(path("6.6,53.4 10,48.4"), 1.6)
MOUNT: Part = (
    *pair(stroke(path("20.4,50.6 26.6,49.4"), 1.8), "frame"),
    (stroke(path("-3,51.4 0,50.2 3,51.4"), 1.8), "frame"),
)
GLASSES: dict[str, Part] = {
    "none": (),
    "round": (*pair(ROUND_LENS, "clear lens"), *MOUNT, *pair(ring(ROUND_LENS, 1.6), "frame")),
    "square": (*pair(SQUARE_LENS, "clear lens"), *MOUNT, *pair(ring(SQUARE_LENS, 2.0), "red frame")),
    "dark": (
        *pair(DARK_LENS, "dark lens"),
        *MOUNT,
        *pair(ring(DARK_LENS, 1.6), "frame"),
        *((GLARE - (shift, 0.0), "glare") for shift in (0.0, 22.6)),
    ),
}

# ---------------------------------------------------------------------------------------------------------------------
# Attributes of a face
# ---------------------------------------------------------------------------------------------------------------------

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair_style": tuple(HAIR),
    "hair_color": tuple(HAIR_COLORS),
    "skin": tuple(SKINS),
    "face_shape": tuple(JAWS),
    "eye_shape": tuple(WHITES),
    "eye_color": tuple(EYE_COLORS),
    "eyebrows": tuple(EYEBROWS),
    "nose": tuple(NOSES),
    "mouth": tuple(MOUTHS),
    "beard": tuple(BEARDS),
    "glasses": tuple(GLASSES),
    "shirt": tuple(SHIRTS),
    "background": tuple(BACKGROUNDS),
}
WORN = 0.3  # the share of faces that have a beard, and the share that have glasses
PROBABILITIES: dict[str, tuple[float, ...]] = {
    name: (1 - WORN, *[WORN / (len(values) - 1)] * (len(values) - 1))
    if values[0] == "none"
    else (1 / len(values),) * len(values)
    for name, values in ATTRIBUTES.items()
}
THRESHOLDS = {name: np.cumsum(shares)[:-1] for name, shares in PROBABILITIES.items()}


@dataclass(frozen=True)
class Variation:
    """Small continuous differences between faces with the same attributes; the defaults are the plain face."""

    right: float = 0.0
    """Shift to the right, in hundredths of the picture's side."""
    down: float = 0.0
    """Shift downwards, in hundredths of the picture's side."""
    scale: float = 1.0
    """Size relative to the plain face."""
    tilt: float = 0.0
    """Clockwise turn, in degrees."""
    gaze: float = 0.0
    """Where the eyes look, from -1 (left) to 1 (right)."""
    skin_light: float = 0.0
    """Skin from -1 (black) over 0 (its palette color) to 1 (white)."""
    hair_light: float = 0.0
    """The same for hair, eyebrows and beard."""
    shirt_light: float = 0.0
    """The same for the shirt."""


PLAIN = Variation()
SPREAD = Variation(1.5, 1.2, 0.04, 3.0, 1.0, 0.06, 0.08, 0.08)  # how far each field may lie from the plain face's


def generator(index: int, seed: int, stream: int) -> np.random.Generator:
    """The source of randomness of face `index`: stream 0 for its attributes, 1 for its variation."""
    if index < 0 or seed < 0:
        raise ValueError(f"A cartoon's index and seed must be 0 or more, not {index} and {seed}.")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, stream])))


def attributes(index: int, seed: int = 0) -> dict[str, int]:
    """The values of face `index`, as indices into `ATTRIBUTES`: independent draws from `PROBABILITIES`."""
    uniform = generator(index, seed, 0).random(len(ATTRIBUTES))
    return {
        name: int(np.searchsorted(thresholds, u, side="right"))
        for (name, thresholds), u in zip(THRESHOLDS.items(), uniform, strict=True)
    }


def variation(index: int, seed: int = 0) -> Variation:
    """The variation of face `index`: every field uniform within `SPREAD` of `PLAIN`, independent of its attributes."""
    plain, spread = astuple(PLAIN), astuple(SPREAD)
    uniform = generator(index, seed, 1).uniform(-1, 1, len(plain)).tolist()
    return Variation(*(p + s * u for p, s, u in zip(plain, spread, uniform, strict=True)))


# ---------------------------------------------------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------------------------------------------------

INK = (48, 28, 40)
BLOOD = (96, 30, 24)
GAZE_REACH = 1.2  # units that the iris moves when the gaze is 1


def mixed(color: Color, other: Color, amount: float) -> Color:
    """`amount` of the other color in the first, from 0 to 1."""
    return tuple(round(a + (b - a) * amount) for a, b in zip(color, other, strict=True))


def lit(color: Color, light: float) -> Color:
    """The color moved towards white (`light` up to 1) or black (down to -1)."""
    return mixed(color, (255, 255, 255) if light > 0 else (0, 0, 0), abs(light))


def tones(words: Mapping[str, str], varied: Variation) -> dict[str, Color]:
    """The color of every tone that parts name, with a fourth number, the opacity up to 255, if it is see-through."""
    skin = lit(SKINS[words["skin"]], varied.skin_light)
    hair = lit(HAIR_COLORS[words["hair_color"]], varied.hair_light)
    shirt = lit(SHIRTS[words["shirt"]], varied.shirt_light)
    iris = EYE_COLORS[words["eye_color"]]
    return {
        "skin": skin,
        "skin line": mixed(skin, BLOOD, 0.5),
        "skin shine": lit(skin, 0.5),
        "neck": mixed(skin, BLOOD, 0.2),
        "neck line": mixed(skin, BLOOD, 0.5),
        "blush": mixed(skin, (190, 60, 50), 0.25),
        "rouge": (240, 84, 84, 44),
        "hair": hair,
        "hair line": mixed(hair, INK, 0.45),
        "hair shade": mixed(hair, INK, 0.3),
        "hair shine": lit(hair, 0.4),
        "beard": mixed(hair, INK, 0.08),
        "beard line": mixed(hair, INK, 0.45),
        "brow": mixed(hair, INK, 0.4),
        "shirt": shirt,
        "shirt line": mixed(shirt, INK, 0.4),
        "collar": mixed(shirt, INK, 0.3),
        "white": (255, 255, 255),
        "iris": iris,
        "iris line": mixed(iris, INK, 0.5),
        "pupil": (18, 16, 24),
        "lash": (50, 34, 38),
        "lip": mixed(skin, (110, 14, 26), 0.75),
        "lipstick": mixed(skin, (214, 40, 66), 0.75),
        "mouth": (112, 26, 38),
        "tongue": (232, 110, 112),
        "frame": (46, 48, 64),
        "red frame": (196, 40, 52),
        "clear lens": (255, 255, 255, 40),
        "dark lens": (24, 26, 40, 150),
        "glare": (255, 255, 255, 110),
    }


def layers(words: Mapping[str, str], gaze: float) -> Part:
    """All that is drawn of a face, back to front."""
    shape, style, eyes = words["face_shape"], words["hair_style"], words["eye_shape"]
    return (
        *HAIR_BEHIND.get(style, ()),
        *BODY,
        *EARS,
        *FACES[shape],
        *NOSES[words["nose"]],
        *BEARDS[words["beard"]][shape],
        *MOUTHS[words["mouth"]],
        *EYE_WHITES[eyes],
        *((np.add(outline, (GAZE_REACH * gaze, 0.0)), tone) for outline, tone in IRISES),
        *EYE_LIDS[eyes],
        *EYEBROWS[words["eyebrows"]],
        *GLASSES[words["glasses"]],
        *HAIR[style],
    )


def in_words(values: Mapping[str, int]) -> dict[str, str]:
    """The name of each attribute's value."""
    for name, value in values.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"A cartoon has no attribute {name!r}; it has {', '.join(ATTRIBUTES)}.")
        if not 0 <= value < len(ATTRIBUTES[name]):
            raise ValueError(f"A cartoon's {name} must be from 0 to {len(ATTRIBUTES[name]) - 1}, not {value}.")
    if missing := [name for name in ATTRIBUTES if name not in values]:
        raise ValueError(f"A cartoon needs a value for every attribute, and {', '.join(missing)} is missing.")
    return {name: names[values[name]] for name, names in ATTRIBUTES.items()}


def draw(values: Mapping[str, int], size: int, variation: Variation = PLAIN) -> np.ndarray:
    """The face with these values, indices into `ATTRIBUTES`, as uint8 [size, size, 3].

    Raises ValueError if the size is not from 32 to 256, or an attribute is unknown, missing or out of range.
    """
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"A cartoon's size must be from {SMALLEST} to {LARGEST} px, not {size}.")
    words = in_words(values)
    face, color = layers(words, variation.gaze), tones(words, variation)

    finer = max(4, ceil(384 / size))
    pixels = size * finer
    along = pixels / SIDE * variation.scale * cos(radians(variation.tilt))
    across = pixels / SIDE * variation.scale * sin(radians(variation.tilt))
    place = np.add(PLACE, (variation.right / 100, variation.down / 100)) * pixels - 0.5
    points = (np.concatenate([outline for outline, _ in face]) - PIVOT) @ [[along, across], [-across, along]] + place
    numbers = points.ravel().tolist()

    image = Image.new("RGB", (pixels, pixels), BACKGROUNDS[words["background"]])
    opaque, see_through = ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")
    start = 0
    for outline, tone in face:
        end = start + outline.size
        pen = opaque if len(color[tone]) == 3 else see_through
        pen.polygon(numbers[start:end], fill=color[tone])
        start = end
    return np.array(image.reduce(finer))


def cartoon(index: int, size: int = 64, seed: int = 0) -> tuple[np.ndarray, dict[str, int]]:
    """Face `index` of the set, as uint8 [size, size, 3], and its values: a pure function of (seed, index, size)."""
    values = attributes(index, seed)
    return draw(values, size, variation(index, seed)), values
