"""A trained model's latent space, to walk in: single dimensions, directions between classes, the plane, the prior."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tasvir.config import Refused
from tasvir.core import Noise, abilities
from tasvir.data import Dataset, load
from tasvir.drawing import BATCH, Opened, PriorName, class_number
from tasvir.losses.divergences import gaussian_kl
from tasvir.nn.priors import Standard
from tasvir.spaces import random_latents

KNOWN = 2000
"""Held-out pictures, at most, from which it is told how much each dimension carries."""
MEANT = 2000
"""Training pictures of a class, at most, whose latents are averaged."""


@dataclass(frozen=True)
class Dimensions:
    """How much each latent dimension tells of held-out pictures."""

    mean: np.ndarray
    """[N,D] float32: their latents."""
    deviation: np.ndarray
    """[N,D] float32: of the posterior; zero where the model encodes to points."""
    nats: np.ndarray | None
    """[D]: the mean over pictures of KL(q(z|x) ‖ N), where N is N(0,1) if that is the prior, else the Gaussian of the
    aggregate posterior's mean and variance; None where the model encodes to points."""
    normal: bool
    """Whether the prior is N(0,1)."""

    @property
    def order(self) -> np.ndarray:
        """Numbers of the dimensions, those that tell most first: by nats, else by the variance of the encodings."""
        told = self.mean.var(0) if self.nats is None else self.nats
        return np.argsort(-told, kind="stable")

    def name(self, dimension: int) -> str:
        """`dimension 7, KL 2.1 nats`, numbered from 0."""
        if self.nats is not None:
            return f"dimension {dimension}, KL {self.nats[dimension]:.2g} nats"
        return f"dimension {dimension}, deviation {self.mean[:, dimension].std():.2g}"

    def drawn(self, seed: int = 0) -> np.ndarray:
        """[N,D]: one latent from each picture's posterior, together draws from the aggregate posterior."""
        unit = np.random.default_rng(seed).standard_normal(self.mean.shape, np.float32)
        return self.mean + self.deviation * unit


def dimensions(opened: Opened, number: int = KNOWN) -> Dimensions:
    """What the latents of the first held-out pictures tell. Raises `Refused` if they are not finite."""
    images, labels = opened.real(None, number), opened.labels_beside(None, number)
    if not callable(getattr(opened.model, "posterior", None)):
        mean = _finite(opened.encoded(images, labels))
        return Dimensions(mean, np.zeros_like(mean), None, False)
    means, log_variances = [], []
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            rows = slice(start, start + BATCH)
            more = {} if labels is None else {"label": torch.tensor(labels[rows], device=opened.device)}
            found = opened.model.posterior(opened.tensor(images[rows]), **more)
            means.append(found[0].float().cpu())
            log_variances.append(found[1].float().cpu())
    means_of_all, log_variance = torch.cat(means), torch.cat(log_variances)
    normal = isinstance(getattr(opened.model, "prior", None), Standard | None)
    centre, spread = torch.zeros(1), torch.zeros(1)
    if not normal:
        centre = means_of_all.mean(0)
        spread = (means_of_all.var(0, correction=0) + log_variance.exp().mean(0)).log()
    nats = gaussian_kl(means_of_all, log_variance, centre, spread).mean(0)
    return Dimensions(_finite(means_of_all.numpy()), (0.5 * log_variance).exp().numpy(), nats.numpy(), normal)


def _finite(latents: np.ndarray) -> np.ndarray:
    if not np.isfinite(latents).all():
        raise Refused("Some latents are not finite.")
    return latents


@dataclass(frozen=True)
class Walked:
    """Decoded pictures in named rows and columns."""

    images: np.ndarray
    """uint8 [R·S,H,W,C], row after row."""
    rows: list[str]
    columns: list[str]
    pictures: int = 0
    """Held-out pictures by which dimensions were put in order."""


@dataclass(frozen=True)
class Walk:
    """Where a single dimension is taken to."""

    values: Callable[[np.ndarray, bool, int], np.ndarray]
    """(its encodings [N], whether the prior is N(0,1), steps) → [steps]."""
    names: Callable[[int], list[str]]


def _deviations(encodings: np.ndarray, normal: bool, steps: int) -> np.ndarray:
    part = np.linspace(-3, 3, steps)
    return part if normal else encodings.mean() + part * encodings.std()


def _quantile_parts(steps: int) -> np.ndarray:
    """Probabilities that a standard normal variable gives evenly spaced values from -2.5 to 2.5: 0.6 % to 99.4 %."""
    from scipy.stats import norm

    return norm.cdf(np.linspace(-2.5, 2.5, steps))


WALKS: dict[str, Walk] = {
    "deviations": Walk(_deviations, lambda steps: [signed(value) for value in np.linspace(-3, 3, steps)]),
    "quantiles": Walk(
        lambda encodings, normal, steps: np.quantile(encodings, _quantile_parts(steps)),
        lambda steps: [f"{100 * part:.2g} %" for part in _quantile_parts(steps)],
    ),
}
"""deviations: -3 to 3, of the prior where it is N(0,1), else of the aggregate posterior about its mean; quantiles:
those of the aggregate posterior.
"""


def signed(value: float) -> str:
    """A short number for the head of a column."""
    return f"{round(float(value), 2) + 0:.3g}".replace("-", "−")


def traversals(
    opened: Opened,
    source: str | None,
    number: int,
    steps: int = 9,
    along: str = "deviations",
    label: str | None = None,
    known: int = KNOWN,
) -> Walked:
    """The first picture with one latent dimension changed, a row for each of the `number` that tell most of
    `known` held-out pictures. Raises `Refused` if the model does not encode and decode.
    """
    if {"encode", "decode"} & set(abilities(opened.model)) == {"decode"}:
        raise Refused(
            f"{opened.run.config.recipe} does not encode, so none of its dimensions tells more than another: traverse "
            "takes autoencoders that encode and decode, and infogan.\n`tasvir interpolate` walks between its latents."
        )
    opened.require("encode", "decode")
    about = dimensions(opened, known)
    real = opened.real(source, 1)
    labels = opened.classes_of(real, opened.labels_beside(source, 1, label))
    start = opened.encoded(real, labels)[0]
    chosen, walk = about.order[:number], WALKS[along]
    drawn = about.drawn()
    latents = np.tile(start, (len(chosen), steps, 1))
    for row, dimension in enumerate(chosen):
        latents[row, :, dimension] = walk.values(drawn[:, dimension], about.normal, steps)
    beside = None if labels is None else labels * (len(chosen) * steps)
    images = opened.decoded(latents.reshape(-1, latents.shape[2]), beside)
    names = [about.name(int(dimension)) for dimension in chosen]
    return Walked(images, names, walk.names(steps), len(about.mean))


CODE_ENDS = 2.0
"""How far a continuous code is taken to either side (Chen et al. 2016, arXiv 1606.03657, figure 2)."""


def code_traversals(opened: Opened, number: int = 10, steps: int = 9, seed: int = 0) -> list[Walked]:
    """For a model with codes, a sheet for each kind: every category of random latents, and every continuous code.

    Each categorical code has a column for each category, and `number` rows, each of one noise. Each continuous code is
    taken from -2 to 2, in a row for each of the first `number` categories of the first categorical code. All other
    parts of the latent stay as they are, continuous codes at 0. Raises `Refused` if the model has no codes.
    """
    codes = getattr(opened.model, "latent_codes", ())
    if not codes:
        raise Refused(f"{opened.run.config.recipe} has no codes to change.")
    drawn = random_latents(opened.model, Noise(range(seed, seed + number))).numpy()
    for code in codes:
        if code.size == 1:
            drawn[:, code.start] = 0
    categorical = [code for code in codes if code.size > 1]
    sheets = []
    for code in categorical:
        latents = np.repeat(drawn[:, None], code.size, 1)
        latents[:, :, code.start : code.start + code.size] = np.eye(code.size)
        rows = [f"{code.name}, noise {seed + row}" for row in range(number)]
        columns = [str(place) for place in range(code.size)]
        sheets.append(_code_sheet(opened, latents, rows, columns))
    latents_of_codes, rows = [], []
    for code in codes:
        if code.size > 1:
            continue
        starts, names = drawn[:1], [code.name]
        if categorical:
            first = categorical[0]
            shown = min(number, first.size)
            starts = np.repeat(drawn[:1], shown, 0)
            starts[:, first.start : first.start + first.size] = np.eye(first.size)[:shown]
            names = [f"{code.name}, {first.name} {place}" for place in range(shown)]
        latents = np.repeat(starts[:, None], steps, 1)
        latents[:, :, code.start] = np.linspace(-CODE_ENDS, CODE_ENDS, steps)
        latents_of_codes.append(latents)
        rows += names
    if rows:
        columns = [signed(value) for value in np.linspace(-CODE_ENDS, CODE_ENDS, steps)]
        sheets.append(_code_sheet(opened, np.concatenate(latents_of_codes), rows, columns))
    return sheets


def _code_sheet(opened: Opened, latents: np.ndarray, rows: list[str], columns: list[str]) -> Walked:
    return Walked(opened.decoded(latents.reshape(-1, latents.shape[2])), rows, columns)


def labelled(opened: Opened, attribute: str | None) -> Dataset:
    """The run's set with the classes of another attribute. Raises `Refused` if it has no such one, or no classes."""
    if attribute is None:
        dataset = opened.dataset
    else:
        dataset = load(replace(opened.run.config.data, size=opened.run.pictures.size, labels=attribute))
    if dataset.train.labels is None or not len(dataset.train.images):
        raise Refused(
            f"{opened.run.data_words} has no classes to tell apart; --attribute names one where a set has several."
        )
    return dataset


def attribute_vector(
    opened: Opened, minus: str | int, plus: str | int, attribute: str | None = None, meant: int = MEANT
) -> np.ndarray:
    """[D]: the mean latent of training pictures of class `plus` less that of class `minus`, each by name or
    number (Larsen et al. 2016, arXiv
    1512.09300, section 4.2), over `meant` pictures of each at most. Raises `Refused` if there are no such classes.
    """
    dataset = labelled(opened, attribute)
    known, classes = np.asarray(dataset.train.labels), dataset.pictures.classes
    first, second = (one if isinstance(one, int) else class_number(one, classes) for one in (minus, plus))
    if first == second:
        raise Refused(f"--minus and --plus are both {classes[first]}, between which there is no direction.")
    own = opened.dataset.train.labels if opened.conditional else None
    means = []
    for wanted in (first, second):
        chosen = np.flatnonzero(known == wanted)[:meant]
        if not len(chosen):
            raise Refused(f"{opened.run.data_words} has no training pictures of class {classes[wanted]}.")
        beside = None if own is None or len(own) != len(known) else np.asarray(own)[chosen]
        total = np.zeros(opened.model.latent_size)
        for start in range(0, len(chosen), BATCH):
            rows = slice(start, start + BATCH)
            images = np.asarray(dataset.train.images[chosen[rows]])
            total += opened.encoded(images, None if beside is None else beside[rows]).sum(0, dtype=np.float64)
        means.append(total / len(chosen))
    return _finite((means[1] - means[0]).astype(np.float32))


def arithmetic(
    opened: Opened,
    source: str | None,
    number: int,
    minus: str | int,
    plus: str | int,
    strengths: Sequence[float] | np.ndarray,
    attribute: str | None = None,
    label: str | None = None,
    meant: int = MEANT,
) -> tuple[np.ndarray, Walked]:
    """Pictures uint8 [N,H,W,C], and a row for each: its latent with the attribute vector added at every strength.

    Raises `Refused` if the model does not encode and decode, or there are no such classes.
    """
    opened.require("encode", "decode")
    vector = attribute_vector(opened, minus, plus, attribute, meant)
    real = opened.real(source, number)
    labels = opened.classes_of(real, opened.labels_beside(source, len(real), label))
    start = opened.encoded(real, labels)
    latents = start[:, None] + np.asarray(strengths, np.float32)[:, None] * vector
    beside = None if labels is None else np.repeat(labels, len(strengths))
    images = opened.decoded(latents.reshape(-1, latents.shape[2]), beside)
    return real, Walked(images, [], [signed(strength) for strength in strengths])


# --- in the plane ---


def in_plane(latents: np.ndarray, method: str = "pca") -> tuple[np.ndarray, tuple[str, str]]:
    """Latents [N,D] as points [N,2] by a row of `PLANES`, and the names of the two axes; two dimensions stay."""
    if latents.shape[1] == 2 and method == "pca":
        return latents, ("first latent dimension", "second latent dimension")
    name, draw = PLANES[method]
    return draw(latents), (f"first {name}", f"second {name}")


def _principal(latents: np.ndarray) -> np.ndarray:
    return _projected(latents, latents)


def _projected(latents: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Latents [N,D] on the two principal components of others [M,D]; [N,2]."""
    centre = onto.mean(0)
    directions = np.linalg.svd(onto - centre, full_matrices=False)[2][:2]
    plane = (latents - centre) @ directions.T
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))  # of one latent dimension, or one picture


def _tsne(latents: np.ndarray) -> np.ndarray:
    """t-SNE (van der Maaten and Hinton 2008), begun from the principal components."""
    from sklearn.manifold import TSNE

    if len(latents) < 5:
        raise Refused(f"t-SNE needs at least 5 pictures, and there are {len(latents)}.")
    start = _principal(latents)
    start = (start / max(float(start[:, 0].std()), 1e-12) * 1e-4).astype(np.float32)
    return TSNE(perplexity=min(30.0, (len(latents) - 1) / 3), init=start, random_state=0).fit_transform(latents)


def _umap(latents: np.ndarray) -> np.ndarray:
    """UMAP (McInnes et al. 2018, arXiv 1802.03426)."""
    try:
        from umap import UMAP
    except ImportError:
        raise Refused("UMAP needs the package umap-learn: pip install umap-learn, or take --method tsne.") from None
    if len(latents) < 5:
        raise Refused(f"UMAP needs at least 5 pictures, and there are {len(latents)}.")
    return np.asarray(UMAP(n_neighbors=min(15, len(latents) - 1), random_state=0, n_jobs=1).fit_transform(latents))


PLANES: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "pca": ("principal component", _principal),
    "tsne": ("t-SNE dimension", _tsne),
    "umap": ("UMAP dimension", _umap),
}
"""Method → (the name of an axis, latents [N,D] → points [N,2])."""


# --- the prior against the aggregate posterior ---


@dataclass(frozen=True)
class Marginal:
    """The densities of one latent dimension."""

    name: str
    at: np.ndarray
    """[P]: values of the dimension."""
    prior: np.ndarray
    """[P]"""
    posterior: np.ndarray
    """[P]"""


@dataclass(frozen=True)
class Aggregate:
    """Draws from the prior and from the aggregate posterior q(z), the mean over pictures of q(z|x)."""

    prior_name: str
    prior: np.ndarray
    """[N,2] in the plane of the aggregate posterior's two principal components."""
    posterior: np.ndarray
    """[N,2]"""
    axes: tuple[str, str]
    marginals: list[Marginal]
    """Of the dimensions that tell most."""
    pictures: int
    """Held-out pictures that the aggregate posterior is of."""


def aggregate(opened: Opened, number: int = KNOWN, most: int = 6, prior: PriorName = "model") -> Aggregate:
    """The prior beside the aggregate posterior of held-out pictures. Raises `Refused` if there is none of the two."""
    opened.require("encode", *(["sample"] if prior == "model" else ["decode"]))
    known = dimensions(opened, number)
    posterior, name, drawn = known.drawn(), *_prior(opened, len(known.mean), prior)
    marginals = []
    for dimension in known.order[:most]:
        ours, theirs = posterior[:, dimension], drawn[:, dimension]
        both = np.concatenate([ours, theirs])
        low, high = np.quantile(both, (0.002, 0.998))
        margin = 0.15 * (high - low) or 1.0
        at = np.linspace(low - margin, high + margin, 120)
        marginals.append(Marginal(known.name(int(dimension)), at, density(theirs, at), density(ours, at)))
    axes = in_plane(posterior)[1]
    plane = [values if values.shape[1] == 2 else _projected(values, posterior) for values in (drawn, posterior)]
    return Aggregate(name, plane[0], plane[1], axes, marginals, len(known.mean))


def _prior(opened: Opened, number: int, prior: PriorName) -> tuple[str, np.ndarray]:
    """What the prior is called, and latents [N,D] drawn from it."""
    noise, model = Noise(range(number)), opened.model
    if prior == "mixture":
        return "mixture fitted after training", opened.mixture.draw(noise)[0].numpy()
    with torch.no_grad():
        drawn = model.latents(noise) if callable(getattr(model, "latents", None)) else noise.draw(model.latent_size)
    return "prior", drawn.float().cpu().numpy()


def density(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A kernel estimate of the density of values [N] at places [P]: Gaussians as wide as Silverman's rule says."""
    spread = min(float(values.std()), float(np.subtract(*np.quantile(values, (0.75, 0.25)))) / 1.34 or math.inf)
    width = max(0.9 * spread * len(values) ** -0.2, 1e-6, float(at[1] - at[0]) / 2)
    return np.exp(-0.5 * ((at[:, None] - values) / width) ** 2).mean(1) / (width * math.sqrt(2 * math.pi))
