"""The loop's parts: schedules, optimizers, averages, precision, health; and what happens when things go wrong."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_batch, tiny_model, tiny_run, tiny_state
from tasvir import runs
from tasvir.config import OptimizerConfig, Refused
from tasvir.core import Noise, Player, Turn, draw_noise
from tasvir.runs import OutOfSpace, Run
from tasvir.spaces import linear, spherical
from tasvir.training import optimizers
from tasvir.training.averaging import Average
from tasvir.training.health import RULES, Health, relative_diversity
from tasvir.training.loop import Stopped, train
from tasvir.training.precision import LossScale, choose_device, choose_dtype
from tasvir.training.state import mixed_seed

OPTIMIZERS = pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])


def test_schedules_are_pure_functions_of_the_step() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup=10)
    rates = [optimizers.learning_rate(config, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)]) and set(rates[10:]) == {1.0}
    falling = replace(config, schedule="linear")
    assert optimizers.learning_rate(falling, 60, 110) == pytest.approx(0.5)
    cosine = replace(config, schedule="cosine")
    assert optimizers.learning_rate(cosine, 35, 110) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert optimizers.learning_rate(cosine, 110, 110) == pytest.approx(0.0)


def player_of(name: str, **settings: object) -> Player:
    torch.manual_seed(0)
    return Player((torch.nn.Linear(3, 1),), OptimizerConfig(name=name, learning_rate=0.1, **settings))  # type: ignore[arg-type]


def descend(player: Player, optimizer: torch.optim.Optimizer, factor: float = 1.0) -> torch.Tensor:
    loss = factor * player.networks[0](torch.ones(4, 3)).square().mean()
    scale = LossScale(torch.float32, torch.device("cpu"))
    return optimizers.descend(Turn("p", {"loss": loss}), player, optimizer, 0.1, scale)


@OPTIMIZERS
def test_descend_is_the_textbook_step(name: str) -> None:
    player = player_of(name, weight_decay=0.01)
    optimizer = optimizers.build(player)
    twin = torch.nn.Linear(3, 1)
    twin.load_state_dict(player.networks[0].state_dict())
    textbook = {
        "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.01, foreach=False),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.01, foreach=False),
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.999, weight_decay=0.01, foreach=False),
    }[name](twin.parameters())
    for _ in range(4):
        assert not descend(player, optimizer)
        textbook.zero_grad()
        twin(torch.ones(4, 3)).square().mean().backward()
        textbook.step()
        assert torch.allclose(player.networks[0].weight, twin.weight, atol=1e-6)


@OPTIMIZERS
@pytest.mark.parametrize("first", [True, False])
def test_an_update_that_is_not_finite_changes_nothing(name: str, first: bool) -> None:
    player = player_of(name)
    optimizer = optimizers.build(player)
    if not first:
        descend(player, optimizer)
    before = [p.clone() for p in player.parameters()]
    state = [v.clone() for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    assert descend(player, optimizer, float("nan"))
    assert all(torch.equal(p, b) for p, b in zip(player.parameters(), before, strict=True))
    if not first:
        after = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
        assert all(torch.equal(a, b) for a, b in zip(after, state, strict=True))
    assert not descend(player, optimizer)
    assert not torch.equal(player.parameters()[0], before[0])


def test_clipping_bounds_the_norm() -> None:
    player = player_of("adam", clip=1e-3)
    optimizer = optimizers.build(player)
    norms = []
    step = optimizer.step
    optimizer.step = lambda: (
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in player.parameters()])) or step()
    )  # type: ignore[method-assign,assignment]
    descend(player, optimizer)
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-3)


def test_the_average_is_exponential_and_the_young_one_forgets_the_start() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 0.0)
    average = Average(model, 0.9)
    expected = 0.0
    for step in range(200):
        torch.nn.init.constant_(model.weight, float(step))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.model.weight) == pytest.approx(expected, rel=1e-5)


def test_float16_scales_its_losses_and_finds_its_scale(tmp_path: Path) -> None:
    state = tiny_state("vae", tmp_path / "run", precision="float16")
    state.scale.scale.fill_(2.0**120)  # overflows at first
    before = [p.clone() for p in state.model.parameters()]
    state.advance(tiny_batch(8))
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    scale = float(state.scale.scale)
    assert scale == 2.0**119
    state.scale.scale.fill_(1024.0)
    plain = tiny_state("vae", tmp_path / "plain", channels_last=False)
    plain.step = state.step
    for _ in range(3):
        values, expected = state.advance(tiny_batch(8)), plain.advance(tiny_batch(8))
        assert float(values["vae/reconstruction"]) == pytest.approx(float(expected["vae/reconstruction"]), rel=0.02)


def test_precision_follows_the_hardware() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("float32", cpu) == torch.float32
    fast = "avx512_bf16" in (Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else "")
    if fast:
        assert choose_dtype("auto", cpu) == torch.bfloat16
    with pytest.raises(Refused, match="no device"):
        choose_device("cuda:99" if not torch.cuda.is_available() else "nonsense")


def test_noise_of_a_seed_is_its_own_and_has_unit_variance() -> None:
    three, one = Noise([1, 2, 3]), Noise([2])
    assert torch.equal(three.draw(5)[1], one.draw(5)[0])
    assert torch.equal(three.draw(5)[1], one.draw(5)[0]) and not torch.equal(three.draw(5), Noise([1, 2, 3]).draw(5))
    for kind in ("normal", "uniform", "exponential"):
        values = draw_noise(kind, (200_000,), torch.Generator().manual_seed(0))
        assert float(values.mean()) == pytest.approx(0, abs=0.01) and float(values.var()) == pytest.approx(1, abs=0.02)
    assert float(draw_noise("uniform", (1000,)).abs().max()) <= 3**0.5
    assert float(draw_noise("exponential", (1000,)).min()) >= -1


def test_paths_between_latents() -> None:
    start, end = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    three, seven = (torch.linspace(0, 1, steps)[:, None] for steps in (3, 7))
    walk = spherical(start, end, three)
    assert torch.allclose(walk[1], torch.tensor([math.sqrt(2), math.sqrt(2)]), atol=1e-6)
    assert torch.allclose(walk.norm(dim=1), torch.full((3,), 2.0))
    assert torch.allclose(linear(start, end, three)[1], torch.tensor([1.0, 1.0]))
    for path in (linear, spherical):
        assert torch.allclose(path(start, end, seven)[[0, -1]], torch.cat([start, end]), atol=1e-6)
        assert torch.isfinite(path(start, -start, seven)).all()
        assert torch.isfinite(path(start, 0 * start, seven)).all()


def test_seeds_mix() -> None:
    seeds = {mixed_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**64 for seed in seeds)


class Poison:
    """Makes a run's model give NaN losses from some step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bad):  # type: ignore[no-untyped-def]
        from tasvir.models.autoencoders.vae import VAE

        turns = VAE.turns

        def poisoned(model, batch, step):  # type: ignore[no-untyped-def]
            for turn in turns(model, batch, step):
                if bad(step):
                    turn.terms = {name: term * float("nan") for name, term in turn.terms.items()}
                yield turn

        monkeypatch.setattr(VAE, "turns", poisoned)


def test_a_few_bad_updates_are_skipped_counted_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Poison(monkeypatch, lambda step: step in (2, 3))
    run, data = tiny_run("vae", tmp_path / "run", steps=8, patience=3)
    assert train(run, data) == "done"
    assert max(line.get("skipped", 0) for line in run.lines()) == 2
    assert "NaN" not in (run.folder / "log.jsonl").read_text(), "NaN is not JSON"
    assert any("not finite" in sentence for line in run.lines() for sentence in line.get("health", []))
    tensors = run.latest().tensors("model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())


def test_many_bad_updates_go_back_once_then_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    Poison(monkeypatch, lambda step: seen.append(step) or step >= 5)
    run, data = tiny_run("vae", tmp_path / "run", steps=40, patience=4)
    with pytest.raises(Stopped, match="lower learning rate"):
        train(run, data)
    assert seen.count(4) == 2, "went back to the checkpoint of step 3 once"
    assert run.latest().step == 3, "no checkpoint was written while updates were bad"
    said = [sentence for line in run.lines() for sentence in line.get("health", [])]
    assert any("went back to step 3" in sentence for sentence in said)


def test_going_back_lowers_the_rate_and_can_save_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    Poison(monkeypatch, lambda step: seen.append(step) or (step >= 5 and seen.count(3) == 1))
    run, data = tiny_run("vae", tmp_path / "run", steps=20, patience=4, log_every=1)
    assert train(run, data) == "done"
    assert run.latest().state()["rate_factor"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.series)
def test_health_speaks_once_after_enough_lines_and_again_after_recovery(rule) -> None:  # type: ignore[no-untyped-def]
    sick = next(value for value in (0.0, 1e9) if rule.bad(value))
    well = next(value for value in (0.0, 1e9, 0.5) if not rule.bad(value))
    health, name = Health(), f"player/{rule.series}"
    for _ in range(rule.lines - 1):
        assert health.check({name: sick}) == []
    assert health.check({name: sick}) == [rule.sentence] and health.check({name: sick}) == []
    health.check({name: well})
    assert [health.check({name: sick}) for _ in range(rule.lines)][-1] == [rule.sentence]


def test_a_discriminator_that_has_won_is_said() -> None:
    from tasvir.losses.games import GameConfig
    from tasvir.models.adversarial.gan import watched

    game = GameConfig("hinge").played()
    watch = watched(game, torch.full((4,), 9.0), torch.full((4,), -9.0))
    assert float(watch["won"]) == float(watch["real_accuracy"]) == float(watch["fake_accuracy"]) == 1.0
    assert float(watched(game, torch.full((4,), -9.0), torch.full((4,), -9.0))["real_accuracy"]) == 0.0


def test_samples_that_are_alike_have_no_diversity() -> None:
    real = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), np.uint8)
    assert relative_diversity(real, real) == pytest.approx(1)
    assert relative_diversity(np.repeat(real[:1], 20, axis=0), real) == 0


def test_a_second_training_in_one_folder_is_refused(tmp_path: Path) -> None:
    run, _ = tiny_run("vae", tmp_path / "run")
    with run.locked(), pytest.raises(Refused, match="Another training"), Run.open(run.folder).locked():
        pass
    with run.locked():
        pass


@pytest.mark.parametrize("file", ["model.safetensors", "state.json"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = tiny_run("vae", tmp_path / "run", steps=3)
    train(run, data)
    longer = replace(run, config=replace(run.config, train=replace(run.config.train, steps=9)))
    write = runs._write_synced

    def full(path: Path, content: bytes) -> None:
        if path.name == file:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(runs, "_write_synced", full)
    with pytest.raises(OutOfSpace, match="the disk is full.*\n.*Checkpoint 3 is whole.*resume"):
        train(longer, data)
    monkeypatch.undo()
    assert [c.step for c in run.checkpoints()] == [0, 3] and not list(run.checkpoint_folder.glob(".*"))
    assert train(longer, data) == "done"


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    run, data = tiny_run("vae", tmp_path / "run")
    train(run, data)
    newest = run.latest()
    assert newest.step == 6
    path = newest.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert run.latest().step == 3 and "model.safetensors was cut short" in run.damaged()[0]
    for other in run.checkpoints():
        (other.folder / "state.json").unlink()
    with pytest.raises(Refused, match="no checkpoint that can be read"):
        run.latest()


def test_a_run_folder_holds_nothing_that_executes(tmp_path: Path) -> None:
    run, data = tiny_run("gan", tmp_path / "run", tensorboard=True)
    train(run, data)
    kinds = {path.suffix for path in run.folder.rglob("*") if path.is_file() and "events" not in path.parts}
    assert kinds <= {".yaml", ".safetensors", ".json", ".jsonl", ".png", ""}
    assert list((run.folder / "events").iterdir())
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace("recipe: gan", "recipe: !!python/object/apply:os.system ['true']"))
    with pytest.raises(Refused, match="cannot be read"):
        Run.open(run.folder)


def test_log_goes_on_where_the_checkpoint_is(tmp_path: Path) -> None:
    run, data = tiny_run("vae", tmp_path / "run", steps=6)
    train(run, data)
    whole = [line["step"] for line in run.lines() if "began" not in line]
    for checkpoint in run.checkpoints():
        if checkpoint.step > 3:
            __import__("shutil").rmtree(checkpoint.folder)
    with (run.folder / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "cut')
    train(run, data)
    assert [line["step"] for line in run.lines() if "began" not in line] == whole
    assert all(json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines())


def test_a_forward_pass_that_overflows_leaves_statistics_and_average_whole(tmp_path: Path) -> None:
    """Batch norm's running statistics move in the forward pass, before anyone knows that the update will be skipped."""
    state = tiny_state("vae", tmp_path / "run")
    state.advance(tiny_batch(8))
    before = {name: tensor.clone() for name, tensor in state.model.named_buffers()}
    poisoned = tiny_batch(8)
    poisoned.image[0] = float("inf")
    state.advance(poisoned)
    assert float(state.skipped) == 1
    for name, tensor in state.model.named_buffers():
        assert torch.equal(tensor, before[name]) or "num_batches" in name, name
    state.advance(tiny_batch(8))
    for tensor in [*state.model.state_dict().values(), *state.drawn.state_dict().values()]:
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "mse"])
@pytest.mark.parametrize("kind", ["ae", "vae"])
def test_every_likelihood_learns_with_its_own_scale(kind: str, name: str, tmp_path: Path) -> None:
    """Named without a scale, a likelihood still moves the reconstructions: a third off the error in 150 steps."""
    run, data = tiny_run(kind, tmp_path / "run", steps=150, batch_size=32, sample_every=0, checkpoint_every=150)
    run = replace(run, config=replace(run.config, model=replace(run.config.model, reconstruction=name, latent_size=8)))
    train(run, data)
    from tasvir.drawing import Opened

    real = data.test.images
    error = np.square(Opened(run).reconstructions(real).astype(float) - real).mean()
    assert error < 0.67 * np.square(np.full_like(real, 128).astype(float) - real).mean()


def test_r1_turns_come_every_so_many_steps_with_their_weight(tmp_path: Path) -> None:
    from tasvir.losses.games import GameConfig, zero_centered_penalty
    from tasvir.models import recipe

    found = recipe("dcgan")
    config = replace(found.tiny, game=GameConfig(r1=2.0, r1_every=3))
    model = found.model(config, tiny_model("dcgan", 8).pictures)
    batch = tiny_batch(8)
    assert not model.players()["discriminator"].compiled
    for step in range(7):
        turns = {"r1" if "r1" in turn.terms else turn.player: turn for turn in model.turns(batch, step)}
        assert ("r1" in turns) == (step % 3 == 0)
        if "r1" in turns:
            expected = 2.0 * 3 * zero_centered_penalty(model.discriminator, batch.image)
            assert float(turns["r1"].terms["r1"].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"precision": "bfloat16"}, {"precision": "float16"}, {"channels_last": False}, {"average": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("name", ["vae", "dcgan"])
def test_resume_is_exact_with_other_settings(name: str, settings: dict, tmp_path: Path) -> None:
    """Also with warmup, a falling learning rate, mirrored pictures and R1."""
    from tasvir.config import DataConfig
    from tasvir.losses.games import GameConfig

    optimizer = OptimizerConfig(learning_rate=1e-3, warmup=2, schedule="cosine", clip=1.0)
    runs_ = []
    for folder, stops in (("whole", (6,)), ("halves", (3, 6))):
        run, data = tiny_run(name, tmp_path / folder, steps=6, **settings)
        model = run.config.model
        if name == "vae":
            model = replace(model, optimizer=optimizer)
        else:
            model = replace(model, generator=optimizer, game=GameConfig(r1=1.0, r1_every=2))
        flipped = DataConfig(**{**vars(run.config.data), "flip": True})
        run = replace(run, config=replace(run.config, model=model, data=flipped))
        for stop in stops:
            if stop != 6:  # stop as Ctrl-C does, so that the schedule is of six steps
                import tasvir.training.loop as loop

                original = loop.Keeper.log

                def interrupt(keeper, means, original=original):  # type: ignore[no-untyped-def]
                    original(keeper, means)
                    if keeper.state.step == 2:
                        import os
                        import signal

                        os.kill(os.getpid(), signal.SIGTERM)

                loop.Keeper.log = interrupt  # type: ignore[method-assign]
                try:
                    assert train(run, data) == "interrupted"
                finally:
                    loop.Keeper.log = original  # type: ignore[method-assign]
                assert run.latest().step in (2, 3)
            else:
                assert train(run, data) == "done"
        runs_.append(run)
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = runs_[0].latest().tensors(file), runs_[1].latest().tensors(file)
        assert expected.keys() == found.keys()
        for key in expected:
            assert torch.equal(expected[key], found[key]), key
