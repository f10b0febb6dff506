"""Measurements beside each other: what shares a row, which is best, other software's pictures, CSV, LaTeX, the page."""

import csv
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import tiny_run
from tasvir import pictures
from tasvir.config import Refused
from tasvir.metrics.directions import Direction, better, group
from tasvir.report import charts, export, measurements
from tasvir.report.compare import compare, named
from tasvir.report.page import report
from tasvir.report.story import Story
from tasvir.report.table import Elsewhere, best, rows_of, standing

PASSPORT = {
    "reference": "mnist",
    "split": "test",
    "hash": "a" * 64,
    "size": 28,
    "channels": 1,
    "reference_pictures": 10_000,
    "extractor": "classifier",
    "weights": "b" * 64,
    "extractor_resize": "none",
    "accuracy": 0.991,
    "resize": "none",
    "averaged": True,
    "recipe": "vae",
    "step": 100,
    "seed": 0,
    "tasvir": "0.1.0",
    "torch": "2.13",
}


def line(metric: str = "frechet", value: float = 4.0, half: float | None = 0.5, n: int = 10_000, **more: Any) -> dict:
    """A line of measurements.jsonl; what is no field of it goes into its passport."""
    own = {key: more.pop(key) for key in ("real", "note", "curve", "during", "time") if key in more}
    interval = None if half is None else [value - half, value + half]
    passport = {**PASSPORT, "pictures": n, **more}
    known = {key: found for key, found in passport.items() if found is not None}
    return {"metric": metric, "value": value, "interval": interval, "n": n, **own, "passport": known}


def column(name: str, *lines: dict) -> Elsewhere:
    return Elsewhere(name, list(lines), Path(f"{name}.jsonl"))


def write(file: Path, *lines: dict) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return file


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has only begun, with a folder name that every format has to escape."""
    return tiny_run("vae", tmp_path / "a_50% & <b>é")[0].folder


# --- directions ---


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("fid", "lower"),
        ("reconstruction_frechet", "lower"),
        ("reconstruction_psnr", "higher"),
        ("sliced_wasserstein_64", "lower"),
        ("diversity", "real"),
        ("rate", None),
        ("something_new", None),
    ],
)
def test_directions(metric: str, direction: str | None) -> None:
    assert better(metric) == direction


def test_every_number_that_can_be_measured_stands_in_a_group() -> None:
    from tasvir.metrics.evaluate import METRICS

    numbers = [number for row in METRICS.values() for number in row.gives]
    assert numbers and [number for number in numbers if group(number) == "other"] == []
    assert group("reconstruction_frechet") == "pairs" and group("frechet") == "distribution"


# --- which is best ---


def cells(*values: tuple[float, float | None], real: float | None = None) -> dict[str, dict[str, Any]]:
    names = "abcdef"
    return {
        name: {"value": value, "interval": None if half is None else [value - half, value + half], "real": real}
        for name, (value, half) in zip(names, values, strict=False)
    }


@pytest.mark.parametrize(
    ("values", "direction", "real", "marked"),
    [
        ([(1.0, 0.1), (2.0, 0.1), (3.0, 0.1)], "lower", None, "a"),
        ([(1.0, 0.1), (2.0, 0.1), (3.0, 0.1)], "higher", None, "c"),
        ([(1.0, 0.6), (2.0, 0.6), (3.0, 0.1)], "lower", None, "ab"),  # overlapping intervals: not told apart
        ([(1.0, None), (1.1, 0.2), (3.0, None)], "lower", None, "ab"),
        ([(1.0, None), (1.0, None), (3.0, None)], "lower", None, "ab"),
        ([(0.8, 0.01), (1.1, 0.01), (2.0, 0.1)], "real", 1.0, "b"),
        ([(0.9, 0.02), (1.1, 0.02), (0.5, 0.1)], "real", 1.0, "ab"),  # on both sides, equally far
        ([(0.9, 0.02), (0.5, 0.8), (0.5, 0.1)], "real", 1.0, "ab"),  # the second may well be 1
        ([(0.9, 0.02), (1.1, 0.02)], "real", None, ""),
        ([(1.0, 0.1), (2.0, 0.1)], None, None, ""),
        ([(1.0, 0.1)], "lower", None, ""),
        ([(float("nan"), None), (2.0, 0.1), (3.0, 0.1)], "lower", None, "b"),
    ],
)
def test_the_best_and_what_its_interval_does_not_tell_from_it(
    values: list[tuple[float, float | None]], direction: Direction | None, real: float | None, marked: str
) -> None:
    assert "".join(best(cells(*values, real=real), direction)) == marked


def test_a_mark_survives_plain_text_and_stays_within_its_row() -> None:
    columns = [column("one", line(value=1.0), line("kid", 9.0)), column("two", line(value=2.0), line("kid", 9.1, k=3))]
    said = export.terminal(rows_of(columns), columns)
    assert re.search(r"frechet ↓ +\* 1 ± 0.5 +\* 2 ± 0.5", said), "their intervals meet"
    assert not re.search(r"kid.*\*", said), "these are not compared"
    assert "lower is better" in said and "* the best" in said


# --- what shares a row ---


def reasons(one: dict, two: dict) -> list[str | None]:
    return [row["apart"] for row in rows_of([column("one", one), column("two", two)])]


@pytest.mark.parametrize(
    "same",
    [
        {"step": 7},
        {"seed": 3},
        {"of": 16, "pairs": 100},
        {"averaged": False},
        {"recipe": "dcgan", "tasvir": "9", "torch": "1"},
        {"recipe": None, "step": None, "averaged": None, "generated": "folder", "generated_hash": "c" * 64},
    ],
)
def test_what_is_of_the_run_alone_does_not_keep_numbers_apart(same: dict[str, Any]) -> None:
    assert reasons(line(), line(**same)) == [None]


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (
            {"extractor": "pixels", "weights": "c" * 64, "extractor_resize": "x", "accuracy": None, "components": 64},
            "other features: pixels, not classifier",
        ),
        ({"weights": "c" * 64, "accuracy": 0.98}, f"other weights of the features: {'c' * 10}…, not {'b' * 10}…"),
        ({"reference": "digits", "hash": "d" * 64, "weights": "c" * 64}, "other reference: digits, not mnist"),
        ({"hash": "d" * 64}, f"other pictures of it: {'d' * 10}…, not {'a' * 10}…"),
        ({"split": "train", "hash": "d" * 64, "reference_pictures": 60_000}, "split train, not test"),
        ({"n": 2000, "reference_pictures": 2000}, "2000 pictures, not 10\u202f000"),
        ({"reference_pictures": 2000}, "held against 2000 pictures, not 10\u202f000"),
        ({"size": 32}, "32 px, not 28"),
        ({"k": 5}, "not told there: k"),
        (
            {"generated_size": "64", "generated_resize": "centre crop"},
            "generated pictures of other sizes (px): 64, not 28",
        ),
        (
            {"generated_size": "28 at the shorter side", "generated_resize": "centre crop"},
            "generated pictures of other sizes (px): 28 at the shorter side, not 28",
        ),
        ({"generated_channels": 3}, "generated pictures of 3 channels, not 1"),
        ({"size": 32, "generated_size": "28", "generated_resize": "centre crop"}, "32 px, not 28"),
        ({"reference_pictures": None, "weights": None}, "not told: reference pictures, weights"),
    ],
)
def test_reasons_name_what_differs_and_not_what_follows_from_it(other: dict[str, Any], told: str) -> None:
    first, second = rows_of([column("one", line()), column("three", line()), column("two", line(**other))])
    assert first["apart"] is None and list(first["values"]) == ["one", "three"]
    assert second["apart"] == f"Measured differently from one, three: {told}."


@pytest.mark.parametrize("other", [{}, {"generated_size": "32", "generated_resize": "squash"}])
def test_a_number_of_changed_pictures_may_be_the_main_row(other: dict[str, Any]) -> None:
    changed = line(generated_size="64", generated_resize="centre crop")
    first, second = rows_of([column("one", changed), column("three", changed), column("two", line(**other))])
    assert first["apart"] is None and list(first["values"]) == ["one", "three"]
    size = other.get("generated_size", "28")
    told = f"generated pictures of other sizes (px): {size}, not 64"
    assert second["apart"] == f"Measured differently from one, three: {told}."


def test_the_same_pixels_under_another_name_are_the_same_reference() -> None:
    """Where hashes agree, names do not matter; where they are not known, names are all there is."""
    (row,) = rows_of([column("one", line()), column("two", line(reference="mnist.zip"))])
    assert row["apart"] is None and list(row["values"]) == ["one", "two"] and row["passport"]["reference"] == "mnist"
    columns = [column("one", line()), column("three", line()), column("two", line(reference="mnist.zip", k=5))]
    first, second = rows_of(columns)
    assert second["apart"] == "Measured differently from one, three: not told there: k."
    assert first["passport"]["reference"] == second["passport"]["reference"] == "mnist"
    told = reasons(line(hash=None), line(hash=None, reference="mnist.zip"))
    assert told[1] == "Measured differently from one: other reference: mnist.zip, not mnist."


def test_older_lines_are_read_beside_newer_ones() -> None:
    old = {"metric": "diversity", "value": 0.9, "interval": None, "n": 5, "passport": {"reference": "mnist"}}
    bare = {"metric": "diversity", "value": 0.8}
    rows = rows_of([column("old", old), column("bare", bare), column("new", line("diversity", 0.7, note="Few."))])
    assert len(rows) == 3 and all(row["apart"] for row in rows)
    for form in export.FORMATS.values():
        assert form(rows, [column("old"), column("bare"), column("new")])


def test_the_newest_way_of_measuring_is_the_main_row() -> None:
    old, new = line(k=3, time="2026-11-20"), line(k=5, time="2026-11-21")
    rows = rows_of([column("one", old, new), column("two", old, new)])
    assert [row["passport"]["k"] for row in rows] == [5, 3]
    assert rows[1]["apart"] == "Measured differently from the newer measurement: k 3, not 5."


def test_what_was_measured_while_training_gives_way_to_what_was_measured_after() -> None:
    during = [line(value=value, n=2000, step=step, during="training") for step, value in ((1, 9.0), (2, 8.0))]
    after = line(value=5.0)
    assert standing([*during, after]) == [after]
    assert standing(during) == during[1:]
    assert standing([*during, line("kid")]) == [during[1], line("kid")]


# --- pictures made by other software ---


def test_a_file_of_measurements_is_a_column_named_after_it(run: Path, tmp_path: Path) -> None:
    write(run / "measurements.jsonl", line(value=9.0))
    file = write(tmp_path / "other.jsonl", line(value=4.0, recipe=None, step=None, generated="x"))
    rows = json.loads(compare((file, run), tmp_path / "c.csv", as_json=True))
    assert [list(row["values"]) for row in rows] == [[run.name, "other"]], "runs first"
    assert rows[0]["best"] == ["other"] and rows[0]["apart"] is None
    second = write(tmp_path / "b" / "other.jsonl", line())
    assert [one.name for one in named((file, second, file))] == [str(file), str(second)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "does not exist"),
        ("", "has no measurements"),
        ('{"step": 3}\n', "line 1 is none"),
        ("hello\nworld\n", "line 1 is none"),
        ('{"metric": "m", "value": 1}\n[1]\n', "line 2 is none"),
        ('{"metric": "m", "value": "high"}\n', "line 1 is none"),
    ],
)
def test_what_is_no_file_of_measurements_is_refused(run: Path, tmp_path: Path, content: str | None, told: str) -> None:
    file = tmp_path / "x.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Refused, match=told) as refused:
        compare((run, file), tmp_path / "c.html", as_json=False)
    assert "tasvir evaluate --generated" in str(refused.value) and len(str(refused.value).splitlines()) == 2


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", line())
    file.write_text(file.read_text() + '{"metric": "ki')
    assert len(Elsewhere.read(file).measurements) == 1


# --- files ---

NASTY = 'a,"b"\n_%&#{}$~^\\<|>é 日本'


def test_csv_holds_every_number_with_its_passport() -> None:
    few = line("kid", 0.1, None, n=50, k=3, value_of=[1, 2], real=0.01, note='Few; pictures, "really".', recipe=None)
    columns = [column("one", line(value=1 / 3)), column(NASTY, line(value=2.0, step=7), few)]
    columns[1].measurements[1]["passport"]["n"] = 5  # a passport's field of the table's own name
    rows = list(csv.DictReader(io.StringIO(export.as_csv(rows_of(columns), columns))))
    assert [(row["metric"], row["run"]) for row in rows] == [("frechet", "one"), ("frechet", NASTY), ("kid", NASTY)]
    head = ["metric", "run", "value", "low", "high", "n", "real", "apart", "note", "reference"]
    assert list(rows[0])[:10] == head and {"k", "step", "weights", "passport_n"} <= set(rows[0])
    assert float(rows[0]["value"]) == 1 / 3 and float(rows[1]["low"]) == 1.5 and rows[0]["apart"] == ""
    assert (rows[0]["step"], rows[1]["step"], rows[0]["averaged"], rows[0]["k"]) == ("100", "7", "true", "")
    last = rows[2]
    assert (last["low"], last["n"], last["passport_n"], last["recipe"]) == ("", "50", "5", "")
    assert last["note"] == 'Few; pictures, "really".' and "Only" in last["apart"] and last["value_of"] == "[1, 2]"


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (4.312, 0.2, r"4.31 $\pm$ 0.20"),
        (0.0075216, 0.000095, r"0.007522 $\pm$ 0.000095"),
        (-96.9128, 0.471, r"$-$96.91 $\pm$ 0.47"),
        (12345.6, 30.0, r"12\,346 $\pm$ 30"),
        (1.0, 0.0999, r"1.00 $\pm$ 0.10"),
        (2e-6, 3e-7, r"(2.00 $\pm$ 0.30) $\times 10^{-6}$"),
        (0.98765, None, "0.9877"),
        (2e-7, None, r"2 $\times 10^{-7}$"),
        (14.0, None, "14"),
        (0.0, None, "0"),
        (float("nan"), None, "--"),
    ],
)
def test_numbers_in_latex_have_as_many_digits_as_they_are_sure_of(value: float, half: float | None, text: str) -> None:
    assert export.latex_number(value, None if half is None else [value - half, value + half]) == text


def test_latex_is_a_table_that_can_be_input() -> None:
    columns = [
        column("run_1", line(value=4.0), line("precision", 0.9, 0.01, real=0.97), line("kid", 0.01, 0.001, k=3)),
        column(NASTY, line(value=9.0), line("precision", 0.8, 0.01, note="Only 5 % & few."), line("bound", -97.0)),
    ]
    text = export.as_latex(rows_of(columns), columns)
    code = "\n".join(part for part in text.splitlines() if not part.startswith("%"))
    assert "\\label" not in code and NASTY not in code
    bare = re.sub(r"\\[_%&#{}$,]|\\textbackslash\{\}", "", code)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[_%#^<>|]", re.sub(r"\$[^$]*\$", "", bare)), "none that is not escaped or mathematics"
    tables = re.findall(r"\\begin\{tabular\}\{l(r+)\}\n\\toprule\n(.*?)\\bottomrule\n\\end\{tabular\}", bare, re.DOTALL)
    assert [cells for cells, _ in tables] == ["rrr", "rr"], "two runs, and what real pictures reach where it is known"
    for cells, body in tables:
        rows = [row for row in body.splitlines() if row != "\\midrule"]
        assert len(rows) == 3 and all(row.endswith(" \\\\") and row.count("&") == len(cells) for row in rows)
    assert r"run\_1" in code and r"\_\%\&\#\{\}\$\textasciitilde{}\textasciicircum{}\textbackslash{}" in code
    assert re.search(r"frechet \$\\downarrow\$ & \\textbf\{4.00 \$\\pm\$ 0.50\} & 9.00 \$\\pm\$ 0.50 & ", code)
    assert re.search(r"precision.*& 0.800 \$\\pm\$ 0.010\\textsuperscript\{a\} & 0.97 \\\\", code)
    assert r"\textsuperscript{a}~Only 5 \% \& few." in code
    letter = re.findall(r"kid \$\\downarrow\$\\textsuperscript\{(.)\}", code)[0]
    assert f"\\textsuperscript{{{letter}}}~Only run\\_1 was measured by it." in code


def test_more_reasons_than_letters() -> None:
    letters: dict[str, str] = {}
    given = [export._letter(f"reason {number}", letters) for number in range(60)]
    assert len(set(given)) == 60 and given[25:28] == ["z", "aa", "ab"] and export._letter("reason 0", letters) == "a"


def test_the_ending_of_out_chooses(run: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "other.jsonl", line())
    for ending, begin in ((".csv", "metric,run"), (".tex", "% Made by tasvir"), (".html", "<!doctype html>")):
        out = tmp_path / "deep" / f"c{ending}"
        said = compare((run, file), out, as_json=False)
        assert out.read_text().startswith(begin) and str(out) in said and "frechet" in said
    for wrong in ("c.pdf", "c"):
        with pytest.raises(Refused, match=r"\.html .*\.csv or \.tex"):
            compare((run, file), tmp_path / wrong, as_json=False)


# --- pages ---


def curve(*points: tuple[float, float]) -> dict[str, list[float]]:
    recall, precision = zip(*points, strict=True)
    return {"recall": list(recall), "precision": list(precision)}


def test_the_curve_is_drawn_from_zero_to_one() -> None:
    content = measurements.precision_recall(
        [column("one", line("prd_f8", 0.9, curve=curve((1.0, 0.0), (0.5, 0.75), (0.0, 1.0))))]
    )
    assert content is not None
    drawn = charts.draw(content.charts[0])
    assert drawn is not None
    assert drawn.lines[0]["bold"] == "M0 0L500 250L1000 1000" and drawn.domain == (0, 1)
    assert [name for _, name in drawn.x_ticks] == [name for _, name in drawn.y_ticks]
    assert (drawn.x_ticks[0][1], drawn.x_ticks[-1][1]) == ("0", "1")


def test_curves_measured_alike_share_a_chart_and_each_keeps_its_colour() -> None:
    lines = [line("prd_f8", 0.9, curve=curve((0.0, 1.0), (1.0, 0.0))), line("frechet")]
    columns = [column("none", line()), column("one", *lines), column("two", *lines)]
    columns.append(column("few", line("prd_f8", 0.9, n=50, curve=curve((0.0, 1.0), (1.0, 0.0)))))
    content = measurements.precision_recall(columns)
    assert content is not None
    assert [[one.name for one in chart.lines] for chart in content.charts] == [["one", "two"], ["few"]]
    colors = [one.color for chart in content.charts for one in chart.lines]
    assert len(set(colors)) == 3 and colors == measurements.colors(4)[1:]


@pytest.mark.parametrize("bad", [{}, {"recall": [1.0]}, {"recall": [1.0], "precision": [1.0, 2.0]}, {"recall": "x"}])
def test_a_curve_that_is_none_is_not_drawn(bad: dict[str, Any]) -> None:
    assert measurements.precision_recall([column("one", line("prd_f8", 0.9, curve=bad))]) is None


@pytest.mark.parametrize(
    ("metric", "values", "real", "step"),
    [
        ("frechet", [9.0, 4.0, 5.0], None, 2),
        ("precision", [0.1, 0.2, 0.3], None, 3),
        ("diversity", [0.5, 0.9, 1.2], 1.0, 2),
    ],
)
def test_the_best_step_while_training_is_marked(
    metric: str, values: list[float], real: float | None, step: int
) -> None:
    extra = {} if real is None else {"real": real}
    lines = [line(metric, v, n=2000, step=s, during="training", **extra) for s, v in enumerate(values, 1)]
    content = measurements.while_training([column("one", *lines, line("kid"))])
    assert content is not None and len(content.charts) == 1
    drawn = charts.draw(content.charts[0])
    assert drawn is not None and drawn.notes == [f"Best at step {step}, {charts.number(values[step - 1])}."]
    assert drawn.lines[0]["dot"][0] == pytest.approx((step - 1) / 2 * 1000)


def test_metrics_at_several_steps_are_drawn_and_single_ones_are_not() -> None:
    columns = [column("one", line(step=1), line(step=2, value=3.0)), column("two", line(step=1))]
    content = measurements.while_training(columns)
    assert content is not None and [one.name for one in content.charts[0].lines] == ["one"]
    assert measurements.while_training(columns[1:]) is None


def test_the_page_of_a_comparison_tells_of_other_software_in_the_measurements_only(run: Path, tmp_path: Path) -> None:
    lines = [line(value=9.0), line("prd_f8", 0.9, curve=curve((0.0, 1.0), (1.0, 0.0)))]
    write(run / "measurements.jsonl", *lines)
    file = write(tmp_path / "made <i>elsewhere.jsonl", line(note="Too <few>."), lines[1])
    compare((run, file), tmp_path / "c.html", as_json=False)
    page = (tmp_path / "c.html").read_text()
    assert "1 run and 1 file of measurements" in page and page.count('<article class="run">') == 1
    assert "<i>elsewhere" not in page and "Too &lt;few&gt;." in page and "<b>é" not in page
    assert re.search(r'<td class="n">9 <small>± 0.5</small></td><td class="n"><b class="best">4</b>', page)
    titles = re.findall(r"<h2>([^<]+)</h2>", page)
    assert {"Measurements", "Precision and recall", "Train them again"} <= set(titles)
    assert "Settings that differ" not in titles
    compare((file, write(tmp_path / "b.jsonl", line(value=1.0))), tmp_path / "d.html", as_json=False)
    page = (tmp_path / "d.html").read_text()
    assert "2 files of measurements" in page and "Train them again" not in page and "logged yet" not in page


def test_the_page_of_a_run_tells_numbers_in_groups_with_direction_and_notes(run: Path, tmp_path: Path) -> None:
    write(
        run / "measurements.jsonl",
        line(value=9.9, step=2000, n=500, during="training"),
        line("memorization", 0.53, real=0.5),
        line("reconstruction_mse", 0.01, 0.001),
        line("frechet", 4.25, 0.5, real=0.21, note="Few `pictures`."),
    )
    report((run,), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    heads = re.findall(r"<thead><tr><th>([^<]+)</th>", page)
    assert heads[:3] == ["Samples against real pictures", "Reconstructions and pairs", "Memorization"]
    (row,) = re.findall(r"<tr class=\"noted\">.*?</tr>\s*<tr>.*?</tr>", page, re.DOTALL)
    for told in ('title="lower is better">↓', "<b>4.25</b>", "± 0.5", "0.21", "10\u202f000", "<code>pictures</code>"):
        assert told in row, told
    numbers = page[page.index('<div class="groups">') : page.index("How these were measured")]
    assert "9.9" in page and "9.9" not in numbers, "what was measured in training is in a chart of its own"


def test_the_page_of_a_run_names_its_best_step(run: Path, tmp_path: Path) -> None:
    assert Story(run).best is None
    checkpoint = run / "checkpoints" / "00000003"
    checkpoint.mkdir()
    for name in ("model.safetensors", "optimizer.safetensors"):
        (checkpoint / name).write_bytes(b"")
    files = {"model.safetensors": 0, "optimizer.safetensors": 0}
    (checkpoint / "state.json").write_text(json.dumps({"files": files}))
    os.symlink("checkpoints/00000003", run / "best")
    write(run / "measurements.jsonl", line(value=7.5, step=3, during="training"))
    report((run,), tmp_path / "page.html")
    assert re.search(r"<dt>best step</dt><dd>3 <small>by frechet, 7.5</small>", (tmp_path / "page.html").read_text())


def test_nearest_training_pictures_stand_beside_samples(run: Path) -> None:
    assert measurements.nearest(Story(run)) is None
    (run / "figures").mkdir()
    images = np.arange(12, dtype=np.uint8).repeat(64).reshape(12, 8, 8, 1) * 20
    write(run / "measurements.jsonl", line("memorization", 0.625, real=0.5))
    pictures.grid(images, 3, least=28).save(run / "figures" / "nearest.png")
    content = measurements.nearest(Story(run))
    assert content is not None and "probability 0.625 (0.5 for real ones)" in content.words
    assert content.sheet.columns == 3 and "first 3 of 4 rows" in content.words
    np.testing.assert_array_equal(content.sheet.images, images[:9])
    Image.new("RGB", (33, 17)).save(run / "figures" / "nearest.png")  # no grid of such pictures: shown as it is
    content = measurements.nearest(Story(run))
    assert content is not None and content.sheet.images.shape == (1, 17, 33, 3)
