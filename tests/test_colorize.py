"""Colour for grey pictures: the lightness is the source's, and the network answers in a and b of CIE Lab."""

import pytest
import torch

from conftest import tiny_model
from tasvir.config import Pictures
from tasvir.core import Batch
from tasvir.data.colors import lab_to_rgb, rgb_to_lab
from tasvir.data.derive import grey
from tasvir.models import recipe
from tasvir.models.translation.colorize import RANGE, Colorize


def model() -> Colorize:
    made = tiny_model("colorize", 16)
    assert isinstance(made, Colorize)
    return made.eval()


def test_the_answer_has_the_lightness_of_the_source() -> None:
    """To 0.01 of 100 wherever sRGB has the colour; where it lacks it, the colour is clamped."""
    colorize = model()
    source = torch.linspace(-0.6, 0.6, 16).expand(1, 1, 16, 16)
    made = 0.2 * (torch.rand(1, 2, 16, 16) * 2 - 1)
    image = colorize.picture(source, made)
    inside = (image.abs() < 0.999).all(1)
    assert inside.float().mean() > 0.9
    lab = rgb_to_lab(image)
    assert (lab[:, 0] - 50 * (source[:, 0] + 1))[inside].abs().max() < 0.01
    assert (lab[:, 1:] - RANGE * made).abs().amax(1)[inside].max() < 0.02
    with torch.no_grad():
        answer = colorize.translate(source)
    assert answer.shape == (1, 3, 16, 16) and (rgb_to_lab(answer)[:, 0] - 50 * (source[:, 0] + 1)).abs().max() < 0.5


def test_pictures_survive_being_coded() -> None:
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    colorize = model()
    coded = colorize.coded(image)
    assert coded.shape == (2, 2, 16, 16) and coded.abs().max() <= 1
    assert torch.allclose(colorize.picture(grey(image), coded), image, atol=1e-4)


def test_all_colours_of_a_screen_are_within_the_range() -> None:
    steps = torch.linspace(-1, 1, 18)
    cube = torch.cartesian_prod(steps, steps, steps).T[None, :, :, None]
    assert 0.9 < rgb_to_lab(cube)[:, 1:].abs().max() / RANGE < 1


def test_the_absolute_error_is_of_a_and_b() -> None:
    colorize = model()
    lab = torch.tensor([60.0, 20.0, -30.0])[None, :, None, None].expand(2, 3, 16, 16)
    batch = Batch(lab_to_rgb(lab), source=torch.full((2, 1, 16, 16), 0.2))
    with torch.no_grad():
        made = colorize.generate(batch.source) * RANGE
    *_, turn = colorize.turns(batch, 0)
    expected = colorize.config.l1 * (made - lab[:, 1:]).abs().mean() / RANGE
    assert turn.terms["l1"].item() == pytest.approx(expected.item(), rel=1e-3)


def test_pictures_without_colour_are_refused() -> None:
    kind = recipe("colorize").model
    why = "needs pictures in colour and their lightness as sources: --data.derive grey makes such pairs"
    assert kind.lacks(Pictures(1, 16, (), Pictures(1, 16))) == kind.lacks(Pictures(3, 16, (), Pictures(3, 16))) == why
    assert kind.lacks(Pictures(3, 16, (), Pictures(1, 16))) is None
    assert "needs pairs" in (kind.lacks(Pictures(3, 16)) or "")
