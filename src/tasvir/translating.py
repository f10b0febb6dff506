"""People's own pictures through a trained translator: found, read at their own size, made into sources, written."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tasvir.blending import Axis, axis, blended
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Noise
from tasvir.data import derive, files
from tasvir.data.batches import pictures_of, to_uint8
from tasvir.data.decoding import LARGEST_FILE, Unreadable, parse_color, still, with_channels
from tasvir.data.items import absolute
from tasvir.drawing import Opened
from tasvir.pictures import check_out, to_pil

PIECE = 768**2
"""Pixels of answers that are made at once, which bounds the memory that a network takes."""
DEEP = 32
"""The stride from which a network looks at the whole of a training picture, so that its tiles are of that size."""
WHOLE = 1024**2
"""Pixels up to which such a network is given a picture in one piece: tiles of it would show in the answer."""
LEAST_OVERLAP = 16
"""Pixels of sources that neighbouring tiles share, at least."""
BAND = 256
"""Rows of a picture that are turned to floats at a time."""
MOVING = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
STILLS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Endings of files that hold one answer, and what Pillow calls them."""
QUALITY = 95
"""Of JPEG and WebP, out of 100."""
SPREAD = 4
"""How many times brighter the standard deviation is shown: 64 levels of 255 are white."""
AS_GIVEN = {
    "edges": "The pictures are taken as drawings of edges; --derive finds the edges of photographs first.",
    "masked": "The pictures are taken with their holes; --derive covers the middle of whole pictures first.",
    "noisy": "The pictures are taken with the noise they have; --derive adds noise to clean ones first.",
}
"""What is said of pictures given to runs that were trained on sources made of pictures."""


@dataclass(frozen=True)
class Way:
    """A direction in which a model makes pictures of pictures."""

    make: Callable[[Tensor, Noise | None], Tensor]
    """[N,inputs,H,W] float in [-1,1] → [N,outputs,scale·H,scale·W]; each seed is one of the answers."""
    inputs: int
    """Channels."""
    outputs: int
    stride: int
    scale: int
    size: int
    """Height and width of what it was trained on, in px."""
    least: int = 1
    """Height and width of the smallest source, in px; smaller ones are padded."""


def _forth(model: Any, pictures: Pictures) -> Way:
    assert pictures.source is not None
    return Way(
        model.translate,
        pictures.source.channels,
        pictures.channels,
        model.stride,
        model.scale,
        pictures.source.size,
        getattr(model, "least", 1),
    )


def _back(model: Any, pictures: Pictures) -> Way:
    assert pictures.source is not None
    return Way(
        lambda image, noise: model.translate_back(image),
        pictures.channels,
        pictures.source.channels,
        model.stride,
        scale=1,
        size=pictures.size,
        least=getattr(model, "least", 1),
    )


def _up(model: Any, pictures: Pictures) -> Way:
    return Way(
        lambda image, noise: model.upscale(image),
        pictures.channels,
        pictures.channels,
        getattr(model, "stride", 1),
        model.scale,
        pictures.size // model.scale,
    )


WAYS: dict[str, Callable[[Any, Pictures], Way]] = {"translate": _forth, "translate_back": _back, "upscale": _up}
"""Ability → the way that a model with it goes, for the pictures it was trained on."""


class Translator:
    """A trained run that makes a picture of a picture of any size. Raises `Refused` if it lacks the ability.

    `tile` is the height and width of the source's tiles, 0 for the whole picture at once; None leaves it to the model:
    what is not much larger than its training pictures goes in one piece. A network with instance norm normalizes each
    tile by itself (`alone`), so that its answers to very unlike tiles only fade into one another.
    """

    def __init__(self, opened: Opened, ability: str = "translate", tile: int | None = None):
        opened.require(ability)
        self.opened, self.ability, self.tile = opened, ability, tile
        self.way: Way = WAYS[ability](opened.model, opened.run.pictures)
        self.settings = opened.run.config.data

    @property
    def alone(self) -> bool:
        """Whether what the network makes of a tile depends on the whole of that tile."""
        players = self.opened.model.players()
        makers = [players[name] for name in ("generator", "generators") if name in players]
        layers = (layer for maker in makers for network in maker.networks for layer in network.modules())
        return any(isinstance(layer, nn.GroupNorm) for layer in layers)

    def axes(self, height: int, width: int) -> tuple[Axis, Axis]:
        """How a source of this size is cut, down and across."""
        way = self.way
        deep = way.stride >= DEEP
        tile, padded = self.tile, [-(-max(length, way.least) // way.stride) * way.stride for length in (height, width)]
        if tile is None:
            most = max(4 * (way.size * way.scale) ** 2, WHOLE) if deep else PIECE
            usual = way.size if deep else int(PIECE**0.5) // way.scale
            tile = 0 if padded[0] * padded[1] * way.scale**2 <= most else usual
        tile = -(-max(tile, way.least) // way.stride) * way.stride if tile else max(padded)
        overlap = tile // 2 if deep else min(tile // 2, max(tile // 8, LEAST_OVERLAP))
        return axis(height, tile, overlap, way.stride, way.least), axis(width, tile, overlap, way.stride, way.least)

    def tiles(self, source: np.ndarray) -> int:
        """How many tiles a source uint8 [H,W,C'] is cut into."""
        down, across = self.axes(*source.shape[:2])
        return len(down.starts) * len(across.starts)

    def answer(
        self, source: np.ndarray, seed: int | None = None, done: Callable[[int], None] = lambda tiles: None
    ) -> np.ndarray:
        """What becomes of a source uint8 [H,W,C']: uint8 [scale·H,scale·W,C], the best guess or the answer of a seed.

        `done` is told how many more tiles there are.
        """
        way = self.way
        down, across = self.axes(*source.shape[:2])

        @torch.no_grad()
        def make(tiles: np.ndarray, numbers: list[int]) -> Tensor:
            noise = None if seed is None else Noise([_seed_of(seed, number) for number in numbers])
            return way.make(self.opened.tensor(tiles), noise)

        batch = max(1, PIECE // (down.tile * across.tile * way.scale**2))
        return blended(source, make, down, across, channels=way.outputs, scale=way.scale, batch=batch, done=done)

    def source(self, pixels: np.ndarray, derived: bool = False) -> np.ndarray:
        """A picture uint8 [H,W,1 or 3] as the model takes it, [H,W,inputs]; `derived` makes of it what training did.

        What is grey for a model that was trained on lightness becomes that. Raises `Unreadable` if it is too small.
        """
        height, width = pixels.shape[:2]
        name, forth = self.settings.derive, self.ability != "translate_back"
        if forth and name == "grey":
            colored = with_channels(pixels, 3)
            bands = [self._derived(colored[top : top + BAND]) for top in range(0, height, BAND)]
            pixels = np.concatenate(bands)
        elif derived and name == "edges":
            pixels = derive.edges(pixels)
        elif derived:
            scale = self.settings.scale if name == "low-resolution" else 1
            if min(height, width) < scale:
                raise Unreadable(f"{width}×{height} px: too small to be reduced {scale} times")
            kept = pixels[: height // scale * scale, : width // scale * scale]
            pixels = self._derived(with_channels(kept, self.opened.run.pictures.channels))
        if min(pixels.shape[:2]) < 2:
            raise Unreadable(f"{width}×{height} px: too small, it takes 2 px at least")
        return with_channels(pixels, self.way.inputs)

    def _derived(self, pixels: np.ndarray) -> np.ndarray:
        """The source that training makes of a picture uint8 [H,W,C]; a hole is in the middle."""
        height, width = pixels.shape[:2]
        side = derive.hole_side(min(height, width), self.settings.mask)
        hole = torch.tensor([[(height - side) // 2, (width - side) // 2, side]])
        drawn = hole if self.settings.derive == "masked" else None
        return to_uint8(derive.derived(self.settings, self.opened.tensor(pixels[None]), drawn))[0]

    def check_derived(self) -> None:
        """Raise `Refused` where training made no sources of pictures."""
        if self.settings.derive == "none" or self.ability == "translate_back":
            raise Refused(f"{self.opened.run.name} takes pictures as they are in this direction; leave --derive out.")

    def held_out(self, number: int) -> Batch:
        """The first held-out pictures of the run, with their sources."""
        dataset = self.opened.dataset
        count = min(number, len(dataset.test.images))
        return pictures_of(dataset, dataset.test, range(count), self.opened.device)

    @torch.no_grad()
    def compared(self, batch: Batch) -> dict[str, Tensor]:
        """What the model shows side by side, by what it is, made of a few pictures at a time; on the CPU."""
        assert batch.source is not None
        most = max(1, PIECE // (batch.image.shape[2] * batch.image.shape[3]))
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(batch), most):
            rows = slice(start, start + most)
            for name, images in self.opened.model.compared(Batch(batch.image[rows], source=batch.source[rows])).items():
                found.setdefault(name, []).append(images.cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}


def _seed_of(seed: int, number: int) -> int:
    """The first tile has the picture's own seed, the others one each of their own."""
    return seed if number == 0 else int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> 1)


def spread(answers: Sequence[np.ndarray]) -> np.ndarray:
    """[H,W] float32: the standard deviation of answers uint8 [H,W,C], in levels of 255, the mean of the channels."""
    height = len(answers[0])
    bands = [
        np.stack([one[top : top + BAND] for one in answers]).astype(np.float32).std(0, ddof=1).mean(2)
        for top in range(0, height, BAND)
    ]
    return np.concatenate(bands)


def shown(deviation: np.ndarray) -> np.ndarray:
    """A spread [H,W] as a grey picture uint8 [H,W,1]: black where all answers agree."""
    return np.minimum(np.rint(deviation * SPREAD), 255).astype(np.uint8)[..., None]


@dataclass(frozen=True)
class Given:
    """A picture that is to be translated."""

    name: str
    source: np.ndarray
    """uint8 [H,W,C'], as the model takes it."""
    opacity: np.ndarray | None = None
    """uint8 [H,W], where it may be transparent."""


@dataclass(frozen=True)
class Album:
    """Picture files that are to be translated, none of them read yet."""

    names: list[str]
    """With / between folders."""
    load: Callable[[str], bytes]
    """Raises `Unreadable`."""
    root: Path
    alone: bool = False
    """Whether one file was named."""
    said: tuple[str, ...] = ()
    """Sentences about what is left out."""

    def pictures(
        self, background: str, prepare: Callable[[np.ndarray], np.ndarray], say: Callable[[str], None]
    ) -> Iterator[Given]:
        """Every picture, prepared; one that cannot be read is left out and said. Raises `Refused` if none can."""
        color, found = parse_color(background), 0
        for name in self.names:
            try:
                pixels, opacity = still(self.load(name), color)
                given = Given(name, prepare(pixels), opacity)
            except Unreadable as error:
                if self.alone:
                    raise Refused(f"{self.root} cannot be taken: {error}.") from None
                say(f"{name} is left out: {error}.")
                continue
            found += 1
            del pixels
            yield given
        if not found:
            raise Refused(f"{self.root} has no picture that can be read.")

    def holds(self, out: Path) -> bool:
        """Whether a file or folder is one of these pictures, or all of them."""
        place = out.resolve()
        return place == self.root or (self.root.is_dir() and place in {self.root / name for name in self.names})


def album(name: str) -> Album:
    """The pictures of a file, a folder or an archive. Raises `Refused` if there are none, and for a film."""
    path = absolute(name)
    if path.is_dir():
        listing = files.folder(path)
    elif not path.is_file():
        raise Refused(f"There is no file or folder {name}.")
    elif path.suffix.lower() in MOVING:
        raise Refused(
            f"{name} is a film, and only pictures are translated.\n"
            f"Take them out first, for example: ffmpeg -i {path.name} frames/%06d.png"
        )
    else:
        picture = path.suffix.lower().lstrip(".") in files.ENDINGS
        found = None if picture else files.archive(path)
        if found is None:
            return Album([path.name], lambda _: _bytes(path), path, alone=True)
        listing = found
    others = listing.left_aside()
    if not listing.names:
        raise Refused(
            f"There are no pictures in {name}: {f'only other files, {others},' if others else 'nothing'} was found."
        )
    said = [f"{file} is left out: {why}." for file, why in listing.skipped]
    said += [f"Other files were left aside: {others}."] if others else []
    return Album(listing.names, listing.content, listing.root.resolve(), said=(*listing.notes, *said))


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise Unreadable(error.strerror or "cannot be opened") from None


def check_place(out: Path) -> None:
    """Raise `Refused` for a name under which no answer can be written."""
    if out.suffix.lower() not in STILLS or out.is_dir():
        check_out(out)


def make_place(out: Path) -> None:
    """Make the folder that answers go into. Raises `Refused` if it cannot be made."""
    folder = out.parent if out.suffix else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"--out {out} cannot be written: {error.strerror or error}.") from None


def save(answer: np.ndarray, out: Path, opacity: np.ndarray | None = None, background: str = "white") -> None:
    """Write an answer uint8 [H,W,1 or 3] as PNG, JPEG or WebP; opacity [h,w] is enlarged to its size.

    A JPEG has no transparency: it is laid on the background. Raises `Refused` if it cannot be written.
    """
    image, kind = to_pil(np.ascontiguousarray(answer)), STILLS[out.suffix.lower()]
    if opacity is not None:
        mask = Image.fromarray(opacity)
        mask = mask if mask.size == image.size else mask.resize(image.size, Image.Resampling.LANCZOS)
        if kind == "JPEG":
            below = Image.new("RGB", image.size, parse_color(background))
            below.paste(image, mask=mask)
            image = below
        else:
            image.putalpha(mask)
    try:
        image.save(out, kind, **({} if kind == "PNG" else {"quality": QUALITY}))
    except (OSError, ValueError) as error:
        raise Refused(f"{out} cannot be written: {getattr(error, 'strerror', None) or error}.") from None


class Names:
    """Names of files in a folder for answers to pictures with names of any kind, each only once."""

    def __init__(self, taken: Sequence[str] = ()):
        self.taken = {name.lower() for name in taken}

    def __call__(self, name: str) -> str:
        """The picture's own name without its ending; folders become part of it."""
        stem = re.sub(r"[^\w .()+-]", "_", name.rsplit(".", 1)[0] if "." in name else name).strip(" .")[:100]
        found, number = stem or "picture", 1
        while f"{found}.png".lower() in self.taken:
            number += 1
            found = f"{stem or 'picture'}-{number}"
        self.taken.add(f"{found}.png".lower())
        return found
