"""Augmentation of what the discriminator sees: formulae, draws, gradients, ADA's controller, bits on resume."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from conftest import tiny_batch, tiny_data, tiny_run
from tasvir.config import Pictures, Refused
from tasvir.data.augment import Augmentation, Draws, appearance
from tasvir.models import recipe
from tasvir.nn import augmentation
from tasvir.nn.augmentation import Augment, AugmentConfig, recolored, resampled, shifted, square
from tasvir.runs import Run
from tasvir.training.loop import train
from tasvir.training.state import State

EACH = pytest.mark.parametrize("name", ["diffaugment", "ada"])


def pictures(number: int = 6, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(number, channels, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def often(name: str, probability: float) -> dict[str, object]:
    """Settings of that augmentation; only ada has a probability."""
    return {"name": name} | ({"probability": probability} if name == "ada" else {})


def always(**settings: object) -> Augment:
    return Augment(AugmentConfig("ada", probability=1.0, **settings))  # type: ignore[arg-type]


def test_nothing_is_done_where_nothing_is_asked() -> None:
    image = pictures()
    assert Augment(AugmentConfig())(image) is image
    assert torch.allclose(Augment(AugmentConfig("ada"))(image), image, atol=1e-6), "p is 0 at the start"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "diffaugment", "policy": ()}, "--model.augment.policy is empty, so diffaugment would change nothing"),
        ({"name": "ada", "transforms": ()}, "--model.augment.transforms is empty, so ada would change nothing"),
        ({"policy": ("color",)}, "--model.augment.policy is a setting of diffaugment, and .* is none"),
        ({"name": "ada", "policy": ("color",)}, "policy is a setting of diffaugment, and .* is ada"),
        ({"name": "diffaugment", "probability": 0.2}, "--model.augment.probability is a setting of ada"),
        ({"target": None}, "--model.augment.target is a setting of ada"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(settings: dict, said: str) -> None:
    with pytest.raises(Refused, match=said):
        Augment(AugmentConfig(**settings))


def test_colours_are_those_of_the_augmentation_of_data() -> None:
    """The same order and means, where nothing is clamped there."""
    image, brightness = pictures() * 0.2, torch.tensor([0.1, -0.2, 0.0, 0.3, 0.2, -0.1])
    saturation, contrast = torch.linspace(0.2, 1.8, 6), torch.linspace(1.4, 0.6, 6)
    rest = image.mean((1, 2, 3)) * (1 - contrast) + brightness
    found = recolored(image, contrast, contrast * saturation, torch.zeros(6), rest)
    draws = Draws(torch.zeros(6, 8, dtype=torch.int64), torch.stack([brightness, saturation, contrast], 1))
    assert torch.allclose(found, appearance(Augmentation(color=0.5), draws, image), atol=1e-6)


def test_colours_are_a_matrix_about_the_grey_axis() -> None:
    """Against rotation by the matrix exponential, and a flip by reflection, one after another."""
    image, axis = pictures(1), np.full(3, 3**-0.5)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turned = torch.linalg.matrix_exp(torch.tensor(0.7 * cross)).float()
    grey = torch.tensor(np.outer(axis, axis)).float()
    saturated = grey + 1.7 * (torch.eye(3) - grey)
    whole = saturated @ turned @ (torch.eye(3) - 2 * grey) * 1.3
    expected = torch.einsum("ij,bjhw->bihw", whole, image + 0.2)
    luma, chroma, hue = torch.tensor([-1.3]), torch.tensor([1.3 * 1.7]), torch.tensor([0.7])
    assert torch.allclose(recolored(image, luma, chroma, hue, luma * 0.2), expected, atol=1e-5)
    plain = recolored(image[:, :1], luma, chroma, hue, luma * 0.2)
    assert torch.allclose(plain, -1.3 * (image[:, :1] + 0.2), atol=1e-5), "grey has no saturation and no hue"


def test_whole_shifts_and_squares() -> None:
    image = pictures(2, size=8)
    moved = shifted(image, torch.tensor([2, -1]), torch.tensor([-3, 0]))
    for one, found, by in zip(image, moved, [(0, 2, -3), (0, -1, 0)], strict=True):
        expected = ndimage.shift(one.numpy(), by, order=0, cval=0.0)
        assert np.array_equal(found.numpy(), expected)
    inside = square(8, torch.tensor([[-2, 6], [1, 6]]), 4)[:, 0]
    assert inside[0].nonzero().tolist() == [[row, column] for row in (0, 1) for column in (1, 2, 3, 4)]
    assert inside[1].nonzero().tolist() == [[6, 6], [6, 7], [7, 6], [7, 7]]


def test_resampling_is_one_affine_map() -> None:
    """Against scipy, which counts pixels from the corner, (down, right); compared away from the borders."""
    image, size = pictures(1, 1, 24), 24
    smooth = torch.tensor(ndimage.gaussian_filter(image.numpy(), (0, 0, 2, 2)))
    one, angle = torch.ones(1), torch.tensor([0.4])
    source = (
        augmentation.scaling(1.2 * one, 1 / 1.2 * one)
        @ augmentation.rotation(angle)
        @ augmentation.translation(torch.tensor([[2 * 1.5 / size], [2 * -2.25 / size]]))
    )
    cosine, sine, centre = math.cos(0.4), math.sin(0.4), (size - 1) / 2
    narrower = np.diag([1.2, 1 / 1.2])  # (down, right): divided by 1/1.2, and by 1.2
    back = narrower @ np.array([[cosine, -sine], [sine, cosine]])
    offset = centre - back @ (np.array([centre, centre]) + np.array([-2.25, 1.5]))
    expected = ndimage.affine_transform(smooth[0, 0].numpy(), back, offset, order=1)
    found = resampled(smooth, source)[0, 0].numpy()
    assert np.abs(found - expected)[8:-8, 8:-8].max() < 1e-5 and np.abs(expected).max() > 0.05


def test_exact_transforms_of_the_square() -> None:
    image = pictures(1)
    one = torch.ones(1)
    turned = resampled(image, augmentation.rotation(one * math.pi / 2))
    assert torch.allclose(turned, image.rot90(-1, (2, 3)), atol=1e-5)
    assert torch.allclose(resampled(image, augmentation.scaling(-one, one)), image.flip(3), atol=1e-5)
    moved = resampled(image, augmentation.translation(torch.tensor([[2 * 3 / 16], [0.0]])))
    assert torch.allclose(moved[..., 3:], image[..., :-3], atol=1e-5)
    assert torch.allclose(moved[..., :3], image[..., :3].flip(3), atol=1e-5), "mirrored at the border"


@EACH
@pytest.mark.parametrize("channels", [1, 3])
def test_gradients_flow_and_draws_are_each_pictures_own(name: str, channels: int) -> None:
    torch.manual_seed(0)
    augment = Augment(AugmentConfig(**often(name, 1.0)))  # type: ignore[arg-type]
    image = pictures(1, channels).expand(8, -1, -1, -1).clone().requires_grad_()
    changed = augment(image)
    assert changed.shape == image.shape and changed.dtype == torch.float32 and torch.isfinite(changed).all()
    assert len({round(float(one.detach().square().sum()), 3) for one in changed}) == 8
    (gradient,) = torch.autograd.grad(changed.square().sum(), image)
    assert torch.isfinite(gradient).all() and (gradient.flatten(1).abs().sum(1) > 0).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert augment(image.detach().bfloat16()).dtype == torch.float32


@EACH
def test_gradients_are_the_derivative(name: str) -> None:
    """Along a random direction, with the same draws; all is affine in the picture, so the difference is exact."""
    augment = Augment(AugmentConfig(**often(name, 0.7)))  # type: ignore[arg-type]
    image, along = pictures().requires_grad_(), pictures().flip(0)

    def weighed(at: Tensor) -> Tensor:
        torch.manual_seed(5)
        return (augment(at) * torch.linspace(-1, 1, image.numel()).view(image.shape)).sum()

    (gradient,) = torch.autograd.grad(weighed(image), image)
    with torch.no_grad():
        assert float((gradient * along).sum()) == pytest.approx(
            float(weighed(image + along) - weighed(image)), rel=1e-3
        )


def test_diffaugments_draws_have_the_papers_ranges() -> None:
    torch.manual_seed(0)
    flat = torch.full((4000, 3, 16, 16), 0.5)
    shift = Augment(AugmentConfig("diffaugment", policy=("translation",)))(flat)[:, 0]
    lost = ((shift[:, :, 8] == 0).sum(1), (shift[:, 8] == 0).sum(1))
    for each in lost:
        assert each.max() == 2 and float((each == 0).float().mean()) == pytest.approx(1 / 5, abs=0.03)
    cut = Augment(AugmentConfig("diffaugment", policy=("cutout",)))(flat)[:, 0] == 0
    assert cut.sum((1, 2)).max() == 64 and cut.sum((1, 2)).min() == 16, "a square of half the size, over the border"
    colors = Augment(AugmentConfig("diffaugment", policy=("color",)))(flat)[:, 0, 0, 0] - 0.5
    assert -0.5 <= colors.min() < -0.49 and 0.49 < colors.max() <= 0.5, "a flat picture shows the brightness alone"
    contrast = Augment(AugmentConfig("diffaugment", policy=("color",)))(pictures(1, 1).expand(4000, -1, -1, -1))
    factor = contrast.std((1, 2, 3)) / pictures(1, 1).std()
    assert factor.min() > 0.499 and factor.max() < 1.501 and float(factor.mean()) == pytest.approx(1.0, abs=0.02)


def test_ada_changes_as_many_pictures_as_p_says() -> None:
    torch.manual_seed(0)
    image = pictures(1, 1, 8).expand(6000, -1, -1, -1)
    for p in (0.2, 0.6):
        changed = Augment(AugmentConfig("ada", probability=p, transforms=("blit",)))(image)
        same = float(((changed - image).abs().amax((1, 2, 3)) < 1e-4).float().mean())
        shifts = 1 - p + p / 4  # a shift of up to one pixel each way rounds to none with probability ¼
        turns = 1 - p + p / 4
        flips = 1 - p + p / 2
        assert same == pytest.approx(shifts * turns * flips, abs=0.025)
    often = torch.stack([rule(torch.tensor(0.6)) for rule in augmentation.OFTEN.values()])
    assert len(often) == 13 and (often == 0.6).sum() == 11
    one = augmentation.OFTEN["rotation_before"](torch.tensor(0.6))
    assert float(1 - (1 - one) ** 2) == pytest.approx(0.6), "one rotation or the other as often as p"


def test_brightness_and_contrast_of_ada_have_the_papers_spread() -> None:
    augment = always(transforms=("color",))
    torch.manual_seed(1)
    low = augment(torch.zeros(8000, 1, 4, 4))[:, 0, 0, 0]
    torch.manual_seed(1)
    high = augment(torch.ones(8000, 1, 4, 4))[:, 0, 0, 0]
    factor = high - low
    assert float(factor.abs().log2().std()) == pytest.approx(0.5, abs=0.02)
    assert float((factor < 0).float().mean()) == pytest.approx(0.5, abs=0.03), "half of the lumas are flipped"
    assert float((low / factor).std()) == pytest.approx(0.2, abs=0.01)


def test_the_controller_in_closed_form() -> None:
    """p moves by pictures seen / 500k, each 4 steps, by the sign of E[sign D(real)] - 0.6; it stays within 0 and 1."""
    augment = Augment(AugmentConfig("ada"))
    often, seldom = torch.tensor([1.0] * 9 + [-1.0]), torch.tensor([1.0] * 7 + [-1.0] * 3)  # r of 0.8 and of 0.4
    values = [{key: float(v) for key, v in augment.adapted(often, 1000).items()} for _ in range(8)]
    assert [v["augmentation"] for v in values] == pytest.approx([0, 0, 0, 0.008, 0.008, 0.008, 0.008, 0.016])
    assert [v["overfitting"] for v in values] == pytest.approx([0, 0, 0] + [0.8] * 5)
    for _ in range(4):
        last = augment.adapted(seldom, 1000)
    assert float(last["augmentation"]) == pytest.approx(0.008) and float(last["overfitting"]) == pytest.approx(0.4)
    for _ in range(12):
        last = augment.adapted(seldom, 1000)
    assert float(last["augmentation"]) == 0.0
    for _ in range(8):
        last = augment.adapted(often, 100_000)
    assert float(last["augmentation"]) == 1.0
    fixed = Augment(AugmentConfig("ada", probability=0.3, target=None, every=1))
    assert float(fixed.adapted(often, 1000)["augmentation"]) == pytest.approx(0.3)


def configured(**settings: object) -> object:
    return replace(recipe("dcgan").tiny, augment=AugmentConfig(**settings))  # type: ignore[arg-type]


def run_of(folder: Path, steps: int, **settings: object) -> Run:
    run, data = tiny_run("dcgan", folder / "usual", steps=steps)
    config = replace(run.config, model=configured(**settings))
    return Run(folder / "run", config, data.pictures, data.description).create()


@EACH
def test_resumed_training_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = often(name, 0.3) | ({"pictures": 500, "every": 2} if name == "ada" else {})
    whole, half = run_of(tmp_path / "whole", 6, **settings), run_of(tmp_path / "half", 3, **settings)
    for run in (whole, half, replace(half, config=replace(half.config, train=whole.config.train))):
        assert train(run, tiny_data(8)) == "done"
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = whole.latest().tensors(file), half.latest().tensors(file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    if name == "ada":
        p = whole.latest().tensors("model.safetensors")["model.augment.change.probability"]
        assert float(p) not in (0.0, pytest.approx(0.3))
        watched = (whole.folder / "log.jsonl").read_text()
        assert "discriminator/augmentation" in watched and "discriminator/overfitting" in watched


@EACH
def test_speed_settings_see_the_same_pictures(name: str, tmp_path: Path) -> None:
    """bfloat16 and channels_last against plain float32: 5 % in loss, 15 % in gradient, as every recipe."""
    found = []
    for fast in (False, True):
        folder = tmp_path / str(fast)
        run = run_of(folder, 1, **often(name, 0.5))
        settings = replace(run.config.train, channels_last=fast, precision="bfloat16" if fast else "float32")
        torch.manual_seed(0)
        model = recipe("dcgan").model(run.config.model, Pictures(1, 8))
        state = State(model, replace(run, config=replace(run.config, train=settings)), torch.device("cpu"))
        batch = tiny_batch(8, 64)
        batch.image = batch.image.contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)
        found.append({key: float(value) for key, value in state.advance(batch).items()})
    for key in ("discriminator/game", "discriminator/real_score", "discriminator/fake_score", "generator/game"):
        assert found[1][key] == pytest.approx(found[0][key], rel=0.05, abs=0.05), key
    for key in ("discriminator/gradient_norm", "generator/gradient_norm"):
        assert found[1][key] == pytest.approx(found[0][key], rel=0.15), key


def adapted(rank: int) -> Tensor:
    """p after two steps in which this process's scores were all positive, or all negative."""
    augment = Augment(AugmentConfig("ada", probability=0.5, target=0.2, every=1))
    for _ in range(2):
        augment.adapted(torch.full((10,), 1.0 if rank == 0 else -0.4), 1000)
    return torch.stack([augment.change.probability, augment.change.overfitting])  # type: ignore[union-attr]


def test_two_processes_adapt_alike(tmp_path: Path) -> None:
    words = [sys.executable, __file__, str(tmp_path)]
    started = [subprocess.Popen([*words, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    for rank in range(2):  # r is 0, below the target: two steps of 2,000 pictures down
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == pytest.approx([0.5 - 4000 / 500_000, 0.0])


if __name__ == "__main__":
    import torch.distributed as distributed

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    torch.save(adapted(number), folder / f"{number}.pt")
    distributed.destroy_process_group()
