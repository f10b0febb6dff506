"""Latent diffusion: latents of unit scale, all processes, maps and vectors, one folder, refusals."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import tiny_batch, tiny_model, tiny_run
from tasvir.config import Foundation, Pictures, Refused
from tasvir.core import Batch, Compresses, Denoises, Noise, abilities
from tasvir.drawing import Opened
from tasvir.models import build, recipe
from tasvir.models.diffusion.ldm import FAINT, OBSERVED, PROCESSES, DenseDenoiser, Latent
from tasvir.runs import Run
from tasvir.training import foundation
from tasvir.training.loop import train

CLASSES = tuple("0123456789")
TINY = recipe("ldm").tiny


def on(below: str, size: int = 8, first: Any = None, classes: tuple[str, ...] = CLASSES, **settings: Any) -> Latent:
    """An untrained latent model on an untrained autoencoder of that recipe."""
    torch.manual_seed(0)
    first = first or recipe(below).tiny
    model = build("ldm", replace(TINY, **settings), Pictures(1, size, classes), Foundation(below, first, "below"))
    assert isinstance(model, Latent)
    return model


@pytest.mark.parametrize("below", ["kl-autoencoder", "vq-vae", "vae", "ae", "rae"])
def test_coded_latents_have_mean_0_and_deviation_1_in_every_channel(below: str) -> None:
    model = on(below)
    image = tiny_batch(8, 128).image
    latent = model.prepare(image)
    assert latent.shape == (128, *model.shape) and latent.dtype == torch.float32
    for step, part in enumerate(image.split(16)):
        next(model.turns(Batch(part), step))
    coded = model.coded(Batch(image))
    assert torch.allclose(coded.mean((0, 2, 3)), torch.zeros(model.shape[0]), atol=1e-3)
    deviation = latent.std((0, 2, 3), correction=0)
    loud = deviation > 1.01 * FAINT * deviation.square().mean().sqrt()
    assert loud.any() and torch.allclose(coded.std((0, 2, 3), correction=0)[loud], torch.ones(1), atol=0.02)
    kept = [buffer.clone() for buffer in (model.count, model.total, model.squares)]
    next(model.turns(Batch(image * 0), OBSERVED))
    assert all(map(torch.equal, kept, (model.count, model.total, model.squares))), "what is learned has one scale"
    assert torch.equal(model.coded(Batch(image, prepared=latent)), coded)
    assert torch.allclose(model.decoded(coded), model.reconstruct(image), atol=1e-4)


def test_a_channel_that_hardly_varies_is_not_made_loud() -> None:
    model = on("kl-autoencoder")
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(500, 2, 2, 2, generator=generator) * torch.tensor([3.0, 1e-4])[:, None, None] + 5
    model.observe(latent)
    mean, deviation = model.moments
    assert torch.allclose(mean.flatten(), torch.full((2,), 5.0), atol=0.3)
    expected = torch.tensor([3.0, FAINT * 3 / 2**0.5])
    assert torch.allclose(deviation.flatten(), expected, rtol=0.05)


@pytest.mark.parametrize(("process", "below"), [*((name, "kl-autoencoder") for name in PROCESSES), ("flow", "vae")])
def test_every_process_learns_in_maps_and_in_vectors(process: str, below: str) -> None:
    """A single picture is what every seed becomes, far better than before."""
    model = on(below, process=process, classes=())
    assert isinstance(model.network, DenseDenoiser) == (below == "vae")
    assert type(model.process).__name__ == {"flow": "Straight", "edm": "Karras", "ddpm": "Discrete"}[process]
    spread = tiny_batch(8, 64).image
    model.observe(model.prepare(spread))
    image = spread[:1]
    batch = Batch(image.expand(16, -1, -1, -1), prepared=model.prepare(image).expand(16, -1, -1, -1))
    how, clean = model.sampling(steps=6), model.coded(Batch(image))
    caught = []
    for steps in (0, 60):
        model.train()
        for step in range(steps):
            if step == 0:
                optimizer = torch.optim.Adam(model.network.parameters(), 1e-2)
            turn = next(model.turns(batch, OBSERVED + step))
            optimizer.zero_grad()
            turn.terms["loss"].backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model.__dict__["decoded"] = lambda found: found
            drawn = model.sample(Noise(range(8)), how=how)
            del model.__dict__["decoded"]
            assert model.sample(Noise([3]), how=how).abs().max() <= 1
        assert torch.isfinite(drawn).all()
        caught.append(float((drawn - clean).square().mean()))
    assert caught[1] < 0.3 * caught[0], caught


def test_guidance_and_classes_reach_vectors_and_maps() -> None:
    for below in ("vae", "kl-autoencoder"):
        model = on(below).eval()
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
            label = torch.tensor([1, 2])
            draws = [
                model.sample(Noise([0, 1]), label, replace(TINY.sampling, guidance=weight)) for weight in (0, 1, 2)
            ]
        assert not torch.allclose(draws[0], draws[1], atol=1e-4)
        assert not torch.allclose(draws[1], draws[2], atol=1e-4)


@pytest.mark.parametrize("quantizer", ["vq", "fsq", "lookup-free"])
def test_quantized_autoencoders_decode_what_is_near_a_code_as_the_code(quantizer: str) -> None:
    first = replace(recipe("vq-vae").tiny, quantizer=quantizer)
    model = on("vq-vae", first=first).eval()
    image = tiny_batch(8, 16).image
    below = model.autoencoder
    with torch.no_grad():
        latent = model.prepare(image)
        assert torch.equal(below.expand(latent), model.foundation.reconstruct(image))  # type: ignore[union-attr]
        nudged = latent + 1e-6 * latent.sign()
        assert torch.allclose(below.expand(nudged), below.expand(latent), atol=1e-6)


def test_the_folder_samples_by_itself_and_knows_the_scale_after_a_resume(tmp_path: Path) -> None:
    run, data = tiny_run("ldm", tmp_path / "run", steps=4, checkpoint_every=2)
    train(run, data)
    assert len(list((run.folder / "prepared").glob("*.npy"))) == 1
    before = Opened(run.folder).samples(range(3))
    shutil.rmtree(run.folder / "foundation")
    opened = Opened(run.folder)
    assert (opened.samples(range(3)) == before).all()
    assert opened.model.count > 3 * 8 * 4  # of 4 steps, their average a little behind
    longer = replace(run, config=replace(run.config, train=replace(run.config.train, steps=6)))
    train(longer, data)
    state = Run.open(run.folder).latest().tensors("model.safetensors")
    pixels = opened.model.shape[1] * opened.model.shape[2]
    assert float(state["model.count"]) == pytest.approx(6 * 8 * pixels, rel=1e-3)


def test_what_latent_models_can_and_on_what_they_stand(tmp_path: Path) -> None:
    model = tiny_model("ldm")
    assert not isinstance(model, Denoises) and {"sample", "reconstruct"} == set(abilities(model))
    assert isinstance(model.foundation, Compresses) and not recipe("ldm").config.sampling.clip
    for name in ("gan", "cvae", "vq-vae-2-tokenizer"):
        below, _ = tiny_run(name, tmp_path / name)
        with pytest.raises(Refused, match="cannot compress") as refusal:
            foundation.check("ldm", below)
        assert "kl-autoencoder" in str(refusal.value) and "vq-vae" in str(refusal.value)


def test_maps_of_the_kl_autoencoder_are_where_their_squares_are() -> None:
    """A change in one corner of a picture changes latents in that corner most, and the other way round."""
    model: Any = tiny_model("kl-autoencoder", 32).eval()
    image = torch.zeros(1, 1, 32, 32)
    changed = image.clone()
    changed[..., :4, :4] = 1
    with torch.no_grad():
        moved = (model.compress(changed) - model.compress(image)).abs().sum(1)[0]
        assert model.latent_shape == (2, 8, 8) and model.latent_size == 128
        assert moved[:4, :4].sum() > 0 and moved[5:].sum() == 0 and moved[:, 5:].sum() == 0
        latent = model.compress(image)
        latent[..., 7, 7] += 5
        made = (model.expand(latent) - model.reconstruct(image)).abs()[0, 0]
        assert made[16:, 16:].sum() > 0 and made[:8].max() < 1e-6
        assert torch.allclose(model.expand(model.compress(image)), model.reconstruct(image))
