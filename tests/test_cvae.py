"""The conditional VAE: it draws what it is asked for, and finds the class that it is not told."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Noise
from tasvir.drawing import Opened
from tasvir.metrics.evaluate import Protocol, of_run
from tasvir.metrics.likelihood import importance_bound
from tasvir.models.autoencoders.cvae import CVAE
from tasvir.models.autoencoders.vae import VAEConfig
from tasvir.training.loop import train

SIZE = 8
BARS = Pictures(1, SIZE, ("left", "middle", "right"))
COLUMNS = (slice(0, 2), slice(3, 5), slice(6, 8))


def bars(number: int, seed: int) -> Batch:
    """A bright bar on black: the class says where, the latent how bright."""
    generator = np.random.default_rng(seed)
    images, labels = np.full((number, 1, SIZE, SIZE), -1, np.float32), np.arange(number) % 3
    for image, label, bright in zip(images[:, 0], labels, generator.uniform(0, 1, number), strict=True):
        image[:, COLUMNS[label]] = bright
    return Batch(torch.from_numpy(images), torch.from_numpy(labels))


def seen(images: torch.Tensor) -> torch.Tensor:
    """Where the bar of each picture is, [N]."""
    return torch.stack([images[:, 0, :, columns].mean((1, 2)) for columns in COLUMNS]).argmax(0)


@pytest.fixture(scope="module")
def model() -> CVAE:
    torch.manual_seed(0)
    made = CVAE(VAEConfig(latent_size=4, widths=(16, 32)), BARS)
    optimizer = torch.optim.Adam(made.parameters(), 4e-3)
    for step in range(120):
        (turn,) = made.turns(bars(96, step), step)
        optimizer.zero_grad()
        sum(turn.terms.values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    return made.eval().requires_grad_(False)


def test_the_asked_class_is_drawn_whatever_the_seed(model: CVAE) -> None:
    label = torch.arange(300) % 3
    drawn = model.sample(Noise(range(300)), label)
    assert (seen(drawn) == label).float().mean() > 0.9, "chance is a third"
    assert (seen(drawn) == label.roll(1)).float().mean() < 0.1
    decoded = model.decode(Noise(range(300)).draw(4), label)
    assert torch.allclose(decoded, drawn, atol=1e-5)


def test_without_a_class_the_right_one_is_found(model: CVAE) -> None:
    held_out = bars(300, 10_000)
    assert held_out.label is not None
    found = model.likeliest(held_out.image)
    assert (found == held_out.label).float().mean() > 0.97
    again = model.likeliest(held_out.image[:10])
    assert torch.equal(again, found[:10]), "a function of the picture"
    assert torch.allclose(model.reconstruct(held_out.image), model.reconstruct(held_out.image, found), atol=1e-5)
    assert torch.allclose(model.encode(held_out.image), model.encode(held_out.image, found), atol=1e-5)


def test_the_class_is_the_one_of_the_greatest_bound(model: CVAE) -> None:
    """By hand: N(0,1) as prior, Bernoulli pixels, and the posterior's mean as the latent."""
    image = torch.rand(12, 1, SIZE, SIZE) * 2 - 1
    bounds = []
    for number in range(3):
        label = torch.full((12,), number)
        mean, log_variance = model.told(label).posterior(image)
        prior = torch.distributions.Normal(0, 1)
        kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log_variance / 2).exp()), prior)
        pixels = ((model.decode(mean, label) + 1) / 2).clamp(1e-7, 1 - 1e-7)
        levels = (image + 1) / 2
        log_likelihood = levels * pixels.log() + (1 - levels) * (1 - pixels).log()
        bounds.append(log_likelihood.flatten(1).sum(1) - kl.sum(1))
    assert torch.equal(model.likeliest(image), torch.stack(bounds).argmax(0))


def test_an_untold_class_costs_what_choosing_it_costs(model: CVAE) -> None:
    held_out, noise = bars(30, 5), range(30)
    chosen = model.likeliest(held_out.image)
    told, untold = model.bound(held_out.image, Noise(noise), chosen), model.bound(held_out.image, Noise(noise))
    assert torch.allclose(untold["bound"], told["bound"] - math.log(3), atol=1e-4)
    assert torch.allclose(untold["bound"], untold["log_likelihood"] - untold["kl"], atol=1e-4)
    weights = model.log_weights(held_out.image, Noise(noise), 4)
    assert torch.allclose(weights, model.log_weights(held_out.image, Noise(noise), 4, chosen) - math.log(3), atol=1e-4)
    exact = importance_bound(model.log_weights(held_out.image, Noise(noise), 200, held_out.label))
    once = model.bound(held_out.image, Noise(noise), held_out.label)["bound"]
    assert exact.mean() > once.mean() - 0.3, "more draws lose nothing but chance"


def test_seeds_and_classes_are_each_pictures_own(model: CVAE) -> None:
    untold = model.sample(Noise(range(90)))
    assert torch.allclose(model.sample(Noise([40])), untold[40:41], atol=1e-5)
    classes = seen(untold)
    assert all((classes == number).float().mean() > 0.15 for number in range(3)), "all classes are drawn"
    told = model.sample(Noise([3, 4]), torch.tensor([2, 0]))
    assert torch.allclose(model.sample(Noise([4]), torch.tensor([0])), told[1:], atol=1e-5)


@pytest.mark.parametrize("number", [-1, 3, 40])
def test_a_class_that_there_is_not_is_refused(model: CVAE, number: int) -> None:
    label, image = torch.tensor([0, number]), torch.zeros(2, 1, SIZE, SIZE)
    for refused in (
        lambda: model.sample(Noise([0, 1]), label),
        lambda: model.decode(torch.zeros(2, 4), label),
        lambda: model.encode(image, label),
        lambda: model.bound(image, Noise([0, 1]), label),
    ):
        with pytest.raises(Refused, match=f"There is no class {number}: there are 3, from 0 to 2"):
            refused()


def test_what_cannot_be_conditional_is_refused() -> None:
    with pytest.raises(Refused, match="standard or mixture"):
        CVAE(VAEConfig(prior="vamp", norm="layer"), BARS)
    assert "needs classes" in str(CVAE.lacks(Pictures(1, SIZE)))


def test_the_loss_is_the_bound_of_the_told_class() -> None:
    model, batch = tiny_model("cvae").eval(), tiny_batch(SIZE, 64)
    (turn,) = model.turns(batch, 0)
    told = model.bound(batch.image, Noise(range(64)), batch.label)  # type: ignore[operator]
    terms, bound = (
        {name: float(values.detach().mean()) for name, values in found.items()} for found in (turn.terms, told)
    )
    assert terms["kl"] == pytest.approx(bound["kl"], rel=1e-4)
    assert terms["reconstruction"] == pytest.approx(-bound["log_likelihood"], rel=0.05)


def test_a_mixture_prior_goes_with_classes() -> None:
    torch.manual_seed(0)
    model = CVAE(VAEConfig(latent_size=4, widths=(4, 8), prior="mixture", components=3), BARS).eval()
    batch = bars(6, 0)
    assert model.bound(batch.image, Noise(range(6)), batch.label)["bound"].shape == (6,)
    assert model.sample(Noise(range(6)), batch.label).shape == batch.image.shape


def test_a_run_shows_a_row_of_each_class_and_is_measured_with_them(tmp_path: Path) -> None:
    from PIL import Image

    from tasvir.report.sheets import cut

    run, data = tiny_run("cvae", tmp_path / "run")
    assert train(run, data) == "done"
    with Image.open(run.folder / "samples" / "00000006.png") as sheet:
        shown = cut(sheet, 8)
    assert (shown.images.shape, shown.columns) == ((80, 8, 8, 1), 8)
    lines = of_run(run.folder, Protocol(("bound", "pixels", "diversity"), number=1000, draws=2))
    found = {line["metric"]: line for line in lines}
    assert found["bound"]["passport"]["given"] == "class" and "given" not in found["diversity"]["passport"]
    opened = Opened(run)
    images, labels = opened.dataset.test.images, opened.dataset.test.labels
    assert labels is not None
    told, untold = opened.model.bound, opened.tensor(images)
    by_hand = told(untold, Noise(range(len(images))), torch.from_numpy(np.array(labels)))["bound"]
    assert found["bound"]["value"] == pytest.approx(float(by_hand.mean()), rel=1e-4)
    made = opened.reconstructions(np.asarray(images), labels=labels.tolist()).astype(float)
    assert found["reconstruction_mse"]["value"] == pytest.approx(((made - images) / 255).__pow__(2).mean(), rel=1e-4)


def test_samples_are_measured_from_a_mixture_where_that_is_asked(tmp_path: Path) -> None:
    """An autoencoder has no samples of its own; a conditional one is asked for the reference's classes."""
    for name in ("ae", "cvae"):
        run, data = tiny_run(name, tmp_path / name)
        train(run, data)
        asked = Protocol(("diversity", "pixels"), number=60, prior="mixture")
        found = {line["metric"]: line for line in of_run(run.folder, asked)}
        assert found["diversity"]["passport"]["prior"] == "mixture" and found["diversity"]["value"] > 0
        assert "prior" not in found["reconstruction_mse"]["passport"]
    own = of_run(run.folder, Protocol(("diversity",), number=60))
    assert "prior" not in own[0]["passport"] and own[0]["value"] != found["diversity"]["value"]
    with pytest.raises(Refused, match="has no samples"):
        of_run(tmp_path / "ae", Protocol(("diversity",)))
    gan, data = tiny_run("gan", tmp_path / "gan")
    train(gan, data)
    with pytest.raises(Refused, match="--prior mixture wants a model that encodes and decodes"):
        of_run(gan.folder, Protocol(("diversity",), prior="mixture"))
