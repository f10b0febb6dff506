"""Neural style transfer by optimizing a picture (Gatys et al. 2016, CVPR; arXiv 1508.06576)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
    """[1,3,H,W] float in [-1,1]: the best of all steps."""
    losses: dict[str, float]
    """Its weighted losses: `content`, `style`, `total_variation`."""
    before: dict[str, float]
    """The same where the descent began."""
    steps: int
    """How many were done."""
    interrupted: bool = False


Watch = Callable[[int, dict[str, float], Callable[[], Tensor]], None]
"""Is told after each step: its number, its losses, and a function that gives its picture, [1,3,H,W] in [-1,1]."""


class _Enough(Exception):
    """Ends a descent from within the optimizer."""


def stylize(
    content: Tensor,
    styles: Sequence[Tensor],
    settings: StyleConfig,
    features: Features,
    watch: Watch = lambda step, losses, picture: None,
) -> Styled:
    """A picture with the content of one, [1,3,H,W] in [-1,1], in the style of others, [1,3,h,w] of any sizes.

    The features are normalized to these pictures, in place. A KeyboardInterrupt ends it with what there is. Raises
    `Refused` for pictures that are too small for the layers and weights that do not fit the styles.
    """
    weights = blend(settings.style_weights or (), len(styles))
    shown = [in_grey(image) if settings.keep_colors else image for image in (content, *styles)]
    features.normalize(shown)
    targets = _targets(features, shown[0], shown[1:], weights, settings)
    picture = begun(shown[0], shown[1], settings).requires_grad_()
    best, least, done = picture.detach().clone(), math.inf, 0
    losses: dict[str, float] = {}
    before: dict[str, float] = {}

    def finished(image: Tensor) -> Tensor:
        image = image.detach().clamp(-1, 1)
        return colored(image, content) if settings.keep_colors else image

    def closure() -> float:
        nonlocal least, losses, before, done
        if done == settings.steps:
            raise _Enough
        terms = _terms(features, picture, targets, settings)
        total = torch.stack(list(terms.values())).sum()
        picture.grad = torch.autograd.grad(total, picture)[0].contiguous()
        value = float(total.detach())
        told = {name: float(term.detach()) for name, term in terms.items()}
        done += 1
        before = before or told
        if value < least:
            least, losses = value, told
            best.copy_(picture.detach())
        watch(done, told, lambda: finished(picture))
        return value

    interrupted = False
    try:
        _descend(picture, closure, settings)
    except _Enough:
        pass
    except KeyboardInterrupt:
        interrupted = True
    return Styled(finished(best), losses, before, done, interrupted)


def _descend(picture: Tensor, closure: Callable[[], float], settings: StyleConfig) -> None:
    """Until `closure`, which looks at the picture, has had enough."""
    if settings.optimizer == "adam":
        adam = torch.optim.Adam([picture], lr=settings.learning_rate)
        while True:
            closure()
            adam.step()
    while True:  # again from where it stands, if no step along the line makes anything better
        torch.optim.LBFGS(
            [picture],
            max_iter=settings.steps,
            max_eval=2 * settings.steps,
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
    features: Features, content: Tensor, styles: Sequence[Tensor], weights: Sequence[float], settings: StyleConfig
) -> dict[str, dict[str, Tensor]]:
    """What features should be, by layer, and what Gram matrices should be: those of the styles, blended."""
    seen = features(content)
    wanted = {name: seen[name] for name in settings.content_layers}
    grams: dict[str, Tensor] = {}
    for style, weight in zip(styles, weights, strict=True):
        seen = features(style)
        for name in settings.style_layers:
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


def total_variation(picture: Tensor) -> Tensor:
    """The mean squared difference of neighbours in height and in width, of [N,C,H,W]."""
    down, across = picture[:, :, 1:] - picture[:, :, :-1], picture[:, :, :, 1:] - picture[:, :, :, :-1]
    return down.square().mean() + across.square().mean()


def begun(content: Tensor, style: Tensor, settings: StyleConfig) -> Tensor:
    """Where the descent begins, as large as the content."""
    if settings.start == "style":
        return functional.interpolate(style, content.shape[-2:], mode="bilinear", antialias=True).contiguous()
    if settings.start == "noise":
        generator = torch.Generator().manual_seed(settings.seed)
        return (0.25 * torch.randn(content.shape, generator=generator)).clamp(-1, 1).to(content.device)
    return content.clone(memory_format=torch.contiguous_format)


def in_grey(image: Tensor) -> Tensor:
    """The lightness of sRGB pictures [N,3,H,W] in [-1,1] as grey ones [N,1,H,W] in [-1,1]."""
    light = lightness(image)
    return lab_to_rgb(functional.pad(light, (0, 0, 0, 0, 0, 2)))[:, :1]


def colored(grey: Tensor, content: Tensor) -> Tensor:
    """The lightness of grey pictures [N,1,H,W] with the colours of others [N,3,H,W], all in [-1,1]; colours that sRGB
    lacks at that lightness are clamped to it."""
    lab = rgb_to_lab(content)
    return lab_to_rgb(torch.cat([lightness(grey.expand(-1, 3, -1, -1)), lab[:, 1:]], 1))
