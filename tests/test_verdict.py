"""The verdict on adversarial training: what each kind of log comes to, cures that exist, the best kept by habit."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import size_for, tiny_batch, tiny_model, tiny_run
from tasvir.commands.stages import _watch
from tasvir.commands.training import Train
from tasvir.config import DataConfig, OptimizerConfig, Pictures, RunConfig
from tasvir.losses.games import GameConfig
from tasvir.metrics.conditional import at_chance
from tasvir.metrics.watch import Watch
from tasvir.models import RECIPES, build, recipe, usual_foundation
from tasvir.report.compare import compare
from tasvir.report.page import report
from tasvir.runs import Run, append
from tasvir.training.cures import REMEDIES, cures
from tasvir.training.health import class_response, class_share
from tasvir.training.loop import train
from tasvir.training.verdict import FEWEST, POINT, PREFIX, TERMS, TROUBLE, Referee, judged, swings

ADVERSARIAL = [name for name, module in RECIPES.items() if module.startswith("adversarial.")]
HEALTHY = {
    "real_accuracy": 0.9,
    "fake_accuracy": 0.85,
    "won": 0.1,
    "batch_diversity": 0.8,
    "real_score": 2.0,
    "fake_score": -2.0,
    "gradient_norm": 5.0,
    "game": 0.3,
}


def lines(number: int = 30, every: int = 50, without: tuple[str, ...] = (), **changed: Any) -> list[dict[str, Any]]:
    """Log lines of a healthy training, in which some series are numbers or functions of the line's number instead."""
    series = {**HEALTHY, "generator/gradient_norm": 3.0, **{name.replace("__", "/"): v for name, v in changed.items()}}
    return [
        {
            "step": (i + 1) * every,
            **{
                name if "/" in name else f"discriminator/{name}": value(i) if callable(value) else value
                for name, value in series.items()
                if name not in without
            },
        }
        for i in range(number)
    ]


def said(found: list[dict[str, Any]]) -> str:
    verdict = Referee.of(found).verdict
    return verdict.name if verdict else "none"


def seesaw(i: int) -> float:
    """Up and down every five lines."""
    return 0.6 + 0.35 * math.sin(2 * math.pi * i / 5)


ALL_APART = {"real_accuracy": 1.0, "fake_accuracy": 1.0}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("healthy", {}),
        ("discriminator won", {**ALL_APART, "won": 1.0}),
        ("healthy", {**ALL_APART, "won": 0.7}),
        ("healthy", {"real_accuracy": 1.0, "won": 0.95}),
        ("collapsed", {"batch_diversity": lambda i: 0.8 if i < 12 else 0.02}),
        ("collapsed", {**ALL_APART, "won": 1.0, "batch_diversity": lambda i: 0.8 if i < 12 else 0.02}),
        ("discriminator won", {**ALL_APART, "won": 1.0, "batch_diversity": 0.05}),
        ("collapsed", {"batch_diversity": lambda i: 0.8 if i < 12 else 0.15}),
        ("healthy", {"batch_diversity": lambda i: 0.15 + 0.01 * i}),  # it has only begun
        ("oscillating", {"real_accuracy": seesaw, "fake_accuracy": lambda i: seesaw(i + 2)}),
        ("healthy", {"real_accuracy": lambda i: 0.97 if i != 20 else 0.7, "fake_accuracy": 0.9}),
        ("healthy", {"real_score": lambda i: 2 + 0.1 * i, "fake_score": lambda i: -2 - 0.1 * i}),
    ],
)  # fmt: skip
def test_what_each_kind_of_log_comes_to(name: str, changed: dict[str, Any]) -> None:
    assert said(lines(**changed)) == name


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("healthy", ALL_APART),  # a critic that tells all apart is what the theory asks for
        ("healthy", {**ALL_APART, "real_score": 500.0, "generator__gradient_norm": 900.0}),
        ("discriminator won", {**ALL_APART, "real_score": 500.0, "generator__gradient_norm": 0.5}),
        ("healthy", {"real_accuracy": seesaw, "fake_accuracy": seesaw}),
        ("oscillating", {**ALL_APART, "real_score": lambda i: 9 * (seesaw(i) - 0.3), "fake_score": -1.0}),
        ("collapsed", {**ALL_APART, "batch_diversity": 0.01}),
    ],
)
def test_games_in_which_only_differences_mean_anything(name: str, changed: dict[str, Any]) -> None:
    assert said(lines(without=("won",), **changed)) == name


def test_logs_without_the_new_series_are_judged_by_what_they_have() -> None:
    old = ("real_accuracy", "fake_accuracy", "batch_diversity")
    assert said(lines(without=old)) == "healthy"
    assert said(lines(without=old, won=1.0)) == "discriminator won"
    seen = [{"step": step, "sample_diversity": 0.02} for step in (500, 1000)]
    assert said(sorted([*lines(without=old), *seen], key=lambda line: line["step"])) == "collapsed"
    assert said(lines(without=(*HEALTHY, "generator/gradient_norm"))) == "none"
    assert said(lines(without=tuple(set(HEALTHY) - {"game"}))) == "healthy"
    assert said([{"step": 50, "vae/reconstruction": 1.0}, {"step": 50, "sample_diversity": 0.01}]) == "none"


def heeding(*responses: float) -> list[dict[str, Any]]:
    """A healthy log with showings of these class responses every 500 steps, where real classes make 0.23."""
    seen = [
        {"step": 500 * (i + 1), "sample_diversity": 0.9, "class_response": one, "real_class_share": 0.23}
        for i, one in enumerate(responses)
    ]
    return sorted([*lines(45), *seen], key=lambda line: line["step"])


@pytest.mark.parametrize(
    ("name", "responses"),
    [
        ("class not heeded", (0.0, 0.01, 0.02, 0.02)),
        ("healthy", (0.0, 0.01, 0.02, 0.3)),
        ("healthy", (0.45, 0.54, 0.55, 0.58)),  # cgan on MNIST
        ("healthy", (0.01, 0.01)),  # too soon: only one showing is of step 1000 or later
    ],
)
def test_a_class_that_changes_nothing_is_not_heeded(name: str, responses: tuple[float, ...]) -> None:
    found = heeding(*responses)
    assert said(found) == name
    if name != "healthy":
        assert "less than the 0.23" in Referee.of(found).verdict.why  # type: ignore[union-attr]


def test_the_response_to_the_class_is_a_share_of_the_variance() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 1), np.uint8)
    assert class_response(np.tile(drawn, (4, 1, 1, 1)), 4) == 0, "the same whatever is asked for"
    assert class_response(np.repeat(drawn[:4], 8, 0), 4) == pytest.approx(1), "one picture of each class"
    one, two = np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 60, 120], np.uint8)[:, None, None, None]
    added = np.concatenate([one + two, one + two + np.uint8(30)])  # seeds: variance 2400, classes: 225
    assert class_response(added, 2) == pytest.approx(225 / 2625)


def test_the_share_of_the_class_in_real_pictures_is_not_made_larger_by_few_of_them() -> None:
    generator = np.random.default_rng(0)
    label = np.arange(400) % 4
    blind = generator.integers(0, 256, (400, 4, 4, 1), np.uint8)
    assert class_share(blind, label) < 0.01 and class_share(blind[:12], label[:12]) < 0.15
    told = (generator.normal(0, 10, (400, 4, 4, 1)) + 60 + 30 * label[:, None, None, None]).astype(np.uint8)
    assert class_share(told, label) == pytest.approx(1500 / 1600, abs=0.02), "unbiased: variance of means is 1500"
    assert class_share(blind, np.zeros(400, int)) == 0


def test_a_label_agreement_at_chance_is_called_out_and_never_best(tmp_path: Path) -> None:
    assert at_chance(0.12, 10) and not at_chance(0.5, 10) and at_chance(0.52, 2) and not at_chance(0.9, 2)
    run, data = tiny_run("cgan", tmp_path / "run", evaluate_every=3)
    train(run, data)
    watch = Watch(run, data)
    facts = {"during": "training", "interval": None, "n": 100}
    for step, frechet, agreement in ((3, 1.0, 0.1), (6, 5.0, 0.9)):
        rows = {"frechet": frechet, "label_agreement": agreement}
        append(
            run.folder / "measurements.jsonl",
            *({"metric": name, "value": v, "passport": {"step": step}, **facts} for name, v in rows.items()),
        )
    assert watch.best() == 6, "step 3 is nearer to real pictures, of classes that nobody asked for"
    append(run.folder / "measurements.jsonl", {"metric": "label_agreement", "value": 0.1, "passport": {"step": 6}})
    (run.folder / "log.jsonl").write_text("")
    append(run.folder / "log.jsonl", *lines(40))
    report((run.folder,), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Class not heeded" in page and "in 10% of the samples at step 6; by chance it would be 10%" in page


def test_it_is_too_early_until_there_are_enough_points_of_enough_steps() -> None:
    assert said(lines(FEWEST - 1)) == "too early to say" and said(lines(FEWEST)) == "healthy"
    assert said(lines(50, every=5, real_accuracy=seesaw)) == "too early to say"
    assert said(lines(5 * FEWEST * POINT // 50, every=10)) == "healthy"
    assert said(lines(FEWEST, every=500)) == "healthy"
    assert said(lines(200, every=10, real_accuracy=seesaw)) == "healthy", "a point is the mean of at least 50 steps"


def test_each_sentence_has_its_numbers() -> None:
    assert "90% of real and 85% of generated" in judged(_points()).why and "0.80" in judged(_points()).why
    won = judged(_points(**ALL_APART, won=0.96))
    assert "100% of real" in won.why and "96% of the steps" in won.why
    assert "by 0.02 of" in judged(_points(batch_diversity=0.02)).why
    fell = judged(_points(batch_diversity=lambda i: 0.8 if i < 15 else 0.02))
    assert "after 0.80 at step 750" in fell.why
    swung = judged(_points(real_accuracy=seesaw))
    assert "swung" in swung.why and "within 950 steps" in swung.why
    for verdict in (won, fell, swung):
        assert str(verdict).startswith(PREFIX + verdict.name) and verdict.name in TROUBLE


def _points(**changed: Any) -> list[dict[str, float]]:
    return [{name.removeprefix("discriminator/"): value for name, value in line.items()} for line in lines(**changed)]


def test_swings_are_counted_by_their_size() -> None:
    assert swings([0, 1, 0, 1], 1) == 3 and swings([0, 0.9, 0, 0.9], 1) == 0 and swings([], 1) == 0
    assert swings(list(np.linspace(0, 10, 50)), 1) == 1
    assert swings([0, 0.6, 0.5, 1.2, 0.1], 1) == 2, "small steps back do not end a rise"
    noisy = np.random.default_rng(0).normal(0.9, 0.02, 1000)
    assert swings(list(noisy), 0.2) == 0


def test_a_verdict_changes_only_when_confirmed_and_keeps_its_history() -> None:
    found = lines(60, won=lambda i: float(i >= 20), **ALL_APART)
    referee = Referee.of(found)
    assert [verdict.name for _, verdict in referee.history] == ["too early to say", "healthy", "discriminator won"]
    flicker = lines(30, batch_diversity=lambda i: 0.02 if i in (20, 22) else 0.8)
    assert [verdict.name for _, verdict in Referee.of(flicker).history] == ["too early to say", "healthy"]


def test_a_log_that_goes_back_counts_what_came_the_second_time() -> None:
    bad, good = lines(40, batch_diversity=lambda i: 0.8 if i < 12 else 0.01), lines(40)
    assert Referee.of([*bad, *good[20:]]) == Referee.of([*bad[:20], *good[20:]])


def run_of(name: str, folder: Path, **changed: Any) -> Run:
    """A run that nobody trains, of the recipe's own settings but some."""
    default = recipe(name)
    config = RunConfig(name, 3, DataConfig(source=("digits",)), default.train, replace(default.config, **changed))
    return Run(folder, config, Pictures(1, 32, tuple("0123456789")), {"name": "digits"})


SETTINGS = sorted({type(recipe(name).config) for name in ADVERSARIAL}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("settings", SETTINGS)
def test_cures_are_settings_that_the_recipe_has_and_that_were_others(settings: type, tmp_path: Path) -> None:
    """Each is read by the recipe's own command line, and changes the settings to what it says.

    A cure that several recipes of the same settings have is read by one of them.
    """
    found: dict[tuple[str, ...], tuple[Run, str]] = {}
    for name in (name for name in ADVERSARIAL if type(recipe(name).config) is settings):
        run = run_of(name, tmp_path / "run")
        of_run = {verdict: cures(run, verdict) for verdict in TROUBLE}
        assert all(of_run[verdict] for verdict in TROUBLE if verdict != "class not heeded"), "always something to try"
        assert not cures(run, "healthy") and not cures(run, "too early to say")
        for cure in (cure for several in of_run.values() for cure in several):
            words = shlex.split(cure.command)
            assert words[:3] == ["tasvir", "train", name] and set(cure.words) <= set(words)
            found[cure.words] = run, cure.command
    for run, line in found.values():
        command = Train.from_words(shlex.split(line)[2:])
        assert command.out != run.folder and command.out.parent == tmp_path and command.seed == 3
        assert command.model != run.config.model and command.train == run.config.train


@pytest.mark.parametrize("name", ["gan", "dcgan", "wgan-gp", "cgan", "infogan"])
def test_cured_settings_can_be_built(name: str, tmp_path: Path) -> None:
    run = run_of(name, tmp_path / "run")
    run = replace(run, config=replace(run.config, model=recipe(name).tiny))
    for verdict in TROUBLE:
        for cure in cures(run, verdict):
            build(name, Train.from_words(shlex.split(cure.command)[2:]).model, Pictures(1, 8))


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].startswith("translation.")])
def test_what_a_translating_generator_is_told_is_known_and_has_a_cure(name: str, tmp_path: Path) -> None:
    if not hasattr(recipe(name).tiny, "game"):
        return
    told = set()
    for turn in tiny_model(name).turns(tiny_batch(size_for(name), 2, name), 0):
        told |= {term for term in turn.terms if turn.player.startswith("generator")} - {"game"}
    assert told and told <= set(TERMS)
    kind = recipe(name)
    foundation = usual_foundation(name)
    config = RunConfig(name, 0, DataConfig(), kind.train, kind.config, foundation)
    words = [" ".join(cure.words) for cure in cures(Run(tmp_path, config, Pictures(3, 64), {}), "discriminator won")]
    less = f"--model.adversarial {kind.config.adversarial / 2}"
    assert (words[0] == less) == name.endswith("rgan") or name == "cyclegan"


def test_what_is_so_already_is_no_cure(tmp_path: Path) -> None:
    fast = OptimizerConfig(learning_rate=4e-3, betas=(0.9, 0.999))
    plain = run_of("dcgan", tmp_path / "run", discriminator=fast)
    first = cures(plain, "discriminator won")[0]
    assert first.words == ("--model.discriminator.learning-rate", "0.0002"), "back to the recipe's own rate"
    assert ("--model.discriminator.betas", "0.5", "0.999") in [cure.words for cure in cures(plain, "oscillating")]
    words = [cure.words for cure in cures(plain, "discriminator won")]
    assert ("--model.game.r1", "1.0") in words and ("--model.game.name", "hinge") in words
    other = run_of("dcgan", tmp_path / "run", game=GameConfig("hinge", r1=2.0))
    words = [word for cure in cures(other, "discriminator won") for word in cure.words]
    assert "--model.game.r1" not in words and "hinge" not in words and "--model.discriminator.betas" not in words
    assert not cures(run_of("vae", tmp_path / "vae"), "collapsed")
    paired = next(cure for cure in cures(other, "collapsed") if "relativistic" in cure.words)
    assert paired.words == (
        *("--model.game.name", "relativistic", "--model.game.r2", "2.0", "--model.game.r1-every", "1"),
    ), "R2 as strong as R1, which stays what it was"
    batch = run_of("dcgan", tmp_path / "batch", discriminator_norm="batch")
    words = [word for verdict in TROUBLE for cure in cures(batch, verdict) for word in cure.words]
    assert "--model.game.r1" not in words and "--model.game.r2" not in words
    assert set(REMEDIES) == set(TROUBLE)


def test_a_resumed_run_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A discriminator that wins at once: said once, logged in every line, and the same after a break."""
    monkeypatch.setattr("tasvir.training.verdict.POINT", 10)
    tiny = recipe("gan").tiny
    unfair = replace(
        tiny, discriminator=OptimizerConfig(learning_rate=0.05), generator=OptimizerConfig(learning_rate=0.0)
    )

    def started(folder: Path, steps: int) -> tuple[Run, Any]:
        run, data = tiny_run("gan", folder, steps=steps, log_every=2, sample_every=0, checkpoint_every=1000)
        run = replace(run, config=replace(run.config, model=unfair))
        run.write_config()
        return run, data

    whole, data = started(tmp_path / "whole", 120)
    train(whole, data)
    told = capsys.readouterr().err
    assert told.count(PREFIX) == 1 and "discriminator won" in told and "\n  --model.game.r1 1.0\n" in told
    assert "each to be tried by itself in a new `tasvir train`" in told
    half, _ = started(tmp_path / "half", 106)
    train(half, data)
    capsys.readouterr()
    longer = replace(half, config=replace(half.config, train=replace(half.config.train, steps=120)))
    longer.write_config()
    train(longer, data)
    assert PREFIX not in capsys.readouterr().err, "it has been said"
    verdicts = [[(line["step"], line["verdict"]) for line in r.lines() if "verdict" in line] for r in (whole, longer)]
    assert verdicts[0] == verdicts[1] and verdicts[0][-1] == (120, "discriminator won")
    assert Referee.of(whole.lines()).verdict == Referee.of(longer.lines()).verdict
    healths = [sentence for line in whole.lines() for sentence in line.get("health", [])]
    assert len(healths) == 1 and healths[0].startswith(f"{PREFIX}discriminator won")


def test_the_report_tells_the_verdict_its_cures_and_what_was_before(tmp_path: Path) -> None:
    run, data = tiny_run("gan", tmp_path / "gan")
    train(run, data)
    (run.folder / "log.jsonl").write_text("")
    append(run.folder / "log.jsonl", *lines(60, batch_diversity=lambda i: 0.8 if i < 20 else 0.01))
    out = tmp_path / "page.html"
    report((run.folder,), out)
    page = out.read_text()
    assert "Collapsed" in page and "after 0.80 at step" in page and "too early to say" in page
    command = next(cure.command for cure in cures(run, "collapsed"))
    assert command.replace("'", "&#39;") in page and "--model.game.r1 1.0" in page
    for title in ("accuracy of the discriminator", "diversity", "gradient norm"):
        assert f"<b>{title}</b>" in page
    other, _ = tiny_run("vae", tmp_path / "vae")
    train(other, data)
    report((other.folder,), out)
    assert 'class="verdict' not in out.read_text()
    compare((run.folder, other.folder), out, as_json=False)
    assert out.read_text().count('class="verdict') == 1 and "Collapsed" in out.read_text()


# The best is kept by habit


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_recipes_keep_their_best(name: str) -> None:
    assert 0 < recipe(name).train.evaluate_every <= recipe(name).train.steps
    words = Train.from_words([name, "--data", "digits", "--train.evaluate-every", "0"])
    assert words.train.evaluate_every == 0


def by_habit(folder: Path, steps: int, every: int, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Run, Any]:
    habit = replace(recipe("gan"), train=replace(recipe("gan").train, evaluate_every=every))
    monkeypatch.setitem(__import__("tasvir.models.adversarial.gan", fromlist=["RECIPES"]).RECIPES, "gan", habit)
    return tiny_run("gan", folder, steps=steps, evaluate_every=every, evaluate_number=40, **settings)


def test_the_habit_measures_at_its_steps_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasvir.metrics.watch.SHARE", 1.0)
    run, data = by_habit(tmp_path / "run", 6, 2, monkeypatch)
    watch = _watch(run, data)
    train(run, data, measure=watch)
    assert sorted({line["passport"]["step"] for line in run.lines("measurements.jsonl")}) == [2, 4, 6]
    assert run.best() is not None
    short, _ = by_habit(tmp_path / "short", 4, 2000, monkeypatch)
    train(short, data, measure=_watch(short, data))
    assert {line["passport"]["step"] for line in short.lines("measurements.jsonl")} == {4}
    best = run.best()
    assert best is not None and run.better(best.step) == "" and f"step {best.step}: --step best" in run.better(99)


def test_the_habit_leaves_out_checkpoints_while_measuring_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasvir.metrics.watch.SHARE", 1e-6)
    run, data = by_habit(tmp_path / "run", 8, 2, monkeypatch)
    train(run, data, measure=_watch(run, data))
    assert sorted({line["passport"]["step"] for line in run.lines("measurements.jsonl")}) == [2, 8]


def test_a_habit_that_cannot_be_is_said_and_never_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = by_habit(tmp_path / "run", 4, 2, monkeypatch)
    none = replace(data, test=replace(data.test, images=data.test.images[:0], labels=data.test.labels[:0]))
    assert _watch(run, none) is None
    said = capsys.readouterr().err
    why = "there are no held-out pictures to measure with, and 10 are needed"
    assert said == f"No best checkpoint will be kept: {why}.\n"
    assert train(run, none) == "done"


def test_features_that_fail_end_the_habit_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tasvir.config import Refused
    from tasvir.metrics import evaluate

    monkeypatch.setattr("tasvir.metrics.watch.SHARE", 1.0)

    def broken(*_: object, **__: object) -> list:
        raise Refused("No features.")

    monkeypatch.setattr(evaluate, "of_run", broken)
    run, data = by_habit(tmp_path / "run", 6, 2, monkeypatch)
    assert train(run, data, measure=_watch(run, data)) == "done"
    assert capsys.readouterr().err.count("was not measured: No features.") == 1
