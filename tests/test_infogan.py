"""InfoGAN: its bound in closed form, codes in their places, what categories stand for, and learning without labels."""

import math
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Normal

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir import latent_space
from tasvir.cli import main
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Noise, abilities, truncated
from tasvir.drawing import Opened
from tasvir.metrics.classification import assigned, categories_of
from tasvir.metrics.evaluate import Protocol, of_run
from tasvir.models import build, recipe
from tasvir.models.adversarial.infogan import InfoGAN, gaussian_nats, stages, usage
from tasvir.runs import Run
from tasvir.spaces import linear, random_latents, spherical
from tasvir.training.loop import train
from tasvir.training.state import State


def made(**settings: object) -> InfoGAN:
    torch.manual_seed(0)
    return build("infogan", replace(recipe("infogan").tiny, **settings), Pictures(1, 8))  # type: ignore[return-value]


def test_latents_are_noise_and_codes() -> None:
    model = made(categories=(3, 5), continuous=2)
    assert model.latent_size == 4 + 3 + 5 + 2
    assert [(code.start, code.size) for code in model.latent_codes] == [(4, 3), (7, 5), (12, 1), (13, 1)]
    for latent in (model.draw(2000), model.latents(Noise(range(2000)))):
        assert latent.shape == (2000, 14)
        for code in model.latent_codes[:2]:
            part = latent[:, code.start : code.start + code.size]
            assert set(part.unique().tolist()) == {0.0, 1.0} and (part.sum(1) == 1).all()
            assert (part.mean(0) - 1 / code.size).abs().max() < 0.05, "all categories are as likely"
        continuous = latent[:, 12:]
        assert continuous.abs().max() <= 1 and (continuous.var(0) - 1 / 3).abs().max() < 0.03
        assert abs(float(latent[:, :4].var()) - 1) < 0.05
    assert torch.equal(model.latents(Noise([7]))[0], model.latents(Noise([3, 7]))[1])


def test_gaussian_nats_are_torchs() -> None:
    value, mean, log_variance = torch.randn(3, 6, 2)
    expected = -Normal(mean, (0.5 * log_variance).exp()).log_prob(value)
    assert torch.allclose(gaussian_nats(value, mean, log_variance), expected, atol=1e-5)


@pytest.mark.parametrize("spread", ["fixed", "learned"])
def test_terms_are_the_negative_log_likelihood_of_the_codes(spread: str) -> None:
    """Of generated pictures, in the turns of both players, with their weights."""
    model = made(spread=spread, information=2.0, continuous_information=0.3)
    latent = model.draw(6)
    score, said = model.judge(model.generate(latent))
    assert score.shape == (6,) and (said.log_variance == 0).all() == (spread == "fixed")
    chosen = said.logits[0].log_softmax(1)[torch.arange(6), latent[:, 4:7].argmax(1)]
    continuous = -Normal(said.mean, (0.5 * said.log_variance).exp()).log_prob(latent[:, 7:]).sum(1)
    for player, real in (("discriminator", said), ("generator", None)):
        terms, watch = model.further(player, latent, None, said, real)
        assert torch.allclose(terms["categories"], -2 * chosen.mean(), atol=1e-5)
        assert torch.allclose(terms["continuous"], 0.3 * continuous.mean(), atol=1e-5)
        assert bool(watch) == (real is not None)


def test_the_bound_is_the_entropy_where_q_is_certain_and_nothing_where_it_does_not_know() -> None:
    """E[log Q(c|x)] + H(c) (equation 5): log K nats where Q is right, 0 where it says the same of all."""
    model = made(continuous=0)
    latent = model.draw(9)
    entropy = math.log(3)
    for said, expected in ((1e4 * latent[:, 4:7], entropy), (torch.zeros(9, 3), 0.0)):
        terms, _ = model.further("generator", latent, None, model.told(said), None)
        assert float(entropy - terms["categories"]) == pytest.approx(expected, abs=1e-5)


def test_information_reaches_each_player() -> None:
    """Q and the trunk learn from detached pictures in the discriminator's turn, the generator in its own."""
    model = made()
    for turn in model.turns(tiny_batch(8), 0):
        own = model.players()[turn.player].parameters()
        found = torch.autograd.grad(turn.terms["categories"] + turn.terms["continuous"], own, allow_unused=True)
        parts = {name for name, parameter in model.named_parameters() for p, g in zip(own, found, strict=True)
                 if p is parameter and g is not None and g.abs().sum() > 0}  # fmt: skip
        if turn.player == "discriminator":
            assert any("trunk" in name for name in parts) and any("codes" in name for name in parts)
            assert not any("score" in name for name in parts)
        else:
            assert any("generator" in name for name in parts)


def test_settings_of_codes() -> None:
    only = made(categories=(0,), continuous=3)
    assert only.latent_size == 7 and only.categorize(torch.zeros(2, 1, 8, 8)).shape == (2, 0)
    assert set(only.further("generator", only.draw(2), None, only.judge(torch.zeros(2, 1, 8, 8))[1], None)[0]) == {
        "continuous"
    }
    for settings in ({"categories": (0,), "continuous": 0}, {"categories": (1,)}):
        with pytest.raises(Refused, match=r"codes|code of one category"):
            made(**settings)
    assert made(categories=(2, 4), continuous=0).eval().sample(Noise([1, 2])).shape == (2, 1, 8, 8)
    assert "categorize" in abilities(only) and "classify" not in abilities(only)


def test_truncation_is_of_the_noise_only() -> None:
    model = made().eval()
    latent = model.latents(Noise(range(5)))
    found = model.truncate(latent, 0.5)
    assert torch.equal(found[:, 4:], latent[:, 4:]) and torch.allclose(found[:, :4], truncated(latent[:, :4], 0.5))
    with torch.no_grad():
        assert torch.allclose(model.sample(Noise(range(5)), truncation=0.5), model.decode(found), atol=1e-6)


@pytest.mark.parametrize("path", [linear, spherical])
def test_walks_go_through_shares_of_two_categories(path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = made().eval()
    ends = random_latents(model, Noise([0, 1, 2, 3, 4, 5]))
    seen = []
    monkeypatch.setattr(model, "generate", lambda latent: seen.append(latent) or torch.zeros(len(latent), 1, 8, 8))
    model.decode(path(ends[:3], ends[3:], torch.tensor([[0.5]])))
    model.decode(ends)
    assert torch.allclose(seen[0][:, 4:7].sum(1), torch.ones(3)) and seen[0][:, 4:7].min() >= 0
    assert torch.allclose(seen[1], ends), "what the model draws itself is decoded as it is"


def test_usage() -> None:
    certain = 1e4 * torch.eye(4)
    assert float(usage(certain)) == pytest.approx(1) and float(usage(certain[:1].repeat(8, 1))) == pytest.approx(0.25)


def test_networks_are_the_papers_for_mnist() -> None:
    """Appendix C.1: 74 numbers to the generator; 7×7 maps of 128 channels; Q's head of 128."""
    model = build("infogan", recipe("infogan").config, Pictures(1, 28))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert model.latent_size == 74 and stages(28) == [28, 14, 7] and stages(64) == [64, 32, 16, 8]
    assert shapes["generator.0.weight"] == (1024, 74) and shapes["generator.3.weight"] == (7 * 7 * 128, 1024)
    assert shapes["discriminator.trunk.0.weight"][:2] == (64, 1) and shapes["discriminator.codes.0.weight"] == (
        128,
        1024,
    )
    assert shapes["discriminator.codes.3.weight"] == (12, 128)


# --- what categories stand for ---


def test_assignment_is_the_best_one_to_one() -> None:
    """Against all permutations; with more categories than classes, some stand for none."""
    generator = np.random.default_rng(0)
    for _ in range(5):
        category, label = generator.integers(0, 5, 300), generator.integers(0, 5, 300)
        found = (assigned(category, label, 5, 5)[category] == label).mean()
        assert found == max((np.array(order)[category] == label).mean() for order in permutations(range(5)))
    meaning = assigned(np.array([0, 1, 2, 2, 1]), np.array([1, 0, 1, 1, 0]), 3, 2)
    assert meaning.tolist() == [-1, 0, 1]


def test_code_accuracy_and_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose categories are the classes in another order has 1; one that says the same of all, 1/K or so."""
    run, data = tiny_run("infogan", tmp_path / "run")
    train(run, data)
    opened = Opened(run)
    labels = torch.from_numpy(np.asarray(data.test.labels))
    places = iter(range(0, 10**6, 64))

    def shifted(image: torch.Tensor) -> torch.Tensor:
        start = next(places)
        return 9.0 * torch.nn.functional.one_hot((labels[start : start + len(image)] + 3) % 10, 10)

    monkeypatch.setattr(opened.model, "categorize", shifted)
    (line,) = of_run(run.folder, Protocol(("code-accuracy",)), opened=opened)
    assert line["value"] == 1 and "0 is 7" in line["note"] and line["passport"]["categories"] == 10
    monkeypatch.setattr(opened.model, "categorize", lambda image: torch.eye(10)[:1].repeat(len(image), 1))
    (line,) = of_run(run.folder, Protocol(("code-accuracy",)), opened=opened)
    assert line["value"] == np.bincount(data.test.labels).max() / len(data.test.labels)
    seeds = range(5, 25)
    asked = opened.model.latents(Noise(list(seeds)))[:, 4:7].argmax(1)
    assert categories_of(opened.model, seeds).tolist() == asked.tolist()


def test_traversals_change_one_code(tmp_path: Path) -> None:
    run, data = tiny_run("infogan", tmp_path / "run")
    train(run, data)
    opened = Opened(run)
    categories, continuous = latent_space.code_traversals(opened, 4, 5)
    assert categories.images.shape[0] == 4 * 3 and categories.columns == ["0", "1", "2"]
    assert len(categories.rows) == 4 and continuous.images.shape[0] == 2 * 3 * 5
    assert continuous.columns == ["−2", "−1", "0", "1", "2"] and continuous.rows[1] == "code 0, category 1"
    latent = random_latents(opened.model, Noise([0]))
    latent[:, 7:] = torch.tensor([-2.0, 0.0])
    latent[:, 4:7] = torch.tensor([0.0, 1.0, 0.0])
    assert np.array_equal(opened.decoded(latent.numpy())[0], continuous.images[5])
    with pytest.raises(SystemExit) as done:
        main(["traverse", str(run.folder), "--out", str(tmp_path / "t.png"), "--number", "3"])
    assert done.value.code == 0
    assert Image.open(tmp_path / "t.png").height > 9 * 48
    with pytest.raises(Refused, match="has no codes"):
        latent_space.code_traversals(Opened(tiny_trained("dcgan", tmp_path / "dcgan")))


def tiny_trained(name: str, folder: Path) -> Run:
    run, data = tiny_run(name, folder)
    train(run, data)
    return run


def test_categories_are_found_without_labels(tmp_path: Path) -> None:
    """Dark pictures and bright ones, with noise: a few steps, and the two categories are the two kinds."""
    steps = 200
    run, _ = tiny_run("infogan", tmp_path / "run", steps=steps)
    torch.manual_seed(0)
    config = replace(recipe("infogan").tiny, categories=(2,), continuous=0, width=16, dense=32)
    state = State(recipe("infogan").model(config, Pictures(1, 8)), run, torch.device("cpu"))
    label = torch.arange(64) % 2
    image = (label.view(-1, 1, 1, 1) - 0.5 + 0.2 * torch.randn(64, 1, 8, 8)).clamp(-1, 1)
    for _ in range(steps):
        state.advance(Batch(image))
    with torch.no_grad():
        found = state.model.eval().categorize(image).argmax(1)
    agreed = (found == label).float().mean()
    assert max(float(agreed), 1 - float(agreed)) >= 0.9


def test_tiny_model_is_unconditional() -> None:
    assert not tiny_model("infogan").conditional and tiny_model("infogan").needs == ()
