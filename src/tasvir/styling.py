"""Neural style transfer by optimizing a picture (Gatys et al. 2016, CVPR; arXiv 1508.06576)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from tasvir.config import Refused, StyleConfig
from tasvir.data.colors import lab_to_rgb, lightness, rgb_to_lab
from tasvir.losses.perceptual import Features, gram


@dataclass(frozen=True)
class Styled:
    """What was found."""

    image: Tensor
    """[1,3,H,W] float in [-1,1]: the best of all steps at its full size."""
    losses: dict[str, float]
    """The weighted losses of this image, of its lightness if the colours are kept: `content`, `style`,
    `total_variation`."""
    before: dict[str, float]
    """The same where the descent began."""
    steps: int
    """How many were done."""
    interrupted: bool = False


Watch = Callable[[int, float, dict[str, float], Callable[[], Tensor]], None]
"""Is told after each step: its number, the share of all work that is done, its losses at the size that is optimized,
and a function that gives its picture, [1,3,H,W] in [-1,1]."""
WITHIN = 1 - 1 / 255
"""Beyond this, black and white are where the descent begins so close to the ends that it would hardly move them."""

LAYERS = {
    "trained": (("relu4_2",), ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")),
    "random": (("relu3_1",), ("relu1_1", "relu2_1", "relu3_1")),
}
"""(of the content, of the styles) by weights: the paper's, and the shallow ones that random weights see anything by."""


class _Enough(Exception):
    """Ends a descent from within the optimizer."""


def stylize(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: StyleConfig,
    features: Features,
    watch: Watch = lambda step, share, losses, picture: None,
) -> Styled:
    """A picture with the content of one, [1,3,H,W] in [-1,1], in the style of others, [1,3,h,w] of any sizes.

    From coarse to fine (Gatys et al. 2017, arXiv 1611.07865): what a smaller size has changed is enlarged and added to
    the picture where the next begins. The features are normalized to these pictures, in place. A KeyboardInterrupt ends
    it with what there is. Raises `Refused` for pictures that are too small for the layers and weights that do not fit
    the styles.
    """
    weights = blend(settings.style_weights or (), len(styles))
    kept = settings.keep_colors
    layers = chosen(settings, features.random)
    shown = [in_grey(content), *(in_grey(style, content) for style in styles)] if kept else [content, *styles]
    features.normalize(shown)
    picture = begun(shown[0], shown[1], settings)
    wanted = _targets(features, shown, weights, *layers)
    before = _told(features, picture, wanted, settings)
    plan = stages(min(min(image.shape[-2:]) for image in shown), features.least, settings)
    work = sum(steps / factor**2 for factor, steps in plan)
    done, spent, interrupted = 0, 0.0, False

    def finished(image: Tensor) -> Tensor:
        return colored(image, content) if kept else image

    def changed(first: Tensor, now: Tensor) -> Tensor:
        return (picture + resized(now - first, picture.shape[-2:])).clamp(-1, 1)

    def looked(factor: int, first: Tensor, told: dict[str, float], now: Tensor) -> None:
        nonlocal done, spent
        done, spent = done + 1, spent + 1 / factor**2
        watch(done, spent / work, told, lambda: finished(changed(first, now)))

    for factor, steps in plan:
        seen = [reduced(image, factor) for image in shown]
        first = reduced(picture, factor)
        targets = wanted if factor == 1 else _targets(features, seen, weights, *layers)
        best, interrupted = _descend(features, first, targets, steps, settings, partial(looked, factor, first))
        picture = changed(first, best)
        if interrupted:
            break
    image = finished(picture)
    losses = _told(features, in_grey(image) if kept else image, wanted, settings)
    return Styled(image, losses, before, done, interrupted)


def chosen(settings: StyleConfig, random: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Layers of the content and of the styles: those of the settings, or those that suit the weights."""
    content, style = LAYERS["random" if random else "trained"]
    return (
        content if settings.content_layers is None else settings.content_layers,
        style if settings.style_layers is None else settings.style_layers,
    )


def stages(least: int, needed: int, settings: StyleConfig) -> list[tuple[int, int]]:
    """(factor that pictures are reduced by, steps) from coarse to fine, for pictures whose `least` side is divided down
    to what is `needed`: each size gets as many steps, the last what remains."""
    factors = [2**power for power in range(settings.sizes) if not power or least // 2**power >= needed]
    each = settings.steps // len(factors)
    steps = [each] * (len(factors) - 1)
    return [(factor, n) for factor, n in zip(factors[::-1], [*steps, settings.steps - sum(steps)], strict=True) if n]


def _descend(
    features: Features,
    first: Tensor,
    targets: Mapping[str, Mapping[str, Tensor]],
    steps: int,
    settings: StyleConfig,
    looked: Callable[[dict[str, float], Tensor], None],
) -> tuple[Tensor, bool]:
    """The best of so many pictures on the way down from the first, and whether it was interrupted. The angles whose
    sines the pixels are is what is optimized: no pixel leaves [-1,1]."""
    angles = first.clamp(-WITHIN, WITHIN).asin().requires_grad_()
    best, least, done = first, math.inf, 0

    def closure() -> float:
        nonlocal best, least, done
        if done == steps:
            raise _Enough
        picture = angles.sin()
        terms = _terms(features, picture, targets, settings)
        total = torch.stack(list(terms.values())).sum()
        angles.grad = torch.autograd.grad(total, angles)[0].contiguous()
        value, picture = float(total.detach()), picture.detach()
        done += 1
        if value < least:
            best, least = picture, value
        looked({name: float(term.detach()) for name, term in terms.items()}, picture)
        return value

    try:
        _optimize(angles, closure, steps, settings)
    except _Enough:
        return best, False
    except KeyboardInterrupt:
        return best, True


def _optimize(values: Tensor, closure: Callable[[], float], steps: int, settings: StyleConfig) -> NoReturn:
    """Until `closure`, which looks at the values, has had enough."""
    if settings.optimizer == "adam":
        adam = torch.optim.Adam([values], lr=settings.learning_rate)
        while True:
            closure()
            adam.step()
    while True:  # again from where it stands, if no step along the line makes anything better
        torch.optim.LBFGS(
            [values],
            max_iter=steps,
            max_eval=2 * steps,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=20,
            line_search_fn="strong_wolfe",
        ).step(closure)


def blend(given: Sequence[float], styles: int) -> list[float]:
    """Weights of so many styles that sum to one. Raises `Refused` if they are not one each, or all 0."""
    if given and len(given) != styles:
        raise Refused(f"--style-weights are {len(given)} for {styles} styles: give one each.")
    weights = list(given) or [1.0] * styles
    if not sum(weights):
        raise Refused("--style-weights are all 0: one at least must be above.")
    return [weight / sum(weights) for weight in weights]


@torch.no_grad()
def _targets(
    features: Features,
    shown: Sequence[Tensor],
    weights: Sequence[float],
    content_layers: Sequence[str],
    style_layers: Sequence[str],
) -> dict[str, dict[str, Tensor]]:
    """What features should be, by layer: the content's, shown first; and what Gram matrices should be: those of the
    styles, blended."""
    seen = features(shown[0])
    wanted = {name: seen[name] for name in content_layers}
    grams: dict[str, Tensor] = {}
    for style, weight in zip(shown[1:], weights, strict=True):
        seen = features(style)
        for name in style_layers:
            grams[name] = grams.get(name, 0) + weight * gram(seen[name])
    return {"content": wanted, "style": grams}


def _terms(
    features: Features, picture: Tensor, targets: Mapping[str, Mapping[str, Tensor]], settings: StyleConfig
) -> dict[str, Tensor]:
    """Content: the mean squared difference of features. Style: a quarter of that of Gram matrices (equation 4 with its
    sums divided by the number of places), the mean over layers."""
    seen = features(picture)
    zero = picture.new_zeros(())
    content = [functional.mse_loss(seen[name], wanted) for name, wanted in targets["content"].items()]
    style = [functional.mse_loss(gram(seen[name]), wanted) / 4 for name, wanted in targets["style"].items()]
    terms = {
        "content": settings.content_weight * (torch.stack(content).mean() if content else zero),
        "style": settings.style_weight * (torch.stack(style).mean() if style else zero),
    }
    if settings.total_variation:
        terms["total_variation"] = settings.total_variation * total_variation(picture)
    return terms


@torch.no_grad()
def _told(
    features: Features, picture: Tensor, targets: Mapping[str, Mapping[str, Tensor]], settings: StyleConfig
) -> dict[str, float]:
    return {name: float(term) for name, term in _terms(features, picture, targets, settings).items()}


def total_variation(picture: Tensor) -> Tensor:
    """The mean squared difference of neighbours in height and in width, of [N,C,H,W]."""
    down, across = picture[:, :, 1:] - picture[:, :, :-1], picture[:, :, :, 1:] - picture[:, :, :, :-1]
    return down.square().mean() + across.square().mean()


def begun(content: Tensor, style: Tensor, settings: StyleConfig) -> Tensor:
    """Where the descent begins, as large as the content."""
    if settings.start == "style":
        return resized(style, content.shape[-2:])
    if settings.start == "noise":
        generator = torch.Generator().manual_seed(settings.seed)
        return (0.25 * torch.randn(content.shape, generator=generator)).clamp(-1, 1).to(content.device)
    return content.clone(memory_format=torch.contiguous_format)


def resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """[N,C,H,W] at another size, (height, width); no value beyond those that there are."""
    if image.shape[-2:] == tuple(size):
        return image
    return functional.interpolate(image, tuple(size), mode="bilinear", antialias=True).contiguous()


def reduced(image: Tensor, factor: int) -> Tensor:
    """[N,C,H,W] with sides divided by a whole number."""
    height, width = image.shape[-2:]
    return resized(image, (max(1, height // factor), max(1, width // factor)))


def in_grey(image: Tensor, like: Tensor | None = None) -> Tensor:
    """The lightness of sRGB pictures [N,3,H,W] in [-1,1] as grey ones [N,1,H,W] in [-1,1]; with the mean and spread of
    that of one `like` it, [1,3,h,w], by one affine map (Gatys et al. 2016, arXiv 1606.05897, luminance-only transfer).
    """
    light = lightness(image)
    if like is not None:
        wanted = lightness(like)
        light = (light - light.mean()) * (wanted.std() / light.std().clamp(min=1e-3)) + wanted.mean()
        light = light.clamp(0, 100)
    return lab_to_rgb(functional.pad(light, (0, 0, 0, 0, 0, 2)))[:, :1]


def colored(grey: Tensor, content: Tensor) -> Tensor:
    """The lightness of grey pictures [N,1,H,W] with the colours of others [N,3,H,W], all in [-1,1]; colours that sRGB
    lacks at that lightness are clamped to it."""
    lab = rgb_to_lab(content)
    return lab_to_rgb(torch.cat([lightness(grey.expand(-1, 3, -1, -1)), lab[:, 1:]], 1))
