"""How alike two pictures are: errors of pixels, PSNR, SSIM (Wang et al. 2004, doi 10.1109/TIP.2003.819861) and MS-SSIM
(Wang et al. 2003, doi 10.1109/ACSSC.2003.1292216); for super-resolution on luma with the border cut off."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tasvir.config import Refused
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value, of_each

WINDOW, SIGMA = 11, 1.5
"""Side and standard deviation in pixels of SSIM's Gaussian window (Wang et al. 2004, section III.B)."""
STABILIZERS = (0.01**2, 0.03**2)
"""C1 and C2 of SSIM for pixels in [0,1]."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM's five scales, finest first (Wang et al. 2003, section 3.2)."""
MOST_DECIBELS = 100.0
"""PSNR of identical pictures, which would otherwise be infinite and make every mean infinite."""
CHUNK = 2**15
"""Pixel values of one side of the pairs that are compared at a time, so that they stay in the processor's cache."""

Measure = Callable[[Tensor, Tensor], Tensor]
"""Two batches of pictures, float [N,C,H,W] in [0,1], to a number for each pair [N]."""
Pairs = list[tuple[np.ndarray, np.ndarray]]
"""(made, real) uint8 [N,H,W,C] of each size, as in `Subject.pairs`."""


def unit(images: np.ndarray) -> Tensor:
    """uint8 [N,H,W,C] to float64 [N,C,H,W] in [0,1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).double().div_(255).contiguous()


def squared_error(made: Tensor, real: Tensor) -> Tensor:
    """[N] mean over the pixels of the squared difference."""
    return (made - real).square().flatten(1).mean(1)


def absolute_error(made: Tensor, real: Tensor) -> Tensor:
    """[N] mean over the pixels of the absolute difference."""
    return (made - real).abs().flatten(1).mean(1)


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """[N] peak signal-to-noise ratio in dB, 10 log10(1 / squared error), at most 100 dB (identical pictures)."""
    return (-10 * squared_error(made, real).log10()).clamp(max=MOST_DECIBELS)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """[N] structural similarity, at most 1, mean over channels (Wang et al. 2004, equation 13).

    Only where the whole window lies inside the picture; `window` tells its side in small pictures.
    """
    return _similarity(made, real)[0].mean(1)


def ms_ssim(made: Tensor, real: Tensor) -> Tensor:
    """[N] multi-scale structural similarity in [0,1], mean over channels (Wang et al. 2003, equation 7).

    Halved as in the authors' own code: means of 2 × 2 pixels, the last row or column repeated where there is an odd
    number of them. Uses the finest `scales` of the five, their exponents made to sum to 1. A negative term counts as 0.
    """
    exponents = torch.tensor(SCALES[: scales(min(real.shape[-2:]))], dtype=real.dtype, device=real.device)
    product = torch.ones_like(real[:, :, 0, 0])
    for scale, exponent in enumerate(exponents / exponents.sum()):
        if scale:
            made, real = (functional.avg_pool2d(images, 2, ceil_mode=True) for images in (made, real))
        whole, contrast = _similarity(made, real)
        term = whole if scale == len(exponents) - 1 else contrast
        product *= term.clamp_min(0) ** exponent
    return product.mean(1)


def window(side: int) -> int:
    """Side of SSIM's window in pictures of this side: 11, or the largest odd number that fits."""
    return min(WINDOW, side - 1 + side % 2)


def scales(side: int) -> int:
    """How many scales MS-SSIM has in pictures of this side: as many as the window of 11 fits into, 1 to 5."""
    fitting = sum(-(-side // 2**scale) >= WINDOW for scale in range(len(SCALES)))
    return max(1, fitting)


def _similarity(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM, and the mean of its contrast and structure alone, of each channel: [N,C] each.

    Strips of rows at a time: what a strip needs stays in the processor's cache, whatever the picture's size.
    """
    channels, height, width = real.shape[1:]
    weights = _gaussian(window(min(height, width)))
    reach = len(weights) - 1
    rows = max(2 * WINDOW, CHUNK // (channels * width) - reach)
    total = torch.zeros(2, *real.shape[:2], dtype=real.dtype, device=real.device)
    for top in range(0, height - reach, rows):
        strip = slice(top, top + rows + reach)
        total += _strip(made[:, :, strip], real[:, :, strip], weights)
    whole, contrast = total / ((height - reach) * (width - reach))
    return whole, contrast


def _strip(made: Tensor, real: Tensor, weights: list[float]) -> Tensor:
    """Sums [2,N,C] of SSIM, and of its contrast and structure alone, over a strip's windows (equations 6 and 13)."""
    made_mean, real_mean = _blurred(made, weights), _blurred(real, weights)
    product, squares = made_mean * real_mean, made_mean.square() + real_mean.square()
    covariance = _blurred(made * real, weights) - product
    variances = _blurred(made.square() + real.square(), weights) - squares
    first, second = STABILIZERS
    luminance = (2 * product + first) / (squares + first)
    contrast = (2 * covariance + second) / (variances + second)
    return torch.stack([(luminance * contrast).sum((2, 3)), contrast.sum((2, 3))])


def _gaussian(side: int) -> list[float]:
    distances = np.arange(side) - side // 2
    weights = np.exp(-(distances**2) / (2 * SIGMA**2))
    return [float(weight) for weight in weights / weights.sum()]


def _blurred(images: Tensor, weights: list[float]) -> Tensor:
    """[N,C,H,W] to [N,C,H-side+1,W-side+1]: weighted means over the windows that fit, rows and columns in turn."""
    for axis in (2, 3):
        length = images.shape[axis] - len(weights) + 1
        total = images.narrow(axis, 0, length) * weights[0]
        for place, weight in enumerate(weights[1:], start=1):
            total.add_(images.narrow(axis, place, length), alpha=weight)
        images = total
    return images


def gmsd(made: Tensor, real: Tensor) -> Tensor:
    """[N] gradient magnitude similarity deviation of luma, at least 0: 0 for identical pictures.

    Xue et al. 2014 (arXiv 1308.3052): the standard deviation over the pixels of how alike the strengths of the gradient
    are, by Prewitt's filters, after means of 2 × 2 pixels; beyond the border is 0, as in the authors' own code.
    """
    strengths = []
    for images in (made, real):
        level = (luma(images) - LUMA_BASE) / sum(LUMA)
        height, width = level.shape[-2:]
        halved = functional.avg_pool2d(functional.pad(level, (0, width % 2, 0, height % 2)), 2)
        filters = torch.tensor([[1.0, 0.0, -1.0]] * 3, dtype=level.dtype, device=level.device) / 3
        slopes = functional.conv2d(halved, torch.stack([filters, filters.T])[:, None], padding=1)
        strengths.append(slopes.square().sum(1).sqrt())
    one, other = strengths
    alike = (2 * one * other + GRADIENT_STABILIZER) / (one.square() + other.square() + GRADIENT_STABILIZER)
    return alike.flatten(1).std(1, correction=0)


GRADIENT_STABILIZER = 170 / 255**2
"""GMSD's constant c for pixels in [0,1]; the authors' 170 is for levels up to 255."""
LUMA_BASE = 16
LUMA = (65.481, 128.553, 24.966)
"""Weights of red, green and blue in [0,1] (ITU-R BT.601, as MATLAB's rgb2ycbcr)."""


def luma(images: Tensor) -> Tensor:
    """[N,1 or 3,H,W] in [0,1] to Y [N,1,H,W] of BT.601, from 16 to 235, not rounded. Grey counts as a color."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return LUMA_BASE + (images * weights).sum(1, keepdim=True)


def cropped(images: Tensor, border: int) -> Tensor:
    """[N,C,H,W] without `border` pixels on every side. Raises `Refused` if nothing is left."""
    height, width = images.shape[-2:]
    if 2 * border >= min(height, width):
        raise Refused(
            f"Pictures of {height} × {width} px have nothing left without a border of {border} px.\n"
            f"The border may be at most {(min(height, width) - 1) // 2} px; it is usually the scale factor."
        )
    return images[..., border : height - border, border : width - border]


def of_pairs(
    pairs: Pairs, measures: Mapping[str, Measure], prepare: Callable[[Tensor], Tensor] = lambda images: images
) -> dict[str, np.ndarray]:
    """Each measure [N] float64 of all pairs, a few of them at a time."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    for made, real in pairs:
        step = max(1, CHUNK // real[0].size)
        for start in range(0, len(real), step):
            both = [prepare(unit(images[start : start + step])) for images in (made, real)]
            for name, measure in measures.items():
                found[name].append(measure(*both).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def sides(pairs: Pairs) -> list[int]:
    """The shorter side of the pictures of each size."""
    return [min(real.shape[1:3]) for _, real in pairs]


def span(values: Iterable[int]) -> int | str:
    """One number if all are the same, else the lowest and the highest in words."""
    low, *_, high = sorted(values) * 2
    return low if low == high else f"{low} to {high}"


# ---- what evaluate asks for


def pixel_errors(subject: Subject) -> list[Value]:
    """`mse` and `mae` of pixels in [0,1], and `psnr` in dB; each is the mean over pictures."""
    found = of_pairs(subject.pairs, {"mse": squared_error, "mae": absolute_error, "psnr": psnr})
    return [
        of_each(f"{subject.prefix}mse", found["mse"]),
        of_each(f"{subject.prefix}mae", found["mae"]),
        _decibels(f"{subject.prefix}psnr", found["psnr"], {}),
    ]


def structure(subject: Subject) -> list[Value]:
    """`ssim` and `ms_ssim`, each the mean over pictures."""
    found = of_pairs(subject.pairs, {"ssim": ssim, "ms_ssim": ms_ssim})
    facts = {"window": span(map(window, sides(subject.pairs)))}
    return [
        of_each(f"{subject.prefix}ssim", found["ssim"], passport=facts),
        of_each(
            f"{subject.prefix}ms_ssim",
            found["ms_ssim"],
            passport={**facts, "scales": span(map(scales, sides(subject.pairs)))},
        ),
    ]


def gradients(subject: Subject) -> list[Value]:
    """`gmsd`, the mean over pictures."""
    return [of_each(f"{subject.prefix}gmsd", of_pairs(subject.pairs, {"gmsd": gmsd})["gmsd"])]


def super_resolution(subject: Subject) -> list[Value]:
    """PSNR and SSIM without the border: `psnr_y`, `ssim_y` on luma; `psnr_rgb`, `ssim_rgb` if there is color.

    Luma keeps its range of 16 to 235, but counts as having 255 levels, as the field's MATLAB code has it.
    """
    border = subject.border
    colored = [pair for pair in subject.pairs if pair[1].shape[-1] == 3]
    channels: dict[str, tuple[str, Pairs, Callable[[Tensor], Tensor]]] = {
        "y": ("Y of BT.601, 16 to 235", subject.pairs, lambda images: cropped(luma(images) / 255, border)),
        "rgb": ("RGB", colored, lambda images: cropped(images, border)),
    }
    values = []
    for name, (words, pairs, prepare) in channels.items():
        if not pairs:
            continue
        found = of_pairs(pairs, {"psnr": psnr, "ssim": ssim}, prepare)
        facts: dict[str, Any] = {"border": border, "channel": words}
        windows = span(window(side - 2 * border) for side in sides(pairs))
        values += [
            _decibels(f"{subject.prefix}psnr_{name}", found["psnr"], facts),
            of_each(f"{subject.prefix}ssim_{name}", found["ssim"], passport={**facts, "window": windows}),
        ]
    return values


def _decibels(metric: str, values: np.ndarray, facts: dict[str, Any]) -> Value:
    same = int((values >= MOST_DECIBELS).sum())
    note = f"{same} of {len(values)} pictures do not differ from the real ones and count as {MOST_DECIBELS:.0f} dB."
    return of_each(metric, values, passport={**facts, "average": "of each picture's dB"}, note=note if same else None)
