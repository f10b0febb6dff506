"""Colour for grey pictures: pix2pix in CIE Lab, as in Isola et al. 2017, arXiv 1611.07004, section 4.2."""

from dataclasses import replace

import torch
from torch import Tensor

from tasvir.config import DataConfig, Pictures
from tasvir.core import Recipe, measured
from tasvir.data.colors import lab_to_rgb, rgb_to_lab
from tasvir.models.translation.pix2pix import TINY, TRANSLATED, Pix2Pix, Pix2PixConfig

RANGE = 110.0
"""a and b of CIE Lab are divided by it; all colours of sRGB are within."""


class Colorize(Pix2Pix):
    """The source is the lightness and stays as it is; what is made, judged and compared is a and b."""

    coded_channels = 2

    @classmethod
    def lacks(cls, pictures: Pictures) -> str | None:
        lacking = super().lacks(pictures)
        if lacking is None and pictures.source is not None and (pictures.channels, pictures.source.channels) != (3, 1):
            return "needs pictures in colour and their lightness as sources: --data.derive grey makes such pairs"
        return lacking

    def coded(self, image: Tensor) -> Tensor:
        return rgb_to_lab(image)[:, 1:] / RANGE

    def picture(self, source: Tensor, made: Tensor) -> Tensor:
        return lab_to_rgb(torch.cat([50 * (source.float() + 1), RANGE * made.float()], 1))


RECIPES = {
    "colorize": Recipe(
        summary="Colour for grey pictures: their a and b of CIE Lab by a U-Net, discriminator of patches, L1.",
        model=Colorize,
        config=Pix2PixConfig(),
        tiny=TINY,
        train=replace(TRANSLATED, batch_size=16, steps=20_000),
        data=DataConfig(derive="grey", flip=True),
        best="mae",
        expect=measured(
            "tasvir train colorize --data anime_faces_64px_6000.zip --model.width 32 --train.steps 2500",
            "held-out tenth (588) of 6,000 anime faces at 64 px, averaged weights, seed 0; one thread of an AMD "
            "EPYC (Zen 4), bfloat16, torch 2.13.0; ab_error of grey 19.6, of the mean face 16.4; colorfulness of the "
            "real faces 43.7",
            ab_error=15.1,
            colorfulness=32.5,
        ),
    ),
}
