"""Other software's pictures: what is changed to measure them is said and stands in the passport; pairs likewise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasvir.config import DataConfig, Refused
from tasvir.metrics.evaluate import Protocol, of_pictures
from tasvir.report.table import Elsewhere, rows_of

CHANGED = ("generated_size", "generated_resize", "generated_channels")


def draw(height: int, width: int, channels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def save(folder: Path, images: list[np.ndarray], first: int = 0) -> str:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images, first):
        Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(folder / f"{number:03d}.png")
    return str(folder)


def album(folder: Path, *groups: tuple[int, int, int, int]) -> str:
    """A folder of pictures; each group is their number, height, width and channels."""
    shapes = [shape for count, *shape in groups for _ in range(count)]
    return save(folder, [draw(*shape, seed) for seed, shape in enumerate(shapes)])  # type: ignore[arg-type]


def measured(made: str, reference: str, paired: bool = False, **settings: Any) -> dict[str, Any]:
    """The first line of a measurement."""
    protocol = Protocol(("pixels",) if paired else ("diversity",))
    return of_pictures(made, DataConfig(source=(reference,), **settings), protocol, None, None, paired)[0]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines on stderr, but for how the reference was packed."""
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Packing")]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> str:
    return album(tmp_path_factory.mktemp("real") / "grey", (40, 28, 28, 1))


@pytest.fixture(scope="module")
def color(tmp_path_factory: pytest.TempPathFactory) -> str:
    return album(tmp_path_factory.mktemp("real") / "color", (40, 28, 28, 3))


@pytest.mark.parametrize(
    ("groups", "real", "notes", "facts"),
    [
        ([(20, 28, 28, 1)], "grey", [], {}),
        ([(20, 28, 28, 3)], "color", [], {}),
        (
            [(20, 64, 64, 1)],
            "grey",
            ["All 20 generated pictures are 64 px and were brought to 28 px (Lanczos)."],
            {"generated_size": "64"},
        ),
        (
            [(12, 28, 56, 1), (8, 28, 28, 1)],
            "grey",
            ["12 of 20 generated pictures are not square: the centre was taken."],
            {"generated_size": "various"},
        ),
        (
            [(20, 56, 28, 1)],
            "grey",
            ["All 20 generated pictures are not square: the centre was taken."],
            {"generated_size": "28 at the shorter side"},
        ),
        (
            [(19, 28, 28, 1), (1, 20, 20, 1)],
            "grey",
            ["1 of 20 generated pictures is 20 px and was brought to 28 px (Lanczos)."],
            {"generated_size": "various"},
        ),
        (
            [(10, 28, 28, 1), (5, 32, 64, 1), (5, 20, 20, 1)],
            "grey",
            [
                "5 of 20 generated pictures are not square: the centre was taken.",
                "10 of 20 generated pictures are of other sizes (20 to 32 px) and were brought to 28 px (Lanczos).",
            ],
            {"generated_size": "various"},
        ),
        (
            [(20, 28, 28, 3)],
            "grey",
            ["All 20 generated pictures are in colour, the reference is grey: luma is measured."],
            {"generated_channels": 3},
        ),
        (
            [(5, 28, 28, 3), (15, 28, 28, 1)],
            "color",
            ["15 of 20 generated pictures are grey, the reference is in colour: grey became RGB."],
            {"generated_channels": "various"},
        ),
        (
            [(20, 64, 64, 1)],
            "color",
            [
                "All 20 generated pictures are 64 px and were brought to 28 px (Lanczos).",
                "All 20 generated pictures are grey, the reference is in colour: grey became RGB.",
            ],
            {"generated_size": "64", "generated_channels": 1},
        ),
    ],
)
def test_what_is_changed_is_said_and_stands_in_the_passport(
    groups: list[tuple[int, int, int, int]],
    real: str,
    notes: list[str],
    facts: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    passport = measured(album(tmp_path / "made", *groups), request.getfixturevalue(real), size=28)["passport"]
    assert said(capsys) == notes
    resize = passport.get("generated_resize", "")
    assert ("centre crop to a square, then Lanczos" in resize) == ("generated_size" in facts) == bool(resize)
    assert {key: passport[key] for key in CHANGED if key in passport and key != "generated_resize"} == facts


def test_grey_saved_as_rgb_is_grey(grey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = save(tmp_path / "made", [draw(28, 28, 1, seed).repeat(3, 2) for seed in range(20)])
    passport = measured(made, grey, size=28)["passport"]
    assert said(capsys) == [] and not set(CHANGED) & set(passport)


@pytest.mark.parametrize(
    ("shape", "size"), [((28, 28), None), ((28, 30), "28 at the shorter side"), ((64, 64), "64")], ids=str
)
def test_changes_of_arrays_are_told_too(
    shape: tuple[int, int], size: str | None, grey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "made.npy", np.stack([draw(*shape, 1, seed) for seed in range(20)]))
    passport = measured(str(tmp_path / "made.npy"), grey, size=28)["passport"]
    assert passport.get("generated_size") == size
    assert ("not square" in " ".join(said(capsys))) == (shape[0] != shape[1])


def test_pictures_that_cannot_be_read_are_not_counted(
    grey: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = album(tmp_path / "made", (20, 64, 64, 1))
    (tmp_path / "made" / "000.png").write_bytes(b"no picture")
    (tmp_path / "made" / "007.png").write_bytes((tmp_path / "made" / "007.png").read_bytes()[:300])
    passport = measured(made, grey, size=28)["passport"]
    assert "All 18 generated pictures are 64 px" in " ".join(said(capsys)) and passport["generated_size"] == "64"


def test_changed_pictures_do_not_share_a_row_with_unchanged_ones(grey: str, tmp_path: Path) -> None:
    columns = [
        Elsewhere(
            f"{name}{side}", [measured(album(tmp_path / f"{name}{side}", (20, side, side, 1)), grey, size=28)], tmp_path
        )
        for name, side in (("a", 28), ("b", 28), ("c", 64))
    ]
    first, second = rows_of(columns)
    assert list(first["values"]) == ["a28", "b28"] and list(second["values"]) == ["c64"]
    told = "generated pictures of other sizes (px): 64, not 28"
    assert second["apart"] == f"Measured differently from a28, b28: {told}."


# --- pairs ---


def test_pairs_without_a_partner_are_told_in_both_directions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [draw(24, 24, 3, seed) for seed in range(8)]
    real, made = save(tmp_path / "real", images[:7]), save(tmp_path / "made", images[2:], first=2)
    found = measured(made, real, paired=True)
    assert said(capsys) == [
        "Generated pictures without a real one of their name: 1 of 6, left out.",
        "Real pictures without a generated one of their name: 2 of 7, left out.",
    ]
    assert found["n"] == 5 and found["passport"]["reference_pictures"] == 5


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ([(24, 24)] * 3, 24),
        ([(24, 40)] * 3, "40×24"),
        ([(24, 24), (32, 32), (24, 24)], "various"),
        ([(24, 32), (24, 24), (24, 32)], "various"),
    ],
)
def test_the_passport_of_pairs_is_of_all_of_them(
    shapes: list[tuple[int, int]], size: int | str, tmp_path: Path
) -> None:
    images = [draw(*shape, 3, seed) for seed, shape in enumerate(shapes)]
    real = save(tmp_path / "real", images)
    passport = measured(save(tmp_path / "made", images), real, paired=True)["passport"]
    assert passport["size"] == size and passport["reference_pictures"] == passport["pictures"] == 3
    assert passport["channels"] == 3 and "generated_channels" not in passport


@pytest.mark.parametrize(
    ("made_channels", "real_channels", "words", "told"),
    [
        ((1, 1, 1), (3, 3, 3), "In 3 of 3 pairs the generated picture is grey, the real ones in colour: as RGB.", 1),
        ((3, 3, 3), (1, 1, 1), "In 3 of 3 pairs the generated picture is in colour, the real ones grey: as RGB.", 3),
        (
            (1, 3, 1),
            (1, 3, 3),
            "In 1 of 3 pairs the generated picture is grey, the real ones in colour: as RGB.",
            "various",
        ),
        ((1, 3, 1), (1, 3, 1), "", None),
    ],
)
def test_grey_pictures_held_against_colour_are_told(
    made_channels: tuple[int, ...],
    real_channels: tuple[int, ...],
    words: str,
    told: int | str | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = save(tmp_path / "made", [draw(24, 24, channels, 0) for channels in made_channels])
    real = save(tmp_path / "real", [draw(24, 24, channels, 1) for channels in real_channels])
    passport = measured(made, real, paired=True)["passport"]
    assert said(capsys) == [words] * bool(words)
    assert passport.get("generated_channels") == told


def test_grey_pairs_saved_as_rgb_are_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [draw(24, 24, 1, seed) for seed in range(3)]
    real = save(tmp_path / "real", [image.repeat(3, 2) for image in images])
    found = measured(save(tmp_path / "made", images), real, paired=True)
    assert said(capsys) == [] and "generated_channels" not in found["passport"] and found["value"] == 0


def test_pairs_of_arrays_are_not_cut(tmp_path: Path) -> None:
    for side in (24, 40):
        np.save(tmp_path / f"{side}.npy", np.stack([draw(24, side, 3, seed) for seed in range(3)]))
    square, oblong = str(tmp_path / "24.npy"), str(tmp_path / "40.npy")
    assert measured(square, square, paired=True)["value"] == 0
    with pytest.raises(Refused, match="not square"):
        measured(oblong, oblong, paired=True)
