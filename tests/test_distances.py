"""Fréchet distance, kernel distance and Inception Score, against closed forms, scipy and torch-fidelity."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tasvir.metrics import frechet as module
from tasvir.metrics.frechet import (
    Statistics,
    distance_to,
    distances_to,
    frechet,
    frechet_distance,
    frechet_infinity,
    frechet_of_pairs,
    frechet_spread,
    gaussian,
    gaussian_of_few,
    ready,
    statistics,
)
from tasvir.metrics.kernel import blocks, kernel_distance, kid
from tasvir.metrics.scores import inception_score, inception_scores


def features(number: int, size: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """float32 [N,D] as a network's: correlated, not negative, of very different variances."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(size).standard_normal((size, size)) / np.arange(1, size + 1) ** 0.5
    vectors = np.maximum(generator.standard_normal((number, size)) @ mixing.T * 0.1 + 0.2, 0) + shift
    return vectors.astype(np.float32)


def fidelity(x: np.ndarray, y: np.ndarray) -> float:
    """The Fréchet distance by torch-fidelity."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    sides = (fid_features_to_statistics(torch.from_numpy(side.astype(np.float64))) for side in (x, y))
    return fid_statistics_to_metric(*sides, verbose=False)["frechet_inception_distance"]


def halves(vectors: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(vectors))
    return vectors[order[: len(order) // 2]], vectors[order[len(order) // 2 :]]


# ---- moments


@pytest.mark.parametrize("chunk", [7, 64, 10_000])
def test_statistics_of_chunks_are_numpys(chunk: int) -> None:
    """Also far from the origin, where sums of squares would lose the covariance."""
    vectors = features(500, 24, 0) + np.float32(300)
    found = statistics(vectors, chunk)
    exact = vectors.astype(np.float64)
    assert found.number == 500 and found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, exact.mean(0), rtol=1e-13)
    covariance = np.cov(exact, rowvar=False)
    np.testing.assert_allclose(found.covariance, covariance, rtol=0, atol=1e-12 * np.abs(covariance).max())


def test_statistics_of_some_rows_of_a_mapped_file(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", features(300, 16, 0))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    places = np.arange(5, 300, 3)
    found, wanted = statistics(mapped, 11, places), np.asarray(mapped[places], np.float64)
    np.testing.assert_allclose(found.covariance, np.cov(wanted, rowvar=False), atol=1e-13)
    np.testing.assert_allclose(found.mean, wanted.mean(0), rtol=1e-13)
    assert found.number == len(places)


# ---- the Fréchet distance


@pytest.mark.parametrize(("size", "numbers"), [(8, (50, 90)), (64, (300, 200)), (256, (1000, 700))])
def test_frechet_distance_is_torch_fidelitys_and_scipys(size: int, numbers: tuple[int, int]) -> None:
    from scipy.linalg import sqrtm

    x, y = features(numbers[0], size, 1), features(numbers[1], size, 2, 0.05) * np.float32(1.2)
    a, b = statistics(x), statistics(y)
    found = frechet_distance(a, b)
    assert found == pytest.approx(fidelity(x, y), rel=1e-6)
    root = np.trace(sqrtm(a.covariance @ b.covariance).real)
    shift = np.square(a.mean - b.mean).sum()
    assert found == pytest.approx(shift + np.trace(a.covariance + b.covariance) - 2 * root, rel=1e-6)
    assert found == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_inception_sized_features_of_few_pictures() -> None:
    """2,048 dimensions: the trace of the root is the nuclear norm of the centred features' cross product."""
    x, y = features(60, 2048, 1), features(40, 2048, 2, 0.02)
    found = distance_to(gaussian_of_few(y), x)
    p, q = ((side - side.mean(0, dtype=np.float64)) / np.sqrt(len(side) - 1) for side in (x, y))
    norm = np.linalg.svd(p @ q.T, compute_uv=False).sum()
    shift = np.square(x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)).sum()
    assert found == pytest.approx(shift + np.square(p).sum() + np.square(q).sum() - 2 * norm, rel=1e-9)


def test_few_samples_take_another_way_to_the_same_distance() -> None:
    """Each of the ways, of samples and of the reference, with fewer and with more rows than dimensions."""
    many, few, fewer = features(400, 96, 1), features(60, 96, 2, 0.1), features(20, 96, 3)
    for x, y in [(few, many), (fewer, few), (few, fewer), (many, few)]:
        wanted = frechet_distance(statistics(x), statistics(y))
        assert distance_to(gaussian(statistics(y)), x) == pytest.approx(wanted, rel=1e-6)
        if len(y) < 96:
            assert distance_to(gaussian_of_few(y), x) == pytest.approx(wanted, rel=1e-6)


def test_commuting_covariances_have_a_closed_form() -> None:
    """Σ(√a - √b)² over common eigenvectors, and the squared distance of means."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.standard_normal((40, 40)))[0]
    a, b = generator.uniform(0.1, 4, 40), generator.uniform(0.1, 4, 40)
    first, second = generator.standard_normal((2, 40))
    sides = Statistics(first, axes * a @ axes.T, 1000), Statistics(second, axes * b @ axes.T, 1000)
    wanted = np.square(np.sqrt(a) - np.sqrt(b)).sum() + np.square(first - second).sum()
    assert frechet_distance(*sides) == pytest.approx(wanted, rel=1e-12)
    assert frechet_distance(sides[0], sides[0]) == pytest.approx(0, abs=1e-9)


def test_a_singular_covariance_keeps_its_small_eigenvalues() -> None:
    """What is 0 is left out of the root, and what is a millionth of the largest is not."""
    axes = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
    a, b = np.concatenate([np.ones(1), np.full(29, 1e-6), np.zeros(10)]), np.full(40, 4.0)
    sides = (Statistics(np.zeros(40), axes * values @ axes.T, 1000) for values in (a, b))
    wanted = np.square(np.sqrt(a) - np.sqrt(b)).sum()
    assert frechet_distance(*sides) == pytest.approx(wanted, rel=1e-7)


def test_one_dimension_is_means_and_deviations() -> None:
    sides = [
        Statistics(np.array([mean]), np.array([[deviation**2]]), 9) for mean, deviation in ((1.0, 2.0), (4.0, 6.5))
    ]
    assert frechet_distance(*sides) == pytest.approx(3**2 + 4.5**2)


def test_dead_dimensions_and_equal_pictures_are_measured() -> None:
    """A covariance that is singular although there are many samples, and one that is 0."""
    x, y = features(200, 12, 1), features(200, 12, 2, 0.3)
    padded = [np.concatenate([side, np.full((200, 5), 0.25, np.float32)], 1) for side in (x, y)]
    wanted = frechet_distance(statistics(x), statistics(y))
    assert frechet_distance(*map(statistics, padded)) == pytest.approx(wanted, rel=1e-9)
    same = np.repeat(x[:1], 50, axis=0)
    wanted = np.square(x[0] - y.mean(0, dtype=np.float64)).sum() + np.trace(statistics(y).covariance)
    assert frechet_distance(statistics(same), statistics(y)) == pytest.approx(wanted, rel=1e-6)
    assert distance_to(gaussian(statistics(same)), y) == pytest.approx(wanted, rel=1e-6)


def test_parts_by_what_is_left_out_are_the_parts() -> None:
    vectors, target = features(150, 10, 1), gaussian(statistics(features(300, 10, 2)))
    parts = [np.arange(150), np.arange(1, 150), np.arange(0, 120), np.arange(0, 40), np.arange(60, 66)]
    wanted = [frechet_distance(statistics(vectors[part]), statistics(features(300, 10, 2))) for part in parts]
    assert distances_to(target, vectors, parts) == pytest.approx(wanted, rel=1e-7)


def test_known_answers_of_the_frechet_distance() -> None:
    """A set against itself is 0, its halves are near, and what is moved further is further away."""
    vectors = features(2000, 32, 0)
    whole = statistics(vectors)
    scale = np.trace(whole.covariance)
    assert frechet_distance(whole, whole) <= 1e-6 * scale
    assert distance_to(gaussian_of_few(vectors[:20]), vectors[:20]) <= 1e-6 * scale
    half, other = map(statistics, halves(vectors))
    moved = [frechet_distance(half, statistics(vectors + np.float32(shift))) for shift in (0.1, 0.2, 0.4)]
    assert 0 < frechet_distance(half, other) < 0.2 * moved[0]
    assert moved[0] < moved[1] < moved[2]


# ---- how sure it is


def normal(number: int, size: int, seed: int, shift: float = 0.0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((number, size))
    vectors[:, 0] += shift
    return vectors.astype(np.float32)


def test_the_bias_falls_with_samples_and_the_limit_has_little() -> None:
    """Samples of the very Gaussian they are held against: the truth is 0."""
    size = 40
    truth = Statistics(np.zeros(size), np.eye(size), 10**6)
    numbers = (100, 200, 400, 800)
    found = [np.mean([distance_to(gaussian(truth), normal(n, size, seed)) for seed in range(12)]) for n in numbers]
    assert all(more < 0.6 * fewer for fewer, more in pairwise(found))
    limits = [frechet_infinity(normal(800, size, seed), truth, seed=seed) for seed in range(12)]
    assert abs(np.mean([limit for limit, _ in limits])) < 0.06 * found[-1]
    assert all(low < limit < high for limit, (low, high) in limits)


def test_the_limit_of_a_moved_gaussian_is_its_true_distance() -> None:
    size = 40
    truth = Statistics(np.zeros(size), np.eye(size), 10**6)
    limits = [frechet_infinity(normal(800, size, seed, shift=1.5), truth, seed=seed)[0] for seed in range(12)]
    biased = [distance_to(gaussian(truth), normal(800, size, seed, shift=1.5)) for seed in range(12)]
    assert np.mean(limits) == pytest.approx(1.5**2, rel=0.03)
    assert np.mean(biased) > 1.2 * 1.5**2


def test_the_limit_is_repeatable_and_knows_its_seed() -> None:
    samples, reference = features(300, 20, 0), statistics(features(400, 20, 1))
    assert frechet_infinity(samples, reference, seed=3) == frechet_infinity(samples, gaussian(reference), seed=3)
    assert frechet_infinity(samples, reference, seed=3) != frechet_infinity(samples, reference, seed=4)


@pytest.mark.parametrize(("per_dimension", "most"), [(2, 1.5), (10, 1.2)])
def test_the_spread_is_that_over_other_samples(per_dimension: int, most: float) -> None:
    """The truth: the deviation of the distance over sets that were drawn anew. From few samples it is overstated."""
    size, target = 24, gaussian(Statistics(np.zeros(24), np.eye(24), 10**6))
    sets = [normal(per_dimension * size, size, seed, shift=1.0) for seed in range(200)]
    truth = np.std([distance_to(target, samples) for samples in sets], ddof=1)
    claimed = np.mean([frechet_spread(target, samples, 0) for samples in sets[:60]])
    assert 0.85 * truth < claimed < most * truth


# ---- the kernel distance


def test_kernel_distance_is_torch_fidelitys() -> None:
    """One block of all pictures: their order does not matter."""
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = features(300, 48, 1), features(300, 48, 2, 0.1)
    sides = (torch.from_numpy(side.astype(np.float64)) for side in (x, y))
    theirs = kid_features_to_metric(*sides, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert kernel_distance(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_kernel_distance_of_two_numbers_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sum written out, and the same however it is cut."""
    x, y = features(21, 5, 1), features(13, 5, 2)

    def mean(p: np.ndarray, q: np.ndarray, apart: bool) -> float:
        pairs = [(i, j) for i in range(len(p)) for j in range(len(q)) if not (apart and i == j)]
        return float(np.mean([(float(p[i].astype(float) @ q[j].astype(float)) / 5 + 1) ** 3 for i, j in pairs]))

    wanted = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    monkeypatch.setattr("tasvir.metrics.kernel.CHUNK", 4)
    assert kernel_distance(x, y) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_kernel_distance_has_no_bias() -> None:
    """Over many halves of one set it is 0 on average, even with eight pictures in each block, and often below."""
    vectors = features(2000, 16, 0)
    found = blocks(*halves(vectors), subsets=600, size=8)
    assert abs(found.mean()) < 3 * found.std() / np.sqrt(600)
    assert (found < 0).mean() > 0.3


def test_blocks_are_seeded_parts_of_both_sides() -> None:
    x, y = features(100, 8, 1), features(80, 8, 2)
    assert blocks(x, y, 6, 20, seed=1).tolist() == blocks(x, y, 6, 20, seed=1).tolist()
    assert len(np.unique(blocks(x, y, 6, 20, seed=1))) == 6
    assert blocks(x, y, 3, 80)[0] != blocks(x, y, 3, 80)[1], "of 100 rows not always the same 80"
    whole = blocks(x[:80], y, 2, 80)
    assert whole == pytest.approx([kernel_distance(x[:80], y)] * 2, rel=1e-9)


def test_known_answers_of_the_kernel_distance() -> None:
    vectors = features(1000, 32, 0)
    half, other = halves(vectors)
    moved = [kernel_distance(half, other + np.float32(shift)) for shift in (0.1, 0.2, 0.4)]
    assert abs(kernel_distance(half, other)) < 0.05 * moved[0]
    assert moved[0] < moved[1] < moved[2]


# ---- the Inception Score


def test_inception_score_is_torch_fidelitys() -> None:
    """The same parts: theirs are cut in the order that ours draw."""
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = (features(203, 30, 0) * 20).astype(np.float32)
    order = np.random.default_rng(5).permutation(203)
    theirs = isc_features_to_metric(torch.from_numpy(logits[order]), 10, shuffle=False)
    ours = inception_scores(logits, 10, seed=5)
    assert ours.mean() == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.std() == pytest.approx(theirs["inception_score_std"], rel=1e-6)
    whole = isc_features_to_metric(torch.from_numpy(logits), 1, shuffle=False)["inception_score_mean"]
    assert inception_scores(logits, 1) == pytest.approx([whole], rel=1e-9)


def test_inception_score_closed_forms() -> None:
    """1 if nothing is known of any picture or all are of one class; K if each is surely of one of K equal classes."""
    assert inception_scores(np.full((40, 7), 3.5, np.float32), 4) == pytest.approx([1] * 4)
    sure = np.float32(2000) * np.eye(7, dtype=np.float32)  # the others' probabilities are below the least float
    assert inception_scores(np.repeat(sure[:1], 40, axis=0), 4) == pytest.approx([1] * 4)
    assert inception_scores(np.tile(sure, (8, 1)), 1) == pytest.approx([7])
    half = np.log(np.array([[0.75, 0.25], [0.25, 0.75]], np.float32))
    divergence = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert inception_scores(np.tile(half, (9, 1)), 1) == pytest.approx([np.exp(divergence)], rel=1e-6)


# ---- measured


def subject(
    samples: np.ndarray,
    reference: np.ndarray,
    real: np.ndarray,
    logits: tuple[np.ndarray, np.ndarray] | None = None,
    name: str = "pixels",
    folder: Path | None = None,
) -> SimpleNamespace:
    def side(vectors: np.ndarray, classed: np.ndarray | None, folder: Path | None = None) -> SimpleNamespace:
        return SimpleNamespace(vectors=vectors, logits=classed, folder=folder)

    made, known = logits or (None, None)
    return SimpleNamespace(
        samples=samples,
        real=real,
        sample_features=side(samples, made),
        reference_features=side(reference, None, folder),
        real_features=side(real, known),
        extractor=SimpleNamespace(name=name),
        seed=1,
    )


def test_frechet_and_its_limit_with_intervals_and_what_real_pictures_reach() -> None:
    samples, reference, real = features(600, 20, 1, 0.1), features(700, 20, 2), features(600, 20, 3)
    values = frechet(subject(samples, reference, real))  # type: ignore[arg-type]
    assert [value.metric for value in values] == ["frechet", "frechet_infinity"]
    distance, limit = values
    assert distance.value == pytest.approx(fidelity(samples, reference), rel=1e-6)
    assert distance.real == pytest.approx(fidelity(real, reference), rel=1e-6)
    assert distance.number == 600 and distance.note is None and distance.passport == {}
    assert distance.interval and distance.interval[0] < distance.value < distance.interval[1]
    assert limit.value < distance.value and limit.passport == {"points": 15} and limit.note is None
    assert limit.real is not None and distance.real is not None and limit.real < distance.real
    wide = limit.interval[1] - limit.interval[0] if limit.interval else 0
    assert wide > distance.interval[1] - distance.interval[0], "the line is not surer than the samples it goes through"
    assert frechet(subject(samples, reference, real)) == values  # type: ignore[arg-type]
    named = frechet(subject(samples, reference, real, name="inception"))  # type: ignore[arg-type]
    assert [value.metric for value in named] == ["fid", "fid_infinity"]


def test_frechet_says_what_too_few_pictures_are_worth() -> None:
    reference, real = features(700, 20, 2), features(60, 20, 3)
    biased, limit = frechet(subject(features(60, 20, 1), reference, real))  # type: ignore[arg-type]
    assert f"about {biased.value - limit.value:.2g} of it is bias" in (biased.note or "")
    assert "60 samples in 20 dimensions" in (biased.note or "") and "kid" in (biased.note or "")
    assert "100" in (limit.note or "")
    (singular,) = frechet(subject(features(12, 20, 1), reference, real))  # type: ignore[arg-type]
    assert "singular" in (singular.note or "")
    few = frechet(subject(features(400, 20, 1), reference[:50], real))[0]  # type: ignore[arg-type]
    assert "50 reference pictures" in (few.note or "")
    empty = np.empty((0, 20), np.float32)
    assert frechet(subject(features(60, 20, 1), reference, empty))[0].real is None  # type: ignore[arg-type]
    assert frechet(subject(features(1, 20, 1), reference, real)) == []  # type: ignore[arg-type]
    (two,) = frechet(subject(features(2, 20, 1), reference, real))  # type: ignore[arg-type]
    assert two.interval is None


def test_reconstructions_are_held_against_what_they_reconstruct() -> None:
    from tasvir.metrics.features import Extractor, extract

    def network(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.float().flatten(1)[:, :10] / 255, None

    originals = np.random.default_rng(0).integers(0, 256, (110, 4, 4, 3)).astype(np.uint8)
    made = originals // 2
    extractor = Extractor("pixels", "", "none", 10, network)
    vectors = [extract(extractor, images, np.empty).vectors for images in (made, originals)]
    reference = SimpleNamespace(vectors=vectors[1], folder=None)
    facts = {"prefix": "reconstruction_", "extractor": extractor, "seed": 0}
    asked = SimpleNamespace(pairs=[(made, originals)], reference_features=reference, **facts)
    values = frechet_of_pairs(asked)  # type: ignore[arg-type]
    assert [value.metric for value in values] == ["reconstruction_frechet", "reconstruction_frechet_infinity"]
    assert values[0].value == pytest.approx(fidelity(*vectors), rel=1e-6)


def test_reference_statistics_are_kept_and_made_again_where_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = features(100, 12, 0)
    kept = SimpleNamespace(vectors=vectors, logits=None, folder=tmp_path)
    wanted = ready(kept)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["statistics.npz"]
    with monkeypatch.context() as patched:
        patched.setattr(module, "statistics", None)  # not computed again
        np.testing.assert_array_equal(ready(kept).root, wanted.root)  # type: ignore[arg-type]
    for damage in (b"", b"PK\x03\x04 not whole", (tmp_path / "statistics.npz").read_bytes()[:-40]):
        (tmp_path / "statistics.npz").write_bytes(damage)
        np.testing.assert_array_equal(ready(kept).root, wanted.root)  # type: ignore[arg-type]
        assert np.load(tmp_path / "statistics.npz")["number"] == 100
    fewer = SimpleNamespace(vectors=vectors[:50], logits=None, folder=tmp_path)
    assert ready(fewer).mean == pytest.approx(vectors[:50].mean(0, dtype=np.float64))  # type: ignore[arg-type]


def test_kid_has_blocks_of_half_the_smaller_side() -> None:
    samples, reference, real = features(300, 20, 1, 0.1), features(900, 20, 2), features(300, 20, 3)
    (value,) = kid(subject(samples, reference, real))  # type: ignore[arg-type]
    assert value.metric == "kid" and value.number == 300 and value.note is None
    assert value.passport == {"subsets": 100, "block": 150}
    assert value.value == pytest.approx(kernel_distance(samples, reference), rel=0.05)
    assert value.interval and value.interval[0] < kernel_distance(samples, reference) < value.interval[1]
    assert value.real is not None and abs(value.real) < 0.1 * value.value
    assert kid(subject(samples, reference, real)) == [value]  # type: ignore[arg-type]
    (few,) = kid(subject(samples, reference[:150], real[:0]))  # type: ignore[arg-type]
    assert few.passport["block"] == 75 and few.real is None and "150" in (few.note or "")
    assert kid(subject(samples[:3], reference, real)) == []  # type: ignore[arg-type]


def test_kids_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Samples drawn anew: the true distance, from very many, lies in about 95 of 100 intervals."""
    truth = kernel_distance(features(6000, 6, 1000, 0.3), features(6000, 6, 1001))
    held = 0
    for seed in range(60):
        drawn = subject(features(60, 6, seed, 0.3), features(60, 6, seed + 500), np.empty((0, 6)))
        (value,) = kid(drawn)  # type: ignore[arg-type]
        assert value.interval
        held += value.interval[0] < truth < value.interval[1]
    assert 51 <= held <= 60


def test_inception_score_is_measured_where_there_are_classes() -> None:
    vectors = features(120, 4, 0)
    made, real = features(120, 10, 1) * 9, features(120, 10, 2) * 30
    (value,) = inception_score(subject(vectors, vectors, vectors, (made, real), "classifier"))  # type: ignore[arg-type]
    assert value.metric == "inception_score" and value.passport == {"splits": 10} and value.number == 120
    assert value.value == pytest.approx(inception_scores(made, 10, seed=1).mean())
    assert value.real == pytest.approx(inception_scores(real, 10, seed=1).mean())
    error = 1.96 * inception_scores(made, 10, seed=1).std(ddof=1) / np.sqrt(10)  # of a mean of ten
    assert value.interval == pytest.approx((value.value - error, value.value + error))
    assert "from 1 to 10" in (value.note or "") and "5,000" in (value.note or "")
    (value,) = inception_score(subject(vectors, vectors, vectors, (made, real), "inception"))  # type: ignore[arg-type]
    assert "from 1 to" not in (value.note or "")
    assert inception_score(subject(vectors, vectors, vectors)) == []  # type: ignore[arg-type]
