"""sRGB to CIE Lab (1976) and back, differentiable.

IEC 61966-2-1 for the curve of sRGB, ITU-R BT.709 primaries and the 2° white point D65 (Poynton, Color FAQ).
"""

import torch
from torch import Tensor

XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
RGB_FROM_XYZ = tuple(tuple(row) for row in torch.tensor(XYZ_FROM_RGB, dtype=torch.float64).inverse().tolist())
WHITE = (0.95047, 1.0, 1.08883)
SLOPE = (29 / 6) ** 2 / 3  # CIE 15:2004: of the line that is the cube root's tangent at (6/29)³


def rgb_to_lab(image: Tensor) -> Tensor:
    """[B,3,H,W] sRGB in [-1,1] to [B,3,H,W] float32: L in [0,100], a and b about in [-110,110]."""
    with torch.autocast(image.device.type, enabled=False):
        x, y, z = (
            _compressed(plane / white) for plane, white in zip(_mixed(_linear(image), XYZ_FROM_RGB), WHITE, strict=True)
        )
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """[B,3,H,W] L in [0,100], a, b to [B,3,H,W] float32 sRGB in [-1,1]; colours that sRGB lacks are clamped to it."""
    light, a, b = lab.float().unbind(1)
    y = (light + 16) / 116
    xyz = [_expanded(value) * white for value, white in zip((y + a / 500, y, y - b / 200), WHITE, strict=True)]
    return _displayed(torch.stack(_mixed(torch.stack(xyz, 1), RGB_FROM_XYZ), 1))


def lightness(image: Tensor) -> Tensor:
    """[B,3,H,W] sRGB in [-1,1] to [B,1,H,W] float32 in [0,100]: the L of `rgb_to_lab`."""
    (y,) = _mixed(_linear(image), XYZ_FROM_RGB[1:2])
    return (116 * _compressed(y) - 16).unsqueeze(1)


def _mixed(image: Tensor, matrix: tuple[tuple[float, ...], ...]) -> list[Tensor]:
    """The planes [B,H,W] of `matrix @ image`; not by a matrix product, whose factors autocast or a GPU may shorten."""
    first, second, third = image.unbind(1)
    return [first * row[0] + second * row[1] + third * row[2] for row in matrix]


# Each curve below is a line up to a bend and a power beyond it. It is computed as the sum of the two, each held still
# where the other moves: no branch, which would take most of the time, and no power of 0, whose slope may be infinite.


def _linear(image: Tensor) -> Tensor:
    """sRGB in [-1,1] to linear light in [0,1]."""
    value, bend = (image.float() + 1) / 2, 0.04045
    return value.clamp(max=bend) / 12.92 + ((value.clamp(min=bend) + 0.055) / 1.055) ** 2.4 - bend / 12.92


def _displayed(light: Tensor) -> Tensor:
    """Linear light to sRGB in [-1,1]."""
    light, bend = light.clamp(0, 1), 0.04045 / 12.92
    value = light.clamp(max=bend) * 12.92 + 1.055 * light.clamp(min=bend) ** (1 / 2.4) - 0.055 - 0.04045
    return value * 2 - 1


def _compressed(value: Tensor) -> Tensor:
    """f of CIE 15:2004."""
    bend = (6 / 29) ** 3
    return value.clamp(max=bend) * SLOPE + value.clamp(min=bend) ** (1 / 3) + 4 / 29 - 6 / 29


def _expanded(value: Tensor) -> Tensor:
    """The inverse of `_compressed`."""
    bend = 6 / 29
    return (value.clamp(max=bend) - 4 / 29) / SLOPE + value.clamp(min=bend) ** 3 - bend**3
