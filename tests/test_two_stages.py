"""Recipes of two stages: one command, killed in either stage and resumed bit for bit, one folder at the end."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_data, tiny_run
from tasvir.commands.training import Resume, Steps, Train
from tasvir.config import Refused
from tasvir.core import Grid
from tasvir.drawing import Opened
from tasvir.models import RECIPES, build, recipe, usual_foundation
from tasvir.runs import Run
from tasvir.training import foundation
from tasvir.training.loop import train
from test_kill import assert_same, command, wait_for_step

STAGED = [name for name in RECIPES if recipe(name).foundation]
SMALL = ("--model.hidden", "8", "--model.residual", "4", "--model.codes", "8", "--model.code-size", "4")
PRIOR = ("--model.prior.width", "8", "--model.prior.layers", "2", "--model.prior.output", "8")
QUIET = ("--train.log-every", "1", "--train.sample-every", "0", "--train.no-tensorboard", "--train.batch-size", "8")
DIGITS = ("--data", "digits", "--data.limit", "100")


def staged(*words: str, first: str = "6", steps: str = "6") -> tuple[str, ...]:
    """The command of a small recipe of two stages."""
    below = [word.replace("--model.", "--first.model.").replace("--train.", "--first.train.") for word in SMALL + QUIET]
    ends = ("--first.train.steps", first, "--train.steps", steps)
    return ("train", "vq-vae-pixelcnn", *DIGITS, *below, *PRIOR, *QUIET, *ends, *words)


def done(*words: str) -> str:
    process = command(*words)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of both stages that was never stopped."""
    folder = tmp_path_factory.mktemp("staged") / "run"
    said = done(*staged("--out", str(folder)))
    assert "Stage 1 of 2: Training vq-vae on" in said and "Stage 2 of 2: Training vq-vae-pixelcnn on" in said
    return folder


@pytest.mark.parametrize("stage", [1, 2])
def test_killed_in_either_stage_and_resumed_is_never_stopped(stage: int, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    every = ("--first.train.checkpoint-every", "2", "--train.checkpoint-every", "2")
    process = command(*staged(*every, "--out", str(out), first="100000" if stage == 1 else "6", steps="100000"))
    killed = out / "foundation" if stage == 1 else out
    wait_for_step(killed, 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for folder in (out, out / "foundation"):  # so that it ends where the other one did
        run = Run.open(folder)
        replace(run, config=replace(run.config, train=replace(run.config.train, steps=6))).write_config()
        for late in [c for c in run.checkpoints() if c.step > 4 and folder == killed]:
            shutil.rmtree(late.folder)
    if not Run.open(killed).checkpoints():
        pytest.skip("it was too fast to be killed between two checkpoints")
    done("resume", str(out))
    assert_same(Run.open(whole), Run.open(out))
    assert_same(Run.open(whole / "foundation"), Run.open(out / "foundation"))
    assert Run.open(out).config.foundation == Run.open(whole).config.foundation


def test_the_outcome_samples_and_goes_on_without_the_others(whole: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(whole, alone)
    expected = Opened(whole).samples(range(3))
    shutil.rmtree(alone / "foundation")
    shutil.rmtree(alone / "prepared")
    assert np.array_equal(Opened(alone).samples(range(3)), expected)
    done("resume", str(alone), "--train.steps", "8")
    done("resume", str(whole), "--train.steps", "8")
    assert_same(Run.open(alone), Run.open(whole))


def test_its_command_trains_it_again(whole: Path, tmp_path: Path) -> None:
    import shlex

    words = shlex.split(Run.open(whole).command())[1:]
    words[words.index("--out") + 1] = str(tmp_path / "again")
    done(*words)
    assert_same(Run.open(whole), Run.open(tmp_path / "again"))


def test_a_stage_runs_by_itself_on_a_given_run(tmp_path: Path) -> None:
    tokenizer, prior = tmp_path / "tokenizer", tmp_path / "prior"
    done("train", "vq-vae", *DIGITS, *SMALL, *QUIET, "--train.steps", "4", "--out", str(tokenizer))
    kept = {file: file.read_bytes() for file in tokenizer.rglob("*") if file.is_file()}
    words = ("train", "vq-vae-pixelcnn", *DIGITS, *PRIOR, *QUIET, "--train.steps", "4", "--on", str(tokenizer))
    said = done(*words, "--out", str(prior))
    assert "Stage" not in said
    assert kept == {file: file.read_bytes() for file in tokenizer.rglob("*") if file.is_file()}, "it stays as it was"
    assert not (prior / "foundation").exists()
    below = Run.open(prior).config.foundation
    assert below is not None and (below.run, below.step) == (str(tokenizer), 4)
    done("resume", str(tokenizer), "--train.steps", "6")
    said = done("resume", str(prior), "--train.steps", "6")
    assert "was trained further since, from step 4 to 6" in said
    assert foundation.weights_hash(Run.open(prior).load_model()[0].foundation) == below.weights  # type: ignore[arg-type]


def _refused(match: str, *words: str) -> None:
    with pytest.raises(Refused, match=match):
        Train.from_words(list(words))()


def test_what_cannot_be_stood_on_is_said(whole: Path, tmp_path: Path) -> None:
    run, data = tiny_run("vae-2d", tmp_path / "vae", steps=1)
    train(run, data)
    out = ("--out", str(tmp_path / "new"))
    on = ("vq-vae-pixelcnn", *DIGITS, "--on")
    _refused("cannot tokenize: it was trained as vae-2d", *on, str(run.folder), *out)
    _refused("does not exist", *on, str(tmp_path / "nothing"), *out)
    _refused("leave one out", *on, str(whole / "foundation"), "--first.train.steps", "3", *out)
    _refused("16 px", *on, str(whole / "foundation"), "--data.size", "16", *out)
    two, data = tiny_run("vq-vae-2-tokenizer", tmp_path / "two", steps=1)
    train(two, data)
    _refused("1 grid of codes, and what it stands on has 2 grids", *on, str(two.folder), *out)
    assert not (tmp_path / "new").exists()


def test_a_foundation_that_changed_before_the_first_step_is_said(tmp_path: Path) -> None:
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    below = Run.open(tmp_path / "run" / "foundation")
    longer = replace(below, config=replace(below.config, train=replace(below.config.train, steps=9, keep=1)))
    train(longer, data)
    with pytest.raises(Refused):
        train(run, data)


@pytest.mark.parametrize("name", STAGED)
def test_codes_computed_once_are_those_of_every_step(name: str, tmp_path: Path) -> None:
    """Losses on prepared codes equal those on pictures, and the file holds what the tokenizer gives."""
    run, data = tiny_run(name, tmp_path / "run", steps=2, average=0.0)
    train(run, data)
    model, _ = Run.open(run.folder).load_model()
    files = list((run.folder / "prepared").glob("*.npy"))
    assert len(files) == 1
    codes = np.load(files[0])
    from tasvir.data.batches import pictures_of

    batch = pictures_of(data, data.train, range(8), "cpu")
    assert np.array_equal(codes[:8], model.prepare(batch.image).numpy())
    torch.manual_seed(0)
    plain = [turn.terms for turn in model.turns(batch, 0)]
    batch.prepared = torch.from_numpy(np.array(codes[:8])).long()
    torch.manual_seed(0)
    for ours, theirs in zip(model.turns(batch, 0), plain, strict=True):
        assert all(torch.equal(ours.terms[term], theirs[term]) for term in theirs)


def test_a_foundation_never_trains(tmp_path: Path) -> None:
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    before = Run.open(run.folder / "foundation").load_model()[0].state_dict()
    train(run, data)
    for prefix in ("model", "average"):
        tensors = run.latest().tensors("model.safetensors")
        for name, tensor in before.items():
            assert torch.equal(tensors[f"{prefix}.foundation.{name}"], tensor), name


@pytest.mark.parametrize("name", STAGED)
def test_grids_are_drawn_coarse_to_fine_on_the_coarser(name: str) -> None:
    from tasvir.config import Pictures

    size = next(size for size in (8, 16, 32) if recipe(name).model.accepts(size))
    pictures = Pictures(1, size, ("a", "b"))
    model = build(
        name, replace(recipe(name).tiny, conditional=True), pictures, usual_foundation(name, tiny=True)
    ).eval()
    assert model.conditional and all(isinstance(grid, Grid) for grid in model.grids)  # type: ignore[attr-defined]
    codes = torch.zeros(2, sum(grid.side**2 for grid in model.grids), dtype=torch.int64)  # type: ignore[attr-defined]
    from tasvir.core import Batch

    def losses(prepared: torch.Tensor, label: int) -> list[float]:
        batch = Batch(torch.zeros(2, 1, size, size), torch.tensor([label, label]), prepared=prepared)
        return [float(turn.terms["nats_per_code"]) for turn in model.turns(batch, 0)]

    torch.manual_seed(1)
    for network in model.conditioners.values():  # type: ignore[union-attr,operator]
        torch.nn.init.normal_(network.last.weight)
    usual = losses(codes, 0)
    assert losses(codes, 1) != usual, "the class matters"
    if len(usual) > 1:
        other = codes.clone()
        other[:, 0] = 1
        assert losses(other, 0)[1] != usual[1], "the bottom grid depends on the top one"
        other = codes.clone()
        other[:, -1] = 1
        assert losses(other, 0)[0] == usual[0], "and not the other way round"


def test_resume_finishes_the_first_stage_and_keeps_steps_apart(tmp_path: Path) -> None:
    """--train.steps of a resume is the last stage's."""
    out = tmp_path / "run"
    done(*staged("--out", str(out), first="2", steps="2"))
    assert Resume(out, Steps(3))() == 0
    assert (Run.open(out).latest().step, Run.open(out / "foundation").latest().step) == (3, 2)


def test_data_of_both_stages_is_the_same(whole: Path) -> None:
    assert Run.open(whole).dataset == Run.open(whole / "foundation").dataset
    assert tiny_data(8).pictures.size == Run.open(whole).pictures.size
