"""Shards: addresses, tars read in a stream, classes; and training from them, the same every time."""

import contextlib
import gzip
import http.server
import io
import itertools
import json
import pickle
import tarfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from tasvir.config import DataConfig, Refused, RunConfig, TrainConfig
from tasvir.data import batches, first_look, load, shards, streams
from tasvir.data.decoding import Frame, Unreadable, decode
from tasvir.data.first_look import open_stream
from tasvir.data.shards import Shard, class_of, expand, labels, located, samples
from tasvir.data.splitting import TEST_FRACTION, digest_of
from tasvir.data.streams import Stream
from tasvir.models import recipe
from tasvir.runs import Run
from tasvir.training.loop import train

webdataset = pytest.importorskip("webdataset")
fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "WAITS", (0.0, 0.0, 0.0))
    return tmp_path / "cache"


def png(seed: int, size: int = 8, color: bool = True) -> bytes:
    """A picture whose mean brightness does not matter, but which no other seed gives."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3) if color else (size, size), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [png(seed) for seed in range(300)]
PIXELS = {decode(data, Frame(8)).image.tobytes(): number for number, data in enumerate(PICTURES)}
TESTING = {n for n, data in enumerate(PICTURES) if digest_of((data,)) < int(TEST_FRACTION * 2**64).to_bytes(8, "big")}


def write_shard(file, numbers, classes: int | None = 3, **more) -> None:
    """One shard of these pictures, by WebDataset's own writer."""
    with webdataset.TarWriter(file) as writer:
        for number in numbers:
            sample = {"__key__": f"{number:06d}", "png": PICTURES[number], **more}
            if classes:
                sample["cls"] = number % classes
            writer.write(sample)


def folder_of_shards(root: Path, count: int = 6, each: int = 50, **options) -> str:
    root.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        write_shard(str(root / f"set-{shard:03d}.tar"), range(shard * each, (shard + 1) * each), **options)
    return str(root / f"set-{{000..{count - 1:03d}}}.tar")


def read(path: Path | str) -> tuple[list[shards.Sample], dict[str, str]]:
    problems: dict[str, str] = {}
    return list(samples(Shard(str(path)), problems.__setitem__)), problems


# Addresses


@pytest.mark.parametrize(
    "pattern",
    ["a{0..3}", "a{000..012}.tar", "{a,b}/{1..2}-x", "{08..11}", "{3..1}", "no braces", "a{b}c", "a{}c", "{x,}"],
)
def test_braces_are_those_of_a_shell(pattern):
    braceexpand = pytest.importorskip("braceexpand")
    assert expand(f"memory://{pattern}") == [f"memory://{one}" for one in braceexpand.braceexpand(pattern)]


def test_paths_and_folders(tmp_path):
    address = folder_of_shards(tmp_path / "set", 3, 2)
    expected = [str(tmp_path / "set" / f"set-00{number}.tar") for number in range(3)]
    (tmp_path / "set" / "notes.txt").write_text("")
    assert expand(address) == expand(str(tmp_path / "set")) == expected
    assert expand(expected[1]) == [expected[1]]
    assert [shard.size for shard in located(address)] == [Path(path).stat().st_size for path in expected]
    assert shards.is_address("s3://bucket/x.tar")
    assert not shards.is_address(address)


def test_what_is_missing_is_named(tmp_path):
    folder_of_shards(tmp_path / "set", 3, 2)
    with pytest.raises(Refused, match=r"no shard .*set-003\.tar, nor 1 more"):
        expand(str(tmp_path / "set" / "set-{000..004}.tar"))
    with pytest.raises(Refused, match="no shards in"):
        expand(str(tmp_path))
    with pytest.raises(Refused, match=r"memory://nowhere/1\.tar"):
        located("memory://nowhere/{1..3}.tar")
    with pytest.raises(Refused, match="over 100000 shards"):
        expand("memory://{0..999}-{0..999}")
    with pytest.raises(Refused, match="over 100000 shards"):
        expand("memory://{0..99999999999}")


@pytest.mark.parametrize("address", ["pipe:touch {}", " PIPE:touch {}", "cmd:touch {}", "pipe://touch {}", "|touch {}"])
def test_no_address_runs_a_command(tmp_path, address):
    canary = tmp_path / "canary"
    with pytest.raises(Refused):
        located(address.format(canary))
    with pytest.raises(Refused):
        open_stream([address.format(canary)], Frame(8))
    assert not canary.exists()


def test_a_protocol_without_its_package_says_what_to_install(monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(Refused, match=r"Install s3fs.*\n.*tasvir\[shards\]"):
        expand("s3://bucket/{1..3}.tar")


# Tars


def test_what_webdataset_writes_is_read(tmp_path):
    write_shard(str(tmp_path / "a.tar"), range(20))
    found, problems = read(tmp_path / "a.tar")
    assert [sample.data for sample in found] == PICTURES[:20]
    assert [sample.label for sample in found] == [number % 3 for number in range(20)]
    assert found[7].name == "a.tar/000007.png"
    assert not problems


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tgz"])
def test_every_form_of_tar_and_long_names(tmp_path, form, ending):
    folder = "f" * (90 if form == tarfile.USTAR_FORMAT else 300)
    names = [f"{folder}/{number:040d}.png" for number in range(5)]
    names += [] if form == tarfile.USTAR_FORMAT else ["ä" * 200 + ".jpg"]
    with tarfile.open(tmp_path / f"a.{ending}", "w" if ending == "tar" else "w:gz", format=form) as tar:
        for number, name in enumerate(names):
            entry = tarfile.TarInfo(name)
            entry.size = len(PICTURES[number])
            tar.addfile(entry, io.BytesIO(PICTURES[number]))
    found, problems = read(tmp_path / f"a.{ending}")
    assert [sample.name for sample in found] == [f"a.{ending}/{name}" for name in names]
    assert [sample.data for sample in found] == PICTURES[: len(names)]
    assert not problems


def archive(path: Path, *members: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            entry.name = name
            if isinstance(content, bytes):
                entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def test_names_are_only_names_and_links_are_nothing(tmp_path, monkeypatch):
    link = tarfile.TarInfo()
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder = tarfile.TarInfo()
    folder.type = tarfile.DIRTYPE
    path = archive(
        tmp_path / "in" / "a.tar" if (tmp_path / "in").mkdir() is None else tmp_path,
        ("../../evil.png", PICTURES[0]),
        ("/evil.png", PICTURES[1]),
        ("link.png", link),
        ("x.png", folder),
        (".hidden.png", PICTURES[2]),
        ("last.png", PICTURES[3]),
    )
    before = set(tmp_path.rglob("*"))
    found, _ = read(path)
    assert [sample.data for sample in found] == [PICTURES[0], PICTURES[1], PICTURES[3]]
    assert set(tmp_path.rglob("*")) == before


class Canary:
    def __reduce__(self):
        return exec, ("raise AssertionError('a pickle was loaded')",)


def test_pickles_are_passed_over(tmp_path):
    evil = pickle.dumps(Canary())
    members = [(f"{n}.{end}", evil) for n in range(20) for end in ("pyd", "pickle", "pkl", "pth", "cls", "json", "ten")]
    members += [(f"{n}.png", PICTURES[n]) for n in range(20)]
    path = archive(tmp_path / "a.tar", *sorted(members))
    found, _ = read(path)
    assert [sample.label for sample in found] == [None] * 20
    open_stream([str(path)], Frame(8))


def test_files_of_a_sample(tmp_path):
    path = archive(
        tmp_path / "a.tar",
        ("a/1.cls", b"5"),
        ("a/1.seg.png", PICTURES[0]),
        ("a/1.jpg", PICTURES[1]),
        ("a/1.txt", b"a caption"),
        ("b/1.webp", PICTURES[2]),
        ("b/1.json", b'{"caption": "x", "label": "owl"}'),
        ("b/2.json", b"{}"),
        ("b/3.other", b"?"),
    )
    found, _ = read(path)
    assert [(sample.name, sample.label) for sample in found] == [("a.tar/a/1.jpg", 5), ("a.tar/b/1.webp", "owl")]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "header", "cut in a header", "cut before a header"])
def test_of_a_broken_shard_the_rest_is_used_and_it_is_named(tmp_path, damage, ending):
    path = tmp_path / f"a.{ending}"
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for number in range(20):
            entry = tarfile.TarInfo(f"{number}.png")
            entry.size = len(PICTURES[number])
            tar.addfile(entry, io.BytesIO(PICTURES[number]))
    data = bytearray(plain.getvalue())
    place = 512 * 20  # every sample has a header and one block of content
    if damage == "cut":
        data = data[: place + 612]
    elif damage == "header":
        data[place + 148] = 0xFF
    else:
        data = data[: place + (100 if damage == "cut in a header" else 0)]
    path.write_bytes(gzip.compress(bytes(data)) if ending == "tar.gz" else data)
    found, problems = read(path)
    assert [sample.data for sample in found] == PICTURES[:10]
    assert list(problems) == [path.name]


def test_a_gzip_that_breaks_off_is_named(tmp_path):
    write_shard(str(tmp_path / "a.tar"), range(40))
    data = gzip.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "b.tar.gz").write_bytes(data[: len(data) // 2])
    found, problems = read(tmp_path / "b.tar.gz")
    assert 5 < len(found) < 35
    assert [sample.data for sample in found] == PICTURES[: len(found)]
    assert list(problems) == ["b.tar.gz"]


def test_mutated_tars_never_crash(tmp_path):
    write_shard(str(tmp_path / "a.tar"), range(6))
    whole = (tmp_path / "a.tar").read_bytes()
    random = np.random.default_rng(0)
    named = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            data[random.integers(0, 12) * 512 + random.integers(0, 512)] = random.integers(0, 256)
        (tmp_path / "b.tar").write_bytes(data[: random.integers(1, len(data))] if random.random() < 0.2 else data)
        _, problems = read(tmp_path / "b.tar")
        named += bool(problems)
    assert named > 100


def test_an_enormous_member_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST_FILE", 1000)
    path = archive(tmp_path / "a.tar", ("1.png", bytes(5000)), ("2.png", PICTURES[0]))
    found, problems = read(path)
    assert [sample.data for sample in found] == [PICTURES[0]]
    assert list(problems) == ["a.tar/1.png"]


# Classes


@pytest.mark.parametrize(
    ("data", "ending", "expected"),
    [
        (b"3", "cls", 3),
        (b" 12\n", "cls", 12),
        ("größer".encode(), "cls", "größer"),
        (b"owl", "txt", "owl"),
        (b"7", "json", 7),
        (b'"owl"', "json", "owl"),
        (b'{"width": 3, "label": 2}', "json", 2),
        (b'{"class_name": "owl"}', "json", "owl"),
    ],
)
def test_the_class_in_a_file(data, ending, expected):
    assert class_of(data, ending) == expected


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (b"", "cls"),
        (b"\xff\xfe\xfd", "cls"),
        (b"x" * 101, "txt"),
        (b"two\nlines", "txt"),
        (b"{", "json"),
        (b"{}", "json"),
        (b"true", "json"),
        (b'{"label": [1]}', "json"),
        (b"[" * 100_000, "json"),
    ],
)
def test_files_that_say_no_class(data, ending):
    with pytest.raises(Unreadable):
        class_of(data, ending)


def test_labels_of_shards_that_are_packed():
    files = {"s/1.png": b"", "s/1.cls": b"1", "s/2.png": b"", "s/2.cls": b"0", "s/3.png": b"", "s/3.cls": b"1"}
    files |= {"s/4.png": b"", "s/4.cls": b"0", "t/1.png": b""}
    pictures = [name for name in files if name.endswith("png")]
    others = [name for name in files if name.endswith("cls")]
    found = labels(pictures, others, files.__getitem__)
    assert found is not None
    assert found[:2] == ([1, 0, 1, 0, None], ("0", "1"))
    assert labels(pictures, others[:2], files.__getitem__) is None
    assert labels(pictures, others, lambda name: name.encode()) is None  # texts, each another


def test_classes_keep_their_numbers():
    assert shards.classes_of([0, 3, 3, 0]) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert shards.classes_of([-1, 5] * 3) == {-1: 0, 5: 1}
    assert shards.classes_of(["b", "a", 3] * 3) == {3: 0, "a": 1, "b": 2}
    assert shards.classes_of([1, 1, 1]) is None


# Looking at a set


def test_the_lowest_tenth_is_held_out_and_kept(tmp_path, monkeypatch):
    address = folder_of_shards(tmp_path / "set")
    found = open_stream([address], Frame(8))
    held_out = [PIXELS[image.tobytes()] for image in found.held_out]
    assert held_out == sorted(TESTING)
    assert found.labels is not None
    assert found.labels.tolist() == [number % 3 for number in held_out]
    assert found.classes == ("0", "1", "2")
    assert found.channels == 3
    assert json.loads(json.dumps(found.description))["counts"] == {"train": 300 - len(TESTING), "test": len(TESTING)}
    monkeypatch.setattr(first_look, "samples", None)  # the second time nothing is read
    assert (open_stream([address], Frame(8)).held_out == found.held_out).all()


def test_several_at_once_look_only_once(tmp_path, monkeypatch):
    address, looks, known = folder_of_shards(tmp_path / "set"), [], first_look._look

    def look(*args) -> None:
        looks.append(1)
        time.sleep(0.2)
        known(*args)

    monkeypatch.setattr(first_look, "_look", look)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: open_stream([address], Frame(8)).border, range(4)))
    assert len(looks) == 1
    assert len(set(found)) == 1


def test_only_the_first_shards_are_looked_at(tmp_path, monkeypatch):
    address = folder_of_shards(tmp_path / "set")
    read, known = [], first_look.samples
    monkeypatch.setattr(first_look, "samples", lambda shard, problem: read.append(shard.name) or known(shard, problem))
    found = open_stream([address], Frame(8), held_out=3)
    assert len(found.held_out) == 3
    assert len(read) <= 2
    assert found.description["counts"]["train"] is None


@pytest.mark.parametrize("setting", ["auto", "grey", "rgb"])
def test_grey_sets_are_grey(tmp_path, setting):
    members = [(f"{number}.png", png(number, color=False)) for number in range(40)]
    found = open_stream([str(archive(tmp_path / "a.tar", *members))], Frame(8), color=setting)
    assert found.channels == found.held_out.shape[-1] == (3 if setting == "rgb" else 1)


def test_a_small_set_lends_a_picture_and_its_copies(tmp_path):
    chosen = [number for number in range(300) if number not in TESTING][:20]
    lowest = min(chosen, key=lambda number: digest_of((PICTURES[number],)))
    members = [(f"{place}.png", PICTURES[number]) for place, number in enumerate([*chosen, lowest])]
    found = open_stream([str(archive(tmp_path / "a.tar", *members))], Frame(8))
    assert {PIXELS[image.tobytes()] for image in found.held_out} == {lowest}
    assert Counter(drawn(Stream(found, 19, 0, "cpu"), 0, 1)) == Counter(set(chosen) - {lowest})


def test_too_few_pictures_are_refused(tmp_path):
    with pytest.raises(Refused, match="0 readable pictures"):
        open_stream([str(archive(tmp_path / "a.tar", ("a.txt", b"x")))], Frame(8))
    write_shard(str(tmp_path / "b.tar"), range(10))
    with pytest.raises(Refused, match="10 readable pictures"):
        open_stream([str(tmp_path / "b.tar")], Frame(8))


def test_classes_can_be_left_out_counted_or_refused(tmp_path):
    address = folder_of_shards(tmp_path / "set", 2)
    assert open_stream([address], Frame(8), labels="none").classes == ()
    assert len(open_stream([address], Frame(8), labels="10").classes) == 10
    with pytest.raises(Refused, match="classes 0 to 1, but"):
        open_stream([address], Frame(8), labels="2")
    with pytest.raises(Refused, match="'hair'"):
        open_stream([address], Frame(8), labels="hair")
    captions = folder_of_shards(tmp_path / "captions", 2, classes=None, txt="one of a kind")
    assert open_stream([captions], Frame(8)).classes == ()


def test_a_class_that_comes_later_is_refused_by_name(tmp_path):
    write_shard(str(tmp_path / "0.tar"), range(100), classes=2)
    write_shard(str(tmp_path / "1.tar"), range(100, 200), classes=150)
    found = open_stream([str(tmp_path / "{0..1}.tar")], Frame(8), held_out=2)
    assert found.classes == ("0", "1")
    with pytest.raises(Refused, match=r"1\.tar/.* is of the class .*\n.*--data\.labels"):
        drawn(Stream(found, 50, 0, "cpu"), 0, 4)


# Training


def number_of(image: torch.Tensor) -> int:
    """Which picture a tensor in [-1,1] is."""
    pixels = ((image.double() + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return PIXELS[pixels.tobytes()]


def drawn(stream: Stream, start: int, stop: int) -> list[int]:
    return [number_of(image) for _, batch in stream.iterate(start, stop) for image in batch.image]


@pytest.fixture
def small_buffer(monkeypatch):
    monkeypatch.setattr(streams, "BUFFER", 40)


@pytest.mark.parametrize("batch", [7, 45])
def test_every_round_has_every_training_picture_once(tmp_path, small_buffer, batch):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    training = [number for number in range(300) if number not in TESTING]
    steps = -(-3 * len(training) // batch)
    seen = drawn(Stream(found, batch, 0, "cpu"), 0, steps)
    rounds = [seen[place : place + len(training)] for place in range(0, 3 * len(training), len(training))]
    assert [sorted(one) for one in rounds] == [training] * 3
    assert rounds[0] != rounds[1] != rounds[2]
    assert found.training_pictures() == len(training)


def test_neighbours_are_pulled_apart(tmp_path, small_buffer):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    seen = np.array(drawn(Stream(found, 250, 0, "cpu"), 0, 1))
    assert (np.abs(np.diff(seen)) <= 1).mean() < 0.05
    assert len(set((seen[:40] // 50).tolist())) >= 4  # shards in the first few


def test_batches_are_what_the_seed_says(tmp_path, small_buffer):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    assert drawn(Stream(found, 16, 1, "cpu"), 0, 9) == drawn(Stream(found, 16, 1, "cpu"), 0, 9)
    assert drawn(Stream(found, 16, 1, "cpu"), 0, 9) != drawn(Stream(found, 16, 2, "cpu"), 0, 9)
    for step, batch in Stream(found, 16, 1, "cpu").iterate(3, 6):
        assert batch.image.shape == (16, 3, 8, 8)
        assert batch.image.dtype == torch.float32
        assert batch.label is not None
        assert batch.label.tolist() == [number_of(image) % 3 for image in batch.image]
        assert 3 <= step < 6
    contiguous = next(iter(Stream(found, 16, 1, "cpu", channels_last=False).iterate(0, 1)))[1]
    assert contiguous.image.is_contiguous()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("start", [1, 5, 17, 40])
def test_resuming_is_as_if_nothing_had_happened(tmp_path, small_buffer, start, known):
    found = open_stream([folder_of_shards(tmp_path / "set", classes=None)], Frame(8))
    whole = drawn(Stream(found, 16, 3, "cpu"), 0, 45)
    if not known:
        (found.folder / "count.json").unlink()
    assert drawn(Stream(found, 16, 3, "cpu"), start, 45) == whole[16 * start :]


def test_whole_rounds_are_not_read_again(tmp_path, small_buffer, monkeypatch):
    found = open_stream([folder_of_shards(tmp_path / "set", classes=None)], Frame(8))
    read, known = [], streams.samples
    monkeypatch.setattr(streams, "samples", lambda shard, problem: read.append(shard.name) or known(shard, problem))
    drawn(Stream(found, 16, 3, "cpu"), 1000, 1001)
    assert len(read) <= 2 * 6 + streams.TURNS


def test_two_processes_see_what_one_with_twice_the_batch_does(tmp_path, small_buffer):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    one = drawn(Stream(found, 16, 0, "cpu"), 0, 20)
    two = [Stream(found, 8, 0, "cpu", rank=rank, processes=2) for rank in range(2)]
    parts = [np.array(drawn(stream, 0, 20)).reshape(20, 8) for stream in two]
    assert np.concatenate(parts, 1).flatten().tolist() == one


def test_little_is_read_before_the_first_batch(tmp_path, monkeypatch):
    address = folder_of_shards(tmp_path / "set", 30, 10)
    found = open_stream([address], Frame(8), held_out=5)
    monkeypatch.setattr(streams, "BUFFER", 20)
    opened, known = [], streams.samples
    monkeypatch.setattr(streams, "samples", lambda shard, problem: opened.append(shard.name) or known(shard, problem))
    stream = Stream(found, 4, 0, "cpu").iterate(0, 1000)
    next(stream)
    assert 2 <= len(opened) <= 14  # of 30: a buffer of 20, three batches ahead, and a chunk of each shard in turn
    stream.close()
    assert threading.active_count() < 40


def test_the_buffer_is_bounded_by_bytes_too(tmp_path, monkeypatch):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    monkeypatch.setattr(streams, "BUFFER_BYTES", 5 * len(PICTURES[0]))
    first = drawn(Stream(found, 3, 0, "cpu"), 0, 1)
    assert {number // 50 for number in first} <= set(range(6))
    most = max(number % 50 for number in first)
    assert most < 8  # nothing far down a shard can have been in so small a buffer


def streamed(root, **settings):
    source = (str(folder_of_shards(root)),)
    return load(DataConfig(source=source, stream=True, **{"size": 8, **settings}))


def test_streamed_pictures_are_augmented_and_made_pairs_of_like_packed_ones(tmp_path):
    plain, flipped = (streamed(tmp_path / "set", flip=flip) for flip in (False, True))
    mirrored = 0
    both = [batches.stream(dataset, 4, 0, "cpu").iterate(0, 20) for dataset in (plain, flipped)]
    for (_, one), (_, other) in zip(*both, strict=True):
        for ours, theirs in zip(one.image, other.image, strict=True):
            assert torch.equal(ours, theirs) or torch.equal(ours.flip(-1), theirs)
            mirrored += not torch.equal(ours, theirs)
    assert 20 < mirrored < 60  # of 80
    masked = streamed(tmp_path / "set", derive="masked", mask=0.5)
    whole = list(batches.stream(masked, 4, 0, "cpu").iterate(3, 5))
    parts = [list(batches.stream(masked, 2, 0, "cpu", rank=rank, processes=2).iterate(3, 5)) for rank in range(2)]
    for (_, batch), (_, first), (_, second) in zip(whole, *parts, strict=True):
        assert ((batch.source != batch.image).any(1).sum((1, 2)) > 8).all()
        assert torch.equal(batch.source, torch.cat([first.source, second.source]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"limit": 5}, "data.limit does not go"),
        ({"fraction": 0.5}, "data.fraction does not go"),
        ({"folders": 2}, "data.folders does not go"),
        ({"layout": "matched"}, "layout matched does not go"),
        ({"derive": "edges"}, "derive edges does not go"),
    ],
)
def test_what_streaming_cannot_do_is_refused(tmp_path, settings, words):
    with pytest.raises(Refused, match=words):
        streamed(tmp_path / "set", **settings)


def test_a_training_from_shards_goes_on_exactly(tmp_path):
    dataset = streamed(tmp_path / "set", flip=True)
    found = recipe("vae")
    settings = TrainConfig(
        steps=6, batch_size=8, precision="float32", checkpoint_every=3, sample_every=0, tensorboard=False
    )
    weights = []
    for name, stops in (("whole", (6,)), ("halves", (3, 6))):
        for stop in stops:
            config = RunConfig("vae", 0, dataset.settings, replace(settings, steps=stop), found.tiny)
            run = Run(tmp_path / name, config, dataset.pictures, dataset.description)
            run = run.create() if stop == stops[0] else run
            assert train(run, dataset) == "done"
        weights.append(run.latest().tensors("model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_nothing_is_left_behind_when_training_stops(tmp_path, small_buffer):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    before = threading.active_count()
    stream = Stream(found, 4, 0, "cpu").iterate(0, 1000)
    next(stream)
    stream.close()
    assert threading.active_count() == before


# What is broken


def broken_set(tmp_path: Path) -> tuple[str, set[int]]:
    """Shards in which every seventh training picture is no picture; the good ones' numbers."""
    good = set()
    training = [number for number in range(300) if number not in TESTING]
    testing = sorted(TESTING)
    for shard in range(4):
        members = [(f"t{number}.png", PICTURES[number]) for number in testing[shard::4]]
        for place, number in enumerate(training[shard::4]):
            bad = place % 7 == 3
            members.append((f"{number}.png", f"no picture {number}".encode() if bad else PICTURES[number]))
            if not bad:
                good.add(number)
        archive(tmp_path / f"set-{shard}.tar", *members)
    return str(tmp_path / "set-{0..3}.tar"), good


def test_in_the_place_of_a_broken_picture_comes_the_next(tmp_path, small_buffer):
    address, good = broken_set(tmp_path)
    found = open_stream([address], Frame(8))
    said: list[str] = []
    stream = Stream(found, 16, 0, "cpu", say=said.append)
    whole = drawn(stream, 0, 40)
    assert set(whole) == good
    assert whole == drawn(Stream(found, 16, 0, "cpu"), 0, 40)
    assert whole[16 * 11 :] == drawn(Stream(found, 16, 0, "cpu"), 11, 40)
    two = [Stream(found, 8, 0, "cpu", rank=rank, processes=2) for rank in range(2)]
    parts = [np.array(drawn(stream, 0, 40)).reshape(40, 8) for stream in two]
    assert np.concatenate(parts, 1).flatten().tolist() == whole
    names = {f"{number}.png" for number in range(300) if number not in TESTING} - {f"{number}.png" for number in good}
    assert {name.split("/")[1] for name in stream.skipped} <= names
    assert len(stream.skipped) > 10
    assert sum("not a picture" in sentence for sentence in said) >= 3
    assert len(said) <= 5


def test_a_broken_picture_is_replaced_by_its_successor_exactly(tmp_path, small_buffer, monkeypatch):
    """The same stream with all pictures whole says which would have come."""
    address, _ = broken_set(tmp_path / "broken") if (tmp_path / "broken").mkdir() is None else ("", set())
    found = open_stream([address], Frame(8))
    names: list[list[str]] = []
    known = Stream._batch
    monkeypatch.setattr(
        Stream,
        "_batch",
        lambda self, step, group, decoded: names.append([p.name for p in group]) or known(self, step, group, decoded),
    )
    stream = Stream(found, 16, 0, "cpu")
    for (_, batch), group in zip(stream.iterate(0, 20), names, strict=False):
        numbers = [int(name.split("/")[1].split(".")[0]) for name in group]
        bad = [name in stream.skipped for name in group]
        for place in range(16):
            after = next(other % 16 for other in range(place, place + 16) if not bad[other % 16])
            assert number_of(batch.image[place]) == numbers[after]


def test_a_step_without_one_good_picture_is_refused(tmp_path):
    members = [(f"a{number}.png", PICTURES[number]) for number in sorted(TESTING)]
    members += [(f"b{number}.png", b"no picture %d" % number) for number in range(100)]
    found = open_stream([str(archive(tmp_path / "a.tar", *members))], Frame(8))
    with pytest.raises(Refused, match="None of the 8 pictures of step 0"):
        drawn(Stream(found, 8, 0, "cpu"), 0, 1)


def test_a_truncated_shard_is_used_named_and_the_same_every_time(tmp_path, small_buffer):
    address = folder_of_shards(tmp_path / "set")
    path = tmp_path / "set" / "set-002.tar"
    path.write_bytes(path.read_bytes()[:60_000])
    found = open_stream([address], Frame(8))
    assert "set-002.tar" in dict(found.skipped)
    assert any("set-002.tar" in note for note in found.notes)
    stream = Stream(found, 16, 0, "cpu")
    whole = drawn(stream, 0, 40)
    assert "set-002.tar" in stream.skipped
    assert len({number for number in whole if 100 <= number < 150}) > 5
    assert 149 not in whole
    assert drawn(Stream(found, 16, 0, "cpu"), 25, 40) == whole[16 * 25 :]


def test_a_shard_that_vanishes_is_named(tmp_path, small_buffer):
    found = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    (tmp_path / "set" / "set-004.tar").unlink()
    with pytest.raises(Refused, match=r"no shard .*set-004\.tar"):
        drawn(Stream(found, 16, 0, "cpu"), 0, 40)


def test_a_set_of_only_test_pictures_cannot_be_trained_on(tmp_path):
    members = [(f"{number}.png", PICTURES[number]) for number in sorted(TESTING)]
    found = open_stream([str(archive(tmp_path / "a.tar", *members))], Frame(8))
    with pytest.raises(Refused, match="no picture to train on"):
        drawn(Stream(found, 4, 0, "cpu"), 0, 1)


# Other addresses


@pytest.fixture
def memory():
    files = fsspec.filesystem("memory")
    for shard in range(6):
        with files.open(f"/set/a-{shard}.tar", "wb") as file:
            write_shard(file, range(50 * shard, 50 * shard + 50))
    yield files
    files.rm("/set", recursive=True)


def test_any_fsspec_address_gives_what_a_path_does(tmp_path, memory, small_buffer):
    there = open_stream(["memory://set/a-{0..5}.tar"], Frame(8))
    here = open_stream([folder_of_shards(tmp_path / "set")], Frame(8))
    assert (there.held_out == here.held_out).all()
    assert drawn(Stream(there, 16, 0, "cpu"), 0, 30) == drawn(Stream(here, 16, 0, "cpu"), 0, 30)


class Unsteady:
    """A file that breaks off again and again."""

    broken = 0

    def __init__(self, file, every: int):
        self.file, self.left = file, every

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            Unsteady.broken += 1
            raise ConnectionResetError("broken off")
        return self.file.read(size)

    def seek(self, position: int) -> None:
        self.file.seek(position)

    def close(self) -> None:
        self.file.close()


def test_reading_goes_on_where_a_connection_broke(memory, small_buffer, monkeypatch):
    whole = drawn(Stream(open_stream(["memory://set/a-{0..5}.tar"], Frame(8)), 16, 0, "cpu"), 0, 20)
    known = type(memory).open
    monkeypatch.setattr(type(memory), "open", lambda *args, **options: Unsteady(known(*args, **options), 20_000))
    assert drawn(Stream(open_stream(["memory://set/a-{0..5}.tar"], Frame(8)), 16, 0, "cpu"), 0, 20) == whole
    assert Unsteady.broken > 10


def test_a_connection_that_stays_broken_is_refused(memory, monkeypatch):
    found = open_stream(["memory://set/a-{0..5}.tar"], Frame(8))
    tried = []

    def failing(*args, **options):
        tried.append(1)
        raise TimeoutError("nobody answers")

    monkeypatch.setattr(type(memory), "open", failing)
    with pytest.raises(Refused, match=r"memory://set/a-\d\.tar cannot be read \(nobody answers\)"):
        drawn(Stream(found, 4, 0, "cpu"), 0, 1)
    assert len(tried) >= 4  # once, and three times again


def test_a_shard_that_ends_too_early_is_asked_for_again(memory, monkeypatch):
    """Servers that break off without an error: the length that was told decides."""
    shard = located("memory://set/a-0.tar")[0]
    known, cut = type(memory).open, itertools.count()

    def cutting(*args, **options):
        file = known(*args, **options)
        return io.BytesIO(file.read()[: (shard.size or 0) // 2]) if next(cut) == 0 else file

    monkeypatch.setattr(type(memory), "open", cutting)
    problems: dict[str, str] = {}
    assert [sample.data for sample in samples(shard, problems.__setitem__)] == PICTURES[:50]
    assert not problems
    assert next(cut) == 2


@pytest.mark.parametrize("address", ["memory://set/a-0.tar", "{path}/served/set-000.tar"])
def test_a_shard_opened_anew_goes_on_where_it_was(tmp_path, memory, address):
    folder_of_shards(tmp_path / "served", 1)
    reader = shards.Reader(located(address.format(path=tmp_path))[0])
    first = reader.read(10_000)
    reader.close()
    whole = first + reader.read(1 << 30)
    reader.close()
    assert len(whole) == reader.shard.size
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert [tar.extractfile(f"{number:06d}.png").read() for number in range(50)] == PICTURES[:50]  # type: ignore[union-attr]


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `files`; with or without parts of them."""

    files: ClassVar[dict[str, bytes]] = {}
    parts = True
    failing = 0
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        data = self.files.get(self.path)
        if data is None or (body and Server.failing > 0):
            Server.failing -= body
            self.send_response(404 if data is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range")
        if wanted and self.parts:
            first, last = wanted.removeprefix("bytes=").split("-")
            whole, data = len(data), data[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{whole}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("aiohttp")
    folder_of_shards(tmp_path / "served")
    Server.files = {f"/{file.name}": file.read_bytes() for file in (tmp_path / "served").iterdir()}
    Server.parts, Server.failing = True, 0
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.mark.parametrize("parts", [True, False])
def test_http(tmp_path, server, small_buffer, monkeypatch, parts):
    monkeypatch.setattr(Server, "parts", parts)
    monkeypatch.setattr(shards, "BLOCK", 20_000)  # several requests for a shard
    there = open_stream([f"{server}/set-{{000..005}}.tar"], Frame(8))
    here = open_stream([str(tmp_path / "served")], Frame(8))
    assert (there.held_out == here.held_out).all()
    assert drawn(Stream(there, 16, 0, "cpu"), 0, 20) == drawn(Stream(here, 16, 0, "cpu"), 0, 20)


def test_http_that_fails_for_a_while(server):
    shard = located(f"{server}/set-000.tar")[0]
    assert shard.size == len(Server.files["/set-000.tar"])
    Server.failing = 2
    problems: dict[str, str] = {}
    assert [sample.data for sample in samples(shard, problems.__setitem__)] == PICTURES[:50]
    Server.failing = 1000
    with pytest.raises(Refused, match="cannot be read"):
        list(samples(shard, problems.__setitem__))


def test_http_that_is_not_there(server):
    with pytest.raises(Refused, match=r"no shard http://.*/set-006\.tar"):
        located(f"{server}/set-{{000..006}}.tar")
    with pytest.raises(Refused, match=r"http://127\.0\.0\.1:9/a\.tar cannot be read"):
        located("http://127.0.0.1:9/a.tar")
