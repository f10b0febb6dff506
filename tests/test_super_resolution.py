"""srresnet and srgan: the papers' networks, two stages, their losses and games, and that they learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import interpolate

from conftest import tiny_batch, tiny_run
from tasvir.cli import main
from tasvir.commands.stages import built
from tasvir.commands.training import Train
from tasvir.config import DataConfig, Pictures, Refused, RunConfig, TrainConfig
from tasvir.core import Batch, Noise
from tasvir.data import Dataset, load
from tasvir.data.derive import low_resolution
from tasvir.losses.games import GAMES, GameConfig
from tasvir.losses.perceptual import VGGConfig
from tasvir.models import recipe, usual_foundation
from tasvir.models.translation.srgan import SRGAN, SRGANConfig, discriminator
from tasvir.models.translation.srresnet import SRResNet, SRResNetConfig
from tasvir.nn.enlarging import bicubic, factors, rrdb, srresnet
from tasvir.runs import Run
from tasvir.training.loop import train

TINY = SRResNetConfig(width=4, blocks=1, kernel=3)


def pictures(size: int = 32, scale: int = 4, channels: int = 3, of: int | None = None) -> Pictures:
    return Pictures(channels, size, source=Pictures(of or channels, size // scale))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def random_batch(of: Pictures, number: int = 2) -> Batch:
    image = torch.rand(number, of.channels, of.size, of.size) * 2 - 1
    assert of.source is not None
    return Batch(image, source=low_resolution(image, of.size // of.source.size))


def model_of(config: SRGANConfig, of: Pictures | None = None) -> SRGAN:
    of = of or pictures()
    torch.manual_seed(0)
    return SRGAN(config, of, SRResNet(TINY, of))


# --- networks ---


def test_networks_have_the_papers_layers() -> None:
    """Counted by hand from figure 4 of arXiv 1609.04802 and section 3.1 of arXiv 1809.00219, all with PReLU of one
    parameter, without the biases that batch norm takes away."""

    def convolution(before: int, after: int, kernel: int = 3) -> int:
        return before * after * kernel**2

    block = 2 * (convolution(64, 64) + 2 * 64) + 1
    ends = convolution(3, 64, 9) + 64 + 1 + convolution(64, 3, 9) + 3
    middle, stage = convolution(64, 64) + 2 * 64, convolution(64, 256) + 256 + 1
    with torch.device("meta"):
        plain, dense_blocks = srresnet(3, 64, 16, 4), rrdb(3, 64, 23, 4)
        convolutions = [layer for layer in discriminator(3, 96, 64, 1024, "batch") if isinstance(layer, nn.Conv2d)]
    assert parameters(plain) == ends + 16 * block + middle + 2 * stage == 1_547_350
    dense = sum(convolution(64 + 32 * n, 32) + 32 for n in range(4)) + convolution(64 + 128, 64) + 64
    ends = convolution(3, 64) + 64 + convolution(64, 3) + 3
    assert parameters(dense_blocks) == ends + 23 * 3 * dense + 4 * (convolution(64, 64) + 64) == 16_697_987
    assert [layer.out_channels for layer in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [layer.stride[0] for layer in convolutions] == [1, 2] * 4


@pytest.mark.parametrize("size", [20, 32, 36, 96])
def test_the_discriminators_dense_layer_fits_the_size(size: int) -> None:
    network = discriminator(3, size, 2, 8, "batch")
    assert network(torch.zeros(3, 3, size, size)).shape == (3,)
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, 2 * size, 2 * size))


def test_stages_are_pixel_shuffles_in_the_right_order() -> None:
    """Channel c·f² + y·f + x is pixel (y, x) of every square of f × f (Shi et al. 2016, arXiv 1609.05158)."""
    assert [factors(scale) for scale in (1, 2, 3, 4, 6)] == [[], [2], [3], [2, 2], [2, 3]]
    for factor in (2, 3):
        network = srresnet(1, 1, 1, factor, "none").enlarge
        expanding = network[0]
        assert isinstance(expanding, nn.Conv2d)
        with torch.no_grad():
            expanding.weight.zero_()
            expanding.bias.copy_(torch.arange(factor**2))
        made = network(torch.zeros(1, 1, 2, 3))
        square = torch.arange(factor**2, dtype=torch.float32).view(factor, factor)
        assert torch.equal(made[0, 0], square.repeat(2, 3))


@pytest.mark.parametrize("scale", [2, 3, 4, 6])
@pytest.mark.parametrize("network", ["srresnet", "rrdb"])
def test_sources_of_any_size_become_scale_times_larger(network: str, scale: int) -> None:
    model = SRResNet(replace(TINY, network=network, growth=2), pictures(48, scale)).eval()  # type: ignore[arg-type]
    assert (model.scale, model.stride) == (scale, 1)
    source = torch.rand(1, 3, 5, 7) * 20 - 10
    with torch.no_grad():
        made = model.upscale(source)
        assert torch.equal(made, model.translate(source, Noise([3])))
    assert made.shape == (1, 3, 5 * scale, 7 * scale) and made.abs().max() <= 1 and made.dtype == torch.float32


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_pillows(scale: int) -> None:
    levels = np.random.default_rng(0).integers(80, 170, (9, 14), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(levels).resize((14 * scale, 9 * scale), Image.Resampling.BICUBIC))
    ours = bicubic(torch.from_numpy(levels)[None, None], scale)[0, 0].numpy()
    assert np.abs(ours - pillow).max() <= 1.3, "Pillow rounds twice"


@pytest.mark.parametrize("network", ["srresnet", "rrdb"])
def test_from_bicubic_begins_as_bicubic(network: str) -> None:
    config = replace(TINY, network=network, from_bicubic=True)  # type: ignore[arg-type]
    source = torch.rand(2, 3, 8, 8) - 0.5
    assert torch.equal(SRResNet(config, pictures()).generator(source), bicubic(source, 4))


# --- the adversarial stage ---


def test_the_trained_network_is_where_the_generator_begins() -> None:
    model = model_of(recipe("srgan").tiny)
    assert isinstance(model.foundation, SRResNet)
    for weight in model.foundation.parameters():
        weight.data.add_(0.1)
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    model.begin()
    trained = model.foundation.generator.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.generator.state_dict().items())
    assert not all(torch.equal(before[name], trained[name]) for name in before)
    model.generator.last.weight.data.add_(1)
    assert not torch.equal(model.generator.last.weight, model.foundation.generator.last.weight), "its own weights"
    assert all(p.requires_grad for p in model.generator.parameters())


@pytest.mark.parametrize("name", ["srgan", "esrgan"])
def test_one_command_trains_both_stages(name: str, tmp_path: Path) -> None:
    run, data = tiny_run(name, tmp_path / "run", steps=2)
    train(run, data)
    model, step = run.load_model()
    first, _ = Run.open(tmp_path / "run" / "foundation").load_model()
    assert step == 2 and isinstance(model, SRGAN) and isinstance(first, SRResNet)
    assert isinstance(model.foundation, SRResNet)
    below = model.foundation.generator.state_dict()
    assert all(torch.equal(kept, below[key]) for key, kept in first.generator.state_dict().items())
    batch = tiny_batch(32, 2, name)
    compared = model.eval().compared(batch)
    assert list(compared) == ["source", "bicubic", "before", "upscaled", "target"]
    assert torch.equal(compared["before"], first.eval().upscale(batch.source)), "what it stands on is shown beside it"
    assert not torch.equal(compared["before"], compared["upscaled"])
    torch.manual_seed(1)
    other = run.build()
    moved, apart = (
        max(
            float((a - b).detach().abs().max())
            for a, b in zip(model.generator.parameters(), one.generator.parameters(), strict=True)
        )
        for one in (first, other)
    )
    assert 0 < moved < 3e-4 < 0.01 < apart, "two steps of 1e-4 from where the first stage ended"


def test_it_can_begin_with_a_network_that_was_not_trained(tmp_path: Path) -> None:
    tiny = ["--first.model.width", "4", "--first.model.blocks", "1", "--model.width", "2", "--model.dense", "4"]
    data = ["--data", "digits", "--data.size", "32", "--data.limit", "40", "--train.batch-size", "4"]
    once = ["--train.steps", "2", "--model.content", "pixels", "--train.no-tensorboard", "--first.train.steps", "0"]
    _command("train", "srgan", *data, *tiny, *once, "--out", str(tmp_path / "run"))
    run = Run.open(tmp_path / "run")
    assert run.latest().step == 2 and run.config.foundation is not None and run.config.foundation.step == 0
    _command("resume", str(tmp_path / "run"), "--train.steps", "3")
    assert run.latest().step == 3


def test_a_run_of_another_scale_gives_its_scale_or_is_refused(tmp_path: Path) -> None:
    config = RunConfig("srresnet", 0, DataConfig(derive="low-resolution", scale=2), TrainConfig(), TINY)
    below = Run(tmp_path / "below", config, pictures(32, 2, 1), {})
    below.create()
    train(replace(below, config=replace(config, train=TrainConfig(steps=0, tensorboard=False))), _digits(2))
    words = ["train", "srgan", "--data", "digits", "--data.limit", "40", "--on", str(below.folder)]
    words += ["--model.width", "2", "--model.dense", "4", "--model.content", "pixels", "--train.no-tensorboard"]
    words += ["--train.steps", "1", "--train.batch-size", "4", "--out", str(tmp_path / "run")]
    with pytest.raises(Refused, match=r"from sources of 8 px in grey: set --data.scale 2\."):
        Train.from_words([*words[1:], "--data.scale", "4"])()
    assert not (tmp_path / "run").exists()
    _command(*words)
    assert Run.open(tmp_path / "run").config.data.scale == 2 and Run.open(tmp_path / "run").pictures.size == 32


def _digits(scale: int) -> Dataset:
    return load(DataConfig(source=("digits",), size=32, limit=40, derive="low-resolution", scale=scale))  # type: ignore[arg-type]


def _command(*words: str) -> None:
    with pytest.raises(SystemExit) as done:
        main(list(words))
    assert not done.value.code


@pytest.mark.parametrize("name", GAMES)
def test_every_game_is_played_with_its_penalties(name: str) -> None:
    config = replace(recipe("srgan").tiny, game=GameConfig(name, r1=0.5, r2=0.5, r1_every=2), adversarial=0.5)  # type: ignore[arg-type]
    model, batch = model_of(config), random_batch(pictures())
    taken = []
    for step in range(2):
        for turn in model.turns(batch, step):
            taken.append((step, turn.player, *turn.terms))
            assert all(torch.isfinite(term) for term in turn.terms.values())
            sum(turn.terms.values()).backward(inputs=model.players()[turn.player].parameters())
    first = ("game", "gradient_penalty") if name == "wasserstein-penalty" else ("game",)
    generators = [(step, "generator", "game", "content", "l1") for step in range(2)]
    generators = [] if model.game.discriminator_steps > 1 else generators
    discriminators = [(0, "discriminator", *first), (0, "discriminator", "r1", "r2"), (1, "discriminator", *first)]
    assert sorted(taken) == sorted(discriminators + generators)
    if model.game.weight_clip:
        assert (
            max(float(p.detach().abs().max()) for p in model.discriminator.parameters())
            <= model.game.weight_clip + 1e-8
        )


def test_the_generators_terms_are_the_papers() -> None:
    config = replace(recipe("esrgan").tiny, adversarial=0.3, l1=0.2)
    model, batch = model_of(config).eval(), random_batch(pictures(), 3)
    *_, turn = model.turns(batch, 0)
    turn.terms = {name: term.detach() for name, term in turn.terms.items()}
    with torch.no_grad():
        made = model.generator(batch.source)
        real, fake = (model.discriminator(one).double().numpy() for one in (batch.image, made))
    ours = 1 / (1 + np.exp(-(fake - real.mean())))
    theirs = 1 / (1 + np.exp(-(real - fake.mean())))
    expected = -np.log(ours).mean() - np.log(1 - theirs).mean()
    assert float(turn.terms["game"]) == pytest.approx(0.3 * expected, rel=1e-4)
    difference = (made - batch.image).numpy()
    assert float(turn.terms["content"]) == pytest.approx((difference**2).mean(), rel=1e-5)
    assert float(turn.terms["l1"]) == pytest.approx(0.2 * np.abs(difference).mean(), rel=1e-5)


@pytest.mark.parametrize("before", [False, True])
def test_content_is_seen_by_vgg_which_is_in_no_checkpoint(before: bool) -> None:
    config = replace(recipe("srgan").tiny, content="vgg22", before_activation=before, vgg=VGGConfig("random"))
    model, batch = model_of(config), random_batch(pictures())
    assert model.vgg is not None and model.layer == ("conv2_2" if before else "relu2_2")
    made = batch.image.clone().add(0.1).requires_grad_()
    content = model.content(made, batch.image)
    seen = [model.vgg(one)[model.layer] for one in (made.detach(), batch.image)]
    assert float(content) == pytest.approx(float((seen[0] - seen[1]).square().mean()) / 12.75**2, rel=1e-4)
    assert (min(one.min() for one in seen) < 0) == before
    content.backward()
    assert made.grad is not None and made.grad.abs().sum() > 0
    assert not [name for name in model.state_dict() if "vgg" in name]
    assert parameters(model) == parameters(model_of(recipe("srgan").tiny))


def test_content_is_as_exact_under_autocast() -> None:
    config = replace(recipe("srgan").tiny, content="vgg54", vgg=VGGConfig("random"))
    model, batch = model_of(config), random_batch(pictures())
    made = batch.image + 1e-3 * torch.randn_like(batch.image)
    exact = model.content(made, batch.image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.content(made, batch.image), exact)


def test_batch_norm_of_the_discriminator_is_the_same_in_both_layouts() -> None:
    """In float64: in float32 torch sums it less exactly with channels innermost."""
    batch, slopes = random_batch(pictures(channels=1), 8), []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = discriminator(1, 32, 4, 8, "batch").double().to(memory_format=layout)  # type: ignore[call-overload]
        network(batch.image.double().contiguous(memory_format=layout)).square().mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert (slopes[0] - slopes[1]).norm() <= 1e-10 * slopes[0].norm()


# --- what is refused ---


def test_vggs_weights_are_asked_for_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    config = RunConfig(
        "srgan", 0, DataConfig(), TrainConfig(), SRGANConfig(width=2, dense=4), usual_foundation("srgan", tiny=True)
    )
    run = Run(tmp_path / "run", config, pictures(), {})
    with pytest.raises(Refused, match="vgg54") as refused:
        built(run)
    for word in ("--model.content pixels", "--model.vgg.weights", "vgg19"):
        assert word in str(refused.value)
    assert isinstance(run.build(), SRGAN), "a trained one draws without them"


def _no_network(*_: object) -> None:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (Pictures(3, 32), "--data.derive low-resolution"),
        (pictures(32, 1), "enlarges pictures 2, 3, 4"),
        (pictures(40, 5), "enlarges pictures 2, 3, 4"),
        (pictures(32, 4, of=1), "in their own colours"),
        (replace(pictures(), matched=False), "needs pairs"),
        (pictures(34, 2), "a multiple of 4 px"),
    ],
)
def test_pictures_that_cannot_be_learned_from_are_refused(of: Pictures, why: str) -> None:
    assert why in str(SRResNet.lacks(of)) and why in str(SRGAN.lacks(of))
    assert SRResNet.lacks(pictures()) is None


def test_networks_that_make_no_sense_are_refused() -> None:
    with pytest.raises(Refused, match="kernel is 4"):
        SRResNet(replace(TINY, kernel=4), pictures())


# --- learning ---


def test_a_short_training_beats_bicubic() -> None:
    """Pictures of sharp edges, which cubic convolution blurs; held out ones, in mean squared error."""
    torch.manual_seed(0)
    model = SRResNet(SRResNetConfig(width=12, blocks=1, kernel=3, norm="none", from_bicubic=True), pictures(32, 2, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(60):
        optimizer.zero_grad()
        (turn,) = model.turns(_edges(16, step), step)
        turn.terms["squared"].backward()
        optimizer.step()
    held = _edges(32, 1000)
    with torch.no_grad():
        ours, usual, nearest = (
            float((made - held.image).square().mean())
            for made in (model.upscale(held.source), bicubic(held.source, 2), interpolate(held.source, scale_factor=2))
        )
    assert ours < 0.7 * usual < usual < nearest


def _edges(number: int, seed: int) -> Batch:
    """Half planes in two greys, [number,1,32,32], and half their size."""
    random = torch.Generator().manual_seed(seed)
    angle, place = (torch.rand(number, 1, 1, generator=random) for _ in range(2))
    grid = torch.arange(32) - 15.5
    side = grid[:, None] * torch.cos(6.3 * angle) + grid * torch.sin(6.3 * angle) > 20 * place - 10
    image = side[:, None].float() * 1.6 - 0.8
    return Batch(image, source=low_resolution(image, 2))
