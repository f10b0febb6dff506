"""Given pictures found again in a model's latent space, by descending their distance to what it makes of a latent.

In w as in Karras et al. 2020 (arXiv 1912.04958, appendix D), but w alone is searched: the noise inputs, which the paper
descends too, stay those of `synthesize`. In z from several samples that are already like them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Count, NonNegative, Positive, Seed
from tasvir.core import Encodes, Noise
from tasvir.data.batches import to_uint8
from tasvir.data.workers import progress
from tasvir.drawing import BATCH, Opened
from tasvir.metrics import perceptual, similarity
from tasvir.spaces import Space, SpaceName, random_latents, space_of

DistanceName = Literal["pixels", "lpips"]
Distance = Callable[[Tensor, Tensor], Tensor]
"""Pictures float [N,C,H,W] in [-1,1], made and real, to [N]."""
Decode = Callable[[Tensor], Tensor]

NETWORK: perceptual.Network = "vgg"
"""Of LPIPS, as in the paper."""
SMALLEST = 32
"""Side in px from which pictures are compared by LPIPS where nothing else is asked for."""
POOL = 256
"""Samples among which the starts in z are looked for."""
KNOWN = 1000
"""Draws from the model's prior that tell where its latents lie."""
MAPPED = 10_000
"""Draws of w that its deviation is of, as in the paper."""
CLASSES = 20
"""Classes that are tried, at most, for a picture whose class is not known."""
FRAMES = 60
"""Pictures of the film of a descent."""
VALUES = 1 << 22
"""Pixel values of the pictures that are descended at a time."""


@dataclass(frozen=True)
class Search:
    """How latents are looked for."""

    space: SpaceName | None = None
    """w, where the model has it and nothing else is said."""
    distance: DistanceName | None = None
    """LPIPS, where its weights are at hand and the pictures are not tiny, else squared differences of pixels."""
    steps: Count = 300
    starts: Count = 2
    """Descents for each picture, the best of which is kept; in z, where the model does not encode."""
    learning_rate: Positive = 0.1
    noise: NonNegative = 0.05
    """Noise added to w at first, as a part of its deviation. z is left without, which brings it nearer: 29.6 dB against
    28.6 dB for 12 held-out digits and a DCGAN."""
    seed: Seed = 0


@dataclass(frozen=True)
class Projected:
    """What was found, picture for picture."""

    space: SpaceName
    distance: DistanceName
    began: str
    """In words, where the descents began."""
    images: np.ndarray
    """uint8 [N,H,W,C]: what the model makes of the latents."""
    starts: np.ndarray
    """uint8 [N,H,W,C]: where the descent that was kept began."""
    latents: np.ndarray
    """[N,D] float32, in `space`."""
    distances: np.ndarray
    """[N] float64: LPIPS, or the mean squared difference of pixels in [0,1]."""
    start_distances: np.ndarray
    """[N] float64: of the best of the starts."""
    psnr: np.ndarray
    """[N] dB."""
    labels: np.ndarray | None
    """[N] int64: the classes they were found in, where the model knows classes."""
    frames: np.ndarray | None
    """uint8 [F,N,H,W,C]: the descents that were kept; None where no film is asked for."""


def project(
    opened: Opened, real: np.ndarray, search: Search, labels: list[int] | None = None, film: bool = False
) -> Projected:
    """Pictures uint8 [N,H,W,C] found again. `labels` are their classes, where the model knows classes: without them the
    likeliest one, or that which comes nearest of all, of the 20 that begin nearest.

    No picture ends further away than the best of its starts was. Raises `Refused` for a model that does not decode, a
    space that it has not, and weights of LPIPS that cannot be had.
    """
    opened.require("decode")
    space = space_of(opened.model, opened.run.config.recipe, search.space)
    kind = search.distance or _usual(real.shape[1])
    distance = DISTANCES[kind](opened.device)
    if labels is None and opened.conditional and callable(getattr(opened.model, "likeliest", None)):
        labels = opened.classes_of(real, None)
    begun = _begin(opened, space, real, labels, search)
    target = opened.tensor(real).cpu().contiguous()
    films: list[list[np.ndarray]] = []
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    size = max(1, min(BATCH, VALUES // math.prod(real.shape[1:])))
    chunks = [slice(start, start + size) for start in range(0, len(begun.latents), size)]
    with progress(search.steps * len(chunks), "descending") as advance:
        for rows in chunks:
            latent = begun.latents[rows].to(opened.device)
            told = None if begun.labels is None else begun.labels[rows].to(opened.device)
            seen: list[np.ndarray] = []
            parts.append(
                descend(
                    lambda one, told=told: space.decode(one, told),  # type: ignore[misc]
                    latent,
                    target[begun.pictures[rows]].to(opened.device),
                    distance,
                    search,
                    deviation=begun.deviation,
                    within=begun.within,
                    seeds=[search.seed + place for place in range(rows.start, rows.start + len(latent))],
                    watch=_frames(seen, search.steps) if film else None,
                    advance=advance,
                )
            )
            films.append(seen)
    latents, ends, before = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    owner = begun.pictures.numpy()
    rows_of = [np.flatnonzero(owner == place) for place in range(len(real))]
    best = np.array([rows[int(ends[rows].argmin())] for rows in rows_of])
    chosen = None if begun.labels is None else begun.labels[best].numpy()
    images = opened.pictured(space, latents[best], chosen)
    return Projected(
        space.name,
        kind,
        begun.words,
        images,
        opened.pictured(space, begun.latents[best], chosen),
        latents[best].numpy(),
        ends[best].double().numpy(),
        np.array([float(before[rows].min()) for rows in rows_of]),
        similarity.psnr(similarity.unit(images), similarity.unit(real)).numpy(),
        chosen if opened.conditional else None,
        np.stack([np.concatenate(frames)[best] for frames in zip(*films, strict=True)]) if film else None,
    )


# --- the descent ---


def descend(
    decode: Decode,
    start: Tensor,
    target: Tensor,
    distance: Distance,
    search: Search,
    *,
    deviation: float = 0.0,
    within: Callable[[Tensor], Tensor] | None = None,
    seeds: list[int] | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """From latents [R,D] towards those whose pictures are nearest to `target` [R,C,H,W], each by itself: the nearest
    found [R,D], their distances [R], and those of the starts; on the CPU.

    Adam, with the learning rate and the noise of appendix D of the paper. `within` keeps latents where they belong;
    `watch` is shown every step's pictures. Latents are judged without noise.
    """
    latent = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([latent], lr=search.learning_rate)
    noise = Noise(seeds if seeds is not None else range(len(start)))
    best = start.detach().clone()
    with torch.no_grad():
        before = distance(decode(best), target)
    least = before.clone()

    def keep(found: Tensor) -> None:
        better = found.detach() < least
        least.copy_(torch.where(better, found.detach(), least))
        best.copy_(torch.where(better[:, None], latent.detach(), best))

    for step in range(search.steps):
        part = step / search.steps
        optimizer.param_groups[0]["lr"] = search.learning_rate * rate_at(part)
        strength = search.noise * deviation * noise_at(part)
        moved = latent + strength * noise.draw(start.shape[1], device=start.device) if strength else latent
        images = decode(moved)
        found = distance(images, target)
        if not strength:
            keep(found)
        if watch is not None:
            watch(step, images)
        (latent.grad,) = torch.autograd.grad(found.sum(), latent)
        optimizer.step()
        if within is not None:
            with torch.no_grad():
                latent.copy_(within(latent))
        advance(1)
    with torch.no_grad():
        images = decode(latent)
        keep(distance(images, target))
    if watch is not None:
        watch(search.steps, decode(best))
    return best.cpu(), least.float().cpu(), before.float().cpu()


def rate_at(part: float) -> float:
    """The learning rate's factor after this part of the steps: up over the first 5 %, down by a cosine over the last
    25 % (appendix D)."""
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - part) / 0.25))
    return down * min(1.0, part / 0.05)


def noise_at(part: float) -> float:
    """The noise's factor: t², with t falling from one to zero over the first 75 % of the steps (appendix D)."""
    return max(0.0, 1 - part / 0.75) ** 2


def _frames(seen: list[np.ndarray], steps: int) -> Callable[[int, Tensor], None]:
    """Keeps `FRAMES` of the steps' pictures, the last among them."""
    wanted = set(np.unique(np.linspace(0, steps, min(FRAMES, steps + 1)).round().astype(int)).tolist())

    def watch(step: int, images: Tensor) -> None:
        if step in wanted:
            seen.append(to_uint8(images))

    return watch


# --- how far two pictures are apart ---


def _usual(size: int) -> DistanceName:
    return "lpips" if size >= SMALLEST and perceptual.at_hand(NETWORK) else "pixels"


def _pixels(device: torch.device) -> Distance:
    """The mean squared difference of pixels in [0,1]."""
    return lambda made, real: similarity.squared_error(made.float(), real.float()) / 4


def _lpips(device: torch.device) -> Distance:
    found = perceptual.lpips(NETWORK, device)
    return lambda made, real: found.descended(perceptual.color(made.float()), perceptual.color(real.float()))


DISTANCES: dict[DistanceName, Callable[[torch.device], Distance]] = {"pixels": _pixels, "lpips": _lpips}


# --- where to begin ---


@dataclass(frozen=True)
class Begun:
    """Latents to descend from, one or several for each picture."""

    words: str
    latents: Tensor
    """[R,D] in the space, on the CPU."""
    pictures: Tensor
    """[R] int64: which picture each is for."""
    labels: Tensor | None
    """[R] int64: the class it is decoded for."""
    deviation: float
    """Of w, which the noise is a part of; 0 for none."""
    within: Callable[[Tensor], Tensor] | None
    """Keeps latents where the model's own lie."""


def _begin(opened: Opened, space: Space, real: np.ndarray, labels: list[int] | None, search: Search) -> Begun:
    if space.name == "w":
        return _from_mean(opened, space, len(real), labels, search)
    if isinstance(opened.model, Encodes):
        return _from_encoded(opened, real, labels)
    return _from_samples(opened, space, real, labels, search)


def _tried(opened: Opened, number: int, labels: list[int] | None) -> Iterator[tuple[int, int | None]]:
    """(picture, class) for all classes that a picture may be of."""
    for picture in range(number):
        if labels is not None:
            yield picture, labels[picture]
        elif opened.conditional:
            yield from ((picture, one) for one in range(len(opened.run.pictures.classes)))
        else:
            yield picture, None


def _from_mean(opened: Opened, space: Space, number: int, labels: list[int] | None, search: Search) -> Begun:
    """The mean w, for every picture."""
    seeds = range(search.seed, search.seed + MAPPED)
    known = None if labels is None else np.resize(labels, MAPPED)
    if known is None and opened.conditional:
        known = np.resize(np.arange(len(opened.run.pictures.classes)), MAPPED)
    mapped = torch.cat(
        [
            opened.in_space(
                space.enter,
                random_latents(opened.model, Noise(seeds[start : start + BATCH])),
                None if known is None else known[start : start + BATCH],
            )
            for start in range(0, MAPPED, BATCH)
        ]
    )
    mean = opened.model.w_mean.detach().float().cpu().reshape(1, -1)
    deviation = float((mapped - mean).square().sum(1).mean().sqrt())
    told = torch.zeros(number, dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Begun(
        "the mean w",
        mean.repeat(number, 1),
        torch.arange(number),
        told if opened.conditional else None,
        deviation,
        None,
    )


def _from_encoded(opened: Opened, real: np.ndarray, labels: list[int] | None) -> Begun:
    """Each picture's encoding. Nothing keeps it within the prior, where pictures need not lie."""
    pairs = list(_tried(opened, len(real), labels))
    places = np.array([picture for picture, _ in pairs])
    told = [one for _, one in pairs if one is not None]
    latents = torch.from_numpy(opened.encoded(real[places], told or None))
    return Begun(
        "their encodings",
        latents,
        torch.from_numpy(places),
        torch.tensor(told) if told else None,
        0.0,
        None,
    )


def _from_samples(opened: Opened, space: Space, real: np.ndarray, labels: list[int] | None, search: Search) -> Begun:
    """The nearest in pixels of `POOL` samples of the class; of each class where it is not known."""
    pool = random_latents(opened.model, Noise(range(search.seed, search.seed + POOL)))
    targets = opened.tensor(real).cpu().flatten(1)
    pairs = list(_tried(opened, len(real), labels))
    drawn = {one: _distances(opened, space, pool, one, targets) for one in {one for _, one in pairs}}
    starts, pictures, told = [], [], []
    for picture in range(len(real)):
        classes = [one for place, one in pairs if place == picture]
        each = search.starts if len(classes) == 1 else 1
        nearest = [(drawn[one][picture].topk(min(each, POOL), largest=False), one) for one in classes]
        ranked = sorted(nearest, key=lambda found: float(found[0].values[0]))[:CLASSES]
        for found, one in ranked:
            starts.append(pool[found.indices])
            pictures += [picture] * len(found.indices)
            told += [one] * len(found.indices)
    known = random_latents(opened.model, Noise(range(search.seed, search.seed + KNOWN)))
    return Begun(
        f"the nearest of {POOL} samples",
        torch.cat(starts),
        torch.tensor(pictures),
        None if told[0] is None else torch.tensor(told),
        0.0,
        plausible(known),
    )


def _distances(opened: Opened, space: Space, pool: Tensor, one: int | None, targets: Tensor) -> Tensor:
    """[N,P] distances in pixels of targets [N,C·H·W] from what is made of latents [P,D] of a class."""
    found = []
    for start in range(0, len(pool), BATCH):
        part = pool[start : start + BATCH]
        images = opened.in_space(space.decode, part, None if one is None else [one] * len(part))
        found.append(torch.cdist(targets, images.flatten(1)))
    return torch.cat(found, 1)


def plausible(known: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that brings latents [R,D] to where those known [K,D] lie: no longer than the longest of them and no
    shorter than the shortest, then every value within theirs. Of normal noise of many dimensions that is a thin shell
    about the sphere of radius √D, of uniform noise its cube.
    """
    lengths = known.norm(dim=1)
    shortest, longest = float(lengths.min()), float(lengths.max())
    low, high = known.amin(0), known.amax(0)

    def within(latent: Tensor) -> Tensor:
        length = latent.norm(dim=1, keepdim=True).clamp_min(1e-12)
        sized = latent * (length.clamp(shortest, longest) / length)
        return sized.clamp(low.to(latent.device), high.to(latent.device))

    return within
