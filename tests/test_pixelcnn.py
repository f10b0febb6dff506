"""The gated PixelCNN: what it may see, that it sums to one, and that drawing from what is kept changes nothing."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.datasets import load_digits
from torch import Tensor

from tasvir.config import Pictures, Refused
from tasvir.core import Batch, KnowsLikelihood, Noise
from tasvir.data.batches import to_float, to_uint8
from tasvir.models import recipe
from tasvir.models.autoregressive.pixelcnn import PixelCNN, PixelCNNConfig, quantize
from tasvir.nn.pixelcnn import GatedPixelCNN, inverse

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "larger kernel": {"kernel": 5},
    "colors": {"variables": 3},
    "codes": {"embedded": True},
    "several codes": {"embedded": True, "variables": 2},
    "classes": {"classes": 3},
    "condition": {"condition": 2},
    "attention": {"attention": 2},
    "attention of two heads": {"attention": 1, "heads": 2},
    "all": {"attention": 3, "condition": 2, "classes": 3, "embedded": True, "variables": 3, "dropout": 0.5},
}
VARIANT = pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))


def network(seed: int = 0, side: int = 6, **settings: Any) -> GatedPixelCNN:
    """An untrained network whose weights are large enough for everything to matter."""
    torch.manual_seed(seed)
    usual = {"variables": 1, "levels": 5, "width": 8, "layers": 4, "kernel": 3, "output": 8, "embedded": False}
    built = GatedPixelCNN(side=side, **{**usual, **settings}).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(2)
    return built.requires_grad_(False)


def beside(built: GatedPixelCNN, number: int, variant: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Labels and a conditioning map, where the network takes them."""
    label = torch.arange(number) % 3 if "classes" in variant else None
    condition = torch.randn(number, 2, built.side, built.side) if "condition" in variant else None
    return label, condition


def influences(built: GatedPixelCNN, variant: dict[str, Any]) -> np.ndarray:
    """[T,T] bool: whether the logits of value `column` change with value `row`; as they are drawn, V innermost."""
    total = built.side**2 * built.variables
    values = torch.randint(0, built.levels, (1, built.variables, built.side, built.side))
    changed = values.permute(0, 2, 3, 1).reshape(1, total).repeat(total, 1)
    changed[range(total), range(total)] = (changed.diagonal() + 1) % built.levels
    changed = changed.view(total, built.side, built.side, -1).permute(0, 3, 1, 2)
    label, condition = beside(built, 1, variant)
    more = [None if x is None else x.expand(total, *x.shape[1:]) for x in (label, condition)]
    same = torch.contiguous_format  # the same kernels for both, so that what is not reached is equal to the bit
    before = built(values.expand_as(changed).clone(memory_format=same), *more)
    difference = (built(changed.clone(memory_format=same), *more) - before).abs().amax(1)
    return (difference.permute(0, 2, 3, 1).reshape(total, total) > 0).numpy()


@VARIANT
def test_a_value_changes_the_logits_of_later_values_only(variant: dict[str, Any]) -> None:
    seen = np.any([influences(network(seed, **variant), variant) for seed in range(3)], axis=0)
    assert not np.tril(seen).any(), "its own logits and those of every value before it stay"
    if "kernel" not in variant and variant.get("variables", 1) == 1:
        assert seen[np.triu_indices(len(seen), 1)].all(), "four layers reach all of 6×6: nothing is blind"


@pytest.mark.parametrize("layers", [1, 2])
def test_the_receptive_field_is_the_rectangle_above_and_the_row_to_the_left(layers: int) -> None:
    """The first kernel of 7 reaches 3 positions, one of 3 one more; plain masked convolutions miss the upper right."""
    side, reach = 9, 2 + layers
    seen = np.any([influences(network(seed, side, layers=layers), {}) for seed in range(8)], axis=0)
    for (i, j), (k, m) in product(product(range(side), repeat=2), repeat=2):
        above = 1 <= k - i <= reach and abs(m - j) <= reach
        left = k == i and 1 <= m - j <= reach
        assert seen[i * side + j, k * side + m] == (above or left), ((i, j), (k, m))


def test_a_variable_sees_those_before_it_at_its_own_position() -> None:
    seen = np.any([influences(network(seed, side=3, variables=3), {}) for seed in range(4)], axis=0)
    assert seen[np.triu_indices(27, 1)].all() and not np.tril(seen).any()


def test_attention_reaches_beyond_the_convolutions() -> None:
    far = (0, 80)  # the first and the last position of 9×9
    for attention, expected in ((0, False), (1, True)):
        several = [influences(network(seed, 9, layers=1, attention=attention), {}) for seed in range(3)]
        assert np.any(several, axis=0)[far] == expected


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if {"classes", "condition"} & v.keys()])
def test_label_and_condition_matter_everywhere(variant: dict[str, Any]) -> None:
    built = network(**variant)
    values = torch.randint(0, built.levels, (2, built.variables, 6, 6))
    label, condition = beside(built, 2, variant)
    before = built(values, label, condition)
    if label is not None:
        assert ((built(values, (label + 1) % 3, condition) - before).abs().amax(1) > 0).all()
    if condition is not None:
        moved = condition.clone()
        moved[:, :, 3, 3] += 1
        change = (built(values, label, moved) - before).abs().amax(1) > 0
        assert change[:, :, 3, 3].all(), "a position sees the map at itself"


@VARIANT
def test_drawing_from_what_is_kept_gives_the_naive_loops_values(variant: dict[str, Any]) -> None:
    built = network(**variant)
    uniform = torch.rand(7, built.variables, 6, 6)
    label, condition = beside(built, 7, variant)
    drawn = built.sample(uniform, label, condition)
    assert drawn.dtype == torch.int64 and len(drawn.unique()) > 1
    assert torch.equal(drawn, built.sample_naive(uniform, label, condition))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(drawn, built.sample(uniform, label, condition)), "always in float32"
    alone = [None if x is None else x[3:4] for x in (label, condition)]
    assert torch.equal(drawn[3:4], built.sample(uniform[3:4], *alone)), "in whatever batch"


@pytest.mark.parametrize("side", [1, 2, 3, 9])
@pytest.mark.parametrize("levels", [2, 200])
def test_any_side_and_many_levels_are_drawn_alike(side: int, levels: int) -> None:
    built = network(side=side, levels=levels, layers=3, kernel=5)
    uniform = torch.rand(3, 1, side, side)
    assert torch.equal(built.sample(uniform), built.sample_naive(uniform))


def every_picture(levels: int, variables: int, side: int) -> Tensor:
    """All pictures there are, [levels^(V·S²),V,S,S]."""
    return torch.tensor(list(product(range(levels), repeat=variables * side**2))).view(-1, variables, side, side)


def log_probabilities(built: GatedPixelCNN, values: Tensor, *more: Tensor | None) -> Tensor:
    logits = built(values, *more).double()
    return logits.log_softmax(1).gather(1, values[:, None]).flatten(1).sum(1)


@pytest.mark.parametrize(
    "shape", [(2, 1, 2), (2, 1, 3), (2, 3, 2), (7, 1, 2)], ids=["2×2", "3×3", "2×2 colors", "2×2 of seven levels"]
)
@pytest.mark.parametrize("variant", [{}, {"attention": 2}, {"embedded": True, "classes": 3, "condition": 2}])
def test_all_pictures_together_have_probability_one(shape: tuple[int, int, int], variant: dict[str, Any]) -> None:
    levels, variables, side = shape
    built = network(side=side, levels=levels, variables=variables, **variant)
    values = every_picture(*shape)
    more = [None if x is None else x.expand(len(values), *x.shape[1:]) for x in beside(built, 1, variant)]
    probabilities = log_probabilities(built, values, *more).exp()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert float(probabilities.max()) > 1.5 / len(values), "not merely even"


@pytest.mark.parametrize("variant", [{}, {"variables": 2, "attention": 1}], ids=["one variable", "two and attention"])
def test_pictures_are_drawn_as_often_as_they_are_likely(variant: dict[str, Any]) -> None:
    """Pearson's test; a right sampler fails it for one seed in 10,000."""
    built = network(side=2, levels=2, **variant)
    values = every_picture(2, built.variables, 2)
    expected = log_probabilities(built, values).exp().numpy()
    number = 20_000
    drawn = built.sample(torch.rand(number, built.variables, 2, 2)).flatten(1)
    index = (drawn * 2 ** torch.arange(drawn.shape[1]).flip(0)).sum(1)
    counts = np.bincount(index.numpy(), minlength=len(values))
    common = expected * number >= 5
    statistic = ((counts - expected * number) ** 2 / (expected * number))[common].sum()
    assert statistic < chi2.ppf(1 - 1e-4, common.sum() - 1)
    even = np.full(len(values), number / len(values))
    assert ((counts - even) ** 2 / even).sum() > 2 * chi2.ppf(1 - 1e-4, len(values) - 1), "the test can fail"


def test_the_inverse_distribution_function_is_numpys() -> None:
    torch.manual_seed(0)
    logits, uniform = torch.randn(1000, 6) * 3, torch.rand(1000)
    cuts = np.cumsum(logits.double().softmax(1).numpy(), axis=1)
    expected = [np.searchsorted(row, u, side="right") for row, u in zip(cuts, uniform.numpy(), strict=True)]
    assert (inverse(logits, uniform).numpy() == expected).mean() > 0.999
    certain = torch.tensor([[-1e9, 0.0, -1e9]]).repeat(2, 1)
    assert inverse(certain, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1], "what is impossible is never drawn"


def test_levels_come_and_go_exactly() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = quantize(to_float(torch.from_numpy(pixels)), 256)
    assert torch.equal(values.flatten(), torch.arange(256))
    two = torch.tensor([-1.0, 1.0])
    assert quantize(two, 2).tolist() == [0, 1]


class Echo(torch.nn.Module):
    """Draws what it is told to."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = values
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def sample(self, uniform: Tensor, label: Tensor | None) -> Tensor:
        return self.values


@pytest.mark.parametrize("levels", [2, 256])
def test_a_drawn_level_is_its_own_picture(levels: int) -> None:
    model = PixelCNN(PixelCNNConfig(width=4, layers=1, output=4), Pictures(1, 16, levels=levels))
    model.network = Echo((torch.arange(256) % levels).view(1, 1, 16, 16))  # type: ignore[assignment]
    image = model.sample(Noise([0]))
    expected = (np.arange(256) % levels) * (255 // (levels - 1))
    assert np.array_equal(to_uint8(image).ravel(), expected)
    assert torch.equal(quantize(image, levels), model.network.values)


def small(classes: int = 0, **settings: Any) -> PixelCNN:
    torch.manual_seed(0)
    named = tuple(str(number) for number in range(classes))
    return PixelCNN(PixelCNNConfig(8, 2, output=8, **settings), Pictures(1, 8, named, levels=2)).eval()


@pytest.mark.parametrize(("levels", "channels"), [(2, 1), (256, 3)])
def test_even_logits_cost_the_logarithm_of_the_levels(levels: int, channels: int) -> None:
    model = PixelCNN(PixelCNNConfig(8, 2, output=8), Pictures(channels, 5, levels=levels)).eval()
    for layer in model.network.logits:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    image = torch.rand(3, channels, 5, 5) * 2 - 1
    assert isinstance(model, KnowsLikelihood)
    expected = torch.full((3,), -25 * channels * math.log(levels))
    torch.testing.assert_close(model.log_likelihood(image), expected)
    turn = next(model.turns(Batch(image), 0))
    assert turn.terms["nats"].item() == pytest.approx(-float(expected[0]))
    assert float(turn.watch["bits_per_dim"]) == pytest.approx(math.log2(levels))


def test_a_model_with_classes_obeys_them_and_does_without() -> None:
    model = small(3, conditional=True)
    assert model.conditional
    image = (torch.rand(4, 1, 8, 8) > 0.5).float() * 2 - 1
    with torch.no_grad():
        each = torch.stack([model.log_likelihood(image, torch.full((4,), label)) for label in range(3)])
        assert (each.std(0) > 0).all()
        torch.testing.assert_close(model.log_likelihood(image), each.logsumexp(0) - math.log(3))
    noise = [Noise(range(20)) for _ in range(4)]
    told = [model.sample(noise[label], torch.full((20,), label)) for label in range(3)]
    free = model.sample(noise[3])
    assert not torch.equal(told[0], told[1])
    same = torch.stack([(free == one).flatten(1).all(1) for one in told])
    assert same.any(0).all() and same.any(1).all(), "a seed's class is drawn, and is any of the three"


def test_classes_are_left_out_unless_asked_for_and_must_be_there() -> None:
    assert not small(3).conditional
    assert small(3).sample(Noise([1, 2])).shape == (2, 1, 8, 8)
    with pytest.raises(Refused, match="--model.conditional needs classes, and these pictures have none."):
        small(0, conditional=True)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_picture_depends_on_its_own_seed_alone(classes: int) -> None:
    model = small(classes, conditional=classes > 0)
    together = model.sample(Noise(range(6)))
    for seed in range(6):
        assert torch.equal(model.sample(Noise([seed])), together[seed : seed + 1])
    assert len(together.unique(dim=0)) == 6


def test_it_learns_more_of_digits_than_pixels_apart() -> None:
    """On held-out 8×8 digits of two levels, against a Bernoulli variable for each pixel with its mean."""
    pictures = torch.from_numpy(load_digits().images[:, None] > 7.5).float() * 2 - 1
    train, test = pictures[:1400], pictures[1400:]
    mean = ((train > 0).float().sum(0) + 1) / (len(train) + 2)
    apart = -torch.where(test > 0, mean.log(), (1 - mean).log()).flatten(1).sum(1).mean()
    torch.manual_seed(0)
    model = PixelCNN(PixelCNNConfig(width=16, layers=3, output=16), Pictures(1, 8, levels=2))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(150):
        (turn,) = model.turns(Batch(train[torch.randint(0, len(train), (32,))]), step)
        optimizer.zero_grad()
        turn.terms["nats"].backward()
        optimizer.step()
    with torch.no_grad():
        nats = -model.eval().log_likelihood(test).mean()
    assert nats < 0.85 * apart, (float(nats), float(apart))


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(Refused, match="odd; 4 is even"):
        network(kernel=4)
    with pytest.raises(Refused, match="8 cannot be shared out evenly to 3 heads"):
        network(attention=1, heads=3)


def test_the_recipe_is_small_enough_for_two_cores() -> None:
    config = recipe("pixelcnn").config
    model = PixelCNN(replace(config), Pictures(1, 28, levels=2))
    assert sum(p.numel() for p in model.parameters()) < 400_000
