"""The page of a run that makes a picture of a picture, and the verdict on such a training."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_config, tiny_run
from tasvir import pictures
from tasvir.commands.training import Train
from tasvir.config import Pictures, RunConfig
from tasvir.models import RECIPES, recipe
from tasvir.report.compare import compare
from tasvir.report.measurements import measurements
from tasvir.report.page import BUDGET, report
from tasvir.report.panels import timeline
from tasvir.report.sheets import Sheet, cut, in_sets
from tasvir.report.story import Story
from tasvir.report.translations import answers, busiest, details, divided, held_out, of_several
from tasvir.runs import Run, append
from tasvir.training.cures import cures
from tasvir.training.loop import train
from tasvir.training.verdict import Referee

NAMES = ("source", "translated", "target")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pix2pix; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(*tiny_run("pix2pix", folder))
    return folder


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """The same but for rounding, which depends on how many pictures are made together."""
    return one.shape == other.shape and np.abs(one.astype(int) - other).max() <= 1


def test_what_belongs_together_stands_side_by_side_under_its_name(trained: Path) -> None:
    story = Story(trained)
    content = held_out(story)
    sheet = content.sheet
    assert sheet.names == NAMES and sheet.group == 3 and sheet.columns == 6 and len(sheet.images) == 36
    assert content.column_names == list(NAMES) * 2
    real = np.asarray(story.dataset.test.images[:12])
    assert np.array_equal(sheet.images[2::3], real), "the third of each three is the target"
    assert close(sheet.images[1::3], story.opened.translations(sheet.images[::3]))
    found = timeline(story)
    assert found is not None and "source, translated, target" in found.words
    ((_, film),) = found.films
    assert list(film.frames) == [0, 3, 6] and found.column_names == content.column_names
    last = film.frames[6].images
    assert close(last, sheet.images), "as saved while training"


def test_the_page_has_a_divider_and_stands_alone(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    report((trained,), out)
    page = out.read_text()
    assert "could not be drawn" not in page and len(page) < BUDGET
    assert "Held-out pictures" in page and "Through training" in page and "Samples" not in page
    body = page[page.index('<div class="divided"') :]
    assert 'data-right="1"' in body and json.loads(re.findall(r"data-names='(.*?)'", body)[0]) == list(NAMES)
    assert body.count('<div class="row">') == 6 and body.count("<select>") == 2
    assert '<div class="stage" hidden>' in body and '<div class="rows">' in body, "side by side without a script"
    assert body.index('type="range"') < body.index('class="rows"')
    assert not re.search(r'(src|href)="(?!data:)[^"]+"', page) and not re.search("https?://", page)


def test_several_answers_only_where_noise_changes_them(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(trained)
    content = answers(story)
    assert content is not None and content.sheet.names == ("source", *(f"answer {i}" for i in range(1, 5)), "spread")
    made, seeds = content.sheet.images.reshape(6, 6, 8, 8, -1), range(1000, 1004)
    for place, seed in enumerate(seeds, 1):
        assert close(made[:, place], story.opened.translations(made[:, 0], [seed] * 6))
    assert made[:, 5].max() == 255
    monkeypatch.setattr(story.opened.model, "translate", lambda source, noise=None: source)
    assert answers(story) is None


def test_a_run_without_its_pictures_or_before_its_first_checkpoint_still_has_a_page(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty, _ = tiny_run("pix2pix", tmp_path / "empty")
    report((empty.folder,), tmp_path / "page.html")
    assert "Nothing has been drawn while training yet" in (tmp_path / "page.html").read_text()
    copy = shutil.copytree(trained, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints")
    content = held_out(Story(copy))
    assert "at step 6" in content.words and content.sheet.names == NAMES and len(content.sheet.images) == 36


def test_unmatched_sets_are_called_that(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(trained)
    assert "unmatched" not in held_out(story).words
    story.run = replace(story.run, pictures=replace(story.run.pictures, matched=False))
    assert "does not belong to its source" in held_out(story).words


def test_what_is_enlarged_is_shown_in_detail_and_divided_at_one_size(tmp_path: Path) -> None:
    train(*tiny_run("srresnet", tmp_path / "run", steps=3))
    story = Story(tmp_path / "run")
    size, content = story.run.pictures.size, details(story)
    assert content is not None and content.sheet.names[0] == "source" and content.sheet.names[-1] == "target"
    assert content.sheet.images.shape[1] == size // 2 * 3
    shown = divided(story)
    assert shown is not None and all(sheet.images.shape[1] == size for row in shown.rows for sheet in row)
    image = np.zeros((16, 16, 1), np.uint8)
    image[9:15, 1:7] = np.random.default_rng(0).integers(0, 255, (6, 6, 1))
    assert busiest(image, 8, 4) == (8, 0)


def test_runs_of_the_same_pairs_translate_the_same_pictures(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    train(*tiny_run("ae", tmp_path / "ae", steps=3))
    stories = [Story(folder) for folder in (trained, other, tmp_path / "ae")]
    content = of_several(stories, 100_000)
    assert content is not None and content.column_names == ["source", "run", "other", "target"]
    assert "Left out" in content.words and content.words.rstrip(".").endswith("ae")
    assert np.array_equal(content.sheet.images[1::4], content.sheet.images[2::4])
    assert of_several(stories[1:], 100_000) is None
    compare((trained, other), tmp_path / "page.html", as_json=False)
    assert "The same pictures, translated" in (tmp_path / "page.html").read_text()


def test_a_baseline_stands_with_the_number_that_should_beat_it(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    for metric, value in (("mae", 0.05), ("source_mae", 0.3), ("mean_mae", 0.1), ("mean_psnr", 9.0)):
        line = {"metric": metric, "value": value, "n": 20, "passport": {"reference": "digits", "step": 6}}
        append(copy / "measurements.jsonl", line)
    ((_, rows),) = measurements(Story(copy)).groups.items()
    told = {row["metric"]: row["baselines"] for row in rows}
    assert told == {"mae": [("source as it is", "0.3"), ("mean picture", "0.1")], "mean psnr": []}


def test_large_sets_are_shown_in_part() -> None:
    sheet = in_sets(Sheet(np.zeros((6 * 20, 4, 4, 1), np.uint8), 12, 6))
    assert sheet.columns == 6 and len(sheet.images) == 8 * 6
    assert in_sets(Sheet(np.zeros((3, 4, 4, 1), np.uint8), 3, 3)).columns == 3


# --- the verdict ---

WON = {"real_accuracy": 1.0, "fake_accuracy": 1.0, "won": 1.0, "real_score": 5.0, "fake_score": -5.0}


def log(term: str, values: Any, player: str = "", number: int = 40, **changed: Any) -> list[dict[str, Any]]:
    """Log lines of a translator whose discriminator has won, with a loss by the line's number."""
    series = WON | changed
    return [
        {
            "step": 50 * (i + 1),
            **{f"discriminator{player}/{name}": v(i) if callable(v) else v for name, v in series.items()},
            f"generator{player}/game": 5.0,
            f"generator{player}/{term}": values(i),
        }
        for i in range(number)
    ]


@pytest.mark.parametrize(("term", "player"), [("l1", ""), ("cycle", "s"), ("content", "")])
def test_a_discriminator_has_won_only_where_nothing_else_is_learned_either(term: str, player: str) -> None:
    falling = Referee.of(log(term, lambda i: 20 * 0.98**i, player)).verdict
    assert falling is not None and falling.name == "healthy" and f"{term} still falls" in falling.why
    still = Referee.of(log(term, lambda i: 20 + (-1) ** i, player)).verdict
    assert still is not None and still.name == "discriminator won" and f"{term} does not fall either" in still.why
    assert Referee.of(log("path_length", lambda i: 20 * 0.98**i, player)).verdict.name == "discriminator won"  # type: ignore[union-attr]


def test_swings_are_no_trouble_while_the_error_falls() -> None:
    swinging = {"real_accuracy": lambda i: 0.6 + 0.35 * (i % 4 < 2), "won": 0.0}
    names = [Referee.of(log("l1", loss, **swinging)).verdict for loss in (lambda i: 20 * 0.98**i, lambda i: 20.0)]
    assert [found and found.name for found in names] == ["healthy", "oscillating"]


def test_answers_that_do_not_depend_on_the_source_are_a_collapse() -> None:
    lines = log("l1", lambda i: 20 * 0.98**i)

    def shown(diversity: float, *steps: int) -> str:
        every = sorted(
            [*lines, *({"step": s, "answer_diversity": diversity} for s in steps)], key=lambda one: one["step"]
        )
        verdict = Referee.of(every).verdict
        assert verdict is not None
        return f"{verdict.name}: {verdict.why}"

    assert shown(0.03, 1200, 1800).startswith("collapsed: The answers hardly depend on the source")
    assert shown(0.03, 600, 1800).startswith("healthy"), "early ones may be alike"
    assert "0.80 of what their targets do" in shown(0.8, 1200, 1800)


def test_a_showing_logs_how_much_answers_differ(trained: Path) -> None:
    found = [line["answer_diversity"] for line in Story(trained).lines if "answer_diversity" in line]
    assert len(found) == 2 and all(0 < one < 10 for one in found)


@pytest.mark.parametrize("name", [n for n, m in RECIPES.items() if m.startswith("translation.") and "-" not in n])
def test_cures_are_settings_that_the_recipe_has(name: str, tmp_path: Path) -> None:
    config = RunConfig(name, 0, tiny_config(32, name), recipe(name).train, recipe(name).config)
    run = Run(tmp_path / "run", config, Pictures(3, 32, source=Pictures(3, 32)), {})
    for verdict in ("discriminator won", "collapsed", "oscillating"):
        found = cures(run, verdict)  # type: ignore[arg-type]
        if name in ("pix2pix", "cyclegan"):
            assert any({"--model.l1", "--model.cycle"} & set(cure.words) for cure in found) or verdict == "oscillating"
            for cure in found:
                model = Train.from_words([name, "--data", "digits", *cure.words]).model
                assert model != config.model
                assert name != "cyclegan" or "--model.game.r1" not in cure.words, "it takes no penalties"


def test_names_of_sets_are_in_the_file(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 1), np.uint8)
    pictures.save_captioned(images, ["a", "ü"] * 3, 4, tmp_path / "x.png", group=2)
    with Image.open(tmp_path / "x.png") as picture:
        sheet = cut(picture, 16)
    assert sheet.names == ("a", "ü") and sheet.group == 2 and sheet.column_names == ["a", "ü", "a", "ü"]
