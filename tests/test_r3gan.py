"""R3GAN: its game in closed form, branches that start at zero, shapes, resampling."""

import math
from dataclasses import replace
from math import log1p

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_batch
from tasvir.config import Pictures, Refused
from tasvir.losses.games import GameConfig
from tasvir.models import recipe
from tasvir.models.adversarial.r3gan import R3GAN, Activation, Block, Convolution, R3GANConfig, Resampling

SMALL = R3GANConfig(latent_size=4, widths=(16, 8), blocks=1, group_width=8)


class Linear(nn.Module):
    """Scores that are linear in the picture, so that the gradient is the weight, everywhere."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.weight).sum((1, 2, 3))


@pytest.mark.parametrize("every", [1, 4])
def test_the_game_in_closed_form(every: int) -> None:
    """The game with both penalties, γ/2 ‖w‖² each, where D is linear; as a part of the turn, or in one of its own."""
    game = GameConfig("relativistic", r1=0.5, r2=2.0, r1_every=every)
    torch.manual_seed(0)
    model = R3GAN(replace(SMALL, game=game), Pictures(1, 8))
    weight = torch.randn(1, 8, 8) * 0.1
    model.discriminator = Linear(weight)
    batch = tiny_batch(8, 5)
    turns = list(model.turns(batch, 0))
    assert [turn.player for turn in turns] == ["discriminator"] * (1 if every == 1 else 2) + ["generator"]
    terms = {name: term for turn in turns[:-1] for name, term in turn.terms.items()}
    squared = float(weight.square().sum())
    assert float(terms["r1"]) == pytest.approx(every * 0.5 / 2 * squared, rel=1e-5)
    assert float(terms["r2"]) == pytest.approx(every * 2.0 / 2 * squared, rel=1e-5)
    by_weight = torch.autograd.grad(terms["r1"], model.discriminator.weight, retain_graph=True)[0]
    assert torch.allclose(by_weight, every * 0.5 * weight, atol=1e-6), "the penalty descends the weight"
    torch.manual_seed(1)
    turn = next(model.turns(batch, 1))
    torch.manual_seed(1)
    fake = model.generate(model.draw(5))
    apart = [float((r * weight).sum() - (f * weight).sum()) for r, f in zip(batch.image, fake, strict=True)]
    expected = sum(log1p(math.exp(-distance)) for distance in apart) / 5
    assert float(turn.terms["game"]) == pytest.approx(expected, rel=1e-4)
    torch.manual_seed(1)
    *_, last = model.turns(batch, 1)
    expected = sum(log1p(math.exp(distance)) for distance in apart) / 5
    assert float(last.terms["game"]) == pytest.approx(expected, rel=1e-4)


def test_penalties_of_the_turns_own_scores_are_those_of_scores_made_again() -> None:
    """One forward pass serves the game and the penalties: with the same numbers and gradients as two."""
    torch.manual_seed(0)
    model, batch = R3GAN(SMALL, Pictures(1, 8)), tiny_batch(8, 5)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    game = model.config.game
    torch.manual_seed(1)
    turn = next(model.turns(batch, 0))
    torch.manual_seed(1)
    fake = model.generate(model.draw(5)).detach()
    again = game.penalties(0, lambda image: model.judge(image)[0], batch.image, fake)
    weights = list(model.discriminator.parameters())
    for name in ("r1", "r2"):
        assert float(turn.terms[name]) == pytest.approx(float(again[name]), rel=1e-5) and float(again[name]) > 0
        one, other = (
            torch.autograd.grad(term, weights, allow_unused=True, retain_graph=True)
            for term in (turn.terms[name], again[name])
        )
        assert sum(gradient is not None for gradient in one) > 4
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or torch.allclose(mine, theirs, rtol=1e-4, atol=1e-7)
    assert not batch.image.requires_grad


def test_branches_start_at_zero_and_the_rest_as_fixup_says() -> None:
    torch.manual_seed(0)
    block = Block(R3GANConfig(), 64, blocks=16)
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x)
    wide, grouped, last = (layer for layer in block.branch if isinstance(layer, Convolution))
    assert wide.weight.shape == (128, 64, 1, 1) and grouped.weight.shape == (128, 16, 3, 3) and not last.weight.any()
    gain = math.sqrt(2 / 1.04) / 2  # 16 blocks: 16 to the power of -1/4
    assert float(wide.weight.detach().std()) == pytest.approx(gain / 8, rel=0.05)
    assert float(grouped.weight.detach().std()) == pytest.approx(gain / 12, rel=0.05)
    assert all(not layer.bias.any() for layer in block.branch if isinstance(layer, Activation))


@pytest.mark.parametrize(("small", "large"), [(4, 8), (4, 7), (7, 14)])
def test_resampling_is_bilinear(small: int, large: int) -> None:
    """Flat pictures stay flat away from the border, a ramp stays a ramp, and down is up's transpose, scaled."""
    up, down = Resampling(1, large, larger=True), Resampling(1, small, larger=False)
    ramp = torch.arange(small).float().expand(1, 1, small, small)
    larger = up(ramp)
    assert larger.shape == (1, 1, large, large) and down(larger).shape == ramp.shape
    assert torch.allclose(larger[0, 0, 3, : 2 * small - 2], torch.arange(2 * small - 2) / 2)
    assert torch.allclose(down(torch.ones(1, 1, large, large))[..., 1:-1, 1:-1], torch.ones(small - 2, small - 2))
    x, y = torch.randn(1, 1, small, small), torch.randn(1, 1, large, large)
    assert float((up(x) * y).sum()) == pytest.approx(4 * float((x * down(y)).sum()), rel=1e-4)


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_shapes_at_each_resolution(size: int) -> None:
    config = replace(SMALL, widths=(32, 16, 8))
    model = R3GAN(config, Pictures(3, size))
    shapes, x = [], torch.zeros(2, 4)
    for layer in model.generator:
        x = layer(x)
        if isinstance(layer, Block):
            shapes.append(tuple(x.shape[1:3]))
    sides = {8: [4, 8], 28: [4, 7, 14, 28], 32: [4, 8, 16, 32], 64: [4, 8, 16, 32, 64]}[size]
    assert shapes == list(zip([32, 16, 8, 8, 8], sides, strict=False))
    assert x.shape == (2, 3, size, size) and model.discriminator(x).shape == (2,)
    assert not [layer for layer in model.modules() if "Norm" in type(layer).__name__]


def test_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Refused, match="20 × 2 channels wide cannot be divided into groups of 16"):
        R3GAN(replace(SMALL, widths=(20,), group_width=16), Pictures(1, 8))
    unused = replace(SMALL, widths=(16, 8, 20), group_width=16)
    R3GAN(unused, Pictures(1, 8))
    with pytest.raises(Refused, match="20 × 2 channels"):
        R3GAN(unused, Pictures(1, 16))


def test_groups_and_blocks_of_the_defaults_at_64_px() -> None:
    """96 groups where the maps have 768 channels, 2 blocks at each of five resolutions."""
    with torch.device("meta"):
        model = recipe("r3gan").model(recipe("r3gan").config, Pictures(3, 64))
    blocks = [layer for layer in model.generator if isinstance(layer, Block)]
    assert [block.branch[2].groups for block in blocks] == [96] * 8 + [48] * 2
