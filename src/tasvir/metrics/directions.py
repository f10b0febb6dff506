"""Which way every number is better, and beside which others it is read: one table for all metrics."""

import re
from typing import Literal

Direction = Literal["higher", "lower", "real"]

GROUPS: dict[str, dict[str, Direction | None]] = {
    "distribution": {
        "frechet": "lower",
        "fid": "lower",
        "frechet_infinity": "lower",
        "fid_infinity": "lower",
        "kid": "lower",
        "inception_score": "higher",
        "precision": "higher",
        "recall": "higher",
        "density": "higher",
        "coverage": "higher",
        "prd_f8": "higher",
        "prd_f1_8": "higher",
        "sliced_wasserstein": "lower",
        "ms_ssim_diversity": "real",
        "diversity": "real",
        "colorfulness": "real",
    },
    "classes": {
        "classification_accuracy": "higher",
        "label_agreement": "higher",
        "test_accuracy": "higher",
        "code_accuracy": "higher",
        "code_agreement": "higher",
        "predicted_class_coverage": "higher",
        "rarest_class_share": "real",
        "nearest_class_accuracy": "higher",
        "class_agreement": "higher",
        "class_coverage": "higher",
    },
    "pairs": {
        "mse": "lower",
        "mae": "lower",
        "psnr": "higher",
        "ssim": "higher",
        "ms_ssim": "higher",
        "lpips": "lower",
        "gmsd": "lower",
        "ab_error": "lower",
        "psnr_y": "higher",
        "ssim_y": "higher",
        "psnr_rgb": "higher",
        "ssim_rgb": "higher",
        "cycle_mae": "lower",
        "back_cycle_mae": "lower",
        "denoising_gain": "higher",
        "denoising_psnr": "higher",
        "noisy_psnr": "higher",
        "linear_psnr": "higher",
    },
    "likelihood": {
        "bound": "higher",
        "importance_bound": "higher",
        "log_likelihood": "higher",
        "rate": None,
        "kl": None,
        "distortion": "lower",
        "bits_per_dim": "lower",
        "bits_per_dimension": "lower",
        "bound_bits_per_dim": "lower",
        "flow_bits_per_dim": "lower",
        "vlb_bits_per_dim": "lower",
        "vlb_prior": "lower",
        "vlb_reconstruction": "lower",
        "code_nats": "lower",
        "bits_per_code": "lower",
        "active_units": None,
    },
    "latents": {
        "ppl_z": "lower",
        "ppl_w": "lower",
        "mig": "higher",
        "dci_disentanglement": "higher",
        "dci_completeness": "higher",
        "dci_informativeness": "higher",
    },
    "memorization": {
        "memorization": "real",
        "near_copies": "real",
    },
}
"""Group → metric → what is better: higher, lower, nearest to what real pictures reach, or neither (None)."""
RECONSTRUCTION, SOURCE, ENLARGED, MEAN = "reconstruction_", "source_", "bicubic_", "mean_"
PREFIXES = (RECONSTRUCTION, SOURCE, ENLARGED, MEAN)
"""What the names of numbers of pairs begin with: those of reconstructions, and those of what a translation should beat:
its source as it is, or enlarged, and the mean picture. Translations themselves have none."""


def better(metric: str) -> Direction | None:
    """Which values of a metric are better; None where neither is, or where nothing is known of it."""
    name = plain(metric)
    return next((metrics[name] for metrics in GROUPS.values() if name in metrics), None)


def loss(direction: Direction | None, value: float, real: float | None = None) -> float | None:
    """A value on a scale where less is better; None where neither way is, or where what real pictures reach is unknown
    and would be needed.
    """
    if direction == "real":
        return None if real is None else abs(value - real)
    return {"higher": -value, "lower": value}.get(direction or "")


def group(metric: str) -> str:
    """Which group a metric stands in: `pairs` for all numbers of reconstructions, `other` for an unknown one."""
    name = plain(metric)
    found = next((group for group, metrics in GROUPS.items() if name in metrics), "other")
    return "pairs" if metric.startswith(PREFIXES) and found != "other" else found


def order(metric: str) -> tuple[int, int]:
    """Where a metric stands: which group (those unknown last), and which place in it (sizes and parts together)."""
    names = list(GROUPS)
    name, found = plain(metric), group(metric)
    places = [one for metrics in GROUPS.values() for one in metrics]
    return (
        names.index(found) if found in names else len(names),
        places.index(name) if name in places else len(places),
    )


def plain(metric: str) -> str:
    """Without the prefix of pairs, the size at which a pyramid's level was measured, and the strength of noise."""
    prefix = next((prefix for prefix in PREFIXES if metric.startswith(prefix)), "")
    return re.sub(r"^(sliced_wasserstein|\w+_psnr|denoising_gain)_[\d.]+$", r"\1", metric.removeprefix(prefix))
