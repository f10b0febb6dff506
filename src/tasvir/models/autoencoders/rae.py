"""The regularized autoencoder RAE-L2 (Ghosh et al. 2020, arXiv 1903.12436): short latents, small weights, no noise.

It has no prior: samples come from a density fitted to the encodings once it is trained (section 4 of the paper).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tasvir.config import Count, NonNegative, TrainConfig
from tasvir.core import Batch, Recipe, Turn, measured
from tasvir.losses.likelihoods import reconstruction_loss
from tasvir.models.autoencoders.ae import MIXTURE, ONE_THREAD, Autoencoder, AutoencoderConfig
from tasvir.models.autoencoders.vae import active_units


@dataclass(frozen=True)
class RAEConfig(AutoencoderConfig):
    latent_size: Count = 16
    beta: NonNegative = 0.01
    """Weight of half the squared length of a latent."""
    penalty: NonNegative = 1e-4
    """Weight lambda of the sum of the decoder's squared weights, biases and norms left out."""


class RAE(Autoencoder):
    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        latent = self.encode(batch.image)
        loss = reconstruction_loss(self.config, self.decoder(latent), batch.image)
        length = 0.5 * latent.square().sum(1)
        terms = {
            "reconstruction": loss.mean(),
            "latent": self.config.beta * length.mean(),
            "decoder": self.config.penalty * self.decoder_weight(),
        }
        watch = {"latent_mean_square": latent.detach().square().mean(), **active_units(latent)}
        yield Turn("autoencoder", terms, watch)

    def decoder_weight(self) -> Tensor:
        """The sum of squares of all of the decoder's matrices and kernels, scalar."""
        weights = [p.square().sum() for p in self.decoder.parameters() if p.dim() > 1]
        return sum(weights[1:], start=weights[0])


RECIPES = {
    "rae": Recipe(
        summary="Regularized autoencoder: an autoencoder with short latents and a smooth decoder.",
        model=RAE,
        config=RAEConfig(),
        tiny=RAEConfig(latent_size=4, widths=(4, 8)),
        train=TrainConfig(steps=6000),
        best="reconstruction_mse",
        expect=measured(
            "tasvir train rae --data mnist --train.steps 2500",
            f"{MIXTURE}; {ONE_THREAD}",
            frechet=1.70,
            reconstruction_mse=0.00752,
        ),
    )
}
