"""How likely a diffusion model finds real pictures, in bits per dimension: by its flow, by its variational bound."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tasvir.config import Refused
from tasvir.core import Noise
from tasvir.diffusion import likelihood
from tasvir.diffusion.forward import Discrete, Level
from tasvir.metrics.features.extraction import exact, shown
from tasvir.metrics.subject import Subject, chosen, known_classes
from tasvir.metrics.values import Value, of_each

PICTURES = 100
"""Most pictures that are measured: each asks the network hundreds of times."""
STEPS = 16
"""Of the flow."""
PROBES = 1
"""Of each picture: the estimate of its trace errs in no direction, and pictures differ more than it does."""
LOOKS = 100
"""Of the network at each picture, for the variational bound."""
BATCH = 16
"""Pictures at a time; derivatives take much memory."""


def flow_likelihood(subject: Subject) -> list[Value]:
    """`flow_bits_per_dim` by the probability-flow equation, an upper bound for its dequantization is uniform."""
    assert subject.opened is not None
    model = subject.opened.model
    shades = model.pictures.levels
    least = likelihood.spacing(shades) / math.sqrt(12)
    levels = likelihood.path(model.process, STEPS, least)

    def density(image: Tensor, noise: Noise, look: Callable[[Tensor, Level], Tensor]) -> dict[str, Tensor]:
        there = likelihood.dequantized(image, noise, shades)
        probes = likelihood.rademacher(noise, PROBES, tuple(image.shape[1:]), image.device)
        return {"nats": likelihood.log_density(look, there, levels, probes)}

    found = _in_batches(subject, likelihood.EVALUATIONS * STEPS, density)["nats"]
    values = likelihood.bits(torch.from_numpy(found), subject.reference[0].size, shades).numpy()
    facts = {
        "likelihood": "density of the probability flow, dequantized uniformly",
        "solver": f"rk4, {STEPS} steps",
        "probes": PROBES,
        "least_noise": least,
        "most_noise": float(levels.sigma[-1] / levels.alpha[-1]),
        **_common(subject, shades),
    }
    return [of_each("flow_bits_per_dim", values, passport=facts, note=_too_many(values, shades))]


def variational(subject: Subject) -> list[Value]:
    """`vlb_bits_per_dim`, an upper bound on what pictures cost, and two of its three parts."""
    assert subject.opened is not None
    model = subject.opened.model
    process, shades = model.process, model.pictures.levels
    if not isinstance(process, Discrete):
        raise Refused(
            f"{subject.opened.run.config.recipe} has no fixed steps, of which the variational bound is a sum: measure "
            "flow-likelihood."
        )

    def terms(image: Tensor, noise: Noise, look: Callable[[Tensor, Level], Tensor]) -> dict[str, Tensor]:
        def clipped(x: Tensor, level: Level) -> Tensor:
            return look(x, level).clamp(-1, 1)

        return likelihood.variational_bound(clipped, image, process.levels, noise, LOOKS, shades)

    looks = min(LOOKS, process.steps)
    found = {
        name: values / subject.reference[0].size / math.log(2)
        for name, values in _in_batches(subject, looks, terms).items()
    }
    total = np.sum(list(found.values()), axis=0)
    facts = {
        "likelihood": "variational bound, estimates clipped, variances those of the posterior",
        "steps": process.steps,
        "evaluations": looks,
        **_common(subject, shades),
    }
    return [
        of_each("vlb_bits_per_dim", total, passport=facts, note=_too_many(total, shades)),
        of_each("vlb_prior", found["prior"], passport=facts),
        of_each("vlb_reconstruction", found["reconstruction"], passport=facts),
    ]


def _common(subject: Subject, shades: int) -> dict[str, object]:
    given = {"given": "class"} if known_classes(subject, slice(0, 1)) else {}
    return {"unit": "bits per pixel value", "values": shades, **given}


def _too_many(bits: np.ndarray, shades: int) -> str | None:
    most = math.log2(shades)
    return f"Even odds for all values would cost {most:g} bits: this model does worse." if bits.mean() > most else None


def _in_batches(
    subject: Subject,
    looks: int,
    compute: Callable[[Tensor, Noise, Callable[[Tensor, Level], Tensor]], dict[str, Tensor]],
) -> dict[str, np.ndarray]:
    """Numbers [N] of at most `PICTURES` of the reference, from batches of them, their noise, and what the model, told
    their classes if it knows any, estimates of noisy pictures; `looks` is how often it is asked for each."""
    assert subject.opened is not None
    opened, parts = subject.opened, dict[str, list[np.ndarray]]()
    places = chosen(len(subject.reference), PICTURES)
    with torch.no_grad(), exact(), shown(len(places) * looks, "evaluations for likelihood") as advance:
        for start in range(0, len(places), BATCH):
            part = places[start : start + BATCH]
            label = known_classes(subject, part).get("label")

            def look(x: Tensor, level: Level, label: Tensor | None = label) -> Tensor:
                advance(len(x))
                return opened.model.estimate(x, level, label)

            noise = Noise(range(subject.seed + start, subject.seed + start + len(part)))
            for name, values in compute(opened.tensor(subject.reference[part]), noise, look).items():
                parts.setdefault(name, []).append(values.double().cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}
