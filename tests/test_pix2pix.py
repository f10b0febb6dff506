"""pix2pix: the paper's networks, counted; what a score sees; dropout as noise; games; and that it learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir.config import OptimizerConfig, Pictures, Refused
from tasvir.core import Batch, Noise
from tasvir.losses.games import GAMES, GameConfig
from tasvir.models import recipe
from tasvir.models.translation.pix2pix import Inpainting, Pix2Pix, Pix2PixConfig
from tasvir.nn.dropout import NoiseDropout
from tasvir.nn.patches import PatchDiscriminator, halvings_for
from tasvir.nn.unets import Doubling, Halving, UNet
from tasvir.training import optimizers
from tasvir.training.health import Health
from tasvir.training.loop import train
from tasvir.training.precision import LossScale

PAIRS = Pictures(3, 8, (), Pictures(3, 8))


def tiny(pictures: Pictures = PAIRS, **settings: object) -> Pix2Pix:
    torch.manual_seed(0)
    return Pix2Pix(replace(recipe("pix2pix").tiny, **settings), pictures)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_networks_are_the_papers() -> None:
    """Appendix 6.1: encoder C64-C128-C256-C512 ×5, decoder CD512-CD1024-CD1024-C1024-C1024-C512-C256-C128."""
    model = Pix2Pix(recipe("pix2pix").config, Pictures(3, 256, (), Pictures(3, 256)))
    encoder = [(3, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4]
    decoder = [(512, 512), *[(1024, 512)] * 3, (1024, 256), (512, 128), (256, 64), (128, 3)]
    found = [layer for layer in model.generator.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in found] == encoder + decoder
    assert {(layer.kernel_size, layer.stride, layer.padding) for layer in found} == {((4, 4), (2, 2), (1, 1))}
    normed = [after for _, after in [*encoder[1:-1], *decoder[:-1]]]
    weights = sum(16 * before * after for before, after in encoder + decoder)
    biases = sum(after for _, after in encoder + decoder)
    assert parameters(model.generator) == weights + biases + 2 * sum(normed) == 54_419_459
    assert weights + 2 * sum(normed) + 64 + 512 + 3 == 54_414_531  # without the biases that a norm takes back
    assert [layer.num_channels for layer in model.generator.modules() if isinstance(layer, nn.GroupNorm)] == normed
    assert ["NoiseDropout" in str(up) for up in model.generator.up] == [True] * 3 + [False] * 5
    assert model.discriminator is not None
    layers = [(6, 64), (64, 128), (128, 256), (256, 512), (512, 1)]
    count = sum(16 * before * after + after for before, after in layers) + 2 * (128 + 256 + 512)
    assert parameters(model.discriminator) == count == 2_769_601
    leaks = [one.negative_slope for one in model.modules() if isinstance(one, nn.LeakyReLU)]
    assert leaks == [0.2] * (7 + 4)
    everything = torch.cat([layer.weight.detach().flatten() for layer in found])
    assert everything.mean().abs() < 1e-5 and everything.std() == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("size", [8, 64, 128, 512, 1024])
def test_a_unet_of_every_size_has_one_pixel_inside(size: int) -> None:
    with torch.device("meta"):
        depth = size.bit_length() - 1
        network = UNet(3, 1, 64, depth, "instance")
        x = torch.zeros(1, 3, size, size)
        assert network(x).shape == (1, 1, size, size)
        for down in network.down:
            x = down(x)
    assert x.shape[2:] == (1, 1)


@pytest.mark.parametrize("kind", [Halving, Doubling])
def test_products_of_matrices_are_the_convolutions(kind: type) -> None:
    """Of two pictures that are not square: what comes out, and all gradients, against torch's own layer."""
    layer, x = kind(3, 5), torch.randn(2, 3, 4, 6, requires_grad=True)
    made = layer(x)
    expected = super(kind, layer).forward(x)
    assert made.shape == expected.shape and torch.allclose(made, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        *(torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]) for y in (made, expected)), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("patch", "sees"), [(1, 1), (16, 16), (70, 70), ("whole", 286)])
def test_a_score_sees_a_patch_of_the_stated_size(patch: int | str, sees: int) -> None:
    """Measured by the gradient of one score in the middle of a picture that is large enough."""
    with torch.random.fork_rng():
        network = PatchDiscriminator(1, 2, halvings_for(patch, 256), "none").double()
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 2 * sees + 62, 2 * sees + 62, dtype=torch.float64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert image.grad is not None
    touched = image.grad[0, 0] != 0
    assert touched.any(0).sum() == touched.any(1).sum() == sees


def test_dropout_is_noise_with_the_right_mean_and_variance_and_one_answer_for_a_seed() -> None:
    layer, x = NoiseDropout(0.3).train(), torch.ones(4, 8, 64, 64)
    torch.manual_seed(0)
    drawn = layer(x)
    assert drawn.mean().item() == pytest.approx(1, abs=0.01)
    assert drawn.var().item() == pytest.approx(0.3 / 0.7, rel=0.02)
    assert torch.equal(layer.eval()(x), x)
    model, source = tiny().eval(), torch.rand(1, 3, 8, 8).mul(2).sub(1).expand(3, -1, -1, -1)
    first, other, again = model.translate(source, Noise([1, 2, 1]))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-4)
    best, same, _ = model.translate(source)
    assert torch.equal(best, same), "without noise there is one answer"
    quiet = tiny(dropout=0.0).eval()
    assert torch.equal(quiet.translate(source, Noise([1, 2, 3]))[0], quiet.translate(source)[0])


def test_without_skips_nothing_goes_past_the_innermost_maps() -> None:
    for network, passes in (("unet", True), ("encoder-decoder", False)):
        model = tiny(network=network, dropout=0.0).eval()
        nn.init.zeros_(model.generator.down[-1][-1].weight)
        with torch.no_grad():
            one, other = model.translate(torch.rand(2, 3, 8, 8))
        assert torch.equal(one, other) != passes


def step(model: Pix2Pix, batch: Batch, number: int, made: dict) -> dict[str, float]:
    losses = {}
    for turn in model.turns(batch, number):
        player = model.players()[turn.player]
        optimizer = made.setdefault(turn.player, optimizers.build(player))
        optimizers.descend(turn, player, optimizer, 2e-3, LossScale(torch.float32, torch.device("cpu")))
        losses |= {f"{turn.player}/{name}": float(term.detach()) for name, term in turn.terms.items()}
    return losses


PENALTIES = [{}, {"gradient_penalty": 3.0}, {"r1": 1.0, "r1_every": 1}, {"r1": 1.0, "r2": 1.0, "r1_every": 2}]


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda one: "-".join(one) or "plain")
def test_every_game_can_be_played(name: str, penalty: dict) -> None:
    settings = {"game": GameConfig(name=name, **penalty), "patch": 1}  # type: ignore[arg-type]
    model = tiny(Pictures(1, 8, (), Pictures(1, 8)), **settings)
    batch, made, seen = tiny_batch(8, 3, "pix2pix"), {}, {}
    for number in range(model.game.discriminator_steps):
        before = [p.clone() for p in model.generator.parameters()]
        seen |= step(model, batch, number, made)
        moved = any(not torch.equal(p, old) for p, old in zip(model.generator.parameters(), before, strict=True))
        assert moved == (number == model.game.discriminator_steps - 1)
    assert all(torch.isfinite(torch.tensor(value)) for value in seen.values())
    penalties = {"gradient_penalty": bool(model.game.gradient_penalty), "r1": "r1" in penalty, "r2": "r2" in penalty}
    for term, there in penalties.items():
        assert (f"discriminator/{term}" in seen) == there
    if model.game.weight_clip:
        assert model.discriminator is not None
        assert max(p.abs().max() for p in model.discriminator.parameters()) <= model.game.weight_clip


def test_the_discriminator_turn_is_half_the_game_over_patches() -> None:
    model, image = tiny().eval(), torch.rand(3, 3, 8, 8) * 2 - 1
    batch = Batch(image, source=image.flip(3))
    turn = next(iter(model.turns(batch, 0)))
    made = model.translate(batch.source)
    assert model.discriminator is not None
    real, fake = (torch.sigmoid(model.discriminator(torch.cat([batch.source, x], 1))) for x in (image, made))
    expected = -0.5 * (real.log().mean() + (1 - fake).log().mean())
    assert turn.terms["game"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_left_out_is_left_out() -> None:
    model, batch = tiny(adversarial=0.0), Batch(torch.zeros(2, 3, 8, 8), source=torch.zeros(2, 3, 8, 8))
    assert model.discriminator is None and list(model.players()) == ["generator"]
    assert not [name for name, _ in model.named_parameters() if not name.startswith("generator")]
    assert [list(turn.terms) for turn in model.turns(batch, 0)] == [["l1"]]
    assert [list(turn.terms) for turn in tiny(l1=0.0).turns(batch, 0)] == [["game"], ["game"]]
    with pytest.raises(Refused, match="Nothing is learned with --model.l1 and --model.adversarial both 0"):
        tiny(l1=0.0, adversarial=0.0)
    alone = tiny(conditional_discriminator=False)
    scores = alone.judge(torch.zeros(1, 3, 8, 8), batch.image[:1])
    assert torch.equal(scores, alone.judge(torch.ones(1, 3, 8, 8), batch.image[:1]))
    given = tiny()
    assert not torch.equal(
        given.judge(torch.zeros(1, 3, 8, 8), batch.image[:1]), given.judge(torch.rand(1, 3, 8, 8), batch.image[:1])
    )


def test_a_patch_larger_than_the_picture_is_as_large_as_it_can_be() -> None:
    assert [halvings_for(70, size) for size in (4, 8, 16, 20, 24, 64)] == [0, 1, 2, 2, 3, 3]
    for size in (8, 16):
        assert Pix2Pix.accepts(size)
        model = Pix2Pix(Pix2PixConfig(width=2), Pictures(1, size, (), Pictures(1, size)))
        zeros = torch.zeros(1, 1, size, size)
        assert torch.isfinite(model.judge(zeros, zeros)).all()
    assert [halvings_for("whole", size) for size in (8, 32, 64, 256, 512)] == [1, 2, 3, 5, 6]


def test_only_the_hole_of_an_inpainted_picture_is_new() -> None:
    model = tiny_model("inpaint").eval()
    source = tiny_batch(8, 4, "inpaint").source
    assert isinstance(model, Inpainting) and source is not None
    shown = torch.round((source + 1) * 127.5) / 127.5 - 1  # as a file holds it
    for given in (source, shown):
        made, hole = model.translate(given), given.abs() < 1.5 / 255
        assert hole[source == 0].all() and hole.float().mean() < 0.3
        assert torch.equal(made * ~hole, given * ~hole)
        assert (made != given)[hole].float().mean() > 0.9


def test_sources_without_a_hole_are_told() -> None:
    model, batch = tiny_model("inpaint"), tiny_batch(8, 4, "inpaint")
    assert batch.source is not None

    def said() -> tuple[float, list[str]]:
        *_, turn = model.turns(batch, 0)
        return float(turn.watch["hole"]), Health().check({"generator/hole": float(turn.watch["hole"])})

    share, sentences = said()
    assert share >= 0.25 and not sentences
    batch.source = torch.ones_like(batch.source)
    share, sentences = said()
    assert share == 0 and "No source has a hole" in sentences[0]


def test_a_run_without_a_discriminator_trains_and_says_so(tmp_path: Path) -> None:
    run, data = tiny_run("pix2pix", tmp_path / "run")
    run = replace(run, config=replace(run.config, model=replace(run.config.model, adversarial=0.0)))
    assert train(run, data) == "done"
    assert not [line for line in (run.folder / "log.jsonl").read_text().splitlines() if "discriminator" in line]


def test_the_absolute_error_alone_beats_the_mean_picture() -> None:
    """Digits of 8 px from their masked selves, 100 steps: below 0.7 of the error of the best constant picture."""
    player = OptimizerConfig(learning_rate=2e-3, betas=(0.5, 0.999))
    torch.manual_seed(0)
    config = Pix2PixConfig(width=16, adversarial=0.0, dropout=0.0, generator=player)
    model, made = Pix2Pix(config, Pictures(1, 8, (), Pictures(1, 8))), {}
    learned, held = halves(tiny_batch(8, 160, "pix2pix"))
    for number in range(100):
        step(model, learned, number, made)
    with torch.no_grad():
        error = (model.eval().translate(held.source) - held.image).abs().mean()
    baseline = (learned.image.median(0).values - held.image).abs().mean()
    assert error < 0.7 * baseline, (error, baseline)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    def part(where: slice) -> Batch:
        source: Tensor | None = batch.source
        assert source is not None
        return Batch(batch.image[where], source=source[where])

    return part(slice(0, 128)), part(slice(128, None))
