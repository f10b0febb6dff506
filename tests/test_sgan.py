"""Semi-supervised GAN: its losses in closed form, pictures that keep their class, and learning from a few of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir.commands.stages import built
from tasvir.config import DataConfig, OptimizerConfig, Pictures, Refused, RunConfig, TrainConfig
from tasvir.core import Batch, abilities
from tasvir.data import load
from tasvir.data.batches import Batches, labelled_places, to_float
from tasvir.data.packing import Dataset, Split
from tasvir.drawing import Opened
from tasvir.metrics.evaluate import Protocol, of_run
from tasvir.models import build, recipe
from tasvir.models.adversarial.sgan import begin, blobs, feature_distance, normed
from tasvir.nn.noisy import PlainDropout
from tasvir.runs import Run
from tasvir.training.loop import train


def test_scores_are_those_of_a_further_class_whose_logit_is_zero() -> None:
    """-log D and -log(1 - D) are cross-entropies of a softmax over K+1 classes, the last one's logit being 0."""
    model = tiny_model("sgan").eval()
    image = torch.rand(5, 1, 8, 8) * 2 - 1
    score, (logits, _) = model.judge(image)
    every = log_softmax(torch.cat([logits, torch.zeros(5, 1)], 1), 1)
    real, fake = 1 - every[:, -1].exp(), every[:, -1]
    assert torch.allclose(score.sigmoid(), real, atol=1e-6)
    found = model.game.discriminator(score[:2], score[2:])
    assert torch.allclose(found, -real[:2].log().mean() - fake[2:].mean(), atol=1e-5)
    assert torch.equal(model.classify(image), logits) and logits.shape == (5, 10)
    assert "classify" in abilities(model) and not model.conditional


@pytest.mark.parametrize("network", ["convolutional", "dense"])
def test_turns_are_the_papers(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise in the discriminator, every term from its formula; the labelled pictures are their own batch."""
    torch.manual_seed(0)
    quiet = {"noise_in": 0.0, "noise_between": 0.0, "dropout": 0.0}
    config = replace(recipe("sgan").tiny, network=network, unsupervised=0.5, **quiet)
    model = build("sgan", config, Pictures(1, 8, tuple("0123456789"))).train()
    batch, known = tiny_batch(8, 8), tiny_batch(8, 20)
    known = Batch(known.image[8:], known.label[8:])
    latent = torch.randn(8, 4)
    monkeypatch.setattr(model, "draw", lambda number: latent[:number])
    with torch.no_grad():
        fake = model.generate(latent)
        turns = list(model.turns(Batch(batch.image, labelled=known), 0))
        z_real, z_fake = (model.classify(image).exp().sum(1) for image in (batch.image, fake))
        classes = cross_entropy(model.classify(known.image), known.label)
        means = [model.discriminator(image)[1].mean(0) for image in (fake, batch.image)]
    game = -(z_real / (z_real + 1)).log().mean() - (1 / (z_fake + 1)).log().mean()
    assert [turn.player for turn in turns] == ["discriminator", "generator"]
    assert torch.allclose(turns[0].terms["classes"], classes, atol=1e-5)
    assert torch.allclose(turns[0].terms["game"], 0.5 * game, atol=1e-4)
    assert torch.allclose(turns[1].terms["feature_matching"], (means[0] - means[1]).square().sum(), rtol=1e-4)
    assert {"real_accuracy", "fake_accuracy", "batch_diversity", "labelled_accuracy"} <= set(turns[0].watch)


def test_units_begin_with_zero_mean_and_unit_variance() -> None:
    torch.manual_seed(0)
    layers = [normed(nn.Conv2d(2, 4, 3)), nn.LeakyReLU(0.2), PlainDropout(0.5), nn.Flatten(), normed(nn.Linear(16, 5))]
    network, image = nn.Sequential(*layers), 3 * torch.rand(64, 2, 4, 4) + 1
    begin(network, image)
    maps, units = layers[0](image).transpose(0, 1).flatten(1), network.eval()(image).T
    for found in (maps, units):
        assert torch.allclose(found.mean(1), torch.zeros(len(found)), atol=1e-5)
        assert torch.allclose(found.std(1), torch.ones(len(found)), atol=1e-4)


@pytest.mark.parametrize("size", [8, 28, 64])
def test_discriminator_begins_with_logits_that_tell_pictures_apart(size: int) -> None:
    """Without it, nine layers later all pictures look alike: of other smooth pictures logits vary about as much."""
    torch.manual_seed(0)
    config = replace(recipe("sgan").tiny, width=16, depth=3)
    model = build("sgan", config, Pictures(3, size, tuple("0123456789"))).eval()
    with torch.no_grad():
        logits = model.classify(blobs(64, 3, size))
    assert 0.3 < logits.std(0).mean() < 3 and logits.mean(0).abs().max() < 1.5


def test_spots_are_pictures_of_the_size() -> None:
    image = blobs(6, 3, 9)
    assert image.shape == (6, 3, 9, 9) and image.min() >= -1 and image.max() <= 1 and image.mean() < 0


def test_feature_distance() -> None:
    fake, real = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0]])
    assert feature_distance(fake, real) == 4 + 9


# --- pictures that keep their class ---


def test_pictures_that_keep_their_class_are_even_over_classes() -> None:
    labels = np.repeat([0, 1, 2], [50, 3, 100])
    chosen = labelled_places(labels, 20, 0)
    assert len(set(chosen.tolist())) == 20
    counts = np.bincount(labels[chosen])
    assert counts[1] == 3 and abs(int(counts[0]) - int(counts[2])) <= 1
    assert np.array_equal(chosen, labelled_places(labels, 20, 0))
    assert not np.array_equal(chosen, labelled_places(labels, 20, 1))
    assert np.array_equal(labelled_places(labels, 999, 0), np.arange(153))
    assert np.bincount(labels[labelled_places(labels, 3, 5)]).tolist() == [1, 1, 1]


def few(labels: np.ndarray | None = None, **settings: object) -> Dataset:
    """40 pictures of 4 classes, told apart by their first pixel; 10 keep their class."""
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 1), np.uint8)
    images[:, 0, 0, 0] = images[:, 0, 5, 0] = np.arange(40)
    labels = np.arange(40) % 4 if labels is None else labels
    split = Split(images, labels, "")
    config = DataConfig(**{"labelled": 10, **settings})  # type: ignore[arg-type]
    return Dataset("x", Pictures(1, 6, tuple("abcd")), split, split, (), (), {}, config)


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"flip": True, "translate": 0.3}, {"cutout": 0.5}])
def test_labelled_batches_are_a_function_of_the_step(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes see what one with twice the batch sees; a batch that is read is one that was resident."""
    data = few(**settings)
    whole = Batches(data, 8, 3, "cpu")
    halves = [Batches(data, 4, 3, "cpu", rank=rank, processes=2) for rank in (0, 1)]
    monkeypatch.setattr("tasvir.data.batches.RESIDENT", 0)
    reading = dict(Batches(data, 8, 3, "cpu").iterate(0, 12))
    for step in (11, 0, 5):
        batch, parts = whole[step], [half[step] for half in halves]
        assert batch.label is None and len(batch.labelled) == 8
        for field in ("image", "label"):
            found = getattr(batch.labelled, field)
            assert torch.equal(found, torch.cat([getattr(part.labelled, field) for part in parts])), field
            assert torch.equal(found, getattr(reading[step].labelled, field)), field
        assert torch.equal(batch.image, torch.cat([part.image for part in parts]))
    shown = np.concatenate([whole.labelled_indices(step) for step in range(5)])
    assert np.bincount(shown, minlength=40)[whole.labelled].tolist() == [4] * 10, "each as often as any other"


def test_labelled_pictures_have_their_own_class_and_are_augmented_on_their_own() -> None:
    plain, mirrored = Batches(few(), 10, 0, "cpu"), Batches(few(flip=True), 10, 0, "cpu")
    images, labels = few().train.images, few().train.labels
    seen = []
    for step in range(3):
        known, numbers = plain[step].labelled, plain.labelled_indices(step)
        assert torch.equal(known.image, to_float(torch.from_numpy(images[numbers])))
        assert known.label.tolist() == labels[numbers].tolist()
        turned = mirrored[step].labelled.image
        same = (turned == known.image).flatten(1).all(1)
        assert torch.equal(turned[~same], known.image[~same].flip(3))
        seen.append(same)
    assert 0.2 < torch.cat(seen).float().mean() < 0.8


def run_of(folder: Path, data: Dataset, name: str = "sgan", **settings: object) -> Run:
    usual = {"batch_size": 8, "steps": 4, "sample_every": 0, "checkpoint_every": 2, "tensorboard": False}
    config = RunConfig(
        name,
        0,
        data.settings,
        TrainConfig(**{**usual, "precision": "float32", **settings}),  # type: ignore[arg-type]
        replace(recipe(name).tiny, latent_size=4),
    )
    return Run(folder, config, data.pictures, {"hash": {}}).create()


def digits(labelled: int | None, labels: np.ndarray | None = None) -> Dataset:
    data = load(DataConfig(source=("digits",), limit=200, labelled=labelled))
    return data if labels is None else replace(data, train=replace(data.train, labels=labels))


def test_hidden_labels_never_leak_and_few_labels_survive_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training is the same to the bit when all hidden classes are others, and when it was stopped half way.

    Only the choice of pictures looks at all classes, to be even over them: here it stays as it was.
    """
    data = digits(20)
    shown = labelled_places(data.train.labels, 20, 0)
    monkeypatch.setattr("tasvir.data.batches.labelled_places", lambda labels, number, seed: shown)
    other = (data.train.labels + 1 + np.arange(len(data.train))) % 10
    other[shown] = data.train.labels[shown]
    runs = [run_of(tmp_path / "true", data), run_of(tmp_path / "false", data), run_of(tmp_path / "half", data, steps=2)]
    assert train(runs[0], data) == "done"
    assert train(runs[1], digits(20, other)) == "done"
    train(runs[2], data)
    half = Run.open(tmp_path / "half")
    half = replace(half, config=replace(half.config, train=replace(half.config.train, steps=4)))
    train(half, data)
    expected = runs[0].latest().tensors("model.safetensors")
    for run in (runs[1], half):
        found = run.latest().tensors("model.safetensors")
        assert all(torch.equal(expected[key], found[key]) for key in expected), run.folder


def test_labels_that_are_shown_matter(tmp_path: Path) -> None:
    """Else the test before would pass of a model that looks at none."""
    data = digits(20)
    wrong = run_of(tmp_path / "wrong", data)
    right = run_of(tmp_path / "right", data)
    train(right, data)
    train(wrong, digits(20, (data.train.labels + 1) % 10))
    pairs = [run.latest().tensors("model.safetensors") for run in (right, wrong)]
    assert not all(torch.equal(pairs[0][key], pairs[1][key]) for key in pairs[0])


def test_without_the_setting_all_labels_are_used() -> None:
    batch = Batches(digits(None), 8, 0, "cpu")[0]
    assert batch.labelled is None and batch.label is not None
    assert recipe("sgan").data.labelled == 100


def test_few_labels_are_refused_where_they_mean_nothing(tmp_path: Path) -> None:
    for name, words in (("dcgan", "uses no classes"), ("cgan", "needs the class of every picture")):
        run, _ = tiny_run(name, tmp_path / name)
        run = replace(run, config=replace(run.config, data=replace(run.config.data, labelled=20)))
        with pytest.raises(Refused, match=f"{name} {words}, so --data.labelled has no meaning; leave it out."):
            built(run)
    with pytest.raises(Refused, match="--data.labelled is 5, and there are 10 classes"):
        load(DataConfig(source=("digits",), labelled=5))
    with pytest.raises(Refused, match=r"needs classes, and these pictures have none"):
        raise Refused(str(recipe("sgan").model.lacks(Pictures(1, 8))))


def supervised(data: Dataset, chosen: np.ndarray) -> float:
    """Test accuracy of a plain dense network taught with the chosen pictures alone, until it knows them by heart."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
    network.append(nn.Linear(256, 10))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    image = to_float(torch.from_numpy(np.array(data.train.images[chosen])))
    label = torch.from_numpy(data.train.labels[chosen])
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(network(image), label).backward()
        optimizer.step()
    with torch.no_grad():
        test = network(to_float(torch.from_numpy(np.array(data.test.images)))).argmax(1).numpy()
    return float((test == data.test.labels).mean())


def test_few_labels_teach_more_than_a_supervised_network_learns(tmp_path: Path) -> None:
    """Digits, 2 labels of each class: at least a quarter fewer errors than a plain network taught with those 20."""
    settings = DataConfig(source=("digits",), labelled=20)
    data = load(settings)
    alone = supervised(data, labelled_places(data.train.labels, 20, 0))
    rate = OptimizerConfig(learning_rate=3e-3, betas=(0.5, 0.999))
    config = replace(recipe("sgan").config, network="dense", widths=(256, 128, 128), generator_widths=(128,))
    config = replace(config, latent_size=20, unsupervised=0.5, generator=rate, discriminator=rate)
    loop = TrainConfig(steps=400, batch_size=64, average=0.98, sample_every=0, checkpoint_every=400, tensorboard=False)
    run = Run(tmp_path, RunConfig("sgan", 0, settings, loop, config), data.pictures, data.description).create()
    assert train(run, data) == "done"
    (line,) = of_run(tmp_path, Protocol(("test-accuracy",)), opened=Opened(run))
    assert line["metric"] == "test_accuracy" and line["passport"]["labelled"] == 20
    assert 1 - line["value"] < 0.75 * (1 - alone)
