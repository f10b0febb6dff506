"""Precision and recall, PRD, sliced Wasserstein and memorization: against other libraries and known answers."""

import gzip
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.neighbors import NearestNeighbors

from conftest import REAL
from tasvir.config import Refused
from tasvir.metrics import manifolds, memorization, prd, wasserstein
from tasvir.metrics.values import Value

needs_mnist = pytest.mark.skipif(not (REAL / "MNIST").is_dir(), reason="needs the real MNIST files beside the project")


@cache
def mnist() -> tuple[np.ndarray, np.ndarray]:
    """The held-out digits uint8 [10000,28,28,1] and their labels."""

    def read(name: str, offset: int) -> np.ndarray:
        with gzip.open(REAL / "MNIST" / "raw" / f"t10k-{name}-ubyte.gz") as file:
            return np.frombuffer(file.read(), np.uint8, offset=offset)

    return read("images-idx3", 16).reshape(-1, 28, 28, 1), read("labels-idx1", 8)


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32) / 255


def normal(number: int, size: int, seed: int, scale: float = 1, shift: float = 0) -> np.ndarray:
    return (shift + scale * np.random.default_rng(seed).standard_normal((number, size))).astype(np.float32)


def subject(samples: np.ndarray, reference: np.ndarray, real: np.ndarray, **more: object) -> SimpleNamespace:
    """Features in the place of a run's."""
    features = {"sample_features": samples, "reference_features": reference, "real_features": real}
    return SimpleNamespace(
        seed=0, real=real, **{name: SimpleNamespace(vectors=vectors) for name, vectors in features.items()}, **more
    )


def by_name(values: list[Value]) -> dict[str, Value]:
    return {value.metric: value for value in values}


# ---- precision, recall, density, coverage


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Blocks of 64, and the shape of each that is computed."""
    shapes: list[tuple[int, int]] = []
    found = manifolds.squared_distances

    def watched(x: np.ndarray, y: np.ndarray, centre: np.ndarray) -> torch.Tensor:
        shapes.append((len(x), len(y)))
        return found(x, y, centre)

    monkeypatch.setattr(manifolds, "BLOCK", 64)
    monkeypatch.setattr(manifolds, "squared_distances", watched)
    return shapes


@pytest.mark.parametrize(("number", "known", "size"), [(300, 300, 8), (257, 200, 64), (130, 391, 3)])
def test_precision_and_recall_are_those_of_torch_fidelity(
    number: int, known: int, size: int, small_blocks: list[tuple[int, int]]
) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    samples, reference = normal(number, size, 0, 0.9, 0.3), normal(known, size, 1)
    inside, reached = manifolds.precision_recall(samples, reference)
    wanted = prc_features_to_metric(
        torch.from_numpy(samples).double(), torch.from_numpy(reference).double(), prc_neighborhood=3, verbose=False
    )
    assert 0 < inside.sum() < number and 0 < reached.sum() < known
    assert inside.shape == (number,) and inside.mean() == pytest.approx(wanted["precision"], abs=1e-6)
    assert reached.shape == (known,) and reached.mean() == pytest.approx(wanted["recall"], abs=1e-6)


@pytest.mark.parametrize(("number", "known", "size"), [(300, 300, 8), (257, 200, 64), (130, 391, 3)])
def test_density_and_coverage_are_those_of_prdc(
    number: int, known: int, size: int, small_blocks: list[tuple[int, int]]
) -> None:
    from prdc import compute_prdc

    samples, reference = normal(number, size, 0, 0.9, 0.3), normal(known, size, 1)
    density, covered = manifolds.density_coverage(samples, reference)
    wanted = compute_prdc(reference.astype(np.float64), samples.astype(np.float64), nearest_k=5)
    assert 0 < covered.sum() < known or size == 3
    assert density.shape == (number,) and density.mean() == pytest.approx(wanted["density"], rel=1e-12)
    assert covered.shape == (known,) and covered.mean() == wanted["coverage"]


@pytest.mark.parametrize("shift", [0, 1000])
def test_radii_are_those_of_scikit_learn(shift: float, small_blocks: list[tuple[int, int]]) -> None:
    """Also where all features lie far from zero, and the product of two is far greater than their distance."""
    features = normal(301, 16, 0, shift=shift)
    index = NearestNeighbors(n_neighbors=6, algorithm="kd_tree").fit(features.astype(np.float64))
    wanted = index.kneighbors(features.astype(np.float64))[0][:, 1:]
    np.testing.assert_allclose(manifolds.neighbour_distances(features, 5), wanted, rtol=1e-6)
    np.testing.assert_allclose(manifolds.radii(features, 3), wanted[:, 2], rtol=1e-6)


def test_blocks_change_nothing_and_no_pair_is_looked_at_twice(small_blocks: list[tuple[int, int]]) -> None:
    samples, reference = normal(333, 40, 0), normal(200, 40, 1)
    cut = manifolds.neighbour_distances(samples, 5), manifolds.precision_recall(samples, reference)
    small_blocks.clear()
    manifolds.neighbour_distances(samples, 5)
    blocks = -(-333 // 64)
    assert len(small_blocks) == blocks * (blocks + 1) // 2 and max(max(shape) for shape in small_blocks) == 64
    manifolds.BLOCK = 10_000  # restored by the fixture
    whole = manifolds.neighbour_distances(samples, 5), manifolds.precision_recall(samples, reference)
    assert np.array_equal(cut[0], whole[0])
    assert all(np.array_equal(*pair) for pair in zip(cut[1], whole[1], strict=True))


def test_a_set_against_itself_and_copies_of_one_picture() -> None:
    """Each real picture's ball of k = 5 holds itself and the four before its border, so the density is exactly 1."""
    reference = normal(200, 100, 0, shift=50)
    inside, reached = manifolds.precision_recall(reference, reference.copy())
    density, covered = manifolds.density_coverage(reference, reference.copy())
    assert inside.all() and reached.all() and covered.all() and density.mean() == 1
    inside, reached = manifolds.precision_recall(np.repeat(reference[:1], 200, 0), reference)
    assert inside.all() and reached.tolist() == [True] + [False] * 199
    # Four copies of each of 50 pictures have radius 0, and only what is equal to them is within it.
    copies = np.repeat(reference[:50], 4, 0)
    assert (manifolds.radii(copies, 3) == 0).all()
    inside, reached = manifolds.precision_recall(reference[:100], copies)
    assert inside.tolist() == [True] * 50 + [False] * 50 and reached.all()
    with pytest.raises(Refused, match="3 neighbours"):
        manifolds.precision_recall(reference[:3], reference)


@needs_mnist
def test_flaws_of_digits_lower_what_they_should() -> None:
    """Noise lowers precision and density, more of it more; leaving digits out lowers recall and coverage only."""
    images, labels = mnist()
    reference, samples, few = images[:1000], images[1000:2000], images[2000:6000][labels[2000:6000] < 3][:1000]
    generator = np.random.default_rng(0)

    def noisy(amount: float) -> np.ndarray:
        return (samples + generator.normal(0, amount, samples.shape)).clip(0, 255)

    sets = {"real": samples, "noise": noisy(40), "more noise": noisy(60), "three digits": few}
    found = {}
    for name, made in sets.items():
        values = by_name(manifolds.manifold(subject(flat(made), flat(reference), flat(samples))))
        found[name] = {metric: value.value for metric, value in values.items()}
        assert values["precision"].real == found["real"]["precision"] and values["recall"].passport == {"k": 3}
        assert all(value.interval[0] <= value.value <= value.interval[1] for value in values.values())
    for metric in ("precision", "density"):
        assert found["real"][metric] > found["noise"][metric] + 0.1 > found["more noise"][metric] + 0.2
        assert found["three digits"][metric] > found["real"][metric] - 0.1
    for metric in ("recall", "coverage"):
        assert found["three digits"][metric] < found["real"][metric] - 0.2


def test_what_the_numbers_are_worth_is_said() -> None:
    def note(number: int, known: int) -> str | None:
        found = manifolds.manifold(subject(normal(number, 2, 0), normal(known, 2, 1), np.empty((0, 2), np.float32)))
        assert {value.number for value in found} == {number} and {value.real for value in found} == {None}
        return found[0].note

    assert "rough" in note(100, 1200) and "1200 samples against 3000" in note(1200, 3000)
    assert note(1200, 1300) is None


# ---- the precision-recall curve


def test_the_curve_of_two_histograms_worked_out_by_hand() -> None:
    """q = (3/4, 1/4, 0) against p = (1/2, 1/4, 1/4): alpha = min(l/2, 3/4) + min(l/4, 1/4), beta = alpha / l."""
    precision, recall = prd.curve(np.array([0.75, 0.25, 0]), np.array([0.5, 0.25, 0.25]))
    at = {slope: int(np.abs(np.tan(np.arange(1, 1002) / 1002 * np.pi / 2) - slope).argmin()) for slope in (0.5, 1, 4)}
    assert precision[at[1]] == pytest.approx(0.75) and recall[at[1]] == pytest.approx(0.75)
    assert precision[at[4]] == 1 and recall[at[4]] == pytest.approx(1 / 4, rel=5e-3)
    assert recall[at[0.5]] == pytest.approx(3 / 4) and precision[at[0.5]] == pytest.approx(3 / 8, rel=5e-3)
    assert (np.diff(precision) >= 0).all() and (np.diff(recall) <= 1e-12).all()


def test_the_ends_of_the_curve() -> None:
    same = np.array([0.2, 0.3, 0.5])
    for beta in (8, 1 / 8):
        assert prd.f_beta(*prd.curve(same, same), beta) == pytest.approx(1)
        assert prd.f_beta(*prd.curve(np.array([1.0, 0]), np.array([0, 1.0])), beta) == 0
    # Half of the modes: precision 1 and recall 1/2 at best, both at lambda = 2, where F = (1+b²)/2 / (b²+1/2).
    precision, recall = prd.curve(np.array([1.0, 0]), np.array([0.5, 0.5]))
    assert precision.max() == 1 and recall.max() == pytest.approx(0.5)
    for beta in (8, 1 / 8):
        wanted = (1 + beta**2) / 2 / (beta**2 + 1 / 2)
        assert prd.f_beta(precision, recall, beta) == pytest.approx(wanted, rel=5e-3)


def test_clusters_of_features_give_the_known_shares() -> None:
    """Two blobs far apart, of which the samples have one; and of sets of different size equal numbers count."""
    far = np.float32([50, 0])
    reference = np.concatenate([normal(500, 2, 0), far + normal(500, 2, 1)])
    samples = normal(1700, 2, 2)
    precision, recall = prd.of_features(samples, reference, clusters=2, runs=3)
    assert precision.max() == 1 and recall.max() == pytest.approx(0.5)
    swapped = prd.of_features(reference, samples, clusters=2, runs=3)
    assert swapped[0].max() == pytest.approx(0.5, abs=0.03) and swapped[1].max() == 1
    labels = prd.clustered(samples, reference, 2, 3, 0)
    assert labels.shape == (3, 2, 1000)


def test_measured_prd_has_a_curve_an_interval_and_the_same_number_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the modes missing costs recall; the interval holds what other pictures of the same kind give."""
    monkeypatch.setattr(prd, "RUNS", 4)
    far = np.float32([50, 0])

    def both(seed: int) -> np.ndarray:
        return np.concatenate([normal(600, 2, seed), far + normal(600, 2, seed + 100)])

    reference, real = both(0), both(1)
    found = by_name(prd.prd(subject(normal(1200, 2, 2), reference, real)))
    again = by_name(prd.prd(subject(normal(1200, 2, 2), reference, real)))
    assert found == again and list(found) == ["prd_f8", "prd_f1_8"]
    other = by_name(prd.prd(subject(normal(1200, 2, 3), both(4), real)))
    for metric, value in found.items():
        low, high = value.interval
        assert low < value.value < high and low < other[metric].value < high and high - low < 0.2
        assert value.real > 0.98 > value.value and value.number == 1200 and value.note is None
    assert found["prd_f8"].value < 0.6 < 0.9 < found["prd_f1_8"].value
    drawn = found["prd_f8"].curve
    assert len(drawn["recall"]) == len(drawn["precision"]) == 101 and max(drawn["recall"]) <= 0.5 + 1e-9
    assert found["prd_f8"].passport == {"clusters": 20, "runs": 4}


# ---- sliced Wasserstein


def faces(number: int, seed: int, size: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth random pictures, brighter to the right."""
    drawn = np.random.default_rng(seed).standard_normal((number, size, size, channels))
    smooth = ndimage.gaussian_filter(drawn, (0, 1, 1, 0)) * 100 + np.linspace(110, 140, size)[:, None]
    return smooth.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "sizes"), [(64, [64, 32, 16]), (28, [28]), (8, [8]), (75, [75, 38, 19]), (32, [32, 16])]
)
def test_levels(size: int, sizes: list[int]) -> None:
    assert wasserstein.level_sizes(size) == sizes
    assert wasserstein.patch_size(size) == (3 if size < 16 else 7)


@pytest.mark.parametrize("size", [64, 75])
def test_the_pyramid_adds_up_to_the_picture(size: int) -> None:
    """Rebuilt with scipy; and of a constant picture only the last level has anything."""
    pictures = torch.rand(2, 3, size, size, dtype=torch.float64)
    levels = wasserstein.pyramid(pictures)
    assert [level.shape[-1] for level in levels] == wasserstein.level_sizes(size)
    weights = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(weights, weights)[None, None]
    wanted = ndimage.convolve(pictures.numpy(), kernel, mode="mirror")[:, :, ::2, ::2]
    rebuilt = levels[-1].numpy()
    for level in levels[-2::-1]:
        spread = np.zeros(level.shape)
        spread[:, :, ::2, ::2] = rebuilt
        rebuilt = level.numpy() + ndimage.convolve(spread, 4 * kernel, mode="mirror")
    np.testing.assert_allclose(rebuilt, pictures.numpy(), atol=1e-12)
    if size == 64:
        np.testing.assert_allclose(
            ndimage.convolve(wanted, kernel, mode="mirror")[:, :, ::2, ::2], levels[-1], atol=1e-12
        )
    constant = wasserstein.pyramid(torch.full((1, 1, size, size), 7.0))
    assert all(level.abs().max() < 1e-5 for level in constant[:-1]) and (constant[-1] - 7).abs().max() < 1e-5


def test_patches_are_cut_whole_from_anywhere() -> None:
    """A picture of its own coordinates: in a patch, rows and columns count up from its place."""
    rows, columns = np.mgrid[:28, :28].astype(np.uint8)
    pictures = np.repeat(np.stack([rows, columns], -1)[None], 20, 0)
    found = wasserstein.patches(pictures, 0, seed=3)
    pixels = found.pixels.reshape(7, 7, 2, -1)
    assert pixels.shape[-1] == 20 * 128
    corners = pixels[0, 0]
    step = np.arange(7)
    assert np.array_equal(pixels[:, :, 0], np.broadcast_to((corners[0] + step[:, None])[:, None], (7, 7, 2560)))
    assert np.array_equal(pixels[:, :, 1], np.broadcast_to((corners[1] + step[:, None])[None], (7, 7, 2560)))
    places = {tuple(corner) for corner in corners.T.astype(int).tolist()}
    assert places <= {(y, x) for y in range(22) for x in range(22)} and len(places) > 0.98 * 22 * 22


def test_the_distance_is_that_of_scipy_on_each_direction() -> None:
    first, second = (wasserstein.patches(faces(40, seed), 1, seed=0) for seed in (0, 1))
    directions = wasserstein.random_directions(12, len(first.pixels), seed=0)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)

    def normalised(patches: wasserstein.Patches) -> np.ndarray:
        pixels = patches.pixels.reshape(49, 3, -1).astype(np.float64)
        spread = pixels.std((0, 2), keepdims=True)
        return ((pixels - pixels.mean((0, 2), keepdims=True)) / spread).reshape(147, -1)

    sides = [directions @ normalised(patches) for patches in (first, second)]
    wanted = [stats.wasserstein_distance(*lines) for lines in zip(*sides, strict=True)]
    assert wasserstein.distance(first, second, directions) == pytest.approx(1000 * np.mean(wanted), rel=1e-3)


@pytest.fixture
def few_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasserstein, "DIRECTIONS", 64)
    monkeypatch.setattr(wasserstein, "HALF_DIRECTIONS", 8)


@pytest.mark.usefixtures("few_directions")
def test_a_set_against_itself_its_mirror_and_other_pictures() -> None:
    """Nothing; and for the mirrored set, which gets darker to the right, as little as for others of its kind in the
    details, and much more in the shapes."""
    images = faces(400, 0)
    half, other = images[:200], images[200:]
    noise = np.random.default_rng(0).integers(0, 256, half.shape, dtype=np.uint8)
    itself, halves, mirrored, noisy = (
        wasserstein.sliced_wasserstein_distances(half, made) for made in (half, other, half[:, :, ::-1], noise)
    )
    assert itself == {32: 0, 16: 0}
    assert 0 < mirrored[32] < 1.5 * halves[32] and mirrored[16] > 5 * halves[16] > 0
    assert noisy[32] > 3 * halves[32] and noisy[16] > 3 * halves[16]
    black = wasserstein.sliced_wasserstein_distances(half, np.zeros_like(half))
    assert all(np.isfinite(value) and value > noisy[16] for value in black.values())


@needs_mnist
@pytest.mark.usefixtures("few_directions")
@pytest.mark.parametrize("flaw", ["blur", "noise"])
def test_rising_flaws_are_further_away(flaw: str) -> None:
    images = mnist()[0]
    reference, samples = images[:300], images[300:600]
    noise = np.random.default_rng(0).standard_normal(samples.shape)

    def spoilt(amount: int) -> np.ndarray:
        if flaw == "blur":
            return ndimage.gaussian_filter(samples.astype(float), (0, amount / 3, amount / 3, 0)).astype(np.uint8)
        return (samples + 20 * amount * noise).clip(0, 255).astype(np.uint8)

    found = [wasserstein.sliced_wasserstein_distances(reference, spoilt(amount))[28] for amount in range(4)]
    assert found == sorted(found) and found[3] > 2 * found[0]


@pytest.mark.usefixtures("few_directions")
def test_measured_sliced_wasserstein() -> None:
    """The mean over levels; its interval is as wide as values of other pictures of the same kind spread."""

    def measured(seed: int, size: int = 32) -> dict[str, Value]:
        first, second, real = (faces(64 + 10 * part, 3 * seed + part, size, 1) for part in range(3))
        return by_name(
            wasserstein.sliced_wasserstein(SimpleNamespace(samples=first, reference=second, real=real, seed=0))
        )

    found = measured(0)
    assert list(found) == ["sliced_wasserstein", "sliced_wasserstein_32", "sliced_wasserstein_16"]
    mean, *each = found.values()
    assert mean.value == pytest.approx(np.mean([level.value for level in each]))
    assert mean.real == pytest.approx(np.mean([level.real for level in each])) and "chance" in mean.note
    assert mean.passport == {"levels": [32, 16], "patch": 7, "patches": 128, "directions": 64} and mean.number == 64
    assert measured(0) == found
    others = [measured(seed)["sliced_wasserstein"].value for seed in range(1, 9)]
    low, high = mean.interval
    assert low < mean.value < high and 0.3 < (high - low) / (2 * wasserstein.STUDENT) / np.std(others, ddof=1) < 3
    assert list(measured(0, 28)) == ["sliced_wasserstein"]
    assert measured(0, 8)["sliced_wasserstein"].passport["patch"] == 3


@needs_mnist
@pytest.mark.parametrize("noise", [0, 60])
def test_the_interval_is_as_wide_as_other_samples_spread_near_and_far(noise: float, few_directions: None) -> None:
    """Against one and the same reference; also where the samples are of its own kind, and the distance is chance."""
    sets = np.random.default_rng(0).permutation(mnist()[0])[: 13 * 600].reshape(13, 600, 28, 28, 1)
    values, halves = [], []
    for seed in range(1, 13):
        drawn = np.random.default_rng(seed).normal(0, noise, sets[seed].shape)
        samples = (sets[seed] + drawn).clip(0, 255).astype(np.uint8)
        held = SimpleNamespace(samples=samples, reference=sets[0], real=sets[0, :0], seed=0)
        (found,) = wasserstein.sliced_wasserstein(held)
        values.append(found.value)
        halves.append(found.interval[1] - found.value)
    ratio = np.array(halves) / (1.96 * np.std(values, ddof=1))
    assert 0.6 < np.median(ratio) < 1.7, ratio


# ---- memorization


def test_nearest_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifolds, "BLOCK", 64)
    x, known = normal(150, 12, 0), normal(333, 12, 1)
    distances, places = memorization.nearest(x, known, 4)
    wanted = NearestNeighbors(n_neighbors=4).fit(known.astype(np.float64)).kneighbors(x.astype(np.float64))
    np.testing.assert_allclose(distances, wanted[0], rtol=1e-6)
    assert np.array_equal(places, wanted[1])
    assert (memorization.nearest(known, known)[0] == 0).all()


def test_the_probability_is_mann_whitneys() -> None:
    """With ties."""
    generator = np.random.default_rng(0)
    samples, test = generator.integers(0, 30, 200) / 4, generator.integers(5, 40, 150) / 4
    wanted = stats.mannwhitneyu(test, samples).statistic / (200 * 150)
    assert memorization.nearer(samples, test) == pytest.approx(wanted, rel=1e-12)
    assert memorization.nearer(test, samples) == pytest.approx(1 - wanted, rel=1e-12)


def judged(samples: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, Value]:
    vectors = {"sample_features": samples, "train_features": train, "test_features": test}
    features = {name: SimpleNamespace(vectors=found) for name, found in vectors.items()}
    dataset = SimpleNamespace(train=SimpleNamespace(hash="a"), test=SimpleNamespace(hash="b"))
    return by_name(memorization.memorization(SimpleNamespace(dataset=dataset, **features)))


def test_copies_are_found_and_unseen_pictures_are_not() -> None:
    """Where a share c is copied, the probability is c + (1 - c)/2, and the share of near copies c + (1 - c)/100."""
    train, test, fresh = normal(3000, 10, 0), normal(1500, 10, 1), normal(1500, 10, 2)
    for share in (0, 0.4, 1):
        copies = round(share * 1500)
        samples = np.concatenate([train[:copies] + np.float32(1e-3), fresh[copies:]])
        found = judged(samples, train, test)
        for metric, unseen in (("memorization", 0.5), ("near_copies", 0.01)):
            value, wanted = found[metric], share + (1 - share) * unseen
            low, high = value.interval
            assert value.value == pytest.approx(wanted, abs=0.04 if unseen == 0.5 else 0.01)
            assert low - 0.003 < wanted < high + 0.003 and high - low < 0.08
            assert value.real == unseen and value.number == 1500 and value.note is None
        assert judged(samples, train, test) == found
    assert "rough" in judged(fresh[:50], train, test)["memorization"].note


def test_the_most_copied_pictures_are_shown_beside_their_originals() -> None:
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    samples = generator.integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
    samples[17], samples[4] = train[8], train[33]
    samples[4, 0, 0] ^= 1
    held = SimpleNamespace(samples=samples, train=train)
    held.sample_features, held.train_features = (SimpleNamespace(vectors=flat(images)) for images in (samples, train))
    shown = memorization.nearest_pictures(held, rows=3, columns=4).reshape(3, 4, 4, 4, 1)
    assert shown.dtype == np.uint8
    assert np.array_equal(shown[0, 0], samples[17]) and np.array_equal(shown[0, 1], train[8])
    assert np.array_equal(shown[1, 0], samples[4]) and np.array_equal(shown[1, 1], train[33])
    gaps = np.linalg.norm(flat(shown[2, 1:]) - flat(shown[2, :1]), axis=1)
    everything = np.sort(np.linalg.norm(flat(train) - flat(shown[2, :1]), axis=1))
    np.testing.assert_allclose(gaps, everything[:3], rtol=1e-6)
