"""Ex-post density: a Gaussian mixture over the latents of a trained model's training pictures, to sample from in the
prior's place (Ghosh et al. 2020, arXiv 1903.12436, section 4)."""

import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.core import Noise
from tasvir.data.workers import progress
from tasvir.training.foundation import weights_hash

if TYPE_CHECKING:
    from tasvir.drawing import Opened

COMPONENTS = 10
"""As in the paper's section 5."""
PICTURES = 20_000
"""Most training pictures that a mixture is fitted to."""
FEW = 2000
"""Pictures for a mixture that is only to be looked at and not kept."""
PART = 1024
"""Pictures that are in memory at a time."""
LARGEST = 512
"""Latent dimensions beyond which a full covariance is not fitted."""


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture for each of G groups: one for all pictures, or one for each class; float64."""

    shares: Tensor
    """[G]: how the training pictures are spread over the groups."""
    weights: Tensor
    """[G,K], each row sums to 1; 0 where a group has fewer components."""
    means: Tensor
    """[G,K,D]"""
    covariances: Tensor
    """[G,K,D,D]"""

    def draw(self, noise: Noise, label: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents [N,D] float32 and their groups [N] int64, each a function of its own seed alone.

        `label` [N] int64 names the groups; left out, they are drawn by their shares.
        """
        place = noise.uniform(2).double()
        unit = noise.draw(self.means.shape[-1]).double()
        group = _drawn(self.shares.expand(len(noise), -1), place[:, 0]) if label is None else label.cpu()
        part = _drawn(self.weights[group], place[:, 1])
        turned = torch.linalg.cholesky(self.covariances)[group, part] @ unit[:, :, None]
        return (self.means[group, part] + turned[:, :, 0]).float(), group


def _drawn(weights: Tensor, place: Tensor) -> Tensor:
    """Numbers [N] of the parts of [0,1] of those widths [N,K] in which places [N] lie; none that has no width."""
    ends = weights.cumsum(1)
    last = ((weights > 0) * torch.arange(weights.shape[1])).amax(1)
    return torch.minimum((place[:, None] >= ends).sum(1), last)


def fit(latents: np.ndarray, labels: np.ndarray | None = None, groups: int = 1) -> Mixture:
    """The mixture of up to `COMPONENTS` Gaussians with full covariance of latents [N,D], by expectation-maximization.

    With labels [N] in 0..groups-1, one for each; a class of fewer than two pictures takes that of all. There are fewer
    components where there are few pictures: each has at least 2·D of them on average. The same latents give the same
    mixture. Raises `Refused` if it cannot be fitted.
    """
    size = latents.shape[1]
    if size > LARGEST:
        raise Refused(
            f"There are {size} latent dimensions; a mixture with full covariance is fitted to {LARGEST} at most."
        )
    if len(latents) < 2:
        raise Refused("A mixture needs the latents of at least two training pictures.")
    if not np.isfinite(latents).all():
        raise Refused("Some latents of training pictures are not finite, so no mixture can be fitted to them.")
    values = latents.astype(np.float64)
    members = [np.full(len(values), True)] if labels is None else [labels == group for group in range(groups)]
    found = [_fitted(values[chosen] if chosen.sum() > 1 else values) for chosen in members]
    count = max(len(weights) for weights, _, _ in found)
    weights, means = np.zeros((len(found), count)), np.zeros((len(found), count, size))
    covariances = np.tile(np.eye(size), (len(found), count, 1, 1))
    for group, (weight, mean, covariance) in enumerate(found):
        weights[group, : len(weight)] = weight / weight.sum()
        means[group, : len(weight)] = mean
        covariances[group, : len(weight)] = covariance
    shares = np.array([chosen.mean() for chosen in members])
    return Mixture(*(torch.from_numpy(part) for part in (shares / shares.sum(), weights, means, covariances)))


def _fitted(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K], means [K,D] and covariances [K,D,D] of one mixture."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    count = int(np.clip(len(values) // (2 * values.shape[1]), 1, min(COMPONENTS, len(values))))
    floor = max(1e-6 * float(values.var(0).mean()), 1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(count, covariance_type="full", reg_covar=floor, random_state=0).fit(values)
    return model.weights_, model.means_, model.covariances_


def quick(opened: "Opened", pictures: int = FEW) -> Mixture:
    """The mixture that is kept for the opened checkpoint, or one of so many training pictures that is not kept."""
    return _kept(_file(opened), weights_hash(opened.model)) or _of_training_pictures(opened, pictures, lambda _: None)


def is_kept(opened: "Opened") -> bool:
    """Whether the mixture of the opened checkpoint is in its run's folder."""
    return _kept(_file(opened), weights_hash(opened.model)) is not None


def mixture_of(opened: "Opened") -> Mixture:
    """The mixture of the opened checkpoint: fitted once, and kept in the run's folder `priors` with the hash of the
    weights it belongs to. Raises `Refused` if the model does not encode, or its training pictures are not there.
    """
    file, weights = _file(opened), weights_hash(opened.model)
    found = _kept(file, weights)
    if found is None:
        found = _of_training_pictures(opened, PICTURES, lambda sentence: print(sentence, file=sys.stderr, flush=True))
        _keep(found, file, {"weights": weights, "step": str(opened.step)})
    return found


def _of_training_pictures(opened: "Opened", most: int, say: Callable[[str], None]) -> Mixture:
    train = opened.dataset.train
    if not len(train.images):
        raise Refused(f"{opened.run.data_words} is streamed, and a mixture is fitted to packed training pictures.")
    chosen = np.random.default_rng(0).permutation(len(train.images))[:most]
    chosen.sort()
    conditional, classes = opened.conditional, len(opened.run.pictures.classes)
    labels = None if train.labels is None or not conditional else np.asarray(train.labels)[chosen]
    say(f"Fitting a mixture of Gaussians to the latents of {len(chosen):,} training pictures …")
    parts = []
    with progress(len(chosen), "encoding training pictures") as advance:
        for start in range(0, len(chosen), PART):  # the pictures may be more than memory holds
            rows = slice(start, start + PART)
            images = np.asarray(train.images[chosen[rows]])
            parts.append(opened.encoded(images, None if labels is None else labels[rows]))
            advance(len(images))
    latents = np.concatenate(parts)
    return fit(latents, labels, classes) if labels is not None else fit(latents)


def _file(opened: "Opened") -> Path:
    return opened.run.folder / "priors" / f"mixture-{opened.step:08d}.safetensors"


def _kept(file: Path, weights: str) -> Mixture | None:
    """The mixture in a file, if it is whole and was fitted with these weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as found:
            if (found.metadata() or {}).get("weights") != weights:
                return None
            return Mixture(*(found.get_tensor(name) for name in Mixture.__dataclass_fields__))
    except (OSError, SafetensorError):
        return None


def _keep(mixture: Mixture, file: Path, about: dict[str, str]) -> None:
    """Write a mixture aside and rename it into place; one that cannot be kept is fitted again the next time."""
    from safetensors.torch import save

    tensors = {name: getattr(mixture, name).contiguous() for name in Mixture.__dataclass_fields__}
    partial = file.with_name(f".{file.name}.partial")
    with suppress(OSError):
        file.parent.mkdir(exist_ok=True)
        components = ",".join(str(int(count)) for count in (mixture.weights > 0).sum(1))
        partial.write_bytes(save(tensors, {**about, "components": components}))
        partial.replace(file)
