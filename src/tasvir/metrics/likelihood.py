"""How likely a model finds real pictures: exactly, where it knows; else the evidence lower bound and its two parts, the
importance-weighted bound (Burda et al. 2016, arXiv 1509.00519); bits per dimension, and latent units in use."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tasvir.core import Encodes, Noise
from tasvir.drawing import BATCH
from tasvir.losses.likelihoods import LIKELIHOODS
from tasvir.metrics.features.extraction import exact, shown
from tasvir.metrics.subject import Subject, known_classes
from tasvir.metrics.values import Value, bootstrap, of_each
from tasvir.training.foundation import weights_hash

ACTIVE = 0.01
"""Variance over pictures of a posterior mean from which on its unit is active (Burda et al. 2016, section 5.2)."""
LEVELS = 256
"""Values that a channel of a pixel can have, where pictures are not binarized."""
REPLICATES = 200
"""Resamples behind the interval of the active units."""


def importance_bound(log_weights: Tensor) -> Tensor:
    """log of the mean weight of K draws [K,N] nats → [N] (Burda et al. 2016, equation 8), in float64.

    A lower bound on log p(x) in expectation, which no K makes worse (theorem 1): with one draw it is the evidence lower
    bound, with endless draws log p(x) itself.
    """
    return torch.logsumexp(log_weights.double(), 0) - math.log(len(log_weights))


def bits_per_dimension(nats: np.ndarray, dimensions: int, density: bool) -> np.ndarray:
    """Log-likelihoods [N] in nats of pictures of that many pixel values → bits that each value costs, [N].

    -nats / (dimensions · ln 2). Of a density over pixels in [0,1], a level's probability is the density over 256, as
    usual since Theis et al. 2016 (arXiv 1511.01844, section 3.1): log2(256) bits more. (Levels k/255 lie 1/255 apart,
    so this is 0.006 bits too many, never too few.)
    """
    return -nats / (dimensions * math.log(2)) + (math.log2(LEVELS) if density else 0.0)


def active_units(means: np.ndarray) -> tuple[int, tuple[float, float]]:
    """Latent dimensions whose posterior mean [N,D] varies over pictures by more than `ACTIVE`, and the interval of
    their number over pictures (Burda et al. 2016, section 5.2)."""
    centred = means.astype(np.float64) - means.mean(0, dtype=np.float64)
    moments = np.concatenate([centred, np.square(centred)], axis=1)
    size, number = means.shape[1], len(means)

    def count(weights: np.ndarray) -> int:
        mean = weights @ moments / number
        return int((mean[size:] - np.square(mean[:size]) > ACTIVE).sum())

    interval = bootstrap(lambda chosen: count(np.bincount(chosen, minlength=number)), number, REPLICATES)
    return count(np.ones(number)), interval


def likelihood(subject: Subject) -> list[Value]:
    """Bounds on the log-likelihood of the reference, in nats and in bits per dimension; and what they consist of.

    Rate is KL(q(z|x) ‖ p(z)) and distortion -E log p(x|z) (Alemi et al. 2018, arXiv 1711.00464, equation 3): the bound
    is minus their sum.
    """
    assert subject.opened is not None
    model, dimensions = subject.opened.model, subject.reference[0].size
    row, binary = LIKELIHOODS[model.config.reconstruction], model.pictures.levels == 2
    scale = getattr(model, "scale", None)
    protocol = {
        "likelihood": model.config.reconstruction,
        "scale": float(model.config.scale or row.scale) if scale is None else float(scale),
        "unit": "nats, pixels 0 or 1" if binary else "nats, pixels in [0,1]",
        **_given(subject),
    }
    level = f"density over pixels in [0,1], divided by {LEVELS}"
    if not row.density:
        level = "Bernoulli, pixels 0 or 1" if binary else "Bernoulli, pixels as shares of 1"
    once, often = {**protocol, "draws": 1}, {**protocol, "draws": subject.draws}

    terms = _terms(subject)
    weighted = terms["importance_bound"]
    bits, bits_of_bound = (bits_per_dimension(nats, dimensions, row.density) for nats in (weighted, terms["bound"]))
    more = f"A lower bound: with more than its {subject.draws} draws of z it rises towards the log-likelihood."

    def in_bits(name: str, values: np.ndarray, facts: dict) -> Value:
        passport = {**facts, "unit": "bits per pixel value", "probability": level}
        return of_each(name, values, passport=passport, note=_too_many(float(values.mean()), row.density))

    found = [
        of_each("bound", terms["bound"], passport=once),
        of_each("importance_bound", weighted, passport=often, note=more),
        in_bits("bits_per_dim", bits, often),
        in_bits("bound_bits_per_dim", bits_of_bound, once),
        of_each("rate", terms["kl"], passport=once),
        of_each("distortion", -terms["log_likelihood"], passport=once),
    ]
    if "mean" in terms:
        count, interval = active_units(terms["mean"])
        passport = {"threshold": ACTIVE, "of": model.latent_size}
        found.append(Value("active_units", count, interval, len(terms["mean"]), passport=passport))
    return found


def exact_likelihood(subject: Subject) -> list[Value]:
    """The log-likelihood of the reference, in nats and in bits per dimension: a number and no bound, the probability
    of the levels themselves."""
    assert subject.opened is not None
    model, levels = subject.opened.model, subject.opened.model.pictures.levels
    nats = _in_batches(subject, lambda image, seeds, told: {"nats": model.log_likelihood(image, **told)})["nats"]
    pixels = "pixels 0 or 1" if levels == 2 else f"pixels of {levels} levels"
    facts = {"likelihood": "exact", **_given(subject)}
    bits, most = bits_per_dimension(nats, subject.reference[0].size, density=False), math.log2(levels)
    note = None
    if bits.mean() > most:
        note = f"Even odds for all levels would cost {most:g} bits: this model does worse."
    return [
        of_each("log_likelihood", nats, passport={**facts, "unit": f"nats, {pixels}"}),
        of_each(
            "bits_per_dim",
            bits,
            passport={**facts, "unit": "bits per pixel value", "probability": f"of the levels, {pixels}"},
            note=note,
        ),
    ]


def code_likelihood(subject: Subject) -> list[Value]:
    """What the codes of the reference cost under a prior over them, of all grids together: nats for a picture, and bits
    for a code. It tells nothing of the pixels; other codes, of another tokenizer, are another thing to predict."""
    assert subject.opened is not None
    model = subject.opened.model
    nats = -_in_batches(subject, lambda image, seeds, told: {"nats": model.code_log_likelihood(image, **told)})["nats"]
    number = sum(grid.side**2 for grid in model.grids)
    facts = {
        "codes": ", ".join(f"{grid.side}×{grid.side} of {grid.codes}" for grid in model.grids),
        "tokenizer": weights_hash(model.foundation),
        **_given(subject),
    }
    even = sum(grid.side**2 * math.log(grid.codes) for grid in model.grids)
    note = f"Even odds for all codes would cost {even:.5g} nats: this model does worse." if nats.mean() > even else None
    return [
        of_each("code_nats", nats, passport={**facts, "unit": "nats"}, note=note),
        of_each("bits_per_code", nats / number / math.log(2), passport={**facts, "unit": "bits per code"}),
    ]


def _given(subject: Subject) -> dict[str, str]:
    """What the model was told of each picture: log p(x|class) is another number than log p(x)."""
    return {"given": "class"} if known_classes(subject, slice(0, 1)) else {}


def _too_many(bits: float, density: bool) -> str | None:
    """A sentence where knowing nothing would cost less."""
    if density and bits > math.log2(LEVELS):
        return (
            "Even odds for all levels would cost 8 bits: the scale of this likelihood weighs errors in training and is "
            "not fitted to the pictures."
        )
    if not density and bits > 1:
        return "A fair coin for every value would cost 1 bit: this model does worse than none."
    return None


def _terms(subject: Subject) -> dict[str, np.ndarray]:
    """Of every picture of the reference: the terms of `bound`, the `importance_bound`, and its encoding as `mean`."""
    assert subject.opened is not None
    model = subject.opened.model

    def terms(image: Tensor, seeds: range, told: dict[str, Tensor]) -> dict[str, Tensor]:
        found = model.bound(image, Noise(seeds), **told)
        found["importance_bound"] = importance_bound(model.log_weights(image, Noise(seeds), subject.draws, **told))
        if isinstance(model, Encodes):
            found["mean"] = model.encode(image, **told)
        return found

    return _in_batches(subject, terms)


def _in_batches(
    subject: Subject, compute: Callable[[Tensor, range, dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, np.ndarray]:
    """Numbers of every picture of the reference, from batches of them, their seeds, and what the model is told."""
    assert subject.opened is not None
    parts: dict[str, list[np.ndarray]] = {}
    number = len(subject.reference)
    with torch.no_grad(), exact(), shown(number, "likelihood") as advance:
        for start in range(0, number, BATCH):
            part = slice(start, start + BATCH)
            image = subject.opened.tensor(subject.reference[part])
            seeds = range(subject.seed + start, subject.seed + start + len(image))
            for name, values in compute(image, seeds, known_classes(subject, part)).items():
                parts.setdefault(name, []).append(values.double().cpu().numpy())
            advance(len(image))
    return {name: np.concatenate(values) for name, values in parts.items()}
