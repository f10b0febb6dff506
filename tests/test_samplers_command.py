"""How runs that draw in steps are asked to: refused in plain words, told in passports, measured against steps."""

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_run
from tasvir import cli
from tasvir.config import SamplingConfig
from tasvir.diffusion import telling
from tasvir.drawing import Opened
from tasvir.listing import recipes
from tasvir.metrics import subject
from tasvir.metrics.samplers import ways_of
from tasvir.report import samplers
from tasvir.report.measurements import while_training
from tasvir.report.story import Story
from tasvir.report.table import rows_of, standing
from tasvir.runs import Run
from tasvir.training.loop import train


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that knows classes, one that does not, and one that does not draw in steps."""
    above, found = tmp_path_factory.mktemp("runs"), {}
    for name, recipe, settings in (("ddpm", "ddpm", {}), ("plain", "flow", {"conditional": False}), ("gan", "gan", {})):
        run, data = tiny_run(recipe, above / f"{name}-first", steps=2)
        config = replace(run.config, model=replace(run.config.model, **settings))
        run = Run(above / name, config, data.pictures, data.description).create()
        train(run, data)
        found[name] = run.folder
    return found


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


REFUSED = [
    ("ddpm", ("--steps", 0), "--steps is 0; it must be at least 1."),
    ("ddpm", ("--steps", 21), "--steps is 21; the model was trained on 20 levels of noise: ask for no more."),
    (
        "ddpm",
        ("--sampler", "huen"),
        "--sampler is 'huen'; it must be one of",
    ),
    ("ddpm", ("--sampler", "consistency"), "The sampler consistency is not for this run, which is not distilled"),
    ("ddpm", ("--sampler", "heun", "--eta", 0.5), "--eta is for the sampler ddim, not heun: leave it out."),
    ("plain", ("--guidance", 2), "--guidance 2 is between classes, and this run knows none: leave it out."),
    ("gan", ("--sampler", "heun"), "gan draws a picture at once; --sampler is for diffusion models."),
]
ONLY_SAMPLE = [
    ("ddpm", ("--label", "seven"), "There is no label 'seven'."),
    ("ddpm", ("--label", "12"), "There is no label 12; classes are numbered from 0 to 9: 0, 1, 2"),
    ("plain", ("--label", "7"), "flow does not know classes, so --label 7 has no meaning."),
    ("ddpm", ("--truncation", 0.7), "ddpm draws nothing that could be truncated; leave --truncation out."),
]


@pytest.mark.parametrize(
    ("command", "name", "words", "sentence"),
    [(command, *row) for command in ("sample", "evaluate") for row in REFUSED]
    + [("sample", *row) for row in ONLY_SAMPLE],
)
def test_what_cannot_be_is_refused_in_words(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    command: str, name: str, words: tuple, sentence: str,
) -> None:  # fmt: skip
    out = ("--out", tmp_path / "x.png") if command == "sample" else ()
    code, said, error = tasvir(capsys, command, runs[name], *out, *words)
    assert code == 2 and sentence in error and not said and "Traceback" not in error


def test_what_samplers_cannot_measure_is_refused(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name, words, sentence in (
        ("gan", (), "gan draws a picture at once; `tasvir samplers` is for diffusion models."),
        ("ddpm", ("--steps", 2, 5, 21), "trained on 20 levels"),
        ("ddpm", ("--steps", 2, 5, 0), "--steps is 0; it must be at least 1"),
        ("ddpm", ("--steps", 0), "must be at least 1"),
        ("ddpm", ("--samplers", "rk5"), "it must be one of"),
        ("plain", ("--guidance", 1, 2), "this run knows none"),
        ("ddpm", ("--metrics", "denoise-nothing"), "There is no metric"),
        ("ddpm", ("--metrics", "mse"), "is not measured of samples, so it is the same however they are drawn"),
        ("ddpm", ("--out", "x.txt"), "must end in .png"),
    ):
        code, _, error = tasvir(capsys, "samplers", runs[name], *words)
        assert code == 2 and sentence in error, error
    code, _, error = tasvir(capsys, "evaluate", "--generated", "x", "--reference", "digits", "--steps", 2)
    assert code == 2 and "--steps is of a run" in error


def test_passports_say_how_was_drawn_and_compare_keeps_it_apart(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--sampler", "ddim", "--steps", 4, "--guidance", 2, "--eta", 0.5)
    lines = []
    for words in ((), asked, ("--steps", 20)):
        code, out, _ = tasvir(capsys, "evaluate", runs["ddpm"], "-n", 24, "--metrics", "diversity", "--json", *words)
        assert code == 0
        lines += json.loads(out)
    own, other, again = (line["passport"] for line in lines)
    assert own["own_sampling"] == again["own_sampling"] == "dpm-solver++, 20 steps" and "sampling" not in own
    assert other["sampling"] == "ddim, 4 steps, guidance 2, eta 0.5" and "own_sampling" not in other
    assert lines[0]["value"] == lines[2]["value"] != lines[1]["value"]
    assert tasvir(capsys, "evaluate", runs["gan"], "-n", 24, "--metrics", "diversity")[0] == 0
    together, apart = rows_of([Story(runs["ddpm"]), Story(runs["gan"])])
    assert set(together["values"]) == {"ddpm", "gan"} and together["apart"] is None
    assert "drawn otherwise: ddim, 4 steps, guidance 2, eta 0.5, not as runs do unasked" in apart["apart"]


def test_the_table_is_what_evaluate_measures_and_counts_the_network(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    how = ("-n", 70, "--metrics", "frechet", "--features", "pixels", "--seed", 3)
    ways = ("--samplers", "euler", "heun", "--steps", 5, 2, "--guidance", 1, 2)
    before = while_training([Story(runs["ddpm"])])
    code, out, error = tasvir(capsys, "samplers", runs["ddpm"], *how, *ways, "--json", "--out", tmp_path / "x.csv")
    assert code == 0 and not error
    found = json.loads(out)
    told = [(row["guidance"], row["sampler"], row["steps"], row["evaluations"]) for row in found]
    assert told == [
        (1, "euler", 2, 2), (1, "euler", 5, 5), (1, "heun", 2, 3), (1, "heun", 5, 9),
        (2, "euler", 2, 4), (2, "euler", 5, 10), (2, "heun", 2, 6), (2, "heun", 5, 18),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in found) and any(row["frechet_best"] for row in found)
    with (tmp_path / "x.csv").open() as file:
        assert [float(row["frechet"]) for row in csv.DictReader(file)] == [row["frechet"] for row in found]
    code, out, _ = tasvir(capsys, "evaluate", runs["ddpm"], *how, "--sampler", "heun", "--steps", 5, "--json")
    measured = json.loads(out)[0]
    assert measured["value"] == pytest.approx(found[3]["frechet"], rel=1e-6)
    # kept with passports, beside the run's other numbers and not among them
    story = Story(runs["ddpm"])
    kept = [line for line in story.measurements if line.get("table") == "samplers"]
    first = next(line for line in kept if line["metric"] == "frechet")
    assert first["passport"]["sampling"] == "euler, 2 steps" and first["passport"]["extractor"] == "pixels"
    assert not any("table" in line for line in standing(story.measurements))
    assert (before is None) == (while_training([story]) is None)
    content = samplers.panel(story)
    assert content is not None and len(content.charts) == 2
    assert [line.name for line in content.charts[0].lines] == ["euler", "heun", "euler, guidance 2", "heun, guidance 2"]
    assert content.charts[0].lines[3].steps.tolist() == [6, 18] and samplers.panel(Story(runs["gan"])) is None
    for ending in ("png", "html"):
        file = tmp_path / f"x.{ending}"
        assert str(file) in samplers.export(kept, "ddpm of a run", file) and file.stat().st_size > 5000
    table = samplers.told(kept, "ddpm of a run").splitlines()
    assert table[0].startswith(
        "ddpm of a run, step 2, against digits test, features: pixels; 70 pictures a row, seeds 3"
    )
    assert len(table) == 11 and sum("* " in line for line in table[2:10]) >= 1


def test_what_is_drawn_unasked_suits_the_run(runs: dict[str, Path]) -> None:
    def told(name: str) -> list[str]:
        return [telling.in_words(how) for how in ways_of(Opened(runs[name]))]

    assert told("ddpm") == [f"{name}, {n} steps" for name in ("ddim", "dpm-solver++", "heun") for n in (2, 5, 10, 20)]
    assert told("plain")[::5] == [f"{name}, 2 steps" for name in ("dpm-solver++", "euler", "heun")]


def test_progress_counts_every_evaluation_and_is_one_bar(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bars: list[list] = []

    @contextmanager
    def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
        bar = [what, total, 0, True]
        assert not any(bar[3] for bar in bars), "one bar at a time"
        bars.append(bar)

        def advance(count: int) -> None:
            bar[2] += count

        yield advance
        bar[3] = False

    assert tasvir(capsys, "sample", runs["plain"], "--out", tmp_path / "a.png")[2] == "", "nothing where none looks"
    monkeypatch.setattr(telling, "progress", progress)
    monkeypatch.setattr(subject, "progress", progress)
    for sampler in ("ancestral", "heun", "rk4"):
        words = ("--sampler", sampler, "--steps", 3, "-n", 66, "--guidance", 2)
        assert tasvir(capsys, "sample", runs["ddpm"], "--out", tmp_path / "a.png", *words)[0] == 0
    assert tasvir(capsys, "sample", runs["gan"], "--out", tmp_path / "a.png")[0] == 0
    assert [bar[1] // 66 for bar in bars] == [2 * n for n in (3, 5, 9)]
    assert all(total == done for _, total, done, _ in bars)
    bars.clear()
    tasvir(capsys, "evaluate", runs["plain"], "-n", 70, "--metrics", "diversity")
    assert [bar[:3] for bar in bars] == [["drawing samples", 70, 70]]
    assert telling.in_words(SamplingConfig("stochastic-heun", 1, churn=10.0, clip=False)) == (
        "stochastic-heun, 1 step, churn 10, not clipped"
    )


def test_recipes_and_checks_say_what_becomes_of_classes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, runs: dict[str, Path]
) -> None:
    said = recipes("edm", False)
    assert "class-conditional where the pictures have classes: `tasvir sample --label` draws for them" in said
    assert "draws in steps: heun, 18 steps" in said and "denoiser" in said
    assert "in steps" not in recipes("vae", False) and "--model.conditional" in recipes("pixelcnn", False)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for place in range(40):
        pixels = np.random.default_rng(place).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    out = tmp_path / "run"
    network = ("--model.network.width", 8, "--model.network.multipliers", 1, "--model.network.blocks", 1)
    loop = ("--data.size", 8, "--train.steps", 1, "--train.batch-size", 4, "--train.sample-every", 0)
    code, said, error = tasvir(capsys, "train", "edm", "--data", folder, "--out", out, *network, *loop)
    assert code == 0 and "class" not in said + error
    assert not Opened(out, "sample").conditional
    code, said, _ = tasvir(capsys, "data", "check", folder, "--out", tmp_path / "sheet.png")
    assert code == 0 and all(f"tasvir train {name} --data" in said for name in ("ddpm", "edm", "flow"))
    _, said, _ = tasvir(capsys, "data", "check", "digits", "--out", tmp_path / "sheet.png")
    using = said.split("uses the classes")[1].split("\n\n")[0]
    assert all(f"tasvir train {name} " in using for name in ("ddpm", "edm", "flow"))
