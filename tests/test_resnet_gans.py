"""SN-GAN, WGAN-GP with residual networks, the projection discriminator: the papers' networks, and what they promise."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from conftest import tiny_batch, tiny_model
from tasvir.config import Pictures, Refused
from tasvir.losses.games import zero_centered_penalty
from tasvir.models import build, recipe
from tasvir.models.adversarial.gan import GAN
from tasvir.models.adversarial.sngan import discriminator_blocks, generator_widths
from tasvir.nn.resnets import ClassBatchNorm, Convolution, DownBlock, ResidualDiscriminator, UpBlock
from tasvir.nn.spectral import singular_values

DIGITS = tuple("0123456789")


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("name", "generator", "discriminator"), [("sngan", 256, 128), ("wgan-gp-resnet", 128, 128)])
def test_networks_are_the_papers(name: str, generator: int, discriminator: int) -> None:
    """Those of arXiv 1802.05957 and arXiv 1704.00028, counted by hand, layer by layer."""
    model = build(name, recipe(name).config, Pictures(3, 32))
    g, d = generator, discriminator
    block = 2 * (9 * g * g + g) + (g * g + g) + 2 * 2 * g
    assert parameters(model.generator) == (128 + 1) * 16 * g + 3 * block + 2 * g + 9 * g * 3 + 3
    convolution, shortcut = 9 * d * d + d, d * d + d
    first = (9 * 3 * d + d) + convolution + (3 * d + d)
    assert parameters(model.discriminator) == first + (2 * convolution + shortcut) + 4 * convolution + d + 1
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.generator.modules())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.discriminator.modules())
    assert len(singular_values(model.discriminator)) == (11 if name == "sngan" else 0)
    assert recipe(name).config.discriminator.betas == (0.0, 0.9) and model.game.discriminator_steps == 5


def test_widths_of_larger_pictures_are_the_papers() -> None:
    """Those of arXiv 1802.05957 for 128 px, and the authors' networks for 64 px."""
    assert generator_widths(128, 1024) == [1024, 1024, 512, 256, 128, 64]
    assert generator_widths(64, 1024) == [1024, 512, 256, 128, 64]
    assert [width for width, _ in discriminator_blocks(128, 1024)] == [64, 128, 256, 512, 1024, 1024]
    assert [down for _, down in discriminator_blocks(128, 1024)] == [True] * 5 + [False]
    assert discriminator_blocks(64, 1024) == [(64 << step, True) for step in range(5)]
    assert generator_widths(28, 256) == [256] * 3


@pytest.mark.parametrize("resampling", ["up", "down"])
@pytest.mark.parametrize("size", [4, 7, 8])
def test_fused_convolution_is_the_same_function(resampling: str, size: int) -> None:
    """And has the same gradients as resampling and convolving one after another, in double precision."""
    torch.manual_seed(0)
    layer = Convolution(3, 5, resampling).double()  # type: ignore[arg-type]
    nn.init.normal_(layer.bias)
    image = torch.randn(2, 3, size, size, dtype=torch.float64, requires_grad=True)
    fused = layer(image)
    if resampling == "up":
        plain = conv2d(interpolate(image, scale_factor=2), layer.weight, layer.bias, padding=1)
    else:
        plain = avg_pool2d(conv2d(image, layer.weight, layer.bias, padding=1), 2)
    assert torch.allclose(fused, plain, atol=1e-12)
    upstream = torch.randn_like(plain)
    inputs = (image, layer.weight, layer.bias)
    for mine, other in zip(
        torch.autograd.grad(fused, inputs, upstream), torch.autograd.grad(plain, inputs, upstream), strict=True
    ):
        assert torch.allclose(mine, other, atol=1e-10)


def test_blocks_are_the_papers_order_of_layers() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 8, 8)
    up = UpBlock(4, 6)
    inner = conv2d(interpolate(up.first_norm(x).relu(), scale_factor=2), up.first.weight, up.first.bias, padding=1)
    inner = conv2d(up.second_norm(inner).relu(), up.second.weight, up.second.bias, padding=1)
    assert torch.allclose(up(x), inner + up.shortcut(interpolate(x, scale_factor=2)), atol=1e-5)
    down = DownBlock(4, 6)
    inner = conv2d(x.relu(), down.first.weight, down.first.bias, padding=1).relu()
    inner = conv2d(inner, down.second.weight, down.second.bias, padding=1)
    assert torch.allclose(down(x), avg_pool2d(inner + down.shortcut(x), 2), atol=1e-5)
    same = DownBlock(4, 4, down=False)
    nn.init.zeros_(same.second.weight)
    assert torch.equal(same(x), x), "the shortcut is the identity where nothing changes"


def test_each_class_has_its_own_scale_and_shift() -> None:
    torch.manual_seed(0)
    norm = ClassBatchNorm(3, 4)
    nn.init.normal_(norm.scale)
    nn.init.normal_(norm.shift)
    x, label = torch.randn(6, 3, 5, 5) * 2 + 1, torch.tensor([0, 1, 2, 3, 0, 1])
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    found = norm(x, label)
    for picture in range(6):
        for channel in range(3):
            plain = (x[picture, channel] - mean[channel]) / (variance[channel] + 1e-5).sqrt()
            expected = norm.scale[label[picture], channel] * plain + norm.shift[label[picture], channel]
            assert torch.allclose(found[picture, channel], expected, atol=1e-5)


def test_projection_is_the_closed_form() -> None:
    """D(x, y) = ψ(φ(x)) + ⟨V_y, φ(x)⟩; so the difference of two classes is linear in the features."""
    torch.manual_seed(0)
    network = ResidualDiscriminator(1, [(6, True), (6, False)], "spectral", classes=3).eval()
    image = torch.randn(4, 1, 8, 8)
    features = network.features(image).double()
    score, table = network.score.weight.double(), network.projection.weight.double()
    for y in range(3):
        expected = features @ score[0] + network.score.bias.double() + features @ table[y]
        assert torch.allclose(network(image, torch.full((4,), y)).double(), expected, atol=1e-5)
    assert float(torch.linalg.matrix_norm(table.detach(), 2)) == pytest.approx(1.0, rel=0.05)


def test_the_spectrally_normalized_discriminator_keeps_its_lipschitz_bound() -> None:
    """A 3×3 convolution whose matrix has singular value 1 stretches by 3 at most, a residual block by 1 + 9.

    Features are summed over pixels, which stretches by their side; the bound is the product, however it is trained.
    """
    torch.manual_seed(0)
    model = tiny_model("sngan", 8)
    optimizer = torch.optim.Adam(model.discriminator.parameters(), 1e-2)
    real, fake = torch.randn(16, 1, 8, 8) + 1, torch.randn(16, 1, 8, 8) - 1
    for _ in range(40):
        optimizer.zero_grad()
        (model.discriminator(fake).mean() - model.discriminator(real).mean()).backward()
        optimizer.step()
    for _ in range(100):
        model.discriminator(real)
    values = singular_values(model.discriminator)
    assert len(values) == 11 and all(value == pytest.approx(1.0, rel=1e-3) for value in values.values())
    model.discriminator.eval()
    points = torch.cat([real, fake]).requires_grad_()
    (slopes,) = torch.autograd.grad(model.discriminator(points).sum(), points)
    blocks, side = 4, 2
    assert float(slopes.flatten(1).norm(dim=1).max()) <= 10**blocks * side
    for block in model.discriminator.blocks:
        first = block.first.weight
        x = torch.randn(64, first.shape[1], 6, 6)
        stretched = conv2d(x, first, padding=1).flatten(1).norm(dim=1)
        assert (stretched <= 3 * x.flatten(1).norm(dim=1) + 1e-4).all()


@pytest.mark.parametrize("name", ["sngan", "wgan-gp-resnet", "pd-gan"])
def test_one_pass_for_both_gives_the_scores_of_two(name: str) -> None:
    model, batch = tiny_model(name, 8), tiny_batch(8)
    label = batch.label if model.conditional else None
    fake = model.generate(model.draw(8), label).detach()
    model.eval()
    with torch.no_grad():
        (real_score, _), (fake_score, _) = model.judge_both(batch.image, fake, label)
        (other_real, _), (other_fake, _) = GAN.judge_both(model, batch.image, fake, label)
    assert torch.allclose(real_score, other_real, atol=1e-5) and torch.allclose(fake_score, other_fake, atol=1e-5)


def test_weights_are_normalized_once_for_an_update() -> None:
    """The vector of power iteration moves once in the discriminator's turn, though two batches are judged."""
    model, batch = tiny_model("sngan", 8), tiny_batch(8)
    layer = model.discriminator.blocks[1].first
    norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original.detach()
    u = norm.u.double()
    w = weight.double().flatten(1)
    next(iter(model.turns(batch, 0)))
    expected = nn.functional.normalize(w @ nn.functional.normalize(w.T @ u, dim=0), dim=0)
    assert torch.allclose(norm.u.double(), expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["spectral", "layer", "none"])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("game", ["hinge", "wasserstein-penalty", "relativistic"])
def test_settings_work_together(norm: str, pooling: str, game: str) -> None:
    config = recipe("pd-gan").tiny
    config = replace(config, discriminator_norm=norm, pooling=pooling, game=replace(config.game, name=game, r1=1.0))
    torch.manual_seed(0)
    model = build("pd-gan", config, Pictures(1, 8, DIGITS))
    turns = [turn for step in (0, 4) for turn in model.turns(tiny_batch(8), step)]
    assert [turn.player for turn in turns] == ["discriminator", "discriminator", "discriminator", "generator"]
    assert all(torch.isfinite(term) for turn in turns for term in turn.terms.values())


@pytest.mark.parametrize("name", ["sngan", "pd-gan"])
def test_clipping_of_normalized_weights_is_refused(name: str) -> None:
    config = recipe(name).tiny
    clipped = replace(config, game=replace(config.game, name="wasserstein-clipping"))
    with pytest.raises(Refused, match="Spectral norm undoes what clipping does"):
        build(name, clipped, Pictures(1, 8, DIGITS))
    build(name, replace(clipped, discriminator_norm="layer"), Pictures(1, 8, DIGITS))
    build(name, replace(clipped, game=replace(clipped.game, weight_clip=0.0)), Pictures(1, 8, DIGITS))


def test_both_penalties_of_one_pass_are_those_of_two() -> None:
    """R1 and R2 from one derivative of both scores, with the gradients of two."""
    config = recipe("sngan").tiny
    game = replace(config.game, name="relativistic", r1=2.0, r2=3.0, r1_every=1)
    torch.manual_seed(0)
    model = build("sngan", replace(config, game=game, discriminator_norm="none"), Pictures(1, 8))
    real, fake = (torch.randn(5, 1, 8, 8).requires_grad_() for _ in range(2))
    (real_score, _), (fake_score, _) = model.judge_both(real, fake, None)
    found = game.penalties_of(real_score, real, fake_score, fake)
    weights = list(model.discriminator.parameters())
    for name, gamma, image in (("r1", 2.0, real), ("r2", 3.0, fake)):
        wanted = gamma * zero_centered_penalty(lambda x: model.judge(x)[0], image)
        assert float(found[name]) == pytest.approx(float(wanted), rel=1e-5) and float(wanted) > 0
        ours, theirs = (
            torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True) for term in (found[name], wanted)
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert mine is None or other is None or torch.allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_the_generator_heeds_the_class_and_the_noise() -> None:
    torch.manual_seed(0)
    model = tiny_model("pd-gan", 8).eval()
    with torch.no_grad():
        for layer in model.generator.modules():
            if isinstance(layer, ClassBatchNorm):
                nn.init.normal_(layer.scale, 1.0, 0.5)
        latent = torch.randn(1, 4).expand(2, 4)
        pictures = model.decode(latent, torch.tensor([0, 1]))
        assert (pictures[0] - pictures[1]).abs().max() > 1e-4
    with pytest.raises(Refused, match="There is no class 10"):
        model.decode(latent, torch.tensor([0, 10]))
