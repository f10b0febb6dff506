"""cGAN and AC-GAN: their published networks, who is told the class, what is learned from it, and bad input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir import cli
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Noise
from tasvir.losses.games import GameConfig
from tasvir.models import recipe
from tasvir.models.adversarial.ac_gan import Disturbance
from tasvir.models.adversarial.gan import GAN, variety
from tasvir.nn.augmentation import AugmentConfig
from tasvir.nn.classes import joined
from tasvir.training.state import State

TEN = tuple("0123456789")


def tasvir(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return int(exit_.value.code or 0), said.out, said.err


# --- networks ---


def shapes(network: nn.Sequential, inputs: torch.Tensor, kinds: tuple[type, ...]) -> list[tuple[int, ...]]:
    found = []
    for layer in network:
        inputs = layer(inputs)
        if isinstance(layer, kinds):
            found.append(tuple(inputs.shape[1:]))
    return found


def test_a_class_is_a_one_behind_the_vector() -> None:
    told = joined(torch.zeros(2, 100), torch.tensor([0, 2]), 3)
    assert told.shape == (2, 103) and told[:, :100].abs().sum() == 0
    assert torch.equal(told[:, 100:], torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]))


def test_one_picture_of_each_class_is_no_variety() -> None:
    label, real = torch.tensor([0, 1, 0, 1, 2, 2]), torch.randn(6, 1, 8, 8)
    ones = torch.randn(3, 1, 8, 8)[label]
    assert float(variety(ones, real)["batch_diversity"]) > 0.5
    assert float(variety(ones, real, label, 3)["batch_diversity"]) == pytest.approx(0, abs=1e-3)
    found = float(variety(2 * real, real, label, 3)["batch_diversity"])
    groups = [real[label == one].var(0, correction=0).mean() for one in range(3)]
    within = variety(real.flip(0), ones + real, label, 3)["batch_diversity"]
    assert found == pytest.approx(2, rel=1e-5) and torch.isfinite(within)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near_white = 0.999 - 0.001 * real.abs().clamp(max=1)
        assert float(variety(0.5 * near_white, near_white, label, 3)["batch_diversity"]) == pytest.approx(0.5, rel=1e-2)
    usual = variety(torch.ones_like(real).copysign(real), real, label, 3)["batch_diversity"] ** 2
    signs = torch.stack([real[label == one].sign().var(0, correction=0).mean() for one in range(3)])
    assert float(usual) == pytest.approx(float(signs.sum() / torch.stack(groups).sum()), rel=1e-4)


def test_cgan_cifar10_is_as_specified() -> None:
    asked = recipe("cgan-cifar10")
    assert asked.config.latent_size == 100 and asked.train.batch_size == 64
    assert (asked.config.discriminator.learning_rate, asked.config.generator.learning_rate) == (2e-4, 4e-4)
    model = asked.model(asked.config, Pictures(3, 32, TEN))
    grown = shapes(model.generator.layers, torch.zeros(2, 110), (nn.Unflatten, nn.ConvTranspose2d))
    assert grown == [(512, 2, 2), (256, 4, 4), (128, 8, 8), (64, 16, 16), (3, 32, 32)]
    shrunk = shapes(model.discriminator.convolutions, torch.zeros(2, 3, 32, 32), (nn.Conv2d,))
    assert shrunk == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)]
    assert (model.discriminator.dense.in_features, model.discriminator.dense.out_features) == (2058, 512)
    norms = [layer for layer in model.generator.layers if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 4 and not any(isinstance(layer, nn.ReLU) for layer in model.modules())


def test_ac_gan_is_the_table_of_the_papers_appendix() -> None:
    asked = recipe("ac-gan")
    model = asked.model(asked.config, Pictures(3, 32, TEN))
    grown = shapes(model.generator.layers, torch.zeros(2, 110), (nn.Unflatten, nn.ConvTranspose2d))
    assert grown == [(384, 4, 4), (192, 8, 8), (96, 16, 16), (3, 32, 32)]
    transposed = [layer for layer in model.generator.layers if isinstance(layer, nn.ConvTranspose2d)]
    assert {layer.kernel_size for layer in transposed} == {(5, 5)}
    convolutions = [layer for layer in model.discriminator if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 32, 64, 128, 256, 512]
    assert [layer.stride[0] for layer in convolutions] == [2, 1, 2, 1, 2, 1]
    assert {layer.kernel_size for layer in convolutions} == {(3, 3)}
    assert [type(layer) for layer in model.discriminator[:3]] == [nn.Conv2d, nn.LeakyReLU, Disturbance], "no norm first"
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model.discriminator) == 5
    assert {layer.dropout for layer in model.discriminator if isinstance(layer, Disturbance)} == {0.5}
    assert model.discriminator[-1].out_features == 11


def test_dropout_and_noise_are_what_they_say_and_only_while_training() -> None:
    layer, ones = Disturbance(0.25, 0.1), torch.ones(64, 8, 16, 16)
    torch.manual_seed(0)
    value = layer(ones)
    dropped = value < 0.66
    assert dropped.float().mean() == pytest.approx(0.25, abs=0.005)
    assert value.mean() == pytest.approx(1.0, abs=0.01)
    assert value[~dropped].mean() == pytest.approx(4 / 3, abs=0.01)
    assert value[dropped].std() == pytest.approx(0.1, abs=0.005)
    torch.manual_seed(0)
    assert torch.equal(layer(ones.to(memory_format=torch.channels_last)), value), "whatever the layout"
    assert torch.equal(layer.eval()(ones), ones)
    assert torch.equal(Disturbance(0.0, 0.0)(ones), ones)


# --- the algorithm ---


def test_ac_gan_descends_the_papers_losses() -> None:
    """L_S and L_C of arXiv 1610.09585 from the discriminator's own outputs; without dropout and noise, to compare."""
    torch.manual_seed(0)
    config = replace(recipe("ac-gan").tiny, dropout=0.0, activation_noise=0.0)
    model, batch = recipe("ac-gan").model(config, Pictures(1, 8, TEN)), tiny_batch(8)
    torch.manual_seed(1)
    first, second = model.turns(batch, 0)
    torch.manual_seed(1)
    fake = model.generate(model.draw(len(batch)), batch.label)
    losses = {}
    for of, image in {"real": batch.image, "fake": fake}.items():
        said = model.discriminator(image).double()
        probability = said[:, 1:].exp() / said[:, 1:].exp().sum(1, keepdim=True)
        source = said[:, 0].sigmoid() if of == "real" else 1 - said[:, 0].sigmoid()
        losses[of] = (-source.log().mean(), -probability[torch.arange(len(batch)), batch.label].log().mean())
    assert set(first.terms) == {"game", "real_class", "fake_class"} and set(second.terms) == {"game", "fake_class"}
    assert first.terms["game"].item() == pytest.approx((losses["real"][0] + losses["fake"][0]).item(), rel=1e-4)
    for of in ("real", "fake"):
        assert first.terms[f"{of}_class"].item() == pytest.approx(losses[of][1].item(), rel=1e-4)
    assert second.terms["fake_class"].item() == pytest.approx(losses["fake"][1].item(), rel=1e-4)
    assert {"real_class_accuracy", "fake_class_accuracy"} <= set(first.watch)


@pytest.mark.parametrize("name", ["cgan", "cgan-cifar10", "ac-gan"])
@pytest.mark.parametrize(
    "game",
    [
        GameConfig("hinge", r1=1.0, r2=1.0, r1_every=1),
        GameConfig("wasserstein-penalty", discriminator_steps=1),
        GameConfig("relativistic", r1=1.0, r1_every=2),
        GameConfig("wasserstein-clipping", discriminator_steps=2),
    ],
    ids=lambda game: game.name,
)
def test_every_game_is_played(name: str, game: GameConfig) -> None:
    torch.manual_seed(0)
    config = replace(recipe(name).tiny, game=game, augment=AugmentConfig("diffaugment"))
    model = recipe(name).model(config, Pictures(3, 8, TEN))
    batch = Batch(torch.rand(4, 3, 8, 8) * 2 - 1, torch.tensor([1, 2, 3, 4]))
    seen = set()
    for step in range(2):
        for turn in model.turns(batch, step):
            total = sum(turn.terms.values())
            assert torch.isfinite(total)
            total.backward(inputs=model.players()[turn.player].parameters())
            seen |= {turn.player, *turn.terms}
    assert {"discriminator", "generator", "game"} <= seen
    assert ("gradient_penalty" in seen) == (game.name == "wasserstein-penalty") and ("r1" in seen) == (game.r1 > 0)


@pytest.mark.parametrize("name", ["dcgan", "cgan", "ac-gan", "infogan"])
@pytest.mark.parametrize(
    "game", [GameConfig("wasserstein-penalty"), GameConfig(r1=1.0), GameConfig(r2=1.0, r1_every=1)]
)
def test_discriminators_whose_gradients_are_penalized_judge_each_picture_by_itself(name: str, game: GameConfig) -> None:
    """No norm is of the batch; where batch norm is asked for, it is refused."""
    kind, config = recipe(name).model, replace(recipe(name).tiny, game=game)
    usual, penalized = (kind(one, Pictures(1, 16, TEN)) for one in (recipe(name).tiny, config))

    def of_the_batch(model: GAN) -> bool:
        return any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in model.discriminator.modules())

    assert of_the_batch(usual) and not of_the_batch(penalized)
    if name != "infogan":
        with pytest.raises(Refused, match="R1 and R2 are of single pictures: .* must be layer or none"):
            kind(replace(config, discriminator_norm="batch"), Pictures(1, 16, TEN))


def test_the_cgan_discriminator_judges_a_picture_by_its_class_and_that_of_ac_gan_does_not() -> None:
    image = tiny_batch(8).image
    for name, differs in (("cgan", True), ("ac-gan", False)):
        model = tiny_model(name).eval()
        scores = [model.judge(image, torch.full((8,), label))[0] for label in (0, 1)]
        assert torch.allclose(*scores) != differs


@pytest.mark.parametrize("name", ["cgan", "ac-gan"])
def test_a_class_that_is_asked_for_is_learned(name: str, tmp_path: Path) -> None:
    """Dark pictures and bright ones, with noise: what is drawn for each class is on its own side after a few steps."""
    steps = 60
    run, _ = tiny_run(name, tmp_path / "run", steps=steps)
    torch.manual_seed(0)
    rate = replace(recipe(name).config.generator, learning_rate=2e-3)
    more = {"activation_noise": 0.0, "discriminator_width": 8} if name == "ac-gan" else {}
    config = replace(recipe(name).tiny, width=16, generator=rate, discriminator=rate, **more)
    state = State(recipe(name).model(config, Pictures(1, 8, ("dark", "bright"))), run, torch.device("cpu"))
    label = torch.arange(64) % 2
    image = (label.view(-1, 1, 1, 1) - 0.5 + 0.2 * torch.randn(64, 1, 8, 8)).clamp(-1, 1)
    for _ in range(steps):
        state.advance(Batch(image, label))
    model = state.model.eval()
    with torch.no_grad():
        seeds = Noise(range(64))
        drawn = model.sample(seeds, label).mean((1, 2, 3))
    assert ((drawn > 0) == (label == 1)).float().mean() >= 0.95
    if name == "ac-gan":
        assert (model.classify(image).argmax(1) == label).float().mean() >= 0.95


# --- bad input ---


def album(folder: Path, classes: int = 0, each: int = 16, grey: bool = False) -> Path:
    """Pictures of 8 px, in a folder for each class, or all in one."""
    for number in range(max(classes, 1) * each):
        place = folder / f"class{number % classes}" if classes else folder
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8) if grey else (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def words(name: str, data: Path, run: Path, *more: object) -> list[object]:
    return [
        "train",
        name,
        "--data",
        data,
        "--data.size",
        8,
        "--train.steps",
        2,
        "--model.width",
        8,
        "--out",
        run,
        *more,
    ]


def test_without_classes_the_recipes_that_need_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = album(tmp_path / "flat")
    code, _, said = tasvir(capsys, *words("cgan", flat, tmp_path / "run"))
    assert code == 2 and "cgan needs classes" in said and "These need no classes: gan, dcgan" in said
    named = said.partition("These need no classes: ")[2].partition(".")[0]
    assert not {"cgan", "ac-gan", "cvae"} & set(named.replace(" and ", ", ").split(", "))
    code, _, said = tasvir(capsys, "train", "cvae", "--data", flat, "--data.size", 8, "--out", tmp_path / "run")
    assert code == 2 and "These need no classes: ae, vae" in said
    assert not (tmp_path / "run").exists()


def test_more_classes_than_the_checkpoint_knew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = album(tmp_path / "set", classes=2)
    assert tasvir(capsys, *words("cgan", data, tmp_path / "run"))[0] == 0
    album(data, classes=3)
    code, _, said = tasvir(capsys, "resume", tmp_path / "run", "--train.steps", 4)
    assert code == 2 and "they were of 2 classes and are of 3 now" in said and "train anew" in said
    code, _, said = tasvir(capsys, "evaluate", tmp_path / "run", "--metrics", "diversity")
    assert code == 2 and "they were of 2 classes and are of 3 now" in said
    code, _, said = tasvir(capsys, "sample", tmp_path / "run", "--label", "class2", "--out", tmp_path / "x.png")
    assert code == 2 and "There is no label 'class2'" in said


def test_grey_pictures_for_a_colour_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = album(tmp_path / "set"), tmp_path / "run"
    more = ["--data.size", 8, "--train.steps", 2, "--model.widths", 4, 8, "--out", run]
    assert tasvir(capsys, "train", "ae", "--data", data, *more)[0] == 0
    grey = album(tmp_path / "grey", grey=True)
    code, _, said = tasvir(capsys, "reconstruct", run, grey / "0.png", "--out", tmp_path / "x.npz")
    assert code == 0 and np.load(tmp_path / "x.npz")["images"].shape == (1, 8, 8, 3)
    assert tasvir(capsys, "encode", run, grey / "0.png", "--out", tmp_path / "z.npz")[0] == 0
    album(data, grey=True)
    code, _, said = tasvir(capsys, "resume", run, "--train.steps", 4)
    assert code == 2 and "they were in colour and are in grey now" in said
    code, _, said = tasvir(capsys, "reconstruct", run, "--out", tmp_path / "y.npz")
    assert code == 0 and "they were in colour and are in grey now" in said
    assert np.load(tmp_path / "y.npz")["images"].shape[1:] == (8, 8, 3)


def test_few_pictures_are_said_to_be_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = album(tmp_path / "set", classes=2)
    code, _, said = tasvir(capsys, *words("cgan", data, tmp_path / "one"))
    assert code == 0 and "There are only " in said and "--model.augment.name ada or diffaugment" in said
    augmented = words("cgan", data, tmp_path / "two", "--model.augment.name", "diffaugment")
    assert "There are only" not in tasvir(capsys, *augmented)[2]
    more = ["--data.size", 8, "--train.steps", 2, "--model.widths", 4, 8, "--out", tmp_path / "three"]
    assert "There are only" not in tasvir(capsys, "train", "ae", "--data", data, *more)[2], "no adversarial recipe"


def test_one_picture_does_not_go_with_batch_norm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in {"train": 1, "test": 16}.items():
        album(tmp_path / "set" / split, each=count)
    (tmp_path / "set" / "train" / "0.png").unlink()
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(tmp_path / "set" / "train" / "a.png")
    code, _, said = tasvir(capsys, *words("dcgan", tmp_path / "set", tmp_path / "run"))
    assert code == 2 and "There is 1 picture to train on; dcgan has batch norm and needs at least 2." in said
    assert not (tmp_path / "run").exists()
