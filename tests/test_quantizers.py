"""Quantizers against brute force, closed forms and another library; in two processes; and the models that use them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import tiny_batch
from tasvir.config import Pictures, Refused
from tasvir.core import Batch, Model
from tasvir.models import recipe
from tasvir.nn.clusters import k_means, nearest
from tasvir.nn.quantizers import QUANTIZERS, LookupFree, MovingAverage, Quantizer, levels_for
from tasvir.training.averaging import Average

EVERY = pytest.mark.parametrize("name", QUANTIZERS)
CODEBOOKS = pytest.mark.parametrize("name", ["vq", "vq-ema"])
TOKENIZERS = pytest.mark.parametrize("name", ["vq-vae", "vq-vae-2-tokenizer"])


def made(name: str, codes: int = 16, size: int = 3) -> Quantizer:
    torch.manual_seed(0)
    return QUANTIZERS[name](codes, size)


def started(name: str, codes: int = 16, size: int = 3) -> Quantizer:
    """In training mode, long after its start."""
    found = made(name, codes, size)
    if "steps" in dict(found.named_buffers()):
        found.steps.fill_(1e6)  # type: ignore[operator, union-attr]
    return found


def latents(found: Quantizer, number: int = 6, side: int = 4) -> Tensor:
    return torch.randn(number, found.size, side, side)


# ---- the search


@pytest.mark.parametrize("number, codes, size", [(1000, 37, 5), (3000, 512, 64), (70, 1, 2), (1, 9, 3)])
def test_nearest_is_what_brute_force_finds(number: int, codes: int, size: int) -> None:
    torch.manual_seed(1)
    vectors, codebook = torch.randn(number, size), torch.randn(codes, size)
    distances = torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist")
    assert torch.equal(nearest(vectors, codebook), distances.argmin(1))


def test_a_search_holds_a_bounded_part_of_the_distances() -> None:
    """100,000 vectors and 8,192 codes: [N,K] would be 3 GB, [N,K,D] 26 GB; nothing over 16 MB is made."""
    biggest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal biggest
            out = func(*args, **(kwargs or {}))
            biggest = max([biggest, *(t.numel() for t in torch.utils._pytree.tree_leaves(out) if torch.is_tensor(t))])
            return out

    vectors, codebook = torch.randn(100_000, 8), torch.randn(8192, 8)
    with Watch():
        codes = nearest(vectors, codebook)
    assert codes.shape == (100_000,) and biggest <= 4_000_000


# ---- what all quantizers keep


@EVERY
def test_shapes_look_up_and_precision(name: str) -> None:
    found = started(name)
    latent = latents(found)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantized = found(latent.bfloat16())
    assert quantized.values.shape == latent.shape and quantized.values.dtype == torch.float32
    assert quantized.codes.shape == (6, 4, 4) and quantized.codes.dtype == torch.int64
    assert quantized.codes.min() >= 0 and quantized.codes.max() < found.codes == 16
    assert all(term.dtype == torch.float32 and term.shape == () for term in quantized.terms.values())
    quantized = found.eval()(latent)
    assert torch.equal(found.look_up(quantized.codes), quantized.values)
    assert torch.equal(found.tokenize(latent), quantized.codes)
    if name != "fsq":
        assert torch.equal(found.tokenize(quantized.values), quantized.codes), "a code's own vector is that code"


@EVERY
def test_only_training_changes_what_is_kept(name: str) -> None:
    found = started(name)
    before = {key: value.clone() for key, value in found.state_dict().items()}
    found.tokenize(latents(found))
    found.eval()(latents(found))
    assert all(torch.equal(value, before[key]) for key, value in found.state_dict().items())
    found.train()(latents(found))
    assert not torch.equal(found.recent, before["recent"])


@pytest.mark.parametrize("name", ["vq", "vq-ema", "lookup-free"])
def test_the_straight_through_gradient_is_the_identity(name: str) -> None:
    found = started(name).eval()
    latent = latents(found).requires_grad_()
    given = torch.randn_like(latent)
    found(latent).values.backward(given)
    assert latent.grad is not None and torch.equal(latent.grad, given)


@EVERY
def test_perplexity_and_usage(name: str) -> None:
    found = started(name).train()
    for _ in range(3):
        latent = latents(found)
        quantized = found(latent)
    share = torch.bincount(quantized.codes.flatten(), minlength=16) / quantized.codes.numel()
    expected = torch.exp(-(share[share > 0] * share[share > 0].log()).sum())
    assert quantized.watch["perplexity"] == pytest.approx(expected.item(), rel=1e-5)
    one = found.vectors_of(torch.tensor([0]))[:, :, None, None].detach().expand(4, -1, 4, 4)
    if name in ("fsq", "lookup-free"):
        assert found(one).watch["usage"] > 1 / 16, "what was used a moment ago counts"
        found.decay = 0.8
        for _ in range(20):
            quantized = found(one)
        assert quantized.watch["usage"] == pytest.approx(1 / 16), "what was used long ago does not count"
    assert found.eval()(one).watch["perplexity"] == pytest.approx(1)


def test_usage_counts_the_steps_in_which_a_code_came_up() -> None:
    """However often in each: one code once in a step, another 255 times, and both fade alike."""
    found = started("lookup-free").train()
    vectors = found.vectors_of(torch.tensor([3] + [5] * 255)).T.view(1, 4, 16, 16)
    found(vectors)
    assert found.recent[3] == found.recent[5] == pytest.approx(0.01)
    other = found.vectors_of(torch.tensor([7])).view(1, 4, 1, 1)
    for steps in (98, 4):
        usage = [found(other).watch["usage"] for _ in range(steps)][-1]
        assert usage == pytest.approx((3 if steps == 98 else 1) / 16), "for 1 / (1 - decay) = 100 steps"


# ---- codebooks


def test_losses_and_their_gradients_go_where_they_should() -> None:
    """Equation 3: the codebook's term moves codes only, the commitment moves latents only, by hand."""
    found = started("vq", 8, 2).eval()
    latent = latents(found, 1, 3).requires_grad_()
    quantized = found(latent)
    chosen = found.look_up(quantized.codes).detach()
    assert quantized.terms["codebook"].item() == pytest.approx((latent - chosen).square().mean().item(), rel=1e-6)
    assert quantized.terms["commitment"].item() == pytest.approx(
        0.25 * (latent - chosen).square().mean().item(), rel=1e-6
    )
    weight = found.weight
    codebook = torch.autograd.grad(quantized.terms["codebook"], [weight, latent], retain_graph=True, allow_unused=True)
    assert codebook[1] is None
    commitment = torch.autograd.grad(quantized.terms["commitment"], [weight, latent], allow_unused=True)
    assert commitment[0] is None
    assert torch.allclose(commitment[1], 0.25 * 2 * (latent - chosen).detach() / latent.numel())
    expected = torch.zeros_like(weight)
    vectors = latent.detach().movedim(1, 3).flatten(0, 2)
    for vector, code in zip(vectors, quantized.codes.flatten(), strict=True):
        expected[code] += 2 * (weight[code].detach() - vector) / latent.numel()
    assert torch.allclose(codebook[0], expected, atol=1e-6)


def test_moving_averages_by_closed_form() -> None:
    """Appendix A.1, equations 6 to 8, with Laplace smoothing, in float64 by a loop."""
    found = started("vq-ema", 5, 2)
    found.counts.uniform_(5, 9)
    counts, sums, codebook = found.counts.double(), found.sums.double(), found.codebook.clone()
    latent = latents(found)
    quantized = found(latent)
    for code in range(5):
        mine = latent.movedim(1, 3)[quantized.codes == code].double()
        counts[code] = 0.99 * counts[code] + 0.01 * len(mine)
        sums[code] = 0.99 * sums[code] + 0.01 * mine.sum(0)
    smoothed = (counts + 1e-5) / (counts.sum() + 5e-5) * counts.sum()
    assert torch.allclose(found.codebook.double(), sums / smoothed[:, None], atol=1e-6)
    assert torch.equal(nearest(latent.movedim(1, 3).flatten(0, 2), codebook), quantized.codes.flatten())
    assert not list(found.parameters())


def test_a_young_codebook_forgets_faster() -> None:
    found = made("vq-ema")
    weights = [found.forget().item() for _ in range(2000)]
    assert weights[:3] == pytest.approx([1 - 1 / 10, 1 - 2 / 11, 1 - 3 / 12])
    assert weights[-1] == pytest.approx(0.01)


def clusters(number: int, size: int, each: int) -> tuple[Tensor, Tensor]:
    centres = torch.randn(number, size) * 10
    return centres, (centres[:, None] + 0.1 * torch.randn(number, each, size)).flatten(0, 1)


def test_k_means_finds_clusters_and_does_not_mind_equal_vectors() -> None:
    torch.manual_seed(3)
    _, vectors = clusters(40, 4, 60)
    means = k_means(vectors, 40)
    found = (vectors - means[nearest(vectors, means)]).square().sum()
    at_random = vectors[torch.randperm(len(vectors))[:40]]
    baseline = (vectors - at_random[nearest(vectors, at_random)]).square().sum()
    assert found < 0.2 * baseline, (found, baseline)
    codes = nearest(vectors, means)
    for code in codes.unique():
        assert torch.allclose(means[code], vectors[codes == code].mean(0), atol=0.5), "each is about its cluster's mean"
    assert torch.isfinite(k_means(torch.zeros(20, 3), 20)).all()
    torch.manual_seed(5)
    first = k_means(vectors, 40)
    torch.manual_seed(5)
    assert torch.equal(first, k_means(vectors, 40))


@CODEBOOKS
def test_the_first_batch_starts_the_codes(name: str) -> None:
    found = made(name, 16, 4)
    _, vectors = clusters(16, 4, 16)
    latent = vectors.view(4, 8, 8, 4).movedim(3, 1)
    assert (found.eval()(latent).values - latent).square().mean() > 10
    quantized = found.train()(latent)
    assert (quantized.values - latent).square().mean() < 5 and found.steps == 1
    codes = found.look_up(quantized.codes).detach()
    torch.manual_seed(0)
    again = QUANTIZERS[name](16, 4)
    again.load_state_dict(found.state_dict())
    again.eval()
    assert torch.equal(again.look_up(quantized.codes), codes), "what was started stays when it is loaded"
    place, again.place = again.place, lambda chosen, *rest: place(chosen & False, *rest)  # type: ignore[method-assign]
    assert (again.train()(latent).values - codes).abs().max() < 1e-5, "and is not started twice"


@CODEBOOKS
def test_too_few_vectors_to_start_are_refused(name: str) -> None:
    found = made(name, 64, 4)
    with pytest.raises(Refused, match=r"64 codes .* only 32: set --model.codes lower or --train.batch-size higher"):
        found(torch.randn(2, 4, 4, 4))


@CODEBOOKS
def test_dead_codes_are_revived_from_the_batch(name: str) -> None:
    found = made(name, 16, 4)
    found.decay = 0.5
    _, vectors = clusters(16, 4, 16)
    far = torch.full((4, 4, 8, 8), -1000.0) + torch.randn(4, 4, 8, 8)
    for _ in range(20):
        found(far)
    latent = vectors.view(4, 8, 8, 4).movedim(3, 1)
    for _ in range(60):
        quantized = found(latent)
    assert (found.codebook > -500).all(), "no code is left where nothing is"
    assert len(quantized.codes.unique()) >= 12
    assert quantized.watch["usage"] > 0.7


@CODEBOOKS
def test_moving_codes_are_left_alone_until_counts_have_seen_enough(name: str) -> None:
    """Those that are learned by loss cannot follow a young encoder, and are revived from the start."""
    found = made(name, 16, 4)
    found.decay = 0.9
    latent = torch.randn(4, 4, 8, 8)
    found(latent)
    revived = []
    place = found.place
    found.place = lambda chosen, *rest: revived.append(bool(chosen.any())) or place(chosen, *rest)  # type: ignore[method-assign, func-returns-value]
    for _ in range(10):
        found.counts[0] = 0.0
        found(latent)
    assert revived == [not found.follows] * 9 + [True]


def test_an_average_over_time_forgets_what_a_dead_code_was() -> None:
    """A code that hardly counted before it was revived is soon at its new place in the averaged copy."""
    found = started("vq-ema", 4, 2)
    found.counts.copy_(torch.tensor([10.0, 10, 10, 1e-3]))
    found.sums[3] = found.counts[3] * torch.tensor([100.0, 100])
    average = Average(found, 0.99)
    found.place(torch.tensor([False, False, False, True]), torch.ones(4, 2), 2.0)
    average.update(10**6)
    used_there, used_here = 0.99 * 1e-3, 0.01 * 2
    expected = (used_there * 100 + used_here * 1) / (used_there + used_here)
    assert torch.allclose(average.model.codebook[3], torch.tensor(expected), rtol=1e-3)
    assert expected < 6, "an average of places would be at 99"


@CODEBOOKS
def test_a_start_from_what_is_not_finite_is_taken_back(name: str, tmp_path: Path) -> None:
    """The first update is skipped and the buffers restored: then the next batch starts the codes."""
    from conftest import tiny_run
    from tasvir.training.state import State

    run, _ = tiny_run("vq-vae", tmp_path)
    torch.manual_seed(0)
    model = recipe("vq-vae").model(replace(recipe("vq-vae").tiny, quantizer=name), Pictures(1, 8))
    state = State(model, run, torch.device("cpu"))
    state.advance(Batch(torch.full((8, 1, 8, 8), torch.nan)))
    assert state.skipped == 1 and model.quantizer.steps == 0
    state.advance(tiny_batch(8))
    assert state.skipped == 1 and model.quantizer.steps == 1
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


# ---- without a codebook


@pytest.mark.parametrize("codes, levels", [(512, [8, 8, 8]), (1000, [8, 5, 5, 5]), (240, [8, 6, 5]), (4, [4])])
def test_levels(codes: int, levels: list[int]) -> None:
    found = levels_for(codes)
    assert found == levels and torch.tensor(found).prod() == codes


@pytest.mark.parametrize("name, codes, near", [("fsq", 509, "510"), ("fsq", 11, "12"), ("lookup-free", 500, "256 or")])
def test_numbers_of_codes_that_cannot_be_had_are_refused(name: str, codes: int, near: str) -> None:
    if name == "fsq":
        near = str(next(n for n in range(codes + 1, 2 * codes) if _smooth(n)))
    with pytest.raises(Refused, match=f"--model.codes is {codes}.*{near}"):
        made(name, codes)


def _smooth(number: int) -> bool:
    for prime in (2, 3, 5, 7):
        while number % prime == 0:
            number //= prime
    return number == 1


@pytest.mark.parametrize(
    "name, codes", [("fsq", 2), ("fsq", 240), ("fsq", 512), ("lookup-free", 2), ("lookup-free", 512)]
)
def test_codes_and_values_are_one_to_one(name: str, codes: int) -> None:
    found = made(name, codes)
    every = torch.arange(codes)
    values = found.vectors_of(every)
    assert len(values.unique(dim=0)) == codes and values.abs().max() <= 1
    if name == "fsq":  # the latent that is bounded to exactly that level
        levels = found.levels
        half, middle = (levels - 1) / 2 * (1 - 1e-3), 0.5 * (levels % 2 == 0)
        shift = (middle / half).atanh().nan_to_num(0.0, 0.0, 0.0)
        inside = ((values * (levels // 2) + middle) / half).clamp(-1 + 1e-6, 1 - 1e-6)
        values = inside.atanh() - shift
    assert torch.equal(found.find(values), every)


def test_finite_scalars_use_every_level_and_keep_zero() -> None:
    found = made("fsq", 240)
    far = torch.linspace(-9, 9, 2001)[:, None].expand(-1, 3)
    digits = found.find(far)[:, None] // found.places % found.levels
    assert [len(column.unique()) for column in digits.T] == found.levels.tolist()
    assert torch.equal(found.vectors_of(found.find(torch.zeros(1, 3))), torch.zeros(1, 3))


def test_the_entropy_penalty_is_that_of_all_codes() -> None:
    """Against softmax of negative squared distances to all 32 codes, in float64."""
    found = LookupFree(32, 5)
    vectors = torch.randn(50, 5)
    values = found.vectors_of(torch.arange(32)).double()
    probabilities = (-(vectors.double()[:, None] - values).square().sum(2)).softmax(1)
    assert torch.allclose(found.mean_probabilities(4 * vectors).double(), probabilities.mean(0), atol=1e-6)
    sure = torch.special.entr(probabilities).sum(1).mean()
    expected = 0.1 * (sure - torch.special.entr(probabilities.mean(0)).sum())
    assert found.quantize(vectors)[2]["entropy"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_entropy_penalty_of_latents_far_out_has_finite_gradients() -> None:
    """There the probability of most codes is zero in float32."""
    found = LookupFree(16, 4)
    vectors = (torch.randn(20, 4) + 30).requires_grad_()
    (slope,) = torch.autograd.grad(found.quantize(vectors)[2]["entropy"], [vectors])
    assert torch.isfinite(slope).all()


# ---- another library


@pytest.mark.parametrize("codes, size", [(64, 8), (512, 64)])
def test_codebooks_agree_with_another_library(codes: int, size: int) -> None:
    library = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    theirs = library.VectorQuantize(
        dim=size, codebook_size=codes, decay=0.99, commitment_weight=0.25, kmeans_init=False, accept_image_fmap=True
    )
    ours = started("vq-ema", codes, size)
    ours.counts.fill_(1.0)
    theirs._codebook.embed.copy_(ours.codebook[None])
    theirs._codebook.embed_avg.copy_(ours.sums[None])
    theirs._codebook.cluster_size.fill_(1.0)
    ours._surely_started = True
    ours.place = lambda *unused: None  # type: ignore[method-assign]
    for _ in range(3):
        latent = torch.randn(4, size, 8, 8)
        expected, indices, loss = theirs.train()(latent)
        quantized = ours.train()(latent)
        assert torch.equal(quantized.codes, indices)
        assert torch.allclose(quantized.values, expected, atol=1e-5)
        assert quantized.terms["commitment"] == pytest.approx(loss.item(), rel=1e-4)
    assert torch.allclose(ours.codebook, theirs._codebook.embed[0], atol=1e-4)


def test_finite_scalars_agree_with_another_library() -> None:
    library = pytest.importorskip("vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed")
    theirs, ours = library.FSQ(levels=[8, 6, 5]), made("fsq", 240)
    latent = torch.randn(40, 3, 8, 8)
    expected, indices = theirs(latent)
    quantized = ours(latent)
    same = quantized.codes == indices.long()  # theirs bounds a thousandth wider than the paper, not narrower
    assert same.float().mean() > 0.98
    assert torch.allclose(quantized.values.movedim(1, 3)[same], expected.movedim(1, 3)[same], atol=1e-5)


# ---- several processes


def several_steps(name: str, rank: int, everyone: int) -> dict[str, Tensor]:
    """Five steps of drifting latents, each process its part of every batch; the state afterwards, and what was said."""
    torch.manual_seed(7)
    found = QUANTIZERS[name](16, 3).train()
    found.decay = 0.5
    said = {}
    for step in range(5):
        drawn = torch.Generator().manual_seed(step)
        latent = torch.randn(8, found.size, 4, 4, generator=drawn) + 3 * step
        torch.manual_seed(100 * rank + step)  # processes draw different random numbers
        own = latent.chunk(everyone)[rank].requires_grad_()
        quantized = found(own)
        said[f"codes {step}"] = quantized.codes
        said |= {f"{key} {step}": value for key, value in quantized.watch.items()}
        said |= {f"term {key} {step}": value.detach() for key, value in quantized.terms.items()}
        loss = sum(quantized.terms.values()) + 0.01 * quantized.values.square().mean()
        said[f"slope {step}"], *others = torch.autograd.grad(loss, [own, *found.parameters()])
        said |= {f"shared slope {step}": slope for slope in others}
    return {**found.state_dict(), **said}


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    words = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*words, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, said = process.communicate(timeout=180)
        assert process.returncode == 0, said
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in QUANTIZERS:
        for key, value in several_steps(name, 0, 1).items():
            if key.startswith("codes"):
                assert torch.equal(torch.cat([first[name][key], second[name][key]]), value), (name, key)
            elif key.startswith("slope"):  # the loss of several is the mean of theirs
                both = torch.cat([first[name][key], second[name][key]]) / 2
                assert torch.allclose(both, value, rtol=1e-3, atol=1e-7), (name, key)
            elif key.startswith(("term", "shared slope")):
                both = (first[name][key] + second[name][key]) / 2
                assert torch.allclose(both, value, rtol=1e-4, atol=1e-6), (name, key)
            else:
                assert torch.equal(first[name][key], second[name][key]), f"{key} is the same in all processes"
                assert torch.allclose(first[name][key], value, atol=1e-5), (name, key)


# ---- the models


def small(name: str, size: int = 16, **settings: object) -> Model:
    torch.manual_seed(0)
    config = replace(recipe(name).tiny, hidden=16, residual=8, codes=16, code_size=8, **settings)
    return recipe(name).model(config, Pictures(1, size))


@TOKENIZERS
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_tokens_say_all_that_a_reconstruction_shows(name: str, quantizer: str) -> None:
    model = small(name, quantizer=quantizer)
    next(model.turns(tiny_batch(16), 0))
    model.eval()
    image = tiny_batch(16).image
    codes = model.tokenize(image)
    assert codes.shape == (8, sum(grid.side**2 for grid in model.grids)) and codes.dtype == torch.int64
    assert codes.max() < 16 == model.grids[0].codes
    sides = [grid.side for grid in model.grids]
    assert sides == ([4] if name == "vq-vae" else [2, 4]), "coarsest first"
    with torch.no_grad():
        shown = model.reconstruct(image)
        assert torch.equal(model.detokenize(codes), shown)
        quantized = image  # by the way that training takes
        if name == "vq-vae":
            quantized = model.decoder(model.quantizer(model.encoder(image)).values).clamp(-1, 1)
            assert torch.allclose(quantized, shown, atol=1e-6)
    codes[:, 0] = (codes[:, 0] + 1) % 16
    assert not torch.allclose(model.detokenize(codes), shown, atol=1e-6)


@TOKENIZERS
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_quantizer_learns_digits(name: str, quantizer: str) -> None:
    """Held-out digits with less than half the squared error of the mean picture (two thirds for signs alone)."""
    model = small(name, quantizer=quantizer).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    data = tiny_batch(16, 200).image
    training, held_out = data[:160], data[160:]
    for step in range(120):
        torch.manual_seed(step)
        turn = next(model.turns(Batch(training[torch.randint(160, (32,))]), step))
        optimizer.zero_grad()
        sum(turn.terms.values()).backward()
        optimizer.step()
    with torch.no_grad():
        error = (model.eval().reconstruct(held_out) - held_out).square().mean()
    baseline = (training.mean(0) - held_out).square().mean()
    assert error < (0.67 if quantizer == "lookup-free" else 0.5) * baseline, (error / baseline, turn.watch)


@pytest.mark.parametrize("name, size, settings", [("vq-vae", 28, {"downsample": 8}), ("vq-vae-2-tokenizer", 28, {})])
def test_sizes_that_strides_do_not_divide_are_refused(name: str, size: int, settings: dict) -> None:
    kind = recipe(name).model
    if kind.accepts(size):
        with pytest.raises(Refused, match=r"28 px cannot be divided into squares of 8 px: set --data.size.* 24 or 32"):
            small(name, size, **settings)
    else:
        assert "--data.size" in str(kind.lacks(Pictures(1, size)))


def test_a_picture_smaller_than_a_square_is_told_two_sizes() -> None:
    with pytest.raises(Refused, match="8 px cannot be divided into squares of 16 px.*to 16 or 32"):
        small("vq-vae", 8, downsample=16)


def test_the_networks_are_the_papers() -> None:
    model = recipe("vq-vae").model(recipe("vq-vae").config, Pictures(3, 32))
    strided = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)]
    assert [(layer.out_channels, layer.kernel_size) for layer in strided] == [(64, (4, 4)), (128, (4, 4))]
    assert model.grids[0].side == 8 and isinstance(model.quantizer, MovingAverage)
    assert model.quantizer.codebook.shape == (512, 64)
    paper = recipe("vq-vae-2-tokenizer-256")
    model = paper.model(paper.config, Pictures(3, 256))
    assert [(grid.side, grid.codes) for grid in model.grids] == [(32, 512), (64, 512)]


if __name__ == "__main__":
    import torch.distributed as distributed

    torch.set_num_threads(1)
    folder, number = sys.argv[1:]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=int(number), world_size=2)
    torch.save({name: several_steps(name, int(number), 2) for name in QUANTIZERS}, f"{folder}/{number}.pt")
    distributed.destroy_process_group()
