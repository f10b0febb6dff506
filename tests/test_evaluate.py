"""Measuring runs and other people's pictures: passports, known answers, the best checkpoint while training."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from torch import Tensor

from conftest import CAPABLE, Trained, size_for, tiny_run
from tasvir import pictures
from tasvir.cli import main
from tasvir.config import DataConfig, Refused
from tasvir.core import Noise
from tasvir.data import load
from tasvir.metrics import evaluate
from tasvir.metrics.directions import better, plain
from tasvir.metrics.evaluate import Protocol, of_pictures, of_run
from tasvir.metrics.subject import chosen, rows, spool, spooled
from tasvir.metrics.table import METRICS
from tasvir.metrics.watch import Watch
from tasvir.models.autoencoders.vae import VAE
from tasvir.runs import Run
from tasvir.training.loop import train

DIGITS = DataConfig(source=("digits",))


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, said = capsys.readouterr()
    return int(ended.value.code or 0), out, said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny runs; their numbers are bad and their passports whole."""
    return Trained(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("name", CAPABLE)
def test_every_kind_of_recipe_is_measured_by_all_that_fits_it(name: str, trained: dict[str, Path]) -> None:
    """Whatever a row gives is in the table, has an interval around it, N, a direction, and a passport."""
    large = size_for(name) >= 32  # there a classifier would take half a minute to train
    lines = of_run(trained[name], Protocol(features="pixels" if large else None, number=24 if large else 60, draws=3))
    assert lines
    for line in lines:
        bare, name_of = plain(line["metric"]), line["metric"]
        assert any(bare in row.gives or name_of in row.gives for row in METRICS.values()), name_of
        assert np.isfinite(line["value"])
        assert line["interval"] is not None, line["metric"]
        low, high = line["interval"]
        assert low <= high and np.isfinite([low, high]).all(), line
        assert line["n"] > 0
        better(line["metric"])
        passport = line["passport"]
        wanted = {"reference", "split", "hash", "size", "channels", "reference_pictures", "extractor", "resize",
                  "averaged", "recipe", "step", "seed", "tasvir", "torch", "pictures"}  # fmt: skip
        assert wanted <= set(passport)
        assert passport["reference"] == "digits" and passport["split"] == "test" and passport["step"] == 6
    told = evaluate.told(lines)
    assert all(line["metric"] in told for line in lines) and "real pictures" in told
    json.dumps(lines, allow_nan=False)


def test_the_frechet_distance_is_called_fid_in_no_other_features(trained: dict[str, Path]) -> None:
    lines = of_run(trained["vae"], Protocol(("frechet",), number=60))
    assert [line["metric"] for line in lines] == ["frechet", "frechet_infinity"]
    passport = lines[0]["passport"]
    assert passport["extractor"] == "classifier" and len(passport["weights"]) == 64 and passport["accuracy"] > 0.5
    lines = of_run(trained["vae"], Protocol(("frechet",), features="pixels", number=60))
    assert lines[0]["metric"] == "frechet" and lines[0]["passport"]["extractor"] == "pixels"


def test_a_metric_can_be_asked_for_by_its_numbers(trained: dict[str, Path]) -> None:
    names = {line["metric"] for line in of_run(trained["vae"], Protocol(("reconstruction_psnr",), number=20))}
    assert names == {"reconstruction_mse", "reconstruction_mae", "reconstruction_psnr"}
    assert of_run(trained["vae"], Protocol(("active_units",), number=20, draws=2))
    with pytest.raises(Refused, match="frechet"):
        of_run(trained["ae"], Protocol(("frechet",), number=20))


def test_measured_twice_the_same_numbers(trained: dict[str, Path]) -> None:
    once, again = (of_run(trained["vae"], Protocol(number=40, draws=2)) for _ in range(2))
    assert once == again
    lines = Run.open(trained["vae"]).lines("measurements.jsonl")
    assert lines[-len(once) :] == json.loads(json.dumps(once)), "what is returned is what stands in the run"
    other = of_run(trained["vae"], Protocol(("diversity",), number=40, seed=5))
    assert other[0]["value"] != next(line["value"] for line in once if line["metric"] == "diversity")


def test_help_and_docs_tell_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = tasvir(capsys, "evaluate", "--help")[1]
    docs = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    for name, row in METRICS.items():
        assert name in help_text, name
        assert all(f"`{number}`" in docs for number in row.gives if "fid_" not in number), row.gives


def test_a_conditional_run_is_asked_for_the_classes_of_the_reference(
    trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that does not listen is obeyed by chance, and teaches a classifier nothing."""
    asked: list[int] = []
    monkeypatch.setattr(VAE, "conditional", True, raising=False)
    sample = VAE.sample

    def heard(self: VAE, noise: Noise, label: Tensor | None = None) -> Tensor:
        assert label is not None
        asked.extend(label.tolist())
        return sample(self, noise)

    monkeypatch.setattr(VAE, "sample", heard)
    lines = of_run(trained["vae"], Protocol(("label-agreement", "classification-accuracy"), number=300))
    found = {line["metric"]: line for line in lines}
    assert found["label_agreement"]["value"] < 0.3 < 0.9 < found["label_agreement"]["real"]
    assert found["classification_accuracy"]["value"] < 0.4 < found["classification_accuracy"]["real"]
    assert len(asked) == 300 and set(asked) == set(range(10)) and max(np.bincount(asked)) < 60


# Known answers


def album(folder: Path, images: np.ndarray, labels: np.ndarray | None = None) -> str:
    """A folder of PNGs, in class folders where there are labels."""
    for number, image in enumerate(images):
        place = folder if labels is None else folder / str(labels[number])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(place / f"{number:05d}.png")
    return str(folder)


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    made = [Image.fromarray(image[..., 0]).filter(ImageFilter.GaussianBlur(radius)) for image in images]
    return np.stack([np.asarray(image) for image in made])[..., None]


def noisy(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, strength, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


DISTANCES = ("frechet", "kid", "prd_f8", "precision", "sliced_wasserstein")


def measured(made: np.ndarray, folder: Path, *metrics: str, **settings: object) -> dict[str, float]:
    lines = of_pictures(
        album(folder, made),
        DIGITS,
        Protocol(metrics, **settings),
        None,
        None,
        False,  # type: ignore[arg-type]
    )
    return {line["metric"]: line["value"] for line in lines}


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return np.asarray(load(DIGITS).train.images[:200])


@pytest.mark.parametrize(("features", "harm"), [("classifier", blurred), ("pixels", noisy)])
def test_more_harm_is_further_away(harm, features: str, digits: np.ndarray, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    strengths = (0, 0.7, 1.5) if harm is blurred else (0, 40, 120)
    found = [
        measured(harm(digits, strength), tmp_path / str(strength), *DISTANCES, features=features)
        for strength in strengths
    ]
    for metric in ("frechet", "kid", "sliced_wasserstein"):
        assert found[0][metric] < found[1][metric] < found[2][metric], metric
    for metric in ("prd_f8", "precision"):
        assert found[0][metric] > found[2][metric], metric


def test_a_set_against_itself_its_mirror_and_halves(tmp_path: Path) -> None:
    """Distance zero to itself; halves of one set are nearer to each other than to the mirrored set."""
    images = load(DIGITS).train.images
    half, other = images[::2], images[1::2]
    reference = DataConfig(source=(album(tmp_path / "half", half),))
    protocol = Protocol(("frechet", "kid", "precision-recall", "prd"), features="pixels", split="train")

    def against_half(made: np.ndarray, name: str) -> dict[str, float]:
        lines = of_pictures(album(tmp_path / name, made), reference, protocol, None, None, False)
        return {line["metric"]: line["value"] for line in lines}

    same = load(reference).train.images  # what is held out is not in the reference
    itself = against_half(same, "itself")
    assert itself["frechet"] == pytest.approx(0, abs=1e-6)
    assert itself["precision"] == itself["recall"] == itself["coverage"] == 1
    assert itself["prd_f8"] == pytest.approx(1, abs=1e-6)
    halves, mirror = against_half(other, "other"), against_half(other[:, :, ::-1], "mirror")
    assert itself["frechet"] < halves["frechet"] < 0.2 * mirror["frechet"]
    assert abs(halves["kid"]) < 0.1 * mirror["kid"]
    assert halves["precision"] > mirror["precision"] and halves["prd_f8"] > mirror["prd_f8"]


def test_copies_of_training_pictures_are_told_from_new_ones(tmp_path: Path) -> None:
    data = load(DIGITS)
    copied = measured(np.asarray(data.train.images[:200]), tmp_path / "copied", "memorization", features="pixels")
    fresh = measured(np.asarray(data.test.images[:150]), tmp_path / "fresh", "memorization", features="pixels")
    assert copied["memorization"] > 0.98 and copied["near_copies"] == 1
    assert fresh["memorization"] == pytest.approx(0.5, abs=0.08) and fresh["near_copies"] < 0.1


def test_one_picture_many_times_has_no_variety(digits: np.ndarray, tmp_path: Path) -> None:
    """Copies among generated pictures count: a collapsed model must look like one."""
    metrics = ("precision-recall", "classes", "diversity")
    collapsed = measured(np.repeat(digits[:2], 100, axis=0), tmp_path / "two", *metrics)
    varied = measured(digits[:200], tmp_path / "many", *metrics)
    assert collapsed["coverage"] < 0.1 < varied["coverage"]
    assert collapsed["predicted_class_coverage"] <= 0.21 and varied["predicted_class_coverage"] > 0.9
    assert collapsed["rarest_class_share"] == 0 and varied["rarest_class_share"] > 0.04
    assert collapsed["diversity"] < 0.8 * varied["diversity"]


# Pictures made by other software


def test_labels_come_from_folders_arrays_and_index(tmp_path: Path) -> None:
    """Asked classes are found wherever they lie, and real pictures with their own labels agree with a classifier."""
    data = load(DIGITS)
    images, labels = np.asarray(data.test.images[:120]), np.asarray(data.test.labels[:120])
    sources = {
        "folders": album(tmp_path / "folders", images, labels),
        "arrays": str(tmp_path / "a.npz"),
        "index": str(tmp_path / "index"),
    }
    pictures.write(images, tmp_path / "a.npz", labels=labels.tolist())
    pictures.write(images, tmp_path / "index", labels=labels.tolist(), classes=data.pictures.classes)
    for source in sources.values():
        lines = of_pictures(source, DIGITS, Protocol(("label-agreement",)), None, None, False)
        assert lines[0]["metric"] == "label_agreement" and lines[0]["value"] > 0.9
    with pytest.raises(Refused, match="no samples of a class that was asked for"):
        of_pictures(album(tmp_path / "plain", images), DIGITS, Protocol(("label-agreement",)), None, None, False)


def test_strange_labels_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.asarray(load(DIGITS).test.images[:40])
    labels = np.array(["cat", "dog"])[np.arange(40) % 2]
    of_pictures(album(tmp_path / "x", images, labels), DIGITS, Protocol(("diversity",)), None, None, False)
    assert "are left out" in capsys.readouterr().err


def test_unlike_sizes_and_broken_files_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.asarray(load(DIGITS).test.images[:40]).repeat(2, 1).repeat(2, 2)
    made = album(tmp_path / "x", images)
    (tmp_path / "x" / "00007.png").write_bytes(b"no picture")
    lines = of_pictures(made, DIGITS, Protocol(("diversity",)), tmp_path / "m.jsonl", None, False)
    said = capsys.readouterr().err
    assert "16 px" in said and "8 px" in said and "00007.png" in said
    assert lines[0]["n"] == 39 and lines[0]["passport"]["generated"] == "x"
    assert json.loads((tmp_path / "m.jsonl").read_text()) == lines[0]


def test_pairs_are_held_together_by_name_at_their_own_size(tmp_path: Path) -> None:
    """The error of each pair is known: one level in every pixel; pictures are neither square nor alike in size."""
    draw = np.random.default_rng(0)
    sizes = [(40, 50), (64, 33), (40, 50)]
    for number, size in enumerate(sizes):
        real = draw.integers(0, 255, (*size, 3), np.uint8)
        for name, image in (("real", real), ("made", real + 1)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    reference = DataConfig(source=(str(tmp_path / "real"),))
    lines = of_pictures(str(tmp_path / "made"), reference, Protocol(), None, None, True)
    found = {line["metric"]: line for line in lines}
    assert found["mse"]["value"] == pytest.approx(1 / 255**2, rel=1e-6) and found["mse"]["n"] == 3
    assert found["psnr"]["value"] == pytest.approx(20 * np.log10(255), rel=1e-6)
    assert {"ssim", "ms_ssim"} <= set(found)
    lines = of_pictures(str(tmp_path / "made"), reference, Protocol(("super-resolution",), border=4), None, None, True)
    assert {line["metric"] for line in lines} == {"psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb"}
    assert all(line["passport"]["border"] == 4 for line in lines)
    Image.new("RGB", (10, 10)).save(tmp_path / "made" / "0.png")
    with pytest.raises(Refused, match="one size"):
        of_pictures(str(tmp_path / "made"), reference, Protocol(), None, None, True)
    with pytest.raises(Refused, match="the name of one"):
        of_pictures("digits", reference, Protocol(), None, None, True)


BAD = [
    (["evaluate"], "wants a run folder"),
    (["evaluate", "--generated", "digits"], "--reference"),
    (["evaluate", "--generated", "/no/such", "--reference", "digits"], "/no/such"),
    (["evaluate", "--generated", "digits", "--reference", "/no/such"], "/no/such"),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--metrics", "bound"], "cannot be measured by"),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--metrics", "frechett"], "meant frechet"),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--features", "inceptoin"], "inception"),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--step", "4"], "--step"),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--out", "x.csv"], ".jsonl"),
    (["evaluate", "{run}", "--reference", "digits"], "cannot translate"),
    (["evaluate", "{run}", "--step", "best"], "no best checkpoint"),
    (["evaluate", "{run}", "--step", "worst"], "--step"),
    (["train", "vae", "--data", "digits", "--train.evaluate-every", "2", "--train.evaluate-metrics", "fiid"], "metric"),
    (["train", "ae", "--data", "digits", "--train.evaluate-every", "2", "--train.evaluate-metrics", "kid"], "samples"),
    (
        ["train", "vae", "--data", "digits", "--train.evaluate-every", "2", "--train.evaluate-metrics", "rate"],
        "neither",
    ),
    (["evaluate", "{run}", "--metrics", "disentanglement"], "known factors"),
    (["evaluate", "{run}", "--metrics", "kid", "-n", "3"], "too few pictures"),
    (["evaluate", "{run}", "--metrics", "fid", "--features", "classifier"], "called frechet"),
    (["evaluate", "{run}", "--generated", "digits"], "not both"),
    (
        ["evaluate", "--generated", "digits", "--reference", "digits", "--pairs", "--size", "8"],
        "does not go with --pairs",
    ),
    (["evaluate", "--generated", "digits", "--reference", "digits", "--out", "/proc/x.jsonl"], "cannot be written"),
]


@pytest.mark.parametrize(
    ("words", "expected"), BAD, ids=lambda value: " ".join(value)[9:70] if isinstance(value, list) else ""
)
def test_bad_input_is_told_in_plain_lines(
    words: list[str],
    expected: str,
    trained: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, said = tasvir(capsys, *(word.format(run=trained["vae"]) for word in words))
    passing = ("Packing ", "Training a classifier ")  # what may be done first, once for all tests
    said = "".join(line for line in said.splitlines(True) if not line.startswith(passing))
    assert code == 2 and expected in said, said
    assert said.startswith("tasvir: ") and len(said.strip().splitlines()) <= 2 and not out
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# While training


def watched(name: str, folder: Path, steps: int = 8, **settings: object) -> tuple[Run, Watch]:
    run, data = tiny_run(
        name, folder, steps=steps, evaluate_every=2, evaluate_number=40, checkpoint_every=100, keep=1, **settings
    )
    watch = Watch(run, data)
    assert train(run, data, measure=watch) == "done"
    return run, watch


@pytest.mark.parametrize("name", ["ae", "vae", "dcgan"])
def test_the_best_checkpoint_is_kept_by_the_recipes_metric(name: str, tmp_path: Path) -> None:
    run, watch = watched(name, tmp_path / "run")
    metric = {"ae": "reconstruction_mse", "vae": "bound", "dcgan": "frechet"}[name]
    values = {line["passport"]["step"]: line["value"] for line in watch.lines() if line["metric"] == metric}
    assert list(values) == [2, 4, 6, 8]
    expected = (max if metric == "bound" else min)(values, key=values.__getitem__)
    best = run.best()
    assert best is not None and best.step == expected and (run.folder / "best" / "model.safetensors").is_file()
    assert {checkpoint.step for checkpoint in run.checkpoints()} == {expected, 8}, "the best stays besides the newest"
    again = of_run(run.folder, replace(watch.protocol), step="best")
    assert next(line["value"] for line in again if line["metric"] == metric) == values[expected]


def test_a_worse_checkpoint_does_not_become_the_best(tmp_path: Path) -> None:
    """The first is the best: training goes on with a rate that destroys everything."""
    run, data = tiny_run("ae", tmp_path / "run", steps=4, evaluate_every=2, checkpoint_every=100, keep=1)
    train(run, data, measure=Watch(run, data))
    kept = run.best()
    optimizer = replace(run.config.model.optimizer, learning_rate=30.0)
    worse = replace(run.config, model=replace(run.config.model, optimizer=optimizer))
    worse = replace(worse, train=replace(worse.train, steps=12))
    run = replace(run, config=worse)
    train(run, data, measure=Watch(run, data))
    assert kept is not None and kept.step == 4 and run.best() == kept and run.latest().step == 12


def test_a_kill_before_the_link_is_made_good_when_training_goes_on(tmp_path: Path) -> None:
    run, data = tiny_run("ae", tmp_path / "run", steps=4, evaluate_every=2, checkpoint_every=2, keep=2)
    train(run, data, measure=Watch(run, data))
    lines = run.lines("measurements.jsonl")
    for line in lines:  # as if step 2 had been the best
        line["value"] = line["passport"]["step"] / 1000
    (run.folder / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.folder / "best").unlink()
    longer = replace(run, config=replace(run.config, train=replace(run.config.train, steps=8)))
    train(longer, data, measure=Watch(longer, data))
    best = run.best()
    assert best is not None and best.step == 2 and 2 in [checkpoint.step for checkpoint in run.checkpoints()]


def test_the_number_asked_for_decides_and_trouble_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, watch = watched("gan", tmp_path / "run", steps=6, evaluate_metrics=("recall",))
    values = {line["passport"]["step"]: line["value"] for line in watch.lines() if line["metric"] == "recall"}
    best = run.best()
    assert best is not None and best.step == max(values, key=values.__getitem__)

    def broken(*_: object, **__: object) -> list:
        raise Refused("The disk is full.")

    monkeypatch.setattr(evaluate, "of_run", broken)
    other, _ = watched("gan", tmp_path / "other", steps=4)
    assert other.latest().step == 4 and "was not measured: The disk is full." in capsys.readouterr().err


def test_measuring_changes_no_weight_and_a_resumed_run_measures_on(tmp_path: Path) -> None:
    """With and without measuring, broken and unbroken: the same bits, and the same lines."""
    run, watch = watched("vae", tmp_path / "whole")
    broken, data = tiny_run(
        "vae", tmp_path / "broken", steps=4, evaluate_every=2, evaluate_number=40, checkpoint_every=100, keep=1
    )
    train(broken, data, measure=Watch(broken, data))
    lines = broken.lines("measurements.jsonl")
    (broken.folder / "measurements.jsonl").write_text("")  # killed before the measurement of step 4 was written
    longer = replace(broken, config=replace(broken.config, train=replace(broken.config.train, steps=8)))
    train(longer, data, measure=Watch(longer, data))
    plain, _ = tiny_run("vae", tmp_path / "plain", steps=8)
    train(plain, data)
    for other in (longer, plain):
        expected, found = run.latest().tensors("model.safetensors"), other.latest().tensors("model.safetensors")
        assert all((expected[key] == found[key]).all() for key in expected)
    after = [line for line in watch.lines() if line["passport"]["step"] >= 4]
    assert longer.lines("measurements.jsonl") == after and lines[-1] in after


def test_training_by_command_measures_and_samples_from_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data", "digits", "--data.limit", 200, "--train.steps", 4, "--model.widths", 4, 8, "--out", "run"]
    code, _, said = tasvir(capsys, "train", "vae", *words, "--train.evaluate-every", 2, "--train.evaluate-number", 50)
    assert code == 0 and "Step 2: bound" in said and "best so far" in said
    code, out, _ = tasvir(capsys, "sample", "run", "-n", 4, "--step", "best", "--out", "x.png")
    assert code == 0 and "4 pictures" in out
    assert os.readlink("run/best").startswith("checkpoints/0000000")
    code, _, said = tasvir(capsys, "resume", "run", "--train.steps", 6)
    assert code == 0 and "Step 6" in said


# The reference


def test_few_pictures_are_measured_by_what_they_allow(
    trained: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Unasked metrics that need more pictures say so and are left out; the others say what they are worth."""
    for number in (1, 2, 5):
        lines = of_run(trained["dcgan"], Protocol(number=number))
        assert lines, number
        said = capsys.readouterr().err
        assert "Not measured by precision-recall" in said
    assert any("kid" in line.get("note", "") for line in lines)


def test_the_training_pictures_stand_in_the_passport_of_what_depends_on_them(tmp_path: Path) -> None:
    found = []
    for limit in (100, 200):
        run, data = tiny_run("gan", tmp_path / str(limit))
        config = replace(run.config, data=replace(run.config.data, limit=limit))
        run = replace(run, config=config)
        train(run, data)
        run.write_config()
        lines = of_run(run.folder, Protocol(("nearest-class", "memorization"), features="pixels", number=40))
        found.append({line["metric"]: line["passport"]["known"] for line in lines})
    assert len(found[0]) == 5 and all(found[0][metric] != found[1][metric] for metric in found[0])


def test_the_same_pictures_are_chosen_every_time_and_from_all_over() -> None:
    assert np.array_equal(chosen(10, 20), np.arange(10))
    some = chosen(1000, 100)
    assert np.array_equal(some, chosen(1000, 100)) and (np.diff(some) > 0).all()
    assert some[50] > 300, "not the first ones"
    images = np.arange(1000, dtype=np.uint8).reshape(1000, 1, 1, 1)
    assert np.array_equal(rows(images, some), images[some])


def test_large_arrays_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasvir.metrics.subject.SPOOL", 100)
    assert isinstance(spool((200,), np.uint8), np.memmap) and not isinstance(spool((20,), np.uint8), np.memmap)
    parts = (np.full((5, 10), number, np.uint8) for number in range(40))
    found = spooled(parts, 200)
    assert isinstance(found, np.memmap) and np.array_equal(found[::5, 0], np.arange(40))
