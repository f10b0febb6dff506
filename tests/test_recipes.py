"""Every recipe keeps the contract of Model; a new line in the table of recipes is tested by being there."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import size_for, tiny_batch, tiny_model, tiny_run, tiny_state
from tasvir.config import Pictures, Refused, from_plain, to_plain, validate
from tasvir.core import Batch, Decodes, Encodes, Model, Noise, Reconstructs, Samples, Scores, Translates, abilities
from tasvir.data.batches import pictures_of, to_uint8
from tasvir.drawing import Opened
from tasvir.models import RECIPES, build, recipe, usual_foundation
from tasvir.training.loop import train
from tasvir.training.state import summary

EVERY = pytest.mark.parametrize("name", RECIPES)
CONDITIONAL = [name for name in RECIPES if recipe(name).model.conditional or hasattr(recipe(name).tiny, "conditional")]


def steps_of(name: str) -> int:
    """Steps within which every player has had its turn."""
    game = getattr(recipe(name).tiny, "game", None)
    return max(2, game.played().discriminator_steps) if game else 2


@EVERY
def test_players_take_turns_and_every_parameter_learns(name: str) -> None:
    model = tiny_model(name)
    players = model.players()
    owned = [id(p) for player in players.values() for p in player.parameters()]
    assert sorted(owned) == sorted(id(p) for p in model.parameters() if p.requires_grad), "each parameter, one player"
    touched = set()
    with torch.no_grad():  # a weight that starts at zero hides the ones before it
        for parameter in (p for p in model.parameters() if p.requires_grad and p.ndim > 1 and not p.any()):
            parameter.normal_(0, 0.01)
    for step in range(steps_of(name)):
        for turn in model.turns(tiny_batch(size_for(name), name=name), step):
            for term in turn.terms.values():
                assert term.shape == () and torch.isfinite(term)
            for value in turn.watch.values():
                assert value.shape == () and not value.requires_grad
            assert list(summary({**turn.terms, **turn.watch})) == list(turn.terms), "only losses are shown as losses"
            parameters = players[turn.player].parameters()
            sum(turn.terms.values()).backward(inputs=parameters)
            touched |= {id(p) for p in parameters if p.grad is not None and p.grad.abs().sum() > 0}
    missing = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in touched]
    # a bias before batch norm is cancelled by it, which rounding may turn into an exact zero
    assert not [n for n in missing if not n.endswith("bias")]


@EVERY
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_have_the_right_shape_range_and_seed(name: str, channels: int) -> None:
    size = size_for(name)
    model = tiny_model(name, size, channels).eval()
    channels = model.pictures.channels  # some are of colour only
    image = torch.rand(3, channels, size, size) * 2 - 1
    drawn = []
    with torch.no_grad():
        if isinstance(model, Samples):
            drawn.append(model.sample(Noise([5, 6, 7])))
            again, alone = model.sample(Noise([5, 6, 7])), model.sample(Noise([6]))
            assert torch.equal(drawn[0], again)
            assert torch.allclose(drawn[0][1:2], alone, atol=1e-5), "a picture depends on its own seed alone"
            assert not torch.allclose(drawn[0][0], drawn[0][1], atol=1e-6)
        if isinstance(model, Reconstructs):
            drawn.append(model.reconstruct(image))
        if isinstance(model, Translates):
            _translates(model, drawn)
        if isinstance(model, Encodes):
            assert model.encode(image).shape == (3, model.latent_size)
        if isinstance(model, Decodes):
            drawn.append(model.decode(torch.zeros(3, model.latent_size)))
        if isinstance(model, Scores):
            for nats in model.bound(image, Noise(range(3))).values():
                assert nats.shape == (3,) and torch.isfinite(nats).all()
    assert drawn
    for pictures in drawn:
        assert pictures.shape == (3, channels, size, size) and pictures.dtype == torch.float32
        assert pictures.min() >= -1 and pictures.max() <= 1


def _translates(model: Model, drawn: list[torch.Tensor]) -> None:
    """One picture or several, of any size that the stride divides; what is compared can be set side by side."""
    assert isinstance(model, Translates) and model.pictures.source is not None
    of = model.pictures.source
    source = torch.rand(3, of.channels, of.size, of.size) * 2 - 1
    drawn += [model.translate(source), model.translate(source, Noise([5, 6, 7]))]
    assert torch.allclose(model.translate(source[1:2]), drawn[-2][1:2], atol=1e-5)
    assert torch.allclose(model.translate(source[1:2], Noise([6])), drawn[-1][1:2], atol=1e-5)
    least = max(model.stride, 4)
    wide = model.translate(torch.zeros(1, of.channels, 2 * least, 3 * least))
    assert wide.shape == (1, model.pictures.channels, 2 * least * model.scale, 3 * least * model.scale)
    image = torch.rand(3, model.pictures.channels, model.pictures.size, model.pictures.size) * 2 - 1
    compared = model.compared(Batch(image, source=source))
    assert len(compared) > 2 and all(len(one) == 3 for one in compared.values())


@pytest.mark.parametrize("name", CONDITIONAL)
def test_models_with_classes_draw_with_and_without_being_told(name: str) -> None:
    config, size = recipe(name).tiny, size_for(name)
    config = replace(config, conditional=True) if hasattr(config, "conditional") else config
    torch.manual_seed(0)
    model = build(name, config, Pictures(1, size, ("a", "b", "c")), usual_foundation(name, tiny=True)).eval()
    assert model.conditional and isinstance(model, Samples)
    with torch.no_grad():
        free = model.sample(Noise(range(4)))
        assert torch.allclose(model.sample(Noise([2])), free[2:3], atol=1e-5)
        assert model.sample(Noise(range(4)), torch.tensor([0, 1, 2, 0])).shape == free.shape == (4, 1, size, size)
        for wrong in (3, -1):
            with pytest.raises(Refused, match=f"There is no class {wrong}: there are 3, from 0 to 2."):
                model.sample(Noise([0, 1]), torch.tensor([0, wrong]))
    assert set(model.draw_classes(Noise(range(40))).tolist()) == {0, 1, 2}


def test_noise_of_no_shape_is_a_number_for_each_seed() -> None:
    for kind in ("normal", "uniform", "exponential"):
        noise, again = Noise([1, 2], kind), Noise([1, 2], kind)  # type: ignore[arg-type]
        assert torch.equal(noise.draw(), again.draw(1)[:, 0]) and torch.equal(noise.uniform(), again.uniform(1)[:, 0])


@EVERY
def test_every_accepted_size_can_be_built(name: str) -> None:
    sizes = [size for size in range(4, 130) if recipe(name).model.accepts(size)]
    assert sizes
    for size in sizes if len(sizes) < 100 else sizes[:24] + sizes[24::19]:  # of large ones a few, even and odd
        model = tiny_model(name, size)
        turn = next(iter(model.turns(tiny_batch(size, 2, name) if size < 20 else _random(model.pictures), 0)))
        assert all(torch.isfinite(term) for term in turn.terms.values())
        if isinstance(model, Decodes):
            assert model.eval().decode(torch.zeros(1, model.latent_size)).shape == (1, 1, size, size)


def _random(pictures: Pictures) -> Batch:
    def drawn(of: Pictures) -> torch.Tensor:
        return torch.rand(2, of.channels, of.size, of.size) * 2 - 1

    source = None if pictures.source is None else drawn(pictures.source)
    return Batch(drawn(pictures), torch.tensor([0, 1]), source)


@EVERY
def test_config_survives_yaml_and_its_ranges(name: str) -> None:
    config = recipe(name).config
    validate(config)
    validate(recipe(name).tiny)
    assert from_plain(to_plain(config), type(config), "test") == config


def _first_steps(
    name: str, folder: Path, steps: int, still: bool = False, number: int = 64, **settings: object
) -> list[tuple[dict, dict]]:
    """Losses and gradients of the first turns; `still` keeps the weights, so that differences do not add up."""
    state = tiny_state(name, folder, **settings)
    state.rate_factor = 0.0 if still else 1.0
    if settings.get("compile"):
        state.compile()
    found: list[tuple[dict, dict]] = []
    for optimizer in state.optimizers.values():
        original, parameters = optimizer.step, dict(state.model.named_parameters())

        def step(closure=None, *, original=original, parameters=parameters, optimizer=optimizer):  # type: ignore[no-untyped-def]
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            gradients = {n: p.grad.clone() for n, p in parameters.items() if id(p) in mine and p.grad is not None}
            found.append(({}, gradients))
            return original(closure)

        optimizer.step = step  # type: ignore[method-assign]
    batch = tiny_batch(size_for(name), number, name)
    layout = torch.channels_last if settings.get("channels_last") else torch.contiguous_format
    batch.image = batch.image.contiguous(memory_format=layout)
    batch.source = None if batch.source is None else batch.source.contiguous(memory_format=layout)
    for _ in range(steps):
        before = len(found)
        values = state.advance(batch)
        for losses, _ in found[before:]:
            losses.update({key: float(value) for key, value in values.items()})
    return found


def _assert_close(name: str, plain: list, fast: list, loss_tolerance: float, gradient_tolerance: float) -> None:
    assert len(plain) == len(fast) > 0
    for (losses, gradients), (other_losses, other_gradients) in zip(plain, fast, strict=True):
        for key, value in losses.items():
            if "won" in key or "active" in key:
                continue
            tolerance = gradient_tolerance if key.endswith("gradient_norm") else loss_tolerance
            assert other_losses[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key
        assert gradients.keys() == other_gradients.keys()
        whole = torch.cat([g.flatten() for g in gradients.values()])
        other = torch.cat([other_gradients[key].flatten() for key in gradients])
        assert (whole - other).norm() <= gradient_tolerance * whole.norm(), (
            name,
            (whole - other).norm() / whole.norm(),
        )


@EVERY
@pytest.mark.parametrize("number", [1, 64])
def test_channels_last_gives_the_same_losses_and_gradients(name: str, number: int, tmp_path: Path) -> None:
    """To 1e-4 in loss and 1e-3 in gradient over the first steps, also of one picture: some layers are wrong."""
    if number == 1 and any(isinstance(layer, torch.nn.BatchNorm1d) for layer in tiny_model(name).modules()):
        pytest.skip("dense batch norm needs two pictures")
    steps = steps_of(name)
    plain = _first_steps(name, tmp_path / "plain", steps, number=number, channels_last=False)
    fast = _first_steps(name, tmp_path / "fast", steps, number=number, channels_last=True)
    _assert_close(name, plain, fast, 1e-4, 1e-3)


@EVERY
def test_speed_settings_give_the_same_losses_and_gradients(name: str, tmp_path: Path) -> None:
    """bfloat16 and channels_last together against plain float32: 5 % in loss, 15 % in gradient."""
    steps = steps_of(name)
    plain = _first_steps(name, tmp_path / "plain", steps, True, channels_last=False)
    fast = _first_steps(name, tmp_path / "fast", steps, True, channels_last=True, precision="bfloat16")
    _assert_close(name, plain, fast, 0.05, 0.15)


@EVERY
def test_resumed_training_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    """In one process; tests/test_kill.py does the same with SIGKILL."""
    whole, data = tiny_run(name, tmp_path / "whole")
    assert train(whole, data) == "done"
    half, _ = tiny_run(name, tmp_path / "half", steps=3)
    train(half, data)
    half = Opened(half).run
    half = replace(half, config=replace(half.config, train=replace(half.config.train, steps=6)))
    train(half, data)
    for file in ("model.safetensors", "optimizer.safetensors"):
        expected, found = whole.latest().tensors(file), half.latest().tensors(file)
        assert expected.keys() == found.keys()
        for key in expected:
            assert torch.equal(expected[key], found[key]), key


@EVERY
def test_a_run_shows_what_the_recipe_can(name: str, tmp_path: Path) -> None:
    run, data = tiny_run(name, tmp_path / "run")
    train(run, data)
    opened = Opened(run.folder)
    can = abilities(opened.model)
    assert (run.folder / "samples" / "00000006.png").exists()
    if "sample" in can:
        assert opened.samples(range(4)).shape[0] == 4
    if "decode" in can:
        assert opened.walks(None, 2, 5, "spherical", 0).shape[0] == 10
    if "translate" in can:
        shown = pictures_of(data, data.test, range(5), "cpu")
        sources = to_uint8(shown.source)
        made = opened.translations(sources)
        assert made.shape == data.test.images[:5].shape and (opened.translations(sources) == made).all()
    if "encode" in can:
        assert opened.scatter(20).position.shape == (20, 2)


def test_a_copied_model_is_independent() -> None:
    """Averaging relies on deepcopy giving networks of its own."""
    model = tiny_model("dcgan")
    twin = copy.deepcopy(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in twin.parameters()}


def test_vae_256_is_as_specified() -> None:
    model = recipe("vae-256").model(recipe("vae-256").config, Pictures(3, 256))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (model.encoder, model.decoder)]
    assert sizes == [3_521_328, 1_085_859]
    dropouts = [layer.p for layer in model.encoder.modules() if isinstance(layer, torch.nn.Dropout)]
    assert dropouts == [0.2] * 3


def test_dcgan_is_the_papers() -> None:
    """Figure 1 of arXiv 1511.06434: 100 → 4×4×1024 → 8×8×512 → 16×16×256 → 32×32×128 → 64×64×3."""
    model = recipe("dcgan").model(recipe("dcgan").config, Pictures(3, 64))
    shapes, x = [], torch.zeros(2, 100)
    for layer in model.generator:
        x = layer(x)
        if isinstance(layer, torch.nn.ConvTranspose2d):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64)]
