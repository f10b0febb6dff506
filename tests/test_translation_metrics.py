"""Measuring translations: pairs beside what they should beat, whole pictures of other sets, colour, cycles, GMSD."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import piq
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from skimage.color import rgb2lab

from conftest import REAL, tiny_config, tiny_run
from tasvir.cli import main
from tasvir.config import DataConfig, Refused, RunConfig
from tasvir.data import load
from tasvir.data.batches import pictures_of, to_float, to_uint8
from tasvir.data.derive import low_resolution
from tasvir.drawing import Opened
from tasvir.metrics import evaluate, similarity, translation
from tasvir.metrics.directions import better, group
from tasvir.metrics.evaluate import Protocol, of_run
from tasvir.metrics.subject import PairsSubject, given_by, given_by_set
from tasvir.metrics.translated import copied, mean_picture
from tasvir.metrics.watch import Watch
from tasvir.models import recipe
from tasvir.runs import Run
from tasvir.training.loop import train

PLAIN = DataConfig()


def drawn(number: int, height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth pictures with a little grain, uint8 [N,H,W,C]."""
    field = np.random.default_rng(seed).normal(size=(number, height, width, channels))
    smooth = gaussian_filter(field, (0, 3, 3, 0), mode="wrap")
    return ((0.5 + 1.5 * smooth + 0.03 * field).clip(0, 1) * 255).round().astype(np.uint8)


def write(folder: Path, images: dict[str, np.ndarray]) -> Path:
    folder.mkdir()
    for name, image in images.items():
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / f"{name}.png")
    return folder


def values(lines: list[dict[str, Any]]) -> dict[str, float]:
    return {line["metric"]: line["value"] for line in lines}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Digits with holes, at 8 px, and at low resolution, at 16 px; measured while trained."""
    found = {}
    for name, size, metric in (("pix2pix", 8, "mae"), ("srresnet", 16, "psnr_y")):
        run, data = tiny_run(name, tmp_path_factory.mktemp("runs") / name, size, steps=3, evaluate_metrics=(metric,))
        watch = Watch(run, data)
        train(run, data)
        watch(3)
        found[name] = run
    return found


def opened(run: Run, **methods: Any) -> Opened:
    """A run whose model does something else."""
    found = Opened(run)
    for name, method in methods.items():
        setattr(found.model, name, method)
    return found


@pytest.mark.parametrize("name", ["pix2pix", "srresnet"])
def test_a_translation_is_measured_while_training_without_what_it_should_beat(name: str, runs: dict[str, Run]) -> None:
    """The numbers are of the held-out pairs, under their plain names, and `best` names the checkpoint."""
    found = values(runs[name].lines("measurements.jsonl"))
    assert set(found) == {"pix2pix": {"mse", "mae", "psnr"}, "srresnet": {"psnr_y", "ssim_y"}}[name]
    data = load(runs[name].config.data)
    batch = pictures_of(data, data.test, range(len(data.test)), "cpu")
    with torch.no_grad():
        made = to_uint8(Opened(runs[name]).model.translate(batch.source)).astype(float)
    if name == "pix2pix":
        assert found["mae"] == pytest.approx(np.abs(made - data.test.images).mean() / 255)
    else:  # grey: luma is 219 of 255 levels; the border is the scale
        inner = (made - data.test.images)[:, 4:-4, 4:-4] * 219 / 255**2
        assert found["psnr_y"] == pytest.approx((-10 * np.log10((inner**2).mean((1, 2, 3)))).mean())
    assert runs[name].best() is not None


def test_what_a_translation_should_beat_stands_beside_it(runs: dict[str, Run]) -> None:
    """A model that copies reaches what copying does in every number; the mean picture is that of training pictures."""
    lines = of_run(
        runs["pix2pix"].folder,
        Protocol(("pixels", "structure", "gradients")),
        opened=opened(runs["pix2pix"], translate=lambda source, noise=None: source),
    )
    found, data = values(lines), load(runs["pix2pix"].config.data)
    own = ("mse", "mae", "psnr", "ssim", "ms_ssim", "gmsd")
    assert set(found) == {prefix + name for prefix in ("", "source_", "mean_") for name in own}
    assert all(found[f"source_{name}"] == found[name] for name in own)
    mean = np.round(np.asarray(data.train.images, float).mean(0))
    assert found["mean_mae"] == pytest.approx(np.abs(mean - data.test.images).mean() / 255)
    assert found["mean_gmsd"] > found["gmsd"] > 0
    for name in own:
        assert better(f"source_{name}") == better(f"mean_{name}") == better(name)
        assert group(f"bicubic_{name}") == group(name) == "pairs"
    assert "source_mae" in evaluate.told(lines)


def test_baselines_of_plain_pictures() -> None:
    """Flat pictures stay flat whatever their size and channels, and a lightness becomes the grey that has it."""
    flat = np.full((1, 2, 3, 1), 90, np.uint8)
    assert (copied(flat, np.empty((8, 12, 3)), PLAIN) == 90).all()
    assert copied(flat, np.empty((8, 12, 3)), PLAIN).shape == (1, 8, 12, 3)
    source = drawn(1, 5, 6)
    there = np.asarray(Image.fromarray(source[0]).resize((12, 10), Image.Resampling.BICUBIC))
    assert (copied(source, np.empty((10, 12, 3)), PLAIN)[0] == there).all()
    assert (mean_picture(np.stack([flat[0], flat[0] + 21])) == np.round((90 + 111) / 2)).all()
    grey = copied(flat, np.empty((2, 3, 3)), replace(PLAIN, derive="grey"))
    lab = rgb2lab(grey[0])
    assert lab[..., 0] == pytest.approx(100 * 90 / 255, abs=0.3) and np.abs(lab[..., 1:]).max() < 0.01


def test_set5_enlarged_as_pillow_does_is_what_the_papers_report() -> None:
    """28.42 dB on Y for ×4 without the border, the usual number by MATLAB's bicubic."""
    archive = REAL / "set5.zip"
    if not archive.exists():
        pytest.skip(f"{archive} is not here")
    pairs = []
    with zipfile.ZipFile(archive) as held:
        for name in sorted(name for name in held.namelist() if name.endswith(".png")):
            image = np.asarray(Image.open(io.BytesIO(held.read(name))).convert("RGB"))
            image = image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4]
            small = to_uint8(low_resolution(to_float(torch.from_numpy(image[None].copy())), 4))
            pairs.append((copied(small, image, PLAIN), image[None]))
    subject = PairsSubject(pairs, "set5", "", 0)
    subject.border = 4
    assert similarity.super_resolution(subject)[0].value == pytest.approx(28.42, abs=0.02)


def test_errors_of_colour() -> None:
    """Against scikit-image; of grey beside colour it is the chroma of that, and light does not count."""
    real, made = drawn(3, 9, 7), drawn(3, 9, 7, seed=1)
    found = translation.ab_error(similarity.unit(made), similarity.unit(real)).numpy()
    apart = [rgb2lab(one) - rgb2lab(other) for one, other in zip(made, real, strict=True)]
    wanted = [np.hypot(*one[..., 1:].T).mean() for one in apart]
    assert found == pytest.approx(wanted, rel=1e-3)
    grey = np.repeat(drawn(3, 9, 7, 1), 3, axis=3)
    found = translation.ab_error(similarity.unit(grey), similarity.unit(real)).numpy()
    assert found == pytest.approx([np.hypot(*rgb2lab(one)[..., 1:].T).mean() for one in real], rel=1e-3)
    assert translation.ab_error(similarity.unit(grey), similarity.unit(255 - grey)).max() < 0.01


def test_colourfulness_of_known_pictures() -> None:
    """Grey is 0. Of pure red, rg = 255 and yb = 127.5 everywhere; half red and half its opposite only spread."""
    red = np.zeros((1, 4, 4, 3), np.uint8)
    red[..., 0] = 255
    both = red.copy()
    both[:, :2] = 255 - both[:, :2]  # cyan: rg = -255, yb = -127.5
    images = np.concatenate([np.full_like(red, 77), red, both])
    length = np.hypot(255, 127.5)
    assert translation.colorfulness(similarity.unit(images)).tolist() == pytest.approx([0, 0.3 * length, length])


@pytest.mark.parametrize("size", [(32, 48), (33, 27)])
def test_gmsd(size: tuple[int, int]) -> None:
    """The formula written again with scipy, and piq where no row is odd; 0 for the same, more for more noise."""
    real, noise = drawn(2, *size), np.random.default_rng(2).normal(size=(2, *size, 3))
    noisy = [(real + strength * noise).clip(0, 255).round().astype(np.uint8) for strength in (0, 8, 25)]
    found = [similarity.gmsd(similarity.unit(made), similarity.unit(real)).numpy() for made in noisy]
    assert (found[0] == 0).all() and (found[1] < found[2]).all() and (found[1] > 0).all()

    def strength(image: np.ndarray) -> np.ndarray:
        level = image @ np.array([65.481, 128.553, 24.966]) / 219  # 0 to 255
        level = convolve2d(level, np.full((2, 2), 0.25))[1::2, 1::2]
        prewitt = np.array([[1, 0, -1]] * 3) / 3
        return np.hypot(convolve2d(level, prewitt, "same"), convolve2d(level, prewitt.T, "same"))

    for place in range(2):
        one, other = strength(noisy[2][place]), strength(real[place])
        wanted = ((2 * one * other + 170) / (one**2 + other**2 + 170)).std()
        assert found[2][place] == pytest.approx(wanted, rel=1e-6)
    if size[0] % 2 == 0:
        theirs = piq.gmsd(similarity.unit(noisy[2]), similarity.unit(real), reduction="none")
        assert found[2] == pytest.approx(theirs.numpy(), rel=0.01)


def test_there_and_back(runs: dict[str, Run]) -> None:
    """Nothing is lost by models that change nothing; what either way adds is found again."""

    def cycle(**methods: Any) -> list[float]:
        lines = of_run(runs["pix2pix"].folder, Protocol(("cycle",)), opened=opened(runs["pix2pix"], **methods))
        assert [line["metric"] for line in lines] == ["cycle_mae", "back_cycle_mae"]
        return [line["value"] for line in lines]

    def same(image: torch.Tensor) -> torch.Tensor:
        return image

    assert cycle(translate=same, translate_back=same) == [0, 0]
    darker = cycle(translate=same, translate_back=lambda image: image * 0 - 1)  # black
    data = load(runs["pix2pix"].config.data)
    batch = pictures_of(data, data.test, range(len(data.test)), "cpu")
    assert batch.source is not None
    assert darker == pytest.approx([(to_uint8(batch.source) / 255).mean(), data.test.images.mean() / 255])
    with pytest.raises(Refused, match="cycle: it has no way back"):
        of_run(runs["pix2pix"].folder, Protocol(("cycle",)))


def test_unmatched_sets_have_answers_and_no_pairs(runs: dict[str, Run]) -> None:
    """As many samples as there are held-out sources, whatever the number of pictures."""
    data = load(runs["pix2pix"].config.data)
    batch = pictures_of(data, data.test, range(7), "cpu")
    assert batch.source is not None
    apart = replace(
        data,
        pictures=replace(data.pictures, matched=False),
        test=replace(data.test, sources=to_uint8(batch.source)),
    )
    found = opened(runs["pix2pix"], translate=lambda source, noise=None: source)
    found.dataset = apart
    lines = of_run(runs["pix2pix"].folder, Protocol(("diversity",)), opened=found)
    assert [line["n"] for line in lines] == [7]
    with pytest.raises(Refused, match="cannot be measured by pixels: it has no reconstructions or pairs"):
        of_run(runs["pix2pix"].folder, Protocol(("mae",)), opened=found)
    with pytest.raises(Refused, match="no reconstructions or pairs"):
        evaluate.check(recipe("pix2pix").model, apart, Protocol(("mae",)))


def test_whole_pictures_of_another_set(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: odd sizes are cut to the scale, enlarged as a whole, and judged without a border of 4."""
    images = {"a": drawn(1, 37, 50, 1)[0], "b": drawn(1, 30, 21, 1, seed=1)[0], "c": drawn(1, 37, 50, 1, seed=2)[0]}
    folder, run = write(tmp_path / "whole", images), runs["srresnet"]
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run.folder), "--reference", str(folder), "--metrics", "super-resolution", "--json"])
    assert not ended.value.code
    lines = json.loads(capsys.readouterr().out)
    model, wanted = Opened(run).model, []
    for image in images.values():
        height, width = (side // 4 * 4 for side in image.shape[:2])
        kept = image[:height, :width, 0]
        small = np.asarray(Image.fromarray(kept).resize((width // 4, height // 4), Image.Resampling.BICUBIC))
        with torch.no_grad():
            made = to_uint8(model.translate(to_float(torch.from_numpy(small[None, ..., None].copy()))))[0, ..., 0]
        large = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        inner = [(one.astype(float) - kept)[4:-4, 4:-4] * 219 / 255**2 for one in (made, large)]
        wanted.append([-10 * np.log10((one**2).mean()) for one in inner])
    found = values(lines)
    assert [found["psnr_y"], found["bicubic_psnr_y"]] == pytest.approx(np.mean(wanted, 0), abs=0.02)
    assert set(found) == {"psnr_y", "ssim_y", "bicubic_psnr_y", "bicubic_ssim_y"}
    passport = lines[0]["passport"]
    kept = {"reference": "whole", "split": "all", "size": "various", "reference_pictures": 3, "border": 4, "step": 3}
    assert {key: passport[key] for key in kept} == kept and len(passport["hash"]) == 64
    assert run.lines("measurements.jsonl")[-1]["passport"]["hash"] == passport["hash"]


def test_whole_pairs_of_another_set(runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that learned pairs side by side is held against such of any size; without pairs it is refused."""
    pairs = drawn(20, 8, 16)
    folder = write(tmp_path / "pairs", {str(place): pair for place, pair in enumerate(pairs)})
    settings = DataConfig(source=(str(folder),), size=8, layout="side-by-side", direction="b-to-a")
    data, before = load(settings), runs["pix2pix"].config
    config = RunConfig("pix2pix", 0, settings, replace(before.train, steps=1), before.model)
    run = Run(tmp_path / "run", config, data.pictures, data.description).create()
    train(run, data)
    other = drawn(3, 9, 26, seed=1)
    other[2] = other[2, :, :, :1]  # a grey pair
    copying = opened(run, translate=lambda source, noise=None: source)
    whole = write(tmp_path / "whole", {str(place): pair for place, pair in enumerate(other)})
    lines = of_run(run.folder, Protocol(), opened=copying, reference=str(whole))
    found = values(lines)
    assert found["mae"] == found["source_mae"]
    assert found["mae"] == pytest.approx(np.abs(other[:, :, :13].astype(float) - other[:, :, 13:]).mean() / 255)
    assert lines[0]["passport"]["size"] == "13×9" and not any(name.startswith("mean_") for name in found)
    single = write(tmp_path / "single", {"a": drawn(1, 9, 13)[0]})
    plain = Opened(run)
    plain.run = replace(plain.run, config=replace(config, data=replace(settings, layout="auto")))
    with pytest.raises(Refused, match=r"single has no pairs, and the run was trained on sources of their own"):
        of_run(run.folder, Protocol(), opened=plain, reference=str(single))


def test_a_stride_is_no_limit_and_grey_has_no_colour(runs: dict[str, Run], tmp_path: Path) -> None:
    """A picture smaller than the stride of 8 is reflected and cut back; what cannot be used is refused."""
    folder = write(tmp_path / "small", {"a": drawn(1, 5, 11, 1)[0]})
    lines = of_run(runs["pix2pix"].folder, Protocol(("mae",)), reference=str(folder))
    assert [line["metric"] for line in lines] == ["mse", "mae", "psnr", "source_mse", "source_mae", "source_psnr"]
    assert lines[0]["passport"]["size"] == "11×5"
    tiny = write(tmp_path / "tiny", {"a": drawn(1, 3, 3, 1)[0]})
    with pytest.raises(Refused, match="No picture of --reference .* could be translated"):
        of_run(runs["srresnet"].folder, Protocol(), reference=str(tiny))
    with pytest.raises(Refused, match="cannot be measured by frechet: it has no samples"):
        of_run(runs["pix2pix"].folder, Protocol(("frechet",)), reference=str(folder))
    with pytest.raises(Refused, match="color: it has no colour"):
        of_run(runs["pix2pix"].folder, Protocol(("ab_error",)), reference=str(folder))


def test_whole_pictures_want_a_run_that_translates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = tiny_run("ae", tmp_path / "ae", steps=1)
    train(run, data)
    with pytest.raises(Refused, match="ae cannot translate"):
        of_run(run.folder, Protocol(), reference="digits")
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.folder), "--reference", "digits", "--features", "pixels"])
    assert "--features does not go with --reference" in capsys.readouterr().err


def test_a_colouring_run_is_measured_by_colour_unasked() -> None:
    """And super-resolution by enlargement; neither stands among the numbers of others."""
    data = load(tiny_config(8, "pix2pix"))
    model = recipe("pix2pix").model
    assert data.pictures.source is not None
    source = replace(data.pictures.source, channels=1)
    coloured = replace(data, pictures=replace(data.pictures, channels=3, source=source))
    assert {"coloring", "color", "pairs", "samples"} <= given_by(model, coloured) | given_by_set(coloured)
    assert not {"coloring", "enlarging", "color"} & (given_by(model, data) | given_by_set(data))
