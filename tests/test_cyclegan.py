"""CycleGAN: its pool, its equations, its sizes, what it refuses."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import tiny_batch, tiny_data, tiny_model, tiny_run, tiny_state
from tasvir.config import OptimizerConfig, Pictures, Refused
from tasvir.core import Batch
from tasvir.data.batches import Batches, to_float
from tasvir.losses.games import GameConfig
from tasvir.metrics.watch import Watch
from tasvir.models import recipe
from tasvir.models.translation.cyclegan import CycleGAN, CycleGANConfig, Pool
from tasvir.nn.translators import ResNetGenerator
from tasvir.training.loop import as_two_sets, train
from tasvir.training.optimizers import learning_rate


def test_late_linear_stays_for_half_of_the_steps_and_then_falls_to_zero() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="late-linear")
    assert [learning_rate(config, step, 100) for step in (0, 49, 50)] == [2.0, 2.0, 2.0]
    assert [learning_rate(config, step, 100) for step in (60, 75, 99, 100)] == pytest.approx([1.6, 1.0, 0.04, 0.0])


def test_late_tenth_is_a_tenth_in_the_second_half() -> None:
    config = OptimizerConfig(learning_rate=2.0, schedule="late-tenth", warmup=10)
    assert [learning_rate(config, step, 110) for step in (4, 10, 59, 60, 109)] == pytest.approx([1, 2, 2, 0.2, 0.2])
    assert recipe("srgan").config.generator.schedule == recipe("srgan").config.discriminator.schedule == "late-tenth"


def test_sources_made_of_pictures_are_of_other_pictures() -> None:
    """Trained on as two sets, masked sources are those of pictures drawn and mirrored on their own."""
    data = tiny_data(8, "pix2pix")
    settings = replace(data.settings, derive="masked", mask=0.3, flip=True)
    plain = replace(data, settings=settings, train=replace(data.train, sources=None))
    matched, apart = (Batches(one, 8, 3, "cpu") for one in (plain, as_two_sets(plain)))
    sources = set()
    for step in range(40):
        batch, pair = apart[step], matched[step]
        assert batch.source is not None and pair.source is not None
        assert torch.equal(batch.image, pair.image), "the pictures are the same"
        shown = apart.split.images[apart.source_indices(step)]
        hole = batch.source == 0
        straight = to_float(torch.from_numpy(shown))
        for made, one, gap in zip(batch.source, straight, hole, strict=True):
            assert any(torch.equal(made.where(~gap, 0), way.where(~gap, 0)) for way in (one, one.flip(2)))
        assert torch.equal(pair.source.where(pair.source != 0, pair.image), pair.image)
        sources |= set(apart.source_indices(step).tolist())
        assert apart.indices(step).tolist() != apart.source_indices(step).tolist()
    assert sources == set(range(len(plain.train))), "all are seen"


def test_unmatched_sets_are_measured_while_training(tmp_path: Path) -> None:
    """What tells the best checkpoint needs no pairs."""
    settings = {"evaluate_every": 1, "evaluate_features": "pixels", "evaluate_number": 8}
    run, data = tiny_run("cyclegan", tmp_path / "run", steps=1, **settings)
    data = as_two_sets(data)
    assert train(run, data, measure=Watch(run, data)) == "done"
    assert {line["metric"] for line in run.lines("measurements.jsonl")} >= {"frechet"} and run.best()


def test_accepted_sizes_can_be_trained_with_the_usual_patch() -> None:
    for size in (16, 20):
        model = CycleGAN(CycleGANConfig(width=1, blocks=1), Pictures(1, size, (), Pictures(1, size)))
        assert len(list(model.turns(tiny_batch(size, 1, "cyclegan"), 0))) == 2


def _pictures(number: int, first: int) -> torch.Tensor:
    """Pictures that 8 bits tell apart, each of one value."""
    return (torch.arange(first, first + number) / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


def test_the_pool_is_that_of_a_plain_list() -> None:
    pool = Pool(5, Pictures(1, 2))
    plain: list[torch.Tensor] = []
    told: list[torch.Tensor] = []
    for call in range(30):
        given = _pictures(4, 4 * call)
        torch.manual_seed(call)
        shown = pool(given)
        torch.manual_seed(call)
        for picture, coin, chance in zip(given, *torch.rand(2, 4).tolist(), strict=True):
            if len(plain) < 5:
                plain.append(picture)
                told.append(picture)
            elif coin > 0.5:
                place = int(chance * 5)
                told.append(plain[place])
                plain[place] = picture
            else:
                told.append(picture)
        assert torch.allclose(shown, torch.stack(told[-4:]), atol=1e-6)
    fresh = sum(torch.equal(one, other) for one, other in zip(told[5:], _pictures(115, 5), strict=True))
    assert 0.35 * 115 < fresh < 0.65 * 115, "one in two"
    kept = dict(pool.named_buffers())
    assert kept["kept"].dtype == torch.uint8 and float(kept["count"]) == 5


def test_a_pool_of_none_shows_what_comes() -> None:
    given = _pictures(3, random.randrange(100))
    assert torch.equal(Pool(0, Pictures(1, 2))(given), given)


def test_a_skipped_update_takes_the_pool_back(tmp_path: Path) -> None:
    state = tiny_state("cyclegan", tmp_path)
    batch = tiny_batch(16, 4, "cyclegan")
    for _ in range(3):
        state.advance(batch)
    before = {name: buffer.clone() for name, buffer in state.model.named_buffers()}
    assert before["kept_pictures.kept"].any() and float(before["kept_sources.count"]) == 5
    batch.image = torch.full_like(batch.image, torch.nan)
    state.advance(batch)
    assert float(state.skipped) == 1
    assert all(torch.equal(buffer, before[name]) for name, buffer in state.model.named_buffers())


class _Plus(nn.Module):
    """A generator in whose place everything can be computed by hand."""

    def __init__(self, value: float):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.value


class _Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.slope * x.mean((1, 2, 3), keepdim=True)


def test_losses_are_the_papers() -> None:
    """With G(x) = x + 0.3 and F(y) = y - 0.1: a cycle errs by 0.2 both ways, identity by 0.3 and 0.1."""
    model = tiny_model("cyclegan", 16)
    assert isinstance(model, CycleGAN)
    model.config = CycleGANConfig(pool=0)
    model.identity = model.config.identity
    model.forth, model.back = _Plus(0.3), _Plus(-0.1)  # type: ignore[assignment]
    model.judge_pictures, model.judge_sources = _Mean(), _Mean()  # type: ignore[assignment]
    source, image = torch.full((2, 1, 16, 16), -0.2), torch.full((2, 1, 16, 16), 0.4)
    with torch.no_grad():
        first, second = model.turns(Batch(image, source=source), 0)
    assert (first.player, second.player) == ("generators", "discriminators")
    assert float(first.terms["cycle"]) == pytest.approx(10 * (0.2 + 0.2), rel=1e-5)
    assert float(first.terms["identity"]) == pytest.approx(5 * (0.3 + 0.1), rel=1e-5)
    assert float(first.terms["game"]) == pytest.approx((0.1 - 1) ** 2 + (0.3 - 1) ** 2, rel=1e-5)
    halves = (0.4 - 1) ** 2 + 0.1**2, (-0.2 - 1) ** 2 + 0.3**2
    assert float(second.terms["game"]) == pytest.approx(0.5 * sum(halves), rel=1e-5)


def test_the_generator_has_the_published_number_of_parameters() -> None:
    """11.378 M with nine blocks; where the authors have biases before norms without scales, here norms have both."""
    generator = ResNetGenerator(3, 3, 64, 2, 9)
    scales = sum(layer.weight.numel() for layer in generator.modules() if isinstance(layer, nn.GroupNorm))
    assert sum(p.numel() for p in generator.parameters()) - scales == 11_378_179


def test_the_number_of_blocks_goes_with_the_size() -> None:
    for size, blocks in ((128, 6), (256, 9)):
        model = CycleGAN(CycleGANConfig(width=1, patch=16), Pictures(1, size, (), Pictures(1, size)))
        assert sum(type(layer).__name__ == "Residual" for layer in model.forth.modules()) == blocks


def test_channels_may_differ_and_sizes_may_not() -> None:
    pictures = Pictures(3, 16, (), Pictures(1, 16), matched=False)
    model = CycleGAN(recipe("cyclegan").tiny, pictures)
    batch = Batch(torch.zeros(2, 3, 16, 16), source=torch.zeros(2, 1, 16, 16))
    assert set(next(iter(model.turns(batch, 0))).terms) == {"game", "cycle"}, "no identity between grey and colour"
    assert model.translate_back(batch.image).shape == (2, 1, 16, 16) and len(model.compared(batch)) == 6
    assert "of one size" in (CycleGAN.lacks(replace(pictures, source=Pictures(3, 8))) or "")
    with pytest.raises(Refused, match="CycleGAN plays games of one step each"):
        CycleGAN(replace(recipe("cyclegan").tiny, game=GameConfig("wasserstein-penalty")), pictures)
