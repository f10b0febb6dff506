"""Priors over the codes of a trained tokenizer: gated PixelCNNs, one for each grid, coarse to fine.

For one grid this is the prior of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, section 3.3); for two, that of
VQ-VAE-2 (Razavi et al. 2019, arXiv 1906.00446, section 3.2): the top prior has self-attention, and the bottom one is
conditioned on the top codes by a residual network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from tasvir.config import Count, CountOrZero, DataConfig, Fraction, OptimizerConfig, Pictures, Refused, TrainConfig
from tasvir.core import Batch, Model, Noise, Player, Recipe, Tokenizes, Turn, measured
from tasvir.models.autoencoders.ae import ONE_THREAD, TRAINED
from tasvir.models.autoencoders.vq_vae import VQVAE
from tasvir.models.autoencoders.vq_vae_2 import VQVAE2
from tasvir.nn.pixelcnn import GatedPixelCNN


@dataclass(frozen=True)
class GridConfig:
    """The network that draws one grid of codes."""

    width: Count = 64
    """Channels of both stacks."""
    layers: Count = 8
    kernel: Count = 3
    """Height and width of the window that a layer looks through, an odd number."""
    output: Count = 256
    """Channels of the last hidden layer."""
    attention: CountOrZero = 0
    """Causal self-attention after every so many layers; 0 is none."""
    heads: Count = 4
    """Heads of the attention; they divide the width."""
    dropout: Fraction = 0.1
    conditioner: Count = 64
    """Channels of the residual network that reads the coarser grids, where there are any."""
    blocks: CountOrZero = 4
    """Its residual blocks."""
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup=100, clip=1.0)


@dataclass(frozen=True)
class CodePriorConfig:
    conditional: bool = False
    """Draw pictures of a class that is asked for."""
    prior: GridConfig = GridConfig()


@dataclass(frozen=True)
class TwoLevelPriorConfig:
    conditional: bool = False
    """Draw pictures of a class that is asked for."""
    top: GridConfig = GridConfig(attention=4)
    bottom: GridConfig = GridConfig()


class Conditioner(nn.Module):
    """Coarser grids of codes, [B,S,S] each, to a map for the next finer one, [B,width,side,side]."""

    def __init__(self, codes: list[int], side: int, width: int, blocks: int):
        super().__init__()
        self.side = side
        self.embeddings = nn.ModuleList([nn.Embedding(count, width) for count in codes])
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 1))
                for _ in range(blocks)
            ]
        )
        self.last = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, grids: list[Tensor]) -> Tensor:
        seen = torch.zeros((), device=grids[0].device)
        for embedding, codes in zip(self.embeddings, grids, strict=True):
            seen = seen + interpolate(embedding(codes).permute(0, 3, 1, 2), size=self.side, mode="nearest")
        for block in self.blocks:
            seen = seen + block(seen)
        return self.last(seen)


class CodePrior(Model):
    """Learns what codes a frozen tokenizer gives to pictures, and draws new pictures through it."""

    stands_on = "tokenize"
    accepts = staticmethod(VQVAE.accepts)
    sizes = "multiples of what the tokenizer downsamples by (4) from 8 px up"
    parts: tuple[str, ...] = ("prior",)
    """Fields of the config, one `GridConfig` for each grid, coarsest first."""

    def __init__(self, config: Any, pictures: Pictures, foundation: Model):
        super().__init__(config, pictures, foundation)
        if config.conditional and not pictures.classes:
            raise Refused("--model.conditional needs classes, and these pictures have none.")
        self.conditional = bool(config.conditional)
        self.grids = self.tokenizer.grids
        if len(self.grids) != len(self.parts):
            raise Refused(
                f"This recipe draws {_counted(len(self.parts))} of codes, and what it stands on has "
                f"{_counted(len(self.grids))}: vq-vae-pixelcnn is for one, vq-vae-2 for two."
            )
        classes = len(pictures.classes) if self.conditional else 0
        networks, conditioners = {}, {}
        for level, (name, grid) in enumerate(zip(self.parts, self.grids, strict=True)):
            settings: GridConfig = getattr(config, name)
            networks[name] = GatedPixelCNN(
                1,
                grid.codes,
                grid.side,
                width=settings.width,
                layers=settings.layers,
                kernel=settings.kernel,
                output=settings.output,
                embedded=True,
                classes=classes,
                condition=settings.conditioner if level else 0,
                attention=settings.attention,
                heads=settings.heads,
                dropout=settings.dropout,
            )
            if level:
                coarser = [one.codes for one in self.grids[:level]]
                conditioners[name] = Conditioner(coarser, grid.side, settings.conditioner, settings.blocks)
        self.networks, self.conditioners = nn.ModuleDict(networks), nn.ModuleDict(conditioners)

    @property
    def tokenizer(self) -> Tokenizes:
        return cast(Tokenizes, self.foundation)

    def players(self) -> dict[str, Player]:
        return {
            name: Player(
                (self.networks[name], *([self.conditioners[name]] if name in self.conditioners else [])),
                getattr(self.config, name).optimizer,
            )
            for name in self.parts
        }

    def prepare(self, image: Tensor) -> Tensor:
        """The codes of pictures, [N,T] int64."""
        return self.tokenize(image)

    def tokenize(self, image: Tensor) -> Tensor:
        return self.tokenizer.tokenize(image)

    def detokenize(self, codes: Tensor) -> Tensor:
        return self.tokenizer.detokenize(codes)

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        codes = batch.prepared
        if codes is None:
            with torch.no_grad(), torch.autocast(batch.image.device.type, enabled=False):
                codes = self.prepare(batch.image)
        grids = self._split(codes)
        label = batch.label if self.conditional else None
        for level, name in enumerate(self.parts):
            nats = cross_entropy(self._logits(level, grids, label), grids[level])
            yield Turn(name, {"nats_per_code": nats}, {"bits_per_code": nats.detach() / math.log(2)})

    def code_log_likelihood(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """log p(codes), or log p(codes|label) where the model has classes, of all grids together, [N] nats.

        A model with classes that is given none averages p(codes|label) over them, each as likely as any other. Raises
        `Refused` for a class that there is not.
        """
        grids = self._split(self.tokenize(image))
        if not self.conditional:
            return -self._nats(grids, None)
        if label is not None:
            self.check_classes(label)
            return -self._nats(grids, label)
        classes = torch.arange(len(self.pictures.classes), device=image.device)
        given = torch.stack([-self._nats(grids, one.expand(len(image))) for one in classes])
        return given.logsumexp(0) - math.log(len(classes))

    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        if self.conditional:
            label = self.draw_classes(noise) if label is None else label
            self.check_classes(label)
        grids: list[Tensor] = []
        with torch.autocast(self.device.type, enabled=False):
            for name, grid in zip(self.parts, self.grids, strict=True):
                uniform = noise.uniform(1, grid.side, grid.side, device=self.device)
                condition = self._condition(name, grids)
                network = cast(GatedPixelCNN, self.networks[name])
                grids.append(network.sample(uniform, label if self.conditional else None, condition)[:, 0])
            return self.detokenize(torch.cat([grid.flatten(1) for grid in grids], 1))

    def reconstruct(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        return self.detokenize(self.tokenize(image))

    def _logits(self, level: int, grids: list[Tensor], label: Tensor | None) -> Tensor:
        """Of the codes of one grid given the coarser ones, [B,codes,side,side] float32."""
        name = self.parts[level]
        return self.networks[name](grids[level][:, None], label, self._condition(name, grids[:level]))[:, :, 0].float()

    def _nats(self, grids: list[Tensor], label: Tensor | None) -> Tensor:
        """-log p of the codes of all grids, [B]."""
        each = [
            cross_entropy(self._logits(level, grids, label), codes, reduction="none").flatten(1).sum(1)
            for level, codes in enumerate(grids)
        ]
        return torch.stack(each).sum(0)

    def _condition(self, name: str, coarser: list[Tensor]) -> Tensor | None:
        return self.conditioners[name](coarser) if name in self.conditioners else None

    def _split(self, codes: Tensor) -> list[Tensor]:
        """[B,T] to one [B,side,side] for each grid."""
        parts = codes.split([grid.side**2 for grid in self.grids], dim=1)
        return [part.unflatten(1, (grid.side, grid.side)) for part, grid in zip(parts, self.grids, strict=True)]


class TwoLevelPrior(CodePrior):
    accepts = staticmethod(VQVAE2.accepts)
    sizes = VQVAE2.sizes
    parts = ("top", "bottom")


def _counted(number: int) -> str:
    return f"{number} grid{'s' if number > 1 else ''}"


TINY = GridConfig(width=8, layers=2, kernel=3, output=8, conditioner=8, blocks=1, dropout=0.0)

VQ_VAE_2 = Recipe(
    summary="VQ-VAE-2: two levels of codes, a top prior with attention, a bottom prior conditioned on the top.",
    model=TwoLevelPrior,
    config=TwoLevelPriorConfig(),
    tiny=TwoLevelPriorConfig(top=replace(TINY, attention=1), bottom=TINY),
    train=TrainConfig(steps=8000, batch_size=32),
    foundation="vq-vae-2-tokenizer",
    expect=measured(
        "tasvir train vq-vae-2 --data anime_faces_64px_6000.zip --first.train.steps 3000 --train.steps 3000",
        f"6,000 anime faces of 64 px, of which 588 held out by content; {TRAINED}",
        reconstruction_psnr=23.5,
        reconstruction_ssim=0.839,
        code_nats=1323.0,
        bits_per_code=5.96,
    ),
)

# The paper's appendix A, but without its output stack (residual layers before the logits; here one hidden layer), and
# with one batch size for both grids, which see the same batches.
IMAGENET = GridConfig(
    width=512,
    layers=20,
    kernel=5,
    output=1024,
    dropout=0.1,
    conditioner=512,
    blocks=20,
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup=5000, schedule="cosine", clip=1.0),
)

RECIPES = {
    "vq-vae-pixelcnn": Recipe(
        summary="VQ-VAE with a gated PixelCNN as the prior over its codes.",
        model=CodePrior,
        config=CodePriorConfig(),
        tiny=CodePriorConfig(prior=TINY),
        train=TrainConfig(steps=8000),
        foundation="vq-vae",
        expect=measured(
            "tasvir train vq-vae-pixelcnn --data mnist --on RUN --train.steps 4000, on that of `tasvir recipes vq-vae`",
            ONE_THREAD,
            frechet=3.82,
            precision=0.793,
            recall=0.854,
            coverage=0.682,
        ),
    ),
    "vq-vae-2": VQ_VAE_2,
    "vq-vae-2-256": replace(
        VQ_VAE_2.preset(
            "VQ-VAE-2 near the paper's sizes for ImageNet, for pictures of 256 px; no output stack, one batch size.",
            train={"steps": 750_000, "batch_size": 512},
        ),
        config=TwoLevelPriorConfig(
            conditional=True,
            top=replace(IMAGENET, attention=5, heads=8, blocks=0),
            bottom=IMAGENET,
        ),
        data=DataConfig(size=256),
        foundation="vq-vae-2-tokenizer-256",
    ),
}
