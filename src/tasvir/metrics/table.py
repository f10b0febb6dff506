"""The table of metrics: what each needs, and which numbers it gives."""

from collections.abc import Callable
from dataclasses import dataclass

from tasvir.metrics import (
    classification,
    conditional,
    denoising,
    diffusion,
    diversity,
    frechet,
    kernel,
    latents,
    likelihood,
    manifolds,
    memorization,
    neighbours,
    paths,
    perceptual,
    prd,
    scores,
    similarity,
    translation,
    wasserstein,
)
from tasvir.metrics.subject import Subject
from tasvir.metrics.values import Value


@dataclass(frozen=True)
class Metric:
    """A row of the table: one function, and the numbers that it gives."""

    measure: Callable[[Subject], list[Value]]
    needs: tuple[str, ...]
    """What the subject must have (`Subject.has`)."""
    gives: tuple[str, ...]
    """Names of its numbers, without the prefix of pairs."""
    words: str
    """In a few words, what it tells."""
    features: bool = False
    """Whether it is measured in features, so that their extractor belongs to its passport."""
    asked: bool = False
    """Measured only when asked for."""
    suits: tuple[str, ...] = ()
    """What the subject must have besides, to be measured unasked."""
    ready: Callable[[], object] | None = None
    """Called before anything is measured: fetches what is needed, or raises `Refused`."""


METRICS: dict[str, Metric] = {
    "frechet": Metric(
        frechet.frechet,
        ("samples",),
        ("frechet", "fid", "frechet_infinity", "fid_infinity"),
        "Fréchet distance, and what it would be with endless samples",
        features=True,
    ),
    "kid": Metric(kernel.kid, ("samples",), ("kid",), "kernel distance, unbiased for few pictures", features=True),
    "inception-score": Metric(
        scores.inception_score, ("samples",), ("inception_score",), "clear and varied classes", features=True
    ),
    "precision-recall": Metric(
        manifolds.manifold,
        ("samples",),
        ("precision", "recall", "density", "coverage"),
        "fidelity and variety apart, by nearest neighbours",
        features=True,
    ),
    "prd": Metric(
        prd.prd, ("samples",), ("prd_f8", "prd_f1_8"), "the precision-recall curve of distributions", features=True
    ),
    "sliced-wasserstein": Metric(
        wasserstein.sliced_wasserstein,
        ("samples",),
        ("sliced_wasserstein",),
        "patches at every scale; needs no network",
    ),
    "classes": Metric(
        conditional.class_shares,
        ("samples", "labels"),
        ("predicted_class_coverage", "rarest_class_share"),
        "whether all classes are drawn",
        features=True,
    ),
    "label-agreement": Metric(
        conditional.label_agreement,
        ("samples", "asked", "labels"),
        ("label_agreement",),
        "whether the asked class is what a classifier sees",
    ),
    "classification-accuracy": Metric(
        conditional.classification_accuracy,
        ("samples", "asked", "labels"),
        ("classification_accuracy",),
        "what a classifier learns from samples alone",
    ),
    "test-accuracy": Metric(
        classification.accuracy,
        ("classify", "labels"),
        ("test_accuracy",),
        "how often the model itself tells the class of a held-out picture",
    ),
    "code-accuracy": Metric(
        classification.code_accuracy,
        ("categorize", "labels"),
        ("code_accuracy",),
        "whether categories found without labels are the classes",
    ),
    "code-agreement": Metric(
        classification.code_agreement,
        ("categorize", "samples", "labels"),
        ("code_agreement",),
        "whether the class that a category stands for is what a classifier sees",
    ),
    "ms-ssim-diversity": Metric(
        diversity.ms_ssim_diversity, ("samples",), ("ms_ssim_diversity",), "how alike two samples of one class are"
    ),
    "diversity": Metric(diversity.diversity, ("samples",), ("diversity",), "mean distance of two samples, in pixels"),
    "nearest-class": Metric(
        neighbours.nearest_class,
        ("samples", "labels", "train"),
        ("nearest_class_accuracy", "class_agreement", "class_coverage"),
        "classes by the nearest training pictures, in pixels",
    ),
    "memorization": Metric(
        memorization.memorization,
        ("samples", "train", "test"),
        ("memorization", "near_copies"),
        "whether training pictures are repeated",
        features=True,
    ),
    "path-length": Metric(
        paths.perceptual_path_length,
        ("decode", "samples"),
        ("ppl_z", "ppl_w"),
        "smoothness of the latent space; needs LPIPS's weights",
        asked=True,
        ready=lambda: perceptual.lpips(paths.NETWORK),
    ),
    "pixels": Metric(similarity.pixel_errors, ("pairs",), ("mse", "mae", "psnr"), "errors of pixels"),
    "structure": Metric(similarity.structure, ("pairs",), ("ssim", "ms_ssim"), "structural similarity"),
    "gradients": Metric(
        similarity.gradients, ("pairs",), ("gmsd",), "a perceptual distance by local gradients; needs no weights"
    ),
    "lpips": Metric(
        perceptual.perceptual,
        ("pairs",),
        ("lpips",),
        "perceptual distance; needs its weights",
        asked=True,
        ready=lambda: perceptual.lpips(perceptual.NETWORK),
    ),
    "super-resolution": Metric(
        similarity.super_resolution,
        ("pairs",),
        ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"),
        "on Y and on RGB, --border cut off",
        suits=("enlarging",),
    ),
    "color": Metric(
        translation.color_errors, ("pairs", "color"), ("ab_error",), "errors of colour alone", suits=("coloring",)
    ),
    "colorfulness": Metric(
        translation.colorfulnesses,
        ("samples", "color"),
        ("colorfulness",),
        "how strong colours are",
        suits=("coloring",),
    ),
    "cycle": Metric(
        translation.cycle_errors,
        ("translate", "translate_back", "samples"),
        ("cycle_mae", "back_cycle_mae"),
        "errors of pixels after there and back",
    ),
    "reconstruction-frechet": Metric(
        frechet.frechet_of_pairs,
        ("reconstruct", "pairs", "reference"),
        ("reconstruction_frechet", "reconstruction_fid"),
        "Fréchet distance of reconstructions, to stand beside that of samples",
        features=True,
    ),
    "bound": Metric(
        likelihood.likelihood,
        ("bound",),
        ("bound", "importance_bound", "bits_per_dim", "bound_bits_per_dim", "rate", "distortion", "active_units"),
        "bounds on the likelihood",
    ),
    "likelihood": Metric(
        likelihood.exact_likelihood,
        ("log_likelihood",),
        ("log_likelihood", "bits_per_dim"),
        "likelihood, exact",
    ),
    "flow-likelihood": Metric(
        diffusion.flow_likelihood,
        ("denoise", "process"),
        ("flow_bits_per_dim",),
        "likelihood by the probability flow, of at most 100 pictures",
        asked=True,
    ),
    "vlb": Metric(
        diffusion.variational,
        ("denoise", "steps"),
        ("vlb_bits_per_dim", "vlb_prior", "vlb_reconstruction"),
        "the variational bound of models with fixed steps, of at most 100 pictures",
        asked=True,
    ),
    "denoising": Metric(
        denoising.denoising,
        ("denoise", "process"),
        ("denoising_gain", "denoising_psnr", "noisy_psnr", "linear_psnr"),
        "taking noise of known strength out of held-out pictures",
    ),
    "codes": Metric(
        likelihood.code_likelihood,
        ("code_log_likelihood",),
        ("code_nats", "bits_per_code"),
        "what the codes of held-out pictures cost under the prior over codes",
    ),
    "disentanglement": Metric(
        latents.disentanglement,
        ("encode", "factors"),
        ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"),
        "whether a latent dimension means one thing (cartoons)",
    ),
}
