"""The vector-quantized autoencoder (van den Oord et al. 2017, arXiv 1711.00937): pictures as grids of codes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from tasvir.config import Count, CountOrZero, NonNegative, OptimizerConfig, Pictures, Positive, Range, TrainConfig
from tasvir.core import Batch, Grid, Model, Player, Recipe, Turn, measured
from tasvir.models.autoencoders.ae import ONE_THREAD, TRAINED
from tasvir.nn.quantizers import Codebook, Quantizer, QuantizerName, quantizer
from tasvir.nn.residual import StridedDecoder, StridedEncoder, require_multiple


@dataclass(frozen=True)
class QuantizedConfig:
    """What all autoencoders with discrete codes have."""

    hidden: Count = 128
    """Channels of the convolutions."""
    residual: Count = 32
    """Channels inside a residual block."""
    blocks: CountOrZero = 2
    """Residual blocks of each network."""
    codes: Annotated[int, Range(low=2, high=2**20)] = 512
    """How many different codes there are."""
    code_size: Count = 64
    """Channels of a code's vector; fsq and lookup-free take as many as they need."""
    quantizer: QuantizerName = "vq-ema"
    """How latents become codes; see nn/quantizers.py."""
    commitment: NonNegative = 0.25
    """Weight of the latents' squared distance from their codes."""
    decay: Annotated[float, Range(low=0.0, high=0.999999)] = 0.99
    """Of the moving averages that are the codes of vq-ema, and by which it is counted what is used."""
    variance: Positive = 0.06
    """Of pixels in [0,1]: what their squared error is divided by, against the commitment."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)


@dataclass(frozen=True)
class VQVAEConfig(QuantizedConfig):
    downsample: Literal[2, 4, 8, 16] = 4
    """How many pixels high and wide the square is that one code stands for."""


def reconstruction_term(config: Any, output: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """What is descended for pictures in [-1,1], and the mean squared error of pixels in [0,1] by itself."""
    error = mse_loss(output.float(), image) / 4
    return error / config.variance, error.detach()


def batch_to_start(quantizer: Quantizer, grid: Grid) -> tuple[int, str]:
    """The fewest pictures whose vectors, one for each place of the grid, start all codes of a codebook; and why."""
    if not isinstance(quantizer, Codebook):
        return 1, ""
    each = "1 vector" if grid.side == 1 else f"{grid.side**2} vectors"
    return (
        math.ceil(quantizer.codes / grid.side**2),
        f"its {quantizer.codes} codes are started from the first batch, which has {each} for each picture",
    )


class VQVAE(Model):
    sizes = "multiples of --model.downsample (4) from 8 px up"

    @staticmethod
    def accepts(size: int) -> bool:
        return size >= 8 and size % 4 == 0

    def __init__(self, config: VQVAEConfig, pictures: Pictures, foundation: Model | None = None):
        super().__init__(config, pictures, foundation)
        require_multiple(pictures.size, config.downsample)
        sizes = (config.hidden, config.residual, config.blocks, config.downsample)
        self.quantizer = quantizer(config)
        width = self.quantizer.size
        self.encoder = nn.Sequential(StridedEncoder(pictures.channels, *sizes), nn.Conv2d(config.hidden, width, 1))
        self.decoder = StridedDecoder(width, pictures.channels, *sizes)
        self.grids = (Grid(pictures.size // config.downsample, config.codes),)
        self.latent_shape = (width, self.grids[0].side, self.grids[0].side)

    def players(self) -> dict[str, Player]:
        return {"vq_vae": Player((self.encoder, self.quantizer, self.decoder), self.config.optimizer)}

    def least_batch(self) -> tuple[int, str]:
        return batch_to_start(self.quantizer, self.grids[0])

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        quantized = self.quantizer(self.encoder(batch.image))
        loss, error = reconstruction_term(self.config, self.decoder(quantized.values), batch.image)
        yield Turn("vq_vae", {"reconstruction": loss, **quantized.terms}, {"mse": error, **quantized.watch})

    def compress(self, image: Tensor) -> Tensor:
        """What the quantizer is given."""
        return self.encoder(image).float()

    def expand(self, latent: Tensor) -> Tensor:
        """Quantized first, so that what is a little off its code is the code (Rombach et al. 2022, section 3.1)."""
        return self.detokenize(self.quantizer.tokenize(latent).flatten(1))

    def tokenize(self, image: Tensor) -> Tensor:
        return self.quantizer.tokenize(self.encoder(image)).flatten(1)

    def detokenize(self, codes: Tensor) -> Tensor:
        side = self.grids[0].side
        return self.decoder(self.quantizer.look_up(codes.view(-1, side, side))).float().clamp(-1, 1)

    def reconstruct(self, image: Tensor) -> Tensor:
        return self.detokenize(self.tokenize(image))


RECIPES = {
    "vq-vae": Recipe(
        summary="Vector-quantized autoencoder: pictures as grids of discrete codes.",
        model=VQVAE,
        config=VQVAEConfig(),
        tiny=VQVAEConfig(hidden=8, residual=4, blocks=1, codes=4, code_size=4),
        train=TrainConfig(steps=6000),
        best="reconstruction_mse",
        expect=measured(
            "tasvir train vq-vae --data mnist --train.steps 3000",
            f"all 512 codes in use, perplexity 399; {ONE_THREAD}",
            reconstruction_mse=0.00212,
            reconstruction_psnr=27.2,
            reconstruction_ssim=0.961,
            reconstruction_frechet=0.0699,
        )
        + measured(
            "tasvir train vq-vae --data cifar10_train_20k.zip --data.size 32 --model.downsample 2 "
            "--train.batch-size 32 --train.steps 1500",
            f"20,000 pictures of CIFAR-10's training split, of which 2,105 held out by content; {TRAINED}",
            reconstruction_mse=0.00115,
            reconstruction_psnr=29.9,
            reconstruction_ssim=0.946,
        ),
    ),
}
