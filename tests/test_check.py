"""`tasvir data check`: every fault is found and named, a clean set is left in peace, and the commands it gives work."""

import io
import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from scipy.fft import dctn

from conftest import REAL
from tasvir.config import DataConfig, Refused
from tasvir.data import check as checking
from tasvir.data import load
from tasvir.data.check import Findings, check, perceptual_hash
from tasvir.data.contact import contact_sheet, plain, sheet_name, told
from tasvir.data.decoding import Decoded, Frame, Unreadable
from tasvir.data.items import Items, Source
from tasvir.data.remarks import Remark, remarks
from tasvir.data.sources import find
from tasvir.data.splitting import digest_of
from tasvir.data.splitting import test_border as border_of
from tasvir.data.suits import size_to_begin, suiting


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def scene(seed: int, width: int = 48, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Large soft patches of colour: every seed looks different, and the same at every size."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8))
    return patches.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def write(path: Path, image: Image.Image, **options) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.name


def folder(root: Path, count: int = 20, first: int = 0, **options) -> Path:
    for number in range(first, first + count):
        write(root / f"{number:03d}.png", scene(number, **options))
    return root


def looked_at(*paths: Path, **settings) -> Findings:
    config = DataConfig(source=tuple(map(str, paths)), **settings)
    return check(find(config), config)


def said(found: Findings, size: int | None = None) -> dict[str, Remark]:
    return {remark.key: remark for remark in remarks(found, size)}


def names(remark: Remark) -> set[tuple[str, ...]]:
    return {tuple(sorted(case)) for case in remark.cases}


def jpeg(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def test_a_clean_set_is_left_in_peace(tmp_path):
    for number in range(24):
        write(tmp_path / "set" / ("cat" if number % 2 else "dog") / f"{number}.png", scene(number))
    found = looked_at(tmp_path / "set")
    assert remarks(found, 48) == []
    assert "Nothing is wrong." in told(found) and "Nothing is unusual." in told(found)
    assert found.counts()["train"] + found.counts()["test"] == 24
    assert found.class_counts().sum(1).tolist() == [12, 12]


# One fault at a time: what writes it, and the cases that must be told


def put(data: bytes, name: str, root: Path) -> set[tuple[str, ...]]:
    (root / name).write_bytes(data)
    return {(name,)}


def turned(root: Path) -> set[tuple[str, ...]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return {(write(root / "turned.jpg", scene(900), exif=exif),)}


def profiled(root: Path) -> set[tuple[str, ...]]:
    srgb, other = (ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes() for name in ("sRGB", "XYZ"))
    write(root / "srgb.png", scene(901), icc_profile=srgb)
    return {(write(root / "other.png", scene(902), icc_profile=other),)}


def transparent(root: Path) -> set[tuple[str, ...]]:
    opaque, holed = scene(903).convert("RGBA"), scene(904).convert("RGBA")
    holed.putpixel((3, 3), (0, 0, 0, 0))
    write(root / "opaque.png", opaque)
    return {(write(root / "holed.png", holed),)}


def deep(root: Path) -> set[tuple[str, ...]]:
    grey = np.asarray(scene(905, mode="L")).astype(np.uint16) * 257
    return {(write(root / "deep.png", Image.fromarray(grey)),)}


def animated(root: Path) -> set[tuple[str, ...]]:
    frames = [scene(906), scene(907)]
    return {(write(root / "film.gif", frames[0], save_all=True, append_images=frames[1:]),)}


def copied(root: Path) -> set[tuple[str, ...]]:
    for name in ("copy.png", "again.png"):
        (root / name).write_bytes((root / "000.png").read_bytes())
    return {("000.png", "again.png", "copy.png")}


def resized(root: Path) -> set[tuple[str, ...]]:
    write(root / "large.png", scene(1, 300, 300))
    return {("001.png", "large.png")}


def recompressed(root: Path) -> set[tuple[str, ...]]:
    write(root / "worse.jpg", Image.open(root / "002.png"), quality=40)
    write(root / "other.webp", Image.open(root / "002.png"), quality=80)
    return {("002.png", "other.webp", "worse.jpg")}


def grey_in_color(root: Path) -> set[tuple[str, ...]]:
    write(root / "grey.png", scene(908, mode="L"))
    spotted = Image.new("RGB", (1600, 1600), (90, 90, 90))
    spotted.paste(scene(909, 1500, 1500, mode="L"))
    spotted.paste((98, 90, 90), (1550, 1550, 1554, 1554))  # lost in a thumbnail
    write(root / "spotted.png", spotted)
    return {("grey.png",), (write(root / "stored.png", scene(910, mode="L").convert("RGB")),)}


def misnamed(root: Path) -> set[tuple[str, ...]]:
    return put(jpeg(scene(911)), "photo.png", root)


FAULTS: dict[str, list[Callable[[Path], set[tuple[str, ...]]]]] = {
    "rotated": [turned],
    "profile": [profiled],
    "transparent": [transparent],
    "animated": [animated],
    "copies": [copied],
    "alike": [resized, recompressed],
    "grey": [grey_in_color],
    "deep": [deep],
    "misnamed": [misnamed],
    "cmyk": [lambda root: {(write(root / "print.jpg", scene(912, mode="CMYK")),)}],
    "blank": [lambda root: {(write(root / "empty.png", Image.new("RGB", (48, 48), "navy")),)}],
    "extreme": [lambda root: {(write(root / "wide.png", scene(913, 140, 48)),)}],
    "small": [lambda root: {(write(root / "tiny.png", scene(914, 20, 30)),)}],
}


@pytest.mark.parametrize(("key", "make"), [(key, make) for key, makes in FAULTS.items() for make in makes])
def test_one_fault_is_found_and_nothing_else(tmp_path, key, make):
    root = folder(tmp_path / "set")
    expected = make(root)
    told_of = said(looked_at(root), size=40)
    assert names(told_of.pop(key)) == expected
    if key == "alike":  # one of them can be for testing
        told_of.pop("leaked-alike", None)
    if key == "deep":  # it is grey as well
        assert names(told_of.pop("grey")) == expected
    assert not told_of


def test_unreadable_files_are_named_with_their_reason(tmp_path):
    root = folder(tmp_path / "set")
    whole = jpeg(scene(50, 200, 200))
    put(whole[: len(whole) // 2], "cut.jpg", root)
    put(b"", "empty.png", root)
    put(b"this is a letter, not a picture", "letter.png", root)
    found = looked_at(root)
    remark = said(found)["unreadable"]
    assert remark.level == "wrong" and remark.count == 3
    reasons = dict(remark.cases)
    assert reasons["empty.png"] == "empty file" and "not a picture" in reasons["letter.png"]
    assert "cut.jpg" in reasons and len(found.good) == 20
    text = " ".join(told(found).split())  # lines are broken to fit
    assert "20 of 23 can be read" in text and "empty.png: empty file" in text


def test_a_wholly_grey_set_stored_as_color(tmp_path):
    for number in range(20):
        write(tmp_path / "set" / f"{number}.png", scene(number, mode="L").convert("RGB" if number < 5 else "L"))
    found = looked_at(tmp_path / "set")
    assert found.grey and said(found)["grey"].count == 5
    assert "one channel" in said(found)["grey"].done


def test_leakage_between_given_splits(tmp_path):
    root = tmp_path / "set"
    folder(root / "train", 30)
    folder(root / "test", 10, first=100)
    write(root / "test" / "copy.png", scene(3))
    write(root / "test" / "again.jpg", scene(4, 96, 96), quality=85)
    found = looked_at(root)
    wrong = said(found)
    assert names(wrong["leaked"]) == {("test/copy.png", "train/003.png")}
    assert names(wrong["leaked-alike"]) == {("test/again.jpg", "train/004.png")}
    assert wrong["leaked"].count == wrong["leaked-alike"].count == 1
    packed = load(DataConfig(source=(str(root),), size=16))
    assert (len(packed.train), len(packed.test)) == (29, 12)  # the copy for training is left out
    assert found.settled and found.counts() == {"train": 29, "test": 12}
    assert "29 for training and 12 for testing, as the set has them; 1 more" in " ".join(told(found).split())
    assert "the copies for training are left out" in wrong["leaked"].done


def test_exact_copies_never_straddle_a_split_by_content(tmp_path):
    root = folder(tmp_path / "set", 60)
    for file in sorted(root.iterdir()):
        (root / f"copy-{file.name}").write_bytes(file.read_bytes())
    wrong = said(looked_at(root))
    assert "leaked" not in wrong and wrong["copies"].count == 60


@pytest.mark.parametrize("layout", ["flat", "split"])
def test_the_splits_are_those_of_packing(tmp_path, layout):
    root = tmp_path / "set"
    if layout == "flat":
        folder(root, 80)
    else:
        folder(root / "train", 30)
        folder(root / "val", 9, first=100)
    packed = load(DataConfig(source=(str(root),), size=16))
    assert looked_at(root).counts() == {"train": len(packed.train), "test": len(packed.test)}


def test_where_no_picture_falls_into_the_tenth_the_same_one_is_lent(tmp_path):
    root, number = tmp_path / "set", 0
    while len(list(root.glob("*"))) < 20:
        path = root / write(root / f"{number:03d}.png", scene(number))
        if digest_of((path.read_bytes(),)) < border_of():
            path.unlink()
        number += 1
    packed = load(DataConfig(source=(str(root),), size=16))
    found = looked_at(root)
    lent = found.items.picture(int(np.flatnonzero(found.testing)[0]), Frame(16)).image
    assert found.counts() == {"train": 19, "test": 1} and np.array_equal(lent, packed.test.images[0])


def test_classes_out_of_balance(tmp_path):
    root = tmp_path / "set"
    folder(root / "cat", 66)
    folder(root / "dog", 6, first=100)
    folder(root / "fox", 12, first=200)
    wrong = said(looked_at(root))
    assert wrong["imbalance"].count == 11 and "cat (66)" in wrong["imbalance"].what
    assert "dog (6)" in wrong["imbalance"].what
    assert names(wrong["tiny-classes"]) == {("dog (6)",)}


def test_one_picture_in_two_classes(tmp_path):
    root = tmp_path / "set"
    folder(root / "cat", 20)
    folder(root / "dog", 20, first=100)
    write(root / "dog" / "cat.png", scene(7))
    assert names(said(looked_at(root))["contradictory"]) == {("cat/007.png", "dog/cat.png")}


def array_source(images: np.ndarray, **settings) -> Source:
    """Pictures [N,H,H,C] as a set of arrays."""
    from tasvir.data.decoding import fit

    items = Items(
        names=[f"picture {number}" for number in range(len(images))],
        picture=lambda number, frame: Decoded(fit(images[number], frame), images.shape[1]),
        contents=lambda number: (images[number].tobytes(),),
        encoded=False,
        slow=False,
        **settings,
    )
    return Source("arrays", "arrays", 1, images.shape[1], lambda: items, layout="array")


def test_arrays_with_an_empty_class_and_one_without_test_pictures():
    images = np.stack([np.asarray(scene(number, 28, 28)) for number in range(40)])
    labels = [0] * 20 + [2] * 20
    splits = ["train"] * 30 + ["test"] * 10
    found = check(array_source(images, labels=labels, classes=("a", "b", "c"), splits=splits), DataConfig())
    wrong = said(found)
    assert names(wrong["empty-classes"]) == {("b",)} and names(wrong["no-test"]) == {("a",)}
    assert found.side == 28 and plain(found)["sizes"]["largest"] == [28, 28]
    assert found.class_counts().tolist() == [[20, 0], [0, 0], [10, 10]]


def test_pairs_matched_by_name(tmp_path):
    root = tmp_path / "set"
    folder(root / "A", 24, width=96, height=48)
    folder(root / "B", 24, width=48, height=24)
    write(root / "A" / "alone.png", scene(500, 96, 48))
    write(root / "B" / "003.png", scene(3, 40, 40))
    (root / "A" / "005.png").write_bytes(b"broken")
    found = looked_at(root)
    told_of = said(found)
    assert found.paired and names(told_of["unpaired"]) == {("A/alone.png",)}
    assert told_of["pair-shapes"].cases == (("B/003.png", "40x40 px, and its partner 96x48: another shape"),)
    assert told_of["pair-sizes"].count == 22
    assert told_of["unreadable"].count == 1 and "partner" in told_of["unreadable"].cases[0][1]
    assert not {"alike", "copies"} & told_of.keys()


def test_pairs_with_one_side_in_common_are_no_copies(tmp_path):
    root = tmp_path / "set"
    folder(root / "A", 24)
    folder(root / "B", 24, first=100)
    write(root / "B" / "100.png", scene(101))
    for file in (root / "B").iterdir():
        file.rename(file.with_name(f"{int(file.stem) - 100:03d}.png"))
    found = looked_at(root)
    assert len(found.items) == 24 and not {"alike", "copies"} & said(found).keys()


def test_pairs_side_by_side_are_told_by_halves(tmp_path):
    for number in range(20):
        both = Image.new("RGB", (128, 64))
        both.paste(Image.new("RGB", (64, 64), ("black", "white")[number % 2]))
        both.paste(scene(number, 64, 64), (64, 0))
        write(tmp_path / "set" / f"{number}.png", both)
    found = looked_at(tmp_path / "set", layout="side-by-side")
    assert plain(found)["sizes"]["median"] == [64, 64] and plain(found)["formats"] == {"PNG": 20}
    told_of = said(found)
    assert told_of["blank"].level == "unusual" and told_of["blank"].count == 20 and "alike" not in told_of


def side_by_side(root: Path, count: int = 20) -> Path:
    """Pairs of 64 px: a black or white half, and a scene."""
    for number in range(count):
        both = Image.new("RGB", (128, 64), ("black", "white")[number % 2])
        both.paste(scene(number, 64, 64), (64, 0))
        write(root / f"{number:03d}.png", both)
    return root


def test_a_picture_that_is_no_pair_as_the_others_are_is_unreadable_as_for_packing(tmp_path):
    root = side_by_side(tmp_path / "set")
    write(root / "017.png", scene(7, 90, 64))
    found = looked_at(root)
    packed = load(DataConfig(source=(str(root),), size=16))
    assert found.paired and len(found.good) == len(packed.train) + len(packed.test) == 19
    assert said(found)["unreadable"].cases == packed.skipped and packed.skipped[0][0] == "017.png"
    assert len(looked_at(root, layout="side-by-side").good) == 20  # whoever says so means every picture


def test_pairs_of_several_sources_are_pairs(tmp_path):
    side_by_side(tmp_path / "one")
    for number in range(20):
        write(tmp_path / "two" / "A" / f"{number:03d}.png", scene(100 + number, 40 if number == 3 else 32, 32))
        write(tmp_path / "two" / "B" / f"{number:03d}.png", scene(200 + number, 32, 32))
    found = looked_at(tmp_path / "one", tmp_path / "two")
    assert found.paired and found.sides.shape == (40, 2) and plain(found)["formats"] == {"PNG": 58}
    assert said(found)["pair-shapes"].cases == (("two/B/003.png", "32x32 px, and its partner 40x32: another shape"),)
    assert plain(found)["sizes"]["frequent"][0] == {"size": [64, 64], "count": 40}


def test_both_of_two_unmatched_sets_are_looked_at(tmp_path):
    root = tmp_path / "set"
    folder(root / "trainA", 20, width=60, height=30)
    folder(root / "trainB", 22, first=100)
    (root / "trainA" / "000.png").write_bytes(b"")
    found = looked_at(root)
    assert found.beside is not None and len(found.good) == 22 and len(found.beside.good) == 19
    text = told(found)
    assert "The pictures to translate from" in text and "empty file" in text
    assert plain(found)["beside"]["readable"] == 19
    assert contact_sheet(found).width > 100


# Sizes and shapes


def test_sizes_shapes_and_bytes(tmp_path):
    root = tmp_path / "set"
    shapes = [(50, 50)] * 3 + [(80, 40)] * 2 + [(30, 60), (200, 50), (100, 90)]
    for number, (width, height) in enumerate(shapes):
        write(root / f"{number}.png", scene(number, width, height))
    known = plain(looked_at(root))
    assert known["sizes"]["smallest"] == [30, 60] and known["sizes"]["largest"] == [100, 90]
    assert known["sizes"]["median"] in ([50, 50], [200, 50])
    assert known["sizes"]["frequent"][0] == {"size": [50, 50], "count": 3}
    assert known["shapes"] | {"cut_off": 0} == {
        "square": 3, "landscape": 4, "portrait": 1, "extreme": 1, "cut_off": 0,
    }  # fmt: skip
    assert known["pixels"] == sum(width * height for width, height in shapes)
    assert known["bytes"] == sum(file.stat().st_size for file in root.iterdir())
    assert known["packed_bytes"]["64"] == 8 * 64 * 64 * 3


def test_a_picture_turned_by_exif_has_its_upright_size(tmp_path):
    root = folder(tmp_path / "set", 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    write(root / "turned.jpg", scene(60, 100, 40), exif=exif)
    assert plain(looked_at(root))["shapes"]["portrait"] == 1


# What looks alike


def test_the_hash_is_the_lowest_frequencies_in_units_of_contrast():
    pixels = np.asarray(scene(5, 32, 32))
    red, green, blue = np.moveaxis(pixels.astype(np.float64), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    parts = [(luma, 8), ((blue - luma) * 0.564, 4), ((red - luma) * 0.713, 4)]
    low = [dctn(plane, norm="ortho")[:count, :count] / 32 for plane, count in parts]
    contrast = np.sqrt(sum((part**2).sum() - part[0, 0] ** 2 for part in low))
    expected = np.concatenate([part.ravel() for part in low]) / contrast
    values, measured = perceptual_hash(pixels)
    assert measured == pytest.approx(contrast, rel=1e-4)
    np.testing.assert_allclose(values.astype(np.float64), expected, rtol=2e-3, atol=2e-3)


def test_plain_and_faint_pictures_are_not_copies_of_each_other(tmp_path):
    root = folder(tmp_path / "set")
    for level in range(10):
        write(root / f"plain{level}.png", Image.new("RGB", (48, 48), (20 * level, 90, 90)))
        sky = Image.new("RGB", (48, 48), (90, 140, 220))
        sky.putpixel((level, level), (0, 0, 0))
        write(root / f"sky{level}.png", sky)
    told_of = said(looked_at(root))
    assert told_of["blank"].count >= 10 and "alike" not in told_of


def test_where_all_are_alike_only_copies_are_told():
    base = np.asarray(scene(0, 28, 28)).astype(np.float64)
    images = [np.round(0.95 * base + 0.05 * np.asarray(scene(1 + number, 28, 28))) for number in range(300)]
    images.append(np.clip(images[7] + np.random.default_rng(0).integers(-2, 3, (28, 28, 3)), 0, 255))
    found = check(array_source(np.stack(images).astype(np.uint8)), DataConfig())
    points = found.sides["hash"][:300, 0].astype(np.float64)
    nearest = np.sort(np.linalg.norm(points[:, None] - points, axis=-1), axis=1)[:, 1]
    assert (nearest < checking.ALIKE).mean() > 0.9  # by their distance alone nearly all would be
    assert found.alike == [(7, 300)]


def test_planted_copies_are_found_among_many_and_others_are_not():
    random = np.random.default_rng(0)
    points = random.normal(size=(6000, 96)) / np.sqrt(96)
    steps = random.normal(size=(200, 96))
    points[200:400] = points[:200] + 0.06 * steps / np.linalg.norm(steps, axis=1, keepdims=True)
    one, other = checking._tied(points.astype(np.float32))
    pairs = {tuple(sorted(pair)) for pair in zip(one.tolist(), other.tolist(), strict=True)}
    planted = {(number, number + 200) for number in range(200)}
    assert len(pairs & planted) >= 198 and not pairs - planted


def test_a_picture_saved_very_often_is_one_group():
    random = np.random.default_rng(0)
    points = random.normal(size=96) / np.sqrt(96) + 0.01 * random.normal(size=(3000, 96)) / np.sqrt(96)
    sides = np.zeros((3000, 1), checking.SIDE)
    sides["contrast"], sides["hash"][:, 0] = 50, points
    digests = np.frombuffer(random.bytes(16 * 3000), "V16")
    assert [len(group) for group in checking._alike(np.arange(3000), digests, sides)] == [3000]


# Recipes


@pytest.mark.parametrize(
    ("accepts", "side", "made_for", "expected"),
    [
        (lambda size: True, 28, None, 28),
        (lambda size: True, 500, None, 64),
        (lambda size: True, None, None, 64),
        (lambda size: True, None, 256, 256),
        (lambda size: size % 4 == 0, 50, None, 32),
        (lambda size: size % 32 == 0, 20, None, 32),
        (lambda size: size == 256, 300, 256, 256),
        (lambda size: size in (28, 56), 64, None, 56),
    ],
)
def test_the_size_to_begin_with(accepts, side, made_for, expected):
    assert size_to_begin(accepts, side, made_for) == expected


def test_commands_can_be_typed_and_keep_every_setting(tmp_path):
    from tasvir.commands.training import Train

    root = folder(tmp_path / "my 'own' set", 20)
    settings = {"fit": "pad", "background": "#102030", "flip": True, "fraction": 0.5, "direction": "b-to-a"}
    found = looked_at(root, **settings)
    suits = suiting(found)
    good = [suit for suit in suits if suit.command]
    assert {suit.recipe for suit in good} >= {"vae", "dcgan"}
    for suit in good[:3]:
        words = shlex.split(suit.command)
        assert words[:3] == ["tasvir", "train", suit.recipe]
        data = Train.from_words(words[2:]).data
        assert data.source == (str(root),) and data.size == suit.size
        assert {name: getattr(data, name) for name in settings} == settings


def test_recipes_that_do_not_suit_say_why(tmp_path, monkeypatch):
    from tasvir import models
    from tasvir.models import recipe

    known = recipe("vae")
    made = {
        "plain": known,
        "labelled": replace(known, model=type("Labelled", (known.model,), {"needs": ("labels",)})),
        "paired": replace(known, model=type("Paired", (known.model,), {"needs": ("source",)})),
        "fixed": replace(
            known,
            model=type("Fixed", (known.model,), {"sizes": "256 px", "accepts": staticmethod(lambda size: size == 256)}),
            data=DataConfig(size=256),
        ),
    }
    monkeypatch.setattr(models, "RECIPES", dict.fromkeys(made, ""))
    monkeypatch.setattr(models, "recipe", made.__getitem__)
    found = looked_at(folder(tmp_path / "set", 20))
    suits = {suit.recipe: suit for suit in suiting(found)}
    assert suits["plain"].command and not any(suits[name].command for name in ("labelled", "paired", "fixed"))
    assert "classes" in suits["labelled"].why and "pairs" in suits["paired"].why and "256" in suits["fixed"].why
    for setting in ({"derive": "grey"}, {"size": 30}):
        again = {suit.recipe: suit for suit in suiting(looked_at(tmp_path / "set", **setting))}
        assert bool(again["paired"].command) == ("derive" in setting)
    assert again["plain"].command is None and "30" in again["plain"].why
    text = told(found, list(suits.values()))
    assert suits["plain"].command in text and "Recipes that do not suit it" in text


def loaded(command: str) -> None:
    """What `tasvir train` does with the pictures of a command before it trains; raises `Refused`."""
    from tasvir.commands.training import Train
    from tasvir.models import recipe

    words = shlex.split(command)
    config = Train.from_words(words[2:]).data
    model, dataset = recipe(words[2]).model, load(config)
    assert model.accepts(config.size) and model.lacks(dataset.pictures) is None


@pytest.mark.parametrize(
    "settings",
    [
        {"derive": "low-resolution", "scale": 3},
        {"derive": "low-resolution", "scale": 4, "size": 32},
        {"derive": "masked", "mask": 0.02},
        {"derive": "grey"},
        {"derive": "edges"},
        {"jitter": 20},
        {"color": "grey"},
        {"fraction": 0.5},
    ],
    ids=str,
)
def test_every_command_is_one_that_loads(tmp_path, settings):
    """With sizes that hardly any of these settings go with when they are left out of account."""
    root = folder(tmp_path / "set", 40, width=64, height=64)
    suits = [suit for suit in suiting(looked_at(root, **settings)) if suit.command]
    assert suits
    for command in {suit.size: suit.command for suit in suits}.values():
        loaded(command)


def test_what_no_size_can_have_is_said_and_not_commanded(tmp_path):
    root = folder(tmp_path / "set", 24, width=64, height=64)
    suits = {suit.recipe: suit for suit in suiting(looked_at(root, derive="low-resolution", scale=3))}
    assert suits["dcgan"].command is None and "--data.scale 3" in suits["dcgan"].why
    assert all(suit.size % 3 == 0 for suit in suits.values() if suit.command)
    grey = folder(tmp_path / "grey", 24, mode="L")
    for suit in suiting(looked_at(grey, derive="grey")):
        assert suit.command is None and ("needs colour" in suit.why or "made for" in suit.why)
    for suit in suiting(looked_at(root, jitter=40, size=64)):
        assert suit.command is None and "--data.jitter" in suit.why


@pytest.mark.parametrize("kind", ["side-by-side", "matched", "unmatched", "grey", "indivisible"])
def test_a_derivation_that_cannot_be_is_refused_before_anything_is_looked_at(tmp_path, monkeypatch, kind):
    settings = {"derive": "grey"}
    root = side_by_side(tmp_path / "set") if kind == "side-by-side" else tmp_path / "set"
    if kind in ("matched", "unmatched"):
        for name, first in (("trainA", 0), ("trainB", 0 if kind == "matched" else 100)):
            folder(root / name, 20, first=first)
    elif kind != "side-by-side":
        folder(root, 20)
        settings |= {"color": "grey"} if kind == "grey" else {"derive": "low-resolution", "scale": 3, "size": 64}

    def never(*_: object) -> None:
        raise AssertionError("something was looked at")

    monkeypatch.setattr(checking, "_look", never)
    with pytest.raises(Refused) as refused:
        looked_at(root, **settings)
    with pytest.raises(Refused) as by_load:
        load(DataConfig(source=(str(root),), **{"size": 32, **settings}))
    assert str(refused.value) == str(by_load.value)


def test_channels_and_bytes_are_those_of_the_pack(tmp_path):
    root = folder(tmp_path / "set", 20)
    for settings in ({}, {"color": "grey"}, {"derive": "edges"}):
        found = looked_at(root, **settings)
        packed = load(DataConfig(source=(str(root),), size=64, **settings))
        arrays = [part for split in (packed.train, packed.test) for part in (split.images, split.sources)]
        assert plain(found)["packed_bytes"]["64"] == sum(part.nbytes for part in arrays if part is not None)
        assert found.channels() == packed.pictures.channels


def test_a_set_without_test_pictures_left_suits_no_recipe(tmp_path):
    images = np.stack([np.asarray(scene(number, 28, 28)) for number in range(40)])
    found = check(array_source(images, splits=["train"] * 40), DataConfig())
    assert not any(suit.command for suit in suiting(found)) and "testing" in suiting(found)[0].why
    few = looked_at(folder(tmp_path / "set", 20), fraction=0.001)
    assert not any(suit.command for suit in suiting(few)) and "--data.fraction 0.001" in suiting(few)[0].why


def test_too_few_pictures_suit_no_recipe(tmp_path):
    found = looked_at(folder(tmp_path / "set", 5))
    assert said(found)["few"].count == 5
    assert not any(suit.command for suit in suiting(found))


# What is shown


def odd_set() -> Source:
    """Names that are no text, and nothing that can be read."""

    def picture(number: int, frame: Frame) -> Decoded:
        raise Unreadable("no\x1b[31m good")

    def contents(number: int) -> tuple[bytes, ...]:
        raise Unreadable("no\x1b[31m good")

    items = Items(["\udcff.png", "\x1b[2J.png"], picture, contents, slow=False)
    return Source("odd\n", "odd", 1, None, lambda: items)


def test_names_cannot_write_to_the_terminal_and_nothing_readable_is_no_accident():
    found = check(odd_set(), DataConfig())
    text = told(found, suiting(found), width=80)
    text.encode()
    assert "\x1b" not in text and said(found)["unreadable"].count == 2
    json.dumps(plain(found), ensure_ascii=False).encode()
    assert contact_sheet(found).height > 40


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("maps", "maps-check.png"),
        ("../../etc/cron", "etc-cron-check.png"),
        ("/root/set", "root-set-check.png"),
        ("..", "pictures-check.png"),
        ("a\\b", "a-b-check.png"),
        ("\udcff\n", "pictures-check.png"),
        ("猫", "猫-check.png"),
        ("--help", "help-check.png"),
    ],
)
def test_the_sheet_lies_in_the_current_folder_whatever_the_set_is_called(name, expected):
    assert sheet_name(name) == expected and len(sheet_name(200 * "猫").encode()) <= 255


def checked(*words: str) -> int:
    from tasvir.commands.data import Data

    return Data.from_words(["check", *words])()


@pytest.mark.parametrize("json_asked", [False, True])
def test_names_that_are_no_text_reach_the_screen_and_the_sheet(tmp_path, monkeypatch, capfd, json_asked):
    root = tmp_path / "b\udcff"
    for kind in ("cat", "dog\udcfe"):
        folder(root / kind, 12, first=0 if kind == "cat" else 50)
    (root / "cat" / "\udcfd.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert checked(str(root), *["--json"] * json_asked) == 0
    assert [file.name for file in tmp_path.glob("*.png")] == ["b-check.png"]
    out = capfd.readouterr().out
    assert "Contact sheet: b-check.png" in out or json.loads(out)["contact_sheet"] == "b-check.png"
    assert checked(str(root), "--out", "\udcfc.png", *["--json"] * json_asked) == 0


@pytest.mark.parametrize(
    "words",
    [("http://there/a.tar",), ("s3://bucket/{00..09}.tar",), ("--data", "gs://b/a.tar"), (".", "--data.stream")],
)
def test_what_is_streamed_is_refused_and_a_shard_proposed(words, tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path / "set"))
    with pytest.raises(Refused, match="cannot be checked") as refused:
        checked(*words)
    assert "SHARD.tar" in str(refused.value) and str(refused.value).count("\n") == 1
    assert not list(Path().glob("*-check.png"))


def test_pictures_named_twice_are_refused(tmp_path):
    with pytest.raises(Refused, match="twice.*one.*--data other"):
        checked("one", "--data", "other")


def test_plain_values_say_the_same(tmp_path):
    root = folder(tmp_path / "set", 20)
    put(b"", "empty.png", root)
    copied(root)
    found = looked_at(root)
    known = json.loads(json.dumps(plain(found, suiting(found))))
    assert known["listed"] == 23 and known["readable"] == 22 and sum(known["splits"].values()) == 22
    listed = {remark["key"]: remark for remark in known["remarks"]}
    assert listed["unreadable"]["cases"] == [["empty.png", "empty file"]]
    assert sorted(listed["copies"]["cases"][0]) == ["000.png", "again.png", "copy.png"]
    assert known["modes"] == {"RGB": 22} and known["grey"] == 0
    assert any(recipe["command"] for recipe in known["recipes"])


def test_lines_are_no_wider_than_the_terminal_and_long_lists_are_cut(tmp_path):
    root = folder(tmp_path / "set", 20)
    for number in range(30):
        put(b"", f"empty{number:02d}.png", root)
    text = told(looked_at(root), width=70)
    assert max(map(len, text.splitlines())) <= 70
    assert "and 25 more" in text


def test_the_contact_sheet_has_a_row_for_every_class(tmp_path):
    colors = {"berry": (200, 20, 120), "leaf": (20, 160, 60), "sky": (70, 130, 230)}
    for name, color in colors.items():
        for number in range(14):
            write(tmp_path / "set" / name / f"{number}.png", Image.new("RGB", (200, 100 + number), color))
    sheet = np.asarray(contact_sheet(looked_at(tmp_path / "set")))
    is_color = {name: np.abs(sheet.astype(int) - color).max(-1) < 8 for name, color in colors.items()}
    first = {name: int(np.flatnonzero(there.any(1))[0]) for name, there in is_color.items()}
    assert first["berry"] < first["leaf"] < first["sky"]
    assert is_color["leaf"][first["leaf"] + 10].sum() == 12 * 88  # twelve whole pictures, none of them cut at the sides
    rows = is_color["leaf"][: first["sky"]]
    assert rows[:, rows.any(0).argmax()].sum() == round(88 * 100 / 200)


def test_the_sheet_shows_the_source_left_of_its_picture(tmp_path):
    for number in range(20):
        write(tmp_path / "set" / "A" / f"{number}.png", Image.new("RGB", (40, 40), "red"))
        write(tmp_path / "set" / "B" / f"{number}.png", Image.new("RGB", (40, 40), (0, 0, 200 + number)))
    sheet = np.asarray(contact_sheet(looked_at(tmp_path / "set"))).astype(int)
    red, blue = sheet[..., 0] - sheet[..., 2] > 150, sheet[..., 2] - sheet[..., 0] > 150
    assert np.flatnonzero(red.any(0))[0] < np.flatnonzero(blue.any(0))[0]
    assert red.sum() == blue.sum()


# Real pictures


def real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_maps_are_pairs():
    found = looked_at(real("maps_val_512x256.zip"))
    known = plain(found, suiting(found))
    assert known["layout"] == "side-by-side" and known["readable"] == 100
    assert known["sizes"]["largest"] == [256, 256] and known["remarks"] == []


def test_cifar10_is_counted():
    known = plain(looked_at(real("cifar10_test_5k.zip")))
    assert len(known["classes"]) == 10 and sum(known["splits"].values()) == 5000
    assert {sum(counts.values()) for counts in known["classes"].values()} == {500}
    assert known["sizes"]["median"] == [32, 32] and known["modes"] == {"RGB": 5000}
    assert {remark["key"] for remark in known["remarks"]} <= {"grey"}


def test_t91_holds_a_picture_twice():
    assert names(said(looked_at(real("t91_png.zip")))["copies"]) == {("T91/t36.png", "T91/t65.png")}
