"""Batches: a pure function of (seed, step, rank), in whatever way they are read and augmented."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tasvir.config import DataConfig, Pictures
from tasvir.data import batches, packing
from tasvir.data.batches import Batches, pictures_of, to_float, to_uint8

SETTINGS = {
    "plain": {},
    "flip": {"flip": True},
    "moved": {"flip": True, "translate": 0.3, "jitter": 8},
    "painted": {"cutout": 0.5, "color_jitter": 0.3},
    "pairs": {"sources": 20},
    "pairs, all of it": {
        "sources": 20,
        "flip": True,
        "translate": 0.3,
        "jitter": 8,
        "cutout": 0.5,
        "color_jitter": 0.3,
    },
    "unmatched": {"sources": 13, "flip": True, "translate": 0.3},
    "low resolution": {"derive": "low-resolution", "scale": 2, "flip": True},
    "grey": {"derive": "grey", "translate": 0.3},
    "masked": {"derive": "masked", "flip": True},
}
EVERY = pytest.mark.parametrize("name", SETTINGS)


def packed(count: int = 20, labels: bool = True, sources: int = 0, **settings) -> packing.Dataset:
    """A set in memory whose training pictures are told apart by their first pixel, and their sources as well."""
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 5, 0] = np.arange(count)
    beside = np.random.default_rng(1).integers(0, 256, (sources, 6, 6, 1), np.uint8)
    beside[:, 0, 0, 0] = beside[:, 0, 5, 0] = np.arange(sources) + 100
    train = packing.Split(images, np.arange(count) * 7 if labels else None, "", beside if sources else None)
    pictures = Pictures(3, 6, source=Pictures(1, 6) if sources else None, matched=sources in (0, count))
    return packing.Dataset("x", pictures, train, train, (), (), {}, DataConfig(**settings))


def made(name: str) -> packing.Dataset:
    return packed(**SETTINGS[name])


def ids(batch) -> list[int]:
    return to_uint8(batch.image)[:, 0, 0, 0].tolist()


def parts(batch) -> list[torch.Tensor]:
    return [part for part in (batch.image, batch.label, batch.source) if part is not None]


def same(one, other) -> bool:
    pairs = zip(parts(one), parts(other), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_floats_and_back_are_exact():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(2, 1, 1, 3)
    floats = to_float(values)
    assert floats.shape == (2, 3, 16, 16) and floats.dtype == torch.float32
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert floats.min() == -1 and floats.max() == 1
    torch.testing.assert_close(floats[0, 0].flatten(), torch.arange(256) / 127.5 - 1)
    np.testing.assert_array_equal(to_uint8(floats), values.numpy())
    outside = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).reshape(1, 1, 1, 5)
    assert to_uint8(outside).flatten().tolist() == [0, 0, 128, 255, 255]


def test_every_picture_comes_once_an_epoch_and_epochs_differ():
    stream = Batches(packed(), 8, seed=3, device="cpu")
    seen = [number for step in range(10) for number in ids(stream[step])]  # four epochs of twenty
    epochs = [seen[start : start + 20] for start in range(0, 80, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [number * 7 for number in ids(stream[3])] == stream[3].label.tolist()


def test_a_batch_larger_than_the_set():
    stream = Batches(packed(5), 12, seed=0, device="cpu")
    counts = np.bincount([number for step in range(5) for number in ids(stream[step])], minlength=5)
    assert counts.tolist() == [12] * 5


@EVERY
def test_a_batch_depends_on_seed_and_step_alone(name):
    dataset = made(name)
    forward = [Batches(dataset, 8, 3, "cpu")[step] for step in range(12)]
    stream = Batches(dataset, 8, 3, "cpu")
    torch.manual_seed(1), np.random.seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    backward = {step: stream[step] for step in reversed(range(12))}
    assert all(same(forward[step], backward[step]) for step in range(12))
    assert all(same(forward[step], batch) for step, batch in stream.iterate(4, 9))
    assert [step for step, _ in stream.iterate(4, 9)] == [4, 5, 6, 7, 8]
    assert not torch.equal(Batches(dataset, 8, 4, "cpu")[0].image, Batches(dataset, 8, 3, "cpu")[0].image)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1] == np.random.get_state()[1]).all()


@EVERY
def test_two_processes_see_what_one_with_twice_the_batch_sees(name):
    dataset = made(name)
    one = Batches(dataset, 6, 3, "cpu")
    two = [Batches(dataset, 3, 3, "cpu", rank=rank, processes=2) for rank in range(2)]
    for step in range(9):
        halves = [parts(stream[step]) for stream in two]
        for whole, first, second in zip(parts(one[step]), *halves, strict=True):
            torch.testing.assert_close(whole, torch.cat([first, second]), rtol=0, atol=1e-6)  # powers are vectorized


def test_pairs_stay_pairs_and_unmatched_sets_mix():
    stream = Batches(made("pairs"), 8, 3, "cpu")
    unmatched = Batches(packed(sources=13), 8, 3, "cpu")
    together = set()
    for step in range(13):
        batch = stream[step]
        assert [number + 100 for number in ids(batch)] == to_uint8(batch.source)[:, 0, 0, 0].tolist()
        other = unmatched[step]
        assert ids(other) == ids(batch)  # what is learned comes in the same order whatever stands beside it
        together |= set(zip(ids(other), to_uint8(other.source)[:, 0, 0, 0].tolist(), strict=True))
    sources = [source for _, source in together]
    assert set(sources) == set(range(100, 113)) and len(together) > 60  # of 104 draws among 260 pairs


def test_both_pictures_of_a_pair_are_changed_alike():
    dataset = packed(sources=20, flip=True, translate=0.3, jitter=8, cutout=0.5, color_jitter=0.2)
    red = dataset.train.images[..., :1]
    twins = replace(dataset, train=replace(dataset.train, images=red, sources=red))
    stream = Batches(twins, 8, 3, "cpu")
    for step in range(5):
        assert torch.equal(stream[step].image, stream[step].source)
        assert not torch.equal(stream[step].image, Batches(made("pairs"), 8, 3, "cpu")[step].image[:, :1])


def test_what_is_made_of_a_picture_is_made_of_what_is_learned():
    stream = Batches(packed(derive="low-resolution", scale=2, flip=True, translate=0.3), 8, 3, "cpu")
    for step in range(3):
        for picture, source in zip(to_uint8(stream[step].image), to_uint8(stream[step].source), strict=True):
            small = np.asarray(Image.fromarray(picture).resize((3, 3), Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(small - source).max() <= 1
    masked = Batches(packed(derive="masked", mask=0.5), 8, 3, "cpu")
    places = set()
    for step in range(6):
        batch = masked[step]
        holes = (batch.source != batch.image).any(1)
        assert (holes.sum((1, 2)) == 9).all() and (batch.source[holes[:, None].expand_as(batch.source)] == 0).all()
        places |= {tuple(hole.nonzero()[0].tolist()) for hole in holes}
    assert len(places) > 8  # of 16
    held_out = pictures_of(packed(derive="masked"), masked.split, [3, 4], "cpu")
    assert ((held_out.source != held_out.image).any(1).nonzero()[:, 1:].unique(dim=0) >= 1).all()  # the centre
    assert ((held_out.source != held_out.image).any(1).nonzero()[:, 1:].unique(dim=0) <= 4).all()


def test_about_half_of_the_pictures_are_mirrored():
    flipped, plain = (Batches(packed(flip=flip), 10, 3, "cpu") for flip in (True, False))
    mirrored = 0
    for step in range(40):
        for one, other in zip(flipped[step].image, plain[step].image, strict=False):
            assert torch.equal(one, other) or torch.equal(one, other.flip(-1))
            mirrored += not torch.equal(one, other)
    assert 150 < mirrored < 250  # of 400: five standard deviations
    assert all(torch.equal(flipped[step].label, plain[step].label) for step in range(5))


@EVERY
def test_a_set_too_large_for_the_device_gives_the_same_batches(monkeypatch, name):
    dataset = made(name)
    small = Batches(dataset, 8, 3, "cpu")
    monkeypatch.setattr(batches, "RESIDENT", 100)
    large = Batches(dataset, 8, 3, "cpu")
    assert small.images is not None and large.images is None
    assert all(same(large[step], small[step]) for step in range(6))
    assert all(same(batch, small[step]) for step, batch in large.iterate(2, 8))
    assert list(large.iterate(5, 5)) == []


@EVERY
def test_large_pictures_come_the_same_by_their_own_way(monkeypatch, name):
    small = Batches(made(name), 8, 3, "cpu")
    expected = [small[step] for step in range(4)]
    monkeypatch.setattr(batches, "LARGE", 1)
    monkeypatch.setattr(batches, "BLOCK", 3)
    large = Batches(made(name), 8, 3, "cpu")
    assert all(same(large[step], batch) for step, batch in enumerate(expected))
    assert large[0].image.stride() == expected[0].image.stride()


@EVERY
def test_the_pack_itself_is_not_written_to(name):
    dataset = made(name)
    before = dataset.train.images.tobytes()
    stream = Batches(dataset, 4, 0, "cpu")
    first = [part.clone() for part in parts(stream[0])]
    for part in parts(stream[0]):
        part.zero_()
    for part in parts(pictures_of(dataset, dataset.train, [0], "cpu")):
        part.zero_()
    assert dataset.train.images.tobytes() == before
    assert all(torch.equal(*pair) for pair in zip(first, parts(stream[0]), strict=True))


def test_layout_in_memory():
    dataset = packed()
    last, first = (Batches(dataset, 8, 3, "cpu", channels_last=choice)[0].image for choice in (True, False))
    assert last.is_contiguous(memory_format=torch.channels_last) and first.is_contiguous()
    assert torch.equal(last, first)


def test_chosen_pictures_come_in_the_order_asked_for():
    dataset = packed()
    batch = pictures_of(dataset, dataset.test, [7, 2, 2, 19], "cpu")
    assert ids(batch) == [7, 2, 2, 19] and batch.label.tolist() == [49, 14, 14, 133]
    assert batch.source is None
    plain = packed(labels=False)
    assert pictures_of(plain, plain.test, [0], "cpu").label is None
    pairs = pictures_of(packed(sources=20), packed(sources=20).test, [7, 2], "cpu")
    assert to_uint8(pairs.source)[:, 0, 0, 0].tolist() == [107, 102]
    few = packed(sources=13)
    assert to_uint8(pictures_of(few, few.test, [2, 15], "cpu").source)[:, 0, 0, 0].tolist() == [102, 102]
    assert Batches(packed(labels=False), 4, 0, "cpu")[0].label is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("resident", [1 << 30, 100])
def test_a_gpu_sees_what_the_cpu_sees(monkeypatch, resident):
    dataset = made("unmatched")
    here = Batches(dataset, 8, 3, "cpu")
    monkeypatch.setattr(batches, "RESIDENT", resident)
    there = Batches(dataset, 8, 3, "cuda")
    for step, batch in there.iterate(0, 6):
        assert batch.image.device.type == "cuda"
        assert torch.equal(batch.image.cpu(), here[step].image) and torch.equal(batch.label.cpu(), here[step].label)
