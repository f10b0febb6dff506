"""The tokenizer of VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446): two grids of codes, the finer given the coarser."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tasvir.config import DataConfig, OptimizerConfig, Pictures, TrainConfig
from tasvir.core import Batch, Grid, Model, Player, Recipe, Turn
from tasvir.models.autoencoders.vq_vae import QuantizedConfig, batch_to_start, reconstruction_term
from tasvir.nn.quantizers import quantizer
from tasvir.nn.residual import StridedDecoder, StridedEncoder

BOTTOM = 4
"""Pixels in height and width for a code of the finer grid."""
TOP = 2
"""Codes of the finer grid, in height and width, for one of the coarser."""


@dataclass(frozen=True)
class VQVAE2Config(QuantizedConfig):
    residual: int = 64


class VQVAE2(Model):
    """Section 3.1 and algorithm 1: `top` is an eighth of the picture's size, `bottom` a quarter."""

    sizes = "multiples of 8 from 16 px up"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 16 and size % (BOTTOM * TOP) == 0

    def __init__(self, config: VQVAE2Config, pictures: Pictures, foundation: Model | None = None):
        super().__init__(config, pictures, foundation)
        hidden, inside = config.hidden, (config.hidden, config.residual, config.blocks)
        self.top, self.bottom = quantizer(config), quantizer(config)
        width = self.top.size
        self.encode_bottom = StridedEncoder(pictures.channels, *inside, BOTTOM)
        self.encode_top = StridedEncoder(hidden, *inside, TOP)
        self.to_top = nn.Conv2d(hidden, width, 1)
        self.decode_top = StridedDecoder(width, hidden, *inside, TOP)
        self.to_bottom = nn.Conv2d(2 * hidden, width, 1)
        self.enlarge_top = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.decoder = StridedDecoder(2 * width, pictures.channels, *inside, BOTTOM)
        side = pictures.size // BOTTOM
        self.grids = (Grid(side // TOP, config.codes), Grid(side, config.codes))

    def players(self) -> dict[str, Player]:
        return {"vq_vae_2": Player(tuple(self.children()), self.config.optimizer)}

    def least_batch(self) -> tuple[int, str]:
        return batch_to_start(self.top, self.grids[0])

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        fine = self.encode_bottom(batch.image)
        top = self.top(self.to_top(self.encode_top(fine)))
        bottom = self.bottom(self._given(top.values, fine))
        loss, error = reconstruction_term(self.config, self._decoded(top.values, bottom.values), batch.image)
        terms, watch = {"reconstruction": loss}, {"mse": error}
        for name, quantized in (("top", top), ("bottom", bottom)):
            terms |= {f"{name}_{term}": value for term, value in quantized.terms.items()}
            watch |= {f"{name}_{what}": value for what, value in quantized.watch.items()}
        yield Turn("vq_vae_2", terms, watch)

    def tokenize(self, image: Tensor) -> Tensor:
        fine = self.encode_bottom(image)
        top = self.top.tokenize(self.to_top(self.encode_top(fine)))
        bottom = self.bottom.tokenize(self._given(self.top.look_up(top), fine))
        return torch.cat([top.flatten(1), bottom.flatten(1)], 1)

    def detokenize(self, codes: Tensor) -> Tensor:
        coarse, fine = (grid.side for grid in self.grids)
        top, bottom = codes.split([coarse**2, fine**2], 1)
        values = self.top.look_up(top.view(-1, coarse, coarse)), self.bottom.look_up(bottom.view(-1, fine, fine))
        return self._decoded(*values).float().clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.detokenize(self.tokenize(image))

    def _given(self, top: Tensor, fine: Tensor) -> Tensor:
        """The finer grid's latents [B,D,2S,2S], from the coarser's values [B,D,S,S] and features [B,hidden,2S,2S]."""
        return self.to_bottom(torch.cat([self.decode_top(top), fine], 1))

    def _decoded(self, top: Tensor, bottom: Tensor) -> Tensor:
        return self.decoder(torch.cat([self.enlarge_top(top), bottom], 1))


VQ_VAE_2 = Recipe(
    summary="The tokenizer of VQ-VAE-2: two grids of codes, for pictures of 64 and 128 px.",
    model=VQVAE2,
    config=VQVAE2Config(hidden=64, residual=32, codes=256, optimizer=OptimizerConfig(learning_rate=1e-3)),
    tiny=VQVAE2Config(hidden=8, residual=4, blocks=1, codes=4, code_size=4),
    train=TrainConfig(steps=6000, batch_size=32),
    best="reconstruction_mse",
)

RECIPES = {
    "vq-vae-2-tokenizer": VQ_VAE_2,
    "vq-vae-2-tokenizer-256": replace(
        VQ_VAE_2.preset(
            "The tokenizer of VQ-VAE-2 in the paper's sizes, for pictures of 256 px.",
            train={"steps": 250_000, "batch_size": 128},
        ),
        config=VQVAE2Config(optimizer=OptimizerConfig(learning_rate=3e-4)),
        data=DataConfig(size=256),
    ),
}
