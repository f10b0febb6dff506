"""The way from pictures to noise, against the papers' own formulas; which noise goes with which picture."""

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tasvir.config import Pictures, Refused, SamplingConfig, from_plain, to_plain
from tasvir.diffusion.coupling import coupled
from tasvir.diffusion.forward import Discrete, Karras, Level, Process, Straight, posterior, reverse_variance
from tasvir.models import recipe

ZERO_SNR: dict[str, Any] = {"prediction": "v", "zero_terminal_snr": True}
PROCESSES: dict[str, Process] = {
    **{f"{schedule} {shown}": Discrete(50, schedule, shown) for schedule in ("linear", "cosine", "sigmoid")
       for shown in ("noise", "picture", "v")},
    "no signal at last": Discrete(50, "cosine", **ZERO_SNR),
    "karras": Karras(),
    "straight": Straight(),
    "shifted": Straight("logit-normal", 0.1),
}  # fmt: skip


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def betas(schedule: str, steps: int) -> np.ndarray:
    """The papers' own, for 1,000 steps or by ᾱ."""
    if schedule == "linear":
        return np.linspace(1e-4, 0.02, steps)
    time = np.linspace(0, 1, steps + 1)
    if schedule == "cosine":  # Nichol and Dhariwal, equation 17
        kept = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
        kept = kept / kept[0]
    else:  # Jabri et al.: sigmoid(t·(end - start) + start) between its values at both ends
        first, last, value = (1 / (1 + np.exp(-at)) for at in (-3.0, 3.0, 6 * time - 3))
        kept = (last - value) / (last - first)
    return np.minimum(1 - kept[1:] / kept[:-1], 0.999)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_single_steps_chained_are_the_marginals(schedule: str) -> None:
    levels = Discrete(1000, schedule).levels  # type: ignore[arg-type]
    kept, variance = 1.0, 0.0
    for place, beta in enumerate(betas(schedule, 1000), 1):
        kept, variance = kept * (1 - beta) ** 0.5, (1 - beta) * variance + beta
        assert float(levels.alpha[place]) == pytest.approx(kept, rel=1e-9)
        assert float(levels.sigma[place]) == pytest.approx(variance**0.5, rel=1e-9)
    assert (levels.alpha[0], levels.sigma[0]) == (1, 0)
    bar = np.cumprod(1 - betas(schedule, 1000))
    assert np.allclose(levels.snr[1:], bar / (1 - bar)) and np.allclose(levels.angle.tan() ** -2, levels.snr)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid"])
def test_the_posterior_in_betas(schedule: str) -> None:
    """Ho et al. 2020, equation 7, and their two variances."""
    levels, beta = Discrete(1000, schedule).levels, betas(schedule, 1000)  # type: ignore[arg-type]
    bar = np.concatenate([[1.0], np.cumprod(1 - beta)])
    for step in (1, 2, 17, 500, 1000):
        now, past, added = bar[step], bar[step - 1], beta[step - 1]
        of_x, of_clean, least = posterior(levels.at(step), levels.at(step - 1))
        assert float(of_clean) == pytest.approx(past**0.5 * added / (1 - now))
        assert float(of_x) == pytest.approx((1 - added) ** 0.5 * (1 - past) / (1 - now))
        assert float(least) == pytest.approx((1 - past) / (1 - now) * added)
        assert float(reverse_variance(levels.at(step), levels.at(step - 1))) == pytest.approx(added)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_posterior_is_bayes(name: str) -> None:
    """Two Gaussians of what was there before, from the clean picture and from x, multiplied."""
    grid = PROCESSES[name].grid(7)
    for place in range(6):
        level, cleaner = grid.at(place), grid.at(place + 1)
        ratio = level.alpha / cleaner.alpha
        step = level.sigma**2 - (ratio * cleaner.sigma) ** 2
        precision = 1 / cleaner.sigma**2 + ratio**2 / step
        of_x, of_clean, variance = posterior(level, cleaner)
        expected = ratio / step / precision, cleaner.alpha / cleaner.sigma**2 / precision, 1 / precision
        torch.testing.assert_close(torch.stack([of_x, of_clean, variance]), torch.stack(expected))
        # x and what it was, for clean pictures N(0,1): the Schur complement of their covariance
        norm, past = (one.alpha**2 + one.sigma**2 for one in (level, cleaner))
        torch.testing.assert_close(reverse_variance(level, cleaner), past - (ratio * past) ** 2 / norm)


@pytest.mark.parametrize("name", PROCESSES)
def test_what_is_predicted_tells_the_picture(name: str) -> None:
    process = PROCESSES[name]
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 6, 1, 2, 2)
    level = process.draw(6, torch.device("cpu"))
    noisy = level.mixed(clean, noise)
    _, skip, out = process.scalings(level.for_each(noisy))
    target = process.target(clean, noisy, noise, level)
    accuracy = 1e-5 * float(1 + out.abs().max())
    torch.testing.assert_close(skip * noisy + out * target, clean, rtol=0, atol=accuracy)
    if not name.startswith("no signal"):
        torch.testing.assert_close(target, Process.target(process, clean, noisy, noise, level), rtol=1e-3, atol=1e-3)
    if isinstance(process, Discrete):
        each = level.for_each(clean)
        v = each.alpha * noise - each.sigma * clean
        torch.testing.assert_close(each.sigma * noisy + each.alpha * v, noise)
        torch.testing.assert_close(target, {"noise": noise, "picture": clean, "v": v}[process.prediction])


@pytest.mark.parametrize("weighting", ["min-snr", "vlb"])
def test_weights_are_of_the_picture_whatever_is_predicted(weighting: str) -> None:
    """And those of the bound are the divergence of two posteriors whose pictures differ by 1, in bits."""
    shared = []
    for prediction in ("noise", "picture", "v"):
        process = Discrete(40, "cosine", prediction, weighting, 5.0)  # type: ignore[arg-type]
        level = Level(*(value[1:] for value in process.levels))
        shared.append(process.weight(level) / process.scalings(level).out ** 2)
    torch.testing.assert_close(shared[0], shared[1])
    torch.testing.assert_close(shared[0], shared[2])
    levels = process.levels
    for step in range(2, 41):
        _, of_clean, variance = posterior(levels.at(step), levels.at(step - 1))
        bits = 40 * of_clean**2 / (2 * variance) / np.log(2)
        expected = bits if weighting == "vlb" else levels.snr[step].clamp(max=5)
        torch.testing.assert_close(shared[0][step - 1], expected)


def test_preconditioning_gives_inputs_and_targets_unit_variance() -> None:
    process = Karras(data=0.3)
    level = Level(torch.ones(5).double(), doubles(0.002, 0.1, 0.3, 4, 80))
    inner, skip, out = process.scalings(level)
    one = torch.ones_like(inner)
    torch.testing.assert_close(inner**2 * (level.sigma**2 + 0.09), one)
    torch.testing.assert_close(((1 - skip) ** 2 * 0.09 + (skip * level.sigma) ** 2) / out**2, one)
    weight = (level.sigma**2 + 0.09) / (0.3 * level.sigma) ** 2  # of the picture's error, Karras et al., table 1
    torch.testing.assert_close(process.weight(level), weight * out**2)
    torch.manual_seed(0)
    drawn = Karras(-0.7, 0.9).draw(20_000, torch.device("cpu")).sigma.log()
    assert float(drawn.mean()) == pytest.approx(-0.7, abs=0.03) and float(drawn.std()) == pytest.approx(0.9, abs=0.03)


def test_no_signal_at_the_last_step() -> None:
    plain, shifted = Discrete(100, "linear", "v"), Discrete(100, "linear", **ZERO_SNR)
    assert shifted.levels.at(100) == (0, 1) and shifted.levels.at(0) == (1, 0)
    assert torch.equal(shifted.levels.alpha[1], plain.levels.alpha[1])
    # Lin et al. 2024: a straight function of the root of ᾱ
    before, after = plain.levels.alpha[1:], shifted.levels.alpha[1:]
    torch.testing.assert_close(torch.corrcoef(torch.stack([before, after]))[0, 1], doubles(1.0)[0])
    assert torch.isfinite(shifted.weight(shifted.levels)).all()


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_grids_fall_from_noise_to_a_clean_picture(name: str, steps: int) -> None:
    process = PROCESSES[name]
    process.check_steps(steps)
    grid = process.grid(steps)
    assert len(grid.alpha) == len(grid.sigma) == steps + 1 and grid.at(steps) == (1, 0)
    assert (grid.alpha >= 0).all() and (grid.angle.diff() < 0).all() and float(grid.angle[0]) > 1.45
    if isinstance(process, Discrete) and steps == 50:
        assert torch.equal(grid.alpha, process.levels.alpha.flip(0))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_level_may_be_multiplied_by_any_number(name: str, kind: torch.dtype) -> None:
    process = PROCESSES[name]
    grid = Level(*(value[:-1].to(kind) for value in process.grid(20)))
    own = process.own(grid)
    torch.testing.assert_close(own.alpha, grid.alpha, rtol=1e-5, atol=0)
    torch.testing.assert_close(own.sigma, grid.sigma, rtol=1e-5, atol=0)
    for number in (0.01, 7.0):
        again = process.own(Level(grid.alpha * number, grid.sigma * number))
        torch.testing.assert_close(torch.stack([*again, process.told(again)]), torch.stack([*own, process.told(own)]))
    between = Level(torch.ones(3, dtype=kind), torch.tensor([0.31, 1.0, 5.0], dtype=kind))
    own = process.own(between)
    torch.testing.assert_close(own.sigma / own.alpha, between.sigma)
    ends = process.own(Level(torch.tensor([0.0, 1.0], dtype=kind), torch.tensor([1.0, 0.0], dtype=kind)))
    assert torch.isfinite(torch.stack([*ends, process.told(ends)])).all() and (ends.alpha >= 0).all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_trained_levels_are_told_as_whole_numbers(kind: torch.dtype) -> None:
    process = Discrete(50, "cosine", **ZERO_SNR)
    levels = Level(*(value[1:].to(kind) for value in process.levels))
    places = torch.arange(1, 51, dtype=kind)
    torch.testing.assert_close(process.place(levels), places, rtol=0, atol=1e-4)
    torch.testing.assert_close(process.told(process.own(levels)), (places - 1) * 20, rtol=0, atol=2e-3)
    half = (process.levels.angle[6] + process.levels.angle[7]).to(kind) / 2
    assert float(process.place(Level(half.cos(), half.sin()))) == pytest.approx(6.5, abs=1e-4)


def test_shifted_times() -> None:
    """Esser et al. 2024, equation 23; both ends stay exactly where they are."""
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    for shift in (0.1, 1.0, 3.0, 0.7):
        shifted = Straight(shift=shift).shifted(time)
        torch.testing.assert_close(shifted, shift * time / (1 + (shift - 1) * time))
        assert (shifted[0], shifted[-1]) == (0, 1)
    torch.manual_seed(0)
    drawn = Straight("logit-normal", 3.0).draw(20_000, torch.device("cpu")).sigma.logit()
    assert float(drawn.mean()) == pytest.approx(np.log(3), abs=0.03) and float(drawn.std()) == pytest.approx(
        1, abs=0.03
    )


@pytest.mark.parametrize("number", [4, 5])
@pytest.mark.parametrize("classes", [1, 2])
def test_coupled_noise_costs_least(number: int, classes: int) -> None:
    torch.manual_seed(number)
    clean, noise = torch.randn(2, number, 1, 2, 2)
    label = torch.arange(number) % classes
    found = coupled(clean, noise, label)
    allowed = [list(one) for one in permutations(range(number)) if torch.equal(label[list(one)], label)]
    costs = [float((clean - noise[one]).square().sum()) for one in allowed]
    cost = float((clean - found).square().sum())
    assert cost == pytest.approx(min(costs)) and cost < costs[0], "not all that could be gained"
    assert sorted(found.flatten().tolist()) == sorted(noise.flatten().tolist())
    if classes == 1:
        assert torch.equal(found, coupled(clean, noise))
    for one in range(classes):
        assert torch.equal(*(value[label == one].flatten().sort()[0] for value in (found, noise)))


@pytest.mark.parametrize(
    "name, words, settings",
    [
        ("ddpm", "zero-terminal-snr leaves nothing", {"zero_terminal_snr": True}),
        ("ddpm", "needs a step before", {**ZERO_SNR, "steps": 1, "sampling": SamplingConfig(steps=1)}),
        ("ddpm", "--model.sampling.steps is 20 and --model.steps 10", {"steps": 10}),
        ("edm", "--model.least is 3", {"least": 3.0, "most": 2.0}),
        ("edm", "--rho", {"rho": 0.001}),
        ("edm", "--mean", {"mean": float("nan")}),
        ("flow", "--shift", {"shift": 0.0}),
    ],
)
def test_what_cannot_be_is_refused(name: str, words: str, settings: dict[str, object]) -> None:
    plain = to_plain(recipe(name).tiny) | {key: to_plain_or_same(value) for key, value in settings.items()}
    with pytest.raises(Refused, match=words):
        recipe(name).model(from_plain(plain, type(recipe(name).tiny), "settings"), Pictures(1, 8))


def to_plain_or_same(value: object) -> object:
    return to_plain(value) if isinstance(value, SamplingConfig) else value


def test_one_level_of_noise() -> None:
    for schedule in ("linear", "cosine", "sigmoid"):
        for weighting in ("simple", "min-snr", "vlb"):
            process = Discrete(1, schedule, "noise", weighting)  # type: ignore[arg-type]
            level = process.draw(3, torch.device("cpu"))
            found = torch.stack([process.weight(level), process.told(level), *process.own(level)])
            assert torch.isfinite(found).all() and (process.told(level) == 0).all()
    with pytest.raises(Refused, match="--steps is 2; .* 1 levels"):
        process.check_steps(2)
