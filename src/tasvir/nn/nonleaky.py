"""Augmentation that a network is told of, so that it draws none of it (Karras et al. 2022, arXiv 2206.00364, F.2)."""

from math import pi

import torch
from torch import Tensor

from tasvir.nn.augmentation import resampled, rotation, scaling, translation

CONDITIONS = 9
"""Numbers that tell what was done: mirrored sideways, upside down; size; turn (2); stretch (2); shift (2)."""
TRANSFORMS = 6
STRETCH = 2**0.2
"""Enlarged, or stretched, by this to the power of a standard normal draw."""
SHIFT = 1 / 8
"""Of the picture's side, times a standard normal draw."""


def augmented(image: Tensor, chance: float) -> tuple[Tensor, Tensor]:
    """Pictures [B,C,S,S], each transformed in six ways with this chance each, and what was done [B,9], float32.

    Mirroring, chosen, happens to half of the pictures. All is drawn by torch's own generator on the pictures' device.
    """
    count, device = len(image), image.device
    chosen = (torch.rand(TRANSFORMS, count, device=device) < chance).float()
    uniform, normal = torch.rand(4, count, device=device), torch.randn(4, count, device=device)
    sideways, upside = chosen[:2] * (uniform[:2] < 0.5)
    size = chosen[2] * normal[0]
    turn = chosen[3] * pi * (2 * uniform[2] - 1)
    stretch, along = chosen[4] * normal[1], pi * (2 * uniform[3] - 1)
    shift = chosen[5] * normal[2:]
    done = torch.stack(
        [sideways, upside, size, turn.cos() - 1, turn.sin(), stretch * along.cos(), stretch * along.sin(), *shift], 1
    )
    return transformed(image, done), done


def transformed(image: Tensor, done: Tensor) -> Tensor:
    """Pictures [B,C,S,S] as nine numbers each [B,9] say: mirrored, enlarged, turned, stretched, shifted, in this order.

    They are resampled bilinearly and mirrored at their borders; a picture whose numbers are all 0 is not touched.
    """
    sideways, upside, size, cosine, sine, one, other, right, down = done.float().unbind(1)
    stretch, along = STRETCH ** torch.hypot(one, other), torch.atan2(other, one)
    enlarged = STRETCH**size
    source = (
        scaling(1 - 2 * sideways, 1 - 2 * upside)
        @ scaling(enlarged, enlarged)
        @ rotation(torch.atan2(sine, cosine + 1))
        @ rotation(-along)
        @ scaling(stretch, 1 / stretch)
        @ rotation(along)
        @ translation(2 * SHIFT * torch.stack([right, down]))
    )
    with torch.autocast(image.device.type, enabled=False):
        moved = resampled(image.float(), source)
    return torch.where((done != 0).any(1)[:, None, None, None], moved, image)
