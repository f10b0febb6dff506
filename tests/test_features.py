"""Features: the networks against independent implementations, what is fetched and kept, what is refused."""

import hashlib
import io
import json
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from tasvir.config import DataConfig, Refused
from tasvir.data import Dataset, load
from tasvir.data import cache as kept_things
from tasvir.metrics import features
from tasvir.metrics.features import (
    Extractor,
    build,
    cached,
    default,
    extract,
    extraction,
    inception,
    names,
    networks,
    pixels,
)
from tasvir.metrics.features import classifier as classifiers
from tasvir.metrics.features import weights as fetched
from tasvir.metrics.features.weights import Weights


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it."""
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataConfig(source=("digits",)))


def pictures(number: int, size: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, channels)).astype(np.uint8)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


# ---- pictures through a network


def means(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of each channel; logits are the first pixels."""
    assert images.dtype == torch.uint8 and images.shape[1] == 3
    return images.float().mean((2, 3)), images[:, :, 0, 0].float()


MEANS = Extractor(name="means", hash="1", resize="none", size=3, network=means, batch=4)


class Watched:
    """Pictures that note how many of them are read at a time."""

    def __init__(self, images: np.ndarray):
        self.images, self.shape, self.most = images, images.shape, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> np.ndarray:
        found = self.images[part]
        self.most = max(self.most, len(found))
        return found


@pytest.mark.parametrize("batch", [1, 4, 7, 100])
def test_features_come_in_the_order_of_the_pictures(batch: int) -> None:
    images = pictures(23, 6)
    watched = Watched(images)
    found = extract(replace(MEANS, batch=batch), watched, np.empty)  # type: ignore[arg-type]
    assert found.vectors == pytest.approx(images.mean((1, 2)), rel=1e-5) and found.vectors.dtype == np.float32
    assert found.logits is not None and (found.logits == images[:, 0, 0]).all()
    assert watched.most == min(batch, 23)


def test_large_pictures_are_read_fewer_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "PIECE", 3 * 16 * 16 * 3)
    watched = Watched(pictures(10, 16))
    extract(replace(MEANS, batch=100), watched, np.empty)  # type: ignore[arg-type]
    assert watched.most == 3


def test_grey_is_looked_at_as_rgb() -> None:
    grey = pictures(5, 6, channels=1)
    found = extract(MEANS, grey, np.empty).vectors
    assert (found == extract(MEANS, np.repeat(grey, 3, axis=3), np.empty).vectors).all()


def test_features_are_written_where_the_spool_says(tmp_path: Path) -> None:
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(9, 6, 6, 3))
    images[:] = pictures(9, 6)
    asked = []

    def spool(shape: tuple[int, ...], kind: type) -> np.ndarray:
        asked.append((shape, kind))
        return np.memmap(tmp_path / str(len(asked)), kind, "w+", shape=shape)

    found = extract(MEANS, images, spool)
    assert asked == [((9, 3), np.float32), ((9, 3), np.float32)]
    assert isinstance(found.vectors, np.memmap) and found.folder is None
    assert found.vectors == pytest.approx(np.asarray(images).mean((1, 2)), rel=1e-5)


def test_numbers_on_a_gpu_would_be_exact_and_settings_are_put_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with extraction.exact():
            assert torch.get_float32_matmul_precision() == "highest" and not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "medium" and torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")


def test_real_features_are_computed_once(empty: Path) -> None:
    asked = []

    def images() -> np.ndarray:
        asked.append(1)
        return pictures(9, 6)

    first, second = cached(MEANS, images, "a"), cached(MEANS, images, "a")
    assert len(asked) == 1 and isinstance(second.vectors, np.memmap)
    for found in (first, second):
        assert found.vectors == pytest.approx(pictures(9, 6).mean((1, 2)), rel=1e-5)
        assert found.logits is not None and found.logits.shape == (9, 3)
        assert found.folder is not None and found.folder.parent == empty / "features"
    others = (("b", MEANS), ("a", replace(MEANS, hash="2")), ("a", replace(MEANS, resize="to 9 px")))
    for number, (key, extractor) in enumerate(others, start=2):
        cached(extractor, images, key)
        assert len(asked) == number
    cached(MEANS, images, "a")
    assert len(asked) == 4


@pytest.mark.parametrize("file", ["vectors.npy", "logits.npy", "description.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_features_are_made_again(empty: Path, file: str, how: str) -> None:
    first = cached(MEANS, lambda: pictures(40, 6), "a")
    assert first.folder is not None
    path = first.folder / file
    path.unlink() if how == "gone" else path.write_bytes(path.read_bytes()[:-20])
    again = cached(MEANS, lambda: pictures(40, 6), "a")
    assert (again.vectors == pictures(40, 6).mean((1, 2)).astype(np.float32)).mean() > 0.9 and path.exists()
    assert [entry.name for entry in kept_things.entries()] == [first.folder.name]


def test_what_fails_half_way_leaves_nothing(empty: Path) -> None:
    def broken(images: Tensor) -> tuple[Tensor, None]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(replace(MEANS, network=broken), lambda: pictures(9, 6), "a")
    assert kept_things.entries() == []


def test_two_at_once_compute_features_once(empty: Path) -> None:
    asked = []

    def images() -> np.ndarray:
        asked.append(1)
        time.sleep(0.3)
        return pictures(9, 6)

    crew = [threading.Thread(target=cached, args=(MEANS, images, "a")) for _ in range(2)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    assert len(asked) == 1


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "file"))
    with pytest.raises(Refused, match="TASVIR_CACHE"):
        cached(MEANS, lambda: pictures(9, 6), "a")


def test_kept_features_are_listed_and_cleared(empty: Path) -> None:
    folder = cached(MEANS, lambda: pictures(9, 6), "a").folder
    assert folder is not None
    (empty / "weights").mkdir()
    (empty / "weights" / "net.pth").write_bytes(bytes(100))
    (empty / "weights" / ".other.pth.partial").write_bytes(bytes(10))
    told = {(entry.kind, entry.name, entry.about) for entry in kept_things.entries()}
    assert told == {
        ("features", folder.name, "9 pictures"),
        ("fetched weights", "net.pth", ""),
        ("fetched weights", ".other.pth.partial", "unfinished"),
    }
    with FileLock(folder.parent / f".{folder.name}.lock"), FileLock(empty / "weights" / ".other.pth.lock"):
        gone = kept_things.clear(kept_things.entries())
    assert [entry.name for entry in gone] == ["net.pth"]
    assert len(kept_things.clear(kept_things.entries())) == 2 and not kept_things.entries()


# ---- weights


@pytest.fixture
def published(tmp_path: Path) -> Weights:
    """Weights that can be had at an address, which is a file."""
    file = io.BytesIO()
    torch.save({"a": torch.arange(700_000.0)}, file)
    (tmp_path / "origin.pth").write_bytes(file.getvalue())
    digest = hashlib.sha256(file.getvalue()).hexdigest()
    return Weights("w.pth", (tmp_path / "origin.pth").as_uri(), digest, len(file.getvalue()))


def test_weights_are_fetched_once(
    empty: Path, tmp_path: Path, published: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, str]] = []

    class Bar:
        def __init__(self, total: int, what: str):
            shown.append((total, what))

        def __enter__(self) -> Callable[[int], None]:
            return lambda count: shown.append((count, "done"))

        def __exit__(self, *error: object) -> None:
            return None

    monkeypatch.setattr(extraction, "PATIENCE", -1.0)
    monkeypatch.setattr(extraction, "progress", Bar)
    assert fetched.state_dict(published)["a"].sum() == torch.arange(700_000.0).sum()
    assert shown == [(3, "fetching weights (MB)"), *[(1, "done")] * 3]
    (tmp_path / "origin.pth").unlink()
    assert fetched.weights_file(published) == empty / "weights" / "w.pth"
    assert [entry.name for entry in kept_things.entries()] == ["w.pth"]


def test_weights_can_be_given(empty: Path, tmp_path: Path, published: Weights) -> None:
    given = tmp_path / "origin.pth"
    assert fetched.weights_file(replace(published, address="http://127.0.0.1:9/w.pth"), given) == given
    assert not kept_things.entries()
    with pytest.raises(Refused, match="nowhere.pth cannot be read"):
        fetched.weights_file(published, tmp_path / "nowhere.pth")


def test_without_a_network_it_says_where_weights_go(empty: Path, published: Weights) -> None:
    row = replace(published, address="http://127.0.0.1:9/w.pth")
    with pytest.raises(Refused) as refused:
        fetched.weights_file(row)
    said = str(refused.value)
    assert len(said.splitlines()) == 2
    for part in (row.address, row.sha256, str(empty / "weights" / "w.pth"), "--weights FILE"):
        assert part in said


class Bomb:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path.touch, (self.marker,)  # type: ignore[return-value]


@pytest.mark.parametrize("where", ["given", "kept", "fetched"])
def test_what_has_another_hash_is_never_unpickled(
    empty: Path, tmp_path: Path, published: Weights, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "exploded"
    place = {"given": tmp_path / "bomb", "kept": empty / "weights" / "w.pth", "fetched": tmp_path / "origin.pth"}[where]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(pickle.dumps(Bomb(marker), protocol=2))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(Refused) as refused:
        fetched.state_dict(published, place if where == "given" else None)
    assert hashlib.sha256(place.read_bytes()).hexdigest() in str(refused.value)
    assert published.sha256 in str(refused.value) and not marker.exists()
    if where == "fetched":
        assert not kept_things.entries()


def test_what_has_the_right_hash_is_unpickled_as_tensors_only(tmp_path: Path, published: Weights) -> None:
    data = pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2)
    (tmp_path / "bomb").write_bytes(data)
    with pytest.raises(pickle.UnpicklingError):
        fetched.state_dict(replace(published, sha256=hashlib.sha256(data).hexdigest()), tmp_path / "bomb")
    assert not (tmp_path / "exploded").exists()


@pytest.fixture
def server(published: Weights, tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """Gives the published file at /w.pth, half of it at /half, too much at /more; counts what it was asked."""
    data = (tmp_path / "origin.pth").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked += 1  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if self.path == "/half" else data)

        def log_message(self, *words: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.asked = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_download_that_breaks_off_leaves_nothing(
    empty: Path, published: Weights, server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(Refused, match="did not come"):
        fetched.weights_file(replace(published, address=f"{address}/half"))
    assert not kept_things.entries()

    def interrupted(total: int, what: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(extraction, "PATIENCE", -1.0)
        patch.setattr(extraction, "progress", interrupted)
        fetched.weights_file(replace(published, address=f"{address}/w.pth"))
    assert not kept_things.entries()
    assert fetched.weights_file(replace(published, address=f"{address}/w.pth")).exists()


def test_two_at_once_fetch_weights_once(empty: Path, published: Weights, server: ThreadingHTTPServer) -> None:
    row = replace(published, address=f"http://127.0.0.1:{server.server_port}/w.pth")
    crew = [threading.Thread(target=fetched.weights_file, args=(row,)) for _ in range(3)]
    for one in crew:
        one.start()
    for one in crew:
        one.join()
    assert server.asked == 1 and fetched.weights_file(row).exists()  # type: ignore[attr-defined]


# ---- the FID network


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    """torch-fidelity's own extractor with random weights, such that features differ from picture to picture."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object) -> None:  # type: ignore[override]
            return None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Random("random", ["2048", "logits_unbiased"], feature_extractor_weights_path=empty)
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu", generator=generator)
        elif isinstance(part, nn.BatchNorm2d):
            for values, low, high in ((part.weight, 0.8, 1.2), (part.running_var, 0.5, 1.5)):
                nn.init.uniform_(values, low, high, generator=generator)
            for values in (part.bias, part.running_mean):
                nn.init.normal_(values, 0, 0.1, generator=generator)
    return network


def test_inception_is_that_of_torch_fidelity(reference: nn.Module) -> None:
    network = inception.inception_of(reference.state_dict())
    for size in (8, 32, 310):
        images = tensor(pictures(2, size) // np.array([1, 4], np.uint8)[:, None, None, None])
        with torch.inference_mode():
            expected, found = reference(images), network(images)
        for one, other in zip(expected, found, strict=True):
            assert one.std(0).mean() > 0.02 * one.abs().mean()  # else any picture would do
            assert (one - other).norm() < 1e-5 * one.norm() and other.dtype == torch.float32
    assert found[0].shape == (2, 2048) and found[1].shape == (2, 1008)


def test_inception_resizes_as_tensorflow_1_did(reference: nn.Module) -> None:
    small = pictures(1, 5)
    place = np.arange(299) * 5 / 299  # corner on corner: no half pixels, as TensorFlow had it
    low = place.astype(int)
    high, part = np.minimum(low + 1, 4), place - low
    rows = small[:, low] * (1 - part)[:, None, None] + small[:, high] * part[:, None, None]
    large = rows[:, :, low] * (1 - part)[:, None] + rows[:, :, high] * part[:, None]
    centered = F.interpolate(tensor(small).float(), 299, mode="bilinear", align_corners=False)
    network = inception.inception_of(reference.state_dict())
    with torch.inference_mode():
        found = network(tensor(small))[0]
        same = reference(tensor(np.round(large).astype(np.uint8)))[0]
        other = reference(centered.round().to(torch.uint8))[0]
    assert (found - same).norm() < 0.1 * (found - other).norm()


def test_the_inception_extractor_says_what_it_is(
    empty: Path, digits: Dataset, reference: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(reference.state_dict(), tmp_path / "random.pth")
    digest = hashlib.sha256((tmp_path / "random.pth").read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "INCEPTION", replace(fetched.INCEPTION, sha256=digest))
    found = build("inception", digits, tmp_path / "random.pth")
    assert (found.name, found.hash, found.size) == ("inception", digest, 2048) and "TensorFlow 1" in found.resize
    made = extract(found, np.asarray(digits.test.images[:2]), np.empty)
    with torch.inference_mode():
        expected = reference(tensor(np.repeat(digits.test.images[:2], 3, axis=3)))
    assert made.vectors == pytest.approx(expected[0].numpy(), rel=1e-3, abs=1e-4)
    assert made.logits is not None and made.logits == pytest.approx(expected[1].numpy(), rel=1e-3, abs=1e-3)


# ---- the classifier


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Extractor:
    return build("classifier", digits)


def test_the_classifier_knows_digits(trained: Extractor, digits: Dataset) -> None:
    found = extract(trained, digits.test.images, np.empty)
    assert found.vectors.shape == (len(digits.test), trained.size) and found.logits is not None
    assert digits.test.labels is not None
    right = float((found.logits.argmax(1) == digits.test.labels).mean())
    assert right >= 0.95 and trained.facts["accuracy"] == right
    assert trained.classes == tuple("0123456789") and trained.facts["accuracy_pictures"] == len(digits.test)


def test_the_classifier_is_trained_once(
    trained: Extractor, digits: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(classifiers, "fit", lambda *_, **__: pytest.fail("it was trained again"))
    before = torch.get_rng_state()
    again = build("classifier", digits)
    assert again.hash == trained.hash and again.facts == trained.facts and capsys.readouterr().err == ""
    assert torch.equal(before, torch.get_rng_state())
    images = tensor(np.repeat(digits.test.images[:9], 3, axis=3))
    assert all(torch.equal(a, b) for a, b in zip(again.network(images), trained.network(images), strict=True))
    file = next((kept_things.cache_folder() / "classifiers").glob("digits-*/model.safetensors"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == trained.hash


def test_training_a_classifier_repeats_itself_and_leaves_no_trace(digits: Dataset) -> None:
    assert digits.train.labels is not None
    before = torch.get_rng_state()
    np.random.seed(0)
    states = []
    for seed in (0, 0, 1):
        network = classifiers.fit(digits.train.images[:300], digits.train.labels[:300], 10, seed=seed, steps=5)
        states.append(network.state_dict())
        torch.rand(3)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["linear.weight"], states[2]["linear.weight"])
    torch.set_rng_state(before)
    torch.rand(9)
    expected = torch.get_rng_state()
    torch.set_rng_state(before)
    for _ in range(3):
        torch.rand(3)
        classifiers.fit(digits.train.images[:20], digits.train.labels[:20], 10, steps=1)
    assert torch.equal(expected, torch.get_rng_state())


def test_training_pictures_are_moved_and_not_mirrored() -> None:
    images = pictures(200, 28, channels=1)
    moved = classifiers._moved(images, np.random.default_rng(0))
    seen = set()
    for one, other in zip(images, moved, strict=True):
        fits = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if (other[2:-2, 2:-2] == one[2 + down : 26 + down, 2 + right : 26 + right]).all()
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 25


def test_every_picture_is_learned_from_before_any_comes_again() -> None:
    places = np.concatenate(list(classifiers._shuffled(1000, 8, np.random.default_rng(0))))
    assert len(places) == 8 * classifiers.BATCH and (np.bincount(places) >= 1).all()
    assert (np.sort(places[:1000]) == np.arange(1000)).all() and not (places[:1000] == np.arange(1000)).all()


@pytest.mark.parametrize(("number", "steps"), [(50, 100), (3200, 200), (60_000, 400)])
def test_few_pictures_are_seen_more_often(number: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(classifiers, "_shuffled", lambda count, steps, generator: asked.append(steps) or iter([]))
    classifiers.fit(np.zeros((number, 4, 4, 1), np.uint8), np.zeros(number, np.int64), 2)
    assert asked == [steps]


@pytest.mark.parametrize(("size", "channels"), [(4, 1), (9, 3), (64, 3), (250, 1)])
def test_the_classifier_takes_pictures_of_any_size(size: int, channels: int) -> None:
    network = classifiers.fit(pictures(8, size, channels), np.arange(8) % 3, 3, steps=1)
    with torch.inference_mode():
        vectors, logits = network(tensor(pictures(2, size)))
    assert vectors.shape == (2, 128) and logits.shape == (2, 3)
    assert classifiers.predict(network, pictures(2, size, channels)).dtype == np.int64


def brief(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(classifiers, "fit", partial(classifiers.fit, steps=steps))


def test_a_classifier_of_classes_without_meaning_is_refused(
    empty: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief(monkeypatch, 40)
    generator = np.random.default_rng(0)

    def shuffled(split: str) -> object:
        part = getattr(digits, split)
        return replace(part, labels=generator.permutation(part.labels), hash=f"{split} shuffled")

    with pytest.raises(Refused) as refused:
        build("classifier", replace(digits, train=shuffled("train"), test=shuffled("test")))  # type: ignore[arg-type]
    said = str(refused.value)
    assert "%" in said and "inception" in said and "pixels" in said and len(said.splitlines()) == 2


@pytest.mark.parametrize(("right", "enough"), [(0.74, False), (0.76, True)])
def test_enough_is_halfway_from_the_most_frequent_class_to_no_mistake(
    empty: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, right: float, enough: bool
) -> None:
    brief(monkeypatch, 1)
    monkeypatch.setattr(classifiers, "accuracy", lambda *_: right)
    half = (np.arange(len(digits.test)) % 2).astype(np.int64)
    dataset = replace(digits, test=replace(digits.test, labels=half, hash="half"))
    if enough:
        assert build("classifier", dataset).facts["accuracy"] == right
    else:
        with pytest.raises(Refused, match="74.0%.*50.0%|50.2%"):
            build("classifier", dataset)


def test_a_damaged_classifier_is_trained_again(empty: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    brief(monkeypatch, 1)
    monkeypatch.setattr(classifiers, "accuracy", lambda *_: 1.0)
    first = build("classifier", digits)
    file = next((empty / "classifiers").glob("digits-*/model.safetensors"))
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        file.write_bytes(damaged)
        assert build("classifier", digits).hash == first.hash and file.read_bytes() == whole
    assert [(entry.kind, entry.about) for entry in kept_things.entries()] == [
        ("classifier", "10 classes, 100.0% right")
    ]


def test_a_classifier_needs_classes_and_training_pictures(digits: Dataset) -> None:
    bare = replace(digits, pictures=replace(digits.pictures, classes=()))
    with pytest.raises(Refused, match="no classes"):
        build("classifier", bare)
    streamed = replace(digits, train=replace(digits.train, images=digits.train.images[:0]))
    with pytest.raises(Refused, match="streamed"):
        build("classifier", streamed)
    assert default(digits) == "classifier" and default(bare) == default(streamed) == "inception"
    assert default(replace(digits, name="holidays")) == "inception"


# ---- pixels


def test_components_are_those_of_the_covariance(digits: Dataset) -> None:
    values = np.asarray(digits.train.images).reshape(len(digits.train), -1).astype(np.float64) / 255
    mean, components = pixels.principal_components(values.astype(np.float32), 10)
    assert mean == pytest.approx(values.mean(0), abs=1e-5)
    variances, vectors = np.linalg.eigh(np.cov(values.T))
    expected = vectors[:, ::-1][:, :10].T
    assert np.abs((components * expected).sum(1)) == pytest.approx(np.ones(10), abs=1e-4)
    assert (components[np.arange(10), np.abs(components).argmax(1)] > 0).all()
    projected = (values - mean) @ components.T
    assert projected.var(0, ddof=1) == pytest.approx(variances[::-1][:10], rel=1e-4)


def test_all_components_keep_distances(digits: Dataset) -> None:
    found = build("pixels", digits)
    vectors = extract(found, digits.test.images[:30], np.empty).vectors.astype(np.float64)
    flat = digits.test.images[:30].reshape(30, -1) / 255
    assert found.size == 64 and found.resize == "none"
    expected = np.linalg.norm(flat[:, None] - flat, axis=2)
    assert np.linalg.norm(vectors[:, None] - vectors, axis=2) == pytest.approx(expected, abs=1e-3)
    assert build("pixels", digits).hash == found.hash


def test_large_pictures_are_averaged_to_64_pixels(digits: Dataset) -> None:
    images = pictures(20, 128)
    small = images.reshape(20, 64, 2, 64, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(20, -1) / 255
    split = replace(digits.train, images=images, labels=None)
    streamed = replace(split, images=images[:0])
    dataset = replace(digits, pictures=replace(digits.pictures, size=128, channels=3), train=streamed, test=split)
    found = build("pixels", dataset)
    assert "64 px" in found.resize and found.size == 19 and found.facts["fitted"] == 20
    vectors = extract(found, images, np.empty).vectors
    expected = np.linalg.norm(small[:, None] - small, axis=2)  # 20 pictures lie in 19 dimensions
    assert np.linalg.norm(vectors[:, None] - vectors, axis=2) == pytest.approx(expected, abs=1e-3)


# ---- other libraries' networks


def test_torchvision_features_are_what_the_last_layer_is_given() -> None:
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.transforms.v2.functional import normalize, resize

    torch.manual_seed(0)
    network, prepare = networks.torchvision_network("resnet18", pretrained=False)
    found = networks._extractor("torchvision:resnet18", network, prepare)
    assert found.resize == "bilinear with antialiasing to 224 px" and found.size == 512
    whole = models.resnet18()
    whole.load_state_dict(network.state_dict(), strict=False)
    wanted = models.ResNet18_Weights.DEFAULT.transforms()
    images = tensor(pictures(2, 300))
    resized = resize(images.float() / 255, [224, 224], antialias=True)
    with torch.inference_mode():
        inner = create_feature_extractor(whole.eval(), ["flatten"])
        expected = inner(normalize(resized, wanted.mean, wanted.std))["flatten"]
    assert expected.std(0).mean() > 0
    assert extract(found, pictures(2, 300), np.empty).vectors == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


def test_timm_features_are_those_before_its_head() -> None:
    import timm
    from PIL import Image
    from timm.data import create_transform
    from timm.models import get_pretrained_cfg

    name = "test_vit.r160_in1k"
    torch.manual_seed(0)
    network, prepare = networks.timm_network(name, pretrained=False)
    found = networks._extractor(f"timm:{name}", network, prepare)
    whole = timm.create_model(name, pretrained=False).eval()
    whole.load_state_dict(network.state_dict(), strict=False)
    wanted = get_pretrained_cfg(name)
    assert found.resize == f"{wanted.interpolation} with antialiasing to {wanted.input_size[-1]} px"
    images = pictures(2, prepare.side)  # of the size that it wants, so that the library's own rule cuts nothing off
    theirs = create_transform(wanted.input_size, crop_pct=1.0, mean=wanted.mean, std=wanted.std)
    with torch.inference_mode():
        batch = torch.stack([theirs(Image.fromarray(image)) for image in images])
        expected = whole.forward_head(whole.forward_features(batch), pre_logits=True)
    assert expected.std(0).mean() > 0
    assert extract(found, images, np.empty).vectors == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4)


def test_dinov2_and_clip_are_in_timm_with_weights() -> None:
    import timm

    known = timm.list_pretrained()
    for make in (networks.dinov2, networks.clip):
        asked: list[str] = []

        def create(name: str, asked: list[str] = asked, **options: object) -> None:
            asked.append(name)
            raise OSError("no network")

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused, match="no network"):
            patch.setattr(timm, "create_model", create)
            make()
        assert asked[0] in known


def test_a_hash_knows_every_weight() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    first = networks.hash_of(network)
    assert first == networks.hash_of(network)
    network[1].running_var[1] = 2.0
    assert networks.hash_of(network) != first


def test_a_library_that_is_not_there_is_named(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("dinov2", "clip", "timm:resnet18"):
        with pytest.raises(Refused, match=r"pip install 'tasvir\[networks\]'"):
            build(name, digits)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inceptoin", "Perhaps you meant inception"),
        ("timm", "timm:NAME"),
        ("timm:resnet19", "resnet1"),
        ("torchvision:resnet19", "Perhaps you meant .*resnet1"),
        ("torchvision:squeezenet1_0", "linear layer"),
        ("keras:resnet50", "There are inception"),
    ],
)
def test_what_there_is_not_is_refused(digits: Dataset, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "torchvision_network", partial(networks.torchvision_network, pretrained=False))
    with pytest.raises(Refused, match=said):
        build(name, digits)


def test_a_file_of_weights_is_for_inception(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="--weights"):
        build("pixels", digits, tmp_path / "w.pth")


def test_names_are_what_can_be_built() -> None:
    assert names() == ["inception", "classifier", "pixels", "dinov2", "clip", "timm:NAME", "torchvision:NAME"]
    assert set(features.EXTRACTORS) < set(names()) and json.dumps(names())
