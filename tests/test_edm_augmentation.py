"""EDM's augmentation: the network is told of it, so that it draws none."""

from dataclasses import replace
from math import pi

import torch

from tasvir.config import Pictures
from tasvir.core import Batch, Noise
from tasvir.models import build, recipe
from tasvir.nn.nonleaky import CONDITIONS, SHIFT, STRETCH, augmented, transformed

TINY = recipe("edm").tiny


def edm(augment: float):
    torch.manual_seed(0)
    return build("edm", replace(TINY, augment=augment), Pictures(1, 8))


def done(**said: float) -> torch.Tensor:
    """What is told of one picture."""
    names = ("sideways", "upside", "size", "cosine", "sine", "one", "other", "right", "down")
    return torch.tensor([[said.get(name, 0.0) for name in names]])


def turned(angle: float) -> dict[str, float]:
    value = torch.tensor(angle)
    return {"cosine": float(value.cos()) - 1, "sine": float(value.sin())}


def dot(size: int, right: float, down: float, deviation: float = 2.0) -> torch.Tensor:
    """A Gaussian spot, at so many pixels from the middle; [1,1,S,S]."""
    place = torch.arange(size) - (size - 1) / 2
    return torch.exp(-((place - right) ** 2 + (place[:, None] - down) ** 2) / (2 * deviation**2))[None, None]


def middle(image: torch.Tensor) -> tuple[float, float]:
    """Where the mass of a picture lies, to the right of and below its middle, in pixels."""
    place = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    mass = image[0, 0] / image.sum()
    return float((mass * place).sum()), float((mass * place[:, None]).sum())


def test_without_it_there_is_nothing_of_it() -> None:
    plain, told = edm(0.0), edm(0.5)
    extra = {name for name, _ in told.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert extra == {"network.condition.weight"} and told.network.condition.weight.shape[1] == CONDITIONS
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1)
    after = []
    for model in (plain, told):
        torch.manual_seed(1)
        next(iter(model.turns(batch, 0)))
        after.append(torch.rand(1))
    torch.manual_seed(1)  # what diffusion draws alone: levels and noise
    torch.randn(4), torch.randn(4, 1, 8, 8)
    assert torch.equal(after[0], torch.rand(1)) and not torch.equal(after[1], after[0])
    assert plain.augmented(batch.image)[0] is batch.image and plain.augmented(batch.image)[1] is None


def test_untouched_pictures_are_told_as_such() -> None:
    torch.manual_seed(0)
    image = torch.rand(2000, 1, 8, 8)
    same, nothing = augmented(image, 0.0)
    assert torch.equal(same, image) and nothing.shape == (2000, CONDITIONS) and not nothing.any()
    changed, told = augmented(image, 0.12)
    untouched = ~told.any(1)
    assert torch.equal(changed[untouched], image[untouched])
    assert not torch.isclose(changed[~untouched], image[~untouched]).flatten(1).all(1).any()
    # four transforms by their chance, and each mirroring by half of it
    assert abs(untouched.float().mean() - 0.88**4 * 0.94**2) < 0.03
    often = (told != 0).float().mean(0)
    wanted = torch.tensor([0.06, 0.06, *[0.12] * 7])
    assert (often - wanted).abs().max() < 0.03


def test_what_is_told_is_what_was_done() -> None:
    size = 32
    spot = dot(size, 5.0, 2.0)
    wanted = {
        (("sideways", 1.0),): (-5.0, 2.0),
        (("upside", 1.0),): (5.0, -2.0),
        (("size", 1.0),): (5 * STRETCH, 2 * STRETCH),
        (("size", -2.0),): (5 / STRETCH**2, 2 / STRETCH**2),
        tuple(turned(pi / 2).items()): (-2.0, 5.0),
        (("one", 1.0),): (5 * STRETCH, 2 / STRETCH),
        (("other", 1.0),): (5 / STRETCH, 2 * STRETCH),  # along the other axis
        (("one", 0.5**0.5), ("other", 0.5**0.5)): (3.5 * STRETCH + 1.5 / STRETCH, 3.5 * STRETCH - 1.5 / STRETCH),
        (("right", 0.5), ("down", -1.0)): (5 + 0.5 * SHIFT * size, 2 - SHIFT * size),
        (*turned(pi / 2).items(), ("sideways", 1.0), ("right", 1.0)): (-2 + SHIFT * size, -5.0),  # the shift comes last
    }
    for said, (right, down) in wanted.items():
        found = middle(transformed(spot, done(**dict(said))))
        assert abs(found[0] - right) < 0.1 and abs(found[1] - down) < 0.1, (said, found)
    assert torch.allclose(transformed(spot, done(sideways=1.0)), spot.flip(-1), atol=1e-5)
    assert torch.allclose(transformed(spot, done(**turned(pi))), spot.flip(-1, -2), atol=1e-5)
    # what is told is enough to make the same again
    torch.manual_seed(3)
    image = torch.rand(50, 3, 8, 8)
    made, told = augmented(image, 0.5)
    assert torch.allclose(transformed(image, told), made, atol=1e-6)


def test_it_is_learned_from_and_samples_are_told_of_nothing() -> None:
    model = edm(1.0)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if not p.any()):
            parameter.normal_(0, 0.1)  # as after training: what is told changes something
    turn = next(iter(model.turns(Batch(torch.rand(4, 1, 8, 8) * 2 - 1), 0)))
    turn.terms["loss"].backward()
    assert model.network.condition.weight.grad.abs().sum() > 0
    x, told = torch.randn(3, 1, 8, 8), torch.rand(3)
    with torch.no_grad():
        unsaid = model.network(x, told)
        assert torch.equal(unsaid, model.network(x, told, None, torch.zeros(3, CONDITIONS)))
        assert not torch.allclose(unsaid, model.network(x, told, None, torch.ones(3, CONDITIONS)), atol=1e-4)
        given = []
        model.network.register_forward_pre_hook(lambda network, given_: given.append(given_))
        model.sample(Noise([0, 1]))
        assert given and all(len(one) == 3 for one in given)
