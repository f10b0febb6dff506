"""The conditional variational autoencoder (Sohn et al. 2015, "Learning structured output representation using deep
conditional generative models", NIPS; Kingma et al. 2014, arXiv 1406.5298, section 2.2), told a picture's class.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tasvir.config import Pictures, Refused, TrainConfig
from tasvir.core import Batch, Noise, Player, Recipe, Turn, measured
from tasvir.losses.divergences import DIVERGENCES
from tasvir.models.autoencoders.ae import MIXTURE, ONE_THREAD
from tasvir.models.autoencoders.vae import VAE, VAEConfig
from tasvir.nn.classes import joined
from tasvir.nn.convolutional import Decoder, Encoder


class CVAE(VAE):
    """p(x|y) of pictures x of class y, with p(z) the same for all classes, and q(z|x,y).

    Where no class is told, it is the one under which the bound is greatest, all classes being as likely before.
    """

    needs = ("labels",)
    conditional = True
    compress = None  # type: ignore[assignment]  # what it makes of a picture depends on the class

    def __init__(self, config: Any, pictures: Pictures):
        if config.prior == "vamp":
            raise Refused(
                "--model.prior vamp encodes learned pictures, which are of no class; take standard or mixture."
            )
        super().__init__(config, pictures)
        self.planes = nn.Embedding(len(pictures.classes), pictures.size**2)
        """A learned picture of each class, for the encoder to see beside the picture."""

    def networks(self, config: Any, pictures: Pictures) -> tuple[nn.Module, nn.Module]:
        """The encoder, [B,C+1,S,S] → mean and log-variance [B,2D], and the decoder, [B,D+classes] → [B,C,S,S]."""
        channels, latent = pictures.channels, config.latent_size + len(pictures.classes)
        return (
            Encoder(channels + 1, pictures.size, config.widths, 2 * config.latent_size, config.norm),
            Decoder(latent, channels, pictures.size, config.widths, config.norm),
        )

    def players(self) -> dict[str, Player]:
        vae = super().players()["vae"]
        return {"vae": Player((*vae.networks, self.planes), vae.optimizer)}

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        assert batch.label is not None
        yield from _Told(self, batch.label).turns(batch, step)

    def told(self, label: Tensor) -> "_Told":
        """The VAE that this is for pictures of classes [N] int64. Raises `Refused` for one that there is not."""
        self.check_classes(label)
        return _Told(self, label)

    def likeliest(self, image: Tensor) -> Tensor:
        """The class of each picture under which the bound at the posterior's mean is greatest, [N] int64."""
        bounds = []
        for number in range(len(self.pictures.classes)):
            told = _Told(self, torch.full((len(image),), number, device=image.device))
            mean, log_variance = told.posterior(image)
            kl = DIVERGENCES["kl"](mean, log_variance, mean, self.prior.components(told.posterior)).sum(1)
            bounds.append(told.log_likelihood_of(mean, image) - kl)
        return torch.stack(bounds).argmax(0)

    def posterior(self, image: Tensor, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.told(self.likeliest(image) if label is None else label).posterior(image)

    def encode(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return self.told(self.likeliest(image) if label is None else label).encode(image)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Of class 0, where none is told."""
        return self.told(latent.new_zeros(len(latent), dtype=torch.int64) if label is None else label).decode(latent)

    def reconstruct(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return self.told(self.likeliest(image) if label is None else label).reconstruct(image)

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """Of a class that is drawn after the latent, all being as likely, where none is told."""
        latent = self.latents(noise)
        return self.decode(latent, self.draw_classes(noise) if label is None else label)

    def bound(self, image: Tensor, noise: Noise, label: Tensor | None = None) -> dict[str, Tensor]:
        """On log p(x|y), as that of a VAE; without classes, on log p(x), where the divergence includes log(classes):
        that of the one class chosen from even odds for all.
        """
        if label is not None:
            return self.told(label).bound(image, noise)
        found, choice = self.told(self.likeliest(image)).bound(image, noise), math.log(len(self.pictures.classes))
        return {**found, "bound": found["bound"] - choice, "kl": found["kl"] + choice}

    def log_weights(self, image: Tensor, noise: Noise, draws: int, label: Tensor | None = None) -> Tensor:
        """Of log p(x|y), as those of a VAE; without classes, of log p(x), as in `bound`."""
        if label is not None:
            return self.told(label).log_weights(image, noise, draws)
        weights = self.told(self.likeliest(image)).log_weights(image, noise, draws)
        return weights - math.log(len(self.pictures.classes))


class _Told(VAE):
    """A conditional VAE whose networks have been told classes [N] int64: a VAE like any other."""

    def __init__(self, whole: CVAE, label: Tensor):
        nn.Module.__init__(self)
        size, classes = whole.pictures.size, len(whole.pictures.classes)
        loudness = whole.latent_size**0.5  # a class is as long as a latent is, or the latent learns to tell it first

        def encoder(image: Tensor) -> Tensor:
            return whole.encoder(torch.cat([image, whole.planes(label).view(-1, 1, size, size).to(image.dtype)], 1))

        def decoder(latent: Tensor) -> Tensor:
            return whole.decoder(joined(latent, label, classes, loudness))

        names = ("config", "pictures", "latent_size", "prior", "learned_scale")
        shared = {name: getattr(whole, name) for name in names}
        self.__dict__.update(shared, encoder=encoder, decoder=decoder)  # not as modules of its own


CVAE_RECIPE = Recipe(
    summary="VAE that is told a picture's class, and draws pictures of a class that is asked for.",
    model=CVAE,
    config=VAEConfig(),
    tiny=VAEConfig(latent_size=4, widths=(4, 8), components=4),
    train=TrainConfig(steps=6000),
    best="bound",
    expect=measured(
        "tasvir train cvae --data mnist --model.latent-size 8 --model.beta 3 --model.optimizer.schedule cosine "
        "--train.steps 5000",
        ONE_THREAD,
        label_agreement=0.982,
        frechet=2.18,
    )
    + measured(
        "tasvir train cvae --data mnist --model.latent-size 16 --train.steps 5000",
        f"{MIXTURE}; {ONE_THREAD}",
        label_agreement=0.993,
    ),
)

RECIPES = {"cvae": CVAE_RECIPE}
