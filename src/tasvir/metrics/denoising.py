"""How well noise is taken out of held-out pictures, at given strengths and at a process's own levels."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tasvir.core import Batch, Noise
from tasvir.data.batches import to_float, to_uint8
from tasvir.diffusion.forward import Level
from tasvir.drawing import BATCH, Opened
from tasvir.metrics.features.extraction import exact, shown
from tasvir.metrics.similarity import psnr, unit
from tasvir.metrics.subject import Subject, chosen, rows
from tasvir.metrics.values import Value, of_each

STRENGTHS = (0.05, 0.1, 0.2, 0.5)
"""Standard deviations of the noise, where 1 is from black to white."""
PICTURES = 500
"""Most pictures that are measured."""
LEARNED_FROM = 1000
"""Training pictures, at most, that the linear filter is made of."""


class LinearFilter:
    """The best linear estimate of pictures whose spatial frequencies are independent: each is shrunk towards its mean
    by as much as noise has in it (Wiener's filter), in the cosine transform, which needs no periodic borders."""

    def __init__(self, images: np.ndarray):
        """`images` are uint8 [N,H,W,C]."""
        found = _frequencies(_halves(images))
        self.mean, self.variance = found.mean(0), found.var(0)

    def __call__(self, noisy: np.ndarray, sigma: float) -> np.ndarray:
        """Pictures [N,C,H,W] in [-1,1] with noise of deviation `sigma` → the same without it, float64."""
        from scipy.fft import idctn

        kept = self.variance / (self.variance + sigma**2)
        estimate = self.mean + kept * (_frequencies(noisy) - self.mean)
        return np.asarray(idctn(estimate, axes=(2, 3), norm="ortho"))


def _frequencies(pictures: np.ndarray) -> np.ndarray:
    from scipy.fft import dctn

    return np.asarray(dctn(np.asarray(pictures, np.float64), axes=(2, 3), norm="ortho"))


def _halves(images: np.ndarray) -> np.ndarray:
    return to_float(torch.from_numpy(np.array(images))).numpy()


def denoising(subject: Subject) -> list[Value]:
    """PSNR of pictures after noise was taken out, of the noisy ones, and of those that a linear filter cleaned; what
    the model gains over the noisy ones. All are rounded to 8 bits. The model is told how strong the noise is, and no
    class."""
    assert subject.opened is not None
    opened, train = subject.opened, subject.train
    images = rows(subject.reference, chosen(len(subject.reference), PICTURES))
    linear = LinearFilter(rows(train, chosen(len(train), LEARNED_FROM))) if len(train) else None
    told = {"told": "strength of the noise"} if not opened.conditional else {"told": "strength of the noise, no class"}
    values, gains = [], []
    with torch.no_grad(), exact(), shown(len(images) * len(STRENGTHS), "denoising") as advance:
        for strength in STRENGTHS:
            found: dict[str, list[Tensor]] = {}
            for real, clean, noise in _noised(opened, images, subject.seed):
                noisy = clean + 2 * strength * noise
                sigma = torch.full((len(clean),), 2 * strength, device=clean.device)
                cleaned = {"denoising": opened.model.denoise(noisy, sigma), "noisy": noisy}
                if linear is not None:
                    cleaned["linear"] = torch.from_numpy(linear(noisy.cpu().numpy(), 2 * strength)).float()
                for name, pictures in cleaned.items():
                    found.setdefault(name, []).append(psnr(unit(to_uint8(pictures)), unit(real)))
                advance(len(clean))
            decibels = {name: torch.cat(parts).numpy() for name, parts in found.items()}
            facts = {"noise": strength, "average": "of each picture's dB"}
            for name, each in decibels.items():
                passport = {**facts, **(told if name == "denoising" else {})}
                values.append(of_each(f"{name}_psnr_{strength}", each, passport=passport))
            gains.append(decibels["denoising"] - decibels["noisy"])
            values.append(of_each(f"denoising_gain_{strength}", gains[-1], passport={**facts, **told}))
    everywhere = {"noise": ", ".join(map(str, STRENGTHS)), "average": "of each picture's dB", **told}
    return [of_each("denoising_gain", np.mean(gains, axis=0), passport=everywhere), *values]


def errors_by_level(opened: Opened, images: np.ndarray, levels: Level, seed: int = 0) -> np.ndarray:
    """[L] mean squared error of the expected clean picture at each of `levels` [L], over uint8 pictures [N,H,W,C].

    In the space in which the model works, for one of pixels in [-1,1]; pictures have their noise by seed, the same at
    all levels, and no class is told.
    """
    model, found = opened.model, np.zeros(len(levels.alpha))
    with torch.no_grad(), opened.precision, shown(len(images) * len(found), "errors by level of noise") as advance:
        for _, image, noise in _noised(opened, images, seed, model.shape):
            clean = model.coded(Batch(image))
            for place in range(len(found)):
                level = levels.at(place)
                error = model.estimate(level.mixed(clean, noise), level) - clean
                found[place] += float(error.double().square().flatten(1).mean(1).sum())
                advance(len(image))
    return found / len(images)


def _noised(
    opened: Opened, images: np.ndarray, seed: int, shape: tuple[int, ...] | None = None
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Pictures as uint8 and as the model takes them, and standard normal noise for each, some at a time."""
    for start in range(0, len(images), BATCH):
        real = np.asarray(images[start : start + BATCH])
        clean = opened.tensor(real)
        noise = Noise(range(seed + start, seed + start + len(real)))
        yield real, clean, noise.draw(*(shape or clean.shape[1:]), device=clean.device)
