"""Pairs, videos and animations that are not as they should be: each is named in one plain sentence."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tasvir.commands.training import Train
from tasvir.config import DataConfig, Pictures, Refused
from tasvir.data import load
from tasvir.data.check import check
from tasvir.data.items import Source
from tasvir.data.remarks import remarks
from tasvir.data.settling import settle
from tasvir.data.sources import find
from tasvir.data.suits import suiting
from tasvir.models import recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))


def scene(seed: int, width: int = 32, height: int = 32) -> Image.Image:
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )


def write(path, image: Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def matched(root, count: int = 20, **sizes):
    for number in range(count):
        write(root / "A" / f"{number:02d}.png", scene(100 + number, *sizes.get("a", ())))
        write(root / "B" / f"{number:02d}.png", scene(number, *sizes.get("b", ())))
    return root


def told(root, **settings) -> tuple[list[str], dict[str, str], dict[str, tuple]]:
    """What a person is told in training and in checking: notes, what is left out and why, and remarks by key."""
    config = DataConfig(source=(str(root),), size=16, **settings)
    dataset, found = load(config), check(find(config), config)
    said = {remark.key: remark.cases for remark in remarks(found, 16)}
    counts = found.counts()
    assert counts == {"train": len(dataset.train), "test": len(dataset.test)}, "check says what packing does"
    return list(dataset.notes), dict(dataset.skipped), said


def test_pairs_of_other_shape_are_left_out_and_of_other_size_noted(tmp_path):
    root = matched(tmp_path / "set")
    write(root / "A" / "03.png", scene(3, 48, 32))
    write(root / "A" / "04.png", scene(4, 64, 64))
    notes, skipped, said = told(root)
    reason = "32x32 px, and its partner 48x32: another shape"
    assert skipped == {"B/03.png": reason} and said["pair-shapes"] == (("B/03.png", reason),)
    assert "1 pair is of two sizes: both are brought to 16×16 (B/04.png)." in notes
    assert said["pair-sizes"] == (("B/04.png",),)


def test_files_without_a_partner_are_counted_and_named(tmp_path):
    root = matched(tmp_path / "set", 24)
    for number in range(5):
        (root / "A" / f"{number:02d}.png").unlink()
    notes, skipped, said = told(root)
    assert len(skipped) == len(said["unpaired"]) == 5
    lost = "B/00.png, B/01.png, B/02.png and 2 more (it has no partner in the other folder); 5 in all."
    assert any(note.endswith(lost) for note in notes)


@pytest.mark.parametrize("layout", ["auto", "side-by-side"])
def test_the_middle_column_of_an_odd_width_belongs_to_neither(tmp_path, layout):
    for number in range(20):
        left, right = np.asarray(scene(number)), np.asarray(scene(100 + number))
        middle = [np.full((32, 1, 3), 255, np.uint8)] if number in (4, 5) else []
        write(tmp_path / "set" / f"{number:02d}.png", Image.fromarray(np.concatenate([left, *middle, right], 1)))
    notes, skipped, _ = told(tmp_path / "set", layout=layout)
    assert not skipped
    assert "2 pairs are of an odd width: the middle column belongs to neither half (04.png, 05.png)." in notes


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_of_an_animation_the_first_picture_is_used(tmp_path, ending):
    root = tmp_path / "set"
    for number in range(20):
        write(root / f"{number:02d}.png", scene(number))
    options = {} if ending == "gif" else {"lossless": True}
    write(root / f"moving.{ending}", scene(50), save_all=True, append_images=[scene(51), scene(52)], **options)
    notes, skipped, said = told(root)
    assert f"1 picture is animated: only the first picture of each is used (moving.{ending})." in notes
    assert not skipped and said["animated"] == ((f"moving.{ending}",),)
    images = load(DataConfig(source=(str(root),), size=32))
    every = np.concatenate([images.train.images, images.test.images]).astype(int)
    wanted = np.asarray(
        scene(50).convert("P", palette=Image.Palette.ADAPTIVE).convert("RGB") if ending == "gif" else scene(50)
    )
    assert np.abs(every - wanted).max((1, 2, 3)).min() <= 4


def test_videos_are_named(tmp_path):
    root = matched(tmp_path / "set") / "A"
    (root / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    (root / "film.MOV").write_bytes(b"\0\0\0\x14ftypqt  ")
    notes, _, _ = told(root)
    assert any(note.startswith("2 videos are left out (clip.mp4, film.MOV): only pictures are read.") for note in notes)
    only = tmp_path / "only"
    only.mkdir()
    (only / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(Refused, match=r"(?s)1 \.mp4 \(clip\.mp4\).*Videos are not read.*ffmpeg"):
        load(DataConfig(source=(str(only),)))
    with pytest.raises(Refused, match=r"clip\.mp4 is a video"):
        load(DataConfig(source=(str(only / "clip.mp4"),)))


def test_two_sets_that_only_lie_side_by_side_are_not_for_models_of_pairs():
    beside = Pictures(3, 64, source=Pictures(3, 64), matched=False)
    assert "cyclegan" in recipe("pix2pix").model.lacks(beside)
    assert recipe("pix2pix").model.lacks(replace(beside, matched=True)) is None
    assert "--data.derive" in recipe("pix2pix").model.lacks(Pictures(3, 64))
    assert recipe("cyclegan").model.lacks(beside) is None


def test_settings_that_nobody_asked_for_give_way_to_the_set():
    pairs = Source("maps", None, None, None, read=list, paired=True, files=True)
    usual = DataConfig(derive="grey", fit="tiles")
    config, notes = settle(usual, usual, (), pairs)
    assert config == replace(usual, derive="none") and "has pairs, and these are learned from" in notes[0]
    assert settle(usual, usual, ("derive",), pairs) == (usual, [])
    assert settle(replace(usual, derive="masked"), usual, (), pairs)[0].derive == "masked"
    drawn = replace(pairs, paired=False, files=False)
    assert settle(usual, usual, (), drawn)[0] == replace(usual, fit="crop")
    assert settle(usual, usual, ("fit",), drawn)[0] == usual
    small = DataConfig(derive="low-resolution")
    with pytest.raises(Refused, match=r"(?s)one size.*Give only the large pictures"):
        settle(small, small, (), pairs)


def test_training_and_checking_meet_the_recipes_own_settings(tmp_path, monkeypatch, capsys):
    """A recipe that makes its own sources suits plain pictures, and of pairs learns what is there."""
    own = replace(recipe("pix2pix"), data=DataConfig(derive="masked"))
    known = {"pix2pix": own}
    for module in ("tasvir.models",):
        monkeypatch.setattr(f"{module}.recipe", lambda name: known.get(name) or recipe(name))
    for number in range(20):
        write(tmp_path / "plain" / f"{number:02d}.png", scene(number))

    def suit(root, **settings):
        config = DataConfig(source=(str(root),), size=64, **settings)
        return next(one for one in suiting(check(find(config), config)) if one.recipe == "pix2pix")

    made = suit(tmp_path / "plain")
    assert made.command and "makes of them" in made.why and "--data.derive" not in made.command
    pairs = matched(tmp_path / "pairs")
    assert suit(pairs).why.startswith("uses the pairs") and "masked is left out" in suit(pairs).why
    train = Train.from_words(["pix2pix", "--data", str(pairs), "--data.derive", "masked"])
    with pytest.raises(Refused, match="has pairs already"):
        replace(train, out=tmp_path / "run")()
