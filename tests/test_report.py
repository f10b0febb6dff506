"""The report and comparison pages: what they show, that they stand alone, that they fit, and what is kept apart."""

import base64
import io
import json
import os
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_run
from tasvir import pictures
from tasvir.config import DataConfig, Pictures, Refused, RunConfig
from tasvir.core import Expectation
from tasvir.drawing import Points
from tasvir.models import recipe
from tasvir.report import charts, figures, panels, sheets
from tasvir.report.compare import compare
from tasvir.report.page import BUDGET, report, spans
from tasvir.report.story import Story
from tasvir.report.table import comparable, rows_of
from tasvir.runs import Run, append
from tasvir.training.loop import train

PASSPORT = {"reference": "digits", "split": "test", "hash": "a" * 64, "step": 6, "seed": 0, "tasvir": "0.1.0"}


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, panel titles, all text."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.titles: list[str] = []
        self.text = ""
        self.inside: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["h2"]:
            self.titles.append(data)
        if not {"script", "style"} & set(self.inside):
            self.text += data

    def all(self, tag: str, having: str = "") -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag and (not having or having in attributes)]

    def images(self) -> list[Image.Image]:
        uris = [attributes["src"] or "" for attributes in self.all("img", "src")]
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) for uri in uris]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders of tiny models, trained for a few steps; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("vae-2d", "vae", "gan", "ae"):
        train(*tiny_run(name, folder / name))
    return {name: folder / name for name in ("vae-2d", "vae", "gan", "ae")}


@pytest.fixture
def changeable(trained: dict[str, Path], tmp_path: Path):
    """A copy of a trained run."""

    def copy(name: str, to: str = "copy") -> Path:
        return shutil.copytree(trained[name], tmp_path / to)

    return copy


def page_of(*folders: Path, out: Path) -> Page:
    said = report(folders, out)
    assert str(out) in said and "\n" not in said
    return Page(out)


def measured(folder: Path, metric: str, value: float, n: int = 200, curve: Any = None, **passport: Any) -> None:
    line = {"metric": metric, "value": value, "interval": None, "n": n, "passport": {**PASSPORT, **passport}}
    append(folder / "measurements.jsonl", line | ({"curve": curve} if curve else {}))


# --- the page of one run ---


def test_a_vae_has_every_panel_and_each_is_filled(changeable: Any, tmp_path: Path) -> None:
    folder = changeable("vae-2d")
    for step in (3, 6):
        measured(folder, "prd_f8", 0.5, curve={"recall": [0.0, 0.5], "precision": [0.5, 0.0]}, step=step)
    (folder / "figures").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (15, 8, 8, 1), np.uint8)
    pictures.grid(noise, 5, least=28).save(folder / "figures" / "nearest.png")
    page = page_of(folder, out=tmp_path / "page.html")
    others = ("Style mixing", "Categories", "Continuous codes")
    own = {"tokenize", "translate", "stepwise"}
    able = [panel.title for panel in panels.PANELS if not own & set(panel.needs) and panel.title not in others]
    assert [title for title in page.titles if "noticed" not in title] == able
    assert "could not be drawn" not in page.text
    assert [json.loads(figure["data-steps"] or "") for figure in page.all("figure", "data-steps")] == [[0, 3, 6]]
    # samples, three frames, reconstructions, manifold, interpolations, traversals, arithmetic, samples reconstructed,
    # nearest training pictures, samples from both priors
    assert len(page.images()) == 1 + 3 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 2
    slider = page.all("input")[0]
    assert (slider["type"], slider["max"], slider["value"]) == ("range", "2", "2")
    for word in ("vae-2d", "digits", "reconstruction", "kl", "tasvir train vae-2d"):
        assert word in page.text, word


def test_the_pictures_on_the_page_are_those_of_the_folder(trained: dict[str, Path], tmp_path: Path) -> None:
    page = page_of(trained["gan"], out=tmp_path / "page.html")
    drawn = np.asarray(Image.open(trained["gan"] / "samples" / "00000006.png"))
    first = drawn[2 : 2 + 32 : 4, 2 : 2 + 32 : 4]  # grids show 8 px pictures four times enlarged, after a gap of 2
    last_frame = np.asarray(page.images()[3].convert("RGBA"))
    np.testing.assert_array_equal(last_frame[:8, :8, 0], first)
    assert last_frame[0, 8, 3] == 0 and last_frame[0, 9, 3] == 255  # between pictures the page shines through


@pytest.mark.parametrize("several", [False, True])
def test_a_page_loads_nothing_and_runs_nothing_from_elsewhere(
    several: bool, trained: dict[str, Path], tmp_path: Path
) -> None:
    folders = [trained["vae-2d"], trained["gan"]] if several else [trained["vae-2d"]]
    page = page_of(*folders, out=tmp_path / "page.html")
    assert not re.search(r"https?:|//[a-z]+\.|file:|@import|url\(", page.source)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert "href" not in attributes and "srcset" not in attributes
        assert str(attributes.get("src", "data:image/")).startswith("data:image/")
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.all("meta"))


def test_a_page_says_what_a_run_stands_on_and_at_which_stage_it_is(tmp_path: Path) -> None:
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    below = Run.open(tmp_path / "run" / "foundation")
    page = page_of(run.folder, out=tmp_path / "page.html")
    assert "still in stage 1 of 2 (vq-vae, step 6 of 6)" in page.text and "could not be drawn" not in page.text
    assert "Samples" not in page.titles and "Settings" in page.titles
    train(run, data)
    report((below.folder,), below.folder / "report.html")
    page = page_of(run.folder, out=run.folder / "report.html")
    assert run.config.foundation is not None
    assert f"step 6, weights {run.config.foundation.weights[:12]}, in foundation" in page.text
    assert [link["href"] for link in page.all("a")] == ["foundation/report.html"] and "stage 1" not in page.text
    longer = replace(below, config=replace(below.config, train=replace(below.config.train, steps=7)))
    train(longer, data)
    page = page_of(run.folder, out=tmp_path / "page.html")
    assert "was trained further since, from step 6 to 7" in page.text
    assert [link["href"] for link in page.all("a")] == ["run/foundation/report.html"]


def test_panels_follow_what_a_model_can_do(trained: dict[str, Path], tmp_path: Path) -> None:
    gan, ae = (page_of(trained[name], out=tmp_path / f"{name}.html") for name in ("gan", "ae"))
    assert {"Samples", "Interpolations"} < set(gan.titles)
    assert not {"Reconstructions", "Latent space", "Manifold"} & set(gan.titles)
    assert {"Reconstructions", "Latent space", "Interpolations"} < set(ae.titles)
    assert not {"Samples", "Manifold", "Own samples, reconstructed", "Codebook usage"} & set(ae.titles)
    assert {"Traversals", "Attribute arithmetic", "Samples from a mixture"} < set(ae.titles)
    assert "discriminator" in gan.text and "generator" in gan.text
    assert "its reconstruction: slide" in ae.text  # the timeline is of pairs


def test_losses_have_charts_of_their_own_and_watched_values_are_elsewhere(trained: dict[str, Path]) -> None:
    story = Story(trained["gan"])
    losses, watched = panels.losses(story), panels.watched(story)
    assert [chart.title for chart in losses.values["charts"]] == ["discriminator", "generator"]
    assert [line.name for line in losses.values["charts"][0].lines] == ["game"]
    assert watched is not None
    charts_by_title = {chart.title: chart for chart in watched.values["charts"]}
    assert {line.name for line in charts_by_title["gradient norm"].lines} == {"discriminator", "generator"}
    assert {line.name for line in charts_by_title["scores"].lines} == {"real score", "fake score"}
    assert "updates skipped" not in charts_by_title  # none were


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run, _ = tiny_run("vae", tmp_path / "begun")
    page = page_of(run.folder, out=tmp_path / "page.html")
    for words in ("has not made a step", "Nothing has been logged yet", "Nothing has been measured yet"):
        assert words in page.text
    assert "no checkpoint that can be read" in page.text
    assert not page.images()


def test_without_its_pictures_a_run_still_has_a_page_that_says_so(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(source / f"{number}.png")
    from tasvir.data import load

    data = load(DataConfig(source=(str(source),), size=8))
    usual, _ = tiny_run("vae", tmp_path / "usual")
    config = replace(usual.config, data=DataConfig(source=(str(source),), size=8))
    run = Run(tmp_path / "run", config, data.pictures, data.description).create()
    train(run, data)
    shutil.rmtree(source)
    page = page_of(run.folder, out=tmp_path / "page.html")
    assert "as drawn while training, at step 6" in page.text and str(source) in page.text
    # the latent space, walks between held-out pictures, traversals, the aggregate posterior, the mixture
    assert page.text.count("This could not be drawn") == 5
    assert len(page.images()) == 1 + 3 + 1 + 1  # samples, frames, reconstructions of the folder and of own samples


def test_other_pictures_under_the_same_name_are_not_shown_as_the_run_s(changeable: Any, tmp_path: Path) -> None:
    folder = changeable("vae")
    config = folder / "config.yaml"
    config.write_text(re.sub(r"test: [0-9a-f]{64}", "test: " + "0" * 64, config.read_text()))
    page = page_of(folder, out=tmp_path / "page.html")
    assert "have changed since the run was trained" in page.text


def test_health_is_told_with_its_steps(changeable: Any, tmp_path: Path) -> None:
    folder = changeable("gan")
    (folder / "log.jsonl").write_text("")
    assert "Nothing wrong was noticed" in page_of(folder, out=tmp_path / "page.html").text
    for step in (4, 6):
        append(folder / "log.jsonl", {"step": step, "sample_diversity": 0.01, "health": ["All alike. Try `--x`."]})
    page = page_of(folder, out=tmp_path / "page.html")
    assert "Trouble was noticed" in page.text and "Nothing wrong was noticed" not in page.text
    assert page.text.count("All alike") == 1 and "steps 4, 6" in page.text


def test_words_from_outside_are_escaped(changeable: Any, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>'\"&"
    folder = changeable("vae-2d", to="<b>bold")
    run = Run.open(folder)
    changed = replace(run, pictures=replace(run.pictures, classes=(evil, *run.pictures.classes[1:])))
    changed.dataset["notes"] = [evil]
    changed.write_config()
    append(folder / "log.jsonl", {"step": 6, f"vae/{evil}": 1.0, "health": [evil]})
    measured(folder, evil, 1.0, reference=evil)
    for page in (
        page_of(folder, out=tmp_path / "one.html"),
        page_of(folder, changeable("vae"), out=tmp_path / "two.html"),
    ):
        assert page.text.count(evil) >= 2
        assert not page.all("b", "onerror") and not [tag for tag in page.all("img") if "onerror" in tag]
        assert "<b>bold" not in page.source and "<b>bold" in page.text


def test_values_that_are_not_finite_are_said_and_the_rest_is_drawn(changeable: Any, tmp_path: Path) -> None:
    folder = changeable("ae")
    append(folder / "log.jsonl", {"step": 7, "autoencoder/reconstruction": float("nan")})
    append(folder / "log.jsonl", {"step": 8, "autoencoder/other": float("inf")})
    page = page_of(folder, out=tmp_path / "page.html")
    assert "1 value was not finite" in page.text
    assert not re.search(r'd="[^"]*(nan|inf)', page.source)


def test_measurements_show_the_newest_of_each_kind_and_what_is_expected(
    changeable: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changeable("vae")
    for value in (1.5, 2.5):
        measured(folder, "some_metric", value)
    measured(folder, "some_metric", 3.5, split="train")
    expected = Expectation("some_metric", 9.25, "tasvir train vae --data digits", "digits test, 200 pictures")
    monkeypatch.setattr(Story, "recipe", replace(recipe("vae"), expect=(expected,)))
    content = panels.measurements(Story(folder))
    assert {group: [row["value"] for row in rows] for group, rows in content.groups.items()} == {
        "Others": ["2.5", "3.5"]
    }
    page = page_of(folder, out=tmp_path / "page.html")
    assert "9.25" in page.text and "digits test, 200 pictures" in page.text and PASSPORT["hash"] in page.text


def test_only_settings_that_are_not_defaults_are_marked(trained: dict[str, Path], tmp_path: Path) -> None:
    page = page_of(trained["gan"], out=tmp_path / "page.html")
    marked = re.findall(r'<tr class="changed"><td><code>([^<]+)', page.source)
    assert "--train.steps" in marked and "--model.widths" in marked
    assert "--train.patience" in page.text and "--train.patience" not in marked


def test_a_page_that_cannot_be_written_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="cannot be written"):
        report((trained["ae"],), tmp_path / "file" / "page.html")
    with pytest.raises(Refused, match="not a run folder"):
        report((tmp_path,), tmp_path / "page.html")


# --- size ---


def test_large_pictures_and_many_frames_fit_the_budget(tmp_path: Path) -> None:
    base = recipe("gan")
    config = RunConfig("gan", 0, DataConfig("digits"), replace(base.train, steps=20_000), base.tiny)
    run = Run(
        tmp_path / "run", config, Pictures(3, 256), {"name": "large", "counts": {"train": 10, "test": 5}}
    ).create()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    samples = run.folder / "samples"
    pictures.grid(noise).save(samples / "00000000.png", compress_level=1)
    for number in range(1, 200):
        os.link(samples / "00000000.png", samples / f"{number * 100:08d}.png")
    for step in range(100, 20_000, 10):
        run.log({"step": step, **{f"player/term{number}": float(np.sin(step) + number) for number in range(8)}})
    page = page_of(run.folder, out=tmp_path / "page.html")
    assert 200_000 < (tmp_path / "page.html").stat().st_size <= 5_000_000 == BUDGET
    steps = json.loads(page.all("figure", "data-steps")[0]["data-steps"] or "")
    assert 12 <= len(steps) <= 24 and steps[0] == 0 and steps[-1] == 19_900
    assert max(np.diff(steps)) <= 2 * min(np.diff(steps))
    assert page.images()[0].width >= 300


@pytest.mark.parametrize("most", [200_000, 20_000, 2000])
def test_sheets_and_films_keep_to_their_bytes(most: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    sheet = sheets.Sheet(noise, 4, most=most)
    assert len(sheets.embed(sheet).uri) <= most
    frames = sheets.embed_film(sheets.Film(dict.fromkeys(range(10), sheet), most))
    assert frames and sum(len(frame.uri) for frame in frames.values()) <= most
    assert max(frames) == 9  # the last is never given up


def test_rows_of_panels_are_full() -> None:
    for number in range(1, 12):
        widths = spans(number)
        assert len(widths) == number and sum(widths) % 12 == 0


# --- curves and points ---


def test_curves_are_drawn_where_they_belong() -> None:
    line = charts.Line("l", np.array([0.0, 10.0]), np.array([1.0, 3.0]))
    drawn = charts.draw(charts.Chart("c", (line,), "loss"))
    assert drawn is not None
    ticks = {name: at for at, name in drawn.y_ticks}
    (left, top), (right, bottom) = (map(float, pair.split()) for pair in drawn.lines[0]["bold"][1:].split("L"))
    assert (left, right) == (0, 1000) and top > bottom  # 1 lies below 3
    assert top == pytest.approx(ticks["1"], abs=0.1) and bottom == pytest.approx(ticks["3"], abs=0.1)


def test_values_over_decades_get_a_logarithmic_axis_and_no_peak_is_lost() -> None:
    values = np.full(20_000, 1.0)
    values[7777] = 1000.0
    drawn = charts.draw(charts.Chart("c", (charts.Line("l", np.arange(20_000.0), values),), "loss"))
    assert drawn is not None and "log scale" in drawn.unit
    heights = [float(point.split()[1]) for point in drawn.lines[0]["thin"][1:].split("L")]
    assert len(heights) <= charts.POINTS and heights.count(min(heights)) == 1
    mixed = charts.draw(charts.Chart("c", (charts.Line("l", np.arange(2.0), np.array([-1.0, 1000.0])),), "loss"))
    assert mixed is not None and "log scale" not in mixed.unit


def test_a_smoothed_line_keeps_its_level() -> None:
    noise = np.random.default_rng(0).normal(5, 1, 2000)
    smooth = charts._smooth(noise)
    assert smooth is not None and smooth.std() < 0.25 and abs(smooth.mean() - 5) < 0.1
    np.testing.assert_allclose(charts._smooth(np.full(100, 3.0)), 3.0)


@pytest.mark.parametrize(
    ("value", "said"), [(0.05, "0.05"), (-1.5, "−1.5"), (1234.6, "1235"), (2e-7, "2·10⁻⁷"), (1e9, "10⁹"), (0.0, "0")]
)
def test_numbers_for_a_person(value: float, said: str) -> None:
    assert charts.number(value) == said


@pytest.mark.parametrize(("classes", "legend"), [(0, 0), (3, 3), (30, 0)])
def test_scatter_has_a_legend_for_few_classes_and_a_scale_for_many(classes: int, legend: int) -> None:
    label = np.arange(60) % classes if classes else None
    position = np.random.default_rng(0).normal(size=(60, 2))
    figure = figures.scatter(Points(position, label, tuple(f"_${i}" for i in range(classes)), ("across", "up")))
    shown = figure.axes[0].get_legend()
    assert (len(shown.get_texts()) if shown else 0) == legend
    assert len(figure.axes) == (2 if classes > 10 else 1)
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 60
    figure.savefig(io.BytesIO(), format="png", dpi=30)


# --- comparison ---


@pytest.fixture
def three(changeable: Any) -> tuple[Path, ...]:
    one, two, three = changeable("vae-2d", to="one"), changeable("vae", to="two"), changeable("gan", to="three")
    measured(one, "fid", 10.0)
    measured(two, "fid", 20.0, step=3, seed=5, tasvir="0.0.9", torch="1", recipe="x")
    measured(three, "fid", 30.0, split="train")
    measured(one, "kl", 1.0)
    measured(one, "kid", 1.0, n=100)
    measured(two, "kid", 1.0, n=200)
    return one, two, three


def test_like_stands_beside_like_and_the_rest_apart_with_the_reason(three: tuple[Path, ...]) -> None:
    rows = rows_of([Story(folder) for folder in three])
    told = {(row["metric"], *row["values"]): row["apart"] for row in rows}
    assert told[("fid", "one", "two")] is None
    assert "split train, not test" in told[("fid", "three")] and "one, two" in told[("fid", "three")]
    assert "Only one" in told[("kl", "one")]
    assert "100 pictures, not 200" in told[("kid", "one")] and "200 pictures, not 100" in told[("kid", "two")]
    assert len(rows) == 5


@pytest.mark.parametrize("field", ["hash", "extractor", "weights", "resize", "k", "a_field_to_come"])
def test_any_field_on_how_was_measured_keeps_numbers_apart(field: str) -> None:
    line = {"metric": "m", "n": 5, "passport": {**PASSPORT, field: "one"}}
    other = {"metric": "m", "n": 5, "passport": {**PASSPORT, field: "two"}}
    assert comparable(line) != comparable(other)
    assert comparable(line) == comparable({**line, "passport": {**line["passport"], "step": 7, "seed": 3}})
    assert comparable(line) != comparable({**line, "n": 6})


def test_a_later_measurement_of_the_same_kind_takes_the_place_of_the_first(three: tuple[Path, ...]) -> None:
    measured(three[0], "fid", 11.0, step=7)
    (row, *_) = rows_of([Story(folder) for folder in three])
    assert (row["values"]["one"]["value"], row["values"]["one"]["step"]) == (11.0, 7)


def test_comparison_tells_people_and_programs_the_same(three: tuple[Path, ...], tmp_path: Path) -> None:
    said = compare(three, tmp_path / "c.html", as_json=False)
    together, _, apart = said.partition("Set apart")
    assert re.search(r"fid ↓ +\* 10 +20 +–", together) and "split train" not in together
    (letter,) = re.findall(r"fid ↓ \((.)\) +– +– +30", apart)
    assert re.search(rf"\({letter}\) .*split train, not test", apart) and "c.html" in apart
    page = Page(tmp_path / "c.html")
    assert "split train, not test" in page.text
    rows = json.loads(compare(three, tmp_path / "d.html", as_json=True))
    first = next(row for row in rows if row["metric"] == "fid" and not row["apart"])
    assert {name: found["value"] for name, found in first["values"].items()} == {"one": 10.0, "two": 20.0}
    assert first["passport"]["split"] == "test" and "step" not in first["passport"]


def test_comparison_shows_runs_side_by_side(three: tuple[Path, ...], tmp_path: Path) -> None:
    page = page_of(*three, out=tmp_path / "c.html")
    films = page.all("figure", "data-steps")
    assert len(films) == 3 and len(page.all("input")) == 1
    for film in films:
        steps, frames = json.loads(film["data-steps"] or ""), json.loads(film["data-map"] or "")
        assert frames[0] == 0 and frames[-1] == len(steps) - 1
    # samples of three runs at three steps; held-out pictures and two runs' reconstructions; walks of all three
    assert len(page.images()) == 9 + 3 + 3
    assert "vae · reconstruction" in page.text and "three: discriminator · game" in page.text
    assert "--model.latent-size" in page.text and "--train.patience" not in page.text


def test_only_reconstructions_of_the_same_pictures_stand_together(changeable: Any, tmp_path: Path) -> None:
    one, two = changeable("vae", to="one"), changeable("ae", to="two")
    config = two / "config.yaml"
    config.write_text(re.sub(r"test: [0-9a-f]{64}", "test: " + "0" * 64, config.read_text()))
    page = page_of(one, two, out=tmp_path / "c.html")
    assert len(re.findall(r">\s*held-out pictures\s*<", page.source)) == 1, "the other's are no longer there"
    assert "This could not be drawn" in page.text


def test_runs_of_one_name_are_told_apart(changeable: Any, tmp_path: Path) -> None:
    one, two = changeable("vae", to="a/run"), changeable("vae", to="b/run")
    measured(one, "fid", 1.0)
    measured(two, "fid", 2.0)
    (row,) = json.loads(compare((one, two), tmp_path / "c.html", as_json=True))
    assert sorted(found["value"] for found in row["values"].values()) == [1.0, 2.0]
