"""pix2pixHD: what its discriminators see, feature matching, coarse to fine."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d, interpolate

from conftest import tiny_model
from tasvir.blending import axis
from tasvir.config import Pictures
from tasvir.core import Batch
from tasvir.models import recipe
from tasvir.models.translation.pix2pixhd import Pix2PixHD, feature_distance


def _model() -> Pix2PixHD:
    model = tiny_model("pix2pixhd", 64, channels=3)
    assert isinstance(model, Pix2PixHD)
    return model


def _batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.rand(2, 3, 64, 64) * 2 - 1, source=torch.rand(2, 3, 64, 64) * 2 - 1)


def test_each_discriminator_sees_pictures_half_as_large() -> None:
    model, seen = _model(), []
    for discriminator in model.discriminators:
        discriminator[0].register_forward_hook(lambda layer, given, made: seen.append(given[0]))  # type: ignore[index]
    smooth = interpolate(torch.rand(1, 6, 4, 4), 64, mode="bilinear", align_corners=True)
    model.seen(smooth[:, :3], smooth[:, 3:])
    assert [one.shape[-1] for one in seen] == [64, 32, 16] and torch.equal(seen[0], smooth)
    around = avg_pool2d(smooth[:, :, 1:, 1:], 3, stride=2)  # 3×3 around every other pixel, but for the border
    assert torch.allclose(seen[1][:, :, 1:, 1:], around, atol=1e-6)


def test_feature_matching_is_equation_4_and_teaches_only_the_generator() -> None:
    model, batch = _model(), _batch()
    assert batch.source is not None
    real, fake = model.seen(batch.source, batch.image), model.seen(batch.source, model.generator(batch.source))
    by_hand = torch.stack(
        [(f - r).abs().sum() / r.numel() for r, f in zip(real[0][:-1], fake[0][:-1], strict=True)]
    ).sum()
    distance = feature_distance(real[0][:-1], fake[0][:-1])
    assert float(distance.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    with pytest.raises(RuntimeError, match="does not require grad"):
        feature_distance(real[0], [f.detach() for f in fake[0]]).backward()
    turn = next(iter(model.turns(batch, 0)))
    assert set(turn.terms) == {"game", "feature_matching"}
    sum(turn.terms.values()).backward(inputs=model.players()[turn.player].parameters())  # type: ignore[union-attr]
    assert all(p.grad is None for p in model.discriminators.parameters())


def test_the_global_network_and_the_enhancer_both_make_the_picture() -> None:
    generator = _model().generator
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        whole = generator(x)
        coarse = generator.coarse(avg_pool2d(x, 3, 2, 1, count_include_pad=False))
        local = generator.enter(x)
        assert coarse.shape == local.shape == (1, 2, 32, 32)
        assert torch.allclose(generator.picture(generator.leave(coarse + local)), whole, atol=1e-6)
        assert not torch.allclose(generator.picture(generator.leave(local)), whole, atol=1e-3)


def test_small_sources_are_padded() -> None:
    """Of 20×70 px by a network that halves twice and reflects at borders: 8 px at least, and multiples of 4."""
    model = _model()
    assert (model.stride, model.least) == (4, 8)
    for least in (model.least, model.least - model.stride):
        with pytest.raises(RuntimeError) if least < model.least else nullcontext(), torch.no_grad():
            model.translate(torch.zeros(1, 3, least, 12))
    assert axis(3, 12, 0, model.stride, model.least).padded == 8
    assert axis(9, 12, 0, model.stride, model.least).padded == 12


def test_compiled_discriminators_are_called_by_their_forward() -> None:
    model, batch, calls = _model(), _batch(), []
    model.discriminators.register_forward_hook(lambda *_: calls.append(1))
    list(model.turns(batch, 0))
    assert len(calls) == 3 and [p.networks for p in model.players().values()][1] == (model.discriminators,)


def test_sizes_that_are_accepted_can_be_trained_with_the_usual_patch() -> None:
    assert [size for size in range(4, 200) if Pix2PixHD.accepts(size)] == [64, 96, 128, 160, 192]
    assert Pix2PixHD.accepts(512) and Pix2PixHD.accepts(1024)
    model = Pix2PixHD(replace(recipe("pix2pixhd").tiny, patch=70), Pictures(3, 64, (), Pictures(3, 64)))
    assert len(list(model.turns(_batch(), 0))) == 2
