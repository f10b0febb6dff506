"""The whole vocabulary: Batch, Turn, Player, Model, Recipe, and the abilities that a model can have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tasvir.config import DataConfig, OptimizerConfig, Pictures, Refused, TrainConfig


@dataclass
class Batch:
    """Pictures to learn from, with what stands beside them; all on the model's device."""

    image: Tensor
    """[B,C,H,W] float in [-1,1]: what is learned."""
    label: Tensor | None = None
    """[B] int64 class."""
    source: Tensor | None = None
    """[B,C',H',W'] float in [-1,1]: picture to translate or enlarge."""
    prepared: Tensor | None = None
    """[B,...]: what `Model.prepare` makes of the pictures, where it was computed for the whole set before training."""
    labelled: "Batch | None" = None
    """As many of the pictures whose class is known, with `label`, where only some are (`--data.labelled`); then the
    batch itself has no `label`."""

    def __len__(self) -> int:
        return len(self.image)


@dataclass
class Turn:
    """One optimizer step by one player."""

    player: str
    """Key of `Model.players()`."""
    terms: dict[str, Tensor]
    """Scalar losses; their sum is descended, each is logged."""
    watch: dict[str, Tensor] = field(default_factory=dict)
    """Scalars that are only logged."""


@dataclass
class Player:
    """Whose parameters a turn moves, and how."""

    networks: tuple[nn.Module, ...]
    optimizer: OptimizerConfig
    compiled: bool = True
    """Whether its networks may be compiled; torch.compile cannot differentiate twice (gradient penalties)."""

    def parameters(self) -> list[nn.Parameter]:
        return [p for network in self.networks for p in network.parameters() if p.requires_grad]


class Model(nn.Module):
    """Networks, players and `turns`. A subclass takes its config and a `Pictures`, and adds abilities (below)."""

    sizes = "any size"
    """In words, the picture sizes that `accepts` says yes to."""
    needs: tuple[str, ...] = ()
    """What must stand beside every picture to train it: `labels`, `source`."""
    stands_on: str | None = None
    """The ability that the model's `foundation` must have; None if it stands on no other model."""
    truncates: bool = False
    """Whether `sample` takes `truncation`, which trades variety for quality; it must be above 0."""
    unpaired: bool = False
    """Whether pictures and sources are learned from as two sets, even where each source belongs to its picture."""
    stepwise: bool = False
    """Whether it draws in steps, its network asked at each: then `sampling` settles how, and `sample` takes `how`."""
    few_labels: bool = False
    """Whether it learns from pictures of which only some have a class (`--data.labelled`)."""
    conditional: bool = False
    """Whether it draws, encodes and decodes for a class: then those abilities take `label`, [N] int64, last."""

    @staticmethod
    def accepts(size: int) -> bool:
        """Whether the model can be built for pictures of this height and width."""
        return size >= 4

    @classmethod
    def lacks(cls, pictures: Pictures) -> str | None:
        """Why the model cannot be trained on such pictures, as a sentence; None if it can."""
        if not cls.accepts(pictures.size):
            return f"takes pictures of {cls.sizes}, not {pictures.size} px: set --data.size"
        if "labels" in cls.needs and not pictures.classes:
            return "needs classes, and these pictures have none: put each class into a folder of its own"
        if "source" in cls.needs and pictures.source is None:
            return "needs pairs, and these are single pictures: --data.derive makes pairs of them"
        if "source" in cls.needs and not pictures.matched and not cls.unpaired:
            return "needs pairs, and these two sets only lie side by side: cyclegan learns from such sets"
        return None

    def __init__(self, config: Any, pictures: Pictures, foundation: "Model | None" = None):
        super().__init__()
        self.config = config
        self.pictures = pictures
        self.foundation = None if foundation is None else foundation.requires_grad_(False).eval()
        """A trained model that this one stands on: frozen, and kept in this model's own checkpoints."""

    def train(self, mode: bool = True) -> "Model":
        """As in torch; the foundation never changes, so it stays in evaluation mode."""
        super().train(mode)
        if self.foundation is not None:
            self.foundation.eval()
        return self

    def begin(self) -> None:
        """Called once, before the first step, when the foundation has its trained weights."""

    def fetch(self) -> None:
        """Read or fetch what training needs besides pictures. Raises `Refused` if it cannot be had."""

    def least_batch(self) -> tuple[int, str]:
        """The fewest pictures, of all processes together, that the first step can be made of, and why."""
        return 1, ""

    def prepare(self, image: Tensor) -> Tensor:
        """What the foundation makes of pictures, [N,C,H,W] in [-1,1] → [N,...]; comes back as `Batch.prepared`."""
        raise NotImplementedError

    def check_classes(self, label: Tensor) -> None:
        """Raise `Refused` for a class among [N] int64 that there is not."""
        count = len(self.pictures.classes)
        outside = label[(label < 0) | (label >= count)]
        if len(outside):
            raise Refused(f"There is no class {int(outside[0])}: there are {count}, from 0 to {count - 1}.")

    def draw_classes(self, noise: "Noise") -> Tensor:
        """A class for each seed, all being as likely, [N] int64."""
        count = len(self.pictures.classes)
        return (noise.uniform(device=self.device) * count).long().clamp(max=count - 1)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def players(self) -> dict[str, Player]:
        raise NotImplementedError

    def turns(self, batch: Batch, step: int) -> Iterator[Turn]:
        """The paper's algorithm for one step, as written; each turn is descended before the next is computed."""
        raise NotImplementedError


NoiseKind = Literal["normal", "uniform", "exponential"]


def draw_noise(
    kind: NoiseKind, shape: Sequence[int], generator: torch.Generator | None = None, device: Any = "cpu"
) -> Tensor:
    """Independent noise of zero mean and unit variance, float32: N(0,1), U(-√3,√3) or Exp(1)-1."""
    if kind == "normal":
        return torch.randn(tuple(shape), generator=generator, device=device)
    values = torch.empty(tuple(shape), device=device)
    if kind == "uniform":
        return values.uniform_(-(3**0.5), 3**0.5, generator=generator)
    return values.exponential_(generator=generator) - 1


class Noise:
    """The randomness of some pictures, each from its own seed, so that a picture depends on its seed alone.

    It is drawn on the CPU: the same seed gives the same noise on every device and in every batch. `kind` is what was
    asked for, None leaves it to the model.
    """

    def __init__(self, seeds: Sequence[int], kind: NoiseKind | None = None):
        self.seeds = list(seeds)
        self.kind: NoiseKind | None = kind
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def draw(self, *shape: int, device: Any = "cpu", usual: NoiseKind = "normal") -> Tensor:
        """[N, *shape] float32, zero mean and unit variance; each call goes on where the last one stopped.

        `usual` is the model's own distribution, where no other was asked for.
        """
        kind = self.kind or usual
        return torch.stack([draw_noise(kind, shape, generator) for generator in self.generators]).to(device)

    def uniform(self, *shape: int, device: Any = "cpu") -> Tensor:
        """[N, *shape] float32 in [0,1), whatever `kind` is; to draw what is discrete."""
        return torch.stack([torch.rand(shape, generator=generator) for generator in self.generators]).to(device)


def truncated(latent: Tensor, bound: float) -> Tensor:
    """Standard normal values as values of the normal distribution within ± `bound`, in the same order.

    The truncation trick of Brock et al. 2019 (arXiv 1809.11096, section 3.1), which draws again what is outside; here
    each value is moved to the same quantile of the truncated distribution, so that a seed stays the same picture.
    """
    values, edge = latent.double(), torch.tensor(bound, dtype=torch.float64, device=latent.device)
    low, high = torch.special.ndtr(-edge), torch.special.ndtr(edge)
    inside = torch.special.ndtri(low + torch.special.ndtr(values) * (high - low))
    return inside.clamp(-edge, edge).to(latent.dtype)


@runtime_checkable
class Samples(Protocol):
    def sample(self, noise: Noise, label: Tensor | None = None) -> Tensor:
        """[N,C,H,W] float in [-1,1], one picture for each seed of `noise`; `label` is [N] int64."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    def reconstruct(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to the same."""
        ...


@runtime_checkable
class Encodes(Protocol):
    latent_size: int

    def encode(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to latents [N,D]."""
        ...


@runtime_checkable
class Decodes(Protocol):
    latent_size: int

    def decode(self, latent: Tensor) -> Tensor:
        """Latents [N,D], as `encode` gives them or as the model's prior draws them, to [N,C,H,W] float in [-1,1]."""
        ...


@runtime_checkable
class Compresses(Protocol):
    latent_shape: tuple[int, int, int]
    """Channels, height and width of its latents; a vector is a map of 1 px."""

    def compress(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to latents [N,*latent_shape] float32, as little of noise as the model knows how."""
        ...

    def expand(self, latent: Tensor) -> Tensor:
        """Latents [N,*latent_shape], also ones between or beside those of pictures, to [N,C,H,W] float in [-1,1]."""
        ...


@runtime_checkable
class Scores(Protocol):
    def bound(self, image: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The evidence lower bound on the log-likelihood of each picture from one draw of z, [N] nats.

        `bound` is `log_likelihood`, log p(x|z), less `kl`, KL(q(z|x) ‖ p(z)).
        """
        ...

    def log_weights(self, image: Tensor, noise: Noise, draws: int) -> Tensor:
        """log p(x,z) - log q(z|x) of independent draws of z from q(z|x), [draws,N] nats; the first is that of `bound`.

        The logarithm of their mean weight is the importance-weighted bound (Burda et al. 2016, arXiv 1509.00519).
        """
        ...


@runtime_checkable
class KnowsLikelihood(Protocol):
    def log_likelihood(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to log p(x) in nats, [N]: exact, no bound."""
        ...


@dataclass(frozen=True)
class Grid:
    """A square of discrete codes."""

    side: int
    codes: int
    """How many different ones there are."""


@runtime_checkable
class Tokenizes(Protocol):
    grids: tuple[Grid, ...]
    """Coarsest first."""

    def tokenize(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to the codes of all grids, each row by row, one after another: [N,T] int64."""
        ...

    def detokenize(self, codes: Tensor) -> Tensor:
        """[N,T] int64, as `tokenize` gives them, to [N,C,H,W] float in [-1,1]."""
        ...


@runtime_checkable
class KnowsCodes(Protocol):
    grids: tuple[Grid, ...]

    def code_log_likelihood(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to log p of the codes of each picture in nats, [N]: exact, of the codes alone."""
        ...


@runtime_checkable
class Classifies(Protocol):
    def classify(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to logits of the classes of the training set, [N,K] float32."""
        ...


@runtime_checkable
class Categorizes(Protocol):
    def categorize(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to logits of categories that the model found without labels, [N,K] float32."""
        ...


@runtime_checkable
class Translates(Protocol):
    stride: int
    """Height and width of a source must be multiples of it."""
    scale: int
    """How many times larger a picture is than its source."""

    def translate(self, source: Tensor, noise: Noise | None = None) -> Tensor:
        """[N,C',H,W] float in [-1,1] to [N,C,scale·H,scale·W] float in [-1,1], for any H and W that `stride` divides.

        Where there are several answers, each seed of `noise` is one; without it, the model's best guess.
        """
        ...

    def compared(self, batch: Batch) -> dict[str, Tensor]:
        """What to look at side by side, by what it is, each [N,C,H,W] float in [-1,1]; sizes and channels may differ.

        For a batch with sources: each source, what becomes of it, and what it should be.
        """
        ...


@runtime_checkable
class TranslatesBack(Protocol):
    def translate_back(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to sources [N,C',H,W] float in [-1,1]: the other direction."""
        ...


@runtime_checkable
class Upscales(Protocol):
    scale: int

    def upscale(self, image: Tensor) -> Tensor:
        """[N,C,H,W] float in [-1,1] to [N,C,scale·H,scale·W] float in [-1,1]."""
        ...


@runtime_checkable
class Denoises(Protocol):
    def denoise(self, image: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        """[N,C,H,W] float, pictures in [-1,1] with Gaussian noise of standard deviations `sigma` [N], to the expected
        pictures without it, [N,C,H,W] float in [-1,1]."""
        ...


@dataclass(frozen=True)
class Code:
    """A part of the latent that is to mean something by itself."""

    name: str
    start: int
    """Its first dimension."""
    size: int = 1
    """How many categories a one-hot code has; 1 is a continuous one, from -1 to 1 while training."""


ABILITIES: dict[str, type] = {
    "sample": Samples,
    "reconstruct": Reconstructs,
    "encode": Encodes,
    "decode": Decodes,
    "compress": Compresses,
    "bound": Scores,
    "log_likelihood": KnowsLikelihood,
    "tokenize": Tokenizes,
    "code_log_likelihood": KnowsCodes,
    "classify": Classifies,
    "categorize": Categorizes,
    "translate": Translates,
    "translate_back": TranslatesBack,
    "upscale": Upscales,
    "denoise": Denoises,
}


def abilities(model: type[Model] | Model) -> list[str]:
    """Names of what a model can do."""
    return [name for name in ABILITIES if callable(getattr(model, name, None))]


@dataclass(frozen=True)
class Expectation:
    """What a recipe was measured to reach, and how to reach it again."""

    metric: str
    value: float
    command: str
    passport: str
    """Set and split, number of pictures, step, seed, machine, software, in one line."""


def measured(command: str, passport: str, **values: float) -> tuple[Expectation, ...]:
    """Several numbers of one run."""
    return tuple(Expectation(metric, value, command, passport) for metric, value in values.items())


@dataclass(frozen=True)
class Recipe:
    """A model with every default, and what it was measured to reach."""

    summary: str
    model: type[Model]
    config: Any
    """Frozen dataclass: the defaults of `--model.*`."""
    train: TrainConfig = TrainConfig()
    data: DataConfig = DataConfig()
    tiny: Any = None
    """The same config, small enough for a test."""
    best: str = "frechet"
    """The metric whose best checkpoint is kept when it is measured while training."""
    foundation: str | None = None
    """The recipe that is trained first, for `model` to stand on, where no run is named."""
    expect: tuple[Expectation, ...] = ()
    published: str = ""
    """What others report of the same method, with the source and what differs there."""

    def preset(
        self,
        summary: str,
        expect: tuple[Expectation, ...] = (),
        published: str = "",
        train: dict | None = None,
        data: dict | None = None,
        **config: Any,
    ) -> "Recipe":
        """This recipe with some settings of its model (and of the loop and the data) changed."""
        return replace(
            self,
            summary=summary,
            config=replace(self.config, **config),
            tiny=replace(self.tiny, **config),
            train=replace(self.train, **(train or {})),
            data=replace(self.data, **(data or {})),
            expect=expect,
            published=published,
        )
