"""Recipes of two stages: one command, killed in either stage and resumed bit for bit, one folder at the end."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from conftest import tiny_data, tiny_run
from tasvir.commands.training import Resume, StageBefore, Steps, StepsBefore, Train
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Grid
from tasvir.drawing import Opened
from tasvir.models import RECIPES, build, recipe, usual_foundation
from tasvir.runs import Run
from tasvir.training import foundation
from tasvir.training.loop import train
from test_kill import assert_same, called, command, wait_for_step

STAGED = [name for name in RECIPES if recipe(name).model.stands_on == "tokenize"]
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
    code, said = called(*words)
    assert code == 0, said
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
    _refused("stands on another run itself: it was trained as vq-vae-pixelcnn", *on, str(whole), *out)
    _refused("does not exist", *on, str(tmp_path / "nothing"), *out)
    _refused("leave one out", *on, str(whole / "foundation"), "--first.train.steps", "3", *out)
    _refused("16 px", *on, str(whole / "foundation"), "--data.size", "16", *out)
    two, data = tiny_run("vq-vae-2-tokenizer", tmp_path / "two", steps=1)
    train(two, data)
    _refused("1 grid of codes, and what it stands on has 2 grids", *on, str(two.folder), *out)
    assert not (tmp_path / "new").exists()


def test_only_what_differs_is_named_and_on_is_for_recipes_that_stand(tmp_path: Path) -> None:
    tokenizer, data = tiny_run("vq-vae", tmp_path / "vq", steps=1)
    train(tokenizer, data)
    on = ("vq-vae-pixelcnn", *DIGITS, "--out", str(tmp_path / "new"), "--on", str(tokenizer.folder))
    _refused(r"set --data.size 8\.", *on, "--data.size", "16")
    _refused(r"set --data.color grey\.", *on, "--data.color", "rgb")
    _refused("set --data.size 8 and --data.color grey", *on, "--data.size", "16", "--data.color", "rgb")
    for words in (("--on", str(tokenizer.folder)), (f"--on={tokenizer.folder}",)):
        _refused("vae stands on no other run; leave --on out", "vae", *DIGITS, *words)


def test_a_batch_too_small_to_start_the_codes_leaves_no_folder(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "new"))
    words = "--train.batch-size is 8; vq-vae needs at least 25: its 100 codes are started from .* 4 vectors for each"
    codes = ("--model.codes", "100", "--train.batch-size", "8")
    _refused(f"^{words}", "vq-vae", *DIGITS, *codes, *out)
    first = [word.replace("--", "--first.") for word in codes]
    _refused(f"^{words.replace('--', '--first.')}", "vq-vae-pixelcnn", *DIGITS, *first, *out)
    many = ("--data.size", "16", "--model.codes", "400", "--train.batch-size", "8")
    _refused("needs at least 100: .* 4 vectors for", "vq-vae-2-tokenizer", *DIGITS, *many, *out)
    assert not (tmp_path / "new").exists()
    small = replace(recipe("vq-vae").tiny, quantizer="fsq", codes=1000)
    assert build("vq-vae", small, tiny_data(8).pictures).least_batch()[0] == 1, "it has nothing to start"


def _in_stage_one(tmp_path: Path) -> tuple[Run, Run]:
    """A run that was stopped after 3 of the 6 steps of its first stage, and that stage."""
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "foundation")
    replace(run, config=replace(run.config, foundation=usual_foundation("vq-vae-pixelcnn", tiny=True))).write_config()
    below, _ = tiny_run("vq-vae", tmp_path / "run" / "foundation", size=data.pictures.size, steps=3)
    train(below, data)
    replace(below, config=replace(below.config, train=replace(below.config.train, steps=6))).write_config()
    return Run.open(run.folder), Run.open(below.folder)


def test_what_is_asked_of_a_run_in_its_first_stage(tmp_path: Path) -> None:
    run, below = _in_stage_one(tmp_path)
    with pytest.raises(
        Refused, match=r"run is still in stage 1 of 2 \(vq-vae, step 3 of 6\); `tasvir resume .*` goes on"
    ):
        Opened(run.folder)
    before = StageBefore(StepsBefore(2))
    for steps, first, words in (
        (0, None, "--train.steps is 0; it is of the last stage"),
        (None, 2, "is at step 3 already; --first.train.steps 2 is less"),
    ):
        with pytest.raises(Refused, match=words):
            Resume(run.folder, Steps(steps), StageBefore(StepsBefore(first)))()
    assert (Run.open(run.folder), Run.open(below.folder)) == (run, below), "nothing was changed"
    assert Resume(run.folder, Steps(4), StageBefore(StepsBefore(5)))() == 0
    assert (Run.open(run.folder).latest().step, Run.open(below.folder).latest().step) == (4, 5)
    with pytest.raises(Refused, match="no stage before that is still to be trained"):
        Resume(run.folder, Steps(), before)()


def test_both_folders_are_held(tmp_path: Path) -> None:
    run, below = _in_stage_one(tmp_path)
    with below.locked(), pytest.raises(Refused, match="Another training is running in .*foundation"):
        Resume(run.folder)()
    held: list[Path] = []

    def begin() -> None:
        for folder in (run.folder, below.folder):
            with pytest.raises(Refused, match="Another training"), Run.open(folder).locked():
                pass
            held.append(folder)
        raise Refused("That is all.")

    from tasvir.commands.stages import built, train_all

    with pytest.raises(Refused, match="That is all"):
        train_all([(stage, built(stage)) for stage in (below, run)], tiny_data(run.pictures.size), begin)
    assert held == [run.folder, below.folder]


def test_what_was_trained_further_since_is_said_whenever_a_run_is_opened(tmp_path: Path, capsys: Any) -> None:
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    train(run, data)
    below = Run.open(tmp_path / "run" / "foundation")
    Opened(run.folder)
    assert "further" not in capsys.readouterr().err
    train(replace(below, config=replace(below.config, train=replace(below.config.train, steps=9))), data)
    capsys.readouterr()
    Opened(run.folder)
    said = capsys.readouterr().err
    assert "was trained further since, from step 6 to 9" in said and len(said.splitlines()) == 1
    assert Resume(run.folder)() == 0
    said = capsys.readouterr().err
    assert "was trained further since" in said and "has all its 6 steps" in said


def test_what_codes_cannot_is_said_for_the_command_that_was_asked(tmp_path: Path) -> None:
    run, data = tiny_run("vq-vae", tmp_path / "vq", steps=1)
    train(run, data)
    for ability in ("encode", "decode"):
        with pytest.raises(Refused, match="vq-vae has codes and no continuous latents to walk in"):
            Opened(run.folder, ability)
    with pytest.raises(Refused, match=f"`tasvir train vq-vae-pixelcnn --on {run.folder} --data digits`"):
        Opened(run.folder, "sample")
    with pytest.raises(Refused, match="vq-vae cannot bound; it can reconstruct"):
        Opened(run.folder, "bound")


def test_a_foundation_that_changed_before_the_first_step_is_said(tmp_path: Path) -> None:
    run, data = tiny_run("vq-vae-pixelcnn", tmp_path / "run")
    below = Run.open(tmp_path / "run" / "foundation")
    shutil.rmtree(below.folder)
    other = replace(below, config=replace(below.config, seed=1)).create()
    train(other, data)
    assert other.latest().step == run.config.foundation.step  # type: ignore[union-attr]
    with pytest.raises(Refused, match="does not have the weights"):
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
    assert codes.dtype == np.uint8, "of tiny tokenizers"
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
    size = next(size for size in (8, 16, 32) if recipe(name).model.accepts(size))
    pictures = Pictures(1, size, ("a", "b"))
    model = build(
        name, replace(recipe(name).tiny, conditional=True), pictures, usual_foundation(name, tiny=True)
    ).eval()
    assert model.conditional and all(isinstance(grid, Grid) for grid in model.grids)  # type: ignore[attr-defined]
    codes = torch.zeros(2, sum(grid.side**2 for grid in model.grids), dtype=torch.int64)  # type: ignore[attr-defined]

    def losses(prepared: torch.Tensor, label: int) -> list[float]:
        batch = Batch(torch.zeros(2, 1, size, size), torch.tensor([label, label]), prepared=prepared)
        return [turn.terms["nats_per_code"].item() for turn in model.turns(batch, 0)]

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


@pytest.mark.parametrize("name", STAGED)
def test_codes_of_pictures_cost_what_training_descends(name: str, tmp_path: Path) -> None:
    """And the outcome is a tokenizer too: `encode`, `decode` and the report take it as one."""
    from tasvir.core import KnowsCodes, Tokenizes
    from tasvir.metrics.evaluate import Protocol, of_run

    run, data = tiny_run(name, tmp_path / "run", steps=2, average=0.0)
    train(run, data)
    opened = Opened(run.folder)
    model = opened.model
    assert isinstance(model, Tokenizes) and isinstance(model, KnowsCodes)
    real = np.asarray(data.test.images[:20])
    codes = opened.tokenized(real)
    assert np.array_equal(opened.detokenized(codes), opened.reconstructions(real))
    assert codes.shape[1] == sum(grid.side**2 for grid in model.grids)
    image = opened.tensor(real)
    with torch.no_grad():
        turns = [turn.terms["nats_per_code"] for turn in model.turns(Batch(image), 0)]
        each = model.code_log_likelihood(image)
    expected = sum(float(nats) * grid.side**2 for nats, grid in zip(turns, model.grids, strict=True))
    assert each.shape == (20,) and -float(each.mean()) == pytest.approx(expected, rel=1e-5)
    found = {line["metric"]: line for line in of_run(run.folder, Protocol(("codes",), number=len(data.test)))}
    with torch.no_grad():
        whole = -float(model.code_log_likelihood(opened.tensor(data.test.images)).mean())
    assert found["code_nats"]["value"] == pytest.approx(whole, rel=1e-5)
    bits = whole / codes.shape[1] / np.log(2)
    assert found["bits_per_code"]["value"] == pytest.approx(bits, rel=1e-5)
    passport = found["code_nats"]["passport"]
    assert passport["tokenizer"] == run.config.foundation.weights  # type: ignore[union-attr]
    assert passport["codes"].endswith(f"{model.grids[-1].side}×{model.grids[-1].side} of 4")


def test_a_prior_with_classes_prices_codes_by_them() -> None:
    pictures = Pictures(1, 8, ("a", "b", "c"))
    config = replace(recipe("vq-vae-pixelcnn").tiny, conditional=True)
    torch.manual_seed(0)
    model = build("vq-vae-pixelcnn", config, pictures, usual_foundation("vq-vae-pixelcnn", tiny=True)).eval()
    image = torch.rand(5, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        each = torch.stack([model.code_log_likelihood(image, torch.full((5,), k)) for k in range(3)])
        assert (each.std(0) > 0).all()
        assert torch.allclose(model.code_log_likelihood(image), each.logsumexp(0) - np.log(3), atol=1e-5)
    with pytest.raises(Refused, match="There is no class 3: there are 3, from 0 to 2"):
        model.code_log_likelihood(image, torch.full((5,), 3))
    with pytest.raises(Refused, match="--model.conditional needs classes, and these pictures have none"):
        build("vq-vae-pixelcnn", config, Pictures(1, 8), usual_foundation("vq-vae-pixelcnn", tiny=True))


@pytest.mark.parametrize(("codes", "kind"), [(256, np.uint8), (257, np.uint16), (2**16, np.uint16), (2**20, np.int32)])
def test_codes_are_kept_in_the_smallest_whole_numbers(codes: int, kind: type) -> None:
    model = SimpleNamespace(grids=(Grid(2, 4), Grid(4, codes)))
    assert foundation._smallest(model, np.zeros(1, np.int64)) == kind  # type: ignore[arg-type]
    assert foundation._smallest(model, np.zeros(1, np.float32)) == np.float32  # type: ignore[arg-type]


def test_heads_and_what_else_the_paper_gives_the_top() -> None:
    config = recipe("vq-vae-2-256").config
    assert (config.top.heads, config.top.attention, config.top.dropout, config.bottom.dropout) == (8, 5, 0.1, 0.1)
    tiny = recipe("vq-vae-2").tiny
    config = replace(tiny, top=replace(tiny.top, heads=2))
    model = build("vq-vae-2", config, Pictures(1, 16), usual_foundation("vq-vae-2", tiny=True))
    assert [block.heads for block in model.networks["top"].attentions.values()] == [2, 2]  # type: ignore[index, union-attr]
    assert not model.networks["bottom"].attentions  # type: ignore[index, union-attr]
    assert "downsample" in str(
        recipe("vq-vae-pixelcnn").model.lacks(Pictures(1, 9))
    ) and "--model.downsample" not in str(recipe("vq-vae-pixelcnn").model.lacks(Pictures(1, 9)))


def test_resume_finishes_the_first_stage_and_keeps_steps_apart(tmp_path: Path) -> None:
    """--train.steps of a resume is the last stage's."""
    out = tmp_path / "run"
    done(*staged("--out", str(out), first="2", steps="2"))
    assert Resume(out, Steps(3))() == 0
    assert (Run.open(out).latest().step, Run.open(out / "foundation").latest().step) == (3, 2)


def test_data_of_both_stages_is_the_same(whole: Path) -> None:
    assert Run.open(whole).dataset == Run.open(whole / "foundation").dataset
    assert tiny_data(8).pictures.size == Run.open(whole).pictures.size
