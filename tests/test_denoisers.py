"""The U-Net of diffusion models and its norm, against formulas and torch's own layers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from tasvir.config import Refused
from tasvir.nn.denoisers import Attention, Block, DenoisingUNet, UNetConfig, Waves, attended, groups
from tasvir.nn.norms import GroupNorm, fuses

TINY = UNetConfig(width=8, multipliers=(1, 2), blocks=1, attention=(4,), dropout=0.0)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def awake(network: nn.Module) -> nn.Module:
    """With no weights of 0, so that every part has a say."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def drawn(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=layout).requires_grad_()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm().detach() / wanted.double().norm().detach())


def normed(x: Tensor, number: int, layer: nn.Module) -> Tensor:
    """By torch's own function with a layer's weights."""
    weight, bias = layer.parameters()
    return nn.functional.group_norm(x, number, weight, bias)


def test_the_first_papers_network_has_its_parameters() -> None:
    """As many as google/ddpm-cifar10-32 has."""
    with torch.device("meta"):
        network = DenoisingUNet(UNetConfig(), 3, 32)
    assert sum(p.numel() for p in network.parameters()) == 35_746_307


@LAYOUTS
@pytest.mark.parametrize("told", ["nothing", "added", "scale-shift"])
@pytest.mark.parametrize("active", [True, False])
def test_group_norm_is_torchs_in_both_layouts(layout: torch.memory_format, told: str, active: bool) -> None:
    """Values and all gradients to 1e-6, against float64; more pictures than are taken at a time."""
    torch.manual_seed(0)
    x, added, scale, shift = drawn(70, 16, 20, 22, layout=layout), *(drawn(70, 16) for _ in range(3))
    norm = awake(GroupNorm(4, 16, active))
    assert isinstance(norm, GroupNorm)
    assert fuses(x) == (layout == torch.channels_last)
    said = {"added": {"added": added}, "scale-shift": {"scale": scale, "shift": shift}}.get(told, {})
    leaves = [x, norm.weight, norm.bias, *said.values()]
    weights = torch.randn_like(x)
    found = norm(x, **said)
    gradients = torch.autograd.grad((found * weights).sum(), leaves)

    exact = {name: value.detach().double().requires_grad_() for name, value in said.items()}
    doubled, plain = x.detach().double().requires_grad_(), nn.GroupNorm(4, 16).double()
    plain.load_state_dict(norm.state_dict())
    wanted = doubled + exact["added"][:, :, None, None] if told == "added" else doubled
    wanted = plain(wanted)
    if told == "scale-shift":
        wanted = wanted * exact["scale"][:, :, None, None] + exact["shift"][:, :, None, None]
    wanted = silu(wanted) if active else wanted
    expected = torch.autograd.grad((wanted * weights).sum(), [doubled, plain.weight, plain.bias, *exact.values()])
    assert relative(found, wanted) < 1e-6
    for gradient, one in zip(gradients, expected, strict=True):
        # what is added to a whole group is taken off again: there sums cancel
        assert (gradient - one).abs().max() <= 1e-6 * max(float(one.abs().max()), float(x.shape[2:].numel()))
    assert found.is_contiguous(memory_format=layout) and gradients[0].is_contiguous(memory_format=layout)


def test_statistics_of_bfloat16_maps_are_summed_in_float32() -> None:
    """Far from 0, where 8 bits of a mean would say little; only values themselves are rounded."""
    torch.manual_seed(0)
    x = (torch.randn(2, 8, 32, 32) + 8).bfloat16().contiguous(memory_format=torch.channels_last)
    found = GroupNorm(2, 8)(x)
    assert found.dtype == torch.bfloat16
    assert (found.double() - nn.functional.group_norm(x.double(), 2)).abs().max() < 2**-8 * 4


def test_a_block_is_the_papers_formula() -> None:
    """In both ways of telling, with torch's own layers and the block's weights."""
    torch.manual_seed(0)
    x, known = torch.randn(2, 8, 6, 6), torch.randn(2, 12)
    for told in ("added", "scale-shift"):
        block = awake(Block(8, 16, 12, replace(TINY, told=told)))
        assert isinstance(block, Block)
        inner = block.convolution(silu(normed(x, groups(8), block.norms[0])))
        row = block.told(known)[:, :, None, None]
        if told == "added":
            inner = normed(inner + row, groups(16), block.norms[1])
        else:
            inner = normed(inner, groups(16), block.norms[1])
            inner = inner * (1 + row[:, :16]) + row[:, 16:]
        wanted = block.skip(x) + block.second(silu(inner))
        for layout in (torch.contiguous_format, torch.channels_last):
            assert relative(block(x.contiguous(memory_format=layout), known), wanted) < 1e-6


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_the_plain_formula(heads: int) -> None:
    torch.manual_seed(0)
    attention, x = awake(Attention(8, heads)), torch.randn(2, 8, 3, 5)
    assert isinstance(attention, Attention)
    of_x = normed(x, groups(8), attention.norm)
    query, key, value = attention.inputs(of_x).reshape(2, 3, heads, 8 // heads, 15).unbind(1)
    seen = torch.einsum("bhdq,bhdk->bhqk", query, key).div((8 / heads) ** 0.5).softmax(-1)
    mixed = torch.einsum("bhqk,bhdk->bhdq", seen, value).reshape(2, 8, 3, 5)
    wanted = x + attention.output(mixed)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert relative(attention(x.contiguous(memory_format=layout)), wanted) < 1e-6


def test_attention_in_bfloat16_is_as_exact_and_leaves_torchs_settings() -> None:
    torch.manual_seed(0)
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    parts = [torch.randn(2, 2, 30, 16).bfloat16().requires_grad_() for _ in range(3)]
    exact = [part.detach().double().requires_grad_() for part in parts]
    attended(*parts).sum().backward()
    wanted = (exact[0] @ exact[1].transpose(-1, -2) / 4).softmax(-1) @ exact[2]
    wanted.sum().backward()
    assert relative(attended(*parts), wanted) < 0.01
    assert relative(parts[2].grad, exact[2].grad) < 0.01  # type: ignore[arg-type]
    assert torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed() == before


@LAYOUTS
@pytest.mark.parametrize(("size", "patch", "batch"), [(4, 1, 1), (5, 1, 2), (7, 1, 2), (12, 4, 1), (14, 2, 2)])
def test_any_size_and_one_picture(layout: torch.memory_format, size: int, patch: int, batch: int) -> None:
    network = awake(DenoisingUNet(replace(TINY, multipliers=(1, 2, 2), patch=patch), 2, size))  # type: ignore[arg-type]
    x = drawn(batch, 2, size, size, layout=layout)
    found = network(x, torch.rand(batch) * 1000)
    assert found.shape == x.shape and found.dtype == torch.float32
    found.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    for row in range(batch):  # each picture by itself
        told = torch.full((1,), 3.0)
        assert torch.allclose(network(x[row : row + 1], told), network(x, told.expand(batch))[row], atol=1e-4)


def test_patches_come_back_where_they_were() -> None:
    """With a network that passes its patches on, the whole is the identity."""
    network = DenoisingUNet(replace(TINY, patch=2), 3, 8)
    network.first, network.middle = nn.Identity(), nn.ModuleList()  # type: ignore[assignment]
    network.down, network.up = nn.ModuleList(), nn.ModuleList()
    network.norm = network.last = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x, torch.zeros(2)), x)


def test_no_class_is_a_class_of_its_own() -> None:
    network = awake(DenoisingUNet(TINY, 1, 8, classes=3, conditions=2)).eval()
    x, told = torch.randn(4, 1, 8, 8), torch.rand(4)
    free = network(x, told)
    assert torch.equal(free, network(x, told, torch.full((4,), 3)))
    assert not torch.allclose(free, network(x, told, torch.tensor([0, 1, 2, 0])))
    assert torch.allclose(free, network(x, told, None, torch.zeros(4, 2)))
    assert not torch.allclose(free, network(x, told, None, torch.ones(4, 2)))


def test_waves_are_sines_and_cosines_of_falling_frequencies() -> None:
    waves = Waves(6)(torch.tensor([0.0, 500.0]))
    assert torch.equal(waves[0], torch.tensor([0.0, 0, 0, 1, 1, 1]))
    angles = 500 / 10_000 ** (torch.arange(3) / 3)
    assert torch.allclose(waves[1], torch.cat([angles.sin(), angles.cos()]), atol=1e-4)
    assert Waves(5)(torch.zeros(2)).shape == (2, 5)


def test_what_cannot_be_built_is_said() -> None:
    with pytest.raises(Refused, match="8 channels cannot be divided among 3 heads"):
        Attention(8, 3)
    with pytest.raises(Refused, match="Pictures of 9 px cannot be divided into squares of 2 px: set --data.size, or"):
        DenoisingUNet(replace(TINY, patch=2), 3, 9)
