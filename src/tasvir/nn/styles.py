"""What style-based generators and their discriminators are made of.

Karras et al. 2019, arXiv 1812.04948 (mapping, AdaIN, constant input, noise inputs); Karras et al. 2020, arXiv
1912.04958 (modulation and demodulation, skip generator, residual discriminator, path lengths). Equalized learning
rates, pixel norm and minibatch deviation: Karras et al. 2018, arXiv 1710.10196.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

SLOPE = 0.2
"""Of every leaky ReLU; √2 times it keeps the variance, and is folded into the weights before it."""
GAIN = math.sqrt(2)
TINY = 1e-8


class EqualizedLinear(nn.Module):
    """[...,inputs] → [...,outputs]; weights of unit variance are scaled as they are used, so that all learn as fast.

    `rate` multiplies the learning rate, `gain` the output; `bias` is the bias to begin with.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0, gain: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))
        self.weight_scale, self.bias_scale = gain * rate / math.sqrt(inputs), gain * rate

    def forward(self, values: Tensor) -> Tensor:
        return linear(values, self.weight * self.weight_scale, self.bias * self.bias_scale)


class EqualizedConvolution(nn.Module):
    """[B,before,H,W] → [B,after,H,W]; with `down` blurred first, then at half the size."""

    def __init__(self, before: int, after: int, kernel: int, down: bool = False, gain: float = 1.0, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.scale, self.gain, self.down = gain / math.sqrt(before * kernel**2), gain, down

    def forward(self, image: Tensor) -> Tensor:
        weight, bias = self.weight * self.scale, None if self.bias is None else self.bias * self.gain
        if not self.down:
            return conv2d(image, weight, bias, padding=weight.shape[-1] // 2)
        return conv2d(blur(image, 2 if weight.shape[-1] == 3 else 1), weight, bias, stride=2)


@lru_cache(8)
def _filter(dtype: torch.dtype, device: torch.device) -> Tensor:
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    return torch.outer(taps, taps)[None, None].to(device, dtype)


def blur(image: Tensor, padding: int, gain: float = 1.0) -> Tensor:
    """[B,C,H,W], `padding` zeros around it, filtered with [1,3,3,1]/8 down and across, times `gain`."""
    channels = image.shape[1]
    kernel = (_filter(image.dtype, image.device) * gain).expand(channels, 1, 4, 4)
    return conv2d(image, kernel, padding=padding, groups=channels)


def enlarged(image: Tensor) -> Tensor:
    """[B,C,H,W] → [B,C,2H,2W]: zeros put between the pixels, then the filter of `blur`, brightness kept."""
    channels = image.shape[1]
    kernel = (_filter(image.dtype, image.device) * 4).expand(channels, 1, 4, 4)
    return conv_transpose2d(image, kernel, stride=2, padding=1, groups=channels)


def modulated(image: Tensor, weight: Tensor, style: Tensor, up: bool = False) -> Tensor:
    """A convolution of [B,I,H,W] with weights [O,I,k,k] times each picture's scales [B,I] (2020, equation 1).

    Scaling the input is the same as scaling the weights, and leaves one convolution for the whole batch. `up` doubles
    the size and then blurs.
    """
    image = image * style.to(image.dtype)[:, :, None, None]
    if not up:
        return conv2d(image, weight, padding=weight.shape[-1] // 2)
    return blur(conv_transpose2d(image, weight.transpose(0, 1), stride=2), 1, gain=4.0)


def demodulation(weight: Tensor, style: Tensor) -> Tensor:
    """[B,O] factors of the output of `modulated` that give it unit variance (2020, equation 3), in float32 or more.

    They divide by the norm of each output's weights [I,k,k] after they were scaled.
    """
    energy = weight.to(style.dtype).square().sum((2, 3))
    return (style.square() @ energy.t() + TINY).rsqrt()


class AdaptiveNorm(nn.Module):
    """AdaIN (2019, equation 1): each channel of each picture gets the deviation and mean that w [B,W] asks for."""

    def __init__(self, channels: int, style_size: int):
        super().__init__()
        self.scale = EqualizedLinear(style_size, channels, bias=1.0)
        self.shift = EqualizedLinear(style_size, channels)

    def forward(self, image: Tensor, w: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            values = image if image.dtype == torch.float64 else image.float()
            variance, mean = torch.var_mean(values, (2, 3), correction=0)
            scale = self.scale(w) * (variance + TINY).rsqrt()
            shift = self.shift(w) - mean * scale
            return torch.addcmul(shift[:, :, None, None], values, scale[:, :, None, None]).to(image.dtype)


class StyledLayer(nn.Module):
    """What every layer of a style-based generator ends with: noise of a learned strength, bias, leaky ReLU."""

    def __init__(self, after: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(after))
        self.strength = nn.Parameter(torch.zeros(()))

    def activated(self, image: Tensor, factor: Tensor, noise: Tensor) -> Tensor:
        """[B,C,H,W] times factors [B,C] or [1,C], with noise [B,1,H,W] or [1,1,H,W]."""
        kind = image.dtype
        bias = (self.bias * GAIN).to(kind)[:, None, None]
        image = torch.addcmul(bias, image, (factor * GAIN).to(kind)[:, :, None, None])
        return leaky_relu(image + (noise * (self.strength * GAIN)).to(kind), SLOPE)


class ModulatedLayer(StyledLayer):
    """[B,before,H,W], w [B,W], noise → [B,after,H,W]: the layer of 2020, whose style scales the weights."""

    def __init__(self, before: int, after: int, style_size: int, up: bool = False):
        super().__init__(after)
        self.affine = EqualizedLinear(style_size, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.scale, self.up = 1 / math.sqrt(before * 9), up

    def forward(self, image: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            style = self.affine(w) * self.scale
            factor = demodulation(self.weight, style)
        return self.activated(modulated(image, self.weight, style, self.up), factor, noise)


class AdaptiveLayer(StyledLayer):
    """The layer of 2019: a plain convolution (none where `before` is None), then AdaIN after the leaky ReLU."""

    def __init__(self, before: int | None, after: int, style_size: int, up: bool = False):
        super().__init__(after)
        self.weight = None if before is None else nn.Parameter(torch.randn(after, before, 3, 3))
        self.scale, self.up = 1 / math.sqrt(9 * (before or 1)), up
        self.norm = AdaptiveNorm(after, style_size)

    def forward(self, image: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        factor = image.new_ones(1, 1, dtype=w.dtype)
        if self.weight is not None:
            if self.up:
                image = blur(conv_transpose2d(image, self.weight.transpose(0, 1), stride=2), 1, gain=4.0)
            else:
                image = conv2d(image, self.weight, padding=1)
            factor = factor * self.scale
        return self.norm(self.activated(image, factor, noise), w)


class ToPicture(nn.Module):
    """[B,C,H,W] and w [B,W] → [B,channels,H,W]: a 1×1 convolution, modulated and not demodulated, or a plain one."""

    def __init__(self, before: int, channels: int, style_size: int, styled: bool):
        super().__init__()
        self.affine = EqualizedLinear(style_size, before, bias=1.0) if styled else None
        self.weight = nn.Parameter(torch.randn(channels, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.scale = 1 / math.sqrt(before)

    def forward(self, image: Tensor, w: Tensor) -> Tensor:
        if self.affine is None:
            return conv2d(image, self.weight * self.scale, self.bias)
        with torch.autocast(image.device.type, enabled=False):
            style = self.affine(w) * self.scale
        return modulated(image, self.weight, style) + self.bias[:, None, None]


class Mapping(nn.Module):
    """z [B,D] → w [B,W]: pixel norm, then dense layers that learn a hundredth as fast; in float32."""

    def __init__(self, latent_size: int, style_size: int, layers: int, rate: float = 0.01):
        super().__init__()
        sizes = [latent_size, *[style_size] * layers]
        self.layers = nn.ModuleList(
            EqualizedLinear(before, after, rate=rate, gain=GAIN) for before, after in pairwise(sizes)
        )

    def forward(self, latent: Tensor) -> Tensor:
        with torch.autocast(latent.device.type, enabled=False):
            w = latent * (latent.square().mean(1, keepdim=True) + TINY).rsqrt()
            for layer in self.layers:
                w = leaky_relu(layer(w), SLOPE)
        return w


class Synthesis(nn.Module):
    """w [B,L,W] and noise [B or 1,P] → pictures [B,channels,S,S] float32, not kept within [-1,1].

    A learned constant of 4×4, two layers at each size, and the sum of what every size says of the picture; 4×4 is in
    float32. `widths` are the channels at 4, 8, … S pixels; L is `styles`, P is `pixels`.
    """

    def __init__(self, channels: int, widths: Sequence[int], style_size: int, adaptive: bool):
        super().__init__()
        sides = [4 << doubling for doubling in range(len(widths))]
        self.sides = [side for side in sides for _ in range(2)][0 if adaptive else 1 :]
        """Of the output of each layer; where the style scales weights, the constant is no layer."""
        self.styles = 2 * len(widths)
        self.pixels = sum(side**2 for side in self.sides)
        self.constant = nn.Parameter(torch.randn(1, widths[0], 4, 4))
        kind = AdaptiveLayer if adaptive else ModulatedLayer
        layers: list[nn.Module] = [AdaptiveLayer(None, widths[0], style_size)] if adaptive else []
        layers += [kind(widths[0], widths[0], style_size)]
        for before, after in pairwise(widths):
            layers += [kind(before, after, style_size, up=True), kind(after, after, style_size)]
        self.layers = nn.ModuleList(layers)
        self.to_picture = nn.ModuleList(ToPicture(width, channels, style_size, not adaptive) for width in widths)

    def forward(self, w: Tensor, noise: Tensor) -> Tensor:
        values = self.constant.expand(len(w), -1, -1, -1)
        parts = noise.split([side**2 for side in self.sides], dim=1)
        picture: Tensor | None = None
        for position, (layer, side, part) in enumerate(zip(self.layers, self.sides, parts, strict=True)):
            with torch.autocast(w.device.type, enabled=side > 4 and torch.is_autocast_enabled(w.device.type)):
                values = layer(values, w[:, position], part.reshape(-1, 1, side, side))
            left = len(self.layers) - 1 - position
            if left % 2 == 0:
                said = self.to_picture[-1 - left // 2](values, w[:, min(position + 1, self.styles - 1)])
                said = said.to(w.dtype)
                picture = said if picture is None else enlarged(picture) + said
        assert picture is not None
        return picture


class StyleGenerator(nn.Module):
    """z [B,D] and noise [B or 1,P] → pictures, through w."""

    def __init__(self, mapping: Mapping, synthesis: Synthesis):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        return self.synthesis(self.mapping(latent)[:, None].expand(-1, self.synthesis.styles, -1), noise)


class ResidualBlock(nn.Module):
    """[B,before,H,W] → [B,after,H/2,W/2]; the sum of both ways is divided by √2."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.first = EqualizedConvolution(before, before, 3, gain=GAIN)
        self.second = EqualizedConvolution(before, after, 3, down=True)
        self.skip = EqualizedConvolution(before, after, 1, down=True, gain=math.sqrt(0.5), bias=False)

    def forward(self, image: Tensor) -> Tensor:
        values = leaky_relu(self.first(image), SLOPE)
        return leaky_relu(self.second(values), SLOPE) + self.skip(image)


class ResidualDiscriminator(nn.Module):
    """Pictures [B,channels,S,S] → scores [B]; `widths` are the channels at 4, 8, … S pixels. 4×4 is in float32."""

    def __init__(self, channels: int, widths: Sequence[int]):
        super().__init__()
        inward = list(widths)[::-1]
        self.from_picture = EqualizedConvolution(channels, inward[0], 1, gain=GAIN)
        self.blocks = nn.Sequential(*(ResidualBlock(*pair) for pair in pairwise(inward)))
        last = inward[-1]
        self.convolution = EqualizedConvolution(last + 1, last, 3, gain=GAIN)
        self.dense = EqualizedLinear(last * 16, last, gain=GAIN)
        self.score = EqualizedLinear(last, 1)

    def forward(self, image: Tensor) -> Tensor:
        values = self.blocks(leaky_relu(self.from_picture(image), SLOPE))
        with torch.autocast(image.device.type, enabled=False):
            values = values.to(image.dtype)
            values = torch.cat([values, deviation(values)], dim=1)
            values = leaky_relu(self.convolution(values), SLOPE).flatten(1)
            return self.score(leaky_relu(self.dense(values), SLOPE)).flatten()


def deviation(values: Tensor, most: int = 4) -> Tensor:
    """How much the pictures of a group differ, [B,C,H,W] → [B,1,H,W]: the mean over all values of their deviation.

    Picture i is in group i modulo their number, the fewest groups of up to `most` pictures each: where they cannot be
    of one size, the first are larger by one. Alone, a picture differs by nothing.
    """
    batch, _, height, width = values.shape
    groups = math.ceil(batch / most)
    exact = values if values.dtype == torch.float64 else values.float()
    rows = exact.flatten(1).split(groups)
    size, larger = divmod(batch, groups)
    parts = [torch.stack([row[:larger] for row in rows])] if larger else []
    parts.append(torch.stack([row[larger:] for row in rows[:size]]))
    spread = torch.cat([(part.var(0, correction=0) + TINY).sqrt().mean(1) for part in parts])
    spread = spread.repeat(len(rows))[:batch]
    return spread[:, None, None, None].expand(-1, 1, height, width).to(values.dtype)


def path_lengths(image: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """[B] lengths ‖Jᵀy‖ of how pictures [B,C,S,S] change with their w [B,L,W]; `noise` y is N(0,1) of their shape.

    Karras et al. 2020, equation 4, with y divided by S, and the mean over the L styles. Can be differentiated.
    """
    side = math.sqrt(image.shape[2] * image.shape[3])
    (gradient,) = torch.autograd.grad((image * noise).sum() / side, w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()
