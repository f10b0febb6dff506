"""StyleGAN2's pieces against formulas written plainly, its regularizations in closed form, and style mixing."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir import mixing
from tasvir.cli import main
from tasvir.config import Pictures, Refused
from tasvir.core import Noise
from tasvir.drawing import Opened
from tasvir.losses.games import GameConfig, zero_centered_penalty
from tasvir.metrics import paths, perceptual
from tasvir.models import build, recipe
from tasvir.models.adversarial.stylegan2 import StyleGAN2
from tasvir.nn import styles
from tasvir.runs import Run
from tasvir.training.loop import train


def made(size: int = 16, channels: int = 1, **settings: object) -> StyleGAN2:
    torch.manual_seed(0)
    model = build("stylegan2", replace(recipe("stylegan2").tiny, **settings), Pictures(channels, size))
    assert isinstance(model, StyleGAN2)
    return model


def plain_blur(image: np.ndarray, padding: int) -> np.ndarray:
    """One channel [H,W], each output written as a sum over 4×4 neighbours."""
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    padded = np.pad(image, padding)
    height, width = (side - 3 for side in padded.shape)
    return np.array(
        [[(padded[y : y + 4, x : x + 4] * taps).sum() for x in range(width)] for y in range(height)], image.dtype
    )


def test_blur_is_the_sum_over_its_neighbours() -> None:
    image = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    for padding in (1, 2):
        found = styles.blur(image, padding)
        for picture, blurred in zip(image.flatten(0, 1), found.flatten(0, 1), strict=True):
            np.testing.assert_allclose(blurred, plain_blur(picture.numpy(), padding), atol=1e-12)


def test_enlarging_puts_zeros_between_and_blurs() -> None:
    image = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    apart = np.zeros((8, 8))
    apart[::2, ::2] = image[0, 0]
    wanted = 4 * plain_blur(np.pad(apart, ((2, 1), (2, 1))), 0)
    np.testing.assert_allclose(styles.enlarged(image)[0, 0], wanted, atol=1e-12)
    flat = styles.enlarged(torch.ones(1, 2, 6, 6))
    assert torch.allclose(flat[:, :, 1:-1, 1:-1], torch.ones(()))


@pytest.mark.parametrize("up", [False, True])
def test_modulation_is_that_of_the_weights_of_each_picture(up: bool) -> None:
    """Equations 1 and 3 of arXiv 1912.04958, weights made for each picture, against scales of input and output."""
    torch.manual_seed(0)
    image, style = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64) + 0.5
    weight = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    found = styles.modulated(image, weight, style, up) * styles.demodulation(weight, style)[:, :, None, None]
    for picture, scales, output in zip(image, style, found, strict=True):
        own = weight * scales[None, :, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            wanted = nn.functional.conv_transpose2d(picture[None], own.transpose(0, 1), stride=2)
            wanted = torch.stack([torch.from_numpy(4 * plain_blur(one.numpy(), 1)) for one in wanted[0]])
        else:
            wanted = nn.functional.conv2d(picture[None], own, padding=1)[0]
        assert torch.allclose(output, wanted, atol=1e-10)
    assert torch.allclose(styles.demodulation(weight, style * 7), styles.demodulation(weight, style) / 7)


def test_demodulated_outputs_have_unit_variance() -> None:
    torch.manual_seed(0)
    image, style = torch.randn(64, 32, 8, 8), torch.rand(64, 32) * 10
    weight = torch.randn(16, 32, 3, 3)
    output = styles.modulated(image, weight, style) * styles.demodulation(weight, style)[:, :, None, None]
    assert output[:, :, 1:-1, 1:-1].std() == pytest.approx(1, rel=0.03)


def test_equalized_layers_scale_weights_of_unit_variance() -> None:
    torch.manual_seed(0)
    dense = styles.EqualizedLinear(400, 300, bias=2.0, rate=0.01)
    assert dense.weight.detach().std() == pytest.approx(100, rel=0.02)
    assert torch.allclose(dense.bias * 0.01, torch.full((300,), 2.0))
    values = torch.randn(50, 400)
    assert torch.allclose(dense(values), values @ (dense.weight * 0.01 / 20).T + 2, atol=1e-4)
    assert (dense(values) - 2).detach().std() == pytest.approx(1, rel=0.03)
    convolution = styles.EqualizedConvolution(16, 8, 3)
    image = torch.randn(2, 16, 6, 6)
    wanted = nn.functional.conv2d(image, convolution.weight / 12, padding=1)
    assert torch.allclose(convolution(image), wanted, atol=1e-5)
    assert styles.EqualizedConvolution(16, 8, 3, down=True)(image).shape == (2, 8, 3, 3)
    assert styles.EqualizedConvolution(16, 8, 1, down=True)(image).shape == (2, 8, 3, 3)


def test_mapping_sees_only_the_direction_of_z_and_learns_slowly() -> None:
    model = made()
    z = torch.randn(5, 4)
    assert torch.allclose(model.map(z), model.map(10 * z), atol=1e-5)
    layer = model.generator.mapping.layers[0]
    before = model.map(z)
    with torch.no_grad():
        layer.bias.add_(0.1)
    slow = (model.map(z) - before).abs().max()
    assert 0 < slow < 0.1 * 0.01 * 10
    assert layer.weight_scale == pytest.approx(0.01 * math.sqrt(2) / 2)


def test_adain_gives_the_asked_mean_and_deviation() -> None:
    torch.manual_seed(0)
    norm = styles.AdaptiveNorm(3, 5)
    image, w = torch.randn(4, 3, 6, 6) * 3 + 2, torch.randn(4, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = norm(image.contiguous(memory_format=layout), w)
        variance, mean = torch.var_mean(found, (2, 3), correction=0)
        assert torch.allclose(mean, norm.shift(w), atol=1e-5)
        assert torch.allclose(variance.sqrt(), norm.scale(w).abs(), atol=1e-4)
    exact, alone = norm.double(), image[:1].double().contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: exact(x, w[:1].double()), (alone,))


def test_deviation_is_that_within_groups() -> None:
    values = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    found = styles.deviation(values)
    assert found.shape == (8, 1, 4, 4)
    for first in (0, 1):
        group = values[first::2].numpy()
        wanted = np.sqrt(group.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(found[first::2], wanted, rtol=1e-10)
    same = torch.ones(6, 3, 4, 4)
    assert torch.allclose(styles.deviation(same), torch.tensor(1e-4))
    assert torch.allclose(styles.deviation(torch.randn(1, 3, 4, 4)), torch.tensor(1e-4))


@pytest.mark.parametrize(("batch", "groups"), [(2, 1), (3, 1), (5, 2), (6, 2), (7, 2), (9, 3), (11, 3), (13, 4)])
def test_deviation_of_a_batch_that_four_does_not_divide(batch: int, groups: int) -> None:
    values = torch.randn(batch, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    found = styles.deviation(values)
    for first in range(groups):
        group = values.detach()[first::groups].numpy()
        assert 2 <= len(group) <= 4
        np.testing.assert_allclose(found.detach()[first::groups], np.sqrt(group.var(axis=0) + 1e-8).mean(), rtol=1e-10)
    (gradient,) = torch.autograd.grad(found.sum(), values)
    assert (gradient.flatten(1).abs().sum(1) > 0).all()


def test_path_lengths_of_a_linear_generator_are_in_closed_form() -> None:
    """Pictures A·mean(w) have Jᵀy = Aᵀy / L for each style, so that ‖Jᵀy‖ is known for every y."""
    torch.manual_seed(0)
    matrix = torch.randn(48, 5, dtype=torch.float64)
    w = torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    image = (w.mean(1) @ matrix.T).unflatten(1, (3, 4, 4))
    found = styles.path_lengths(image, w, noise)
    assert torch.allclose(found, (noise.flatten(1) @ matrix / 4 / 3).norm(dim=1))


@pytest.mark.parametrize("normalization", ["modulation", "adain"])
def test_second_derivatives_are_right(normalization: str) -> None:
    """Gradients of R1 and of the path lengths, in double, against differences."""
    model = made(8, normalization=normalization, base=16, most=2).double()
    image = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    w = torch.randn(2, model.styles, 8, dtype=torch.float64, requires_grad=True)
    noise, direction = torch.randn(2, model.fixed_noise.shape[1]).double(), torch.randn(2, 1, 8, 8).double()
    with torch.no_grad():
        for layer in model.generator.synthesis.layers:
            layer.strength.fill_(0.3)

    def lengths() -> Tensor:
        return styles.path_lengths(model.generator.synthesis(w, noise), w, direction).square().mean()

    def penalty() -> Tensor:
        inside = image.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model.discriminator(inside).sum(), inside, create_graph=True)
        return 0.5 * gradient.square().flatten(1).sum(1).mean()

    for value, network in ((lengths, model.generator.synthesis), (penalty, model.discriminator)):
        parameters = [p for p in network.parameters() if p.dim() > 1]
        gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            step = torch.randn_like(parameter) * 1e-7
            with torch.no_grad():
                parameter.add_(step)
                above = value_of(value)
                parameter.sub_(2 * step)
                below = value_of(value)
                parameter.add_(step)
            expected = 0.0 if gradient is None else float((gradient * step).sum())
            assert above - below == pytest.approx(2 * expected, rel=1e-3, abs=1e-13)
    shown = zero_centered_penalty(made(8).discriminator, image.float())
    assert torch.isfinite(shown)


def value_of(function) -> float:  # type: ignore[no-untyped-def]
    with torch.enable_grad():
        return float(function())


def test_the_running_means_follow() -> None:
    model = made()
    z = torch.randn(64, 4)
    for _ in range(2):
        before = model.w_mean.clone()
        with torch.no_grad():
            model.generate(z)
        assert torch.allclose(model.w_mean, before + 0.005 * (model.map(z).mean(0) - before), atol=1e-6)
    before = model.path_mean.clone()
    turn = model.path_turn(4)
    assert model.path_mean == pytest.approx(float(before + 0.01 * (turn.watch["path_length"] - before)), rel=1e-4)


def test_the_running_means_are_those_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of two, of which the other adds ones to what both sum."""
    monkeypatch.setattr("tasvir.nn.everywhere.processes", lambda: 2)
    monkeypatch.setattr("tasvir.nn.everywhere.summed", lambda values: values + 1)
    model, z = made(), torch.randn(64, 4)
    with torch.no_grad():
        model.generate(z)
    assert torch.allclose(model.w_mean, 0.005 * (model.map(z).mean(0) + 1) / 2, atol=1e-6)
    turn = model.path_turn(4)
    assert model.path_mean == pytest.approx(float(0.01 * (turn.watch["path_length"] + 1) / 2), rel=1e-4)


def test_path_turns_come_every_so_many_steps() -> None:
    model = made(8, path_every=4)
    for step in range(6):
        names = [name for turn in model.turns(tiny_batch(8), step) for name in turn.terms]
        assert ("path_penalty" in names) == (step % 4 == 0)
    assert not [t for t in made(8, path_length=0.0).turns(tiny_batch(8), 0) if "path_penalty" in t.terms]


def test_mixed_styles_are_coarse_of_one_and_fine_of_the_other() -> None:
    model = made()
    w = torch.zeros(400, 8)
    torch.manual_seed(1)
    mixed = model.mixed(w)
    assert mixed.shape == (400, 6, 8)
    other = mixed.abs().sum(2) > 0
    assert not other[:, 0].any()
    assert (other[:, 1:] >= other[:, :-1]).all(), "from one layer on"
    assert other[:, -1].float().mean() == pytest.approx(0.9, abs=0.05)
    assert set(other.sum(1).tolist()) == set(range(6))
    assert torch.equal(made(style_mixing=0.0).mixed(w), torch.zeros(400, 6, 8))


@pytest.mark.parametrize("normalization", ["modulation", "adain"])
def test_every_style_and_every_noise_changes_the_picture(normalization: str) -> None:
    model = made(16, normalization=normalization)
    assert model.styles == 6
    w = torch.randn(1, 6, 8)
    with torch.no_grad():
        for layer in model.generator.synthesis.layers:
            layer.strength.fill_(1.0)
        before = model.synthesize(w)
        for style in range(6):
            other = w.clone()
            other[:, style] += 1
            assert not torch.allclose(model.synthesize(other), before, atol=1e-5), style
        for side, start in ((4, 0), (16, model.fixed_noise.shape[1] - 256)):
            noise = model.fixed_noise.clone()
            noise[:, start : start + side**2] += torch.randn(side**2)
            assert not torch.allclose(model.synthesize(w, noise), before, atol=1e-5)
        assert torch.equal(model.synthesize(w[:, 0]), model.synthesize(w[:, :1].expand(-1, 6, -1)))


def test_truncation_draws_towards_one_picture() -> None:
    model = made().eval()
    with torch.no_grad():
        for _ in range(50):
            model.generate(torch.randn(8, 4))
        drawn = [model.sample(Noise(range(6)), truncation=by) for by in (0.0, 0.5, 1.0)]
    spread = [float(pictures.std(0).mean()) for pictures in drawn]
    assert spread[0] < 1e-6 < spread[1] < spread[2]
    assert torch.allclose(drawn[2], model.sample(Noise(range(6))), atol=1e-6)


def test_the_papers_widths() -> None:
    """Config F of arXiv 1912.04958: 512 channels up to 64 px, then halved by every doubling."""
    with torch.device("meta"):
        model = recipe("stylegan2").model(recipe("stylegan2").config, Pictures(3, 1024))
    widths = [layer.weight.shape[0] for layer in model.generator.synthesis.layers]
    assert widths == [512] * 9 + [256] * 2 + [128] * 2 + [64] * 2 + [32] * 2
    assert model.styles == 18


@pytest.mark.parametrize(
    ("settings", "discriminator", "generator"),
    [
        ({}, 16 / 17, 8 / 9),
        ({"path_every": 4}, 16 / 17, 4 / 5),
        ({"path_length": 0.0}, 16 / 17, 1),
        ({"game": GameConfig(r1=1.0, r1_every=3)}, 3 / 4, 8 / 9),
        ({"game": GameConfig(r2=1.0, r1_every=3)}, 3 / 4, 8 / 9),
        ({"game": GameConfig(r1=1.0, r1_every=1)}, 1, 8 / 9),
        ({"game": GameConfig()}, 1, 8 / 9),
    ],
)
def test_rates_are_corrected_for_the_turns_that_are_played_besides(
    settings: dict, discriminator: float, generator: float
) -> None:
    players = made(**settings).players()
    for player, part in (("discriminator", discriminator), ("generator", generator)):
        optimizer = players[player].optimizer
        assert optimizer.learning_rate == pytest.approx(0.002 * part), player
        assert optimizer.betas == (0.0, pytest.approx(0.99**part)), player


def test_path_length_is_measured_in_w(monkeypatch: pytest.MonkeyPatch) -> None:
    squeeze = perceptual.lpips("squeeze", pretrained=False)
    monkeypatch.setattr(paths, "lpips", lambda network, device: squeeze)
    model = made(16).eval()
    pictures = SimpleNamespace(pictures=SimpleNamespace(size=16, channels=1))
    opened = SimpleNamespace(model=model, device=torch.device("cpu"))
    subject = SimpleNamespace(opened=opened, dataset=pictures, number=20, seed=0)
    z, w = paths.perceptual_path_length(subject)  # type: ignore[arg-type]
    assert (z.metric, w.metric) == ("ppl_z", "ppl_w")
    assert z.value > 0
    assert w.value > 0


def test_parts_are_two_styles_of_each_size() -> None:
    found = {
        styles: [mixing.layers_of(part, styles) for part in ("coarse", "middle", "fine")] for styles in (8, 10, 18)
    }
    assert found[8] == [(0, 3), (4, 5), (6, 7)]
    assert found[10] == [(0, 3), (4, 7), (8, 9)]
    assert found[18] == [(0, 3), (4, 7), (8, 17)]
    assert mixing.layers_of("2-5", 8) == (2, 5)
    assert mixing.layers_of("3", 8) == (3, 3)
    assert mixing.layers_of("coarse", 4) == (0, 1)
    for wrong in ("5-2", "0-8", "all", "-1", "1-2-3"):
        with pytest.raises(Refused, match="styles|numbers"):
            mixing.layers_of(wrong, 8)
    with pytest.raises(Refused, match="So small a picture has no middle styles"):
        mixing.layers_of("middle", 4)


def test_a_run_mixes_styles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = tiny_run("stylegan2", tmp_path / "run", size=16)
    train(run, data)
    opened = Opened(run.folder)
    mixed = mixing.table(opened, [5, 6], [0, 1, 2], "fine", None)
    table = mixed.images.reshape(3, 4, 16, 16, 1)
    assert (table[0, 0] == 255).all()
    assert mixed.layers == (4, 5)
    assert mixed.rows == ["", "seed 5", "seed 6"]
    with torch.no_grad():
        model = opened.model
        w = [model.map(model.latents(Noise([seed])))[:, None].expand(-1, 6, -1) for seed in (1, 6)]
        own = model.synthesize(w[0])
        both = model.synthesize(torch.cat([w[0][:, :4], w[1][:, 4:]], dim=1))
    for place, wanted in (((0, 2), own), ((2, 2), both)):
        difference = table[place][:, :, 0] / 127.5 - 1 - wanted[0, 0].clamp(-1, 1).numpy()
        assert np.abs(difference).max() < 0.01
    with pytest.raises(SystemExit) as left:
        main(["mix", str(run.folder), "--out", str(tmp_path / "mix.png"), "--from", "middle", "--columns", "3"])
    assert left.value.code == 0
    assert (tmp_path / "mix.png").exists()
    assert "styles 2 to 3 of 6" in capsys.readouterr().out


def test_a_model_without_styles_says_so(tmp_path: Path) -> None:
    run, data = tiny_run("gan", tmp_path / "run", steps=1)
    train(run, data)
    with pytest.raises(Refused, match="gan has no styles to mix"):
        mixing.table(Opened(Run.open(run.folder)), [0], [1], "coarse", None)


def test_small_is_the_same_with_other_settings() -> None:
    assert type(tiny_model("stylegan2-small")) is type(tiny_model("stylegan2"))
    assert replace(recipe("stylegan2-small").config.game, r1=10.0) == recipe("stylegan2").config.game
