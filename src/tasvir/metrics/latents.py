"""Whether a latent dimension means one thing: the mutual information gap (Chen et al. 2018, arXiv 1802.04942) and
disentanglement, completeness and informativeness (Eastwood and Williams 2018, ICLR) on pictures with known factors."""

import numpy as np
import torch

from tasvir.data.cartoons import ATTRIBUTES, LARGEST, SMALLEST, cartoon
from tasvir.data.decoding import Frame, fit, with_channels
from tasvir.data.named import CLASS
from tasvir.drawing import BATCH
from tasvir.metrics.features.extraction import exact
from tasvir.metrics.subject import Subject, factors_known
from tasvir.metrics.values import Value, bootstrap

BINS = 20
"""Equal parts of a latent dimension's range (Locatello et al. 2019, arXiv 1811.12359, appendix C)."""
FACES = 2000
"""Most cartoons to measure with."""
FEW = 1000
"""Below this, chance is as large as what most models reach."""
FOLDS = 5
STUDENT = 2.776
"""97.5 % quantile of Student's t for `FOLDS` - 1 degrees of freedom."""
TREES, LEAF = 20, 5
"""Trees of a factor's forest, and pictures that a leaf holds at least."""
REPLICATES = 100


def binned(latents: np.ndarray) -> np.ndarray:
    """Latents [N,D] as the numbers 0..19 of equal parts of each dimension's range, int64 [N,D]."""
    low, high = latents.min(0), latents.max(0)
    width = np.where(high > low, high - low, 1)
    return np.minimum((latents - low) / width * BINS, BINS - 1).astype(np.int64)


def mutual_information(codes: np.ndarray, factor: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """I(code; factor) of each code [N,D] in 0..19 with one factor [N], both whole numbers; [D] nats, from counts.

    `weights` [N] say how often each picture counts.
    """
    count, values = codes.shape[1], int(factor.max()) + 1
    places = (np.arange(count) * BINS + codes) * values + factor[:, None]
    counted = np.ones(len(codes)) if weights is None else weights
    joint = np.bincount(places.ravel(), np.repeat(counted, count), count * BINS * values)
    joint = joint.reshape(count, BINS, values) / counted.sum()
    independent = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log(ratio)).sum((1, 2))


def mutual_information_gap(latents: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """How much more the most telling latent dimension says of each factor than the next one, as a share of what there
    is to say: (I₁ - I₂) / H(factor) (Chen et al. 2018, equation 6), [F] in [0,1].

    Latents are [N,D], factors whole numbers [N,F]. A factor that never changes has a gap of 0.
    """
    return gaps(binned(latents), factors)


def gaps(codes: np.ndarray, factors: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The same of `binned` latents; `weights` [N] say how often each picture counts."""
    found = []
    for factor in factors.T:
        second, first = np.sort(np.append(mutual_information(codes, factor, weights), 0))[-2:]
        counts = np.bincount(factor, weights)
        entropy = _entropy(counts[None] / counts.sum())[0]
        found.append((first - second) / entropy if entropy > 0 else 0.0)
    return np.array(found)


def dci(latents: np.ndarray, factors: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disentanglement, completeness and informativeness of latents [N,D] for factors, whole numbers [N,F]; in [0,1],
    each once for every fold [5] (Eastwood and Williams 2018, section 2).

    A forest foretells each factor. How much it leans on each dimension, R [D,F], tells how much a dimension cares for
    one factor (disentanglement) and how much a factor lies in one dimension (completeness). Informativeness is the
    forest's accuracy on pictures that it was not grown from, averaged over factors. Forests are extremely randomized
    trees (Geurts et al. 2006) that choose among all dimensions, so that none is leaned on for want of a better one.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    order = np.random.default_rng(seed).permutation(len(latents))
    found = []
    for held_out in np.array_split(order, FOLDS):
        known = np.setdiff1d(order, held_out)
        importance, accuracy = [], []
        for factor in factors.T:
            forest = ExtraTreesClassifier(TREES, max_features=None, min_samples_leaf=LEAF, random_state=seed)
            forest.fit(latents[known], factor[known])
            importance.append(forest.feature_importances_)
            accuracy.append(forest.score(latents[held_out], factor[held_out]))
        found.append((*disentangled(np.stack(importance, axis=1)), float(np.mean(accuracy))))
    disentanglement, completeness, informativeness = np.array(found).T
    return disentanglement, completeness, informativeness


def disentangled(importance: np.ndarray) -> tuple[float, float]:
    """Disentanglement and completeness of an importance matrix R [D,F], not negative (Eastwood and Williams 2018,
    section 2): 1 less the entropy of a dimension's row, with base F, weighted by the row's share of all importance;
    and 1 less the entropy of a factor's column, with base D, averaged over factors (0 for one that nothing tells of).
    """
    latents, factors = importance.shape
    rows, columns = importance.sum(1), importance.sum(0)
    if not rows.any():
        return 0.0, 0.0
    used, told = rows > 0, columns > 0
    by_row = 1 - _entropy(importance[used] / rows[used, None]) / np.log(max(factors, 2))
    by_column = 1 - _entropy((importance[:, told] / columns[told]).T) / np.log(max(latents, 2))
    return float(by_row @ rows[used] / rows.sum()), float(by_column.sum() / factors)


def _entropy(shares: np.ndarray) -> np.ndarray:
    """Of each row, nats."""
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)


def factors(subject: Subject) -> tuple[np.ndarray, np.ndarray] | None:
    """Latents [N,D] of held-out cartoons at the run's size, and their 13 attributes, int64 [N,13]; None for sets whose
    factors are not known."""
    dataset, opened = subject.dataset, subject.opened
    if not factors_known(dataset):
        return None
    assert opened is not None
    size, channels = dataset.pictures.size, dataset.pictures.channels
    drawn, frame = min(max(size, SMALLEST), LARGEST), Frame(size)
    attribute = dataset.settings.labels or CLASS
    conditional = getattr(opened.model, "conditional", False) and bool(dataset.pictures.classes)
    latents, known = [], []
    number = min(FACES, subject.number)
    with torch.no_grad(), exact():
        for start in range(0, number, BATCH):
            # every eleventh cartoon is for testing (data/named.py)
            faces = [cartoon(11 * place + 10, drawn) for place in range(start, min(start + BATCH, number))]
            images = np.stack([with_channels(fit(image, frame), channels) for image, _ in faces])
            classes = torch.tensor([values[attribute] for _, values in faces]) if conditional else None
            told = {} if classes is None else {"label": classes.to(opened.model.device)}
            latents.append(opened.model.encode(opened.tensor(images), **told).float().cpu().numpy())
            known += [[values[name] for name in ATTRIBUTES] for _, values in faces]
    return np.concatenate(latents), np.array(known)


def disentanglement(subject: Subject) -> list[Value]:
    """The mutual information gap and DCI of a run's latents; nothing for sets whose factors are not known."""
    found = factors(subject)
    if found is None or len(found[0]) < 2 * FOLDS:
        return []
    latents, known = found
    number = len(latents)
    facts = {"factors": known.shape[1], "faces": number}
    note = f"{number} faces are few: latents that tell nothing reach more than 0 by chance." if number < FEW else None

    codes = binned(latents)

    def resampled(chosen: np.ndarray) -> float:
        return float(gaps(codes, known, np.bincount(chosen, minlength=number).astype(float)).mean())

    gap = float(gaps(codes, known).mean())
    low, high = bootstrap(resampled, number, REPLICATES, subject.seed)
    # A resample repeats pictures, which moves the gap: its spread tells how sure the gap is, its place does not.
    interval = _around(gap, (high - low) / 2)
    values = [Value("mig", gap, interval, number, passport={**facts, "bins": BINS}, note=note)]

    facts |= {"trees": f"{TREES} extremely randomized, leaves of {LEAF}", "folds": FOLDS}
    guessing = {"guessing": round(float(np.mean([np.bincount(factor).max() / number for factor in known.T])), 4)}
    passports = {"dci_disentanglement": facts, "dci_completeness": facts, "dci_informativeness": facts | guessing}
    for (name, passport), folds in zip(passports.items(), dci(latents, known, subject.seed), strict=True):
        value, half = float(folds.mean()), STUDENT * float(folds.std(ddof=1)) / FOLDS**0.5
        values.append(Value(name, value, _around(value, half), number, passport=passport, note=note))
    return values


def _around(value: float, half: float) -> tuple[float, float]:
    """An interval of that half width, within [0,1]."""
    return max(value - half, 0.0), min(value + half, 1.0)
