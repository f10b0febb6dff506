"""The command line: what each command writes, and one or two plain lines with exit code 2 for what cannot be done."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from conftest import tiny_run
from tasvir import cli
from tasvir.config import DataConfig
from tasvir.data import load
from tasvir.training.loop import train


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained run of each kind."""
    found = {}
    for name in ("vae", "vae-2d", "ae", "gan"):
        folder = tmp_path_factory.mktemp("runs") / name
        run, data = tiny_run(name, folder)
        train(run, data)
        found[name] = folder
    found["broken"] = tmp_path_factory.mktemp("latents") / "broken.npz"
    found["broken"].write_bytes(b"PK\x03\x04 and no more")
    found["nothing"] = found["broken"].with_name("nothing.npz")
    np.savez(found["nothing"], latents=np.zeros((0, 4), np.float32))
    return found


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    code = exit_.value.code
    return int(code) if code is not None else 0, said.out, said.err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(name in tasvir(capsys, "--help")[1] for name in cli.COMMANDS)
    for name in cli.COMMANDS:
        code, out, _ = tasvir(capsys, name, "--help")
        assert code == 0 and "usage" in out
    code, out, _ = tasvir(capsys, "train", "vae", "--help")
    assert code == 0 and "--train.batch-size" in out and "--model.latent-size" in out


def without_meaning(said: str) -> list[str]:
    """Arguments in a command's help with no words beside them but their default."""
    rows: list[list[str]] = []
    for line in said.splitlines():
        if not line.startswith("│"):
            continue
        text = line.strip("│ ")
        if line[2] != " ":
            rows.append([text])
        else:
            rows[-1].append(text)
    names = r"^((-h, )?--?[a-z]\S*( \{.*?\}(\|\S+)*| \[.*\]\]| [A-Z{]\S*)?(, )?)+|^[A-Z]+\b|^\[\S+( …)?\]"
    told = {row[0]: re.sub(r"\((default|required).*", "", re.sub(names, "", " ".join(row))).split() for row in rows}
    return [name for name, words in told.items() if not words or [name.lower()] == words]


def test_every_argument_s_help_says_what_it_means(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert without_meaning("│ --seed INT   (default: 0) │\n│ -n INT, --number INT │\n│       (default: 3) │") != []
    for name in ("sample", "reconstruct", "interpolate", "manifold", "traverse", "arithmetic", "scatter", "aggregate",
                 "encode", "decode", "estimators", "resume", "project", "neighbours", "mix"):  # fmt: skip
        assert without_meaning(tasvir(capsys, name, "--help")[1]) == [], name
        if name != "estimators":
            assert "A folder that `tasvir train` made" in tasvir(capsys, name, "--help")[1]


def test_help_imports_nothing_heavy() -> None:
    heavy = "[m for m in ('torch', 'numpy', 'PIL') if m in sys.modules]"
    script = f"import sys; from tasvir.cli import overview; overview(); print({heavy})"
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def album(root: Path, count: int = 24) -> Path:
    """Two folders of pictures, a broken one and a copy among them."""
    for number in range(count):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(root / "ab"[number % 2] / f"{number}.png")
    (root / "a" / "copy.png").write_bytes((root / "a" / "0.png").read_bytes())
    (root / "b" / "broken.png").write_bytes(b"not a picture")
    return root


def test_pictures_are_checked_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    album(tmp_path / "album")
    code, out, _ = tasvir(capsys, "data", "check", "album")
    assert code == 0 and "b/broken.png" in out and "a/copy.png" in out and "tasvir train vae --data album" in out
    assert min(Image.open(tmp_path / "album-check.png").size) > 100
    code, out, _ = tasvir(capsys, "data", "check", "album", "--json", "--out", "sheets/x.jpg", "--data.layout", "flat")
    found = json.loads(out)
    assert code == 0 and found["contact_sheet"] == "sheets/x.jpg" and (tmp_path / "sheets" / "x.jpg").is_file()
    assert "broken.png" in json.dumps(found) and "--data.layout flat" in json.dumps(found)
    command = next(
        line.strip() for line in tasvir(capsys, "data", "check", "album")[1].splitlines() if "train ae" in line
    )
    code, _, said = tasvir(capsys, *command.split()[1:], "--train.steps", 2, "--model.widths", 4, 8, "--out", "run")
    assert code == 0 and "broken.png" in said and "1 picture is an exact copy" in said


def test_a_run_notices_that_its_test_pictures_have_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):
        (tmp_path / "set" / split).mkdir(parents=True)
        for number in range(16):
            pixels = np.random.default_rng([number, len(split)]).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / split / f"{number}.png")
    words = ["--data.size", 8, "--train.steps", 2, "--model.widths", 4, 8, "--out", tmp_path / "run"]
    assert tasvir(capsys, "train", "ae", "--data", tmp_path / "set", *words)[0] == 0
    assert "have changed" not in tasvir(capsys, "evaluate", tmp_path / "run")[2]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "set" / "test" / "3.png")
    code, _, said = tasvir(capsys, "evaluate", tmp_path / "run")
    assert code == 0 and "have changed since run was trained" in said
    code, _, said = tasvir(capsys, "resume", tmp_path / "run", "--train.steps", 4)
    assert code == 2 and "are not those the run was trained on" in said


def test_the_cache_is_listed_and_cleared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASVIR_CACHE", str(tmp_path / "cache"))
    album(tmp_path / "one"), album(tmp_path / "two")
    for name in ("one", "two"):
        load(DataConfig(source=(str(tmp_path / name),), size=8))
    code, out, _ = tasvir(capsys, "data", "cache")
    assert code == 0 and "one-8-" in out and "two-8-" in out and "25 pictures, 8×8 colour" in out
    code, _, said = tasvir(capsys, "data", "cache", "--clear", "three")
    assert code == 2 and "three" in said
    assert tasvir(capsys, "data", "cache", "--clear", "one")[1].startswith("Removed 1,")
    kept = json.loads(tasvir(capsys, "data", "cache", "--json")[1])
    assert [entry["name"][:6] for entry in kept] == ["two-8-"] and kept[0]["bytes"] > 25 * 8 * 8 * 3
    with FileLock(tmp_path / "cache" / "packs" / f".{kept[0]['name'].rsplit('-', 1)[0]}.lock"):
        assert "1 stay" in tasvir(capsys, "data", "cache", "--clear", "all")[1]
    assert tasvir(capsys, "data", "cache", "--clear", "all")[1].startswith("Removed 1,")
    assert json.loads(tasvir(capsys, "data", "cache", "--json")[1]) == []


def test_samples_go_out_by_ending(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("vae", "gan"):
        code, out, _ = tasvir(capsys, "sample", folders[name], "-n", 9, "--out", tmp_path / "x.png")
        assert code == 0 and "9 pictures" in out and Image.open(tmp_path / "x.png").size == (3 * 10 + 2, 3 * 10 + 2)
        assert tasvir(capsys, "sample", folders[name], "-n", 9, "--out", tmp_path / "x.npz")[0] == 0
        images = np.load(tmp_path / "x.npz")["images"]
        assert images.shape == (9, 8, 8, 1) and images.dtype == np.uint8
        assert tasvir(capsys, "sample", folders[name], "-n", 3, "--seed", 2, "--out", tmp_path / "y.npz")[0] == 0
        assert np.abs(np.load(tmp_path / "y.npz")["images"].astype(int) - images[2:5]).max() <= 1, "a seed is a picture"
        folder = tmp_path / f"{name}-pictures"
        assert tasvir(capsys, "sample", folders[name], "-n", 3, "--seed", 5, "--out", folder)[0] == 0
        assert (folder / "index.csv").read_text().splitlines() == [
            "file,label,seed",
            "000000.png,,5",
            "000001.png,,6",
            "000002.png,,7",
        ]
        assert Image.open(folder / "000002.png").size == (8, 8)
        assert tasvir(capsys, "sample", folders[name], "-n", 4, "--out", tmp_path / "x.gif")[0] == 0
        assert Image.open(tmp_path / "x.gif").n_frames > 1
        for noise in ("exponential", "uniform"):
            assert (
                tasvir(capsys, "sample", folders[name], "-n", 9, "--noise", noise, "--out", tmp_path / "z.npz")[0] == 0
            )
            assert not np.array_equal(np.load(tmp_path / "z.npz")["images"], images)


def test_latent_commands(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae, flat = folders["vae"], folders["vae-2d"]
    assert tasvir(capsys, "reconstruct", vae, "-n", 4, "--out", tmp_path / "r.npz")[0] == 0
    assert np.load(tmp_path / "r.npz")["images"].shape == (4, 8, 8, 1)
    assert tasvir(capsys, "interpolate", vae, "-n", 2, "--steps", 5, "--out", tmp_path / "i.npz")[0] == 0
    assert np.load(tmp_path / "i.npz")["images"].shape[0] == 10
    assert tasvir(capsys, "interpolate", folders["gan"], "--path", "linear", "--out", tmp_path / "i.png")[0] == 0
    assert tasvir(capsys, "manifold", flat, "--side", 5, "--out", tmp_path / "m.npz")[0] == 0
    assert np.load(tmp_path / "m.npz")["images"].shape[0] == 25
    assert tasvir(capsys, "scatter", vae, "--out", tmp_path / "s.png")[0] == 0
    assert Image.open(tmp_path / "s.png").size[0] > 200
    assert tasvir(capsys, "encode", vae, "-n", 6, "--out", tmp_path / "l.npz")[0] == 0
    assert np.load(tmp_path / "l.npz")["latents"].shape == (6, 4)
    assert tasvir(capsys, "decode", vae, tmp_path / "l.npz", "--out", tmp_path / "d.npz")[0] == 0
    first, second = (np.load(tmp_path / name)["images"] for name in ("d.npz", "r.npz"))
    assert np.abs(first[:4].astype(int) - second).max() <= 1, "decode(encode(x)) is the reconstruction"


def test_own_pictures_can_be_reconstructed(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 30), (60 * number, 80, 200)).save(tmp_path / "mine" / f"{number}.png")
    assert tasvir(capsys, "reconstruct", folders["vae"], tmp_path / "mine", "--out", tmp_path / "r.npz")[0] == 0
    assert np.load(tmp_path / "r.npz")["images"].shape == (3, 8, 8, 1)


def test_evaluate_appends_measurements_with_passports(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = [json.loads(tasvir(capsys, "evaluate", folders["vae"], "-n", 20, "--json")[1]) for _ in range(2)]
    assert outputs[0] == outputs[1], "evaluated twice, the same numbers"
    names = {line["metric"] for line in outputs[0]}
    assert {"reconstruction_mse", "bound", "nearest_class_accuracy", "diversity"} <= names
    values = {line["metric"]: line["value"] for line in outputs[0]}
    assert values["bound"] == pytest.approx(-values["distortion"] - values["rate"], rel=1e-6)
    for line in outputs[0]:
        assert {"reference", "split", "hash", "pictures", "extractor", "resize", "averaged", "step", "seed"} <= set(
            line["passport"]
        )
    assert len((folders["vae"] / "measurements.jsonl").read_text().splitlines()) == 2 * len(outputs[0])


def test_recipes_tell_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "wgan-gp" in tasvir(capsys, "recipes")[1]
    rows = json.loads(tasvir(capsys, "recipes", "--json")[1])
    assert {"vae", "dcgan"} <= {row["recipe"] for row in rows}
    assert "3,521,328" in tasvir(capsys, "recipes", "vae-256")[1]
    networks = json.loads(tasvir(capsys, "recipes", "vae-256", "--json")[1])["networks"]
    assert [row["trainable_parameters"] for row in networks] == [3_521_328, 1_085_859]


def test_training_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ("train", "gan", "--data", "digits", "--train.steps", "4", "--train.log-every", "2", "--model.widths", "8")
    code, _, said = tasvir(capsys, *words, "--out", out)
    assert code == 0 and "Done: 4 steps" in said and "steps/s" in said and "pictures/s" in said and "left" in said
    code, _, said = tasvir(capsys, *words, "--out", out)
    assert code == 2 and "exists already" in said and "resume" in said
    code, _, said = tasvir(capsys, "resume", out)
    assert code == 0 and "has all its 4 steps" in said
    code, _, said = tasvir(capsys, "resume", out, "--train.steps", "2")
    assert code == 2 and "is at step 4 already" in said


BAD: list[tuple[list[str], str]] = [
    (["trian"], "Perhaps you meant train"),
    (["train"], "usage"),
    (["train", "vaee", "--data", "digits"], "Perhaps you meant vae"),
    (["train", "vae"], "wants --data"),
    (["train", "vae", "--data", "digitz"], "Perhaps you meant digits"),
    (["train", "vae", "--data", "/no/such/folder"], "/no/such/folder"),
    (["train", "vae", "--data", "digits", "--train.stepz", "3"], "--train.steps"),
    (["train", "vae", "--data", "digits", "--train.steps", "-3"], "--train.steps is -3; it must be at least 0"),
    (["train", "vae", "--data", "digits", "--train.batch-size", "0"], "--train.batch-size is 0"),
    (["train", "vae", "--data", "digits", "--train.steps", "many"], "--train.steps"),
    (["train", "vae", "--data", "digits", "--model.widths", "8", "0"], "--model.widths is 0"),
    (["train", "vae", "--data", "digits", "--model.optimizer.learning-rate", "-1"], "learning-rate is -1"),
    (["train", "vae", "--data", "digits", "--model.reconstruction", "l1"], "bernoulli"),
    (["train", "dcgan", "--data", "digits", "--data.size", "20"], "takes pictures of 8, 16, 32"),
    (["train", "vae", "--data", "digits", "--data.size", "9"], "multiples of 4"),
    (["train", "vae", "--data", "digits", "--train.device", "abacus"], "no device 'abacus'"),
    (["train", "vae", "--data", "cartoons", "--data.labels", "hair_stile", "--data.limit", "20"], "hair_style"),
    (["train", "gan", "--data", "digits", "--out", "/proc/nowhere/run"], "cannot be written"),
    (["train", "gan", "--data", "digits", "--train.batch-size", "1"], "needs at least 2"),
    (["train", "vae", "--data", "digits", "--model.widths"], "--model.widths needs at least one value"),
    (["train", "vae", "--data", "digits", "--model.latent-size", "100000000000"], "cannot be built"),
    (["train", "vae", "--data", "digits", "--model.optimizer.learning-rate", "inf"], "learning-rate is inf"),
    (["train", "vae", "--data", "digits", "--train.device", "meta"], "no device 'meta'"),
    (["train", "vae", "--data", "~nosuchuser/x"], "~nosuchuser/x"),
    (["train", "vae", "--data", "x" * 5000], "is no path"),
    (["train", "vae", "--data", ""], "--data is empty"),
    (
        [
            "train",
            "dcgan",
            "--data",
            "digits",
            "--model.game.name",
            "wasserstein-penalty",
            "--model.discriminator-norm",
            "batch",
        ],
        "must be layer or none",
    ),
    (["sample", "{vae}", "--seed", "99999999999999999999", "--out", "x.png"], "--seed is"),
    (["sample", "/no/run", "--out", "new/deep/x.png"], "does not exist"),
    (["decode", "{vae}", "{broken}"], "cannot be read"),
    (["decode", "{vae}", "{nothing}"], "latents of shape (0, 4)"),
    (["resume", "/no/such/run"], "does not exist"),
    (["resume", "."], "is not a run folder"),
    (["sample", "{vae}", "--out", "x.jpg"], ".png"),
    (["sample", "{vae}", "--out", "/proc/nowhere/x.png"], "cannot be written"),
    (["sample", "{vae}", "-n", "0", "--out", "x.png"], "must be at least 1"),
    (["sample", "{vae}", "-n", "-4", "--out", "x.png"], "-4"),
    (["sample", "{vae}", "--label", "seven", "--out", "x.png"], "does not know classes"),
    (["sample", "{vae}", "--noise", "cauchy", "--out", "x.png"], "normal"),
    (["sample", "{vae}", "--step", "5", "--out", "x.png"], "no checkpoint of step 5"),
    (["sample", "{ae}", "--out", "x.png"], "ae cannot sample; it can reconstruct"),
    (["sample", "{vae}"], "--out"),
    (["reconstruct", "{gan}"], "gan cannot reconstruct"),
    (["reconstruct", "{vae}", "/no/such/picture.png"], "/no/such/picture.png"),
    (["interpolate", "{gan}", "digits"], "cannot encode"),
    (["interpolate", "{vae}", "--steps", "1"], "at least 2"),
    (["manifold", "{vae}"], "two latent dimensions"),
    (["decode", "{vae}", "/no/such.npz"], "/no/such.npz"),
    (["scatter", "{vae}", "-n", "2"], "--number is 2; a plane needs at least 3"),
    (["aggregate", "{vae}", "-n", "1"], "--number is 1; a plane needs at least 3"),
    (["evaluate", "{gan}", "--metrics", "boundd"], "Perhaps you meant bound"),
    (["evaluate", "{gan}", "--metrics", "bound"], "cannot be measured by bound"),
    (["compare", "{gan}"], "at least 2"),
    (["report"], "at least 1"),
    (["report", "/no/such/run"], "does not exist"),
    (["data", "chekc", "digits"], "Perhaps you meant check"),
    (["data", "check"], "wants pictures"),
    (["data", "check", "/no/such/folder"], "no data set or path"),
    (["data", "check", "digits", "--out", "x.gif"], "must end in .png or .jpg"),
    (["train", "vae", "--data", "digits", "--data.jitter", "4"], "give 8 or more"),
    (["train", "vae", "--data", "digits", "--data.derive", "grey"], "grey"),
    (["train", "vae", "--data", "digits", "--data.background", "blue"], "#rrggbb"),
    (["train", "vae", "--data", "digits", "--data.layout", "matched"], "layout of its own"),
    (["train", "vae", "--data", "s3://bucket/a.tar", "--data.limit", "5"], "does not go with streaming"),
    (["recipes", "vae-265"], "Perhaps you meant vae-256"),
]


@pytest.mark.parametrize(
    ("words", "expected"), BAD, ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else ""
)
def test_bad_input_is_told_in_plain_lines(
    words: list[str], expected: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    code, out, said = tasvir(capsys, *(word.format(**folders) for word in words))
    assert expected in said + out
    said = "".join(line for line in said.splitlines(True) if not line.startswith("Packing "))
    if words != ["train"]:
        assert code == 2 and said.startswith("tasvir: ") and 1 <= len(said.strip().splitlines()) <= 2, said
        assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_runs_that_are_damaged(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(folders["vae"], run)
    config = (run / "config.yaml").read_text()
    changes = (
        ("beta: 1.0", "betta: 1.0"),
        ("seed: 0", "seed: abc"),
        ("recipe: vae", "recipe: [1]"),
        ("format: 1", "format: x"),
    )
    for broken in (config[:200], "", "{", "- a list", *(config.replace(*change) for change in changes)):
        (run / "config.yaml").write_text(broken)
        code, _, said = tasvir(capsys, "sample", run, "--out", tmp_path / "x.png")
        assert (
            code == 2 and ("config.yaml" in said or "no recipe '[1]'" in said) and len(said.strip().splitlines()) <= 2
        )
    (run / "config.yaml").write_text(config)
    for file in (run / "checkpoints").rglob("model.safetensors"):
        size = file.stat().st_size
        file.write_bytes(b"\xff" * size)  # the right length, the wrong content
    code, _, said = tasvir(capsys, "sample", run, "--out", tmp_path / "x.png")
    assert code == 2 and "cannot be read" in said and len(said.strip().splitlines()) <= 2
    shutil.rmtree(run / "checkpoints")
    code, _, said = tasvir(capsys, "sample", run, "--out", tmp_path / "x.png")
    assert code == 2 and "no checkpoint" in said


def test_upper_case_endings_are_kept(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tasvir(capsys, "sample", folders["vae"], "-n", 2, "--out", tmp_path / "X.NPZ")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["X.NPZ"]


def test_a_run_finds_its_pictures_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "mine" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    words = ("--data.size", "8", "--train.steps", "2", "--train.batch-size", "4", "--model.widths", "4")
    code, _, said = tasvir(capsys, "train", "vae", "--data", "mine", *words, "--out", "run")
    assert code == 0, said
    monkeypatch.chdir("/")
    assert tasvir(capsys, "reconstruct", tmp_path / "run", "--out", tmp_path / "x.png")[0] == 0
    assert tasvir(capsys, "resume", tmp_path / "run", "--train.steps", 4)[0] == 0
    code, _, said = tasvir(capsys, "report", tmp_path / "run")
    assert code == 0 and "could not be drawn" not in (tmp_path / "run" / "report.html").read_text(), (
        "unlabelled, and few"
    )
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text()
